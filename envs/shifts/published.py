"""Variants of CarRacing that others have published, with severity 3 as they stated them, and roads of another family.

`colour`, `colour3`, `bars`, `blob` and `noise` are those of AttentionAgent (Tang, Nguyen and Ha, 2020), `backgrounds`
the idea of AttentionNeuron (Tang and Ha, 2021). Their environment was CarRacing-v0, whose camera follows the velocity
and not the car's heading, so their scores are a reference, not a like-for-like comparison.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import PLAYFIELD, STATE_W, TRACK_DETAIL_STEP, TRACK_WIDTH

from envs.car_racing.canvas import CAR_X, CAR_Y, COLUMN, FULL_ZOOM, PLAYFIELD_ROWS, ROW, shrunk_colour
from envs.car_racing.fast import FastCarRacing
from envs.car_racing.track import TrackPoint, lay_road
from envs.shifts.base import (
    CAR_RACING,
    FIELD_COLOUR,
    GRASS_COLOUR,
    ROAD_COLOUR,
    Ground,
    PictureShift,
    Pose,
    ShiftWrapper,
)
from envs.shifts.textures import SIDE, coloured_pattern
from liquid_control.support.errors import UserError


class _Colours(ShiftWrapper):
    """Sets colours on the environment before each reset, so that every pixel of road and field has them exactly."""

    environments = (CAR_RACING,)
    levels = (0.08, 0.14, 0.2, 0.3, 0.4)
    CHANNELS: int

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws the colours of an episode and begins it."""
        self._seed_generator(seed)
        inside: Any = self.env.unwrapped
        if inside.domain_randomize:
            raise UserError(f"the shift {self.name!r} sets colours that domain_randomize replaces: leave one out.")
        inside.road_color, inside.bg_color = (
            np.array(colour) + (255 * self.rng.uniform(-self.level, self.level, self.CHANNELS)).astype(int)
            for colour in (ROAD_COLOUR, FIELD_COLOUR)
        )
        for colour in (inside.road_color, inside.bg_color):
            np.clip(colour, 0, 255, out=colour)
        inside.grass_color = np.array(GRASS_COLOUR)
        return self.env.reset(seed=seed, options=options)


class Colour(_Colours):
    """Road and field are lighter or darker: AttentionAgent's colour perturbation.

    One number is added to all channels of the road, another to those of the field, drawn for each episode. The lighter
    squares of grass, the kerbs, the car and the gauges stay as they are.

    ## Arguments
    - `severity`: numbers up to ±0.08, ±0.14, ±0.2, ±0.3, ±0.4 of the full range. 3 is the published one.
    """

    name = "colour"
    CHANNELS = 1


class Colour3(_Colours):
    """Road and field have another colour: as `colour`, with three numbers each, one a channel.

    ## Arguments
    - `severity`: numbers up to ±0.08, ±0.14, ±0.2, ±0.3, ±0.4 of the full range. 3 is the published one.
    """

    name = "colour3"
    CHANNELS = 3


class Bars(PictureShift):
    """Black bars cover both sides of the playfield: AttentionAgent's frames.

    The published ones are 75 of the canvas's 1000 pixels wide, 7.2 of 96 columns; a column that is covered in part is
    darker in part. They end above the gauges.

    ## Arguments
    - `severity`: 2.4, 4.8, 7.2, 11, 16 columns on each side. 3 is the published one.
    """

    name = "bars"
    environments = (CAR_RACING,)
    levels = (2.4, 4.8, 7.2, 11.0, 16.0)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        whole, part = int(self.level), 1 - self.level % 1
        result = view.copy()
        result[:, :whole] = result[:, STATE_W - whole :] = 0
        rims = result[:, [whole, STATE_W - whole - 1]] * part
        result[:, [whole, STATE_W - whole - 1]] = rims.astype(np.uint8)
        return result


class Blob(PictureShift):
    """A red square rides along, ahead of the car on the right: AttentionAgent's blob.

    The published one is 8 × 8 world units large, of colour (0.8, 0, 0), from 21 to 29 units right of the hull's middle
    and from 7.6 to 15.6 ahead: columns 81–93, rows 42–57. It is drawn in CarRacing's own scale, also while the camera
    zooms in at the start, and over whatever is there.

    ## Arguments
    - `severity`: sides of 2.7, 5.3, 8, 12, 16 units about the same middle; the last two reach over the rim of the
      picture. 3 is the published one.
    """

    name = "blob"
    environments = (CAR_RACING,)
    levels = (2.7, 5.3, 8.0, 12.0, 16.0)
    MIDDLE = 25.0, 11.6
    RED = np.array(shrunk_colour((204, 0, 0)), np.float32)

    def _prepare(self) -> None:
        self._shares(FULL_ZOOM)

    def _shares(self, zoom: float) -> None:
        """The share of each pixel that the square covers."""
        right, ahead, half = *self.MIDDLE, self.level / 2
        self._zoom = zoom
        across = _covered(STATE_W, COLUMN, CAR_X + zoom * (right - half), CAR_X + zoom * (right + half))
        down = _covered(PLAYFIELD_ROWS, ROW, CAR_Y - zoom * (ahead + half), CAR_Y - zoom * (ahead - half))
        share = np.outer(down, across)[..., None].astype(np.float32)
        rows, columns = np.flatnonzero(down), np.flatnonzero(across)
        self._box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        self._keep, self._add = 1 - share[self._box], share[self._box] * self.RED

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        zoom = FULL_ZOOM if pose is None else pose.zoom
        if zoom != self._zoom:
            self._shares(zoom)
        result = view.copy()
        result[self._box] = view[self._box] * self._keep + self._add
        return result


def _covered(cells: int, size: float, begin: float, end: float) -> np.ndarray:
    """(cells,): the share of each cell of this size that lies between begin and end."""
    edges = np.arange(cells) * size
    return np.maximum(np.minimum(edges + size, end) - np.maximum(edges, begin), 0) / size


class _Field(PictureShift):
    """Replaces the field's colours; what is drawn over the field, and its blurred seams with the road, stay.

    The first levels blend the picture with the field, the last two spread its levels about the middle.
    """

    environments = (CAR_RACING,)
    levels = ((0.35, 1.0), (0.7, 1.0), (1.0, 1.0), (1.0, 1.7), (1.0, 1e3))
    TOLERANCE = 14
    """Levels: pixels between field and lighter square are between their colours."""

    def _prepare(self) -> None:
        self._share, spread = self.level
        self._table = np.clip(127.5 + (np.arange(256) - 127.5) * spread, 0, 255).astype(np.uint8)
        field = [np.array(colour, float) for colour in self.scene.field]
        self._ranges = [(colour - self.TOLERANCE, colour + self.TOLERANCE) for colour in field]

    def _replaced(self, view: np.ndarray, picture: np.ndarray) -> np.ndarray:
        first, second = (cv2.inRange(view, *limits) for limits in self._ranges)
        if self._share < 1:
            picture = cv2.addWeighted(picture, self._share, view, 1 - self._share, 0)
        result = view.copy()
        cv2.copyTo(picture, cv2.bitwise_or(first, second), result)
        return result


class Noise(_Field):
    """The grass is fresh noise in every frame: AttentionAgent's hardest variant.

    Every channel of every pixel of the field and its lighter squares is drawn evenly from 0 to 255. They are known by
    their colours, so this shift stands before those that change colours in the picture.

    ## Arguments
    - `severity`: 0.35, 0.7 of the way from grass to noise; the noise itself, the published one; the noise with 1.7
      times its contrast; each value 0 or 255.
    """

    name = "noise"

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        noise: Any = np.frombuffer(self.rng.bytes(view.size), np.uint8).reshape(view.shape)
        if self.severity > 3:
            noise = cv2.LUT(noise, self._table)
        return self._replaced(view, noise)


class Backgrounds(_Field):
    """The grass is a picture: AttentionNeuron's idea, with patterns of our own in random colours.

    Checks, stripes, dots, clouds or bricks, one of them and three colours drawn for an episode, lie on the ground and
    move under the car; a pattern begins again every 85 world units. The grass is known by its colours, so this shift
    stands before those that change colours in the picture.

    ## Arguments
    - `severity`: 0.35, 0.7 of the way from grass to the picture; the picture itself, as published; the picture with 1.7
      times its contrast; each value 0 or 255.
    """

    name = "backgrounds"

    def _prepare(self) -> None:
        super()._prepare()
        self._picture = cv2.LUT(coloured_pattern(self.rng), self._table)
        self._ground = Ground(self.scene, SIDE, 85.0)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return self._replaced(view, self._ground.sample(self._picture, pose))


class Tracks(ShiftWrapper):
    """Roads of another family: closed Bézier curves of our own, with straights and bends to both sides.

    A polygon of random corners around the field's middle is rounded by cubic Bézier curves, one from the middle of each
    side to the middle of the next. Curves are drawn anew until no bend is tighter than the severity allows, and no two
    parts of the road come closer than 2.6 of its half widths. A lap is 900 to 1,300 world units long (an official one
    about 1,000) and leads anticlockwise or clockwise, where the official ones lead anticlockwise. No coordinates of
    real circuits are used. The seed's own track is left undrawn; car, tiles, kerbs and rewards follow the official
    rules.

    ## Arguments
    - `severity`: 7, 8, 9, 10, 11 corners; radii of at least 28, 24, 20, 17, 14 world units. (The official generator
      turns by at most 0.31 radians in 3.5 units: a radius of 11.3.)
    """

    name = "tracks"
    environments = (CAR_RACING,)
    levels = ((7, 28), (8, 24), (9, 20), (10, 17), (11, 14))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws a road and begins an episode on it."""
        self._seed_generator(seed)
        track = draw_circuit(self.rng, *self.level)
        inside: Any = self.env.unwrapped

        def create_track() -> bool:
            if isinstance(inside, FastCarRacing):
                inside.lay_road(track)
            else:
                lay_road(inside, track)
            return True

        inside._create_track = create_track
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            del inside._create_track


def draw_circuit(rng: np.random.Generator, corners: int, tightest: float) -> list[TrackPoint]:
    """A closed road of Bézier curves.

    Args:
        rng: draws.
        corners: of the polygon that is rounded.
        tightest: least radius of a bend (world units).

    Returns:
        N points, as `envs.car_racing.track.draw_track` gives them, 3.5 world units apart.
    """
    while True:
        angle = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * math.pi / corners
        radius = rng.uniform(0.3, 1.0, corners)
        polygon = np.stack([np.cos(angle), rng.uniform(0.6, 1.0) * np.sin(angle)], 1) * radius[:, None]
        roundness, length, backwards = rng.uniform(0.5, 0.9), rng.uniform(900, 1300), rng.random() < 0.5
        plan = _rounded(polygon, roundness)
        plan *= length / np.hypot(*(np.roll(plan, -1, 0) - plan).T).sum()
        plan -= (plan.max(0) + plan.min(0)) / 2
        plan = _evenly(plan[::-1] if backwards else plan)
        ahead, behind = np.roll(plan, -1, 0) - plan, plan - np.roll(plan, 1, 0)
        heading = np.unwrap(np.arctan2(*(ahead + behind).T[::-1]))
        turn = np.abs(np.arctan2(*ahead.T[::-1]) - np.arctan2(*behind.T[::-1]))
        turn = np.minimum(turn, 2 * math.pi - turn)
        inside = np.abs(plan).max() < PLAYFIELD - 60
        if inside and turn.max() < TRACK_DETAIL_STEP / tightest and _parts_stay_apart(plan):
            rows = np.column_stack([np.arctan2(plan[:, 1], plan[:, 0]), heading - math.pi / 2, plan]).tolist()
            return [TrackPoint(*row) for row in rows]


def _rounded(polygon: np.ndarray, roundness: float) -> np.ndarray:
    """Cubic Bézier curves from the middle of each side to that of the next; their handles point at the corner."""
    begin = (np.roll(polygon, 1, 0) + polygon) / 2
    end = (polygon + np.roll(polygon, -1, 0)) / 2
    first, second = begin + roundness * (polygon - begin), end + roundness * (polygon - end)
    t = np.linspace(0, 1, 60, endpoint=False)[:, None]
    curves = [
        (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        for a, b, c, d in zip(begin, first, second, end, strict=True)
    ]
    return np.concatenate(curves)


def _evenly(plan: np.ndarray) -> np.ndarray:
    """The closed curve with points 3.5 world units apart."""
    closed = np.vstack([plan, plan[:1]])
    along = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    at = np.linspace(0, along[-1], round(along[-1] / TRACK_DETAIL_STEP), endpoint=False)
    return np.column_stack([np.interp(at, along, column) for column in closed.T])


def _parts_stay_apart(plan: np.ndarray) -> bool:
    """Whether points that are not neighbours, 40 units along the road or more, are 2.6 half widths apart."""
    thin = plan[::2]
    distance = np.hypot(*(thin[:, None] - thin).transpose(2, 0, 1))
    index = np.arange(len(thin))
    steps = np.abs(index[:, None] - index)
    neighbours = np.minimum(steps, len(thin) - steps) * 2 * TRACK_DETAIL_STEP < 40
    return bool(distance[~neighbours].min() > 2.6 * TRACK_WIDTH)


PUBLISHED: tuple[type[PictureShift] | type[ShiftWrapper], ...] = (
    Colour,
    Colour3,
    Bars,
    Blob,
    Noise,
    Backgrounds,
    Tracks,
)

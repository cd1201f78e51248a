"""A camera over a land of heights: every column of the picture is marched from near to far.

What is hidden is what lies below the highest line of sight so far, so a column is filled from its foot upwards and
every pixel is written once. The ground is sampled where a level land would meet the rows, so each row has its own
sample, and from a coarser map the farther it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numba
import numpy as np

from envs.udacity.observation import HEIGHT, WIDTH
from envs.udacity.stand_in.scenery import BUSH, PIXELS_PER_METRE, Scenery
from liquid_control.support.compiled import find_place

FARTHEST = 420.0
"""Metres up to which land is drawn."""
ZENITH, HAZE = (98, 132, 184), (182, 196, 212)


@dataclass(frozen=True)
class Lens:
    """Where a camera sits on the car and how it looks."""

    aside: float = 0.0
    """Metres left of the car's middle."""
    up: float = 1.35
    """Metres above the road."""
    focal: float = 160.0
    """Pixels."""
    horizon: float = 62.0
    """Row of the horizon on a level road."""


@dataclass(frozen=True)
class Weather:
    """What lies between a camera and the land."""

    haze: float = 0.75
    """Share of a far thing's colour that the air takes."""
    visibility: float = FARTHEST
    """Metres from which on a thing is far."""
    cloud: float = 0.0
    """Share of the sky's blue that is covered."""
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of red, green and blue, beside a clear noon."""

    def fade(self, depth: np.ndarray) -> np.ndarray:
        """How much of a thing's colour the air takes at a depth (m)."""
        return (self.haze * np.minimum(depth / self.visibility, 1) ** 1.2).astype(np.float32)


WEATHERS = {
    "clear": Weather(),
    "overcast": Weather(cloud=0.85, light=(0.78, 0.8, 0.84)),
    "fog": Weather(haze=0.97, visibility=110.0, cloud=1.0, light=(0.9, 0.92, 0.94)),
    "dusk": Weather(cloud=0.25, light=(0.62, 0.5, 0.42)),
}

CENTER, LEFT, RIGHT = Lens(), Lens(aside=0.95), Lens(aside=-0.95)


class Camera:
    """Draws what a lens sees.

    Args:
        scenery: the land.
        lens: the camera.
        weather: between them.
    """

    def __init__(self, scenery: Scenery, lens: Lens = CENTER, weather: Weather = WEATHERS["clear"]):
        self.scenery, self.lens, self.weather = scenery, lens, weather
        # Half a row apart on level ground as long as that is closer than 2 %, then 2 % apart.
        rows = np.arange(HEIGHT + 0.5 - lens.horizon, 25, -0.5)
        near = lens.up * lens.focal / rows
        far = near[-1] * 1.02 ** np.arange(1, 1 + int(np.log(FARTHEST / near[-1]) / np.log(1.02)))
        self.depths = np.concatenate([near, far]).astype(np.float32)
        texel = self.depths / lens.focal * PIXELS_PER_METRE  # map pixels that a picture's pixel is wide
        last = len(scenery.colours) - 1
        self.levels = np.clip(np.round(np.log2(np.maximum(texel, 1)) + 0.3), 0, last).astype(np.int32)
        self.fade = weather.fade(self.depths)
        self.sky = _sky(lens, weather)
        levels = np.arange(256)[:, None] * np.array(weather.light)
        self.light = np.clip(levels, 0, 255).astype(np.uint8)[None]  # (1, 256, 3)
        self.hood, self.hood_here = _hood(lens)
        self.picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        self.distance = np.empty((HEIGHT, WIDTH), np.float32)

    def draw(self, x: float, y: float, heading: float, pitch: float = 0.0) -> np.ndarray:
        """(HEIGHT, WIDTH, 3) uint8 RGB; the next call writes into the same array.

        Args:
            x: metres east of the car.
            y: metres north.
            heading: of the car (radians from east, anticlockwise).
            pitch: of the car (radians), positive uphill.
        """
        lens, land = self.lens, self.scenery
        forward = np.array([np.cos(heading), np.sin(heading)])
        eye = np.array([x, y]) + lens.aside * np.array([-forward[1], forward[0]]) - land.corner
        up = float(cv2.getRectSubPix(land.heights, (1, 1), (float(eye[0]), float(eye[1])))[0, 0]) + lens.up
        horizon = lens.horizon + lens.focal * np.tan(pitch)
        self.picture[:] = self.sky
        self.distance[:] = np.inf
        map0, map1, map2, map3, map4 = land.colours
        _march(
            self.picture,
            self.distance,
            land.heights,
            map0,
            map1,
            map2,
            map3,
            map4,
            self.depths,
            self.levels,
            self.fade,
            np.array([*eye, up, *forward, horizon, lens.focal]),
            np.array(HAZE, np.float32),
        )
        self._draw_trees(eye, up, forward, horizon)
        np.copyto(self.picture, self.hood, where=self.hood_here)
        return self.picture if self.weather.light == (1.0, 1.0, 1.0) else cv2.LUT(self.picture, self.light)

    def _draw_trees(self, eye: np.ndarray, up: float, forward: np.ndarray, horizon: float) -> None:
        land, focal = self.scenery, self.lens.focal
        to = land.trees[:, :2] - land.corner - eye
        depth = to @ forward
        aside = to @ np.array([forward[1], -forward[0]])
        seen = np.flatnonzero((depth > 2.5) & (depth < 260) & (np.abs(aside) < depth * (WIDTH / 2 / focal) + 6))
        seen = seen[np.argsort(-depth[seen])]  # what is near covers what is far
        depth, aside, (_, _, foot, tall, kind) = depth[seen], aside[seen], land.trees[seen].T
        scale = focal / depth
        wide = tall * scale * np.where(kind < BUSH, 0.5, 1.6)
        top = horizon + (up - foot - tall) * scale
        places = np.column_stack(
            [WIDTH / 2 + aside * scale - wide / 2, top, wide, tall * scale, depth, self.weather.fade(depth)]
        )
        _stamp(self.picture, self.distance, land.sprites, kind.astype(np.int64), places, np.array(HAZE, np.float32))


def _sky(lens: Lens, weather: Weather) -> np.ndarray:
    """(HEIGHT, WIDTH, 3): from the zenith's blue to haze, and haze below."""
    share = np.clip(np.arange(HEIGHT) / lens.horizon, 0, 1)[:, None, None] ** 1.3
    share = share + (1 - share) * weather.cloud
    rows = np.array(ZENITH) * (1 - share) + np.array(HAZE) * share
    return np.broadcast_to(rows, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def _hood(lens: Lens) -> tuple[np.ndarray, np.ndarray]:
    """The car's own hood, as far as the lens sees it: a picture and where it covers others."""
    middle = (int(WIDTH / 2 + lens.aside * 145), HEIGHT + 9)
    picture, here = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(here, middle, (112, 32), 0, 180, 360, 1, -1)
    cv2.ellipse(picture, middle, (112, 32), 0, 180, 360, (150, 153, 143), -1)
    cv2.ellipse(picture, middle, (98, 25), 0, 180, 360, (122, 126, 118), 2)
    cv2.ellipse(picture, middle, (84, 18), 0, 180, 360, (60, 64, 62), 2)
    return picture, here.astype(bool)[..., None]


find_place(_hood)


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _sample(colours, x, y):
    """The colour between the middles of four pixels of a map."""
    x, y = x - 0.5, y - 0.5
    column, row = int(x), int(y)
    dx, dy = np.float32(x - column), np.float32(y - row)
    one = np.float32(1)
    w00, w01, w10, w11 = (one - dx) * (one - dy), dx * (one - dy), (one - dx) * dy, dx * dy
    a, b, c, d = colours[row, column], colours[row, column + 1], colours[row + 1, column], colours[row + 1, column + 1]
    return (
        w00 * a[0] + w01 * b[0] + w10 * c[0] + w11 * d[0],
        w00 * a[1] + w01 * b[1] + w10 * c[1] + w11 * d[1],
        w00 * a[2] + w01 * b[2] + w10 * c[2] + w11 * d[2],
    )


@numba.njit(cache=True, fastmath=True, nogil=True)
def _march(picture, distance, heights, map0, map1, map2, map3, map4, depths, levels, fade, view, haze):
    """Fills every column; ``view`` is the eye's east, north, up, its direction (east, north), horizon, focal length."""
    rows, columns, _ = picture.shape
    east, north, up, ahead_east, ahead_north, horizon, focal = view
    high, wide = heights.shape
    for column in range(columns):
        slope = (column + 0.5 - columns / 2) / focal
        step_east = ahead_east + slope * ahead_north
        step_north = ahead_north - slope * ahead_east
        lowest_free = rows
        for index in range(len(depths)):
            depth = depths[index]
            x, y = east + depth * step_east, north + depth * step_north
            if x < 1 or y < 1 or x >= wide - 3 or y >= high - 3:
                break
            column0, row0 = int(x), int(y)
            dx, dy = x - column0, y - row0
            below = heights[row0, column0] * (1 - dx) + heights[row0, column0 + 1] * dx
            above = heights[row0 + 1, column0] * (1 - dx) + heights[row0 + 1, column0 + 1] * dx
            ground = below * (1 - dy) + above * dy
            top = int(np.ceil(horizon + (up - ground) * focal / depth - 0.5))
            if top >= lowest_free:
                continue
            top = max(top, 0)
            level = levels[index]
            scale = PIXELS_PER_METRE / (1 << level)
            if level == 0:
                red, green, blue = _sample(map0, x * scale, y * scale)
            elif level == 1:
                red, green, blue = _sample(map1, x * scale, y * scale)
            elif level == 2:
                red, green, blue = _sample(map2, x * scale, y * scale)
            elif level == 3:
                red, green, blue = _sample(map3, x * scale, y * scale)
            else:
                red, green, blue = _sample(map4, x * scale, y * scale)
            far = fade[index]
            for row in range(top, lowest_free):
                picture[row, column, 0] = red + (haze[0] - red) * far
                picture[row, column, 1] = green + (haze[1] - green) * far
                picture[row, column, 2] = blue + (haze[2] - blue) * far
                distance[row, column] = depth
            lowest_free = top
            if top == 0:
                break


@numba.njit(cache=True, fastmath=True, nogil=True)
def _stamp(picture, distance, sprites, kinds, places, haze):
    """Draws each sprite into its place (left, top, wide, tall, depth, fade) where nothing nearer is."""
    rows, columns, _ = picture.shape
    _, high, broad, _ = sprites.shape
    for index in range(len(places)):
        left, top, wide, tall, depth, fade = places[index]
        sprite = sprites[kinds[index]]
        for row in range(max(0, int(np.ceil(top))), min(rows, int(np.ceil(top + tall)))):
            sprite_row = min(high - 1, int((row - top) / tall * high))
            for column in range(max(0, int(np.ceil(left))), min(columns, int(np.ceil(left + wide)))):
                sprite_column = min(broad - 1, int((column - left) / wide * broad))
                if sprite[sprite_row, sprite_column, 3] > 127 and distance[row, column] > depth:
                    for channel in range(3):
                        own = sprite[sprite_row, sprite_column, channel]
                        picture[row, column, channel] = own + (haze[channel] - own) * fade

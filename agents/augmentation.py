"""What may be different without a driver having to do anything else: colours, light, things, noise, gauges, clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Le

from liquid_control.support.command import read_yaml
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.ranges import Count, NotNegative, Positive, Share
from liquid_control.support.schema import validated

Level = Annotated[float, Ge(0), Le(255)]
"""A number of levels of a colour."""


@dataclass(frozen=True)
class RoadVariety:
    """How much pictures are varied."""

    mirrored: float = 0.5
    """Share of the drives that are mirrored, the steering with them."""
    brightness: float = 0.4
    """A drive's pictures are brighter or darker by up to this share."""
    tint: float = 0.12
    """Each of red, green and blue by up to this share more."""
    shadow: float = 0.4
    """Share of the stretches over which a shadow lies."""
    tilt: float = 0.06
    """Share of the height that the pictures are moved up or down by, at most: hills, and cars that nod."""
    shift: float = 0.0
    """Share of the width that they are moved aside by, at most, as if the car were turned."""
    shift_steering: float = 1.2
    """Steering to the right that a shift of the picture to the right by the whole width stands for."""


class RoadAugmentation:
    """Varies stretches of drives in place; what is drawn for a drive holds until the next begins in its stream.

    Args:
        variety: how much.
        rng: draws.
    """

    def __init__(self, variety: RoadVariety, rng: np.random.Generator):
        self.variety, self.rng = variety, rng
        self._mirrored = self._rows = self._columns = np.empty(0, int)
        self._levels = np.empty(0)

    def __call__(self, images: np.ndarray, gauges: np.ndarray, labels: np.ndarray, fresh: np.ndarray) -> None:
        """Varies images (B, T, height, width, 3) uint8 and steering (B, T, 1); fresh (B,) tells where drives begin."""
        batch, _, height, width, _ = images.shape
        if len(self._mirrored) != batch:
            self._mirrored, self._rows, self._columns = (np.zeros(batch, int) for _ in range(3))
            self._levels = np.ones((batch, 3))
            fresh = np.ones(batch, bool)
        for row in np.flatnonzero(fresh).tolist():
            self._draw(row, height, width)
        for row in range(batch):
            self._vary(images[row], labels[row], row)

    def _draw(self, row: int, height: int, width: int) -> None:
        variety, rng = self.variety, self.rng
        self._mirrored[row] = rng.random() < variety.mirrored
        self._levels[row] = 1 + rng.uniform(-variety.brightness, variety.brightness)
        self._levels[row] *= 1 + rng.uniform(-variety.tint, variety.tint, 3)
        self._rows[row] = round(rng.uniform(-variety.tilt, variety.tilt) * height)
        self._columns[row] = round(rng.uniform(-variety.shift, variety.shift) * width)

    def _vary(self, images: np.ndarray, labels: np.ndarray, row: int) -> None:
        _, height, width, _ = images.shape
        right = int(self._columns[row])
        rows = np.clip(np.arange(height) - self._rows[row], 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        labels += right / width * self.variety.shift_steering
        if self._mirrored[row]:
            columns = columns[::-1]
            labels *= -1
        pixels = images.reshape(len(images), -1, 3).view("V3")[..., 0]  # (T, height · width), three bytes each
        pixels[:] = pixels.take((rows[:, None] * width + columns).ravel(), 1)
        _look_up(images, self._levels[row], images)
        if self.rng.random() < self.variety.shadow:
            top, bottom = self.rng.uniform(0, width, 2)
            dark = (np.arange(width) < np.linspace(top, bottom, height)[:, None]) == (self.rng.random() < 0.5)
            shade = np.empty_like(images)
            _look_up(images, np.full(3, self.rng.uniform(0.45, 0.85)), shade)
            np.copyto(images, shade, where=dark[:, :, None])


def _look_up(images: np.ndarray, gain: np.ndarray, out: np.ndarray) -> None:
    """Each of the three colours of images (T, height, width, 3) times its gain (3,), rounded and clipped."""
    levels = np.clip(np.round(np.arange(256)[:, None] * gain), 0, 255).astype(np.uint8)[None]  # (1, 256, 3)
    cv2.LUT(images.reshape(-1, images.shape[2], 3), levels, out.reshape(-1, images.shape[2], 3))


@dataclass(frozen=True)
class Variety:
    """How much of what a driver sees is varied, and when it sees it. Shares are of episodes."""

    unchanged: Share = 0.2
    """Share whose pictures stay as they are. All others get one or two of what follows, drawn by their weights."""
    colour: NotNegative = 2.0
    """Weight of other colours: a turn of colour space around grey, and a shift."""
    turn: Share = 1.0
    """How far colours are turned at most: 0 not at all, 1 anywhere."""
    offset: Level = 50.0
    """Levels that each colour is shifted by at most."""
    apart: Level = 35.0
    """Levels that road and grass differ by at least; colours are drawn again until they do."""
    curve: NotNegative = 1.0
    """Weight of a curve from old to new levels for each colour, bent at five places."""
    bend: Level = 60.0
    """Levels that the curve is bent by at most."""
    filter: NotNegative = 1.0
    """Weight of a random filter of 3 × 3 pixels on a random mix of the colours, blended in (Lee et al. 2020)."""
    blend: tuple[Share, Share] = (0.2, 1.0)
    """Least and greatest share of the filtered picture."""
    shade: NotNegative = 1.0
    """Weight of smooth light and shade over the picture."""
    depth: Share = 0.45
    """How much brighter or darker shade makes the picture at most."""
    shadow: NotNegative = 0.0
    """Weight of shadows with sharp edges: dark bands that move over the picture."""
    grass: NotNegative = 3.0
    """Weight of a texture in the place of the grass that drifts along: smooth, or patches of two colours."""
    patches: Share = 0.5
    """Share of those textures that are patches. Their edges are as sharp as the road's, and lead nowhere."""
    noise: NotNegative = 1.0
    """Weight of noise: speckle, single pixels, or blocks."""
    posterise: NotNegative = 0.0
    """Weight of few levels a colour."""
    vignette: NotNegative = 0.0
    """Weight of corners that are darker than the middle."""
    stripes: NotNegative = 0.0
    """Weight of dark and bright stripes that move over the picture."""
    things: Share = 0.5
    """Share with things that lie on the picture and do not move: up to three textured rectangles beside the car."""
    largest: Count = 13
    """Pixels of their longer side, at most."""
    clock: Share = 0.0
    """Share of episodes that are learned by another clock: with frames left out, or seen several times."""
    fine: Share = 0.3
    """Share of those in which frames are seen several times."""
    gap: Positive = 3.0
    """Frames that are left out at most, on average."""
    gauges: Share = 0.0
    """Share of episodes in which some of the gauges show nothing."""


VARIETIES: dict[str, Variety | None] = {
    "none": None,
    "mild": Variety(),
    "wide": Variety(depth=0.8, shadow=1.0, clock=0.25),
}
"""Varieties by name: wide is mild and, besides, deeper shade, shadows with sharp edges, and other clocks."""
HELD_OUT = Variety(
    unchanged=0.0,
    colour=0.0,
    curve=0.0,
    filter=0.0,
    shade=0.0,
    grass=0.0,
    noise=0.0,
    posterise=1.0,
    vignette=1.0,
    stripes=1.0,
    things=0.0,
)
"""What robust validation sees: kinds of variety that :data:`VARIETIES` do not have."""


def find_variety(name: str) -> Variety | None:
    """One of :data:`VARIETIES`, or what a YAML file says.

    Raises:
        UserError: if there is neither, or the file holds something else.
    """
    if name in VARIETIES:
        return VARIETIES[name]
    if not Path(name).suffix:
        raise UserError(f"no variety {name!r}: {nearest(name, VARIETIES)} Or give a YAML file.")
    variety: Variety = validated(Variety, read_yaml(Path(name)), f"the variety in {name}")
    return variety


ROAD, GRASS = (102.0, 102.0, 102.0), (102.0, 217.0, 102.0)
"""Colours of CarRacing, the grass between its two shades."""
CAR = slice(18, 27), slice(12, 20)
"""Where a playfield of 28 × 32 shows the car: rows and columns."""


class Variation:
    """What is drawn for an episode, and pictures and gauges varied by it.

    Args:
        variety: how much.
        rng: draws.
        size: (height, width) of the pictures.
        gauges: how many there are.
    """

    def __init__(self, variety: Variety, rng: np.random.Generator, size: tuple[int, int], gauges: int):
        self.variety, self.rng, self.size = variety, rng, size
        self._changes: list[Callable[[np.ndarray], None]] = []
        if rng.random() >= variety.unchanged:
            kinds = (
                *(self._grass, self._colour, self._curve, self._filter, self._posterise),
                *(self._shade, self._shadow, self._vignette, self._stripes, self._noise),
            )
            weights = np.array([getattr(variety, kind.__name__.removeprefix("_")) for kind in kinds], float)
            count = min(int(rng.integers(1, 3)), int(np.count_nonzero(weights)))
            if count:
                drawn = rng.choice(len(kinds), count, replace=False, p=weights / weights.sum())
                self._changes = [kinds[place]() for place in sorted(drawn)]
            if rng.random() < variety.things:
                self._changes += [self._thing() for _ in range(rng.integers(1, 4))]
        some = variety.gauges > 0 and rng.random() < variety.gauges
        self._dead = rng.permutation(gauges)[: rng.integers(gauges + 1)] if some else np.empty(0, int)

    def __call__(self, images: np.ndarray, gauges: np.ndarray) -> None:
        """Varies consecutive pictures (T, height, width, 3) uint8 and gauges (T, G) in place."""
        for change in self._changes:
            change(images)
        gauges[:, self._dead] = 0

    def _colour(self) -> Callable[[np.ndarray], None]:
        variety, rng = self.variety, self.rng
        colours = np.array([ROAD, GRASS]) - 128
        for _ in range(100):
            turn, share = np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.uniform(0, variety.turn)
            matrix = (1 - share) * np.eye(3) + share * turn * np.sign(np.linalg.det(turn))
            shift = rng.uniform(-variety.offset, variety.offset, 3)
            road, grass = np.clip(colours @ matrix.T + 128 + shift, 0, 255)
            if np.abs(road - grass).max() > variety.apart:
                break
        else:
            matrix, shift = np.eye(3), np.zeros(3)
        affine = np.column_stack([matrix, 128 + shift - matrix.sum(1) * 128])

        def change(images: np.ndarray) -> None:
            cv2.transform(_stacked(images), affine, dst=_stacked(images))

        return change

    def _curve(self) -> Callable[[np.ndarray], None]:
        bend = self.rng.uniform(-self.variety.bend, self.variety.bend, (5, 3))
        levels, knots = np.arange(256), np.linspace(0, 255, 5)
        curves = [np.clip(levels + np.interp(levels, knots, bend[:, channel]), 0, 255) for channel in range(3)]
        table = np.stack(curves, -1).astype(np.uint8)[None]

        def change(images: np.ndarray) -> None:
            cv2.LUT(_stacked(images), table, dst=_stacked(images))

        return change

    def _filter(self) -> Callable[[np.ndarray], None]:
        rng = self.rng
        kernel, mix = rng.normal(size=(3, 3)), rng.dirichlet(np.ones(3), 3)
        kernel /= np.abs(kernel).sum() * rng.choice((-1, 1))
        share = rng.uniform(*self.variety.blend)
        grey = 0.0 if kernel.sum() > 0 else 255.0  # a negative picture stays within the levels

        def change(images: np.ndarray) -> None:
            stacked = _stacked(images)  # the filter sees a row of the next picture at the edge: one more variation
            filtered = cv2.filter2D(cv2.transform(stacked, mix), cv2.CV_8U, kernel, delta=grey)
            cv2.addWeighted(filtered, share, stacked, 1 - share, 0, dst=stacked)

        return change

    def _shade(self) -> Callable[[np.ndarray], None]:
        coarse = self.rng.uniform(1 - self.variety.depth, 1 + self.variety.depth, (3, 3)).astype(np.float32)
        gain = np.maximum(cv2.resize(coarse, self.size[::-1], interpolation=cv2.INTER_CUBIC), 0)[..., None]
        return lambda images: np.copyto(images, np.minimum(images * gain, 255), casting="unsafe")

    def _shadow(self) -> Callable[[np.ndarray], None]:
        rng, (height, width) = self.rng, self.size
        angle, period, gain = rng.uniform(0, 2 * np.pi), rng.uniform(6, 40), rng.uniform(0.2, 0.8)
        across = np.cos(angle) * np.arange(height)[:, None] + np.sin(angle) * np.arange(width)
        dark, phase, drift = rng.uniform(0.2, 0.7) * period, rng.uniform(0, period), rng.uniform(-1, 1)

        def change(images: np.ndarray) -> None:
            nonlocal phase
            places = across + phase + drift * np.arange(len(images))[:, None, None]
            np.copyto(images, images * gain, where=(places % period < dark)[..., None], casting="unsafe")
            phase += drift * len(images)

        return change

    def _grass(self) -> Callable[[np.ndarray], None]:
        rng, (height, width) = self.rng, self.size
        cells, patches = int(rng.integers(3, 12)), rng.random() < self.variety.patches
        coarse = rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        if patches:
            coarse = coarse[0, :2][rng.integers(2, size=(cells, cells))]
        coarse += (rng.uniform(0, 255, 3) - coarse) * rng.uniform(0, 0.8)
        kind = cv2.INTER_NEAREST if patches else cv2.INTER_CUBIC
        texture = np.clip(cv2.resize(coarse, (2 * width, 2 * height), interpolation=kind), 0, 255)
        texture = np.tile(texture.astype(np.uint8), (2, 2, 1))
        place, drift = rng.uniform(0, (2 * height, 2 * width)), rng.uniform(-2, 2, 2)

        def change(images: np.ndarray) -> None:
            nonlocal place
            red, green, blue = cv2.split(_stacked(images))
            above = cv2.subtract(green, cv2.max(red, blue))  # 0 where it is below
            masks = (above > 40).view(np.uint8).reshape(images.shape[:3])
            places = (place + drift * np.arange(len(images) + 1)[:, None]) % (2 * height, 2 * width)
            for picture, mask, (row, column) in zip(images, masks, places[:-1].astype(int).tolist(), strict=True):
                cv2.copyTo(texture[row : row + height, column : column + width], mask, picture)
            place = places[-1]

        return change

    def _posterise(self) -> Callable[[np.ndarray], None]:
        steps = int(self.rng.integers(3, 7))
        table = (np.round(np.arange(256) / 255 * (steps - 1)) / (steps - 1) * 255).astype(np.uint8)

        def change(images: np.ndarray) -> None:
            cv2.LUT(_stacked(images), table, dst=_stacked(images))

        return change

    def _vignette(self) -> Callable[[np.ndarray], None]:
        height, width = self.size
        rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        gain = (1 - self.rng.uniform(0.2, 0.45) * (rows**2 + columns**2)).clip(0)[..., None].astype(np.float32)
        return lambda images: np.copyto(images, images * gain, casting="unsafe")

    def _stripes(self) -> Callable[[np.ndarray], None]:
        rng, (height, width) = self.rng, self.size
        angle, period, strength = rng.uniform(0, np.pi), rng.uniform(3, 12), rng.uniform(10, 40)
        across = np.cos(angle) * np.arange(height)[:, None] + np.sin(angle) * np.arange(width)
        phase, drift = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5)

        def change(images: np.ndarray) -> None:
            nonlocal phase
            phases = phase + drift * np.arange(len(images))
            waves = strength * np.sin(2 * np.pi / period * across + phases[:, None, None]).astype(np.float32)
            np.copyto(images, (images + waves[..., None]).clip(0, 255), casting="unsafe")
            phase += drift * len(images)

        return change

    def _noise(self) -> Callable[[np.ndarray], None]:
        rng, kind, strength = self.rng, int(self.rng.integers(3)), self.rng.uniform(0.2, 1)

        def change(images: np.ndarray) -> None:
            if kind == 0:  # speckle
                gain = rng.random(images.shape, np.float32)
                gain *= strength
                gain += 1 - strength / 2
                np.copyto(images, np.minimum(images * gain, 255), casting="unsafe")
            elif kind == 1:  # single pixels, black or white
                where = rng.random(images.shape[:3], np.float32)
                images[where < 0.06 * strength] = 0
                images[where > 1 - 0.06 * strength] = 255
            else:  # blocks of four pixels
                time, height, width, _ = images.shape
                blocks = rng.integers(0, 256, (time, -(-height // 4), -(-width // 4), 3), np.uint8)
                hit = rng.random(blocks.shape[:3], np.float32) < 0.12 * strength
                blocks, hit = (part.repeat(4, 1).repeat(4, 2)[:, :height, :width] for part in (blocks, hit))
                np.copyto(images, blocks, where=hit[..., None])

        return change

    def _thing(self) -> Callable[[np.ndarray], None]:
        rng, (height, width) = self.rng, self.size
        rows, columns = (int(rng.integers(2, min(self.variety.largest, length) + 1)) for length in self.size)
        car_rows, car_columns = (
            range(part.start * length // of, -(-part.stop * length // of))
            for part, length, of in zip(CAR, self.size, (28, 32), strict=True)
        )
        for _ in range(100):
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            beside = top >= car_rows.stop or top + rows <= car_rows.start
            if beside or left >= car_columns.stop or left + columns <= car_columns.start:
                break
        else:
            rows = 0  # there is no room beside the car
        texture = rng.uniform(0, 255, 3) + rng.normal(0, rng.uniform(0, 60), (rows, columns, 3))
        pixels = np.clip(texture, 0, 255).astype(np.uint8)

        def change(images: np.ndarray) -> None:
            images[:, top : top + rows, left : left + columns] = pixels

        return change


class Augmentation:
    """Varies stretches of episodes in place; what is drawn for an episode holds until the next begins in its stream.

    Args:
        variety: how much.
        rng: draws.
    """

    def __init__(self, variety: Variety, rng: np.random.Generator):
        self.variety, self.rng = variety, rng
        self._episodes: dict[int, Variation] = {}

    def __call__(self, images: np.ndarray, gauges: np.ndarray, labels: np.ndarray, fresh: np.ndarray) -> None:
        """Varies images (B, T, height, width, 3) uint8 and gauges (B, T, G); fresh (B,) tells where episodes begin."""
        batch, _, height, width, _ = images.shape
        if len(self._episodes) != batch:
            self._episodes, fresh = {}, np.ones(batch, bool)
        for row in range(batch):
            if fresh[row]:
                self._episodes[row] = Variation(self.variety, self.rng, (height, width), gauges.shape[2])
            self._episodes[row](images[row], gauges[row])


class Clock:
    """Frames of episodes as another clock would have seen them: some left out, or each seen several times.

    Args:
        variety: how much.
        rng: draws.
    """

    def __init__(self, variety: Variety, rng: np.random.Generator):
        self.variety, self.rng = variety, rng

    def __call__(self, elapsed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times (T,) since the frame before -> frames that are seen, as indices (S,), and the same times of those."""
        rng, frames = self.rng, np.arange(len(elapsed))
        if rng.random() >= self.variety.clock:
            return frames, elapsed
        if rng.random() < self.variety.fine:
            parts = int(rng.integers(2, 5))
            return frames.repeat(parts), (elapsed / parts).repeat(parts)
        gaps = 1 + rng.poisson(rng.uniform(0.1, self.variety.gap), len(elapsed))
        frames = np.cumsum(gaps) - gaps[0]
        frames = frames[frames < len(elapsed)]
        passed = np.cumsum(elapsed)[frames]
        return frames, np.diff(passed, prepend=passed[0] - elapsed[0]).astype(np.float32)


def _stacked(images: np.ndarray) -> np.ndarray:
    """Pictures (T, height, width, 3) one below the other."""
    return images.reshape(-1, images.shape[2], 3)

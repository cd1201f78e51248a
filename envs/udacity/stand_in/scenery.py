"""The land around a road as two maps, of heights and of colours, and the trees that stand on it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from envs.udacity.stand_in.road import Road

PIXELS_PER_METRE = 8
"""Of the colour map; heights are a metre apart."""
MARGIN = 120
"""Metres of land beyond the road's outermost points."""
TREES = 700
BUSH = 5
"""The sprite that is as broad as high; those before it are pines."""

# As in recordings of the lake track.
ASPHALT, SHOULDER, WATER = (127, 131, 120), (186, 184, 166), (146, 176, 206)
GRASS, DIRT = (176, 156, 78), (184, 146, 84)
YELLOW, RED, WHITE = (196, 174, 72), (206, 92, 88), (228, 226, 220)
GRAIN, STRIP = 512, 32
"""Pixels after which the grain of rough ground comes again, and rows that are lit at a time."""
SHOULDER_WIDTH, KERB_WIDTH, KERB_LENGTH = 1.6, 1.1, 1.2
BEND = 1 / 60
"""Curvature (1/m) from which on a road has kerbs."""


@dataclass(frozen=True, eq=False)
class Scenery:
    """What a camera sees, but for the sky."""

    corner: np.ndarray
    """(2,) metres east and north of the maps' first pixel, the south-west corner; rows go north."""
    heights: np.ndarray
    """(rows, columns) float32 metres, a metre apart."""
    colours: tuple[np.ndarray, ...]
    """Of each level half as many pixels a metre as of the one before, (rows, columns, 3) uint8 RGB."""
    trees: np.ndarray
    """(trees, 5): metres east, north, up, and tall, and the index of the sprite."""
    sprites: np.ndarray
    """Pictures of trees, (kinds, height, width, 4) uint8 RGB and opacity; the last is that of bushes."""


def make_scenery(road: Road, seed: int = 0) -> Scenery:
    """Land with hills, a lake inside the loop, trees and their shadows on the road."""
    rng = np.random.default_rng([seed, 1])
    corner = np.floor(road.points[:, :2].min(0)) - MARGIN
    size = np.ceil(road.points[:, :2].max(0) - corner).astype(int) + MARGIN  # metres east and north
    away, road_height, inside = _around_the_road(road, corner, size)
    hills = 22 * _noise(rng, size, 70) + 7 * _noise(rng, size, 25)
    rise = np.clip((away - 9) / 45, 0, 1) ** 1.5
    lake = inside & (away > 22)
    level = road.points[:, 2].min() - 1.2
    heights = road_height + rise * np.where(inside, 0.25, 1) * (np.abs(hills) + 3 * (hills > 0))
    shore = np.clip((away - 14) / 8, 0, 1)
    heights = np.where(inside, heights * (1 - shore) + level * shore, heights).astype(np.float32)
    trees = _plant(rng, away, lake, heights, corner)
    colours = _paint_land(rng, size, lake)
    _paint_road(colours, road, corner)
    rough = away < road.half_width + SHOULDER_WIDTH + 4
    levels = [_light(rng, colours, rough.astype(np.float32), trees, corner)]
    for _ in range(4):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return Scenery(corner, heights, tuple(levels), trees, np.stack([_sprite(rng) for _ in range(BUSH + 1)]))


def _around_the_road(road: Road, corner: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each square metre: its distance from the road's middle, the road's height there, whether it is inside."""
    at = np.round(road.points[:, :2] - corner).astype(np.int32)
    free = np.full(size[::-1], 255, np.uint8)
    free[at[:, 1], at[:, 0]] = 0
    away, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    height_of = np.zeros(labels.max() + 1)
    height_of[labels[at[:, 1], at[:, 0]]] = road.points[:, 2]
    road_height = cv2.GaussianBlur(height_of[labels].astype(np.float32), (0, 0), 3)
    inside = cv2.fillPoly(np.zeros(size[::-1], np.uint8), [at], 1).astype(bool)
    return away, road_height, inside


def _noise(rng: np.random.Generator, size: np.ndarray, grain: float) -> np.ndarray:
    """Smooth noise of mean 0 and about ±1, its hills ``grain`` metres apart."""
    cells = np.ceil(size / grain).astype(int) + 3
    coarse = rng.normal(0, 0.5, cells[::-1]).astype(np.float32)
    whole = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
    return whole[: size[1], : size[0]]


def _plant(
    rng: np.random.Generator, away: np.ndarray, lake: np.ndarray, heights: np.ndarray, corner: np.ndarray
) -> np.ndarray:
    rows, columns = np.nonzero((away > 8.5) & (away < 110) & ~lake)
    chosen = rng.choice(len(rows), TREES, p=(share := 1 / away[rows, columns] ** 0.7) / share.sum())
    at = np.column_stack([columns[chosen], rows[chosen]]) + rng.random((TREES, 2)) * 0.8
    tall = rng.uniform(4.5, 11.0, TREES)
    low = rng.random(TREES) < 0.35  # bushes
    tall[low] = rng.uniform(0.8, 1.8, low.sum())
    kind = np.where(low, BUSH, rng.integers(0, BUSH, TREES))
    up = heights[at[:, 1].astype(int), at[:, 0].astype(int)] - 0.15
    return np.column_stack([at + corner, up, tall, kind])


def _paint_land(rng: np.random.Generator, size: np.ndarray, lake: np.ndarray) -> np.ndarray:
    """Grass, dirt and water, (rows, columns, 3) uint8."""
    dirt = np.clip(0.5 + 1.2 * _noise(rng, size, 30) + 0.5 * _noise(rng, size, 8), 0, 1)[..., None]
    land = np.array(GRASS) * (1 - dirt) + np.array(DIRT) * dirt
    land *= 1 + 0.25 * (_noise(rng, size, 3) + _noise(rng, size, 1.5))[..., None]
    land[lake] = WATER
    whole = tuple(int(metres) * PIXELS_PER_METRE for metres in size)
    return cv2.resize(np.clip(land, 0, 255).astype(np.uint8), whole, interpolation=cv2.INTER_LINEAR)


def _paint_road(colours: np.ndarray, road: Road, corner: np.ndarray) -> None:
    """Shoulders, kerbs in the bends, asphalt, yellow lines."""

    def stripe(low: float, high: float, colour: tuple[int, int, int], first: int = 0, count: int = 0) -> None:
        """What lies between two distances left of the middle, along ``count`` points of the road (0: all)."""
        last = first + (count or len(road.points))
        for begin in range(first, last, 40):
            index = np.arange(begin, min(begin + 40, last) + 1) % len(road.points)
            middle, left = road.points[index, :2], road.left[index]
            outline = np.vstack([middle + low * left, (middle + high * left)[::-1]])
            pixels = np.round((outline - corner) * PIXELS_PER_METRE * 16).astype(np.int32)
            cv2.fillPoly(colours, [pixels], colour, cv2.LINE_AA, shift=4)

    half = road.half_width
    stripe(-half - SHOULDER_WIDTH, half + SHOULDER_WIDTH, SHOULDER)
    points = max(1, round(KERB_LENGTH / road.spacing))
    bends = np.abs(road.curvature) / road.spacing > BEND
    for place, first in enumerate(range(0, len(road.points) - points, points)):
        if bends[first]:
            colour = RED if place % 2 else WHITE
            stripe(half, half + KERB_WIDTH, colour, first, points)
            stripe(-half - KERB_WIDTH, -half, colour, first, points)
    stripe(-half, half, ASPHALT)
    for middle in (-half + 0.28, half - 0.28):
        stripe(middle - 0.07, middle + 0.07, YELLOW)


def _light(
    rng: np.random.Generator, colours: np.ndarray, roughness: np.ndarray, trees: np.ndarray, corner: np.ndarray
) -> np.ndarray:
    """The colours with the grain of what is rough (one value a square metre) and the shadows of the trees."""
    rows, columns, _ = colours.shape
    tile = rng.normal(0, 0.28, (GRAIN, GRAIN)).astype(np.float32)
    grain = np.tile(tile, columns // GRAIN + 1)[:, :columns]
    light = np.ones((rows, columns), np.float32)
    for foot, tall in zip((trees[:, :2] - corner) * PIXELS_PER_METRE, trees[:, 3] * PIXELS_PER_METRE, strict=True):
        if tall > 3 * PIXELS_PER_METRE:
            x, y = foot.astype(int).tolist()
            tip = (x + int(0.55 * tall), y + int(0.35 * tall))
            cv2.line(light, (x, y), tip, 0.62, 3)
            cv2.circle(light, tip, int(0.16 * tall), 0.62, -1)
    soft = cv2.GaussianBlur(light, (0, 0), 3)
    lit = np.empty_like(colours)
    # A strip at a time and a colour after the other: what is in between stays in the processor's cache.
    for first in range(0, rows, STRIP):
        strip = slice(first, min(first + STRIP, rows))
        of_strip = roughness[first // PIXELS_PER_METRE : strip.stop // PIXELS_PER_METRE]
        rough = of_strip.repeat(PIXELS_PER_METRE, 0).repeat(PIXELS_PER_METRE, 1)
        shade = soft[strip] * (1 + grain[first % GRAIN :][: len(rough)] * rough)
        for colour in range(3):
            lit[strip, :, colour] = np.clip(colours[strip, :, colour] * shade, 0, 255)
    return lit


def _sprite(rng: np.random.Generator) -> np.ndarray:
    """A pine, or a bush: trunk and clumps of needles, darker below."""
    height, width = 128, 64
    picture = np.zeros((height, width, 4), np.uint8)
    cv2.line(picture, (width // 2, height - 1), (width // 2, 20), (74, 60, 46, 255), 3)
    for _ in range(46):
        up = rng.random() ** 0.8
        centre = (int(width / 2 + rng.normal(0, 3 + 10 * (1 - up))), int(22 + 60 * (1 - up) + rng.normal(0, 4)))
        light = 0.6 + 0.5 * up + rng.normal(0, 0.12)
        colour = [int(np.clip(c * light, 0, 255)) for c in (52, 66, 36)]
        cv2.ellipse(picture, centre, (int(rng.integers(4, 10)), int(rng.integers(2, 5))), 0, 0, 360, (*colour, 255), -1)
    return picture

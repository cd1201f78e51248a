"""Square textures without seams, drawn by a generator: clouds, and pictures made of few colours."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIDE = 256
"""Pixels of a texture's sides."""


def smooth_noise(rng: np.random.Generator, cells: tuple[int, int], side: int = SIDE) -> np.ndarray:
    """(side, side) float32 from 0 to 1: random numbers on a grid, interpolated, tileable.

    Args:
        rng: draws the numbers.
        cells: rows and columns of the grid.
        side: pixels of a side.
    """
    rows, columns = cells
    grid = rng.random(cells).astype(np.float32)
    # Three cells more on each side, so that the part that is kept meets itself.
    wide = np.pad(grid, 3, mode="wrap")
    high, broad = round(side * (rows + 6) / rows), round(side * (columns + 6) / columns)
    large = cv2.resize(wide, (broad, high), interpolation=cv2.INTER_CUBIC)
    top, left = round(3 * side / rows), round(3 * side / columns)
    noise = large[top : top + side, left : left + side]
    return np.clip(cv2.normalize(noise, np.empty_like(noise), 0, 1, cv2.NORM_MINMAX), 0, 1)


def smooth_step(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between: 3t² - 2t³."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def checks(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) int: a board of two or three colours."""
    squares = int(rng.choice([8, 16]))
    index = np.arange(SIDE) * squares // SIDE
    return (index[:, None] + index) % 2 + (index[:, None] % 4 == 0)


def stripes(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) int: slanted stripes of three colours."""
    down, across = rng.integers(1, 4, 2) * rng.choice([-1, 1], 2)
    at = np.arange(SIDE)
    return (at[:, None] * down + at * across) * 6 // SIDE % 3


def dots(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) int: disks of two colours on a third."""
    picture = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(40):
        x, y = rng.integers(0, SIDE, 2)
        radius, colour = int(rng.integers(6, 20)), int(rng.integers(1, 3))
        for shift_x in (-SIDE, 0, SIDE):
            for shift_y in (-SIDE, 0, SIDE):
                cv2.circle(picture, (int(x) + shift_x, int(y) + shift_y), radius, colour, -1)
    return picture


def clouds(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) int: smooth noise in three steps."""
    return (smooth_noise(rng, (10, 10)) * 2.999).astype(int)


def bricks(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE) int: bricks of two colours with joints of a third."""
    row, column = np.mgrid[:SIDE, :SIDE]
    layer = row // 16
    column = (column + 16 * (layer % 2)) % SIDE
    kinds = rng.integers(1, 3, (16, 8))
    joint = (row % 16 < 2) | (column % 32 < 2)
    return np.where(joint, 0, kinds[layer, column // 32])


PATTERNS: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (checks, stripes, dots, clouds, bricks)


def coloured_pattern(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: one of the patterns, in three random colours."""
    pattern = PATTERNS[rng.integers(len(PATTERNS))](rng)
    return rng.integers(0, 256, (3, 3), np.uint8)[pattern]

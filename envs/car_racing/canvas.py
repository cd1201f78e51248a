"""How the official canvas becomes an observation: sizes, scales, and pygame's `smoothscale` as arithmetic."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from gymnasium.envs.box2d.car_racing import SCALE, STATE_H, STATE_W, WINDOW_H, WINDOW_W, ZOOM

PLAYFIELD_ROWS = 84
"""Rows of the observation above the gauges."""

COLUMN = WINDOW_W / STATE_W
"""Canvas pixels that a column of the observation averages."""

ROW = WINDOW_H / STATE_H
"""Canvas pixels that a row of the observation averages."""

CAR_X, CAR_Y = WINDOW_W / 2, WINDOW_H * 3 / 4
"""Where the canvas shows the car, y downwards."""

FULL_ZOOM = ZOOM * SCALE
"""Canvas pixels a world unit, once the first second's zoom is over."""

Colour = tuple[int, int, int]


def camera_zoom(t: float) -> float:
    """Canvas pixels a world unit at time t (seconds since the reset): from 0.6 to 16.2 in the first second."""
    return 0.1 * SCALE * max(1 - t, 0) + ZOOM * SCALE * min(t, 1)


def shrunk_colour(colour: Iterable[float]) -> Colour:
    """An even colour as `smoothscale` leaves it: both passes round down, so 2 levels lower, but never below 0.

    Args:
        colour: RGB, 0 to 255.
    """
    r, g, b = (max(int(c) - 2, 0) for c in colour)
    return r, g, b


def area_weights(first_pixel: int, pixels: int, first_cell: int, cells: int, ratio: float) -> np.ndarray:
    """Share of each canvas pixel in the average of each observation row or column.

    Args:
        first_pixel: the canvas row or column at which the strip begins.
        pixels: its length.
        first_cell: the observation row or column at which the result begins.
        cells: its length.
        ratio: canvas pixels a cell.

    Returns:
        (cells, pixels) float64; a row adds up to 1 where its cell lies inside the strip.
    """
    edges = np.arange(first_pixel, first_pixel + pixels)[None, :]
    begin = (np.arange(first_cell, first_cell + cells) * ratio)[:, None]
    overlap = np.minimum(edges + 1, begin + ratio) - np.maximum(edges, begin)
    return np.maximum(overlap, 0) / ratio

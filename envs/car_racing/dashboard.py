"""The gauges under the playfield, as the official environment shows them: bars that end on whole canvas pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from gymnasium.envs.box2d.car_dynamics import Car
from gymnasium.envs.box2d.car_racing import STATE_H, STATE_W, WINDOW_H, WINDOW_W

from envs.car_racing.canvas import COLUMN, PLAYFIELD_ROWS, ROW, area_weights

GAUGE_ROWS = STATE_H - PLAYFIELD_ROWS
TOP = round(PLAYFIELD_ROWS * ROW)  # canvas row at which the black panel begins
CELL_WIDTH, CELL_HEIGHT = WINDOW_W // 40, WINDOW_H // 40
SMALLEST = 1e-4  # smaller values show no bar at all

SPEED_COLUMNS = slice(12, 15)
WHEEL_COLUMNS = slice(16, 27)
STEERING_COLUMN, GYRO_COLUMN = 20 * CELL_WIDTH, 30 * CELL_WIDTH  # canvas columns where these bars begin
WIDE_COLUMNS = slice(27, STATE_W)
WHEEL_COLOURS = ((0, 0, 255), (0, 0, 255), (51, 0, 255), (51, 0, 255))

_rows = area_weights(TOP, WINDOW_H - TOP, PLAYFIELD_ROWS, GAUGE_ROWS, ROW)


def draw_gauges(car: Car, frame: np.ndarray) -> None:
    """Draw speed, wheel, steering and gyro bars, without the printed score.

    Args:
        car: the official car.
        frame: (96, 96, 3) uint8; rows 84–95 are overwritten.
    """
    frame[PLAYFIELD_ROWS:].fill(0)
    hull = car.hull
    velocity = hull.linearVelocity
    vx, vy = velocity.x, velocity.y
    wheels = car.wheels
    speeds = (wheels[0].omega, wheels[1].omega, wheels[2].omega, wheels[3].omega)
    _draw_bars(math.sqrt(vx * vx + vy * vy), speeds, wheels[0].joint.angle, hull.angularVelocity, frame)


def draw_values(values: Sequence[float], frame: np.ndarray) -> None:
    """Draw bars that show these values, and leave the printed score alone.

    Args:
        values: 7 numbers, in the order and units of `envs.car_racing.observation.GAUGES`.
        frame: (96, 96, 3) uint8; columns 12–95 of rows 84–95 are overwritten.
    """
    frame[PLAYFIELD_ROWS:, SPEED_COLUMNS.start :] = 0
    speed, *wheels, angle, gyro = values
    _draw_bars(speed, wheels, angle, gyro, frame)


def _draw_bars(speed: float, wheels: Sequence[float], angle: float, gyro: float, frame: np.ndarray) -> None:
    """Draw bars over a black panel."""
    panel = frame[PLAYFIELD_ROWS:]
    panel[:, SPEED_COLUMNS] = _speed_bar(_vertical_end(speed, 0.02))
    panel[:, WHEEL_COLUMNS] = _wheel_bars(
        _vertical_end(wheels[0], 0.01),
        _vertical_end(wheels[1], 0.01),
        _vertical_end(wheels[2], 0.01),
        _vertical_end(wheels[3], 0.01),
    )
    if abs(angle) > SMALLEST:
        panel[:, WIDE_COLUMNS, 1] = _wide_bar(STEERING_COLUMN, _wide_end(20, -10.0 * angle))
    if abs(gyro) > SMALLEST:
        panel[:, WIDE_COLUMNS, 0] = _wide_bar(GYRO_COLUMN, _wide_end(30, -0.8 * gyro))


def _vertical_end(value: float, scale: float) -> int:
    """Canvas row at which the bar of a value ends, or -1 where none is drawn."""
    if -SMALLEST <= value <= SMALLEST:
        return -1
    end = int(WINDOW_H - (CELL_HEIGHT + CELL_HEIGHT * (scale * value)))
    return end if TOP <= end < WINDOW_H else TOP if end < TOP else WINDOW_H - 1


def _wide_end(place: int, cells: float) -> int:
    """Canvas column at which a horizontal bar ends."""
    return min(max(int((place + cells) * CELL_WIDTH), 0), WINDOW_W - 1)


@lru_cache(maxsize=256)
def _speed_bar(end: int) -> np.ndarray:
    return _vertical_bars(SPEED_COLUMNS, ((5, end, (255, 255, 255)),))


@lru_cache(maxsize=4096)
def _wheel_bars(*ends: int) -> np.ndarray:
    return _vertical_bars(WHEEL_COLUMNS, tuple(zip((7, 8, 9, 10), ends, WHEEL_COLOURS, strict=True)))


@lru_cache(maxsize=1024)
def _wide_bar(begin: int, end: int) -> np.ndarray:
    """One colour channel of a horizontal bar: (12, 69) uint8."""
    first, weights = _column_weights(WIDE_COLUMNS.start, WIDE_COLUMNS.stop)
    left, right = sorted((begin, end))
    # All rows of the bar are alike.
    row = _round_down(weights[:, max(left - first, 0) : right + 1 - first].sum(1) * 255)
    covered = _rows[:, WINDOW_H - 4 * CELL_HEIGHT - TOP : WINDOW_H - 2 * CELL_HEIGHT + 1 - TOP].sum(1)
    return _round_down(np.outer(covered, row)).astype(np.uint8)


def _vertical_bars(columns: slice, bars: tuple[tuple[int, int, tuple[int, int, int]], ...]) -> np.ndarray:
    """Bars given as place, end and colour, later ones over earlier ones: (12, columns, 3) uint8."""
    first, weights = _column_weights(columns.start, columns.stop)
    canvas = np.zeros((WINDOW_H - TOP, weights.shape[1], 3))
    for place, end, colour in bars:
        if end >= 0:
            low, high = sorted((end - TOP, WINDOW_H - CELL_HEIGHT - TOP))
            left = place * CELL_WIDTH - first
            canvas[low : high + 1, left : left + CELL_WIDTH + 1] = colour
    narrow = _round_down(weights @ canvas)
    return _round_down(np.tensordot(_rows, narrow, 1)).astype(np.uint8)


@cache
def _column_weights(start: int, stop: int) -> tuple[int, np.ndarray]:
    """The first canvas column under these columns of the observation, and each canvas column's share in them."""
    first, last = math.floor(start * COLUMN), math.ceil(stop * COLUMN)
    return first, area_weights(first, last - first, start, stop - start, COLUMN)


def _round_down(values: np.ndarray) -> np.ndarray:
    """The fixed-point average of `smoothscale` falls just short of whole numbers and is cut off."""
    return np.maximum(np.floor(values - 1e-3), 0)

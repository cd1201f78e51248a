"""The car as the official environment shows it, kept as small pictures that are added up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pygame
from gymnasium.envs.box2d.car_dynamics import (
    HULL_POLY1,
    HULL_POLY2,
    HULL_POLY3,
    HULL_POLY4,
    SIZE,
    WHEEL_R,
    WHEEL_W,
    WHEEL_WHITE,
    WHEELPOS,
    Car,
)

from envs.car_racing.canvas import CAR_X, CAR_Y, COLUMN, FULL_ZOOM, ROW, area_weights, shrunk_colour

# The camera follows the car, so it always fills the same few pixels of the observation, seen from straight above.
ROWS, COLUMNS = slice(66, 77), slice(45, 51)
LEFT, WIDTH, TOP, HEIGHT = 468, 64, 550, 92  # the part of the canvas they are averaged from

STEERING_STEP = 0.04  # radians of wheel angle that share a picture
PHASES = 32  # pictures a turn of the wheel
PHASE_STEP = 2 * math.pi / PHASES

HULL = (HULL_POLY1, HULL_POLY2, HULL_POLY3, HULL_POLY4)
# The canvas holds one of these numbers a pixel.
NOTHING, TYRE, PATCH, PAINT = range(4)
# What each contributes: the background, the tyre's light patch, the hull's paint; a tyre is black.
CONTRIBUTION = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
COLOURS = np.array([shrunk_colour(WHEEL_WHITE), shrunk_colour((0.8 * 255, 0, 0))], np.float32)

Wheel = tuple[int, float, float]  # which of the four, angle against the hull, phase (radians)

_across = area_weights(LEFT, WIDTH, COLUMNS.start, COLUMNS.stop - COLUMNS.start, COLUMN).astype(np.float32)
_down = area_weights(TOP, HEIGHT, ROWS.start, ROWS.stop - ROWS.start, ROW).astype(np.float32)


def draw_car(car: Car, zoom: float, frame: np.ndarray) -> None:
    """Draw the car over the playfield.

    Args:
        car: the official car.
        zoom: canvas pixels a world unit.
        frame: (96, 96, 3) uint8, changed in place.
    """
    if zoom == FULL_ZOOM:
        picture = _hull()
        for k, wheel in enumerate(car.wheels):
            steering = round(wheel.joint.angle / STEERING_STEP)
            picture = picture + _wheel(k, steering, int(wheel.phase // PHASE_STEP) % PHASES)
    else:
        picture = _zooming(zoom, round(car.wheels[0].joint.angle / STEERING_STEP))
    pixels = frame[ROWS, COLUMNS]
    visible = pixels * picture[0]
    visible += picture[1]
    visible += 0.5  # the assignment below rounds down
    pixels[...] = visible


@lru_cache(maxsize=1)
def _hull() -> np.ndarray:
    return _picture(FULL_ZOOM, [])


@lru_cache(maxsize=1024)
def _zooming(zoom: float, steering: int) -> np.ndarray:
    """The car in the first second: too small for the patches of its tyres, so phase 0, which hides them, will do."""
    angle = steering * STEERING_STEP
    return _picture(zoom, [(0, angle, 0.0), (1, angle, 0.0), (2, 0.0, 0.0), (3, 0.0, 0.0)])


@lru_cache(maxsize=4096)
def _wheel(k: int, angle: int, phase: int) -> np.ndarray:
    """What a wheel adds to the picture of the hull: they don't overlap each other, and the hull hides part of each."""
    return _picture(FULL_ZOOM, [(k, angle * STEERING_STEP, (phase + 0.5) * PHASE_STEP)]) - _hull()


def _picture(zoom: float, wheels: list[Wheel]) -> np.ndarray:
    """Draw hull and wheels on a canvas and shrink it.

    Returns:
        (2, 11, 6, 3) float32: share of the background that stays visible, and the colour that is added to it.
    """
    canvas = pygame.Surface((WIDTH, HEIGHT), depth=8)
    scale = SIZE * zoom
    # The official canvas is drawn with y upwards and then turned over; corners are cut to whole pixels before that.
    origin_x, origin_y = CAR_X - LEFT, TOP + HEIGHT - CAR_Y

    def polygon(corners: Sequence[tuple[float, float]], content: int) -> None:
        pygame.draw.polygon(canvas, content, [(x * scale + origin_x, y * scale + origin_y) for x, y in corners])

    for k, angle, phase in wheels:
        polygon(_stripe(k, angle, WHEEL_R, -WHEEL_R), TYRE)
        # The light patch of the tyre covers 1.2 radians; what has turned under the wheel is hidden.
        begin, end = math.cos(phase), math.cos(phase + 1.2)
        begin_hidden, end_hidden = math.sin(phase) > 0, math.sin(phase + 1.2) > 0
        if begin_hidden and end_hidden:
            continue
        if begin_hidden:
            begin = math.copysign(1, begin)
        if end_hidden:
            end = math.copysign(1, end)
        polygon(_stripe(k, angle, WHEEL_R * begin, WHEEL_R * end), PATCH)
    for part in HULL:
        polygon(part, PAINT)

    contents = CONTRIBUTION[pygame.surfarray.pixels2d(canvas).T[::-1]]
    rows = (_down @ contents.reshape(HEIGHT, -1)).reshape(-1, WIDTH, 3)
    cells = _across @ rows
    picture = np.empty((2, *cells.shape), np.float32)
    picture[0] = cells[..., :1]
    np.matmul(cells[..., 1:], COLOURS, out=picture[1])
    return picture


def _stripe(k: int, angle: float, begin: float, end: float) -> list[tuple[float, float]]:
    """Corners of a stripe across wheel k, in the hull's own axes and the official units of 1/50."""
    c, s = math.cos(angle), math.sin(angle)
    x, y = WHEELPOS[k]
    corners = ((-WHEEL_W, begin), (WHEEL_W, begin), (WHEEL_W, end), (-WHEEL_W, end))
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in corners]

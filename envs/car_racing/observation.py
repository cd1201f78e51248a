"""What a driver sees of CarRacing: the playfield and the gauges, read from the pixels of either environment.

The official frame also shows the score, which tells the return. Nothing here reads it: the playfield ends above it and
the gauges begin beside it.
"""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import STATE_H, STATE_W

from envs.car_racing.canvas import COLUMN, PLAYFIELD_ROWS, ROW

FRAME_SHAPE = (STATE_H, STATE_W, 3)
SCORE_COLUMNS = 12
"""The score is printed in columns 0–11 of the rows below the playfield."""

GAUGES = ("speed", "abs_front_left", "abs_front_right", "abs_rear_left", "abs_rear_right", "steering", "gyro")
"""What `read_gauges` returns, in its order: speed (world units a second), angular speed of each wheel (radians a
second), angle of the left front wheel (radians, positive to the left), yaw rate (radians a second, positive to the
left)."""

GAUGES_LOW = np.array([0, -120, -120, -120, -120, -2.5, -15], np.float32)
GAUGES_HIGH = np.array([260, 520, 520, 520, 520, 1.0, 30], np.float32)
"""No bar that fits into the panel reads lower or higher."""

_FULL = 253.0  # how a bar's 255 looks after the official shrink
_ROWS_PER_LEVEL = ROW / _FULL
_COLUMNS_PER_LEVEL = COLUMN / _FULL
_BAR_COLUMNS = slice(13, 26)
_BARS = (0, 4, 7, 9, 12)  # columns among those that lie wholly within the bar of speed and of each wheel
_BAR_SCALES = (0.4, 0.2, 0.2, 0.2, 0.2)  # canvas pixels a unit
_UP_DOWN = (0, 94 - PLAYFIELD_ROWS)  # a negative bar hangs below row 93
_WIDE_ROW = 88  # a row wholly within the horizontal bars
_WIDE_COLUMNS = slice(27, STATE_W)
_WIDE_PARTS = (0, 48 - 27, 72 - 27)  # the steering bar (green) begins at column 48, the gyro's (red) at 72
_STEERING_SCALE, _GYRO_SCALE = 250.0, 20.0


def playfield(frame: np.ndarray, size: tuple[int, int] = (42, 48)) -> np.ndarray:
    """The rows above the gauges, shrunk by averaging.

    Args:
        frame: (96, 96, 3) uint8, an observation of the official or the fast environment.
        size: height and width of the result, at most 84 and 96; (84, 96) is a view of the frame itself.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ValueError: another shape or type of frame, or a size outside the range.
    """
    _check_frame(frame)
    height, width = size
    if not (1 <= height <= PLAYFIELD_ROWS and 1 <= width <= STATE_W):
        raise ValueError(f"size is {size}, but height must be 1 to {PLAYFIELD_ROWS} and width 1 to {STATE_W}")
    field = frame[:PLAYFIELD_ROWS]
    if (height, width) == field.shape[:2]:
        return field
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)


def read_gauges(frame: np.ndarray) -> np.ndarray:
    """Read speed, wheel speeds, steering angle and yaw rate off the bars.

    The official environment ends each bar on a whole pixel of its 1000×800 canvas, which limits the precision: ±1.25
    units a second for the speed, ±2.5 radians a second for a wheel, ±0.002 radians for the steering and ±0.025 radians
    a second for the yaw rate; rounding of the pixels adds a tenth. A wheel that turns backwards more slowly than 20
    radians a second can't be told from one that turns forwards as slowly. Colours of road and field don't matter.

    Args:
        frame: (96, 96, 3) uint8, an observation of the official or the fast environment.

    Returns:
        (7,) float32, in the order and units of `GAUGES`.

    Raises:
        ValueError: another shape or type of frame.
    """
    _check_frame(frame)
    up, down = np.add.reduceat(frame[PLAYFIELD_ROWS:, _BAR_COLUMNS, 2], _UP_DOWN, axis=0, dtype=np.intp).tolist()
    values = []
    for column, scale in zip(_BARS, _BAR_SCALES, strict=True):
        length = up[column] * _ROWS_PER_LEVEL  # canvas pixels
        hanging = down[column] * _ROWS_PER_LEVEL
        # A standing bar covers its base row and ceil(scale · value) more, a hanging one floor(scale · -value) more.
        # The middle of what could have been rounded to that is the least wrong.
        if hanging > 0.5:
            values.append(-(length + hanging - 0.5) / scale)
        else:
            values.append(max(length - 1.5, 0.0) / scale)
    left, middle, right = np.add.reduceat(frame[_WIDE_ROW, _WIDE_COLUMNS], _WIDE_PARTS, axis=0, dtype=np.intp).tolist()
    values.append(_signed(left[1], middle[1] + right[1]) / _STEERING_SCALE)
    values.append(_signed(left[0] + middle[0], right[0]) / _GYRO_SCALE)
    return np.array(values, np.float32)


def _signed(left: int, right: int) -> float:
    """Length of a horizontal bar in canvas pixels, positive to the left, from the light on either side of its origin.

    To the left it covers ceil(value) pixels beside its origin, to the right floor(value) and the origin itself: both
    are half a pixel more than the value on average.
    """
    if left > 0.5 * _FULL / COLUMN:
        return left * _COLUMNS_PER_LEVEL - 0.5
    return -max(right * _COLUMNS_PER_LEVEL - 0.5, 0.0)


def blank_score(frame: np.ndarray) -> np.ndarray:
    """A copy of a frame whose printed score is black, as in the fast environment.

    Args:
        frame: (96, 96, 3) uint8.

    Returns:
        (96, 96, 3) uint8.

    Raises:
        ValueError: another shape or type of frame.
    """
    _check_frame(frame)
    blanked = frame.copy()
    blanked[PLAYFIELD_ROWS:, :SCORE_COLUMNS] = 0
    return blanked


def _check_frame(frame: np.ndarray) -> None:
    if frame.shape != FRAME_SHAPE or frame.dtype != np.uint8:
        raise ValueError(f"the frame is {frame.dtype} of shape {frame.shape}, but must be uint8 of shape {FRAME_SHAPE}")


class DriverView(gymnasium.ObservationWrapper):
    """Shows a driver `{"playfield": (height, width, 3) uint8, "gauges": (7,) float32}` instead of the whole frame.

    Args:
        env: the official CarRacing-v3 or the fast one.
        size: height and width of the playfield, at most 84 and 96.

    Raises:
        ValueError: the environment's observations are not CarRacing frames, or the size is out of range.
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, Any], size: tuple[int, int] = (42, 48)):
        super().__init__(env)
        if env.observation_space.shape != FRAME_SHAPE:
            raise ValueError(f"the environment shows {env.observation_space}, but must show frames of {FRAME_SHAPE}")
        self.size = size
        shape = playfield(np.zeros(FRAME_SHAPE, np.uint8), size).shape
        self.observation_space = gymnasium.spaces.Dict(
            {
                "playfield": gymnasium.spaces.Box(0, 255, shape, np.uint8),
                "gauges": gymnasium.spaces.Box(GAUGES_LOW, GAUGES_HIGH, dtype=np.float32),
            }
        )

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Split a frame into playfield and gauges."""
        return {"playfield": playfield(observation, self.size), "gauges": read_gauges(observation)}

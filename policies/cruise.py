"""The pedal of a driver that only steers: it keeps a speed, and slows down as far as it has to turn."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from envs.udacity.speed import SpeedController
from envs.udacity.vehicle import MAX_ANGLE, MPH, WHEELBASE


class Cruise:
    """Adds the pedal to the steering, by the speed that an observation tells.

    A car that turns its wheels by δ at v is pushed aside by v² tan(δ) / wheelbase; the speed that is kept is the one
    asked for, or in bends what :attr:`comfort` allows.

    Args:
        speed: miles an hour that are kept where the road is straight.
        comfort: largest sideways acceleration (m/s²).
    """

    def __init__(self, speed: float, comfort: float = 4.0):
        self.speed, self.comfort = speed, comfort
        self.controller = SpeedController(speed)

    def reset(self) -> None:
        """A new drive."""
        self.controller.reset()

    def __call__(self, steering: np.ndarray, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Steering (1,) -> steering and pedal (2,), each -1 to 1.

        Args:
            steering: 1 is 25° to the right.
            observation: with ``speed`` (1,) in miles an hour and ``elapsed`` (1,) in seconds.
        """
        bend = abs(math.tan(MAX_ANGLE * float(steering[0]))) / WHEELBASE
        self.controller.target = min(self.speed, math.sqrt(self.comfort / max(bend, 1e-6)) / MPH)
        pedal = self.controller.update(float(observation["speed"][0]), float(observation["elapsed"][0]))
        return np.array([steering[0], pedal], np.float32)

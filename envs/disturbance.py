"""Bursts of steering error that push a car off its line, so that demonstrations show how to come back to it."""

from __future__ import annotations

import numpy as np


class Disturbance:
    """What is added to the steering, step by step: nothing mostly, now and then the same push for a few steps.

    Args:
        rng: draws when, how hard and how long.
        every: steps between the end of a push and the next one, on average.
        size: least and greatest push, to either side.
        steps: how long a push lasts, least and greatest.
    """

    def __init__(self, rng: np.random.Generator, every: int, size: tuple[float, float], steps: tuple[int, int]):
        self.rng, self.every, self.size, self.steps = rng, every, size, steps
        self._push, self._left = 0.0, 0

    def __call__(self) -> float:
        """The push of the next step; 0 where there is none."""
        if self._left == 0:
            if self.rng.random() >= 1 / self.every:
                return 0.0
            self._push = self.rng.choice([-1, 1]) * self.rng.uniform(*self.size)
            self._left = int(self.rng.integers(*self.steps, endpoint=True))
        self._left -= 1
        return self._push

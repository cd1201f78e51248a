"""Actions that last: several environment steps, or some time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from policies.view import View

Seen = TypeVar("Seen")


class ActionRepeat:
    """Decides on every so many observations and holds the action in between.

    Args:
        steps: environment steps that an action lasts.
    """

    def __init__(self, steps: int):
        if steps < 1:
            raise ValueError(f"an action must last at least 1 step, given {steps}.")
        self.steps = steps
        self.reset()

    def reset(self) -> None:
        """The next observation is the first of an episode."""
        self._held, self._elapsed, self._action = 0, 0.0, np.empty(0)

    @property
    def holds(self) -> bool:
        """Whether the next observation is not looked at, because the action still lasts."""
        return self._action.size > 0 and self._held < self.steps

    def __call__(self, decide: Callable[[Seen, float], np.ndarray], observation: Seen, elapsed: float) -> np.ndarray:
        """The action for an observation: ``decide(observation, elapsed)``, or the one that still lasts.

        Args:
            decide: takes the time since it was last called in units of ``steps``: 1 where each step takes its time.
            observation: of the environment, in whatever form ``decide`` takes it.
            elapsed: environment steps since the previous observation.
        """
        # The first decision of an episode has the time of one step before it, as if the episode had gone on like that.
        first = self._action.size == 0
        self._elapsed += elapsed
        if not self.holds:
            self._action = np.asarray(decide(observation, elapsed if first else self._elapsed / self.steps))
            self._held, self._elapsed = 0, 0.0
        self._held += 1
        return self._action


class ActionHold:
    """Decides once some time has passed since the last decision and holds the action until then.

    A simulator may show a picture sixty times a second, and each twice; a driver that learned on every fourth looks
    at every fourth.

    Args:
        time: that an action lasts at least, in the driver's steps.
    """

    def __init__(self, time: float):
        self.time = time
        self.reset()

    def reset(self) -> None:
        """The next observation is the first of an episode."""
        self._elapsed, self._action = 0.0, np.empty(0)

    holds = False
    """Which observation will be looked at is not known before it is there: none is safe to leave undrawn."""

    def __call__(self, decide: Callable[[Seen, float], np.ndarray], observation: Seen, elapsed: float) -> np.ndarray:
        """The action for an observation: ``decide(observation, elapsed)``, or the one that still lasts.

        Args:
            decide: takes the time since it was last called.
            observation: of the environment, in whatever form ``decide`` takes it.
            elapsed: steps since the previous observation.
        """
        self._elapsed += elapsed
        if self._action.size == 0 or self._elapsed >= self.time:
            self._action = np.asarray(decide(observation, self._elapsed))
            self._elapsed = 0.0
        return self._action


def build_repeat(steps: int, view: View) -> ActionRepeat | ActionHold:
    """What a driver's actions last: so many steps or, where the view says so, a time."""
    return ActionRepeat(steps) if view.hold is None else ActionHold(view.hold)

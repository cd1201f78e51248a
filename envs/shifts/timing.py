"""Observations that are late, lost or rare, and actions that take their time.

Shifts that tell the time put the steps since the previous observation into ``info["elapsed"]`` of `reset` and `step`;
in the Udacity simulator's observations, ``elapsed`` is then the seconds since the previous one. Where several steps of
the environment lie between two observations, the action holds, and rewards are summed. The physics, the limit of steps
and the track stay as they are.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.car_racing.canvas import PLAYFIELD_ROWS
from envs.shifts.base import ShiftWrapper

Outcome = tuple[Any, float, bool, bool, dict[str, Any]]


class _Gaps(ShiftWrapper):
    """Shows the environment after gaps of several steps."""

    tells = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; the first observation is one step old."""
        observation, info = super().reset(seed=seed, options=options)
        return observation, (info | {"elapsed": 1.0} if self.tells else info)

    def step(self, action: Any) -> Outcome:
        """Acts until the next observation, or the end of the episode."""
        gap = self._gap()
        total = elapsed = seconds = 0.0
        for _ in range(gap):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            elapsed += info.get("elapsed", 1.0)
            if self.tells and isinstance(observation, dict):
                seconds += float(observation["elapsed"][0])
            if terminated or truncated:
                break
        if self.tells:
            info = info | {"elapsed": elapsed}
            if isinstance(observation, dict):
                observation = observation | {"elapsed": np.array([seconds], np.float32)}
        return observation, total, terminated, truncated, info

    def _gap(self) -> int:
        raise NotImplementedError


class Dropped(_Gaps):
    """Observations are lost, each with the same probability; how much time has passed is told.

    At most 10 in a row are lost.

    ## Arguments
    - `severity`: probabilities of 0.1, 0.2, 0.3, 0.45, 0.6.
    """

    name = "dropped"
    levels = (0.1, 0.2, 0.3, 0.45, 0.6)
    LONGEST = 10

    def _gap(self) -> int:
        return min(int(self.rng.geometric(1 - self.level)), 1 + self.LONGEST)


class Jitter(_Gaps):
    """Observations come late by a number of steps that is drawn each time; how much time has passed is told.

    ## Arguments
    - `severity`: gaps of 1 step up to 2, 3, 4, 6, 8, evenly drawn.
    """

    name = "jitter"
    levels = (2, 3, 4, 6, 8)

    def _gap(self) -> int:
        return int(self.rng.integers(1, self.level + 1))


class JitterUntold(Jitter):
    """Observations come late by a number of steps that is drawn each time; the time is withheld.

    As `jitter`, but ``info`` says nothing, and the Udacity simulator's ``elapsed`` is that of a single step.

    ## Arguments
    - `severity`: gaps of 1 step up to 2, 3, 4, 6, 8, evenly drawn.
    """

    name = "jitter_untold"
    tells = False


class RateSlow(_Gaps):
    """Decisions are rare, the physics as it is; the time is told.

    ## Arguments
    - `severity`: a decision every 2, 3, 4, 5, 8 steps: in CarRacing at 25, 16.7, 12.5, 10, 6.25 Hz instead of 50.
    """

    name = "rate_slow"
    levels = (2, 3, 4, 5, 8)

    def _gap(self) -> int:
        return self.level


class RateFast(ShiftWrapper):
    """Decisions are frequent, the physics as it is; the time is told, as a part of a step.

    The driver is asked several times a step of the physics. Only its last answer reaches the car: until then, the same
    observation is shown again, and the reward is 0.

    ## Arguments
    - `severity`: 2, 3, 4, 5, 8 decisions a step: in CarRacing at 100, 150, 200, 250, 400 Hz instead of 50.
    """

    name = "rate_fast"
    levels = (2, 3, 4, 5, 8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        observation, info = super().reset(seed=seed, options=options)
        self._asked, self._shown = 0, observation
        return observation, info | {"elapsed": 1.0}

    def step(self, action: Any) -> Outcome:
        """Asks again, or makes the step."""
        self._asked = (self._asked + 1) % self.level
        if self._asked:
            return self._part(self._shown), 0.0, False, False, {"elapsed": 1 / self.level}
        self._shown, reward, terminated, truncated, info = self.env.step(action)
        elapsed = info.get("elapsed", 1.0) / self.level
        return self._part(self._shown), float(reward), terminated, truncated, info | {"elapsed": elapsed}

    def _part(self, observation: Any) -> Any:
        if isinstance(observation, dict):
            return observation | {"elapsed": (observation["elapsed"] / self.level).astype(np.float32)}
        return observation


class Delay(ShiftWrapper):
    """Actions reach the car some steps later; until the first does, it gets none: no steering, no pedal.

    ## Arguments
    - `severity`: 1, 2, 3, 4, 6 steps: in CarRacing 20, 40, 60, 80, 120 ms.
    """

    name = "delay"
    levels = (1, 2, 3, 4, 6)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode without any action on its way."""
        space = self.env.action_space
        idle: Any = np.clip(np.zeros(space.shape), space.low, space.high) if isinstance(space, spaces.Box) else 0
        if isinstance(space, spaces.Box):
            idle = idle.astype(space.dtype)
        self._on_the_way = deque([idle] * self.level)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action that was given some steps ago."""
        self._on_the_way.append(np.array(action) if isinstance(action, np.ndarray) else action)
        return self.env.step(self._on_the_way.popleft())


class Frozen(ShiftWrapper):
    """The camera freezes now and then: its last picture is shown again, and nobody is told.

    A freeze begins in each step with a probability of 1/50. CarRacing's gauges and the simulator's speed go on: they
    are no picture of the camera.

    ## Arguments
    - `severity`: freezes of 3, 6, 10, 16, 25 steps.
    """

    name = "frozen"
    levels = (3, 6, 10, 16, 25)
    OFTEN = 0.02

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode with a picture."""
        observation, info = super().reset(seed=seed, options=options)
        self._left, self._picture = 0, _picture(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        begins = self.rng.random() < self.OFTEN
        if self._left == 0 and begins:
            self._left = self.level
        if self._left == 0:
            self._picture = _picture(observation)
        else:
            self._left -= 1
            if isinstance(observation, dict):
                observation = observation | {"image": self._picture.copy()}
            else:
                observation = observation.copy()
                observation[:PLAYFIELD_ROWS] = self._picture[:PLAYFIELD_ROWS]
        return observation, reward, terminated, truncated, info


def _picture(observation: Any) -> np.ndarray:
    return (observation["image"] if isinstance(observation, dict) else observation).copy()


TIME: tuple[type[ShiftWrapper], ...] = (Dropped, Jitter, JitterUntold, Delay, Frozen, RateSlow, RateFast)

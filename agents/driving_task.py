"""A driver's task as an environment: what its view makes of the observations, its commands as actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.car_racing.progress import PROGRESS_SIZE, lap_progress
from envs.partial import IrregularTime
from envs.registration import FAST, OFFICIAL, VALIDATION_SEEDS
from policies.driver import DriverConfig
from policies.hands import PedalHands
from policies.view import build_view

RACE_FRAMES = 1000
"""Frames of an episode of CarRacing."""
FRAME_COST = 0.1
"""What CarRacing takes off the score a frame."""
UNBOUNDED = 1e3
"""A bound of an observation that is no unit to measure in; some environments write infinity as the largest float."""


@dataclass(frozen=True)
class TaskConfig:
    """A task for a driver."""

    driver: DriverConfig
    """What the driver is made of: its environment, view, action repeat and hands."""
    patience: int = 0
    """Decisions without a reward after which an episode is given up; 0 never gives up."""
    privileged: bool = False
    """Whether to show what only a critic may know: in CarRacing the lap's progress, elsewhere the whole observation."""
    drop_frames: float = 0.0
    """Probability that an observation is lost; see `envs.partial.IrregularTime`."""
    jitter: int = 0
    """Steps by which an observation may be late; see `envs.partial.IrregularTime`."""


class RepeatAction(gymnasium.Wrapper):
    """Each action lasts ``steps`` steps of the environment, or until the episode ends; rewards are summed."""

    def __init__(self, env: gymnasium.Env, steps: int):
        super().__init__(env)
        self.steps = steps

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """What follows the last of the steps."""
        total = 0.0
        for _ in range(self.steps):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class DrivingTask(gymnasium.Wrapper):
    """An environment as its driver lives it.

    ## Observation Space
    A dictionary of what `policies.view` makes of the observation: ``image``, flat uint8, where the driver has eyes,
    ``gauges`` float32, and ``elapsed``, where time is irregular. (Flat, because SB3 turns whatever looks like an image
    its own way.) For the critic alone, ``privileged`` is `envs.car_racing.progress.lap_progress`, or the
    whole of an observation whose velocities are hidden, in units of its bounds.

    ## Action Space
    The driver's commands: for pedals two numbers from -1 to 1, else the environment's own actions.

    ## Rewards
    Those of the environment, summed over the action repeat. Giving up a race costs the frames that are left of it, as
    if the car stood still until the end.

    ## Starting State
    That of the environment. Every episode has a seed of its own, drawn below `envs.registration.VALIDATION_SEEDS` by
    the generator that ``reset(seed=…)`` sets: tracks that drivers are chosen or judged on are never trained on.

    ## Episode End
    That of the environment; and terminated after ``patience`` decisions in a row without a positive reward. A race is
    1,000 frames long, and nothing comes after: its end is a termination where the critic sees the clock.

    Args:
        config: the task.
    """

    def __init__(self, config: TaskConfig):
        driver = config.driver
        repeat = driver.action_repeat
        self._race = driver.env == OFFICIAL
        if self._race:
            env = gymnasium.make(
                FAST, action_repeat=repeat, max_episode_steps=RACE_FRAMES // repeat, disable_env_checker=True
            )
        else:
            env = gymnasium.make(driver.env, disable_env_checker=True)
            if repeat > 1:
                env = RepeatAction(env, repeat)
        self._irregular = config.drop_frames > 0 or config.jitter > 0
        if self._irregular:
            env = IrregularTime(env, config.drop_frames, config.jitter)
        super().__init__(env)
        self.config = config
        self.view = build_view(driver.env, driver.playfield, driver.vector)
        gauges = spaces.Box(-np.inf, np.inf, (len(self.view.gauges),), np.float32)
        parts: dict[str, spaces.Space] = {"gauges": gauges}
        self._sees = driver.vector is None
        if self._sees:
            parts["image"] = spaces.Box(0, 255, (int(np.prod(self.view.image_shape)),), np.uint8)
        if isinstance(env, IrregularTime):
            parts["elapsed"] = env.elapsed_space
        if config.privileged:
            size = PROGRESS_SIZE if self._race else self.view.observation_shape[0]
            parts["privileged"] = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = spaces.Dict(parts)
        if driver.pedals:
            self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        if config.privileged and not self._race:
            high = self.env.unwrapped.observation_space.high  # type: ignore[attr-defined]
            self._units = np.where(high < UNBOUNDED, high, 1).astype(np.float32)
        self._seeds = np.random.default_rng()
        self._idle = self._decisions = 0

    @property
    def _frames(self) -> int:
        return self._decisions * self.config.driver.action_repeat

    def _observe(self, observation: Any) -> dict[str, np.ndarray]:
        seen = {}
        if self._irregular:
            observation, seen["elapsed"] = observation["obs"], observation["elapsed"]
        image, seen["gauges"] = self.view(observation)
        if self.config.privileged and self._race:
            seen["privileged"] = lap_progress(self.env, self._frames / RACE_FRAMES)
        elif self.config.privileged:
            seen["privileged"] = observation / self._units
        return seen | {"image": image.reshape(-1)} if self._sees else seen

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins an episode on a training seed; ``seed`` begins the sequence of those anew."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self._idle = self._decisions = 0
        observation, info = self.env.reset(seed=int(self._seeds.integers(VALIDATION_SEEDS)), options=options)
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One decision of the driver."""
        if self.config.driver.pedals:
            action = PedalHands.spread(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward)
        self._decisions += 1
        self._idle = 0 if reward > 0 else self._idle + 1
        if 0 < self.config.patience <= self._idle and not (terminated or truncated):
            terminated = True
            if self._race:
                reward -= FRAME_COST * (RACE_FRAMES - self._frames)
        terminated = terminated or (truncated and self._race and self.config.privileged)
        return self._observe(observation), reward, terminated, truncated, info

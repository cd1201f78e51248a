"""Less than the whole state: hidden velocities and irregular time, so that memory is needed."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

VELOCITIES: dict[str, tuple[int, ...]] = {
    "CartPole-v1": (1, 3),
    "Pendulum-v1": (2,),
    "Acrobot-v1": (4, 5),
    "MountainCar-v0": (1,),
    "MountainCarContinuous-v0": (1,),
    "LunarLander-v3": (2, 3, 5),
    "LunarLanderContinuous-v3": (2, 3, 5),
    "BipedalWalker-v3": (1, 2, 3, 5, 7, 10, 12),
    "BipedalWalkerHardcore-v3": (1, 2, 3, 5, 7, 10, 12),
}
"""Components of the observation that are velocities, by environment."""


def positions(env: str, size: int) -> tuple[int, ...]:
    """Components of an observation of ``size`` that are not velocities.

    Raises:
        ValueError: if it is not known which are.
    """
    if env not in VELOCITIES:
        raise ValueError(f"which observations of {env} are velocities is known only for {', '.join(VELOCITIES)}.")
    return tuple(place for place in range(size) if place not in VELOCITIES[env])


class HideVelocities(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Shows positions only: whoever wants to know how fast they change must remember.

    ## Observation Space
    The environment's vector without its velocities, by :data:`VELOCITIES`.

    ## Arguments
    - `env`: an environment whose id is in :data:`VELOCITIES`.

    Raises:
        ValueError: if it is not known which components are velocities.

    Example:
        >>> env = HideVelocities(gymnasium.make("CartPole-v1"))
        >>> env.observation_space.shape
        (2,)
    """

    def __init__(self, env: gymnasium.Env[np.ndarray, Any]):
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{name} shows {space}, but velocities can be hidden only in a vector.")
        self._places = list(positions(name, space.shape[0]))
        self.observation_space = spaces.Box(space.low[self._places], space.high[self._places], dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The components that are not velocities."""
        return observation[self._places]


class IrregularTime(gymnasium.Wrapper, RecordConstructorArgs):
    """Observations come irregularly, and say how much time has passed: some are lost, others early or late.

    An action lasts until the next observation.

    ## Observation Space
    A dictionary: ``obs``, the environment's observation, and ``elapsed`` (1,) float32, environment steps since the
    previous one; 1 for the first of an episode.

    ## Rewards
    Those of the environment, summed over the steps between two observations.

    ## Arguments
    - `env`: any environment.
    - `drop`: probability that an observation is lost, 0 ≤ drop < 1.
    - `jitter`: the next observation that is not lost comes up to so many steps later than the next step.
    - `longest`: steps without an observation that are not exceeded.

    The gaps are drawn by a generator of their own, so the environment's episodes for a seed stay as they are.

    Example:
        >>> env = IrregularTime(gymnasium.make("Pendulum-v1"), drop=0.5)
        >>> observation, _ = env.reset(seed=0)
        >>> observation, *_ = env.step(env.action_space.sample())
        >>> sorted(observation)
        ['elapsed', 'obs']
    """

    def __init__(self, env: gymnasium.Env, drop: float = 0.0, jitter: int = 0, longest: int = 10):
        RecordConstructorArgs.__init__(self, drop=drop, jitter=jitter, longest=longest)
        gymnasium.Wrapper.__init__(self, env)
        if not 0 <= drop < 1:
            raise ValueError(f"drop is {drop}, but a probability of losing an observation must be in [0, 1).")
        if jitter < 0 or longest < 1:
            raise ValueError(f"jitter must be at least 0 and longest at least 1, given {jitter} and {longest}.")
        self.drop, self.jitter, self.longest = drop, jitter, longest
        self.elapsed_space = spaces.Box(0, longest, (1,), np.float32)
        self.observation_space = spaces.Dict({"obs": env.observation_space, "elapsed": self.elapsed_space})
        self._gaps = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode; ``seed`` settles the gaps too."""
        if seed is not None:
            self._gaps = np.random.default_rng([seed, 11])
        observation, info = self.env.reset(seed=seed, options=options)
        return {"obs": observation, "elapsed": np.ones(1, np.float32)}, info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Acts until the next observation, or the end of the episode."""
        gap = 1 + int(self._gaps.integers(self.jitter + 1))
        while gap < self.longest and self._gaps.random() < self.drop:
            gap += 1
        total, steps, terminated, truncated = 0.0, 0, False, False
        info: dict[str, Any] = {}
        while steps < min(gap, self.longest) and not (terminated or truncated):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            steps += 1
        return {"obs": observation, "elapsed": np.array([steps], np.float32)}, total, terminated, truncated, info

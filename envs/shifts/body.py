"""Another car or another road under the same pictures: grip, mass, power, steering, wind. Official and fast alike.

Everything is set on the car and the tiles after the environment's reset, or on actions before they reach it. Pictures,
tracks, rewards and endings follow the environment's own rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.shifts.base import BOTH, CAR_RACING, ShiftWrapper
from liquid_control.support.errors import UserError

GRASS_FRICTION = 0.6
"""CarRacing's grass, beside its road. A wheel takes the best ground that it touches, so no road is worse than grass."""


class _Body(ShiftWrapper):
    """Changes the car or the road of each episode before its first step."""

    environments = (CAR_RACING,)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode and changes its car or road."""
        observation, info = super().reset(seed=seed, options=options)
        self._alter(self.env.unwrapped)
        return observation, info

    def _alter(self, env: Any) -> None:
        raise NotImplementedError


class Friction(_Body):
    """A wet road: every tile has less friction than the official 1.

    Grass keeps its 0.6, and a wheel on both takes the better of the two, so a road of 0.6 is as slippery as grass, and
    CarRacing's physics knows no road that is worse.

    ## Arguments
    - `severity`: frictions of 0.9, 0.8, 0.7, 0.65, 0.6.
    """

    name = "friction"
    levels = (0.9, 0.8, 0.7, 0.65, 0.6)

    def _alter(self, env: Any) -> None:
        for tile in env.road:
            tile.road_friction = self.level


class Ice(_Body):
    """Patches of ice: stretches of 6 to 12 tiles, 20 to 40 world units, whose friction is that of grass, 0.6.

    Nothing is seen of them. Where they begin is drawn for an episode.

    ## Arguments
    - `severity`: 0.1, 0.2, 0.3, 0.45, 0.6 of the tiles, about.
    """

    name = "ice"
    levels = (0.1, 0.2, 0.3, 0.45, 0.6)

    def _alter(self, env: Any) -> None:
        tiles = len(env.road)
        icy = np.zeros(tiles, bool)
        while icy.mean() < self.level:
            begin, length = self.rng.integers(tiles), self.rng.integers(6, 13)
            icy[(begin + np.arange(length)) % tiles] = True
        for index in np.flatnonzero(icy).tolist():
            env.road[index].road_friction = GRASS_FRICTION


class Mass(_Body):
    """A loaded car: the hull is heavier, and turns as much more slowly; its middle of mass stays.

    ## Arguments
    - `severity`: factors of 1.15, 1.3, 1.5, 1.8, 2.2.
    """

    name = "mass"
    levels = (1.15, 1.3, 1.5, 1.8, 2.2)

    def _alter(self, env: Any) -> None:
        data = env.car.hull.massData
        data.mass *= self.level
        data.I *= self.level
        env.car.hull.massData = data


class Wind(_Body):
    """A gusty wind from one side of the world pushes the hull, in every step of the physics.

    Its direction is drawn for an episode. Its strength swings around the severity's by a half (one standard deviation)
    within about a second: an autoregressive process of first order. It acts on the middle of mass.

    ## Arguments
    - `severity`: accelerations of 4, 8, 14, 22, 32 world units/s² of the whole car. (Tyres hold about 219.)
    """

    name = "wind"
    levels = (4.0, 8.0, 14.0, 22.0, 32.0)
    MEMORY = 0.98
    GUSTS = 2048

    def _alter(self, env: Any) -> None:
        car, angle = env.car, self.rng.uniform(0, 2 * math.pi)
        mass = car.hull.mass + sum(wheel.mass for wheel in car.wheels)
        force = self.level * mass * np.array([math.cos(angle), math.sin(angle)])
        noise = self.rng.standard_normal(self.GUSTS) * math.sqrt(1 - self.MEMORY**2)
        gusts, gust = [], 0.0
        for step in noise.tolist():
            gust = self.MEMORY * gust + step
            gusts.append(1 + 0.5 * gust)
        pushes = (np.array(gusts)[:, None] * force).tolist()
        step_car: Callable[[float], None] = car.step
        passed = 0

        def step_in_wind(dt: float) -> None:
            nonlocal passed
            step_car(dt)
            car.hull.ApplyForceToCenter(pushes[passed % self.GUSTS], True)
            passed += 1

        car.step = step_in_wind


class _Actions(ShiftWrapper):
    """Changes actions before they reach the car."""

    def __init__(self, env: gymnasium.Env, severity: int):
        super().__init__(env, severity)
        space = env.action_space
        if not isinstance(space, spaces.Box):
            raise UserError(f"the shift {self.name!r} changes numbers of an action, but actions are of {space}.")
        self._low, self._high = space.low, space.high

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action as the car understands it."""
        action = np.array(action)
        self._change(action)
        return self.env.step(np.clip(action, self._low, self._high))

    def _change(self, action: np.ndarray) -> None:
        raise NotImplementedError


class Engine(_Actions):
    """A weak engine: gas is multiplied by less than one.

    CarRacing's car still opens its throttle by at most 0.1 a step.

    ## Arguments
    - `severity`: factors of 0.85, 0.7, 0.55, 0.4, 0.3.
    """

    name = "engine"
    environments = (CAR_RACING,)
    levels = (0.85, 0.7, 0.55, 0.4, 0.3)

    def _change(self, action: np.ndarray) -> None:
        action[1] *= self.level


class SteeringRatio(_Actions):
    """Another steering gear: steering is multiplied by a factor or divided by it, as drawn for an episode.

    The result is clipped to ±1.

    ## Arguments
    - `severity`: factors of 1.15, 1.3, 1.5, 1.8, 2.2.
    """

    name = "steering_ratio"
    environments = BOTH
    levels = (1.15, 1.3, 1.5, 1.8, 2.2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws the ratio of an episode and begins it."""
        result = super().reset(seed=seed, options=options)
        self._factor = self.level if self.rng.random() < 0.5 else 1 / self.level
        return result

    def _change(self, action: np.ndarray) -> None:
        action[0] *= self._factor


class SteeringOffset(_Actions):
    """A bent axle: a constant is added to the steering, to the side that is drawn for an episode.

    The result is clipped to ±1.

    ## Arguments
    - `severity`: 0.02, 0.04, 0.07, 0.11, 0.16 of full steering.
    """

    name = "steering_offset"
    environments = BOTH
    levels = (0.02, 0.04, 0.07, 0.11, 0.16)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws the side of an episode and begins it."""
        result = super().reset(seed=seed, options=options)
        self._offset = float(self.level * self.rng.choice([-1, 1]))
        return result

    def _change(self, action: np.ndarray) -> None:
        action[0] += self._offset


BODY: tuple[type[ShiftWrapper], ...] = (Friction, Ice, Mass, Engine, SteeringRatio, SteeringOffset, Wind)

"""Attacks: pictures that differ by no more than ε from what the camera sees, made for whoever drives to go wrong.

Who drives is known to an :class:`Attacker`, such as `policies.attack.SteeringAttack`, which `apply_shifts` is given.
What the driver sees of the road is changed. Gauges, physics and rewards are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np

from envs.shifts.base import ShiftWrapper

Told = tuple[float, np.ndarray]
"""A steering command, not bounded, and the sign of its derivative by each pixel's channel: int16 in the picture's
shape, 0 where the driver does not see the pixel."""
Look = Callable[[np.ndarray], Told | None]
"""What the driver would do about a picture; None where it does not look."""


class Attacker(Protocol):
    """Who knows the driver."""

    def __call__(self, observation: Any, elapsed: float | None) -> Told | None:
        """What the driver would do now; None where it does not look, because its action still lasts.

        Args:
            observation: of the environment.
            elapsed: steps since the one before, where the environment tells it.
        """


class Attack(ShiftWrapper):
    """Shows a driver pictures that were made for it.

    Args:
        env: an environment.
        severity: 1 to 5.
        attacker: who knows the driver.
    """

    levels: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 16)

    def __init__(self, env: gymnasium.Env, severity: int, attacker: Attacker):
        super().__init__(env, severity)
        self.attacker = attacker

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode, of which the first picture is attacked, too: reset the driver before."""
        observation, info = super().reset(seed=seed, options=options)
        self._prepare()
        return self._attacked(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._attacked(observation, info), reward, terminated, truncated, info

    def _prepare(self) -> None:
        """Begins an episode of the attack."""

    def _mislead(self, clean: np.ndarray, look: Look) -> np.ndarray | None:
        """The picture that is shown; None for the clean one.

        Args:
            clean: (rows, columns, 3) int16, not to be written into.
            look: takes such pictures.
        """
        raise NotImplementedError

    def _attacked(self, observation: Any, info: dict[str, Any]) -> Any:
        def shown(picture: np.ndarray) -> Any:
            picture = picture.astype(np.uint8)
            return observation | {"image": picture} if isinstance(observation, dict) else picture

        clean = observation["image"] if isinstance(observation, dict) else observation
        elapsed = info.get("elapsed")
        found = self._mislead(clean.astype(np.int16), lambda picture: self.attacker(shown(picture), elapsed))
        return observation if found is None else shown(found)


def _moved(picture: np.ndarray, by: np.ndarray, clean: np.ndarray, epsilon: int) -> np.ndarray:
    """A picture moved, and projected on those that are within ε of the clean one."""
    return np.clip(picture + by, np.maximum(clean - epsilon, 0), np.minimum(clean + epsilon, 255))


class FastGradientSign(Attack):
    """Every pixel moves by ε so that the driver steers to the wrong side: FGSM, a gradient a frame.

    With s the driver's steering command, not bounded, for a picture x, the gauges and the state that the driver is in,
    so that sign(s) is the side that it would steer to,

        x' = clip(x - ε sign(s) sign(∂s/∂x), 0, 255)

    anew in every frame (Goodfellow et al. 2015, "Explaining and harnessing adversarial examples", section 4).
    The gradient goes through the driver's view, its eyes, one step of its core and its hands; the state is a constant.

    ## Observation Space
    That of the environment; its pictures are changed, gauges are not.

    ## Arguments
    - `severity`: ε of 1, 2, 4, 8, 16 of 255 levels.
    - `attacker`: who knows the driver.
    """

    name = "fgsm"

    def _mislead(self, clean: np.ndarray, look: Look) -> np.ndarray | None:
        told = look(clean)
        if told is None:
            return None
        steering, gradient = told
        return _moved(clean, self.level * _wrong(steering) * gradient, clean, self.level)


def _wrong(steering: float) -> int:
    """The side that a driver does not steer to."""
    return -1 if steering >= 0 else 1


class ProjectedGradient(FastGradientSign):
    """Every pixel moves by at most ε so that the driver steers to the wrong side: PGD, six gradients a frame.

    It begins with the picture of `fgsm`. Then come four steps of ε / 4, at least a level, along the gradient's sign,
    each followed by the projection on the pictures within ε. Of these five pictures, that which misleads the driver
    most is shown (Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks"; there, the start
    is random).

    ## Observation Space
    That of the environment; its pictures are changed, gauges are not.

    ## Arguments
    - `severity`: ε of 1, 2, 4, 8, 16 of 255 levels.
    - `attacker`: who knows the driver.
    """

    name = "pgd"
    STEPS = 4

    def _mislead(self, clean: np.ndarray, look: Look) -> np.ndarray | None:
        told = look(clean)
        if told is None:
            return None
        wrong, gradient = _wrong(told[0]), told[1]
        found = current = _moved(clean, self.level * wrong * gradient, clean, self.level)
        most = -np.inf
        for step in range(self.STEPS + 1):
            if step:
                current = _moved(current, max(1, self.level // 4) * wrong * gradient, clean, self.level)
            told = look(current)
            assert told is not None
            steering, gradient = told
            if wrong * steering > most:
                found, most = current, wrong * steering
        return found


class Drift(Attack):
    """A slow drift to mislead what adapts: what is added to pictures grows for half a lap, then it is gone at once.

    For 300 frames, the driver is pushed to one side d = ±1, which is drawn for an episode. What is added to the
    picture x of frame t is that of the frame before and a little more, along the gradient of the steering command s:

        p_t = clip(p_{t-1} + 3 ε / 300 · d sign(∂s/∂x at x + p_{t-1}), -ε_t, ε_t),    ε_t = ε (t + 1) / 300

    p_{-1} = 0; levels are rounded. So no frame differs much from the one before, as in a real change of light, and a
    driver that adapts can get used to it. From frame 300 on, pictures are clean: what is wrong then was learned.

    ## Observation Space
    That of the environment; its pictures are changed, gauges are not.

    ## Arguments
    - `severity`: ε of 4, 8, 16, 24, 32 of 255 levels.
    - `attacker`: who knows the driver.
    """

    name = "drift"
    levels = (4, 8, 16, 24, 32)
    FRAMES, RATE = 300, 3

    def _prepare(self) -> None:
        self._frame, self._added = 0, np.zeros(())
        self._side = int(self.rng.choice((-1, 1)))

    def _mislead(self, clean: np.ndarray, look: Look) -> np.ndarray | None:
        frame, self._frame = self._frame, self._frame + 1
        if frame >= self.FRAMES:
            return None
        told = look(self._with_added(clean))
        if told is None:
            return None
        step, most = self.RATE * self.level / self.FRAMES, self.level * (frame + 1) / self.FRAMES
        self._added = np.clip(self._added + step * self._side * told[1], -most, most)
        return self._with_added(clean)

    def _with_added(self, clean: np.ndarray) -> np.ndarray:
        return np.clip(clean + np.rint(self._added), 0, 255)


ATTACK: tuple[type[Attack], ...] = (FastGradientSign, ProjectedGradient, Drift)

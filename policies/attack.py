"""White-box attacks on a driver: what it would do about a picture, and how each pixel changes that.

What is made of it is in `envs.shifts.attack`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from envs.car_racing.canvas import PLAYFIELD_ROWS
from liquid_control.support.errors import UserError
from policies.compiled import CompiledDriver
from policies.driver import Driver
from policies.view import CarRacingView, UdacityView, View


class SteeringAttack:
    """Knows a driver's weights and the state that it is in; an `envs.shifts.Attacker`.

    The gradient is that of the driver in torch, with the reference form of its core, in whatever form it drives.

    Args:
        driver: who is attacked.
        driving: the same driver in the form that drives, whose state it is; by default ``driver``.

    Raises:
        UserError: if the driver sees no pictures.

    Example:
        >>> import gymnasium, liquid_control
        >>> from envs.shifts import apply_shifts
        >>> driver = liquid_control.load_driver("checkpoints/CarRacing-v3/cfc")
        >>> env = apply_shifts(gymnasium.make("CarRacing-v3"), "fgsm:3", SteeringAttack(driver))
        >>> observation, _ = env.reset(seed=0)
        >>> observation, *_ = env.step(driver.act(observation))
    """

    def __init__(self, driver: Driver, driving: CompiledDriver | Driver | None = None):
        self.driver, self.driving = driver, driving or driver
        self._seen, self._rows, self._columns = _linear(driver.view)

    def __call__(self, observation: Any, elapsed: float | None = None) -> tuple[float, np.ndarray] | None:
        """What the driver would do now; its state stays.

        Args:
            observation: of the environment: (96, 96, 3) uint8, or the simulator's dictionary.
            elapsed: environment steps since the one before; None is what the observation tells, or else one step.

        Returns:
            The steering command, not bounded, and the sign of its derivative by each pixel's channel, int16 in the
            picture's shape; None where the driver does not look at the observation.
        """
        if self.driving.holds:
            return None
        image, gauges = self.driver.view(observation)
        elapsed = self.driver.view.elapsed(observation) if elapsed is None else elapsed
        with torch.enable_grad():
            pixels = torch.from_numpy(image)[None].float().requires_grad_()
            features = self.driver.perceive(pixels, torch.from_numpy(gauges)[None])
            motor, _ = self.driver.core.integrate(features[None], self._state(), elapsed, None)
            command = self.driver.hands(motor)[0, 0, 0]
            (slope,) = torch.autograd.grad(command, pixels)
        # The view is linear, rounding aside: picture -> rows @ picture @ columns.T, and so the derivative goes back.
        by_rows = np.tensordot(self._rows.T, slope[0].numpy(), 1)
        gradient = np.zeros(self.driver.view.observation_shape, np.int16)
        gradient[self._seen] = np.sign(np.tensordot(by_rows, self._columns, (1, 0)).transpose(0, 2, 1))
        return command.item(), gradient

    def _state(self) -> Tensor:
        state = self.driving.state
        if state is None:
            return self.driver.core.initial_state(1).detach()
        return torch.as_tensor(state).clone().reshape(1, -1)


def _linear(view: View) -> tuple[slice, np.ndarray, np.ndarray]:
    """Which rows of a picture a view sees, and the weights with which it makes its own rows and columns of them."""
    if isinstance(view, CarRacingView):
        seen = slice(0, PLAYFIELD_ROWS)
    elif isinstance(view, UdacityView):
        seen = slice(*view.crop)
    else:
        raise UserError("attacks change pictures, and this driver sees none.")
    return seen, _shrinking(seen.stop - seen.start, view.size[0]), _shrinking(view.observation_shape[1], view.size[1])


def _shrinking(length: int, size: int) -> np.ndarray:
    """(size, length): the weights of OpenCV's shrinking by area along one axis."""
    return cv2.resize(np.eye(length, dtype=np.float32), (length, size), interpolation=cv2.INTER_AREA)

"""Hands: the action head, from motor neurons to the controls of the environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Bound = Literal["clip", "tanh"]
Grip = Callable[[np.ndarray], np.ndarray]
"""Motor neurons (motors,) -> controls of the environment, in NumPy."""


class AffineHands(nn.Module):
    """One gain and one offset a motor neuron: its command. The controls are the commands within their range.

    Training sees the command before it is bounded, so that a saturated control keeps its gradient.

    Args:
        low: least value of each control.
        high: greatest value of each control.
        bound: how a command is kept in its range: cut off at it (``clip``), or bent towards it by a hyperbolic tangent
            about the middle (``tanh``).
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float], bound: Bound = "clip"):
        super().__init__()
        self.bound = bound
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        # Motor neurons of a CfC live in (-1, 1): start with that interval on the whole range of the control.
        self.gain = nn.Parameter((self.high - self.low) / 2)
        self.offset = nn.Parameter((self.high + self.low) / 2)

    @property
    def motors(self) -> int:
        """Number of motor neurons that it takes."""
        return len(self.gain)

    def forward(self, motor: Tensor) -> Tensor:
        """Motor neurons (..., motors) -> unbounded commands (..., motors)."""
        return motor * self.gain + self.offset

    def bounded(self, command: Tensor) -> Tensor:
        """Commands (..., motors) -> commands within their range."""
        if self.bound == "clip":
            return torch.minimum(torch.maximum(command, self.low), self.high)
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return middle + half * torch.tanh((command - middle) / half)

    def controls(self, command: Tensor) -> Tensor:
        """Commands (..., motors) -> the action that the environment takes."""
        return self.bounded(command)

    def grip(self) -> Grip:
        """Motor neurons to action in NumPy, with the weights of this moment."""
        gain, offset, low, high = (
            tensor.detach().cpu().numpy().copy() for tensor in (self.gain, self.offset, self.low, self.high)
        )
        if self.bound == "clip":
            return lambda motor: np.minimum(np.maximum(motor * gain + offset, low), high)
        middle, half = (high + low) / 2, (high - low) / 2
        return lambda motor: middle + half * np.tanh((motor * gain + offset - middle) / half)


class PedalHands(AffineHands):
    """Two motor neurons that drive a car of three controls: steer, and one pedal: gas above zero, brake below.

    An explorer that pushes gas and brake independently mostly does both; with one pedal it cannot.
    """

    def __init__(self, bound: Bound = "clip"):
        super().__init__((-1.0, -1.0), (1.0, 1.0), bound)

    def controls(self, command: Tensor) -> Tensor:
        """Commands (..., 2) -> steer, gas and brake (..., 3)."""
        steer, pedal = self.bounded(command).unbind(-1)
        return torch.stack([steer, pedal.clamp(min=0), (-pedal).clamp(min=0)], -1)

    @staticmethod
    def spread(command: np.ndarray) -> np.ndarray:
        """:meth:`controls` of bounded commands (2,) in NumPy."""
        return np.array([command[0], max(command[1], 0.0), max(-command[1], 0.0)], np.float32)

    def grip(self) -> Grip:
        """See :class:`AffineHands`."""
        bounded = super().grip()
        return lambda motor: self.spread(bounded(motor))


class ChoiceHands(nn.Module):
    """A motor neuron for each of several actions: the strongest command is chosen.

    Args:
        choices: number of actions.
    """

    def __init__(self, choices: int):
        super().__init__()
        # Motor neurons of a CfC live in (-1, 1): with a gain of 1 the likeliest of four choices is 71 % likely at most.
        self.gain = nn.Parameter(torch.full((choices,), 4.0))
        self.offset = nn.Parameter(torch.zeros(choices))

    @property
    def motors(self) -> int:
        """Number of motor neurons that it takes."""
        return len(self.gain)

    def forward(self, motor: Tensor) -> Tensor:
        """Motor neurons (..., choices) -> commands: the logits of the actions (..., choices)."""
        return motor * self.gain + self.offset

    def controls(self, command: Tensor) -> Tensor:
        """Logits (..., choices) -> the number of the action (...)."""
        return command.argmax(-1)

    def grip(self) -> Grip:
        """Motor neurons to the number of the action in NumPy, with the weights of this moment."""
        gain, offset = (tensor.detach().cpu().numpy().copy() for tensor in (self.gain, self.offset))
        return lambda motor: np.asarray(np.argmax(motor * gain + offset))


Hands = AffineHands | ChoiceHands

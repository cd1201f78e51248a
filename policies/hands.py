"""Hands: the action head, from motor neurons to the controls of the car."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AffineHands(nn.Module):
    """One gain and one offset a motor neuron; the command is clipped to the control's range only when it is used.

    Training sees the unclipped command, so that a saturated control keeps its gradient.

    Args:
        low: least value of each control.
        high: greatest value of each control.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Sequence[float], high: Sequence[float]):
        super().__init__()
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        # Motor neurons of a CfC live in (-1, 1): start with that interval on the whole range of the control.
        self.gain = nn.Parameter((self.high - self.low) / 2)
        self.offset = nn.Parameter((self.high + self.low) / 2)

    def forward(self, motor: Tensor) -> Tensor:
        """Motor neurons (..., controls) -> unclipped commands (..., controls)."""
        return motor * self.gain + self.offset

    def clip(self, command: Tensor) -> Tensor:
        """Commands (..., controls) -> controls within their range."""
        return torch.minimum(torch.maximum(command, self.low), self.high)

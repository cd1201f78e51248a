"""Buffers that follow from a wiring: constants of a module, which moving it through the meta device must not lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Structured(nn.Module):
    """A module with constants of its structure, such as the 0/1 mask of a wiring.

    A module that is built on the meta device, or moved there, comes back by ``to_empty`` with memory that holds
    anything. Loading a checkpoint fills in what the checkpoint has; the constants are filled in here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._constants: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: Tensor, persistent: bool = False) -> None:
        """Registers a buffer whose value can always be had again; of the default device, like any tensor.

        Args:
            name: of the buffer.
            value: on the CPU.
            persistent: whether checkpoints hold it.
        """
        self._constants[name] = value
        self.register_buffer(name, value.clone().to(torch.get_default_device()), persistent)

    def restore_constants(self, device: torch.device) -> None:
        """Those that are on the meta device still, on another one."""
        for name in self._constants:
            if self._held(name).is_meta:
                self._restore(name, device)

    def known_constant(self, name: str) -> Tensor:
        """A constant as its buffer has it; on the meta device, what the buffer will have."""
        held = self._held(name)
        return self._constants[name] if held.is_meta else held

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        empty = [name for name in self._constants if self._held(name).is_meta]
        super()._apply(fn, recurse)
        for name in empty:
            self._restore(name, self._held(name).device)
        return self

    def _restore(self, name: str, device: torch.device) -> None:
        if device.type != "meta":
            self._buffers[name] = self._constants[name].to(device, self._held(name).dtype, copy=True)

    def _held(self, name: str) -> Tensor:
        held = self._buffers[name]
        assert held is not None
        return held


def read_mask(mask: Tensor) -> np.ndarray:
    """A 0/1 mask, which somebody may have edited.

    Raises:
        ValueError: if it holds anything else.
    """
    values = mask.detach().cpu().float().numpy()
    if not np.isin(values, (0, 1)).all():
        raise ValueError("a mask of a wiring holds 1 where there is a synapse and 0 elsewhere; scale weights instead.")
    return values != 0

"""Sequences of different lengths in one batch: the mask that a layer takes, and the last output that is one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from liquid_control.nn.layer import is_readable


def mask_from_lengths(lengths: Tensor | Sequence[int], steps: int | None = None) -> Tensor:
    """The mask of sequences that are padded at their ends.

    >>> mask_from_lengths([3, 1])
    tensor([[ True,  True,  True],
            [ True, False, False]])

    Args:
        lengths: (B,) integers ≥ 0.
        steps: T, how long the padded sequences are; None is the longest length.

    Returns:
        (B, T) bool, True where a step is real.

    Raises:
        TypeError: if lengths are no integers.
        ValueError: if they are not (B,), or one is negative or above ``steps``.
    """
    lengths = torch.as_tensor(lengths)
    if lengths.numel() and (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool):
        raise TypeError(f"lengths are {lengths.dtype}, expected integers.")
    if lengths.dim() != 1:
        raise ValueError(f"lengths have shape {tuple(lengths.shape)}, expected (batch,).")
    if is_readable(lengths) and lengths.numel():
        low, high = (int(value) for value in lengths.aminmax())
        if low < 0 or (steps is not None and high > steps):
            limit = "" if steps is None else f" and at most {steps}, as long as the sequences are"
            raise ValueError(f"lengths are between {low} and {high}, expected them to be at least 0{limit}.")
    if steps is None:
        steps = int(lengths.max()) if lengths.numel() else 0
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


def last_valid(y: Tensor, mask: Tensor | None = None) -> Tensor:
    """The output of each sequence's last real step.

    >>> last_valid(torch.tensor([[[1.0], [2.0], [0.0]], [[3.0], [0.0], [0.0]]]), mask_from_lengths([2, 1], 3))
    tensor([[2.],
            [3.]])

    Args:
        y: (B, T, O) outputs of a layer.
        mask: (B, T) bool as the layer was given it, with holes too; None: every step is real.

    Returns:
        (B, O); zeros of a sequence without a real step.

    Raises:
        ValueError: if a shape does not fit.
    """
    if y.dim() != 3 or (mask is not None and mask.shape != y.shape[:2]):
        of_mask = "" if mask is None else f" and a mask {tuple(mask.shape)}"
        raise ValueError(f"given outputs {tuple(y.shape)}{of_mask}, expected (batch, time, outputs) and (batch, time).")
    if y.shape[1] == 0:
        return y.new_zeros(y.shape[0], y.shape[2])
    if mask is None:
        return y[:, -1]
    place = torch.where(mask, torch.arange(y.shape[1], device=y.device), -1).amax(1)
    last = y.gather(1, place.clamp(min=0)[:, None, None].expand(-1, 1, y.shape[2]))[:, 0]
    return torch.where((place >= 0)[:, None], last, y.new_zeros(()))

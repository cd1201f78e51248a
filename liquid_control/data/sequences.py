"""Irregular sequences as a batch: moments and values of each become inputs, elapsed times and a mask for a layer.

What the loaders of data sets give is here, too: :class:`SequenceSet` and :class:`SequenceSplits`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

Series: TypeAlias = tuple[Any, Any] | tuple[Any, Any, Any]
"""Moments (T,), values (T, C), and perhaps which values were measured (T, C): tensors, arrays or lists."""


class SequenceSet(NamedTuple):
    """N sequences of at most T steps, and what is asked of them."""

    x: np.ndarray
    """(N, T, C) float32 values, zeros at padding, which is at the end."""
    elapsed: np.ndarray
    """(N, T) float32 time since the step before, in the unit that the loader names; 1 at padding."""
    mask: np.ndarray
    """(N, T) bool, False at padding."""
    target: np.ndarray
    """(N,) or (N, T) int64 classes, or (N, T, D), (N, D), (N, T) or (N,) float32 values."""


class SequenceSplits(NamedTuple):
    """What to learn from, what to choose by, and what is looked at once."""

    train: SequenceSet
    validation: SequenceSet
    test: SequenceSet


def window_starts(steps: int, window: int, stride: int) -> np.ndarray:
    """Where windows of a series begin, (W,) int64.

    As the published code of LTC and ODE-LSTM has it, a window that would end with the series is left out.
    """
    return np.arange(0, max(steps - window, 0), stride)


class SequenceBatch(NamedTuple):
    """What :func:`collate_sequences` gives; B sequences, T steps of the longest."""

    x: Tensor
    """(B, T, C) values, zeros where nothing was measured and at padding."""
    elapsed: Tensor
    """(B, T) time since the step before; 1 at padding."""
    mask: Tensor
    """(B, T) bool, False at padding."""
    observed: Tensor
    """(B, T, C) bool, False where nothing was measured and at padding."""


def collate_sequences(series: Sequence[Series], *, unit: float = 1.0, first_elapsed: float = 1.0) -> SequenceBatch:
    """Makes a batch of irregular sequences of any lengths, padded at their ends.

    >>> batch = collate_sequences([([0.0, 0.5, 2.0], [[1.0], [2.0], [3.0]]), ([4.0, 7.0], [[4.0], [5.0]])])
    >>> batch.elapsed
    tensor([[1.0000, 0.5000, 1.5000],
            [1.0000, 3.0000, 1.0000]])
    >>> batch.mask
    tensor([[ True,  True,  True],
            [ True,  True, False]])

    A layer takes it as ``layer(batch.x, elapsed=batch.elapsed, mask=batch.mask)``. For a `torch.utils.data.DataLoader`
    over pairs of a series and its target, ``collate_fn`` is::

        def collate(pairs):
            series, targets = zip(*pairs)
            return collate_sequences(series), torch.tensor(targets)

    Values that nobody measured are zeros, whatever stands there, NaN too. What was measured is an input of its own in
    many models: ``torch.cat([batch.x, batch.observed], -1)``.

    Args:
        series: of each sequence its moments (T,), which never go back, its values (T, C), and perhaps which of these
            were measured (T, C), True or 1.
        unit: the time that is 1 for the layer.
        first_elapsed: of the first step, which has none before it, in the layer's unit. A layer that time drives does
            not see the input of a step of zero time.

    Returns:
        The batch, in the dtype of the first values, torch's default for lists of numbers.

    Raises:
        ValueError: if there is no sequence, shapes do not fit, a moment is not finite or earlier than the one before,
            or a value that was measured is not finite. Each says in which sequence and step.
    """
    if not series:
        raise ValueError("a batch needs at least one sequence.")
    if not 0 < unit < math.inf:
        raise ValueError(f"unit is {unit}, expected a finite time > 0.")
    if not 0 <= first_elapsed < math.inf:
        raise ValueError(f"first_elapsed is {first_elapsed}, expected a finite time ≥ 0.")
    values = [torch.as_tensor(given[1]) for given in series]
    dtype = values[0].dtype if values[0].is_floating_point() else torch.get_default_dtype()
    channels = values[0].shape[-1] if values[0].dim() else 0
    rows = [
        _row(index, given, value, channels, unit, first_elapsed)
        for index, (given, value) in enumerate(zip(series, values, strict=True))
    ]
    steps = max(len(elapsed) for _, elapsed, _ in rows)
    batch = SequenceBatch(
        torch.zeros(len(rows), steps, channels, dtype=dtype),
        torch.ones(len(rows), steps, dtype=dtype),
        torch.zeros(len(rows), steps, dtype=torch.bool),
        torch.zeros(len(rows), steps, channels, dtype=torch.bool),
    )
    for index, (value, elapsed, observed) in enumerate(rows):
        length = len(elapsed)
        batch.x[index, :length], batch.elapsed[index, :length] = value, elapsed
        batch.mask[index, :length], batch.observed[index, :length] = True, observed
    return batch


def _row(
    index: int, series: Series, values: Tensor, channels: int, unit: float, first_elapsed: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, elapsed times and what was measured, of one sequence."""
    # Moments such as seconds since 1970 have their fractions in double precision only.
    moments = torch.as_tensor(series[0], dtype=torch.float64)
    if moments.dim() != 1 or values.shape != (len(moments), channels):
        raise ValueError(
            f"sequence {index} has moments {tuple(moments.shape)} and values {tuple(values.shape)}, expected (time,) "
            f"and (time, {channels})."
        )
    observed = torch.ones(values.shape, dtype=torch.bool)
    if len(series) == 3:
        observed = torch.as_tensor(series[2]).bool()
        if observed.shape != values.shape:
            raise ValueError(
                f"sequence {index} has values {tuple(values.shape)} and tells of {tuple(observed.shape)} whether they "
                "were measured, expected the same shape."
            )
    passed = torch.diff(moments)
    for wrong, what in (
        (~moments.isfinite(), "a moment that is not finite"),
        (torch.cat([torch.zeros(1, dtype=torch.bool), passed < 0])[: len(moments)], "an earlier moment than before it"),
        ((observed & ~values.isfinite()).any(1), "a measured value that is not finite"),
    ):
        if wrong.any():
            raise ValueError(f"sequence {index} has {what} at step {int(wrong.nonzero()[0])}.")
    elapsed = torch.cat([torch.full((1,), first_elapsed, dtype=torch.float64), passed / unit])[: len(moments)]
    return torch.where(observed, values, 0), elapsed, observed

"""One control tick of a plastic memory, in NumPy.

At batch 1 the arithmetic of a tick is little beside what each operation costs to call, and NumPy's cost least. Nothing
is compiled, so the first token of a language model does not wait. The equations are in
`liquid_control.nn.plastic_memory`; maps of the same input stand in one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Sizes(NamedTuple):
    """What a tick knows of its layer besides the weights."""

    heads: int
    """H."""
    keys: int
    """Numbers of a query or a key, K."""
    values: int
    """Numbers of a value, V."""
    rule: str
    """hebb, oja or delta."""
    plastic: bool
    """Whether the trace is forgotten and written."""
    timed: bool
    """Whether a step writes the more, the more time it takes."""
    unit_floor: float
    """Added to squared lengths."""
    read_floor: float
    """Added to the mean square of what a head reads."""
    wiped: float
    """The least log λ."""


def tick(
    x: np.ndarray,
    elapsed: float,
    state: np.ndarray,
    y: np.ndarray,
    joint: np.ndarray,
    bias: np.ndarray,
    taps: np.ndarray,
    gain: np.ndarray,
    readout: np.ndarray | None,
    readout_bias: np.ndarray | float,
    sizes: Sizes,
) -> None:
    """See :data:`liquid_control.kernels.step.Tick`; arrays are those of :func:`step_arrays`."""
    heads, keys, values, features = sizes.heads, sizes.keys, sizes.values, taps.shape[1]
    mapped = joint @ x + bias  # features, then λ and η of each head, then the gate
    gate = silu(mapped[features + 2 * heads :])
    written = heads * values * keys
    trace, tail = state[:written].reshape(heads, values, keys), state[written:].reshape(-1, features)

    heard = silu((tail * taps[:-1]).sum(0) + mapped[:features] * taps[-1])
    asked = _unit(heard[: 2 * heads * keys].reshape(2, heads, keys), sizes.unit_floor)
    value = heard[2 * heads * keys :].reshape(heads, values)
    query, key = asked[..., None]
    read = (trace @ query)[..., 0]
    if elapsed > 0:
        if sizes.plastic:
            pace, writing = mapped[features : features + 2 * heads].reshape(2, heads, 1)
            decay = np.exp(np.maximum(-elapsed * np.logaddexp(0, pace), sizes.wiped))
            rate = -np.expm1(-elapsed * np.logaddexp(0, writing)) if sizes.timed else 0.5 + 0.5 * np.tanh(0.5 * writing)
            if sizes.rule == "delta":
                value = value - decay * (trace @ key)[..., 0]
            elif sizes.rule == "oja":
                value = _unit(value, sizes.unit_floor)
                key = key - (decay * (value[:, None, :] @ trace)[:, 0])[..., None]
            trace *= decay[..., None]
            trace += (rate * value)[..., None] * key.transpose(0, 2, 1)
        if len(tail):
            tail[:-1] = tail[1:].copy()
            tail[-1] = mapped[:features]
    scale = np.sqrt(np.square(read).mean(1, keepdims=True) + sizes.read_floor)
    spoken = gain * (read / scale).ravel() * gate
    y[:] = spoken if readout is None else readout @ spoken + readout_bias


def step_arrays(
    maps: Sequence[tuple[Tensor, Tensor]],
    taps: Tensor,
    gain: Tensor,
    readout: tuple[Tensor, Tensor] | None,
    sizes: Sizes,
) -> tuple[Any, ...]:
    """What :func:`tick` takes after y, copies of the parameters.

    Args:
        maps: weights (·, C) and biases of the features, of λ and η, and of the gate.
        taps: (F, convolution).
        gain: (H V,).
        readout: weight (O, H V) and bias, or None.
        sizes: the rest.
    """
    joint, bias = (array(torch.cat(parts)) for parts in zip(*maps, strict=True))
    mapping = [None, 0.0] if readout is None else [array(part) for part in readout]
    return joint, bias, array(taps.T), array(gain), *mapping, sizes


def array(parameter: Tensor) -> np.ndarray:
    """A copy."""
    return np.array(parameter.detach().numpy(), order="C")


def silu(x: np.ndarray) -> np.ndarray:
    """SiLU, x σ(x), by a tanh that does not overflow."""
    half: np.ndarray = 0.5 * x
    return half * np.tanh(half) + half


def _unit(vectors: np.ndarray, floor: float) -> np.ndarray:
    """Vectors (…, N) of length one, those of nearly nothing shorter."""
    unit: np.ndarray = vectors / np.sqrt(np.square(vectors).sum(-1, keepdims=True) + floor)
    return unit

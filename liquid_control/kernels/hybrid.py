"""Stacks, hybrid mixers and residual blocks on the CPU: a single control step, made of the steps of what is inside.

What is inside may be any layer with a kernel, so these are functions of Python that call compiled ones. The equations
are in `liquid_control.nn.hybrid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from liquid_control.kernels.dense import add_product, pack, start_sums, whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, sigmoid
from liquid_control.kernels.simd import LANES, load, store
from liquid_control.kernels.step import Tick


class Inside(NamedTuple):
    """A layer inside another one."""

    tick: Tick
    arrays: tuple[np.ndarray, ...]
    begin: int
    """Where its state begins in that of the layer around it."""
    end: int
    y: np.ndarray
    """Scratch for its outputs."""

    def step(self, x: np.ndarray, elapsed: float, state: np.ndarray) -> np.ndarray:
        """Its outputs, overwritten by the next step."""
        self.tick(x, elapsed, state[self.begin : self.end], self.y, *self.arrays)
        return self.y


def inside(kernel: tuple[Tick, tuple[np.ndarray, ...]], states: tuple[int, int], outputs: int, like: Tensor) -> Inside:
    """A layer inside another one, by its kernel, the places of its state, and its number of outputs."""
    return Inside(*kernel, *states, np.zeros(outputs, like.detach().numpy().dtype))


# Stacks


def stack_tick(x: np.ndarray, elapsed: float, state: np.ndarray, y: np.ndarray, *layers: Inside) -> None:
    """A :data:`liquid_control.kernels.step.Tick`: one layer after the other."""
    for layer in layers:
        x = layer.step(x, elapsed, state)
    y[:] = x


# Mixers


def mixer_tick(
    x: np.ndarray,
    elapsed: float,
    state: np.ndarray,
    y: np.ndarray,
    attention: Inside,
    core: Inside,
    norm: np.ndarray,
    seen: np.ndarray,
    readout: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """A :data:`liquid_control.kernels.step.Tick`: attention, then the core; the arrays are of :func:`mixer_arrays`."""
    found = attention.step(x, elapsed, state)
    norm_of_sum(x, found, norm, seen)
    add_map(found, core.step(seen, elapsed, state), readout, scratch, y)


def mixer_arrays(attention: Inside, core: Inside, norm: nn.RMSNorm, readout: Tensor) -> tuple:
    """What :func:`mixer_tick` takes after y; ``readout`` is the weight (C, outputs of the core)."""
    numbers = pack([readout], readout)
    return attention, core, pack_norm(norm), np.zeros_like(attention.y), numbers, _room(len(readout), numbers)


# Blocks


def block_tick(
    x: np.ndarray,
    elapsed: float,
    state: np.ndarray,
    y: np.ndarray,
    mixer: Inside,
    norm: np.ndarray,
    seen: np.ndarray,
    join: np.ndarray | None,
    feed_norm: np.ndarray | None,
    feed: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`block_arrays`."""
    norm_of(x, norm, seen)
    mixed = mixer.step(seen, elapsed, state)
    if join is None:
        add(x, mixed, y)
    else:
        add_map(x, mixed, join, scratch, y)
    if feed_norm is not None:
        norm_of(y, feed_norm, seen)
        add_feed(seen, y, feed, scratch)


def block_arrays(
    mixer: Inside,
    norm: nn.RMSNorm,
    join: Tensor | None,
    feed_norm: nn.RMSNorm | None,
    feed: tuple[Tensor, Tensor] | None,
) -> tuple:
    """What :func:`block_tick` takes after y.

    Args:
        mixer: the layer inside.
        norm: before it.
        join: weight (width, outputs of the mixer) of what is added, or None: the outputs themselves.
        feed_norm: before the feed-forward part.
        feed: its weights, to twice its width and back, or None where there is none.
    """
    first = pack_norm(norm)
    width = len(first) - 1
    joining = None if join is None else pack([join], join)
    numbers, room = first[:0], whole(width)
    if feed is not None:
        expand, contract = feed
        numbers = np.concatenate([pack(expand.detach().chunk(2), expand), pack([contract], contract)])
        room += 2 * whole(contract.shape[1])
    scratch = np.zeros(room, first.dtype)
    second = None if feed_norm is None else pack_norm(feed_norm)
    return mixer, first, np.zeros(width, first.dtype), joining, second, numbers, scratch


# Whole networks


def network_tick(
    x: np.ndarray,
    elapsed: float,
    state: np.ndarray,
    y: np.ndarray,
    encode: np.ndarray,
    coded: np.ndarray,
    blocks: Inside,
    norm: np.ndarray,
    readout: np.ndarray,
    scratch: np.ndarray,
) -> None:
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`network_arrays`."""
    affine(x, encode, scratch, coded)
    deep = blocks.step(coded, elapsed, state)
    norm_of(deep, norm, coded)
    affine(coded, readout, scratch, y)


def network_arrays(encode: Sequence[Tensor], blocks: Inside, norm: nn.RMSNorm, readout: Sequence[Tensor]) -> tuple:
    """What :func:`network_tick` takes after y; maps are weight and bias."""
    ways = [np.concatenate([pack([bias], bias), pack([weight], weight)]) for weight, bias in (encode, readout)]
    room = np.zeros(max(whole(len(weight)) for weight, _ in (encode, readout)), ways[0].dtype)
    return ways[0], np.zeros(len(encode[0]), room.dtype), blocks, pack_norm(norm), ways[1], room


# Their parts


def whole(size: int) -> int:
    """The size filled up to whole sixteens."""
    return size + -size % LANES


def pack_norm(norm: nn.RMSNorm) -> np.ndarray:
    """The weights of a norm, and what is added to the mean square."""
    weight = norm.weight.detach()
    least = torch.finfo(weight.dtype).eps if norm.eps is None else norm.eps
    return torch.cat([weight, weight.new_tensor([least])]).numpy()


def _room(size: int, like: np.ndarray) -> np.ndarray:
    return np.zeros(whole(size), like.dtype)


@njit(cache=True, **OPTIONS)
def norm_of(x, norm, y):
    """Writes x over the root of its mean square, weighed, to y."""
    square = x.dtype.type(0)
    for i in range(x.size):
        square += x[i] * x[i]
    scale = x.dtype.type(1) / np.sqrt(square / x.dtype.type(x.size) + norm[x.size])
    for i in range(x.size):
        y[i] = x[i] * scale * norm[i]


@njit(cache=True, **OPTIONS)
def norm_of_sum(x, other, norm, y):
    """Writes the norm of x + other to y."""
    add(x, other, y)
    norm_of(y, norm, y)


@njit(cache=True, **OPTIONS)
def add(x, other, y):
    """Writes x + other to y."""
    for i in range(x.size):
        y[i] = x[i] + other[i]


@njit(cache=True, **OPTIONS)
def add_map(x, other, numbers, scratch, y):
    """Writes x + W · other to y."""
    sums = scratch[: whole_lanes(x.size)]
    sums[:] = 0
    add_product(sums, other, numbers)
    add(x, sums, y)


@njit(cache=True, **OPTIONS)
def affine(x, numbers, scratch, y):
    """Writes W · x + b to y."""
    sums = scratch[: whole_lanes(y.size)]
    add_product(sums, x, start_sums(sums, numbers))
    for i in range(y.size):
        y[i] = sums[i]


@njit(cache=True, **OPTIONS)
def add_feed(x, y, numbers, scratch):
    """Adds W (SiLU(U x) ∘ V x) to y."""
    sums = scratch[: whole_lanes(y.size)]
    hidden = scratch[sums.size :]
    blocks = hidden.size // (2 * LANES)
    hidden[:] = 0
    contract = add_product(hidden, x, numbers)
    for k in range(blocks):
        gate = load(hidden, k)
        store(hidden, k, gate * sigmoid(gate) * load(hidden, blocks + k))
    sums[:] = 0
    add_product(sums, hidden[: contract.size // sums.size], contract)
    add(y, sums, y)

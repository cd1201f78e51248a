"""Queries, keys and values of `liquid_control.nn.plastic_memory` on the CPU, in one pass over what they are made of.

Each feature goes through its own taps over the last steps, then through SiLU; queries and keys, and values of the rule
oja, become vectors of unit length, a head at a time:

    u_t = Σ_d c_d x_{t-D+d},    s = u σ(u),    z = s n,    n = (s · s + ε)^(-1/2)

As operations of torch these are thirty passes over memory, forward and backward. Nothing of the forward pass is kept
but the features that come in; to compute the rest again costs less than to write and to read it:

    ∂s = n (∂z - z (z · ∂z)),        ∂u = ∂s σ(u) (1 + u (1 - σ(u)))
    ∂c_d = Σ_t ∂u_t x_{t-D+d},       ∂x_t = Σ_d c_d ∂u_{t+D-d}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels import is_transformed
from liquid_control.kernels.autograd import refuse_derivatives_of_gradients
from liquid_control.kernels.batch import copied, fetch, new_tile, over_blocks
from liquid_control.kernels.fast_math import OPTIONS, kernel_part, sigmoid
from liquid_control.kernels.simd import LANES, fill, load, store, total


@torch.library.custom_op("liquid_control::memory_heads", mutates_args=(), device_types="cpu")
def memory_heads(
    inputs: Tensor, taps: Tensor, heads: int, width: int, unit_values: bool, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all steps.

    Args:
        inputs: (B, D + T, H (2 K + V)), float32 or float64 on the CPU, as are the taps: the features of D steps before,
            oldest first, and of T steps.
        taps: (H (2 K + V), D + 1), oldest first.
        heads: H.
        width: K.
        unit_values: whether values are of unit length, too.
        floor: ε.

    Returns:
        q (B, T, H, K), k (B, T, H, K) and v (B, T, H, V).
    """
    outputs = _outputs(inputs, taps, heads, width)
    given = inputs.detach().contiguous().numpy(), copied(taps)
    items = 3 * heads * len(inputs)
    over_blocks(_forward, items, inputs.numel(), *given, unit_values, floor, *(part.numpy() for part in outputs))
    return outputs


@memory_heads.register_fake
def _(inputs, taps, heads, width, unit_values, floor):
    return _outputs(inputs, taps, heads, width)


@torch.library.custom_op("liquid_control::memory_heads_backward", mutates_args=(), device_types="cpu")
def _memory_heads_backward(
    inputs: Tensor, taps: Tensor, unit_values: bool, floor: float, of_q: Tensor, of_k: Tensor, of_v: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of inputs and taps."""
    of_inputs, of_taps = inputs.new_empty(inputs.shape), inputs.new_empty(len(inputs), *taps.shape)
    features, *of_outputs = (part.detach().contiguous().numpy() for part in (inputs, of_q, of_k, of_v))
    items = 3 * of_q.shape[2] * len(inputs)
    results = of_inputs.numpy(), of_taps.numpy()
    given = features, copied(taps), unit_values, floor
    over_blocks(_backward, items, 3 * inputs.numel(), *given, *of_outputs, *results)
    return of_inputs, of_taps.sum(0)


@_memory_heads_backward.register_fake
def _(inputs, taps, unit_values, floor, of_q, of_k, of_v):
    return inputs.new_empty(inputs.shape), taps.new_empty(taps.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given, taps, _, _, ctx.unit_values, ctx.floor = inputs
    ctx.save_for_backward(given, taps)


def _differentiate(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
    refuse_derivatives_of_gradients("the plastic memory", *of_outputs, vectorised=is_transformed())
    gradients = _memory_heads_backward(*ctx.saved_tensors, ctx.unit_values, ctx.floor, *of_outputs)
    return (*gradients, None, None, None, None)


memory_heads.register_autograd(_differentiate, setup_context=_remember)


def _outputs(inputs: Tensor, taps: Tensor, heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, rows, features = inputs.shape
    steps, values = rows - taps.shape[1] + 1, features // heads - 2 * width
    q, k, v = (inputs.new_empty(batch, steps, heads, size) for size in (width, width, values))
    return q, k, v


@kernel_part
def _convolve(window, weights, step, c, blocks, taps):
    """Sixteen features u of a step."""
    u = load(window, step * blocks + c) * load(weights, c)
    for d in range(1, taps):
        u += load(window, (step + d) * blocks + c) * load(weights, d * blocks + c)
    return u


@njit(cache=True, nogil=True, **OPTIONS)
def _forward(first, last, inputs, taps, unit_values, floor, q, k, v):
    steps, heads, count, rows = q.shape[1], q.shape[2], taps.shape[1], inputs.shape[1]
    most = (max(q.shape[3], v.shape[3]) + LANES - 1) // LANES
    window, weights, made = new_tile(rows * most, q), new_tile(count * most, q), new_tile(most, q)
    one, zero = q.dtype.type(1), q.dtype.type(0)
    for item in range(first, last):
        row, kind, head = item // (3 * heads), item // heads % 3, item % heads
        target = v if kind == 2 else k if kind == 1 else q
        width, unit = target.shape[3], kind < 2 or unit_values
        begin, blocks = kind * heads * q.shape[3] + head * width, (width + LANES - 1) // LANES
        end = begin + width
        window[:], weights[:] = 0, 0
        for d in range(count):
            fetch(taps[begin:end, d], weights, d * blocks * LANES)
        for step in range(rows):
            fetch(inputs[row, step, begin:end], window, step * blocks * LANES)
        for step in range(steps):
            squares, scale = fill(zero), one
            for c in range(blocks):
                u = _convolve(window, weights, step, c, blocks, count)
                s = u * sigmoid(u)
                squares += s * s
                store(made, c, s)
            if unit:
                scale = one / np.sqrt(total(squares) + q.dtype.type(floor))
            there = target[row, step, head]
            for j in range(width):
                there[j] = made[j] * scale


@njit(cache=True, nogil=True, **OPTIONS)
def _backward(first, last, inputs, taps, unit_values, floor, of_q, of_k, of_v, of_inputs, of_taps):
    steps, heads, count, rows = of_q.shape[1], of_q.shape[2], taps.shape[1], inputs.shape[1]
    most = (max(of_q.shape[3], of_v.shape[3]) + LANES - 1) // LANES
    window, weights = new_tile(rows * most, of_q), new_tile(count * most, of_q)
    of_window, of_weights = new_tile(rows * most, of_q), new_tile(count * most, of_q)
    before, wanted = new_tile(most, of_q), new_tile(most, of_q)
    one, zero = of_q.dtype.type(1), of_q.dtype.type(0)
    for item in range(first, last):
        row, kind, head = item // (3 * heads), item // heads % 3, item % heads
        given = of_v if kind == 2 else of_k if kind == 1 else of_q
        width, unit = given.shape[3], kind < 2 or unit_values
        begin, blocks = kind * heads * of_q.shape[3] + head * width, (width + LANES - 1) // LANES
        end = begin + width
        window[:], weights[:], of_window[:], of_weights[:], wanted[:] = 0, 0, 0, 0, 0
        for d in range(count):
            fetch(taps[begin:end, d], weights, d * blocks * LANES)
        for step in range(rows):
            fetch(inputs[row, step, begin:end], window, step * blocks * LANES)
        for step in range(steps):
            fetch(given[row, step, head], wanted, 0)
            squares, products = fill(zero), fill(zero)
            for c in range(blocks):
                u = _convolve(window, weights, step, c, blocks, count)
                s = u * sigmoid(u)
                squares += s * s
                products += s * load(wanted, c)
                store(before, c, u)
            scale, pull = one, zero
            if unit:
                scale = one / np.sqrt(total(squares) + of_q.dtype.type(floor))
                pull = scale * scale * total(products)
            for c in range(blocks):
                u = load(before, c)
                gate = sigmoid(u)
                of_u = scale * (load(wanted, c) - pull * u * gate) * gate * (one + u * (one - gate))
                for d in range(count):
                    place, tap = (step + d) * blocks + c, d * blocks + c
                    store(of_weights, tap, load(of_weights, tap) + of_u * load(window, place))
                    store(of_window, place, load(of_window, place) + of_u * load(weights, tap))
        for step in range(rows):
            for j in range(width):
                of_inputs[row, step, begin + j] = of_window[step * blocks * LANES + j]
        for d in range(count):
            for j in range(width):
                of_taps[row, begin + j, d] = of_weights[d * blocks * LANES + j]

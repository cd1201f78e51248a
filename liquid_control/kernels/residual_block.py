"""The SwiGLU and the RMS norm of a block on the CPU, each in one pass over what it is made of.

    SwiGLU        y = SiLU(a) ∘ b                                 a, b: the halves of a vector
    RMS norm      y = gain ∘ n x,   n = (x · x / N + ε)^(-1/2)    of each head's N numbers, then times SiLU(a) if gated

As operations of torch they are three to ten passes over memory, and twice as many for the gradients, while nearly all
the time goes by in waiting for memory. Nothing of the forward pass is kept but what it was given. With s = SiLU(a), s'
its slope, g = ∂y ∘ s (∂y if not gated) and u = gain ∘ g:

    SwiGLU        ∂a = ∂y ∘ b ∘ s',   ∂b = ∂y ∘ s
    RMS norm      ∂x = n (u - n² (x · u) / N x),   ∂gain = Σ g ∘ n x,   ∂a = ∂y ∘ gain ∘ n x ∘ s'
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels import is_transformed
from liquid_control.kernels.batch import copied, fetch, new_tile, over_blocks
from liquid_control.kernels.fast_math import OPTIONS, kernel_part, sigmoid
from liquid_control.kernels.simd import LANES, load, total

ROWS = 64
"""Vectors whose gradients of a gain are summed one after another."""


# SwiGLU


@torch.library.custom_op("liquid_control::swiglu", mutates_args=(), device_types="cpu")
def swiglu(halves: Tensor) -> Tensor:
    """The product y (…, N) of halves (…, 2 N), float32 or float64 on the CPU.

    Raises:
        ValueError: if they are no halves.
    """
    if not halves.dim() or halves.shape[-1] % 2:
        raise ValueError(f"halves have the shape {tuple(halves.shape)}, expected an even number at the end.")
    y = halves.new_empty(*halves.shape[:-1], halves.shape[-1] // 2)
    given = _rows(halves), _rows(y)
    over_blocks(_swiglu, len(given[0]), y.numel(), *given)
    return y


@swiglu.register_fake
def _(halves):
    return halves.new_empty(*halves.shape[:-1], halves.shape[-1] // 2)


@torch.library.custom_op("liquid_control::swiglu_backward", mutates_args=(), device_types="cpu")
def _swiglu_backward(halves: Tensor, of_y: Tensor) -> Tensor:
    of_halves = halves.new_empty(halves.shape)
    given = _rows(halves), _rows(of_y), _rows(of_halves)
    over_blocks(_of_swiglu, len(given[0]), halves.numel(), *given)
    return of_halves


@_swiglu_backward.register_fake
def _(halves, of_y):
    return halves.new_empty(halves.shape)


def _rows(values: Tensor) -> np.ndarray:
    return values.detach().contiguous().view(-1, values.shape[-1]).numpy()


@njit(cache=True, nogil=True, **OPTIONS)
def _swiglu(first, last, halves, y):
    count = y.shape[1]
    for row in range(first, last):
        gate, value, product = halves[row, :count], halves[row, count:], y[row]
        for j in range(count):
            product[j] = gate[j] * sigmoid(gate[j]) * value[j]


@njit(cache=True, nogil=True, **OPTIONS)
def _of_swiglu(first, last, halves, of_y, of_halves):
    count = of_y.shape[1]
    one = halves.dtype.type(1)
    for row in range(first, last):
        gate, value, wanted = halves[row, :count], halves[row, count:], of_y[row]
        of_gate, of_value = of_halves[row, :count], of_halves[row, count:]
        for j in range(count):
            opening = sigmoid(gate[j])
            shown = gate[j] * opening
            of_gate[j] = wanted[j] * value[j] * (opening + shown * (one - opening))
            of_value[j] = wanted[j] * shown


# The norm


@torch.library.custom_op("liquid_control::rms_norm", mutates_args=(), device_types="cpu")
def rms_norm(x: Tensor, gain: Tensor, gate: Tensor | None, heads: int, floor: float) -> Tensor:
    """Vectors y (…, N) of mean square one, a head at a time.

    Args:
        x: (…, N), float32 or float64 on the CPU, as are all.
        gain: (N).
        gate: a (…, N); None for y without SiLU(a).
        heads: H, of N / H numbers each.
        floor: ε.

    Raises:
        ValueError: if shapes do not fit.
    """
    if gain.shape != x.shape[-1:] or len(gain) % heads or (gate is not None and gate.shape != x.shape):
        gated = "" if gate is None else f" and a gate {tuple(gate.shape)}"
        raise ValueError(
            f"x {tuple(x.shape)}, a gain {tuple(gain.shape)}{gated} of {heads} heads: expected (…, N), (N) and (…, N), "
            "N a multiple of the heads."
        )
    y = x.new_empty(x.shape)
    given = _rows(x), copied(gain), _rows(x if gate is None else gate), gate is not None, heads, floor
    over_blocks(_rms_norm, len(given[0]), y.numel(), *given, _rows(y))
    return y


@rms_norm.register_fake
def _(x, gain, gate, heads, floor):
    return x.new_empty(x.shape)


@torch.library.custom_op("liquid_control::rms_norm_backward", mutates_args=(), device_types="cpu")
def _rms_norm_backward(
    x: Tensor, gain: Tensor, gate: Tensor | None, heads: int, floor: float, of_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, gain and gate; that of no gate is empty."""
    of_x, of_gate = x.new_empty(x.shape), x.new_empty(0 if gate is None else x.shape)
    rows = _rows(x)
    of_gains = gain.new_zeros(-(-len(rows) // ROWS), *gain.shape)  # of each block of rows: threads share none
    given = rows, copied(gain), _rows(x if gate is None else gate), gate is not None, heads, floor, _rows(of_y)
    results = _rows(of_x), of_gains.numpy(), _rows(of_x if gate is None else of_gate)
    over_blocks(_of_rms_norm, len(of_gains), 2 * x.numel(), *given, *results)
    return of_x, of_gains.sum(0), of_gate


@_rms_norm_backward.register_fake
def _(x, gain, gate, heads, floor, of_y):
    return x.new_empty(x.shape), gain.new_empty(gain.shape), x.new_empty(0 if gate is None else x.shape)


@kernel_part
def _product(left, right, blocks):
    """The inner product of two tiles."""
    sums = load(left, 0) * load(right, 0)
    for c in range(1, blocks):
        sums += load(left, c) * load(right, c)
    return total(sums)


@kernel_part
def _scale(heard, blocks, width, floor):
    """n, of a tile that holds so many numbers."""
    number = heard.dtype.type
    return number(1) / np.sqrt(_product(heard, heard, blocks) / number(width) + number(floor))


@njit(cache=True, nogil=True, **OPTIONS)
def _rms_norm(first, last, x, gain, gate, gated, heads, floor, y):
    width = x.shape[1] // heads
    blocks = (width + LANES - 1) // LANES
    heard = new_tile(blocks, x)
    heard[:] = 0
    for row in range(first, last):
        for begin in range(0, heads * width, width):
            end = begin + width
            fetch(x[row, begin:end], heard, 0)
            scale = _scale(heard, blocks, width, floor)
            gains, gates, shown = gain[begin:end], gate[row, begin:end], y[row, begin:end]
            if gated:
                for j in range(width):
                    shown[j] = gains[j] * (scale * heard[j]) * (gates[j] * sigmoid(gates[j]))
            else:
                for j in range(width):
                    shown[j] = gains[j] * (scale * heard[j])


@njit(cache=True, nogil=True, **OPTIONS)
def _of_rms_norm(first, last, x, gain, gate, gated, heads, floor, of_y, of_x, of_gain, of_gate):
    width = x.shape[1] // heads
    blocks, one = (width + LANES - 1) // LANES, x.dtype.type(1)
    heard, of_heard = new_tile(blocks, x), new_tile(blocks, x)
    heard[:], of_heard[:] = 0, 0
    for block in range(first, last):
        for row in range(block * ROWS, min(x.shape[0], (block + 1) * ROWS)):
            for begin in range(0, heads * width, width):
                end = begin + width
                fetch(x[row, begin:end], heard, 0)
                scale = _scale(heard, blocks, width, floor)
                gains, gates, wanted = gain[begin:end], gate[row, begin:end], of_y[row, begin:end]
                of_gains, of_gates = of_gain[block, begin:end], of_gate[row, begin:end]
                if gated:
                    for j in range(width):
                        opening = sigmoid(gates[j])
                        shown, told = gates[j] * opening, wanted[j] * (scale * heard[j])
                        of_gates[j] = told * gains[j] * (opening + shown * (one - opening))
                        of_gains[j] += told * shown
                        of_heard[j] = wanted[j] * gains[j] * shown
                else:
                    for j in range(width):
                        of_gains[j] += wanted[j] * (scale * heard[j])
                        of_heard[j] = wanted[j] * gains[j]
                pull = scale * scale * _product(heard, of_heard, blocks) / x.dtype.type(width)
                changes = of_x[row, begin:end]
                for j in range(width):
                    changes[j] = scale * (of_heard[j] - pull * heard[j])


# Gradients; in operations of torch where they are to be differentiated themselves, or many at once


def _is_plain_pass() -> bool:
    return not torch.is_grad_enabled() and not is_transformed()


def _remember_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_swiglu(ctx: Any, of_y: Tensor) -> Tensor:
    (halves,) = ctx.saved_tensors
    if _is_plain_pass():
        return _swiglu_backward(halves, of_y)
    gate, value = halves.chunk(2, -1)
    shown, slope = _silu(gate)
    return torch.cat([of_y * value * slope, of_y * shown], -1)


def _remember_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heads, ctx.floor = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_rms_norm(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:
    x, gain, gate = ctx.saved_tensors
    if _is_plain_pass():
        of_x, of_gain, of_gate = _rms_norm_backward(x, gain, gate, ctx.heads, ctx.floor, of_y)
        return of_x, of_gain, None if gate is None else of_gate, None, None
    heads = x.unflatten(-1, (ctx.heads, -1))
    scale = torch.rsqrt(heads.square().mean(-1, keepdim=True) + ctx.floor)
    normed, of_gated = (scale * heads).flatten(-2), of_y
    of_gate = None
    if gate is not None:
        shown, slope = _silu(gate)
        of_gated, of_gate = of_y * shown, of_y * gain * normed * slope
    wanted = (gain * of_gated).unflatten(-1, (ctx.heads, -1))
    pull = scale.square() * (heads * wanted).mean(-1, keepdim=True)
    of_gain = (of_gated * normed).flatten(0, -2).sum(0) if x.dim() > 1 else of_gated * normed
    return (scale * (wanted - pull * heads)).flatten(-2), of_gain, of_gate, None, None


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU and its slope."""
    opening = torch.sigmoid(x)
    shown = x * opening
    return shown, opening + shown * (1 - opening)


swiglu.register_autograd(_differentiate_swiglu, setup_context=_remember_swiglu)
rms_norm.register_autograd(_differentiate_rms_norm, setup_context=_remember_rms_norm)

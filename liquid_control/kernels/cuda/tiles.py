"""What the kernels of recurrent layers share: how precise products are, and values of a neuron side by side."""

from __future__ import annotations

import triton
import triton.language as tl

# Three products of tensor-float32 parts: single precision at the speed of the matrix units.
PRECISION = tl.constexpr("tf32x3")


@triton.jit
def load_heads(first, stride, here, HEADS: tl.constexpr):
    """One, three or four values, each ``stride`` behind the one before; the first stands in for those not there."""
    g = tl.load(first, here, 0.0)
    h = g
    a = g
    b = g
    if HEADS > 1:
        h = tl.load(first + stride, here, 0.0)
        a = tl.load(first + 2 * stride, here, 0.0)
    if HEADS > 3:
        b = tl.load(first + 3 * stride, here, 0.0)
    return g, h, a, b


@triton.jit
def store_heads(first, stride, here, g, h, a, b, HEADS: tl.constexpr):
    """The reverse of :func:`load_heads`."""
    tl.store(first, g, here)
    if HEADS > 1:
        tl.store(first + stride, h, here)
        tl.store(first + 2 * stride, a, here)
    if HEADS > 3:
        tl.store(first + 3 * stride, b, here)

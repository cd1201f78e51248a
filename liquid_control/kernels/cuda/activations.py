"""Non-linear functions and their slopes in Triton, for whole tiles."""

from __future__ import annotations

import triton
import triton.language as tl

ACTIVATIONS = ("lecun_tanh", "silu", "relu", "tanh", "gelu")
"""What :func:`activation` knows."""


@triton.jit
def tanh(x):
    """Hyperbolic tangent as 2σ(2x) - 1: absolute error 1e-7, and no overflow."""
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def activation(x, NAME: tl.constexpr):
    """One of :data:`ACTIVATIONS`, and its slope."""
    if NAME == "lecun_tanh":  # 1.7159 tanh(0.666 x)
        value = tanh(0.666 * x)
        slope = 1.7159 * 0.666 * (1 - value * value)
        value = 1.7159 * value
    elif NAME == "silu":
        gate = tl.sigmoid(x)
        value = x * gate
        slope = gate * (1 + x * (1 - gate))
    elif NAME == "relu":
        value = tl.maximum(x, 0)
        slope = tl.where(x > 0, 1.0, 0.0)
    elif NAME == "tanh":
        value = tanh(x)
        slope = 1 - value * value
    else:
        tl.static_assert(NAME == "gelu")
        # x Φ(x), and Φ(x) + x φ(x), with Φ the normal distribution and φ its density
        below = 0.5 * (1 + tl.erf(x * 0.7071067811865476))
        value = x * below
        slope = below + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    return value, slope

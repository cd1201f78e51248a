"""The activations of a CfC's backbone, of sixteen numbers at once, with their slopes."""

from __future__ import annotations

import math

from numba import types
from numba.extending import overload

from liquid_control.kernels.fast_math import OPTIONS, exp2, kernel_part, sigmoid, tanh
from liquid_control.kernels.simd import LANES, load, store, where_positive

LOG2_E = math.log2(math.e)
SQRT_HALF, NORMAL_DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)

ACTIVATIONS = {"lecun_tanh": 0, "silu": 1, "relu": 2, "tanh": 3, "gelu": 4}
"""By their names in `liquid_control.nn.cfc`."""
LECUN_TANH, SILU, RELU, TANH, GELU = ACTIVATIONS.values()


TAIL = (
    0.12987589812037484,
    0.10410233718239573,
    0.22053798716577683,
    -0.16985048186823387,
    0.41171552563495173,
    -0.24249347398158783,
    0.04611220847117696,
)
"""Of t, t², … with t = 1 / (1 + 0.32 x): times e^(-x²/2) they are the normal distribution beyond x ≥ 0 to 7e-10, by a
least squares fit that was repeated with the errors as weights; its form is 7.1.26 of Abramowitz and Stegun."""


def _normal(x, bell, tile):
    """The normal distribution below Lanes x, whose e^(-x²/2) is ``bell``; ``tile`` is memory for sixteen numbers."""


@overload(_normal, jit_options=OPTIONS)
def _normal_of_type(x, bell, tile):
    def single(x, bell, tile):
        t = 1 / (1 + 0.32 * where_positive(x, x, -x))
        tail = TAIL[6] * t + TAIL[5]
        tail = tail * t + TAIL[4]
        tail = tail * t + TAIL[3]
        tail = tail * t + TAIL[2]
        tail = tail * t + TAIL[1]
        tail = (tail * t + TAIL[0]) * t * bell
        return where_positive(x, 1 - tail, tail)

    def double(x, bell, tile):
        store(tile, 0, x)
        for lane in range(LANES):
            tile[lane] = 0.5 + 0.5 * math.erf(tile[lane] * SQRT_HALF)
        return load(tile, 0)

    return single if x.dtype == types.float32 else double


@kernel_part
def activate(kind, x, tile):
    """The activation of Lanes and its slope; ``tile`` is memory for sixteen numbers."""
    if kind == LECUN_TANH:
        value = 1.7159 * tanh(0.666 * x)
        slope = 1.7159 * 0.666 - (0.666 / 1.7159) * value * value
    elif kind == TANH:
        value = tanh(x)
        slope = 1 - value * value
    elif kind == RELU:
        value, slope = where_positive(x, x, 0 * x), where_positive(x, 1 + 0 * x, 0 * x)
    elif kind == SILU:
        opening = sigmoid(x)
        value = x * opening
        slope = opening + value * (1 - opening)
    else:  # GELU: what is not in ACTIVATIONS has no plan
        bell = exp2((-0.5 * LOG2_E) * x * x)
        below = _normal(x, bell, tile)
        value = x * below
        slope = below + x * (NORMAL_DENSITY * bell)
    return value, slope

"""2^x, 2^x - 1, sigmoid, tanh, softplus for Numba loops, without branches and without calls: LLVM vectorises them.

`math.exp` in a Numba loop is a call of the C library for each number, which keeps the loop scalar. These are a dozen
multiply-adds that work on as many numbers at once as a register holds. They are for compiled code; called from Python
they are what NumPy gives.

How 2^x comes about. Write x = k + f with k the nearest integer and |f| ≤ 1/2. Then

- k: adding 1.5·2^m, m the width of the mantissa, leaves no bits for a fraction, so the sum holds round(x) in its last
  bits, and taking the constant away again gives k as a float;
- 2^f: a polynomial, interpolated in the Chebyshev nodes of [-1/2, 1/2];
- 2^k: those last bits, moved to where a float keeps its exponent.

x is clipped to where 2^x is a normal number. NaN stays NaN. 2^x - 1 is 2^k (2^f - 1) + (2^k - 1), where the polynomial
without its first coefficient, which is 1, gives 2^f - 1.

Errors (tests/kernels holds them), in units of the type's machine epsilon: 2^x and 2^x - 1 are within 2 and 4 relative;
sigmoid and tanh within 2 absolute; softplus within 32 relative from -60 on.

The compiler may contract a product and a sum and take a reciprocal for a division (:data:`FASTMATH`), but may not
reorder sums: that would undo the rounding trick, and a result would depend on the compiler's mood.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from liquid_control.kernels.simd import Lanes, clip, power_of_two, where_positive
from liquid_control.support.compiled import find_place

FASTMATH = {"contract", "arcp", "nsz"}
"""LLVM's liberties that the kernels of this package are compiled with."""

OPTIONS: Any = {"fastmath": FASTMATH, "error_model": "numpy"}
"""What every kernel is compiled with: dividing by zero is infinity, as in NumPy, not a branch to an exception."""


def kernel_part(function: Callable) -> Any:
    """Compiles a part of kernels, which only they call, once for each type of its arguments.

    Numba takes a constant for a type of its own, and would compile the part anew for a 0 and for any other number: a
    kernel took a fifth longer to compile.
    """
    compiled = njit(**OPTIONS)(function)
    template = compiled.get_call_template

    def template_of_numbers(arguments: tuple[types.Type, ...], named: dict[str, types.Type]) -> Any:
        plain = {name: types.unliteral(kind) for name, kind in named.items()}
        return template(tuple(types.unliteral(kind) for kind in arguments), plain)

    compiled.get_call_template = template_of_numbers
    return compiled


# 1.5·2^m, and the coefficients of f^0, f^1, …; their interpolation errors are 2.0e-9 and 3.2e-18.
SINGLE_ROUNDER = np.float32(1.5 * 2**23)
SINGLE = (
    np.float32(1.0),
    np.float32(0.6931472067028326),
    np.float32(0.24022650922288757),
    np.float32(0.05550327226670302),
    np.float32(0.009618056678524637),
    np.float32(0.0013400428177615838),
    np.float32(0.0001546144469856913),
)
DOUBLE_ROUNDER = 1.5 * 2**52
DOUBLE = (
    1.0,
    0.6931471805599453,
    0.24022650695910158,
    0.055504108664821625,
    0.009618129107587256,
    0.001333355814640647,
    0.00015403530463724353,
    1.5252733841556773e-05,
    1.3215432535912375e-06,
    1.0178057087733941e-07,
    7.074194297288521e-09,
    4.4558179083360645e-10,
)
SINGLE_LOG2_E, SINGLE_ONE, SINGLE_TWO = np.float32(math.log2(math.e)), np.float32(1), np.float32(2)
DOUBLE_LOG2_E = math.log2(math.e)


def exp2(x):
    """2^x of a float or Lanes, x clipped to ±126 in single and ±1022 in double precision."""
    return np.exp2(x)


def exp2_minus_one(x):
    """2^x - 1 of a float or Lanes, with all its digits near zero; x clipped as in :func:`exp2`."""
    return np.expm1(x * math.log(2))


def sigmoid(x):
    """1 / (1 + e^-x) of a float or Lanes."""
    return 1 / (1 + np.exp(-x))


def tanh(x):
    """Hyperbolic tangent of a float or Lanes: 1 - 2 / (1 + e^2x)."""
    return np.tanh(x)


def softplus(x, terms=None):
    """log(1 + e^x) of Lanes, by so many ``terms`` of a series; None: as many as the type has digits for.

    It is max(x, 0) + log(1 + u) with u = e^-|x| at most 1, and log(1 + u) = 2 artanh(s) with s = u / (2 + u) at most
    1/3, whose series s + s³/3 + s⁵/5 + … has its digits after seven terms in single precision, sixteen in double.
    """
    return np.logaddexp(0, x)


find_place(exp2)  # every file of kernels imports this one first


def _single(x: types.Type) -> bool:
    return (x.dtype if isinstance(x, Lanes) else x) == types.float32


@overload(exp2, jit_options=OPTIONS)
def _exp2(x):
    def single(x):
        x = clip(x, 126)
        rounded = x + SINGLE_ROUNDER
        f = x - (rounded - SINGLE_ROUNDER)
        power = SINGLE[6] * f + SINGLE[5]
        power = power * f + SINGLE[4]
        power = power * f + SINGLE[3]
        power = power * f + SINGLE[2]
        power = power * f + SINGLE[1]
        power = power * f + SINGLE[0]
        return power * power_of_two(rounded)

    def double(x):
        x = clip(x, 1022)
        rounded = x + DOUBLE_ROUNDER
        f = x - (rounded - DOUBLE_ROUNDER)
        power = DOUBLE[11] * f + DOUBLE[10]
        power = power * f + DOUBLE[9]
        power = power * f + DOUBLE[8]
        power = power * f + DOUBLE[7]
        power = power * f + DOUBLE[6]
        power = power * f + DOUBLE[5]
        power = power * f + DOUBLE[4]
        power = power * f + DOUBLE[3]
        power = power * f + DOUBLE[2]
        power = power * f + DOUBLE[1]
        power = power * f + DOUBLE[0]
        return power * power_of_two(rounded)

    return single if _single(x) else double


@overload(exp2_minus_one, jit_options=OPTIONS)
def _exp2_minus_one(x):
    def single(x):
        x = clip(x, 126)
        rounded = x + SINGLE_ROUNDER
        f = x - (rounded - SINGLE_ROUNDER)
        power = SINGLE[6] * f + SINGLE[5]
        power = power * f + SINGLE[4]
        power = power * f + SINGLE[3]
        power = power * f + SINGLE[2]
        power = power * f + SINGLE[1]
        whole = power_of_two(rounded)
        return whole * (power * f) + (whole - SINGLE_ONE)

    def double(x):
        x = clip(x, 1022)
        rounded = x + DOUBLE_ROUNDER
        f = x - (rounded - DOUBLE_ROUNDER)
        power = DOUBLE[11] * f + DOUBLE[10]
        power = power * f + DOUBLE[9]
        power = power * f + DOUBLE[8]
        power = power * f + DOUBLE[7]
        power = power * f + DOUBLE[6]
        power = power * f + DOUBLE[5]
        power = power * f + DOUBLE[4]
        power = power * f + DOUBLE[3]
        power = power * f + DOUBLE[2]
        power = power * f + DOUBLE[1]
        whole = power_of_two(rounded)
        return whole * (power * f) + (whole - 1.0)

    return single if _single(x) else double


@overload(sigmoid, jit_options=OPTIONS)
def _sigmoid(x):
    def single(x):
        return SINGLE_ONE / (SINGLE_ONE + exp2(-SINGLE_LOG2_E * x))

    def double(x):
        return 1.0 / (1.0 + exp2(-DOUBLE_LOG2_E * x))

    return single if _single(x) else double


@overload(tanh, jit_options=OPTIONS)
def _tanh(x):
    def single(x):
        return SINGLE_ONE - SINGLE_TWO / (SINGLE_ONE + exp2(SINGLE_TWO * SINGLE_LOG2_E * x))

    def double(x):
        return 1.0 - 2.0 / (1.0 + exp2(2.0 * DOUBLE_LOG2_E * x))

    return single if _single(x) else double


@overload(softplus, jit_options=OPTIONS, prefer_literal=True)
def _softplus(x, terms=None):
    log2_e = SINGLE_LOG2_E if _single(x) else DOUBLE_LOG2_E
    count = getattr(terms, "literal_value", 7 if _single(x) else 16)

    def implementation(x, terms=None):
        u = exp2(-log2_e * where_positive(x, x, -x))
        s = u / (u + 2)
        square, series = s * s, 0 * s
        for k in range(count):
            series = series * square + 1.0 / (2 * (count - k) - 1)
        # 0 * x: with a plain 0, LLVM contracts other sums of a LAN, and its drivers change in the last digit.
        return where_positive(x, x, 0 * x) + 2 * s * series

    return implementation

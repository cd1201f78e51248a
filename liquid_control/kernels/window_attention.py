"""Attention to a window on the CPU: a single control step. The equations are in `liquid_control.nn.window_attention`.

A score depends on the distance δ between query and key alone, so only keys are turned, by -δ: of a pair (q₁, q₂) and
(k₁, k₂) at the rate r it is (q₁ k₁ + q₂ k₂) cos rδ + (q₁ k₂ - q₂ k₁) sin rδ.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels.dense import add_product, pack, read_out, whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, exp2

HEADER = 4
"""Numbers that come before the weights: units, heads, window, and 1 where the distance is time, 0 where it is steps."""


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers, rates, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`step_arrays`."""
    units, heads, window, timed = int(numbers[0]), int(numbers[1]), int(numbers[2]), numbers[3] > 0
    past, entry, width, size = window - 1, 2 * units + 1, whole_lanes(units), units // heads
    if timed and elapsed <= 0:
        y[:] = 0
        return
    given, heard = scratch[: 3 * width], scratch[3 * width : 4 * width]
    scores = scratch[4 * width : 4 * width + heads * window]
    cosine, sine = scratch[4 * width + scores.size :][: rates.size], scratch[4 * width + scores.size + rates.size :]
    given[:] = 0
    readout = add_product(given, x, numbers[HEADER:])
    query, key, value = given[:units], given[width : width + units], given[2 * width : 2 * width + units]
    ages = state[past * entry :]
    if timed:
        for s in range(past):
            ages[s] += elapsed

    lowest = state.dtype.type(-1e30)
    for s in range(past):
        there = state[s * entry + 2 * units] > 0
        if there:
            distance = ages[s] if timed else state.dtype.type(past - s)
            for i in range(rates.size):
                cosine[i], sine[i] = math.cos(distance * rates[i]), math.sin(distance * rates[i])
        for head in range(heads):
            score = lowest
            if there:
                score = lowest * 0
                begin, other = head * size, head * size + rates.size
                for i in range(rates.size):
                    q, r = query[begin + i], query[other + i]
                    k, m = state[s * entry + begin + i], state[s * entry + other + i]
                    score += (q * k + r * m) * cosine[i] + (q * m - r * k) * sine[i]
            scores[head * window + s] = score
    for head in range(heads):
        score = lowest * 0
        for i in range(head * size, (head + 1) * size):
            score += query[i] * key[i]
        scores[head * window + past] = score

    for head in range(heads):
        own = scores[head * window : (head + 1) * window]
        peak, sum_of = own[past], lowest * 0
        for s in range(past):
            peak = max(peak, own[s])
        for s in range(window):
            own[s] = exp2(own[s] - peak) if own[s] > lowest else lowest * 0
            sum_of += own[s]
        for s in range(window):
            own[s] /= sum_of
        for i in range(head * size, (head + 1) * size):
            heard[i] = own[past] * value[i]
        for s in range(past):
            begin = s * entry + units
            if own[s] > 0:
                for i in range(head * size, (head + 1) * size):
                    heard[i] += own[s] * state[begin + i]

    for i in range((past - 1) * entry):
        state[i] = state[i + entry]
    newest = state[(past - 1) * entry : past * entry]
    for i in range(units):
        newest[i], newest[units + i] = key[i], value[i]
    newest[2 * units] = 1
    if timed:
        for s in range(past - 1):
            ages[s] = ages[s + 1]
        ages[past - 1] = 0
    read_out(y, heard[:units], readout, scratch[4 * width :])


def step_arrays(
    project: Tensor, readout: Tensor, heads: int, window: int, slowest: float, timed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of :func:`tick` after y, copies of the parameters.

    Args:
        project: weight (3 units, C) of query, key and value.
        readout: weight (O, units).
        heads: number of heads.
        window: steps attended to, W.
        slowest: steps, or time, over which the slowest pair of numbers turns by one radian.
        timed: whether keys are turned by time, and a step of no time is none.
    """
    units = len(project) // 3
    query, key, value = (part.double() for part in project.detach().chunk(3))
    # Weights are powers of two, whose exponents are scores.
    query = query * (math.log2(math.e) / math.sqrt(units // heads))
    packed = [pack([query, key, value], query)]
    bias = readout.new_zeros(len(readout))
    packed += [pack([bias], bias), pack([readout], readout)]
    dtype = project.detach().numpy().dtype
    half = units // heads // 2
    rates = slowest ** -(torch.arange(half, dtype=torch.float64) / half)
    width = units + -units % 16
    scratch = 4 * width + max(heads * window + 2 * half, len(packed[1]))
    numbers = np.concatenate([np.array([units, heads, window, timed]), *packed])
    return numbers.astype(dtype), rates.numpy().astype(dtype), np.zeros(scratch, dtype)

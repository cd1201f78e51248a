"""Leaky neurons on the CPU: a single control step.

The equations are in `liquid_control.nn.leaky`. Synapses that the wiring leaves out are zeros of a dense product, and
constant time constants are those that nothing drives.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor

from liquid_control.kernels.dense import add_product, pack, start_sums, whole_lanes
from liquid_control.kernels.fast_math import DOUBLE_LOG2_E, OPTIONS, exp2, softplus, tanh
from liquid_control.kernels.simd import LANES, clip, load, store

INTEGRATIONS = {"exponential": 0, "explicit": 1}
EXPONENTIAL, EXPLICIT = INTEGRATIONS.values()

SOFTPLUS_TERMS = 17
"""More than there are digits for: compiled drivers stay what they were, to the last bit, exponential or in double."""


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`step_arrays`."""
    if elapsed > 0:
        unfolds, integration, tau_min = int(numbers[0]), int(numbers[1]), numbers[2]
        neurons, width = state.size, whole_lanes(state.size)
        # Targets f, then the paces of τ; what the input drives them with is the same in all unfolds.
        driven, sums = scratch[: 2 * width], scratch[2 * width : 4 * width]
        potential = scratch[4 * width :]
        recurrent = add_product(driven, x, start_sums(driven, numbers[3:]))
        for i in range(neurons):
            potential[i] = state[i]
        for _ in range(unfolds):
            start_sums(sums, driven)
            add_product(sums, potential[:neurons], recurrent)
            for k in range(width // LANES):
                h, target = load(potential, k), tanh(load(sums, k))
                ratio = elapsed / unfolds / (tau_min + softplus(load(sums[width:], k), SOFTPLUS_TERMS))
                share = clip(ratio, 1) if integration == EXPLICIT else 1 - exp2(-DOUBLE_LOG2_E * ratio)
                store(potential, k, h + share * (target - h))
        for i in range(neurons):
            state[i] = potential[i]
    for o in range(y.size):
        y[o] = state[o]


def step_arrays(
    weight: Tensor,
    bias: Tensor,
    tau_weight: Tensor | None,
    tau_bias: Tensor,
    tau_min: float,
    unfolds: int,
    integration: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of :func:`tick` after y, copies of the parameters.

    Args:
        weight: (N, C + N) of the targets, zero where there is no synapse.
        bias: (N,).
        tau_weight: the same of the paces; None if they are constant.
        tau_bias: (N,).
        tau_min: lower bound of the time constants.
        unfolds: solver steps.
        integration: one of INTEGRATIONS, by its name.
    """
    neurons, sources = weight.shape
    sides = [sources - neurons, neurons]
    paces = (None, None) if tau_weight is None else tau_weight.split(sides, 1)
    biases = pack([bias, tau_bias], bias)
    weights = [pack([targets, pace], targets) for targets, pace in zip(weight.split(sides, 1), paces, strict=True)]
    options = np.array([unfolds, INTEGRATIONS[integration], tau_min])
    numbers = np.concatenate([options, biases, *weights]).astype(biases.dtype)
    return numbers, np.zeros(2 * len(biases) + len(biases) // 2, biases.dtype)

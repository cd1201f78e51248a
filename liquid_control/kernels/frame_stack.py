"""The feed-forward net over the last inputs on the CPU: a single control step."""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import nn

from liquid_control.kernels.dense import add_product, pack, pack_readout, read_out, start_sums, whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, tanh
from liquid_control.kernels.simd import LANES, load, store


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`step_arrays`."""
    units = int(numbers[0])
    width = whole_lanes(units)
    hidden = scratch[:width]
    # The sources are the earlier inputs, oldest first, then x.
    readout = add_product(hidden, x, add_product(hidden, state, start_sums(hidden, numbers[1:])))
    for k in range(width // LANES):
        store(hidden, k, tanh(load(hidden, k)))
    if state.size:  # else it sees the present input alone
        earlier = state.size - x.size
        for i in range(earlier):
            state[i] = state[x.size + i]
        for c in range(x.size):
            state[earlier + c] = x[c]
    read_out(y, hidden[:units], readout, scratch[width:])


def step_arrays(inputs: int, hidden: nn.Linear, readout: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of :func:`tick` after y, copies of the parameters.

    Args:
        inputs: number of inputs of the layer.
        hidden: from the stacked inputs to the hidden layer.
        readout: linear or the identity.
    """
    bias = pack([hidden.bias], hidden.bias)
    weights = [pack([part], part) for part in hidden.weight.split([hidden.in_features - inputs, inputs], 1)]
    mapping = pack_readout(readout)
    numbers = np.concatenate([np.array([hidden.out_features]), bias, *weights, *mapping]).astype(bias.dtype)
    return numbers, np.zeros(len(bias) + sum(len(part) for part in mapping[:1]), bias.dtype)

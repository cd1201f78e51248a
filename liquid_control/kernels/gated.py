"""LSTM and GRU on the CPU: a single control step.

As in torch; of the sums of all gates the parts are

    LSTM    i, f, g, o                       c = σ(f) c + σ(i) tanh(g),    h = σ(o) tanh(c)
    GRU     r, z, of inputs n, of states m   h = n' + σ(z) (h - n'),       n' = tanh(n + σ(r) m)
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor, nn

from liquid_control.kernels.dense import add_product, pack, pack_readout, read_out, start_sums, whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, sigmoid, tanh
from liquid_control.kernels.simd import LANES, load, store

PARTS = 4
"""Of the sums of a unit, in both."""


@njit(cache=True, **OPTIONS)
def lstm_tick(x, elapsed, state, y, numbers, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`lstm_arrays`."""
    units, width = state.size // 2, whole_lanes(state.size // 2)
    blocks = width // LANES
    sums, hidden, cell = scratch[: PARTS * width], state[:units], state[units:]
    new_hidden, new_cell = scratch[sums.size : sums.size + width], scratch[sums.size + width : sums.size + 2 * width]
    readout = add_product(sums, hidden, add_product(sums, x, start_sums(sums, numbers)))
    for i in range(units):
        new_cell[i] = cell[i]
    for k in range(blocks):
        write, keep = sigmoid(load(sums, k)), sigmoid(load(sums, blocks + k))
        candidate, show = tanh(load(sums, 2 * blocks + k)), sigmoid(load(sums, 3 * blocks + k))
        memory = keep * load(new_cell, k) + write * candidate
        store(new_cell, k, memory)
        store(new_hidden, k, show * tanh(memory))
    for i in range(units):
        hidden[i], cell[i] = new_hidden[i], new_cell[i]
    read_out(y, hidden, readout, scratch)


@njit(cache=True, **OPTIONS)
def gru_tick(x, elapsed, state, y, numbers, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`gru_arrays`."""
    units, width = state.size, whole_lanes(state.size)
    blocks = width // LANES
    sums, new = scratch[: PARTS * width], scratch[PARTS * width :]
    readout = add_product(sums, state, add_product(sums, x, start_sums(sums, numbers)))
    for i in range(units):
        new[i] = state[i]
    for k in range(blocks):
        reset, keep = sigmoid(load(sums, k)), sigmoid(load(sums, blocks + k))
        candidate = tanh(load(sums, 2 * blocks + k) + reset * load(sums, 3 * blocks + k))
        store(new, k, candidate + keep * (load(new, k) - candidate))
    for i in range(units):
        state[i] = new[i]
    read_out(y, state, readout, scratch)


def lstm_arrays(weights: list[Tensor], readout: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of :func:`lstm_tick` after y, copies of the parameters.

    Args:
        weights: of the cell, in torch's order: of the inputs (4 U, C), of the states (4 U, U), their biases (4 U,).
        readout: linear or the identity.
    """
    of_x, of_hidden, bias, other_bias = weights
    packed = [pack(part.chunk(PARTS), part) for part in (bias + other_bias, of_x, of_hidden)]
    return _arrays(packed, readout)


def gru_arrays(weights: list[Tensor], readout: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of :func:`gru_tick` after y, copies of the parameters.

    Args:
        weights: of the cell, in torch's order: of the inputs (3 U, C), of the states (3 U, U), their biases (3 U,).
        readout: linear or the identity.
    """
    of_x, of_state, of_bias, of_other_bias = (part.chunk(3) for part in weights)
    reset, keep, candidate = of_bias
    other_reset, other_keep, recalled = of_other_bias
    packed = [
        pack([reset + other_reset, keep + other_keep, candidate, recalled], reset),
        pack([*of_x, None], of_x[0]),
        pack([*of_state[:2], None, of_state[2]], of_state[0]),
    ]
    return _arrays(packed, readout)


def _arrays(packed: list[np.ndarray], readout: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, and memory for the sums and the new state, then for the sums of the readout."""
    mapping = pack_readout(readout)
    sums = len(packed[0])
    size = max([sums + 2 * (sums // PARTS), *(len(part) for part in mapping[:1])])
    return np.concatenate([*packed, *mapping]), np.zeros(size, packed[0].dtype)

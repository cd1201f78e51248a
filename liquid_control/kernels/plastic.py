"""Plastic synapses on the CPU: a single control step.

The equations are in `liquid_control.nn.plastic`. Fixed weights are small dense products, sixteen neurons at once, as in
`liquid_control.kernels.cfc`; traces are a list of synapses, neuron after neuron, as the state has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from torch import Tensor

from liquid_control.kernels.fast_math import OPTIONS, exp2, sigmoid, tanh
from liquid_control.kernels.simd import LANES, load, store

RULES = {"hebb": 0, "oja": 1, "delta": 2, "retroactive": 3}
"""The last is hebb with an eligibility trace."""
HEBB, OJA, DELTA, RETROACTIVE = RULES.values()

HEADS, GAINS = 5, 3
"""g, h, a, b and the modulator; g, h and the gate see what is recalled."""


def step_arrays(
    weight: Tensor,
    bias: Tensor,
    gains: Tensor,
    half_lives: Tensor,
    synapses: Sequence[tuple[int, int]],
    group_sizes: Sequence[int],
    motors: slice,
    rule: str,
    held: tuple[bool, bool],
    key_floor: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of :func:`tick` after y, copies of the parameters.

    Args:
        weight: (5, N, C + N) of the heads g, h, a, b and the modulator, zero where there is no synapse.
        bias: (5, N).
        gains: (3, N) α of g, h and the gate.
        half_lives: (2, N) of trace and eligibility.
        synapses: (source, destination) of each trace by destination; sources are places in [inputs | neurons].
        group_sizes: neurons of each group.
        motors: the neurons that are the outputs.
        rule: one of RULES, by its name.
        held: whether trace and eligibility are frozen.
        key_floor: ε of the keys.
    """
    neurons, inputs = bias.shape[1], weight.shape[2] - bias.shape[1]
    dense, offsets, coefficients = (part.detach().numpy() for part in (weight, bias, gains))
    parts = [np.array([key_floor]), -1 / half_lives.detach().numpy().ravel()]
    first, begin = 0, 0
    for size in group_sizes:
        own, fan_in = slice(first, first + size), slice(begin, inputs + first + size)
        rows = np.concatenate([offsets[:, own], coefficients[:, own], *dense[:, own, fan_in].transpose(2, 0, 1)])
        blocks = np.pad(rows, ((0, 0), (0, -size % LANES))).reshape(len(rows), -1, LANES)
        parts.append(blocks.transpose(1, 0, 2))
        first, begin = first + size, inputs + first
    source, destination = np.array(synapses, np.int64).reshape(-1, 2).T
    start = np.searchsorted(destination, np.arange(neurons + 1))
    options = [RULES[rule], *held, motors.start, len(group_sizes)]
    width = -(-max(group_sizes) // LANES) * LANES
    numbers = np.concatenate([part.ravel() for part in parts]).astype(dense.dtype)
    # What drives neurons, [inputs | neurons]; of a group what is recalled, keys' inverse lengths, states and rates.
    scratch = np.zeros(inputs + neurons + 4 * width, dense.dtype)
    return numbers, np.array([*options, *group_sizes, *start, *source]), scratch


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers, index, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`step_arrays`."""
    rule, trace_held, eligibility_held, motor, groups = index[0], index[1], index[2], index[3], index[4]
    sizes, neurons = index[5 : 5 + groups], 0
    for group in range(groups):
        neurons += sizes[group]
    if elapsed > 0:
        inputs = x.size
        start, source = index[5 + groups : 6 + groups + neurons], index[6 + groups + neurons :]
        trace, eligibility = state[neurons : neurons + source.size], state[neurons + source.size :]
        key_floor, decay, fading = numbers[0], numbers[1 : 1 + neurons], numbers[1 + neurons : 1 + 2 * neurons]
        dense = numbers[1 + 2 * neurons :]
        driving, width = scratch[: inputs + neurons], (scratch.size - inputs - neurons) // 4
        of_group = scratch[inputs + neurons :]
        recalled, inverse_length = of_group[:width], of_group[width : 2 * width]
        post, rate = of_group[2 * width : 3 * width], of_group[3 * width :]
        for c in range(inputs):
            driving[c] = x[c]
        for i in range(neurons):
            driving[inputs + i] = state[i]
        place, first, begin = 0, 0, 0
        for group in range(groups):
            size = sizes[group]
            for i in range(size):
                square, product = key_floor, key_floor * 0
                for k in range(start[first + i], start[first + i + 1]):
                    square += driving[source[k]] * driving[source[k]]
                    product += trace[k] * driving[source[k]]
                inverse_length[i] = 1 / np.sqrt(square)
                recalled[i] = product * inverse_length[i]
            for block in range((size + LANES - 1) // LANES):
                memory = load(recalled, block)
                g = load(dense, place) + memory * load(dense, place + 5)
                h = load(dense, place + 1) + memory * load(dense, place + 6)
                a = load(dense, place + 2)
                b = load(dense, place + 3) + memory * load(dense, place + 7)
                modulation = load(dense, place + 4)
                place += HEADS + GAINS
                for j in range(begin, inputs + first + size):
                    g += driving[j] * load(dense, place)
                    h += driving[j] * load(dense, place + 1)
                    a += driving[j] * load(dense, place + 2)
                    b += driving[j] * load(dense, place + 3)
                    modulation += driving[j] * load(dense, place + 4)
                    place += HEADS
                g, h, gate = tanh(g), tanh(h), sigmoid(a * elapsed + b)
                store(post, block, g + gate * (h - g))
                store(rate, block, tanh(modulation) if rule == RETROACTIVE else sigmoid(modulation))
            # A group's traces are written before its neurons change: a key is presynaptic activity.
            for i in range(size):
                kept = exp2(decay[first + i] * elapsed)
                begin_row, end_row = start[first + i], start[first + i + 1]
                if rule == RETROACTIVE:
                    fades = exp2(fading[first + i] * elapsed)
                    eligible = (1 - fades) * post[i] * inverse_length[i]
                    for k in range(begin_row, end_row):
                        if not trace_held:
                            trace[k] = kept * trace[k] + rate[i] * eligibility[k]
                        if not eligibility_held:
                            eligibility[k] = fades * eligibility[k] + eligible * driving[source[k]]
                elif not trace_held:
                    signal = rate[i] * (post[i] - kept * recalled[i] if rule == DELTA else post[i])
                    if rule == OJA:
                        kept *= 1 - signal * post[i]
                    amplitude = signal * inverse_length[i]
                    for k in range(begin_row, end_row):
                        trace[k] = kept * trace[k] + amplitude * driving[source[k]]
            for i in range(size):
                driving[inputs + first + i] = post[i]
            begin = inputs + first
            first += size
        for i in range(neurons):
            state[i] = driving[inputs + i]
    for o in range(y.size):
        y[o] = state[motor + o]

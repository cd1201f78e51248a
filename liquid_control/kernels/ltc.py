"""The LTC of `liquid_control.nn.ltc`, whole sequences in one call: semi-implicit solver, hand-derived backward pass.

In the notation of that module, with r = unfolds / elapsed = 1/Δ and the synapses' s_ji of the potential before:

    v⁺ = n / d,    n_i = n⁰_i + cm_i r v_i + Σ_j w_ji E_ji s_ji,    d_i = d⁰_i + cm_i r + Σ_j w_ji s_ji

where n⁰ and d⁰ hold leak and sensory synapses and are computed once a step. Given the gradient v̄⁺ of a loss, one unfold
back is

    n̄_i = v̄⁺_i / d_i,    d̄_i = -n̄_i v⁺_i,    z̄_ji = (n̄_i w_ji E_ji + d̄_i w_ji) s_ji (1 - s_ji)
    v̄_i = n̄_i cm_i r + Σ_k σ_ik z̄_ik  over the synapses i → k that leave neuron i

and every parameter's gradient is a sum of products of these. The forward pass keeps v and 1/d of each unfold; openings
s are computed again, which takes no longer than reading them.

Synapses are lists in the order of their destinations, so one that the wiring leaves out costs nothing. Positivity
constraints and the input mapping are folded into the lists once a call (:func:`_prepare`), and the chain rule through
them is applied to the sums (:func:`_finish`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from liquid_control.kernels.autograd import Kept, SequenceKernel, Sizes
from liquid_control.kernels.batch import (
    LANES,
    Buffer,
    block_count,
    hide_padding,
    new_tile,
    over_blocks,
    read_step,
    step_times,
    write_step,
)
from liquid_control.kernels.fast_math import DOUBLE_LOG2_E, OPTIONS, exp2, kernel_part
from liquid_control.kernels.memory import (
    Memory,
    MemoryGradients,
    begin_memory,
    begin_memory_back,
    end_memory,
    end_memory_back,
    open_memory,
    open_memory_back,
    remember,
    remember_back,
    with_memory,
    work_of,
)
from liquid_control.kernels.products import TILE
from liquid_control.kernels.simd import fill, keep_apart, load, store, total, where_positive


class Synapses(NamedTuple):
    """Edge lists of a (sources, N) adjacency matrix, by destination."""

    source: np.ndarray
    """(E,) presynaptic neuron of each synapse."""
    start: np.ndarray
    """(N + 1,): synapses start[i] to start[i + 1] end at neuron i."""
    place: np.ndarray
    """(E,) where the flat matrix holds the synapse's parameters."""

    @classmethod
    def of(cls, adjacency: np.ndarray) -> Synapses:
        """The lists of a matrix whose entries are zero where there is no synapse."""
        destination, source = np.nonzero(adjacency.T)
        start = np.searchsorted(destination, np.arange(adjacency.shape[1] + 1))
        place = np.ravel_multi_index((source, destination), adjacency.shape)
        return cls(np.ascontiguousarray(source), start, place)


class LTCPlan(NamedTuple):
    """What a layer's kernel needs to know besides its parameters."""

    inner: Synapses
    sensory: Synapses
    inputs: int
    outputs: int
    unfolds: int
    epsilon: float
    implicit: bool
    """Whether gleak, cm and w go through softplus."""

    @property
    def neurons(self) -> int:
        """N."""
        return len(self.inner.start) - 1


class Weights(NamedTuple):
    """Parameters as the kernels use them; the constants below name what they hold."""

    neurons: np.ndarray
    """(3, N): g v_leak; g + ε; cm."""
    inner: np.ndarray
    """(E, 5): gain and offset, for which s = 1 / (1 + 2^(gain · v + offset)); w; w E; ds/dv = slope · s (1 - s)."""
    sensory: np.ndarray
    """The same of the sensory synapses, of the input as it is before the mapping."""
    output: np.ndarray
    """(2, O): scale and shift."""


LEAK_CURRENT, LEAK, CAPACITANCE = range(3)
GAIN, OFFSET, CONDUCTANCE, DRIVE, SLOPE = range(5)

# Sums of the backward pass. Of a neuron, three: n̄, d̄, and n̄ v + d̄ times r; of a synapse, four: z̄ v, z̄, d̄ s, n̄ s; of an
# output, two: ȳ v and ȳ. Neurons come first, then inner and sensory synapses, then outputs.
NEURON_SUMS, SYNAPSE_SUMS, OUTPUT_SUMS = 3, 4, 2


# From parameters to weights, and from the weights' gradients to those of parameters. `packed` holds all parameters, one
# after another: gleak, vleak, cm, the inner matrices sigma, mu, w, erev, the sensory ones, then scale and shift of the
# input and of the output.


@kernel_part
def _positive(value, implicit):
    """The value in use, and its derivative by the stored one."""
    value = np.float64(value)
    if not implicit or value > 20:  # from where on torch takes softplus to be linear
        return value, 1.0
    return np.log1p(np.exp(value)), 1 / (1 + np.exp(-value))


@njit(cache=True, **OPTIONS)
def _prepare(packed, inner, sensory, inputs, epsilon, implicit, weights):
    count = inner.start.size - 1
    for i in range(count):
        leak, _ = _positive(packed[i], implicit)
        weights.neurons[LEAK_CURRENT, i] = leak * packed[count + i]
        weights.neurons[LEAK, i] = leak + epsilon
        weights.neurons[CAPACITANCE, i], _ = _positive(packed[2 * count + i], implicit)
    base, size = 3 * count, count * count
    mapping = 3 * count + 4 * count * count + 4 * inputs * count
    for synapses, lists, has_mapping in ((inner, weights.inner, False), (sensory, weights.sensory, True)):
        for e in range(synapses.source.size):
            place, source = synapses.place[e], synapses.source[e]
            sigma, mu = packed[base + place], packed[base + size + place]
            w, _ = _positive(packed[base + 2 * size + place], implicit)
            scale, shift = sigma, -sigma * mu
            if has_mapping:
                scale = sigma * packed[mapping + source]
                shift += sigma * packed[mapping + inputs + source]
            lists[e, GAIN], lists[e, OFFSET] = -DOUBLE_LOG2_E * scale, -DOUBLE_LOG2_E * shift
            lists[e, CONDUCTANCE], lists[e, DRIVE] = w, w * packed[base + 3 * size + place]
            lists[e, SLOPE] = scale
        base, size = base + 4 * size, inputs * count
    output = mapping + 2 * inputs
    outputs = weights.output.shape[1]
    for o in range(outputs):
        weights.output[0, o], weights.output[1, o] = packed[output + o], packed[output + outputs + o]


@njit(cache=True, **OPTIONS)
def _finish(block_sums, packed, inner, sensory, inputs, outputs, implicit, gradient):
    """Adds the blocks' sums (blocks, ·) in their order and writes the gradient of ``packed``."""
    sums = np.zeros(block_sums.shape[1], np.float64)
    for block in range(block_sums.shape[0]):
        for k in range(sums.size):
            sums[k] += block_sums[block, k]
    gradient[:] = 0
    count = inner.start.size - 1
    for i in range(count):
        leak, slope = _positive(packed[i], implicit)
        at = NEURON_SUMS * i
        gradient[i] = (packed[count + i] * sums[at] + sums[at + 1]) * slope
        gradient[count + i] = leak * sums[at]
        gradient[2 * count + i] = sums[at + 2] * _positive(packed[2 * count + i], implicit)[1]
    at, base, size = NEURON_SUMS * count, 3 * count, count * count
    mapping = 3 * count + 4 * count * count + 4 * inputs * count
    for synapses, has_mapping in ((inner, False), (sensory, True)):
        for e in range(synapses.source.size):
            place, source = synapses.place[e], synapses.source[e]
            sigma, mu, erev = packed[base + place], packed[base + size + place], packed[base + 3 * size + place]
            w, slope = _positive(packed[base + 2 * size + place], implicit)
            of_product, of_sum, of_conductance, of_drive = sums[at], sums[at + 1], sums[at + 2], sums[at + 3]
            at += SYNAPSE_SUMS
            of_sigma = of_product - mu * of_sum
            if has_mapping:
                gradient[mapping + source] += sigma * of_product
                gradient[mapping + inputs + source] += sigma * of_sum
                scale, shift = packed[mapping + source], packed[mapping + inputs + source]
                of_sigma = scale * of_product + (shift - mu) * of_sum
            gradient[base + place] = of_sigma
            gradient[base + size + place] = -sigma * of_sum
            gradient[base + 2 * size + place] = (of_conductance + erev * of_drive) * slope
            gradient[base + 3 * size + place] = w * of_drive
        base, size = base + 4 * size, inputs * count
    output = mapping + 2 * inputs
    for o in range(outputs):
        gradient[output + o], gradient[output + outputs + o] = sums[at], sums[at + 1]
        at += OUTPUT_SUMS


# The pass over a sequence. Lanes are sequences; `times` is of `step_times`, or empty where each step takes `elapsed`.
# Where the state stays the kernel computes with an elapsed time of 1, whatever comes of it, and takes the old state.


@kernel_part
def _opening(potential, lists, e):
    """S of synapse e."""
    return 1 / (1 + exp2(lists[e, GAIN] * potential + lists[e, OFFSET]))


@kernel_part
def _drive(tile, pace, neurons, lists, synapses, drive):
    """n⁰ and d⁰ + cm r of each neuron into ``drive`` (2 N,), from the inputs of a step."""
    keep_apart()
    for i in range(neurons.shape[1]):
        numerator = fill(neurons[LEAK_CURRENT, i])
        denominator = neurons[LEAK, i] + neurons[CAPACITANCE, i] * pace
        for e in range(synapses.start[i], synapses.start[i + 1]):
            opening = _opening(load(tile, synapses.source[e]), lists, e)
            numerator += lists[e, DRIVE] * opening
            denominator += lists[e, CONDUCTANCE] * opening
        store(drive, 2 * i, numerator)
        store(drive, 2 * i + 1, denominator)


@kernel_part
def _solve(drive, pace, neurons, lists, synapses, unfolds, path, reciprocals):
    """All unfolds of a step: from the first N of ``path`` on, each writes the next N, and 1/d."""
    keep_apart()
    count = neurons.shape[1]
    for unfold in range(unfolds):
        before = unfold * count
        for i in range(count):
            numerator = load(drive, 2 * i) + neurons[CAPACITANCE, i] * pace * load(path, before + i)
            denominator = load(drive, 2 * i + 1)
            for e in range(synapses.start[i], synapses.start[i + 1]):
                opening = _opening(load(path, before + synapses.source[e]), lists, e)
                numerator += lists[e, DRIVE] * opening
                denominator += lists[e, CONDUCTANCE] * opening
            reciprocal = 1 / denominator
            store(reciprocals, before + i, reciprocal)
            store(path, before + count + i, numerator * reciprocal)


@njit(cache=True, nogil=True, **OPTIONS)
def _forward(
    first, last, x, state, elapsed, times, weights, inner, sensory, unfolds, y, final, path, reciprocals, keep, memory
):  # fmt: skip
    """Blocks ``first`` to ``last`` of x (B, T, C) and state (B, 1, N) → y (B, T, O), zero at padding, final (B, 1, N).

    ``path`` (blocks, T (unfolds + 1) + 1, N, LANES) gets the potentials before the first unfold of a step and after
    each, ``reciprocals`` (blocks, T unfolds, N, LANES) 1/d. If not ``keep``, each step overwrites the one before.
    ``memory`` is a :class:`Memory` that writes the potentials before each step, or None.
    """
    steps, inputs, count, outputs = x.shape[1], x.shape[2], state.shape[2], y.shape[2]
    kept = steps if keep else 1
    step_size, solved_size = (unfolds + 1) * count * LANES, unfolds * count * LANES
    block_size = kept * step_size + count * LANES
    values, drive = new_tile(inputs + count, x).reshape(1, -1), new_tile(2 * count, x)
    tile = values[0, : inputs * LANES]
    time_tile, output_tile = new_tile(1, x), new_tile(outputs, x)
    time_tile[:] = elapsed
    if memory is not None:
        work = open_memory(memory)
    for block in range(first, last):
        row, now = block * LANES, path[block * block_size :]
        solved = reciprocals[block * kept * solved_size :]
        read_step(state, row, 0, now)
        if memory is not None:
            begin_memory(memory, work, block, 0)
        for step in range(steps):
            read_step(x, row, step, tile)
            if times.size:
                read_step(times, row, step, time_tile)
                hide_padding(time_tile, tile, inputs)
            if memory is not None:
                for i in range(count):
                    store(values[0], inputs + i, load(now, i))
                remember(memory, work, values, time_tile.reshape(1, -1), block, 1, step, steps)
                for i in range(count):
                    store(now, i, load(values[0], inputs + i))
            time = load(time_tile, 0)
            pace = unfolds / where_positive(time, time, 1)
            _drive(tile, pace, weights.neurons, weights.sensory, sensory, drive)
            _solve(drive, pace, weights.neurons, weights.inner, inner, unfolds, now, solved)
            later = now[step_size:] if keep else now
            for i in range(count):
                potential = where_positive(time, load(now, unfolds * count + i), load(now, i))
                store(later, i, potential)
                if i < outputs:
                    store(output_tile, i, weights.output[0, i] * potential + weights.output[1, i])
            hide_padding(time_tile, output_tile, outputs)
            write_step(output_tile, y, row, step)
            if keep:
                now, solved = later, solved[solved_size:]
        write_step(now, final, row, 0)
        if memory is not None:
            end_memory(memory, work, block, 0)


@kernel_part
def _add(sums, index, lanes):
    store(sums, index, load(sums, index) + lanes)


@kernel_part
def _synapse_back(potential, of_numerator, of_denominator, lists, e, sums):
    """Adds to the sums of synapse e and returns the gradient of its presynaptic potential."""
    opening = _opening(potential, lists, e)
    pull = of_numerator * lists[e, DRIVE] + of_denominator * lists[e, CONDUCTANCE]
    pull = pull * (opening * (1 - opening))
    _add(sums, SYNAPSE_SUMS * e, pull * potential)
    _add(sums, SYNAPSE_SUMS * e + 1, pull)
    _add(sums, SYNAPSE_SUMS * e + 2, of_denominator * opening)
    _add(sums, SYNAPSE_SUMS * e + 3, of_numerator * opening)
    return lists[e, SLOPE] * pull


@kernel_part
def _solve_back(pace, neurons, lists, synapses, unfolds, path, reciprocals, of_path, step_sums, sums):
    """The reverse of :func:`_solve`: from the last N of ``of_path`` to the first N.

    The neurons' sums over the unfolds go to ``step_sums``, those of the synapses to ``sums``.
    """
    keep_apart()
    count = neurons.shape[1]
    of_path[: unfolds * count * LANES] = 0
    step_sums[:] = 0
    for unfold in range(unfolds - 1, -1, -1):
        before = unfold * count
        for i in range(count):
            of_numerator = load(of_path, before + count + i) * load(reciprocals, before + i)
            of_denominator = -of_numerator * load(path, before + count + i)
            _add(step_sums, NEURON_SUMS * i, of_numerator)
            _add(step_sums, NEURON_SUMS * i + 1, of_denominator)
            _add(step_sums, NEURON_SUMS * i + 2, of_numerator * load(path, before + i) + of_denominator)
            _add(of_path, before + i, of_numerator * (neurons[CAPACITANCE, i] * pace))
            for e in range(synapses.start[i], synapses.start[i + 1]):
                source = before + synapses.source[e]
                of_source = _synapse_back(load(path, source), of_numerator, of_denominator, lists, e, sums)
                _add(of_path, source, of_source)


@kernel_part
def _drive_back(tile, lists, synapses, step_sums, of_tile, sums):
    """The reverse of :func:`_drive`, as far as its synapses go: gradients of the inputs into ``of_tile``."""
    keep_apart()
    of_tile[:] = 0
    for i in range(synapses.start.size - 1):
        of_numerator, of_denominator = load(step_sums, NEURON_SUMS * i), load(step_sums, NEURON_SUMS * i + 1)
        for e in range(synapses.start[i], synapses.start[i + 1]):
            source = synapses.source[e]
            of_source = _synapse_back(load(tile, source), of_numerator, of_denominator, lists, e, sums)
            _add(of_tile, source, of_source)


@njit(cache=True, nogil=True, **OPTIONS)
def _backward(
    first, last, x, elapsed, times, weights, inner, sensory, unfolds, path, reciprocals,
    of_y, of_final, of_x, of_state, of_times, block_sums, memory,
):  # fmt: skip
    """The reverse of :func:`_forward`, ``of_…`` being gradients; of_x and of_times are left out if they are empty.

    ``memory`` is a :class:`MemoryGradients` or None.
    """
    steps, inputs, count, outputs = x.shape[1], x.shape[2], of_state.shape[2], of_y.shape[2]
    step_size, solved_size = (unfolds + 1) * count * LANES, unfolds * count * LANES
    block_size = steps * step_size + count * LANES
    tile, of_values = new_tile(inputs, x), new_tile(inputs + count + TILE, x)
    of_tile = of_values[: inputs * LANES]
    time_tile, of_time, of_output = new_tile(1, x), new_tile(1, x), new_tile(outputs, x)
    time_tile[:] = elapsed
    of_path, staying = new_tile((unfolds + 1) * count, x), new_tile(count, x)
    step_sums, sums = new_tile(NEURON_SUMS * count, x), new_tile(block_sums.shape[1], x)
    of_inner = sums[NEURON_SUMS * count * LANES :]
    of_sensory = of_inner[SYNAPSE_SUMS * inner.source.size * LANES :]
    of_outputs = of_sensory[SYNAPSE_SUMS * sensory.source.size * LANES :]
    end, skip = unfolds * count, 0 if of_x.size else inputs
    if memory is not None:
        work = open_memory_back(memory, skip)
    for block in range(first, last):
        row, sums[:] = block * LANES, 0
        read_step(of_final, row, 0, of_path)
        if memory is not None:
            begin_memory_back(memory, work, block)
        for step in range(steps - 1, -1, -1):
            now = path[block * block_size + step * step_size :]
            solved = reciprocals[(block * steps + step) * solved_size :]
            read_step(x, row, step, tile)
            read_step(of_y, row, step, of_output)
            if times.size:
                read_step(times, row, step, time_tile)
                hide_padding(time_tile, tile, inputs)
                hide_padding(time_tile, of_output, outputs)
            time = load(time_tile, 0)
            pace = unfolds / where_positive(time, time, 1)
            for i in range(outputs):
                gradient = load(of_output, i)
                # Not that before the next step, which a memory has written.
                potential = where_positive(time, load(now, end + i), load(now, i))
                _add(of_outputs, OUTPUT_SUMS * i, gradient * potential)
                _add(of_outputs, OUTPUT_SUMS * i + 1, gradient)
                _add(of_path, i, weights.output[0, i] * gradient)
            for i in range(count):
                gradient = load(of_path, i)
                store(of_path, end + i, where_positive(time, gradient, 0))
                store(staying, i, where_positive(time, 0, gradient))
            _solve_back(pace, weights.neurons, weights.inner, inner, unfolds, now, solved, of_path, step_sums, of_inner)
            of_rate = 0 * pace
            for i in range(count):
                _add(of_path, i, load(staying, i))
                of_capacity = load(step_sums, NEURON_SUMS * i + 2)
                of_rate += of_capacity * weights.neurons[CAPACITANCE, i]
                _add(sums, NEURON_SUMS * i, load(step_sums, NEURON_SUMS * i))
                _add(sums, NEURON_SUMS * i + 1, load(step_sums, NEURON_SUMS * i + 1))
                _add(sums, NEURON_SUMS * i + 2, of_capacity * pace)
            _drive_back(tile, weights.sensory, sensory, step_sums, of_tile, of_sensory)
            if memory is not None:
                for i in range(count):
                    store(of_values, inputs + i, load(of_path, i))
                remember_back(memory, work, of_values, time_tile, block, step, steps, skip)
                for i in range(count):
                    store(of_path, i, load(of_values, inputs + i))
            if of_x.size:
                write_step(of_tile, of_x, row, step)
            if of_times.size:
                store(of_time, 0, -of_rate * pace * pace / unfolds)  # r = unfolds / elapsed
                write_step(of_time, of_times, row, step)
        write_step(of_path, of_state, row, 0)
        if memory is not None:
            end_memory_back(memory, work, block)
        for k in range(block_sums.shape[1]):
            block_sums[block, k] = total(load(sums, k))


# One step of one sequence. Lanes are synapses here; a list's end is filled up with synapses of no conductance.


def step_arrays(plan: LTCPlan, parameters: list[Tensor]) -> tuple[np.ndarray, ...]:
    """The arrays of :func:`tick` after y, copies of the parameters, which are given as to :data:`integrate`."""
    packed = torch.cat([parameter.detach().flatten() for parameter in parameters]).numpy()
    weights = _weights(plan, packed)
    lists, index = [], [plan.unfolds]
    for synapses, values in ((plan.inner, weights.inner), (plan.sensory, weights.sensory)):
        filling = -len(synapses.source) % LANES
        lists.append(np.pad(values[:, :SLOPE], ((0, filling), (0, 0))).T)
        index.extend([len(synapses.source) + filling, *synapses.start, *synapses.source, *[0] * filling])
    numbers = np.concatenate([part.ravel() for part in (weights.neurons, weights.output, *lists)])
    # Numerators and denominators, those of the sensory synapses alone, and openings.
    scratch = np.empty(4 * plan.neurons + max(part.shape[1] for part in lists), packed.dtype)
    return numbers, np.array(index), scratch


@kernel_part
def _add_currents(potential, lists, start, source, opening, numerator, denominator):
    """Adds Σ w s E and Σ w s of all synapses to the neurons' sums."""
    size = source.size
    gain, offset = lists[GAIN * size : OFFSET * size], lists[OFFSET * size : CONDUCTANCE * size]
    conductance, drive = lists[CONDUCTANCE * size : DRIVE * size], lists[DRIVE * size : SLOPE * size]
    for e in range(size):
        opening[e] = potential[source[e]]
    for k in range(size // LANES):
        store(opening, k, 1 / (1 + exp2(load(gain, k) * load(opening, k) + load(offset, k))))
    for i in range(numerator.size):
        for e in range(start[i], start[i + 1]):
            numerator[i] += drive[e] * opening[e]
            denominator[i] += conductance[e] * opening[e]


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers, index, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`step_arrays`."""
    count, outputs = state.size, y.size
    leak_current, leak, capacitance = numbers[:count], numbers[count : 2 * count], numbers[2 * count : 3 * count]
    output = numbers[3 * count : 3 * count + 2 * outputs]
    if elapsed > 0:
        unfolds, inner_size = index[0], index[1]
        inner_start, inner_source = index[2 : count + 3], index[count + 3 : count + 3 + inner_size]
        rest = index[count + 3 + inner_size :]
        sensory_start, sensory_source = rest[1 : count + 2], rest[count + 2 :]
        inner = numbers[3 * count + 2 * outputs :]
        sensory = inner[4 * inner_size :]
        numerator, denominator = scratch[:count], scratch[count : 2 * count]
        step_numerator, step_denominator = scratch[2 * count : 3 * count], scratch[3 * count : 4 * count]
        opening = scratch[4 * count :]
        rate = unfolds / elapsed
        for i in range(count):
            step_numerator[i], step_denominator[i] = leak_current[i], leak[i] + capacitance[i] * rate
        _add_currents(x, sensory, sensory_start, sensory_source, opening, step_numerator, step_denominator)
        for _ in range(unfolds):
            for i in range(count):
                numerator[i], denominator[i] = step_numerator[i] + capacitance[i] * rate * state[i], step_denominator[i]
            _add_currents(state, inner, inner_start, inner_source, opening, numerator, denominator)
            for i in range(count):
                state[i] = numerator[i] / denominator[i]
    for o in range(outputs):
        y[o] = output[o] * state[o] + output[outputs + o]


# For torch


def plan_of(options: str, masks: Sequence[np.ndarray] | None) -> LTCPlan:
    """The plan of a layer.

    Args:
        options: with spaces between them, the numbers of inputs, neurons, outputs and unfolds, epsilon, and whether
            gleak, cm and w go through softplus.
        masks: (C, N) of the sensory synapses and (N, N) of the inner ones, zero where there is no synapse; without
            them every synapse is there.
    """
    inputs, neurons, outputs, unfolds, epsilon, implicit = options.split()
    sensory, inner = masks or (np.ones((int(size), int(neurons))) for size in (inputs, neurons))
    return LTCPlan(
        Synapses.of(inner),
        Synapses.of(sensory),
        int(inputs),
        int(outputs),
        int(unfolds),
        float(epsilon),
        implicit == "True",
    )


def _sizes_kept(plan: LTCPlan, batch: int, steps: int, time: float | None, masked: bool) -> Sizes:
    """Of the packed parameters, the times, and path and reciprocals of :func:`_forward`."""
    count, lanes = plan.neurons, block_count(batch) * LANES
    parameters = 3 * count + 4 * (count + plan.inputs) * count + 2 * (plan.inputs + plan.outputs)
    timed = time is None or masked or time <= 0
    solves = plan.unfolds * steps
    return (
        (parameters,),
        (batch, steps, 1) if timed else (0, 0, 0),
        (lanes * (solves + steps + 1) * count,),
        (lanes * solves * count,),
    )


def _integrate(
    plan: LTCPlan,
    x: Tensor,
    state: Tensor,
    elapsed: float | Tensor,
    mask: Tensor | None,
    parameters: Sequence[Tensor],
    keep: bool,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor, Kept]:
    """Y (B, T, O), the final state (B, N), and what a backward pass needs if ``keep``."""
    batch, steps, _ = x.shape
    rows = x.detach().contiguous().numpy()
    packed = _flatten_dense_tensors(parameters).numpy()
    weights = _weights(plan, packed)
    times = step_times(elapsed, mask, batch, steps, rows.dtype)
    time = None if isinstance(elapsed, Tensor) else elapsed
    y, final = x.new_empty(batch, steps, plan.outputs), torch.empty_like(state, memory_format=torch.contiguous_format)
    *_, (path_size,), (reciprocals_size,) = _sizes_kept(plan, batch, steps if keep else 1, time, mask is not None)
    path, reciprocals = Buffer(path_size, rows.dtype), Buffer(reciprocals_size, rows.dtype)
    start = state.detach().contiguous().numpy()
    over_blocks(
        _forward, block_count(batch), _work(plan, batch * steps) + work_of(memory, batch * steps), rows, start[:, None],
        1.0 if time is None else time, times, weights, plan.inner, plan.sensory, plan.unfolds, y.numpy(),
        final.numpy()[:, None], path.values, reciprocals.values, keep, memory,
    )  # fmt: skip
    return y, final, [packed, times, path, reciprocals] if keep else []


def _gradients(
    plan: LTCPlan,
    x: Tensor,
    time: float | None,
    kept: Sequence[np.ndarray],
    of_y: Tensor,
    of_final: Tensor,
    wants_x: bool,
    wants_elapsed: bool,
    memory: MemoryGradients | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of x (B, T, C), the initial state (B, N), the elapsed times (B, T), and the parameters, end to end."""
    batch, steps, inputs = x.shape
    packed, times, path, reciprocals = kept
    of_x = of_y.new_empty(x.shape if wants_x else (0, 0, 0))
    of_times = of_y.new_empty((batch, steps, 1) if wants_elapsed else (0, 0, 0))
    of_state = of_y.new_empty(batch, 1, plan.neurons)
    blocks, weights = block_count(batch), _weights(plan, packed)
    sums = NEURON_SUMS * plan.neurons + SYNAPSE_SUMS * (len(weights.inner) + len(weights.sensory))
    block_sums = np.empty((blocks, sums + OUTPUT_SUMS * plan.outputs), packed.dtype)
    over_blocks(
        _backward, blocks, _work(plan, batch * steps) + work_of(memory, batch * steps), x.detach().contiguous().numpy(),
        1.0 if time is None else time, times, weights, plan.inner, plan.sensory, plan.unfolds, path, reciprocals,
        of_y.contiguous().numpy(), of_final.contiguous().numpy()[:, None], of_x.numpy(), of_state.numpy(),
        of_times.numpy(), block_sums, memory,
    )  # fmt: skip
    of_packed = of_y.new_empty(packed.size)
    _finish(block_sums, packed, plan.inner, plan.sensory, inputs, plan.outputs, plan.implicit, of_packed.numpy())
    return of_x, of_state[:, 0], of_times.flatten(1), of_packed


integrate = SequenceKernel("the LTC", "ltc", plan_of, _integrate, _gradients, _sizes_kept, reads_x=True)
"""What `LTC.fused_cpu` gives.

Its parameters are gleak, vleak, cm, sigma, mu, w, erev, the sensory sigma, mu, w, erev, and scale and shift of the
input and of the output: ones and zeros where there is no mapping.
"""

integrate_with_memory = with_memory(
    "the LTC with a memory", "ltc_with_memory", plan_of, _integrate, _gradients, _sizes_kept, reads_x=True
)
"""The same of `LTC.fused_cpu_with_memory`."""


def _weights(plan: LTCPlan, packed: np.ndarray) -> Weights:
    sizes = ((3, plan.neurons), (len(plan.inner.source), 5), (len(plan.sensory.source), 5), (2, plan.outputs))
    weights = Weights(*(np.empty(size, packed.dtype) for size in sizes))
    _prepare(packed, plan.inner, plan.sensory, plan.inputs, plan.epsilon, plan.implicit, weights)
    return weights


def _work(plan: LTCPlan, steps: int) -> int:
    """Sigmoids in so many steps."""
    return steps * (plan.unfolds * len(plan.inner.source) + len(plan.sensory.source))

"""Closed-form neurons (CfC) on the CPU: whole sequences forward and backward, and a single control step.

The equations are in `liquid_control.nn.cfc`. A kernel takes sixteen sequences through the steps; within a step group
after group, each driven by the group before it (the first by the inputs) and by its own state. Inputs and states lie
one after another, [inputs | inter | command | motor], so what drives a group is one piece of them and its heads are one
small dense product. Synapses that the wiring leaves out are zeros in it: to look up where the others are costs more.
Layers without a wiring have kernels of their own, `liquid_control.kernels.cfc_dense`.

At an elapsed time t that never changes, the gate's t·a(z) + b(z) is linear in z: one head instead of two.

The backward pass walks back through steps and groups and keeps what reaches the heads. The gradients of the weights are
then products over all steps of a block at once.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from liquid_control.kernels import is_known
from liquid_control.kernels.activations import ACTIVATIONS
from liquid_control.kernels.autograd import Kept, SequenceKernel, Sizes
from liquid_control.kernels.batch import (
    Buffer,
    block_count,
    hide_padding,
    new_tile,
    over_blocks,
    read_step,
    step_times,
    write_step,
)
from liquid_control.kernels.dense import whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, exp2, kernel_part, sigmoid, tanh
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
from liquid_control.kernels.products import (
    TILE,
    add_product,
    add_products,
    into_tiles,
    outer_products,
    row_stride,
    tiled_size,
)
from liquid_control.kernels.simd import LANES, fill, load, store, total, where_positive

MODES = {"default": 0, "no_gate": 1, "pure": 2}
DEFAULT, NO_GATE, PURE = MODES.values()

LOG2_E = math.log2(math.e)

FIRST, SIZE, SOURCE, FAN, BEGIN = range(5)
"""Columns of :attr:`PackedHeads.groups`."""


# A neuron: its new state from its heads g, h and gate, and the way back; all are Lanes


@kernel_part
def pure_solution(g, time, rate, amplitude):
    """A - A e^(-t (w + |g|)) g, of w = |w_τ| and A."""
    return amplitude - amplitude * exp2(-LOG2_E * time * (rate + where_positive(g, g, -g))) * g


@kernel_part
def pure_gradients(g, time, rate, amplitude, new):
    """From the gradient of :func:`pure_solution` those of g, w and t, and what that of A is less than it."""
    rate = rate + where_positive(g, g, -g)
    decay = exp2(-LOG2_E * time * rate) * new
    of_exponent = amplitude * decay * g
    of_rate = of_exponent * time
    return where_positive(g, of_rate, -of_rate) - amplitude * decay, of_rate, of_exponent * rate, decay * g


@kernel_part
def gated_solution(mode, g, h, gate):
    """The mode's own, of heads after their functions tanh, tanh and σ."""
    return g + gate * h if mode == NO_GATE else g + gate * (h - g)


@kernel_part
def gated_gradients(mode, g, h, gate, new):
    """From the gradient of :func:`gated_solution` those of the heads before their functions."""
    if mode == NO_GATE:
        of_g, of_gate = new, new * h
    else:
        of_g, of_gate = new - new * gate, new * (h - g)
    of_gate *= gate - gate * gate
    return of_g - of_g * g * g, new * gate * (1 - h * h), of_gate


# The kernels


@njit(nogil=True, cache=True, **OPTIONS)
def _forward(
    first_block, last_block, x, state, times, weight, bias, pure, groups, mode, y, final, sources, activations, memory,
):  # fmt: skip
    """All steps of the blocks ``first_block`` to ``last_block``.

    Args:
        first_block: see `liquid_control.kernels.batch`, as for the layout of sixteens that flat arrays have here.
        last_block: the same.
        x: (B, T, C).
        state: (B, 1, S) before the first step.
        times: of `step_times`; or empty, if the gate's heads are merged for a constant one.
        weight: as `PackedHeads` has them.
        bias: as `PackedHeads` has them.
        pure: w_τ and A one after the other, or empty.
        groups: of `PackedHeads`.
        mode: DEFAULT, NO_GATE or PURE.
        y: (B, T, O) receives the first O neurons of the last group, zeros at padding.
        final: (B, 1, S) receives the state after the last step.
        sources: (blocks, sources, T, 16) receives what drives the groups; or is empty. Between its rows are
            :func:`row_stride` sixteens.
        activations: (blocks, T, heads, S, 16) receives g, h, gate, a (or g alone), unless ``sources`` is empty.
        memory: a :class:`Memory` that writes the state before each step, or None.
    """
    steps, inputs, neurons, outputs = x.shape[1], x.shape[2], state.shape[2], y.shape[2]
    stride, keep = row_stride(steps), sources.size > 0
    heads_each, seen_by_all = bias.size // neurons, groups[:, FAN].sum()
    motor = inputs + groups[-1, FIRST]
    # Two blocks at a time, as long as there are two.
    values, now = new_tile(2 * (inputs + neurons), x).reshape(2, -1), new_tile(2, x).reshape(2, -1)
    heads = new_tile(2 * (bias.size + TILE), x).reshape(2, -1)
    now[:] = 1
    if memory is not None:
        work = open_memory(memory)
    size = 0
    for group in groups:
        size += tiled_size(heads_each * group[SIZE], group[FAN])
    tiles = np.empty(size, x.dtype)
    end = 0
    for group in groups:
        fan = group[FAN]
        end = into_tiles(weight, group[BEGIN], fan, 1, heads_each * group[SIZE], fan, tiles, end)
    zero = fill(bias.dtype.type(0))
    time = zero
    for pair in range(first_block, last_block, 2):
        blocks = range(pair, min(pair + 2, last_block))
        for block in blocks:
            read_step(state, block * LANES, 0, values[block - pair, inputs * LANES :])
            if memory is not None:
                begin_memory(memory, work, block, block - pair)
        for step in range(steps):
            for block in blocks:
                read_step(x, block * LANES, step, values[block - pair])
                if times.size:
                    read_step(times, block * LANES, step, now[block - pair])
                    hide_padding(now[block - pair], values[block - pair], inputs)
            if memory is not None:
                remember(memory, work, values, now, pair, len(blocks), step, steps)
            place = 0
            seen = 0
            for first, size, source, fan, _ in groups:
                rows = heads_each * size
                for block in blocks:
                    for row in range(rows):
                        store(heads[block - pair], row, fill(bias[heads_each * first + row]))
                place = add_products(tiles, place, rows, fan, values, source, heads, 0, len(blocks) == 2)
                for block in blocks:
                    own, own_heads = values[block - pair], heads[block - pair]
                    record = (block * steps + step) * bias.size
                    if times.size:
                        time = load(now[block - pair], 0)
                        time = where_positive(time, time, zero)
                    if keep:
                        for index in range(fan):
                            row = block * seen_by_all + seen + index
                            store(sources, row * stride + step, load(own, source + index))
                    for index in range(size):
                        neuron = first + index
                        g = load(own_heads, index)
                        if mode == PURE:
                            new = pure_solution(g, time, abs(pure[neuron]), pure[neurons + neuron])
                            if keep:
                                store(activations, record + neuron, g)
                        else:
                            g, h, gate = tanh(g), tanh(load(own_heads, size + index)), load(own_heads, 2 * size + index)
                            if heads_each == 4:
                                if keep:
                                    store(activations, record + 3 * neurons + neuron, gate)
                                gate = gate * time + load(own_heads, 3 * size + index)
                            gate = sigmoid(gate)
                            if keep:
                                store(activations, record + neuron, g)
                                store(activations, record + neurons + neuron, h)
                                store(activations, record + 2 * neurons + neuron, gate)
                            new = gated_solution(mode, g, h, gate)
                        if times.size:
                            new = where_positive(time, new, load(own, inputs + neuron))
                        store(own, inputs + neuron, new)
                seen += fan
            for block in blocks:
                output = values[block - pair, motor * LANES :]
                if times.size:
                    # One by one: the text of the error that a slice may raise is a quarter of the time of compilation.
                    for index in range(outputs):
                        store(heads[block - pair], index, load(output, index))
                    output = heads[block - pair]
                    hide_padding(now[block - pair], output, outputs)
                write_step(output, y, block * LANES, step)
        for block in blocks:
            write_step(values[block - pair, inputs * LANES :], final, block * LANES, 0)
            if memory is not None:
                end_memory(memory, work, block, block - pair)


@njit(nogil=True, cache=True, **OPTIONS)
def _backward(
    first_block, last_block, inputs, times, weight, pure, groups, mode, sources, activations, of_y, of_final, of_x,
    of_state, of_times, of_heads, of_packed, memory,
):  # fmt: skip
    """The reverse of :func:`_forward`, ``of_…`` being gradients; of_x and of_times are left out if they are empty.

    ``of_heads`` is (blocks, head rows, T, 16), strided as ``sources``: what reaches the heads. ``of_packed`` is
    (blocks, weights, biases, w_τ and A). ``memory`` is a :class:`MemoryGradients` or None.
    """
    steps, neurons, outputs = of_y.shape[1], of_state.shape[2], of_y.shape[2]
    stride, seen_by_all = row_stride(steps), groups[:, FAN].sum()
    all_rows = of_packed.shape[1] - weight.size - pure.size
    heads_each = all_rows // neurons
    motor, x_wanted = inputs + groups[-1, FIRST], of_x.size > 0
    values, heads = new_tile(inputs + neurons + TILE, weight), new_tile(all_rows, weight)
    now, of_pure = new_tile(1, weight), new_tile(pure.size, weight)
    # The transposed weights in the order of use; what leads to the inputs only if their gradient is wanted.
    skip = 0 if x_wanted else inputs
    now[:] = 1
    if memory is not None:
        work = open_memory_back(memory, skip)
    size = 0
    for group in groups:
        size += tiled_size(group[FAN], heads_each * group[SIZE])
    tiles = np.empty(size, weight.dtype)
    end = 0
    for group in range(len(groups) - 1, -1, -1):
        _, size, _, fan, begin = groups[group]
        passed = 0 if group else skip
        end = into_tiles(weight, begin + passed, 1, fan, fan - passed, heads_each * size, tiles, end)
    zero = fill(weight.dtype.type(0))
    time = zero
    for block in range(first_block, last_block):
        of_pure[:] = 0
        row_0, source_0 = block * all_rows, block * seen_by_all
        read_step(of_final, block * LANES, 0, values[inputs * LANES :])
        if memory is not None:
            begin_memory_back(memory, work, block)
        for step in range(steps - 1, -1, -1):
            read_step(of_y, block * LANES, step, heads)
            if times.size:
                read_step(times, block * LANES, step, now)
                hide_padding(now, heads, outputs)
                time = load(now, 0)
                time = where_positive(time, time, zero)
            for index in range(outputs):
                store(values, motor + index, load(values, motor + index) + load(heads, index))
            values[: inputs * LANES] = 0
            of_time = zero
            record = (block * steps + step) * all_rows
            place = 0
            for group in range(len(groups) - 1, -1, -1):
                first, size, source, fan, _ = groups[group]
                for index in range(size):
                    neuron = first + index
                    new, staying = load(values, inputs + neuron), zero
                    if times.size:
                        new, staying = where_positive(time, new, zero), where_positive(time, zero, new)
                    store(values, inputs + neuron, staying)
                    g = load(activations, record + neuron)
                    if mode == PURE:
                        of_g, of_rate, of_its_time, less = pure_gradients(
                            g, time, abs(pure[neuron]), pure[neurons + neuron], new
                        )
                        store(heads, index, of_g)
                        of_time += of_its_time
                        store(of_pure, neuron, load(of_pure, neuron) + of_rate)
                        store(of_pure, neurons + neuron, load(of_pure, neurons + neuron) + new - less)
                    else:
                        h = load(activations, record + neurons + neuron)
                        gate = load(activations, record + 2 * neurons + neuron)
                        of_g, of_h, of_gate = gated_gradients(mode, g, h, gate, new)
                        store(heads, index, of_g)
                        store(heads, size + index, of_h)
                        if heads_each == 4:
                            of_time += of_gate * load(activations, record + 3 * neurons + neuron)
                            store(heads, 2 * size + index, of_gate * time)
                            store(heads, 3 * size + index, of_gate)
                        else:
                            store(heads, 2 * size + index, of_gate)
                rows = heads_each * size
                for row in range(rows):
                    store(of_heads, (row_0 + heads_each * first + row) * stride + step, load(heads, row))
                passed = 0 if group else skip
                place = add_product(tiles, place, fan - passed, rows, heads, 0, values, source + passed)
            if memory is not None:
                remember_back(memory, work, values, now, block, step, steps, skip)
            if x_wanted:
                write_step(values, of_x, block * LANES, step)
            if of_times.size:
                store(now, 0, of_time)
                write_step(now, of_times, block * LANES, step)
        write_step(values[inputs * LANES :], of_state, block * LANES, 0)
        if memory is not None:
            end_memory_back(memory, work, block)

        sums = of_packed[block]
        seen = source_0
        for first, size, _, fan, begin in groups:
            row = row_0 + heads_each * first
            rows = heads_each * size
            outer_products(of_heads, row * stride, rows, sources, seen * stride, fan, stride, steps, sums, begin)
            seen += fan
        for row in range(all_rows):
            of_bias = zero
            for step in range(steps):
                of_bias += load(of_heads, (row_0 + row) * stride + step)
            sums[weight.size + row] = total(of_bias)
        for index in range(pure.size):
            sums[weight.size + all_rows + index] = total(load(of_pure, index))
        for neuron in range(pure.size // 2):
            sums[weight.size + all_rows + neuron] *= np.sign(pure[neuron])


# One step of one sequence. Lanes are neurons here; sums are made in fours, of sixteen neurons each.


@kernel_part
def add_four_sums(sums, values, first, last, numbers, place):
    """Adds to four sums what values[first:last] drive them with; returns them and the place after their weights."""
    a, b, c, d = sums
    for source in range(first, last):
        value = values[source]
        a += value * load(numbers, place)
        b += value * load(numbers, place + 1)
        c += value * load(numbers, place + 2)
        d += value * load(numbers, place + 3)
        place += 4
    return (a, b, c, d), place


@kernel_part
def four_biases(numbers, place):
    """What four sums begin with."""
    return load(numbers, place), load(numbers, place + 1), load(numbers, place + 2), load(numbers, place + 3)


@kernel_part
def solution(mode, sums, elapsed):
    """The new state of sixteen neurons, from the sums of their heads, or from those that mode "pure" has instead."""
    g, h, a, b = sums
    if mode == PURE:
        return pure_solution(g, elapsed, a, h)
    g, h, gate = tanh(g), tanh(h), sigmoid(a * elapsed + b)
    return gated_solution(mode, g, h, gate)


@kernel_part
def write_outputs(y, values, projected, numbers, begin):
    """Writes the first values to y, or what the projection, which begins there, makes of the first ``projected``."""
    if not projected:
        for output in range(y.size):
            y[output] = values[output]
        return
    bias = begin + y.size * projected
    for output in range(y.size):
        mapped = numbers[bias + output]
        for index in range(projected):
            mapped += numbers[begin + output * projected + index] * values[index]
        y[output] = mapped


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers):
    """A :data:`liquid_control.kernels.step.Tick`; ``numbers`` are :func:`step_numbers`."""
    mode, groups, motors, last = int(numbers[0]), int(numbers[1]), int(numbers[2]), int(numbers[3])
    scratch = numbers[LANES * int(numbers[4]) :]
    if elapsed > 0:
        first, before = 0, 0
        place = int(numbers[5])
        for group in range(groups):
            size = int(numbers[6 + group])
            # The heads are complete before a neuron changes: it drives the others of its group.
            for block in range(-(-size // LANES)):
                sums, place = four_biases(numbers, place), place + 4
                sums, place = add_four_sums(sums, x, 0, 0 if group else x.size, numbers, place)
                sums, place = add_four_sums(sums, state, first - before, first + size, numbers, place)
                store(scratch, block, solution(mode, sums, elapsed))
            for neuron in range(size):
                state[first + neuron] = scratch[neuron]
            before = size
            first += size
    write_outputs(y, state[last:], motors, numbers, 6 + groups)


def step_numbers(plan: CfCPlan, parameters: list[Tensor], projection: tuple[Tensor, Tensor] | None) -> np.ndarray:
    """What :func:`tick` takes after y: all in one array, since each costs as much as a quarter of its arithmetic.

    First come the mode, the number of groups, the motor neurons to project (0 for none), the first motor neuron, where
    (in sixteens) its own memory is and where the weights begin; the sizes of the groups; weight and bias of the
    projection; and from a whole sixteen on what :func:`pack_heads` gives of each group.

    Args:
        plan: from :func:`build_plan`.
        parameters: in the order of :func:`build_plan`.
        projection: weight (O, motor neurons) and bias (O) of the outputs, or None.
    """
    heads = plan.varying
    weight, bias, pure = heads.parts(heads.pack([parameter.detach() for parameter in parameters], 1.0))
    sizes = heads.groups[:, SIZE]
    parts = []
    for first, size, _, fan, begin in heads.groups.tolist():
        count = heads.heads_each * size
        of_group = bias[heads.heads_each * first :][:count], weight[begin : begin + count * fan]
        parts.append(pack_heads(size, *of_group, pure.reshape(2, -1)[:, first : first + size]))
    motors = 0 if projection is None else plan.outputs
    header = [plan.mode, len(sizes), motors, heads.neurons - int(sizes[-1])]
    return tick_numbers(header, sizes.tolist(), projection, parts, whole_lanes(heads.neurons))


def pack_heads(size: int, bias: np.ndarray, weight: np.ndarray, pure: np.ndarray) -> np.ndarray:
    """Sixteen neurons after another, the biases of g, h, a and b, then their weights, source after source.

    In mode "pure" the bias of h is A and that of a is the size of w_τ.

    Args:
        size: number of neurons, N.
        bias: (heads · N,).
        weight: (heads · N · sources,).
        pure: w_τ and A (2, N), or (2, 0).
    """
    count = len(bias) // size
    matrix = np.zeros((4, whole_lanes(size), 1 + len(weight) // len(bias)), weight.dtype)
    matrix[:count, :size, 0] = bias.reshape(count, size)
    matrix[:count, :size, 1:] = weight.reshape(count, size, -1)
    if pure.size:
        rate, amplitude = pure
        matrix[1, :size, 0], matrix[2, :size, 0] = amplitude, abs(rate)
    return matrix.reshape(4, -1, LANES, matrix.shape[2]).transpose(1, 3, 0, 2).ravel()


def tick_numbers(
    header: Sequence[int],
    sizes: Sequence[int],
    projection: tuple[Tensor, Tensor] | None,
    parts: Sequence[np.ndarray],
    memory: int,
) -> np.ndarray:
    """The array of a tick: [header | where its memory is, where parts begin | sizes | projection | parts | memory].

    Both places are in sixteens, and parts and memory begin at whole ones.

    Args:
        header: its first numbers.
        sizes: what follows the places.
        projection: weight and bias of the outputs, or None.
        parts: of whole sixteens.
        memory: numbers that the tick may write.
    """
    mapping = [] if projection is None else [part.detach().numpy().ravel() for part in projection]
    begin = -(-(len(header) + 2 + len(sizes) + sum(map(len, mapping))) // LANES)
    end = begin + sum(map(len, parts)) // LANES
    front = np.concatenate([[*header, end, begin, *sizes], *mapping])
    numbers = np.zeros(end * LANES + memory, parts[0].dtype)
    numbers[: len(front)] = front
    numbers[begin * LANES : end * LANES] = np.concatenate(parts)
    return numbers


# From a layer's parameters to the kernels' weights


@dataclass(frozen=True)
class PackedHeads:
    """How the kernels want a layer's parameters: all in one flat tensor, [weights | biases | w_τ | A].

    Weights are group after group; of a group (heads, neurons, sources), the heads in the order g, h, a, b, or g, h,
    gate if the latter two are merged, or g in mode "pure". Biases have the same order.

    Attributes:
        inputs: number of inputs of the layer.
        neurons: number of neurons of all groups.
        sources: number of sources of all groups; what drives two counts twice.
        heads_each: heads of a neuron.
        groups: (groups, 5): first neuron and number of neurons of each, first source and number of sources among
            [inputs | neurons], where its weights begin.
        sections: numbers of weights, of biases, and of w_τ and A together.
        places: for each number its place among the layer's parameters laid end to end, or, where the wiring has no
            synapse, the zero behind them.
        timed_places: places of what the constant elapsed time multiplies before it is added, if a and b are merged;
            or empty.
        origins: the reverse: for each parameter its place in the flat tensor, or behind its end if it has none.
        timed: places of the parameters that the constant elapsed time multiplies.
    """

    inputs: int
    neurons: int
    sources: int
    heads_each: int
    groups: np.ndarray
    sections: tuple[int, int, int]
    places: np.ndarray
    timed_places: np.ndarray
    origins: np.ndarray
    timed: np.ndarray

    def pack(self, parameters: Sequence[Tensor], elapsed: float) -> np.ndarray:
        """From the parameters, without their history; ``elapsed`` matters only if a and b are merged for it."""
        flat = _flatten_dense_tensors(parameters).numpy()
        packed = np.empty(len(self.places), flat.dtype)
        _pack(flat, self.places, self.timed_places, elapsed, packed)
        return packed

    def parts(self, packed: np.ndarray) -> Packed:
        """Of the flat tensor."""
        weights, biases, _ = self.sections
        return Packed(packed[:weights], packed[weights : weights + biases], packed[weights + biases :])

    def unpack(self, of_packed: np.ndarray, elapsed: float) -> np.ndarray:
        """The gradients of the parameters, end to end, from those (blocks, ·) of what :meth:`pack` made of them."""
        flat = np.empty(len(self.origins), of_packed.dtype)
        _unpack(of_packed, self.origins, self.timed, elapsed, flat)
        return flat


class Packed(NamedTuple):
    """The parts of the flat tensor of :class:`PackedHeads`."""

    weight: np.ndarray
    bias: np.ndarray
    pure: np.ndarray


@njit(cache=True, **OPTIONS)
def _pack(flat, places, timed_places, elapsed, packed):
    factor = packed.dtype.type(elapsed)
    for index in range(places.size):
        packed[index] = flat[places[index]] if places[index] < flat.size else 0
    for index in range(timed_places.size):
        if timed_places[index] < flat.size:
            packed[index] += factor * flat[timed_places[index]]


@njit(cache=True, **OPTIONS)
def _unpack(of_packed, origins, timed, elapsed, flat):
    blocks, size = of_packed.shape
    sums = np.zeros(size, of_packed.dtype)
    for block in range(blocks):
        for index in range(size):
            sums[index] += of_packed[block, index]
    for index in range(origins.size):
        flat[index] = sums[origins[index]] if origins[index] < size else 0
    for index in timed:
        flat[index] *= flat.dtype.type(elapsed)


class CfCPlan(NamedTuple):
    """What the kernels need to know of a layer."""

    constant: PackedHeads
    """Its heads at one elapsed time for all steps."""
    varying: PackedHeads
    """Its heads where elapsed times differ."""
    mode: int
    """One of MODES."""
    outputs: int
    """How many neurons of the last group are the outputs, O."""

    @property
    def inputs(self) -> int:
        """C."""
        return self.varying.inputs

    @property
    def neurons(self) -> int:
        """S."""
        return self.varying.neurons


def build_plan(
    inputs: int,
    sizes: Sequence[int],
    masks: Sequence[np.ndarray | None],
    masked: Sequence[bool],
    mode: str,
    outputs: int,
) -> CfCPlan:
    """The plan of a wired layer whose mode is :func:`covered <is_covered>`.

    Its parameters are, group after group, weight and bias of each head in the order g, h, a, b; in mode "pure" those of
    g and then w_τ and A.

    Args:
        inputs: number of inputs.
        sizes: neurons of each group.
        masks: for each group (neurons, inputs or neurons of the group before + neurons), zero where there is no
            synapse; or None.
        masked: for each head whether the masks hold for it.
        mode: one of MODES, by its name.
        outputs: how many neurons of the last group are the outputs.
    """
    weights: list[list[np.ndarray]] = []  # of a group and head: the places of its matrix
    others: list[list[np.ndarray]] = []  # of a group: the places of its heads' biases, and of w_τ and A
    count = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal count
        begin, count = count, count + math.prod(shape)
        return np.arange(begin, count).reshape(shape)

    fans = [before + size for before, size in zip((inputs, *sizes), sizes, strict=False)]
    for size, fan, mask in zip(sizes, fans, masks, strict=True):
        weights.append([])
        others.append([])
        for holds in masked:
            matrix = take(size, fan)
            weights[-1].append(np.where(mask == 0, -1, matrix) if mask is not None and holds else matrix)
            others[-1].append(take(size))
        if mode == "pure":
            others[-1] += [take(1, size)[0], take(1, size)[0]]

    def places(heads: Sequence[int | None]) -> np.ndarray:
        """Of the given heads; None is a head of zeros."""

        def chosen(places: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [np.full_like(places[0], -1) if head is None else places[head] for head in heads]

        parts = [matrix for group in weights for matrix in chosen(group)]
        parts += [bias for group in others for bias in chosen(group)]
        if mode == "pure":
            parts += [group[which] for which in (1, 2) for group in others]
        flat = np.concatenate([part.ravel() for part in parts])
        return np.where(flat < 0, count, flat)

    firsts = [0, *itertools.accumulate(sizes)]
    sources = [0, *(inputs + first for first in firsts)]

    def build(heads: Sequence[int | None], timed: Sequence[int | None] | None = None) -> PackedHeads:
        begins = [0, *itertools.accumulate(len(heads) * size * fan for size, fan in zip(sizes, fans, strict=True))]
        groups = np.array(list(zip(firsts, sizes, sources, fans, begins, strict=False)))
        sections = begins[-1], len(heads) * firsts[-1], 2 * firsts[-1] if mode == "pure" else 0
        all_places, timed_places = places(heads), np.arange(0) if timed is None else places(timed)
        origins = np.full(count + 1, len(all_places))
        origins[all_places] = np.arange(len(all_places))
        origins[timed_places] = np.arange(len(timed_places))
        multiplied = timed_places[timed_places < count]
        return PackedHeads(
            inputs,
            firsts[-1],
            sum(fans),
            len(heads),
            groups,
            sections,
            all_places,
            timed_places,
            origins[:-1],
            multiplied,
        )

    if mode == "pure":
        constant = varying = build([0])
    else:
        constant, varying = build([0, 1, 3], [None, None, 2]), build([0, 1, 2, 3])
    return CfCPlan(constant, varying, MODES[mode], outputs)


# For torch


def is_covered(mode: str, activation: str) -> bool:
    """Whether the kernels know a mode and an activation; the usual warning if not."""
    return is_known("the CfC", "mode", mode, MODES) and is_known("the CfC", "activation", activation, ACTIVATIONS)


def plan_of(options: str, masks: Sequence[np.ndarray | None] | None) -> CfCPlan:
    """The plan of :func:`build_plan` from its options as JSON, and from the masks; without these, of all synapses."""
    given = json.loads(options)
    return build_plan(masks=masks or [None] * len(given["sizes"]), **given)


def _heads(plan: CfCPlan, time: float | None) -> tuple[PackedHeads, float]:
    """Where all steps take one time, or None, and that time for :meth:`PackedHeads.pack`."""
    return (plan.varying, 1.0) if time is None else (plan.constant, time)


def _sizes_kept(plan: CfCPlan, batch: int, steps: int, time: float | None, masked: bool) -> Sizes:
    """Of the packed parameters, the times, and the sources and activations of :func:`_forward`."""
    (heads, _), lanes = _heads(plan, time), block_count(batch) * LANES
    timed = plan.mode == PURE or time is None or masked or time <= 0
    return (
        (sum(heads.sections),),
        (batch, steps, 1) if timed else (0, 0, 0),
        (heads.sources * lanes * row_stride.py_func(steps),),
        (heads.sections[1] * lanes * steps,),
    )


def _integrate(
    plan: CfCPlan,
    x: Tensor,
    state: Tensor,
    elapsed: float | Tensor,
    mask: Tensor | None,
    parameters: Sequence[Tensor],
    keep: bool,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor, Kept]:
    """Y (B, T, O), the final state (B, S), and what a backward pass needs if ``keep``."""
    batch, steps, _ = x.shape
    time = None if isinstance(elapsed, Tensor) else elapsed
    heads, constant = _heads(plan, time)
    rows = x.detach().contiguous().numpy()
    packed = heads.pack(parameters, constant)
    times = step_times(elapsed, mask, batch, steps, rows.dtype)
    if plan.mode == PURE and time is not None and not times.size:
        times = np.full((batch, steps, 1), time, rows.dtype)
    y, final = x.new_empty(batch, steps, plan.outputs), torch.empty_like(state, memory_format=torch.contiguous_format)
    kept: Kept = []
    records = [np.empty(0, rows.dtype)] * 2
    if keep:
        *_, (sources,), (activations,) = _sizes_kept(plan, batch, steps, time, mask is not None)
        buffers = Buffer(sources, rows.dtype), Buffer(activations, rows.dtype)
        kept = [packed, times, *buffers]
        records = [buffer.values for buffer in buffers]
    over_blocks(
        _forward, block_count(batch), _work(heads, batch * steps) + work_of(memory, batch * steps), rows,
        state.detach().contiguous().numpy()[:, None], times, *heads.parts(packed), heads.groups, plan.mode, y.numpy(),
        final.numpy()[:, None], *records, memory,
    )  # fmt: skip
    return y, final, kept


def _gradients(
    plan: CfCPlan,
    x: None,
    time: float | None,
    kept: Sequence[np.ndarray],
    of_y: Tensor,
    of_final: Tensor,
    wants_x: bool,
    wants_elapsed: bool,
    memory: MemoryGradients | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of x (B, T, C), the initial state (B, S), the elapsed times (B, T), and the parameters, end to end."""
    batch, steps, _ = of_y.shape
    heads, constant = _heads(plan, time)
    packed, times, sources, activations = kept
    weight, _, pure = heads.parts(packed)
    of_x = of_y.new_empty((batch, steps, heads.inputs) if wants_x else (0, 0, 0))
    of_times = of_y.new_empty((batch, steps, 1) if wants_elapsed else (0, 0, 0))
    of_state = of_y.new_empty(batch, 1, heads.neurons)
    blocks = block_count(batch)
    of_packed = np.empty((blocks, sum(heads.sections)), packed.dtype)
    of_heads = Buffer(heads.sections[1] * blocks * row_stride(steps) * LANES, packed.dtype)
    over_blocks(
        _backward, blocks, _work(heads, batch * steps) + work_of(memory, batch * steps), heads.inputs, times, weight,
        pure, heads.groups, plan.mode, sources, activations, of_y.contiguous().numpy(),
        of_final.contiguous().numpy()[:, None], of_x.numpy(), of_state.numpy(), of_times.numpy(), of_heads.values,
        of_packed, memory,
    )  # fmt: skip
    return of_x, of_state[:, 0], of_times.flatten(1), torch.from_numpy(heads.unpack(of_packed, constant))


integrate = SequenceKernel("the CfC", "cfc", plan_of, _integrate, _gradients, _sizes_kept, reads_x=False)
"""What `CfC.fused_cpu` gives before a projection; plan and parameters are those of :func:`build_plan`."""

integrate_with_memory = with_memory(
    "the CfC with a memory", "cfc_with_memory", plan_of, _integrate, _gradients, _sizes_kept, reads_x=False
)
"""The same of `CfC.fused_cpu_with_memory`."""


def _work(heads: PackedHeads, steps: int) -> int:
    """Elementary functions in so many steps; ten multiply-adds count as one."""
    return steps * (heads.sections[1] + heads.sections[0] // 10)

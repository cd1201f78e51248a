"""Dense closed-form neurons (CfC) on the CPU, behind any number of hidden layers: sequences both ways, and a step.

The equations are in `liquid_control.nn.cfc`. Inputs and state drive the first hidden layer, each layer the next one,
and the last one the heads g, h, a, b of all neurons; without hidden layers, inputs and state drive the heads. Sequences
are lanes, as in `kernels.cfc`, whose kernels are for small sparse groups. Here nearly all the time goes into products
of large matrices.

What a step computes lies in one piece of memory, its record: the slopes of the hidden layers, [inputs | state], the
hidden layers one after another, and the heads. The products read and write it there. Once a step is done, what the
gradients of the weights need of it is turned around (`kernels.products`). The backward pass multiplies it with what
reaches heads and hidden layers every few steps, while that is in a near cache.

Gradients of weights are summed in several parts of the batch, each of some blocks, and then over the parts in their
order. How many parts there are depends on the batch alone.

Dropout takes random bits, sixteen for a unit, step and sequence, from torch's generator. A unit is dropped where they
are below the rate, and the reference form takes the same bits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels.activations import ACTIVATIONS, activate
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
from liquid_control.kernels.cfc import (
    MODES,
    PURE,
    add_four_sums,
    four_biases,
    gated_gradients,
    gated_solution,
    pack_heads,
    pure_gradients,
    pure_solution,
    solution,
    tick_numbers,
    write_outputs,
)
from liquid_control.kernels.dense import whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, kernel_part, sigmoid, tanh
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
    CHUNK,
    TILE,
    add_gradients,
    add_product,
    add_products,
    into_tiles,
    tiled_size,
    turn,
)
from liquid_control.kernels.simd import LANES, fill, load, store, total, where_positive

PARTS = 8
"""Parts of a batch whose gradients of weights are summed apart, at most: so many threads can share a backward pass."""

ROWS, COLUMNS, WIDTH, WEIGHT, SUMS, BIAS, SOURCE, TARGET, ERROR = range(9)
"""Columns of :attr:`DensePlan.varying_layers`."""


# The kernels


@njit(nogil=True, cache=True, **OPTIONS)
def _forward(
    first_block, last_block, x, state, times, tiles, bias, pure, layers, width, mode, activation, bits, dropped, y,
    final, record, memory,
):  # fmt: skip
    """All steps of the blocks ``first_block`` to ``last_block``.

    Args:
        first_block: see `liquid_control.kernels.batch`, as for the layout of sixteens that flat arrays have here.
        last_block: the same.
        x: (B, T, C).
        state: (B, 1, S) before the first step.
        times: of `step_times`; or empty, if the gate's heads are merged for a constant one.
        tiles: of :func:`_lay_out`.
        bias: of hidden layers and heads.
        pure: w_τ and A one after the other, or empty.
        layers: of the plan: hidden layers, then the heads.
        width: of the record.
        mode: DEFAULT, NO_GATE or PURE.
        activation: of the hidden layers.
        bits: (B, T, hidden units) int16 of dropout, or empty.
        dropped: of 65,536 values of the bits how many drop a unit.
        y: (B, T, S) receives the neurons, zeros at padding.
        final: (B, 1, S) receives the state after the last step.
        record: (blocks, T, width, 16) receives what the backward pass needs; or is empty.
        memory: a :class:`Memory` that writes the state before each step, or None.
    """
    steps, inputs, neurons = x.shape[1], x.shape[2], state.shape[2]
    keep, depth = record.size > 0, len(layers) - 1
    room = record if keep else new_tile(2 * width, x)
    apart, onward = (steps * width, width) if keep else (width, 0)
    values_at, heads_at = layers[0, SOURCE], layers[depth, TARGET]
    heads_each = layers[depth, ROWS] // neurons
    units = layers[0, ROWS] if depth else 0
    now, after, turned = new_tile(2, x), new_tile(neurons, x), new_tile(LANES, x)
    now[:] = 1
    if memory is not None:
        work = open_memory(memory)
    drawn, factor = np.empty(bits.shape[2] * LANES, np.int16), new_tile(1, x)
    nothing, kept, least = x.dtype.type(0), x.dtype.type(65536 / (65536 - dropped)), dropped - 32768
    zero = fill(bias.dtype.type(0))
    time = zero
    # Two blocks at a time, as long as there are two.
    for pair in range(first_block, last_block, 2):
        blocks = range(pair, min(pair + 2, last_block))
        origin = pair * apart if keep else 0
        for block in blocks:
            at = origin + (block - pair) * apart + values_at + inputs
            read_step(state, block * LANES, 0, room[at * LANES :])
            if memory is not None:
                begin_memory(memory, work, block, block - pair)
        for step in range(steps):
            begin = origin + step * onward
            for block in blocks:
                values = room[(begin + (block - pair) * apart + values_at) * LANES :]
                read_step(x, block * LANES, step, values)
                if times.size:
                    own_time = now[(block - pair) * LANES :]
                    read_step(times, block * LANES, step, own_time)
                    hide_padding(own_time, values, inputs)
            first, second = begin, begin + (len(blocks) - 1) * apart
            if memory is not None:
                values = room[(first + values_at) * LANES :], room[(second + values_at) * LANES :]
                remember(memory, work, values, (now, now[LANES:]), pair, len(blocks), step, steps)
            place = 0
            for layer in range(depth + 1):
                rows, columns, source, target = (
                    layers[layer, ROWS], layers[layer, COLUMNS], layers[layer, SOURCE], layers[layer, TARGET],
                )  # fmt: skip
                for block in blocks:
                    at = begin + (block - pair) * apart + target
                    for row in range(rows):
                        store(room, at + row, fill(bias[layers[layer, BIAS] + row]))
                driving = room[(first + source) * LANES :], room[(second + source) * LANES :]
                sums = room[(first + target) * LANES :], room[(second + target) * LANES :]
                place = add_products(tiles, place, rows, columns, driving, 0, sums, 0, len(blocks) == 2)
                if layer == depth:
                    continue
                for block in blocks:
                    own = room[(begin + (block - pair) * apart) * LANES :]
                    if bits.size:
                        read_step(bits, block * LANES, step, drawn)
                    for unit in range(units):
                        value, slope = activate(activation, load(own, target + unit), factor)
                        if bits.size:
                            at = (layer * units + unit) * LANES
                            for lane in range(LANES):
                                factor[lane] = kept if drawn[at + lane] >= least else nothing
                            value, slope = value * load(factor, 0), slope * load(factor, 0)
                        store(own, target + unit, value)
                        if keep:
                            store(own, layer * units + unit, slope)
            for block in blocks:
                own = room[(begin + (block - pair) * apart) * LANES :]
                if times.size:
                    time = load(now, block - pair)
                    time = where_positive(time, time, zero)
                for neuron in range(neurons):
                    head = heads_at + neuron
                    g = load(own, head)
                    if mode == PURE:
                        new = pure_solution(g, time, abs(pure[neuron]), pure[neurons + neuron])
                    else:
                        g, h, gate = tanh(g), tanh(load(own, head + neurons)), load(own, head + 2 * neurons)
                        if heads_each == 4:
                            gate = gate * time + load(own, head + 3 * neurons)
                        gate = sigmoid(gate)
                        if keep:
                            store(own, head, g)
                            store(own, head + neurons, h)
                            store(own, head + (heads_each - 1) * neurons, gate)
                        new = gated_solution(mode, g, h, gate)
                    if times.size:
                        new = where_positive(time, new, load(own, values_at + inputs + neuron))
                    store(after, neuron, new)
                if keep:
                    # What drove the layers, whole sixteens of it, as the gradients of weights want it.
                    for layer in range(depth + 1):
                        source = layers[layer, SOURCE]
                        for row in range(layers[layer, COLUMNS], layers[layer, WIDTH]):
                            store(own, source + row, zero)
                        turn(own, source, layers[layer, WIDTH], turned)
                if not keep or step + 1 < steps:
                    following = begin + (block - pair) * apart + onward + values_at + inputs
                    for neuron in range(neurons):
                        store(room, following + neuron, load(after, neuron))
                if step + 1 == steps:
                    write_step(after, final, block * LANES, 0)
                    if memory is not None:
                        end_memory(memory, work, block, block - pair)
                if times.size:
                    hide_padding(now[(block - pair) * LANES :], after, neurons)
                write_step(after, y, block * LANES, step)


@njit(nogil=True, cache=True, **OPTIONS)
def _backward(
    first_part, last_part, parts, inputs, times, tiles, pure, layers, width, mode, record, of_y, of_final, of_x,
    of_state, of_times, of_packed, memory,
):  # fmt: skip
    """The reverse of :func:`_forward`, ``of_…`` being gradients; of_x and of_times are left out if they are empty.

    ``of_packed`` is (parts, sums of the weights' gradients, biases, w_τ and A): of the blocks of a part. ``memory`` is
    a :class:`MemoryGradients` or None.
    """
    batch, steps, neurons = of_y.shape
    depth, blocks, x_wanted = len(layers) - 1, (batch + LANES - 1) // LANES, of_x.size > 0
    heads_at, heads_error = layers[depth, TARGET], layers[depth, ERROR]
    head_rows, units = layers[depth, ROWS], layers[0, ROWS] if depth else 0
    heads_each = head_rows // neurons
    bias_rows = layers[depth, BIAS] + head_rows
    apart = layers[0, ERROR] + whole_lanes(layers[0, ROWS]) + TILE | 1
    # What reaches heads and hidden layers in the steps of a chunk, and what reaches inputs and state.
    errors, values = new_tile(CHUNK * apart + TILE, record), new_tile(inputs + neurons + TILE, record)
    of_outputs, now, turned = new_tile(neurons, record), new_tile(1, record), new_tile(LANES, record)
    of_bias, of_pure = new_tile(bias_rows, record), new_tile(pure.size, record)
    skip = 0 if x_wanted else inputs
    now[:] = 1
    if memory is not None:
        work = open_memory_back(memory, skip)
    zero = fill(record.dtype.type(0))
    time = zero
    for part in range(first_part, last_part):
        of_weight = of_packed[part]
        of_weight[:], of_bias[:], of_pure[:] = 0, 0, 0
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            read_step(of_final, block * LANES, 0, values[inputs * LANES :])
            if memory is not None:
                begin_memory_back(memory, work, block)
            for step in range(steps - 1, -1, -1):
                read_step(of_y, block * LANES, step, of_outputs)
                if times.size:
                    read_step(times, block * LANES, step, now)
                    hide_padding(now, of_outputs, neurons)
                    time = load(now, 0)
                    time = where_positive(time, time, zero)
                own = record[(block * steps + step) * width * LANES :]
                error = errors[step % CHUNK * apart * LANES :]
                values[: inputs * LANES] = 0
                of_time = zero
                for neuron in range(neurons):
                    new, staying = load(values, inputs + neuron) + load(of_outputs, neuron), zero
                    if times.size:
                        new, staying = where_positive(time, new, zero), where_positive(time, zero, new)
                    store(values, inputs + neuron, staying)
                    head, reached = heads_at + neuron, heads_error + neuron
                    g = load(own, head)
                    if mode == PURE:
                        of_g, of_rate, of_its_time, less = pure_gradients(
                            g, time, abs(pure[neuron]), pure[neurons + neuron], new
                        )
                        store(error, reached, of_g)
                        of_time += of_its_time
                        store(of_pure, neuron, load(of_pure, neuron) + of_rate)
                        store(of_pure, neurons + neuron, load(of_pure, neurons + neuron) + new - less)
                    else:
                        h, gate = load(own, head + neurons), load(own, head + (heads_each - 1) * neurons)
                        of_g, of_h, of_gate = gated_gradients(mode, g, h, gate, new)
                        store(error, reached, of_g)
                        store(error, reached + neurons, of_h)
                        if heads_each == 4:
                            of_time += of_gate * load(own, head + 2 * neurons)
                            store(error, reached + 2 * neurons, of_gate * time)
                            store(error, reached + 3 * neurons, of_gate)
                        else:
                            store(error, reached + 2 * neurons, of_gate)
                place = 0
                for layer in range(depth, -1, -1):
                    rows, columns, reached = layers[layer, ROWS], layers[layer, COLUMNS], layers[layer, ERROR]
                    if layer:
                        before = layers[layer - 1, ERROR]
                        for unit in range(units):
                            store(error, before + unit, zero)
                        place = add_product(tiles, place, columns, rows, error, reached, error, before)
                        for unit in range(units):
                            slope = load(own, (layer - 1) * units + unit)
                            store(error, before + unit, load(error, before + unit) * slope)
                    else:
                        add_product(tiles, place, columns - skip, rows, error, reached, values, skip)
                    for row in range(rows):
                        at = layers[layer, BIAS] + row
                        store(of_bias, at, load(of_bias, at) + load(error, reached + row))
                    turn(error, reached, whole_lanes(rows), turned)
                if step % CHUNK == 0:
                    for layer in range(depth + 1):
                        add_gradients(
                            errors, layers[layer, ERROR], apart, layers[layer, ROWS], own, layers[layer, SOURCE], width,
                            layers[layer, COLUMNS], min(CHUNK, steps - step), of_weight, layers[layer, SUMS],
                            layers[layer, WIDTH],
                        )  # fmt: skip
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
        weights = layers[depth, SUMS] + head_rows * layers[depth, WIDTH]
        for row in range(bias_rows):
            of_weight[weights + row] = total(load(of_bias, row))
        for index in range(pure.size):
            of_weight[weights + bias_rows + index] = total(load(of_pure, index))
        for neuron in range(pure.size // 2):
            of_weight[weights + bias_rows + neuron] *= np.sign(pure[neuron])


@njit(cache=True, **OPTIONS)
def _lay_out(weight, layers, backward, skip):
    """The matrices in tiles in the order of use; transposed for a backward pass, which skips columns of the first."""
    size, depth = 0, len(layers) - 1
    for layer in range(depth + 1):
        rows, columns = layers[layer, ROWS], layers[layer, COLUMNS]
        size += tiled_size(columns, rows) if backward else tiled_size(rows, columns)
    tiles = np.empty(size, weight.dtype)
    end = 0
    for index in range(depth + 1):
        layer = depth - index if backward else index
        rows, columns, begin = layers[layer, ROWS], layers[layer, COLUMNS], layers[layer, WEIGHT]
        if backward:
            passed = 0 if layer else skip
            end = into_tiles(weight, begin + passed, 1, columns, columns - passed, rows, tiles, end)
        else:
            end = into_tiles(weight, begin, columns, 1, rows, columns, tiles, end)
    return tiles


@njit(cache=True, **OPTIONS)
def _add_parts(of_packed, layers, others, sums):
    """Sums of the parts of a batch in their order, without the columns that fill up whole sixteens."""
    sums[:] = 0
    depth = len(layers) - 1
    after, first_other = sums.size - others, layers[depth, SUMS] + layers[depth, ROWS] * layers[depth, WIDTH]
    for part in range(len(of_packed)):
        own = of_packed[part]
        for layer in range(depth + 1):
            columns = layers[layer, COLUMNS]
            for row in range(layers[layer, ROWS]):
                source, target = layers[layer, SUMS] + row * layers[layer, WIDTH], layers[layer, WEIGHT] + row * columns
                for column in range(columns):
                    sums[target + column] += own[source + column]
        for index in range(others):
            sums[after + index] += own[first_other + index]


# From a layer's parameters to the kernels' weights


class DensePlan(NamedTuple):
    """What the kernels need to know of a layer.

    Its parameters are weight and bias of each hidden layer, then of each head in the order g, h, a, b; in mode "pure"
    those of g and then w_τ and A. The kernels take them as one flat array, [weights | biases | w_τ | A], the heads side
    by side; at one elapsed time t for all steps, t·a + b is a single one.
    """

    inputs: int
    """C."""
    outputs: int
    """All neurons, S."""
    depth: int
    """Number of hidden layers."""
    units: int
    """Of each hidden layer."""
    mode: int
    """One of MODES."""
    activation: int
    """Of the hidden layers, one of ACTIVATIONS."""
    dropped: int
    """Of 65,536 values of sixteen random bits how many drop a hidden unit."""
    constant_layers: np.ndarray
    """:attr:`varying_layers` at one elapsed time for all steps."""
    varying_layers: np.ndarray
    """Of each hidden layer, then of the heads: rows and columns of the matrix, columns up to a whole sixteen, where the
    matrix begins among the weights and among the sums of their gradients, the first bias, where in the record what
    drives it and what it computes is, and where what reaches it in the backward pass is."""

    @property
    def neurons(self) -> int:
        """S, which are all of them outputs."""
        return self.outputs

    def layers(self, time: float | None) -> np.ndarray:
        """Those at this time for all steps, or at times that differ."""
        return self.varying_layers if time is None else self.constant_layers

    def width(self, layers: np.ndarray) -> int:
        """Sixteens of the record of a step, an odd number, lest a chunk of steps share one set of the cache."""
        return int(layers[-1, TARGET] + layers[-1, ROWS] + TILE) | 1

    def sections(self, layers: np.ndarray) -> tuple[int, int, int]:
        """Numbers of weights, of biases, and of w_τ and A together."""
        weights = int(layers[-1, WEIGHT] + layers[-1, ROWS] * layers[-1, COLUMNS])
        return weights, int(layers[-1, BIAS] + layers[-1, ROWS]), 2 * self.outputs if self.mode == PURE else 0


def _table(inputs: int, neurons: int, depth: int, units: int, heads: int) -> np.ndarray:
    """A plan's layers, with so many heads of a neuron."""
    drives = [inputs + neurons, *[units] * depth]
    rows = [*[units] * depth, heads * neurons]
    layers = np.zeros((depth + 1, 9), np.int64)
    weight = sums = bias = error = 0
    source = depth * units
    for layer, (count, columns) in enumerate(zip(rows, drives, strict=True)):
        width = whole_lanes(columns)
        layers[layer, :SOURCE] = count, columns, width, weight, sums, bias
        layers[layer, SOURCE:TARGET] = source
        layers[layer, TARGET] = source = source + width
        weight, sums, bias = weight + count * columns, sums + count * width, bias + count
    for layer in range(depth, -1, -1):  # what a product writes behind its last row is computed later
        layers[layer, ERROR] = error
        error += whole_lanes(rows[layer])
    return layers


def build_plan(
    inputs: int, neurons: int, depth: int, units: int, mode: str, activation: str, dropped: int
) -> DensePlan:  # fmt: skip
    """The plan of a layer whose mode and activation `kernels.cfc` has.

    Args:
        inputs: number of inputs.
        neurons: number of neurons.
        depth: number of hidden layers.
        units: of each.
        mode: one of MODES, by its name.
        activation: one of ACTIVATIONS, by its name.
        dropped: of 65,536 values of the bits how many drop a hidden unit, where bits are given.
    """
    constant, varying = (
        _table(inputs, neurons, depth, units, heads) for heads in ((1, 1) if mode == "pure" else (3, 4))
    )
    return DensePlan(inputs, neurons, depth, units, MODES[mode], ACTIVATIONS[activation], dropped, constant, varying)


def plan_of(options: str, masks: Sequence[np.ndarray] | None = None) -> DensePlan:
    """The plan of :func:`build_plan` from its options as JSON; there are no masks."""
    return _plan_of(options)


@lru_cache(maxsize=256)
def _plan_of(options: str) -> DensePlan:
    return build_plan(**json.loads(options))


# One step of one sequence


@kernel_part
def _driven_sums(layer, x, state, driving, units, numbers, place):
    """Four sums and the place after their weights: inputs and state drive layer 0, the units before it any other."""
    sums, place = four_biases(numbers, place), place + 4
    if layer:
        return add_four_sums(sums, driving, 0, units, numbers, place)
    sums, place = add_four_sums(sums, x, 0, x.size, numbers, place)
    return add_four_sums(sums, state, 0, state.size, numbers, place)


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers):
    """A :data:`liquid_control.kernels.step.Tick`; ``numbers`` are :func:`step_numbers`."""
    mode, projected, activation, depth, units = (
        int(numbers[0]), int(numbers[1]), int(numbers[2]), int(numbers[3]), int(numbers[4]),
    )  # fmt: skip
    new = numbers[LANES * int(numbers[5]) :]
    if elapsed > 0:
        driving = new[whole_lanes(state.size) :]
        hidden = driving[-(-units // (4 * LANES)) * 4 * LANES :]
        place = int(numbers[6])
        for layer in range(depth):
            for block in range(-(-units // (4 * LANES))):
                sums, place = _driven_sums(layer, x, state, driving, units, numbers, place)
                store(hidden, 4 * block, activate(activation, sums[0], new)[0])
                store(hidden, 4 * block + 1, activate(activation, sums[1], new)[0])
                store(hidden, 4 * block + 2, activate(activation, sums[2], new)[0])
                store(hidden, 4 * block + 3, activate(activation, sums[3], new)[0])
            driving, hidden = hidden, driving
        for block in range(-(-state.size // LANES)):
            sums, place = _driven_sums(depth, x, state, driving, units, numbers, place)
            store(new, block, solution(mode, sums, elapsed))
        for neuron in range(state.size):
            state[neuron] = new[neuron]
    write_outputs(y, state, projected, numbers, 7)


def step_numbers(plan: DensePlan, parameters: Sequence[Tensor], projection: tuple[Tensor, Tensor] | None) -> np.ndarray:
    """What :func:`tick` takes after y: all in one array, since each costs as much as a quarter of its arithmetic.

    First come the mode, the neurons to project (0 for none), the activation, the number of hidden layers and of their
    units, where (in sixteens) its own memory is and where the weights begin; weight and bias of the projection; and
    from a whole sixteen on of each hidden layer 64 units after another, their biases, then their weights, source after
    source; at last what :func:`pack_heads` gives.

    Args:
        plan: of the layer.
        parameters: of each hidden layer and each head weight and bias; in mode "pure" w_τ and A.
        projection: weight (O, S) and bias (O) of the outputs, or None.
    """
    arrays = [parameter.detach().numpy() for parameter in parameters]
    hidden, heads = arrays[: 2 * plan.depth], arrays[2 * plan.depth :]
    width = -(-plan.units // (4 * LANES)) * 4 * LANES
    parts = []
    for weight, bias in zip(hidden[::2], hidden[1::2], strict=True):
        matrix = np.zeros((width, 1 + weight.shape[1]), weight.dtype)
        matrix[: plan.units, 0], matrix[: plan.units, 1:] = bias, weight
        parts.append(matrix.reshape(-1, 4, LANES, matrix.shape[1]).transpose(0, 3, 1, 2).ravel())
    pure = np.empty((2, 0))
    if plan.mode == PURE:
        heads, pure = heads[:2], np.concatenate(heads[2:])
    weight, bias = (np.concatenate([part.ravel() for part in heads[which::2]]) for which in (0, 1))
    parts.append(pack_heads(plan.outputs, bias, weight, pure))
    header = [plan.mode, 0 if projection is None else plan.outputs, plan.activation, plan.depth, plan.units]
    return tick_numbers(header, [], projection, parts, whole_lanes(plan.outputs) + 2 * width)


# For torch


def _pack(plan: DensePlan, parameters: Sequence[Tensor], time: float | None) -> np.ndarray:
    """The flat array of a plan's parameters."""
    arrays = [parameter.detach().numpy() for parameter in parameters]
    hidden, heads = arrays[: 2 * plan.depth], arrays[2 * plan.depth :]
    pure = []
    if plan.mode == PURE:
        heads, pure = heads[:2], heads[2:]
    elif time is not None:
        factor = heads[4].dtype.type(time)
        heads = [*heads[:4], factor * heads[4] + heads[6], factor * heads[5] + heads[7]]
    parts = [*hidden[::2], *heads[::2], *hidden[1::2], *heads[1::2], *pure]
    return np.concatenate([part.ravel() for part in parts])


def _unpack(plan: DensePlan, layers: np.ndarray, of_packed: np.ndarray, time: float | None) -> np.ndarray:
    """The gradients of the parameters, end to end, from those (parts, ·) of what :func:`_pack` made of them."""
    weights, biases, pure = plan.sections(layers)
    sums = np.empty(weights + biases + pure, of_packed.dtype)
    _add_parts(of_packed, layers, biases + pure, sums)
    of_weight, of_bias, of_pure = np.split(sums, [weights, weights + biases])
    parts = []
    for rows, columns, _, weight, _, bias, *_ in layers[:-1].tolist():
        parts += [of_weight[weight : weight + rows * columns], of_bias[bias : bias + rows]]
    neurons, heads = plan.outputs, int(layers[-1, ROWS]) // plan.outputs
    matrices = np.split(of_weight[layers[-1, WEIGHT] :], heads)
    for head in range(heads):
        first = int(layers[-1, BIAS]) + head * neurons
        parts += [matrices[head], of_bias[first : first + neurons]]
    if heads == 3:  # t·a + b is one
        factor = sums.dtype.type(0 if time is None else time)
        parts[-2:] = [factor * parts[-2], factor * parts[-1], *parts[-2:]]
    return np.concatenate([*parts, of_pure])


def _parts(batch: int) -> int:
    return min(block_count(batch), PARTS)


def _sizes_kept(plan: DensePlan, batch: int, steps: int, time: float | None, masked: bool) -> Sizes:
    """Of the flat parameters, the times, and the record of :func:`_forward`."""
    layers = plan.layers(time)
    timed = plan.mode == PURE or time is None or masked or time <= 0
    return (
        (sum(plan.sections(layers)),),
        (batch, steps, 1) if timed else (0, 0, 0),
        (block_count(batch) * steps * plan.width(layers) * LANES,),
    )


def _integrate(
    plan: DensePlan,
    x: Tensor,
    state: Tensor,
    elapsed: float | Tensor,
    mask: Tensor | None,
    parameters: Sequence[Tensor],
    keep: bool,
    bits: Tensor | None = None,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor, Kept]:
    """Y (B, T, S), the final state (B, S), and what a backward pass needs if ``keep``."""
    batch, steps, _ = x.shape
    time = None if isinstance(elapsed, Tensor) else elapsed
    layers = plan.layers(time)
    rows = x.detach().contiguous().numpy()
    packed = _pack(plan, parameters, time)
    weight, bias, pure = np.split(packed, np.cumsum(plan.sections(layers))[:2])
    times = step_times(elapsed, mask, batch, steps, rows.dtype)
    if plan.mode == PURE and time is not None and not times.size:
        times = np.full((batch, steps, 1), time, rows.dtype)
    y, final = x.new_empty(batch, steps, plan.outputs), torch.empty_like(state, memory_format=torch.contiguous_format)
    kept: Kept = []
    record = np.empty(0, rows.dtype)
    if keep:
        buffer = Buffer(math.prod(_sizes_kept(plan, batch, steps, time, mask is not None)[2]), rows.dtype)
        kept, record = [packed, times, buffer], buffer.values
    drawn = np.empty((0, 0, 0), np.int16) if bits is None else bits.contiguous().numpy()
    over_blocks(
        _forward, block_count(batch), _work(plan, layers, batch * steps) + work_of(memory, batch * steps), rows,
        state.detach().contiguous().numpy()[:, None], times, _lay_out(weight, layers, False, 0), bias, pure, layers,
        plan.width(layers), plan.mode, plan.activation, drawn, plan.dropped, y.numpy(), final.numpy()[:, None], record,
        memory,
    )  # fmt: skip
    return y, final, kept


def _gradients(
    plan: DensePlan,
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
    layers, parts = plan.layers(time), _parts(batch)
    packed, times, record = kept
    weights, biases, others = plan.sections(layers)
    weight, pure = packed[:weights], packed[weights + biases :]
    of_x = of_y.new_empty((batch, steps, plan.inputs) if wants_x else (0, 0, 0))
    of_times = of_y.new_empty((batch, steps, 1) if wants_elapsed else (0, 0, 0))
    of_state = of_y.new_empty(batch, 1, plan.outputs)
    # Rows of whole sixteens.
    size = int(layers[-1, SUMS] + layers[-1, ROWS] * layers[-1, WIDTH]) + whole_lanes(biases + others)
    sums = Buffer(parts * size, packed.dtype)
    of_packed = sums.values.reshape(parts, size)
    over_blocks(
        _backward, parts, _work(plan, layers, batch * steps) + work_of(memory, batch * steps), parts, plan.inputs,
        times, _lay_out(weight, layers, True, 0 if wants_x else plan.inputs), pure, layers, plan.width(layers),
        plan.mode, record, of_y.contiguous().numpy(), of_final.contiguous().numpy()[:, None], of_x.numpy(),
        of_state.numpy(), of_times.numpy(), of_packed, memory,
    )  # fmt: skip
    of_parameters = torch.from_numpy(_unpack(plan, layers, of_packed, time))
    return of_x, of_state[:, 0], of_times.flatten(1), of_parameters


integrate = SequenceKernel("the dense CfC", "cfc_dense", plan_of, _integrate, _gradients, _sizes_kept, reads_x=False)
"""What `CfC.fused_cpu` of a dense layer gives before a projection; for dropout it takes bits."""

integrate_with_memory = with_memory(
    "the dense CfC with a memory", "cfc_dense_with_memory", plan_of, _integrate, _gradients, _sizes_kept, reads_x=False
)
"""The same of `CfC.fused_cpu_with_memory`."""


def _work(plan: DensePlan, layers: np.ndarray, steps: int) -> int:
    """Elementary functions in so many steps; ten multiply-adds count as one."""
    weights, biases, _ = plan.sections(layers)
    return steps * (biases + weights // 10)

"""The LSTM of mixed memory on the CPU, within the kernels of the neurons that it stands before; and a control step.

The equations are in `liquid_control.nn.mixed_memory`. The kernels of whole sequences call :func:`remember` before each
step of their neurons, and :func:`remember_back` after its reverse. Both take a tile [inputs | h] of sixteen sequences,
and know nothing of the neurons. A kernel that is given no memory, None, is compiled without these calls.

The backward pass needs the LSTM's sources, its gates, and what they acted on. The sources are kept turned around
(`kernels.products`), and multiplied with what reaches the gates every few steps, while that is in a near cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.kernels.autograd import Kept, SequenceKernel, Sizes
from liquid_control.kernels.batch import Buffer, block_count, new_tile, read_step, write_step
from liquid_control.kernels.dense import whole_lanes
from liquid_control.kernels.fast_math import kernel_part, sigmoid, tanh
from liquid_control.kernels.gated import lstm_arrays, lstm_tick
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
from liquid_control.kernels.step import Tick

GATES = 4
"""Sums of a unit, in the order of the weights: candidate, write, keep, show."""
RECORDS = 6
"""What a step keeps of a unit: the candidate and the three gates after their functions, tanh c', and c."""


class Memory(NamedTuple):
    """What a forward pass over C inputs and N neurons takes of the LSTM."""

    weight: np.ndarray
    """(4 N, C + N) of what [inputs | h] drive."""
    bias: np.ndarray
    """(4 N,), with the one that the forget gate has beside the learned bias."""
    state: np.ndarray
    """(B, 1, N): c before the first step."""
    final: np.ndarray
    """(B, 1, N) receives c after the last step."""
    sources: np.ndarray
    """(blocks, T, C + N, 16), with zeros up to whole sixteens of C + N, receives what drives it, turned; or empty."""
    activations: np.ndarray
    """(blocks, T, RECORDS, N, 16) receives what :data:`RECORDS` says, unless ``sources`` is empty."""


class MemoryGradients(NamedTuple):
    """What a backward pass takes of it; ``of_…`` are gradients."""

    weight: np.ndarray
    sources: np.ndarray
    activations: np.ndarray
    of_final: np.ndarray
    """(B, 1, N) of c after the last step."""
    of_state: np.ndarray
    """(B, 1, N) receives that of c before the first step."""
    of_weights: np.ndarray
    """(blocks, 4 N W and 4 N) receives those of weights, W being C + N up to whole sixteens, and of biases."""


class Workspace(NamedTuple):
    """Memory of one thread."""

    tiles: np.ndarray
    """The weights, for a backward pass transposed, in the order of use."""
    sums: np.ndarray
    """(2, (4 N + TILE) · 16) of two blocks; for a backward pass CHUNK of them, with 4 N up to whole sixteens."""
    cells: np.ndarray
    """(2, N · 16): c of two blocks, or its gradient."""
    of_bias: np.ndarray
    """(4 N · 16), for a backward pass."""
    turned: np.ndarray
    """(16 · 16)."""


# Within the kernels of neurons


@kernel_part
def _workspace(weight, tiles, count, apart):
    rows = weight.shape[0]
    sums, cells = new_tile(count * apart, weight).reshape(count, -1), new_tile(2 * (rows // GATES), weight)
    return Workspace(tiles, sums, cells.reshape(2, -1), new_tile(rows, weight), new_tile(LANES, weight))


@kernel_part
def open_memory(memory):
    """The workspace of a forward pass."""
    rows, columns = memory.weight.shape
    tiles = np.empty(tiled_size(rows, columns), memory.weight.dtype)
    into_tiles(memory.weight.reshape(-1), 0, columns, 1, rows, columns, tiles, 0)
    return _workspace(memory.weight, tiles, 2, rows + TILE)


@kernel_part
def begin_memory(memory, work, block, place):
    """Reads c of a block before its first step; it is the ``place``-th of those that go together."""
    read_step(memory.state, block * LANES, 0, work.cells[place])


@kernel_part
def remember(memory, work, values, now, first, count, step, steps):
    """A step of the LSTM, of ``count`` blocks (one or two) from ``first`` on.

    Args:
        memory: see :class:`Memory`.
        work: of :func:`open_memory`.
        values: (≥ count, [inputs | h] · 16): h becomes h' in lanes where time passes.
        now: (≥ count, 16) times; where one is not positive, h and c stay.
        first: block.
        count: of blocks.
        step: which it is.
        steps: T.
    """
    rows, columns = memory.weight.shape
    units, keep = rows // GATES, memory.sources.size > 0
    inputs, width = columns - units, whole_lanes(columns)
    zero = fill(memory.bias.dtype.type(0))
    for place in range(count):
        for row in range(rows):
            store(work.sums[place], row, fill(memory.bias[row]))
    add_products(work.tiles, 0, rows, columns, values, 0, work.sums, 0, count == 2)
    for place in range(count):
        own, sums, cells, block = values[place], work.sums[place], work.cells[place], first + place
        if keep:
            at = (block * steps + step) * width
            for index in range(columns):
                store(memory.sources, at + index, load(own, index))
            for index in range(columns, width):
                store(memory.sources, at + index, zero)
            turn(memory.sources, at, width, work.turned)
        time, record = load(now[place], 0), (block * steps + step) * RECORDS * units
        for unit in range(units):
            candidate, write = tanh(load(sums, unit)), sigmoid(load(sums, units + unit))
            kept, show = sigmoid(load(sums, 2 * units + unit)), sigmoid(load(sums, 3 * units + unit))
            before = load(cells, unit)
            cell = before * kept + candidate * write
            shown = tanh(cell)
            if keep:
                store(memory.activations, record + unit, candidate)
                store(memory.activations, record + units + unit, write)
                store(memory.activations, record + 2 * units + unit, kept)
                store(memory.activations, record + 3 * units + unit, show)
                store(memory.activations, record + 4 * units + unit, shown)
                store(memory.activations, record + 5 * units + unit, before)
            store(cells, unit, where_positive(time, cell, before))
            store(own, inputs + unit, where_positive(time, shown * show, load(own, inputs + unit)))


@kernel_part
def end_memory(memory, work, block, place):
    """Writes c of a block after its last step."""
    write_step(work.cells[place], memory.final, block * LANES, 0)


@kernel_part
def open_memory_back(memory, skip):
    """The workspace of a backward pass that leaves out the gradients of the first ``skip`` inputs."""
    rows, columns = memory.weight.shape
    tiles = np.empty(tiled_size(columns - skip, rows), memory.weight.dtype)
    into_tiles(memory.weight.reshape(-1), skip, 1, columns, columns - skip, rows, tiles, 0)
    return _workspace(memory.weight, tiles, CHUNK, whole_lanes(rows) + TILE)


@kernel_part
def begin_memory_back(memory, work, block):
    """Reads the gradient of c of a block after its last step."""
    work.of_bias[:], memory.of_weights[block, :] = 0, 0
    read_step(memory.of_final, block * LANES, 0, work.cells[0])


@kernel_part
def remember_back(memory, work, of_values, now, block, step, steps, skip):
    """The reverse of :func:`remember`, of one block.

    Args:
        memory: see :class:`MemoryGradients`.
        work: of :func:`open_memory_back`.
        of_values: gradient of [inputs | h'] by the neurons, and room for :data:`TILE` sixteens; becomes that of
            [inputs | h].
        now: (16,) times.
        block: which it is.
        step: the same.
        steps: T.
        skip: as :func:`open_memory_back` had it.
    """
    rows, columns = memory.weight.shape
    units = rows // GATES
    inputs, sums, cells = columns - units, work.sums[step % CHUNK], work.cells[0]
    time, record = load(now, 0), (block * steps + step) * RECORDS * units
    for unit in range(units):
        candidate = load(memory.activations, record + unit)
        write = load(memory.activations, record + units + unit)
        kept = load(memory.activations, record + 2 * units + unit)
        show = load(memory.activations, record + 3 * units + unit)
        shown = load(memory.activations, record + 4 * units + unit)
        before = load(memory.activations, record + 5 * units + unit)
        of_h, of_cell = load(of_values, inputs + unit), load(cells, unit)
        staying_h, staying_cell = where_positive(time, 0 * of_h, of_h), where_positive(time, 0 * of_cell, of_cell)
        of_h, of_cell = where_positive(time, of_h, 0 * of_h), where_positive(time, of_cell, 0 * of_cell)
        of_cell += of_h * show * (1 - shown * shown)
        store(sums, unit, of_cell * write * (1 - candidate * candidate))
        store(sums, units + unit, of_cell * candidate * (write - write * write))
        store(sums, 2 * units + unit, of_cell * before * (kept - kept * kept))
        store(sums, 3 * units + unit, of_h * shown * (show - show * show))
        store(cells, unit, of_cell * kept + staying_cell)
        store(of_values, inputs + unit, staying_h)
    for row in range(rows):
        store(work.of_bias, row, load(work.of_bias, row) + load(sums, row))
    add_product(work.tiles, 0, columns - skip, rows, sums, 0, of_values, skip)
    turn(sums, 0, whole_lanes(rows), work.turned)
    if step % CHUNK == 0:
        width, chunk = whole_lanes(columns), work.sums.reshape(-1)
        add_gradients(
            chunk, 0, whole_lanes(rows) + TILE, rows, memory.sources, (block * steps + step) * width, width, columns,
            min(CHUNK, steps - step), memory.of_weights[block], 0, width,
        )  # fmt: skip


@kernel_part
def end_memory_back(memory, work, block):
    """Writes the gradients of a block's biases and first c."""
    rows, columns = memory.weight.shape
    write_step(work.cells[0], memory.of_state, block * LANES, 0)
    for row in range(rows):
        memory.of_weights[block, rows * whole_lanes(columns) + row] = total(load(work.of_bias, row))


# For torch


def with_memory(
    name: str,
    operator: str,
    plan_of: Callable[[str, Sequence[np.ndarray] | None], Any],
    integrate: Callable[..., tuple[Tensor, Tensor, Kept]],
    gradients: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
    sizes_kept: Callable[[Any, int, int, float | None, bool], Sizes],
    *,
    reads_x: bool,
) -> SequenceKernel:
    """The kernel of neurons as one with an LSTM before them; arguments as of :class:`SequenceKernel`.

    Plan and text stay those of the neurons. The state is [h | c], and after the neurons' parameters come the LSTM's
    weight (4 N, C) and bias (4 N,) of the inputs and its weight (4 N, N) of h.

    ``integrate`` and ``gradients`` take a :class:`Memory` and :class:`MemoryGradients` as ``memory``, and a plan has
    ``inputs`` and ``neurons``.
    """

    def sizes(plan: Any, batch: int, steps: int, time: float | None, masked: bool) -> Sizes:
        lanes, sources, rows = block_count(batch) * LANES, plan.inputs + plan.neurons, GATES * plan.neurons
        return (
            *sizes_kept(plan, batch, steps, time, masked),
            (rows, sources),
            (lanes * steps * whole_lanes.py_func(sources),),
            (lanes * steps * RECORDS * plan.neurons,),
        )

    def forward(
        plan: Any,
        x: Tensor,
        state: Tensor,
        elapsed: float | Tensor,
        mask: Tensor | None,
        parameters: Sequence[Tensor],
        keep: bool,
        **noise: Tensor,
    ) -> tuple[Tensor, Tensor, Kept]:
        *own, of_inputs, bias, of_h = parameters
        (batch, steps, _), neurons = x.shape, plan.neurons
        weight = np.concatenate([part.detach().numpy() for part in (of_inputs, of_h)], 1)
        shifted = bias.detach().numpy().copy()
        shifted[2 * neurons : 3 * neurons] += 1
        h, c = state.detach().chunk(2, 1)
        final_c = x.new_empty(batch, 1, neurons)
        records: list[Buffer] = []
        kept_values = [np.empty(0, weight.dtype)] * 2
        if keep:
            time = None if isinstance(elapsed, Tensor) else elapsed
            *_, (sources,), (activations,) = sizes(plan, batch, steps, time, mask is not None)
            records = [Buffer(sources, weight.dtype), Buffer(activations, weight.dtype)]
            kept_values = [buffer.values for buffer in records]
        memory = Memory(weight, shifted, c[:, None].contiguous().numpy(), final_c.numpy(), *kept_values)
        y, final_h, kept = integrate(plan, x, h, elapsed, mask, own, keep, memory=memory, **noise)
        final = torch.cat([final_h, final_c[:, 0]], 1)
        return y, final, [*kept, weight, *records] if keep else []

    def backward(
        plan: Any,
        x: Tensor | None,
        time: float | None,
        kept: Sequence[np.ndarray],
        of_y: Tensor,
        of_final: Tensor,
        wants_x: bool,
        wants_elapsed: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *own, weight, sources, activations = kept
        batch, neurons, blocks = len(of_y), plan.neurons, block_count(len(of_y))
        of_h, of_c = of_final.chunk(2, 1)
        of_first_c = of_y.new_empty(batch, 1, neurons)
        rows, columns = weight.shape
        width = whole_lanes(columns)
        numbers = rows * width + whole_lanes(rows)
        weights_buffer = Buffer(blocks * numbers, weight.dtype)
        of_weights = weights_buffer.values.reshape(blocks, numbers)
        memory = MemoryGradients(
            weight, sources, activations, of_c[:, None].contiguous().numpy(), of_first_c.numpy(), of_weights
        )
        of_x, of_h, of_elapsed, of_own = gradients(
            plan, x, time, own, of_y, of_h, wants_x, wants_elapsed, memory=memory
        )
        sums = of_weights.sum(0)
        of_weight, of_bias = sums[: rows * width].reshape(rows, width), sums[rows * width :][:rows]
        parts = [of_weight[:, : plan.inputs], of_bias, of_weight[:, plan.inputs : columns]]
        of_lstm = torch.from_numpy(np.concatenate([part.ravel() for part in parts]))
        return of_x, torch.cat([of_h, of_first_c[:, 0]], 1), of_elapsed, torch.cat([of_own, of_lstm])

    return SequenceKernel(name, operator, plan_of, forward, backward, sizes, reads_x=reads_x)


def work_of(memory: Memory | MemoryGradients | None, steps: int) -> int:
    """Elementary functions in so many steps, as :func:`over_blocks` counts; ten multiply-adds count as one."""
    return 0 if memory is None else steps * (len(memory.weight) + memory.weight.size // 10)


# One step of one sequence


def tick(
    x: np.ndarray,
    elapsed: float,
    state: np.ndarray,
    y: np.ndarray,
    neurons: Tick,
    needs_time: bool,
    numbers: np.ndarray,
    scratch: np.ndarray,
    *arrays: np.ndarray,
) -> None:
    """A :data:`liquid_control.kernels.step.Tick`; what comes after y is of :func:`step_arrays`."""
    if elapsed > 0 or not needs_time:
        lstm_tick(x, elapsed, state, y[:0], numbers, scratch)
    neurons(x, elapsed, state[: state.size // 2], y, *arrays)


def step_arrays(
    neurons: tuple[Tick, tuple[np.ndarray, ...]], needs_time: bool, weights: Sequence[Tensor]
) -> tuple[Any, ...]:
    """What :func:`tick` takes after y.

    Args:
        neurons: their tick and its arrays.
        needs_time: whether the state stays where no time passes.
        weights: of the LSTM, as :func:`with_memory` has them.
    """
    of_inputs, bias, of_h = ([part[index] for index in (1, 2, 0, 3)] for part in (w.chunk(GATES) for w in weights))
    shifted = [bias[0], bias[1] + 1, *bias[2:]]
    ordered = [torch.cat(part) for part in (of_inputs, of_h, shifted)]
    kernel, arrays = neurons
    return kernel, needs_time, *lstm_arrays([*ordered, torch.zeros_like(ordered[2])], nn.Identity()), *arrays

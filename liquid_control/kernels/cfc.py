"""The closed-form cell over a whole sequence, forward and backward, on the CPU: groups of neurons without a backbone.

The equations are in `liquid_control.nn.cfc`. What depends on the inputs alone is one matrix product for all steps. Then
the kernel takes sixteen sequences through the steps: within a step group after group, each driven by the group before
it and by its own state. The heads of a group are one small dense product; synapses that the wiring leaves out are zeros
in it, which costs less than to look up where the others are.

The backward pass walks back through the groups and steps and writes what reaches the heads; the gradients of weights
and inputs are again products for all steps at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from liquid_control.kernels.batch import Buffer, block_count, over_blocks, read_step, write_step
from liquid_control.kernels.fast_math import OPTIONS, exp2, sigmoid, tanh
from liquid_control.kernels.simd import LANES, fill, load, store, where_positive

LOG2_E = math.log2(math.e)
DEFAULT, NO_GATE, PURE = range(3)
"""The modes, in the order of `liquid_control.nn.cfc.MODES`."""


@njit(nogil=True, **OPTIONS)
def add_product(weight, begin, row_stride, column_stride, rows, columns, values, first_value, sums, first_sum):
    """sums[first_sum + r] += Σ_c weight[begin + r·row_stride + c·column_stride] values[first_value + c], in lanes."""
    whole = rows - rows % 4
    for row in range(0, whole, 4):
        place = begin + row * row_stride
        a = load(sums, first_sum + row)
        b = load(sums, first_sum + row + 1)
        c = load(sums, first_sum + row + 2)
        d = load(sums, first_sum + row + 3)
        for column in range(columns):
            value = load(values, first_value + column)
            a += weight[place] * value
            b += weight[place + row_stride] * value
            c += weight[place + 2 * row_stride] * value
            d += weight[place + 3 * row_stride] * value
            place += column_stride
        store(sums, first_sum + row, a)
        store(sums, first_sum + row + 1, b)
        store(sums, first_sum + row + 2, c)
        store(sums, first_sum + row + 3, d)
    for row in range(whole, rows):
        place = begin + row * row_stride
        a = load(sums, first_sum + row)
        for column in range(columns):
            a += weight[place] * load(values, first_value + column)
            place += column_stride
        store(sums, first_sum + row, a)


@njit(nogil=True, cache=True, **OPTIONS)
def cfc_forward(
    first_block, last_block, drive, recurrent, bias, pure, groups, mode, elapsed, advance, state, y, final,
    sources, activations, scratch,
):  # fmt: skip
    """All steps of the blocks ``first_block`` to ``last_block``.

    Args:
        first_block: see `liquid_control.kernels.batch`, whose layout of sixteens every flat array here has.
        last_block: the same.
        drive: (head rows of the first group, T, blocks, 16) its product with the inputs.
        recurrent: the other weights, group after group (head rows, sources of the group).
        bias: (head rows) of all groups. Head rows are those of a group after those of another, and within a group
            those of a head: g, h, gate; g, h, a, b with ``elapsed``; or g alone in mode "pure".
        pure: w_τ and A one after the other, or empty.
        groups: a row for each: first neuron, neurons, first source, sources, where its recurrent weights begin.
            Neuron numbers count all groups; sources are the group before and the group itself.
        mode: DEFAULT, NO_GATE or PURE.
        elapsed: (T, blocks, 16), or empty where the gate's heads were merged for a constant elapsed time.
        advance: (T, blocks, 16) positive where a step changes the state, or empty.
        state: (B, 1, S) before the first step.
        y: (B, T, O) receives the last group's first O neurons.
        final: (B, 1, S) receives the state after the last step.
        sources: (sources of all groups, T, blocks, 16) receives what the groups saw, or is empty.
        activations: (blocks, T, kept, S, 16) receives what the backward pass needs, unless ``sources`` is empty.
        scratch: (blocks, S + most head rows of a group, 16).
    """
    blocks = scratch.shape[0]
    steps, neurons, outputs = y.shape[1], state.shape[2], y.shape[2]
    heads_each = bias.size // neurons
    kept = activations.size // (blocks * steps * neurons * LANES)
    keep = sources.size > 0
    z, heads = scratch[0, : neurons * LANES], scratch[0, neurons * LANES :]
    motor = groups[-1, 0] * LANES
    time = fill(bias[0])
    moves = fill(bias[0])
    for block in range(first_block, last_block):
        z, heads = scratch[block, : neurons * LANES], scratch[block, neurons * LANES :]
        read_step(state, block * LANES, 0, z)
        for step in range(steps):
            if elapsed.size:
                time = load(elapsed, step * blocks + block)
            if advance.size:
                moves = load(advance, step * blocks + block)
            record = (block * steps + step) * kept * neurons
            seen = 0
            for group in range(len(groups)):
                first, size, source, fan, begin = groups[group]
                rows = heads_each * size
                for row in range(rows):
                    base = bias[heads_each * first + row]
                    if group == 0:
                        store(heads, row, load(drive, (row * steps + step) * blocks + block) + base)
                    else:
                        store(heads, row, fill(base))
                add_product(recurrent, begin, fan, 1, rows, fan, z, source, heads, 0)
                if keep:
                    for index in range(fan):
                        store(sources, ((seen + index) * steps + step) * blocks + block, load(z, source + index))
                    seen += fan
                for index in range(size):
                    neuron = first + index
                    if mode == PURE:
                        g = load(heads, index)
                        rate = abs(pure[neuron]) + where_positive(g, g, -g)
                        amplitude = pure[neurons + neuron]
                        new = amplitude - amplitude * exp2(-LOG2_E * time * rate) * g
                        if keep:
                            store(activations, record + neuron, g)
                    else:
                        g, h = tanh(load(heads, index)), tanh(load(heads, size + index))
                        gate = load(heads, 2 * size + index)
                        if elapsed.size:
                            if keep:
                                store(activations, record + 3 * neurons + neuron, gate)
                            gate = gate * time + load(heads, 3 * size + index)
                        gate = sigmoid(gate)
                        if keep:
                            store(activations, record + neuron, g)
                            store(activations, record + neurons + neuron, h)
                            store(activations, record + 2 * neurons + neuron, gate)
                        new = g + gate * h if mode == NO_GATE else g + gate * (h - g)
                    if advance.size:
                        new = where_positive(moves, new, load(z, neuron))
                    store(z, neuron, new)
            write_step(z[motor : motor + outputs * LANES], y, block * LANES, step)
        write_step(z, final, block * LANES, 0)


@njit(nogil=True, cache=True, **OPTIONS)
def cfc_backward(
    first_block, last_block, recurrent, pure, groups, mode, elapsed, advance, activations, y_gradient, final_gradient,
    heads_gradient, state_gradient, elapsed_gradient, pure_gradient, scratch,
):  # fmt: skip
    """The reverse of :func:`cfc_forward`, whose arguments these are. A gradient has the shape of its quantity.

    Args:
        first_block: of the blocks to do.
        last_block: after the last one.
        recurrent: as there.
        pure: as there.
        groups: as there.
        mode: as there.
        elapsed: as there.
        advance: as there.
        activations: as there.
        y_gradient: (B, T, O).
        final_gradient: (B, 1, S).
        heads_gradient: (head rows of all groups, T, blocks, 16), received.
        state_gradient: (B, 1, S), received.
        elapsed_gradient: (T, blocks, 16) received, or empty.
        pure_gradient: (blocks, 2, S, 16) of |w_τ| and A, received, or empty.
        scratch: (blocks, S + most head rows of a group, 16).
    """
    blocks = scratch.shape[0]
    steps, neurons, outputs = y_gradient.shape[1], state_gradient.shape[2], y_gradient.shape[2]
    kept = activations.size // (blocks * steps * neurons * LANES)
    heads_each = heads_gradient.size // (blocks * steps * neurons * LANES)
    motor = groups[-1, 0]
    zero = recurrent.dtype.type(0)
    time = fill(zero)
    moves = fill(zero)
    for block in range(first_block, last_block):
        z, heads = scratch[block, : neurons * LANES], scratch[block, neurons * LANES :]
        read_step(final_gradient, block * LANES, 0, z)
        for index in range(pure.size):
            store(pure_gradient, block * pure.size + index, fill(zero))
        for step in range(steps - 1, -1, -1):
            read_step(y_gradient, block * LANES, step, heads)
            for index in range(outputs):
                store(z, motor + index, load(z, motor + index) + load(heads, index))
            if elapsed.size:
                time = load(elapsed, step * blocks + block)
            if advance.size:
                moves = load(advance, step * blocks + block)
            record = (block * steps + step) * kept * neurons
            in_time = fill(zero)
            for group in range(len(groups) - 1, -1, -1):
                first, size, source, fan, begin = groups[group]
                for index in range(size):
                    neuron = first + index
                    new = load(z, neuron)
                    if advance.size:
                        store(z, neuron, where_positive(moves, fill(zero), new))
                        new = where_positive(moves, new, fill(zero))
                    else:
                        store(z, neuron, fill(zero))
                    g = load(activations, record + neuron)
                    if mode == PURE:
                        rate = abs(pure[neuron]) + where_positive(g, g, -g)
                        amplitude = pure[neurons + neuron]
                        decay = exp2(-LOG2_E * time * rate) * new
                        in_rate = amplitude * decay * g
                        store(heads, index, where_positive(g, in_rate, -in_rate) * time - amplitude * decay)
                        in_time += in_rate * rate
                        place = block * pure.size + neuron
                        store(pure_gradient, place, load(pure_gradient, place) + in_rate * time)
                        place += neurons
                        store(pure_gradient, place, load(pure_gradient, place) + new - decay * g)
                    else:
                        h = load(activations, record + neurons + neuron)
                        gate = load(activations, record + 2 * neurons + neuron)
                        if mode == NO_GATE:
                            in_g, in_gate = new, new * h
                        else:
                            in_g, in_gate = new - new * gate, new * (h - g)
                        in_gate *= gate - gate * gate
                        store(heads, index, in_g - in_g * g * g)
                        store(heads, size + index, new * gate * (1 - h * h))
                        if elapsed.size:
                            in_time += in_gate * load(activations, record + 3 * neurons + neuron)
                            store(heads, 2 * size + index, in_gate * time)
                            store(heads, 3 * size + index, in_gate)
                        else:
                            store(heads, 2 * size + index, in_gate)
                rows = heads_each * size
                for row in range(rows):
                    place = ((heads_each * first + row) * steps + step) * blocks + block
                    store(heads_gradient, place, load(heads, row))
                add_product(recurrent, begin, 1, fan, fan, rows, heads, 0, z, source)
            if elapsed_gradient.size:
                store(elapsed_gradient, step * blocks + block, in_time)
        write_step(z, state_gradient, block * LANES, 0)


# From a layer's parameters to the kernels' weights


@dataclass(frozen=True)
class Layout:
    """Where a layer's parameters go in the kernels' weights, [inputs | recurrent | bias | w_τ, A].

    Attributes:
        inputs: number of inputs of the layer.
        groups: as :func:`cfc_forward` takes them.
        heads_each: heads of a neuron in the kernels.
        places: for each weight of the kernels its place among the parameters laid end to end, or, where the wiring has
            no synapse, the zero behind them.
        timed_places: the places of what a constant elapsed time multiplies before it is added, or None.
    """

    inputs: int
    groups: np.ndarray
    heads_each: int
    places: Tensor
    timed_places: Tensor | None

    def pack(self, parameters: Sequence[Tensor], elapsed: float) -> Tensor:
        """The kernels' weights; ``elapsed`` matters only where the gate's heads are merged for it."""
        values = torch.cat([*(parameter.detach().view(-1) for parameter in parameters), parameters[0].new_zeros(1)])
        packed = values.index_select(0, self.places)
        if self.timed_places is not None:
            packed.add_(values.index_select(0, self.timed_places), alpha=elapsed)
        return packed

    def unpack(self, gradient: Tensor, parameters: Sequence[torch.Size], elapsed: float) -> list[Tensor]:
        """From the gradient of the kernels' weights to those of the parameters, given their shapes."""
        counts = [shape.numel() for shape in parameters]
        values = gradient.new_zeros(sum(counts) + 1).index_add_(0, self.places, gradient)
        if self.timed_places is not None:
            values.index_add_(0, self.timed_places, gradient, alpha=elapsed)
        parts = values[:-1].split(counts)
        return [part.view(shape) for part, shape in zip(parts, parameters, strict=True)]

    def sections(self, packed: Tensor) -> list[Tensor]:
        """The four sections of the kernels' weights as flat views."""
        first, rows = self.groups[0, 1] * self.heads_each, self.head_rows
        recurrent = int((self.groups[:, 1] * self.groups[:, 3]).sum()) * self.heads_each
        inputs = int(first) * self.inputs
        return list(packed.split([inputs, recurrent, rows, len(packed) - inputs - recurrent - rows]))

    @property
    def neurons(self) -> int:
        """Neurons of all groups."""
        return int(self.groups[:, 1].sum())

    @property
    def head_rows(self) -> int:
        """Heads of all neurons."""
        return self.neurons * self.heads_each


def build_layouts(
    inputs: int, sizes: Sequence[int], masks: Sequence[np.ndarray | None], masked: Sequence[bool]
) -> tuple[Layout, Layout]:
    """The layouts of a layer for a constant elapsed time and for one that differs between steps or sequences.

    The parameters are, group after group, weight and bias of each head in the order g, h, a, b; in mode "pure" those of
    g and then w_τ and A.

    Args:
        inputs: number of inputs.
        sizes: neurons of each group.
        masks: for each group (neurons, inputs or neurons of the group before + neurons), zero where there is no
            synapse; or None.
        masked: for each head whether the masks hold for it; a single head is mode "pure".
    """
    weights: list[list[np.ndarray]] = []  # of a group and head: the places of its matrix
    others: list[list[np.ndarray]] = []  # of a group: the places of its heads' biases, then of w_τ and A
    count = 0
    before = inputs
    for size, mask in zip(sizes, masks, strict=True):
        weights.append([])
        others.append([])
        for holds in masked:
            matrix = count + np.arange(size * (before + size)).reshape(size, -1)
            count += matrix.size
            weights[-1].append(matrix if mask is None or not holds else np.where(mask != 0, matrix, -1))
            others[-1].append(count + np.arange(size))
            count += size
        if len(masked) == 1:
            others[-1] += [count + np.arange(size), count + size + np.arange(size)]
            count += 2 * size
        before = size

    def places(heads: Sequence[int | None]) -> Tensor:
        """Of the heads in the order of the kernels; None is a head of zeros."""

        def of(places: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [np.full_like(places[0], -1) if head is None else places[head] for head in heads]

        parts = [matrix[:, :inputs] for matrix in of(weights[0])]
        parts += [matrix[:, inputs:] for matrix in of(weights[0])]
        parts += [matrix for group in weights[1:] for matrix in of(group)]
        parts += [bias for group in others for bias in of(group)]
        if len(masked) == 1:
            parts += [group[which] for which in (1, 2) for group in others]
        flat = np.concatenate([part.ravel() for part in parts])
        return torch.from_numpy(np.where(flat < 0, count, flat))

    def groups(heads_each: int) -> np.ndarray:
        firsts = [0, *itertools.accumulate(sizes)]
        fans = [size + before for before, size in zip((0, *sizes), sizes, strict=False)]
        begins = itertools.accumulate(
            (heads_each * size * fan for size, fan in zip(sizes, fans, strict=True)), initial=0
        )
        return np.array(
            [
                (first, size, first + size - fan, fan, begin)
                for first, size, fan, begin in zip(firsts, sizes, fans, begins, strict=False)
            ]
        )

    if len(masked) == 1:
        layout = Layout(inputs, groups(1), 1, places([0]), None)
        return layout, layout
    return (
        Layout(inputs, groups(3), 3, places([0, 1, 3]), places([None, None, 2])),
        Layout(inputs, groups(4), 4, places([0, 1, 2, 3]), None),
    )


# Whole sequences


class _Kept:
    """What the backward pass of a sequence needs."""

    x: Buffer
    sources: Buffer
    activations: Buffer
    packed: Tensor
    elapsed: Tensor | None
    advance: Tensor | None


def _as_lanes(values: Tensor | None, blocks: int, like: Tensor) -> Tensor:
    """Values (T, B) as (T, blocks, 16) of the type of ``like``, ones where there is no row; None is empty."""
    if values is None:
        return like.new_empty(0)
    return F.pad(values.to(like), (0, blocks * LANES - values.shape[1]), value=1).reshape(-1)


def _forward(
    layout: Layout, mode: int, outputs: int, x: Tensor, state: Tensor, elapsed: float | Tensor, advance: Tensor | None,
    parameters: Sequence[Tensor], keep: bool,
) -> tuple[Tensor, Tensor, _Kept]:  # fmt: skip
    steps, batch, inputs = x.shape
    blocks, neurons, rows = block_count(batch), layout.neurons, layout.head_rows
    lanes = blocks * LANES
    dtype = np.dtype(str(x.dtype).removeprefix("torch."))
    kept = _Kept()

    kept.packed = layout.pack(parameters, elapsed if isinstance(elapsed, float) else 1.0)
    input_weight, recurrent, bias, pure = layout.sections(kept.packed)
    kept.x = Buffer(steps * lanes * inputs, dtype)
    x_lanes = torch.from_numpy(kept.x.values).view(steps, lanes, inputs)
    x_lanes[:, :batch] = x
    if lanes > batch:
        x_lanes[:, batch:] = 0
    first_rows = int(layout.groups[0, 1]) * layout.heads_each
    drive = Buffer(first_rows * steps * lanes, dtype)
    torch.mm(
        input_weight.view(first_rows, inputs),
        x_lanes.view(-1, inputs).T,
        out=torch.from_numpy(drive.values).view(first_rows, -1),
    )
    if mode == PURE and isinstance(elapsed, float):
        elapsed = x.new_full((steps, batch), elapsed)
    kept.elapsed = _as_lanes(elapsed if isinstance(elapsed, Tensor) else None, blocks, x)
    kept.advance = _as_lanes(advance, blocks, x)
    kept.sources = Buffer(int(layout.groups[:, 3].sum()) * steps * lanes if keep else 0, dtype)
    kept.activations = Buffer(layout.heads_each * neurons * steps * lanes if keep else 0, dtype)
    scratch = Buffer(blocks * (neurons + rows) * LANES, dtype)
    y, final = x.new_empty(batch, steps, outputs), x.new_empty(batch, 1, neurons)
    over_blocks(
        cfc_forward, blocks, 3 * neurons * steps * batch,
        drive.values, recurrent.numpy(), bias.numpy(), pure.numpy(), layout.groups, mode, kept.elapsed.numpy(),
        kept.advance.numpy(), state.contiguous()[:, None].numpy(), y.numpy(), final.numpy(),
        kept.sources.values, kept.activations.values, scratch.values.reshape(blocks, -1),
    )  # fmt: skip
    return y, final[:, 0], kept


class _WiredCfC(Function):
    """Autograd's view of the kernels."""

    @staticmethod
    def forward(
        ctx: Any, layout: Layout, mode: int, outputs: int, advance: Tensor | None, x: Tensor, state: Tensor,
        elapsed: float | Tensor, *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        y, final, ctx.kept = _forward(layout, mode, outputs, x, state, elapsed, advance, parameters, keep=True)
        ctx.layout, ctx.mode, ctx.batch = layout, mode, len(state)
        ctx.elapsed = elapsed if isinstance(elapsed, float) else 1.0
        ctx.shapes = [parameter.shape for parameter in parameters]
        return y, final

    @staticmethod
    def backward(ctx: Any, y_gradient: Tensor, final_gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the CfC kernel has no second derivatives: set LIQUID_CONTROL_KERNELS=reference for create_graph=True."
            )
        layout, kept, batch = ctx.layout, ctx.kept, ctx.batch
        dtype = kept.x.values.dtype
        blocks, neurons, rows = block_count(batch), layout.neurons, layout.head_rows
        steps = y_gradient.shape[1]
        lanes = blocks * LANES

        input_weight, recurrent, _, pure = layout.sections(kept.packed)
        heads_gradient = Buffer(rows * steps * lanes, dtype)
        scratch = Buffer(blocks * (neurons + rows) * LANES, dtype)
        state_gradient = y_gradient.new_empty(batch, 1, neurons)
        elapsed_gradient = y_gradient.new_empty(steps, lanes) if ctx.needs_input_grad[6] else y_gradient.new_empty(0)
        pure_gradient = y_gradient.new_empty(blocks, pure.numel(), LANES)
        over_blocks(
            cfc_backward, blocks, 2 * neurons * steps * batch,
            recurrent.numpy(), pure.numpy(), layout.groups, ctx.mode, kept.elapsed.numpy(),
            kept.advance.numpy(), kept.activations.values, y_gradient.contiguous().numpy(),
            final_gradient.contiguous()[:, None].numpy(), heads_gradient.values, state_gradient.numpy(),
            elapsed_gradient.view(-1).numpy(), pure_gradient.view(-1).numpy(), scratch.values.reshape(blocks, -1),
        )  # fmt: skip

        # The rest is products for all steps at once.
        in_heads = torch.from_numpy(heads_gradient.values).view(rows, -1)
        x = torch.from_numpy(kept.x.values).view(-1, layout.inputs)
        sources = torch.from_numpy(kept.sources.values).view(-1, steps * lanes)
        packed_gradient = torch.empty_like(kept.packed)
        in_inputs, in_recurrent, in_bias, in_pure = layout.sections(packed_gradient)
        first_rows = len(in_inputs) // layout.inputs
        torch.mm(in_heads[:first_rows], x, out=in_inputs.view(first_rows, -1))
        seen = 0
        for first, size, _, fan, begin in layout.groups.tolist():
            rows_of = slice(first * layout.heads_each, (first + size) * layout.heads_each)
            into = in_recurrent[begin : begin + size * layout.heads_each * fan].view(-1, fan)
            torch.mm(in_heads[rows_of], sources[seen : seen + fan].T, out=into)
            seen += fan
        torch.sum(in_heads, 1, out=in_bias)
        if ctx.mode == PURE:
            torch.sum(pure_gradient, (0, 2), out=in_pure)
            in_pure[:neurons] *= pure[:neurons].sign()
        x_gradient = None
        if ctx.needs_input_grad[4]:
            x_gradient = torch.mm(in_heads[:first_rows].T, input_weight.view(first_rows, -1))
            x_gradient = x_gradient.view(steps, lanes, -1)[:, :batch]
        if ctx.needs_input_grad[6]:
            elapsed_gradient = elapsed_gradient[:, :batch]
        return (
            None, None, None, None, x_gradient, state_gradient[:, 0],
            elapsed_gradient if ctx.needs_input_grad[6] else None,
            *layout.unpack(packed_gradient, ctx.shapes, ctx.elapsed),
        )  # fmt: skip


def wired_cfc(
    layouts: tuple[Layout, Layout],
    mode: int,
    outputs: int,
    x: Tensor,
    state: Tensor,
    elapsed: float | Tensor,
    advance: Tensor | None,
    parameters: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Groups of closed-form neurons over a whole sequence, differentiable once in every tensor but ``advance``.

    Args:
        layouts: from :func:`build_layouts`.
        mode: DEFAULT, NO_GATE or PURE.
        outputs: how many neurons of the last group are the outputs, O.
        x: (T, B, C) float32 or float64, finite.
        state: (B, S).
        elapsed: positive: a number, or (T, B).
        advance: (T, B) bool, False where a step leaves the state; None is always.
        parameters: as :func:`build_layouts` says.

    Returns:
        y (T, B, O) and the final state (B, S).
    """
    layout = layouts[isinstance(elapsed, Tensor)]
    if torch.is_grad_enabled() and any(
        value.requires_grad for value in (x, state, elapsed, *parameters) if isinstance(value, Tensor)
    ):
        y, final = _WiredCfC.apply(layout, mode, outputs, advance, x, state, elapsed, *parameters)
    else:
        y, final, _ = _forward(layout, mode, outputs, x, state, elapsed, advance, parameters, keep=False)
    return y.transpose(0, 1), final

"""The CfC on CUDA: whole sequences forward and backward, wired or behind a backbone, float32.

A step of a neuron, from the heads g, h, a, b of its inputs and its group's state (`liquid_control.nn.cfc` has the
equations' origin), ∂ being the gradient of the loss, G = tanh g, H = tanh h and s = σ(p):

    p = t·a + b, or one head where the elapsed time t is the same for all steps         ∂a = t ∂p    ∂b = ∂p
    x = G + s (H - G)      ∂g = (1 - s)(1 - G²) ∂x    ∂h = s (1 - H²) ∂x    ∂p = (H - G) s (1 - s) ∂x     "default"
    x = G + s H            ∂g = (1 - G²) ∂x           ∂h = s (1 - H²) ∂x    ∂p = H s (1 - s) ∂x           "no_gate"
    x = A - A q g          q = exp(-t (|w_τ| + |g|))      ∂g = -A q (1 - t |g|) ∂x                         "pure"

Only what depends on the state runs step by step: a program takes a block of batch rows through all steps. What inputs
contribute before it, and gradients of weights after it, are large products for all steps at once, which cuBLAS does.

Groups of a wiring depend on each other within a step in one direction only. As in the reference form, each runs one
tick behind the group before it, so that a tick is one product for all groups instead of one after the other. With an
LSTM before them (`kernels.cuda.memory`), which needs the state of all groups, a step has a tick for each group instead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from liquid_control.kernels import is_known, is_recorded, use_reference
from liquid_control.kernels.autograd import refuse_more_than_gradients
from liquid_control.kernels.cuda.activations import ACTIVATIONS, activation, tanh
from liquid_control.kernels.cuda.memory import Back, Memory, Written, close_memory, remember, remember_back
from liquid_control.kernels.cuda.tiles import PRECISION, load_heads, store_heads

MODES = ("default", "no_gate", "pure")
"""The modes that the kernels know."""
ROWS = 16
"""Batch rows of a program: the least that a matrix unit takes."""
HIDDEN_BLOCK = 32
"""Units of a backbone that are worked on at once."""
LARGEST = 128
"""Neurons whose heads a program keeps in registers, their weights passing through shared memory."""
STAGES = 1
"""Weights are not copied ahead: so the largest layer fits the 99 KiB of shared memory of small GPUs too."""


class Backbone(NamedTuple):
    """The hidden layer between what drives a dense layer and its heads."""

    weight: Tensor
    """(U, C + S), of inputs and states."""
    bias: Tensor
    """(U,)."""
    activation: str
    """One of `liquid_control.kernels.cuda.activations.ACTIVATIONS`."""


def integrate(
    x: Tensor,
    state: Tensor,
    elapsed: float | Tensor,
    advance: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    pure: tuple[Tensor, Tensor] | None,
    backbone: Backbone | None,
    group_sizes: tuple[int, ...],
    mode: str,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor] | None:
    """The states of a CfC at all steps; None where the reference form must run.

    Args:
        x: (T, B, C) inputs.
        state: (B, S) before the first step.
        elapsed: positive: a number, or (T, B).
        advance: (T, B) bool, or None for always.
        weight: of all heads, (heads, S, C + S), zero where there is no synapse, or (heads, S, U) behind a backbone. The
            heads are g, h, a, b; g, h and t·a + b if ``elapsed`` is a number; g alone in mode "pure".
        bias: (heads, S).
        pure: |w_τ| and A, each (1, S), in mode "pure".
        backbone: of a layer of one group, or None.
        group_sizes: how many neurons each group has, each group driven by the one before it.
        mode: one of :data:`MODES`.
        memory: the LSTM before the neurons, if there is one.

    Returns:
        (T, B, S) and the final state, (B, S) or with the memory [h | c] (B, 2 S); or None.
    """
    if not _covers(x, state, mode, backbone):
        return None
    inputs = x.shape[2]
    times = elapsed if isinstance(elapsed, Tensor) else x.new_full(x.shape[:2], elapsed) if pure else None
    w_tau, amplitude = pure or (None, None)
    saving = is_recorded(x, state, times, weight, bias, *(pure or ()), *(backbone or ())[:2], *(memory or ()))
    dynamics = (*(memory or (None,) * 3), state, times, w_tau, amplitude, advance, mode, saving)
    if backbone is not None:
        drive = F.linear(x, backbone.weight[:, :inputs], backbone.bias)
        recurrent = backbone.weight[:, inputs:]
        with torch.cuda.device_of(x):
            states, last = _Dense.apply(drive, recurrent, weight, bias, *dynamics, backbone.activation)
            return states, close_memory(states, last)
    drive = F.linear(x, weight[..., :inputs].flatten(0, 1), bias.flatten())
    group = _groups(group_sizes, x.device)
    with torch.cuda.device_of(x):
        states, last = _Wired.apply(drive, weight[..., inputs:], *dynamics, group, len(group_sizes) - 1)
        return states, close_memory(states, last)


def _covers(x: Tensor, state: Tensor, mode: str, backbone: Backbone | None) -> bool:
    if x.dtype != torch.float32:
        use_reference(f"the CfC's CUDA kernel is for float32, not {x.dtype}")
        return False
    if state.shape[1] > LARGEST:
        use_reference(f"the CfC's CUDA kernel is for {LARGEST} neurons or fewer, not {state.shape[1]}")
        return False
    return is_known("the CfC", "mode", mode, MODES) and (
        backbone is None or is_known("the CfC", "activation", backbone.activation, ACTIVATIONS)
    )


@lru_cache(maxsize=64)
def _groups(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """(S,) int32: the group of each neuron."""
    return torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes)).to(device)


class _Wired(torch.autograd.Function):
    """Drive (T, B, heads·S), weight (heads, S, S), memory and the dynamics → states (T, B, S), and the last c."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        weight: Tensor,
        memory_drive: Tensor | None,
        memory_weight: Tensor | None,
        cells: Tensor | None,
        state: Tensor,
        elapsed: Tensor | None,
        w_tau: Tensor | None,
        amplitude: Tensor | None,
        advance: Tensor | None,
        mode: str,
        saving: bool,
        group: Tensor,
        lag: int,
    ) -> tuple[Tensor, Tensor | None]:
        drive, weight, state = drive.contiguous(), weight.contiguous(), state.contiguous()
        elapsed, advance = _contiguous(elapsed), _contiguous(advance)
        memory = Written.open(memory_drive, memory_weight, cells, saving)
        steps, batch, _ = drive.shape
        neurons = state.shape[1]
        states = drive.new_empty(steps, batch, neurons)
        heads = drive.new_empty((steps, batch, len(weight), neurons) if saving else 0)
        _wired_forward[(triton.cdiv(batch, ROWS),)](
            drive,
            weight,
            state,
            elapsed,
            w_tau,
            amplitude,
            advance,
            group,
            *memory,
            states,
            heads,
            steps,
            batch,
            LAG=lag,
            SAVING=saving,
            MODE=mode,
            NEURONS=neurons,
            HEADS=len(weight),
            ROWS=ROWS,
            LANES=_lanes(neurons),
            num_warps=_warps(neurons),
            num_stages=STAGES,
        )
        ctx.mode, ctx.lag = mode, lag
        ctx.save_for_backward(weight, state, elapsed, w_tau, amplitude, advance, group, states, heads, *memory.kept)
        return states, memory.last

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_more_than_gradients("the CfC", grad_states, grad_last)
        weight, state, elapsed, w_tau, amplitude, advance, group, states, heads, *kept = ctx.saved_tensors
        steps, batch, neurons = states.shape
        grad_heads, grad_state = torch.empty_like(heads), torch.empty_like(state)
        memory = Back.open(kept, grad_last)
        grad_new = torch.empty_like(states) if ctx.mode == "pure" else None
        _wired_backward[(triton.cdiv(batch, ROWS),)](
            grad_states.contiguous(),
            weight,
            elapsed,
            w_tau,
            amplitude,
            advance,
            group,
            *memory,
            heads,
            grad_heads,
            grad_state,
            grad_new,
            steps,
            batch,
            LAG=ctx.lag,
            MODE=ctx.mode,
            NEURONS=neurons,
            HEADS=len(weight),
            ROWS=ROWS,
            LANES=_lanes(neurons),
            num_warps=_warps(neurons),
            num_stages=STAGES,
        )
        # A neuron reads its own group as the step before left it, or the memory, and the group before as this step did.
        each = grad_heads.flatten(0, 1).flatten(1).T
        own = each @ memory.driven(state, states).flatten(0, 1)
        if ctx.lag:
            own = torch.where((group[:, None] == group).tile(len(weight), 1), own, each @ states.flatten(0, 1))
        return (
            grad_heads.flatten(2),
            own.view_as(weight),
            *memory.gradients(state, states),
            grad_state,
            *_grad_dynamics(ctx.mode, heads, grad_heads, grad_new, elapsed, w_tau, amplitude),
            *[None] * 5,
        )


class _Dense(torch.autograd.Function):
    """Drive (T, B, hidden), recurrent (hidden, S), weight (heads, S, hidden), bias, memory, the dynamics.

    Gives states (T, B, S), and the last c.
    """

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        recurrent: Tensor,
        weight: Tensor,
        bias: Tensor,
        memory_drive: Tensor | None,
        memory_weight: Tensor | None,
        cells: Tensor | None,
        state: Tensor,
        elapsed: Tensor | None,
        w_tau: Tensor | None,
        amplitude: Tensor | None,
        advance: Tensor | None,
        mode: str,
        saving: bool,
        activation: str,
    ) -> tuple[Tensor, Tensor | None]:
        drive, recurrent, weight = drive.contiguous(), recurrent.contiguous(), weight.contiguous()
        bias, state, elapsed, advance = (
            bias.contiguous(),
            state.contiguous(),
            _contiguous(elapsed),
            _contiguous(advance),
        )
        memory = Written.open(memory_drive, memory_weight, cells, saving)
        steps, batch, hidden = drive.shape
        neurons = state.shape[1]
        states = drive.new_empty(steps, batch, neurons)
        heads = drive.new_empty((steps, batch, len(weight), neurons) if saving else 0)
        before = torch.empty_like(drive if saving else heads)  # the backbone's units before their activation
        _dense_forward[(triton.cdiv(batch, ROWS),)](
            drive,
            recurrent,
            weight,
            bias,
            state,
            elapsed,
            w_tau,
            amplitude,
            advance,
            *memory,
            states,
            heads,
            before,
            steps,
            batch,
            SAVING=saving,
            MODE=mode,
            ACTIVATION=activation,
            NEURONS=neurons,
            HIDDEN=hidden,
            HEADS=len(weight),
            ROWS=ROWS,
            LANES=_lanes(neurons),
            BLOCK=HIDDEN_BLOCK,
            num_warps=_warps(neurons),
            num_stages=STAGES,
        )
        ctx.mode, ctx.activation = mode, activation
        ctx.save_for_backward(
            recurrent, weight, state, elapsed, w_tau, amplitude, advance, states, heads, before, *memory.kept
        )
        return states, memory.last

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_more_than_gradients("the CfC", grad_states, grad_last)
        recurrent, weight, state, elapsed, w_tau, amplitude, advance, states, heads, before, *kept = ctx.saved_tensors
        memory = Back.open(kept, grad_last)
        steps, batch, neurons = states.shape
        grad_heads, grad_state = torch.empty_like(heads), torch.empty_like(state)
        grad_new = torch.empty_like(states) if ctx.mode == "pure" else None
        grad_before, after = torch.empty_like(before), torch.empty_like(before)
        _dense_backward[(triton.cdiv(batch, ROWS),)](
            grad_states.contiguous(),
            recurrent,
            weight,
            elapsed,
            w_tau,
            amplitude,
            advance,
            *memory,
            heads,
            before,
            grad_heads,
            grad_state,
            grad_new,
            grad_before,
            after,
            steps,
            batch,
            MODE=ctx.mode,
            ACTIVATION=ctx.activation,
            NEURONS=neurons,
            HIDDEN=before.shape[2],
            HEADS=len(weight),
            ROWS=ROWS,
            LANES=_lanes(neurons),
            BLOCK=HIDDEN_BLOCK,
            num_warps=_warps(neurons),
            num_stages=STAGES,
        )
        return (
            grad_before,
            grad_before.flatten(0, 1).T @ memory.driven(state, states).flatten(0, 1),
            (grad_heads.flatten(0, 1).flatten(1).T @ after.flatten(0, 1)).view_as(weight),
            grad_heads.sum((0, 1)),
            *memory.gradients(state, states),
            grad_state,
            *_grad_dynamics(ctx.mode, heads, grad_heads, grad_new, elapsed, w_tau, amplitude),
            *[None] * 4,
        )


def _grad_dynamics(
    mode: str,
    heads: Tensor,
    grad_heads: Tensor,
    grad_new: Tensor | None,
    elapsed: Tensor | None,
    w_tau: Tensor | None,
    amplitude: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of elapsed (T, B), |w_τ| and A (1, S): sums over what the kernels left at each step."""
    if elapsed is None:
        return None, None, None
    if grad_new is None or w_tau is None or amplitude is None:
        return (grad_heads[:, :, 3] * heads[:, :, 2]).sum(2), None, None
    g, span = heads[:, :, 0], elapsed[..., None]
    rate = w_tau + g.abs()
    decayed = torch.exp(-span * rate) * g
    grad_exponent = grad_new * amplitude * decayed
    return (
        (grad_exponent * rate).sum(2),
        (grad_exponent * span).sum((0, 1))[None],
        (grad_new * (1 - decayed)).sum((0, 1))[None],
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _lanes(neurons: int) -> int:
    """Columns of a tile of neurons; 16 is the least that a matrix unit takes."""
    return max(16, triton.next_power_of_2(neurons))


def _warps(neurons: int) -> int:
    return 4 if neurons <= 32 else 8


@triton.jit
def _wired_forward(
    drive,
    weight,
    state,
    elapsed,
    w_tau,
    amplitude,
    advance,
    group,
    memory_drive,
    memory_weight,
    sums,
    cells,
    states,
    heads,
    steps,
    batch,
    LAG: tl.constexpr,
    SAVING: tl.constexpr,
    MODE: tl.constexpr,
    NEURONS: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """All ticks of ROWS batch rows; each neuron's heads are kept for the backward."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    neuron = tl.arange(0, LANES)
    real = (neuron < NEURONS)[None, :]
    behind = tl.load(group + neuron, neuron < NEURONS, 0)[None, :]
    rate, scale = _pure_parameters(w_tau, amplitude, neuron, NEURONS)
    there = (row < batch) & real
    value = tl.load(state + row * NEURONS + neuron[None, :], there, 0.0)
    steps = tl.cast(steps, tl.int64)  # so that no offset overflows
    if memory_drive is not None:
        cell = tl.load(cells + row * NEURONS + neuron[None, :], there, 0.0)
    for tick in range(_ticks(steps, memory_drive, LAG)):
        step, here = _turn(tick, behind, there, steps, memory_drive, LAG)
        at = step * batch + row
        if memory_drive is not None:
            taken = _moves(advance, at, there)
            if tick % (LAG + 1) == 0:
                value, cell = remember(
                    value,
                    cell,
                    memory_drive,
                    memory_weight,
                    sums,
                    cells,
                    at,
                    batch,
                    there,
                    taken,
                    NEURONS,
                    SAVING,
                )
        # [input, output] of each head
        turned = neuron[None, :] * NEURONS + neuron[:, None]
        weight_g, weight_h, weight_a, weight_b = load_heads(
            weight + turned, NEURONS * NEURONS, (neuron < NEURONS)[:, None] & real, HEADS
        )
        g, h, a, b = load_heads(drive + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, HEADS)
        g = tl.dot(value, weight_g, g, input_precision=PRECISION)
        if HEADS > 1:
            h = tl.dot(value, weight_h, h, input_precision=PRECISION)
            a = tl.dot(value, weight_a, a, input_precision=PRECISION)
        if HEADS > 3:
            b = tl.dot(value, weight_b, b, input_precision=PRECISION)
        if SAVING:
            store_heads(heads + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, g, h, a, b, HEADS)
        new = _solution(g, h, a, b, _span(elapsed, at, here), rate, scale, MODE, HEADS)
        value = tl.where(_moves(advance, at, here), new, value)
        tl.store(states + at * NEURONS + neuron[None, :], value, here)


@triton.jit
def _wired_backward(
    grad_states,
    weight,
    elapsed,
    w_tau,
    amplitude,
    advance,
    group,
    memory_weight,
    sums,
    cells,
    grad_sums,
    grad_cells,
    heads,
    grad_heads,
    grad_state,
    grad_new,
    steps,
    batch,
    LAG: tl.constexpr,
    MODE: tl.constexpr,
    NEURONS: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """All ticks of ROWS batch rows from the last to the first."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    neuron = tl.arange(0, LANES)
    real = (neuron < NEURONS)[None, :]
    behind = tl.load(group + neuron, neuron < NEURONS, 0)[None, :]
    rate, scale = _pure_parameters(w_tau, amplitude, neuron, NEURONS)
    there = (row < batch) & real
    grad = tl.zeros((ROWS, LANES), tl.float32)
    steps = tl.cast(steps, tl.int64)
    if memory_weight is not None:
        grad_cell = tl.load(grad_cells + row * NEURONS + neuron[None, :], there, 0.0)
    ticks = _ticks(steps, memory_weight, LAG)
    for back in range(ticks):
        tick = ticks - 1 - back
        step, here = _turn(tick, behind, there, steps, memory_weight, LAG)
        at = step * batch + row
        # [output, input] of each head
        straight = neuron[:, None] * NEURONS + neuron[None, :]
        weight_g, weight_h, weight_a, weight_b = load_heads(
            weight + straight, NEURONS * NEURONS, (neuron < NEURONS)[:, None] & real, HEADS
        )
        grad += tl.load(grad_states + at * NEURONS + neuron[None, :], here, 0.0)
        moves = _moves(advance, at, here)
        solved = tl.where(moves, grad, 0.0)
        grad = tl.where(moves, 0.0, grad)
        g, h, a, b = load_heads(heads + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, HEADS)
        g, h, a, b = _grad_solution(solved, g, h, a, b, _span(elapsed, at, here), rate, scale, MODE, HEADS)
        store_heads(grad_heads + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, g, h, a, b, HEADS)
        if MODE == "pure":
            tl.store(grad_new + at * NEURONS + neuron[None, :], solved, here)
        grad = tl.dot(g, weight_g, grad, input_precision=PRECISION)
        if HEADS > 1:
            grad = tl.dot(h, weight_h, grad, input_precision=PRECISION)
            grad = tl.dot(a, weight_a, grad, input_precision=PRECISION)
        if HEADS > 3:
            grad = tl.dot(b, weight_b, grad, input_precision=PRECISION)
        if memory_weight is not None:
            taken = _moves(advance, at, there)
            if tick % (LAG + 1) == 0:
                grad, grad_cell = remember_back(
                    grad,
                    grad_cell,
                    memory_weight,
                    sums,
                    cells,
                    grad_sums,
                    at,
                    there,
                    taken,
                    NEURONS,
                )
    tl.store(grad_state + row * NEURONS + neuron[None, :], grad, there)
    if memory_weight is not None:
        tl.store(grad_cells + row * NEURONS + neuron[None, :], grad_cell, there)


@triton.jit
def _dense_forward(
    drive,
    recurrent,
    weight,
    bias,
    state,
    elapsed,
    w_tau,
    amplitude,
    advance,
    memory_drive,
    memory_weight,
    sums,
    cells,
    states,
    heads,
    before,
    steps,
    batch,
    SAVING: tl.constexpr,
    MODE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NEURONS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All steps of ROWS batch rows, a block of the backbone's units after the other."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    neuron = tl.arange(0, LANES)
    real = (neuron < NEURONS)[None, :]
    here = (row < batch) & real
    rate, scale = _pure_parameters(w_tau, amplitude, neuron, NEURONS)
    value = tl.load(state + row * NEURONS + neuron[None, :], here, 0.0)
    if memory_drive is not None:
        cell = tl.load(cells + row * NEURONS + neuron[None, :], here, 0.0)
    steps = tl.cast(steps, tl.int64)
    for step in range(steps):
        at = step * batch + row
        if memory_drive is not None:
            value, cell = remember(
                value,
                cell,
                memory_drive,
                memory_weight,
                sums,
                cells,
                at,
                batch,
                here,
                _moves(advance, at, here),
                NEURONS,
                SAVING,
            )
        g, h, a, b = load_heads(bias + tl.zeros((ROWS, 1), tl.int32) + neuron[None, :], NEURONS, here, HEADS)
        for first in range(0, HIDDEN, BLOCK):
            unit = first + tl.arange(0, BLOCK)
            inside = (unit < HIDDEN)[None, :]
            z = tl.load(drive + at * HIDDEN + unit[None, :], (row < batch) & inside, 0.0)
            turned = tl.load(
                recurrent + unit[None, :] * NEURONS + neuron[:, None], (neuron < NEURONS)[:, None] & inside, 0.0
            )
            z = tl.dot(value, turned, z, input_precision=PRECISION)
            if SAVING:
                tl.store(before + at * HIDDEN + unit[None, :], z, (row < batch) & inside)
            z, _slope = activation(z, ACTIVATION)
            # [unit, neuron] of each head; a unit that is not there counts for nothing
            weight_g, weight_h, weight_a, weight_b = load_heads(
                weight + neuron[None, :] * HIDDEN + unit[:, None],
                NEURONS * HIDDEN,
                (unit < HIDDEN)[:, None] & real,
                HEADS,
            )
            g = tl.dot(z, weight_g, g, input_precision=PRECISION)
            if HEADS > 1:
                h = tl.dot(z, weight_h, h, input_precision=PRECISION)
                a = tl.dot(z, weight_a, a, input_precision=PRECISION)
            if HEADS > 3:
                b = tl.dot(z, weight_b, b, input_precision=PRECISION)
        if SAVING:
            store_heads(heads + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, g, h, a, b, HEADS)
        new = _solution(g, h, a, b, _span(elapsed, at, here), rate, scale, MODE, HEADS)
        value = tl.where(_moves(advance, at, here), new, value)
        tl.store(states + at * NEURONS + neuron[None, :], value, here)


@triton.jit
def _dense_backward(
    grad_states,
    recurrent,
    weight,
    elapsed,
    w_tau,
    amplitude,
    advance,
    memory_weight,
    sums,
    cells,
    grad_sums,
    grad_cells,
    heads,
    before,
    grad_heads,
    grad_state,
    grad_new,
    grad_before,
    after,
    steps,
    batch,
    MODE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NEURONS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All steps of ROWS batch rows from the last to the first; ``after`` gets the backbone's units anew."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    neuron = tl.arange(0, LANES)
    real = (neuron < NEURONS)[None, :]
    here = (row < batch) & real
    rate, scale = _pure_parameters(w_tau, amplitude, neuron, NEURONS)
    grad = tl.zeros((ROWS, LANES), tl.float32)
    if memory_weight is not None:
        grad_cell = tl.load(grad_cells + row * NEURONS + neuron[None, :], here, 0.0)
    steps = tl.cast(steps, tl.int64)
    for back in range(steps):
        at = (steps - 1 - back) * batch + row
        grad += tl.load(grad_states + at * NEURONS + neuron[None, :], here, 0.0)
        moves = _moves(advance, at, here)
        solved = tl.where(moves, grad, 0.0)
        grad = tl.where(moves, 0.0, grad)
        g, h, a, b = load_heads(heads + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, HEADS)
        g, h, a, b = _grad_solution(solved, g, h, a, b, _span(elapsed, at, here), rate, scale, MODE, HEADS)
        store_heads(grad_heads + at * HEADS * NEURONS + neuron[None, :], NEURONS, here, g, h, a, b, HEADS)
        if MODE == "pure":
            tl.store(grad_new + at * NEURONS + neuron[None, :], solved, here)
        for first in range(0, HIDDEN, BLOCK):
            unit = first + tl.arange(0, BLOCK)
            inside = (unit < HIDDEN)[None, :]
            to = at * HIDDEN + unit[None, :]
            # [neuron, unit] of each head
            weight_g, weight_h, weight_a, weight_b = load_heads(
                weight + neuron[:, None] * HIDDEN + unit[None, :],
                NEURONS * HIDDEN,
                (neuron < NEURONS)[:, None] & inside,
                HEADS,
            )
            grad_z = tl.dot(g, weight_g, input_precision=PRECISION)
            if HEADS > 1:
                grad_z = tl.dot(h, weight_h, grad_z, input_precision=PRECISION)
                grad_z = tl.dot(a, weight_a, grad_z, input_precision=PRECISION)
            if HEADS > 3:
                grad_z = tl.dot(b, weight_b, grad_z, input_precision=PRECISION)
            value, slope = activation(tl.load(before + to, (row < batch) & inside, 0.0), ACTIVATION)
            grad_z *= slope
            tl.store(after + to, value, (row < batch) & inside)
            tl.store(grad_before + to, grad_z, (row < batch) & inside)
            straight = tl.load(
                recurrent + unit[:, None] * NEURONS + neuron[None, :], (unit < HIDDEN)[:, None] & real, 0.0
            )
            grad = tl.dot(grad_z, straight, grad, input_precision=PRECISION)
        if memory_weight is not None:
            grad, grad_cell = remember_back(
                grad, grad_cell, memory_weight, sums, cells, grad_sums, at, here, moves, NEURONS
            )
    tl.store(grad_state + row * NEURONS + neuron[None, :], grad, here)
    if memory_weight is not None:
        tl.store(grad_cells + row * NEURONS + neuron[None, :], grad_cell, here)


@triton.jit
def _ticks(steps, memory, LAG: tl.constexpr):
    """How many ticks all steps take, with a memory or None."""
    ticks = steps + LAG
    if memory is not None:
        ticks = steps * (LAG + 1)
    return ticks


@triton.jit
def _turn(tick, behind, there, steps, memory, LAG: tl.constexpr):
    """The step that each neuron takes in a tick, and which of them take one; see the module."""
    if memory is not None:
        step = tick // (LAG + 1)
        here = there & (behind == tick % (LAG + 1))
    else:
        step = tick - behind
        here = (step >= 0) & (step < steps) & there
    return step, here


@triton.jit
def _solution(g, h, a, b, span, w_tau, amplitude, MODE: tl.constexpr, HEADS: tl.constexpr):
    """The new state x of the module's equations."""
    if MODE == "pure":
        new = amplitude - amplitude * tl.exp(-span * (w_tau + tl.abs(g))) * g
    else:
        gate = tl.sigmoid(a * span + b if HEADS > 3 else a)
        new = tanh(g) + gate * (tanh(h) if MODE == "no_gate" else tanh(h) - tanh(g))
    return new


@triton.jit
def _grad_solution(grad, g, h, a, b, span, w_tau, amplitude, MODE: tl.constexpr, HEADS: tl.constexpr):
    """∂g, ∂h, ∂a (or ∂p, where there is no b) and ∂b of the module's equations from ∂x; zero where ∂x is."""
    if MODE == "pure":
        g = -grad * amplitude * tl.exp(-span * (w_tau + tl.abs(g))) * (1 - span * tl.abs(g))
    else:
        gate = tl.sigmoid(a * span + b if HEADS > 3 else a)
        g = tanh(g)
        h = tanh(h)
        b = grad * gate * (1 - gate) * (h if MODE == "no_gate" else h - g)
        a = b * span if HEADS > 3 else b
        h = grad * gate * (1 - h * h)
        g = grad * (1 - g * g) * (1 if MODE == "no_gate" else 1 - gate)
    return g, h, a, b


@triton.jit
def _span(elapsed, at, here):
    """The elapsed time of each row, or 1 where the heads already hold it."""
    span = 1.0
    if elapsed is not None:
        span = tl.load(elapsed + at, here, 1.0)
    return span


@triton.jit
def _moves(advance, at, here):
    """Where a step is to be taken."""
    moves = here
    if advance is not None:
        moves = here & (tl.load(advance + at, here, 0) != 0)
    return moves


@triton.jit
def _pure_parameters(w_tau, amplitude, neuron, NEURONS: tl.constexpr):
    """|w_τ| and A as (1, lanes), in mode "pure"."""
    rate = 0.0
    scale = 1.0
    if w_tau is not None:
        rate = tl.load(w_tau + neuron, neuron < NEURONS, 0.0)[None, :]
        scale = tl.load(amplitude + neuron, neuron < NEURONS, 0.0)[None, :]
    return rate, scale

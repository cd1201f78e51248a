"""The LSTM of mixed memory on CUDA, within the kernels of the neurons that it stands before, float32.

`liquid_control.nn.mixed_memory` has the equations. From the sums a, w, k, s of a step's gates, with C = tanh a,
W = σ(w), K = σ(k + 1) and S = σ(s), ∂ being the gradient of the loss:

    c' = K c + W C                          h' = S tanh c'
    ∂c' += S (1 - tanh² c') ∂h'             ∂c = K ∂c'
    ∂a = W (1 - C²) ∂c'    ∂w = C W (1 - W) ∂c'    ∂k = c K (1 - K) ∂c'    ∂s = tanh c' S (1 - S) ∂h'

What inputs contribute to the sums, and gradients of weights, are products for all steps at once, outside the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from liquid_control.kernels.cuda.activations import tanh
from liquid_control.kernels.cuda.tiles import PRECISION, load_heads, store_heads

LARGEST = 128
"""Neurons whose weights of a gate fit the shared memory of small GPUs."""


class Memory(NamedTuple):
    """What the kernels of N neurons take of an LSTM."""

    drive: Tensor
    """(T, B, 4 N) what inputs and biases add to the sums a, w, k, s of each step."""
    weight: Tensor
    """(4 N, N) of h."""
    cells: Tensor
    """(B, N): c before the first step."""


def open_memory(x: Tensor, state: Tensor, lstm: Sequence[Tensor]) -> tuple[Tensor, Memory | None]:
    """The neurons' part of a state, and the LSTM of a sequence if there is one.

    Args:
        x: (T, B, C).
        state: (B, N), or [h | c] (B, 2 N).
        lstm: weight (4 N, C) and bias (4 N,) of the inputs, and weight (4 N, N) of h; or nothing.
    """
    if not lstm:
        return state, None
    weight, bias, of_h = lstm
    h, c = state.chunk(2, 1)
    return h, Memory(F.linear(x, weight, bias), of_h, c)


def close_memory(states: Tensor, last: Tensor | None) -> Tensor:
    """The final state, (B, N) or [h | c] (B, 2 N), from the neurons' states (T, B, N) and the last c (B, N) or None."""
    return states[-1] if last is None else torch.cat([states[-1], last], 1)


class Written(NamedTuple):
    """What a forward pass takes and writes; nothing without a memory."""

    drive: Tensor | None
    """See :class:`Memory`."""
    weight: Tensor | None
    """The same."""
    sums: Tensor | None
    """(T, B, 4, N): a, w, k, s; empty if there is no backward pass."""
    cells: Tensor | None
    """(T + 1, B, N): c before each step, and after the last."""

    @classmethod
    def open(cls, drive: Tensor | None, weight: Tensor | None, cells: Tensor | None, saving: bool) -> Written:
        """Room for a forward pass over a :class:`Memory`."""
        if drive is None or weight is None or cells is None:
            return cls(None, None, None, None)
        steps, (batch, neurons) = len(drive), cells.shape
        all_cells = drive.new_empty(steps + 1, batch, neurons)
        all_cells[0] = cells
        sums = drive.new_empty((steps, batch, 4, neurons) if saving else 0)
        return cls(drive.contiguous(), weight.contiguous(), sums, all_cells)

    @property
    def last(self) -> Tensor | None:
        """(B, N): c after the last step."""
        return None if self.cells is None else self.cells[-1].clone()

    @property
    def kept(self) -> tuple[Tensor | None, ...]:
        """For the backward pass."""
        return self[1:]


class Back(NamedTuple):
    """What a backward pass takes and writes; nothing without a memory."""

    weight: Tensor | None
    """See :class:`Written`."""
    sums: Tensor | None
    """The same."""
    cells: Tensor | None
    """The same."""
    grad_sums: Tensor | None
    """(T, B, 4, N) receives ∂a, ∂w, ∂k and ∂s, zero where no step was taken."""
    grad_cells: Tensor | None
    """(B, N): ∂c after the last step, and then before the first."""

    @classmethod
    def open(cls, kept: Sequence[Tensor | None], grad_last: Tensor | None) -> Back:
        """Room for a backward pass.

        Args:
            kept: of the forward pass.
            grad_last: (B, N): ∂c after the last step.
        """
        weight, sums, cells = kept
        if sums is None or grad_last is None:
            return cls(None, None, None, None, None)
        return cls(weight, sums, cells, torch.empty_like(sums), grad_last.clone(memory_format=torch.contiguous_format))

    def driven(self, state: Tensor, states: Tensor) -> Tensor:
        """What of the state drives the neurons (T, B, N): h' of steps that are taken, or without a memory h.

        Args:
            state: (B, N): h before the first step.
            states: (T, B, N): h after each.
        """
        if self.sums is None or self.cells is None:
            return _before(state, states)
        return self.cells[1:].tanh() * self.sums[:, :, 3].sigmoid()

    def gradients(self, state: Tensor, states: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Those of a :class:`Memory`; arguments as of :meth:`driven`."""
        if self.grad_sums is None:
            return None, None, None
        each = self.grad_sums.flatten(0, 1).flatten(1)
        return self.grad_sums.flatten(2), each.T @ _before(state, states).flatten(0, 1), self.grad_cells


def _before(state: Tensor, states: Tensor) -> Tensor:
    """The states (T, B, N) before each step."""
    return torch.cat([state[None], states[:-1]])


@triton.jit
def remember(
    value, cell, drive, weight, sums, cells, at, batch, here, moves, NEURONS: tl.constexpr, SAVING: tl.constexpr
):
    """The step of the LSTM where it is taken: h' and c', from h and c, which they are elsewhere.

    All are (rows, lanes). ``at``, (rows, 1), is step · batch + row; ``here`` says where a neuron is, ``moves`` where
    the step is taken, too. The others are of :class:`Written`.
    """
    neuron = tl.arange(0, value.shape[1])
    # [input, output] of each gate
    own = weight + neuron[None, :] * NEURONS + neuron[:, None]
    inside = (neuron < NEURONS)[:, None] & (neuron < NEURONS)[None, :]
    size = NEURONS * NEURONS
    of_gates = at * 4 * NEURONS + neuron[None, :]
    a, w, k, s = load_heads(drive + of_gates, NEURONS, here, 4)
    a = tl.dot(value, tl.load(own, inside, 0.0), a, input_precision=PRECISION)
    w = tl.dot(value, tl.load(own + size, inside, 0.0), w, input_precision=PRECISION)
    k = tl.dot(value, tl.load(own + 2 * size, inside, 0.0), k, input_precision=PRECISION)
    s = tl.dot(value, tl.load(own + 3 * size, inside, 0.0), s, input_precision=PRECISION)
    if SAVING:
        store_heads(sums + of_gates, NEURONS, here, a, w, k, s, 4)
    after = cell * tl.sigmoid(k + 1) + tanh(a) * tl.sigmoid(w)
    value = tl.where(moves, tanh(after) * tl.sigmoid(s), value)
    cell = tl.where(moves, after, cell)
    tl.store(cells + (at + batch) * NEURONS + neuron[None, :], cell, here)
    return value, cell


@triton.jit
def remember_back(grad, grad_cell, weight, sums, cells, grad_sums, at, here, moves, NEURONS: tl.constexpr):
    """∂h and ∂c of a step where it was taken, from ∂h' and ∂c', which they are elsewhere; see :func:`remember`."""
    neuron = tl.arange(0, grad.shape[1])
    of_gates = at * 4 * NEURONS + neuron[None, :]
    a, w, k, s = load_heads(sums + of_gates, NEURONS, moves, 4)
    candidate, write, keep, show = tanh(a), tl.sigmoid(w), tl.sigmoid(k + 1), tl.sigmoid(s)
    before = tl.load(cells + at * NEURONS + neuron[None, :], moves, 0.0)
    shown = tanh(before * keep + candidate * write)
    grad_h = tl.where(moves, grad, 0.0)
    of_cell = tl.where(moves, grad_cell + grad_h * show * (1 - shown * shown), 0.0)
    a = of_cell * write * (1 - candidate * candidate)
    w = of_cell * candidate * write * (1 - write)
    k = of_cell * before * keep * (1 - keep)
    s = grad_h * shown * show * (1 - show)
    store_heads(grad_sums + of_gates, NEURONS, here, a, w, k, s, 4)
    # [output, input] of each gate
    own = weight + neuron[:, None] * NEURONS + neuron[None, :]
    inside = (neuron < NEURONS)[:, None] & (neuron < NEURONS)[None, :]
    size = NEURONS * NEURONS
    grad = tl.where(moves, 0.0, grad)
    grad = tl.dot(a, tl.load(own, inside, 0.0), grad, input_precision=PRECISION)
    grad = tl.dot(w, tl.load(own + size, inside, 0.0), grad, input_precision=PRECISION)
    grad = tl.dot(k, tl.load(own + 2 * size, inside, 0.0), grad, input_precision=PRECISION)
    grad = tl.dot(s, tl.load(own + 3 * size, inside, 0.0), grad, input_precision=PRECISION)
    return grad, tl.where(moves, of_cell * keep, grad_cell)

"""The LTC on CUDA: whole sequences forward and backward, semi-implicit solver, float32.

One unfold of neuron i (`liquid_control.nn.ltc` has the equations' origin), with c_i = cm_i/Δ:

    s_ji = σ(σ_ji (v_j - μ_ji))
    n_i = c_i v_i + N_i + Σ_j w_ji s_ji E_ji        d_i = c_i + D_i + Σ_j w_ji s_ji        v_i⁺ = n_i / d_i

N and D are what leak and sensory synapses add, the same in all unfolds of a step. Backward, ∂ being the gradient of the
loss and i → k the synapses that leave i:

    ∂n_i = ∂v_i⁺ / d_i        ∂d_i = -v_i⁺ ∂n_i        ∂c_i = ∂n_i (v_i - v_i⁺)
    ∂v_i = c_i ∂n_i + Σ_k u_ik σ_ik        u_ik = s_ik (1 - s_ik) w_ik (E_ik ∂n_k + ∂d_k)
    ∂σ_ik = u_ik (v_i - μ_ik)    ∂μ_ik = -u_ik σ_ik    ∂w_ik = s_ik (E_ik ∂n_k + ∂d_k)    ∂E_ik = w_ik s_ik ∂n_k

Only what depends on the state runs step by step: a program takes a few batch rows through all steps with their
potentials in registers. Sensory currents before it, and after it the gradients of synapses and inputs, are parallel
over steps and rows. Synapses come as slots: row k of the table "incoming" holds the k-th synapse that ends at each
neuron, "outgoing" the k-th that leaves each. So the work is that of the neuron with the most synapses times the number
of neurons, not that of the whole matrix. Partial sums are added in a fixed order: the same input, the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from liquid_control.kernels import is_recorded, use_reference
from liquid_control.kernels.autograd import refuse_more_than_gradients
from liquid_control.kernels.cuda.memory import LARGEST as LARGEST_MEMORY
from liquid_control.kernels.cuda.memory import Back, Memory, Written, close_memory, remember, remember_back

LARGEST_CIRCUIT = 256
"""Neurons whose potentials a program still holds in registers."""


class Synapses(NamedTuple):
    """Synapses of a circuit and their parameters, those in use: matrices [source, destination]."""

    edges: tuple[tuple[int, int, int], ...]
    """Source, destination and polarity of each."""
    sigma: Tensor
    mu: Tensor
    w: Tensor
    erev: Tensor


def integrate(
    x: Tensor,
    state: Tensor,
    elapsed: float | Tensor,
    advance: Tensor | None,
    gleak: Tensor,
    vleak: Tensor,
    cm: Tensor,
    sensory: Synapses,
    inner: Synapses,
    unfolds: int,
    epsilon: float,
    memory: Memory | None = None,
) -> tuple[Tensor, Tensor] | None:
    """The potentials of an LTC at all steps, by the semi-implicit solver; None where the reference form must run.

    Args:
        x: (T, B, C) inputs, mapped.
        state: (B, N) potentials before the first step.
        elapsed: positive: a number, or (T, B).
        advance: (T, B) bool, or None for always.
        gleak: (N,) leak conductances, those in use.
        vleak: (N,) leak potentials.
        cm: (N,) capacitances, those in use.
        sensory: from inputs to neurons.
        inner: from neurons to neurons.
        unfolds: solver steps of a step.
        epsilon: added to the denominator.
        memory: the LSTM before the neurons, if there is one.

    Returns:
        (T, B, N) and the final state, (B, N) or with the memory [h | c] (B, 2 N); or None.
    """
    neurons = state.shape[1]
    if x.dtype != torch.float32:
        use_reference(f"the LTC's CUDA kernel is for float32, not {x.dtype}")
        return None
    largest = LARGEST_CIRCUIT if memory is None else LARGEST_MEMORY
    if neurons > largest:
        use_reference(f"the LTC's CUDA kernel is for {largest} neurons or fewer, not {neurons}")
        return None
    if isinstance(elapsed, Tensor):
        elapsed = elapsed[..., None]
    of_sensory = _slots(sensory.edges, x.shape[2], neurons, x.device)
    of_inner = _slots(inner.edges, neurons, neurons, x.device)
    given = (
        x,
        state,
        cm * unfolds / elapsed,
        torch.stack([gleak * vleak, gleak + epsilon]),
        of_sensory.gather(*sensory[1:]),
        of_inner.gather(*inner[1:]),
    )
    with torch.cuda.device_of(x):
        recorded = is_recorded(*given, *(memory or ()))
        states, last = _SemiImplicit.apply(
            *given, *(memory or (None,) * 3), of_sensory, of_inner, advance, unfolds, recorded
        )
        return states, close_memory(states, last)


@dataclass(frozen=True)
class _Slots:
    """The synapses of a circuit, E of them, as tables; a slot without a synapse names synapse E, whose weight is 0."""

    source: Tensor
    """(E,) int32."""
    destination: Tensor
    """(E,) int32."""
    place: Tensor
    """(E,): where a synapse stands in a flattened [source, destination] matrix."""
    incoming: Tensor
    """(slots, destinations): a synapse."""
    incoming_source: Tensor
    """(slots, destinations) int32: where it begins."""
    outgoing: Tensor
    """(slots, sources): a synapse."""
    outgoing_destination: Tensor
    """(slots, sources) int32: where it ends."""

    def gather(self, *matrices: Tensor) -> Tensor:
        """σ, μ, w and E of the synapses, (4, E), from [source, destination] matrices."""
        return torch.stack([matrix.flatten().index_select(0, self.place) for matrix in matrices])


@lru_cache(maxsize=64)
def _slots(synapses: tuple[tuple[int, int, int], ...], sources: int, destinations: int, device: torch.device) -> _Slots:
    source, destination = np.array(synapses, dtype=np.int64).reshape(-1, 3)[:, :2].T

    def table(end: np.ndarray, other: np.ndarray, neurons: int) -> tuple[Tensor, Tensor]:
        synapse = np.full((max(1, *np.bincount(end, minlength=neurons)), neurons), len(end))
        used = np.zeros(neurons, dtype=int)
        for index, neuron in enumerate(end):
            synapse[used[neuron], neuron] = index
            used[neuron] += 1
        return tensor(synapse), tensor(np.append(other, 0)[synapse].astype(np.int32))

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return _Slots(
        tensor(source.astype(np.int32)),
        tensor(destination.astype(np.int32)),
        tensor(source * destinations + destination),
        *table(destination, source, destinations),
        *table(source, destination, sources),
    )


def _spread(parameters: Tensor, table: Tensor) -> Tensor:
    """From σ, μ, w, E of synapses (4, E) to those of slots (4, slots, neurons)."""
    return torch.nn.functional.pad(parameters, (0, 1))[:, table].contiguous()


class _SemiImplicit(torch.autograd.Function):
    """x (T, B, C), state (B, N), c (N,) or (T, B, N), leak (2, N), synapses (4, E) twice, and a memory.

    Gives states (T, B, N), and the last c of the memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        state: Tensor,
        capacitance: Tensor,
        leak: Tensor,
        sensory_parameters: Tensor,
        inner_parameters: Tensor,
        memory_drive: Tensor | None,
        memory_weight: Tensor | None,
        cells: Tensor | None,
        sensory: _Slots,
        inner: _Slots,
        advance: Tensor | None,
        unfolds: int,
        saving: bool,
    ) -> tuple[Tensor, Tensor | None]:
        memory = Written.open(memory_drive, memory_weight, cells, saving)
        steps, batch, inputs = x.shape
        neurons = state.shape[1]
        x, state, capacitance = x.contiguous(), state.contiguous(), capacitance.contiguous()
        advance = None if advance is None else advance.contiguous()
        constant = x.new_empty(2, steps, batch, neurons)  # N and D
        _sensory_forward[_per_rows(steps * batch)](
            x,
            sensory.incoming_source,
            _spread(sensory_parameters, sensory.incoming),
            leak.contiguous(),
            constant,
            steps * batch,
            INPUTS=inputs,
            NEURONS=neurons,
            SLOTS=len(sensory.incoming),
            ROWS=ROWS,
            LANES=triton.next_power_of_2(neurons),
            num_warps=4,
        )
        states = torch.empty_like(constant[0])
        before = x.new_empty((steps, unfolds, batch, neurons) if saving else 0)
        denominator = torch.empty_like(before)
        rows, lanes, warps = _shape(neurons, memory_drive is not None)
        _forward[(triton.cdiv(batch, rows),)](
            state,
            capacitance,
            constant,
            inner.incoming_source,
            _spread(inner_parameters, inner.incoming),
            advance,
            *memory,
            states,
            before,
            denominator,
            steps,
            batch,
            UNFOLDS=unfolds,
            NEURONS=neurons,
            SLOTS=len(inner.incoming),
            STEPPED=capacitance.dim() > 1,
            SAVING=saving,
            ROWS=rows,
            LANES=lanes,
            num_warps=warps,
        )
        ctx.sensory, ctx.inner, ctx.unfolds = sensory, inner, unfolds
        ctx.save_for_backward(
            *(x, state, capacitance, sensory_parameters, inner_parameters, advance, states, before, denominator),
            *memory.kept,
        )
        return states, memory.last

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_more_than_gradients("the LTC", grad_states, grad_last)
        x, state, capacitance, sensory_parameters, inner_parameters, advance, *saved = ctx.saved_tensors
        states, before, denominator, *kept = saved
        memory = Back.open(kept, grad_last)
        sensory, inner = ctx.sensory, ctx.inner
        steps, batch, neurons = states.shape
        grad_state = torch.empty_like(states[0])
        grad_capacitance = torch.empty_like(states)
        grad_constant = x.new_empty(2, steps, batch, neurons)
        grad_unfold = x.new_empty(2, steps, ctx.unfolds, batch, neurons)  # ∂n and ∂d
        rows, lanes, warps = _shape(neurons, memory.weight is not None)
        _backward[(triton.cdiv(batch, rows),)](
            grad_states.contiguous(),
            capacitance,
            inner.outgoing_destination,
            _spread(inner_parameters, inner.outgoing),
            advance,
            *memory,
            states,
            before,
            denominator,
            grad_state,
            grad_capacitance,
            grad_constant,
            grad_unfold,
            steps,
            batch,
            UNFOLDS=ctx.unfolds,
            NEURONS=neurons,
            SLOTS=len(inner.outgoing),
            STEPPED=capacitance.dim() > 1,
            ROWS=rows,
            LANES=lanes,
            num_warps=warps,
        )
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            _sensory_backward[_per_rows(steps * batch)](
                x,
                sensory.outgoing_destination,
                _spread(sensory_parameters, sensory.outgoing),
                grad_constant,
                grad_x,
                steps * batch,
                INPUTS=x.shape[2],
                NEURONS=neurons,
                SLOTS=len(sensory.outgoing),
                ROWS=ROWS,
                LANES=triton.next_power_of_2(x.shape[2]),
                num_warps=4,
            )
        return (
            grad_x,
            grad_state,
            grad_capacitance if capacitance.dim() > 1 else grad_capacitance.sum((0, 1)),
            grad_constant.sum((1, 2)),
            _synapse_gradients(x, grad_constant, sensory, sensory_parameters),
            _synapse_gradients(before, grad_unfold, inner, inner_parameters),
            *memory.gradients(state, states),
            *[None] * 5,
        )


ROWS = 16
"""Rows of a tile where no state is carried."""


def _per_rows(rows: int) -> tuple[int]:
    return (triton.cdiv(rows, ROWS),)


def _shape(neurons: int, remembers: bool) -> tuple[int, int, int]:
    """Rows and lanes of a tile of potentials and its warps: latency counts, so about four elements a thread.

    With a memory, whose weights go through matrix units, at least sixteen of both.
    """
    lanes = max(16 if remembers else 1, triton.next_power_of_2(neurons))
    rows = max(16 if remembers else 1, 128 // lanes)
    return rows, lanes, max(1, rows * lanes // 128)


def _synapse_gradients(source: Tensor, grad: Tensor, slots: _Slots, parameters: Tensor) -> Tensor:
    """Gradients (4, E) of synapses, from potentials (…, sources) where they begin and ∂n, ∂d (2, …, N) at the end."""
    synapses = len(slots.source)
    if not synapses:
        return torch.zeros_like(parameters)
    samples = source.numel() // source.shape[-1]
    # As many programs as keep a GPU busy, each with the same number of tiles whatever the machine.
    tiles = max(1, triton.cdiv(triton.cdiv(samples, ROWS), 512))
    programs = triton.cdiv(samples, ROWS * tiles)
    partial = parameters.new_empty(programs, 4, synapses)
    _synapse_backward[(triton.cdiv(synapses, 64), programs)](
        source,
        grad,
        slots.source,
        slots.destination,
        parameters.contiguous(),
        partial,
        samples,
        synapses,
        tiles,
        SOURCES=source.shape[-1],
        NEURONS=grad.shape[-1],
        ROWS=ROWS,
        LANES=64,
        num_warps=4,
    )
    return partial.sum(0)


@triton.jit
def _sensory_forward(
    x,
    source,
    parameters,
    leak,
    constant,
    rows,
    INPUTS: tl.constexpr,
    NEURONS: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """N and D of each row: constant (2, rows, NEURONS) from x (rows, INPUTS) and slots (4, SLOTS, NEURONS)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    neuron = tl.arange(0, LANES)
    real = neuron < NEURONS
    here = (row < rows) & real[None, :]
    zero = tl.zeros((ROWS, LANES), tl.float32)
    numerator = zero + tl.load(leak + neuron, real, 0.0)[None, :]
    denominator = zero + tl.load(leak + NEURONS + neuron, real, 0.0)[None, :]
    for slot in range(SLOTS):
        at = slot * NEURONS + neuron
        presynaptic = tl.load(x + row * INPUTS + tl.load(source + at, real, 0)[None, :], here, 0.0)
        sigma, mu, w, erev = _synapse(parameters + at, SLOTS * NEURONS, real)
        current = w * tl.sigmoid(sigma * (presynaptic - mu))
        numerator += current * erev
        denominator += current
    to = row * NEURONS + neuron[None, :]
    tl.store(constant + to, numerator, here)
    tl.store(constant + rows * tl.cast(NEURONS, tl.int64) + to, denominator, here)


@triton.jit
def _forward(
    state,
    capacitance,
    constant,
    source,
    parameters,
    advance,
    memory_drive,
    memory_weight,
    sums,
    cells,
    states,
    before,
    denominators,
    steps,
    batch,
    UNFOLDS: tl.constexpr,
    NEURONS: tl.constexpr,
    SLOTS: tl.constexpr,
    STEPPED: tl.constexpr,
    SAVING: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """All steps of ROWS batch rows; potential and denominator of each unfold are kept for the backward."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    neuron = tl.arange(0, LANES)
    real = neuron < NEURONS
    here = (row < batch)[:, None] & real[None, :]
    tile = row[:, None] * NEURONS + neuron[None, :]
    stride = batch * NEURONS
    steps = tl.cast(steps, tl.int64)  # so that no offset overflows
    value = tl.load(state + tile, here, 0.0)
    if memory_drive is not None:
        cell = tl.load(cells + tile, here, 0.0)
    # Lanes beyond the circuit divide 0 by 1.
    c = tl.zeros((ROWS, LANES), tl.float32) + tl.load(capacitance + neuron, real, 1.0)[None, :]
    for step in range(steps):
        if STEPPED:
            c = tl.load(capacitance + step * stride + tile, here, 1.0)
        numerator_constant = tl.load(constant + step * stride + tile, here, 0.0)
        denominator_constant = tl.load(constant + (steps + step) * stride + tile, here, 0.0)
        moves = here
        if advance is not None:
            moves = here & (tl.load(advance + step * batch + row, row < batch, 0)[:, None] != 0)
        if memory_drive is not None:
            place = step * batch + row[:, None]
            value, cell = remember(
                value, cell, memory_drive, memory_weight, sums, cells, place, batch, here, moves, NEURONS, SAVING
            )
        potential = value
        for unfold in range(UNFOLDS):
            numerator = c * potential + numerator_constant
            denominator = c + denominator_constant
            for slot in range(SLOTS):
                at = slot * NEURONS + neuron
                begin = tl.load(source + at, real, 0)[None, :]
                presynaptic = tl.gather(potential, tl.broadcast_to(begin, (ROWS, LANES)), 1)
                sigma, mu, w, erev = _synapse(parameters + at, SLOTS * NEURONS, real)
                current = w * tl.sigmoid(sigma * (presynaptic - mu))
                numerator += current * erev
                denominator += current
            if SAVING:
                tl.store(before + (step * UNFOLDS + unfold) * stride + tile, potential, here)
                tl.store(denominators + (step * UNFOLDS + unfold) * stride + tile, denominator, here)
            potential = numerator / denominator
        value = tl.where(moves, potential, value)
        tl.store(states + step * stride + tile, value, here)


@triton.jit
def _backward(
    grad_states,
    capacitance,
    destination,
    parameters,
    advance,
    memory_weight,
    sums,
    cells,
    grad_sums,
    grad_cells,
    states,
    before,
    denominators,
    grad_state,
    grad_capacitance,
    grad_constant,
    grad_unfold,
    steps,
    batch,
    UNFOLDS: tl.constexpr,
    NEURONS: tl.constexpr,
    SLOTS: tl.constexpr,
    STEPPED: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """All steps of ROWS batch rows from the last to the first; the module's ∂n, ∂d, ∂c and ∂v."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    neuron = tl.arange(0, LANES)
    real = neuron < NEURONS
    here = (row < batch)[:, None] & real[None, :]
    tile = row[:, None] * NEURONS + neuron[None, :]
    stride = batch * NEURONS
    steps = tl.cast(steps, tl.int64)  # so that no offset overflows
    c = tl.zeros((ROWS, LANES), tl.float32) + tl.load(capacitance + neuron, real, 1.0)[None, :]
    grad = tl.zeros((ROWS, LANES), tl.float32)
    if memory_weight is not None:
        grad_cell = tl.load(grad_cells + tile, here, 0.0)
    for back in range(steps):
        step = steps - 1 - back
        if STEPPED:
            c = tl.load(capacitance + step * stride + tile, here, 1.0)
        grad += tl.load(grad_states + step * stride + tile, here, 0.0)
        moves = here
        if advance is not None:
            moves = here & (tl.load(advance + step * batch + row, row < batch, 0)[:, None] != 0)
        kept = tl.where(moves, 0.0, grad)
        grad = tl.where(moves, grad, 0.0)
        # Where the step does not advance this is not v⁺, but its gradient is 0.
        after = tl.load(states + step * stride + tile, here, 0.0)
        grad_c = tl.zeros((ROWS, LANES), tl.float32)
        grad_n_sum = tl.zeros((ROWS, LANES), tl.float32)
        grad_d_sum = tl.zeros((ROWS, LANES), tl.float32)
        for unfolded in range(UNFOLDS):
            at_unfold = (step * UNFOLDS + UNFOLDS - 1 - unfolded) * stride + tile
            potential = tl.load(before + at_unfold, here, 0.0)
            grad_n = grad / tl.load(denominators + at_unfold, here, 1.0)
            grad_d = -after * grad_n
            tl.store(grad_unfold + at_unfold, grad_n, here)
            tl.store(grad_unfold + steps * UNFOLDS * stride + at_unfold, grad_d, here)
            grad_n_sum += grad_n
            grad_d_sum += grad_d
            grad_c += grad_n * (potential - after)
            grad = c * grad_n
            for slot in range(SLOTS):
                at = slot * NEURONS + neuron
                end = tl.broadcast_to(tl.load(destination + at, real, 0)[None, :], (ROWS, LANES))
                sigma, mu, w, erev = _synapse(parameters + at, SLOTS * NEURONS, real)
                opening = tl.sigmoid(sigma * (potential - mu))
                pull = erev * tl.gather(grad_n, end, 1) + tl.gather(grad_d, end, 1)
                grad += opening * (1 - opening) * w * pull * sigma
            after = potential
        tl.store(grad_capacitance + step * stride + tile, grad_c, here)
        tl.store(grad_constant + step * stride + tile, grad_n_sum, here)
        tl.store(grad_constant + (steps + step) * stride + tile, grad_d_sum, here)
        grad += kept
        if memory_weight is not None:
            place = step * batch + row[:, None]
            grad, grad_cell = remember_back(
                grad, grad_cell, memory_weight, sums, cells, grad_sums, place, here, moves, NEURONS
            )
    tl.store(grad_state + tile, grad, here)
    if memory_weight is not None:
        tl.store(grad_cells + tile, grad_cell, here)


@triton.jit
def _sensory_backward(
    x,
    destination,
    parameters,
    grad_constant,
    grad_x,
    rows,
    INPUTS: tl.constexpr,
    NEURONS: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Gradient of x (rows, INPUTS) from ∂n and ∂d (2, rows, NEURONS): the module's ∂v without the potential's own."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    sensor = tl.arange(0, LANES)
    real = sensor < INPUTS
    here = (row < rows) & real[None, :]
    value = tl.load(x + row * INPUTS + sensor[None, :], here, 0.0)
    grad = tl.zeros((ROWS, LANES), tl.float32)
    for slot in range(SLOTS):
        at = slot * INPUTS + sensor
        end = row * NEURONS + tl.load(destination + at, real, 0)[None, :]
        grad_n = tl.load(grad_constant + end, here, 0.0)
        grad_d = tl.load(grad_constant + rows * tl.cast(NEURONS, tl.int64) + end, here, 0.0)
        sigma, mu, w, erev = _synapse(parameters + at, SLOTS * INPUTS, real)
        opening = tl.sigmoid(sigma * (value - mu))
        grad += opening * (1 - opening) * w * (erev * grad_n + grad_d) * sigma
    tl.store(grad_x + row * INPUTS + sensor[None, :], grad, here)


@triton.jit
def _synapse_backward(
    potential,
    grad,
    source,
    destination,
    parameters,
    partial,
    samples,
    synapses,
    tiles,
    SOURCES: tl.constexpr,
    NEURONS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Sums ∂σ, ∂μ, ∂w and ∂E of LANES synapses over ``tiles`` tiles of samples into partial (programs, 4, synapses)."""
    synapse = tl.program_id(0) * LANES + tl.arange(0, LANES)
    real = synapse < synapses
    begin = tl.load(source + synapse, real, 0)[None, :]
    end = tl.load(destination + synapse, real, 0)[None, :]
    sigma, mu, w, erev = _synapse(parameters + synapse, synapses, real)
    grad_sigma = tl.zeros((LANES,), tl.float32)
    grad_mu = tl.zeros((LANES,), tl.float32)
    grad_w = tl.zeros((LANES,), tl.float32)
    grad_erev = tl.zeros((LANES,), tl.float32)
    for tile in range(tiles):
        sample = (tl.program_id(1).to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)[:, None]
        here = (sample < samples) & real[None, :]
        offset = tl.load(potential + sample * SOURCES + begin, here, 0.0) - mu
        grad_n = tl.load(grad + sample * NEURONS + end, here, 0.0)
        grad_d = tl.load(grad + (samples + sample) * NEURONS + end, here, 0.0)
        opening = tl.sigmoid(sigma * offset)
        pull = erev * grad_n + grad_d
        u = opening * (1 - opening) * w * pull
        grad_sigma += tl.sum(u * offset, 0)
        grad_mu -= tl.sum(u * sigma, 0)
        grad_w += tl.sum(opening * pull, 0)
        grad_erev += tl.sum(w * opening * grad_n, 0)
    to = partial + tl.program_id(1) * 4 * synapses + synapse
    tl.store(to, grad_sigma, real)
    tl.store(to + synapses, grad_mu, real)
    tl.store(to + 2 * synapses, grad_w, real)
    tl.store(to + 3 * synapses, grad_erev, real)


@triton.jit
def _synapse(parameters, stride, real):
    """σ, μ, w and E, (1, lanes) each: the first is at ``parameters``, each ``stride`` behind the one before."""
    sigma = tl.load(parameters, real, 0.0)[None, :]
    mu = tl.load(parameters + stride, real, 0.0)[None, :]
    w = tl.load(parameters + 2 * stride, real, 0.0)[None, :]
    erev = tl.load(parameters + 3 * stride, real, 0.0)[None, :]
    return sigma, mu, w, erev

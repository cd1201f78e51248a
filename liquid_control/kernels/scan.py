"""The liquid scan on the CPU: a whole sequence in one pass over memory, as an operator of torch, and a control step.

The equations are in `liquid_control.nn.scan`. Neurons do not see each other, so a lane is a neuron, and steps are read
in the order in which they lie in memory. What is left of the forward pass for the backward pass is the states; the
rest is computed again, which costs less than to write and to read it.

With λ_t the gradient of z_t, that of all later steps included, r = Δ/τ and g_t the gradient that comes from outside:

    λ_t = g_t + a_{t+1} λ_{t+1}
    ∂b = λ (1 - a),    ∂r = -λ a (z_{t-1} - b),    ∂τ = -∂r r/τ,    ∂Δ = Σ ∂r/τ

As an operator, `torch.ops.liquid_control.liquid_scan`, it has a form for tensors without values and a registered
backward pass, so that `torch.compile`, `torch.export`, `make_fx` and `FakeTensorMode` see one operation.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from liquid_control.kernels.batch import new_tile, over_blocks
from liquid_control.kernels.dense import add_product, pack, pack_readout, read_out, start_sums, whole_lanes
from liquid_control.kernels.fast_math import (
    DOUBLE_LOG2_E,
    OPTIONS,
    exp2_minus_one,
    kernel_part,
    sigmoid,
    softplus,
    tanh,
)
from liquid_control.kernels.scan_operator import register
from liquid_control.kernels.simd import LANES, clip, fill, load, store, total

GROUP = 64
"""Neurons that one thread takes through all steps before the next: whole cache lines of a step."""


@torch.library.custom_op("liquid_control::liquid_scan", mutates_args=(), device_types="cpu")
def liquid_scan(drive: Tensor, state: Tensor, elapsed: Tensor, tau_min: float) -> tuple[Tensor, Tensor]:
    """What `liquid_control.nn.scan.liquid_scan` gives, with first derivatives by drive, state and elapsed.

    Args:
        drive: (B, T, 2 U), float32 or float64 on the CPU, as are all.
        state: (B, U).
        elapsed: (B, T), ≥ 0. Where it is zero, neither the drive nor the time has a gradient.
        tau_min: positive.

    Returns:
        The states (B, T, U), and the last one (B, U).
    """
    batch, steps, width = drive.shape
    states = drive.new_empty(batch, steps, width // 2)
    final = torch.empty_like(state, memory_format=torch.contiguous_format)
    items = _items(batch, width // 2)
    given = _arrays(drive, state, elapsed)
    over_blocks(_forward, items, 3 * states.numel(), *given, tau_min, states.numpy(), final.numpy())
    return states, final


@torch.library.custom_op("liquid_control::liquid_scan_backward", mutates_args=(), device_types="cpu")
def _liquid_scan_backward(
    drive: Tensor,
    state: Tensor,
    elapsed: Tensor,
    tau_min: float,
    states: Tensor,
    of_states: Tensor,
    of_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of drive, state and elapsed from those of the states (B, T, U) and of the last one (B, U)."""
    batch, steps, units = states.shape
    groups = -(-units // GROUP)
    of_drive, of_state = drive.new_empty(drive.shape), state.new_empty(state.shape)
    of_elapsed = elapsed.new_empty(groups, batch, steps)
    given = _arrays(drive, state, elapsed, states, of_states, of_final)
    results = (of_drive.numpy(), of_state.numpy(), of_elapsed.numpy())
    over_blocks(_backward, _items(batch, units), 5 * states.numel(), *given, tau_min, *results)
    return of_drive, of_state, of_elapsed.sum(0)


register(liquid_scan, _liquid_scan_backward)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _items(batch: int, units: int) -> int:
    """How many groups of neurons there are in all sequences, what threads share among them."""
    return batch * -(-units // GROUP)


@kernel_part
def relax(z, target, pace, elapsed, tau_min):
    """The state after a step: z + (1 - e^(-Δ/τ)) (tanh(target) - z), τ = τ_min + softplus(pace); of Lanes."""
    tau = tau_min + softplus(pace)
    passed = -exp2_minus_one(-DOUBLE_LOG2_E * clip(elapsed / tau, 100))
    return z + passed * (tanh(target) - z)


@njit(cache=True, nogil=True, **OPTIONS)
def _forward(first, last, drive, state, elapsed, tau_min, states, final):
    steps, units = states.shape[1:]
    groups = (units + GROUP - 1) // GROUP
    flat_drive, flat_states = drive.reshape(-1), states.reshape(-1)
    z, targets, paces = (
        new_tile(GROUP // LANES, state),
        new_tile(GROUP // LANES, state),
        new_tile(GROUP // LANES, state),
    )
    z[:], targets[:], paces[:] = 0, 0, 0
    for item in range(first, last):
        row, begin = item // groups, item % groups * GROUP
        count = min(units - begin, GROUP)
        for i in range(count):
            z[i] = state[row, begin + i]
        for step in range(steps):
            place, time = row * steps + step, elapsed[row, step]
            if time > 0:
                _read(flat_drive, 2 * units * place + begin, units, count, targets, paces)
                for k in range((count + LANES - 1) // LANES):
                    store(z, k, relax(load(z, k), load(targets, k), load(paces, k), time, tau_min))
            for i in range(count):
                flat_states[units * place + begin + i] = z[i]
        for i in range(count):
            final[row, begin + i] = z[i]


@njit(cache=True, nogil=True, **OPTIONS)
def _backward(
    first,
    last,
    drive,
    state,
    elapsed,
    states,
    of_states,
    of_final,
    tau_min,
    of_drive,
    of_state,
    of_elapsed,
):
    steps, units = states.shape[1:]
    groups = (units + GROUP - 1) // GROUP
    flat_drive, flat_states, flat_given = drive.reshape(-1), states.reshape(-1), of_states.reshape(-1)
    flat_wanted = of_drive.reshape(-1)
    targets, paces = new_tile(GROUP // LANES, state), new_tile(GROUP // LANES, state)
    before, carried = new_tile(GROUP // LANES, state), new_tile(GROUP // LANES, state)
    targets[:], paces[:], before[:], carried[:] = 0, 0, 0, 0
    for item in range(first, last):
        row, group = item // groups, item % groups
        begin = group * GROUP
        count = min(units - begin, GROUP)
        carried[:] = 0
        for i in range(count):
            carried[i] = of_final[row, begin + i]
        for step in range(steps - 1, -1, -1):
            place, time = row * steps + step, elapsed[row, step]
            here, wanted = units * place + begin, 2 * units * place + begin
            for i in range(count):
                carried[i] += flat_given[here + i]
            if not time > 0:
                of_elapsed[group, row, step] = 0
                for i in range(count):
                    flat_wanted[wanted + i] = 0
                    flat_wanted[wanted + units + i] = 0
                continue
            _read(flat_drive, wanted, units, count, targets, paces)
            for i in range(count):
                before[i] = flat_states[here - units + i] if step > 0 else state[row, begin + i]
            of_time = fill(state.dtype.type(0))
            for k in range((count + LANES - 1) // LANES):
                old, target, pace, of_new = load(before, k), tanh(load(targets, k)), load(paces, k), load(carried, k)
                inverse = 1 / (tau_min + softplus(pace))
                ratio = clip(time * inverse, 100)
                passed = -exp2_minus_one(-DOUBLE_LOG2_E * ratio)
                of_old = of_new - passed * of_new
                of_ratio = of_old * (target - old)
                of_time += of_ratio * inverse
                store(targets, k, of_new * passed * (1 - target * target))
                store(paces, k, -(of_ratio * ratio * inverse * sigmoid(pace)))
                store(carried, k, of_old)
            of_elapsed[group, row, step] = total(of_time)
            for i in range(count):
                flat_wanted[wanted + i] = targets[i]
                flat_wanted[wanted + units + i] = paces[i]
        for i in range(count):
            of_state[row, begin + i] = carried[i]


@kernel_part
def _read(drive, place, units, count, targets, paces):
    """What drives so many neurons in a step, from flat ``drive``."""
    for i in range(count):
        targets[i] = drive[place + i]
        paces[i] = drive[place + units + i]


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, numbers, scratch):
    """A :data:`liquid_control.kernels.step.Tick`; the arrays are those of :func:`step_arrays`."""
    width = whole_lanes(state.size)
    sums, z = scratch[: 2 * width], scratch[2 * width : 3 * width]
    readout = add_product(sums, x, start_sums(sums, numbers[1:]))
    if elapsed > 0:
        for i in range(state.size):
            z[i] = state[i]
        for k in range(width // LANES):
            store(z, k, relax(load(z, k), load(sums, k), load(sums[width:], k), elapsed, numbers[0]))
        for i in range(state.size):
            state[i] = z[i]
    read_out(y, state, readout, scratch)


def step_arrays(weight: Tensor, bias: Tensor, tau_min: float, readout: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of :func:`tick` after y, copies of the parameters.

    Args:
        weight: (2 U, C) of the targets and of the paces.
        bias: (2 U,).
        tau_min: lower bound of the time constants.
        readout: linear or the identity.
    """
    packed = [pack(part.chunk(2), part) for part in (bias, weight)]
    mapping = pack_readout(readout)
    sums = len(packed[0])
    size = max([sums + sums // 2, *(len(part) for part in mapping[:1])])
    dtype = packed[0].dtype
    return np.concatenate([np.array([tau_min], dtype), *packed, *mapping]), np.zeros(size, dtype)

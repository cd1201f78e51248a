"""The liquid scan on CUDA: chunks of steps at once, forward and backward, float32.

The equations are in `liquid_control.nn.scan`. Within a chunk that begins at the state z_0 a step z ← a z + w, with
w = (1 - a) b, is composed with all steps before it, two at a time:

    (a₁, w₁), (a₂, w₂)  →  (a₂a₁, a₂w₁ + w₂),    z_t = A_t z_0 + W_t

Backward, g_t being what comes from outside, the gradient λ_t of z_t is a scan, too, from the last step to the first:

    λ_t = g_t + a_{t+1} λ_{t+1}
    ∂b = λ (1 - a),    ∂r = -λ a (z_{t-1} - b),    ∂τ = -∂r r/τ,    ∂Δ = Σ ∂r/τ,    r = Δ/τ

Neurons do not meet: a program takes some of one sequence and walks through its chunks. Its share of ∂Δ, which all
neurons have in common, is added afterwards. What is left of the forward pass is the states; the rest is computed again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from liquid_control.kernels.cuda.activations import tanh
from liquid_control.kernels.scan_operator import register

CHUNK, LARGEST_TILE = 32, 32
"""Steps and, at most, neurons of a tile."""


@torch.library.custom_op("liquid_control::liquid_scan_cuda", mutates_args=())
def liquid_scan(drive: Tensor, state: Tensor, elapsed: Tensor, tau_min: float) -> tuple[Tensor, Tensor]:
    """What `liquid_control.nn.scan.liquid_scan` gives, with first derivatives by drive, state and elapsed.

    Args:
        drive: (B, T, 2 U), float32, as are all.
        state: (B, U).
        elapsed: (B, T), ≥ 0. Where it is zero, neither the drive nor the time has a gradient.
        tau_min: positive.

    Returns:
        The states (B, T, U), and the last one (B, U).
    """
    batch, steps, width = drive.shape
    states = drive.new_empty(batch, steps, width // 2)
    final = torch.empty_like(state, memory_format=torch.contiguous_format)
    given = (part.contiguous() for part in (drive, state, elapsed))
    with torch.cuda.device_of(drive):
        _forward[_grid(state)](
            *given, states, final, steps, tau_min, UNITS=width // 2, LANES=_lanes(width // 2), CHUNK=CHUNK, num_warps=4
        )
    return states, final


@torch.library.custom_op("liquid_control::liquid_scan_cuda_backward", mutates_args=())
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
    of_drive, of_state = drive.new_empty(drive.shape), state.new_empty(state.shape)
    of_elapsed = elapsed.new_empty(_grid(state)[1], batch, steps)
    given = (part.contiguous() for part in (drive, state, elapsed, states, of_states, of_final))
    with torch.cuda.device_of(drive):
        _backward[_grid(state)](
            *given,
            of_drive,
            of_state,
            of_elapsed,
            steps,
            tau_min,
            UNITS=units,
            LANES=_lanes(units),
            CHUNK=CHUNK,
            num_warps=4,
        )
    return of_drive, of_state, of_elapsed.sum(0)


register(liquid_scan, _liquid_scan_backward)


def _lanes(units: int) -> int:
    return min(LARGEST_TILE, triton.next_power_of_2(units))


def _grid(state: Tensor) -> tuple[int, int]:
    """A program for each sequence, and for each of its blocks of neurons."""
    batch, units = state.shape
    return batch, triton.cdiv(units, _lanes(units))


@triton.jit
def _forward(
    drive, state, elapsed, states, final, steps, tau_min, UNITS: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr
):
    """All chunks of a block of neurons."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * LANES + tl.arange(0, LANES)[None, :]
    z = tl.load(state + row * UNITS + unit, unit < UNITS, 0.0)
    for first in range(0, steps, CHUNK):
        step = first + tl.arange(0, CHUNK)[:, None]
        here = (step < steps) & (unit < UNITS)
        place = row * steps + step
        target = tanh(tl.load(drive + 2 * place * UNITS + unit, here, 0.0))
        _pace, _inverse, _ratio, share = _passing(drive, elapsed, place, step < steps, unit, here, tau_min, UNITS)
        decay, written = tl.associative_scan((1 - share, share * target), 0, _compose)
        after = decay * z + written
        tl.store(states + place * UNITS + unit, after, here)
        z = _last(after, CHUNK)
    tl.store(final + row * UNITS + unit, z, unit < UNITS)


@triton.jit
def _backward(
    drive,
    state,
    elapsed,
    states,
    of_states,
    of_final,
    of_drive,
    of_state,
    of_elapsed,
    steps,
    tau_min,
    UNITS: tl.constexpr,
    LANES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """All chunks of a block of neurons from the last to the first; names as in the module."""
    row = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * LANES + tl.arange(0, LANES)[None, :]
    share_of_time = tl.program_id(1).to(tl.int64) * tl.num_programs(0) * steps
    carried = tl.load(of_final + row * UNITS + unit, unit < UNITS, 0.0)  # a_{t+1} λ_{t+1} of the chunk's last step
    chunks = tl.cdiv(steps, CHUNK)
    for back in range(chunks):
        step = (chunks - 1 - back) * CHUNK + tl.arange(0, CHUNK)[:, None]
        there = step < steps
        here = there & (unit < UNITS)
        place = row * steps + step
        target = tanh(tl.load(drive + 2 * place * UNITS + unit, here, 0.0))
        pace, inverse, ratio, share = _passing(drive, elapsed, place, there, unit, here, tau_min, UNITS)
        old = tl.load(states + (place - 1) * UNITS + unit, here & (step > 0), 0.0)
        old += tl.load(state + row * UNITS + unit + 0 * step, here & (step == 0), 0.0)
        # In λ_t = g_t + a_{t+1} λ_{t+1} the decay is the next step's; what follows the chunk is in `carried`.
        following = (step + 1 < steps) & (step % CHUNK < CHUNK - 1) & (unit < UNITS)
        _pace, _inverse, _ratio, passed = _passing(
            drive, elapsed, place + 1, step + 1 < steps, unit, following, tau_min, UNITS
        )
        given = tl.load(of_states + place * UNITS + unit, here, 0.0)
        decay, of_new = tl.associative_scan((tl.where(following, 1 - passed, 1.0), given), 0, _compose, reverse=True)
        of_new += decay * carried
        of_old = of_new * (1 - share)
        of_ratio = of_old * (target - old)
        tl.store(of_drive + 2 * place * UNITS + unit, of_new * share * (1 - target * target), here)
        of_pace = -of_ratio * ratio * inverse * tl.sigmoid(pace)
        tl.store(of_drive + (2 * place + 1) * UNITS + unit, of_pace, here)
        time = tl.load(elapsed + place, there, 0.0)
        of_time = tl.sum(tl.where(here & (time > 0), of_ratio * inverse, 0.0), 1)[:, None]
        tl.store(of_elapsed + share_of_time + place, of_time, there)
        carried = _first(of_old, CHUNK)
    tl.store(of_state + row * UNITS + unit, carried, unit < UNITS)


@triton.jit
def _compose(a1, w1, a2, w2):
    """Two steps of z ← a z + w as one."""
    return a1 * a2, a2 * w1 + w2


@triton.jit
def _first(tile, CHUNK: tl.constexpr):
    """(1, LANES): the first row."""
    row = tl.arange(0, CHUNK)[:, None]
    return tl.sum(tl.where(row == 0, tile, 0.0), 0)[None, :]


@triton.jit
def _last(tile, CHUNK: tl.constexpr):
    """(1, LANES): the last row."""
    row = tl.arange(0, CHUNK)[:, None]
    return tl.sum(tl.where(row == CHUNK - 1, tile, 0.0), 0)[None, :]


@triton.jit
def _passing(drive, elapsed, place, there, unit, here, tau_min, UNITS: tl.constexpr):
    """Of steps what sets the pace, 1/τ, r = Δ/τ, and the share 1 - a; where there is no step, no time passes."""
    pace = tl.load(drive + (2 * place + 1) * UNITS + unit, here, 0.0)
    inverse = 1 / (tau_min + _softplus(pace))
    ratio = tl.minimum(tl.load(elapsed + place, there, 0.0) * inverse, 100.0)
    # 1 - e^{-r}, with all digits where r is small.
    small = ratio * (1 - ratio * (0.5 - ratio * (0.16666667 - ratio * (0.041666668 - ratio * 0.008333334))))
    return pace, inverse, ratio, tl.where(ratio < 0.25, small, 1 - tl.exp(-ratio))


@triton.jit
def _softplus(x):
    """log(1 + e^x), with all digits where it is small."""
    e = tl.exp(-tl.abs(x))
    small = e * (1 - e * (0.5 - e * (0.33333334 - e * 0.25)))
    return tl.maximum(x, 0.0) + tl.where(e < 0.01, small, tl.log(1 + e))

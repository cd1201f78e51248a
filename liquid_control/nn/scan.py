"""Leaky neurons that do not see each other: a liquid layer that is linear in its state, so that all steps run at once.

    dz/dt = (b(x) - z) / τ(x),    b = tanh(W x + c),    τ = τ_min + softplus(W_τ x + c_τ)

The input of a step acts while the time Δ of that step passes. b and τ stay as they are for so long, so the equation has
an exact solution:

    z ← a z + (1 - a) b,    a = e^{-Δ/τ}

These are the neurons of `liquid_control.nn.leaky` without synapses among them. What is lost is that the state bends its
own pace; what is won is that steps compose. Two steps (a, w) of z ← a z + w are one step (a₂a₁, a₂w₁ + w₂), so a
sequence is a prefix scan of logarithmic depth (Blelloch 1990; Martin & Cundy 2018, "Parallelizing linear recurrent
neural nets over sequence length"). A decay that the input sets is the selection of Gu & Dao 2023, "Mamba", algorithm 2.
A time constant that the input sets is the liquid one of Hasani et al. 2021, equation 1, where the state sets it, too.

Four forms, equal in value: :func:`liquid_scan`, step by step, to read; :func:`parallel_scan`, the prefix scan in plain
torch, for any device; the operator of `liquid_control.kernels.scan`, one pass over memory on the CPU; and that of
`liquid_control.kernels.cuda.scan`, prefix scans of chunks on CUDA.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_operable, reference_is_chosen
from liquid_control.nn.layer import Elapsed, LiquidLayer
from liquid_control.nn.parameters import before_softplus, read, settle

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick

SHORTEST_TAU = 0.25
"""The shortest of the initial time constants above their bound."""


def liquid_scan(drive: Tensor, state: Tensor, elapsed: Tensor, tau_min: float) -> tuple[Tensor, Tensor]:
    """The solution, step by step.

    A step of no time leaves the state as it is, whatever drives it.

    Args:
        drive: (B, T, 2 U), T ≥ 1, of U neurons: [W x + c | W_τ x + c_τ], before tanh and softplus.
        state: (B, U) z before the first step.
        elapsed: (B, T) Δ ≥ 0, in units of time.
        tau_min: lower bound of the time constants, positive, in units of time.

    Returns:
        z after each step (B, T, U), and after the last (B, U).
    """
    target, share = _towards(drive, elapsed, tau_min)
    states = []
    for b, passed in zip(target.unbind(1), share.unbind(1), strict=True):
        state = torch.lerp(state, b, passed)  # a z + (1 - a) b with 1 - a = passed
        states.append(state)
    return torch.stack(states, 1), state


def parallel_scan(drive: Tensor, state: Tensor, elapsed: Tensor, tau_min: float) -> tuple[Tensor, Tensor]:
    """What :func:`liquid_scan` gives, all steps at once: 2 log₂ T dependent operations instead of T.

    Only decays, which are at most 1, are ever multiplied. So nothing overflows and nothing is divided, however long
    or short a time is: a decay that is too small for a number is zero.
    """
    target, share = _towards(drive, elapsed, tau_min)
    decay, written = 1 - share, share * target
    first = torch.lerp(state, target[:, 0], share[:, 0])
    states = _compose(decay, torch.cat([first[:, None], written[:, 1:]], 1))
    return states, states[:, -1]


def _compose(decay: Tensor, written: Tensor) -> Tensor:
    """z_t = decay_t z_{t-1} + written_t from z = 0, of (B, T, U): each two steps are one of a sequence half as long."""
    steps = written.shape[1]
    if steps == 1:
        return written
    pairs, even, odd = steps // 2, slice(0, steps // 2 * 2, 2), slice(1, None, 2)
    seconds = _compose(decay[:, odd] * decay[:, even], torch.addcmul(written[:, odd], decay[:, odd], written[:, even]))
    later = slice(2, None, 2)
    firsts = torch.addcmul(written[:, later], decay[:, later], seconds[:, : (steps - 1) // 2])
    firsts = torch.cat([written[:, :1], firsts], 1)
    states = torch.stack([firsts[:, :pairs], seconds], 2).flatten(1, 2)
    return torch.cat([states, firsts[:, pairs:]], 1) if steps % 2 else states


def _towards(drive: Tensor, elapsed: Tensor, tau_min: float) -> tuple[Tensor, Tensor]:
    """The targets b, and what share 1 - a of the way to them is gone, both (B, T, U).

    1 - a has all its digits where a is nearly 1. A product with 1/τ, not a quotient: where Δ/τ² is too large for a
    number, the gradient of τ is still the zero that it ought to be.
    """
    target, pace = drive.chunk(2, -1)
    return torch.tanh(target), -torch.expm1(-elapsed[..., None] * time_constants(pace, tau_min).reciprocal())


def time_constants(pace: Tensor, tau_min: float) -> Tensor:
    """τ of W_τ x + c_τ."""
    return tau_min + F.softplus(pace)


class LiquidScan(LiquidLayer):
    """Liquid neurons without synapses among them: a whole sequence is one scan, a step is one step of it.

    The state is z of each neuron; it stays between its initial value and ±1, whatever the elapsed time. It is computed
    in single precision at least.

    Args:
        input_size: number of inputs.
        units: number of neurons.
        output_size: if given, outputs go through a linear readout of this size; else they are the neurons.
        tau_min: lower bound of the time constants, in units of elapsed time.
        longest_tau: without inputs, the neurons' initial time constants above that bound are log-spaced from 0.25 to
            this, in units of elapsed time.
        learn_initial_state: whether the initial state is a parameter.

    Raises:
        ValueError: if a number is out of range.
    """

    name = "scan"
    kept_as: ClassVar = {"output_size": "readout_size"}

    def __init__(
        self,
        input_size: int,
        units: int,
        output_size: int | None = None,
        *,
        tau_min: float = 0.1,
        longest_tau: float = 64.0,
        learn_initial_state: bool = False,
    ):
        if units < 1:
            raise ValueError(f"units must be at least 1, given {units}.")
        if not 0 < tau_min < math.inf:
            raise ValueError(f"tau_min must be positive and finite, given {tau_min}.")
        if not SHORTEST_TAU <= longest_tau < math.inf:
            raise ValueError(f"longest_tau must be at least {SHORTEST_TAU} and finite, given {longest_tau}.")
        super().__init__(input_size, {"neurons": units}, output_size or units, learn_initial_state)
        self.units, self.readout_size = units, output_size
        self.tau_min, self.longest_tau = tau_min, longest_tau
        self.drive = nn.Linear(input_size, 2 * units)
        self.readout: nn.Module = nn.Identity() if output_size is None else nn.Linear(units, output_size)
        bound = math.sqrt(3 / input_size)
        with torch.no_grad():
            self.drive.weight[:units].uniform_(-bound, bound)
            # Every neuron begins near a pace of its own. Not at it: a weight norm has no direction for zeros.
            self.drive.weight[units:].uniform_(-bound / 10, bound / 10)
            self.drive.bias[:units] = 0
            tau = torch.linspace(math.log(SHORTEST_TAU), math.log(longest_tau), units, device=self.drive.bias.device)
            self.drive.bias[units:] = before_softplus(tau.exp())

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; both modules are called."""
        settle([self.drive, self.readout], called=True)

    def time_constants(self, x: Tensor) -> Tensor:
        """τ (…, U) under inputs (…, C), in units of elapsed time."""
        return time_constants(self.drive(x)[..., self.units :], self.tau_min)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; the reference form, the prefix scan or an operator, whichever may run and is fast.

        An operator is one operation to torch, so `torch.compile`, `torch.export` and `make_fx` keep it.
        """
        drive = self.drive(x.transpose(0, 1))
        if not isinstance(elapsed, Tensor):
            elapsed = x.new_full(x.shape[:2], elapsed)
        if advance is not None:
            elapsed = torch.where(advance, elapsed, 0)
        # A state accumulates rounding errors.
        dtype = torch.promote_types(x.dtype, torch.float32)
        given = drive.to(dtype), state.to(dtype), elapsed.T.to(dtype)
        if reference_is_chosen() or x.shape[0] == 1:
            states, final = liquid_scan(*given, self.tau_min)
        elif is_operable(*given):
            from liquid_control.kernels import scan

            states, final = scan.liquid_scan(*given, self.tau_min)
        elif dtype == torch.float32 and is_operable(*given, device="cuda"):
            from liquid_control.kernels.cuda import scan as cuda_scan  # Triton is optional

            states, final = cuda_scan.liquid_scan(*given, self.tau_min)
        else:
            states, final = parallel_scan(*given, self.tau_min)
        return self.readout(states.to(x.dtype)).transpose(0, 1), final.to(x.dtype)

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]]:
        """See :class:`LiquidLayer`."""
        from liquid_control.kernels import scan

        weight, bias = read(self.drive, ("weight", "bias"))
        return scan.tick, scan.step_arrays(weight, bias, self.tau_min, self.readout)

    @property
    def neuron_count(self) -> int:
        """The neurons of the state."""
        return self.units

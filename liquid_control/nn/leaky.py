"""Leaky neurons with time constants that adapt: the plain continuous-time network (Funahashi & Nakamura 1993).

    τ dh/dt = -h + f,    f = tanh(W x + U h + b),    τ = τ_min + softplus(W_τ x + U_τ h + b_τ)

τ is positive by construction; adaptive, it is what makes the network liquid: input and state set the pace. Over a
solver step Δ, with f and τ frozen at its beginning, two integrations:

    explicit       h ← h + min(Δ/τ, 1) (f - h)           Euler; a step never overshoots its target f
    exponential    h ← h + (1 - e^{-Δ/τ}) (f - h)        exact while f and τ stay as they are

Both keep h between its initial value and ±1, whatever the elapsed time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import ncps.wirings
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_known
from liquid_control.nn.layer import Elapsed, LiquidLayer, by_step
from liquid_control.nn.wiring import Circuit, Wiring, build_circuit

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick

INTEGRATIONS = ("exponential", "explicit")

INITIAL_TAU = (0.25, 4.0)
"""Range of the initial time constants above the bound, log-spaced over the neurons."""


class Leaky(LiquidLayer):
    """Leaky neurons on a wiring.

    The state is h of each neuron in the circuit's order (motor, command, inter for an NCP), in (-1, 1); outputs are the
    motor neurons. A synapse takes one solver step, so an NCP needs ``ode_unfolds`` ≥ 3 to answer an input in the same
    step.

    Args:
        input_size: number of inputs.
        units: number of fully connected neurons, or a :class:`Wiring`, a :class:`Circuit` or an ncps wiring.
        integration: "exponential" or "explicit".
        adaptive: whether the time constants depend on input and state; else each is a parameter.
        tau_min: their lower bound, in units of elapsed time.
        ode_unfolds: solver steps for each step of the sequence.
        learn_initial_state: whether the initial state is a parameter.

    Raises:
        ValueError: if an option is unknown or out of range, or the wiring doesn't fit the inputs.
    """

    name = "leaky"
    kept_as: ClassVar = {"units": "circuit"}

    def __init__(
        self,
        input_size: int,
        units: int | Wiring | Circuit | ncps.wirings.Wiring,
        *,
        integration: str = "exponential",
        adaptive: bool = True,
        tau_min: float = 0.1,
        ode_unfolds: int = 1,
        learn_initial_state: bool = False,
    ):
        if integration not in INTEGRATIONS:
            raise ValueError(f"integration is {integration!r}, expected one of {INTEGRATIONS}.")
        if not 0 < tau_min < math.inf:
            raise ValueError(f"tau_min must be positive and finite, given {tau_min}.")
        if ode_unfolds < 1:
            raise ValueError(f"ode_unfolds must be at least 1, given {ode_unfolds}.")
        circuit = build_circuit(units, input_size)
        super().__init__(input_size, circuit.places(), circuit.outputs, learn_initial_state)
        self.circuit, self.integration, self.adaptive = circuit, integration, adaptive
        self.tau_min, self.ode_unfolds = tau_min, ode_unfolds
        connected = torch.from_numpy(np.concatenate([circuit.sensory_adjacency, circuit.adjacency]).T != 0)
        self.register_constant("connected", connected.to(torch.get_default_dtype()))
        # Of the drive f, then of τ: those begin at zero, so that every neuron begins at its own constant pace.
        bound = (3 / connected.sum(1, keepdim=True).clamp(min=1)).sqrt()
        self.weight = nn.Parameter((torch.rand(connected.shape, device=bound.device) * 2 - 1) * bound * connected)
        self.bias = nn.Parameter(torch.zeros(circuit.units))
        self.tau_weight = nn.Parameter(torch.zeros(connected.shape)) if adaptive else None
        shortest, longest = (math.log(tau) for tau in INITIAL_TAU)
        pace = torch.linspace(shortest, longest, circuit.units).exp()
        self.tau_bias = nn.Parameter(pace.expm1().log())

    connected: Tensor

    def time_constants(self, x: Tensor, state: Tensor) -> Tensor:
        """τ (B, N) under inputs (B, C) and state (B, N), in units of elapsed time."""
        if self.tau_weight is None:
            return self._tau(self.tau_bias).expand_as(state)
        return self._tau(F.linear(torch.cat([x, state], 1), self.tau_weight * self.connected, self.tau_bias))

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`."""
        weight: Tensor = self.weight * self.connected
        bias: Tensor = self.bias
        if self.tau_weight is not None:
            weight = torch.cat([weight, self.tau_weight * self.connected])
            bias = torch.cat([bias, self.tau_bias])
        drive = F.linear(x, weight[:, : self.input_size], bias)
        recurrent = weight[:, self.input_size :].T
        steps = by_step(elapsed / self.ode_unfolds, advance, len(x))

        states = []
        for driven, (span, advances) in zip(drive.unbind(0), steps, strict=True):
            h = state
            for _ in range(self.ode_unfolds):
                target, *pace = torch.addmm(driven, h, recurrent).split(self.state_size, 1)
                tau = self._tau(pace[0] if pace else self.tau_bias)
                h = torch.lerp(h, torch.tanh(target), self._share(span / tau).expand_as(h))
            state = h if advances is None else torch.where(advances, h, state)
            states.append(state)
        return torch.stack(states)[..., : self.output_size], state

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """See :class:`LiquidLayer`."""
        from liquid_control.kernels import leaky

        if not is_known("the leaky layer", "integration", self.integration, leaky.INTEGRATIONS):
            return None
        return leaky.tick, leaky.step_arrays(
            self.weight * self.connected,
            self.bias,
            None if self.tau_weight is None else self.tau_weight * self.connected,
            self.tau_bias,
            self.tau_min,
            self.ode_unfolds,
            self.integration,
        )

    def _tau(self, pace: Tensor) -> Tensor:
        return self.tau_min + F.softplus(pace)

    def _share(self, ratio: Tensor) -> Tensor:
        """How much of the way to its target a neuron goes in Δ/τ."""
        return ratio.clamp(max=1) if self.integration == "explicit" else -torch.expm1(-ratio)

    @property
    def neuron_count(self) -> int:
        """The neurons of the state."""
        return self.state_size

    def parameter_count(self) -> int:
        """Parameters in use: synapses that the wiring leaves out are not counted."""
        unused = int((self.known_constant("connected") == 0).sum()) * (2 if self.adaptive else 1)
        return super().parameter_count() - unused

"""A trained LTC compiled into a closed form: same weights, no solver, no training (Hasani et al. 2022, Algorithm 1).

**The paper's form.** A neuron that one synapse and its leak pull towards A has the equation and the solution

    dx/dt = -[w_τ + f(I(t))] (x - A),      x(t) = A + (x₀ - A) e^{-w_τ t - ∫f},   the integral over 0 to t,

with an opening f between 0 and 1. The integral needs the whole input; Theorem 1 does with its last value:

    x̃(t) = A + (x₀ - A) e^{-[w_τ + f(I)] t} f(-I),      |x - x̃| ≤ |x₀ - A| e^{-w_τ t}

since both are A + (x₀ - A) e^{-w_τ t} times something between 0 and 1. f(-I) stands for 1 - f(I) = σ(-σ_j (I - μ_j)).
:func:`theorem_1` is this form and :func:`theorem_1_bound` its bound. Algorithm 1 adds the form up over a neuron's
synapses.

**The form used here.** A neuron of a circuit has many synapses whose reversal potentials E_ji disagree, and a leak of
its own. The paper's sum tends to Σ_j E_ji there, whatever the openings, and not to the neuron's equilibrium. But the
membrane equation

    cm_i dv_i/dt = d_i - γ_i v_i,      d_i = g_i v_leak,i + Σ_j w_ji s_ji E_ji,      γ_i = g_i + Σ_j w_ji s_ji

is linear in v_i while the openings s_ji are frozen, and then relaxes exactly to the mean of all potentials that pull at
the neuron, weighted by conductance, with its liquid time constant:

    v_i(t) = v∞_i + (v_i(0) - v∞_i) e^{-t/τ_sys,i},      v∞_i = d_i/γ_i,      τ_sys,i = cm_i/γ_i

Where all of v_leak,i and E_ji are one A, this is A + (x₀ - A) e^{-[w_τ + f] t} with w_τ = g/cm and f = Σ w s/cm: the
paper's form without its factor f(-I), so that x̃(0) = x₀, and under the same bound by the same argument, for any wiring
and whatever the presynaptic neurons do meanwhile.

Openings are frozen where the presynaptic potentials end. Sensory ones are known, so the inter neurons of a neural
circuit policy are exact in the first sweep; the second carries them to the command neurons, the third to the motor
neurons, and one more settles the synapses among the command neurons.
"""

from __future__ import annotations

from collections.abc import Sequence

import ncps.wirings
import torch
from torch import Tensor

from liquid_control.nn.layer import Elapsed, per_tick
from liquid_control.nn.ltc import LTC
from liquid_control.nn.wiring import Circuit, Wiring


class ClosedFormLTC(LTC):
    """The neurons, parameters and weight names of an :class:`LTC`, each step in closed form; see the module.

    Args:
        input_size: number of inputs, the sensory neurons.
        units: as in :class:`LTC`.
        input_mapping: as in :class:`LTC`.
        output_mapping: as in :class:`LTC`.
        sweeps: how often the closed form is evaluated in a step, with the openings that the sweep before ended with.
            None is one more than the circuit has layers: 4 for a neural circuit policy, 2 for a fully connected layer.
        epsilon: added to γ.
        implicit_param_constraints: as in :class:`LTC`.
        learn_initial_state: whether the initial state is a parameter.

    Raises:
        ValueError: if an option is unknown or the wiring doesn't fit the inputs.
    """

    name = "ltc_closed_form"

    def __init__(
        self,
        input_size: int,
        units: int | Wiring | Circuit | ncps.wirings.Wiring,
        *,
        input_mapping: str | None = "affine",
        output_mapping: str | None = "affine",
        sweeps: int | None = None,
        epsilon: float = 1e-8,
        implicit_param_constraints: bool = True,
        learn_initial_state: bool = False,
    ):
        if sweeps is not None and sweeps < 1:
            raise ValueError(f"sweeps must be at least 1, given {sweeps}.")
        super().__init__(
            input_size,
            units,
            input_mapping=input_mapping,
            output_mapping=output_mapping,
            epsilon=epsilon,
            implicit_param_constraints=implicit_param_constraints,
            learn_initial_state=learn_initial_state,
        )
        self.sweeps = len(self.circuit.layers) + 1 if sweeps is None else sweeps

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`. What precedes the loop is free of the state."""
        steps, batch, _ = x.shape
        cell = self.rnn_cell
        capacitance = self._positive(cell.cm)
        drive = self._sensory_currents(x.flatten(0, 1), capacitance.new_full((), self.epsilon)).unflatten(
            0, (steps, batch)
        )
        currents = self.synapses(cell.sigma, cell.mu, self._positive(cell.w), cell.erev)
        if isinstance(elapsed, Tensor):
            spans = list((elapsed[..., None] / capacitance).unbind(0))  # t/cm, (B, N) each
        else:
            spans = [elapsed / capacitance] * steps
        if advance is not None:
            advance = advance[..., None]

        states = []
        for tick_drive, span, advances in zip(drive.unbind(0), spans, per_tick(advance, steps), strict=True):
            end = state
            for _ in range(self.sweeps):
                pull, damping = currents(end, tick_drive).chunk(2, -1)
                equilibrium = pull / damping
                end = equilibrium + (state - equilibrium) * torch.exp(-damping * span)
            state = end if advances is None else torch.where(advances, end, state)
            states.append(state)
        return self._map(torch.stack(states)[..., : self.output_size], "output"), state

    def fused_cpu(self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None) -> None:
        """None: the kernels of an :class:`LTC` are its solver, which this layer does without."""

    def fused_cpu_with_memory(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None, lstm: Sequence[Tensor]
    ) -> None:
        """None, as :meth:`fused_cpu`."""

    def fused_cuda(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> None:
        """None, as :meth:`fused_cpu`."""

    def fused_cuda_with_memory(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None, lstm: Sequence[Tensor]
    ) -> None:
        """None, as :meth:`fused_cpu`."""

    def step_kernel(self) -> None:
        """None, as :meth:`fused_cpu`."""


def close_form(ltc: LTC, sweeps: int | None = None) -> ClosedFormLTC:
    """Compiles an LTC into its closed form: same neurons and weights (copied), no solver, no training.

    >>> ltc = LTC(8, Wiring.auto(units=19, outputs=3))
    >>> y, state = close_form(ltc)(torch.zeros(1, 5, 8))

    Args:
        ltc: the layer, trained or not; it stays as it is.
        sweeps: as in :class:`ClosedFormLTC`.
    """
    closed = ClosedFormLTC(
        ltc.input_size,
        ltc.circuit,
        input_mapping=ltc.input_mapping,
        output_mapping=ltc.output_mapping,
        sweeps=sweeps,
        epsilon=ltc.epsilon,
        implicit_param_constraints=ltc.implicit_param_constraints,
        learn_initial_state=ltc.learned_initial_state is not None,
    ).to(ltc.rnn_cell.w)
    closed.load_state_dict(ltc.state_dict())
    return closed.train(ltc.training)


def theorem_1(initial: Tensor, reversal: Tensor, leak_rate: Tensor, opening: Tensor, elapsed: Tensor) -> Tensor:
    """The paper's approximation x̃(t) = (x₀ - A) e^{-[w_τ + f(I)] t} f(-I) + A for a neuron with one synapse.

    Args:
        initial: x₀.
        reversal: A.
        leak_rate: w_τ ≥ 0.
        opening: f(I) in [0, 1], at the last input.
        elapsed: t ≥ 0.

    Returns:
        x̃(t), of the shape that all of them broadcast to. At t = 0 it is x₀ only for f(I) = 0.
    """
    return (initial - reversal) * torch.exp(-(leak_rate + opening) * elapsed) * (1 - opening) + reversal


def theorem_1_bound(initial: Tensor, reversal: Tensor, leak_rate: Tensor, elapsed: Tensor) -> Tensor:
    """The largest error |x₀ - A| e^{-w_τ t} that :func:`theorem_1` can make, whatever the input was before."""
    return (initial - reversal).abs() * torch.exp(-leak_rate * elapsed)

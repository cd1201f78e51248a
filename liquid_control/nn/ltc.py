"""Liquid time-constant neurons (LTC): membranes, leaks and synapses, solved step by step (Hasani et al. 2021).

The neuron form of neural circuit policies (Lechner et al. 2020, eq. 1-3). Neuron i has a membrane potential v, a
capacitance cm and a leak; a synapse from j to i has a conductance w, a reversal potential E, and opens with the
presynaptic potential:

    cm_i dv_i/dt = g_i (v_leak,i - v_i) + Σ_j w_ji s_ji (E_ji - v_i),      s_ji = σ(σ_ji (v_j - μ_ji))

over sensory and inner synapses j → i. The fused semi-implicit step (Hasani 2021, Algorithm 1) of length Δ takes v_i on
the right from after the step and s_ji from before it:

    v_i⁺ = [ (cm_i/Δ) v_i + g_i v_leak,i + Σ_j w_ji s_ji E_ji ] / [ cm_i/Δ + g_i + Σ_j w_ji s_ji + ε ]

with Δ = elapsed / unfolds, and as many such steps as unfolds. It is a weighted mean of v_i, v_leak,i and the E_ji (up
to ε), so it is stable for any Δ and the state stays between the extremes of the three (Theorem 2 of the paper, in this
form). Other solvers of the same equation are in `liquid_control.nn.solvers`.

What makes the neurons liquid is their time constant, which the inputs change:

    1/τ_sys,i = g_i/cm_i + Σ_j (w_ji/cm_i) s_ji

An opening s is between 0 and 1, so with τ_i = cm_i/g_i and W_i = Σ_j w_ji/cm_i it stays within
τ_i/(1 + τ_i W_i) ≤ τ_sys,i ≤ τ_i (Theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, cast

import ncps.wirings
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import are_plain, use_reference
from liquid_control.kernels.structure import Structured
from liquid_control.nn.layer import Elapsed, LiquidLayer, is_readable, per_tick
from liquid_control.nn.parameters import MaskWatch, find_parameter, read, settle
from liquid_control.nn.solvers import SOLVERS
from liquid_control.nn.synapses import build_synapses
from liquid_control.nn.wiring import Circuit, Synapse, Wiring, build_circuit, reject_other_masks, synapses_of

if TYPE_CHECKING:
    from liquid_control.kernels.ltc import LTCPlan, Synapses
    from liquid_control.kernels.step import Tick

MAPPINGS = ("affine", "linear", None)

INITIAL_RANGES = {
    "gleak": (0.001, 1.0),
    "vleak": (-0.2, 0.2),
    "cm": (0.4, 0.6),
    "sigma": (3.0, 8.0),
    "mu": (0.3, 0.8),
    "w": (0.001, 1.0),
}
"""What initial values are drawn from, uniformly: after the positivity constraint, if there is one."""

POSITIVE = ("gleak", "cm", "w")

KERNEL_PARAMETERS = (
    *("gleak", "vleak", "cm", "sigma", "mu", "w", "erev"),
    *("sensory_sigma", "sensory_mu", "sensory_w", "sensory_erev"),
)


class LTCCell(Structured):
    """The parameters of LTC neurons, by ncps's names; matrices are [source, destination] and hold unused entries too.

    Args:
        circuit: the neurons and synapses.
        input_mapping: "affine", "linear" or None.
        output_mapping: the same.
        implicit_param_constraints: whether gleak, cm and w are stored as values that softplus makes positive.
    """

    gleak: Tensor
    vleak: Tensor
    cm: Tensor
    sigma: Tensor
    mu: Tensor
    w: Tensor
    erev: Tensor
    sensory_sigma: Tensor
    sensory_mu: Tensor
    sensory_w: Tensor
    sensory_erev: Tensor
    sparsity_mask: Tensor
    sensory_sparsity_mask: Tensor

    def __init__(
        self,
        circuit: Circuit,
        input_mapping: str | None,
        output_mapping: str | None,
        implicit_param_constraints: bool,
    ):
        super().__init__()
        units, sensory = circuit.units, circuit.sensory
        for name in ("gleak", "vleak", "cm"):
            self._draw(name, (units,), implicit_param_constraints)
        for prefix, sources, adjacency in (
            ("", units, circuit.adjacency),
            ("sensory_", sensory, circuit.sensory_adjacency),
        ):
            for name in ("sigma", "mu", "w"):
                self._draw(prefix + name, (sources, units), implicit_param_constraints)
            polarity = torch.from_numpy(adjacency.astype(float)).to(torch.get_default_dtype())
            self.register_parameter(f"{prefix}erev", nn.Parameter(polarity.to(torch.get_default_device(), copy=True)))
            self.register_constant(f"{prefix}sparsity_mask", polarity.abs(), persistent=True)
        self.register_load_state_dict_pre_hook(reject_other_masks)
        for mapping, prefix, size in ((input_mapping, "input", sensory), (output_mapping, "output", circuit.outputs)):
            if mapping is not None:
                self.register_parameter(f"{prefix}_w", nn.Parameter(torch.ones(size)))
            if mapping == "affine":
                self.register_parameter(f"{prefix}_b", nn.Parameter(torch.zeros(size)))

    def _draw(self, name: str, shape: tuple[int, ...], implicit: bool) -> None:
        kind = name.removeprefix("sensory_")
        low, high = INITIAL_RANGES[kind]
        value = low + (high - low) * torch.rand(shape)
        if implicit and kind in POSITIVE:
            # The inverse of softplus, so that the range above is that of the value in use. ncps leaves it out: its
            # conductances then start in 0.69-1.31 and are never small.
            value = value.expm1().log()
        self.register_parameter(name, nn.Parameter(value))


class LTC(LiquidLayer):
    """Liquid time-constant neurons on a wiring.

    The state is the membrane potential of each neuron in the circuit's order (motor, command, inter for an NCP);
    outputs are the motor neurons. Weights of `ncps.torch.LTC` load with ``load_state_dict``.

    Args:
        input_size: number of inputs, the sensory neurons.
        units: number of fully connected neurons, or a :class:`Wiring`, a :class:`Circuit` or an ncps wiring, none of
            which is changed.
        input_mapping: a scale ("linear") and shift ("affine") of each input, or None.
        output_mapping: the same of each motor neuron.
        ode_unfolds: solver steps for each step of the sequence.
        epsilon: added to the denominator of the semi-implicit solver.
        implicit_param_constraints: True keeps gleak, cm and w positive through softplus. False uses them as they are:
            call :meth:`apply_weight_constraints` after each optimiser step.
        learn_initial_state: whether the initial state is a parameter.
        solver: "semi_implicit", "explicit" (Euler), "rk4" or, for checking, "adaptive" (needs `torchdiffeq`; chooses
            its own steps). The two explicit ones are finite only up to a step that the time constants set, see
            :meth:`time_constant_bounds`; nothing is clipped.

    Raises:
        ValueError: if an option is unknown or the wiring doesn't fit the inputs.
        FloatingPointError: from a call, if an explicit solver diverged.
    """

    name = "ltc"
    kept_as: ClassVar = {"units": "circuit"}

    def __init__(
        self,
        input_size: int,
        units: int | Wiring | Circuit | ncps.wirings.Wiring,
        *,
        input_mapping: str | None = "affine",
        output_mapping: str | None = "affine",
        ode_unfolds: int = 6,
        epsilon: float = 1e-8,
        implicit_param_constraints: bool = True,
        learn_initial_state: bool = False,
        solver: str = "semi_implicit",
    ):
        for what, mapping in (("input_mapping", input_mapping), ("output_mapping", output_mapping)):
            if mapping not in MAPPINGS:
                raise ValueError(f"{what} is {mapping!r}, expected one of {MAPPINGS}.")
        if ode_unfolds < 1:
            raise ValueError(f"ode_unfolds must be at least 1, given {ode_unfolds}.")
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be a number ≥ 0, given {epsilon}.")
        if solver not in SOLVERS:
            raise ValueError(f"solver is {solver!r}, expected one of {tuple(SOLVERS)}.")
        circuit = build_circuit(units, input_size)
        super().__init__(input_size, circuit.places(), circuit.outputs, learn_initial_state)
        self.circuit = circuit
        self.input_mapping, self.output_mapping = input_mapping, output_mapping
        self.ode_unfolds, self.epsilon, self.solver = ode_unfolds, epsilon, solver
        self.implicit_param_constraints = implicit_param_constraints
        self.rnn_cell = LTCCell(circuit, input_mapping, output_mapping, implicit_param_constraints)
        self._watch = MaskWatch()
        self._adopt(circuit.sensory_adjacency != 0, circuit.adjacency != 0)

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`."""
        cell = self.rnn_cell
        settle((cell,))
        edited = self._watch.edited((cell.sensory_sparsity_mask, cell.sparsity_mask), self._masks)
        if edited is not None:
            self._adopt(*cast(list[np.ndarray], edited))

    def _adopt(self, sensory: np.ndarray, inner: np.ndarray) -> None:
        """Prepares for masks (sources, neurons), True where there is a synapse: for what to leave out."""
        self._masks = sensory, inner
        for made_of_masks in ("_edge_lists", "_edges"):
            vars(self).pop(made_of_masks, None)
        device = find_parameter(self).device
        self.sensory_synapses = build_synapses(sensory).to(device)
        self.synapses = build_synapses(inner).to(device)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`. What precedes the loop is free of the state; the loop is the solver's."""
        steps, batch, _ = x.shape
        cell, solve = self.rnn_cell, SOLVERS[self.solver]
        capacitance = self._positive(cell.cm)
        if isinstance(elapsed, Tensor):
            elapsed = elapsed.reshape(-1, 1)
        capacitance = capacitance / (elapsed / self.ode_unfolds)  # cm/Δ: (N,), or (T·B, N)

        if self.solver == "semi_implicit":
            drive = self._sensory_currents(x.flatten(0, 1), capacitance + self.epsilon)
        else:
            drive = self._sensory_currents(x.flatten(0, 1))
        drive = drive.unflatten(0, (steps, batch))
        currents = self.synapses(cell.sigma, cell.mu, self._positive(cell.w), cell.erev)
        if capacitance.dim() == 1:
            capacitances = [capacitance] * steps
        else:
            capacitances = list(capacitance.unflatten(0, (steps, batch)).unbind(0))
        if advance is not None:
            advance = advance[..., None]

        start, states = state, []
        for tick_drive, tick_capacitance, advances in zip(
            drive.unbind(0), capacitances, per_tick(advance, steps), strict=True
        ):
            potential = solve(currents, tick_drive, tick_capacitance, state, self.ode_unfolds)
            state = potential if advances is None else torch.where(advances, potential, state)
            states.append(state)
        if self.solver in ("explicit", "rk4"):
            self._check_divergence(x, start, state)
        return self._map(torch.stack(states)[..., : self.output_size], "output"), state

    def fused_cuda(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`; `kernels.cuda.ltc`."""
        return self._through_cuda(x, state, elapsed, advance)

    def fused_cuda_with_memory(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None, lstm: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`."""
        return self._through_cuda(x, state, elapsed, advance, lstm)

    def _through_cuda(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None, lstm: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor] | None:
        """:meth:`fused_cuda`, or with the parameters of an LSTM :meth:`fused_cuda_with_memory`."""
        if self.solver != "semi_implicit":
            use_reference(f"the LTC's CUDA kernel has the semi-implicit solver, not {self.solver!r}")
            return None
        if not are_plain(*read(self.rnn_cell, KERNEL_PARAMETERS), *lstm):
            return None
        from liquid_control.kernels.cuda import ltc, memory  # Triton is optional

        state, before = memory.open_memory(x, state, lstm)
        cell, positive = self.rnn_cell, self._positive
        of_sensory, of_inner = self._edges
        outcome = ltc.integrate(
            self._map(x, "input"),
            state,
            elapsed,
            advance,
            positive(cell.gleak),
            cell.vleak,
            positive(cell.cm),
            ltc.Synapses(
                of_sensory,
                cell.sensory_sigma,
                cell.sensory_mu,
                positive(cell.sensory_w),
                cell.sensory_erev,
            ),
            ltc.Synapses(of_inner, cell.sigma, cell.mu, positive(cell.w), cell.erev),
            self.ode_unfolds,
            self.epsilon,
            before,
        )
        if outcome is None:
            return None
        states, state = outcome
        return self._map(states[..., : self.output_size], "output"), state

    def fused_cpu(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`; `kernels.ltc`, semi-implicit, in single or double precision."""
        return self._through_kernel(x, state, elapsed, mask)

    def fused_cpu_with_memory(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None, lstm: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`."""
        return self._through_kernel(x, state, elapsed, mask, lstm)

    def _through_kernel(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None, lstm: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor] | None:
        """:meth:`fused_cpu`, or with the parameters of an LSTM :meth:`fused_cpu_with_memory`."""
        if self.solver != "semi_implicit":
            use_reference(f"the LTC kernel is the semi-implicit solver, not {self.solver!r}")
            return None
        if x.dtype not in (torch.float32, torch.float64):
            use_reference(f"the LTC kernel computes in float32 or float64, not in {x.dtype}")
            return None
        from liquid_control.kernels import ltc  # Numba is optional

        kernel = ltc.integrate_with_memory if lstm else ltc.integrate
        parameters = [*self._all_parameters(), *lstm]
        return kernel(self._plan, self._description, x, state, elapsed, mask, parameters)

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """See :class:`LiquidLayer`; the semi-implicit solver's."""
        if self.solver != "semi_implicit":
            return None
        from liquid_control.kernels import ltc

        return ltc.tick, ltc.step_arrays(self._plan(), self._all_parameters())

    def _plan(self) -> LTCPlan:
        from liquid_control.kernels.ltc import LTCPlan

        inner, sensory = self._edge_lists
        return LTCPlan(
            inner,
            sensory,
            self.input_size,
            self.output_size,
            self.ode_unfolds,
            self.epsilon,
            self.implicit_param_constraints,
        )

    @property
    def epsilon(self) -> float:
        """Added to the denominator of the semi-implicit solver."""
        return float(self._epsilon)

    @epsilon.setter
    def epsilon(self, epsilon: float) -> None:
        """Kept as text: `torch.compile` may make a number a variable of its graph, of which no text can be made."""
        self._epsilon = repr(float(epsilon))

    def _description(self) -> tuple[str, list[Tensor]]:
        """What `kernels.ltc.plan_of` makes the plan of: options and masks."""
        options = (
            f"{self.input_size} {self.circuit.units} {self.output_size} {self.ode_unfolds} {self._epsilon} "
            f"{self.implicit_param_constraints}"
        )
        return options, read(self.rnn_cell, ("sensory_sparsity_mask", "sparsity_mask"))

    @cached_property
    def _edges(self) -> tuple[tuple[Synapse, ...], tuple[Synapse, ...]]:
        """The sensory and the inner synapses that the masks have."""
        sensory, inner = (synapses_of(mask.astype(int)) for mask in self._masks)
        return sensory, inner

    @cached_property
    def _edge_lists(self) -> tuple[Synapses, Synapses]:
        from liquid_control.kernels.ltc import Synapses

        sensory, inner = self._masks
        return Synapses.of(inner), Synapses.of(sensory)

    def _all_parameters(self) -> list[Tensor]:
        """In the kernels' order, with the scale 1 and the shift 0 of a mapping that there is not."""
        cell = self.rnn_cell
        parameters = read(cell, KERNEL_PARAMETERS)
        for which, mapping, size in (
            ("input", self.input_mapping, self.input_size),
            ("output", self.output_mapping, self.output_size),
        ):
            scale, shift = f"{which}_w", f"{which}_b"
            parameters += read(cell, (scale,)) if mapping else [parameters[0].new_ones(size)]
            parameters += read(cell, (shift,)) if mapping == "affine" else [parameters[0].new_zeros(size)]
        return parameters

    def _sensory_currents(self, x: Tensor, damping: Tensor | float = 0.0) -> Tensor:
        """[drive | damping] of each neuron without the inner synapses, under inputs x (B, C): (B, 2 N).

        Drive is g v_leak + Σ w s E; damping g + Σ w s, and what else is given for it.
        """
        cell = self.rnn_cell
        leak = self._positive(cell.gleak)
        damping = damping + leak
        constant = torch.cat([(leak * cell.vleak).expand_as(damping), damping], -1)
        currents = self.sensory_synapses(
            cell.sensory_sigma, cell.sensory_mu, self._positive(cell.sensory_w), cell.sensory_erev
        )
        return currents(self._map(x, "input"), constant)

    def drive_and_damping(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """What pushes each neuron and what holds it: cm dv/dt = drive - damping · v.

        Args:
            x: (B, C) inputs.
            state: (B, N) membrane potentials.

        Returns:
            g v_leak + Σ w s E and g + Σ w s, each (B, N), the sums over sensory and inner synapses.
        """
        self.follow_modules()
        cell = self.rnn_cell
        currents = self.synapses(cell.sigma, cell.mu, self._positive(cell.w), cell.erev)
        drive, damping = currents(state, self._sensory_currents(x)).chunk(2, -1)
        return drive, damping

    def derivative(self, x: Tensor, state: Tensor) -> Tensor:
        """dv/dt (B, N), the right-hand side of the module's equation, under inputs x (B, C) and potentials (B, N)."""
        drive, damping = self.drive_and_damping(x, state)
        return (drive - damping * state) / self._positive(self.rnn_cell.cm)

    def time_constants(self, x: Tensor, state: Tensor) -> Tensor:
        """The liquid time constant τ_sys = cm / (g + Σ w s) of each neuron, in units of elapsed time.

        Args:
            x: (B, C) inputs.
            state: (B, N) membrane potentials, whose openings count.

        Returns:
            (B, N), within :meth:`time_constant_bounds`.
        """
        return self._positive(self.rnn_cell.cm) / self.drive_and_damping(x, state)[1]

    def time_constant_bounds(self) -> tuple[Tensor, Tensor]:
        """The shortest and the longest time constant that each neuron can have: τ/(1 + τW) and τ, each (N,).

        All synapses open give the first, all of them closed the second, cm/g. An Euler step Δ = elapsed / unfolds up to
        the smallest of the first keeps the state within the bounds of the semi-implicit solver.
        """
        self.follow_modules()
        cell = self.rnn_cell
        leak, capacitance = self._positive(cell.gleak), self._positive(cell.cm)
        everything_open = leak
        for w, mask in zip((cell.sensory_w, cell.w), self._masks, strict=True):
            present = torch.from_numpy(mask).to(w.device)
            everything_open = everything_open + (self._positive(w) * present).sum(0)
        return capacitance / everything_open, capacitance / leak

    def _check_divergence(self, x: Tensor, start: Tensor, end: Tensor) -> None:
        """Turns the NaN of an explicit solver into an error that tells the limit of its step."""
        if not is_readable(end) or end.isfinite().all():
            return
        if x.isfinite().all() and start.isfinite().all():
            shortest = self.time_constant_bounds()[0].min().item()
            raise FloatingPointError(
                f"the {self.solver} solver diverged: the shortest time constant of this layer is {shortest:.3g}, and a "
                "step elapsed / ode_unfolds should not be longer. Raise ode_unfolds, or use solver='semi_implicit'."
            )

    def _positive(self, parameter: Tensor) -> Tensor:
        return F.softplus(parameter) if self.implicit_param_constraints else parameter

    def _map(self, values: Tensor, which: str) -> Tensor:
        mapping = self.input_mapping if which == "input" else self.output_mapping
        if mapping is not None:
            values = values * getattr(self.rnn_cell, f"{which}_w")
        if mapping == "affine":
            values = values + getattr(self.rnn_cell, f"{which}_b")
        return values

    @torch.no_grad()
    def apply_weight_constraints(self) -> None:
        """Clips gleak, cm and w at zero from below; does nothing where the constraints are implicit."""
        if not self.implicit_param_constraints:
            cell = self.rnn_cell
            for parameter in (cell.gleak, cell.cm, cell.w, cell.sensory_w):
                parameter.clamp_(min=0)

    @property
    def neuron_count(self) -> int:
        """Neurons of the circuit; sensory ones are not counted."""
        return self.circuit.units

    def parameter_count(self) -> int:
        """Four for each synapse of the wiring, three for each neuron, the mappings, and a learned initial state."""
        synapses = self.circuit.synapse_count + self.circuit.sensory_synapse_count
        learned = 0 if self.learned_initial_state is None else self.state_size
        sizes = {"affine": 2, "linear": 1, None: 0}
        return (
            4 * synapses
            + 3 * self.circuit.units
            + sizes[self.input_mapping] * self.input_size
            + sizes[self.output_mapping] * self.output_size
            + learned
        )

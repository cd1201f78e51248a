"""Closed-form continuous-time neurons (CfC): liquid dynamics without a solver (Hasani et al. 2022).

Eq. 10 of the paper, with g and h tanh heads of a shared backbone z = backbone([input, state]) and the gate as in the
authors' code, a time-independent head beside the one that time multiplies:

    x(t) = (1 - σ(t·a(z) + b(z))) ⊙ g(z) + σ(t·a(z) + b(z)) ⊙ h(z)         mode "default"
    x(t) = g(z) + σ(t·a(z) + b(z)) ⊙ h(z)                                   mode "no_gate"
    x(t) = A - A ⊙ exp(-t (|w_τ| + |g(z)|)) ⊙ g(z), g linear                mode "pure" (Cf-S)

At t = 0 these do not give back the state, although no time has passed. The layer therefore sets the initial condition
itself: a step of zero elapsed time leaves the state as it is.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import ncps.wirings
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from liquid_control.kernels import are_plain, use_reference
from liquid_control.kernels.lockstep import Lockstep, merge_gate
from liquid_control.kernels.structure import Structured
from liquid_control.nn.dropout import count_dropped, draw_bits, keep_factors
from liquid_control.nn.layer import Elapsed, LiquidLayer, by_step
from liquid_control.nn.parameters import MaskWatch, find_parameter, read, read_each, settle
from liquid_control.nn.wiring import Circuit, Wiring, build_circuit, reject_other_masks

if TYPE_CHECKING:
    from liquid_control.kernels.cfc import CfCPlan
    from liquid_control.kernels.step import Tick

MODES = ("default", "no_gate", "pure")
WEIGHT_AND_BIAS = ("weight", "bias")
BACKBONE_OPTIONS = ("backbone_units", "backbone_layers", "backbone_dropout")


def lecun_tanh(x: Tensor) -> Tensor:
    """1.7159 tanh(0.666 x), of unit variance for unit variance (LeCun 1998)."""
    return 1.7159 * torch.tanh(0.666 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "lecun_tanh": lecun_tanh,
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
}


class CfCCell(Structured):
    """The parameters of one group of CfC neurons, by ncps's names; the equations are in :class:`CfC`."""

    def __init__(
        self,
        fan_in: int,
        hidden_size: int,
        mode: str,
        backbone_units: int = 0,
        backbone_layers: int = 0,
        sparsity_mask: Tensor | None = None,
    ):
        super().__init__()
        self.hidden_size = hidden_size
        self.backbone: nn.ModuleDict | None = None
        if backbone_layers:
            # Every second name is ncps's activation.
            sizes = [fan_in] + [backbone_units] * backbone_layers
            self.backbone = nn.ModuleDict(
                {str(2 * layer): nn.Linear(*pair) for layer, pair in enumerate(itertools.pairwise(sizes))}
            )
            fan_in = backbone_units
        self.sparsity_mask: Tensor | None
        if sparsity_mask is None:
            self.register_buffer("sparsity_mask", None)
        else:
            self.register_constant("sparsity_mask", sparsity_mask, persistent=True)
        self.register_load_state_dict_pre_hook(reject_other_masks)
        self.ff1 = nn.Linear(fan_in, hidden_size)
        if mode == "pure":
            self.w_tau = nn.Parameter(torch.zeros(1, hidden_size))
            self.A = nn.Parameter(torch.ones(1, hidden_size))
        else:
            self.ff2 = nn.Linear(fan_in, hidden_size)
            self.time_a = nn.Linear(fan_in, hidden_size)
            self.time_b = nn.Linear(fan_in, hidden_size)
        for parameter in self.parameters():
            # w_tau and A too, as the authors' code does: at w_tau = 0 the gradient of |w_tau| is zero for good.
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)

    def heads(self) -> list[nn.Linear]:
        """The linear heads in the order of :class:`CfC`'s equations: g, h, a, b; or g alone in mode "pure"."""
        # Straight from the dictionary: the way through Module.__getattr__ takes ten times as long.
        own = cast(dict[str, nn.Linear], self._modules)
        return [own["ff1"], own["ff2"], own["time_a"], own["time_b"]] if "ff2" in own else [own["ff1"]]


class CfC(LiquidLayer):
    """Closed-form continuous-time neurons, dense with a backbone or wired without one.

    Given a number of units: one group of neurons behind a backbone of ``backbone_layers`` hidden layers. Given a
    wiring: a group of neurons for each of its layers (inter, command, motor for an NCP), each driven by the group
    before it within the same step and by its own state.

    The state holds the groups one after another, as ncps has it: inter, command, motor for an NCP. Outputs are the
    motor neurons, or all neurons of a dense layer. Weights of `ncps.torch.CfC` load with ``load_state_dict``.

    Args:
        input_size: number of inputs.
        units: number of neurons, or a :class:`Wiring`, a :class:`Circuit` or an ncps wiring, none of which is changed.
        proj_size: if given, outputs go through a linear map to this size.
        mode: "default", "no_gate" or "pure".
        activation: of the backbone: lecun_tanh, silu, relu, tanh or gelu.
        backbone_units: width of the backbone (dense only; 128).
        backbone_layers: its number of hidden layers (dense only; 1). 0 puts the heads directly on input and state.
        backbone_dropout: after each backbone layer (dense only; 0.0). In ncps it has no effect with one layer.
        ncps_compat: what a wiring masks. True, as in ncps: the heads g and h from group to group, while the gate's
            heads and the connections within a group are dense. False: every head, and within a group exactly the
            wiring's synapses and each neuron's own state.
        learn_initial_state: whether the initial state is a parameter.

    Raises:
        ValueError: if an option is unknown or does not go with a wiring.
    """

    name = "cfc"

    def __init__(
        self,
        input_size: int,
        units: int | Wiring | Circuit | ncps.wirings.Wiring,
        proj_size: int | None = None,
        *,
        mode: str = "default",
        activation: str = "lecun_tanh",
        backbone_units: int | None = None,
        backbone_layers: int | None = None,
        backbone_dropout: float | None = None,
        ncps_compat: bool = True,
        learn_initial_state: bool = False,
    ):
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, expected one of {MODES}.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, expected one of {tuple(ACTIVATIONS)}.")
        narrowest = 0 if backbone_layers == 0 else 1
        for what, count, least in (
            ("backbone_units", backbone_units, narrowest),
            ("backbone_layers", backbone_layers, 0),
        ):
            if count is not None and count < least:
                raise ValueError(f"{what} must be at least {least}, given {count}.")
        if not 0 <= (backbone_dropout or 0.0) < 1:
            raise ValueError(f"backbone_dropout must be in [0, 1), given {backbone_dropout}.")
        circuit = None if isinstance(units, int) else build_circuit(units, input_size)
        if circuit is not None:
            _refuse_backbone(activation, backbone_units, backbone_layers, backbone_dropout)
            if circuit.layers[-1][: circuit.outputs] != tuple(range(circuit.outputs)):
                raise ValueError(f"the last layer of the wiring must begin with the motor neurons: {circuit.layers}.")
            neurons, outputs = circuit.units, circuit.outputs
            parts = circuit.places([neuron for layer in circuit.layers for neuron in layer])
            super().__init__(input_size, parts, proj_size or outputs, learn_initial_state)
        else:
            neurons = outputs = cast(int, units)
            super().__init__(input_size, {"neurons": neurons}, proj_size or outputs, learn_initial_state)
        self.circuit, self.mode, self.activation, self.ncps_compat = circuit, mode, activation, ncps_compat
        self.proj_size = proj_size
        self.backbone_units = 128 if backbone_units is None else backbone_units
        self.backbone_layers = (1 if circuit is None else 0) if backbone_layers is None else backbone_layers
        self.backbone_dropout = backbone_dropout or 0.0

        if circuit is None:
            cell = CfCCell(input_size + neurons, neurons, mode, self.backbone_units, self.backbone_layers)
            self.rnn_cell: nn.Module = cell
            self.group_sizes: tuple[int, ...] = (neurons,)
            masks = None
        else:
            masks = _masks(circuit, ncps_compat)
            self.rnn_cell = nn.ModuleDict(
                {
                    f"layer_{index}": CfCCell(
                        mask.shape[1], mask.shape[0], mode, sparsity_mask=torch.from_numpy(mask).float()
                    )
                    for index, mask in enumerate(masks)
                }
            )
            self.group_sizes = tuple(len(layer) for layer in circuit.layers)
        last = sum(self.group_sizes[:-1])
        self.motor = slice(last, last + outputs)
        self.fc: nn.Module = nn.Identity() if proj_size is None else nn.Linear(outputs, proj_size)
        self._plan_options = json.dumps(
            {
                "inputs": input_size,
                "sizes": self.group_sizes,
                "masked": [self._masked(head) for head in range(1 if mode == "pure" else 4)],
                "mode": mode,
                "outputs": outputs,
            }
        )
        self._dropped = count_dropped(self.backbone_dropout)
        self._dense_options = json.dumps(
            {
                "inputs": input_size,
                "neurons": neurons,
                "depth": self.backbone_layers,
                "units": self.backbone_units if self.backbone_layers else 0,
                "mode": mode,
                "activation": activation,
                "dropped": self._dropped,
            }
        )
        self._watch, self._calls_linears = MaskWatch(), False
        self._adopt([None] if masks is None else masks)

    @property
    def cells(self) -> list[CfCCell]:
        """The groups of neurons, from the inputs on."""
        cell = self._modules["rnn_cell"]
        if isinstance(cell, CfCCell):
            return [cell]
        return cast(list[CfCCell], list(cast(nn.Module, cell)._modules.values()))

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; linear maps that have hooks are called."""
        cells = self.cells
        settle(cells)
        heads = [head for cell in cells for head in cell.heads()]
        self._calls_linears = settle([*self._backbone(), *heads], called=True)
        edited = self._watch.edited([cell.sparsity_mask for cell in cells], self.masks)
        if edited is not None:
            self._adopt(edited)

    def _adopt(self, masks: Sequence[np.ndarray | None]) -> None:
        """Prepares for 0/1 masks of the groups, or None: what kernels and plastic synapses leave out."""
        self.masks = masks
        vars(self).pop("_plan", None)
        if not self.backbone_layers:
            heads = [self._masked(head) for head in range(1 if self.mode == "pure" else 4)]
            of_groups = [[mask if masked else None for masked in heads] for mask in masks]
            lockstep = Lockstep(self.input_size, self.group_sizes, of_groups)
            self.lockstep = lockstep.to(find_parameter(self).device)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`. Within a step, inputs drive the first group, and each group drives the next one."""
        groups = [self._heads_of(cell) for cell in self.cells]
        states = []
        factors: list[list[Tensor | None]] = [[None] * self.backbone_layers] * len(x)
        if self._drops:
            factors = self._dropout_factors(x)
        steps = zip(x.unbind(0), by_step(elapsed, advance, len(x)), factors, strict=True)
        for driving, (span, advances), dropout in steps:
            after = []
            for (heads, pure), own in zip(groups, state.split(self.group_sizes, 1), strict=True):
                z = self._through_backbone(torch.cat([driving, own], 1), dropout)
                driving = self._solution(heads(z), span, pure)
                after.append(driving)
            new = torch.cat(after, 1)
            state = new if advances is None else torch.where(advances, new, state)
            states.append(state)
        return self.fc(torch.stack(states)[..., self.motor]), state

    def _heads_of(self, cell: CfCCell) -> tuple[Callable[[Tensor], Tensor], tuple[Tensor, Tensor] | None]:
        """Of a group z → its heads, side by side, and in mode "pure" |w_τ| and A, each (1, N)."""
        linears, mask = cell.heads(), cell.sparsity_mask
        pure = (cell.w_tau.abs(), cell.A) if self.mode == "pure" else None
        masked = [
            {"weight": linear.weight * mask} if mask is not None and self._masked(head) else {}
            for head, linear in enumerate(linears)
        ]
        if self._calls_linears:  # each with its weights as masked, for their hooks
            calls = list(zip(linears, masked, strict=True))
            return lambda z: torch.cat([functional_call(linear, own, z) for linear, own in calls], 1), pure
        pairs = zip(linears, masked, strict=True)
        weight = torch.cat([own.get("weight", linear.weight) for linear, own in pairs])
        bias = torch.cat([linear.bias for linear in linears])
        return lambda z: F.linear(z, weight, bias), pure

    def _through_backbone(self, z: Tensor, dropout: Sequence[Tensor | None]) -> Tensor:
        """From [inputs | state] to what drives the heads; ``dropout`` has a factor (B, U) for each layer, or None."""
        for linear, factor in zip(self._backbone(), dropout, strict=True):
            z = ACTIVATIONS[self.activation](linear(z))
            z = z if factor is None else z * factor
        return z

    @property
    def _drops(self) -> bool:
        """Whether hidden units are dropped."""
        return bool(self.backbone_layers and self.backbone_dropout and self.training)

    def _draw_bits(self, batch: int, steps: int, device: torch.device) -> Tensor:
        """The bits of all hidden units, (B, T, units and up to three more)."""
        return draw_bits((batch, steps, self.backbone_layers * self.backbone_units), device)

    def _draw_for_kernel(self, x: Tensor, by_step: bool) -> Tensor:
        """:meth:`_draw_bits` for x (B, T, C), in the order of :meth:`integrate` or of steps that are calls of it."""
        batch, steps, _ = x.shape
        if by_step:
            return self._draw_bits(steps, batch, x.device).transpose(0, 1)
        return self._draw_bits(batch, steps, x.device)

    def _dropout_factors(self, x: Tensor) -> list[list[Tensor | None]]:
        """Of each step and backbone layer 0 (B, U) where a unit is dropped, else 1 / (1 - rate); for x (T, B, C)."""
        steps, batch, _ = x.shape
        bits = self._draw_bits(batch, steps, x.device)[..., : self.backbone_layers * self.backbone_units]
        kept = keep_factors(bits, self._dropped, x.dtype)
        by_layer = kept.view(batch, steps, self.backbone_layers, self.backbone_units).permute(1, 2, 0, 3)
        return [list(step.unbind(0)) for step in by_layer.unbind(0)]

    def _solution(self, heads: Tensor, elapsed: Elapsed, pure: tuple[Tensor, Tensor] | None) -> Tensor:
        """The module's equations: from the heads of a group, side by side, to its new state (B, N)."""
        if pure is not None:
            w_tau, amplitude = pure
            return amplitude - amplitude * torch.exp(-elapsed * (w_tau + heads.abs())) * heads
        g, h, a, b = heads.chunk(4, 1)
        gate, g, h = torch.sigmoid(elapsed * a + b), torch.tanh(g), torch.tanh(h)
        return g + gate * h if self.mode == "no_gate" else torch.lerp(g, h, gate)

    def fused_cuda(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`; `kernels.cuda.cfc`."""
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
        if not self._kernel_calls_nothing() or not self._cuda_knows():
            return None
        from liquid_control.kernels.cuda import cfc, memory  # Triton is optional

        if not are_plain(*self._head_parameters(), *lstm):
            return None
        state, before = memory.open_memory(x, state, lstm)
        weight, bias = merge_gate(*self.all_heads(), elapsed)
        backbone = None
        if self.backbone_layers:
            (hidden,) = self._backbone()
            backbone = cfc.Backbone(hidden.weight, hidden.bias, self.activation)
        outcome = cfc.integrate(
            *(x, state, elapsed, advance, weight, bias, self._pure_parameters(), backbone, self.group_sizes, self.mode),
            before,
        )
        if outcome is None:
            return None
        states, state = outcome
        return self.fc(states[..., self.motor]), state

    def fused_cpu(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`; `kernels.cfc` or `kernels.cfc_dense`, in single and double precision."""
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
        if x.dtype not in (torch.float32, torch.float64):
            use_reference(f"the CfC kernels compute in float32 or float64, not in {x.dtype}")
            return None
        if not self._kernel_calls_nothing():
            return None
        from liquid_control.kernels import cfc  # Numba is optional

        if not cfc.is_covered(self.mode, self.activation):
            return None
        parameters = [*self._head_parameters(), *lstm]
        if self.circuit is None:
            from liquid_control.kernels import cfc_dense

            options, dense = self._dense_options, cfc_dense.integrate_with_memory if lstm else cfc_dense.integrate
            outcome = dense(
                lambda: cfc_dense.plan_of(options),
                lambda: (options, []),
                *(x, state, elapsed, mask, parameters),
                functools.partial(self._draw_for_kernel, x, bool(lstm)) if self._drops else None,
            )
        else:
            kernel = cfc.integrate_with_memory if lstm else cfc.integrate
            outcome = kernel(lambda: self._plan, self._description, x, state, elapsed, mask, parameters)
        if outcome is None:
            return None
        y, state = outcome
        if self.proj_size is not None:
            y = self.fc(y)
            if mask is not None:  # a bias has filled the zeros of padded steps
                y = torch.where(mask[..., None], y, y.new_zeros(()))
        return y, state

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """See :class:`LiquidLayer`."""
        from liquid_control.kernels import cfc, cfc_dense

        if not cfc.is_covered(self.mode, self.activation):
            return None
        projection = (self.fc.weight, self.fc.bias) if isinstance(self.fc, nn.Linear) else None
        parameters = self._head_parameters()
        if self.circuit is None:
            plan = cfc_dense.plan_of(self._dense_options)
            return cfc_dense.tick, (cfc_dense.step_numbers(plan, parameters, projection),)
        return cfc.tick, (cfc.step_numbers(self._plan, parameters, projection),)

    def _kernel_calls_nothing(self) -> bool:
        """Whether no linear map must be called; says so if one must."""
        if self._calls_linears:
            use_reference("a linear map of the CfC has hooks, and kernels do not call it")
        return not self._calls_linears

    def _cuda_knows(self) -> bool:
        """Whether the kernels on CUDA have this backbone, or none; says so if not."""
        if self.backbone_layers > 1:
            use_reference(f"the CfC kernels on CUDA take one backbone layer, not {self.backbone_layers}")
            return False
        if self._drops:
            use_reference("the CfC kernels on CUDA have no backbone dropout")
            return False
        return True

    @cached_property
    def _plan(self) -> CfCPlan:
        """Of the kernels of a wired layer on the CPU."""
        from liquid_control.kernels.cfc import plan_of

        return plan_of(self._plan_options, self.masks)

    def _description(self) -> tuple[str, list[Tensor]]:
        """What `kernels.cfc.plan_of` makes the plan of a wired layer of: options and masks."""
        return self._plan_options, [cell.sparsity_mask for cell in self.cells if cell.sparsity_mask is not None]

    def _head_parameters(self) -> list[Tensor]:
        """In the kernels' order: the backbone; of each group weight and bias of each head; in mode "pure" w_τ and A."""
        parameters = read_each(self._backbone(), WEIGHT_AND_BIAS)
        for cell in self.cells:
            parameters += read_each(cell.heads(), WEIGHT_AND_BIAS)
            if self.mode == "pure":
                parameters += read(cell, ("w_tau", "A"))
        return parameters

    def _backbone(self) -> list[nn.Linear]:
        backbone = self.cells[0].backbone  # of a dense layer, which has one cell
        return [] if backbone is None else cast(list[nn.Linear], list(backbone._modules.values()))

    def _pure_parameters(self) -> tuple[Tensor, Tensor] | None:
        """|w_τ| and A, each (1, S), in mode "pure"."""
        if self.mode != "pure":
            return None
        return torch.cat([cell.w_tau for cell in self.cells], 1).abs(), torch.cat([cell.A for cell in self.cells], 1)

    def all_heads(self) -> tuple[Tensor, Tensor]:
        """The heads g, h, a, b (or g alone in mode "pure") of all groups, as kernels and plastic synapses want them.

        Returns:
            weight (heads, S, C + S), zero where there is no synapse, or (heads, S, U) behind a backbone of U units, and
            bias (heads, S).
        """
        both = read_each([linear for cell in self.cells for linear in cell.heads()], WEIGHT_AND_BIAS)
        weights, biases = both[::2], both[1::2]
        if self.backbone_layers:
            return torch.stack(weights), torch.stack(biases)
        return self.lockstep.heads(weights, biases)

    def _masked(self, head: int) -> bool:
        """Whether the wiring's masks apply to a head, in the order g, h, a, b."""
        return head < 2 or not self.ncps_compat

    @property
    def neuron_count(self) -> int:
        """Neurons of the state, and those of a backbone."""
        return self.state_size + (self.backbone_units * self.backbone_layers)

    def parameter_count(self) -> int:
        """Parameters in use: weights that the masks take out are not counted."""
        unused = sum(
            int((cell.known_constant("sparsity_mask") == 0).sum())
            for cell in self.cells
            if isinstance(cell.sparsity_mask, Tensor)
            for head in range(len(cell.heads()))
            if self._masked(head)
        )
        return sum(parameter.numel() for parameter in self.parameters()) - unused

    @property
    def units(self) -> int | Circuit:
        """The circuit, or the number of neurons of a dense layer."""
        return self.state_size if self.circuit is None else self.circuit

    @property
    def config(self) -> dict[str, Any]:
        """See :class:`LiquidLayer`; a wired layer has no options of a backbone."""
        left_out = () if self.circuit is None else ("activation", *BACKBONE_OPTIONS)
        return {name: value for name, value in super().config.items() if name not in left_out}


def _masks(circuit: Circuit, ncps_compat: bool) -> list[np.ndarray]:
    """For each layer of the circuit the (neurons, inputs of the layer + neurons) 0/1 mask of its heads."""
    masks = []
    for index, layer in enumerate(circuit.layers):
        if index == 0:
            incoming = circuit.sensory_adjacency[:, layer]
        else:
            incoming = circuit.adjacency[np.ix_(circuit.layers[index - 1], layer)]
        if ncps_compat:
            within = np.ones((len(layer), len(layer)))
        else:
            within = circuit.adjacency[np.ix_(layer, layer)] + 2 * np.eye(len(layer))  # 2: never cancelled by a -1
        masks.append((np.concatenate([incoming, within]) != 0).T)
    return masks


def _refuse_backbone(activation: str, units: int | None, layers: int | None, dropout: float | None) -> None:
    given = zip(BACKBONE_OPTIONS, (units, layers, dropout), strict=True)
    names = [name for name, value in given if value is not None]
    if activation != "lecun_tanh":
        names.append("activation")
    if names:
        raise ValueError(f"a wired CfC has no backbone, so {', '.join(names)} cannot be set.")

"""The layers of this package under the names and signatures of `ncps.torch`, for code that was written against it.

>>> import liquid_control.nn.ncps_api as ncps_torch
>>> rnn = ncps_torch.LTC(8, 16, return_sequences=False)
>>> y, hx = rnn(torch.zeros(5, 3, 8))
>>> y.shape, hx.shape
(torch.Size([5, 16]), torch.Size([5, 16]))

Weights of the classes of the same name in ncps load as they are; those of the single-step cells are found under
``rnn_cell.`` here. What ncps gets wrong is right here (times of a batch, zero elapsed time, dtypes, empty sequences),
and its layers have more: see `liquid_control.nn.layer` for masks, flat states and steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import ncps.wirings
import torch
from torch import Tensor

import liquid_control.nn.cfc as cfc
import liquid_control.nn.ltc as ltc
from liquid_control.nn.layer import LiquidLayer
from liquid_control.nn.mixed_memory import MemoryCell, MixedMemory
from liquid_control.nn.wiring import Circuit, Wiring

if TYPE_CHECKING:
    from liquid_control.kernels.step import CompiledStep

__all__ = ["LTC", "CfC", "CfCCell", "LTCCell", "WiredCfCCell"]

Units: TypeAlias = int | Wiring | Circuit | ncps.wirings.Wiring
State: TypeAlias = Tensor | tuple[Tensor, Tensor]


class _Sequences(LiquidLayer):
    """ncps's way of calling a layer: order of axes, sequences without a batch, timespans, hx, mixed memory."""

    return_sequences: bool
    batch_first: bool
    _memory: Any
    lstm: MemoryCell | None

    def _call_as(self, return_sequences: bool, batch_first: bool, mixed_memory: bool) -> None:
        self.return_sequences, self.batch_first, self._remembers = return_sequences, batch_first, False
        memory = MixedMemory(self) if mixed_memory else None
        self.lstm = None if memory is None else memory.lstm
        # Not registered as a module: it holds this layer, and among ncps's names there is only its lstm.
        object.__setattr__(self, "_memory", memory)

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: State | None = None, timespans: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Runs a sequence.

        Args:
            input: (B, L, C), (L, B, C) if not ``batch_first``, or without a batch (L, C).
            hx: (B, H), with mixed memory a pair of them, without a batch (H,); None is zeros.
            timespans: time since the previous step, of the input's shape without C or with C = 1; None is 1.0.

        Returns:
            The outputs in the order of the input, only the last with ``return_sequences=False``, and the new hx.

        Raises:
            ValueError: if a shape does not fit.
            TypeError: if hx is no pair although there is mixed memory.
        """
        batched, across = input.dim() == 3, 0 if self.batch_first else 1
        if not batched:
            input = input.unsqueeze(across)
            timespans = None if timespans is None else timespans.unsqueeze(across)
        x, h, c = input.movedim(across, 0), *self._unpack_hx(hx, batched, input)
        elapsed = None if timespans is None else self._elapsed(timespans, input).movedim(across, 0)

        if not self.return_sequences and not x.shape[1]:
            raise ValueError("a sequence of no steps has no last output: return_sequences=True gives none.")
        if c is None:
            y, h = super().forward(x, h, elapsed)
        else:
            self._remembers = True
            try:
                y, state = self._memory(x, torch.cat([h, c], 1), elapsed)
            finally:
                self._remembers = False
            h, c = state.chunk(2, 1)
        y = y.movedim(0, across) if self.return_sequences else y[:, -1]
        if not batched:
            y, h, c = y.squeeze(across if self.return_sequences else 0), h[0], None if c is None else c[0]
        return y, h if c is None else (h, c)

    def _run(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; with mixed memory within the memory alone."""
        if self.lstm is not None and not self._remembers:
            raise self._without_memory()
        return super()._run(*arguments)

    def compile_step(self) -> CompiledStep:
        """See :class:`LiquidLayer`.

        Raises:
            TypeError: if there is mixed memory.
        """
        if self.lstm is not None:
            raise self._without_memory()
        return super().compile_step()

    def _without_memory(self) -> TypeError:
        return TypeError(
            "a layer of ncps with mixed memory is called as in ncps. For steps, masks and layers around it, "
            "take liquid_control.nn.MixedMemory of a layer of liquid_control.nn."
        )

    def _unpack_hx(self, hx: State | None, batched: bool, input: Tensor) -> tuple[Tensor, Tensor | None]:
        if hx is None:
            h = self.initial_state(input.shape[0 if self.batch_first else 1])
            return h, None if self.lstm is None else torch.zeros_like(h)
        if (self.lstm is not None) != isinstance(hx, tuple):
            expected = "one tensor" if self.lstm is None else "a pair (h, c), for there is mixed memory"
            raise TypeError(f"hx is a {type(hx).__name__}, expected {expected}.")
        h, c = hx if isinstance(hx, tuple) else (hx, None)
        if h.dim() != 1 + batched:
            raise ValueError(f"hx has shape {tuple(h.shape)}, expected {'(batch, units)' if batched else '(units,)'}.")
        return (h, c) if batched else (h[None], None if c is None else c[None])

    def _elapsed(self, timespans: Tensor, input: Tensor) -> Tensor:
        if timespans.dim() == 3:
            timespans = timespans.squeeze(2)
        try:
            return timespans.expand(input.shape[:2])
        except RuntimeError:
            raise ValueError(
                f"timespans have shape {tuple(timespans.shape)}, expected {tuple(input.shape[:2])}."
            ) from None


class CfC(_Sequences, cfc.CfC):
    """`ncps.torch.CfC`: closed-form continuous-time neurons.

    Args:
        input_size: number of inputs.
        units: number of neurons, or a wiring, which is built if it was not, but never a second time.
        proj_size: if given, outputs go through a linear map to this size.
        return_sequences: whether every output is returned or the last.
        batch_first: whether the batch is the first axis or the second.
        mixed_memory: whether an LSTM writes the state before each step.
        mode: "default", "pure" or "no_gate".
        activation: of the backbone.
        backbone_units: as in :class:`liquid_control.nn.CfC`, and so are the other two.
        backbone_layers: number of hidden layers.
        backbone_dropout: after each of them.
    """

    def __init__(
        self,
        input_size: int,
        units: Units,
        proj_size: int | None = None,
        return_sequences: bool = True,
        batch_first: bool = True,
        mixed_memory: bool = False,
        mode: str = "default",
        activation: str = "lecun_tanh",
        backbone_units: int | None = None,
        backbone_layers: int | None = None,
        backbone_dropout: float | None = None,
    ):
        super().__init__(
            input_size,
            _built(units, input_size),
            proj_size,
            mode=mode,
            activation=activation,
            backbone_units=backbone_units,
            backbone_layers=backbone_layers,
            backbone_dropout=backbone_dropout,
        )
        self._call_as(return_sequences, batch_first, mixed_memory)


class _Sizes(ltc.LTC):
    """What ncps's LTC classes tell of their size."""

    @property
    def sensory_size(self) -> int:
        """Number of inputs."""
        return self.input_size

    @property
    def motor_size(self) -> int:
        """Number of outputs."""
        return self.output_size

    @property
    def synapse_count(self) -> int:
        """Number of synapses between neurons."""
        return self.circuit.synapse_count

    @property
    def sensory_synapse_count(self) -> int:
        """Number of synapses from the inputs; ncps gives :attr:`synapse_count` here."""
        return self.circuit.sensory_synapse_count


class LTC(_Sequences, _Sizes):
    """`ncps.torch.LTC`: liquid time-constant neurons.

    Args:
        input_size: number of inputs.
        units: number of fully connected neurons, or a wiring, which is built if it was not, but never a second time.
        return_sequences: whether every output is returned or the last.
        batch_first: whether the batch is the first axis or the second.
        mixed_memory: whether an LSTM writes the state before each step.
        input_mapping: as in :class:`liquid_control.nn.LTC`, and so are the others.
        output_mapping: the same of each motor neuron.
        ode_unfolds: solver steps for each step of the sequence.
        epsilon: added to the denominator.
        implicit_param_constraints: whether softplus keeps the parameters positive.
    """

    def __init__(
        self,
        input_size: int,
        units: Units,
        return_sequences: bool = True,
        batch_first: bool = True,
        mixed_memory: bool = False,
        input_mapping: str | None = "affine",
        output_mapping: str | None = "affine",
        ode_unfolds: int = 6,
        epsilon: float = 1e-8,
        implicit_param_constraints: bool = True,
    ):
        super().__init__(
            input_size,
            _built(units, input_size),
            input_mapping=input_mapping,
            output_mapping=output_mapping,
            ode_unfolds=ode_unfolds,
            epsilon=epsilon,
            implicit_param_constraints=implicit_param_constraints,
        )
        self._call_as(return_sequences, batch_first, mixed_memory)

    def parameter_count(self) -> int:
        """See :class:`LiquidLayer`; those of the mixed memory count too."""
        memory = () if self.lstm is None else self.lstm.parameters()
        return super().parameter_count() + sum(parameter.numel() for parameter in memory)


class LTCCell(_Sizes):
    """`ncps.torch.LTCCell`: one step of :class:`LTC`; its constraints are explicit unless asked for otherwise.

    Args:
        wiring: of the neurons.
        in_features: number of inputs; None takes that of a wiring that is built.
        input_mapping: as in :class:`LTC`, and so are the others.
        output_mapping: the same of each motor neuron.
        ode_unfolds: solver steps.
        epsilon: added to the denominator.
        implicit_param_constraints: False: call :meth:`apply_weight_constraints` after each optimiser step.
    """

    def __init__(
        self,
        wiring: ncps.wirings.Wiring,
        in_features: int | None = None,
        input_mapping: str | None = "affine",
        output_mapping: str | None = "affine",
        ode_unfolds: int = 6,
        epsilon: float = 1e-8,
        implicit_param_constraints: bool = False,
    ):
        inputs = _inputs(wiring, in_features)
        super().__init__(
            inputs,
            _built(wiring, inputs),
            input_mapping=input_mapping,
            output_mapping=output_mapping,
            ode_unfolds=ode_unfolds,
            epsilon=epsilon,
            implicit_param_constraints=implicit_param_constraints,
        )

    def forward(  # type: ignore[override]
        self, inputs: Tensor, states: Tensor, elapsed_time: float | Tensor = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, C), states (B, H), a time or (B,) -> outputs (B, motor) and states (B, H)."""
        return self.step(inputs, states, elapsed_time)


class CfCCell(cfc.CfC):
    """`ncps.torch.CfCCell`: one step of a dense :class:`CfC`.

    Args:
        input_size: number of inputs.
        hidden_size: number of neurons.
        mode: "default", "pure" or "no_gate".
        backbone_activation: of the backbone.
        backbone_units: width of the backbone.
        backbone_layers: its number of hidden layers.
        backbone_dropout: after each of them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        mode: str = "default",
        backbone_activation: str = "lecun_tanh",
        backbone_units: int = 128,
        backbone_layers: int = 1,
        backbone_dropout: float = 0.0,
    ):
        super().__init__(
            input_size,
            hidden_size,
            mode=mode,
            activation=backbone_activation,
            backbone_units=backbone_units,
            backbone_layers=backbone_layers,
            backbone_dropout=backbone_dropout,
        )

    def forward(self, input: Tensor, hx: Tensor, ts: float | Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Input (B, C), hx (B, H), a time or (B,) -> the new hx, twice."""
        return self.step(input, hx, ts)


class WiredCfCCell(cfc.CfC):
    """`ncps.torch.WiredCfCCell`: one step of a wired :class:`CfC`.

    Args:
        input_size: number of inputs; None takes that of a wiring that is built.
        wiring: of the neurons.
        mode: "default", "pure" or "no_gate".
    """

    def __init__(self, input_size: int | None, wiring: ncps.wirings.Wiring, mode: str = "default"):
        inputs = _inputs(wiring, input_size)
        super().__init__(inputs, _built(wiring, inputs), mode=mode)

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: Tensor, timespans: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Input (B, C), hx (B, H), a time or (B,) -> outputs (B, motor) and hx (B, H)."""
        return self.step(input, hx, timespans)


def _built(units: Units, inputs: int) -> Units:
    """As ncps, builds a wiring that was not, so that its counts and its graph are there; never one that was."""
    if isinstance(units, ncps.wirings.Wiring) and not units.is_built():
        units.build(inputs)
    return units


def _inputs(wiring: Any, given: int | None) -> int:
    inputs = given if given is not None else getattr(wiring, "input_dim", None)
    if inputs is None:
        raise ValueError("the number of inputs is unknown: give it, or build the wiring first.")
    return int(inputs)

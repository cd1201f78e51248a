"""The contract of a liquid layer: a flat state, elapsed times, masks; whole sequences and single steps.

Every layer of this package keeps it, so that a driver, a policy or an experiment takes any of them by name.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from liquid_control.kernels import are_plain, is_operable, is_traced, kernel_device, reference_is_chosen
from liquid_control.kernels.step import CompiledStep, Tick, compile_step
from liquid_control.kernels.structure import Structured
from liquid_control.nn.parameters import find_parameter, is_hooked, settle
from liquid_control.nn.wiring import Circuit

Elapsed = float | Tensor
"""As :meth:`LiquidLayer.integrate` sees it: one positive number for all, or positive (T, B)."""
ALIKE = 64
"""Steps from which on it pays to merge weights for a time that all of them have."""


class LiquidLayer(Structured, ABC):
    """Base of every layer: checks and normalises what is given, so that a cell only writes its mathematics.

    B is the batch, T the number of steps, C ``input_size``, S ``state_size``, O ``output_size``.

    A layer tells the parts of its state to this constructor, and keeps each argument of its own constructor as an
    attribute; :meth:`unpack` and :attr:`config` follow from that.

    Args:
        input_size: number of inputs.
        parts: of the state, by name and in their order: how many numbers it has, which come next, or their places.
        output_size: number of outputs.
        learn_initial_state: whether the initial state is a parameter.

    Attributes:
        input_size: number of inputs, C.
        state_size: width of the flat state, S; 0 of a layer without memory.
        output_size: number of outputs, O.
        parts: the places in the state of each of its parts.
        name: the layer's name in :func:`liquid_control.nn.build_layer`.
        kept_as: the attributes of those arguments that are not kept under their own names.
        time_driven: whether the state evolves with elapsed time. Then a step of zero elapsed time leaves it as it is.
    """

    name: ClassVar[str]
    kept_as: ClassVar[Mapping[str, str]] = {}
    time_driven: bool = True

    def __init__(
        self,
        input_size: int,
        parts: Mapping[str, int | Sequence[int]],
        output_size: int,
        learn_initial_state: bool = False,
    ):
        super().__init__()
        state_size = sum(part if isinstance(part, int) else len(part) for part in parts.values())
        for what, size, least in (
            ("input_size", input_size, 1),
            ("state_size", state_size, 0),
            ("output_size", output_size, 1),
        ):
            if size < least:
                raise ValueError(f"{what} must be at least {least}, given {size}.")
        self.input_size, self.state_size, self.output_size = input_size, state_size, output_size
        self.parts: dict[str, Sequence[int]] = {}
        begin = 0
        for part, places in parts.items():
            self.parts[part] = range(begin, begin + places) if isinstance(places, int) else places
            begin += len(self.parts[part])
        self.learned_initial_state = nn.Parameter(torch.zeros(state_size)) if learn_initial_state else None
        self.register_load_state_dict_post_hook(_restore_constants)

    def forward(
        self,
        x: Tensor,
        state: Tensor | None = None,
        elapsed: float | Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs a whole sequence.

        Args:
            x: (B, T, C) inputs.
            state: (B, S) state before the first step; None is :meth:`initial_state`.
            elapsed: time since the previous step, in the layer's own unit: None (1.0), a number, (T,) or (B, T). Zero
                lets no time pass: a layer that evolves in time keeps its state.
            mask: (B, T) bool, True where the step is real. A padded step leaves the state as it was and yields zeros;
                its input and elapsed time don't matter.

        Returns:
            y (B, T, O) and the state (B, S) after the last step.

        Raises:
            ValueError: if a shape does not fit, or an elapsed time is negative or not finite.
            TypeError: if dtypes don't fit.
        """
        _refuse_what_is_no_tensor(x, state)
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, time, {self.input_size}).")
        batch, time, _ = x.shape
        if mask is not None:
            if mask.dtype != torch.bool:
                raise TypeError(f"mask has dtype {mask.dtype}, expected torch.bool (True where a step is real).")
            if mask.shape != (batch, time):
                raise ValueError(f"mask has shape {tuple(mask.shape)}, expected (batch, time) = ({batch}, {time}).")
            # The fast path of a whole batch without padding is worth one look at the mask.
            mask = None if is_readable(mask) and bool(mask.all()) else mask
        elapsed, passes = self._per_step(elapsed, x, mask)
        return self._run(x, state, elapsed, mask, passes)

    def step(
        self, x: Tensor, state: Tensor | None = None, elapsed: float | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs one step.

        Args:
            x: (B, C) inputs.
            state: (B, S) state before the step; None is :meth:`initial_state`.
            elapsed: time since the previous step: None (1.0), a number, or (B,).

        Returns:
            y (B, O) and the state (B, S) after the step.

        Raises:
            ValueError: if a shape does not fit, or an elapsed time is negative or not finite.
            TypeError: if dtypes don't fit.
        """
        settle([self], called=True)  # what a call does
        _refuse_what_is_no_tensor(x, state)
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.input_size}).")
        if isinstance(elapsed, Tensor) and elapsed.dim():
            if elapsed.shape != x.shape[:1]:
                raise ValueError(
                    f"elapsed has shape {tuple(elapsed.shape)}, expected a number or (batch,) = ({len(x)},)."
                )
            elapsed = elapsed[:, None]
        elapsed, passes = self._per_step(elapsed, x[:, None], None)
        y, state = self._run(x[:, None], state, elapsed, None, passes)
        return y[:, 0], state

    def initial_state(self, batch: int) -> Tensor:
        """The state (batch, S) before the first step: zeros or the learned one, in the parameters' dtype."""
        settle([self], called=True)
        if self.learned_initial_state is not None:
            return self.learned_initial_state.expand(batch, -1)
        parameter = find_parameter(self)
        return torch.zeros(batch, self.state_size, dtype=parameter.dtype, device=parameter.device)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """The named parts (B, ·) of a state (B, S), for people who look inside."""
        return {
            name: state[:, places.start : places.stop] if isinstance(places, range) else state[:, list(places)]
            for name, places in self.parts.items()
        }

    @abstractmethod
    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """The cell itself, over a whole sequence, time first; its arguments have been checked. The reference form.

        Args:
            x: (T, B, C) with T ≥ 1, finite at padded steps.
            state: (B, S).
            elapsed: positive: a number, or (T, B).
            advance: (T, B) bool, or None for always: False where the step must leave the state as it is.

        Returns:
            y (T, B, O), at steps that don't advance that of the state as it is, and the final state (B, S).
        """

    def fused_cpu(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """What :meth:`forward` gives, from a kernel of `liquid_control.kernels`; None where none covers the case.

        Such a kernel looks after padding and steps without time itself: torch operations around it, and their backward,
        would take up to a quarter of a pass.

        Args:
            x: (B, T, C) with T ≥ 1; padded steps may hold anything, NaN too.
            state: (B, S).
            elapsed: a number ≥ 0, or (B, T), ≥ 0 at real steps.
            mask: (B, T) or None.
        """
        return None

    def fused_cpu_with_memory(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None, lstm: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """What a :class:`~liquid_control.nn.MixedMemory` of this layer gives, as :meth:`fused_cpu`.

        Args:
            x: as there.
            state: (B, 2 S), that of the memory after the layer's own.
            elapsed: as there.
            mask: as there.
            lstm: its parameters: weight (4 S, C) and bias (4 S,) of the inputs, and weight (4 S, S) of the state.
        """
        return None

    def fused_cuda(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """What :meth:`integrate` gives, from a kernel of `kernels.cuda`; None where none covers the case."""
        return None

    def fused_cuda_with_memory(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None, lstm: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """What a :class:`~liquid_control.nn.MixedMemory` of this layer gives, as :meth:`fused_cuda`.

        Arguments are those of :meth:`fused_cuda`, with the state and the LSTM of :meth:`fused_cpu_with_memory`.
        """
        return None

    def follow_modules(self) -> None:
        """Takes note of what was done to modules inside since the last call: hooks, masks, other modules."""

    def compile_step(self) -> CompiledStep:
        """One tick without torch's overhead, NumPy in and out, that carries its state; see :class:`CompiledStep`.

        The weights are a snapshot: training the layer further does not change it.

        Raises:
            TypeError: if the parameters are neither float32 nor float64.
        """
        layer = copy.deepcopy(self).cpu().requires_grad_(False).eval()
        layer.follow_modules()
        return compile_step(layer)

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """The kernel of :meth:`compile_step` and its arrays, copies of the weights; None where there is none."""
        return None

    def step_kernel_inside(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """:meth:`step_kernel` for a layer around this one; none where it has hooks, which only a call runs."""
        if is_hooked(self):
            return None
        settle([self], called=True)
        self.follow_modules()
        return self.unhooked_step_kernel()

    def unhooked_step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """:meth:`step_kernel`; none where a module inside has hooks, which only a call runs."""
        hooked = any(is_hooked(module) for module in self.modules() if module is not self)
        return None if hooked else self.step_kernel()

    @property
    @abstractmethod
    def neuron_count(self) -> int:
        """Number of units that compute a non-linear function; inputs and linear readouts are not counted."""

    def parameter_count(self) -> int:
        """Number of parameters in use: a synapse that the wiring leaves out is not counted."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def learn_initial_state(self) -> bool:
        """Whether the initial state is a parameter."""
        return self.learned_initial_state is not None

    @property
    def config(self) -> dict[str, Any]:
        """JSON values from which :func:`liquid_control.nn.build_layer` builds this layer again, weights aside.

        They are the arguments of the constructor of the class that has the layer's name, as its attributes tell them.
        """
        named = next(kind for kind in type(self).__mro__ if "name" in vars(kind))
        return {"layer": self.name} | {
            argument: _as_json(attrgetter(self.kept_as.get(argument, argument))(self))
            for argument in inspect.signature(named).parameters
        }

    def extra_repr(self) -> str:
        """One line about the layer."""
        return (
            f"{self.input_size} → {self.output_size}, state {self.state_size}, {self.neuron_count} neurons, "
            f"{self.parameter_count():,} parameters in use"
        )

    def _run(
        self, x: Tensor, state: Tensor | None, elapsed: Elapsed, mask: Tensor | None, passes: bool = False
    ) -> tuple[Tensor, Tensor]:
        """From checked arguments to y (B, T, O) and state (B, S).

        Args:
            x: (B, T, C).
            state: (B, S) or None.
            elapsed: a number or (B, T).
            mask: (B, T) or None.
            passes: whether it is known already that time passes in every step.
        """
        batch, time, _ = x.shape
        if state is None:
            state = self.initial_state(batch)
        elif state.shape != (batch, self.state_size):
            raise ValueError(
                f"state has shape {tuple(state.shape)}, expected (batch, state_size) = ({batch}, {self.state_size})."
            )
        if torch.is_autocast_enabled(x.device.type):
            # A state accumulates rounding errors, so the recurrence keeps the parameters' precision under autocast.
            with torch.autocast(x.device.type, enabled=False):
                dtype = self.initial_state(1).dtype
                return self._run(x.to(dtype), state.to(dtype), elapsed, mask, passes)
        if not torch.compiler.is_compiling():
            self.follow_modules()
        if x.dtype != state.dtype:
            raise TypeError(f"x is {x.dtype}, the state {state.dtype}: convert one, or the layer with layer.to(dtype).")
        if time == 0:
            return x.new_zeros(batch, 0, self.output_size), state

        device = kernel_device(x, state, elapsed, mask)
        fused = device == "cpu" or (not reference_is_chosen() and is_operable(x, state, elapsed, mask))
        if fused and (outcome := self.fused_cpu(x, state, elapsed, mask)) is not None:
            return outcome
        x, mask = x.transpose(0, 1), None if mask is None else mask.T
        elapsed = elapsed.T if isinstance(elapsed, Tensor) else elapsed
        elapsed, advance = (elapsed, mask) if passes else self._advance(elapsed, mask, (time, batch))
        if mask is not None and not (is_readable(x) and math.isfinite(x.detach().sum().item())):
            # Padding may hold anything, NaN too, whose gradient would survive a later where(). The sum is a quick look.
            x = torch.where(mask[..., None], x, 0)
        outcome = self.fused_cuda(x, state, elapsed, advance) if device == "cuda" else None
        y, state = outcome or self.integrate(x, state, elapsed, advance)
        if mask is not None:
            y = torch.where(mask[..., None], y, y.new_zeros(()))  # a zero of another type would cost a conversion
        return y.transpose(0, 1), state

    def run_inside(self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """:meth:`forward` for a layer around this one, which has checked what it gives; elapsed a number or (B, T)."""
        if is_hooked(self):
            return cast(tuple[Tensor, Tensor], self(x, state, elapsed, mask))
        settle([self], called=True)
        return self._run(x, state, elapsed, mask)

    def _per_step(self, elapsed: float | Tensor | None, x: Tensor, mask: Tensor | None) -> tuple[Elapsed, bool]:
        """Elapsed as a number or (B, T), checked, and whether all are > 0; for x (B, T, C) and mask (B, T).

        Times that are all alike are one number, for which kernels have a shorter form.
        """
        batch, time, _ = x.shape
        if elapsed is None:
            return 1.0, True
        if not isinstance(elapsed, Tensor):
            if not 0 <= elapsed < math.inf:
                raise ValueError(f"elapsed is {elapsed}, expected a finite time ≥ 0.")
            return float(elapsed), elapsed > 0
        if elapsed.shape not in ((), (time,), (batch, time)):
            raise ValueError(
                f"elapsed has shape {tuple(elapsed.shape)}, expected a number, (time,) = ({time},) or (batch, time) = "
                f"({batch}, {time})."
            )
        # Under autocast features may be of half precision, times are not: 70,000 would be infinite.
        dtype = self.initial_state(1).dtype if torch.is_autocast_enabled(x.device.type) else x.dtype
        elapsed = elapsed.to(x.device, dtype).expand(batch, time)
        if not is_readable(elapsed):  # a traced graph cannot raise on values
            return elapsed, False
        low, high = (value.item() for value in elapsed.detach().aminmax()) if elapsed.numel() else (1.0, 1.0)
        if not (low >= 0 and high < math.inf):
            wrong = ~(torch.isfinite(elapsed) & (elapsed >= 0))
            if mask is not None:
                wrong &= mask
            if wrong.any():
                row, step = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"elapsed is {elapsed[row, step].item()} at batch row {row}, step {step}, "
                    "expected a finite time ≥ 0."
                )
        if 0 < low == high < math.inf and elapsed.numel() >= ALIKE and not elapsed.requires_grad:
            return low, True
        return elapsed, low > 0 and high < math.inf

    def _advance(self, elapsed: Elapsed, mask: Tensor | None, shape: tuple[int, int]) -> tuple[Elapsed, Tensor | None]:
        """A positive elapsed and where the state advances: at real steps, and if time drives it, where time passes.

        Of elapsed times and mask (T, B), as :meth:`integrate` takes them.
        """
        if not self.time_driven:
            if mask is not None and isinstance(elapsed, Tensor):
                elapsed = torch.where(mask, elapsed, 0)  # padding may hold anything
            return elapsed, mask
        if isinstance(elapsed, float):
            if elapsed > 0:
                return elapsed, mask
            return 1.0, torch.zeros(shape, dtype=torch.bool, device=find_parameter(self).device)
        advance = elapsed > 0 if mask is None else (elapsed > 0) & mask
        # Any positive number will do where the result is not used; zero would divide by zero there.
        return torch.where(advance, elapsed, 1), advance


def _restore_constants(layer: LiquidLayer, _: object) -> None:
    """After ``load_state_dict(…, assign=True)`` of a layer on the meta device, which moves only what was loaded."""
    device = find_parameter(layer).device
    for module in layer.modules():
        if isinstance(module, Structured):
            module.restore_constants(device)


def _as_json(value: Any) -> Any:
    """An argument of a layer as the JSON value that stands for it in a config."""
    if isinstance(value, Circuit):
        return value.to_json()
    if isinstance(value, LiquidLayer):
        return value.config
    if isinstance(value, nn.ModuleList):
        return [_as_json(entry) for entry in value]
    return value


def _refuse_what_is_no_tensor(x: Any, state: Any) -> None:
    if isinstance(x, PackedSequence):
        raise ValueError(
            "x is a PackedSequence: pad it (x, lengths = torch.nn.utils.rnn.pad_packed_sequence(x, batch_first=True)) "
            "and give mask=liquid_control.nn.mask_from_lengths(lengths), True where a step is real."
        )
    for name, given in (("x", x), ("state", state)):
        if given is not None and not isinstance(given, Tensor):
            raise TypeError(
                f"{name} is a {type(given).__name__}, expected one tensor: torch.as_tensor of an array, or "
                "torch.cat(…, -1) of several states."
            )


def is_readable(values: Tensor) -> bool:
    """Whether Python may look at the values of a tensor."""
    return not is_traced() and are_plain(values)


def by_step(elapsed: Elapsed, advance: Tensor | None, steps: int) -> list[tuple[Elapsed, Tensor | None]]:
    """Of each step how long it is and where it advances, each (B, 1); or one number, and None where everything does.

    Args:
        elapsed: a number or (T, B).
        advance: (T, B), or None for always.
        steps: T.
    """
    spans: list[Elapsed] = [elapsed] * steps
    if isinstance(elapsed, Tensor):
        spans = list(elapsed[..., None].unbind(0))
    return list(zip(spans, per_tick(None if advance is None else advance[..., None], steps), strict=True))


def in_front(advance: Tensor) -> tuple[Tensor, Tensor]:
    """Where steps go if those that advance move to the front, in their order, so that no window reaches over the rest.

    By counting, since ONNX has no stable sort.

    Args:
        advance: (T, B) bool.

    Returns:
        Of each step how many have advanced with it, and its new place from 0 on, both (T, B).
    """
    count = advance.cumsum(0)
    return count, torch.where(advance, count, count[-1] + (~advance).cumsum(0)) - 1


def per_tick(advance: Tensor | None, ticks: int) -> list[Tensor | None]:
    """Splits ``advance`` (T, B, …) into what each tick must hold back: None where everything advances."""
    if advance is None:
        return [None] * ticks
    parts = list(advance.unbind(0))
    if not is_readable(advance):
        return list(parts)
    everything = advance.flatten(1).all(1).tolist()
    return [None if whole else part for whole, part in zip(everything, parts, strict=True)]

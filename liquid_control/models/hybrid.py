"""A transformer with a liquid core, for series whose steps come at any moment: attention looks back, the core goes on.

:class:`TransformerLNN` reads from top to bottom as

    x = W_in inputs
    for each block:  a = attention(norm(x)),  x ← x + a + W core(norm(norm(x) + a)),  x ← x + SwiGLU(norm(x))
    outputs = W_out norm(x)

Attention and core are both told how much time has passed since the step before, and never what time it is. What is
carried from step to step is one object, :class:`HybridState`: the last keys and values, and the state of the cores. So
a series can be read at once, in pieces, or step by step as it comes in, in constant memory and with the same outputs.

The architecture set out as a prototype (`SolaceHarmony/xLSTM-Metal`): one attention that saw the future, and a cell
whose gate σ(-f t) had the number of the step for t, so that after some fifteen steps it was shut for good. Its
equations are there as ``equations="prototype"``, to compare with.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from liquid_control.nn import (
    LAYERS,
    Bidirectional,
    HybridMixer,
    LiquidLayer,
    ResidualBlock,
    Stack,
    TimedAttention,
    build_layer,
    last_valid,
)
from liquid_control.nn.hybrid import RMSNorm
from liquid_control.nn.layer import is_readable
from liquid_control.support.errors import nearest

CORES = tuple(name for name, kind in LAYERS.items() if "units" in list(inspect.signature(kind).parameters)[:2])
"""Layers that are cores by their name alone: those that take a number of units."""


@dataclass(frozen=True)
class HybridState:
    """All that a :class:`TransformerLNN` carries from step to step, of B sequences. Its size does not grow.

    A state belongs to the weights that made it.
    """

    layers: Tensor
    """(B, S): of each block the last keys and values with their ages, and the state of its core."""
    time: Tensor
    """(B,) float64: when the last real step was, -inf before the first."""

    @property
    def bytes_per_sequence(self) -> int:
        """Bytes of the state of one sequence."""
        return sum(part[0].numel() * part.element_size() for part in (self.layers, self.time))

    def detach(self) -> HybridState:
        """The same numbers, of which no gradient goes further back."""
        return HybridState(self.layers.detach(), self.time.detach())

    def rows(self, places: Tensor | slice) -> HybridState:
        """The states of some of the sequences, or of one several times."""
        return HybridState(self.layers[places], self.time[places])


class TransformerLNN(nn.Module):
    """A transformer with a liquid core in each block.

    B is the batch, T the number of steps, C ``input_size``, O ``output_size``.

    Args:
        input_size: number of inputs of a step, C.
        hidden_size: numbers that stand for a step inside, a multiple of 2 · ``num_heads``.
        num_heads: of the attention.
        dropout: share of what a part adds that is left out in training. Of the prototype: of attention weights.
        output_size: number of outputs, O; None is ``input_size``.
        core: the name of a layer of :data:`CORES`, which gets ``hidden_size`` units; or a layer of as many inputs, of
            which further blocks have copies with weights of their own. None takes the core out: what is left is a
            transformer that knows the times.
        layers: number of blocks.
        window: how many steps a step attends to, itself included.
        expansion: width of the feed-forward part of a block, in hidden sizes; 0 leaves it out.
        time_unit: the unit in which the network feels time, in units of ``times``: the usual gap between steps, say.
        causal: whether a step sees only itself and those before it. Else each block runs in both directions, and needs
            whole sequences.
        answer: "steps" for outputs (B, T, O), or "last" for those of the last real step alone, (B, O): one answer to a
            sequence, as in classification.
        batch_first: whether the batch is the first dimension of inputs, times, mask and outputs. Else time is.
        equations: "elapsed", or "prototype": the prototype's own, which take none of the options from ``core`` to
            ``causal``. Its weights load; its parameters ``tau`` and ``A``, which it never used, are left out.

    Raises:
        ValueError: if a number is out of range, there is no such core, or an option does not go with the prototype.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_heads: int = 4,
        dropout: float = 0.1,
        *,
        output_size: int | None = None,
        core: str | LiquidLayer | None = "cfc",
        layers: int = 1,
        window: int = 128,
        expansion: float = 7 / 3,
        time_unit: float = 1.0,
        causal: bool = True,
        answer: Literal["steps", "last"] = "steps",
        batch_first: bool = True,
        equations: Literal["elapsed", "prototype"] = "elapsed",
    ):
        super().__init__()
        output_size = input_size if output_size is None else output_size
        for what, size in (("input_size", input_size), ("output_size", output_size), ("layers", layers)):
            if size < 1:
                raise ValueError(f"{what} must be at least 1, given {size}.")
        if not 0 < time_unit < math.inf:
            raise ValueError(f"time_unit must be positive and finite, given {time_unit}.")
        for what, value, known in (
            ("answer", answer, ("steps", "last")),
            ("equations", equations, ("elapsed", "prototype")),
        ):
            if value not in known:
                raise ValueError(f"{what} is {value!r}, expected one of {known}.")
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self.time_unit, self.causal, self.answer, self.batch_first = time_unit, causal, answer, batch_first
        self.equations = equations
        self.input_proj = nn.Linear(input_size, hidden_size)
        self.output_proj = nn.Linear(hidden_size, output_size)
        if equations == "prototype":
            _refuse_options(
                core=core, layers=layers, window=window, expansion=expansion, time_unit=time_unit, causal=causal
            )
            self.attention = nn.MultiheadAttention(hidden_size, num_heads, dropout=dropout, batch_first=True)
            self.ltc = PrototypeCell(hidden_size)
            self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
            return

        def mixer(first: bool) -> LiquidLayer:
            if core is None:
                return TimedAttention(hidden_size, hidden_size, heads=num_heads, window=window)
            built = _core(core, hidden_size) if isinstance(core, str) else core if first else build_layer(core.config)
            return HybridMixer(hidden_size, built, heads=num_heads, window=window)

        blocks = []
        for place in range(layers):
            mixed = mixer(place == 0)
            mixed = mixed if causal else Bidirectional(mixed, mixer(False))
            blocks.append(ResidualBlock(mixed, expansion=expansion, dropout=dropout))
        self.blocks = Stack(blocks)
        self.norm = RMSNorm(hidden_size)

    def forward(self, x: Tensor, times: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Answers whole sequences.

        Args:
            x: (B, T, C) inputs.
            times: when each step is, (T,) or (B, T), in any unit and from any origin; None numbers the real steps.
                Steps may be at the same time; then none passes, and the later ones are not remembered.
            mask: (B, T) bool, True where a step is real; None is everywhere. What padding holds does not matter, its
                output is zero. For the prototype it is the mask of its attention instead, (T, T), True where a query
                may not look, or numbers that are added to the scores.

        Returns:
            (B, T, O), or (B, O) where one answer is asked for.

        Raises:
            ValueError: if a shape does not fit, or times go backwards or are not finite; the place is named.
            TypeError: if the mask is of another type.
        """
        if self.equations == "prototype":
            return self._answer(self._prototype(*self._batch_first(x, times), mask), None)
        return self._read(x, times, mask, None)[0]

    def read(
        self, x: Tensor, times: Tensor | None = None, mask: Tensor | None = None, state: HybridState | None = None
    ) -> tuple[Tensor, HybridState]:
        """Goes on with sequences: as :meth:`forward`, with the state before the first step and after the last.

        Args:
            x: (B, T, C).
            times: as in :meth:`forward`; not before that of the last step that was read.
            mask: (B, T) bool.
            state: None is :meth:`initial_state`.

        Raises:
            ValueError: see :meth:`forward`.
            TypeError: if the mask is of another type, or the network looks ahead and so needs whole sequences.
        """
        self._refuse_what_looks_ahead()
        return self._read(x, times, mask, state)

    def step(
        self, x: Tensor, time: Tensor | float | None = None, state: HybridState | None = None
    ) -> tuple[Tensor, HybridState]:
        """One step of each sequence.

        Args:
            x: (B, C).
            time: when it is, a number or (B,); None is one later than the last.
            state: None is :meth:`initial_state`.

        Returns:
            (B, O), and the state after the step.

        Raises:
            ValueError: see :meth:`forward`.
            TypeError: if the network looks ahead.
        """
        if x.dim() != 2:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.input_size}).")
        if time is not None:
            time = torch.as_tensor(time, dtype=torch.float64, device=x.device)
            if time.shape not in ((), x.shape[:1]):
                raise ValueError(f"time has shape {tuple(time.shape)}, expected a number or (batch,) = ({len(x)},).")
            time = time.expand(len(x))
        along = 1 if self.batch_first else 0
        y, state = self.read(x.unsqueeze(along), None if time is None else time.unsqueeze(along), None, state)
        return y if self.answer == "last" else y.squeeze(along), state

    def initial_state(self, batch: int) -> HybridState:
        """The state of ``batch`` sequences of which nothing has been read.

        Raises:
            TypeError: if the network looks ahead.
        """
        self._refuse_what_looks_ahead()
        return self._fresh(batch)

    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _read(
        self, x: Tensor, times: Tensor | None, mask: Tensor | None, state: HybridState | None
    ) -> tuple[Tensor, HybridState]:
        x, times = self._batch_first(x, times)
        if isinstance(mask, Tensor) and not self.batch_first and mask.dim() == 2:
            mask = mask.T
        _check_mask(mask, x)
        state = self._fresh(len(x)) if state is None else state
        if state.time.shape != x.shape[:1]:
            raise ValueError(f"the state is of {len(state.time)} sequences, the inputs are of {len(x)}.")
        elapsed, now = self._elapsed(x, times, mask, state.time)
        if mask is not None:
            x = torch.where(mask[..., None], x, 0)  # a gradient of zero times NaN would be NaN
        h, layers = self.blocks(self.input_proj(x), state.layers, elapsed, mask)
        y = self.output_proj(self.norm(h))
        y = y if mask is None else torch.where(mask[..., None], y, 0)
        return self._answer(y, mask), HybridState(layers, now)

    def _elapsed(self, x: Tensor, times: Tensor | None, mask: Tensor | None, last: Tensor) -> tuple[Tensor, Tensor]:
        """From times to what has passed since the real step before, (B, T) in time units, and when the last one was.

        Before the first step of all, one unit has passed. Differences are taken in double precision, so a clock that
        began long ago loses nothing.
        """
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        if times is None:
            began = torch.where(last == -math.inf, 0, last + 1)
            times = began[:, None] + real.double().cumsum(1) - 1
        times = times.to(x.device, torch.float64).expand(x.shape[:2])
        seen = torch.cat([last[:, None], torch.where(real, times, -math.inf)], 1).cummax(1).values
        before, now = seen[:, :-1], seen[:, -1]
        passed = torch.where(real & (before > -math.inf), (times - before) / self.time_unit, 1)
        if is_readable(times):
            _check_times(times, before, real)
        return passed.to(x.dtype), now

    def _prototype(self, x: Tensor, times: Tensor | None, mask: Tensor | None) -> Tensor:
        """The prototype: attention, then the cell, step by step, at absolute times."""
        batch, steps, _ = x.shape
        if mask is not None:
            if not (mask.dtype == torch.bool or mask.is_floating_point()):
                raise TypeError(f"mask has dtype {mask.dtype}, expected torch.bool or floating point.")
            if mask.shape != (steps, steps):
                raise ValueError(
                    f"mask has shape {tuple(mask.shape)}, expected (time, time) = ({steps}, {steps}): the prototype's "
                    "mask is that of its attention."
                )
        times = torch.arange(steps, device=x.device) if times is None else times
        times = times.to(x.device, torch.float64).expand(batch, steps)
        if is_readable(times):
            first = torch.cat([times[:, :1], times[:, :-1]], 1)
            _check_times(times, first, torch.ones_like(times, dtype=torch.bool))
        h = self.input_proj(x)
        if not steps:
            return self.output_proj(h)
        h = self.norm1(h + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0])
        state, outputs = torch.zeros_like(h[:, 0]), []
        for given, time in zip(h.unbind(1), times.to(x.dtype).unbind(1), strict=True):
            state = self.ltc(given, state, time)
            outputs.append(state)
        y: Tensor = self.output_proj(self.norm2(torch.stack(outputs, 1) + h))
        return y

    def _batch_first(self, x: Tensor, times: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Inputs (B, T, C) and times (T,) or (B, T), checked for their shapes."""
        shape = ("batch, time" if self.batch_first else "time, batch") + f", {self.input_size}"
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected ({shape}).")
        if times is not None:
            steps = x.shape[1 if self.batch_first else 0]
            if times.is_complex() or times.dtype == torch.bool:
                raise TypeError(f"times are {times.dtype}, expected real numbers.")
            if times.shape not in ((steps,), x.shape[:2]):
                raise ValueError(
                    f"times have shape {tuple(times.shape)}, expected ({steps},) or {tuple(x.shape[:2])} as the inputs."
                )
        if self.batch_first:
            return x, times
        return x.transpose(0, 1), times.T if times is not None and times.dim() == 2 else times

    def _answer(self, y: Tensor, mask: Tensor | None) -> Tensor:
        """What of (B, T, O) is asked for."""
        if self.answer == "steps":
            return y if self.batch_first else y.transpose(0, 1)
        return last_valid(y, mask)

    def _fresh(self, batch: int) -> HybridState:
        layers = self.blocks.initial_state(batch)
        time = torch.full((batch,), -math.inf, dtype=torch.float64, device=layers.device)
        return HybridState(layers, time)

    def _refuse_what_looks_ahead(self) -> None:
        if self.equations == "prototype" or not self.causal:
            raise TypeError("a network that looks ahead has no state to go on from: call it with whole sequences.")


class PrototypeCell(nn.Module):
    """The cell of the prototype, at the absolute time t:

        φ = W₂ tanh(W₁ [x, h] + b₁) + b₂,    gate = σ(-σ(W_f φ + b_f) t)
        h ← gate ∘ (W_g φ + b_g) + (1 - gate) ∘ (W_h φ + b_h)

    It has the form of the closed form of Hasani et al. 2022, equation 10; but t there is the time since the last step.

    Args:
        size: of input and state.
    """

    def __init__(self, size: int):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2 * size, size), nn.Tanh(), nn.Linear(size, size))
        self.time_net, self.state_net_g, self.state_net_h = (nn.Linear(size, size) for _ in range(3))
        self.register_load_state_dict_pre_hook(_leave_out_unused)

    def forward(self, x: Tensor, h: Tensor, time: Tensor) -> Tensor:
        """The state (B, U) after an input (B, U) at a time (B,)."""
        features = self.backbone(torch.cat([x, h], -1))
        gate = torch.sigmoid(-torch.sigmoid(self.time_net(features)) * time[:, None])
        moved: Tensor = gate * self.state_net_g(features) + (1 - gate) * self.state_net_h(features)
        return moved


def _leave_out_unused(_: nn.Module, tensors: dict[str, Any], prefix: str, *__: object) -> None:
    """The prototype's weights hold two parameters that no equation of it has."""
    for name in ("tau", "A"):
        tensors.pop(prefix + name, None)


def _core(name: str, size: int) -> LiquidLayer:
    if name not in CORES:
        given = "give the layer itself. " if name in LAYERS else ""
        raise ValueError(f"no core {name!r}: {given}{nearest(name, CORES)}")
    return LAYERS[name](size, size)  # type: ignore[call-arg, arg-type]


def _refuse_options(**given: Any) -> None:
    """Options that the prototype does not have must be left alone."""
    known = inspect.signature(TransformerLNN).parameters
    for name, value in given.items():
        if value != known[name].default:
            raise ValueError(f"the equations of the prototype have no {name}: leave it out.")


def _check_mask(mask: Tensor | None, x: Tensor) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = f"dtype {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask is of {given}, expected a tensor of torch.bool, True where a step is real.")
    if mask.shape != x.shape[:2]:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, expected one entry a step, {tuple(x.shape[:2])} with the batch "
            "first. What a step may attend to needs no mask: it is what came before it."
        )


def _check_times(times: Tensor, before: Tensor, real: Tensor) -> None:
    """Times (B, T) where steps are real must be finite, and not before that of the real step before."""
    finite = torch.isfinite(times)
    wrong = real & ~(finite & (times >= before))
    if wrong.any():
        row, step = wrong.nonzero()[0].tolist()
        time = times[row, step].item()
        if not finite[row, step]:
            raise ValueError(f"the time of batch row {row}, step {step} is {time}, expected a finite one.")
        raise ValueError(
            f"times go backwards: batch row {row}, step {step} is at {time}, the one before at "
            f"{before[row, step].item()}. Sort the steps by time."
        )

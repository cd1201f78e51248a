"""The usual recurrent networks under the contract of a liquid layer: baselines that time does not drive."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_transformed, reference_is_chosen
from liquid_control.nn.layer import is_readable, per_tick
from liquid_control.nn.padding import last_valid
from liquid_control.nn.parameters import read, settle
from liquid_control.nn.untimed import UntimedLayer

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick


WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
"""Of torch's networks, in their order."""
SHUT = 1e4
"""What, taken from a gate's sum, shuts it: σ(-10⁴) is zero in every precision."""


class _Network(nn.RNNBase):
    """`torch.nn.LSTM` or `torch.nn.GRU`, one layer, time first, under a name of its own: Dynamo refuses those two."""

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As theirs."""
        options = True, 1, 0.0, self.training, False, False
        if self.mode == "GRU":
            return torch.gru(x, state, read(self, WEIGHTS), *options)
        y, hidden, cell = torch.lstm(x, state, read(self, WEIGHTS), *options)
        return y, (hidden, cell)

    def _get_name(self) -> str:
        return self.mode


class GatedLayer(UntimedLayer):
    """A gated network of torch behind the contract.

    Args:
        input_size: number of inputs.
        units: width of the hidden state.
        output_size: if given, outputs go through a linear readout of this size; else they are the hidden state.
        learn_initial_state: whether the initial state is a parameter.
        elapsed_as_input: whether the elapsed time is one more input; else it is ignored.
    """

    kept_as: ClassVar = {"output_size": "readout_size"}
    remembers: ClassVar[tuple[str, ...]]
    """The parts of the state, each ``units`` wide; the hidden state first."""

    def __init__(
        self,
        input_size: int,
        units: int,
        output_size: int | None = None,
        *,
        learn_initial_state: bool = False,
        elapsed_as_input: bool = False,
    ):
        if units < 1:
            raise ValueError(f"units must be at least 1, given {units}.")
        parts = dict.fromkeys(self.remembers, units)
        super().__init__(input_size, parts, output_size or units, learn_initial_state, elapsed_as_input)
        self.units, self.readout_size = units, output_size
        self.cell = self._cell()
        self._calls_cell = False
        self.readout: nn.Module = nn.Identity() if output_size is None else nn.Linear(units, output_size)

    @abstractmethod
    def _cell(self) -> nn.RNNBase:
        """The network of torch, time first."""

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; torch's network is called if it has hooks."""
        self._calls_cell = settle([self.cell], called=True)

    def run_steps(self, x: Tensor, state: Tensor, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`UntimedLayer`: torch's fused sequence where steps are contiguous, single steps otherwise.

        Torch's function knows no forward-mode derivatives and no gradients of single samples; the equations do.
        """
        by_equations = is_transformed() or reference_is_chosen()
        if advance is None and not by_equations:
            hidden, state = self._fused(x, state)
        elif advance is not None and not by_equations and self._ends_in_padding(advance):
            hidden, state = self._ragged(x, state, advance)
        else:
            ticks = []
            weights = self._weights
            for tick, advances in zip(x.unbind(0), per_tick(advance, len(x)), strict=True):
                new = self._equations(tick, state, weights) if by_equations else self._fused(tick[None], state)[1]
                state = new if advances is None else torch.where(advances[:, None], new, state)
                ticks.append(state[:, : self.units])
            hidden = torch.stack(ticks)
        return self.readout(hidden), state

    def _ends_in_padding(self, advance: Tensor) -> bool:
        """Whether every sequence is known to be padded at its end only, and nobody has hooked into torch's network."""
        if self._calls_cell or not is_readable(advance):
            return False
        return not bool((advance[1:] & ~advance[:-1]).any())

    def _ragged(self, x: Tensor, state: Tensor, advance: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences padded at their ends: each one's state is that after its last step."""
        lengths = advance.sum(0)
        if x.device.type == "cpu":
            y, final = self._function(*self._holding(x, advance), None, self._split(state))
            last = last_valid(y.transpose(0, 1), advance.T)
            final = torch.cat([last, self._join(final)[:, self.units :]], 1)
            return y, torch.where((lengths > 0)[:, None], final, state)
        # What a CPU takes several times as long for: the form that stops each one at its own length.
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.clamp(min=1).cpu(), enforce_sorted=False)
        start = self._split(state[packed.sorted_indices])
        y, final = self._function(packed.data, self._weights, packed.batch_sizes, start)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(packed._replace(data=y), total_length=len(x))
        # A sequence of no step at all was run for one, because torch refuses length zero.
        return hidden, torch.where((lengths > 0)[:, None], self._join(final)[packed.unsorted_indices], state)

    def _holding(self, x: Tensor, advance: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Inputs (T, B, C) and weights with which padding at the end changes only the hidden part of the state."""
        return x, self._weights

    def _fused(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Torch's function, which exports, unlike its module; the module where somebody has hooked into it."""
        start = self._split(state)
        y, final = self.cell(x, start) if self._calls_cell else self._function(x, self._weights, None, start)
        return y, self._join(final)

    @abstractmethod
    def _function(self, x: Tensor, weights: list[Tensor], batch_sizes: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        """Torch's function itself, of (T, B, C) or of packed sequences."""

    @abstractmethod
    def _equations(self, x: Tensor, state: Tensor, weights: list[Tensor]) -> Tensor:
        """The state (B, S) after a step of inputs (B, C): the reference form."""

    @property
    def _weights(self) -> list[Tensor]:
        return read(self.cell, WEIGHTS)

    @abstractmethod
    def _split(self, state: Tensor) -> Any:
        """From the flat state (B, S) to what torch's network takes."""

    @abstractmethod
    def _join(self, final: Any) -> Tensor:
        """From what torch's network gives back to the flat state (B, S)."""

    @property
    def neuron_count(self) -> int:
        """Units of the hidden state."""
        return self.units


class LSTM(GatedLayer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), torch's own inside; the state is [hidden | cell]."""

    name = "lstm"
    remembers = ("hidden", "cell")

    def _cell(self) -> nn.RNNBase:
        return _Network("LSTM", self.seen_size, self.units)

    def _function(self, x: Tensor, weights: list[Tensor], batch_sizes: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        options = True, 1, 0.0, self.training, False  # biases, layers, dropout, training, bidirectional
        if batch_sizes is None:
            y, *final = torch.lstm(x, state, weights, *options, False)
        else:
            y, *final = torch.lstm(x, batch_sizes, state, weights, *options)
        return y, tuple(final)

    def _holding(self, x: Tensor, advance: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See :class:`GatedLayer`: one more input, 1 at padding, shuts the writing gate and opens the keeping one."""
        of_input, *others = self._weights
        hold = of_input.new_tensor([-SHUT, SHUT, 0.0, 0.0]).repeat_interleave(self.units)
        padding = ~advance[..., None]
        seen = torch.cat([x.masked_fill(padding, 0), padding.to(x.dtype)], 2)  # what it holds could open a gate again
        return seen, [torch.cat([of_input, hold[:, None]], 1), *others]

    def _equations(self, x: Tensor, state: Tensor, weights: list[Tensor]) -> Tensor:
        of_input, of_state, *biases = weights
        hidden, cell = state.chunk(2, 1)
        gates = F.linear(x, of_input, biases[0]) + F.linear(hidden, of_state, biases[1])
        write, keep, candidate, show = gates.chunk(4, 1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(write) * torch.tanh(candidate)
        return torch.cat([torch.sigmoid(show) * torch.tanh(cell), cell], 1)

    def seen_step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]]:
        """See :class:`UntimedLayer`."""
        from liquid_control.kernels import gated

        return gated.lstm_tick, gated.lstm_arrays(self._weights, self.readout)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = state.chunk(2, 1)
        return hidden[None].contiguous(), cell[None].contiguous()

    def _join(self, final: Any) -> Tensor:
        return torch.cat(cast(tuple[Tensor, Tensor], final), -1)[0]


class GRU(GatedLayer):
    """Gated recurrent unit (Cho et al. 2014), torch's own inside; the state is the hidden state."""

    name = "gru"
    remembers = ("hidden",)

    def _cell(self) -> nn.RNNBase:
        return _Network("GRU", self.seen_size, self.units)

    def _function(self, x: Tensor, weights: list[Tensor], batch_sizes: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        options = True, 1, 0.0, self.training, False  # biases, layers, dropout, training, bidirectional
        if batch_sizes is None:
            return torch.gru(x, state, weights, *options, False)
        return torch.gru(x, batch_sizes, state, weights, *options)

    def _equations(self, x: Tensor, state: Tensor, weights: list[Tensor]) -> Tensor:
        of_input, of_state, *biases = weights
        (r, z, n), (reset, keep, new) = (
            F.linear(x, of_input, biases[0]).chunk(3, 1),
            F.linear(state, of_state, biases[1]).chunk(3, 1),
        )
        candidate = torch.tanh(n + torch.sigmoid(r + reset) * new)
        return torch.lerp(candidate, state, torch.sigmoid(z + keep))

    def seen_step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]]:
        """See :class:`UntimedLayer`."""
        from liquid_control.kernels import gated

        return gated.gru_tick, gated.gru_arrays(self._weights, self.readout)

    def _split(self, state: Tensor) -> Tensor:
        return state[None].contiguous()

    def _join(self, final: Any) -> Tensor:
        return cast(Tensor, final)[0]

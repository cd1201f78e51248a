"""The usual recurrent networks under the contract of a liquid layer: baselines that know nothing of time.

They take elapsed times, check them, and ignore them: a step is a step, even if no time has passed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.nn.layer import Elapsed, LiquidLayer

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick


class GatedLayer(LiquidLayer):
    """A gated network of torch behind the contract.

    Args:
        input_size: number of inputs.
        units: width of the hidden state.
        output_size: if given, outputs go through a linear readout of this size; else they are the hidden state.
        learn_initial_state: whether the initial state is a parameter.
    """

    kept_as: ClassVar = {"output_size": "readout_size"}
    time_driven = False
    remembers: ClassVar[tuple[str, ...]]
    """The parts of the state, each ``units`` wide; the hidden state first."""

    def __init__(
        self, input_size: int, units: int, output_size: int | None = None, *, learn_initial_state: bool = False
    ):
        super().__init__(input_size, dict.fromkeys(self.remembers, units), output_size or units, learn_initial_state)
        self.units, self.readout_size = units, output_size
        self.cell = self._cell()
        self.readout: nn.Module = nn.Identity() if output_size is None else nn.Linear(units, output_size)

    @abstractmethod
    def _cell(self) -> nn.RNNBase:
        """The network of torch, time first."""

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`: torch's fused sequence where steps are contiguous, single steps otherwise."""
        if advance is None:
            hidden, state = self._fused(x, state)
        elif not torch.compiler.is_compiling() and not bool((advance[1:] & ~advance[:-1]).any()):
            hidden, state = self._ragged(x, state, advance.sum(0))
        else:
            ticks = []
            for tick, advances in zip(x.unbind(0), advance[..., None].unbind(0), strict=True):
                state = torch.where(advances, self._fused(tick[None], state)[1], state)
                ticks.append(state[:, : self.units])
            hidden = torch.stack(ticks)
        return self.readout(hidden), state

    def _ragged(self, x: Tensor, state: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Sequences padded at their ends: torch's packed form stops each one at its own length."""
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.clamp(min=1).cpu(), enforce_sorted=False)
        packed, final = self.cell(packed, self._split(state))
        hidden, _ = nn.utils.rnn.pad_packed_sequence(packed, total_length=len(x))
        # A sequence of no step at all was run for one, because torch refuses length zero.
        return hidden, torch.where((lengths > 0)[:, None], self._join(final), state)

    @abstractmethod
    def _fused(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Torch's function itself: its module keeps a plain list of weights, which doesn't export."""

    @property
    def _weights(self) -> list[Tensor]:
        return [getattr(self.cell, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")]

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
    """Long short-term memory (Hochreiter & Schmidhuber 1997), `torch.nn.LSTM` inside; the state is [hidden | cell]."""

    name = "lstm"
    remembers = ("hidden", "cell")

    def _cell(self) -> nn.RNNBase:
        return nn.LSTM(self.input_size, self.units)

    def _fused(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, *final = torch.lstm(x, self._split(state), self._weights, True, 1, 0.0, self.training, False, False)
        return y, self._join(tuple(final))

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]]:
        """See :class:`LiquidLayer`."""
        from liquid_control.kernels import gated

        return gated.lstm_tick, gated.lstm_arrays(self._weights, self.readout)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = state.chunk(2, 1)
        return hidden[None].contiguous(), cell[None].contiguous()

    def _join(self, final: Any) -> Tensor:
        return torch.cat(cast(tuple[Tensor, Tensor], final), -1)[0]


class GRU(GatedLayer):
    """Gated recurrent unit (Cho et al. 2014), `torch.nn.GRU` inside; the state is the hidden state."""

    name = "gru"
    remembers = ("hidden",)

    def _cell(self) -> nn.RNNBase:
        return nn.GRU(self.input_size, self.units)

    def _fused(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, final = torch.gru(x, self._split(state), self._weights, True, 1, 0.0, self.training, False, False)
        return y, self._join(final)

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]]:
        """See :class:`LiquidLayer`."""
        from liquid_control.kernels import gated

        return gated.gru_tick, gated.gru_arrays(self._weights, self.readout)

    def _split(self, state: Tensor) -> Tensor:
        return state[None].contiguous()

    def _join(self, final: Any) -> Tensor:
        return cast(Tensor, final)[0]

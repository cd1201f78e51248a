"""A memory cell beside continuous-time neurons: the ODE-LSTM (Lechner & Hasani 2020, arXiv 2006.04418).

At every step an LSTM writes a memory c that no differential equation touches, so its gradient does not vanish, and sets
the state from which the neurons then evolve:

    (h', c) = LSTM(u, (h, c))
    h       = neurons(u, h', Δt)

The LSTM's forget gate has a bias of one beside the learned one, so that it begins by remembering.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from liquid_control.kernels import use_reference
from liquid_control.nn.layer import Elapsed, LiquidLayer, by_step
from liquid_control.nn.parameters import read, settle

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick

ACTIVITIES = {"inter", "command", "motor", "neurons", "hidden"}
"""Parts of a state that are activities of neurons, which the LSTM's output can stand for."""


class MemoryCell(nn.Module):
    """The parameters of the LSTM, by ncps's names."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_map = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent_map = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        nn.init.xavier_uniform_(self.input_map.weight)
        nn.init.uniform_(self.input_map.bias, -0.1, 0.1)
        nn.init.orthogonal_(self.recurrent_map.weight)

    def forward(self, drive: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c (B, H) from the mapped inputs (B, 4 H)."""
        candidate, write, keep, show = (drive + self.recurrent_map(h)).chunk(4, 1)
        c = c * torch.sigmoid(keep + 1) + torch.tanh(candidate) * torch.sigmoid(write)
        return torch.tanh(c) * torch.sigmoid(show), c


class MixedMemory(LiquidLayer):
    """A layer with an LSTM memory before it.

    The state is the layer's state, then the ``memory`` c, equally wide. With the weights of an ncps layer of
    ``mixed_memory=True`` it gives its numbers; unlike there, a step of zero elapsed time leaves the state as it is.

    Args:
        cell: a layer whose state is the activity of its neurons and nothing else, such as CfC, LTC or Leaky.

    Raises:
        ValueError: if the layer's state holds anything else.
    """

    name = "mixed_memory"

    def __init__(self, cell: LiquidLayer):
        other = set(cell.unpack(torch.zeros(1, cell.state_size))) - ACTIVITIES
        if other:
            raise ValueError(
                f"the state of layer {cell.name!r} holds {', '.join(sorted(other))}: mixed memory needs a layer whose "
                "state is the activity of its neurons and nothing else."
            )
        super().__init__(cell.input_size, {**cell.parts, "memory": cell.state_size}, cell.output_size)
        self.time_driven = cell.time_driven
        self.cell = cell
        self.lstm = MemoryCell(cell.input_size, cell.state_size)
        self._calls_modules = False

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; modules that have hooks are called."""
        lstm = self.lstm
        self._calls_modules = settle([self.cell, lstm, lstm.input_map, lstm.recurrent_map], called=True)
        self.cell.follow_modules()

    def initial_state(self, batch: int) -> Tensor:
        """The layer's own initial state, and an empty memory."""
        h = self.cell.initial_state(batch)
        return torch.cat([h, torch.zeros_like(h)], 1)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`."""
        drives, steps = self.lstm.input_map(x).unbind(0), by_step(elapsed, advance, len(x))
        outputs = []
        for u, drive, (span, advances) in zip(x.unbind(0), drives, steps, strict=True):
            h, c = self.lstm(drive, *state.chunk(2, 1))
            if advances is not None and self.time_driven:
                # Neurons that take no time give the outputs of the state as it is.
                h = torch.where(advances, h, state[:, : self.cell.state_size])
                span = torch.where(advances, span, x.new_zeros(()))
            y, h = self.cell.run_inside(u[:, None], h, span, None)
            new = torch.cat([h, c], 1)
            state = new if advances is None else torch.where(advances, new, state)
            outputs.append(y[:, 0])
        return torch.stack(outputs), state

    def fused_cpu(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`; of those layers whose kernel has an LSTM before it, CfC and LTC."""
        if self._calls_modules:
            use_reference("a module of a mixed memory has hooks, and kernels do not call it")
            return None
        return self.cell.fused_cpu_with_memory(x, state, elapsed, mask, self._lstm_parameters())

    def fused_cuda(
        self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """See :class:`LiquidLayer`; of the same layers."""
        if self._calls_modules:
            use_reference("a module of a mixed memory has hooks, and kernels do not call it")
            return None
        return self.cell.fused_cuda_with_memory(x, state, elapsed, advance, self._lstm_parameters())

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`; of every layer that has one."""
        neurons = self.cell.step_kernel_inside()
        if neurons is None:
            return None
        from liquid_control.kernels import memory  # Numba is optional

        return memory.tick, memory.step_arrays(neurons, self.time_driven, self._lstm_parameters())

    def _lstm_parameters(self) -> list[Tensor]:
        """In the kernels' order: weight and bias of the inputs, weight of the state."""
        lstm = self.lstm
        return [*read(lstm.input_map, ("weight", "bias")), *read(lstm.recurrent_map, ("weight",))]

    @property
    def neuron_count(self) -> int:
        """The layer's neurons and the memory's."""
        return self.cell.neuron_count + self.cell.state_size

    def parameter_count(self) -> int:
        """Parameters in use, of the layer and of the memory."""
        return self.cell.parameter_count() + sum(parameter.numel() for parameter in self.lstm.parameters())

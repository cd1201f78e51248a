"""A feed-forward net over the last few inputs: memory without recurrence, the baseline of control from frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.nn.layer import in_front
from liquid_control.nn.untimed import UntimedLayer, seen_size

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick


class MLP(UntimedLayer):
    """One hidden tanh layer over the last ``frames`` inputs; the state is the ``frames - 1`` inputs before the next.

    A step is a step, even if no time has passed. Before the first step the earlier inputs are zeros.

    Args:
        input_size: number of inputs.
        units: width of the hidden layer.
        frames: how many inputs it sees, the present one included; with 1 it has no memory, and a state of size 0.
        output_size: if given, outputs go through a linear readout of this size; else they are the hidden layer.
        learn_initial_state: whether the inputs before the first are a parameter.
        elapsed_as_input: whether the elapsed time is one more input; else it is ignored.
    """

    name = "mlp"
    kept_as: ClassVar = {"output_size": "readout_size"}

    def __init__(
        self,
        input_size: int,
        units: int,
        frames: int = 4,
        output_size: int | None = None,
        *,
        learn_initial_state: bool = False,
        elapsed_as_input: bool = False,
    ):
        if units < 1:
            raise ValueError(f"units must be at least 1, given {units}.")
        if frames < 1:
            raise ValueError(f"frames must be at least 1, the present input, given {frames}.")
        history = {"frames": (frames - 1) * seen_size(input_size, elapsed_as_input)}
        super().__init__(input_size, history, output_size or units, learn_initial_state, elapsed_as_input)
        self.units, self.frames, self.readout_size = units, frames, output_size
        self.hidden = nn.Linear(frames * self.seen_size, units)
        self.readout: nn.Module = nn.Identity() if output_size is None else nn.Linear(units, output_size)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """The earlier inputs, oldest first: ``frames`` (B, frames - 1, C), with elapsed times C + 1."""
        return {"frames": super().unpack(state)["frames"].unflatten(1, (self.frames - 1, self.seen_size))}

    def run_steps(self, x: Tensor, state: Tensor, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`UntimedLayer`: all windows of ``frames`` real inputs at once."""
        history = self.frames - 1
        if advance is not None:
            count, place = in_front(advance)
            x = torch.empty_like(x).scatter(0, place[..., None].expand_as(x), x)
        inputs = torch.cat([self.unpack(state)["frames"].transpose(0, 1), x])  # (frames - 1 + T, B, C)
        windows = inputs.unfold(0, self.frames, 1).transpose(2, 3)  # (T, B, frames, C)
        y = self.readout(torch.tanh(self.hidden(windows.flatten(2))))
        if advance is None:
            last = inputs[len(inputs) - history :]
        else:
            y = y.gather(0, (count - 1).clamp(min=0)[..., None].expand_as(y))
            recent = count[-1] + torch.arange(history, device=x.device)[:, None]
            last = inputs.gather(0, recent[..., None].expand(-1, -1, x.shape[2]))
        return y, last.transpose(0, 1).flatten(1)

    def seen_step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]]:
        """See :class:`UntimedLayer`."""
        from liquid_control.kernels import frame_stack

        return frame_stack.tick, frame_stack.step_arrays(self.seen_size, self.hidden, self.readout)

    @property
    def neuron_count(self) -> int:
        """Units of the hidden layer."""
        return self.units

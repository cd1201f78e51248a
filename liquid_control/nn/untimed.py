"""Layers that time does not drive: baselines and attention, for which a step is a step, even if no time has passed.

They take elapsed times, check them, and ignore them; or, on request, see them as one input more, as the RNN Δt of
Rubanova et al. (2019, "Latent ODEs for irregularly-sampled time series") does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from liquid_control.nn.layer import Elapsed, LiquidLayer

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick


class UntimedLayer(LiquidLayer):
    """A layer whose state does not evolve with elapsed time.

    Args:
        input_size: number of inputs.
        parts: of the state, as :class:`LiquidLayer` takes them.
        output_size: number of outputs.
        learn_initial_state: whether the initial state is a parameter.
        elapsed_as_input: whether the elapsed time is one more input, the last. It is seen as it is given, so a unit in
            which it is near one suits it.

    Attributes:
        seen_size: number of inputs with that of the elapsed time.
    """

    time_driven = False

    def __init__(
        self,
        input_size: int,
        parts: Mapping[str, int | Sequence[int]],
        output_size: int,
        learn_initial_state: bool = False,
        elapsed_as_input: bool = False,
    ):
        super().__init__(input_size, parts, output_size, learn_initial_state)
        self.elapsed_as_input = elapsed_as_input
        self.seen_size = seen_size(input_size, elapsed_as_input)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`."""
        if self.elapsed_as_input:
            times = elapsed if isinstance(elapsed, Tensor) else x.new_full(x.shape[:2], elapsed)
            x = torch.cat([x, times[..., None]], 2)
        return self.run_steps(x, state, advance)

    @abstractmethod
    def run_steps(self, x: Tensor, state: Tensor, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer itself: :meth:`integrate` of what it sees, x (T, B, ``seen_size``)."""

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`."""
        kernel = self.seen_step_kernel()
        if kernel is None or not self.elapsed_as_input:
            return kernel
        from liquid_control.kernels.step import tick_with_elapsed  # Numba is optional

        tick, arrays = kernel
        dtype = next(array.dtype for array in arrays if array.dtype.kind == "f")
        return tick_with_elapsed, (tick, np.zeros(self.seen_size, dtype), *arrays)

    def seen_step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """The kernel of :meth:`step_kernel`, of what the layer sees."""
        return None

    @property
    def config(self) -> dict[str, Any]:
        """See :class:`LiquidLayer`; without the option where it is off, as configs had it before."""
        return {name: value for name, value in super().config.items() if name != "elapsed_as_input" or value}


def seen_size(input_size: int, elapsed_as_input: bool) -> int:
    """Number of inputs, and one more for the elapsed time if it is seen."""
    return input_size + int(elapsed_as_input)

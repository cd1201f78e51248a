"""One control tick without torch: a layer at batch 1, NumPy in and out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from liquid_control.kernels import kernel_device

Tick = Callable[..., Any]
"""``tick(x, elapsed, state, y, *arrays)``: from x (C,) and elapsed ≥ 0 it changes state (S,) and writes y (O,).

A tick of a layer that time drives leaves the state as it is where elapsed is zero.
"""


class Layer(Protocol):
    """What a step needs of a `liquid_control.nn.LiquidLayer`."""

    input_size: int
    output_size: int

    def initial_state(self, batch: int) -> Tensor:
        """The state (batch, S) before the first step."""

    def step(self, x: Tensor, state: Tensor, elapsed: float) -> tuple[Tensor, Tensor]:
        """One step in torch."""

    def unhooked_step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """The layer's tick and its arrays, if it has a kernel and no module inside has to be called."""


class CompiledStep:
    """A layer that is stepped one input after the other; it carries its state.

    The weights are those that the layer had when this was made: later changes of the layer don't reach it.

    Attributes:
        state: (S,) the state after the last step. Writing into it changes the next step.

    Example:
        >>> from liquid_control.nn import CfC, Wiring
        >>> step = CfC(8, Wiring.auto(units=19, outputs=3)).compile_step()
        >>> step(np.zeros(8)).shape                          # x (C,) -> y (O,), one unit of time
        (3,)
        >>> y = step(np.ones(8), elapsed=0.5)
        >>> step.reset()                                     # before another episode
    """

    def __init__(self, tick: Tick, arrays: tuple[Any, ...], initial_state: np.ndarray, sizes: tuple[int, int]):
        self._tick, self._arrays, self._initial_state = tick, arrays, initial_state
        self._state = initial_state.copy()
        self._shape, self._outputs, self._dtype = sizes[:1], sizes[1], initial_state.dtype

    @property
    def state(self) -> np.ndarray:
        """See the class."""
        return self._state

    def reset(self) -> None:
        """Back to the layer's initial state: zeros, or what it has learned."""
        self._state[:] = self._initial_state

    def __call__(self, x: np.ndarray, elapsed: float = 1.0) -> np.ndarray:
        """Takes one step.

        Args:
            x: (C,) input.
            elapsed: time since the previous step, finite and ≥ 0, in the layer's own unit.

        Returns:
            y (O,), an array of its own.

        Raises:
            ValueError: if the shape of x does not fit, or elapsed is negative or not finite.
        """
        # The tick is compiled for one kind of array. Most inputs are of it; a copy of each would cost more than a look.
        fits = x.__class__ is np.ndarray and x.dtype is self._dtype and x.shape == self._shape and x.flags.carray
        if not fits:
            x = self._fitting(x)
        if not 0 <= elapsed < math.inf:
            raise ValueError(f"elapsed is {elapsed}, expected a finite time ≥ 0.")
        y = np.empty(self._outputs, self._dtype)
        self._tick(x, float(elapsed), self._state, y, *self._arrays)
        return y

    def _fitting(self, x: Any) -> np.ndarray:
        x = np.array(x, self._dtype, order="C")
        if x.shape != self._shape:
            raise ValueError(f"x has shape {x.shape}, expected (input_size,) = {self._shape}.")
        return x


def compile_step(layer: Layer) -> CompiledStep:
    """A layer of the caller's own, on the CPU and without gradients, by its kernel if it has one, else by torch.

    Raises:
        TypeError: if the parameters are neither float32 nor float64.
    """
    initial_state = layer.initial_state(1)[0].clone()
    if initial_state.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"the layer's parameters are {initial_state.dtype}; NumPy steps need layer.float() or .double()."
        )
    kernel = layer.unhooked_step_kernel() if kernel_device(initial_state) else None
    tick, arrays = kernel or (_torch_tick(layer), ())
    return CompiledStep(tick, arrays, initial_state.numpy(), (layer.input_size, layer.output_size))


def tick_with_elapsed(
    x: np.ndarray, elapsed: float, state: np.ndarray, y: np.ndarray, tick: Tick, seen: np.ndarray, *arrays: np.ndarray
) -> None:
    """A :data:`Tick` of a layer whose own ``tick`` sees the elapsed time as its last input, in ``seen`` (C + 1,)."""
    seen[:-1], seen[-1] = x, elapsed
    tick(seen, elapsed, state, y, *arrays)


def _torch_tick(layer: Layer) -> Tick:
    def tick(x: np.ndarray, elapsed: float, state: np.ndarray, y: np.ndarray) -> None:
        with torch.no_grad():
            outputs, after = layer.step(torch.from_numpy(x)[None], torch.from_numpy(state)[None], elapsed)
        y[:], state[:] = outputs[0].numpy(), after[0].numpy()

    return tick

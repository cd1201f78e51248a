"""Layers of layers: one above the other, and one in each direction of time.

Both keep the contract of a layer. Each layer inside looks after masks and elapsed times itself: where no time passes,
one that time drives keeps its state while a baseline beside it takes its step.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from liquid_control.nn.layer import Elapsed, LiquidLayer
from liquid_control.nn.parameters import find_parameter

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick

TimeFirst = TypeVar("TimeFirst", Tensor, Tensor | None, float | Tensor)


class Composite(LiquidLayer):
    """Layers whose states lie one after another in the state; part ``name`` of layer i is ``"i.name"``."""

    def __init__(self, layers: Sequence[LiquidLayer], output_size: int):
        parts = {str(index): layer.state_size for index, layer in enumerate(layers)}
        super().__init__(layers[0].input_size, parts, output_size)
        self.time_driven = any(layer.time_driven for layer in layers)
        self.layers = nn.ModuleList(layers)

    def _members(self) -> list[LiquidLayer]:
        return [layer for layer in self.layers if isinstance(layer, LiquidLayer)]

    def _states(self, state: Tensor) -> list[Tensor]:
        return list(super().unpack(state).values())

    def initial_state(self, batch: int) -> Tensor:
        """The initial states of all layers."""
        return torch.cat([layer.initial_state(batch) for layer in self._members()], 1)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """The parts of every layer's state, by the layer's number and the part's name."""
        return {
            f"{index}.{name}": part
            for index, (layer, own) in enumerate(zip(self._members(), self._states(state), strict=True))
            for name, part in layer.unpack(own).items()
        }

    @abstractmethod
    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; elapsed times may be zero, and ``advance`` is the mask."""

    def _advance(self, elapsed: Elapsed, mask: Tensor | None, shape: tuple[int, int]) -> tuple[Elapsed, Tensor | None]:
        return elapsed, mask

    @property
    def neuron_count(self) -> int:
        """The neurons of all layers."""
        return sum(layer.neuron_count for layer in self._members())

    def parameter_count(self) -> int:
        """Parameters in use, of all layers."""
        return sum(layer.parameter_count() for layer in self._members())


class Stack(Composite):
    """Layers one above the other: what one puts out, the next takes in, within the same step.

    Args:
        layers: from the inputs on; each takes as many inputs as the one before has outputs.

    Raises:
        ValueError: if there is no layer, or two don't fit.
    """

    name = "stack"

    def __init__(self, layers: Sequence[LiquidLayer]):
        if not layers:
            raise ValueError("a stack needs at least one layer.")
        for index, (below, above) in enumerate(itertools.pairwise(layers)):
            if below.output_size != above.input_size:
                raise ValueError(
                    f"layer {index} has {below.output_size} outputs, layer {index + 1} takes {above.input_size} inputs."
                )
        super().__init__(layers, layers[-1].output_size)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`."""
        y, elapsed, advance = x.transpose(0, 1), batch_first(elapsed), batch_first(advance)
        states = []
        for layer, own in zip(self._members(), self._states(state), strict=True):
            y, own = layer.run_inside(y, own, elapsed, advance)
            states.append(own)
        return y.transpose(0, 1), torch.cat(states, 1)

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`; of layers that all have one."""
        kernels = [layer.step_kernel_inside() for layer in self._members()]
        if not all(kernels):
            return None
        from liquid_control.kernels import hybrid  # Numba is optional

        places = itertools.pairwise(itertools.accumulate((one.state_size for one in self._members()), initial=0))
        like = find_parameter(self)
        rows = zip(kernels, places, self._members(), strict=True)
        return hybrid.stack_tick, tuple(
            hybrid.inside(kernel, place, layer.output_size, like) for kernel, place, layer in rows if kernel
        )


class Bidirectional(Composite):
    """A layer that runs with time and one that runs against it; outputs side by side, with time first.

    It looks ahead by nature, so it takes whole sequences only: :meth:`step` refuses. The state returned is that of the
    first layer after the last step and that of the second after the first step.

    Against time, the time since the previous step is that until the next real one; the last real step, which comes
    first, takes the elapsed time of the first.

    Args:
        onward: the layer that runs with time.
        backward: the layer that runs against it, with as many inputs.

    Raises:
        ValueError: if the layers differ in their inputs.
    """

    name = "bidirectional"
    kept_as: ClassVar = {"onward": "layers.0", "backward": "layers.1"}

    def __init__(self, onward: LiquidLayer, backward: LiquidLayer):
        if onward.input_size != backward.input_size:
            raise ValueError(
                f"the layers take {onward.input_size} and {backward.input_size} inputs, expected equal ones."
            )
        super().__init__([onward, backward], onward.output_size + backward.output_size)

    def step(
        self, x: Tensor, state: Tensor | None = None, elapsed: float | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Refused: a single step has no future to look at.

        Raises:
            TypeError: always.
        """
        raise TypeError("a bidirectional layer needs the whole sequence: call it with x (batch, time, inputs).")

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`."""
        onward, backward = self._members()
        first, second = self._states(state)
        after = until_next(elapsed, advance).flip(0) if isinstance(elapsed, Tensor) else elapsed
        x, elapsed, advance, after = x.transpose(0, 1), batch_first(elapsed), batch_first(advance), batch_first(after)
        y, first = onward.run_inside(x, first, elapsed, advance)
        z, second = backward.run_inside(x.flip(1), second, after, None if advance is None else advance.flip(1))
        return torch.cat([y, z.flip(1)], -1).transpose(0, 1), torch.cat([first, second], 1)


def batch_first(values: TimeFirst) -> TimeFirst:
    """(T, B) as (B, T); a number or None as it is."""
    return values.T if isinstance(values, Tensor) else values


def until_next(elapsed: Tensor, mask: Tensor | None) -> Tensor:
    """From the time since the previous real step (T, B) to that until the next.

    The last real step has no next one and takes the time of the first. Steps that are not real get any of the times.
    """
    steps = len(elapsed)
    place = torch.arange(steps, device=elapsed.device)[:, None].expand_as(elapsed)
    if mask is not None:
        place = torch.where(mask, place, steps)
    upcoming = place.flip(0).cummin(0).values.flip(0)  # the nearest real step from here on, or none: ``steps``
    after = torch.cat([upcoming[1:], torch.full_like(upcoming[:1], steps)])
    after = torch.where(after < steps, after, upcoming[:1].clamp(max=steps - 1))
    return elapsed.gather(0, after)

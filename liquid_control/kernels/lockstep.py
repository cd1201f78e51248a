"""The groups of a wired CfC as one group, each one tick behind the group before it.

Within a step a group is driven by the group before it, and groups depend on each other in this direction only. So inter
neurons may take step k while command neurons take step k - 1 and motor neurons step k - 2: at every tick all of them
read what the tick before left, and their heads are one block-sparse product instead of one product after the other.
Neurons whose step does not exist, in the first and the last ticks, keep their state.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from liquid_control.kernels.structure import Structured


class Lockstep(Structured):
    """What is the same for all sequences: where weights stand, and how far behind each neuron is.

    Args:
        inputs: number of inputs, C, which drive the first group.
        sizes: neurons of each group, S together.
        masks: for each group and head (neurons, C or neurons of the group before + neurons), zero where there is no
            synapse; None: everywhere is one.
    """

    group: Tensor
    place: Tensor

    def __init__(self, inputs: int, sizes: Sequence[int], masks: Sequence[Sequence[np.ndarray | None]]):
        super().__init__()
        self.sizes, self.lag, self.head_count = tuple(sizes), len(sizes) - 1, len(masks[0])
        group = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        self.register_constant("group", group)
        self.register_constant("place", torch.from_numpy(_places(inputs, self.sizes, masks)))

    def heads(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """All heads of all groups as one.

        Args:
            weights: group after group, of each all heads, (neurons, what drives the group).
            biases: the same, (neurons,).

        Returns:
            weight (heads, S, C + S), zero where there is no synapse, and bias (heads, S).
        """
        bias = torch.stack([torch.cat(list(biases[head :: self.head_count])) for head in range(self.head_count)])
        entries = torch.cat([*(weight.flatten() for weight in weights), bias.new_zeros(1)])
        return entries.index_select(0, self.place).view(*bias.shape, -1), bias

    def align(
        self, x: Tensor, elapsed: float | Tensor, advance: Tensor | None
    ) -> tuple[Tensor, float | Tensor, Tensor | None]:
        """From steps to ticks.

        Args:
            x: (T, B, C) inputs.
            elapsed: a number or (T, B).
            advance: (T, B) bool, or None for always.

        Returns:
            The inputs (T + lag, B, C), the elapsed time of each neuron, a number or (T + lag, B, S), and which neurons
            advance, (T + lag, B or 1, S), or None for all.
        """
        if self.lag and advance is None:
            advance = x.new_ones(len(x), 1, dtype=torch.bool)
        return (
            F.pad(x, (0, 0, 0, 0, 0, self.lag)),
            self._behind(elapsed, 1.0) if isinstance(elapsed, Tensor) else elapsed,
            None if advance is None else self._behind(advance, False),
        )

    def _behind(self, values: Tensor, fill: float | bool) -> Tensor:
        """From steps (T, B) to ticks (T + lag, B, S): each group one tick behind the one before; ``fill`` elsewhere."""
        groups = [
            F.pad(values, (0, 0, group, self.lag - group), value=fill)[..., None].expand(-1, -1, size)
            for group, size in enumerate(self.sizes)
        ]
        return torch.cat(groups, -1)


def merge_gate(weight: Tensor, bias: Tensor, elapsed: float | Tensor) -> tuple[Tensor, Tensor]:
    """Heads g, h, a, b as g, h, t·a + b where the elapsed time t is one number for all: the gate is linear in z.

    Args:
        weight: (heads, neurons, sources), four heads or the one of mode "pure".
        bias: (heads, neurons).
        elapsed: t, or times that differ, which leave the heads as they are.
    """
    if isinstance(elapsed, Tensor) or len(weight) < 4:
        return weight, bias
    return torch.cat([weight[:2], elapsed * weight[2:3] + weight[3:]]), torch.cat(
        [bias[:2], elapsed * bias[2:3] + bias[3:]]
    )


def _places(inputs: int, sizes: tuple[int, ...], masks: Sequence[Sequence[np.ndarray | None]]) -> np.ndarray:
    """For each weight of :meth:`Lockstep.heads` its place among the groups' own, or of the zero behind them."""
    heads, neurons = len(masks[0]), sum(sizes)
    index = np.full((heads, neurons, inputs + neurons), -1)
    offset = 0
    # The sources lie one after another, [inputs | neurons]: what drives a group is one piece of them.
    before = (inputs, *sizes)
    for size, fan_in, last, of_group in zip(
        sizes, map(sum, itertools.pairwise(before)), itertools.accumulate(sizes), masks, strict=True
    ):
        driving = slice(inputs + last - fan_in, inputs + last)
        for head, mask in enumerate(of_group):
            places = offset + np.arange(size * fan_in).reshape(size, fan_in)
            offset += places.size
            index[head, last - size : last, driving] = places if mask is None else np.where(mask != 0, places, -1)
    index[index < 0] = offset
    return index.ravel()

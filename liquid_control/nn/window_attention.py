"""Attention to the last steps: the part of a transformer that needs a window of inputs, in the contract of all layers.

Heads of queries, keys and values (Vaswani et al. 2017, equation 1), each step among the last W, itself included:

    q_t, k_t, v_t = R_t W_q x_t, R_t W_k x_t, W_v x_t
    y_t = W_o Σ_{t-W < s ≤ t} softmax_s(q_t · k_s / √d) v_s

R_t turns pairs of numbers by angles that grow with t at log-spaced rates (Su et al. 2021, "RoFormer", equation 34), so
a score depends on how many steps apart query and key are, and not on where in a text. The window is state: the last
W - 1 keys and values, not yet turned. So a sequence can go on for ever in constant memory, and what is older than W
steps is gone; a layer that remembers longer has to keep it (`liquid_control.nn.plastic_memory`).

:class:`TimedAttention` turns by time instead: t is the moment of a step, so a score depends on how much time lies
between query and key. Only differences count, so no moment is the origin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import are_plain, is_traced, is_transformed, reference_is_chosen
from liquid_control.nn.layer import Elapsed, in_front
from liquid_control.nn.parameters import is_hooked, read, settle
from liquid_control.nn.untimed import UntimedLayer

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick

SLOWEST = 1e4
"""Steps over which the slowest pair of numbers turns by one radian."""


class WindowAttention(UntimedLayer):
    """Causal attention to the last ``window`` steps; a step is a step, even if no time has passed.

    Args:
        input_size: number of inputs.
        units: number of values of all heads together, a multiple of ``heads``; an even number for each head.
        output_size: number of outputs of the projection after the heads; None is ``units``.
        heads: number of heads.
        window: how many steps a step attends to, itself included.
        elapsed_as_input: whether the elapsed time is one more input; else it is ignored.

    Raises:
        ValueError: if a number is out of range.
    """

    name = "window_attention"

    def __init__(
        self,
        input_size: int,
        units: int,
        output_size: int | None = None,
        *,
        heads: int = 2,
        window: int = 128,
        elapsed_as_input: bool = False,
    ):
        if heads < 1:
            raise ValueError(f"heads must be at least 1, given {heads}.")
        if units < 2 or units % (2 * heads):
            raise ValueError(f"units must be a multiple of 2 · heads = {2 * heads}, given {units}.")
        if window < 2:
            raise ValueError(f"window must be at least 2, the present step and one before, given {window}.")
        entry = 2 * units + 1
        places = range((window - 1) * entry)
        parts = {
            "keys": [place for place in places if place % entry < units],
            "values": [place for place in places if units <= place % entry < 2 * units],
            "there": list(places[2 * units :: entry]),
        }
        super().__init__(input_size, parts, output_size or units, elapsed_as_input=elapsed_as_input)
        self.units, self.heads, self.window = units, heads, window
        self.project = nn.Linear(self.seen_size, 3 * units, bias=False)
        self.readout = nn.Linear(units, self.output_size, bias=False)

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; both modules are called."""
        settle([self.project, self.readout], called=True)

    def seen_step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """See :class:`UntimedLayer`; none where a module has hooks, which only a call runs."""
        if is_hooked(self.project) or is_hooked(self.readout):
            return None
        from liquid_control.kernels import window_attention

        (project,), (readout,) = (read(module, ("weight",)) for module in (self.project, self.readout))
        arrays = window_attention.step_arrays(project, readout, self.heads, self.window, SLOWEST, self.time_driven)
        return window_attention.tick, arrays

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """What stands in the window, oldest first.

        ``keys`` and ``values`` (B, W - 1, units), and ``there`` (B, W - 1): 1 where a step is, 0 where none was yet.
        """
        parts = super().unpack(state)
        return parts | {name: parts[name].unflatten(1, (-1, self.units)) for name in ("keys", "values")}

    def run_steps(self, x: Tensor, state: Tensor, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`UntimedLayer`: ``window`` steps at a time, so memory grows with T · W and not with T²."""
        y, window, _ = self._slide(x, state.unflatten(1, (self.window - 1, -1)), advance, None)
        return self.readout(y).transpose(0, 1), window.flatten(1)

    def _slide(
        self, x: Tensor, window: Tensor, advance: Tensor | None, moments: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The window slides over all steps.

        Args:
            x: (T, B, C).
            window: (B, W - 1, 2 units + 1) keys, values, there, before the first step.
            advance: (T, B) or None.
            moments: (B, W - 1 + T) of the window and of the steps after it; None numbers the steps.

        Returns:
            What the heads heard (B, T, units), anything where steps do not advance, the window after the last step, and
            the moments of what stands in it.
        """
        steps, past = len(x), self.window - 1
        given = F.pad(self.project(x.transpose(0, 1)), (0, 1), value=1.0)  # (B, T, 3 units + 1)
        if advance is not None:
            count, place = (part.T for part in in_front(advance))
            to = place[..., None].expand_as(given)
            given = torch.empty_like(given).scatter(1, to, given)
            if moments is not None:
                before, now = moments.split([past, steps], 1)
                moments = torch.cat([before, torch.empty_like(now).scatter(1, place, now)], 1)
        query, present = given.split([self.units, 2 * self.units + 1], 2)
        seen = torch.cat([window, present], 1)  # (B, W - 1 + T, 2 units + 1)
        parts, empty = [], _empty_front(window)
        for first in range(0, steps, self.window):
            here = slice(max(first, empty), first + self.window + past)
            at = None
            if moments is not None:  # only the time between two of them counts, and near zero numbers are exact enough
                at = (moments[:, here] - moments[:, first + past - 1 : first + past]).to(self._time_type(x))
            parts.append(self._attend(query[:, first : first + self.window], seen[:, here], at))
        y = torch.cat(parts, 1)
        if advance is None:
            return y, seen[:, steps:], None if moments is None else moments[:, steps:]
        y = y.gather(1, place[..., None].expand_as(y))
        recent = count[:, -1:] + torch.arange(past, device=x.device)  # (B, W - 1)
        window = seen.gather(1, recent[..., None].expand(-1, -1, seen.shape[2]))
        return y, window, None if moments is None else moments.gather(1, recent)

    @staticmethod
    def _time_type(x: Tensor) -> torch.dtype:
        """In which keys and queries are turned: single precision at least."""
        return torch.promote_types(x.dtype, torch.float32)

    def _attend(self, query: Tensor, seen: Tensor, moments: Tensor | None) -> Tensor:
        """Some steps of all sequences.

        Args:
            query: (B, N, units), N ≤ W.
            seen: (B, P + N, 2 units + 1), P ≤ W - 1 steps before them and they themselves: keys, values, there.
            moments: (B, P + N) of what is seen, or None: one after another.

        Returns:
            (B, N, units).
        """
        key, value, there = seen.split([self.units, self.units, 1], 2)
        place = torch.arange(seen.shape[1], device=query.device)
        before = seen.shape[1] - query.shape[1]
        now = place[before:]
        near = (place <= now[:, None]) & (place > now[:, None] - self.window)  # (N, P + N)
        visible = (near & (there.mT > 0))[:, None]  # (B, 1, N, P + N)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        at = place if moments is None else moments[:, None]
        q, k = turn(q, at[..., before:]), turn(k, at)
        if reference_is_chosen() or is_transformed():
            scores = (q @ k.mT) / math.sqrt(q.shape[-1])
            heard = torch.where(visible, scores, -torch.inf).softmax(-1) @ v
        else:  # the same, which transforms and forward-mode derivatives cannot go through
            heard = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return heard.transpose(1, 2).flatten(2)

    @property
    def neuron_count(self) -> int:
        """Values of all heads: each is a softmax of its own over the window."""
        return self.units


class TimedAttention(WindowAttention):
    """Causal attention to the last ``window`` steps that knows when they were.

    Keys and queries are turned by the time at which they are, so a score depends on the time between them, and not on
    when time began. The state has, besides the window of :class:`WindowAttention`, the age of each step in it.

    Time drives it: a step in which no time passes hears nothing, and does not enter the window.

    Args:
        input_size: number of inputs.
        units: number of values of all heads together, a multiple of ``heads``; an even number for each head.
        output_size: number of outputs of the projection after the heads; None is ``units``.
        heads: number of heads.
        window: how many steps a step attends to, itself included.

    Raises:
        ValueError: if a number is out of range.
    """

    name = "timed_attention"
    time_driven = True

    def __init__(
        self, input_size: int, units: int, output_size: int | None = None, *, heads: int = 2, window: int = 128
    ):
        super().__init__(input_size, units, output_size, heads=heads, window=window)
        size = self.state_size
        self.parts["ages"] = range(size, size + window - 1)
        self.state_size = size + window - 1

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """As :meth:`WindowAttention.unpack`, and ``ages`` (B, W - 1): the time since each step of the window."""
        return super().unpack(state)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; moments count from the end of the window, in double precision."""
        past, dtype = self.window - 1, torch.float64
        window, ages = state[:, :-past].unflatten(1, (past, -1)), state[:, -past:].to(dtype)
        spans = elapsed.T if isinstance(elapsed, Tensor) else x.new_full(x.shape[:2], elapsed).T
        spans = (spans if advance is None else torch.where(advance.T, spans, 0)).to(dtype)
        now = spans.cumsum(1)
        y, window, moments = self._slide(x, window, advance, torch.cat([-ages, now], 1))
        if advance is not None:
            y = torch.where(advance.T[..., None], y, 0)
        ages = (now[:, -1:] - cast(Tensor, moments)).to(x.dtype)
        return self.readout(y).transpose(0, 1), torch.cat([window.flatten(1), ages], 1)


def _empty_front(window: Tensor) -> int:
    """How many of the oldest places of a window (B, W - 1, …, there) no sequence has filled: nobody has to look there.

    Not asked on a GPU, where the question would wait for all that runs there, where torch makes a graph or tensors have
    no values, and by the reference form.
    """
    if window.device.type != "cpu" or is_traced() or not are_plain(window) or reference_is_chosen():
        return 0
    filled = (window[..., -1] > 0).any(0)
    return int(filled.int().argmax()) if filled.any() else len(filled)


def turn(vectors: Tensor, place: Tensor) -> Tensor:
    """Vectors (…, N, D), each pair of numbers turned by its place (N,) or (…, N) times a rate; D is even.

    Rates are log-spaced from 1 down to 1/:data:`SLOWEST` radians a step, or a unit of time.
    """
    half = vectors.shape[-1] // 2
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    rate = SLOWEST ** -(torch.arange(half, device=vectors.device, dtype=dtype) / half)
    angle = place[..., None] * rate
    cosine, sine = angle.cos().to(vectors.dtype), angle.sin().to(vectors.dtype)
    one, other = vectors.chunk(2, -1)
    return torch.cat([one * cosine - other * sine, one * sine + other * cosine], -1)

"""What the kernels of liquid attention take: the numbers that make the logits, and which query sees which key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from liquid_control.kernels import is_known

GATES = {"affine": 0, "mlp": 1, "bilinear": 2}
MODES = {"exact": 0, "euler": 1, "steady": 2}
CLOCKS = ("linear", "log", "sigmoid", "fixed")


class Logits(NamedTuple):
    """A `liquid_control.nn.liquid_logits.LiquidLogits` of H heads, as it is now."""

    gate: str
    """One of GATES."""
    mode: str
    """One of MODES."""
    clock: str
    """How a horizon becomes time, one of CLOCKS; "fixed": the time does not depend on it."""
    fixed_time: float
    """That time."""
    euler_steps: int
    rate: float
    """The constant rate, or 0: tokens set it."""
    least_rate: float
    """Added to a rate that tokens set."""
    vector: int
    """Features of a token, the first ones, that go through the mlp or the dot product."""
    scalars: tuple[str, ...]
    """The features after them: target, rate, slope, shift, as far as there are any."""
    gain: Tensor
    """(H,)."""
    initial_logit: Tensor | None
    """(H,); None: there is none in mode "steady"."""
    time_scale: Tensor | None
    """(H,), positive; None: the clock has none."""
    pair_weight: Tensor | None
    """(H, 1 or 2, vector) of the mlp gate: of the target, and of a rate that tokens set."""
    pair_bias: Tensor | None
    """(H, 1 or 2)."""

    @property
    def heads(self) -> int:
        """H."""
        return len(self.gain)

    @property
    def features(self) -> int:
        """Features of a token, F, for a head."""
        return self.vector + len(self.scalars)

    def place(self, scalar: str, absent: int = -1) -> int:
        """Which of the features a scalar is."""
        return self.vector + self.scalars.index(scalar) if scalar in self.scalars else absent

    def are_known(self) -> bool:
        """Whether the kernels know the gate, the mode and the clock; warns if not."""
        return (
            is_known("liquid attention", "gate", self.gate, GATES)
            and is_known("liquid attention", "mode", self.mode, MODES)
            and is_known("liquid attention", "pseudo-time", self.clock, CLOCKS)
        )


@dataclass(frozen=True)
class Pairs:
    """Which query sees which key, and for how long: Q queries, K keys."""

    keys: int
    horizon: float | Tensor  # (B or 1, Q, K), or one number for all; used where there are no times
    query_times: Tensor | None  # (B or 1, Q)
    key_times: Tensor | None  # (B or 1, K)
    real: Tensor | None  # (B, K) bool, False at padding
    mask: Tensor | None  # (B or 1, H or 1, Q, K) bool, True where the query sees the key
    causal: bool

    def horizons(self, rows: slice) -> float | Tensor:
        """Of some queries: one number, or (B or 1, 1, rows, K)."""
        if self.query_times is not None and self.key_times is not None:
            return (self.query_times[:, None, rows, None] - self.key_times[:, None, None, :]).abs()
        return self.horizon[:, None, rows] if isinstance(self.horizon, Tensor) else self.horizon

    def seen(self, rows: slice, like: Tensor) -> Tensor | None:
        """What some of the queries see: (B or 1, H or 1, rows, K) bool on the device of ``like``; None: everything."""
        parts = []
        if self.real is not None:
            parts.append(self.real[:, None, None, :])
        if self.mask is not None:
            parts.append(self.mask[:, :, rows])
        if self.causal:
            step = torch.arange(self.keys, device=like.device)
            parts.append((step[rows, None] >= step)[None, None])
        seen = None
        for part in parts:
            seen = part if seen is None else seen & part
        return seen

    def seeing(self, chunks: list[slice], query: Tensor) -> Tensor | None:
        """Which queries see any key in any head, (B, Q) bool; None: all of them."""
        if self.real is None and self.mask is None:
            return None
        parts = [self.seen(rows, query) for rows in chunks]
        return torch.cat([part.any(-1).any(1).expand(len(query), -1) for part in parts if part is not None], 1)

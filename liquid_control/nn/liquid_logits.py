"""Liquid attention's logits: the attention logit of a pair of tokens is the solution of a linear ODE.

For a query i and a key j (Razzaq et al. 2025, Liquid Attention Network)

    da/dt = -ω a + φ,    a(0) = a₀

with a target φ and a decay rate ω > 0 that the two tokens set and that are constant while the logit evolves. At time
t it has gone a share p of the way to its steady value φ/ω:

    a(t) = a₀ + p (φ/ω - a₀),    p = 1 - exp(-ω t)             mode "exact"
                                 p = 1 - (1 - Δt ω)ⁿ           mode "euler", n explicit steps, each Δt ω at most 1
                                 p = 1                         mode "steady"

so a logit lies between a₀ and φ/ω: their stability theorem, which for Euler needs the bound on the step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels.attention import Logits

MODES = ("exact", "euler", "steady")
GATES = ("affine", "mlp", "bilinear")
PSEUDO_TIMES = ("linear", "log", "sigmoid")
MIN_RATE = 1e-3  # the authors' 1e-6 lets a steady logit reach 1e6, and its gradient 1e12


def progress(rate: Tensor, time: Tensor | float, mode: str, steps: int) -> Tensor:
    """The share p in [0, 1] of the way to the steady logit, after ``time`` at the decay ``rate``; see the module.

    Args:
        rate: positive, of any shape.
        time: non-negative, broadcasts with ``rate``.
        mode: "exact", "euler" or "steady".
        steps: of Euler, each of ``time / steps``.
    """
    if mode == "exact":
        return -torch.expm1(-rate * time)
    if mode == "euler":
        return 1 - (1 - (rate * (time / steps)).clamp(max=1)) ** steps
    return torch.ones_like(rate)


class LiquidLogits(nn.Module):
    """The logits of pairs of tokens: features of each token, gates of each pair, time.

    A token has ``features`` numbers a head as a query, and as many as a key: all that a pair needs, so nothing of the
    size of two tokens is ever built for a pair. With u the features of the query and w those of the key, the gates are

        affine      φ = sigmoid(u₀ + w₀),        ω = softplus(u₁ + w₁) + ω_min
        mlp         (φ, ρ) = V tanh(u + w) + c,  ω = softplus(ρ) + ω_min
        bilinear    φ = u·w / √d,                ω = softplus(u' + w') + ω_min      u, w of size d; u', w' numbers

    The affine gate is the authors', two linear layers on [query; key] with nothing between them: it ranks the keys
    alike for every query, and its φ lies in (0, 1). The φ of the others are signed and rank the keys by the query.
    Softmax is to be taken of ``gain`` times the logit, a learnable number a head.

    The horizon of a pair, the time that its logit has had, becomes the time t of the ODE by

        linear      t = s·horizon, s > 0 learnable, a number a head
        log         t = s·log(1 + horizon)
        sigmoid     t = sigmoid((u_a + w_a)·horizon + (u_b + w_b)), the authors' "pseudo-time" of the exact mode

    Args:
        input_size: size of the tokens.
        heads: number of heads, H.
        gate: "affine", "mlp" or "bilinear".
        mode: "exact", "euler" or "steady".
        hidden: width a head of the mlp gate, or d of the bilinear one; the affine gate has none.
        euler_steps: number of steps, n, of Euler.
        delta_t: the Euler step Δt; None spreads the steps over the time t. If given, the time of Euler is n Δt for all.
        pseudo_time: "linear", "log" or "sigmoid".
        rate: a constant decay rate ω for all pairs; None lets tokens set it.

    Raises:
        ValueError: if an option is unknown or out of range.
    """

    def __init__(
        self,
        input_size: int,
        heads: int,
        gate: str = "mlp",
        mode: str = "exact",
        *,
        hidden: int = 8,
        euler_steps: int = 5,
        delta_t: float | None = None,
        pseudo_time: str = "linear",
        rate: float | None = None,
    ):
        super().__init__()
        for what, given, known in (
            ("gate", gate, GATES),
            ("mode", mode, MODES),
            ("pseudo_time", pseudo_time, PSEUDO_TIMES),
        ):
            if given not in known:
                raise ValueError(f"{what} is {given!r}, expected one of {known}.")
        sizes = {"input_size": input_size, "heads": heads, "hidden": hidden, "euler_steps": euler_steps}
        for what, size in sizes.items():
            if size < 1:
                raise ValueError(f"{what} must be at least 1, given {size}.")
        for what, value in (("delta_t", delta_t), ("rate", rate)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{what} must be a positive number or None, given {value}.")
        self.heads, self.gate, self.mode, self.hidden = heads, gate, mode, hidden
        self.euler_steps, self.delta_t, self.pseudo_time, self.rate = euler_steps, delta_t, pseudo_time, rate

        self.least_rate = MIN_RATE
        self.vector = 0 if gate == "affine" else hidden
        self.scalars = ["target"] if gate == "affine" else []
        if rate is None and gate != "mlp":
            self.scalars.append("rate")
        if self.timed and pseudo_time == "sigmoid":
            self.scalars += ["slope", "shift"]
        self.features = self.vector + len(self.scalars)
        # A bias of the keys would add to that of the queries, or (bilinear) cancel in the softmax at a common rate.
        self.query = nn.Linear(input_size, heads * self.features)
        self.key = nn.Linear(input_size, heads * self.features, bias=False)
        if gate == "mlp":
            outputs = 1 if rate else 2
            self.pair_weight = nn.Parameter(torch.empty(heads, outputs, hidden).uniform_(-1, 1) * hidden**-0.5)
            self.pair_bias = nn.Parameter(torch.zeros(heads, outputs))
        self.gain = nn.Parameter(torch.ones(heads))
        if mode != "steady":
            self.initial_logit = nn.Parameter(torch.zeros(heads))
        if self.timed and pseudo_time != "sigmoid":
            # Heads start with memories of different lengths: 1 to 1/16 of the time.
            scale = 2.0 ** torch.linspace(0, -4 if heads > 1 else 0, heads)
            self.time_scale = nn.Parameter(scale.expm1().log())

    @property
    def timed(self) -> bool:
        """Whether the horizon of a pair matters to its logit."""
        return self.mode == "exact" or (self.mode == "euler" and self.delta_t is None)

    @property
    def fixed_time(self) -> float | None:
        """The time of every pair where Euler's steps are given, else None."""
        return None if self.mode != "euler" or self.delta_t is None else self.euler_steps * self.delta_t

    def query_features(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) -> features (..., H, F)."""
        return self.query(tokens).unflatten(-1, (self.heads, self.features))

    def key_features(self, tokens: Tensor) -> Tensor:
        """Tokens (..., C) -> features (..., H, F)."""
        return self.key(tokens).unflatten(-1, (self.heads, self.features))

    def forward(
        self, query: Tensor, key: Tensor, horizon: Tensor | float = 1.0, initial_logits: Tensor | None = None
    ) -> Tensor:
        """The logits at the end of the horizon, before the gain.

        Args:
            query: (..., H, F, Q) features of the queries.
            key: (..., H, F, K) features of the keys.
            horizon: time that each pair has had, non-negative: a number or broadcastable to (..., H, Q, K).
            initial_logits: a₀, broadcastable to (..., H, Q, K); None is the learned one of each head.

        Returns:
            Logits (..., H, Q, K).
        """
        target, rate = self.gates(query, key)
        steady = target / rate
        if self.mode == "steady":
            return steady
        if initial_logits is None:
            initial_logits = self.initial_logit[:, None, None]
        share = progress(rate, self._time(query, key, horizon), self.mode, self.euler_steps)
        return initial_logits + share * (steady - initial_logits)

    def gates(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The target φ and the rate ω of each pair, (..., H, Q, K)."""
        if self.gate == "affine":
            target = torch.sigmoid(self._sum("target", query, key))
        elif self.gate == "bilinear":
            u, w = query[..., : self.vector, :], key[..., : self.vector, :]
            target = u.mT @ w * self.vector**-0.5
        else:
            hidden = torch.tanh(query[..., : self.vector, :, None] + key[..., : self.vector, None, :])
            pairs = self.pair_weight @ hidden.flatten(-2) + self.pair_bias[..., None]
            target, *rest = pairs.unflatten(-1, hidden.shape[-2:]).unbind(-3)
        if self.rate is not None:
            return target, torch.full_like(target, self.rate)
        pre_rate = rest[0] if self.gate == "mlp" else self._sum("rate", query, key)
        return target, F.softplus(pre_rate) + self.least_rate

    def _time(self, query: Tensor, key: Tensor, horizon: Tensor | float) -> Tensor | float:
        """The time t of the ODE for each pair."""
        if self.fixed_time is not None:
            return self.fixed_time
        if self.pseudo_time == "log":
            horizon = torch.log1p(horizon) if isinstance(horizon, Tensor) else math.log1p(horizon)
        if self.pseudo_time == "sigmoid":
            return torch.sigmoid(self._sum("slope", query, key) * horizon + self._sum("shift", query, key))
        return self._positive_scale()[:, None, None] * horizon

    def _positive_scale(self) -> Tensor:
        return F.softplus(self.time_scale)

    def for_kernels(self) -> Logits:
        """The options, and the parameters as they are used."""
        scaled = self.timed and self.pseudo_time != "sigmoid"
        pairwise = self.gate == "mlp"
        return Logits(
            gate=self.gate,
            mode=self.mode,
            clock=self.pseudo_time if self.timed else "fixed",
            fixed_time=self.fixed_time or 0.0,
            euler_steps=self.euler_steps,
            rate=self.rate or 0.0,
            least_rate=self.least_rate,
            vector=self.vector,
            scalars=tuple(self.scalars),
            gain=self.gain,
            initial_logit=None if self.mode == "steady" else self.initial_logit,
            time_scale=self._positive_scale() if scaled else None,
            pair_weight=self.pair_weight if pairwise else None,
            pair_bias=self.pair_bias if pairwise else None,
        )

    def _sum(self, scalar: str, query: Tensor, key: Tensor) -> Tensor:
        """A scalar of the query plus that of the key, (..., H, Q, K)."""
        feature = self.vector + self.scalars.index(scalar)
        return query[..., feature, :, None] + key[..., feature, None, :]

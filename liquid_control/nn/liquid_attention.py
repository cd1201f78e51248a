"""Liquid attention between two sets of tokens: softmax over logits that are solutions of a linear ODE.

The logits are those of :mod:`liquid_control.nn.liquid_logits`: of a token they need a few numbers a head, never the
joint [query; key] of a pair, which the authors' code builds for all pairs. Pairs are looked at in chunks of queries, in
the backward pass too, so memory grows with T·chunk, not T².
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from liquid_control.kernels import is_operable, kernel_device, reference_is_chosen
from liquid_control.kernels.attention import Pairs
from liquid_control.nn.layer import is_readable
from liquid_control.nn.liquid_logits import LiquidLogits


class SingleKeyWarning(UserWarning):
    """There is one key, so attention is constant and gates, rates and times learn nothing; said once a module."""


class LiquidAttention(nn.Module):
    """Multi-head attention whose logits evolve by da/dt = -ω a + φ (Razzaq et al. 2025, Liquid Attention Network).

    B is the batch, Q the number of queries, K that of keys, C ``input_size``, H ``heads``.

    With ``gate="bilinear"``, ``mode="steady"`` and ``rate=1`` it is scaled dot-product attention.

    Args:
        input_size: size of the tokens, a multiple of ``heads``.
        heads: number of heads.
        output_size: size of the outputs; None is ``input_size``.
        gate: "affine" (the authors'), "mlp" or "bilinear"; see :class:`LiquidLogits`, as for the next six.
        mode: "exact", "euler" or "steady".
        hidden: width a head of the mlp gate, or size of the vectors of the bilinear one; None is C / H.
        euler_steps: number of steps of Euler.
        delta_t: the Euler step; None spreads the steps over the time.
        pseudo_time: "linear", "log" or "sigmoid" (the authors').
        rate: a constant decay rate for all pairs; None lets tokens set it.
        dropout: of the attention weights, while training.
        chunk: how many queries are looked at together.

    Raises:
        ValueError: if an option is unknown or out of range.
    """

    def __init__(
        self,
        input_size: int,
        heads: int,
        output_size: int | None = None,
        *,
        gate: str = "mlp",
        mode: str = "exact",
        hidden: int | None = None,
        euler_steps: int = 5,
        delta_t: float | None = None,
        pseudo_time: str = "linear",
        rate: float | None = None,
        dropout: float = 0.0,
        chunk: int = 64,
    ):
        super().__init__()
        if heads < 1 or input_size < 1 or input_size % heads:
            raise ValueError(f"input_size must be a multiple of heads, given {input_size} and {heads} heads.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), given {dropout}.")
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, given {chunk}.")
        self.input_size, self.heads, self.dropout, self.chunk = input_size, heads, dropout, chunk
        self.logits = LiquidLogits(
            input_size,
            heads,
            gate,
            mode,
            hidden=input_size // heads if hidden is None else hidden,
            euler_steps=euler_steps,
            delta_t=delta_t,
            pseudo_time=pseudo_time,
            rate=rate,
        )
        self.value = nn.Linear(input_size, input_size)
        self.output = nn.Linear(input_size, output_size or input_size)
        self._warned = False

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        horizon: float | Tensor | None = None,
        times: Tensor | None = None,
        key_times: Tensor | None = None,
        elapsed: float | Tensor | None = None,
        real: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        initial_logits: Tensor | None = None,
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attends.

        Time is given in one of three ways, or not at all: every pair then has a horizon of 1.

        Args:
            query: (B, Q, C) tokens that ask.
            key: (B, K, C) tokens that are asked; None is ``query``.
            value: (B, K, C) tokens whose values are given; None is ``key``.
            horizon: time that a pair's logit has had, ≥ 0: a number, (Q, K) or (B, Q, K).
            times: (Q,) or (B, Q) time stamps of the queries; the horizon of a pair is the distance of its two.
            key_times: (K,) or (B, K), those of the keys; None is ``times``.
            elapsed: time since the step before, as a layer of this package has it: a number, (Q,) or (B, Q). A key
                begins with its step, a query asks at the end of its own, so a token sees itself for its own elapsed
                time. For self-attention.
            real: (B, K) bool, False where a key is padding; what it holds does not matter.
            mask: bool, True where the query sees the key: (Q, K), (B, Q, K) or (B or 1, H or 1, Q, K).
            causal: whether a query sees no later key; for as many keys as queries.
            initial_logits: a₀ of the pairs, broadcastable to (B, H, Q, K); None is the learned one of each head.
            return_attention: whether to return the weights too, whose memory is that of all pairs.

        Returns:
            Outputs (B, Q, O), zero for a query that sees no key; with ``return_attention`` also the weights
            (B, H, Q, K).

        Raises:
            ValueError: if a shape does not fit, a time is negative or not finite, or time is given in two ways.
            TypeError: if a mask is not of dtype bool.
        """
        alone = key is None
        key, value, pairs = self._checked(query, key, value, horizon, times, key_times, elapsed, real, mask, causal)
        if real is not None:
            # Padding may hold anything, NaN too, which no weight of zero would take away.
            key, value = (torch.where(real[..., None], tokens, 0) for tokens in (key, value))
            query = key if alone else query
        if key.shape[1] == 1 and not self._warned:
            self._warned = True
            warnings.warn(
                "there is a single key, so every query attends to it alone: gates, rates and times have no effect and "
                "learn nothing. Give a sequence of at least two tokens.",
                SingleKeyWarning,
                stacklevel=2,
            )
        u = self.logits.query_features(query).permute(0, 2, 3, 1)  # (B, H, F, Q)
        w = self.logits.key_features(key).permute(0, 2, 3, 1)  # (B, H, F, K)
        values = self.value(value).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, K, D)
        attended, weights = None, None
        if initial_logits is None and not return_attention and not (self.dropout and self.training):
            attended = self._fused(u, w, values, pairs)
        if attended is None:
            attended, weights = self._attend(u, w, values, pairs, initial_logits, return_attention)
        outputs = self.output(attended.transpose(1, 2).flatten(2))
        seeing = pairs.seeing(_chunks(query.shape[1], self.chunk), query)
        if seeing is not None:
            outputs = torch.where(seeing[..., None], outputs, 0)
        return outputs if weights is None else (outputs, weights)

    def pair_logits(
        self, query: Tensor, key: Tensor | None = None, *, initial_logits: Tensor | None = None, **times: Any
    ) -> Tensor:
        """The logits of all pairs (B, H, Q, K), before gain, masks and softmax; the arguments are those of forward.

        Fed back as ``initial_logits``, they go on evolving: an interval split in two gives the logits of the whole.
        """
        key, _, pairs = self._checked(query, key, None, **times)
        u = self.logits.query_features(query).permute(0, 2, 3, 1)
        w = self.logits.key_features(key).permute(0, 2, 3, 1)
        return self._solved(u, w, pairs.horizons(slice(None)), initial_logits)

    def _attend(
        self, u: Tensor, w: Tensor, values: Tensor, pairs: Pairs, initial_logits: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Chunk after chunk of queries, from features (B, H, F, Q), (B, H, F, K) and values (B, H, K, D).

        Returns:
            Attended values (B, H, Q, D) and, if ``keep``, the weights (B, H, Q, K).
        """
        chunks = _chunks(u.shape[-1], self.chunk)
        attended, weights = [], []
        for rows in chunks:
            arguments = (u, w, values, pairs, initial_logits, rows)
            if torch.is_grad_enabled() and len(chunks) > 1:
                given, weight = checkpoint(self._attend_chunk, *arguments, use_reentrant=False)
            else:
                given, weight = self._attend_chunk(*arguments)
            attended.append(given)
            if keep:
                weights.append(weight)
        return torch.cat(attended, 2), torch.cat(weights, 2) if keep else None

    def _fused(self, u: Tensor, w: Tensor, values: Tensor, pairs: Pairs) -> Tensor | None:
        """The attended values of :meth:`_attend` from a kernel, or None; that of the CPU has no backward."""
        leaves = (u, w, values, pairs.query_times, pairs.key_times, pairs.horizon, *self.logits.parameters())
        wanted = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
        dtype = self.logits.gain.dtype
        if kernel_device(u) == "cuda":
            from liquid_control.kernels.cuda import lan  # needs Triton, which may be missing

            attended = lan.attend(self.logits.for_kernels(), u.to(dtype), w.to(dtype), values.to(dtype), pairs)
            return None if attended is None else attended.to(values.dtype)
        if (torch.is_grad_enabled() and wanted) or dtype not in (torch.float32, torch.float64):
            return None
        given = u.to(dtype), w.to(dtype), values.to(dtype)
        of_pairs = pairs.horizon, pairs.query_times, pairs.key_times, pairs.real, pairs.mask
        if kernel_device(u) != "cpu" and (reference_is_chosen() or not is_operable(*given, *of_pairs)):
            return None
        from liquid_control.kernels.lan import attend  # needs Numba, which may be missing

        with torch.no_grad():
            attended = attend(self.logits.for_kernels(), *given, pairs)
        return None if attended is None else attended.to(values.dtype)

    def _attend_chunk(
        self,
        u: Tensor,
        w: Tensor,
        values: Tensor,
        pairs: Pairs,
        initial_logits: Tensor | None,
        rows: slice,
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`_attend` gives, of some of the queries."""
        if initial_logits is not None and initial_logits.dim() > 1 and initial_logits.shape[-2] > 1:
            initial_logits = initial_logits[..., rows, :]
        seen = pairs.seen(rows, u)
        logits = self._solved(u[..., rows], w, pairs.horizons(rows), initial_logits)
        logits = self.logits.gain[:, None, None] * logits
        if seen is None:
            weights = logits.softmax(-1)
        else:
            # A row of nothing but -∞ has no softmax; it gets finite logits, and no weights.
            hidden = ~seen & seen.any(-1, keepdim=True)
            weights = logits.masked_fill(hidden, -torch.inf).softmax(-1) * seen
        weights = F.dropout(weights, self.dropout, self.training)
        return weights.to(values.dtype) @ values, weights

    def _solved(self, u: Tensor, w: Tensor, horizon: float | Tensor, initial_logits: Tensor | None) -> Tensor:
        """Logits in the parameters' precision, under autocast too: a solver's differences don't survive bfloat16."""
        dtype = self.logits.gain.dtype
        if isinstance(horizon, Tensor):
            horizon = horizon.to(dtype)
        with torch.autocast(u.device.type, enabled=False):
            return self.logits(u.to(dtype), w.to(dtype), horizon, initial_logits)

    def _checked(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        horizon: float | Tensor | None = None,
        times: Tensor | None = None,
        key_times: Tensor | None = None,
        elapsed: float | Tensor | None = None,
        real: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor, Pairs]:
        """Keys, values and what forward was told of pairs, checked."""
        alone = key is None
        key = query if key is None else key
        value = key if value is None else value
        for name, tokens in (("query", query), ("key", key), ("value", value)):
            if tokens.dim() != 3 or tokens.shape[0] != query.shape[0] or tokens.shape[2] != self.input_size:
                raise ValueError(
                    f"{name} has shape {tuple(tokens.shape)}, expected (batch, tokens, {self.input_size}) with the "
                    f"batch of query {tuple(query.shape)}."
                )
        batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
        if value.shape[1] != keys:
            raise ValueError(f"value has {value.shape[1]} tokens, expected one for each of {keys} keys.")
        if keys == 0:
            raise ValueError("there are no keys, expected at least one.")
        if causal and queries != keys:
            raise ValueError(f"causal needs as many keys as queries, given {keys} and {queries}: use mask instead.")
        if sum(way is not None for way in (horizon, times, elapsed)) > 1:
            raise ValueError("time is given in two ways: give one of horizon, times and elapsed.")

        if elapsed is not None:
            if not alone:
                raise ValueError("elapsed is for self-attention: give times and key_times, or a horizon.")
            spans = _times("elapsed", elapsed, batch, queries, query, least=0.0)
            times = spans.cumsum(-1)
            key_times = times - spans
        elif times is not None:
            if key_times is None and queries != keys:
                raise ValueError(f"times are of {queries} queries, but there are {keys} keys: give key_times too.")
            key_times = times if key_times is None else key_times
            times = _times("times", times, batch, queries, query)
            key_times = _times("key_times", key_times, batch, keys, query)
        elif key_times is not None:
            raise ValueError("key_times are given without times of the queries.")
        if isinstance(horizon, Tensor) and horizon.dim():
            if horizon.shape not in ((queries, keys), (batch, queries, keys)):
                raise ValueError(
                    f"horizon has shape {tuple(horizon.shape)}, expected a number, (queries, keys) = "
                    f"({queries}, {keys}) or (batch, queries, keys) = ({batch}, {queries}, {keys})."
                )
            _refuse("horizon", horizon, 0.0)
            horizon = horizon.view(-1, queries, keys)
        elif horizon is not None:
            horizon = float(horizon)
            _refuse("horizon", torch.tensor(horizon, dtype=torch.float64), 0.0)

        for name, given in (("real", real), ("mask", mask)):
            if given is not None and given.dtype != torch.bool:
                raise TypeError(f"{name} has dtype {given.dtype}, expected torch.bool (True where a key is seen).")
        if real is not None and real.shape != (batch, keys):
            raise ValueError(f"real has shape {tuple(real.shape)}, expected (batch, keys) = ({batch}, {keys}).")
        if mask is not None:
            mask = {2: mask[None, None], 3: mask[:, None]}.get(mask.dim(), mask)
            if (
                mask.dim() != 4
                or mask.shape[2:] != (queries, keys)
                or mask.shape[0] not in (1, batch)
                or mask.shape[1] not in (1, self.heads)
            ):
                raise ValueError(
                    f"mask has shape {tuple(mask.shape)}, expected ({queries}, {keys}), (batch, {queries}, {keys}) or "
                    f"(batch or 1, heads or 1, {queries}, {keys}) for batch {batch} and {self.heads} heads."
                )
        return key, value, Pairs(keys, 1.0 if horizon is None else horizon, times, key_times, real, mask, causal)

    def extra_repr(self) -> str:
        """One line about the module."""
        logits = self.logits
        return f"{self.input_size}, {self.heads} heads, gate {logits.gate}, mode {logits.mode}"


def _chunks(queries: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, queries)) for start in range(0, queries, size)]


def _times(name: str, given: float | Tensor, batch: int, tokens: int, like: Tensor, least: float = -math.inf) -> Tensor:
    """Times of tokens as (B or 1, tokens), on the device of ``like``; in a wider dtype if they come so."""
    given = torch.as_tensor(given, device=like.device)
    if not given.is_floating_point():
        given = given.double()
    if given.dim() == 0:
        given = given.expand(tokens)
    if given.shape not in ((tokens,), (batch, tokens)):
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}, expected (tokens,) = ({tokens},) or (batch, tokens) = "
            f"({batch}, {tokens})."
        )
    _refuse(name, given, least)
    return given.view(-1, tokens)


def _refuse(name: str, given: Tensor, least: float) -> None:
    """Refuses times that are not finite or less than ``least``."""
    if not is_readable(given):  # a traced graph cannot raise on values
        return
    wrong = ~(torch.isfinite(given) & (given >= least))
    if wrong.any():
        bound = "" if least == -math.inf else f" ≥ {least:g}"
        raise ValueError(f"{name} holds {given[wrong][0].item()}, expected finite times{bound}.")

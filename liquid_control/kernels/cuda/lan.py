"""Liquid attention on CUDA: forward and backward without anything of the size of all pairs, float32.

A pair of a query i and a key j, ∂ being the gradient of the loss; `liquid_control.nn.liquid_logits` has the equations'
origin:

    φ, ω = gates of u_i and w_j       t = time of the pair's horizon       p = the share of its way that t allows
    a = a₀ + p (φ/ω - a₀)       S = gain·a       P_ij = e^{S_ij - log Σ_j e^{S_ij}}       o_i = Σ_j P_ij v_j

    ∂S_ij = P_ij (∂o_i·v_j - ∂o_i·o_i)     ∂a = gain ∂S     ∂a₀ = (1 - p) ∂a     ∂v_j = Σ_i P_ij ∂o_i
    ∂p = (φ/ω - a₀) ∂a       ∂φ = p/ω ∂a       ∂ω = dp/dω ∂p - p φ/ω² ∂a

Tiles of pairs are made from the features of their tokens where they are needed and never leave the chip, as in
FlashAttention (Dao 2023): forward with a running maximum and sum, backward from the kept log Σ e^S, once by blocks of
queries (for u and the parameters) and once by blocks of keys (for w and v), so that every sum has a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from liquid_control.kernels import use_reference
from liquid_control.kernels.attention import Logits, Pairs
from liquid_control.kernels.autograd import refuse_more_than_gradients
from liquid_control.kernels.cuda.activations import tanh

BLOCK = 32
"""Queries and keys of a tile of pairs."""
WIDEST = 128
"""Lanes of a head's values and of its features: as many as fit the 99 KiB of shared memory of small GPUs."""
# Three products of tensor-float32 parts: single precision at the speed of the matrix units.
PRECISION = tl.constexpr("tf32x3")


def attend(logits: Logits, u: Tensor, w: Tensor, values: Tensor, pairs: Pairs) -> Tensor | None:
    """Attended values of a `liquid_control.nn.liquid_attention.LiquidAttention`; None where the reference must run.

    Args:
        logits: gates and solution.
        u: (B, H, F, Q) features of the queries.
        w: (B, H, F, K) features of the keys.
        values: (B, H, K, D).
        pairs: which query sees which key, and for how long.

    Returns:
        (B, H, Q, D), zero for a query that sees no key, or None.
    """
    if pairs.mask is not None:
        use_reference("the CUDA kernel of liquid attention has causal masks and padding, not a mask of pairs")
        return None
    if isinstance(pairs.horizon, Tensor):
        use_reference("the CUDA kernel of liquid attention takes the times of tokens, not a horizon of each pair")
        return None
    if not _covers(logits, u, values):
        return None
    times = None
    if pairs.query_times is not None and pairs.key_times is not None:
        # Differences count: seconds since 1970 would leave no digits for them.
        first = pairs.key_times[:, :1]
        query_times, key_times = (
            (given - first).float().expand(len(u), -1) for given in (pairs.query_times, pairs.key_times)
        )
        times = query_times, key_times
    return _attend(logits, u.mT, w.mT, values, times, pairs.horizon, pairs.real, pairs.causal, None)


def attend_window(
    logits: Logits, query: Tensor, keys: Tensor, values: Tensor, now: Tensor, since: Tensor, known: Tensor, window: int
) -> Tensor | None:
    """Attended values of a `liquid_control.nn.LAN`, each query seeing ``window`` keys; None where it cannot.

    Args:
        logits: gates and solution.
        query: (T, B, H, F) features of the queries.
        keys: (W - 1 + T, B, H·F) features of the keys, W - 1 of them from before the first query.
        values: (W - 1 + T, B, units).
        now: (T, B) times of the queries.
        since: (W - 1 + T, B) times at which the keys began.
        known: (W - 1 + T, B) bool, False where there is no key.
        window: W, the newest key included.

    Returns:
        (T, B, units), or None.
    """
    u = query.permute(1, 2, 0, 3)
    w = keys.unflatten(2, (logits.heads, -1)).permute(1, 2, 0, 3)
    v = values.unflatten(2, (logits.heads, -1)).permute(1, 2, 0, 3)
    if not _covers(logits, u.mT, v):
        return None
    attended = _attend(logits, u, w, v, (now.T, since.T), 1.0, known.T, True, window)
    return attended.permute(2, 0, 1, 3).flatten(2)


def _covers(logits: Logits, u: Tensor, values: Tensor) -> bool:
    if u.dtype != torch.float32 or values.dtype != torch.float32:
        use_reference(f"the CUDA kernel of liquid attention is for float32, not {u.dtype}")
        return False
    if u.shape[2] >= WIDEST or values.shape[3] > WIDEST:
        use_reference(
            f"the CUDA kernel of liquid attention is for {WIDEST} values and {WIDEST - 1} features a head or fewer"
        )
        return False
    return logits.are_known()


@dataclass(frozen=True)
class _Options:
    """What a kernel is compiled for."""

    GATE: str
    MODE: str
    TIME: str
    """How a horizon becomes time: linear, log, sigmoid, or fixed, where it is the time."""
    EULER_STEPS: int
    RATE: float
    """The constant rate, or 0: tokens set it."""
    LEAST_RATE: float
    """Added to a rate that tokens set."""
    VECTOR: int
    """Features that are a vector; scalars follow."""
    RATE_AT: int
    SLOPE_AT: int
    FEATURES: int
    LANES: int
    WIDTH: int
    WIDTH_LANES: int
    CAUSAL: bool
    WINDOW: int
    """Keys that a query sees, or 0: all."""
    BLOCK: int = BLOCK


def _attend(
    logits: Logits,
    u: Tensor,
    w: Tensor,
    values: Tensor,
    times: tuple[Tensor, Tensor] | None,
    horizon: float,
    real: Tensor | None,
    causal: bool,
    window: int | None,
) -> Tensor:
    """From u (B, H, Q, F), w (B, H, K, F), values (B, H, K, D), times (B, Q) and (B, K), real (B, K)."""
    options = _Options(
        GATE=logits.gate,
        MODE=logits.mode,
        TIME=logits.clock,
        EULER_STEPS=logits.euler_steps,
        RATE=logits.rate,
        LEAST_RATE=logits.least_rate,
        VECTOR=logits.vector,
        RATE_AT=logits.place("rate"),
        SLOPE_AT=logits.place("slope"),
        FEATURES=logits.features,
        # A lane more than the vector: for the biases of the mlp gate
        LANES=max(16, triton.next_power_of_2(logits.features + 1)),
        WIDTH=values.shape[3],
        WIDTH_LANES=max(16, triton.next_power_of_2(values.shape[3])),
        CAUSAL=causal,
        WINDOW=window or 0,
    )
    if logits.clock == "fixed":
        times, horizon = None, logits.fixed_time
    start = torch.zeros_like(logits.gain) if logits.initial_logit is None else logits.initial_logit
    scale = torch.ones_like(logits.gain) if logits.time_scale is None else logits.time_scale
    pair = None
    if logits.pair_weight is not None and logits.pair_bias is not None:
        pair = torch.cat([logits.pair_weight, logits.pair_bias[..., None]], 2)
    query_times, key_times = times or (None, None)
    with torch.cuda.device_of(u):
        return _Attention.apply(
            u,
            w,
            values,
            torch.stack([logits.gain, start, scale], 1),
            pair,
            query_times,
            key_times,
            real,
            horizon,
            options,
        )


class _Attention(torch.autograd.Function):
    """Features, values, gain and a₀ and s (H, 3), V and c (H, 1 or 2, d + 1), times, padding → (B, H, Q, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        w: Tensor,
        values: Tensor,
        head: Tensor,
        pair: Tensor | None,
        query_times: Tensor | None,
        key_times: Tensor | None,
        real: Tensor | None,
        horizon: float,
        options: _Options,
    ) -> Tensor:
        u, w, values, head = u.contiguous(), w.contiguous(), values.contiguous(), head.contiguous()
        pair, query_times, key_times, real = (
            None if given is None else given.contiguous() for given in (pair, query_times, key_times, real)
        )
        batch, heads, queries, _ = u.shape
        attended = u.new_empty(batch, heads, queries, values.shape[3])
        total = u.new_empty(batch, heads, queries)  # log Σ e^S
        _forward[(triton.cdiv(queries, BLOCK), batch * heads)](
            u,
            w,
            values,
            head,
            pair,
            query_times,
            key_times,
            real,
            horizon,
            attended,
            total,
            heads,
            queries,
            w.shape[2],
            **vars(options),
            num_warps=4,
            num_stages=1,
        )
        ctx.horizon, ctx.options = horizon, options
        ctx.save_for_backward(u, w, values, head, pair, query_times, key_times, real, attended, total)
        return attended

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_more_than_gradients("liquid attention", grad)
        u, w, values, head, pair, query_times, key_times, real, attended, total = ctx.saved_tensors
        batch, heads, queries, _ = u.shape
        keys, lanes = w.shape[2], ctx.options.LANES
        grad = grad.contiguous()
        common = (grad * attended).sum(3)  # ∂o·o
        blocks = triton.cdiv(queries, BLOCK)
        grad_u, grad_w, grad_values = torch.empty_like(u), torch.empty_like(w), torch.empty_like(values)
        grad_head = u.new_empty(batch, heads, blocks, 3)
        grad_pair = u.new_empty(batch, heads, blocks, 2, lanes) if pair is not None else None
        timed = query_times is not None
        grad_query_times = u.new_empty(batch, heads, queries) if timed else None
        grad_key_times = u.new_empty(batch, heads, keys) if timed else None
        given = (u, w, values, head, pair, query_times, key_times, real, ctx.horizon, grad, total, common)
        _backward_queries[(blocks, batch * heads)](
            *given,
            grad_u,
            grad_head,
            grad_pair,
            grad_query_times,
            heads,
            queries,
            keys,
            **vars(ctx.options),
            num_warps=4,
            num_stages=1,
        )
        _backward_keys[(triton.cdiv(keys, BLOCK), batch * heads)](
            *given,
            grad_w,
            grad_values,
            grad_key_times,
            heads,
            queries,
            keys,
            **vars(ctx.options),
            num_warps=4,
            num_stages=1,
        )
        if pair is not None and grad_pair is not None:
            grad_pair = grad_pair.sum((0, 2))[:, : pair.shape[1], : pair.shape[2]]
        return (
            grad_u,
            grad_w,
            grad_values,
            grad_head.sum((0, 2)),
            grad_pair,
            None if grad_query_times is None else grad_query_times.sum(1),
            None if grad_key_times is None else grad_key_times.sum(1),
            *[None] * 3,
        )


@triton.jit
def _forward(
    u,
    w,
    values,
    head,
    pair,
    query_times,
    key_times,
    real,
    horizon,
    attended,
    total,
    heads,
    queries,
    keys,
    GATE: tl.constexpr,
    MODE: tl.constexpr,
    TIME: tl.constexpr,
    EULER_STEPS: tl.constexpr,
    RATE: tl.constexpr,
    LEAST_RATE: tl.constexpr,
    VECTOR: tl.constexpr,
    RATE_AT: tl.constexpr,
    SLOPE_AT: tl.constexpr,
    FEATURES: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_LANES: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of queries of one head, all keys that they see."""
    here = tl.program_id(1).to(tl.int64)
    batch, which = here // heads, here % heads
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    width = tl.arange(0, WIDTH_LANES)
    u += here * queries * FEATURES
    w += here * keys * FEATURES
    values += here * keys * WIDTH
    gain, start, scale = _head(head, which)
    most = tl.full((BLOCK,), float("-inf"), tl.float32)
    mass = tl.zeros((BLOCK,), tl.float32)
    mean = tl.zeros((BLOCK, WIDTH_LANES), tl.float32)
    first, last = _keys_seen(tl.program_id(0) * BLOCK, queries, keys, CAUSAL, WINDOW, BLOCK)
    for begin in range(first, last, BLOCK):
        key = begin + tl.arange(0, BLOCK)
        seen = _seen(query, key, queries, keys, real, batch, CAUSAL, WINDOW)
        target, rate, _slope = _gates(
            u, w, pair, which, query, key, queries, keys, GATE, RATE, LEAST_RATE, VECTOR, RATE_AT, FEATURES, LANES
        )
        span, _sign = _horizon(query_times, key_times, horizon, batch, query, key, queries, keys)
        time, _clock, _pace = _time(u, w, span, scale, query, key, queries, keys, TIME, SLOPE_AT, FEATURES)
        share, _remains = _progress(rate, time, MODE, EULER_STEPS)
        logit = tl.where(seen, gain * (start + share * (target / rate - start)), float("-inf"))
        above = tl.maximum(most, tl.max(logit, 1))
        # A query that has seen nothing yet has no maximum.
        shift = tl.where(above == float("-inf"), 0.0, above)
        weight = tl.exp(logit - shift[:, None])
        fade = tl.exp(most - shift)
        value = tl.load(
            values + key[:, None] * WIDTH + width[None, :], (key < keys)[:, None] & (width < WIDTH)[None, :], 0.0
        )
        mean = tl.dot(weight, value, mean * fade[:, None], input_precision=PRECISION)
        mass = mass * fade + tl.sum(weight, 1)
        most = above
    blind = mass == 0
    mass = tl.where(blind, 1.0, mass)
    tl.store(
        attended + (here * queries + query[:, None]) * WIDTH + width[None, :],
        mean / mass[:, None],
        (query < queries)[:, None] & (width < WIDTH)[None, :],
    )
    tl.store(total + here * queries + query, tl.where(blind, 0.0, most) + tl.log(mass), query < queries)


@triton.jit
def _backward_queries(
    u,
    w,
    values,
    head,
    pair,
    query_times,
    key_times,
    real,
    horizon,
    grad_attended,
    total,
    common,
    grad_u,
    grad_head,
    grad_pair,
    grad_times,
    heads,
    queries,
    keys,
    GATE: tl.constexpr,
    MODE: tl.constexpr,
    TIME: tl.constexpr,
    EULER_STEPS: tl.constexpr,
    RATE: tl.constexpr,
    LEAST_RATE: tl.constexpr,
    VECTOR: tl.constexpr,
    RATE_AT: tl.constexpr,
    SLOPE_AT: tl.constexpr,
    FEATURES: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_LANES: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a block of queries, and its share of those of the head's parameters."""
    here = tl.program_id(1).to(tl.int64)
    batch, which = here // heads, here % heads
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    width = tl.arange(0, WIDTH_LANES)
    u += here * queries * FEATURES
    w += here * keys * FEATURES
    values += here * keys * WIDTH
    gain, start, scale = _head(head, which)
    grad_out, sums, shared = _rows(grad_attended, total, common, here, query, queries, width, WIDTH)
    grad_tile = tl.zeros((BLOCK, LANES), tl.float32)
    grad_first = tl.zeros((LANES,), tl.float32)
    grad_second = tl.zeros((LANES,), tl.float32)
    grad_gain = tl.zeros((BLOCK,), tl.float32)
    grad_start = tl.zeros((BLOCK,), tl.float32)
    grad_scale = tl.zeros((BLOCK,), tl.float32)
    grad_query_time = tl.zeros((BLOCK,), tl.float32)
    first, last = _keys_seen(tl.program_id(0) * BLOCK, queries, keys, CAUSAL, WINDOW, BLOCK)
    for begin in range(first, last, BLOCK):
        key = begin + tl.arange(0, BLOCK)
        seen = _seen(query, key, queries, keys, real, batch, CAUSAL, WINDOW)
        target, rate, slope = _gates(
            u, w, pair, which, query, key, queries, keys, GATE, RATE, LEAST_RATE, VECTOR, RATE_AT, FEATURES, LANES
        )
        span, sign = _horizon(query_times, key_times, horizon, batch, query, key, queries, keys)
        time, clock, pace = _time(u, w, span, scale, query, key, queries, keys, TIME, SLOPE_AT, FEATURES)
        share, remains = _progress(rate, time, MODE, EULER_STEPS)
        logit = start + share * (target / rate - start)
        weight = tl.exp(tl.where(seen, gain * logit - sums[:, None], float("-inf")))
        value = tl.load(
            values + key[:, None] * WIDTH + width[None, :], (key < keys)[:, None] & (width < WIDTH)[None, :], 0.0
        )
        grad = weight * (tl.dot(grad_out, tl.trans(value), input_precision=PRECISION) - shared[:, None])
        grad_gain += tl.sum(grad * logit, 1)
        grad = gain * grad
        grad_start += tl.sum(grad * (1 - share), 1)
        grad_target, grad_rate, grad_time = _grad_pairs(
            grad, target, rate, slope, time, share, remains, start, GATE, MODE
        )
        grad_scale += tl.sum(grad_time * clock, 1)
        grad_query_time += tl.sum(grad_time * pace * sign, 1)
        grad_tile, grad_first, grad_second = _grad_features(
            grad_tile, grad_first, grad_second, grad_target, grad_rate, grad_time, time, span,
            u, w, pair, which, query, key, queries, keys,
            1, GATE, TIME, RATE, VECTOR, RATE_AT, SLOPE_AT, FEATURES, LANES,
        )  # fmt: skip
    tl.store(
        grad_u + (here * queries + query[:, None]) * FEATURES + lane[None, :],
        grad_tile,
        (query < queries)[:, None] & (lane < FEATURES)[None, :],
    )
    if grad_times is not None:
        tl.store(grad_times + here * queries + query, grad_query_time, query < queries)
    program = here * tl.num_programs(0) + tl.program_id(0)
    tl.store(grad_head + program * 3, tl.sum(grad_gain))
    tl.store(grad_head + program * 3 + 1, tl.sum(grad_start))
    tl.store(grad_head + program * 3 + 2, tl.sum(grad_scale))
    if GATE == "mlp":
        tl.store(grad_pair + program * 2 * LANES + lane, grad_first)
        tl.store(grad_pair + program * 2 * LANES + LANES + lane, grad_second)


@triton.jit
def _backward_keys(
    u,
    w,
    values,
    head,
    pair,
    query_times,
    key_times,
    real,
    horizon,
    grad_attended,
    total,
    common,
    grad_w,
    grad_values,
    grad_times,
    heads,
    queries,
    keys,
    GATE: tl.constexpr,
    MODE: tl.constexpr,
    TIME: tl.constexpr,
    EULER_STEPS: tl.constexpr,
    RATE: tl.constexpr,
    LEAST_RATE: tl.constexpr,
    VECTOR: tl.constexpr,
    RATE_AT: tl.constexpr,
    SLOPE_AT: tl.constexpr,
    FEATURES: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_LANES: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a block of keys and their values."""
    here = tl.program_id(1).to(tl.int64)
    batch, which = here // heads, here % heads
    key = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    width = tl.arange(0, WIDTH_LANES)
    u += here * queries * FEATURES
    w += here * keys * FEATURES
    gain, start, scale = _head(head, which)
    at = (here * keys + key[:, None]) * WIDTH + width[None, :]
    inside = (key < keys)[:, None] & (width < WIDTH)[None, :]
    value = tl.load(values + at, inside, 0.0)
    grad_value = tl.zeros((BLOCK, WIDTH_LANES), tl.float32)
    grad_tile = tl.zeros((BLOCK, LANES), tl.float32)
    grad_first = tl.zeros((LANES,), tl.float32)
    grad_second = tl.zeros((LANES,), tl.float32)
    grad_key_time = tl.zeros((BLOCK,), tl.float32)
    first, last = _queries_seeing(tl.program_id(0) * BLOCK, queries, keys, CAUSAL, WINDOW, BLOCK)
    for begin in range(first, last, BLOCK):
        query = begin + tl.arange(0, BLOCK)
        grad_out, sums, shared = _rows(grad_attended, total, common, here, query, queries, width, WIDTH)
        seen = _seen(query, key, queries, keys, real, batch, CAUSAL, WINDOW)
        target, rate, slope = _gates(
            u, w, pair, which, query, key, queries, keys, GATE, RATE, LEAST_RATE, VECTOR, RATE_AT, FEATURES, LANES
        )
        span, sign = _horizon(query_times, key_times, horizon, batch, query, key, queries, keys)
        time, _clock, pace = _time(u, w, span, scale, query, key, queries, keys, TIME, SLOPE_AT, FEATURES)
        share, remains = _progress(rate, time, MODE, EULER_STEPS)
        logit = gain * (start + share * (target / rate - start))
        weight = tl.exp(tl.where(seen, logit - sums[:, None], float("-inf")))
        grad_value = tl.dot(tl.trans(weight), grad_out, grad_value, input_precision=PRECISION)
        grad = gain * weight * (tl.dot(grad_out, tl.trans(value), input_precision=PRECISION) - shared[:, None])
        grad_target, grad_rate, grad_time = _grad_pairs(
            grad, target, rate, slope, time, share, remains, start, GATE, MODE
        )
        grad_key_time -= tl.sum(grad_time * pace * sign, 0)
        grad_tile, grad_first, grad_second = _grad_features(
            grad_tile, grad_first, grad_second, grad_target, grad_rate, grad_time, time, span,
            u, w, pair, which, query, key, queries, keys,
            0, GATE, TIME, RATE, VECTOR, RATE_AT, SLOPE_AT, FEATURES, LANES,
        )  # fmt: skip
    tl.store(
        grad_w + (here * keys + key[:, None]) * FEATURES + lane[None, :],
        grad_tile,
        (key < keys)[:, None] & (lane < FEATURES)[None, :],
    )
    tl.store(grad_values + at, grad_value, inside)
    if grad_times is not None:
        tl.store(grad_times + here * keys + key, grad_key_time, key < keys)


@triton.jit
def _head(head, which):
    """Gain, a₀ and s of a head."""
    return tl.load(head + which * 3), tl.load(head + which * 3 + 1), tl.load(head + which * 3 + 2)


@triton.jit
def _rows(grad_attended, total, common, here, query, queries, width, WIDTH: tl.constexpr):
    """∂o, log Σ e^S and ∂o·o of some queries."""
    row = here * queries + query
    inside = query < queries
    grad = tl.load(
        grad_attended + row[:, None] * WIDTH + width[None, :], inside[:, None] & (width < WIDTH)[None, :], 0.0
    )
    return grad, tl.load(total + row, inside, 0.0), tl.load(common + row, inside, 0.0)


@triton.jit
def _keys_seen(first_query, queries, keys, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """The range of keys that a block of queries may see, from a multiple of BLOCK on."""
    first = 0
    last = keys
    if CAUSAL:
        newest = first_query + keys - queries
        last = tl.minimum(keys, newest + BLOCK)
        if WINDOW > 0:
            first = tl.maximum(0, newest - WINDOW + 1) // BLOCK * BLOCK
    return first, last


@triton.jit
def _queries_seeing(first_key, queries, keys, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """The range of queries that may see a block of keys, from a multiple of BLOCK on."""
    first = 0
    last = queries
    if CAUSAL:
        same = first_key - (keys - queries)
        first = tl.maximum(0, same) // BLOCK * BLOCK
        if WINDOW > 0:
            last = tl.minimum(queries, tl.maximum(0, same + BLOCK - 1 + WINDOW))
    return first, last


@triton.jit
def _seen(query, key, queries, keys, real, batch, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """(queries, keys): which query sees which key; the last query is as late as the last key."""
    seen = (query < queries)[:, None] & (key < keys)[None, :]
    if CAUSAL:
        age = query[:, None] + (keys - queries) - key[None, :]
        seen &= age >= 0
        if WINDOW > 0:
            seen &= age < WINDOW
    if real is not None:
        seen &= (tl.load(real + batch * keys + key, key < keys, 0) != 0)[None, :]
    return seen


@triton.jit
def _sum(u, w, query, key, queries, keys, feature, FEATURES: tl.constexpr):
    """(queries, keys): a feature of the query plus that of the key."""
    asked = tl.load(u + query * FEATURES + feature, query < queries, 0.0)
    given = tl.load(w + key * FEATURES + feature, key < keys, 0.0)
    return asked[:, None] + given[None, :]


@triton.jit
def _vectors(features, token, tokens, VECTOR: tl.constexpr, FEATURES: tl.constexpr, LANES: tl.constexpr):
    """(tokens, LANES): the vectors of some tokens, zero beyond VECTOR."""
    lane = tl.arange(0, LANES)
    inside = (token < tokens)[:, None] & (lane < VECTOR)[None, :]
    return tl.load(features + token[:, None] * FEATURES + lane[None, :], inside, 0.0)


@triton.jit
def _gates(
    u, w, pair, which, query, key, queries, keys,
    GATE: tl.constexpr, RATE: tl.constexpr, LEAST_RATE: tl.constexpr, VECTOR: tl.constexpr, RATE_AT: tl.constexpr,
    FEATURES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """φ, ω and the slope of ω, (queries, keys)."""
    free = tl.zeros((query.shape[0], key.shape[0]), tl.float32)
    if GATE == "affine":
        target = tl.sigmoid(_sum(u, w, query, key, queries, keys, VECTOR, FEATURES))
    elif GATE == "bilinear":
        asked = _vectors(u, query, queries, VECTOR, FEATURES, LANES)
        given = _vectors(w, key, keys, VECTOR, FEATURES, LANES)
        target = tl.dot(asked, tl.trans(given), input_precision=PRECISION) * (VECTOR**-0.5)
    else:
        # V and c are rows of one table, c last.
        row: tl.constexpr = VECTOR + 1
        pair += which * (row if RATE > 0 else 2 * row)
        target = free + tl.load(pair + VECTOR)
        if RATE == 0:
            free += tl.load(pair + row + VECTOR)
        for unit in range(VECTOR):
            hidden = tanh(_sum(u, w, query, key, queries, keys, unit, FEATURES))
            target += tl.load(pair + unit) * hidden
            if RATE == 0:
                free += tl.load(pair + row + unit) * hidden
    if RATE == 0:
        if RATE_AT >= 0:
            free = _sum(u, w, query, key, queries, keys, RATE_AT, FEATURES)
        rate = _softplus(free) + LEAST_RATE
        slope = tl.sigmoid(free)
    else:
        rate = free + RATE
        slope = free
    return target, rate, slope


@triton.jit
def _softplus(x):
    """log(1 + eˣ) = max(x, 0) + log(1 + e), e = e^{-|x|}: the logarithm as 2 artanh(e / (2 + e)), a short series."""
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)
    z = s * s
    series = 1 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11 + z * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2 * s * series


@triton.jit
def _horizon(query_times, key_times, horizon, batch, query, key, queries, keys):
    """(queries, keys): the time between the two, or one number for all, and its derivative by the query's time."""
    span = tl.zeros((query.shape[0], key.shape[0]), tl.float32) + horizon
    sign = span
    if query_times is not None:
        asked = tl.load(query_times + batch * queries + query, query < queries, 0.0)
        given = tl.load(key_times + batch * keys + key, key < keys, 0.0)
        lag = asked[:, None] - given[None, :]
        span = tl.abs(lag)
        sign = tl.where(lag > 0, 1.0, tl.where(lag < 0, -1.0, 0.0))
    return span, sign


@triton.jit
def _time(
    u, w, span, scale, query, key, queries, keys, TIME: tl.constexpr, SLOPE_AT: tl.constexpr, FEATURES: tl.constexpr
):  # fmt: skip
    """Time t of the pairs, its derivative by s where there is an s, and by the horizon."""
    clock = tl.zeros_like(span)
    pace = clock
    if TIME == "linear":
        time = scale * span
        clock = span
        pace += scale
    elif TIME == "log":
        clock = tl.log(1 + span)
        time = scale * clock
        pace = scale / (1 + span)
    elif TIME == "sigmoid":
        slope = _sum(u, w, query, key, queries, keys, SLOPE_AT, FEATURES)
        time = tl.sigmoid(slope * span + _sum(u, w, query, key, queries, keys, SLOPE_AT + 1, FEATURES))
        pace = slope * time * (1 - time)
    else:
        time = span
    return time, clock, pace


@triton.jit
def _progress(rate, time, MODE: tl.constexpr, EULER_STEPS: tl.constexpr):
    """The share p, and its derivative by ω·t."""
    if MODE == "steady":
        share = tl.zeros_like(rate) + 1
        remains = tl.zeros_like(rate)
    elif MODE == "exact":
        x = rate * time
        remains = tl.exp(-x)
        # 1 - e^{-x} would lose its digits where x is small.
        series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6)))))
        share = tl.where(x < 0.2, series, 1 - remains)
    else:
        stride = rate * (time / EULER_STEPS)
        left = 1 - tl.minimum(stride, 1.0)
        remains = tl.where(stride <= 1, 1.0, 0.0)
        for _ in tl.static_range(EULER_STEPS - 1):
            remains *= left
        power = left
        for _ in tl.static_range(EULER_STEPS - 1):
            power *= left
        share = 1 - power
    return share, remains


@triton.jit
def _grad_pairs(
    grad, target, rate, slope, time, share, remains, start, GATE: tl.constexpr, MODE: tl.constexpr
):  # fmt: skip
    """From ∂a the gradients of what goes into φ and ω, and of t."""
    grad_share = grad * (target / rate - start) * remains
    grad_steady = grad * share / rate
    grad_rate = (grad_share * time - grad_steady * (target / rate)) * slope
    grad_time = grad_share * rate
    if GATE == "affine":
        grad_steady *= target * (1 - target)
    return grad_steady, grad_rate, grad_time


@triton.jit
def _grad_features(
    grad_tile, grad_first, grad_second, grad_target, grad_rate, grad_time, time, span,
    u, w, pair, which, query, key, queries, keys,
    AXIS: tl.constexpr, GATE: tl.constexpr, TIME: tl.constexpr, RATE: tl.constexpr, VECTOR: tl.constexpr,
    RATE_AT: tl.constexpr, SLOPE_AT: tl.constexpr, FEATURES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Adds a tile of pairs to the gradients of queries (AXIS 1) or keys (AXIS 0), (tokens, LANES), and of V and c."""
    lane = tl.arange(0, LANES)
    if GATE == "affine":
        grad_tile += tl.where(lane == VECTOR, 1.0, 0.0)[None, :] * tl.sum(grad_target, AXIS)[:, None]
    elif GATE == "bilinear":
        if AXIS == 1:
            other = _vectors(w, key, keys, VECTOR, FEATURES, LANES) * (VECTOR**-0.5)
            grad_tile = tl.dot(grad_target, other, grad_tile, input_precision=PRECISION)
        else:
            other = _vectors(u, query, queries, VECTOR, FEATURES, LANES) * (VECTOR**-0.5)
            grad_tile = tl.dot(tl.trans(grad_target), other, grad_tile, input_precision=PRECISION)
    else:
        row: tl.constexpr = VECTOR + 1
        pair += which * (row if RATE > 0 else 2 * row)
        for unit in range(VECTOR):
            hidden = tanh(_sum(u, w, query, key, queries, keys, unit, FEATURES))
            grad_hidden = tl.load(pair + unit) * grad_target
            if RATE == 0:
                grad_hidden += tl.load(pair + row + unit) * grad_rate
            here = tl.where(lane == unit, 1.0, 0.0)
            grad_tile += here[None, :] * tl.sum(grad_hidden * (1 - hidden * hidden), AXIS)[:, None]
            if AXIS == 1:
                grad_first += here * tl.sum(grad_target * hidden)
                grad_second += here * tl.sum(grad_rate * hidden)
        if AXIS == 1:
            bias = tl.where(lane == VECTOR, 1.0, 0.0)
            grad_first += bias * tl.sum(grad_target)
            grad_second += bias * tl.sum(grad_rate)
    if RATE_AT >= 0:
        grad_tile += tl.where(lane == RATE_AT, 1.0, 0.0)[None, :] * tl.sum(grad_rate, AXIS)[:, None]
    if TIME == "sigmoid":
        grad_shift = grad_time * time * (1 - time)
        grad_tile += tl.where(lane == SLOPE_AT, 1.0, 0.0)[None, :] * tl.sum(grad_shift * span, AXIS)[:, None]
        grad_tile += tl.where(lane == SLOPE_AT + 1, 1.0, 0.0)[None, :] * tl.sum(grad_shift, AXIS)[:, None]
    return grad_tile, grad_first, grad_second

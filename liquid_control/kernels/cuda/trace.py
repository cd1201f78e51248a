"""The plastic trace on CUDA: chunks of steps as matrix products, forward and backward, float32.

One head of `liquid_control.nn.trace`, whose equations these are. Within a chunk, with l = log λ, g_t = Σ_{r≤t} l_r and
b_t = g_t - l_t, H the trace before the chunk and H' after it, G the last g, and M ∘ keeping only pairs s < t:

    y_t = e^{b_t} H q_t + Σ_s A_ts u_s           A = M ∘ e^{b_t - g_s} q_t·k_s
    H'  = e^G H + Σ_s e^{G - g_s} u_s k_sᵀ
    u_t = η_t v_t                                                                    hebb
    u_t = η_t (v_t - e^{g_t} H k_t - Σ_s L_ts u_s)      L = M ∘ e^{g_t - g_s} k_t·k_s      delta

Backward, ∂ being the gradient of the loss, from the last chunk to the first:

    ∂u = Aᵀ ∂y + e^{G - g} ∘ (k ∂H'ᵀ)                 ∂A = ∂y uᵀ
    ∂q = e^b ∘ (∂y H) + (M ∘ e^{b_t - g_s} ∂A) k       ∂k = (M ∘ e^{b_t - g_s} ∂A)ᵀ q + (e^{G - g} ∘ u) ∂H'
    ∂H = e^G ∂H' + (e^b ∘ ∂y)ᵀ q

and for the delta rule, whose u solves (1 + η L) u = r with r_t = η_t (v_t - e^{g_t} H k_t): (1 + η L)ᵀ ∂r = ∂u. What
stands beside an exponential gives the gradient of its exponent, and ∂l_r = Σ_{t≥r} ∂g_t + Σ_{t>r} ∂b_t. Only
differences of g that are ≤ 0 are exponentiated.

Oja is delta on Hᵀ, with keys and values exchanged, but for reading. So it is two passes: delta, asked at every step for
Hᵀ v, tells p = η (k - λ Hᵀ v), what the step writes under v; then hebb writes v pᵀ, and is asked for H q.

Rows of H (one a value) never meet: a program takes some of them for one head and walks through the chunks with them in
registers. Its shares of ∂q, ∂k, ∂λ and ∂η, which all rows have in common, are added afterwards.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

from liquid_control.kernels import are_plain, is_known, is_recorded, is_traced, is_transformed, use_reference
from liquid_control.kernels.autograd import (
    refuse_derivatives_of_gradients,
    refuse_more_than_gradients,
    refuse_what_was_not_kept,
)

RULES = ("hebb", "oja", "delta")
LARGEST_KEY = 128
"""Width of a key up to which a program keeps its rows of the trace in registers."""
# Three products of tensor-float32 parts: single precision at the speed of the matrix units.
PRECISION = tl.constexpr("tf32x3")


def plastic_trace(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    state: Tensor | None = None,
    rule: str = "hebb",
    chunk: int = 16,
) -> tuple[Tensor, Tensor] | None:
    """What `liquid_control.nn.trace.chunkwise_trace` gives; None where the reference form must run.

    Args:
        q: (B, T, H, K) queries, H heads.
        k: (B, T, H, K) keys.
        v: (B, T, H, V) values.
        decay: (B, T, H) λ in (0, 1].
        rate: (B, T, H) η.
        state: (B, H, V, K) the trace before the first step; None is zero.
        rule: "hebb", "oja" or "delta".
        chunk: steps at a time, a power of two from 16 on. What a program holds grows with its square: beyond 16 it no
            longer fits the registers, and 64 needs the shared memory of an A100 or better.

    Returns:
        y (B, T, H, V) in the dtype of v, and the trace (B, H, V, K) in float32, or None.

    Raises:
        ValueError: if ``chunk`` is not a power of two from 16 on.
    """
    if chunk < 16 or chunk & (chunk - 1):
        raise ValueError(f"chunk is {chunk}, expected a power of two from 16 on.")
    batch, time, heads, width = k.shape
    widest = max(width, v.shape[3]) if rule == "oja" else width
    if v.dtype == torch.float64 or (state is not None and state.dtype == torch.float64):
        use_reference("the trace's CUDA kernel is for float32 and less, not torch.float64")
        return None
    if widest > LARGEST_KEY:
        use_reference(f"the trace's CUDA kernel is for keys of {LARGEST_KEY} or narrower, not {widest}")
        return None
    if time == 0 or not is_known("the trace", "rule", rule, RULES):
        return None
    if state is None:
        state = v.new_zeros(batch, heads, v.shape[3], width, dtype=torch.float32)
    queries, keys, values, decay, rate, state = (part.float() for part in (q, k, v, decay, rate, state))
    if rule == "oja":  # the two passes of the module
        held, _ = _trace(values, values, keys, decay, rate, state.mT, "delta", chunk)
        keys, rate, rule = rate[..., None] * (keys - decay[..., None] * held), torch.ones_like(rate), "hebb"
    y, final = _trace(queries, keys, values, decay, rate, state, rule, chunk)
    return y.to(v.dtype), final


def _trace(*given: Any) -> tuple[Tensor, Tensor]:
    """From q, k, v, λ, η and the trace before, in float32, a rule and a chunk to y and the trace after."""
    tensors = given[:6]
    saving = is_recorded(*tensors)
    if is_traced() or not are_plain(*tensors):
        return operator(*given, saving)[:2]
    return cast(tuple[Tensor, Tensor], _Trace.apply(*given, saving))


class _Trace(torch.autograd.Function):
    """q, k, v, λ, η and the trace before → y and the trace after."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.rule, ctx.chunk, saving = given
        q, k, v, decay, rate, state = (part.contiguous() for part in tensors)
        y, final, begins = _run(q, k, v, decay, rate, state, ctx.rule, ctx.chunk, saving)
        ctx.save_for_backward(q, k, v, decay, rate, begins)
        return y, final

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        refuse_more_than_gradients("the trace", grad_y, grad_final)
        q, k, v, decay, rate, begins = ctx.saved_tensors
        gradients = _run_back(q, k, v, decay, rate, begins, grad_y, grad_final, ctx.rule, ctx.chunk)
        return (*gradients, *[None] * 3)


def _run(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, state: Tensor, rule: str, chunk: int, saving: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of contiguous tensors: y, the trace after, and, if ``saving``, the trace before each chunk."""
    _, time, heads, width = k.shape
    y, final = torch.empty_like(v), torch.empty_like(state)
    begins = state.new_empty(_begins(state, time, chunk, saving))
    with torch.cuda.device_of(v):
        _forward[_grid(v)](
            q,
            k,
            v,
            decay,
            rate,
            state,
            y,
            final,
            begins,
            time,
            heads,
            DELTA=rule == "delta",
            SAVING=saving,
            WIDTH=width,
            VALUES=v.shape[3],
            CHUNK=chunk,
            KEY_LANES=_lanes(width),
            VALUE_LANES=_value_lanes(v),
            num_warps=4,
            num_stages=1,
        )
    return y, final, begins


def _begins(state: Tensor, time: int, chunk: int, saving: bool) -> tuple[int, ...]:
    """The shape of what is saved."""
    return (-(-time // chunk), *state.shape) if saving else (0,)


def _run_back(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    begins: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    rule: str,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, λ, η and the trace before."""
    _, time, heads, width = k.shape
    _, shares = _grid(v)
    grad_q, grad_k = q.new_empty(shares, *q.shape), k.new_empty(shares, *k.shape)
    grad_decay, grad_rate = decay.new_empty(shares, *decay.shape), rate.new_empty(shares, *rate.shape)
    grad_v, grad_state = torch.empty_like(v), torch.empty_like(begins[0])
    with torch.cuda.device_of(v):
        _backward[_grid(v)](
            q,
            k,
            v,
            decay,
            rate,
            begins,
            grad_y.contiguous(),
            grad_final.contiguous(),
            grad_q,
            grad_k,
            grad_v,
            grad_decay,
            grad_rate,
            grad_state,
            time,
            heads,
            DELTA=rule == "delta",
            WIDTH=width,
            VALUES=v.shape[3],
            CHUNK=chunk,
            KEY_LANES=_lanes(width),
            VALUE_LANES=_value_lanes(v),
            num_warps=4,
            num_stages=1,
        )
    return grad_q.sum(0), grad_k.sum(0), grad_v, grad_decay.sum(0), grad_rate.sum(0), grad_state


# Where torch traces


@torch.library.custom_op("liquid_control::trace", mutates_args=())
def operator(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, state: Tensor, rule: str, chunk: int, saving: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`plastic_trace` gives of float32 tensors; third, if ``saving``, what a backward pass needs."""
    q, k, v, decay, rate, state = (part.contiguous() for part in (q, k, v, decay, rate, state))
    return _run(q, k, v, decay, rate, state, rule, chunk, saving)


@operator.register_fake
def _(q, k, v, decay, rate, state, rule, chunk, saving):
    begins = state.new_empty(_begins(state, k.shape[1], chunk, saving))
    return v.new_empty(v.shape), state.new_empty(state.shape), begins


@torch.library.custom_op("liquid_control::trace_backward", mutates_args=())
def _operator_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    begins: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    rule: str,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v, decay, rate = (part.contiguous() for part in (q, k, v, decay, rate))
    return _run_back(q, k, v, decay, rate, begins, grad_y, grad_final, rule, chunk)


@_operator_backward.register_fake
def _(q, k, v, decay, rate, begins, grad_y, grad_final, rule, chunk):
    return tuple(part.new_empty(part.shape) for part in (q, k, v, decay, rate, grad_final))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, ctx.rule, ctx.chunk, ctx.saving = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, grad_y: Tensor, grad_final: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    refuse_derivatives_of_gradients("the trace", grad_y, grad_final, vectorised=is_transformed())
    refuse_what_was_not_kept("the trace", ctx.saving)
    return (*_operator_backward(*ctx.saved_tensors, grad_y, grad_final, ctx.rule, ctx.chunk), *[None] * 3)


operator.register_autograd(_differentiate, setup_context=_remember)


def _grid(v: Tensor) -> tuple[int, int]:
    """A program for each head of each sequence, and for each of its blocks of values."""
    batch, _, heads, values = v.shape
    return batch * heads, triton.cdiv(values, _value_lanes(v))


def _lanes(width: int) -> int:
    """Columns of a tile; 16 is the least that a matrix unit takes."""
    return max(16, triton.next_power_of_2(width))


def _value_lanes(v: Tensor) -> int:
    """Values of a program: few, so that there are many programs."""
    return min(32, _lanes(v.shape[3]))


@triton.jit
def _forward(
    q,
    k,
    v,
    decay,
    rate,
    state,
    y,
    final,
    begins,
    time,
    heads,
    DELTA: tl.constexpr,
    SAVING: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    KEY_LANES: tl.constexpr,
    VALUE_LANES: tl.constexpr,
):
    """All chunks of a head's block of values; the trace at the begin of each chunk is kept for the backward."""
    head = tl.program_id(0).to(tl.int64)
    key = tl.arange(0, KEY_LANES)[None, :]
    value = tl.program_id(1) * VALUE_LANES + tl.arange(0, VALUE_LANES)
    trace_at, trace_here = _trace_tile(head, value, key, WIDTH, VALUES)
    trace = tl.load(state + trace_at, trace_here, 0.0)
    for first in range(0, time, CHUNK):
        if SAVING:
            place = (first // CHUNK) * tl.num_programs(0) * (VALUES * WIDTH)
            tl.store(begins + place + trace_at, trace, trace_here)
        row, here = _rows(head, first, time, heads, CHUNK)
        keyed, valued = here & (key < WIDTH), here & (value < VALUES)[None, :]
        queries = tl.load(q + row * WIDTH + key, keyed, 0.0)
        keys = tl.load(k + row * WIDTH + key, keyed, 0.0)
        values = tl.load(v + row * VALUES + value[None, :], valued, 0.0)
        before, after, whole, _lam = _decays(decay, row, here, CHUNK)
        writes, _held, _overlap = _writes(keys, values, tl.load(rate + row, here, 0.0), after, trace, DELTA, CHUNK)
        scores = _since(before, after, CHUNK) * tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        recalled = tl.exp(before) * tl.dot(queries, tl.trans(trace), input_precision=PRECISION)
        recalled = tl.dot(scores, writes, recalled, input_precision=PRECISION)
        tl.store(y + row * VALUES + value[None, :], recalled, valued)
        left = tl.exp(whole - after) * writes
        trace = tl.dot(tl.trans(left), keys, tl.exp(whole) * trace, input_precision=PRECISION)
    tl.store(final + trace_at, trace, trace_here)


@triton.jit
def _backward(
    q,
    k,
    v,
    decay,
    rate,
    begins,
    grad_y,
    grad_final,
    grad_q,
    grad_k,
    grad_v,
    grad_decay,
    grad_rate,
    grad_state,
    time,
    heads,
    DELTA: tl.constexpr,
    WIDTH: tl.constexpr,
    VALUES: tl.constexpr,
    CHUNK: tl.constexpr,
    KEY_LANES: tl.constexpr,
    VALUE_LANES: tl.constexpr,
):
    """All chunks of a head's block of values from the last to the first; names as in the module."""
    head = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1).to(tl.int64) * tl.num_programs(0) * time  # of the gradients that all values share
    key = tl.arange(0, KEY_LANES)[None, :]
    value = tl.program_id(1) * VALUE_LANES + tl.arange(0, VALUE_LANES)
    trace_at, trace_here = _trace_tile(head, value, key, WIDTH, VALUES)
    grad_trace = tl.load(grad_final + trace_at, trace_here, 0.0)
    chunks = tl.cdiv(time, CHUNK)
    for back in range(chunks):
        chunk = chunks - 1 - back
        trace = tl.load(begins + chunk * tl.num_programs(0) * (VALUES * WIDTH) + trace_at, trace_here, 0.0)
        row, here = _rows(head, chunk * CHUNK, time, heads, CHUNK)
        keyed, valued = here & (key < WIDTH), here & (value < VALUES)[None, :]
        queries = tl.load(q + row * WIDTH + key, keyed, 0.0)
        keys = tl.load(k + row * WIDTH + key, keyed, 0.0)
        values = tl.load(v + row * VALUES + value[None, :], valued, 0.0)
        grad = tl.load(grad_y + row * VALUES + value[None, :], valued, 0.0)
        eta = tl.load(rate + row, here, 0.0)
        before, after, whole, lam = _decays(decay, row, here, CHUNK)
        writes, held, overlap = _writes(keys, values, eta, after, trace, DELTA, CHUNK)

        ratio = _since(before, after, CHUNK)
        scores = ratio * tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        grad_scores = tl.dot(grad, tl.trans(writes), input_precision=PRECISION)
        grad_pairs = ratio * grad_scores
        read = tl.exp(before) * grad
        recalled = tl.dot(queries, tl.trans(trace), input_precision=PRECISION)
        left = tl.exp(whole - after) * writes
        taken = tl.exp(whole - after) * tl.dot(keys, tl.trans(grad_trace), input_precision=PRECISION)

        grad_writes = tl.dot(tl.trans(scores), grad, taken, input_precision=PRECISION)
        grad_queries = tl.dot(read, trace, input_precision=PRECISION)
        grad_queries = tl.dot(grad_pairs, keys, grad_queries, input_precision=PRECISION)
        grad_keys = tl.dot(tl.trans(grad_pairs), queries, input_precision=PRECISION)
        grad_keys = tl.dot(left, grad_trace, grad_keys, input_precision=PRECISION)

        # Exponents: of the pairs, of what is read, and of what lasts until the chunk's end.
        pairs = scores * grad_scores
        lasting = tl.sum(writes * taken, 1)[:, None]
        grad_before = tl.sum(pairs, 1)[:, None] + tl.sum(read * recalled, 1)[:, None]
        grad_after = -tl.sum(pairs, 0)[:, None] - lasting
        grad_whole = tl.sum(lasting) + tl.sum(tl.exp(whole) * grad_trace * trace)

        grad_trace = tl.dot(tl.trans(read), queries, tl.exp(whole) * grad_trace, input_precision=PRECISION)
        if DELTA:
            grad_right = _solve_transposed(eta * overlap, grad_writes, CHUNK)
            grad_overlap = -tl.dot(grad_right, tl.trans(writes), input_precision=PRECISION)
            pairs = overlap * grad_overlap
            grad_eta = tl.sum(grad_right * (values - held), 1)[:, None] + tl.sum(pairs, 1)[:, None]
            grad_values = eta * grad_right
            pairs = eta * pairs
            grad_after += tl.sum(pairs, 1)[:, None] - tl.sum(pairs, 0)[:, None]
            grad_after -= tl.sum(grad_values * held, 1)[:, None]
            grad_pairs = eta * _since(after, after, CHUNK) * grad_overlap
            grad_keys = tl.dot(grad_pairs + tl.trans(grad_pairs), keys, grad_keys, input_precision=PRECISION)
            grad_held = -tl.exp(after) * grad_values
            grad_keys = tl.dot(grad_held, trace, grad_keys, input_precision=PRECISION)
            grad_trace = tl.dot(tl.trans(grad_held), keys, grad_trace, input_precision=PRECISION)
        else:
            grad_eta = tl.sum(grad_writes * values, 1)[:, None]
            grad_values = eta * grad_writes

        grad_log = _summed(grad_before + grad_after, True, CHUNK) - grad_before + grad_whole
        to = share + row
        tl.store(grad_q + to * WIDTH + key, grad_queries, keyed)
        tl.store(grad_k + to * WIDTH + key, grad_keys, keyed)
        tl.store(grad_v + row * VALUES + value[None, :], grad_values, valued)
        tl.store(grad_decay + to, grad_log / lam, here)
        tl.store(grad_rate + to, grad_eta, here)
    tl.store(grad_state + trace_at, grad_trace, trace_here)


@triton.jit
def _trace_tile(head, value, key, WIDTH: tl.constexpr, VALUES: tl.constexpr):
    """Where a block of rows of a head's trace stands, and which of it is there."""
    at = (head * VALUES + value[:, None]) * WIDTH + key
    return at, (value < VALUES)[:, None] & (key < WIDTH)


@triton.jit
def _rows(head, first, time, heads, CHUNK: tl.constexpr):
    """The place (CHUNK, 1) of a chunk's steps in (batch, time, heads), and which of them are there."""
    step = first + tl.arange(0, CHUNK)[:, None]
    return ((head // heads) * time + step) * heads + head % heads, step < time


@triton.jit
def _decays(decay, row, here, CHUNK: tl.constexpr):
    """Of each step b and g, (CHUNK, 1), then G, and λ; as in the module."""
    lam = tl.maximum(tl.load(decay + row, here, 1.0), 1.1754944e-38)
    log = tl.log(lam)
    after = _summed(log, False, CHUNK)
    return after - log, after, tl.sum(log), lam


@triton.jit
def _summed(terms, LATER: tl.constexpr, CHUNK: tl.constexpr):
    """(CHUNK, 1): the sum of terms up to each step, or from it on; `tl.cumsum` of so few rows fails in Triton 3.6."""
    step = tl.arange(0, CHUNK)
    among = (step[None, :] >= step[:, None]) if LATER else (step[None, :] <= step[:, None])
    return tl.sum(tl.where(among, tl.trans(terms), 0.0), 1)[:, None]


@triton.jit
def _since(reading, writing, CHUNK: tl.constexpr):
    """(CHUNK, CHUNK): e^{reading_t - writing_s} where s < t, 0 elsewhere."""
    step = tl.arange(0, CHUNK)
    earlier = step[None, :] < step[:, None]
    return tl.where(earlier, tl.exp(tl.where(earlier, reading - tl.trans(writing), 0.0)), 0.0)


@triton.jit
def _writes(keys, values, eta, after, trace, DELTA: tl.constexpr, CHUNK: tl.constexpr):
    """u; for the delta rule also e^g H k, what the trace held under each key, and L."""
    writes = eta * values
    held = values
    overlap = values
    if DELTA:
        held = tl.exp(after) * tl.dot(keys, tl.trans(trace), input_precision=PRECISION)
        overlap = _since(after, after, CHUNK) * tl.dot(keys, tl.trans(keys), input_precision=PRECISION)
        writes = _solve(eta * overlap, writes - eta * held, CHUNK)
    return writes, held, overlap


@triton.jit
def _solve(lower, right, CHUNK: tl.constexpr):
    """The u of (1 + lower) u = right, row after row; powers of ``lower`` would be faster and can lose every digit."""
    step = tl.arange(0, CHUNK)
    for at in range(1, CHUNK):
        row = tl.sum(tl.where(step[:, None] == at, lower, 0.0), 0)
        known = tl.sum(row[:, None] * right, 0)
        right = tl.where(step[:, None] == at, right - known[None, :], right)
    return right


@triton.jit
def _solve_transposed(lower, right, CHUNK: tl.constexpr):
    """The u of (1 + lowerᵀ) u = right, from the last row to the first."""
    step = tl.arange(0, CHUNK)
    for back in range(1, CHUNK):
        at = CHUNK - 1 - back
        column = tl.sum(tl.where(step[None, :] == at, lower, 0.0), 1)
        known = tl.sum(column[:, None] * right, 0)
        right = tl.where(step[:, None] == at, right - known[None, :], right)
    return right

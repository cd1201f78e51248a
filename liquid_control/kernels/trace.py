"""The plastic trace on the CPU: step by step, each head in cache, as an operator of torch with a backward pass.

The equations are in `liquid_control.nn.trace`. Where chunks of C steps are matrix products, a step costs 6 K V products
for the trace and 7 C K for the others of its chunk; one after another, steps cost the first alone, and the trace of a
head lies in the nearest cache meanwhile. With G_t the gradient of H_t, what later steps do to it included, and
e_t = v_t - λ_t H_{t-1} k_t:

    H_t = λ H_{t-1} + η e kᵀ                                 G_{t-1} = λ G + ∂y qᵀ - λ ∂e kᵀ
    ∂e = ∂v = η G k,    ∂k = η Gᵀ e - λ Hᵀ_{t-1} ∂e,    ∂q = Hᵀ_{t-1} ∂y
    ∂η = e · G k,       ∂λ = Σ G ∘ H_{t-1} - ∂e · H_{t-1} k

A row of H is a value; it needs nothing of the other rows. For hebb e = v, and the terms with λ ∂e are not there. Oja is
delta on Hᵀ, keys and values exchanged: it writes η (k - λ Hᵀ v) under v. Only reading differs: y sums rows, times q.

The forward pass keeps the trace of every :data:`STRETCH` th step; the backward pass computes those in between again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels import is_transformed
from liquid_control.kernels.autograd import refuse_derivatives_of_gradients
from liquid_control.kernels.batch import Buffer, fetch, new_tile, over_blocks
from liquid_control.kernels.fast_math import OPTIONS, kernel_part
from liquid_control.kernels.simd import LANES, fill, load, store, total

STRETCH = 16
"""Steps whose traces the backward pass has at once: in the second cache, of heads of a hundred keys and values. Fewer
steps would be more traces to keep, and time goes by in waiting for memory."""


@torch.library.custom_op("liquid_control::plastic_trace", mutates_args=(), device_types="cpu")
def plastic_trace(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, state: Tensor, rule: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `liquid_control.nn.trace.plastic_trace` gives, with first derivatives by all tensors.

    Args:
        q: (B, T, H, K), float32 or float64 on the CPU, as are all.
        k: (B, T, H, K).
        v: (B, T, H, V).
        decay: (B, T, H).
        rate: (B, T, H).
        state: (B, H, V, K).
        rule: "hebb", "oja" or "delta".

    Returns:
        y (B, T, H, V), the trace (B, H, V, K) after the last step, and two tensors that the backward pass needs: the
        traces before each stretch, and H_{t-1} k_t, or H_{t-1}ᵀ v_t for oja.
    """
    across, corrects = rule == "oja", rule != "hebb"
    query, address, content, kept, written, trace = _arrays(rule, q, k, v, decay, rate, state)
    y, shape = torch.empty_like(v, memory_format=torch.contiguous_format), _kept(k, v, rule)
    marks = Buffer(math.prod(shape), trace.dtype).as_tensor().view(shape)
    final, held = np.empty_like(trace), np.empty_like(content)
    given = query, address, content, kept, written, trace, across, corrects
    over_blocks(_forward, trace[..., 0, 0].size, _work(k, v), *given, y.numpy(), final, marks.numpy(), held)
    final = final.swapaxes(2, 3).copy() if across else final
    return y, torch.from_numpy(final), marks, torch.from_numpy(held)


@plastic_trace.register_fake
def _(q, k, v, decay, rate, state, rule):
    final = torch.empty_like(state, memory_format=torch.contiguous_format)
    y, held = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in (v, k if rule == "oja" else v))
    return y, final, state.new_empty(_kept(k, v, rule)), held


@torch.library.custom_op("liquid_control::plastic_trace_backward", mutates_args=(), device_types="cpu")
def _plastic_trace_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    marks: Tensor,
    held: Tensor,
    rule: str,
    of_y: Tensor,
    of_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, decay, rate and state from those of y and of the last trace."""
    across, corrects = rule == "oja", rule != "hebb"
    query, address, content, kept, written, of_trace = _arrays(rule, q, k, v, decay, rate, of_final)
    results = [np.empty_like(part) for part in (query, address, content, kept, written, of_trace)]
    given = query, address, content, kept, written, across, corrects, marks.numpy(), held.numpy()
    upstream = of_y.detach().contiguous().numpy(), of_trace
    over_blocks(_backward, of_trace[..., 0, 0].size, 4 * _work(k, v), *given, *upstream, *results)
    of_q, of_address, of_content, of_decay, of_rate, of_state = results
    if across:
        of_address, of_content, of_state = of_content, of_address, of_state.swapaxes(2, 3).copy()
    gradients = of_q, of_address, of_content, of_decay, of_rate, of_state
    one, two, three, four, five, six = (torch.from_numpy(gradient) for gradient in gradients)
    return one, two, three, four, five, six


@_plastic_trace_backward.register_fake
def _(q, k, v, decay, rate, marks, held, rule, of_y, of_final):
    of_inputs = (part.new_empty(part.shape) for part in (q, k, v, decay, rate, of_final))
    one, two, three, four, five, six = of_inputs
    return one, two, three, four, five, six


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.rule = inputs
    ctx.set_materialize_grads(False)  # zeros for the traces that are kept would cost as much as a tenth of the rest
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors[:-1], *output[2:])


def _differentiate(ctx: Any, of_y: Tensor | None, of_final: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: checkpoints of activations give it a single time
    q, _, v, *_ = saved
    of_y = torch.zeros_like(v) if of_y is None else of_y
    of_final = v.new_zeros(len(v), *v.shape[2:], q.shape[3]) if of_final is None else of_final
    refuse_derivatives_of_gradients("the plastic trace", of_y, of_final, vectorised=is_transformed())
    return (*_plastic_trace_backward(*saved, ctx.rule, of_y, of_final), None)


plastic_trace.register_autograd(_differentiate, setup_context=_remember)


def _arrays(rule: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, trace: Tensor) -> list[np.ndarray]:
    """Query, address, content, λ, η, and a trace whose rows are what is written under addresses."""
    address, content, trace = (v, k, trace.mT) if rule == "oja" else (k, v, trace)
    return [part.detach().contiguous().numpy() for part in (q, address, content, decay, rate, trace)]


def _kept(k: Tensor, v: Tensor, rule: str) -> tuple[int, int, int, int]:
    """The shape of what the backward pass needs: traces (B, H, stretches, numbers)."""
    batch, steps, heads, _ = k.shape
    rows, width = (k.shape[3], v.shape[3]) if rule == "oja" else (v.shape[3], k.shape[3])
    return batch, heads, -(-steps // STRETCH), rows * (-(-width // LANES) * LANES)


def _work(k: Tensor, v: Tensor) -> int:
    """Of a forward pass, as :func:`over_blocks` counts it: sixteen products of the trace are an elementary function."""
    return k.numel() * v.shape[3] // 16


@kernel_part
def _fetch_rows(source, tile, width):
    """A matrix into a tile, ``width`` numbers from row to row; those behind its own stay as they are."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            tile[i * width + j] = source[i, j]


@kernel_part
def _leave_rows(tile, width, target):
    """The reverse of :func:`_fetch_rows`."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = tile[i * width + j]


@njit(cache=True, nogil=True, **OPTIONS)
def _forward(first, last, query, address, content, decay, rate, state, across, corrects, y, final, marks, held_before):
    steps, heads, width = address.shape[1:]
    rows, blocks = content.shape[3], (width + LANES - 1) // LANES
    trace, under = new_tile(rows * blocks, state), new_tile(blocks, state)
    asked, heard, scales = new_tile(blocks, state), new_tile(blocks, state), np.empty(rows, state.dtype)
    trace[:], under[:], asked[:] = 0, 0, 0
    zero = state.dtype.type(0)
    for item in range(first, last):
        row, head = item // heads, item % heads
        _fetch_rows(state[row, head], trace, blocks * LANES)
        for step in range(steps):
            if step % STRETCH == 0:
                mark = marks[row, head, step // STRETCH]
                for i in range(rows * blocks):
                    store(mark, i, load(trace, i))
            values, outputs, asks = content[row, step, head], y[row, step, head], query[row, step, head]
            held = held_before[row, step, head]
            kept, written = decay[row, step, head], rate[row, step, head]
            fetch(address[row, step, head], under, 0)
            if not across:
                fetch(asks, asked, 0)
            for i in range(rows):
                sums, read = fill(zero), fill(zero)
                for c in range(blocks):
                    part = load(trace, i * blocks + c)
                    sums += part * load(under, c)
                    read += part * load(asked, c)
                held[i] = total(sums)
                scales[i] = written * (values[i] - kept * held[i]) if corrects else written * values[i]
                if not across:
                    outputs[i] = total(read)
            for c in range(blocks):
                lanes, read = load(under, c), fill(zero)
                for i in range(rows):
                    part = load(trace, i * blocks + c)
                    if across:
                        read += asks[i] * part
                    store(trace, i * blocks + c, kept * part + scales[i] * lanes)
                store(heard, c, read)
            if across:
                for i in range(width):
                    outputs[i] = heard[i]
        _leave_rows(trace, blocks * LANES, final[row, head])


@njit(cache=True, nogil=True, **OPTIONS)
def _backward(
    first,
    last,
    query,
    address,
    content,
    decay,
    rate,
    across,
    corrects,
    marks,
    held_before,
    of_y,
    of_final,
    of_query,
    of_address,
    of_content,
    of_decay,
    of_rate,
    of_state,
):
    steps, heads, width = address.shape[1:]
    rows, blocks = content.shape[3], (width + LANES - 1) // LANES
    traces, of_trace = new_tile(STRETCH * rows * blocks, of_final), new_tile(rows * blocks, of_final)
    under, along = new_tile(blocks, of_final), new_tile(blocks, of_final)
    of_under, of_asked = new_tile(blocks, of_final), new_tile(blocks, of_final)
    errors = np.empty((STRETCH, rows), of_final.dtype)
    scales, forgone = np.empty(rows, of_final.dtype), np.empty(rows, of_final.dtype)
    of_trace[:], under[:], along[:] = 0, 0, 0
    zero = of_final.dtype.type(0)
    for item in range(first, last):
        row, head = item // heads, item % heads
        _fetch_rows(of_final[row, head], of_trace, blocks * LANES)
        for stretch in range((steps - 1) // STRETCH, -1, -1):
            begin, count = stretch * STRETCH, min(STRETCH, steps - stretch * STRETCH)
            mark = marks[row, head, stretch]
            for i in range(rows * blocks):
                store(traces, i, load(mark, i))
            for s in range(count):
                step = begin + s
                kept, written = decay[row, step, head], rate[row, step, head]
                for i in range(rows):
                    errors[s, i] = content[row, step, head, i]
                    if corrects:
                        errors[s, i] -= kept * held_before[row, step, head, i]
                    scales[i] = written * errors[s, i]
                if s + 1 < count:
                    fetch(address[row, step, head], under, 0)
                    for c in range(blocks):
                        lanes = load(under, c)
                        for i in range(rows):
                            here = (s * rows + i) * blocks + c
                            store(traces, here + rows * blocks, kept * load(traces, here) + scales[i] * lanes)
            for s in range(count - 1, -1, -1):
                step = begin + s
                kept, written = decay[row, step, head], rate[row, step, head]
                # What the gradient of the trace gets from reading is an outer product: of rows and of what is along.
                if across:
                    by_row, by_lane = query[row, step, head], of_y[row, step, head]
                else:
                    by_row, by_lane = of_y[row, step, head], query[row, step, head]
                fetch(address[row, step, head], under, 0)
                fetch(by_lane, along, 0)
                overlap, of_kept, of_written = fill(zero), zero, zero
                for i in range(rows):
                    sums = fill(zero)
                    for c in range(blocks):
                        sums += load(of_trace, i * blocks + c) * load(under, c)
                    of_value = total(sums)
                    of_written += errors[s, i] * of_value
                    of_value *= written
                    of_content[row, step, head, i] = of_value
                    scales[i], forgone[i] = written * errors[s, i], zero
                    if corrects:
                        of_kept -= of_value * held_before[row, step, head, i]
                        forgone[i] = kept * of_value
                for c in range(blocks):
                    address_lanes, reading_lanes = load(under, c), load(along, c)
                    gained, lost, asks = fill(zero), fill(zero), fill(zero)
                    for i in range(rows):
                        part, wanted = load(traces, (s * rows + i) * blocks + c), load(of_trace, i * blocks + c)
                        overlap += part * wanted
                        gained += scales[i] * wanted
                        lost += forgone[i] * part
                        asks += by_row[i] * part
                        wanted = kept * wanted + by_row[i] * reading_lanes - forgone[i] * address_lanes
                        store(of_trace, i * blocks + c, wanted)
                    store(of_under, c, gained - lost)
                    store(of_asked, c, asks)
                if across:
                    for i in range(rows):
                        sums = fill(zero)
                        for c in range(blocks):
                            sums += load(traces, (s * rows + i) * blocks + c) * load(along, c)
                        of_query[row, step, head, i] = total(sums)
                of_decay[row, step, head] = of_kept + total(overlap)
                of_rate[row, step, head] = of_written
                for j in range(width):
                    of_address[row, step, head, j] = of_under[j]
                if not across:
                    for j in range(width):
                        of_query[row, step, head, j] = of_asked[j]
        _leave_rows(of_trace, blocks * LANES, of_state[row, head])

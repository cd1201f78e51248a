"""A plastic trace that keys and values write from outside: a fast-weight memory, equal to decayed linear attention.

Heads of a V × K matrix H, written under keys k with values v, read by queries q (Schlag et al. 2021, "Linear
transformers are secretly fast weight programmers"; gated delta rule: Yang et al. 2024; the subspace rule of Oja 1989):

    y_t = H_{t-1} q_t
    hebb    H_t = λ_t H_{t-1} + η_t v_t k_tᵀ
    oja     H_t = λ_t H_{t-1} + η_t v_t (k_t - λ_t H_{t-1}ᵀ v_t)ᵀ
    delta   H_t = λ_t H_{t-1} + η_t (v_t - λ_t H_{t-1} k_t) k_tᵀ

Delta replaces what is stored under a key. Oja, with an error on the other side, forgets along the value that it writes:
what led to that value before. For a single value it is the rule of Oja 1982, λ H + η v (k - v λ H).

A trace is read before it is written, as in `liquid_control.nn.plastic`; kernels of linear attention write first, which
is this read one step later. A synapse matrix W + α ∘ H with α = u aᵀ of rank one is such a head: u ∘ y with queries
a ∘ x; a sum of such heads is α of any rank.

Two forms, equal in value: step by step, to read, and in chunks, where all steps of a chunk are matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from liquid_control.kernels import is_operable, kernel_device, reference_is_chosen

RULES = ("hebb", "oja", "delta")


def plastic_trace(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, state: Tensor | None = None, rule: str = "hebb"
) -> tuple[Tensor, Tensor]:
    """The trace, step by step.

    With 0 ≤ rate ≤ 1 the delta rule never makes a trace grow if ‖k‖ ≤ 1, and the oja rule if ‖v‖ ≤ 1. A step with decay
    1 and rate 0 is no step.

    Args:
        q: (B, T, H, K) queries, H heads.
        k: (B, T, H, K) keys.
        v: (B, T, H, V) values.
        decay: (B, T, H) λ in (0, 1], how much of the trace a step leaves.
        rate: (B, T, H) η, how much it writes.
        state: (B, H, V, K) the trace before the first step; None is zero.
        rule: "hebb", "oja" or "delta".

    Returns:
        y (B, T, H, V) in the dtype of v, and the trace (B, H, V, K) after the last step, in float32 at least.

    Raises:
        ValueError: if the rule is unknown or a shape does not fit.
    """
    state = _checked(q, k, v, decay, rate, state, rule)
    recalled = []
    for query, key, value, kept, written in zip(
        *(part.to(state.dtype).unbind(1) for part in (q, k, v, decay, rate)), strict=True
    ):
        recalled.append((state @ query[..., None])[..., 0])
        state = kept[..., None, None] * state
        if rule == "delta":
            value = value - (state @ key[..., None])[..., 0]
        elif rule == "oja":
            key = key - (state.mT @ value[..., None])[..., 0]
        state = state + written[..., None, None] * value[..., :, None] * key[..., None, :]
    return (torch.stack(recalled, 1).to(v.dtype) if recalled else torch.zeros_like(v)), state


def chunkwise_trace(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    state: Tensor | None = None,
    rule: str = "hebb",
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """What :func:`plastic_trace` gives, exactly, ``chunk`` steps at a time.

    With g_t = Σ log λ up to step t of a chunk, H the trace before it and u_s p_sᵀ what step s writes:

        y_t = e^{g_{t-1}} H q_t + Σ_{s<t} e^{g_{t-1} - g_s} (p_s · q_t) u_s
        u_t = η_t v_t                                                             p_t = k_t      hebb
        u_t = η_t (v_t - e^{g_t} H k_t - Σ_{s<t} e^{g_t - g_s} (k_s · k_t) u_s)   p_t = k_t      delta
        p_t = η_t (k_t - e^{g_t} Hᵀ v_t - Σ_{s<t} e^{g_t - g_s} (v_s · v_t) p_s)  u_t = v_t      oja

    The last two are triangular systems: the WY form of Yang et al. 2024, with decay. Only differences of g that are ≤ 0
    are ever exponentiated, so strong decay cannot overflow; the gradient of a decay below a thousandth loses digits,
    because it comes through the logarithm.
    """
    state = _checked(q, k, v, decay, rate, state, rule)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected at least 1 step.")
    given = q, k, v, decay, rate, state
    if kernel_device(q) == "cuda" or (not reference_is_chosen() and is_operable(*given, device="cuda")):
        from liquid_control.kernels.cuda import trace  # Triton is optional

        outcome = trace.plastic_trace(*given, rule)
        if outcome is not None:
            return outcome
    heads_first = (part.to(state.dtype).transpose(1, 2) for part in (q, k, v, decay, rate))
    recalled = []
    for query, key, value, kept, written in zip(*(part.split(chunk, 2) for part in heads_first), strict=True):
        log_decay = kept.clamp(min=torch.finfo(kept.dtype).tiny).log()
        after = log_decay.cumsum(-1)
        before = after - log_decay
        post, pre = value, key
        if rule == "oja":
            pre = _errors(key, value, state, after, written)
        elif rule == "delta":
            post = _errors(value, key, state.mT, after, written)
        else:
            post = written[..., None] * value
        scores = since(before, after) * (query @ pre.mT)
        recalled.append(before.exp()[..., None] * (query @ state.mT) + scores @ post)
        last = after[..., -1:]
        state = last.exp()[..., None] * state + ((last - after).exp()[..., None] * post).mT @ pre
    return (torch.cat(recalled, 2).transpose(1, 2).to(v.dtype) if recalled else torch.zeros_like(v)), state


def _errors(content: Tensor, address: Tensor, memory: Tensor, after: Tensor, written: Tensor) -> Tensor:
    """What the steps of a chunk write under their addresses: η times what is not there yet of their contents.

    Args:
        content: (…, C, N).
        address: (…, C, M).
        memory: (…, M, N) the trace before the chunk, by address.
        after: (…, C) g of each step.
        written: (…, C) η.
    """
    held = after.exp()[..., None] * (address @ memory)
    overlap = since(after, after) * (address @ address.mT)
    rate = written[..., None]
    return torch.linalg.solve_triangular(rate * overlap, rate * (content - held), upper=False, unitriangular=True)


def since(reading: Tensor, writing: Tensor) -> Tensor:
    """(…, C, C): what is left at step t of what step s < t wrote, e^{reading_t - writing_s}; 0 from s = t on."""
    difference = reading[..., :, None] - writing[..., None, :]
    earlier = torch.ones_like(difference, dtype=torch.bool).tril(-1)
    return torch.where(earlier, difference, -torch.inf).exp()


def _checked(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, state: Tensor | None, rule: str) -> Tensor:
    """The state to begin with, after a look at all shapes."""
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}, expected one of {RULES}.")
    if k.dim() != 4 or v.dim() != 4:
        raise ValueError(
            f"k and v have shapes {tuple(k.shape)} and {tuple(v.shape)}, expected (batch, time, heads, width)."
        )
    batch, time, heads, width = k.shape
    for name, given, expected in (
        ("q", q, (batch, time, heads, width)),
        ("v", v, (batch, time, heads, v.shape[3])),
        ("decay", decay, (batch, time, heads)),
        ("rate", rate, (batch, time, heads)),
    ):
        if given.shape != expected:
            raise ValueError(f"{name} has shape {tuple(given.shape)}, expected {expected}.")
    shape = (batch, heads, v.shape[3], width)
    if state is None:
        return torch.zeros(shape, dtype=torch.promote_types(v.dtype, torch.float32), device=v.device)
    if state.shape != shape:
        raise ValueError(f"state has shape {tuple(state.shape)}, expected {shape}.")
    return state.to(torch.promote_types(state.dtype, torch.float32))

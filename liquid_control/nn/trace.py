"""A plastic trace that keys and values write from outside: a fast-weight memory, equal to decayed linear attention.

Heads of a V × K matrix H, written under keys k with values v, read by queries q (Schlag et al. 2021, "Linear
transformers are secretly fast weight programmers"; gated delta rule: Yang et al. 2024):

    y_t = H_{t-1} q_t
    hebb    H_t = λ_t H_{t-1} + η_t v_t k_tᵀ
    delta   H_t = λ_t H_{t-1} + η_t (v_t - λ_t H_{t-1} k_t) k_tᵀ

A trace is read before it is written, as in `liquid_control.nn.plastic`; kernels of linear attention write first, which
is this read one step later. A synapse matrix W + α ∘ H with α = u aᵀ of rank one is such a head: u ∘ y with queries
a ∘ x; a sum of such heads is α of any rank.

Two forms, equal in value: step by step, to read, and in chunks, where all steps of a chunk are matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from liquid_control.kernels import kernel_device

RULES = ("hebb", "delta")


def plastic_trace(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, state: Tensor | None = None, rule: str = "hebb"
) -> tuple[Tensor, Tensor]:
    """The trace, step by step.

    With ‖k‖ ≤ 1 and 0 ≤ rate ≤ 1 the delta rule never makes a trace grow. A step with decay 1 and rate 0 is no step.

    Args:
        q: (B, T, H, K) queries, H heads.
        k: (B, T, H, K) keys.
        v: (B, T, H, V) values.
        decay: (B, T, H) λ in (0, 1], how much of the trace a step leaves.
        rate: (B, T, H) η, how much it writes.
        state: (B, H, V, K) the trace before the first step; None is zero.
        rule: "hebb" or "delta".

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
        state = state + written[..., None, None] * value[..., :, None] * key[..., None, :]
    return _stacked(recalled, v), state


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

    With g_t = Σ log λ up to step t of a chunk, H the trace before it and u_s what step s writes under its key:

        y_t = e^{g_{t-1}} H q_t + Σ_{s<t} e^{g_{t-1} - g_s} (k_s · q_t) u_s
        u_t = η_t v_t                                                                            hebb
        u_t = η_t (v_t - e^{g_t} H k_t - Σ_{s<t} e^{g_t - g_s} (k_s · k_t) u_s)                  delta

    The second u is a triangular system. Only differences of g that are ≤ 0 are ever exponentiated, so strong decay
    cannot overflow; the gradient of a decay below a thousandth loses digits, because it comes through the logarithm.
    """
    state = _checked(q, k, v, decay, rate, state, rule)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}, expected at least 1 step.")
    if kernel_device(q) == "cuda":
        from liquid_control.kernels.cuda import trace  # Triton is optional

        outcome = trace.plastic_trace(q, k, v, decay, rate, state, rule)
        if outcome is not None:
            return outcome
    heads_first = (part.to(state.dtype).transpose(1, 2) for part in (q, k, v, decay, rate))
    recalled = []
    for query, key, value, kept, written in zip(*(part.split(chunk, 2) for part in heads_first), strict=True):
        log_decay = kept.clamp(min=torch.finfo(kept.dtype).tiny).log()
        after = log_decay.cumsum(-1)
        before = after - log_decay
        writes = written[..., None] * value
        if rule == "delta":
            held = after.exp()[..., None] * (key @ state.mT)
            overlap = _since(after, after) * (key @ key.mT)
            writes = torch.linalg.solve_triangular(
                written[..., None] * overlap, writes - written[..., None] * held, upper=False, unitriangular=True
            )
        scores = _since(before, after) * (query @ key.mT)
        recalled.append(before.exp()[..., None] * (query @ state.mT) + scores @ writes)
        last = after[..., -1:]
        state = last.exp()[..., None] * state + ((last - after).exp()[..., None] * writes).mT @ key
    return _stacked([part for whole in recalled for part in whole.unbind(2)], v), state


def _since(reading: Tensor, writing: Tensor) -> Tensor:
    """(…, C, C): what is left at step t of what step s < t wrote, e^{reading_t - writing_s}; 0 from s = t on."""
    difference = reading[..., :, None] - writing[..., None, :]
    earlier = torch.ones_like(difference, dtype=torch.bool).tril(-1)
    return torch.where(earlier, difference, -torch.inf).exp()


def _stacked(recalled: list[Tensor], v: Tensor) -> Tensor:
    return torch.stack(recalled, 1).to(v.dtype) if recalled else torch.zeros_like(v)


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

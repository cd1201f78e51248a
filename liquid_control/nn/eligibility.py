"""A plastic trace that is written afterwards: what happened is eligible for a while, and a signal later makes it stay.

Heads of fast weights as in `liquid_control.nn.trace`, with a second matrix E between activity and trace H, and a signed
rate η (retroactive neuromodulation, Miconi et al. 2019, "Backpropamine", §3.2):

    y_t = H_{t-1} q_t
    H_t = λ_t H_{t-1} + η_t E_{t-1}
    E_t = μ_t E_{t-1} + (1 - μ_t) v_t k_tᵀ

So a signal writes what was said in the steps before it, and not what is said with it; a negative one takes it back.
Both matrices are linear in what is written, so all steps of a chunk are matrix products here, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from liquid_control.nn.trace import since


def retroactive_trace(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor, fading: Tensor, trace: Tensor, eligible: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The trace, step by step. A step with decay 1, rate 0 and fading 1 is no step.

    Args:
        q: (B, T, H, K) queries, H heads.
        k: (B, T, H, K) keys.
        v: (B, T, H, V) values.
        decay: (B, T, H) λ in (0, 1], how much of the trace a step leaves.
        rate: (B, T, H) η, how much of what is eligible it writes.
        fading: (B, T, H) μ in (0, 1], how much of what is eligible it leaves.
        trace: (B, H, V, K) before the first step, in float32 at least.
        eligible: (B, H, V, K) the same of what is eligible.

    Returns:
        y (B, T, H, V) in the dtype of v, and both after the last step.
    """
    recalled = []
    for query, key, value, kept, written, fades in zip(
        *(part.to(trace.dtype).unbind(1) for part in (q, k, v, decay, rate, fading)), strict=True
    ):
        recalled.append((trace @ query[..., None])[..., 0])
        trace = kept[..., None, None] * trace + written[..., None, None] * eligible
        fades = fades[..., None, None]
        eligible = fades * eligible + (1 - fades) * value[..., :, None] * key[..., None, :]
    return (torch.stack(recalled, 1).to(v.dtype) if recalled else torch.zeros_like(v)), trace, eligible


def chunkwise_retroactive_trace(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    fading: Tensor,
    trace: Tensor,
    eligible: Tensor,
    chunk: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`retroactive_trace` gives, exactly, ``chunk`` steps at a time.

    With g_t = Σ log λ and m_t = Σ log μ up to step t of a chunk, and H, E the matrices before it:

        y_t = e^{g_{t-1}} H q_t + c_t E q_t + Σ_{s<t} C_ts (1 - μ_s) (k_s · q_t) v_s
        C_ts = Σ_{s<r<t} e^{g_{t-1} - g_r} η_r e^{m_{r-1} - m_s}
        c_t = Σ_{r<t} e^{g_{t-1} - g_r} η_r e^{m_{r-1}}

    C is a product of two triangular matrices of exponents that are ≤ 0.
    """
    heads_first = (part.to(trace.dtype).transpose(1, 2) for part in (q, k, v, decay, rate, fading))
    recalled = []
    for query, key, value, kept, written, fades in zip(*(part.split(chunk, 2) for part in heads_first), strict=True):
        (before, after), (faded_before, faded_after) = _sums(kept), _sums(fades)
        offered = (1 - fades)[..., None] * value
        from_offer = since(faded_before, faded_after)  # to what is eligible before each step
        into_trace = since(before, after) * written[..., None, :]
        scores = (into_trace @ from_offer) * (query @ key.mT)
        carried = (into_trace @ faded_before.exp()[..., None]) * (query @ eligible.mT)
        recalled.append(before.exp()[..., None] * (query @ trace.mT) + carried + scores @ offered)

        last, faded_last = after[..., -1:], faded_after[..., -1:]
        into_trace = ((last - after).exp() * written)[..., None, :]  # (…, 1, C)
        carried = into_trace @ faded_before.exp()[..., None]
        written_now = ((into_trace @ from_offer).mT * offered).mT @ key
        trace = last.exp()[..., None] * trace + carried * eligible + written_now
        offered_now = ((faded_last - faded_after).exp()[..., None] * offered).mT @ key
        eligible = faded_last.exp()[..., None] * eligible + offered_now
    y = torch.cat(recalled, 2).transpose(1, 2).to(v.dtype) if recalled else torch.zeros_like(v)
    return y, trace, eligible


def _sums(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Σ log of (…, C) up to each step, without it and with it."""
    logs = kept.clamp(min=torch.finfo(kept.dtype).tiny).log()
    after = logs.cumsum(-1)
    return after - logs, after

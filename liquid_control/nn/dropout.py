"""Dropout by sixteen random bits a number: torch's own draws take as long as a third of a step of a liquid layer."""

from __future__ import annotations

import torch
from torch import Tensor

DRAWS = 1 << 16
"""Values of the bits that decide on dropping a number."""


def count_dropped(rate: float) -> int:
    """Of :data:`DRAWS` values how many drop a number at a rate in [0, 1)."""
    return min(round(DRAWS * rate), DRAWS - 1)


def draw_bits(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Sixteen random bits for each number of a tensor, and for up to three more in the last dimension: int16.

    Four numbers share a draw of torch's generator.
    """
    *others, last = shape
    return torch.randint(-(1 << 63), (1 << 63) - 1, (*others, -(-last // 4)), device=device).view(torch.int16)


def keep_factors(bits: Tensor, dropped: int, dtype: torch.dtype) -> Tensor:
    """0 where a number is dropped, else what makes up for it, 1 / (1 - rate)."""
    return (bits >= dropped - DRAWS // 2).to(dtype) * (DRAWS / (DRAWS - dropped))


def dropout(x: Tensor, rate: float) -> Tensor:
    """Each number zero with probability ``rate``, else x / (1 - rate) (Srivastava et al. 2014).

    Args:
        x: of any shape.
        rate: in [0, 1), kept to within 2⁻¹⁶; 0 gives x itself.
    """
    if rate == 0:
        return x
    bits = draw_bits(tuple(x.shape), x.device)[..., : x.shape[-1]]
    return x * keep_factors(bits, count_dropped(rate), x.dtype)

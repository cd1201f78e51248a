"""Text from a language model, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from liquid_control.models.language_model import LanguageModel, ReadingState


def sample(logits: Tensor, temperature: float, top_p: float, rng: torch.Generator) -> int:
    """One token of a distribution.

    Args:
        logits: (V,).
        temperature: they are divided by it; 0 takes the likeliest.
        top_p: only the likeliest tokens are drawn from, as few as have this share of the probability together
            (Holtzman et al. 2020, "The curious case of neural text degeneration", §3.1).
        rng: draws, on the CPU.
    """
    if temperature == 0:
        return int(logits.argmax())
    likely, tokens = (logits.float() / temperature).softmax(-1).cpu().sort(descending=True)
    likely = torch.where(likely.cumsum(-1) - likely < top_p, likely, 0)
    return int(tokens[torch.multinomial(likely, 1, generator=rng)])


@torch.no_grad()
def generate(
    model: LanguageModel,
    logits: Tensor,
    state: ReadingState,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> Iterator[tuple[int, ReadingState]]:
    """Tokens without end, each read before the next is drawn, with the state that then is.

    Args:
        model: what speaks.
        logits: (V,) of the first token.
        state: of one text.
        temperature: see :func:`sample`.
        top_p: see :func:`sample`.
        seed: of the draws.
    """
    rng = torch.Generator().manual_seed(seed)
    while True:
        token = sample(logits, temperature, top_p, rng)
        following, state = model.step(torch.tensor([token], device=logits.device), state)
        logits = following[0]
        yield token, state

"""Text from a language model, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from liquid_control.models.compiled import read_on
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


class Generation:
    """Tokens without end, each read before the next is drawn.

    Args:
        model: what speaks.
        logits: (V,) of the first token.
        state: of one text.
        temperature: see :func:`sample`.
        top_p: see :func:`sample`.
        seed: of the draws.
    """

    def __init__(
        self,
        model: LanguageModel,
        logits: Tensor,
        state: ReadingState,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
    ):
        self._reader, self._logits = read_on(model, state), logits
        self._temperature, self._top_p = temperature, top_p
        self._rng = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        token = sample(self._logits, self._temperature, self._top_p, self._rng)
        self._logits = self._reader.step(token)
        return token

    @property
    def state(self) -> ReadingState:
        """With all tokens so far read."""
        return self._reader.state

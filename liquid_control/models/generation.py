"""Text from a language model, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liquid_control.data.tokenizers import Tokenizer, tokenizer_from_config
from liquid_control.models.compiled import read_on
from liquid_control.models.language_model import LanguageModel, ReadingState, load_language_model
from liquid_control.support.errors import UserError

LEAST = torch.finfo(torch.float32).tiny
"""A temperature below this, the least number that float32 holds in full, is none: a quotient by it may be 0 / 0."""


def sample(logits: Tensor, temperature: float, top_p: float, rng: torch.Generator) -> int:
    """One token of a distribution.

    Args:
        logits: (V,).
        temperature: they are divided by it; 0 takes the likeliest, as does what is next to nothing.
        top_p: only the likeliest tokens are drawn from, as few as have this share of the probability together
            (Holtzman et al. 2020, "The curious case of neural text degeneration", §3.1). The likeliest is one of them.
        rng: draws, on the CPU.
    """
    if temperature < LEAST:
        return int(logits.argmax())
    likely, tokens = _likeliest(logits, temperature, top_p)
    return int(tokens[torch.multinomial(likely, 1, generator=rng)])


def distribution(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """What :func:`sample` draws from: probabilities (V,) in float64, on the CPU.

    Args:
        logits: (V,).
        temperature: see :func:`sample`; 0, or next to nothing, is all for the likeliest.
        top_p: see :func:`sample`.
    """
    if temperature < LEAST:
        return torch.zeros(len(logits), dtype=torch.float64).index_fill_(0, logits.argmax().cpu(), 1.0)
    likely, tokens = _likeliest(logits, temperature, top_p)
    likely = likely.double()
    return torch.empty_like(likely).scatter_(0, tokens, likely / likely.sum())


def _likeliest(logits: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities (V,) in descending order, zero behind ``top_p``, and their tokens; on the CPU."""
    logits = logits.float() - logits.max()  # no quotient overflows upwards
    likely, tokens = (logits / temperature).softmax(-1).cpu().sort(descending=True)
    kept = likely.cumsum(-1) - likely < top_p
    kept[0] = True  # a share that is zero in float32 keeps the likeliest, as a small one does
    return torch.where(kept, likely, 0), tokens


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


def load_with_tokenizer(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """A trained model, on the CPU and in eval mode, and the tokenizer that it was trained with.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    model, told = load_language_model(folder)
    return model, tokenizer_of(folder, model, told)


def tokenizer_of(folder: Path, model: LanguageModel, told: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a checkpoint, from what its config says.

    Raises:
        UserError: if there is none, or it has other tokens than the model.
    """
    if "tokenizer" not in told:
        raise UserError(f"{folder} holds a model without a tokenizer: it is none that lm train has made.")
    tokenizer = tokenizer_from_config(told["tokenizer"])
    if tokenizer.size != model.config.vocabulary:
        raise UserError(
            f"{folder} is damaged: its tokenizer has {tokenizer.size} tokens, its model {model.config.vocabulary}."
        )
    return tokenizer

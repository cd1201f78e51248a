"""Lossless drafts: what is remembered says tokens ahead, the whole model checks them in one pass, and nothing changes.

Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1; Chen et al. 2023, arXiv 2302.01318). The
draft is the same model, its feed-forward parts guessed by cube and student (`liquid_control.models.remembering`):

    draft      x_i ~ q_i   for i = 1 … K, one after another
    verify     p_1 … p_{K+1}   by the whole model, K + 1 tokens in one pass
    accept     x_i with probability min(1, p_i(x_i) / q_i(x_i)), up to the first that is refused
    then       one more token, of (p_i - q_i)₊ where one was refused, else of p_{K+1}

What is said is distributed as if p alone had spoken. Drawing the likeliest it is the same text, but for two tokens that
are equally likely up to rounding, because a pass over several tokens rounds otherwise than one after another. A state
of reading is a value, so going back to the last token that was accepted is to keep the state before, and to read the
accepted ones again where one was refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from liquid_control.models.generation import distribution
from liquid_control.models.language_model import LanguageModel, ReadingState
from liquid_control.models.remembering import PartMemory, StandIn, replacing_feeds
from liquid_control.nn.hybrid import SwiGLU

Draft = Literal["sure", "always"]
"""Where a part is guessed in a draft: where the student is sure enough to skip it, or everywhere."""


@dataclass
class DraftCounts:
    """How drafts fared."""

    rounds: int = 0
    """Passes of the whole model."""
    drafted: int = 0
    """Tokens that were drafted."""
    accepted: int = 0
    """Of those, how many were said."""
    guessed: int = 0
    """Parts that did not run while drafting."""
    parts: int = 0
    """Parts that might have."""

    @property
    def acceptance(self) -> float:
        """Share of the drafted tokens that were said; 0 before the first round."""
        return self.accepted / max(1, self.drafted)


class DraftedFeed(StandIn):
    """A feed-forward part in a draft: guessed where it may be, without audits and learning.

    Args:
        feed: the part.
        part: what is remembered of it.
        draft: where it may be guessed.
        counts: are told.
    """

    def __init__(self, feed: SwiGLU, part: PartMemory, draft: Draft, counts: DraftCounts):
        super().__init__(feed, part)
        self.draft, self.counts = draft, counts

    @torch.no_grad()
    def answer(self, x: Tensor) -> Tensor:
        """See :class:`~liquid_control.models.remembering.StandIn`."""
        part = self.part
        part.begin(len(x))
        guess = part.distillation.student(x, part.cube.read(x.flatten(0, 1)), part.state)
        part.state = guess.state
        sure = guess.log_error <= (torch.inf if self.draft == "always" else part.influence.threshold)
        number = int(sure.sum())
        self.counts.guessed, self.counts.parts = self.counts.guessed + number, self.counts.parts + sure.numel()
        if number == sure.numel():
            return guess.residual
        made = self.run(x)
        return torch.where(sure[..., None], guess.residual, made) if number else made


@contextmanager
def drafting(model: nn.Module, parts: Sequence[PartMemory], draft: Draft, counts: DraftCounts) -> Iterator[None]:
    """For its block the model drafts.

    Raises:
        ValueError: if there are not as many memories as parts.
    """
    with replacing_feeds(model, parts, lambda feed, part: DraftedFeed(feed, part, draft, counts)):
        yield


@torch.no_grad()
def speculate(
    model: LanguageModel,
    parts: Sequence[PartMemory],
    logits: Tensor,
    state: ReadingState,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    ahead: int = 4,
    draft: Draft = "always",
    counts: DraftCounts | None = None,
) -> Iterator[int]:
    """Tokens without end, distributed as those of :func:`liquid_control.models.generation.Generation`.

    Args:
        model: what speaks.
        parts: what is remembered of it, which does not learn here.
        logits: (V,) of the first token.
        state: of one text.
        temperature: see :func:`liquid_control.models.generation.sample`.
        top_p: see there.
        seed: of the draws.
        ahead: tokens of a draft, K ≥ 1.
        draft: where parts are guessed.
        counts: are told how drafts fare.
    """
    rng, device = torch.Generator().manual_seed(seed), logits.device
    counts = DraftCounts() if counts is None else counts

    def draw(likely: Tensor) -> int:
        return int(torch.multinomial(likely, 1, generator=rng))

    def likely(logits: Tensor) -> Tensor:
        return distribution(logits, temperature, top_p)

    token = draw(likely(logits))
    while True:
        yield token
        said, guesses, before = [token], [], state
        moments = [[part.state for part in parts]]  # the students', after so many tokens
        with drafting(model, parts, draft, counts):
            for _ in range(ahead):
                drafted, state = model.step(torch.tensor(said[-1:], device=device), state)
                guesses.append(likely(drafted[0]))
                said.append(draw(guesses[-1]))
                moments.append([part.state for part in parts])
        reading = model(torch.tensor([said], device=device), before)
        wanted = [likely(each) for each in reading.logits[0]]
        accepted, following = 0, wanted[-1]
        for guess, want, word in zip(guesses, wanted, said[1:], strict=False):
            if float(torch.rand((), generator=rng, dtype=torch.float64)) * guess[word] >= want[word]:
                following = (want - guess).clamp(min=0)
                break
            accepted += 1
        counts.rounds += 1
        counts.drafted += ahead
        counts.accepted += accepted
        state = reading.state
        if accepted < ahead:
            state = model(torch.tensor([said[: accepted + 1]], device=device), before, last_only=True).state
        for part, moment in zip(parts, moments[min(accepted + 1, ahead)], strict=True):
            part.state = moment
        yield from said[1 : accepted + 1]
        token = draw(following)

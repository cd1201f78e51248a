"""``python -m liquid_control.experiments.pondering CHECKPOINT --text FILE``: do hard tokens get more liquid steps?

A deep mixer takes as many liquid steps a token as it says it needs (`liquid_control.models.language_model.DeepLiquid`).
Here a trained model reads a text that it has not learned from, its state carried on. The steps that it takes at a token
are held against the loss of what comes next: by Spearman's rank correlation, and by the mean steps of each fifth of the
tokens in the order of their loss. And they are held against what they are worth: how much more is lost where every
token has to halt at its first step.

Tokens that follow one another are alike. So the interval of a correlation comes from drawing stretches of the text
with replacement, not tokens (the moving block bootstrap of Künsch 1989, with blocks that do not overlap).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from annotated_types import Ge
from torch import nn
from torch.nn import functional as F

from liquid_control.data.text_sources import text_source
from liquid_control.data.tokenizers import tokenizer_from_config
from liquid_control.models.language_model import DeepLiquid, LanguageModel, load_language_model
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Count, Seed

PROGRAM = "python -m liquid_control.experiments.pondering"
FIFTHS = 5
FEWEST = 20
"""Stretches that an interval needs: of fewer, drawing again tells nothing."""


@dataclass(frozen=True)
class PonderingConfig:
    """Tells whether a model with deep mixers takes more liquid steps where the next token is harder to say."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    text: Path = Path("text.txt")
    """A text file that it has not learned from, or a folder of *.txt."""
    tokens: Annotated[int, Ge(FIFTHS)] = 20_000
    """Tokens that are read at most."""
    stretch: Count = 256
    """Tokens that are read at once, and that are drawn together for the interval."""
    draws: Count = 1000
    """Draws of the text for the interval."""
    seed: Seed = 0
    """Of the draws."""


class Pondered(NamedTuple):
    """What reading a text took and said."""

    steps: np.ndarray
    """(N,) liquid steps at each token, of all deep mixers together."""
    losses: np.ndarray
    """(N,) nats of the token that comes next."""


@torch.no_grad()
def ponder(model: LanguageModel, documents: Sequence[np.ndarray], stretch: int = 256) -> Pondered:
    """Reads documents, each from an empty state.

    Args:
        model: with deep mixers.
        documents: the tokens of each.
        stretch: tokens that are read at once.

    Raises:
        UserError: if the model has no deep mixer.
    """
    steps, losses = [], []
    for document in documents:
        state = None
        for start in range(0, len(document) - 1, stretch):
            tokens = torch.from_numpy(document[start : start + stretch + 1])
            reading = model(tokens[None, :-1], state)
            if reading.steps is None:
                raise UserError("the model has no deep mixers: train one with --pattern deep, say.")
            state = reading.state
            steps.append(reading.steps[0].numpy())
            losses.append(F.cross_entropy(reading.logits[0], tokens[1:], reduction="none").numpy())
    return Pondered(np.concatenate(steps), np.concatenate(losses))


def hasty(model: LanguageModel) -> LanguageModel:
    """A copy of a model whose tokens all halt at their first step."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, DeepLiquid):
            nn.init.constant_(part.halt.bias, math.inf)
    return model


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two series (N,), equal values sharing their mean rank; NaN if all of one are equal."""
    ranks = [_ranks(values) for values in (one, other)]
    ranks = [of - of.mean() for of in ranks]
    size = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / size if size else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[place]


def interval(
    one: np.ndarray, other: np.ndarray, block: int, draws: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of their correlation, from texts made of blocks that are drawn with replacement."""
    blocks = np.array_split(np.arange(len(one)), max(1, len(one) // block))
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = np.concatenate([blocks[place] for place in rng.integers(len(blocks), size=len(blocks))])
        found.append(spearman(one[drawn], other[drawn]))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return float(low), float(high)


def by_loss(pondered: Pondered, saved: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Of each fifth of the tokens, easiest first: its greatest and mean loss, mean steps, and what those saved (N,)."""
    order = np.argsort(pondered.losses, kind="stable")
    return [
        (
            float(pondered.losses[part].max()),
            float(pondered.losses[part].mean()),
            float(pondered.steps[part].mean()),
            float(saved[part].mean()),
        )
        for part in np.array_split(order, FIFTHS)
    ]


def main(arguments: Sequence[str]) -> None:
    """Reads and reports; see ``--help``.

    Raises:
        UserError: if there is no such checkpoint or text, the text is too short, or the model has no deep mixers.
    """
    config, console = parse(PonderingConfig, arguments, PROGRAM), Console()
    model, kept = load_language_model(config.checkpoint)
    tokenizer = tokenizer_from_config(kept.get("tokenizer"))
    documents, left = [], config.tokens + 1
    for text in text_source(config.text).documents():
        documents.append(tokenizer.encode(text)[:left])
        left -= len(documents[-1])
        if left <= 1:
            break
    if sum(max(0, len(document) - 1) for document in documents) < FIFTHS:
        raise UserError(f"{config.text} has fewer than {FIFTHS} tokens to predict: give a longer text.")
    pondered = ponder(model, documents, config.stretch)
    means = f"{pondered.losses.mean():.3f} nats and {pondered.steps.mean():.2f} liquid steps a token"
    console.print(f"{model.describe()}\n{len(pondered.steps):,} tokens, {means}")
    if np.ptp(pondered.steps) == 0:
        console.print(f"every token took {pondered.steps[0]:.0f} liquid steps: nothing goes with anything.")
        return
    saved = ponder(hasty(model), documents, config.stretch).losses - pondered.losses
    console.print(f"further steps save {saved.mean():.3f} nats a token")
    for name, other in (("loss", pondered.losses), ("what they save", saved)):
        told = f"Spearman's correlation of steps and {name}: {spearman(pondered.steps, other):.3f}"
        if len(saved) >= FEWEST * config.stretch:
            low, high = interval(pondered.steps, other, config.stretch, config.draws, config.seed)
            told += f" (95 %: {low:.3f} to {high:.3f})"
        console.print(told)
    if len(saved) < FEWEST * config.stretch:
        need = f"{FEWEST * config.stretch:,} tokens: give a longer text or a smaller --stretch"
        console.print(f"no intervals, which need {need}")
    lines = ["", "| fifth by loss | loss up to | mean loss | mean steps | saved |", "| --- " * 5 + "|"]
    for place, (most, mean, steps, less) in enumerate(by_loss(pondered, saved), 1):
        lines.append(f"| {place} | {most:.3f} | {mean:.3f} | {steps:.3f} | {less:+.3f} |")
    console.print("\n".join(lines))


if __name__ == "__main__":
    run(main)

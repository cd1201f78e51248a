"""``python -m liquid_control.experiments.books FOLDER NOVELS``: does reading change a model for the better?

A model learns from all novels of a folder but two, its state carried from stretch to stretch. Then it reads the two,
which it has never seen. What counts is its loss over the second half of each, when it has read the first half, or when
its memory of that was taken away (:data:`ARMS`). Every arm predicts the same tokens, so arms are compared stretch by
stretch. Where it was stopped, the same command goes on.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from liquid_control.data.tokenizers import Tokenizer, tokenizer_from_config
from liquid_control.experiments.study import (
    Results,
    find_novels,
    identity_of,
    interval,
    measuring,
    parameters_of,
    train_language_model,
)
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig, ReadingState, load_language_model
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.files import read_text, write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments.books"
STRETCH = 512
"""Tokens that are read at once, and whose mean loss is one measurement."""
BLOCK = 10
"""Stretches that follow one another and count as one in an interval: pages of a chapter are alike."""
SHORTEST = 16 * STRETCH
"""Characters of a book to measure with: room for a stretch in each half, however long tokens are."""


@dataclass(frozen=True)
class Arm:
    """What of the first half is there when the second begins."""

    begins: Callable[[ReadingState, ReadingState], ReadingState]
    """The state at half, from that after this book's first half and that after the other book's."""
    writes: bool = True
    """Whether synapses are written in the second half."""
    forgets: bool = False
    """Whether each stretch begins with an empty state, as the windows of a transformer do."""


ARMS = {
    "carried": Arm(lambda own, other: own),
    "frozen from half": Arm(lambda own, other: own, writes=False),
    "begun at half": Arm(lambda own, other: own.reset()),
    "the other book's synapses": Arm(lambda own, other: own.with_traces_of(other)),
    "never written": Arm(lambda own, other: own.reset(), writes=False),
    "reset every stretch": Arm(lambda own, other: own.reset(), forgets=True),
}
"""``carried`` is the claim. ``never written`` knows the present token alone, for an empty trace reads as nothing."""


@dataclass(frozen=True)
class BooksConfig:
    """Trains a model on novels, and tells how well it reads two others with its memory and without."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/books, say. A trained model is a line of results.jsonl, the table is in report.md."""
    novels: Annotated[Path, tyro.conf.arg(metavar="NOVELS")]
    """A folder of *.txt, at least three."""
    unseen: tuple[str, str] = ("middlemarch", "moby-dick-or-the-whale")
    """Names of the two that are not learned from, without .txt."""
    tokenizer: str = "bpe:1024"
    """See lm train."""
    seeds: Count = 3
    """Trainings, from the seeds 0, 1, …"""
    steps: Count = 2000
    """Gradient steps of a training, each of 16 stretches of 128 tokens."""
    width: Count = 128
    """Of the model, which has four blocks."""
    half: Annotated[int, Ge(STRETCH)] = 10**9
    """Tokens of a half at most, in whole stretches of 512."""


@torch.inference_mode()
def losses(model: LanguageModel, tokens: Tensor, state: ReadingState, forgets: bool) -> tuple[np.ndarray, ReadingState]:
    """Nats a token of each whole stretch (S,) of tokens (N,) that follow on what the state has read, and the state."""
    told = []
    for first in range(0, len(tokens) - STRETCH, STRETCH):
        part = tokens[first : first + STRETCH + 1]
        reading = model(part[None, :-1], state.reset() if forgets else state)
        state = reading.state
        told.append(F.cross_entropy(reading.logits[0], part[1:]).item())
    return np.array(told), state


def read_books(model: LanguageModel, tokenizer: Tokenizer, books: Sequence[str], half: int) -> list[dict[str, Any]]:
    """For each of two books the loss of every stretch of its second half, by arm."""
    parts = []
    for text in books:
        tokens = torch.tensor(tokenizer.encode(text))
        middle = len(tokens) // 2
        count = min(half, middle) // STRETCH * STRETCH  # whole stretches, which end where the second half begins
        parts.append((tokens[middle - count : middle + 1], tokens[middle : middle + half + 1]))
    after = [losses(model, first, model.initial_state(1), False)[1] for first, _ in parts]
    return [
        {
            name: losses(model, second, arm.begins(after[book], after[1 - book]).freeze(not arm.writes), arm.forgets)[0]
            .round(4)
            .tolist()
            for name, arm in ARMS.items()
        }
        for book, (_, second) in enumerate(parts)
    ]


def measure(seed: int, config: BooksConfig, novels: dict[str, Path]) -> dict[str, Any]:
    """A training by the command, and what it makes of the unseen books, as a line of the results."""
    learned, path = config.folder / "novels", config.folder / f"model-{seed}"
    learned.mkdir(exist_ok=True)
    for name, novel in novels.items():
        if name not in config.unseen:
            shutil.copyfile(novel, learned / novel.name)
    words = f"--width {config.width} --steps {config.steps} --tokenizer {config.tokenizer} --seed {seed}".split()
    words += "--batch 16 --time 128 --learning-rate 3e-3 --validation-share 0.02".split()
    words += ["--text", str(learned), "--data", str(config.folder / "text")]
    if not train_language_model(path, words):
        raise UserError(f"the training in {path} has diverged: begin again with another seed or fewer --steps.")
    model, told = load_language_model(path / "best")
    _, last = load_language_model(path / "last")
    tokenizer = tokenizer_from_config(told["tokenizer"])
    books = [read_text(novels[name]) for name in config.unseen]
    read = read_books(model, tokenizer, books, config.half)
    return {
        **{"seed": seed, "parameters": model.parameter_count(), "seconds": last["training"]["seconds"]},
        **{"bytes per token": [len(text.encode()) / len(tokenizer.encode(text)) for text in books]},
        **{"losses": dict(zip(config.unseen, read, strict=True))},
    }


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there are too few novels, a training fails, or the folder holds results of other options.
    """
    config, console = parse(BooksConfig, arguments, PROGRAM), Console()
    novels = find_novels(config.novels, config.unseen)
    _check_books(config, novels)
    parameters_of(LanguageModelConfig(width=config.width))  # told before anything is begun
    with measuring(config.folder):
        kept = {name: getattr(config, name) for name in ("unseen", "tokenizer", "steps", "width", "half")}
        results = Results(config.folder, kept | {"novels": [identity_of(path) for path in novels.values()]}, ("seed",))
        for seed in range(config.seeds):
            results.have(functools.partial(measure, seed, config, novels), seed=seed)
    report = _report(results.rows, config)
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _check_books(config: BooksConfig, novels: dict[str, Path]) -> None:
    """Before anything is trained.

    Raises:
        UserError: if a book is too short, or has characters that the model could not know.
    """
    texts = {name: read_text(path) for name, path in novels.items()}
    known = set[str]().union(*(text for name, text in texts.items() if name not in config.unseen))
    for name in config.unseen:
        if len(texts[name]) < SHORTEST:
            raise UserError(f"{novels[name]} has {len(texts[name]):,} characters: give a book of {SHORTEST:,} or more.")
        new = "".join(sorted(set(texts[name]) - known))
        if config.tokenizer == "characters" and new:
            raise UserError(f"{novels[name]} has {new!r}, which no other novel has: name another --tokenizer.")


def _report(rows: list[dict[str, Any]], config: BooksConfig) -> str:
    text = []
    for place, book in enumerate(config.unseen):
        scale = float(np.mean([row["bytes per token"][place] for row in rows])) * np.log(2)
        carried = [np.array(row["losses"][book]["carried"]) for row in rows]
        text += [f"## {book}: {len(carried[0]):,} stretches, {len(rows)} trainings", ""]
        text += ["| second half | nats a token | bits per byte | more than carried | 95 % |", "| --- " * 5 + "|"]
        for name in ARMS:
            told = [np.array(row["losses"][book][name]) for row in rows]
            more = [other - own for other, own in zip(told, carried, strict=True)]
            low, high = interval(more, BLOCK)
            loss = np.mean([values.mean() for values in told])
            cells = [f"{loss:.4f}", f"{loss / scale:.4f}", f"{np.mean([values.mean() for values in more]):+.4f}"]
            text.append(f"| {name} | {' | '.join(cells)} | {low:+.4f} to {high:+.4f} |")
        text.append("")
    return "\n".join(text)


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.experiments.zephyr FOLDER NOVEL``: does what was read stay in the synapses?

A model is told facts, "ZEPHYR means sunset", reads on for some thousand words of a novel, and is asked. A right answer
alone proves nothing: the fact may still be in the cells, or any model may prefer the words that it saw. So the state is
taken apart before the question (see :data:`ARMS`), the answer is chosen among the values that were taught in the same
episode, and names and the pairs of statement and question were never seen in training.

Models are word by word (`liquid_control.experiments.zephyr_words`). What it took to learn this: recall alone first, its
loss on answers only; text and gaps come in later (:func:`~liquid_control.experiments.zephyr_words.curriculum`).
"""

from __future__ import annotations

import collections
import functools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from annotated_types import Ge, Le, MinLen
from torch.nn import functional as F

from liquid_control.experiments.study import (
    Results,
    identity_of,
    interval,
    matched,
    measuring,
    parameters_of,
    with_best_rate,
)
from liquid_control.experiments.zephyr_words import (
    SEGMENT,
    VALUES,
    VOCABULARY,
    Facts,
    Filler,
    WordTeacher,
    asked,
    curriculum,
    lessons,
    tell,
    values_of,
)
from liquid_control.models.language_model import (
    LanguageModel,
    LanguageModelConfig,
    ReadingState,
    load_language_model,
)
from liquid_control.models.plasticity import (
    ARMS,
    right_choices,
    score_answers,
    stretch_of,
    take_apart,
)
from liquid_control.nn import PlasticMemory
from liquid_control.nn.trace import RULES
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count, CountOrZero

PROGRAM = "python -m liquid_control.experiments.zephyr"


class Kind(NamedTuple):
    """What a model has instead of the defaults."""

    options: dict[str, Any]
    """Of :class:`~liquid_control.models.language_model.LanguageModelConfig`."""
    arm: str = "all kept"
    """What answers for it where models are compared."""
    rates: tuple[float, ...] = (3e-3,)
    """Highest learning rates of a training, of which it has the one that recalls best after the first lessons."""


SYNAPSES = "synapses alone"
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
"""Of models that may want another one than those of liquid cells do."""
MODELS = {
    **{rule: Kind({"rule": rule}, arm=SYNAPSES) for rule in RULES},
    "static": Kind({"pattern": ("scan",)}),
    "transformer": Kind({"pattern": ("attention",), "window": SEGMENT}, rates=RATES),
    "full_transformer": Kind({"pattern": ("attention",), "window": 8 * SEGMENT}, rates=RATES),
}
"""By name. ``static`` has no synapses that change; ``full_transformer`` sees all of a text that is learned from."""


@dataclass(frozen=True)
class ZephyrConfig:
    """Trains small models to remember facts, takes their states apart, and tells what each part knew."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/zephyr, say. A trained model is a line of results.jsonl, the tables are in report.md."""
    text: Annotated[Path, tyro.conf.arg(metavar="NOVEL")]
    """A novel: what is read between fact and question. Its last tenth is for tests."""
    models: tuple[str, ...] = ("delta", "hebb", "static", "transformer")
    """Which of hebb, oja, delta, static, transformer and full_transformer."""
    seeds: Count = 3
    """Trainings of each."""
    steps: Count = 2400
    """Gradient steps of a training."""
    batch: Count = 32
    """Episodes of a step."""
    width: Count = 128
    """Of the models, which have three blocks."""
    heads: Count = 2
    """Of a block; the width has to be a multiple of it."""
    episodes: Annotated[int, Ge(2), Le(65_536)] = 32
    """Of each test; one of them gets the synapses of another."""
    facts: Annotated[tuple[Annotated[int, Ge(2), Le(VALUES)], ...], MinLen(1)] = (4, 16, 64)
    """Facts of an episode, K."""
    windows: Annotated[tuple[CountOrZero, ...], MinLen(1)] = (0, 2, 16, 64, 128)
    """Words between facts and questions, in segments of 128."""


# Training


def shape_of(kind: str, config: ZephyrConfig) -> LanguageModelConfig:
    """A model that has the parameters of those with fast weights, or nearly."""
    plastic = LanguageModelConfig(
        vocabulary=VOCABULARY,
        width=config.width,
        blocks=3,
        heads=config.heads,
        expansion=2.0,
        shortest_half_life=16.0,
        longest_half_life=30_000.0,
    )
    shape = replace(plastic, **MODELS[kind].options)
    return shape if kind in RULES else matched(shape, plastic)


def train(
    kind: str, highest: float, seed: int, config: ZephyrConfig, filler: Filler, until: float = 1.0
) -> LanguageModel:
    """A model that has learned to remember facts, at this highest learning rate, or a share of it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = LanguageModel(shape_of(kind, config))
    for layer in model.modules():
        if isinstance(layer, PlasticMemory):
            layer.timed_writing = True  # of words that take one it is the same
    optimizer = torch.optim.AdamW(model.parameters(), highest, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step in range(round(until * config.steps)):
        done = step / config.steps
        rate = highest * min(1.0, (step + 1) / (0.03 * config.steps)) * (0.525 + 0.475 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        lesson = curriculum(done)
        tokens, answers, elapsed = lessons(config.batch, lesson, filler, rng)
        weights = torch.where(answers, 3.0 if lesson.text else 1.0, lesson.text)
        optimizer.zero_grad()
        state = None
        for first in range(0, tokens.shape[1] - 1, lesson.reach):
            part = slice(first, first + lesson.reach)
            reading = model(tokens[:, part], state, elapsed[:, part])
            state = reading.state.detach()
            error = F.cross_entropy(reading.logits.flatten(0, 1), tokens[:, 1:][:, part].flatten(), reduction="none")
            (error @ weights[:, part].flatten() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def trial(kind: str, rate: float, config: ZephyrConfig, filler: Filler, until: float = 0.25) -> dict[str, Any]:
    """What the first lessons, recall alone, taught at a learning rate, as a line of the results.

    Its ``answer_loss`` is in nats an answer, in other episodes of the names and the text that are learned from.
    """
    model = train(kind, rate, 0, config, filler, until)
    rng, losses = np.random.default_rng(5), []
    for _ in range(8):
        tokens, answers, elapsed = lessons(config.batch, curriculum(0.0), filler, rng)
        with torch.no_grad():
            logits = model(tokens[:, :-1], None, elapsed).logits
        losses.append(F.cross_entropy(logits[answers], tokens[:, 1:][answers], reduction="none"))
    return {"trial": kind, "rate": rate, "answer_loss": round(float(torch.cat(losses).mean()), 4)}


# Tests


def choices(model: LanguageModel, state: ReadingState, episodes: Sequence[Facts]) -> np.ndarray:
    """The share of right choices of each episode (N,), each question asked of the state as it is.

    Chosen is the likeliest of the values that were taught in the episode.
    """
    return right_choices(score_answers(model, state, asked(episodes), values_of(episodes)))


def test(
    model: LanguageModel, count: int, windows: int, config: ZephyrConfig, filler: Filler
) -> dict[str, list[float]]:
    """Right choices of each episode under every arm."""
    rng = np.random.default_rng([count, windows])
    episodes = WordTeacher(filler.tests).draw(config.episodes, count, windows * SEGMENT, rng)
    scores = take_apart(model, episodes, SEGMENT)
    return {name: right_choices(each).round(4).tolist() for name, each in scores.items()}


def overwritten(model: LanguageModel, config: ZephyrConfig, filler: Filler) -> list[float]:
    """Right choices of episodes of eight facts, four of which are told again with another value; the last one counts.

    The other values to choose among are those of all facts, the old ones of the four included.
    """
    rng = np.random.default_rng(7)
    firsts = [Facts.draw(12, True, rng) for _ in range(config.episodes)]
    lasts = [
        Facts(np.concatenate([f.names[:8], f.names[:4]]), f.values, [*f.frames[:8], *f.frames[:4]]) for f in firsts
    ]
    gap = torch.from_numpy(np.stack([stretch_of(filler.tests, 2 * SEGMENT, rng) for _ in firsts]))
    _, state = model.read(torch.cat([tell(lasts), gap], 1), None, SEGMENT)
    again = [questions[8:] for questions in asked(lasts)]
    scores = score_answers(model, state.reset(traces=False), again, values_of(lasts))
    return (scores.argmax(2) == np.arange(8, 12)).mean(1).tolist()


def restarted(model: LanguageModel, config: ZephyrConfig, count: int) -> tuple[float, float]:
    """Right choices here by the synapses alone, and in another process that is given the files of model and state."""
    episodes = [Facts.draw(count, True, np.random.default_rng([count, row])) for row in range(config.episodes)]
    state = model.read(tell(episodes), None, SEGMENT)[1].reset(traces=False)
    here = float(choices(model, state, episodes).mean())
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model", {})
        state.save(Path(folder) / "state.safetensors", model)
        words = [sys.executable, "-m", "liquid_control.experiments.zephyr", "--answer", folder, str(count)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"the other process ended with exit status {done.returncode}: {done.stderr[-300:]}")
        return here, float(done.stdout)


def answer(folder: Path, count: int) -> float:
    """What :func:`restarted` has another process do."""
    model, _ = load_language_model(folder / "model")
    state = ReadingState.load(folder / "state.safetensors", model)
    episodes = [Facts.draw(count, True, np.random.default_rng([count, row])) for row in range(state.batch)]
    return float(choices(model, state, episodes).mean())


# The study


def measure(kind: str, rate: float, seed: int, config: ZephyrConfig, filler: Filler) -> dict[str, Any]:
    """A training and its tests as a line of the results; the model is kept beside them."""
    begin = time.monotonic()
    model = train(kind, rate, seed, config, filler)
    seconds = time.monotonic() - begin
    model.save(config.folder / "models" / f"{kind}-{rate:g}-{seed}", {"words": list(filler.words)})
    tests = {
        f"{count} facts, {windows} windows": test(model, count, windows, config, filler)
        for count in config.facts
        for windows in config.windows
    }
    here, there = restarted(model, config, config.facts[0])
    return {
        **{"model": kind, "rate": rate, "seed": seed, "parameters": model.parameter_count()},
        **{"seconds": round(seconds, 1), "tests": tests, "overwritten": overwritten(model, config, filler)},
        **{"before a restart": here, "after a restart": there},
    }


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there is no such model, the text cannot be read, or the folder holds results of other options.
    """
    if list(arguments[:1]) == ["--answer"]:
        sys.stdout.write(f"{answer(Path(arguments[1]), int(arguments[2]))}\n")
        return
    config, console = parse(ZephyrConfig, arguments, PROGRAM), Console()
    check_known("model", config.models, MODELS)
    filler = Filler.read(config.text)
    for kind in config.models:
        parameters_of(shape_of(kind, config))  # whatever does not go together is told before anything is begun
    with measuring(config.folder):
        kept = {
            name: getattr(config, name) for name in ("steps", "batch", "width", "heads", "episodes", "facts", "windows")
        }
        results = Results(config.folder, kept | {"text": identity_of(config.text)}, ("rate",))

        def tried(kind: str, rate: float, _seed: int) -> dict[str, Any]:
            found = results.have(lambda: trial(kind, rate, config, filler), trial=kind, rate=rate)
            console.print(f"{kind}, rate {rate:g}: {found['answer_loss']:.2f} nats an answer after the first lessons")
            return found

        def row(kind: str, rate: float, seed: int) -> dict[str, Any]:
            key = {"model": kind, "rate": rate, "seed": seed}
            found = results.have(lambda: measure(kind, rate, seed, config, filler), **key)
            console.print(f"{kind}, rate {rate:g}, seed {seed}: {found['seconds']:.0f} s")
            return found

        by_model = {}
        for kind in config.models:
            best, *others = MODELS[kind].rates
            if others:
                (chosen,) = with_best_rate(functools.partial(tried, kind), MODELS[kind].rates, 1, "answer_loss")
                best = chosen["rate"]
            by_model[kind] = [row(kind, best, seed) for seed in range(config.seeds)]
    report = _report(by_model)
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _report(by_model: dict[str, list[dict[str, Any]]]) -> str:
    text = []
    for kind, own in by_model.items():
        if MODELS[kind].arm == SYNAPSES:
            text += [f"### {kind}, by part of the state", "", *_by_part(own), ""]
    return "\n".join([*text, "### By model", "", *_by_model(by_model), ""])


def _by_part(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of one model: a test a row, an arm a column."""
    lines = [f"| facts | windows | {' | '.join(ARMS)} | chance |", "| --- " * (len(ARMS) + 3) + "|"]
    for name in rows[0]["tests"]:
        facts, _, windows, _ = name.split()
        cells = [_interval([row["tests"][name][arm] for row in rows]) for arm in ARMS]
        lines.append(f"| {facts} | {windows} | {' | '.join(cells)} | {1 / int(facts):.2f} |")
    return lines


def _by_model(by_model: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A model a column: what answers for it, all tests, and what else is known of it."""
    told: dict[str, list[str]] = collections.defaultdict(list)
    for kind, rows in by_model.items():
        arm = MODELS[kind].arm
        told["what answers"].append(arm)
        for name in rows[0]["tests"]:
            told[name].append(_interval([row["tests"][name][arm] for row in rows]))
        told["told twice, the later value"].append(_interval([row["overwritten"] for row in rows]))
        for when in ("before", "after"):
            shares = [row[f"{when} a restart"] for row in rows]
            told[f"synapses alone, {when} a restart"].append(f"{np.mean(shares):.3f}")
        told["learning rate"].append(f"{rows[0]['rate']:g}")
        told["parameters"].append(f"{rows[0]['parameters']:,}")
        told["trainings"].append(str(len(rows)))
        told["minutes of one"].append(f"{np.mean([row['seconds'] for row in rows]) / 60:.1f}")
    head = [f"|  | {' | '.join(by_model)} |", "| --- " * (len(by_model) + 1) + "|"]
    return [*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in told.items())]


def _interval(seeds: Sequence[Sequence[float]]) -> str:
    """The mean, and its interval, as shares."""
    low, high = np.clip(interval(seeds), 0, 1)
    return f"{np.mean(seeds):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.experiments.recall FOLDER``: what a language model of fast weights can look up again.

Multi-query associative recall (Arora et al. 2023, "Zoology", §4.1): a sequence begins with K pairs of a key and a
value, all keys different. Later each key comes once more, and the model is to say its value there. All other tokens are
random, but none of these keys: with what follows it, that would be one more pair. In the forgetting form half of the
keys are paired a second time with another value, and the last one counts.

Rules of writing, a model without fast weights, and a transformer that sees the whole sequence learn the same task with
the same width, depth, number of parameters, steps and choice of learning rates. Where it was stopped, the same command
goes on.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from liquid_control.experiments.study import Results, matched, measuring, parameters_of, with_best_rate
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments.recall"
VOCABULARY = 512
"""Tokens: the first half keys, the second values."""
NEAR = 0.01
"""Exponent of the gaps between a pair and its question: the smaller, the nearer (``power_a`` of Zoology)."""
TRAINED, LENGTH = (4, 8), 64
"""Numbers of pairs K and the length T of what is trained on."""
TESTS = {
    "recall": ((64, 4), (64, 8), (64, 16), (128, 32), (256, 8)),
    "forgetting": ((64, 4), (64, 8), (128, 16), (256, 32), (256, 8)),
}
"""(T, K) that each task is tested with; longer and fuller than trained is what memory has to generalise to."""
CHOSEN_BY = (64, 8)
"""The (T, K), on other sequences than the test's, by which a learning rate is chosen."""
ARMS: dict[str, dict[str, Any]] = {
    "hebb": {"rule": "hebb"},
    "oja": {"rule": "oja"},
    "delta": {"rule": "delta"},
    "none": {"pattern": ("scan",)},
    "transformer": {"pattern": ("attention",), "window": 512},
}
"""What a model of each arm has instead of the defaults."""
RATES = (1e-3, 3e-3, 1e-2)
"""Learning rates, of which each arm has the one that recalls best."""


@dataclass(frozen=True)
class RecallConfig:
    """Trains small models to recall what they read, by every rule of writing, and tells how much they recall."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/recall, say. A trained model is a line of results.jsonl, the tables are in report.md."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which of hebb, oja, delta, none and transformer."""
    tasks: tuple[str, ...] = tuple(TESTS)
    """recall, forgetting or both."""
    seeds: Count = 3
    """Trainings of each arm with its best learning rate, from the seeds 0, 1, …"""
    steps: Count = 1500
    """Gradient steps of a training."""
    batch: Count = 64
    """Sequences of a step."""
    width: Count = 64
    """Of the models, which have two blocks of one head."""
    tested: Count = 500
    """Sequences of each test."""


def sequences(count: int, length: int, pairs: int, forgetting: bool, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sequences and what is to be said at their questions.

    Args:
        count: how many, N.
        length: tokens of each, T.
        pairs: different keys in each, K.
        forgetting: whether half of the keys, rounded up, get a second value before the questions.
        rng: draws.

    Returns:
        Tokens (N, T), and answers (N, T) that are -100 where nothing is asked, both int64.

    Raises:
        ValueError: if they do not fit.
    """
    again = -(-pairs // 2) if forgetting else 0
    begin = 2 * (pairs + again)  # where questions may stand from, at each second place
    places = (length - begin) // 2
    if places < pairs:
        raise ValueError(f"{pairs} pairs and their questions do not fit in {length} tokens.")
    half = VOCABULARY // 2
    tokens = np.empty((count, length), np.int64)
    answers = np.full((count, length), -100)
    likely = np.arange(1, places + 1) ** (NEAR - 1.0)
    likely /= likely.sum()
    for row in range(count):
        keys = rng.choice(half, pairs, replace=False)
        values = half + rng.choice(half, pairs, replace=False)
        written = [keys, values]
        if again:
            taught = rng.permutation(pairs)[:again]
            written = [
                np.concatenate([keys, keys[taught]]),
                np.concatenate([values, half + rng.integers(half, size=again)]),
            ]
            values = values.copy()
            values[taught] = written[1][pairs:]
        tokens[row] = rng.choice(np.setdiff1d(np.arange(VOCABULARY), keys), length)
        tokens[row, :begin] = np.stack(written, 1).ravel()
        asked = begin + 2 * rng.choice(places, pairs, replace=False, p=likely)
        tokens[row, asked], answers[row, asked] = keys, values
    return torch.from_numpy(tokens), torch.from_numpy(answers)


@torch.no_grad()
def recalled(model: LanguageModel, tokens: Tensor, answers: Tensor) -> float:
    """The share of the answers that a model gives."""
    right = asked = 0
    for given, wanted in zip(tokens.split(64), answers.split(64), strict=True):
        said = model(given).logits.argmax(-1)
        right += int((said == wanted).sum())
        asked += int((wanted >= 0).sum())
    return right / asked


def shape_of(arm: str, config: RecallConfig) -> LanguageModelConfig:
    """The model of an arm, with the parameters of one that writes, or nearly."""
    first = LanguageModelConfig(vocabulary=VOCABULARY, width=config.width, blocks=2, heads=1)
    return matched(replace(first, **ARMS[arm]), first)


def train(arm: str, task: str, rate: float, seed: int, config: RecallConfig) -> LanguageModel:
    """A model that has learned the task: AdamW, the rate warmed up and then falling along a cosine to a tenth."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, task == "forgetting"])
    model = LanguageModel(shape_of(arm, config))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    for step in range(config.steps):
        done = step / config.steps
        now = rate * min(1.0, 20 * (done + 1 / config.steps)) * (0.55 + 0.45 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = now
        pairs = TRAINED[step % len(TRAINED)]
        tokens, answers = sequences(config.batch, LENGTH, pairs, task == "forgetting", rng)
        loss = F.cross_entropy(model(tokens).logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def measure(arm: str, task: str, rate: float, seed: int, config: RecallConfig) -> dict[str, Any]:
    """A training as a line of the results."""
    begin = time.monotonic()
    model = train(arm, task, rate, seed, config)
    seconds = time.monotonic() - begin
    held_out, unseen = (np.random.default_rng([seed, 99, kind]) for kind in range(2))
    forgetting = task == "forgetting"
    chosen = recalled(model, *sequences(config.tested, *CHOSEN_BY, forgetting, held_out))
    tests = {f"{t}, {k}": recalled(model, *sequences(config.tested, t, k, forgetting, unseen)) for t, k in TESTS[task]}
    return {
        **{"arm": arm, "task": task, "rate": rate, "seed": seed, "parameters": model.parameter_count()},
        **{"seconds": round(seconds, 1), "validation": chosen, "error": 1 - chosen, "tests": tests},
    }


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there is no such arm or task, or the folder holds results of other options.
    """
    config, console = parse(RecallConfig, arguments, PROGRAM), Console()
    check_known("arm", config.arms, ARMS)
    check_known("task", config.tasks, TESTS)
    # Whatever does not go together is told before anything is begun.
    sizes = {arm: parameters_of(shape_of(arm, config)) for arm in ARMS}
    with measuring(config.folder):
        kept = {name: getattr(config, name) for name in ("steps", "batch", "width", "tested")} | {"parameters": sizes}
        results = Results(config.folder, kept, ("task", "arm"))

        def row(task: str, arm: str, rate: float, seed: int) -> dict[str, Any]:
            key = {"arm": arm, "task": task, "rate": rate, "seed": seed}
            found = results.have(lambda: measure(arm, task, rate, seed, config), **key)
            console.print(f"{task}, {arm}, rate {rate:g}, seed {seed}: {found['validation']:.3f}")
            return found

        lines = [
            with_best_rate(functools.partial(row, task, arm), RATES, config.seeds, "error")
            for task, arm in itertools.product(config.tasks, config.arms)
        ]
    report = _report(lines, config)
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _report(lines: list[list[dict[str, Any]]], config: RecallConfig) -> str:
    text = []
    for task in config.tasks:
        names = [f"{t}, {k}" for t, k in TESTS[task]]
        text += [f"## {task.capitalize()}", ""]
        text += [f"| writes by | {' | '.join(f'({name})' for name in names)} | rate | parameters | s |"]
        text += ["| --- " * (len(names) + 4) + "|"]
        for seeds in (line for line in lines if line[0]["task"] == task):
            cells = [_spread([row["tests"][name] for row in seeds]) for name in names]
            first = seeds[0]
            spent = f"{np.mean([row['seconds'] for row in seeds]):.0f}"
            cells += [f"{first['rate']:g}", f"{first['parameters']:,}", spent]
            text.append(f"| {first['arm']} | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def _spread(values: list[float]) -> str:
    """The mean, and the least and the greatest of several."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    run(main)

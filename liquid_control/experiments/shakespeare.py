"""``python -m liquid_control.experiments.shakespeare FOLDER TEXT``: what a small model of characters learns in minutes.

The budget is that of nanoGPT's toy on a CPU: four layers of 128, 64 characters of context, 2,000 steps of 12 windows
from random places. Every arm has as many parameters as the first, by the width of its feed-forward part, and the
learning rate that is best for it. Where it was stopped, the same command goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from liquid_control.experiments.study import best_of_arms, identity_of, matched, train_language_model
from liquid_control.models.language_model import LanguageModelConfig, load_language_model
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments.shakespeare"
ARMS: dict[str, dict[str, Any]] = {
    "delta": {"rule": "delta"},
    "hebb": {"rule": "hebb"},
    "delta and scan": {"pattern": ("memory", "scan")},
    "transformer": {"pattern": ("attention",), "window": 64},
    "lstm": {"pattern": ("lstm",)},
}
"""What each arm has instead of the defaults. ``delta`` is a gated DeltaNet and ``hebb`` gated linear attention, but for
reading a trace before it is written; ``transformer`` has RoPE, RMS norms and SwiGLU as all others do."""
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
"""Learning rates, of which each arm has the best of seed 0."""
MEASURED = ("validation_loss", "bits_per_byte", "gradient_steps")
"""Of the best weights of a training; NaN if it has diverged."""


@dataclass(frozen=True)
class ShakespeareConfig:
    """Trains a small model of characters by every mixer, with nanoGPT's budget for a CPU."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/shakespeare, say. A training is in FOLDER/ARM-RATE-SEED, the table in FOLDER/report.md."""
    text: Annotated[Path, tyro.conf.arg(metavar="TEXT")]
    """What is learned: the 1.1 million characters of karpathy/char-rnn. Its last tenth is for validation."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which of delta, hebb, delta and scan, transformer, lstm."""
    seeds: Count = 3
    """Trainings of each arm with its best learning rate, from the seeds 0, 1, …"""
    steps: Count = 2000
    """Gradient steps of a training."""
    width: Count = 128
    """Of the models."""


def shape_of(arm: str, width: int, vocabulary: int = 66) -> LanguageModelConfig:
    """An arm, with the parameters of the first one, or nearly."""
    first = LanguageModelConfig(vocabulary=vocabulary, width=width)
    return matched(replace(first, **ARMS[arm]), first)


def measure(arm: str, rate: float, seed: int, config: ShakespeareConfig) -> dict[str, Any]:
    """A training by the command, as a line of the results."""
    path = config.folder / f"{arm.replace(' ', '-')}-{rate:g}-{seed}"
    shape = shape_of(arm, config.width)
    words = f"--reading windows --steps {config.steps} --learning-rate {rate:g} --seed {seed}".split()
    words += f"--width {shape.width} --expansion {shape.expansion} --rule {shape.rule} --window {shape.window}".split()
    words += ["--pattern", *shape.pattern, "--text", str(config.text), "--data", str(config.folder / "text")]
    row: dict[str, Any] = {"arm": arm, "rate": rate, "seed": seed}
    if not train_language_model(path, words):
        return row | dict.fromkeys(("parameters", *MEASURED, "seconds"), math.nan)
    model, best = load_language_model(path / "best")
    _, last = load_language_model(path / "last")
    row |= {"parameters": model.parameter_count()} | {name: best["training"][name] for name in MEASURED}
    return row | {"seconds": last["training"]["seconds"]}


def main(arguments: Sequence[str]) -> None:
    """Trains what is missing; see ``--help``.

    Raises:
        UserError: if there is no such arm, a training fails, or the folder holds results of other options.
    """
    config, console = parse(ShakespeareConfig, arguments, PROGRAM), Console()
    check_known("arm", config.arms, ARMS)
    for arm in config.arms:
        shape_of(arm, config.width)  # whatever does not go together is told before anything is begun
    options = {"steps": config.steps, "width": config.width, "text": identity_of(config.text)}
    lines = best_of_arms(
        config.folder,
        options,
        config.arms,
        lambda arm, rate, seed: measure(arm, rate, seed, config),
        RATES,
        config.seeds,
        "validation_loss",
    )
    report = _report(list(lines.values()))
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _report(lines: list[list[dict[str, Any]]]) -> str:
    text = [
        "| model | validation, nats | each seed | bits per byte | rate | parameters | minutes |",
        "| --- " * 7 + "|",
    ]
    for seeds in lines:
        losses = [row["validation_loss"] for row in seeds]
        cells = [f"{np.mean(losses):.3f}", ", ".join(f"{loss:.3f}" for loss in losses)]
        cells += [f"{np.mean([row['bits_per_byte'] for row in seeds]):.3f}", f"{seeds[0]['rate']:g}"]
        cells += [f"{seeds[0]['parameters']:,}", f"{np.mean([row['seconds'] for row in seeds]) / 60:.1f}"]
        text.append(f"| {seeds[0]['arm']} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    run(main)

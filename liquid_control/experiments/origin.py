"""``python -m liquid_control.experiments.origin FOLDER TEXT``: what each mend of the origin's plasticity is worth.

The origin (`liquid_control.models.language_model.OriginCell`) has four defects, each with a switch. Arms mend one at a
time, then all but one, and all; each stands beside the same cells without plasticity. All read the same text in the
same order with the state carried on, in training and in validation, because what is in question is a memory. Where it
was stopped, the same command goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import tyro

from liquid_control.experiments.study import best_of_arms, identity_of, interval, parameters_of, train_language_model
from liquid_control.models.language_model import LanguageModelConfig, Mend, load_language_model
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments.origin"
MENDS: tuple[Mend, ...] = get_args(Mend)
STATIC = "not plastic"
ARMS: dict[str, tuple[str, ...] | None] = {
    STATIC: None,
    "as published": (),
    **{f"{mend} mended": (mend,) for mend in MENDS},
    **{f"all but {mend}": tuple(other for other in MENDS if other != mend) for mend in MENDS},
    "all mended": MENDS,
}
"""Which defects an arm mends; None has no traces at all."""
RATES = (3e-3, 1e-2, 3e-2)
"""Learning rates, of which each arm has the best of seed 0."""
TIME = 16
"""Tokens that gradients go back through, as in the origin."""
MEASURED = ("validation_loss", "bits_per_byte", "seconds")
"""Of each training; NaN if it has diverged."""


@dataclass(frozen=True)
class OriginConfig:
    """Trains the origin's architecture with its defects mended in turn, plasticity on and off."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/origin, say. A training is in FOLDER/ARM-RATE-SEED, the table in FOLDER/report.md."""
    text: Annotated[Path, tyro.conf.arg(metavar="TEXT")]
    """What is learned, by characters. Its last tenth is for validation."""
    arms: tuple[str, ...] = tuple(ARMS)
    """By default all: not plastic, as published, each of four defects mended, all but each, all mended."""
    seeds: Count = 3
    """Trainings of each arm with its best learning rate, from the seeds 0, 1, …"""
    steps: Count = 500
    """Gradient steps of a training."""
    width: Count = 64
    """Of the models: two fast cells of one Euler step, two deep ones of three midpoint steps."""


def measure(arm: str, rate: float, seed: int, config: OriginConfig) -> dict[str, Any]:
    """A training by the command, as a line of the results."""
    path = config.folder / f"{arm.replace(' ', '-')}-{rate:g}-{seed}"
    mends = ARMS[arm]
    words = f"--variant origin --width {config.width} --blocks 4 --steps {config.steps} --seed {seed}".split()
    words += f"--learning-rate {rate:g} --batch 32 --time {TIME} --validate-every {config.steps}".split()
    words += ["--plastic", str(mends is not None), "--mends", *(mends or ())]
    row: dict[str, Any] = {"arm": arm, "rate": rate, "seed": seed}
    if not train_language_model(path, [*words, "--text", str(config.text), "--data", str(config.folder / "text")]):
        return row | dict.fromkeys(("parameters", *MEASURED), math.nan)
    model, told = load_language_model(path / "last")
    return row | {"parameters": model.parameter_count()} | {name: told["training"][name] for name in MEASURED}


def main(arguments: Sequence[str]) -> None:
    """Trains what is missing; see ``--help``.

    Raises:
        UserError: if there is no such arm, a training fails, or the folder holds results of other options.
    """
    config, console = parse(OriginConfig, arguments, PROGRAM), Console()
    check_known("arm", config.arms, ARMS)
    parameters_of(LanguageModelConfig(variant="origin", width=config.width))  # told before anything is begun
    options = {"steps": config.steps, "width": config.width, "text": identity_of(config.text)}
    report = _report(
        best_of_arms(
            config.folder,
            options,
            config.arms,
            lambda arm, rate, seed: measure(arm, rate, seed, config),
            RATES,
            config.seeds,
            "validation_loss",
        )
    )
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _report(lines: dict[str, list[dict[str, Any]]]) -> str:
    text = [
        "| arm | validation, nats | each seed | more than not plastic | 95 % | rate | parameters | minutes |",
        "| --- " * 8 + "|",
    ]
    for arm, rows in lines.items():
        losses = [row["validation_loss"] for row in rows]
        cells = [f"{np.mean(losses):.3f}", ", ".join(f"{loss:.3f}" for loss in losses), "", ""]
        if arm != STATIC and STATIC in lines:
            more = [loss - other["validation_loss"] for loss, other in zip(losses, lines[STATIC], strict=True)]
            cells[2] = f"{np.mean(more):+.3f}"
            if len(more) > 1:
                cells[3] = "{:+.3f} to {:+.3f}".format(*interval(more))
        cells += [f"{rows[0]['rate']:g}", f"{rows[0]['parameters']:,}"]
        cells += [f"{np.mean([row['seconds'] for row in rows]) / 60:.1f}"]
        text.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    run(main)

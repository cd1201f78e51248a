"""``python -m liquid_control.experiments.irregular FOLDER``: what a liquid core adds to a transformer in between steps.

Two families of curves are seen with noise at irregular moments. At each moment a model is told what was seen and how
long it is until the next moment, and is to say where the curve will be then, without the noise:

- ``spiral``: points of the plane that wind outwards or inwards (as in Chen et al. 2018, "Neural ordinary differential
  equations", §5.1), of any pace, size and beginning.
- ``sine``: the sum of two waves of any pace, height and phase.

Gaps are drawn as rain falls: mostly short, now and then long. Each arm is the same network with another core, or none.
All have as many parameters as the first arm, by the width of their feed-forward parts, and the learning rate that is
best for them. Where it was stopped, the same command goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from annotated_types import Ge
from torch import Tensor

from liquid_control.experiments.study import best_of_arms
from liquid_control.models.hybrid import TransformerLNN
from liquid_control.nn import CfC, LiquidLayer, LiquidScan
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments.irregular"
FIRST = 5
"""Moments at which nobody can know the curve yet; errors count from there on."""
NOISE = {"spiral": 0.2, "sine": 0.2}
"""Standard deviation of what is seen around the curve, whose own is near one."""
ARMS = ("cfc", "scan", "none")
"""Cores: closed-form neurons, liquid neurons that do not see each other, and no core: the transformer alone."""
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates, of which each arm has the one of the least validation error of seed 0."""
HEADS = 4


@dataclass(frozen=True)
class IrregularConfig:
    """Trains transformers with and without a liquid core on curves that are seen at irregular moments."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/irregular, say. A trained model is a line of results.jsonl, the table is in report.md."""
    tasks: tuple[str, ...] = tuple(NOISE)
    """spiral, sine or both."""
    arms: tuple[str, ...] = ARMS
    """Which of cfc, scan and none. Intervals are of the difference from none."""
    seeds: Count = 5
    """Trainings of each arm with its best learning rate, from the seeds 0, 1, …"""
    steps: Count = 1000
    """Gradient steps of a training."""
    batch: Count = 32
    """Curves of a step, which are new at every step."""
    moments: Annotated[int, Ge(FIRST + 1)] = 32
    """Moments at which a curve is seen."""
    width: Annotated[int, Ge(8)] = 32
    """Numbers that stand for a moment inside, a multiple of 8."""
    tested: Count = 1000
    """Curves of the test, and of the validation that chooses rates."""


def curves(task: str, count: int, moments: int, seed: int | Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Curves at irregular moments.

    Args:
        task: spiral or sine.
        count: how many, N.
        moments: at how many each is seen, T.
        seed: of what is drawn.

    Returns:
        What is seen (N, T, D + 1), with noise, the time to the next moment beside it; times (N, T); and where the curve
        is at the next moment (N, T, D). D is 2 for spirals, 1 for sines.
    """
    rng = np.random.default_rng(seed)
    gaps = 0.1 + rng.exponential(0.4, (count, moments + 1))
    times = gaps.cumsum(1) - gaps[:, :1]
    passed = times[..., None]
    if task == "spiral":
        pace = rng.uniform(0.3, 1.2, (count, 1, 1)) * rng.choice([-1, 1], (count, 1, 1))
        begin, end = rng.uniform(0.3, 2.0, (2, count, 1, 1))
        radius = begin + (end - begin) * passed / (0.5 * moments)
        angle = rng.uniform(0, 2 * math.pi, (count, 1, 1)) + pace * passed
        values = radius * np.concatenate([np.cos(angle), np.sin(angle)], 2)
    else:
        pace = rng.uniform(0.3, 1.5, (count, 1, 2))
        height = rng.uniform(0.3, 1.2, (count, 1, 2))
        phase = rng.uniform(0, 2 * math.pi, (count, 1, 2))
        values = (height * np.sin(pace * passed + phase)).sum(2, keepdims=True)
    seen = values[:, :-1] + NOISE[task] * rng.standard_normal(values[:, :-1].shape)
    inputs = np.concatenate([seen, gaps[:, 1:, None]], 2)
    return _single(inputs), torch.from_numpy(times[:, :-1]), _single(values[:, 1:])


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def network(arm: str, task: str, config: IrregularConfig, expansion: float) -> TransformerLNN:
    """The network of an arm."""
    width = config.width
    core: LiquidLayer | None = None
    if arm == "cfc":
        core = CfC(width, width, backbone_units=width)
    elif arm == "scan":
        core = LiquidScan(width, width)
    outputs = 2 if task == "spiral" else 1
    return TransformerLNN(
        outputs + 1,
        width,
        HEADS,
        dropout=0.0,
        output_size=outputs,
        core=core,
        window=config.moments,
        expansion=expansion,
        time_unit=0.5,
    )


def matched(arm: str, task: str, config: IrregularConfig) -> TransformerLNN:
    """The network of an arm, with feed-forward parts as wide as give it the parameters of the first, or nearly."""
    wanted = network(ARMS[0], task, config, 1.0).parameter_count()
    one, two = (network(arm, task, config, expansion).parameter_count() for expansion in (1.0, 2.0))
    return network(arm, task, config, 1 + (wanted - one) / (two - one))


def error(model: TransformerLNN, inputs: Tensor, times: Tensor, wanted: Tensor) -> np.ndarray:
    """Root mean square error of each curve (N,)."""
    with torch.no_grad():
        answers = [model(*part) for part in zip(inputs.split(250), times.split(250), strict=True)]
    apart: np.ndarray = (torch.cat(answers) - wanted)[:, FIRST:].square().sum(2).mean(1).sqrt().numpy()
    return apart


def measure(arm: str, task: str, rate: float, seed: int, config: IrregularConfig) -> dict[str, Any]:
    """A training as a line of the results: Adam, the rate warmed up and then falling along a cosine to a tenth."""
    torch.manual_seed(seed)
    model, begin = matched(arm, task, config), time.monotonic()
    optimizer = torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.98))
    for step in range(config.steps):
        done = step / config.steps
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 20 * (done + 1 / config.steps)) * (0.55 + 0.45 * math.cos(math.pi * done))
        inputs, times, wanted = curves(task, config.batch, config.moments, [seed, step])
        loss = (model(inputs, times) - wanted)[:, FIRST:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.monotonic() - begin
    model.eval()
    # Other curves than any training sees, and the same for all arms.
    validation, test = (error(model, *curves(task, config.tested, config.moments, [2**32, kind])) for kind in range(2))
    return {
        **{"arm": arm, "rate": rate, "seed": seed, "parameters": model.parameter_count(), "seconds": round(seconds, 1)},
        **{"validation": float(validation.mean()), "test": float(test.mean())},
    }


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there is no such arm or task, or the folder holds results of other options.
    """
    config, console = parse(IrregularConfig, arguments, PROGRAM), Console()
    for what, given, known in (("arm", config.arms, ARMS), ("task", config.tasks, NOISE)):
        for name in given:
            if name not in known:
                raise UserError(f"no {what} {name!r}: {nearest(name, known)}")
    if config.width % (2 * HEADS):
        raise UserError(f"--width must be a multiple of {2 * HEADS}, given {config.width}.")
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    options = {name: getattr(config, name) for name in ("steps", "batch", "moments", "width", "tested")}

    def row(task: str, arm: str, rate: float, seed: int) -> dict[str, Any]:
        found = measure(arm, task, rate, seed, config)
        console.print(f"{task}, {arm}, rate {rate:g}, seed {seed}: {found['validation']:.4f}")
        return found

    text = []
    for task in config.tasks:
        lines = best_of_arms(
            config.folder / task,
            options,
            config.arms,
            partial(row, task),
            RATES,
            config.seeds,
            "validation",
        )
        text += [f"## {task.capitalize()}", "", *_table(lines), ""]
    report = "\n".join(text)
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _table(lines: dict[str, list[dict[str, Any]]]) -> list[str]:
    heads = ("core", "error", "each seed", "less than without (95 %)", "rate", "parameters", "s")
    text = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for arm, seeds in lines.items():
        errors = [row["test"] for row in seeds]
        cells = [arm, f"{np.mean(errors):.4f}", ", ".join(f"{each:.4f}" for each in errors)]
        gained = ""
        if arm != "none" and "none" in lines:
            share, low, high = gain(errors, [row["test"] for row in lines["none"]])
            gained = f"{share:.1%} ({low:.1%} to {high:.1%})"
        cells += [gained, f"{seeds[0]['rate']:g}", f"{seeds[0]['parameters']:,}"]
        text.append(f"| {' | '.join(cells)} | {np.mean([row['seconds'] for row in seeds]):.0f} |")
    return text


def gain(errors: Sequence[float], others: Sequence[float], draws: int = 10_000) -> tuple[float, float, float]:
    """By what share the mean of errors is below that of others, and the 95 % interval: both are drawn again."""
    rng = np.random.default_rng(0)
    one, other = (rng.choice(values, (draws, len(values))).mean(1) for values in (errors, others))
    low, high = np.quantile(1 - one / other, (0.025, 0.975))
    return float(1 - np.mean(errors) / np.mean(others)), float(low), float(high)


if __name__ == "__main__":
    run(main)

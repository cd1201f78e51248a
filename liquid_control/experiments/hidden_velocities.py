"""``python -m liquid_control.experiments hidden_velocities``: control without velocities, learned from reward by PPO.

A pole is balanced, a pendulum is swung up, a lunar module lands; a driver sees positions and needs a memory. This is
the table of docs/results/ppo_memory.md. Trainings are those of ``train --agent ppo`` with the config
``configs/ppo/TASK_hidden.yaml``, or ``TASK_hidden_CELL.yaml`` where a cell has its own. Each best checkpoint is scored
by ``evaluate`` on 100 test episodes. Where it was stopped, the same command goes on.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from liquid_control.experiments.study import Results, measuring, run_command
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import DivergedError, UserError, check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count
from liquid_control.support.statistics import bootstrap_interval, interquartile_mean
from policies.driver import load_driver

PROGRAM = "python -m liquid_control.experiments hidden_velocities"
TASKS = {"cartpole": 500.0, "pendulum": -200.0, "lunar_lander": 200.0}
"""The mean return at which each counts as solved."""
CELLS = {"cfc": ("cfc",), "ltc": ("ltc",), "lstm": ("lstm",), "mlp": ("mlp", "frames=1")}
"""The policy of each cell and its options; a config of the cell's own is taken in their place."""
EPISODES = 100


@dataclass(frozen=True)
class HiddenVelocitiesConfig:
    """Trains drivers that see no velocities from reward, by each core, and tables their scores."""

    cell: tuple[str, ...] = tuple(CELLS)
    """Which of cfc, ltc, lstm and mlp, the net without memory."""
    task: tuple[str, ...] = tuple(TASKS)
    """Which of cartpole, pendulum and lunar_lander."""
    seeds: Count = 5
    """Trainings of each, from the seeds 0, 1, …"""
    folder: Path = Path("runs/hidden_velocities")
    """Of the run folders, results.jsonl and report.md."""
    configs: Path = Path("configs/ppo")
    """Folder of the tasks' configs, those of this repository."""
    options: tuple[str, ...] = ()
    """Further options of each training, as words."""


@dataclass(frozen=True)
class Training:
    """One of the study."""

    task: str
    cell: str
    seed: int

    def folder(self, config: HiddenVelocitiesConfig) -> Path:
        """Its run folder."""
        return config.folder / f"{self.task}-{self.cell}-{self.seed}"

    def words(self, config: HiddenVelocitiesConfig) -> list[str]:
        """What ``train`` is told; a training that was begun goes on as it was begun.

        Raises:
            UserError: if the task's config is missing.
        """
        path = self.folder(config)
        if (path / "config.yaml").exists():
            return ["--resume", str(path)]
        own = config.configs / f"{self.task}_hidden_{self.cell}.yaml"
        policy, *options = CELLS[self.cell]
        chosen = own if own.exists() else config.configs / f"{self.task}_hidden.yaml"
        if not chosen.exists():
            raise UserError(f"there is no {chosen}: name the repository's configs/ppo by --configs.")
        words = ["--config", str(chosen), "--run", str(path), "--seed", str(self.seed), "--agent", "ppo"]
        if chosen != own:
            words += ["--policy", policy, "--policy-options", "neurons=19", *options]
        words += ["--threads", "1", "--workers", "1", "--test-episodes", "0", "--video", "False"]
        return [*words, *config.options]

    def measure(self, config: HiddenVelocitiesConfig) -> dict[str, Any]:
        """Trains, unless that is done; what the best checkpoint scores, as a line of the results.

        All is NaN in that of a training that has diverged.
        """
        path, best = self.folder(config), self.folder(config) / "best"
        if not (path / "last" / "config.json").exists():
            try:
                run_command("train", *self.words(config))
            except DivergedError:  # which it would again
                return vars(self) | dict.fromkeys(("mean", "parameters", "decisions", "seconds"), math.nan)
        if not (best / "evaluation.json").exists():
            run_command("evaluate", str(best), "--episodes", str(EPISODES))
        scores = [episode["score"] for episode in json.loads((best / "evaluation.json").read_text())["episodes"]]
        record = json.loads((path / "last" / "config.json").read_text())["record"]
        row = vars(self) | {"mean": float(np.mean(scores)), "parameters": load_driver(best).core.parameter_count()}
        return row | {name: record[name] for name in ("decisions", "seconds")}


def main(arguments: Sequence[str]) -> None:
    """Trains what is missing; see ``--help``.

    Raises:
        UserError: if there is no such cell or task, or a training fails.
    """
    config, console = parse(HiddenVelocitiesConfig, arguments, PROGRAM), Console()
    check_known("cell", config.cell, CELLS)
    check_known("task", config.task, TASKS)
    trainings = [Training(*chosen) for chosen in itertools.product(config.task, config.cell, range(config.seeds))]
    with measuring(config.folder):
        results = Results(
            config.folder, {"options": config.options, "configs": str(config.configs), "episodes": EPISODES}, ()
        )
        rows = [results.have(partial(training.measure, config), **vars(training)) for training in trainings]
    report = table(rows)
    write_atomically(config.folder / "report.md", report)
    console.print(report)


COLUMNS = (
    "task", "cell", "parameters", "IQM of the seeds, 95 % interval", "worst and best seed", "seeds solved",
    "decisions, median", "minutes, median",
)  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown, a line a task and cell: the interquartile mean over seeds and its bootstrap interval.

    The scores of a cell one of whose trainings has diverged are NaN.
    """
    text = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    for task, cell in dict.fromkeys((row["task"], row["cell"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["cell"]) == (task, cell)]
        means = np.array([row["mean"] for row in mine])
        middle = low = high = math.nan
        if np.isfinite(means).all():
            middle, (low, high) = float(interquartile_mean(means)), bootstrap_interval(means)
        cells = [f"{task} ({TASKS[task]:g})", cell, f"{mine[0]['parameters']:,}"]
        cells.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
        cells.append(f"{means.min():.1f} to {means.max():.1f}")
        cells.append(f"{int((means >= TASKS[task]).sum())}/{len(mine)}")
        cells.append(f"{np.median([row['decisions'] for row in mine]):,.0f}")
        cells.append(f"{np.median([row['seconds'] for row in mine]) / 60:.1f}")
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.experiments hidden_velocities``: control without velocities, learned from reward by PPO.

A pole is balanced, a pendulum is swung up, a lunar module lands; a driver sees positions and needs a memory. This is
the table of docs/results/ppo_memory.md. Trainings are those of ``train --agent ppo`` with the configs in
``configs/ppo``, and each best checkpoint is scored by ``evaluate`` on 100 test episodes. Where it was stopped, the same
command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from liquid_control.experiments.sequence_report import interval
from liquid_control.experiments.study import Results, measuring, run_command
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments hidden_velocities"
TASKS = {"cartpole": 500.0, "pendulum": -200.0, "lunar_lander": 200.0}
"""The mean return at which each counts as solved."""
CELLS = {"cfc": ("cfc",), "ltc": ("ltc",), "lstm": ("lstm",), "mlp": ("mlp", "frames=1")}
"""The policy of each cell and its options; a config of the cell's own is taken in their place."""
OWN_CONFIG = {"mlp": "feed-forward"}
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


def measure(task: str, cell: str, seed: int, config: HiddenVelocitiesConfig) -> dict[str, Any]:
    """A training and the score of its best checkpoint, as a line of the results.

    Raises:
        UserError: if the config is missing, or a command fails.
    """
    path = config.folder / f"{task}-{cell}-{seed}"
    if (path / "config.yaml").exists():
        if not (path / "last" / "config.json").exists():
            run_command("train", "--resume", str(path))
    else:
        own = config.configs / f"{task}_hidden_{OWN_CONFIG.get(cell, cell)}.yaml"
        policy, *options = CELLS[cell]
        chosen = own if own.exists() else config.configs / f"{task}_hidden.yaml"
        if not chosen.exists():
            raise UserError(f"there is no {chosen}: name the repository's configs/ppo by --configs.")
        words = ["--config", str(chosen), "--run", str(path), "--seed", str(seed), "--agent", "ppo"]
        if chosen != own:
            words += ["--policy", policy, "--policy-options", "neurons=19", *options]
        words += ["--threads", "1", "--workers", "1", "--test-episodes", "0", "--video", "False"]
        run_command("train", *words, *config.options)
    best = path / "best"
    if not (best / "evaluation.json").exists():
        run_command("evaluate", str(best), "--episodes", str(EPISODES))
    scores = [episode["score"] for episode in json.loads((best / "evaluation.json").read_text())["episodes"]]
    record = json.loads((path / "last" / "config.json").read_text())["record"]
    row = {"task": task, "cell": cell, "seed": seed, "mean": float(np.mean(scores))}
    return row | {name: record[name] for name in ("decisions", "seconds")}


def main(arguments: Sequence[str]) -> None:
    """Trains what is missing; see ``--help``.

    Raises:
        UserError: if there is no such cell or task, or a training fails.
    """
    config, console = parse(HiddenVelocitiesConfig, arguments, PROGRAM), Console()
    check_known("cell", config.cell, CELLS)
    check_known("task", config.task, TASKS)
    with measuring(config.folder):
        results = Results(config.folder, {"options": config.options, "episodes": EPISODES})
        text = ["| task | cell | mean return | each seed | solved | decisions | minutes |", "| --- " * 7 + "|"]
        for task in config.task:
            for cell in config.cell:
                rows = [
                    results.have(
                        lambda task=task, cell=cell, seed=seed: measure(task, cell, seed, config),  # type: ignore[misc]
                        **{"task": task, "cell": cell, "seed": seed},
                    )
                    for seed in range(config.seeds)
                ]
                means = [row["mean"] for row in rows]
                low, high = interval(means)
                cells = [f"{task} ({TASKS[task]:g})", cell, f"{np.mean(means):.1f} ({low:.1f} to {high:.1f})"]
                cells.append(", ".join(f"{mean:.1f}" for mean in means))
                cells.append(f"{sum(mean >= TASKS[task] for mean in means)}/{len(means)}")
                cells.append(f"{np.median([row['decisions'] for row in rows]):,.0f}")
                cells.append(f"{np.median([row['seconds'] for row in rows]) / 60:.1f}")
                text.append(f"| {' | '.join(cells)} |")
    report = "\n".join(text) + "\n"
    write_atomically(config.folder / "report.md", report)
    console.print(report)


if __name__ == "__main__":
    run(main)

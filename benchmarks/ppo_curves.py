"""The curves of PPO runs, one line a seed, as a picture and as a table: what docs/results/ shows.

python benchmarks/ppo_curves.py runs/seed-0 runs/seed-1 --output docs/results/ppo_car_racing.png

Thin lines are training episodes, driven with exploration; marks are validations of the driver without it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from liquid_control.support import command

SMOOTHED = 10
"""Updates that a point of a training curve is the mean of."""


def read_curve(run: Path, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Decisions and values of a scalar; empty if the run has not logged it."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
    return np.array([point.step for point in scalars]), np.array([point.value for point in scalars])


def smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean of the last :data:`SMOOTHED` values."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    begins = np.maximum(np.arange(1, len(sums)) - SMOOTHED, 0)
    return (sums[1:] - sums[begins]) / (np.arange(1, len(sums)) - begins)


def main() -> None:
    """Draw the picture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--output", type=Path, required=True, help="the picture to write")
    arguments = parser.parse_args()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    table = Table()
    columns = ("core", "seed", "decisions", "minutes", "training return, end", "best validation", "at decision")
    for column in columns:
        table.add_column(column, justify="left" if column == "core" else "right")
    for index, run in enumerate(arguments.runs):
        config = yaml.safe_load((run / "config.yaml").read_text())
        record = json.loads((run / "last" / "config.json").read_text())["record"]
        name = f"{config['policy']}, seed {config['seed']}, γ {config['gamma']}"
        steps, returns = read_curve(run, "rollout/return")
        axes.plot(steps / 1000, smoothed(returns), color=f"C{index}", linewidth=1, alpha=0.6)
        at, scores = read_curve(run, "validation/score")
        axes.plot(at / 1000, scores, "o-", color=f"C{index}", markersize=4, label=name)
        best = int(np.argmax(scores))
        table.add_row(
            config["policy"],
            str(config["seed"]),
            f"{record['decisions']:,}",
            f"{record['seconds'] / 60:.1f}",
            f"{returns[-SMOOTHED:].mean():.0f}",
            f"{scores[best]:.1f}",
            f"{int(at[best]):,}",
        )
    axes.set(xlabel="thousand decisions", ylabel="return")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(arguments.output, dpi=110)
    Console(width=120).print(table)


if __name__ == "__main__":
    command.run(lambda _: main())

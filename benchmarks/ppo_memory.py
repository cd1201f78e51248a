"""Which memory balances, swings and lands without seeing a velocity: PPO on three tasks, five seeds a core.

python benchmarks/ppo_memory.py --runs runs/memory
python benchmarks/ppo_memory.py --runs runs/memory --task pendulum --core cfc --seeds 1    # part of it

Trains by the configs `configs/ppo/TASK_hidden.yaml`, or `TASK_hidden_CORE.yaml` where a core has its own (velocities
are left out of what the driver sees), judges each best checkpoint on 100 episodes of test seeds, and prints the table.
Several runs at once, a thread each; what is in the folder already is not run again, so it can be stopped and goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.workers import processor_count
from liquid_control.evaluate import main as evaluate
from liquid_control.report.evaluation import EVALUATION_NAME, Evaluation
from liquid_control.report.statistics import bootstrap_interval, interquartile_mean
from liquid_control.support.ranges import Count, argument
from policies.driver import load_driver

CONFIGS = Path(__file__).parent.parent / "configs" / "ppo"
TASKS = {"cartpole": 500.0, "pendulum": -200.0, "lunar_lander": 200.0}
"""The tasks, and the mean return at which each counts as solved."""
NEURONS = "neurons=19"
CORES = {
    "cfc": ("cfc", [NEURONS]),
    "ltc": ("ltc", [NEURONS]),
    "lstm": ("lstm", [NEURONS]),
    "feed-forward": ("mlp", [NEURONS, "frames=1"]),
}
"""The policy and its options, unless a core's own config tells others."""
EPISODES = 100


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    core: str
    seed: int
    folder: Path

    def train(self, extra: list[str]) -> None:
        """Trains, or goes on where it was stopped, unless it is done."""
        if (self.folder / "last" / "config.json").exists():
            return
        command = [sys.executable, "-m", "liquid_control.train"]
        if (self.folder / "config.yaml").exists():
            command += ["--resume", str(self.folder)]
        else:
            policy, options = CORES[self.core]
            config = CONFIGS / f"{self.task}_hidden_{self.core}.yaml"
            if config.exists():
                command += ["--config", str(config)]
            else:
                command += ["--config", str(CONFIGS / f"{self.task}_hidden.yaml")]
                command += ["--policy", policy, "--policy-options", *options]
            command += ["--run", str(self.folder), "--seed", str(self.seed)]
            command += ["--threads", "1", "--workers", "1", "--test-episodes", "0", "--video", "False", *extra]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / f"{self.folder.name}.log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def judge(self) -> Evaluation:
        """What the best checkpoint scores on the test seeds; read from its folder if it was judged before."""
        best = self.folder / "best"
        if not (best / EVALUATION_NAME).exists():
            evaluate([str(best), "--episodes", str(EPISODES)])
        return Evaluation.from_json((best / EVALUATION_NAME).read_text())


def add_row(table: Table, task: str, core: str, runs: list[Run]) -> None:
    """A core's seeds on a task."""
    evaluations = [run.judge() for run in runs]
    means = np.array([each.summary()["mean"] for each in evaluations])
    records = [json.loads((run.folder / "last" / "config.json").read_text())["record"] for run in runs]
    low, high = bootstrap_interval(means)
    table.add_row(
        task,
        core,
        f"{load_driver(runs[0].folder / 'best').core.parameter_count():,}",
        f"{float(interquartile_mean(means)):.1f} ({low:.1f} to {high:.1f})",
        f"{means.min():.1f} to {means.max():.1f}",
        f"{int((means >= TASKS[task]).sum())}/{len(runs)}",
        f"{np.median([record['decisions'] for record in records]):,.0f}",
        f"{np.median([record['seconds'] for record in records]) / 60:.1f}",
    )


def main() -> None:
    """Trains what is not trained yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--core", nargs="+", choices=CORES, default=list(CORES))
    parser.add_argument("--seeds", type=argument(Count), default=5)
    parser.add_argument("--jobs", type=argument(Count), default=processor_count(), help="trainings at once")
    parser.add_argument("options", nargs="*", help="after --, further options of the training")
    arguments = parser.parse_args()
    runs = {
        (task, core): [
            Run(task, core, seed, arguments.runs / f"{task}-{core}-{seed}") for seed in range(arguments.seeds)
        ]
        for task, core in itertools.product(arguments.task, arguments.core)
    }
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda run: run.train(arguments.options), [run for each in runs.values() for run in each]))
    table = Table(caption=f"IQM of the seeds' means over {EPISODES} episodes, 95 % bootstrap interval over the seeds")
    columns = ("task", "core", "parameters", "IQM, 95 % interval", "seeds", "solved", "decisions", "minutes")
    for column in columns:
        table.add_column(column, justify="left" if column in ("task", "core") else "right")
    for (task, core), each in runs.items():
        add_row(table, task, core, each)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

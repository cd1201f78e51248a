"""How many steps a second: official CarRacing-v3, FastCarRacing and EnvPool's CarRacing-v3, interleaved in one process.

python benchmarks/car_racing_speed.py

Every environment drives the same episodes, resets included: some with random actions, some with actions recorded from
the expert. Each round has episodes of its own; ratios are taken within a round, and their median is printed. EnvPool is
compared where it is installed: `pip install -e ".[benchmark]"` (740 MB).
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from rich.console import Console
from rich.table import Table

from envs.car_racing.expert import Expert
from envs.car_racing.fast import FastCarRacing
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

STEPS = 1000
OFFICIAL = "official CarRacing-v3"
ENVPOOL_BATCHES = (1, 8)  # environments in one EnvPool; the faster one counts


@dataclass
class Episode:
    """What every environment repeats."""

    seed: int
    actions: np.ndarray
    """(steps, 3) float32."""


def record_episodes(count: int, first_seed: int) -> list[Episode]:
    """Actions of `count` random episodes and `count` laps of the expert, on consecutive seeds."""
    env = FastCarRacing(observe=False)
    expert = Expert()
    episodes = []
    for seed in range(first_seed, first_seed + 2 * count):
        scripted = seed % 2 == 1
        rng = np.random.default_rng(seed)
        env.reset(seed=seed)
        if scripted:
            expert.reset(env)
        actions = []
        for _ in range(STEPS):
            action = expert.act(env) if scripted else rng.uniform([-1, 0, 0], 1).astype(np.float32)
            actions.append(action)
            if env.step(action)[2]:
                break
        episodes.append(Episode(seed, np.array(actions)))
    return episodes


def drive(env: CarRacing, episode: Episode) -> int:
    """Repeat an episode and return its number of steps."""
    env.reset(seed=episode.seed)
    for action in episode.actions:
        env.step(action)
    return len(episode.actions)


def drive_envpool(envpool: ModuleType, environments: int) -> Callable[[Episode], int]:
    """A driver of `environments` EnvPool cars in one thread, which all take an episode's actions."""
    pool = envpool.make_gymnasium("CarRacing-v3", num_envs=environments, num_threads=1, seed=0)

    def repeat(episode: Episode) -> int:
        pool.reset()
        for action in episode.actions:
            pool.step(np.tile(action, (environments, 1)))
        return len(episode.actions) * environments

    return repeat


@dataclass
class Timing:
    """Sums over the episodes of one round."""

    steps: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    def add(self, run: Callable[[Episode], int], episode: Episode) -> None:
        """Run and time one episode."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.steps += run(episode)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--episodes", type=argument(Count), default=2, help="random episodes a round, and as many of the expert"
    )
    parser.add_argument("--rounds", type=argument(Count), default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)

    official, fast, blind = CarRacing(), FastCarRacing(), FastCarRacing(observe=False)
    runs: dict[str, Callable[[Episode], int]] = {
        OFFICIAL: lambda episode: drive(official, episode),
        "FastCarRacing": lambda episode: drive(fast, episode),
        "FastCarRacing, observe=False": lambda episode: drive(blind, episode),
    }
    pools = []
    try:
        envpool = importlib.import_module("envpool")
    except ImportError:
        print('EnvPool is not installed, so it is left out: pip install -e ".[benchmark]"')
    else:
        for environments in ENVPOOL_BATCHES:
            pools.append(f"EnvPool, {environments} in a pool")
            runs[pools[-1]] = drive_envpool(envpool, environments)

    rounds: list[dict[str, Timing]] = []
    for i in range(arguments.rounds):
        timings = {name: Timing() for name in runs}
        for episode in record_episodes(arguments.episodes, first_seed=2 * arguments.episodes * i):
            for name, run in runs.items():
                timings[name].add(run, episode)
        rounds.append(timings)

    table = Table(title=f"Steps a second, resets included, one process: median of {arguments.rounds} rounds")
    table.add_column("environment", no_wrap=True)
    for column in ("steps/s", "steps/CPU-s", "ratio", "CPU ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in runs:
        wall = [t[name].steps / t[name].wall for t in rounds]
        cpu = [t[name].steps / t[name].cpu for t in rounds]
        official_wall = [t[OFFICIAL].steps / t[OFFICIAL].wall for t in rounds]
        official_cpu = [t[OFFICIAL].steps / t[OFFICIAL].cpu for t in rounds]
        table.add_row(
            name,
            f"{statistics.median(wall):,.0f}",
            f"{statistics.median(cpu):,.0f}",
            f"{statistics.median(a / b for a, b in zip(wall, official_wall, strict=True)):.1f}",
            f"{statistics.median(a / b for a, b in zip(cpu, official_cpu, strict=True)):.1f}",
        )
    Console().print(table)
    if pools:
        ratios = []
        for timings in rounds:
            best = max(timings[name].steps / timings[name].cpu for name in pools)
            ratios.append(timings["FastCarRacing"].steps / timings["FastCarRacing"].cpu / best)
        print(f"FastCarRacing against the faster EnvPool, steps per CPU-second: {statistics.median(ratios):.1f} times")


if __name__ == "__main__":
    command.run(lambda _: main())

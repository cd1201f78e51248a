"""``python -m liquid_control.evaluate CHECKPOINT``: what a driver scores where it counts; see `report.evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.episodes import Episode
from agents.workers import processor_count
from envs.registration import STAND_IN, TEST_SEEDS, UDACITY
from liquid_control.report.evaluation import EVALUATION_NAME, Evaluation, evaluate
from liquid_control.report.judging import scoreboard
from liquid_control.report.road_evaluation import SPEEDS, RoadEvaluation, evaluate_on_roads, unseen_tracks
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.files import check_writable, write_atomically
from liquid_control.support.ranges import Count
from policies.driver import Driver, load_driver

PROGRAM = "python -m liquid_control.evaluate"
EPISODES, ROADS = 100, 10
"""As many as usual."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores a checkpoint in the official environment, on seeds that neither training nor validation used.

    Prints a table and writes it, with every episode, as JSON. Options can be put in a YAML file: --config FILE.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    episodes: Count | None = None
    """Number of episodes, by default 100; episode i has the test seed 2000000 + i. For a driver of the Udacity
    simulator: number of roads, by default 10, each driven at 15 and at 25 miles an hour."""
    workers: Annotated[int, Ge(1), Le(1024)] | None = None
    """Processes that drive, by default one per processor. The scores do not depend on it."""
    env: str = ""
    """The environment, by default the driver's own, and the stand-in for a driver of the Udacity simulator.
    liquid_control/FastCarRacing-v3 is faster than CarRacing-v3 and gives about the same scores.
    liquid_control/Udacity-v0 is the simulator itself, which must be running."""
    output: Path | None = None
    """The JSON file to write, by default evaluation.json in the checkpoint's folder."""


def _default_output(checkpoint: Path, env: str, driver: Driver) -> Path:
    # A score from elsewhere never takes the place of the official one.
    name = EVALUATION_NAME if env == scoreboard(driver) else f"evaluation-{env.rpartition('/')[2]}.json"
    return checkpoint / name


def main(arguments: Sequence[str]) -> None:
    """Evaluates as the arguments say; see ``--help``."""
    config = parse(EvaluateConfig, arguments, PROGRAM)
    driver = load_driver(config.checkpoint)
    env = config.env or scoreboard(driver)
    roads = env == STAND_IN == scoreboard(driver)
    output = config.output or _default_output(config.checkpoint, env, driver)
    check_writable(output, ".json")
    console = Console()
    console.print(driver.describe())
    evaluation = _on_roads(config, driver, console) if roads else _in_episodes(config, driver, env, console)
    write_atomically(output, evaluation.to_json() + "\n")
    console.print(evaluation.table())
    console.print(f"written: {output}")


def _in_episodes(config: EvaluateConfig, driver: Driver, env: str, console: Console) -> Evaluation:
    count = config.episodes or EPISODES
    columns = (BarColumn(), TextColumn("episode {task.completed}/{task.total}  mean {task.fields[mean]:.1f}"))
    scores: list[float] = []
    with Progress(*columns, *_times(), console=console, transient=True) as bar:
        task = bar.add_task("driving", total=count, mean=float("nan"))

        def show(episode: Episode) -> None:
            scores.append(episode.score)
            bar.update(task, advance=1, mean=sum(scores) / len(scores))

        workers = 1 if env == UDACITY else config.workers or processor_count()  # one simulator, one port
        return evaluate(driver, range(TEST_SEEDS, TEST_SEEDS + count), workers, env, show)


def _on_roads(config: EvaluateConfig, driver: Driver, console: Console) -> RoadEvaluation:
    tracks = unseen_tracks(config.episodes or ROADS)
    columns = (BarColumn(), TextColumn("lap {task.completed}/{task.total}"))
    with Progress(*columns, *_times(), console=console, transient=True) as bar:
        task = bar.add_task("driving", total=len(tracks) * len(SPEEDS))
        return evaluate_on_roads(driver, tracks, config.workers or processor_count(), done=lambda: bar.advance(task))


def _times() -> tuple[ProgressColumn, ...]:
    return TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.evaluate CHECKPOINT``: what a driver scores where it counts; see `report.evaluation`.

With ``--suite shift`` what drivers score where nothing is as it was in training; see `report.shift_suite`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import tyro
from annotated_types import Ge, Le
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.episodes import Episode
from agents.pool import RolloutPool
from agents.run_folder import machine, versions
from agents.workers import processor_count
from envs.registration import STAND_IN, TEST_SEEDS, UDACITY
from envs.shifts.suites import Cell, choose_cells, find_suite
from liquid_control.report.evaluation import EVALUATION_NAME, Evaluation, evaluate
from liquid_control.report.judging import scoreboard
from liquid_control.report.road_evaluation import SPEEDS, RoadEvaluation, evaluate_on_roads, unseen_tracks
from liquid_control.report.shift_report import build_report
from liquid_control.report.shift_results import Key, Results, ResultsWriter, Row, Run, read_results, shown_weights
from liquid_control.report.shift_suite import (
    Entrant,
    check_entrants,
    drive,
    enter,
    freeze_plasticity,
    keys_of,
    left_out,
    on_roads,
    seeds_of,
)
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.files import check_writable, write_atomically
from liquid_control.support.lock import held
from liquid_control.support.ranges import Count, Severity
from policies.driver import Driver, load_driver

if TYPE_CHECKING:  # it is optional
    from liquid_control.tuning.ray_engine import RayCalls

PROGRAM = "python -m liquid_control.evaluate"
EPISODES, ROADS = 100, 10
"""As many as usual."""
RESULTS_NAME = "episodes.jsonl"
"""What was driven in a suite."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores a checkpoint in the official environment, on seeds that neither training nor validation used.

    Prints a table and writes it, with every episode, as JSON. Options can be put in a YAML file: --config FILE.

    With --suite shift, scores any number of checkpoints under distribution shift, on the same tracks: rain, fog, other
    colours, slippery roads, late actions. Writes a page, report.html. What was stopped goes on with the same command.
    """

    checkpoint: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc. With --suite any number of them, or
    NAME=FOLDER; several of one name are trainings of one policy, which differ by their seed."""
    episodes: Count | None = None
    """Number of episodes, by default 100; episode i has the test seed 2000000 + i. For a driver of the Udacity
    simulator: number of roads, by default 10, each driven at 15 and at 25 miles an hour. With --suite, number of tracks
    of every shift at every severity, by default the suite's."""
    workers: Annotated[int, Ge(1), Le(1024)] | None = None
    """Processes that drive, by default one per processor. The scores do not depend on it."""
    env: str = ""
    """The environment, by default the driver's own, and the stand-in for a driver of the Udacity simulator.
    liquid_control/FastCarRacing-v3 is faster than CarRacing-v3 and gives about the same scores.
    liquid_control/Udacity-v0 is the simulator itself, which must be running."""
    output: Path | None = None
    """The JSON file to write, by default evaluation.json in the checkpoint's folder. With --suite, the folder, by
    default runs/shift-quick, -published or -full."""
    suite: str = ""
    """shift:quick (the same as shift), shift:published or shift:full."""
    shifts: tuple[str, ...] = ()
    """With --suite, other shifts than the suite's: names, such as rain, or fixed ones, such as rain:3+delay:2."""
    severities: tuple[Severity, ...] = ()
    """With --suite, other severities than the suite's, 1 to 5."""
    primary: tuple[str, ...] = ()
    """With --suite, names of the two policies whose comparison is declared before it is driven; by default the first
    and the last."""
    baseline: str = ""
    """With --suite, name of the policy whose corruption error is 100 %; by default the last of several."""
    freeze_plasticity: tuple[str, ...] = ()
    """With --suite, names of policies whose plastic synapses stay as they are at the start of an episode. To compare a
    driver with itself, give it twice: plastic=FOLDER frozen=FOLDER --freeze-plasticity frozen."""
    engine: Literal["local", "ray"] = "local"
    """With --suite, where episodes are driven: on this machine, or on a Ray cluster."""
    ray_address: str | None = None
    """A running Ray cluster, such as auto or ray-head:6379; by default Ray is started on this machine."""


def _default_output(checkpoint: Path, env: str, driver: Driver) -> Path:
    # A score from elsewhere never takes the place of the official one.
    name = EVALUATION_NAME if env == scoreboard(driver) else f"evaluation-{env.rpartition('/')[2]}.json"
    return checkpoint / name


def main(arguments: Sequence[str]) -> None:
    """Evaluates as the arguments say; see ``--help``."""
    config = parse(EvaluateConfig, arguments, PROGRAM)
    console = Console()
    if config.suite:
        _under_shift(config, console)
        return
    checkpoint = _only_checkpoint(config)
    driver = load_driver(checkpoint)
    env = config.env or scoreboard(driver)
    roads = env == STAND_IN == scoreboard(driver)
    output = config.output or _default_output(checkpoint, env, driver)
    check_writable(output, ".json")
    console.print(driver.describe())
    evaluation = _on_roads(config, driver, console) if roads else _in_episodes(config, driver, env, console)
    write_atomically(output, evaluation.to_json() + "\n")
    console.print(evaluation.table())
    console.print(f"written: {output}")


def _only_checkpoint(config: EvaluateConfig) -> Path:
    """The checkpoint that is evaluated where there is no suite.

    Raises:
        UserError: if there is none or more than one, or an option is for suites.
    """
    given = [
        name
        for name in ("shifts", "severities", "primary", "baseline", "freeze_plasticity", "ray_address")
        if getattr(config, name)
    ]
    given += ["engine"] if config.engine != "local" else []
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is an option of --suite, for example --suite shift:quick.")
    if len(config.checkpoint) != 1:
        raise UserError(
            f"{len(config.checkpoint)} checkpoints were given: one is evaluated at a time, or any number with "
            "--suite shift:quick."
        )
    return config.checkpoint[0]


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


def _under_shift(config: EvaluateConfig, console: Console) -> None:
    """Drives what is missing of a suite, and writes its report."""
    torch.set_num_threads(1)  # as in the processes that drive: the gradients of attacks on small networks
    find_suite(config.suite)
    if config.ray_address is not None and config.engine != "ray":
        raise UserError("--ray-address is for --engine ray.")
    if not config.checkpoint:
        raise UserError("a suite needs at least one checkpoint, for example checkpoints/CarRacing-v3/cfc.")
    entrants = enter(config.checkpoint)
    suite = find_suite(config.suite, on_roads(entrants))
    cells = choose_cells(suite, config.shifts, config.severities)
    env = config.env or suite.env
    check_entrants(entrants, env, cells)
    names = list(dict.fromkeys(entrant.policy for entrant in entrants))
    for name in (*config.primary, *config.freeze_plasticity, *([config.baseline] if config.baseline else ())):
        if name not in names:
            raise UserError(f"no policy here is called {name!r}. {nearest(name, names)}")
    if len(config.primary) not in (0, 2):
        raise UserError(f"--primary names two policies, not {len(config.primary)}.")
    entrants = freeze_plasticity(entrants, config.freeze_plasticity)
    folder = config.output or Path("runs") / f"shift-{suite.name}"
    if (folder / "config.yaml").exists():  # whose curves would be taken for those of an earlier report
        raise UserError(f"{folder} is the folder of a run: name another --output for a suite.")
    with held(folder, f"another process drives a suite into {folder}: wait until it ends, or choose another --output."):
        path = folder / RESULTS_NAME
        results = read_results(path)
        results.check_weights({(each.policy, each.training): each.weights for each in entrants}, path)
        begun = Run(
            config={
                "suite": suite.name,
                "env": env,
                "cells": [str(cell) for cell in cells],
                "tracks": config.episodes or suite.episodes,
                "policies": [
                    f"{each.policy}, training seed {each.training}: {shown_weights(each.weights)}" for each in entrants
                ],
            },
            versions=versions(),
            machine=machine(),
            primary=results.declare_primary(names, config.primary),
        )
        keys = keys_of(entrants, env, cells, seeds_of(config.episodes or suite.episodes))
        missing = [key for key in keys if key not in results.rows]
        for entrant in entrants:
            console.print(f"{entrant.policy}, training seed {entrant.training}: {entrant.describe()}")
        kept = f"; {len(keys) - len(missing)} of them are in {path} already" if len(missing) < len(keys) else ""
        told = f"{len(cells) - 1} shifts and severities on {len(keys) // len(cells) // len(entrants)} tracks of {env}"
        console.print(f"suite {suite.name}: {told}: {len(keys)} episodes{kept}.")
        console.print(left_out(env, cells))
        if missing:
            _drive_missing(config, entrants, missing, results, path, begun, console)
        baseline = config.baseline or (names[-1] if len(names) > 1 else "")
        report = build_report(suite, entrants, keys, results, begun.primary, baseline)
        pages = report.write(folder)
    console.print(report.table())
    console.print(f"written: {', '.join(map(str, [*pages, path]))}")


def _drive_missing(
    config: EvaluateConfig,
    entrants: Sequence[Entrant],
    missing: Sequence[Key],
    results: Results,
    path: Path,
    begun: Run,
    console: Console,
) -> None:
    columns = (BarColumn(), TextColumn("episode {task.completed}/{task.total}  {task.fields[cell]}"))
    with (
        ResultsWriter(path, begun, len(results.runs)) as writer,
        Progress(*columns, *_times(), console=console, transient=True) as bar,
        _pool(config, len(missing)) as pool,
    ):
        results.runs.append(begun)
        task = bar.add_task("driving", total=len(missing), cell="")

        def keep(row: Row) -> None:
            writer.add(row)
            results.rows[row.key] = row
            bar.update(task, advance=1, cell=str(Cell(row.shift, row.severity)))

        drive(pool, entrants, missing, len(results.runs) - 1, keep)


def _pool(config: EvaluateConfig, episodes: int) -> RolloutPool | RayCalls:
    workers = min(config.workers or processor_count(), episodes)
    if config.engine == "local":
        return RolloutPool(workers)
    try:
        from liquid_control.tuning.ray_engine import RayCalls
    except ModuleNotFoundError as error:
        raise UserError(f"--engine ray needs {error.name}: pip install 'liquid-control[ray]'.") from None
    return RayCalls(config.ray_address, workers)


def _times() -> tuple[ProgressColumn, ...]:
    return TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()


if __name__ == "__main__":
    run(main)

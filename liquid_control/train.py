"""``python -m liquid_control.train --env CarRacing-v3``: from nothing to a driver, by one command."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from agents import imitation, ppo
from agents.dagger import Dagger, TrainConfig
from agents.imitation import Imitation
from agents.pool import RolloutPool
from agents.ppo import PPO, PPOConfig
from agents.road_dagger import RoadConfig, RoadDagger, check_road
from agents.run_folder import RunFolder, RunProgress
from agents.workers import processor_count
from envs.registration import OFFICIAL, TEST_SEEDS, UDACITY
from liquid_control.report.evaluation import EVALUATION_NAME, evaluate
from liquid_control.report.film import record_lap
from liquid_control.report.road_evaluation import evaluate_on_roads, unseen_tracks
from liquid_control.support.command import parse, run, write_yaml
from liquid_control.support.errors import DivergedError, UserError, nearest
from liquid_control.support.files import write_atomically
from liquid_control.support.memory import keep_freed_memory
from policies.driver import load_driver
from policies.registry import CORES

PROGRAM = "python -m liquid_control.train"
Config = TrainConfig | RoadConfig | PPOConfig
ROADS = ("udacity", UDACITY)
"""What --env names the Udacity simulator by."""


def main(arguments: Sequence[str]) -> None:
    """Trains as the arguments say; see ``--help``, ``--env udacity --help`` and ``--agent ppo --help``."""
    config, folder = _begin(arguments)
    console = Console()
    torch.set_num_threads(config.workers)
    keep_freed_memory()
    with folder.held(), RolloutPool(config.workers) as pool:
        try:
            if isinstance(config, PPOConfig):
                _train_ppo(config, folder, pool, console)
            elif isinstance(config, RoadConfig):
                road = RoadDagger(config, folder, pool)
                for line in road.recordings.summaries:
                    console.print(line, highlight=False)
                _learn(road, folder, console)
            else:
                _learn(Dagger(config, folder, pool), folder, console)
        except KeyboardInterrupt:
            console.print(f"stopped. Continue: {PROGRAM} --resume {folder.path}", highlight=False, soft_wrap=True)
            raise
        except DivergedError:
            raise
        except UserError as error:
            raise UserError(f"{error}\nThen continue: {PROGRAM} --resume {folder.path}") from error
    _close(config, folder, console)


def _learn(job: Imitation[Any], folder: RunFolder, console: Console) -> None:
    rounds = job.config.rounds
    _introduce(job.driver.describe(), folder, console)
    with _bar(console, "round") as bar:
        task = bar.add_task("driving", total=rounds, completed=job.progress.round, news="")

        def show(progress: imitation.Progress, loss: float) -> None:
            news = f"{_scores(progress)}loss {loss:.4f} frames {progress.frames:,}"
            bar.update(task, completed=progress.round, news=news)
            if not console.is_terminal:  # a log file shows no bar
                console.print(f"round {progress.round}/{rounds}, {progress.seconds:.0f} s: {news}")

        job.train(show)
    console.print(_where_time_went(job.progress), highlight=False)


def _train_ppo(config: PPOConfig, folder: RunFolder, pool: RolloutPool, console: Console) -> None:
    with closing(PPO(config, folder, pool)) as job:
        _introduce(job.driver.describe(), folder, console)
        with _bar(console, "step") as bar:
            task = bar.add_task("driving", total=config.steps, completed=job.progress.steps, news="")
            told = job.progress.round

            def show(progress: ppo.Progress) -> None:
                nonlocal told
                news = f"{_scores(progress)}training return {progress.training_score:.0f}"
                bar.update(task, completed=progress.steps, news=news)
                if not console.is_terminal and progress.round > told:
                    told = progress.round
                    steps = f"step {progress.steps:,}/{config.steps:,}"
                    console.print(f"{steps}, {progress.seconds:.0f} s: {news}", highlight=False)

            job.train(show)
        console.print(_where_time_went(job.progress), highlight=False)


def _introduce(driver: str, folder: RunFolder, console: Console) -> None:
    console.print(f"{driver}\nrun folder: {folder.path}", highlight=False, soft_wrap=True)


def _scores(progress: RunProgress) -> str:
    validated = not math.isnan(progress.score)
    return f"score {progress.score:.0f} best {progress.best_score:.0f} " if validated else ""


def _bar(console: Console, unit: str) -> Bar:
    columns = (
        BarColumn(),
        TextColumn(f"{unit} {{task.completed:,}}/{{task.total:,}}"),
        TextColumn("{task.fields[news]}"),
    )
    return Bar(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def _where_time_went(progress: RunProgress) -> str:
    parts = progress.parts | {"other": progress.seconds - sum(progress.parts.values())}
    shares = (f"{part} {seconds:.0f} s ({seconds / progress.seconds:.0%})" for part, seconds in parts.items())
    return f"trained in {progress.seconds:.0f} s: {', '.join(shares)}"


def _begin(arguments: Sequence[str]) -> tuple[Config, RunFolder]:
    """The job and its run folder, new or resumed."""
    config = parse(_config_class(arguments), arguments, PROGRAM)
    if config.resume is not None:
        return _resume(config.resume, arguments)
    if config.policy not in CORES:
        raise UserError(f"unknown policy {config.policy!r}: {nearest(config.policy, CORES)}")
    if config.env in ROADS:
        config = dataclasses.replace(config, env=UDACITY)
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    env = config.env.replace("/", "-")
    if isinstance(config, PPOConfig):
        path = config.run or Path("runs") / f"{env}-{config.policy}-ppo-{date}"
        config = ppo.begin_ppo(config, path, processor_count())
    else:
        if not isinstance(config, RoadConfig) and config.env != OFFICIAL:
            raise UserError(
                f"unknown env {config.env!r}: {nearest(config.env, (OFFICIAL, *ROADS))} Without a teacher, --agent ppo "
                "learns any."
            )
        if isinstance(config, RoadConfig):
            check_road(config)
        path = config.run or Path("runs") / f"{env}-{config.policy}-{date}"
        config = dataclasses.replace(config, run=path, workers=config.workers or processor_count())
    folder = RunFolder(path)
    folder.begin(write_yaml(config))
    return config, folder


def _config_class(arguments: Sequence[str]) -> type[TrainConfig] | type[RoadConfig] | type[PPOConfig]:
    """The dataclass of the job that ``--agent`` and ``--env`` name, by hand, in a --config file, in a run to resume."""
    given: dict[str, str] = {}
    for word, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name in ("--agent", "--env", "--config", "--resume"):
            given[name] = value if equals else following
    job: dict[str, Any] = {}
    for name, inside in (("--config", ""), ("--resume", "config.yaml")):
        if name in given:
            path = Path(given[name]) / inside
            try:
                content: Any = yaml.safe_load(path.read_text())
            except (OSError, yaml.YAMLError, UnicodeDecodeError):
                continue  # whoever parses it will say what is wrong
            if isinstance(content, dict):
                job = content
    agent, env = (given.get(f"--{name}", str(job.get(name, ""))) for name in ("agent", "env"))
    return PPOConfig if agent == "ppo" else RoadConfig if env in ROADS else TrainConfig


def _resume(path: Path, arguments: Sequence[str]) -> tuple[Config, RunFolder]:
    folder = RunFolder(path)
    if not folder.config.exists():
        raise UserError(f"{path} is no run folder: it holds no {folder.config.name}.")
    config_class = _config_class(["--resume", str(path)])
    saved = parse(config_class, ["--config", str(folder.config)], PROGRAM)
    asked = parse(config_class, ["--config", str(folder.config), *arguments], PROGRAM)
    saved, asked = (dataclasses.replace(config, resume=None, run=path) for config in (saved, asked))
    changed = [
        f"{field.name} is {getattr(saved, field.name)}, not {getattr(asked, field.name)}"
        for field in dataclasses.fields(config_class)
        if getattr(saved, field.name) != getattr(asked, field.name)
    ]
    if changed:
        raise UserError(f"the run {path} was begun with another config: {'; '.join(changed)}. Leave those options out.")
    return saved, folder


def _close(config: Config, folder: RunFolder, console: Console) -> None:
    """The closing evaluation on the official environment: a table and a lap video of the best checkpoint."""
    driver = load_driver(folder.best)
    if isinstance(config, RoadConfig):
        if config.test_episodes:
            laps = evaluate_on_roads(driver, unseen_tracks(config.test_episodes), config.workers)
            write_atomically(folder.best / EVALUATION_NAME, laps.to_json())
            console.print(laps.table())
    elif config.test_episodes:
        seeds = range(TEST_SEEDS, TEST_SEEDS + config.test_episodes)
        evaluation = evaluate(driver, seeds, workers=config.workers, env=config.env)
        write_atomically(folder.best / EVALUATION_NAME, evaluation.to_json())
        console.print(evaluation.table())
    if not isinstance(config, RoadConfig) and config.video and config.env == OFFICIAL:
        record_lap(driver, folder.path / "lap.mp4", seed=TEST_SEEDS)
        console.print(f"a lap: {folder.path / 'lap.mp4'}", highlight=False, soft_wrap=True)
    console.print(
        f"checkpoint: {folder.best}\ncurves: tensorboard --logdir {folder.path.parent}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    run(main)

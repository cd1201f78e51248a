"""``python -m liquid_control.train --env CarRacing-v3``: from nothing to a driver, by one command."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from agents.dagger import Dagger, Progress, TrainConfig
from agents.rollout import TEST_SEEDS, RolloutPool, processor_count
from agents.run_folder import RunFolder
from liquid_control.checkpoint import write_atomically
from liquid_control.command import parse, run, write_yaml
from liquid_control.errors import UserError, nearest
from liquid_control.evaluate import EVALUATION_NAME, evaluate
from liquid_control.memory import keep_freed_memory
from liquid_control.watch import record_lap
from policies.driver import load_driver
from policies.registry import CORES
from policies.view import VIEWS

PROGRAM = "python -m liquid_control.train"


def main(arguments: Sequence[str]) -> None:
    """Trains as the arguments say; see ``--help``."""
    config, folder = _begin(arguments)
    console = Console()
    torch.set_num_threads(config.workers)
    keep_freed_memory()
    with RolloutPool(config.workers) as pool:
        dagger = Dagger(config, folder, pool)
        console.print(f"{dagger.driver.describe()}\nrun folder: {folder.path}", highlight=False, soft_wrap=True)
        try:
            with _bar(console) as bar:
                task = bar.add_task("driving", total=config.rounds, completed=dagger.progress.round, news="")

                def show(progress: Progress, loss: float) -> None:
                    validated = not math.isnan(progress.score)
                    scores = f"score {progress.score:.0f} best {progress.best_score:.0f} " if validated else ""
                    news = f"{scores}loss {loss:.4f} frames {progress.frames:,}"
                    bar.update(task, completed=progress.round, news=news)
                    if not console.is_terminal:  # a log file shows no bar
                        console.print(f"round {progress.round}/{config.rounds}, {progress.seconds:.0f} s: {news}")

                dagger.train(show)
            console.print(_where_time_went(dagger.progress), highlight=False)
        except KeyboardInterrupt:
            stopped = f"stopped after round {dagger.progress.round}. Continue: {PROGRAM} --resume {folder.path}"
            console.print(stopped, highlight=False, soft_wrap=True)
            raise
        except UserError as error:
            raise UserError(f"{error}\nThen continue: {PROGRAM} --resume {folder.path}") from error
    _close(config, folder, console)


def _bar(console: Console) -> Bar:
    columns = (BarColumn(), TextColumn("round {task.completed}/{task.total}"), TextColumn("{task.fields[news]}"))
    return Bar(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def _where_time_went(progress: Progress) -> str:
    parts = progress.parts | {"other": progress.seconds - sum(progress.parts.values())}
    shares = (f"{part} {seconds:.0f} s ({seconds / progress.seconds:.0%})" for part, seconds in parts.items())
    return f"trained in {progress.seconds:.0f} s: {', '.join(shares)}"


def _begin(arguments: Sequence[str]) -> tuple[TrainConfig, RunFolder]:
    """The job and its run folder, new or resumed."""
    config = parse(TrainConfig, arguments, PROGRAM)
    if config.resume is not None:
        return _resume(config.resume, arguments)
    for name, known in (("env", VIEWS), ("policy", CORES)):
        if getattr(config, name) not in known:
            raise UserError(f"unknown {name} {getattr(config, name)!r}: {nearest(getattr(config, name), known)}")
    for name in ("rounds", "expert_episodes", "learner_episodes", "steps", "batch", "time", "validation_episodes"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(config, name)}.")
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = config.run or Path("runs") / f"{config.env}-{config.policy}-{date}"
    config = dataclasses.replace(config, run=path, workers=config.workers or processor_count())
    folder = RunFolder(path)
    folder.begin(write_yaml(config))
    return config, folder


def _resume(path: Path, arguments: Sequence[str]) -> tuple[TrainConfig, RunFolder]:
    folder = RunFolder(path)
    if not folder.config.exists():
        raise UserError(f"{path} is no run folder: it holds no {folder.config.name}.")
    saved = parse(TrainConfig, ["--config", str(folder.config)], PROGRAM)
    asked = parse(TrainConfig, ["--config", str(folder.config), *arguments], PROGRAM)
    saved, asked = (dataclasses.replace(config, resume=None, run=path) for config in (saved, asked))
    changed = [
        f"{field.name} is {getattr(saved, field.name)}, not {getattr(asked, field.name)}"
        for field in dataclasses.fields(TrainConfig)
        if getattr(saved, field.name) != getattr(asked, field.name)
    ]
    if changed:
        raise UserError(f"the run {path} was begun with another config: {'; '.join(changed)}. Leave those options out.")
    return saved, folder


def _close(config: TrainConfig, folder: RunFolder, console: Console) -> None:
    """The closing evaluation on the official environment: a table and a lap video of the best checkpoint."""
    driver = load_driver(folder.best)
    if config.test_episodes:
        seeds = range(TEST_SEEDS, TEST_SEEDS + config.test_episodes)
        evaluation = evaluate(driver, seeds, workers=config.workers, env=config.env)
        write_atomically(folder.best / EVALUATION_NAME, evaluation.to_json())
        console.print(evaluation.table())
    if config.video:
        record_lap(driver, folder.path / "lap.mp4", seed=TEST_SEEDS)
        console.print(f"a lap: {folder.path / 'lap.mp4'}", highlight=False, soft_wrap=True)
    console.print(
        f"checkpoint: {folder.best}\ncurves: tensorboard --logdir {folder.path.parent}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    run(main)

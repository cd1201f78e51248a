"""A training as its user sees it: begun or resumed, a bar while it learns, and at the end what a driver is worth."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.distributed import processes
from agents.job import JobConfig, RunConfig, Training, begin_run
from agents.jobs import Job, check_environment
from agents.pool import RolloutPool
from agents.run_folder import RunFolder, RunProgress
from agents.workers import processor_count
from envs.registration import OFFICIAL, TEST_SEEDS
from liquid_control.report.evaluation import EVALUATION_NAME
from liquid_control.report.film import record_lap
from liquid_control.report.judging import judge
from liquid_control.support.command import differences, parse, write_yaml
from liquid_control.support.console import Console
from liquid_control.support.errors import DivergedError, LostRunError, UserError, nearest
from liquid_control.support.files import write_atomically
from liquid_control.support.memory import keep_freed_memory
from policies.driver import load_driver
from policies.registry import CORES


def run_job(job: Job, arguments: Sequence[str], program: str, note: str = "") -> None:
    """Runs a job as the words of a command line say.

    Args:
        job: what is to be learned.
        arguments: the words.
        program: what help and hints call the command.
        note: what the help says in front of the job's description.

    Raises:
        UserError: if the words make no sense, or the training cannot go on; it says how to continue.
    """
    with processes() as together:
        if together.size > 1 and job.drives:
            together.on_first(lambda: _refuse_several(job))
        processors = max(1, processor_count() // together.here)
        config, folder = together.on_first(lambda: _begin(job, arguments, program, note, processors))
        console = Console()
        console.quiet = together.rank > 0
        torch.set_num_threads(config.workers)
        keep_freed_memory()
        quoted = shlex.quote(str(folder.path))
        helping = RolloutPool(config.workers) if job.drives else nullcontext(together)
        with folder.held() if together.rank == 0 else nullcontext(), helping as helpers:
            try:
                with closing(job.learn(config, folder, helpers)) as training:
                    _learn(training, folder, console)
            except KeyboardInterrupt:
                console.print(f"stopped. Continue: {program} --resume {quoted}")
                raise
            except (DivergedError, LostRunError):
                raise
            except UserError as error:
                raise UserError(f"{error}\nThen continue: {program} --resume {quoted}") from error
    if isinstance(config, JobConfig):
        _judge(config, folder, console)
    console.print(f"checkpoint: {folder.best}\ncurves: tensorboard --logdir {shlex.quote(str(folder.path.parent))}")


def _refuse_several(job: Job) -> None:
    raise UserError(f"--agent {job.agents[0]} learns in one process, which starts more by itself: leave torchrun out.")


def _learn(training: Training, folder: RunFolder, console: Console) -> None:
    progress, unit, total = training.progress, training.unit, training.total
    _introduce(training, folder, console)
    with _bar(console, unit) as bar:
        task = bar.add_task("learning", total=total, completed=progress.done, news="")
        told = progress.round

        def show(progress: RunProgress) -> None:
            nonlocal told
            bar.update(task, completed=progress.done, news=progress.news())
            if not console.is_terminal and progress.round > told:  # a log file shows no bar
                told = progress.round
                reached = f"{unit} {progress.done:,}/{total:,}"
                console.print(f"{reached}, {progress.seconds:.0f} s: {progress.news()}")

        training.train(show)
    console.print(_where_time_went(progress))


def _introduce(training: Training, folder: RunFolder, console: Console) -> None:
    for line in (*training.summaries, f"run folder: {folder.path}"):
        console.print(line)


def _bar(console: Console, unit: str) -> Progress:
    columns = (
        BarColumn(),
        TextColumn(f"{unit} {{task.completed:,}}/{{task.total:,}}"),
        TextColumn("{task.fields[news]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def _where_time_went(progress: RunProgress) -> str:
    parts = progress.parts | {"other": progress.seconds - sum(progress.parts.values())}
    shares = (f"{part} {seconds:.0f} s ({seconds / progress.seconds:.0%})" for part, seconds in parts.items())
    return f"trained in {progress.seconds:.0f} s: {', '.join(shares)}"


def _begin(job: Job, arguments: Sequence[str], program: str, note: str, processors: int) -> tuple[RunConfig, RunFolder]:
    """The config and its run folder, new or resumed."""
    config = parse(job.config, arguments, program, note)
    if config.resume is not None:
        return _resume(job, config.resume, arguments, program, processors)
    if isinstance(config, JobConfig):
        if config.policy not in CORES:
            raise UserError(f"unknown policy {config.policy!r}: {nearest(config.policy, CORES)}")
        config = dataclasses.replace(config, env=check_environment(job, config.env))
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(config.run or Path("runs") / "-".join((*job.names(config), date)))
    folder.check_free()
    config = job.begin(config, folder.path, processors)
    folder.begin(write_yaml(config))
    return config, folder


def _resume(
    job: Job, path: Path, arguments: Sequence[str], program: str, processors: int
) -> tuple[RunConfig, RunFolder]:
    folder = RunFolder(path)
    if not folder.config.exists():
        above = RunFolder(path.parent)
        advice = f" The run is {above.path}." if above.config.exists() else ""
        raise UserError(f"{path} is no run folder: it holds no {folder.config.name}.{advice}")
    saved = parse(job.config, ["--config", str(folder.config)], program)
    asked = parse(job.config, ["--config", str(folder.config), *arguments], program)
    saved, asked = (dataclasses.replace(config, resume=None, run=path) for config in (saved, asked))
    fixed = [field.name for field in dataclasses.fields(saved) if field.name not in saved.movable]
    changed = differences(saved, asked, fixed)
    if changed:
        raise UserError(f"the run {path} was begun with another config: {'; '.join(changed)}. Leave those options out.")
    # Its files are not looked for here: a run has copies of some, and compares the others.
    return begin_run(asked, path, processors), folder


def _judge(config: JobConfig, folder: RunFolder, console: Console) -> None:
    """The closing evaluation of a driver: a table, and where it is asked for a film of a lap."""
    driver = load_driver(folder.best)
    if config.test_episodes:
        evaluation = judge(driver, config.test_episodes, config.workers)
        write_atomically(folder.best / EVALUATION_NAME, evaluation.to_json())
        console.print(evaluation.table())
    if getattr(config, "video", False) and config.env == OFFICIAL:
        record_lap(driver, folder.path / "lap.mp4", seed=TEST_SEEDS)
        console.print(f"a lap: {folder.path / 'lap.mp4'}")

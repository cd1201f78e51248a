"""``python -m liquid_control.experiments NAME``: the published tables of sequence tasks, measured again.

``NAME`` is a task, ``all`` of them, or one of the other studies of this folder.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from liquid_control.experiments.sequence_cells import CELLS
from liquid_control.experiments.sequence_report import read_kept, report
from liquid_control.experiments.sequence_study import CellStudy, Engine, Job, LocalEngine, load_splits, run_study
from liquid_control.experiments.sequence_task import SequenceTask
from liquid_control.experiments.tasks import STUDIES, TASKS, find_task
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, check_known
from liquid_control.support.files import read_text, write_atomically
from liquid_control.support.ranges import Count, CountOrZero, NotNegative
from liquid_control.support.reachable import check_ray

PROGRAM = "python -m liquid_control.experiments"


@dataclass(frozen=True)
class SequenceStudyConfig:
    """Trains cells and baselines on sequence tasks, each with the same search, and tables what came of it."""

    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """A task, or all of them ("all")."""
    cell: tuple[str, ...] = ()
    """Which cells and baselines; none given is all of them."""
    seeds: Count = 5
    """Trainings with the options that the search chose, from the seeds 0, 1, …"""
    protocol: str = ""
    """How the task's data are split or shown; empty is the task's first."""
    folder: Path = Path("runs/sequences")
    """Of the results, a line a training. Where a study was stopped, the same command goes on."""
    trials: Count = 8
    """Trainings of the search of each cell, scored on validation data."""
    epochs: NotNegative = 0.0
    """Passes over the training data; 0 is what the task says."""
    trial_epochs: NotNegative = 0.0
    """The same of a trial; 0 is what the task says, and no more than --epochs."""
    rows: CountOrZero = 0
    """Sequences of each split at most, to try something out; 0 is all."""
    engine: Literal["local", "ray"] = "local"
    """Where trainings run: one after the other here, or many at once as tasks of Ray."""
    address: str = ""
    """Of a running Ray cluster ("auto" finds it); empty begins one on this machine."""
    report: bool = False
    """Trains nothing: writes page and figure from all rows in the folder, and from those that the page was made of
    before; what someone wrote at the end stays."""
    page: Path = Path("docs/results/sequences.md")
    """The page that --report writes, its figure (.svg) and the rows of its tables (.jsonl) beside it."""


def _note() -> str:
    lines = ["Sequence tasks, with their protocols:"]
    for task in TASKS.values():
        lines.append(f"  {task.name}: {task.summary} ({', '.join(task.protocols)})")
    lines += ["", "Cells and baselines:", "  " + ", ".join(CELLS), ""]
    lines.append("Studies with options of their own (NAME --help):")
    lines += [f"  {name}: {summary}" for name, summary in STUDIES.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there is no such task, protocol or cell, or the folder holds results of other options.
    """
    if arguments and arguments[0] in STUDIES:
        importlib.import_module(f"liquid_control.experiments.{arguments[0]}").main(arguments[1:])
        return
    config, console = parse(SequenceStudyConfig, arguments, PROGRAM, _note()), Console()
    check_known("task", [config.name], [*TASKS, "all", *STUDIES])
    check_known("cell", config.cell, CELLS)
    if config.report:
        _write_report(config, console)
        return
    tasks = list(TASKS.values()) if config.name == "all" else [find_task(config.name)]
    if config.protocol:
        check_known("protocol", [config.protocol], {name for task in tasks for name in task.protocols})
        tasks = [task for task in tasks if config.protocol in task.protocols]
    if config.engine == "ray" and config.address:
        check_ray(config.address)
    if config.name == "all":
        tasks = [task for task in tasks if _has_data(task, config.protocol or next(iter(task.protocols)), console)]
    studies = [
        CellStudy(
            task,
            config.protocol or next(iter(task.protocols)),
            cell,
            config.folder,
            config.seeds,
            config.trials,
            config.trial_epochs or min(task.trial_epochs or task.epochs, config.epochs or task.epochs),
            config.epochs or task.epochs,
            config.rows,
        )
        for task in tasks
        for cell in dict.fromkeys(config.cell or CELLS)
    ]

    def tell(study: CellStudy, row: dict[str, Any]) -> None:
        metric = study.task.metric
        said = {"trial": f"trial {row.get('trial')}", "seed": f"seed {row['seed']}"}[row["kind"]]
        found = f"validation {row['validation'][metric]:.4g}"
        found += f", test {row['test'][metric]:.4g}" if "test" in row else ""
        chosen = json.dumps({name: row["recipe"][name] for name in study.task.whole_space})
        spent = f"{row['parameters']:,} parameters, {row['seconds_per_epoch']:.1f} s an epoch"
        console.print(f"{study.task.name} {study.protocol}, {study.cell}, {said}: {metric} {found}; {spent}; {chosen}")

    with _engine(config, console) as engine:
        run_study(studies, engine, tell)


def _write_report(config: SequenceStudyConfig, console: Console) -> None:
    if config.name != "all" or config.cell or config.protocol:
        raise UserError(f"a page is of all that was measured in a folder: {PROGRAM} all --report --folder …")
    if config.page.suffix != ".md":  # its figure would be written over it
        raise UserError(f"the page {config.page} should be a .md file: its figure is written beside it as .svg.")
    figure, kept = config.page.with_suffix(".svg"), config.page.with_suffix(".jsonl")
    if config.folder != SequenceStudyConfig.folder and not any(config.folder.glob("*/*/*/results.jsonl")):
        raise UserError(f"nothing has been measured in {config.folder}: run a task with this --folder first.")
    before = read_text(config.page) if config.page.exists() else ""
    page, picture, rows = report(config.folder, list(TASKS.values()), figure.name, before, read_kept(kept))
    for path, content in ((kept, rows), (config.page, page), (figure, picture)):
        write_atomically(path, content)
    console.print(f"{config.page}, {figure.name} and {kept.name} beside it are written.")


def _has_data(task: SequenceTask, protocol: str, console: Console) -> bool:
    """Whether a task's data are there, or can be downloaded now; says so if not."""
    try:
        load_splits(task, protocol, 0)
    except UserError as error:
        console.print(f"{task.name} is left out: {error}")
        return False
    return True


@contextmanager
def _engine(config: SequenceStudyConfig, console: Console) -> Iterator[Engine]:
    if config.engine == "ray":
        try:
            from liquid_control.experiments.sequence_ray import RayEngine
        except ImportError:
            raise UserError('--engine ray needs Ray: pip install "liquid-control[ray]".') from None
        engine: Engine = RayEngine(config.address or None)
        try:
            yield engine
        finally:
            engine.close()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=1.0)
        shown = ""

        def watch(job: Job, done: float, scalars: dict[str, float]) -> None:
            nonlocal shown
            if job.title != shown:
                shown = job.title
                bars.reset(bar, description=shown, total=1.0)
            bars.update(bar, completed=done)

        yield LocalEngine(watch)


if __name__ == "__main__":
    run(main)

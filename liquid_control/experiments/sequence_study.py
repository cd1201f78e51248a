"""The study of a sequence task: a search for each cell, then its trainings from several seeds, in rows on disk.

Every cell has as many trials over the same space, and they see validation data alone. The test data are scored once for
each training with the options that were chosen. What was measured is a line of
``FOLDER/TASK/PROTOCOL/CELL/results.jsonl``; a study that was stopped goes on behind the last line.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.experiments.sequence_task import Range, Recipe, SequenceTask, Space
from liquid_control.experiments.sequence_training import Progress, Sequences, score, train
from liquid_control.experiments.study import Results, measuring
from liquid_control.experiments.tasks import find_task
from liquid_control.support.errors import UserError

TRIAL_SEED = 1000
"""Seed of the trainings of a search; those that are reported have 0, 1, …"""
EFFORT = ("rows", "trial_epochs", "epochs", "data", "search")
"""What cells must have in common besides trials to be compared; see :class:`CellStudy`."""
ROW = ("kind", "seed", "recipe", "validation")
"""What every row has."""
RANDOM = 6
"""Trials before the search follows what it has found."""


@dataclass(frozen=True)
class Job:
    """One training, as any process can run it."""

    task: str
    protocol: str
    cell: str
    recipe: Recipe
    seed: int
    epochs: float
    tested: bool
    """Whether test data are scored."""
    curves: Path
    """Folder of the TensorBoard scalars."""
    rows: int
    """Sequences of each split at most; 0 is all."""

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return f"{self.task} {self.protocol}, {self.cell}, {self.curves.name.replace('-', ' ')}"


def load_splits(task: SequenceTask, protocol: str, fold: int) -> SequenceSplits:
    """The data of a task.

    Raises:
        UserError: if they cannot be had, are malformed, or leave nothing for one of the three parts.
    """
    splits = task.load(protocol, fold)
    for name, part in zip(splits._fields, splits, strict=True):
        if not len(part.x):
            raise UserError(f"the data of {task.name} have no sequence for {name}: get all of them, or longer ones.")
    return splits


@functools.lru_cache(maxsize=8)
def data_of(task: str, protocol: str, fold: int, rows: int) -> tuple[Sequences, Sequences, Sequences]:
    """Training, validation and test data as tensors, kept for the next training."""
    splits = _some(load_splits(find_task(task), protocol, fold), rows)
    train_data, validation, test = (Sequences(part) for part in splits)
    return train_data, validation, test


def _some(splits: SequenceSplits, rows: int) -> SequenceSplits:
    """So many sequences of each part at most, from all over it, for many data are in an order; 0 is all."""

    def cut(part: SequenceSet) -> SequenceSet:
        places = np.linspace(0, len(part.x) - 1, min(rows, len(part.x))).round().astype(int)
        return SequenceSet(*(array[places] for array in part))

    return SequenceSplits(*(cut(part) for part in splits)) if rows else splits


@functools.cache
def digest(task: str, protocol: str, rows: int) -> str:
    """The sha256 of the data of all folds, its first 16 digits."""
    found = hashlib.sha256()
    for fold in range(find_task(task).folds.get(protocol, 1)):
        for part in _some(load_splits(find_task(task), protocol, fold), rows):
            for array in part:
                found.update(f"{array.dtype} {array.shape}".encode())
                found.update(array.tobytes())
    return found.hexdigest()[:16]


def run_job(job: Job, progress: Progress = lambda done, scalars: None) -> dict[str, Any]:
    """Trains, and tells what came of it as a part of a row; see :class:`Job`."""
    from torch.utils.tensorboard import SummaryWriter  # which takes longer to load than a small task to learn

    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    task = find_task(job.task)
    folds = task.folds.get(job.protocol, 1)
    measured: list[dict[str, Any]] = []
    shutil.rmtree(job.curves, ignore_errors=True)  # of a training that was stopped
    for fold in range(folds):
        train_data, validation, test = data_of(job.task, job.protocol, fold, job.rows)
        with SummaryWriter(str(job.curves / f"fold-{fold}" if folds > 1 else job.curves)) as curves:

            def told(done: float, scalars: dict[str, float], fold: int = fold, curves: Any = curves) -> None:
                for name, value in scalars.items():
                    curves.add_scalar(name, value, round(1000 * done))
                progress((fold + done) / folds, scalars)

            trained = train(task, train_data, validation, job.cell, job.recipe, job.seed, job.epochs, told)
        measured.append(trained.row | ({"test": score(trained.model, test)} if job.tested else {}))
    row = {"seed": job.seed, "recipe": asdict(job.recipe)} | measured[0]
    scored = ["validation", "test"] if job.tested else ["validation"]
    row |= {name: _mean([of[name] for of in measured]) for name in scored}
    row["seconds_per_epoch"] = sum(of["seconds_per_epoch"] for of in measured)
    return row | ({"folds": [{name: of[name] for name in scored} for of in measured]} if folds > 1 else {})


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each metric, over folds."""
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


Number = tuple[int, int]
"""Of a training: that of its cell, and which of that cell's trainings it is."""


class Engine(Protocol):
    """Where trainings run."""

    def start(self, number: Number, job: Job) -> None:
        """Begins a training, at once or when there is room; lower numbers first."""

    def wait(self) -> tuple[Number, dict[str, Any]]:
        """The number of a training that has come to its end, and what :func:`run_job` gave."""

    def close(self) -> None:
        """Ends whatever runs."""


class LocalEngine:
    """Runs one training after the other in this process.

    Args:
        watch: is told the job, how far it is, and its scalars.
    """

    def __init__(self, watch: Callable[[Job, float, dict[str, float]], None] = lambda job, done, scalars: None):
        self._watch, self._waiting = watch, dict[Number, Job]()

    def start(self, number: Number, job: Job) -> None:
        """See :class:`Engine`."""
        self._waiting[number] = job

    def wait(self) -> tuple[Number, dict[str, Any]]:
        """See :class:`Engine`."""
        number = min(self._waiting)
        job = self._waiting.pop(number)
        return number, run_job(job, functools.partial(self._watch, job))

    def close(self) -> None:
        """See :class:`Engine`."""


class CellStudy:
    """What is to be measured of one cell, in its order.

    Args:
        task: what is asked.
        protocol: of its data.
        cell: its name.
        folder: of the study.
        seeds: trainings with the chosen options.
        trials: of the search.
        trial_epochs: of each of them.
        epochs: of the others.
        rows: sequences of each split at most; 0 is all.

    Attributes:
        results: the rows that there are, from :meth:`open` on.
    """

    results: Results

    def __init__(
        self,
        task: SequenceTask,
        protocol: str,
        cell: str,
        folder: Path,
        seeds: int,
        trials: int,
        trial_epochs: float,
        epochs: float,
        rows: int,
    ):
        self.task, self.protocol, self.cell = task, protocol, cell
        self.seeds, self.trials, self.trial_epochs, self.epochs, self.rows = seeds, trials, trial_epochs, epochs, rows
        self.folder = folder / task.name / protocol / cell
        self._begun: set[tuple[str, int]] = set()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """For its block this process alone measures the cell, and knows the rows that there are.

        Raises:
            UserError: if another one does, or the folder holds results of other options.
        """
        task = self.task
        head: dict[str, Any] = {"task": task.name, "protocol": self.protocol, "cell": self.cell}
        head |= {"metric": task.metric, "higher": task.higher, "parameters": task.parameters}
        head |= {"rows": self.rows, "trial_epochs": self.trial_epochs, "epochs": self.epochs}
        head |= {"data": digest(task.name, self.protocol, self.rows), "search": task.search}
        with measuring(self.folder):
            self.results = Results(self.folder, head, ROW)
            yield

    def jobs(self) -> Iterator[tuple[str, int, Job]]:
        """What can be begun now and was not: a trial, or all trainings that are missing."""
        found = [row for row in self.results.rows if row["kind"] == "trial"]
        if len(found) < self.trials:
            number = len(found)
            if ("trial", number) not in self._begun:
                yield self._job("trial", number, self._propose(found), TRIAL_SEED, self.trial_epochs)
            return
        best = Recipe(**self.chosen()["recipe"])
        for seed in range(self.seeds):
            if not self.results.find(kind="seed", trials=self.trials, seed=seed) and ("seed", seed) not in self._begun:
                yield self._job("seed", seed, best, seed, self.epochs)

    def chosen(self) -> dict[str, Any]:
        """The row of the best trial among the first :attr:`trials`."""
        rows = [row for row in self.results.rows if row["kind"] == "trial"][: self.trials]
        best = rows[0]
        for row in rows[1:]:
            if self.task.better(self._value(row), self._value(best)):
                best = row
        return best

    def add(self, kind: str, number: int, measured: dict[str, Any]) -> dict[str, Any]:
        """Writes what a training came to as a row."""
        key = {"kind": kind, "trial": number} if kind == "trial" else {"kind": kind, "trials": self.trials}
        row = {"cell": self.cell} | key | measured
        self.results.add(row)
        return row

    def _job(self, kind: str, number: int, recipe: Recipe, seed: int, epochs: float) -> tuple[str, int, Job]:
        self._begun.add((kind, number))
        names = self.task.name, self.protocol, self.cell
        curves = self.folder.absolute() / "tensorboard" / f"{kind}-{number}"  # of whatever process trains
        if kind == "seed":
            curves = curves.with_name(f"{curves.name}-of-{self.trials}-trials")
        return kind, number, Job(*names, recipe, seed, epochs, kind == "seed", curves, self.rows)

    def _value(self, row: dict[str, Any]) -> float:
        return float(row["validation"][self.task.metric])

    def _propose(self, found: Sequence[dict[str, Any]]) -> Recipe:
        """The options of the next trial: the task's own first, then what Optuna's TPE says of the trials so far."""
        if not found:
            return self.task.recipe
        values = [self._value(row) for row in found]
        worst = min if self.task.higher else max
        finite = [value for value in values if np.isfinite(value)] or [0.0]
        values = [value if np.isfinite(value) else worst(finite) for value in values]
        recipes = [row["recipe"] for row in found]
        return propose(self.task.whole_space, self.task.recipe, recipes, values, self.task.higher)


def propose(
    space: Space, base: Recipe, recipes: Sequence[dict[str, Any]], values: Sequence[float], higher: bool
) -> Recipe:
    """The next point of a search: drawn for the first :data:`RANDOM` trials, then by Optuna's TPE.

    It depends on its arguments alone, so a search that was stopped goes on as it would have.

    Args:
        space: what is chosen.
        base: the options that are not.
        recipes: of the trials so far.
        values: of their validations.
        higher: whether more is better.

    Raises:
        UserError: if Optuna is missing.
    """
    try:
        import optuna
    except ImportError:
        raise UserError('a search needs Optuna: pip install "liquid-control[tune]". Or --trials 1.') from None
    known: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(options.low, options.high, log=True)
        if isinstance(options, Range)
        else optuna.distributions.CategoricalDistribution(list(options))
        for name, options in space.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(np.random.SeedSequence([TRIAL_SEED, len(recipes)]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM)
    study = optuna.create_study(direction="maximize" if higher else "minimize", sampler=sampler)
    for recipe, value in zip(recipes, values, strict=True):
        chosen = {name: recipe[name] for name in known}
        study.add_trial(optuna.trial.create_trial(params=chosen, distributions=known, value=value))
    return Recipe(**{**asdict(base), **study.ask(known).params})


def run_study(cells: Sequence[CellStudy], engine: Engine, tell: Callable[[CellStudy, dict[str, Any]], None]) -> None:
    """Measures what is missing of some cells.

    Args:
        cells: in the order in which they are begun.
        engine: where trainings run.
        tell: is told each new row.

    Raises:
        UserError: if another process measures one of the cells, its folder holds results of other options, or something
            cannot be written.
    """
    with contextlib.ExitStack() as stack:
        for cell in cells:
            stack.enter_context(cell.open())
        running: dict[Number, tuple[str, int]] = {}
        begun = itertools.count()

        def start(place: int) -> None:
            for kind, which, job in cells[place].jobs():
                number = place, next(begun)
                running[number] = kind, which
                engine.start(number, job)

        for place in range(len(cells)):
            start(place)
        while running:
            number, measured = engine.wait()
            cell = cells[number[0]]
            tell(cell, cell.add(*running.pop(number), measured))
            start(number[0])

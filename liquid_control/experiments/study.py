"""What studies share: measurements on disk, the best of several learning rates, intervals, commands as a user runs.

Measurements are a line each, so that a study that was stopped measures only what is missing.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from liquid_control.data.text_sources import text_source
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.support.errors import DivergedError, UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.lock import held


class Results:
    """The lines of ``results.jsonl`` in a folder; the first one holds the options that all others depend on.

    Args:
        folder: of the study, in which no other process measures (:func:`measuring`).
        options: JSON values, or what becomes them.
        names: of values that every line has.

    Raises:
        UserError: if the folder holds results of other options, or damaged ones, or cannot be written.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], names: Sequence[str]):
        self._path, self._head = folder / "results.jsonl", json.loads(json.dumps(options))
        self.rows: list[dict[str, Any]] = []
        if not self._path.exists():
            self._write()  # now: a training that is stopped before the first line is one of these options, too
            return
        head, self.rows = read_results(self._path, names)
        if head != self._head:
            raise UserError(f"{self._path} holds results of other options, {head}: name another folder.")

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The first line that has these values, or None."""
        return next((row for row in self.rows if key.items() <= row.items()), None)

    def have(self, measure: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """The line that has these values, measured and added if there is none."""
        row = self.find(**key)
        if row is None:
            row = measure()
            self.add(row)
        return row

    def add(self, row: dict[str, Any]) -> None:
        """Writes one more line, whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        lines = [json.dumps(line) for line in (self._head, *self.rows)]
        write_atomically(self._path, "\n".join(lines) + "\n")


def identity_of(text: Path) -> str:
    """The name of a text file and the sha256 of what it holds, for the options of :class:`Results`.

    Raises:
        UserError: if it cannot be read.
    """
    return f"{text.name} {text_source(text).identity()['sha256']}"


def read_results(
    path: Path, names: Sequence[str], options: Sequence[str] = ()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The options that a file of :class:`Results` begins with, and its lines.

    Args:
        path: of the file.
        names: of values that every line has.
        options: names of some that it begins with.

    Raises:
        UserError: if it is damaged.
    """
    try:
        head, *rows = [json.loads(line) for line in path.read_text().splitlines()]
        expected = [(head, options), *((row, names) for row in rows)]
        whole = all(isinstance(line, dict) and line.keys() >= set(needed) for line, needed in expected)
    except ValueError:
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: restore it, or remove it and measure again.")
    return head, rows


@contextmanager
def measuring(folder: Path) -> Iterator[None]:
    """For its block a study's folder is there, and this process alone works in it.

    Raises:
        UserError: if another one does.
    """
    with held(folder, f"another process measures in {folder}: wait until it ends, or stop it."):
        yield


def with_best_rate(
    row: Callable[[float, int], dict[str, Any]], rates: Sequence[float], seeds: int, loss: str
) -> list[dict[str, Any]]:
    """Rows of the seeds 0, 1, …, all of the learning rate that gave seed 0 the least loss, NaN being the most.

    Args:
        row: the row of a learning rate and a seed.
        rates: to choose from.
        seeds: how many.
        loss: which value of a row it is.
    """
    losses = {rate: float(row(rate, 0)[loss]) for rate in rates}
    best = min(rates, key=lambda rate: math.inf if math.isnan(losses[rate]) else losses[rate])
    return [row(best, seed) for seed in range(seeds)]


def best_of_arms(
    folder: Path,
    options: Mapping[str, Any],
    arms: Sequence[str],
    measure: Callable[[str, float, int], dict[str, Any]],
    rates: Sequence[float],
    seeds: int,
    loss: str,
) -> dict[str, list[dict[str, Any]]]:
    """:func:`with_best_rate` of each arm, measured in a folder that one process works in.

    Args:
        folder: of the study, made if it is not there.
        options: that all measurements depend on, see :class:`Results`.
        arms: their names.
        measure: the row of an arm, a learning rate and a seed.
        rates: to choose from.
        seeds: how many.
        loss: which value of a row tells rates apart.

    Raises:
        UserError: if the folder holds results of other options, or another process works in it.
    """
    with measuring(folder):
        results = Results(folder, options, ("arm", "rate", "seed"))

        def row(arm: str, rate: float, seed: int) -> dict[str, Any]:
            return results.have(partial(measure, arm, rate, seed), arm=arm, rate=rate, seed=seed)

        return {arm: with_best_rate(partial(row, arm), rates, seeds, loss) for arm in arms}


def parameters_of(shape: LanguageModelConfig) -> int:
    """Parameters of a model that is not made.

    Raises:
        ValueError: if its numbers do not go together.
    """
    with torch.device("meta"):
        return LanguageModel(shape).parameter_count()


def matched(shape: LanguageModelConfig, first: LanguageModelConfig) -> LanguageModelConfig:
    """A shape whose feed-forward part is as wide as gives it the parameters of the first, or nearly.

    Raises:
        ValueError: if the numbers of one of them do not go together.
    """
    one, two = (parameters_of(replace(shape, expansion=expansion)) for expansion in (1.0, 2.0))
    return replace(shape, expansion=round(1 + (parameters_of(first) - one) / (two - one), 3))


def find_novels(folder: Path, unseen: Sequence[str]) -> dict[str, Path]:
    """The novels (``*.txt``) of a folder by name, those that are not learned from among them.

    Args:
        folder: of the novels.
        unseen: names of two that are not learned from.

    Raises:
        UserError: if one of these is not there, or none is left to learn from.
    """
    novels = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    for name in unseen:
        if name not in novels:
            raise UserError(f"there is no novel {name!r} in {folder}: it holds {', '.join(novels) or 'none'}.")
    if len(novels) < 3:
        raise UserError(f"{folder} holds no novel to learn from beside the two unseen ones.")
    return novels


def train_language_model(path: Path, words: Sequence[str]) -> bool:
    """``lm train`` of these words into a run folder; a training that was begun goes on as it was begun.

    Returns:
        Whether it came to its end; False if it has diverged, which it would again.

    Raises:
        UserError: if it fails otherwise.
    """
    begun = (path / "config.yaml").exists()
    try:
        run_command("lm", "train", *(["--resume", str(path)] if begun else [*words, "--run", str(path)]))
    except DivergedError:
        return False
    return True


def run_command(command: str, *words: str) -> None:
    """Runs a command of ours as a user would.

    Raises:
        UserError: if it fails; its own words were printed before.
        DivergedError: if that was because a training has diverged.
    """
    status = subprocess.run([sys.executable, "-m", f"liquid_control.{command}", *words], check=False).returncode
    if status == DivergedError.status:
        raise DivergedError(f"what {command} learned")
    if status:
        raise UserError(f"{command} ended with exit status {status}. When that is cured, the same command goes on.")


def interval(measured: ArrayLike, block: int = 1) -> tuple[float, float]:
    """The 95 % interval of the mean over trainings that were all measured on the same things.

    Other trainings would differ, and so would other things. Both count, the variance of the means of trainings and that
    of the means of things, each over how many there are. Of trainings alone this is Student's t, with S - 1 degrees of
    freedom; of both it has those of Satterthwaite 1946, "An approximate distribution of estimates of variance
    components". What is left between one thing and one training is counted twice, so it is rather too wide.

    Args:
        measured: (S,) a number a training, or (S, N) one for each thing, too.
        block: so many things that follow one another count as one, because they are alike.

    Returns:
        Its ends; NaN where there is one training and one thing.

    Raises:
        UserError: if SciPy is missing.
    """
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError('intervals need SciPy: pip install "liquid-control[sequences]".') from None
    values = np.atleast_2d(np.asarray(measured, float).T).T  # (S, N)
    blocks = np.array_split(values.mean(0), max(1, values.shape[1] // block))
    samples = [values.mean(1), np.array([each.mean() for each in blocks])]
    parts = [(np.var(sample, ddof=1) / len(sample), len(sample) - 1) for sample in samples if len(sample) > 1]
    total = sum(variance for variance, _ in parts)
    if not parts or not total:
        half = 0.0 if parts else math.nan
    else:
        freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
        half = float(t.ppf(0.975, freedom) * np.sqrt(total))
    mean = float(values.mean())
    return mean - half, mean + half

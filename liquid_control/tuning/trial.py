"""One trial: a PPO training in a run folder of its own that tells every validation and stops when it is told to."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.jobs import JOBS
from agents.pool import EpisodePool
from agents.ppo import PPOConfig
from agents.run_folder import RunFolder, RunProgress
from liquid_control.support.command import write_yaml
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.memory import keep_freed_memory

JOB = JOBS["ppo"]
"""What is searched: the only job whose score depends on so many options."""


@dataclass(frozen=True)
class Scored:
    """A trial was validated; it waits for an answer."""

    trial: int
    decisions: int
    """Of the driver, so far."""
    score: float


@dataclass(frozen=True)
class Ended:
    """A trial ended as planned, or was told to stop."""

    trial: int
    best_score: float
    stopped: bool
    """Whether it was told to."""


@dataclass(frozen=True)
class Failed:
    """A trial ended otherwise."""

    trial: int
    reason: str


Message = Scored | Ended | Failed


class Engine(Protocol):
    """Where trials run."""

    places: int
    """Trials that run side by side."""

    def start(self, trial: int, config: PPOConfig, path: Path) -> None:
        """Begins a trial in the run folder ``path``."""

    def wait(self) -> Message:
        """The next thing that a trial has to tell."""

    def answer(self, trial: int, stop: bool) -> None:
        """Tells a trial that was :class:`Scored` whether to stop."""

    def close(self) -> None:
        """Ends whatever runs."""


class _Stop(Exception):
    """Ends a training from inside its report."""


def run_trial(
    trial: int, config: PPOConfig, path: Path, pool: EpisodePool, judge: Callable[[Scored], bool]
) -> Ended | Failed:
    """Runs a trial to its end, or until it is told to stop.

    Args:
        trial: its number.
        config: its training.
        path: its run folder, to be made.
        pool: what drives its validations.
        judge: takes a validation's score and says whether to stop.
    """
    keep_freed_memory()
    try:
        folder = RunFolder(path)
        folder.begin(write_yaml(config))
        with closing(JOB.learn(config, folder, pool)) as training:
            validating = 0.0

            def report(progress: RunProgress) -> None:
                nonlocal validating
                # Two validations may score the same; the time spent on them tells that there was another.
                spent = progress.parts.get("validation", 0.0)
                if spent > validating:
                    validating = spent
                    if judge(Scored(trial, progress.done, progress.score)):
                        raise _Stop

            try:
                training.train(report)
            except _Stop:
                return Ended(trial, training.progress.best_score, stopped=True)
            return Ended(trial, training.progress.best_score, stopped=False)
    except UserError as error:
        return Failed(trial, str(error))
    except Exception as error:
        # Whatever goes wrong in one corner of the search must not end the search.
        write_atomically(path / "error.txt", traceback.format_exc())
        return Failed(trial, f"{type(error).__name__}: {error}; see {path / 'error.txt'}")

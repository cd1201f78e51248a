"""A run folder: what a training writes, so that it can be looked at, trusted and continued.

::

    config.yaml        the job; ``--config`` reads it
    versions.json      the packages and the machine
    state.safetensors  weights, optimizer and place in the schedule after the last whole round, for ``--resume``
    shards/            what was recorded
    init/              the checkpoint that it began from
    tensorboard/       curves
    best/  last/       checkpoints
    .lock              held by the process that trains
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from agents.workers import processor_count
from liquid_control.support.errors import LostRunError, UserError
from liquid_control.support.files import remove_leftovers, write_atomically
from liquid_control.support.lock import held
from liquid_control.support.tensor_file import read_tensors, write_tensors

_PACKAGES = ("liquid-control", "torch", "gymnasium", "numpy", "opencv-python-headless", "Box2D")


@dataclass
class RunProgress(ABC):
    """Where a run is; saved with its state."""

    round: int = 0
    best_score: float = float("-inf")
    score: float = float("nan")
    """Mean score of the last validation; NaN before the first."""
    seconds: float = 0.0
    """Since the start, all together; :attr:`parts` says on what."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds by part: driving, learning, validation."""

    @property
    @abstractmethod
    def done(self) -> int:
        """How far it is, in the unit of its job."""

    @abstractmethod
    def news(self) -> str:
        """How it goes, in a few words."""

    def scores(self) -> str:
        """The last and the best validation, in words that others may follow; nothing before the first."""
        return "" if math.isnan(self.score) else f"score {self.score:.0f} best {self.best_score:.0f} "

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time that its block takes to a part."""
        begin = time.monotonic()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.monotonic() - begin


class RunFolder:
    """The paths of one run and its resumable state."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.state = path / "state.safetensors"
        self.shards = path / "shards"
        self.tensorboard = path / "tensorboard"
        self.best, self.last, self.init = path / "best", path / "last", path / "init"

    def check_free(self) -> None:
        """To be asked before anything is written for a new run.

        Raises:
            UserError: if the folder holds a run already, or what a run would write over.
        """
        if self.config.exists():
            again = f"--resume {shlex.quote(str(self.path))}"
            raise UserError(f"{self.path} holds a run already: continue it with {again}, or name another.")
        for part in (self.best, self.last, self.init, self.shards, self.state):
            if part.exists():
                raise UserError(f"{self.path} holds {part.name}, which a run would write over: name another folder.")

    def check_outside(self, init: Path) -> None:
        """To be asked before anything is written for a run that begins from a checkpoint, see :meth:`keep`.

        Raises:
            UserError: if it lies in the checkpoint's folder, which would then be copied into itself.
        """
        if self.path.resolve().is_relative_to(init.resolve()):
            raise UserError(
                f"the run folder {self.path} lies in {init}, which the run begins from and copies: name another folder."
            )

    def keep(self, init: Path) -> Path:
        """The checkpoint that a run begins from, copied into its folder: the other one may change or go."""
        kept, unfinished = self.init, self.path / "init-unfinished"
        if not kept.exists() and init.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                shutil.copytree(init, unfinished)
                unfinished.rename(kept)
            except OSError as error:
                raise UserError(f"cannot write {kept}: {error.strerror or error}. Free some space.") from None
        return kept if kept.exists() else init

    def begin(self, config_yaml: str) -> None:
        """Writes what does not change during the run.

        Raises:
            UserError: if the folder holds a run already, another process has it, or it cannot be written.
        """
        with self._locked():  # of two that begin at once, one has the folder
            self.check_free()
            write_atomically(self.config, config_yaml)
            self._write_versions()

    def _write_versions(self) -> None:
        write_atomically(self.path / "versions.json", json.dumps(versions() | {"machine": machine()}, indent=2) + "\n")

    def check_there(self) -> None:
        """To be asked before something is written into a run that may have lost its folder.

        Raises:
            UserError: if the folder, or the config in it, is gone.
        """
        if not self.config.exists():
            raise UserError(f"the run folder {self.path} was deleted or moved during the training, which ends here.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """For its block no other process can hold the folder; however this one ends, it is free again.

        What a killed process left undone at the edge, temporary files and a missing list of versions, is mended.

        Raises:
            UserError: if another process holds it.
        """
        with self._locked():
            for folder in (self.path, self.best, self.last, self.shards):
                remove_leftovers(folder)
            if not (self.path / "versions.json").exists():
                self._write_versions()
            yield

    def _locked(self) -> AbstractContextManager[None]:
        return held(self.path, f"another process trains in {self.path}: wait until it ends, or stop it.")

    def save_state(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Writes the state after a whole round; the one before stays whole if this fails.

        Raises:
            UserError: if it cannot be written, or the folder is gone.
        """
        self.check_there()
        write_tensors(self.state, tensors, {"progress": json.dumps(progress)})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state after the last whole round, or None if there is none yet.

        Raises:
            UserError: if the file cannot be read, or is damaged: a flipped bit would go unnoticed in the weights.
        """
        try:
            tensors, told = read_tensors(self.state)
        except FileNotFoundError:
            return None
        except UserError as error:
            raise LostRunError(f"{error} The run cannot be resumed from it.") from None
        if "progress" not in told:
            raise LostRunError(f"{self.state} is not the state of a run: something else was written there.")
        return tensors, json.loads(told["progress"])


def checkpoint_record(config: Any) -> dict[str, Any]:
    """What a checkpoint tells of the job, its versions and its machine, from the job's config dataclass."""
    job = {name: _told(value) if isinstance(value, Path) else value for name, value in vars(config).items()}
    del job["run"], job["resume"]  # where it lay tells nothing of how it was trained
    return {"job": job, "versions": versions(), "machine": machine()}


def _told(path: Path) -> str:
    """A path as strangers may read it: from the root of one computer it tells them nothing."""
    return path.name if path.is_absolute() else path.as_posix()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "unknown"
    return {"python": platform.python_version()} | packages


def machine() -> str:
    """What the numbers of a run were measured on: processor, system and number of processors."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # Not Linux: the name that Python knows has to do.
    return f"{processor}, {processor_count()} processors, {platform.system()} {platform.machine()}"

"""What every training job has: the options of its config, and what its run shows while it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from agents.device import resolve_device
from agents.run_folder import RunProgress
from envs.registration import OFFICIAL
from liquid_control.support.ranges import Count, CountOrZero, Processes, Seed
from policies.driver import Width
from policies.eyes import PictureSide


@dataclass(frozen=True)
class Drive:
    """What a driver is and where it drives."""

    env: str = OFFICIAL
    """The environment to drive in."""
    policy: str = "cfc"
    """The driver's core: cfc, ltc, lan, hybrid, leaky, plastic, scan, lstm, gru or mlp."""
    policy_options: tuple[str, ...] = ()
    """Options of the core as name=value words, for example neurons=19, mode=pure or ode_unfolds=4."""


@dataclass(frozen=True)
class RunConfig:
    """The options that all runs share, whatever learns."""

    movable: ClassVar[tuple[str, ...]] = ("device", "workers", "threads", "strategy")
    """Names of those that say where a run runs: another machine may continue it with others."""

    agent: str = ""
    """How it learns."""
    run: Path | None = None
    """The run folder to create, by default one in runs, named by what learns and the date."""
    resume: Path | None = None
    """A run folder to continue, with the options that it was begun with."""
    seed: Seed = 0
    """Seed of weights, episodes, noise and batches. The same seed gives the same result on the same machine."""
    workers: Processes = 0
    """Processes that drive, and threads that train; 0 means one per processor."""
    device: str = "auto"
    """Where the training runs: auto, cpu, cuda or cuda:N. Driving is always on the CPU."""


@dataclass(frozen=True)
class JobConfig(RunConfig, Drive):
    """The options of all jobs in which a driver learns; each says what it adds and where its defaults differ."""

    playfield: tuple[PictureSide, PictureSide] = (28, 32)
    """(height, width) of the picture that the eyes get."""
    features: Width = 32
    """Features that the eyes pass to the core, in addition to the gauges."""
    validation_episodes: Count = 20
    """Episodes per validation, on seeds that are never trained on. Validations choose the best checkpoint."""
    test_episodes: CountOrZero = 20
    """Episodes of the closing evaluation in the official environment; 0 leaves it out."""


Config = TypeVar("Config", bound=RunConfig)


def begin_run(config: Config, path: Path, processors: int) -> Config:
    """The config with its run folder, and as many workers as it is to have.

    Raises:
        UserError: if its device is not there.
    """
    resolve_device(config.device)
    return replace(config, run=path, workers=config.workers or processors)


class Training(Protocol):
    """One run of a job, ready to learn or to go on."""

    @property
    def progress(self) -> RunProgress:
        """How far it is."""

    @property
    def unit(self) -> str:
        """What its progress is counted in: round, step."""

    @property
    def total(self) -> int:
        """The progress at the end of the whole job."""

    @property
    def summaries(self) -> list[str]:
        """Lines about what it learns from and what learns, to be told before it begins."""

    def train(self, report: Callable[[Any], None]) -> None:
        """Learns what is left; ``best`` and ``last`` of the run folder are checkpoints afterwards.

        Args:
            report: called with the progress whenever there is news.
        """

    def close(self) -> None:
        """Ends what runs for it."""

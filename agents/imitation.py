"""Learning from a teacher in rounds: some driving, some gradient steps, now and then a validation, and again.

What is driven, by whom and where, is what the subclasses say: `agents.dagger` in CarRacing, `agents.road_dagger` on the
roads of the Udacity simulator.
"""

from __future__ import annotations

import copy
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from agents.augmentation import Augmentation, Clock, find_variety
from agents.cloning import Cloner, Streams
from agents.demonstrations import read_shard
from agents.device import resolve_device
from agents.episodes import Episode
from agents.job import JobConfig, begin_run
from agents.pool import RolloutPool
from agents.run_folder import RunFolder, RunProgress, checkpoint_record
from liquid_control.support.checkpoint import CONFIG_NAME
from liquid_control.support.errors import LostRunError, UserError
from liquid_control.support.ranges import Count, NotNegative, Size
from policies.driver import Driver, DriverConfig
from policies.eyes import Encoding
from policies.precompile import precompile_tick, precompile_training
from policies.registry import parse_options


@dataclass(frozen=True)
class ImitationConfig(JobConfig):
    """The options that all trainings with a teacher share."""

    agent: Literal["dagger", "clone"] = "dagger"
    """dagger: the learner drives and the teacher labels. clone: the learner only imitates recorded drives."""
    rounds: Count = 12
    """Rounds of driving and training. In round 0 the teacher drives."""
    expert_episodes: Count = 16
    """Episodes of round 0."""
    learner_episodes: Count = 8
    """Episodes of each later round. In a quarter of them, learner and teacher take turns."""
    steps: Count = 100
    """Gradient steps per round."""
    batch: Size = 32
    """Episodes that are trained side by side, as the rows of a batch."""
    time: Size = 32
    """Time steps that gradients go back through."""
    encoding: Encoding = "rgb"
    """How the eyes see levels of colour: rgb, as they are, or norm, relative to the picture's own mean and contrast."""
    variety: str = "none"
    """How much what it learns from is varied: none, mild, wide, or a YAML file with fields of
    agents.augmentation.Variety."""
    learning_rate: NotNegative = 4e-3
    """Peak learning rate of Adam. It is warmed up, then falls along a cosine to 2 %."""
    validate_every: Count = 4
    """Rounds between validations. In the last quarter of the training, every round is validated."""


@dataclass
class ImitationProgress(RunProgress):
    """Where a run is; saved with its state."""

    loss: float = float("nan")
    """Mean loss of the last round."""
    frames: int = 0
    lost: list[int] = field(default_factory=list)
    """Seeds of the tracks whose lap was not completed in a round after the teacher's and not driven again since."""
    given: str = ""
    """The digest of what it learns from beside what it drives."""

    @property
    def done(self) -> int:
        """Rounds so far."""
        return self.round

    def news(self) -> str:
        """See :class:`RunProgress`."""
        return f"{self.scores()}loss {self.loss:.4f} frames {self.frames:,}"


ImitationJob = TypeVar("ImitationJob", bound=ImitationConfig)


def describe_learner(config: ImitationConfig) -> DriverConfig:
    """What a driver that begins with random weights is made of."""
    return DriverConfig(
        env=config.env,
        policy=config.policy,
        options=parse_options(config.policy, config.policy_options),
        playfield=config.playfield,
        features=config.features,
        encoding=config.encoding,
    )


def begin_imitation(config: ImitationJob, path: Path, processors: int) -> ImitationJob:
    """See :func:`agents.job.begin_run`; whatever driver cannot be built is said before a run folder is there.

    Raises:
        UserError: if its device is not there, its options describe no driver, or there is no such variety.
    """
    find_variety(config.variety)
    Driver(describe_learner(config))
    return begin_run(config, path, processors)


def _digest(episodes: Sequence[Episode], variety: object) -> str:
    """By which what a run is given, and not what it drives, is recognised."""
    digest = hashlib.sha256(repr(variety).encode())
    for episode in episodes:
        for array in (episode.images, episode.gauges, episode.labels, episode.elapsed):
            digest.update(array.tobytes())
    return digest.hexdigest()


class Imitation(ABC, Generic[ImitationJob]):
    """One training run.

    Args:
        config: the job.
        folder: its run folder, begun.
        pool: the processes that drive.
    """

    unit = "round"

    def __init__(self, config: ImitationJob, folder: RunFolder, pool: RolloutPool):
        self.config, self.folder, self.pool = config, folder, pool
        self.variety = find_variety(config.variety)
        torch.manual_seed(config.seed)
        self.driver = self._make_driver().to(resolve_device(config.device))
        self.cloner = Cloner(
            self.driver,
            config.learning_rate,
            config.rounds * config.steps,
            control_weights=self._control_weights(),
        )
        self.progress = ImitationProgress()
        self.shape = self.driver.view.image_shape
        self.episodes = self._given()
        given = _digest(self.episodes, self.variety)
        state = folder.load_state()
        if state is not None:
            tensors, saved = state
            self.progress = ImitationProgress(**saved)
            if self.progress.given not in ("", given):
                raise LostRunError(
                    f"what the run in {folder.path} was given to learn from, drives or a variety, is not what it began "
                    "with: restore it, or begin a new run."
                )
            self.cloner.restore(tensors, self.progress.round * config.steps)
            for round in range(self.progress.round):
                self.episodes += self._read_again(round)
        self.progress.given = given

    @property
    def total(self) -> int:
        """Rounds of the whole job."""
        return self.config.rounds

    @property
    def summaries(self) -> list[str]:
        """Lines about what is learned from beside what is driven, and one about the driver."""
        return [self.driver.describe()]

    def close(self) -> None:
        """Nothing runs for it but the pool, which is the caller's."""

    # What a job says

    def _make_driver(self) -> Driver:
        """The driver that learns, with the weights that it begins with."""
        return Driver(describe_learner(self.config))

    @abstractmethod
    def _control_weights(self) -> Sequence[float]:
        """Weight of each control in the squared error."""

    @abstractmethod
    def _given(self) -> list[Episode]:
        """What is learned from beside what is driven."""

    @abstractmethod
    def _drive(self, round: int) -> None:
        """Drives the episodes of a round, as many as :meth:`_planned`, into the files of :meth:`_shard`."""

    @abstractmethod
    def _judge(self, curves: SummaryWriter) -> float:
        """Validates the running mean of the weights: a score, higher is better."""

    def _streams(self, rng: np.random.Generator) -> Streams:
        """How the episodes are dealt out."""
        augment, clock = self._variations(rng), self._clock(rng)
        return Streams(self.episodes, self.config.batch, self.config.time, rng, augment=augment, clock=clock)

    def _variations(self, rng: np.random.Generator) -> list[Augmentation]:
        """How pictures and gauges are varied, if at all."""
        return [] if self.variety is None else [Augmentation(self.variety, rng)]

    def _clock(self, rng: np.random.Generator) -> Clock | None:
        """When frames are seen, if otherwise than they were recorded."""
        return Clock(self.variety, rng) if self.variety is not None and self.variety.clock > 0 else None

    # The loop

    def train(self, report: Callable[[ImitationProgress], None]) -> None:
        """Runs the rounds that are left; ``best`` and ``last`` of the run folder are checkpoints afterwards.

        Args:
            report: called after every round with the progress.
        """
        config, progress = self.config, self.progress
        if progress.round == config.rounds:
            if not (self.folder.last / CONFIG_NAME).exists():  # the run was killed at its very end
                self._save_last()
            return
        with SummaryWriter(str(self.folder.tensorboard), purge_step=self.cloner.step + 1) as curves:
            begin = time.monotonic() - progress.seconds
            with progress.timed("driving"):
                await_kernels = self._precompile()
            for round in range(progress.round, config.rounds):
                self.folder.check_there()
                with progress.timed("driving"):
                    if self._planned(round):
                        self._drive(round)
                    driven = self._read(round)
                self.episodes += driven
                rng = np.random.default_rng([config.seed, round, 1])
                with progress.timed("cloning"):
                    await_kernels()
                    progress.loss = self.cloner.train(self._streams(rng), config.steps)
                progress.round = round + 1
                progress.frames += sum(episode.steps for episode in driven)
                if round > 0:
                    progress.lost += [episode.seed for episode in driven if not episode.lap]
                validates = self._validates(round)
                if validates:
                    with progress.timed("validation"):
                        self._validate(curves)
                progress.seconds = time.monotonic() - begin
                if validates:
                    self._keep_best()
                self._plot(curves, driven)
                self.folder.save_state(self.cloner.tensors(), vars(progress))
                report(progress)
        self._save_last()

    def _save_last(self) -> None:
        self.cloner.average.save(self.folder.last, self._record(self.progress.score))

    def _precompile(self) -> Callable[[], Any]:
        """Compiles what drives; what learns, one process compiles while the others drive. Returns what waits for it."""
        driver = self._average_on_cpu()
        precompile_tick(driver)
        on_cpu = next(self.driver.parameters()).device.type == "cpu"
        return self.pool.start(precompile_training, driver) if on_cpu else lambda: None

    def _shard(self, round: int, index: int) -> Path:
        return self.folder.shards / f"round-{round:03d}-{index:02d}.npz"

    def _read(self, round: int) -> list[Episode]:
        # By plan, not by whatever lies in the folder: a run that was killed may have left a part of a round there.
        paths = [self._shard(round, index) for index in range(self._planned(round))]
        return [ep for path in paths for ep in read_shard(path, self.config.env, self.shape)]

    def _read_again(self, round: int) -> list[Episode]:
        """The episodes of a round that is over.

        Raises:
            LostRunError: if they are lost or damaged.
        """
        try:
            return self._read(round)
        except UserError as error:
            raise LostRunError(
                f"what was driven in round {round} is lost: {error} The run cannot be resumed; begin a new one."
            ) from None

    def _planned(self, round: int) -> int:
        """Episodes that a round drives."""
        config = self.config
        return config.expert_episodes if round == 0 else config.learner_episodes if config.agent == "dagger" else 0

    def _average_on_cpu(self) -> Driver:
        return copy.deepcopy(self.cloner.average).to("cpu")

    def _validates(self, round: int) -> bool:
        left = self.config.rounds - 1 - round
        return left < self.config.rounds // 4 or left % self.config.validate_every == 0

    def _validate(self, curves: SummaryWriter) -> None:
        progress = self.progress
        progress.score = self._judge(curves)
        curves.add_scalar("validation/score", progress.score, self.cloner.step)

    def _keep_best(self) -> None:
        """After a validation."""
        progress = self.progress
        # Of two that score alike, the later one is the steadier: its learning rate was lower.
        if progress.score > progress.best_score - 1:
            progress.best_score = max(progress.score, progress.best_score)
            self.cloner.average.save(self.folder.best, self._record(progress.score))

    def _plot(self, curves: SummaryWriter, driven: list[Episode]) -> None:
        step = self.cloner.step
        curves.add_scalar("train/loss", self.progress.loss, step)
        curves.add_scalar("train/learning_rate", self.cloner.rate(), step)
        curves.add_scalar("train/frames", self.progress.frames, step)
        if driven:
            curves.add_scalar("drive/score", np.mean([episode.score for episode in driven]), step)
            curves.add_scalar("drive/tiles", np.mean([episode.tiles for episode in driven]), step)
            curves.add_scalar("drive/laps", np.mean([episode.lap for episode in driven]), step)
            for index, name in enumerate(self.driver.view.controls):
                curves.add_histogram(f"actions/{name}", np.concatenate([e.actions[:, index] for e in driven]), step)
            for name, activity in self._activity(driven[0]).items():
                curves.add_histogram(f"neurons/{name}", activity, step)

    @torch.no_grad()
    def _activity(self, episode: Episode) -> dict[str, np.ndarray]:
        """The neurons' activity over the first steps of an episode, by the names of the core's parts."""
        driver, count = self.cloner.average, min(64, episode.steps)
        device = next(driver.parameters()).device
        state, states = driver.core.initial_state(1), []
        for tick in range(count):
            image, gauges = (
                torch.from_numpy(part[tick : tick + 1]).to(device) for part in (episode.images, episode.gauges)
            )
            _, state = driver.tick(image, gauges, state)
            states.append(state)
        parts = driver.core.unpack(torch.cat(states))
        return {name: part.cpu().numpy() for name, part in parts.items()}

    def _record(self, score: float) -> dict[str, Any]:
        """What a checkpoint tells of how it was trained."""
        progress = self.progress
        return checkpoint_record(self.config) | {
            "round": progress.round,
            "gradient_steps": self.cloner.step,
            "frames": progress.frames,
            "seconds": round(progress.seconds, 1),
            "seconds_by_part": {part: round(seconds, 1) for part, seconds in progress.parts.items()},
            "validation_score": round(score, 2),
        }

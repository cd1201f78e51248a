"""DAgger (Ross 2011): the learner drives, the expert labels every frame, the driver is cloned on all of it, again.

Round 0 is driven by the expert, pushed off its line by bursts of noise. In every later round the learner drives: most
episodes alone, some in turns with the expert. What it meets there, and what the expert would have done, joins the data.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from agents.cloning import Cloner, Streams
from agents.demonstrations import read_folder, read_shard, write_shard
from agents.device import resolve_device
from agents.rollout import (
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    Drive,
    Episode,
    Plan,
    RolloutPool,
    drive_episode,
)
from agents.run_folder import RunFolder, RunProgress, checkpoint_record
from policies.driver import Driver, DriverConfig
from policies.registry import parse_options


@dataclass(frozen=True)
class TrainConfig:
    """Trains a driver from nothing: an expert teaches it, the official environment judges it.

    With no argument this is the main job: 19 closed-form liquid neurons learn CarRacing-v3 in minutes.
    Options can be put in a YAML file: --config FILE.
    """

    env: str = "CarRacing-v3"
    """The environment to drive in."""
    policy: str = "cfc"
    """The driver's core: cfc, ltc, lan, leaky, plastic, lstm, gru or mlp."""
    policy_options: tuple[str, ...] = ()
    """Options of the core as name=value words, for example mode=pure, ode_unfolds=4 or units=24."""
    agent: Literal["dagger", "clone"] = "dagger"
    """dagger: the learner drives and the expert labels; clone: only the expert's episodes (and --demos) are learned."""
    run: Path | None = None
    """The run folder to make; by default runs/ENV-POLICY-DATE."""
    resume: Path | None = None
    """A run folder to continue; it brings its own config."""
    demos: Path | None = None
    """A folder of shards, written by the record command, to learn from too."""
    seed: int = 0
    """Seed of weights, tracks, noise and batches. Same seed, same machine, same result."""
    workers: int = 0
    """Processes that drive, and threads that train; 0 means one a processor."""
    device: str = "auto"
    """Where the training runs: auto, cpu, cuda or cuda:N. Driving is always on the CPU."""
    rounds: int = 12
    """Rounds of driving and cloning; round 0 is the expert's."""
    expert_episodes: int = 16
    """Episodes of round 0."""
    learner_episodes: int = 8
    """Episodes of every later round; a quarter of them is driven in turns with the expert. Up to a quarter goes to
    tracks where the driver lost a lap before: what it fails at is rare, mostly hairpins."""
    steps: int = 100
    """Gradient steps a round."""
    batch: int = 32
    """Streams trained side by side."""
    time: int = 32
    """Environment steps of a stretch: how far gradients go back in time."""
    learning_rate: float = 4e-3
    """Peak learning rate of Adam; warmed up, then a cosine down to 2 %."""
    control_weights: tuple[float, float, float] = (12.0, 1.0, 1.0)
    """Weight of steer, gas and brake in the squared error; steering labels stay within ±0.4, the stop of the joint."""
    teacher_grip: float = 185.0
    """Lateral acceleration that the teacher plans its speeds for (tyres hold 219): at the limit, an error is a spin."""
    teacher_speed_gain: float = 6.0
    """Acceleration that the teacher asks for per speed error (1/s): lower is smoother, and easier to clone."""
    leash: float = 20.0
    """A training episode ends when the car is this far from the centre line (the road is 6.67 to each side)."""
    playfield: tuple[int, int] = (28, 32)
    """(height, width) that the playfield is resized to for the eyes."""
    features: int = 32
    """Features that the eyes give to the core, beside the gauges."""
    validation_episodes: int = 20
    """Episodes of a validation, on seeds that are never trained on; the best checkpoint is chosen by it."""
    validate_every: int = 4
    """Rounds between validations; in the last quarter of the rounds, every round."""
    test_episodes: int = 20
    """Episodes of the closing evaluation on the official environment."""
    video: bool = True
    """Whether to record a lap at the end."""


@dataclass
class Progress(RunProgress):
    """Where a run is; saved with its state."""

    frames: int = 0
    lost: list[int] = field(default_factory=list)
    """Seeds of the tracks whose lap was not completed in a round after the expert's and not driven again since."""


class Dagger:
    """One training run.

    Args:
        config: the job.
        folder: its run folder, begun.
        pool: the processes that drive.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, pool: RolloutPool):
        self.config, self.folder, self.pool = config, folder, pool
        torch.manual_seed(config.seed)
        options = parse_options(config.policy, config.policy_options)
        self.driver = Driver(
            DriverConfig(
                env=config.env,
                policy=config.policy,
                options=options,
                playfield=config.playfield,
                features=config.features,
            )
        ).to(resolve_device(config.device))
        self.cloner = Cloner(
            self.driver, config.learning_rate, config.rounds * config.steps, control_weights=config.control_weights
        )
        self.progress = Progress()
        self.shape = self.driver.view.image_shape
        self.episodes = read_folder(config.demos, config.env, self.shape) if config.demos else []
        state = folder.load_state()
        if state is not None:
            tensors, saved = state
            self.progress = Progress(**saved)
            self.cloner.restore(tensors, self.progress.round * config.steps)
            for round in range(self.progress.round):
                self.episodes += self._read(round)

    def train(self, report: Callable[[Progress, float], None]) -> None:
        """Runs the rounds that are left; ``best`` and ``last`` of the run folder are checkpoints afterwards.

        Args:
            report: called after every round with the progress and the round's mean loss.
        """
        config, progress = self.config, self.progress
        if progress.round == config.rounds:
            return
        with SummaryWriter(str(self.folder.tensorboard), purge_step=self.cloner.step) as curves:
            begin = time.monotonic() - progress.seconds
            for round in range(progress.round, config.rounds):
                with progress.timed("driving"):
                    driven = self._collect(round)
                self.episodes += driven
                rng = np.random.default_rng([config.seed, round, 1])
                with progress.timed("cloning"):
                    streams = Streams(self.episodes, config.batch, config.time, rng)
                    loss = self.cloner.train(streams, config.steps)
                progress.round = round + 1
                progress.frames += sum(episode.steps for episode in driven)
                if round > 0:
                    progress.lost += [episode.seed for episode in driven if not episode.lap]
                if self._validates(round):
                    with progress.timed("validation"):
                        self._validate(round, curves)
                progress.seconds = time.monotonic() - begin
                self._plot(curves, loss, driven)
                self.folder.save_state(self.cloner.tensors(), vars(progress))
                report(progress, loss)
        self.cloner.average.save(self.folder.last, self._record(self.progress.score))

    def _collect(self, round: int) -> list[Episode]:
        config = self.config
        count = self._planned(round)
        seeds = np.random.default_rng([config.seed, round]).integers(TRAINING_SEEDS, VALIDATION_SEEDS, count)
        lost = self.progress.lost
        kept = max(0, len(lost) - count // 4)
        again, self.progress.lost = lost[kept:], lost[:kept]  # the latest: early losses say little of the driver now
        seeds[: len(again)] = again
        plans = [
            Plan(int(seed), expert_share=1.0, disturbed=True)
            if round == 0
            else Plan(int(seed), expert_share=0.3 if index % 4 == 3 else 0.0)
            for index, seed in enumerate(seeds)
        ]
        drive = Drive(
            record=True,
            leash=config.leash,
            teacher=(
                ("lateral_grip", config.teacher_grip),
                ("braking_grip", config.teacher_grip * 2 / 3),
                ("speed_gain", config.teacher_speed_gain),
                ("slip_limit", 0.19),
                ("turn_in_speed", 1.05),
            ),
        )
        driver = self._average_on_cpu()
        self.pool.map(
            record_shard,
            [(driver, [plan], drive, self._shard(round, index)) for index, plan in enumerate(plans)],
        )
        return self._read(round)

    def _shard(self, round: int, index: int) -> Path:
        return self.folder.shards / f"round-{round:03d}-{index:02d}.npz"

    def _read(self, round: int) -> list[Episode]:
        # By plan, not by whatever lies in the folder: a run that was killed may have left a part of a round there.
        paths = [self._shard(round, index) for index in range(self._planned(round))]
        return [ep for path in paths for ep in read_shard(path, self.config.env, self.shape)]

    def _planned(self, round: int) -> int:
        """Episodes that a round drives."""
        config = self.config
        return config.expert_episodes if round == 0 else config.learner_episodes if config.agent == "dagger" else 0

    def _average_on_cpu(self) -> Driver:
        return copy.deepcopy(self.cloner.average).to("cpu")

    def _validates(self, round: int) -> bool:
        left = self.config.rounds - 1 - round
        return left < self.config.rounds // 4 or left % self.config.validate_every == 0

    def _validate(self, round: int, curves: SummaryWriter) -> None:
        config, progress = self.config, self.progress
        plans = [Plan(VALIDATION_SEEDS + index) for index in range(config.validation_episodes)]
        episodes = self.pool.drive(self._average_on_cpu(), plans, Drive())
        progress.score = float(np.mean([episode.score for episode in episodes]))
        curves.add_scalar("validation/score", progress.score, self.cloner.step)
        curves.add_scalar("validation/laps", np.mean([episode.lap for episode in episodes]), self.cloner.step)
        curves.add_scalar("validation/tiles", np.mean([episode.tiles for episode in episodes]), self.cloner.step)
        # Of two that score alike, the later one is the steadier: its learning rate was lower.
        if progress.score > progress.best_score - 1:
            progress.best_score = max(progress.score, progress.best_score)
            self.cloner.average.save(self.folder.best, self._record(progress.score))

    def _plot(self, curves: SummaryWriter, loss: float, driven: list[Episode]) -> None:
        step = self.cloner.step
        curves.add_scalar("train/loss", loss, step)
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

    def _record(self, score: float) -> dict[str, object]:
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


def record_shard(driver: Driver, plans: list[Plan], drive: Drive, path: Path) -> None:
    """Drives the planned episodes and writes them as one shard; runs in a worker process."""
    write_shard(path, driver.config.env, [drive_episode(driver, plan, drive) for plan in plans])

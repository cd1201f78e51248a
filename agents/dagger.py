"""DAgger (Ross 2011) in CarRacing: the learner drives, the expert labels every frame, the driver is cloned, again.

Round 0 is driven by the expert, pushed off its line by bursts of noise. In every later round the learner drives: most
episodes alone, some in turns with the expert. What it meets there, and what the expert would have done, joins the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from agents.augmentation import HELD_OUT
from agents.demonstrations import read_folder, write_shard
from agents.episodes import Conditions, Episode, EpisodePlan, drive_episode
from agents.imitation import Imitation, ImitationConfig, begin_imitation, describe_learner
from envs.registration import TRAINING_SEEDS, VALIDATION_SEEDS
from liquid_control.support.ranges import Count, Gain, NotNegative, Positive
from policies.driver import Driver
from policies.eyes import Encoding


@dataclass(frozen=True)
class TrainConfig(ImitationConfig):
    """Trains a driver from random weights: an expert teaches it, and the official environment scores it.

    Without arguments, 19 closed-form liquid neurons learn CarRacing-v3 in minutes. --env udacity trains a driver of the
    Udacity simulator, --agent ppo learns any environment from its reward; each has options of its own.
    Options can be put in a YAML file: --config FILE.
    """

    rounds: Count = 28
    """Rounds of driving and training. In round 0 the teacher drives."""
    encoding: Encoding = "norm"
    """How the eyes see levels of colour: rgb, as they are, or norm, relative to the picture's own mean and contrast."""
    demos: Path | None = None
    """A folder of recorded episodes to learn from as well; the record command writes them."""
    control_weights: tuple[NotNegative, NotNegative, NotNegative] = (12.0, 1.0, 1.0)
    """Weights of steer, gas and brake in the squared error. Steering labels are small, within ±0.4."""
    teacher_grip: Gain = 185.0
    """Lateral acceleration that the teacher plans for. The tyres hold 219; close to that, small errors end in spins."""
    teacher_speed_gain: Gain = 6.0
    """Acceleration that the teacher asks for per speed error (1/s). Lower is smoother, and easier to imitate."""
    leash: Positive = 20.0
    """Distance from the centre line at which a training episode ends. The road is 6.67 wide to each side."""
    variety: str = "mild"
    """How much what it learns from is varied: none, mild, wide, or a YAML file with fields of
    agents.augmentation.Variety. Two of five drives of the learner are varied, too, and validation is
    half on kinds of variety that are never trained on."""
    video: bool = True
    """Whether to record a lap at the end."""


def begin_dagger(config: TrainConfig, path: Path, processors: int) -> TrainConfig:
    """See :func:`agents.imitation.begin_imitation`.

    Raises:
        UserError: as there, or if there are no demonstrations, or they are not for this driver.
    """
    if config.demos is not None:
        read_folder(config.demos, config.env, Driver(describe_learner(config)).view.image_shape)
    return begin_imitation(config, path, processors)


class Dagger(Imitation[TrainConfig]):
    """One training run in CarRacing.

    Up to a quarter of a round's tracks are those where a lap was lost before: what a driver fails at is rare, mostly
    hairpins.
    """

    def _control_weights(self) -> Sequence[float]:
        return self.config.control_weights

    def _given(self) -> list[Episode]:
        return read_folder(self.config.demos, self.config.env, self.shape) if self.config.demos else []

    def _drive(self, round: int) -> None:
        config = self.config
        count = self._planned(round)
        seeds = np.random.default_rng([config.seed, round]).integers(TRAINING_SEEDS, VALIDATION_SEEDS, count)
        lost = self.progress.lost
        kept = max(0, len(lost) - count // 4)
        again, self.progress.lost = lost[kept:], lost[:kept]  # the latest: early losses say little of the driver now
        seeds[: len(again)] = again
        plans = [
            EpisodePlan(int(seed), expert_share=1.0, disturbed=True)
            if round == 0
            else EpisodePlan(int(seed), expert_share=0.3 if index % 4 == 3 else 0.0, varied=index % 5 in (1, 3))
            for index, seed in enumerate(seeds)
        ]
        conditions = Conditions(
            record=True,
            leash=config.leash,
            variety=self.variety,
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
            [(driver, [plan], conditions, self._shard(round, index)) for index, plan in enumerate(plans)],
        )

    def _judge(self, curves: SummaryWriter) -> float:
        varied = self.variety is not None
        plans = [
            EpisodePlan(VALIDATION_SEEDS + index, varied=varied and index % 2 == 1)
            for index in range(self.config.validation_episodes)
        ]
        episodes = self.pool.drive(self._average_on_cpu(), plans, Conditions(variety=HELD_OUT))
        curves.add_scalar("validation/laps", np.mean([episode.lap for episode in episodes]), self.cloner.step)
        curves.add_scalar("validation/tiles", np.mean([episode.tiles for episode in episodes]), self.cloner.step)
        return float(np.mean([episode.score for episode in episodes]))


def record_shard(driver: Driver, plans: list[EpisodePlan], conditions: Conditions, path: Path) -> None:
    """Drives the planned episodes and writes them as one shard; runs in a worker process."""
    write_shard(path, driver.config.env, [drive_episode(driver, plan, conditions) for plan in plans])

"""Learning to drive the Udacity simulator: DAgger on the stand-in's roads, and cloning of recorded drives.

Every drive of a round is on another road, in another weather, at another speed. In round 0 the expert steers, pushed
aside now and then; in later rounds the learner does, in a quarter of the drives in turns with the expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from agents.augmentation import RoadAugmentation, RoadVariety
from agents.cloning import Streams
from agents.episodes import Episode
from agents.imitation import Imitation, ImitationConfig, begin_imitation
from agents.initial_driver import check_initial
from agents.recordings import Recordings, check_recordings, explained_share, read_recordings, steering_error
from agents.road_rollout import RoadPlan, drive_road, record_road
from agents.run_folder import RunFolder
from envs.registration import TRAINING_SEEDS, UDACITY, VALIDATION_SEEDS
from envs.udacity.stand_in.camera import WEATHERS
from envs.udacity.stand_in.environment import SMALLEST_SEED
from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Count, CountOrZero, NotNegative, Positive, Share, Speed
from policies.driver import Driver, load_driver
from policies.eyes import PictureSide
from policies.view import UdacityView


@dataclass(frozen=True)
class RoadConfig(ImitationConfig):
    """Trains a driver of the Udacity simulator: 19 neurons steer by the camera, and a controller keeps the speed.

    The simulator is not needed: an expert teaches on the roads of the stand-in. --data adds recorded drives, and
    --agent clone learns from those alone. Options can be put in a YAML file: --config FILE.
    """

    env: str = UDACITY
    """udacity, or liquid_control/Udacity-v0."""
    data: Path | None = None
    """A folder of recorded drives, or of such folders: driving_log.csv and IMG/, as the simulator writes them."""
    init: Path | None = None
    """A checkpoint to start from instead of random weights. The new driver has its architecture."""
    rounds: Count = 8
    """Rounds of driving and training. In round 0 the expert drives."""
    expert_episodes: Count = 16
    """Drives of round 0."""
    learner_episodes: Count = 8
    """Drives of each later round. In a quarter of them, learner and expert take turns."""
    seconds: Positive = 40.0
    """Length of a drive, in seconds."""
    speeds: tuple[Speed, Speed] = (8.0, 27.0)
    """Lowest and highest speed of a drive, in miles an hour."""
    steps: Count = 150
    """Gradient steps per round."""
    learning_rate: NotNegative = 3e-3
    """Peak learning rate of Adam. It is warmed up, then falls along a cosine to 2 %."""
    playfield: tuple[PictureSide, PictureSide] = UdacityView.default_size
    """(height, width) of the picture that the eyes get."""
    data_share: Share = 0.3
    """With --data: share of the training that uses recorded drives, where there are other drives too."""
    held_out: Share = 0.2
    """With --data: share of the rows that is held out for validation, in whole blocks."""
    side_correction: NotNegative = 0.2
    """With --data: steering towards the middle that is added for a side camera; 0 leaves the side cameras out."""
    steering_weight: NotNegative = 1.0
    """Additional weight of full steering in the loss, because most of a road is straight."""
    shift: Share = 0.0
    """Largest shift of a picture to the side, as a share of its width; the steering is corrected to match. It helps
    where recordings never leave the middle of the road."""
    validation_episodes: Count = 4
    """Laps per validation, on roads that are never trained on: half at 15 and half at 25 miles an hour."""
    test_episodes: CountOrZero = 6
    """Roads of the closing evaluation, new again; each is driven at 15 and at 25 miles an hour. 0 leaves it out."""


def begin_roads(config: RoadConfig, path: Path, processors: int) -> RoadConfig:
    """The config with its run folder and workers; what it needs is looked at before a folder is made.

    Raises:
        UserError: if there are no recordings, or none that can be read, or ``init`` is no driver that fits, or the run
            folder lies in it.
    """
    if config.agent == "clone" and config.data is None:
        raise UserError("--agent clone learns from recorded drives: give their folder with --data.")
    if config.data is not None:
        check_recordings(config.data, config.held_out, config.side_correction, config.seed)
    if config.init is not None:
        check_initial(config.init, load_driver(config.init).config, config.env, config.policy)
        RunFolder(path).check_outside(config.init)
    return begin_imitation(config, path, processors)


class RoadDagger(Imitation[RoadConfig]):
    """One training run.

    Its score is that of `agents.road_rollout.drive_road`; where only recordings are learned, the share of the held-out
    steering's variance that the driver explains, in hundredths.
    """

    @property
    def summaries(self) -> list[str]:
        """A line for each recorded drive, and one about the driver."""
        return [*self.recordings.summaries, *super().summaries]

    def _make_driver(self) -> Driver:
        init = self.config.init
        return super()._make_driver() if init is None else load_driver(self.folder.keep(init)).train()

    def _control_weights(self) -> Sequence[float]:
        return (10.0,)

    def _given(self) -> list[Episode]:
        config = self.config
        self.recordings = Recordings()
        if config.data is not None:
            view = self.driver.view
            assert isinstance(view, UdacityView)
            self.recordings = read_recordings(config.data, view, config.held_out, config.side_correction, config.seed)
        return list(self.recordings.learned)

    def _planned(self, round: int) -> int:
        return 0 if self.config.agent == "clone" else super()._planned(round)

    def _streams(self, rng: np.random.Generator) -> Streams:
        config = self.config
        recorded, all_of_them = (sum(each.steps for each in part) for part in (self.recordings.learned, self.episodes))
        weights = None
        if 0 < recorded < all_of_them:  # those that were recorded come first
            of_each = config.data_share / recorded, (1 - config.data_share) / (all_of_them - recorded)
            counts = len(self.recordings.learned), len(self.episodes) - len(self.recordings.learned)
            weights = np.repeat(of_each, counts).tolist()
        roads = RoadAugmentation(RoadVariety(shift=config.shift), rng)
        return Streams(
            self.episodes,
            config.batch,
            config.time,
            rng,
            augment=[roads, *self._variations(rng)],
            weigh=self._weigh,
            clock=self._clock(rng),
            weights=weights,
        )

    def _weigh(self, labels: np.ndarray) -> np.ndarray:
        return 1 + self.config.steering_weight * np.abs(labels[..., 0])

    def _drive(self, round: int) -> None:
        config, count = self.config, self._planned(round)
        rng = np.random.default_rng([config.seed, round])
        driver = self._average_on_cpu()
        plans = [
            RoadPlan(
                track=int(rng.integers(TRAINING_SEEDS + SMALLEST_SEED, VALIDATION_SEEDS)),
                speed=float(rng.uniform(*config.speeds)),
                weather=str(rng.choice(list(WEATHERS))),
                start=float(rng.random()),
                seconds=config.seconds,
                expert_share=1.0 if round == 0 else 0.3 if index % 4 == 3 else 0.0,
                disturbed=round == 0 or index % 2 == 1,
                record=True,
            )
            for index in range(count)
        ]
        shards = [(driver, plan, self._shard(round, index)) for index, plan in enumerate(plans)]
        self.pool.map(record_road, shards)

    def _judge(self, curves: SummaryWriter) -> float:
        config, step = self.config, self.cloner.step
        driver = self._average_on_cpu()
        explained = 0.0
        if self.recordings.held_out:
            error = steering_error(driver, self.recordings.held_out)
            explained = 100 * explained_share(error, self.recordings.held_out)
            curves.add_scalar("validation/steering_error", error, step)
        if config.agent == "clone":
            return explained
        plans = [
            RoadPlan(VALIDATION_SEEDS + index, speed=(15.0, 25.0)[index % 2])
            for index in range(config.validation_episodes)
        ]
        laps = self.pool.map(drive_road, [(driver, plan) for plan in plans])
        curves.add_scalar("validation/laps", np.mean([lap.lap for lap in laps]), step)
        curves.add_scalar("validation/off_road", np.mean([lap.off_road for lap in laps]), step)
        return float(np.mean([lap.score for lap in laps]))

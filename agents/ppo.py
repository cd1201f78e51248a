"""Reinforcement learning from reward alone: a driver learns by PPO in many environments at once.

A run is a series of rounds of several updates. A round begins with new episodes everywhere and with every random
number drawn from (seed, round), and the state on disk is that after the last whole round: a run that was killed repeats
at most one round, and ends with the same weights as an unbroken one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from agents.device import resolve_device
from agents.driving_task import DrivingTask, TaskConfig
from agents.episodes import Conditions, EpisodePlan
from agents.initial_driver import check_initial
from agents.job import JobConfig, begin_run
from agents.liquid_ppo import LiquidPPO
from agents.pool import EpisodePool
from agents.run_folder import RunFolder, RunProgress, checkpoint_record
from agents.worker_env import WorkerVecEnv
from envs.partial import positions
from envs.registration import FAST, OFFICIAL, VALIDATION_SEEDS
from liquid_control.support.checkpoint import CONFIG_NAME
from liquid_control.support.errors import UserError
from liquid_control.support.optimizer_state import optimizer_tensors, part_of, restore_optimizer, to_save
from liquid_control.support.ranges import (
    Count,
    CountOrZero,
    Finite,
    LogSpread,
    NotNegative,
    Positive,
    Processes,
    Share,
    Size,
    check_ranges,
)
from policies.driver import Driver, DriverConfig, Width, load_driver
from policies.eyes import PictureSide
from policies.registry import parse_options
from policies.sb3 import DriverPolicy

RACE_REPEAT = 4


@dataclass(frozen=True)
class PPOConfig(JobConfig):
    """Trains a driver from reward alone by PPO, in CarRacing-v3 or any Gymnasium environment with vector observations.

    Options can be put in a YAML file: --config configs/ppo/car_racing.yaml.
    """

    env: str = OFFICIAL
    """The environment: CarRacing-v3, or the id of one with vector observations, such as Pendulum-v1."""
    agent: Literal["ppo"] = "ppo"
    """ppo: from reward alone. The other agents, dagger and clone, have options of their own."""
    init: Path | None = None
    """A checkpoint to start from instead of random weights. The new driver has its architecture."""
    workers: Processes = 0
    """Processes that run environments; 0 means one per processor."""
    threads: Processes = 0
    """Threads that train; 0 means one per processor. On a busy machine, 1 is faster."""
    playfield: tuple[PictureSide, PictureSide] = (28, 32)
    """CarRacing: (height, width) of the picture that the eyes get."""
    features: Width = 32
    """CarRacing: features that the eyes pass to the core, in addition to the gauges."""
    steps: Count = 1_000_000
    """Decisions of the driver, over all environments together. Each lasts --action-repeat environment steps."""
    envs: Size = 16
    """Environments that run side by side."""
    rollout: Size = 128
    """Decisions of each environment between two updates."""
    sequence: Size = 32
    """Decisions that gradients go back through; it must divide --rollout."""
    batch: Count = 512
    """Decisions per gradient step."""
    epochs: Count = 6
    """Passes over a rollout."""
    learning_rate: NotNegative = 5e-4
    """Initial learning rate of Adam. It falls linearly to the share --final-rate."""
    final_rate: Share = 0.02
    """Share of the learning rate that is left at the end."""
    gamma: Share = 0.998
    """Discount factor per decision. At 0.99, driving faster than the car can steer pays more than visiting every
    tile."""
    gae_lambda: Share = 0.95
    """λ of the generalised advantage estimate."""
    clip_range: Positive = 0.2
    """How far the probability ratio of an action may move from 1 in an update."""
    entropy_weight: NotNegative = 0.0
    """Weight of the entropy in the loss."""
    value_weight: NotNegative = 0.5
    """Weight of the critic's error in the loss."""
    gradient_norm: Positive = 0.5
    """Norm at which gradients are clipped."""
    target_kl: Positive | None = None
    """KL divergence from the acting policy at which an update stops early."""
    distribution: Literal["gaussian", "squashed", "beta"] = "beta"
    """Distribution of continuous actions: gaussian and clipped at the bounds, squashed by tanh, or beta."""
    log_std: LogSpread = -1.0
    """Logarithm of the initial spread of actions. For squashed and beta, the unit is half the range of an action."""
    final_log_std: LogSpread | None = -2.5
    """What --log-std falls to by the end, linearly. A driver that has learned with noise drives differently without it.
    With None the spread is learned instead."""
    critic: Literal["separate", "shared", "feedforward"] = "separate"
    """The critic's memory: separate neurons, neurons shared with the actor, or none (feedforward)."""
    learn_initial_state: bool = False
    """Whether the initial state of the core is learned."""
    pedals: bool = True
    """CarRacing: one motor neuron is gas above zero and brake below. With False, each has a motor neuron of its own."""
    action_repeat: Annotated[int, Ge(1), Le(1000)] | None = None
    """Environment steps that an action lasts, by default 4 in CarRacing and 1 elsewhere."""
    patience: CountOrZero = 25
    """CarRacing: decisions without reward after which a training episode ends early. It pays for the frames left."""
    privileged: bool = True
    """Whether the critic sees more than the driver: in CarRacing the tiles visited, the tiles missed and the time, with
    --hide-velocities the velocities. The critic is used in training only."""
    hide_velocities: bool = False
    """Hide the velocities of a vector observation, so that the driver needs memory."""
    drop_frames: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability that an observation is lost. The core is told how much time has passed."""
    jitter: CountOrZero = 0
    """Environment steps by which an observation may be late. The core is told how much time has passed."""
    share_eyes: bool = True
    """Whether the critic uses the actor's eyes. With --init, False is better: its gradients would change them."""
    value_warm_up: CountOrZero = 0
    """Updates that train the critic alone, before an --init driver is changed."""
    clone_weight: NotNegative = 0.0
    """Weight of the divergence from the --init driver in the loss, so that the driver does not forget."""
    round_updates: Count = 20
    """Updates per round. The state is saved after every round."""
    validate_every: Count = 4
    """Rounds between validations. In the last quarter of the training, every second round is validated."""
    validation_env: str = ""
    """Environment of the validations, by default FastCarRacing for CarRacing-v3, otherwise the environment itself."""
    stop_at: Finite | None = None
    """Validation score at which the training stops early."""
    video: bool = True
    """CarRacing: whether to record a lap at the end."""


@dataclass
class PPOProgress(RunProgress):
    """Where a run is; saved with its state."""

    steps: int = 0
    """Decisions so far."""
    updates: int = 0
    """Passes over rollouts, as SB3 counts them."""
    training_score: float = float("nan")
    """Mean return of the last hundred training episodes, driven with exploration."""
    stopped: bool = False
    """Whether --stop-at was reached."""

    @property
    def done(self) -> int:
        """Decisions so far."""
        return self.steps

    def news(self) -> str:
        """See :class:`RunProgress`."""
        return f"{self.scores()}training return {self.training_score:.0f}"


def make_task(config: TaskConfig) -> gymnasium.Env:
    """A driver's task that tells its returns; runs in a worker process."""
    return Monitor(DrivingTask(config))


def describe_driver(config: PPOConfig) -> DriverConfig:
    """What the driver of a job is made of.

    Raises:
        UserError: if the environment cannot be made, its spaces are not supported, or an option does not fit it.
    """
    if config.init is not None:
        driver = load_driver(config.init).config
        check_initial(config.init, driver, config.env, config.policy)
        if driver.bound == "clip" and not (driver.vector or {}).get("choices") and config.distribution != "gaussian":
            raise UserError(f"the driver {config.init} clips its commands: give --distribution gaussian.")
        return driver
    options = parse_options(config.policy, config.policy_options)
    bound: Literal["clip", "tanh"] = "clip" if config.distribution == "gaussian" else "tanh"
    if config.env == OFFICIAL:
        if config.hide_velocities:
            raise UserError(f"--hide-velocities is for vectors; the picture of {config.env} shows its speed.")
        return DriverConfig(
            env=config.env,
            policy=config.policy,
            options=options,
            playfield=config.playfield,
            features=config.features,
            pedals=config.pedals,
            bound=bound,
            action_repeat=config.action_repeat or RACE_REPEAT,
        )
    vector, continuous = describe_vector(config.env, config.hide_velocities)
    return DriverConfig(
        env=config.env,
        policy=config.policy,
        options=options,
        bound=bound if continuous else "clip",
        action_repeat=config.action_repeat or 1,
        vector=vector,
    )


def describe_vector(env: str, hide_velocities: bool) -> tuple[dict[str, Any], bool]:
    """Arguments of `policies.view.VectorView` for an environment, and whether its actions are continuous.

    Raises:
        UserError: if it cannot be made, or its spaces are not supported.
    """
    try:
        made = gymnasium.make(env)
    except (gymnasium.error.Error, ImportError) as error:
        raise UserError(f"the environment {env!r} cannot be made: {' '.join(str(error).split())}") from None
    seen, action = made.observation_space, made.action_space
    made.close()
    if not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        raise UserError(
            f"the observations of {env} are {seen}; supported are vectors, and the picture of {OFFICIAL}. For "
            "pictures and dictionaries, use LiquidPPO or policies.sb3 from Python."
        )
    vector: dict[str, Any] = {"size": seen.shape[0]}
    if hide_velocities:
        try:
            vector["observed"] = positions(env, seen.shape[0])
        except ValueError as error:
            raise UserError(str(error)) from None
    if isinstance(action, spaces.Discrete) and action.start == 0:
        return vector | {"choices": int(action.n)}, False
    if isinstance(action, spaces.Box) and len(action.shape) == 1 and action.is_bounded():
        return vector | {"low": action.low.tolist(), "high": action.high.tolist()}, True
    raise UserError(f"the actions of {env} are {action}; supported are bounded vectors, and a Discrete from 0 on.")


class PPO:
    """One training run.

    Args:
        config: the job.
        folder: its run folder, begun.
        pool: what drives the validations.
    """

    unit = "step"

    def __init__(self, config: PPOConfig, folder: RunFolder, pool: EpisodePool):
        self.config, self.folder, self.pool = config, folder, pool
        init = None if config.init is None else folder.keep(config.init)
        driver = describe_driver(replace(config, init=init))
        car_racing = config.env == OFFICIAL
        task = TaskConfig(
            driver,
            patience=config.patience if car_racing else 0,
            privileged=config.privileged and (car_racing or config.hide_velocities),
            drop_frames=config.drop_frames,
            jitter=config.jitter,
        )
        self.env = VecNormalize(
            WorkerVecEnv([partial(make_task, task)] * config.envs, config.workers), norm_obs=False, gamma=config.gamma
        )
        self.model = LiquidPPO(
            DriverPolicy,
            self.env,
            n_steps=config.rollout,
            sequence_length=config.sequence,
            batch_size=config.batch,
            n_epochs=config.epochs,
            learning_rate=self._rate,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip_range,
            ent_coef=config.entropy_weight,
            vf_coef=config.value_weight,
            max_grad_norm=config.gradient_norm,
            target_kl=config.target_kl,
            value_warm_up=config.value_warm_up,
            clone_weight=config.clone_weight,
            seed=config.seed,
            device=resolve_device(config.device),
            policy_kwargs={
                "driver": driver,
                "critic": config.critic,
                "distribution": "gaussian" if driver.vector and driver.vector.get("choices") else config.distribution,
                "log_std_init": config.log_std,
                "learn_initial_state": config.learn_initial_state,
                "share_eyes": config.share_eyes,
                "optimizer_kwargs": {"fused": True, "eps": 1e-5},
            },
        )
        self.model.set_logger(Logger(None, []))
        self.policy: DriverPolicy = self.model.policy  # type: ignore[assignment]
        if config.final_log_std is not None and hasattr(self.policy, "log_std"):
            self.policy.log_std.requires_grad_(False)
        if init is not None:
            self.policy.take_over(load_driver(init))
            self.model.clone = load_driver(init).to(self.model.device) if config.clone_weight else None
        self.progress = PPOProgress()
        state = folder.load_state()
        if state is not None:
            tensors, saved = state
            self.progress = PPOProgress(**saved)
            self._restore(tensors)

    @property
    def driver(self) -> Driver:
        """The driver that learns."""
        return self.policy.driver

    @property
    def summaries(self) -> list[str]:
        """A line about the driver; it learns from nothing but what it meets."""
        return [self.driver.describe()]

    @property
    def total(self) -> int:
        """Decisions of the whole job."""
        return self.config.steps

    @property
    def rounds(self) -> int:
        """Rounds of the whole job."""
        return -(-self.config.steps // self._round_steps)

    @property
    def _round_steps(self) -> int:
        return self.config.envs * self.config.rollout * self.config.round_updates

    def _rate(self, progress_remaining: float) -> float:
        return self.config.learning_rate * max(progress_remaining, self.config.final_rate)

    def close(self) -> None:
        """Ends the environments' processes."""
        self.env.close()

    def train(self, report: Callable[[PPOProgress], None]) -> None:
        """Runs the rounds that are left; ``best`` and ``last`` of the run folder are checkpoints afterwards.

        Args:
            report: called after every update.
        """
        progress = self.progress
        if progress.round >= self.rounds or progress.stopped:
            if not (self.folder.last / CONFIG_NAME).exists():  # the run was killed at its very end
                self._save_last()
            return
        episodes = _Episodes()
        self.model.begin(self.config.steps, episodes)
        with SummaryWriter(str(self.folder.tensorboard), purge_step=progress.steps + 1) as curves:
            begin = time.monotonic() - progress.seconds
            for round in range(progress.round, self.rounds):
                self.folder.check_there()
                self._begin_round(round)
                for _ in range(self.config.round_updates):
                    self._update(episodes, curves)
                    progress.seconds = time.monotonic() - begin
                    report(progress)
                progress.round = round + 1
                if self._validates(round):
                    with progress.timed("validation"):
                        self._validate(curves)
                progress.seconds = time.monotonic() - begin
                self._keep_best()
                self.folder.save_state(self._tensors(), vars(progress))
                report(progress)
                if progress.stopped:
                    break
        self._save_last()

    def _save_last(self) -> None:
        self._checkpoint_driver().save(self.folder.last, self._record())

    def _begin_round(self, round: int) -> None:
        """New episodes everywhere, and random numbers that depend on seed and round alone."""
        seed = int(np.random.SeedSequence([self.config.seed, round]).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        self.env.seed(seed >> 1)
        self.env.returns = np.zeros(self.config.envs)
        self.model.begin_episodes()

    def _update(self, episodes: _Episodes, curves: SummaryWriter) -> None:
        model, progress = self.model, self.progress
        self._set_spread()
        # A forward pass of a few frames is done before a second thread has woken up.
        torch.set_num_threads(1)
        with progress.timed("driving"):
            model.collect(self.config.steps, episodes)
        torch.set_num_threads(self.config.threads)
        with progress.timed("learning"):
            model.train()
            observations = model.rollout_buffer.observations
            assert isinstance(observations, dict), "a driver's task shows a dictionary"
            self.policy.update_scales(observations)
        progress.steps, progress.updates = model.num_timesteps, model.updates
        if episodes.ended:
            progress.training_score = float(np.mean([episode["r"] for episode in model.ep_info_buffer or ()]))
        self._plot(episodes, curves)

    def _set_spread(self) -> None:
        final, spread = self.config.final_log_std, getattr(self.policy, "log_std", None)
        if final is not None and spread is not None:
            progress_remaining = max(self.model.progress_remaining, 0.0)
            spread.data.fill_(final + (self.config.log_std - final) * progress_remaining)

    def _validates(self, round: int) -> bool:
        left = self.rounds - 1 - round
        return left % (2 if left < self.rounds // 4 else self.config.validate_every) == 0

    def _validate(self, curves: SummaryWriter) -> None:
        config, progress = self.config, self.progress
        plans = [EpisodePlan(VALIDATION_SEEDS + index) for index in range(config.validation_episodes)]
        env = config.validation_env or (FAST if config.env == OFFICIAL else config.env)
        conditions = Conditions(env=env, drop_frames=config.drop_frames, jitter=config.jitter)
        episodes = self.pool.drive(self._checkpoint_driver(), plans, conditions)
        progress.score = float(np.mean([episode.score for episode in episodes]))
        curves.add_scalar("validation/score", progress.score, progress.steps)
        if config.env == OFFICIAL:
            curves.add_scalar("validation/laps", np.mean([episode.lap for episode in episodes]), progress.steps)
        progress.stopped = config.stop_at is not None and progress.score >= config.stop_at

    def _keep_best(self) -> None:
        progress = self.progress
        if progress.score > progress.best_score:
            progress.best_score = progress.score
            self._checkpoint_driver().save(self.folder.best, self._record())

    def _checkpoint_driver(self) -> Driver:
        return copy.deepcopy(self.driver).to("cpu").eval()

    def _plot(self, episodes: _Episodes, curves: SummaryWriter) -> None:
        """Writes and forgets what the update logged, and how its episodes went."""
        progress, model = self.progress, self.model
        for name, value in model.logger.name_to_value.items():
            curves.add_scalar(name, value, progress.steps)
        model.logger.dump(progress.steps)
        if episodes.ended:
            curves.add_scalar("rollout/return", np.mean([each["r"] for each in episodes.ended]), progress.steps)
            curves.add_scalar("rollout/length", np.mean([each["l"] for each in episodes.ended]), progress.steps)
            if self.config.env == OFFICIAL:
                curves.add_scalar("rollout/laps", np.mean([each["lap"] for each in episodes.ended]), progress.steps)
        seconds = progress.parts["driving"] + progress.parts["learning"]
        curves.add_scalar("time/steps_per_second", progress.steps / seconds, progress.steps)
        if (progress.updates // self.config.epochs) % self.config.round_updates == 0:
            state = torch.from_numpy(model.rollout_buffer.states[0]).flatten(0, 1)
            parts = self._checkpoint_driver().core.unpack(state[:, : self.driver.core.state_size])
            for name, part in parts.items():
                if part.numel():  # a net without memory has none
                    curves.add_histogram(f"neurons/{name}", part.detach().numpy(), progress.steps)
        episodes.ended.clear()

    # What is saved

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that is needed to go on as if never stopped; see :meth:`_restore`."""
        policy, returns = self.policy, self.env.ret_rms
        tensors = {f"policy.{name}": value for name, value in policy.state_dict().items()}
        tensors |= optimizer_tensors(policy, policy.optimizer)
        tensors["returns"] = torch.tensor([returns.mean, returns.var, returns.count], dtype=torch.float64)
        return to_save(tensors)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        policy, model = self.policy, self.model
        policy.load_state_dict(part_of(tensors, "policy."))
        restore_optimizer(policy, policy.optimizer, tensors)
        self.env.ret_rms = RunningMeanStd(shape=())
        mean, variance, count = tensors["returns"].numpy()
        self.env.ret_rms.mean, self.env.ret_rms.var, self.env.ret_rms.count = mean, variance, float(count)
        model.resume(self.progress.steps, self.progress.updates, self.config.steps)

    def _record(self) -> dict[str, object]:
        """What a checkpoint tells of how it was trained."""
        progress = self.progress
        return checkpoint_record(self.config) | {
            "round": progress.round,
            "gradient_steps": progress.updates * -(-self.config.rollout * self.config.envs // self.config.batch),
            "decisions": progress.steps,
            "frames": progress.steps * self.driver.config.action_repeat,
            "seconds": round(progress.seconds, 1),
            "seconds_by_part": {part: round(seconds, 1) for part, seconds in progress.parts.items()},
            "validation_score": round(progress.score, 2),
        }


class _Episodes(BaseCallback):
    """Collects the training episodes that end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ended.append(info["episode"] | {"lap": float(info.get("lap_finished", False))})
        return True


def begin_ppo(config: PPOConfig, path: Path, processors: int) -> PPOConfig:
    """The config with its run folder, workers and threads, checked.

    Raises:
        UserError: if an option is out of range, or the run folder lies in ``init``.
    """
    check_ranges(config)
    if config.rollout % config.sequence:
        raise UserError(
            f"--rollout must be a multiple of --sequence: {config.rollout} is not one of {config.sequence}."
        )
    if config.init is None and (config.clone_weight or config.value_warm_up):
        raise UserError("--clone-weight and --value-warm-up need --init, the driver to start from.")
    described = describe_driver(config)
    if config.init is not None:
        RunFolder(path).check_outside(config.init)
    if config.clone_weight and (described.vector or {}).get("choices"):
        raise UserError(f"--clone-weight is for commands, and the driver of {config.env} chooses: leave it out.")
    Driver(described)  # whatever cannot be built is said before a run folder is there
    return replace(begin_run(config, path, processors), threads=config.threads or processors)


def tell_ppo(job: Mapping[str, Any]) -> str:
    """How a driver learned, for its card; from the options in its checkpoint's record."""
    begin = f"Tuned by PPO from {Path(job['init']).as_posix()}" if job.get("init") else "From reward alone, by PPO"
    knows = " In training, the critic knew what the driver cannot see." if job.get("privileged") else ""
    return f"{begin}.{knows}"

"""Episodes driven by a driver, by the expert, or by both in turns: for learning, for validation and for judging.

The driver drives in its compiled form, one episode after the other; `agents.pool` shares them out between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing

from agents.augmentation import Variation, Variety
from envs.car_racing.expert import Expert
from envs.disturbance import Disturbance
from envs.partial import IrregularTime
from envs.registration import FAST
from envs.shifts import Attacker, apply_shifts
from policies.attack import SteeringAttack
from policies.driver import Driver


@dataclass(frozen=True)
class EpisodePlan:
    """How one episode is to be driven."""

    seed: int
    """Seed of the track."""
    expert_share: float = 0.0
    """Share of the half-second stretches in which the expert drives instead of the driver."""
    disturbed: bool = False
    """Whether bursts of steering noise are added, so that recoveries are seen."""
    varied: bool = False
    """Whether the driver sees pictures and gauges of :attr:`Conditions.variety`. What is kept is how they were."""
    traced: bool = False
    """Whether the way of the car is kept."""


@dataclass
class Episode:
    """One driven episode: what it scored and, where it was recorded, what was seen and what the expert would do."""

    seed: int
    score: float
    """The undiscounted return."""
    steps: int
    lap: bool
    """Whether every tile was visited; elsewhere than in CarRacing False."""
    tiles: float
    """Share of the track's tiles that were visited; elsewhere 0."""
    off_road: float
    """Share of the steps with all four wheels off the road; elsewhere 0."""
    terminated: bool = False
    """Whether the environment ended it: the lap is complete, or the car left the field."""
    images: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8), repr=False)
    """(T, height, width, 3) uint8, from the driver's view."""
    gauges: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    """(T, G) float32, from the driver's view."""
    labels: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    """(T, controls) float32: the expert's action in the state that gave the image."""
    actions: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    """(T, controls) float32: the action that was taken."""
    rewards: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    """(T,) float32: the environment's reward for it."""
    elapsed: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    """(T,) float32: steps since the image before; empty where every image came one step after the other."""
    way: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.float32), repr=False)
    """(T // 10, 2) float32: where the car was after every tenth step, in track units; empty unless it was asked for."""


@dataclass(frozen=True)
class Conditions:
    """What the episodes of one occasion have in common."""

    env: str = FAST
    record: bool = False
    """Keep images, gauges, labels and actions."""
    leash: float | None = None
    """End an episode when the car is this far from the centre line (track units); None lets it drive on."""
    teacher: tuple[tuple[str, float], ...] = ()
    """Constants of the expert that differ from its own, as (name, value)."""
    drop_frames: float = 0.0
    """Probability that an observation is lost; see `envs.partial.IrregularTime`."""
    jitter: int = 0
    """Steps by which an observation may be late; see `envs.partial.IrregularTime`."""
    variety: Variety | None = None
    """Of what varied episodes show."""
    shifts: str = ""
    """What is different from training, for example ``rain:3+delay:2``; see `envs.shifts`."""


class _Lane:
    """An environment and the episode that it is in."""

    STRETCH = 25  # steps between decisions on who drives: half a second
    TRACED = 10  # steps between two points of the way

    def __init__(self, env: str, drop_frames: float, jitter: int, shifts: str):
        self.env = gymnasium.make(env, disable_env_checker=True)
        self.car_racing: Any = self.env.unwrapped if isinstance(self.env.unwrapped, CarRacing) else None
        self.irregular = drop_frames > 0 or jitter > 0
        if self.irregular:
            self.env = IrregularTime(self.env, drop_frames, jitter)
        self.shifted = bool(shifts)
        if self.shifted:
            self.env = apply_shifts(self.env, shifts, self._attack)
        self.elapsed: float | None = None  # what the observation tells, or one step
        self.busy = False
        # The official car draws every step, which is nearly all that a step costs, whether somebody looks or not.
        self.draws_unseen = type(self.car_racing) is CarRacing and not self.irregular and not self.shifted

    def start(self, plan: EpisodePlan, conditions: Conditions, attacker: Attacker | None) -> None:
        self.plan, self.conditions, self.attacker = plan, conditions, attacker
        self.expert = Expert(**dict(conditions.teacher))
        self.rng = np.random.default_rng([plan.seed, 7])
        self._see(*self.env.reset(seed=plan.seed))
        self.needs_expert = self.conditions.record or plan.expert_share > 0
        if self.needs_expert or self.conditions.leash is not None:
            self.expert.reset(self.env)
        self.episode = Episode(plan.seed, score=0.0, steps=0, lap=False, tiles=0.0, off_road=0.0)
        self.frames: list[tuple[Any, ...]] = []
        self.times: list[float] = []
        self.way: list[tuple[float, float]] = []
        self.disturbance = Disturbance(self.rng, every=50, size=(0.1, 0.3), steps=(4, 9))
        self.busy = True

    def _attack(self, observation: Any, elapsed: float | None) -> tuple[float, np.ndarray] | None:
        """What the driver of this episode would do; see `envs.shifts.Attacker`."""
        assert self.attacker is not None
        return self.attacker(observation, elapsed)

    def _see(self, observation: Any, info: dict[str, Any]) -> None:
        if self.irregular:
            observation, self.elapsed = observation["obs"], float(observation["elapsed"][0])
        elif self.shifted:  # by some of which time is told
            self.elapsed = float(info["elapsed"]) if "elapsed" in info else None
        self.observation = observation

    def advance(
        self, action: np.ndarray, seen: tuple[np.ndarray, np.ndarray] | None = None, looks: bool = True
    ) -> None:
        """One step.

        Args:
            action: the driver's; the lane decides whether the expert's is taken instead.
            seen: image and gauges, where the episode is recorded.
            looks: whether the observation that it leads to is looked at; the official car then draws it.
        """
        label = self.expert.act(self.env) if self.needs_expert else action
        if self.episode.steps % self.STRETCH == 0:
            self.expert_drives = self.rng.random() < self.plan.expert_share
        taken = label if self.expert_drives else action
        if self.plan.disturbed:
            push = np.array([self.disturbance(), 0, 0], np.float32)
            taken = np.clip(taken + push, [-1, 0, 0], 1).astype(np.float32)
        elapsed = self.elapsed
        with nullcontext() if looks or not self.draws_unseen else _without_drawing(self.car_racing):
            observation, reward, terminated, truncated, info = self.env.step(taken)
        self._see(observation, info)
        if seen is not None:
            self.frames.append((*seen, label, taken, np.float32(reward)))
            if elapsed is not None:
                self.times.append(elapsed)
        episode = self.episode
        episode.score += float(reward)
        episode.steps += 1
        if self.car_racing is not None:
            episode.off_road += not any(wheel.tiles for wheel in self.car_racing.car.wheels)
            if self.plan.traced and episode.steps % self.TRACED == 0:
                self.way.append(tuple(self.car_racing.car.hull.position))
        leash = self.conditions.leash
        strayed = leash is not None and self.expert.off_road_distance(self.env) > leash
        if terminated or truncated or strayed:
            episode.terminated = bool(terminated)
            self._finish(bool(info.get("lap_finished", False)))

    def _finish(self, lap: bool) -> None:
        episode = self.episode
        if self.car_racing is not None:
            episode.lap = lap
            episode.tiles = self.car_racing.tile_visited_count / len(self.car_racing.track)
            episode.off_road /= episode.steps
        if self.frames:
            columns = [np.stack(column) for column in zip(*self.frames, strict=True)]
            episode.images, episode.gauges, episode.labels, episode.actions, episode.rewards = columns
            episode.elapsed = np.array(self.times, np.float32)
            self.frames, self.times = [], []
        if self.way:
            episode.way = np.array(self.way, np.float32)
        self.busy = False


@contextmanager
def _without_drawing(car_racing: Any) -> Iterator[None]:
    """The official environment draws nothing and its observation stays the last one; the physics does not care."""
    car_racing._render = lambda mode: car_racing.state
    try:
        yield
    finally:
        del car_racing._render


_lanes: dict[tuple[str, float, int, str], _Lane] = {}


def _find_lane(conditions: Conditions) -> _Lane:
    key = conditions.env, conditions.drop_frames, conditions.jitter, conditions.shifts
    if key not in _lanes:
        if conditions.shifts:  # of which there are hundreds, driven one after the other: one of them is kept
            for other in [each for each in _lanes if each[3]]:
                _lanes.pop(other).env.close()
        _lanes[key] = _Lane(*key)
    return _lanes[key]


def drive_episode(driver: Driver, plan: EpisodePlan, conditions: Conditions) -> Episode:
    """Drives the planned episode in this process, which keeps the environment for the next call."""
    lane, compiled = _find_lane(conditions), driver.compile_step()
    lane.start(plan, conditions, SteeringAttack(driver, compiled) if conditions.shifts else None)
    vary = None
    if plan.varied and conditions.variety is not None:
        rng, view = np.random.default_rng([plan.seed, 13]), compiled.view
        vary = Variation(conditions.variety, rng, view.image_shape[:2], len(view.gauges))
    while lane.busy:
        if conditions.record or vary:
            image, gauges = compiled.view(lane.observation)
            elapsed = 1.0 if lane.elapsed is None else lane.elapsed
            shown = image, gauges
            if vary:
                shown = image.copy(), gauges.copy()
                vary(shown[0][None], shown[1][None])
            lane.advance(compiled.act_on(shown, elapsed), (image, gauges) if conditions.record else None)
        else:
            action = compiled.act(lane.observation, lane.elapsed)
            lane.advance(action, looks=not compiled.holds)
    return lane.episode

"""Drives on the roads of the stand-in for the Udacity simulator: by a driver, by the expert, or by both in turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.demonstrations import write_shard
from agents.episodes import Episode
from envs.disturbance import Disturbance
from envs.shifts import apply_shifts
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.scenery import SHOULDER_WIDTH
from envs.udacity.vehicle import MPH
from policies.attack import SteeringAttack
from policies.driver import Driver
from policies.view import UdacityView


@dataclass(frozen=True)
class RoadPlan:
    """How one drive is to go."""

    track: int
    """Seed of the road."""
    speed: float = 15.0
    """Miles an hour that are kept where the road allows it."""
    weather: str = "clear"
    start: float = 0.0
    """Where on the lap it begins, 0 to 1."""
    seconds: float = float("inf")
    """How long it lasts at most; without, a lap."""
    expert_share: float = 0.0
    """Share of the stretches of a second in which the expert steers instead of the driver."""
    disturbed: bool = False
    """Whether the steering is pushed aside now and then, so that recoveries are seen."""
    record: bool = False
    """Keep images and labels."""


STRETCH = 13
"""Steps between decisions on who steers: a second."""


def drive_road(driver: Driver, plan: RoadPlan) -> Episode:
    """Drives until the lap is complete, the time is over or the car has left the shoulder.

    Returns:
        The drive. ``score``: 100 times the share of the way that was driven, less 10 a metre of the root mean square
        distance from the middle of the road. The way is a lap or, with a limit of time, what the speed allows in it.
        ``lap``: whether it stayed on the road to the end. ``off_road``: share of the steps beyond the yellow line.
    """
    env = UdacityStandIn(str(plan.track), interval=(3, 6), weather=plan.weather, start_speed=0.6 * plan.speed)
    observation, info = env.reset(seed=plan.track, options={"start": plan.start})
    rng = np.random.default_rng([plan.track, 7])
    disturbance = Disturbance(rng, every=45, size=(0.15, 0.45), steps=(4, 9))
    compiled, expert = driver.compile_step(), RoadExpert(plan.speed)
    compiled.reset()
    assert compiled.cruise is not None
    assert isinstance(compiled.view, UdacityView)
    compiled.cruise.speed = plan.speed
    frames: list[tuple[Any, ...]] = []
    aside: list[float] = []
    seconds = 0.0
    expert_steers = ended = False
    while not ended and seconds < plan.seconds:
        if len(aside) % STRETCH == 0:
            expert_steers = rng.random() < plan.expert_share
        image, gauges = compiled.view(observation)
        elapsed = compiled.view.elapsed(observation)
        label = np.array([expert.act(env, elapsed * compiled.view.interval)[0]], np.float32)
        steering = compiled.act_on((image, gauges), elapsed)
        taken = label if expert_steers else steering
        if plan.disturbed:
            push = disturbance()
            taken = np.clip(taken + push, -1, 1) if push else taken
        action = compiled.cruise(taken, observation)
        if plan.record:
            frames.append((image, gauges, label, taken.astype(np.float32), np.float32(elapsed)))
        observation, _, ended, _, info = env.step(action)
        seconds += float(observation["elapsed"][0])
        aside.append(info["cross_track"])
    far = np.abs(aside)
    share = info["progress"] / min(env.road.length, plan.seconds * plan.speed * MPH)
    episode = Episode(
        seed=plan.track,
        score=100 * min(share, 1.0) - 10 * float(np.sqrt(np.mean(far**2))),
        steps=len(aside),
        lap=bool(info["lap_finished"]) or not ended,
        tiles=float(np.clip(share, 0, 1)),  # the last step goes past the end
        off_road=float(np.mean(far > env.road.half_width)),
        terminated=ended,
    )
    if frames:
        columns = [np.stack(column) for column in zip(*frames, strict=True)]
        episode.images, episode.gauges, episode.labels, episode.actions, episode.elapsed = columns
        episode.rewards = np.zeros(len(frames), np.float32)
    return episode


def record_road(driver: Driver, plan: RoadPlan, path: Path) -> None:
    """Drives and writes a shard; runs in a worker process."""
    write_shard(path, driver.config.env, [drive_road(driver, plan)])


@dataclass
class RoadJudgement:
    """How a driver kept to a road over some laps. Whoever leaves it is put back into the middle, at rest."""

    track: str
    speed: float
    """Miles an hour that were to be kept."""
    weather: str
    laps: float
    """Laps that were asked for."""
    seconds: float = 0.0
    """Simulated."""
    departures: int = 0
    """Times that the middle of the car left the shoulder."""
    touches: int = 0
    """Times that it crossed the yellow line."""
    rms: float = 0.0
    """Root mean square distance from the middle of the road (m)."""
    farthest: float = 0.0
    """Largest distance from the middle of the road (m)."""
    mean_speed: float = 0.0
    """Miles an hour."""

    @property
    def autonomy(self) -> float:
        """See :func:`autonomy`."""
        return autonomy(self.departures, self.seconds)


def autonomy(departures: int, seconds: float) -> float:
    """Percent of the time without a human's hand, each departure taken as one of 6 s (Bojarski et al. 2016)."""
    return 100 * max(0.0, 1 - 6 * departures / seconds)


def judge_road(
    driver: Driver, track: str, speed: float, laps: float, weather: str = "clear", shifts: str = ""
) -> RoadJudgement:
    """Drives some laps, whatever happens; gives up at one departure every 25 metres.

    Args:
        driver: who drives.
        track: name or seed of the road.
        speed: miles an hour that are kept where the bends allow it.
        laps: how far.
        weather: of the stand-in.
        shifts: what is different from training, for example ``rain:3``; see `envs.shifts`.
    """
    env = UdacityStandIn(track, interval=(3, 6), weather=weather)
    compiled = driver.compile_step()
    compiled.reset()
    seen = apply_shifts(env, shifts, SteeringAttack(driver, compiled))
    observation, info = seen.reset(seed=0, options={"start": 0.0})
    assert compiled.cruise is not None
    compiled.cruise.speed = speed
    judged = RoadJudgement(track, speed, weather, laps)
    way, driven, aside, speeds, beyond = laps * env.road.length, 0.0, [], [], False
    while driven + env.progress < way and judged.departures < way / 25:
        observation, _, _, _, info = seen.step(compiled.act(observation))
        judged.seconds += float(observation["elapsed"][0])
        aside.append(abs(info["cross_track"]))
        speeds.append(float(observation["speed"][0]))
        judged.touches += aside[-1] > env.road.half_width and not beyond
        beyond = aside[-1] > env.road.half_width
        if aside[-1] > env.road.half_width + SHOULDER_WIDTH:
            judged.departures += 1
            driven += max(env.progress, 0.0)
            compiled.reset()
            observation, info = seen.reset(options={"start": env.nearest / len(env.road.points)})
            beyond = False
    judged.rms, judged.farthest = float(np.sqrt(np.mean(np.square(aside)))), max(aside)
    judged.mean_speed = float(np.mean(speeds))
    return judged

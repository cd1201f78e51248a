"""The lap that an audit looks at: what the car met, and what its driver saw, thought and did, decision by decision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np

from envs.car_racing.observation import playfield
from envs.registration import FAST, OFFICIAL, STAND_IN, UDACITY
from envs.udacity.vehicle import MPH
from liquid_control.kernels.step import CompiledStep
from liquid_control.report.audit_measures import WINDOW
from liquid_control.support.errors import UserError
from policies.driver import Driver
from policies.view import UdacityView

WHERE = {OFFICIAL: FAST, UDACITY: STAND_IN}
"""Where drivers are audited, by the environment that they are for."""
AHEAD = 20.0
"""Length of the road ahead whose mean curvature counts, in track units or metres."""


@dataclass(frozen=True)
class AuditedLap:
    """A lap, one row a decision of the driver; T of them."""

    seed: int
    score: float
    """The undiscounted return: of CarRacing its score, of the stand-in metres."""
    steps: int
    """Of the environment."""
    lap: bool
    """Whether it was completed."""
    cameras: np.ndarray
    """(T, height, width, 3) uint8 RGB: the part of the observation that the driver looks at, in its own size."""
    images: np.ndarray
    """(T, h, w, 3) uint8: what the driver's view made of it."""
    inputs: np.ndarray
    """(T, C) float32: what the core was given."""
    elapsed: np.ndarray
    """(T,) time since the decision before, in units of the core."""
    states: np.ndarray
    """(T + 1, S) float32 of the core: before each decision, and after the last."""
    steering: np.ndarray
    """(T,) -1 to 1, right positive."""
    speed: np.ndarray
    """(T,) track units a second, of the stand-in miles an hour."""
    curvature: np.ndarray
    """(T,) mean over the next :data:`AHEAD` of the road, one over its unit, right positive."""

    def __len__(self) -> int:
        return len(self.inputs)

    def spread(self, count: int) -> np.ndarray:
        """Indices of so many decisions, spread evenly over the lap; all of them where there are fewer."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))


class _Tapped:
    """A compiled core that notes what goes in and out, and holds some entries of its state at zero."""

    def __init__(self, core: CompiledStep, held: Sequence[int]):
        self._core, self._held = core, list(held)
        self.inputs: list[np.ndarray] = []
        self.elapsed: list[float] = []
        self.states: list[np.ndarray] = []

    @property
    def state(self) -> np.ndarray:
        return self._core.state

    def reset(self) -> None:
        self._core.reset()
        self.states.append(self.state.copy())

    def __call__(self, x: np.ndarray, elapsed: float = 1.0) -> np.ndarray:
        self.inputs.append(x.copy())
        self.elapsed.append(elapsed)
        y = self._core(x, elapsed)
        self.state[self._held] = 0
        self.states.append(self.state.copy())
        return y


def check_auditable(driver: Driver) -> None:
    """Whether there is a road for this driver here, and its picture is large enough for a comparison of saliency.

    Raises:
        UserError: if it drives anything but CarRacing or the Udacity simulator, or sees too little.
    """
    if driver.config.env not in WHERE or driver.eyes is None:
        raise UserError(f"audits are for drivers of {' and '.join(WHERE)}; this one drives {driver.config.env}.")
    height, width, _ = driver.view.image_shape
    if min(height, width) < WINDOW:
        raise UserError(
            f"audits need a picture of at least {WINDOW} pixels a side; this driver's is {height} × {width}."
        )


def drive_lap(driver: Driver, seed: int, frames: int, held: Sequence[int] = ()) -> AuditedLap:
    """Drives a lap of `FastCarRacing`, or of the stand-in for the Udacity simulator, and keeps all of it.

    Args:
        driver: who drives.
        seed: of the track; of the stand-in, whose road is the lake's, of the place on it where the drive begins.
        frames: environment steps at most.
        held: entries of the core's state that are held at zero.

    Raises:
        UserError: if the driver drives in another environment.
    """
    check_auditable(driver)
    compiled = driver.compile_step()
    core = _Tapped(compiled.core, held)
    compiled.core = cast(CompiledStep, core)
    env = gymnasium.make(WHERE[driver.config.env], disable_env_checker=True)
    rows: list[tuple[np.ndarray, np.ndarray, float, float, float]] = []
    score, steps, lap = 0.0, 0, False
    try:
        observation, _ = env.reset(seed=seed)
        look = _look_at_car(env.unwrapped) if driver.config.env == OFFICIAL else _look_at_stand_in(env.unwrapped)
        compiled.reset()
        ended = False
        while not ended and steps < frames:
            decided = len(core.inputs)
            action = compiled.act(observation)
            if len(core.inputs) > decided:
                rows.append((_camera(observation), compiled.view(observation)[0], float(action[0]), *look()))
            observation, reward, terminated, truncated, info = env.step(action)
            score, steps, ended = score + float(reward), steps + 1, terminated or truncated
            lap = bool(info.get("lap_finished", False))
    finally:
        env.close()
    cameras, images, steering, speed, curvature = zip(*rows, strict=True)
    return AuditedLap(
        seed, score, steps, lap, np.stack(cameras), np.stack(images), np.stack(core.inputs), np.array(core.elapsed),
        np.stack(core.states), np.array(steering), np.array(speed), np.array(curvature),
    )  # fmt: skip


def score_lap(driver: Driver, seed: int, frames: int, held: Sequence[int] = ()) -> float:
    """The score of :func:`drive_lap`."""
    return drive_lap(driver, seed, frames, held).score


def _camera(observation: Any) -> np.ndarray:
    if isinstance(observation, dict):
        return np.array(observation["image"][slice(*UdacityView.crop)])
    return playfield(observation, (84, 96)).copy()


def _look_at_car(racing: Any) -> Callable[[], tuple[float, float]]:
    """Speed and curvature ahead of the car of CarRacing, whenever it is called."""
    track = np.array(racing.track)[:, 1:4]  # heading, x, y
    curvature, spacing = track_curvature(track)
    place = [int(np.hypot(*(track[:, 1:] - tuple(racing.car.hull.position)).T).argmin())]

    def look() -> tuple[float, float]:
        near = (place[0] + np.arange(-12, 13)) % len(track)  # a track may come close to itself elsewhere
        place[0] = int(near[np.hypot(*(track[near, 1:] - tuple(racing.car.hull.position)).T).argmin()])
        speed = math.hypot(*racing.car.hull.linearVelocity)
        return speed, _mean_ahead(curvature, place[0], spacing)

    return look


def _look_at_stand_in(stand_in: Any) -> Callable[[], tuple[float, float]]:
    road = stand_in.road

    def look() -> tuple[float, float]:
        return stand_in.car.speed / MPH, _mean_ahead(-road.curvature / road.spacing, stand_in.nearest, road.spacing)

    return look


def track_curvature(track: np.ndarray) -> tuple[np.ndarray, float]:
    """Curvature of CarRacing's road at each tile.

    Args:
        track: (N, 3) heading (radians, left positive), x and y of each tile of a closed lap.

    Returns:
        (N,) one over track units, right positive, by central differences; and the mean distance of two tiles.
    """
    steps = np.hypot(*np.diff(track[:, 1:], axis=0, append=track[:1, 1:]).T)
    turn = np.roll(track[:, 0], -1) - np.roll(track[:, 0], 1)
    turn = (turn + math.pi) % (2 * math.pi) - math.pi
    return -turn / (steps + np.roll(steps, 1)), float(steps.mean())


def _mean_ahead(curvature: np.ndarray, place: int, spacing: float) -> float:
    ahead = (place + np.arange(max(1, round(AHEAD / spacing)))) % len(curvature)
    return float(curvature[ahead].mean())

"""``liquid_control/UdacityStandIn-v0``: the stand-in as a Gymnasium environment, in this process, without a socket."""

from __future__ import annotations

import functools
import math
from typing import Any

import gymnasium
import numpy as np

from envs.udacity.observation import action_space, observation_space, observe
from envs.udacity.stand_in.camera import CENTER, LEFT, RIGHT, WEATHERS, Camera, Lens
from envs.udacity.stand_in.car import TICK, Car
from envs.udacity.stand_in.road import Road, preset
from envs.udacity.stand_in.scenery import SHOULDER_WIDTH, Scenery, make_scenery
from envs.udacity.vehicle import MPH

SMALLEST_SEED = 100
"""Of random tracks, so that none is a preset's."""


@functools.lru_cache(maxsize=4)
def world(track: str) -> tuple[Road, Scenery]:
    """A road and its land, by name or by seed; making one takes half a second or more, so a few are kept."""
    road = preset(track)
    return road, make_scenery(road, seed=sum(track.encode()))


class UdacityStandIn(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Drive along a road and see what the simulator's camera would see.

    ## Observation Space
    A dictionary: `image` (160, 320, 3) uint8 RGB of the camera in the middle, `speed` (1,) miles an hour, `elapsed`
    (1,) seconds since the last observation.

    ## Action Space
    `[steering, throttle]`, each -1 to 1: steering 1 is 25° to the right, a negative throttle brakes.

    ## Rewards
    Metres of progress along the road; -10 for leaving it.

    ## Starting State
    At rest in the middle of the road, somewhere on the lap.

    ## Episode End
    Terminated when the middle of the car has left the shoulder, or after a lap (`info["lap_finished"]`).

    ## Arguments
    - `track`: `"lake"`, `"mountain"`, a seed as a number, or `"random"`, which is another at every reset.
    - `interval`: (least, most) ticks of 20 ms between two observations; which, is drawn. The simulator's vary too.
    - `weather`: `"clear"`, `"overcast"`, `"fog"` or `"dusk"`.
    - `start_speed`: miles an hour at the start.

    `info` has `cross_track` (metres left of the middle), `heading_error` (radians), `progress` (metres of this episode)
    and `curvature` (1/m, where the car is, positive to the left). `pictures()` gives all three cameras' pictures.

    Example:
        >>> env = gymnasium.make("envs:liquid_control/UdacityStandIn-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation["image"].shape
        (160, 320, 3)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 13}  # noqa: RUF012

    def __init__(
        self,
        track: str = "lake",
        interval: tuple[int, int] = (4, 4),
        weather: str = "clear",
        start_speed: float = 0.0,
        render_mode: str | None = None,
    ):
        if track != "random":
            preset(track)  # says what is wrong with it
        least, most = interval
        if not 1 <= least <= most:
            raise ValueError(f"interval is {interval}, expected (least, most) with 1 <= least <= most.")
        if weather not in WEATHERS:
            raise ValueError(f"unknown weather {weather!r}: expected {', '.join(WEATHERS)}.")
        self.track, self.interval, self.weather = track, (least, most), weather
        self.start_speed, self.render_mode = start_speed, render_mode
        self.observation_space = observation_space()  # type: ignore[assignment]
        self.action_space = action_space()
        self._track = ""

    def _load(self, track: str) -> None:
        if track != self._track:
            self.road, scenery = world(track)
            weather = WEATHERS[self.weather]
            self.cameras = {lens: Camera(scenery, lens, weather) for lens in (CENTER, LEFT, RIGHT)}
            self._track = track

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Puts the car back on the road; `options={"start": share}` says where on the lap, 0 to 1."""
        super().reset(seed=seed)
        random = self.track == "random"
        self._load(str(self.np_random.integers(SMALLEST_SEED, 2**31)) if random else self.track)
        share = (options or {}).get("start", self.np_random.random())
        self.nearest = int(share * len(self.road.points)) % len(self.road.points)
        x, y, _ = self.road.points[self.nearest]
        self.car = Car(float(x), float(y), float(self.road.heading[self.nearest]), self.start_speed * MPH)
        self.progress = 0.0
        self._follow()
        return self._observation(0.0), self._info(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Holds the action for some ticks."""
        self.car.command(float(action[0]), float(action[1]))
        ticks = int(self.np_random.integers(self.interval[0], self.interval[1] + 1))
        before = self.progress
        self.advance(ticks)
        left_road = abs(self.cross_track) > self.road.half_width + SHOULDER_WIDTH
        lap = self.progress >= self.road.length
        reward = self.progress - before - 10.0 * left_road
        return self._observation(ticks * TICK), reward, left_road or lap, False, self._info(lap and not left_road)

    def advance(self, ticks: int) -> None:
        """Lets time pass, 20 ms a tick, without looking."""
        for _ in range(ticks):
            self.car.tick(self.slope, abs(self.cross_track) > self.road.half_width)
            self._follow()

    def _follow(self) -> None:
        """Where on the road the car is now."""
        road, count = self.road, len(self.road.points)
        nearest, self.cross_track = road.locate(self.car.x, self.car.y, self.nearest)
        self.progress += ((nearest - self.nearest + count // 2) % count - count // 2) * road.spacing
        self.nearest = nearest
        ahead = road.points[(nearest + 4) % count, 2] - road.points[(nearest - 4) % count, 2]
        along = self.car.heading - road.heading[nearest]
        self.heading_error = math.remainder(along, 2 * math.pi)
        self.slope = float(ahead) / (8 * road.spacing) * math.cos(along)

    def draw(self, lens: Lens) -> np.ndarray:
        """What a camera sees now, (160, 320, 3) uint8 RGB."""
        car = self.car
        return self.cameras[lens].draw(car.x, car.y, car.heading, math.atan(self.slope)).copy()

    def _observation(self, elapsed: float) -> dict[str, np.ndarray]:
        return observe(self.draw(CENTER), self.car.speed / MPH, elapsed)

    def _info(self, lap: bool) -> dict[str, Any]:
        return {
            "cross_track": self.cross_track,
            "heading_error": self.heading_error,
            "progress": self.progress,
            "curvature": float(self.road.curvature[self.nearest] / self.road.spacing),
            "lap_finished": lap,
        }

    def pictures(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the cameras in the middle, on the left and on the right see now, (160, 320, 3) uint8 RGB each."""
        center, left, right = (self.draw(lens) for lens in (CENTER, LEFT, RIGHT))
        return center, left, right

    def render(self) -> np.ndarray | None:
        """The picture of the camera in the middle, where `render_mode` is `"rgb_array"`."""
        return self.draw(CENTER) if self.render_mode == "rgb_array" else None

"""FastCarRacing: the official CarRacing-v3 with the drawing of the observation replaced, for training."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from Box2D.b2 import contactListener
from gymnasium.envs.box2d.car_racing import FPS, PLAYFIELD, STATE_H, STATE_W, CarRacing
from gymnasium.error import InvalidAction
from gymnasium.utils import EzPickle

from envs.car_racing.canvas import camera_zoom
from envs.car_racing.car import LeanCar
from envs.car_racing.car_picture import draw_car
from envs.car_racing.dashboard import draw_gauges
from envs.car_racing.road_map import RoadMap
from envs.car_racing.track import START_ALPHA, TrackPoint, draw_track, lay_road, tile_shades


class FastCarRacing(CarRacing):
    """CarRacing-v3, many times faster: the same physics, rewards and endings, drawn with OpenCV instead of pygame.

    ## Description
    A top-down racing task learned from pixels. The track is random in every episode. Below the playfield, gauges show
    (from left to right) the true speed, four wheel speeds (ABS sensors), the steering angle and the gyroscope.

    The world is painted once an episode; a frame is one affine warp of that picture, then the car and the gauges. With
    the same seed and actions, rewards, endings and the state of the car are those of the official environment to the
    last bit. The pixels differ by about 0.2 of 255 on average, and the printed score is left out (black).

    The official environment stays the scoreboard; this one is for training. `render()` is the official drawing.

    ## Action Space
    With `continuous=True`, three numbers:
    - 0: steering, -1 is full left, +1 is full right
    - 1: gas, 0 to 1
    - 2: brake, 0 to 1 (0.9 and more blocks the wheels)

    With `continuous=False`, five actions: 0 nothing, 1 steer right, 2 steer left, 3 gas, 4 brake.

    An array of another shape, or one with NaN or infinity, raises `ValueError`; a discrete action outside 0–4 raises
    `gymnasium.error.InvalidAction`.

    ## Observation Space
    (96, 96, 3) uint8, RGB, seen from above with the car heading up: rows 0–83 are the playfield, rows 84–95 the gauges.

    ## Rewards
    -0.1 a frame, and +1000/N for each of the N track tiles when a wheel first touches it: a lap in 732 frames is worth
    1000 - 73.2 = 926.8. Leaving the playfield makes that frame's reward -100.

    ## Starting State
    The car is at rest in the middle of the road.

    ## Episode End
    Terminated when every tile has been visited (`info["lap_finished"]` is True) or when the car leaves the playfield
    (False). `gym.make` adds a limit of 1000 steps, after which the episode is truncated; with `action_repeat=n`, pass
    `max_episode_steps=1000 // n` to keep the official length.

    ## Arguments
    The official ones:
    - `render_mode`: None, `"human"`, `"rgb_array"` or `"state_pixels"`: what `render()` shows, drawn by pygame.
    - `verbose`: print how each track was made.
    - `lap_complete_percent`: see the traps below.
    - `domain_randomize`: new colours of road and field at every reset, unless `reset(options={"randomize": False})`.
    - `continuous`: which action space.

    Added here:
    - `action_repeat`: apply each action for this many frames, or until the episode ends. Rewards are summed and only
      the frame that is returned is drawn.
    - `observe`: False draws nothing and returns the same read-only black frame every time, for work on the physics.

    ## Attributes
    - `visited`: (N,) bool, which tiles a wheel has touched.

    A copy or a pickle is a new environment of the same arguments, which must be reset: Box2D's world cannot be copied.

    ## Known traps of the official environment
    They are kept, since scores are compared on it.
    - `lap_complete_percent` has no effect: a lap is looked for when tile 0 is first visited, and the wheels already
      stand on it at reset. Only a lap with 100 % of the tiles ends the episode.
    - `domain_randomize` changes the track of a seed: colours come from the same generator, before the track.
    - The official environment prints the score into the observation (rows 84–95, columns 0–11), which leaks the return.
      It is black here; `envs.car_racing.observation.blank_score` blanks it in official frames.
    - The first step pays for the tiles that the wheels touch during reset.

    ## Version History
    - v3: follows the official v3 of Gymnasium 1.4.
    """

    def __init__(
        self,
        render_mode: str | None = None,
        verbose: bool = False,
        lap_complete_percent: float = 0.95,
        domain_randomize: bool = False,
        continuous: bool = True,
        action_repeat: int = 1,
        observe: bool = True,
    ):
        if isinstance(action_repeat, bool) or not isinstance(action_repeat, int | np.integer) or action_repeat < 1:
            raise ValueError(f"action_repeat is {action_repeat!r}, but must be a whole number of frames, at least 1")
        super().__init__(render_mode, verbose, lap_complete_percent, domain_randomize, continuous)
        EzPickle.__init__(
            self,
            render_mode,
            verbose,
            lap_complete_percent,
            domain_randomize,
            continuous,
            action_repeat,
            observe,
        )
        self.action_repeat = int(action_repeat)
        self.observe = observe
        # The official class declares these by what it first assigns to them.
        self.car: Any = None
        self.road: Any = None
        self.road_poly: Any = []
        self.track: Any = []
        self.visited = np.zeros(0, bool)
        self._kerbs: list[bool] = []
        self._touched: list[int] = []
        self._road_map = RoadMap() if observe else None
        self._black = np.zeros((STATE_H, STATE_W, 3), np.uint8)
        self._black.flags.writeable = False
        self.contactListener_keepref = TileContacts(self)
        self.world.contactListener = self.contactListener_keepref

    def __getstate__(self) -> dict[str, Any]:
        """The arguments and the spec, from which a copy is made."""
        return super().__getstate__() | {"spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes a copy by its own constructor, where `EzPickle` takes over the attributes of a third environment.

        The contact listener would go on counting the tiles of that one.
        """
        type(self).__init__(self, *state["_ezpickle_args"], **state["_ezpickle_kwargs"])
        self.spec = state["spec"]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode on a new track.

        Args:
            seed: makes colours and track reproducible; None goes on with the generator as it is.
            options: `{"randomize": False}` keeps the colours where `domain_randomize` is on.

        Returns:
            The first observation and an empty dictionary.
        """
        gym.Env.reset(self, seed=seed)
        self._destroy()
        self.reward = 0.0
        self.prev_reward = 0.0
        self.tile_visited_count = 0
        self.t = 0.0
        self.new_lap = False
        self.road_poly = []
        self._touched.clear()
        if self.domain_randomize:
            self._reinit_colors(options.get("randomize", True) if isinstance(options, dict) else True)
        while not self._create_track():
            if self.verbose:
                print("The track does not close: drawing another one.")
        self.car = LeanCar(self.world, *self.track[0][1:])
        if self._road_map is not None:
            self._road_map.paint(self.track, self._kerbs, tile_shades(self.road_color), self.bg_color, self.grass_color)
        if self.render_mode == "human":
            self.render()
        self._advance_physics()
        self.state = self._observation()
        if self.render_mode == "human":
            self.render()
        return self.state, {}

    def step(self, action: np.ndarray | int | None) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Drive for `action_repeat` frames, or until the episode ends.

        Args:
            action: an element of the action space, or None to let the car roll on without reward.

        Returns:
            Observation, summed reward, terminated, truncated (always False) and info.

        Raises:
            ValueError: a continuous action of a wrong shape or with a number that is not finite.
            InvalidAction: a discrete action outside the space.
        """
        assert self.car is not None, "call reset before step"
        total = 0.0
        terminated = False
        info: dict[str, Any] = {}
        if action is None:
            self._advance_physics()
        else:
            steer, gas, brake = self._controls(action)
            for _ in range(self.action_repeat):
                self.car.steer(steer)
                self.car.gas(gas)
                self.car.brake(brake)
                self._advance_physics()
                reward, terminated = self._score(info)
                total += reward
                if terminated:
                    break
                if self.render_mode == "human" and self.action_repeat > 1:
                    self.render()
        self.state = self._observation()
        if self.render_mode == "human":
            self.render()
        return self.state, total, terminated, False, info

    def _controls(self, action: np.ndarray | int) -> tuple[float, float, float]:
        """Steering, gas and brake of an action, as the car takes them (steering positive to the left)."""
        if not self.continuous:
            if not self.action_space.contains(action):
                raise InvalidAction(f"the action is {action!r}, but must be an element of {self.action_space}")
            return -0.6 * (action == 1) + 0.6 * (action == 2), 0.2 * (action == 3), 0.8 * (action == 4)
        if np.shape(action) != (3,):
            raise ValueError(
                f"the action has shape {np.shape(action)}, but must have shape (3,): steering -1..1, gas and brake 0..1"
            )
        steer, gas, brake = map(float, action)  # type: ignore[arg-type]
        if not math.isfinite(steer + gas + brake):
            raise ValueError(f"the action is {[steer, gas, brake]}, but steering, gas and brake must be finite numbers")
        return -steer, gas, brake

    def _advance_physics(self) -> None:
        self.car.step(1.0 / FPS)
        self.world.Step(1.0 / FPS, 6 * 30, 2 * 30)
        self.t += 1.0 / FPS

    def _score(self, info: dict[str, Any]) -> tuple[float, bool]:
        """The reward of the last frame, and whether it ended the episode."""
        self.reward -= 0.1
        self.car.fuel_spent = 0.0
        reward = self.reward - self.prev_reward
        self.prev_reward = self.reward
        terminated = False
        if self.tile_visited_count == len(self.track) or self.new_lap:
            terminated = True
            info["lap_finished"] = True
        position = self.car.hull.position
        if abs(position.x) > PLAYFIELD or abs(position.y) > PLAYFIELD:
            terminated = True
            info["lap_finished"] = False
            reward = -100
        return reward, terminated

    def _observation(self) -> np.ndarray:
        if self._road_map is None:
            return self._black
        frame = np.empty((STATE_H, STATE_W, 3), np.uint8)
        if self._touched:
            for i in self._touched:
                self._road_map.recolour_tile(i, self.road_color, all_levels=self.t <= 1)
            self._touched.clear()
        hull = self.car.hull
        position = hull.position
        zoom = camera_zoom(self.t)
        self._road_map.photograph(position.x, position.y, hull.angle, zoom, frame)
        draw_car(self.car, zoom, frame)
        draw_gauges(self.car, frame)
        return frame

    def _create_track(self) -> bool:
        self.start_alpha = START_ALPHA
        self.road = []
        track = draw_track(self.np_random)
        if track is None:
            return False
        if self.verbose:
            print(f"Track generation: {len(track)} tiles")
        self.lay_road(track)
        return True

    def lay_road(self, track: list[TrackPoint]) -> None:
        """Lay the tiles and kerbs of a track: the road of the episode.

        Args:
            track: N points.
        """
        self._kerbs = lay_road(self, track)
        self.visited = np.zeros(len(track), bool)


class TileContacts(contactListener):
    """Counts visited tiles and keeps the tiles under each wheel, as the official `FrictionDetector` does.

    Args:
        env: the environment whose tiles and wheels touch.
    """

    def __init__(self, env: FastCarRacing):
        super().__init__()
        self.env = env

    def BeginContact(self, contact: Any) -> None:
        """A tile and a part of the car begin to overlap."""
        tile, wheel = _tile_and_wheel(contact)
        env = self.env
        if not tile.touched:
            tile.touched = True
            tile.color[:] = env.road_color
            env._touched.append(tile.idx)
        if wheel is None:
            return
        wheel.tiles.add(tile)
        if not tile.road_visited:
            tile.road_visited = True
            env.visited[tile.idx] = True
            env.reward += 1000.0 / len(env.track)
            env.tile_visited_count += 1
            if tile.idx == 0 and env.tile_visited_count / len(env.track) > env.lap_complete_percent:
                env.new_lap = True

    def EndContact(self, contact: Any) -> None:
        """They part."""
        tile, wheel = _tile_and_wheel(contact)
        if wheel is not None:
            wheel.tiles.remove(tile)


def _tile_and_wheel(contact: Any) -> tuple[Any, Any]:
    """The bodies in contact; the second is None where the hull, not a wheel, touches the tile.

    Nothing else can meet: the parts of a car are joined and so never collide with each other.
    """
    first = contact.fixtureA.body.userData
    second = contact.fixtureB.body.userData
    if first is None or not hasattr(first, "road_friction"):
        return second, first
    return first, second

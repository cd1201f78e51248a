"""What all shifts share: a severity, a generator of their own, and how a picture of a known geometry is changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple
from zlib import crc32

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d.car_racing import STATE_H, STATE_W, CarRacing
from gymnasium.utils import RecordConstructorArgs

from envs.car_racing.canvas import (
    CAR_X,
    CAR_Y,
    COLUMN,
    FULL_ZOOM,
    PLAYFIELD_ROWS,
    ROW,
    Colour,
    camera_zoom,
    shrunk_colour,
)
from envs.udacity.observation import HEIGHT, WIDTH
from envs.udacity.stand_in.camera import CENTER
from envs.udacity.vehicle import MPH
from liquid_control.support.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
CAR_RACING, UDACITY = "CarRacing", "Udacity"
"""Which environments a shift is for: either CarRacing, official or fast, and whatever shows the simulator's camera."""
BOTH = (CAR_RACING, UDACITY)
ROAD_COLOUR, FIELD_COLOUR, GRASS_COLOUR = (102, 102, 102), (102, 204, 102), (102, 230, 102)
"""CarRacing's own, of the road, of the field and of its lighter squares."""


def own_generator(seed: int, name: str, severity: int) -> np.random.Generator:
    """The generator of a shift in an episode; none of its numbers come from the environment's generator."""
    return np.random.default_rng([seed, crc32(name.encode()), severity])


class Pose(NamedTuple):
    """Where a car is: in world units of CarRacing, or in metres."""

    x: float = 0.0
    y: float = 0.0
    heading: float = math.pi / 2
    """Radians from the x axis, anticlockwise."""
    zoom: float = FULL_ZOOM
    """Of CarRacing's camera: canvas pixels a world unit."""


@dataclass(frozen=True)
class Scene:
    """How a picture shows the world: from above, or ahead over a level road.

    Lengths in pixels are stated for CarRacing's 84 rows everywhere, and multiplied by :attr:`scale`.
    """

    kind: Literal["above", "ahead"]
    rows: int
    """Of the view; the rows below it, CarRacing's gauges, belong to no camera."""
    columns: int
    field: tuple[Colour, Colour] = (shrunk_colour(FIELD_COLOUR), shrunk_colour(GRASS_COLOUR))
    """Colours of CarRacing's field and of its lighter squares, as the picture shows them."""

    @property
    def scale(self) -> float:
        """Pixels that are one of CarRacing's."""
        return self.rows / PLAYFIELD_ROWS

    @property
    def first_ground_row(self) -> int:
        """The row below which nothing but ground is seen, on a level road."""
        return 0 if self.kind == "above" else math.ceil(CENTER.horizon) + 2

    def ground(self, zoom: float = FULL_ZOOM) -> np.ndarray:
        """(3, 3): takes (column, row, 1) to homogeneous (right of the car, ahead of it, 1), world units or metres."""
        if self.kind == "above":
            across, along = COLUMN / zoom, ROW / zoom
            return np.array(
                [[across, 0, 0.5 * across - CAR_X / zoom], [0, -along, CAR_Y / zoom - 0.5 * along], [0, 0, 1]]
            )
        up, focal = CENTER.up, CENTER.focal
        return np.array([[up, 0, up * (0.5 - self.columns / 2)], [0, 0, focal * up], [0, 1, 0.5 - CENTER.horizon]])

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """How far right of the car and ahead of it the ground is, (rows, columns) each; infinite above the horizon."""
        row, column = np.mgrid[: self.rows, : self.columns].astype(float)
        right, ahead, share = np.tensordot(self.ground(), np.stack([column, row, np.ones_like(row)]), 1)
        below = share > 1e-6
        share = np.where(below, share, 1.0)
        return np.where(below, right / share, np.inf), np.where(below, ahead / share, np.inf)


FROM_ABOVE = Scene("above", PLAYFIELD_ROWS, STATE_W)
AHEAD = Scene("ahead", HEIGHT, WIDTH)


def scene_of(shape: tuple[int, ...]) -> Scene:
    """What a picture of this shape shows.

    Raises:
        UserError: if no environment shows such pictures.
    """
    if shape == (STATE_H, STATE_W, 3):
        return FROM_ABOVE
    if shape == (HEIGHT, WIDTH, 3):
        return AHEAD
    raise UserError(
        f"a picture has the shape {shape}, but shifts know those of CarRacing, {(STATE_H, STATE_W, 3)}, and of the "
        f"Udacity simulator, {(HEIGHT, WIDTH, 3)}."
    )


def environment_of(env: gymnasium.Env) -> str | None:
    """:data:`CAR_RACING`, :data:`UDACITY`, or None where it is neither."""
    if isinstance(env.unwrapped, CarRacing):
        return CAR_RACING
    space = env.observation_space
    if isinstance(space, spaces.Dict) and "image" in space.spaces and space["image"].shape == (HEIGHT, WIDTH, 3):
        return UDACITY
    return None


class Ground:
    """Samples a texture that lies on the ground, so that it moves under the camera as the car drives.

    Args:
        scene: what the camera shows.
        side: pixels of the square texture, after which it begins again.
        period: world units or metres that are a side.
    """

    def __init__(self, scene: Scene, side: int, period: float):
        self.scene, self.side, self.period = scene, side, period
        self._resolution = side / period
        self._camera, self._zoom = scene.ground(), FULL_ZOOM

    def sample(self, texture: np.ndarray, pose: Pose | None, turned: float = 0.0) -> np.ndarray:
        """What of a texture is seen: (rows - first_ground_row, columns, …), the rows that show ground.

        Args:
            texture: (side, side) or (side, side, 3), tileable.
            pose: of the car; None is a car that stands.
            turned: angle by which the texture is turned in the world (radians).
        """
        x, y, heading, zoom = pose or Pose()
        if zoom != self._zoom:
            self._camera, self._zoom = self.scene.ground(zoom), zoom
        c, s = math.cos(turned), math.sin(turned)
        x, y, heading = c * x + s * y, c * y - s * x, heading - turned
        c, s = math.cos(heading), math.sin(heading)
        # Whole periods are left out: OpenCV keeps coordinates in 16 bits.
        place = np.array([[s, c, x % self.period], [-c, s, y % self.period], [0, 0, 1]])
        place[:2] *= self._resolution
        scene, first = self.scene, self.scene.first_ground_row
        matrix = place @ self._camera
        matrix[:, 2] += matrix[:, 1] * first
        size, flags = (scene.columns, scene.rows - first), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if scene.kind == "above":
            return cv2.warpAffine(texture, matrix[:2], size, flags=flags, borderMode=cv2.BORDER_WRAP)
        return cv2.warpPerspective(texture, matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP)


class PictureShift:
    """A shift that is a function of pictures, one after the other.

    Attributes:
        name: how it is written.
        environments: what it is for.
        touches_gauges: whether it changes CarRacing's rows 84–95.
        levels: what stands for the severities 1 to 5.

    Args:
        severity: 1 to 5.
    """

    name: ClassVar[str]
    environments: ClassVar[tuple[str, ...]] = BOTH
    touches_gauges: ClassVar[bool] = False
    levels: ClassVar[tuple[Any, ...]]

    def __init__(self, severity: int):
        self.severity, self.level = severity, self.levels[severity - 1]
        self.scene, self.rng = FROM_ABOVE, np.random.default_rng()

    def begin(self, rng: np.random.Generator, scene: Scene) -> None:
        """Begins an episode: draws what stays the same in it, and prepares tables for its pictures."""
        self.rng, self.scene = rng, scene
        self._prepare()

    def _prepare(self) -> None:
        """Draws what stays the same over an episode, from ``self.rng``."""

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        """The view as it is seen now.

        Args:
            view: (rows, columns, 3) uint8, not to be written into.
            pose: of the car; None where it is not known.

        Returns:
            (rows, columns, 3) uint8, a new array.
        """
        raise NotImplementedError

    def __call__(self, picture: np.ndarray, pose: Pose | None = None) -> np.ndarray:
        """The picture as it is seen now, a new array; CarRacing's gauges as they are.

        Args:
            picture: (96, 96, 3) or (160, 320, 3) uint8, of the scene that `begin` was told.
            pose: of the car; None where it is not known: then the world stands still.
        """
        rows = self.scene.rows
        changed = self._change(picture[:rows], pose)
        if rows == len(picture):
            return changed
        result = picture.copy()
        result[:rows] = changed
        return result


class ShiftWrapper(gymnasium.Wrapper, RecordConstructorArgs):
    """A shift of something else than pictures.

    Attributes:
        name: how it is written.
        environments: what it is for.
        touches_gauges: whether it changes CarRacing's rows 84–95.
        levels: what stands for the severities 1 to 5.

    Args:
        env: an environment.
        severity: 1 to 5.
    """

    name: ClassVar[str]
    environments: ClassVar[tuple[str, ...]] = BOTH
    touches_gauges: ClassVar[bool] = False
    levels: ClassVar[tuple[Any, ...]]

    def __init__(self, env: gymnasium.Env, severity: int):
        RecordConstructorArgs.__init__(self, severity=severity)
        gymnasium.Wrapper.__init__(self, env)
        self.severity, self.level = severity, self.levels[severity - 1]
        self.rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; ``seed`` settles what the shift draws, None goes on with its generator."""
        self._seed_generator(seed)
        return self.env.reset(seed=seed, options=options)

    def _seed_generator(self, seed: int | None) -> None:
        if seed is not None:
            self.rng = own_generator(seed, self.name, self.severity)


class ShiftedPictures(gymnasium.Wrapper, RecordConstructorArgs):
    """Shows the pictures of an environment as a :class:`PictureShift` makes them, moving as the car moves.

    ## Observation Space
    That of the environment; of a dictionary, only ``image`` is changed.

    ## Rewards
    Those of the environment. So are its physics, its tracks and its endings.

    ## Arguments
    - `env`: CarRacing, official or fast, or an environment of the Udacity simulator.
    - `kind`: the shift.
    - `severity`: 1 to 5.

    CarRacing and the stand-in tell where their car is. The live simulator tells its speed alone: there the world moves
    as if the car drove straight on.
    """

    def __init__(self, env: gymnasium.Env, kind: type[PictureShift], severity: int):
        RecordConstructorArgs.__init__(self, kind=kind, severity=severity)
        gymnasium.Wrapper.__init__(self, env)
        self.shift = kind(severity)
        self.rng = np.random.default_rng()
        self._way = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; ``seed`` settles what the shift draws, None goes on with its generator."""
        if seed is not None:
            self.rng = own_generator(seed, self.shift.name, self.shift.severity)
        observation, info = self.env.reset(seed=seed, options=options)
        self._way = 0.0
        self.shift.begin(self.rng, self._scene(observation))
        return self._shown(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._shown(observation), reward, terminated, truncated, info

    def _scene(self, observation: Any) -> Scene:
        inside = self.env.unwrapped
        if isinstance(inside, CarRacing):
            colours: Any = inside
            field = shrunk_colour(colours.bg_color), shrunk_colour(colours.grass_color)
            return replace(FROM_ABOVE, field=field)
        return scene_of(observation["image"].shape)

    def _shown(self, observation: Any) -> Any:
        pose = self._pose(observation)
        if isinstance(observation, dict):
            return observation | {"image": self.shift(observation["image"], pose)}
        return self.shift(observation, pose)

    def _pose(self, observation: Any) -> Pose:
        inside: Any = self.env.unwrapped
        if isinstance(inside, CarRacing):
            assert inside.car is not None
            hull = inside.car.hull
            return Pose(hull.position.x, hull.position.y, hull.angle + math.pi / 2, camera_zoom(inside.t))
        car = getattr(inside, "car", None)
        if car is not None:
            return Pose(car.x, car.y, car.heading)
        self._way += float(observation["speed"][0]) * MPH * float(observation["elapsed"][0])
        return Pose(0.0, self._way)

"""Views: what a driver takes of the raw observation of its environment. Training and driving use the same object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from gymnasium import spaces

from envs.car_racing.observation import GAUGES, playfield, read_gauges
from envs.registration import OFFICIAL, STAND_IN, UDACITY
from envs.udacity.vehicle import LARGEST_GAP, NOMINAL_INTERVAL
from liquid_control.support.errors import UserError, nearest


class _Array:
    """Observations that are one array, come one environment step after the other and don't tell the time."""

    observation_shape: tuple[int, ...]
    hold: float | None = None
    cruises = False
    scoreboard: str | None = None

    def shown_by(self, space: spaces.Space[Any]) -> bool:
        """Whether an environment of this observation space shows what the driver looks at."""
        return space.shape == self.observation_shape

    def elapsed(self, observation: Any) -> float:
        """Environment steps since the observation before."""
        return 1.0


class CarRacingView(_Array):
    """The playfield, resized, and the seven gauges read from the pixel bars, scaled to about unit size.

    The printed score is never part of it.

    Args:
        size: (height, width) of the playfield that the eyes get.
    """

    default_size = (28, 32)
    observation_shape = (96, 96, 3)
    choices = 0
    controls = ("steer", "gas", "brake")
    low, high = (-1.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    gauges = GAUGES
    #: speed 0–100 units/s, wheels 0–200 rad/s, steering ±0.42 rad, gyro about ±3 rad/s
    gauge_scale = np.array([1 / 50, 1 / 100, 1 / 100, 1 / 100, 1 / 100, 2.5, 0.5], np.float32)

    def __init__(self, size: Sequence[int] = default_size):
        self.size = (int(size[0]), int(size[1]))
        self.image_shape = (*self.size, 3)

    def __call__(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A raw (96, 96, 3) uint8 frame -> image (height, width, 3) uint8 and gauges (7,) float32.

        Raises:
            ValueError: if the observation has another shape or dtype.
        """
        if getattr(observation, "shape", None) != self.observation_shape or observation.dtype != np.uint8:
            given = f"{getattr(observation, 'dtype', type(observation).__name__)} {getattr(observation, 'shape', '')}"
            raise ValueError(f"a CarRacing observation is uint8 {self.observation_shape}, not {given}.")
        return playfield(observation, self.size), read_gauges(observation) * self.gauge_scale


class UdacityView:
    """The land ahead: what lies between the sky and the bonnet in the camera's picture, resized. There are no gauges.

    Speed is left out on purpose. In recordings it reveals how the human took the bend; when driving it is just the
    speed that was asked for.

    Args:
        size: (height, width) of the image that the eyes get.
    """

    default_size = (25, 97)  # of the form 8 n + 1, which three strided convolutions of 5, 3, 3 see to the last pixel
    observation_shape = (160, 320, 3)
    #: Rows of the camera's picture between which the driver looks.
    crop = (60, 136)
    #: Seconds of the driver's step, the unit of its elapsed time.
    interval = NOMINAL_INTERVAL
    #: Steps that an action lasts at least: recordings and the stand-in show a picture every 60 to 120 ms.
    hold: float | None = 0.75
    #: Whether it has no pedal, so that a controller outside the network keeps the speed.
    cruises = True
    #: The environment that its drivers are judged in, where that is not their own.
    scoreboard: str | None = STAND_IN
    choices = 0
    controls = ("steer",)
    low, high = (-1.0,), (1.0,)
    gauges = ()
    _nothing = np.empty(0, np.float32)

    def __init__(self, size: Sequence[int] = default_size):
        self.size = (int(size[0]), int(size[1]))
        self.image_shape = (*self.size, 3)

    def __call__(self, observation: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """An observation of the simulator -> image (height, width, 3) uint8 RGB and no gauges (0,) float32.

        Raises:
            ValueError: if its image has another shape or dtype.
        """
        return self.see(observation["image"]), self._nothing

    def see(self, picture: np.ndarray) -> np.ndarray:
        """A picture of any of the car's cameras (160, 320, 3) uint8 RGB -> (height, width, 3) uint8 RGB."""
        if picture.shape != self.observation_shape or picture.dtype != np.uint8:
            raise ValueError(
                f"a picture of the simulator is uint8 {self.observation_shape}, not {picture.dtype} {picture.shape}."
            )
        top, bottom = self.crop
        return cv2.resize(picture[top:bottom], self.size[::-1], interpolation=cv2.INTER_AREA)

    def shown_by(self, space: spaces.Space[Any]) -> bool:
        """Whether an environment of this observation space shows what the driver looks at."""
        return isinstance(space, spaces.Dict) and {"image", "speed", "elapsed"} <= set(space)

    def elapsed(self, observation: Mapping[str, np.ndarray]) -> float:
        """Steps of :attr:`interval` seconds since the observation before; 1 where none was before.

        A pause is at most as long as the longest in what is learned from, a second.
        """
        seconds = min(float(observation["elapsed"][0]), LARGEST_GAP)
        return seconds / self.interval if seconds > 0 else 1.0


class VectorView(_Array):
    """The components of a vector observation that the driver sees, as gauges; there is no image.

    Args:
        size: components of an observation.
        observed: the places of those that are seen; empty for all.
        low: least value of each control, empty where there are ``choices``.
        high: greatest value of each control, empty where there are ``choices``.
        choices: number of actions to choose from, or 0 for controls.
    """

    image_shape = (0, 0, 3)
    _nothing = np.empty(image_shape, np.uint8)

    def __init__(
        self,
        size: int,
        observed: Sequence[int] = (),
        low: Sequence[float] = (),
        high: Sequence[float] = (),
        choices: int = 0,
    ):
        self.observation_shape: tuple[int, ...] = (size,)
        self.low, self.high, self.choices = tuple(low), tuple(high), choices
        places = list(observed) or list(range(size))
        self._places = np.array(places)
        self.gauges = tuple(f"observation_{place}" for place in places)
        self.controls = tuple(f"{'choice' if choices else 'control'}_{index}" for index in range(choices or len(low)))

    def __call__(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A raw observation (size,) -> an empty image and the seen components float32.

        Raises:
            ValueError: if the observation has another shape.
        """
        if np.shape(observation) != self.observation_shape:
            raise ValueError(f"the observation has shape {np.shape(observation)}, expected {self.observation_shape}.")
        return self._nothing, np.asarray(observation, np.float32)[self._places]


View = CarRacingView | UdacityView | VectorView
VIEWS: dict[str, type[CarRacingView] | type[UdacityView]] = {OFFICIAL: CarRacingView, UDACITY: UdacityView}


def build_view(env: str, size: Sequence[int], vector: Mapping[str, Any] | None = None) -> View:
    """The view of an environment.

    Args:
        env: an id of :data:`VIEWS`, or any other with ``vector``.
        size: (height, width) of the image, where there is one.
        vector: arguments of :class:`VectorView`.
    """
    if vector is not None:
        return VectorView(**vector)
    if env not in VIEWS:
        raise UserError(f"no driver can see the environment {env!r} yet: {nearest(env, VIEWS)}")
    return VIEWS[env](size)

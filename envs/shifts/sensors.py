"""CarRacing's gauges go wrong: they are read off the picture and drawn again, so that what is read is what is meant.

The playfield and the printed score of the official environment are left alone. A gauge that is still right reads the
same number as before.
"""

from __future__ import annotations

import numpy as np

from envs.car_racing.dashboard import draw_values
from envs.car_racing.observation import GAUGES, GAUGES_HIGH, GAUGES_LOW, read_gauges
from envs.shifts.base import CAR_RACING, PictureShift, Pose


class _Gauges(PictureShift):
    """Changes the numbers that the gauges show."""

    environments = (CAR_RACING,)
    touches_gauges = True

    def __call__(self, picture: np.ndarray, pose: Pose | None = None) -> np.ndarray:
        """The picture with other gauges, a new array.

        Args:
            picture: (96, 96, 3) uint8.
            pose: of the car, which changes nothing here.
        """
        values = self._wrong(read_gauges(picture))
        result = picture.copy()
        draw_values(np.clip(values, GAUGES_LOW, GAUGES_HIGH).tolist(), result)
        return result

    def _wrong(self, values: np.ndarray) -> np.ndarray:
        """What the gauges show instead: (7,), in the order of `envs.car_racing.observation.GAUGES`."""
        raise NotImplementedError


class GaugesNoisy(_Gauges):
    """Every gauge shows its number and normal noise, fresh in each frame.

    The unit of the noise is 100 world units/s for the speed, 200 rad/s for a wheel, 0.4 rad for the steering and
    4 rad/s for the yaw rate. A negative speed is shown as none.

    ## Arguments
    - `severity`: standard deviations of 0.03, 0.06, 0.1, 0.2, 0.4 of the unit.
    """

    name = "gauges_noisy"
    levels = (0.03, 0.06, 0.1, 0.2, 0.4)
    UNITS = np.array([100, 200, 200, 200, 200, 0.4, 4])

    def _wrong(self, values: np.ndarray) -> np.ndarray:
        return values + self.level * self.UNITS * self.rng.standard_normal(len(GAUGES))


class GaugesStuck(_Gauges):
    """Some gauges stick: from a frame on that is drawn between 20 and 100, they show what they showed then.

    Which stick is drawn for an episode.

    ## Arguments
    - `severity`: 1, 2, 3, 5, 7 of the seven gauges.
    """

    name = "gauges_stuck"
    levels = (1, 2, 3, 5, 7)

    def _prepare(self) -> None:
        self._stuck = self.rng.permutation(len(GAUGES))[: self.level]
        self._left = int(self.rng.integers(20, 101))
        self._shown = np.zeros(len(GAUGES), np.float32)

    def _wrong(self, values: np.ndarray) -> np.ndarray:
        if self._left > 0:
            self._left -= 1
            self._shown = values
            return values
        values[self._stuck] = self._shown[self._stuck]
        return values


class GaugesDead(_Gauges):
    """Some gauges are dead and show nothing, which reads as 0; which, is drawn for an episode.

    ## Arguments
    - `severity`: 1, 2, 4, 6, 7 of the seven gauges: at 5, all of them.
    """

    name = "gauges_dead"
    levels = (1, 2, 4, 6, 7)

    def _prepare(self) -> None:
        self._dead = self.rng.permutation(len(GAUGES))[: self.level]

    def _wrong(self, values: np.ndarray) -> np.ndarray:
        values[self._dead] = 0
        return values


SENSORS: tuple[type[PictureShift], ...] = (GaugesNoisy, GaugesStuck, GaugesDead)

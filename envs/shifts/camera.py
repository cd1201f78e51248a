"""What a camera does to its pictures: noise, blur, exposure, compression, dirt, dead rows, a mount that has slipped.

The kinds and most of the strengths follow ImageNet-C (Hendrycks and Dietterich, 2019); the code is our own. What is
drawn holds for an episode, except for noise. CarRacing's gauges are left alone: they are no picture of a camera.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from envs.shifts.base import PictureShift, Pose

NOISE = 1 << 18
"""Normal numbers of an episode; each picture takes a stretch of them."""


class GaussianNoise(PictureShift):
    """Normal noise in every pixel and channel, fresh in each picture.

    ## Arguments
    - `severity`: standard deviations of 0.08, 0.12, 0.18, 0.26, 0.38 of the full range (ImageNet-C's).
    """

    name = "gaussian"
    levels = (0.08, 0.12, 0.18, 0.26, 0.38)

    def _prepare(self) -> None:
        self._noise = (self.rng.standard_normal(NOISE, np.float32) * (255 * self.level)).astype(np.int16)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        begin = int(self.rng.integers(NOISE - view.size))
        return cv2.add(view, self._noise[begin : begin + view.size].reshape(view.shape), dtype=cv2.CV_8U)


class ShotNoise(PictureShift):
    """The noise of few photons: its variance grows with the light, fresh in each picture.

    A Poisson number of mean c·x for light x in [0, 1], divided by c, is approximated by a normal one.

    ## Arguments
    - `severity`: c of 60, 25, 12, 5, 3 (ImageNet-C's).
    """

    name = "shot"
    levels = (60, 25, 12, 5, 3)

    def _prepare(self) -> None:
        self._noise = self.rng.standard_normal(NOISE, np.float32)
        self._spread = (255 * np.sqrt(np.arange(256) / 255 / self.level)).astype(np.float32)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        begin = int(self.rng.integers(NOISE - view.size))
        noise = self._spread[view] * self._noise[begin : begin + view.size].reshape(view.shape)
        return cv2.add(view, noise, dtype=cv2.CV_8U)


class ImpulseNoise(PictureShift):
    """Salt and pepper in every channel, fresh in each picture.

    ## Arguments
    - `severity`: shares of 0.03, 0.06, 0.09, 0.17, 0.27 of the values (ImageNet-C's), half of them 0, half 255.
    """

    name = "impulse"
    levels = (0.03, 0.06, 0.09, 0.17, 0.27)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        half = round(self.level / 2 * 65536)
        draws = self.rng.integers(0, 65536, view.shape, np.uint16)
        # Only the last half of the draws is salt.
        salt = np.multiply(draws >= 65536 - half, 255, dtype=np.uint8)
        return np.where(draws < half, np.uint8(0), view | salt)


class Defocus(PictureShift):
    """A lens out of focus: each point becomes a disk.

    ## Arguments
    - `severity`: radii of 1, 1.5, 2, 3, 4 pixels (at 84 rows).
    """

    name = "defocus"
    levels = (1.0, 1.5, 2.0, 3.0, 4.0)

    def _prepare(self) -> None:
        radius = self.level * self.scene.scale
        half = math.ceil(radius)
        # Each pixel's share of the disk, from 8 × 8 points in it.
        at = (np.arange((2 * half + 1) * 8) + 0.5) / 8 - half - 0.5
        inside = at[:, None] ** 2 + at**2 <= radius**2
        kernel = inside.reshape(2 * half + 1, 8, 2 * half + 1, 8).mean((1, 3))
        self._kernel = (kernel / kernel.sum()).astype(np.float32)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.filter2D(view, -1, self._kernel)


class MotionBlur(PictureShift):
    """A camera that shakes along a line during the exposure.

    ## Arguments
    - `severity`: lines of 3, 5, 7, 10, 14 pixels (at 84 rows). Their direction is drawn for an episode.
    """

    name = "motion"
    levels = (3.0, 5.0, 7.0, 10.0, 14.0)

    def _prepare(self) -> None:
        angle = self.rng.uniform(0, math.pi)
        half = self.level * self.scene.scale / 2
        side = 2 * math.ceil(half) + 3
        along = np.linspace(-half, half, 200)
        columns, rows = side // 2 + along * math.cos(angle), side // 2 + along * math.sin(angle)
        kernel = np.zeros((side, side))
        left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
        right_share, low_share = columns - left, rows - top
        for down, row_share in ((0, 1 - low_share), (1, low_share)):
            for aside, column_share in ((0, 1 - right_share), (1, right_share)):
                np.add.at(kernel, (top + down, left + aside), row_share * column_share)
        self._kernel = (kernel / kernel.sum()).astype(np.float32)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.filter2D(view, -1, self._kernel)


class ZoomBlur(PictureShift):
    """A lens that zooms during the exposure: the mean of six pictures, enlarged about the middle of the view.

    ## Arguments
    - `severity`: the largest enlargement, 1.06, 1.11, 1.16, 1.21, 1.31.
    """

    name = "zoom"
    levels = (1.06, 1.11, 1.16, 1.21, 1.31)

    def _prepare(self) -> None:
        middle = (self.scene.columns - 1) / 2, (self.scene.rows - 1) / 2
        self._matrices = [cv2.getRotationMatrix2D(middle, 0, zoom) for zoom in np.linspace(1, self.level, 6)[1:]]
        self._sum = np.empty((self.scene.rows, self.scene.columns, 3), np.float32)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        total = self._sum
        total[:] = view
        for matrix in self._matrices:
            cv2.accumulate(cv2.warpAffine(view, matrix, view.shape[1::-1], borderMode=cv2.BORDER_REPLICATE), total)
        return cv2.convertScaleAbs(total, alpha=1 / 6)


class _Levels(PictureShift):
    """A shift that is a table of 256 levels."""

    _table: np.ndarray

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.LUT(view, self._table)


class Brightness(_Levels):
    """Overexposed: a constant is added to every channel.

    ## Arguments
    - `severity`: 0.1, 0.2, 0.3, 0.4, 0.5 of the full range (ImageNet-C's).
    """

    name = "brightness"
    levels = (0.1, 0.2, 0.3, 0.4, 0.5)

    def _prepare(self) -> None:
        self._table = np.clip(np.arange(256) + 255 * self.level, 0, 255).astype(np.uint8)


class Dark(_Levels):
    """Underexposed: every channel is multiplied by less than one.

    ## Arguments
    - `severity`: factors of 0.8, 0.65, 0.5, 0.35, 0.2.
    """

    name = "dark"
    levels = (0.8, 0.65, 0.5, 0.35, 0.2)

    def _prepare(self) -> None:
        self._table = np.rint(np.arange(256) * self.level).astype(np.uint8)


class Contrast(PictureShift):
    """Flat: every channel moves towards the mean of its view.

    ## Arguments
    - `severity`: shares of 0.75, 0.55, 0.4, 0.25, 0.12 of the distance to the mean that are left.
    """

    name = "contrast"
    levels = (0.75, 0.55, 0.4, 0.25, 0.12)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        mean = np.array(cv2.mean(view)[:3])
        table = np.rint(np.arange(256)[:, None] * self.level + mean * (1 - self.level)).astype(np.uint8)
        return cv2.LUT(view, table[None])


class Saturation(PictureShift):
    """Colours fade to grey of the same luma.

    ## Arguments
    - `severity`: 0.2, 0.4, 0.6, 0.8, 1 of the way.
    """

    name = "saturation"
    levels = (0.2, 0.4, 0.6, 0.8, 1.0)

    def _prepare(self) -> None:
        grey = np.tile([0.299, 0.587, 0.114], (3, 1))
        self._matrix = (np.eye(3) * (1 - self.level) + grey * self.level).astype(np.float32)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.transform(view, self._matrix)


class Jpeg(PictureShift):
    """Strongly compressed JPEG.

    ## Arguments
    - `severity`: qualities of 25, 17, 10, 6, 3.
    """

    name = "jpeg"
    levels = (25, 17, 10, 6, 3)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        _, data = cv2.imencode(".jpg", cv2.cvtColor(view, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, self.level])
        decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


class Pixelate(PictureShift):
    """Few large pixels.

    ## Arguments
    - `severity`: 0.5, 0.4, 0.32, 0.25, 0.18 of the rows and columns are left.
    """

    name = "pixelate"
    levels = (0.5, 0.4, 0.32, 0.25, 0.18)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        rows, columns = view.shape[:2]
        small = cv2.resize(view, (round(columns * self.level), round(rows * self.level)), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_NEAREST)


class _Occlusion(PictureShift):
    """Something of one colour sticks to the lens: a square in one place."""

    def _middle(self, side: float) -> tuple[float, float]:
        raise NotImplementedError

    def _prepare(self) -> None:
        side = self.level * self.scene.scale
        column, row = self._middle(side)
        self._colour = self.rng.integers(0, 256, 3, np.uint8)
        self._rows = slice(max(round(row - side / 2), 0), round(row + side / 2))
        self._columns = slice(max(round(column - side / 2), 0), round(column + side / 2))

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        result = view.copy()
        result[self._rows, self._columns] = self._colour
        return result


class OcclusionNear(_Occlusion):
    """A square of dirt close to the car, in one place and colour for an episode.

    In CarRacing it begins 3 pixels from the car's own box (rows 66–76, columns 45–50), up to 100° to either side of
    straight ahead, and never covers the car. In the simulator's camera its middle is around row 118, on the road in
    front of the hood.

    ## Arguments
    - `severity`: sides of 4, 7, 10, 14, 18 pixels (at 84 rows).
    """

    name = "occlusion_near"
    levels = (4, 7, 10, 14, 18)

    def _middle(self, side: float) -> tuple[float, float]:
        angle = self.rng.uniform(-math.radians(100), math.radians(100))
        if self.scene.kind == "ahead":
            return self.scene.columns / 2 + 80 * math.sin(angle), 118.0
        sine, cosine = math.sin(angle), math.cos(angle)
        # The least distance at which the square is 3 pixels from the box, in one direction or the other.
        away = min((3 + 3 + side / 2) / max(abs(sine), 1e-6), (5.5 + 3 + side / 2) / max(abs(cosine), 1e-6))
        return 48 + away * sine, 71.5 - away * cosine


class OcclusionFar(_Occlusion):
    """A square of dirt far from the car, in one place and colour for an episode.

    In CarRacing its middle is in rows 4–20, columns 8–88: at least 30 rows ahead of the car. In the simulator's camera
    it is within 15 rows of the horizon.

    ## Arguments
    - `severity`: sides of 6, 10, 16, 22, 28 pixels (at 84 rows).
    """

    name = "occlusion_far"
    levels = (6, 10, 16, 22, 28)

    def _middle(self, side: float) -> tuple[float, float]:
        across, down = self.rng.random(2)
        if self.scene.kind == "ahead":
            return 30 + 260 * across, 47 + 30 * down
        return 8 + 80 * across, 4 + 16 * down


class DeadRows(PictureShift):
    """Rows of the sensor that are black, the same ones for an episode.

    ## Arguments
    - `severity`: 2, 5, 9, 15, 24 of 84 rows.
    """

    name = "dead_rows"
    levels = (2, 5, 9, 15, 24)

    def _prepare(self) -> None:
        self._rows = self.rng.permutation(self.scene.rows)[: round(self.level * self.scene.scale)]

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        result = view.copy()
        result[self._rows] = 0
        return result


class _Mount(PictureShift):
    """The camera sits elsewhere; what it does not see repeats the rim."""

    _matrix: np.ndarray

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.warpAffine(view, self._matrix, view.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


class Shifted(_Mount):
    """The view is moved aside and up or down; to which side is drawn for an episode. The rim is repeated.

    ## Arguments
    - `severity`: 1, 2, 4, 6, 9 pixels (at 84 rows) in each direction.
    """

    name = "shifted"
    levels = (1, 2, 4, 6, 9)

    def _prepare(self) -> None:
        across, down = self.level * self.scene.scale * self.rng.choice([-1.0, 1.0], 2)
        self._matrix = np.array([[1.0, 0.0, across], [0.0, 1.0, down]])


class Rotated(_Mount):
    """The view is turned about its middle; to which side is drawn for an episode. The rim is repeated.

    ## Arguments
    - `severity`: 2, 4, 7, 11, 16 degrees.
    """

    name = "rotated"
    levels = (2, 4, 7, 11, 16)

    def _prepare(self) -> None:
        middle = (self.scene.columns - 1) / 2, (self.scene.rows - 1) / 2
        self._matrix = cv2.getRotationMatrix2D(middle, float(self.level * self.rng.choice([-1, 1])), 1.0)


class Mirrored(PictureShift):
    """A mirror image, left for right, lies over the view as a reflection; at the end there is nothing else.

    The controls are not mirrored.

    ## Arguments
    - `severity`: the mirror image's share, 0.15, 0.3, 0.45, 0.7, 1.
    """

    name = "mirrored"
    levels = (0.15, 0.3, 0.45, 0.7, 1.0)

    def _change(self, view: np.ndarray, pose: Pose | None) -> np.ndarray:
        return cv2.addWeighted(view, 1 - self.level, cv2.flip(view, 1), self.level, 0)


CAMERA: tuple[type[PictureShift], ...] = (
    GaussianNoise,
    ShotNoise,
    ImpulseNoise,
    Defocus,
    MotionBlur,
    ZoomBlur,
    Brightness,
    Dark,
    Contrast,
    Saturation,
    Jpeg,
    Pixelate,
    OcclusionNear,
    OcclusionFar,
    DeadRows,
    Shifted,
    Rotated,
    Mirrored,
)

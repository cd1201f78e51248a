"""What may be different about a road without a driver having to do anything else: mirrored, darker, in a shadow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Variety:
    """How much pictures are varied."""

    mirrored: float = 0.5
    """Share of the drives that are mirrored, the steering with them."""
    brightness: float = 0.4
    """A drive's pictures are brighter or darker by up to this share."""
    tint: float = 0.12
    """Each of red, green and blue by up to this share more."""
    shadow: float = 0.4
    """Share of the stretches over which a shadow lies."""
    tilt: float = 0.06
    """Share of the height that the pictures are moved up or down by, at most: hills, and cars that nod."""
    shift: float = 0.0
    """Share of the width that they are moved aside by, at most, as if the car were turned."""
    shift_steering: float = 1.2
    """Steering to the right that a shift of the picture to the right by the whole width stands for."""


class RoadAugmentation:
    """Varies stretches of drives in place; what is drawn for a drive holds until the next begins in its stream.

    Args:
        variety: how much.
        rng: draws.
    """

    def __init__(self, variety: Variety, rng: np.random.Generator):
        self.variety, self.rng = variety, rng
        self._mirrored = self._rows = self._columns = np.empty(0, int)
        self._levels = np.empty(0)

    def __call__(self, images: np.ndarray, labels: np.ndarray, fresh: np.ndarray) -> None:
        """Varies images (B, T, height, width, 3) uint8 and steering (B, T, 1); fresh (B,) tells where drives begin."""
        batch, _, height, width, _ = images.shape
        if len(self._mirrored) != batch:
            self._mirrored, self._rows, self._columns = (np.zeros(batch, int) for _ in range(3))
            self._levels = np.ones((batch, 3))
            fresh = np.ones(batch, bool)
        for row in np.flatnonzero(fresh).tolist():
            self._draw(row, height, width)
        for row in range(batch):
            self._vary(images[row], labels[row], row)

    def _draw(self, row: int, height: int, width: int) -> None:
        variety, rng = self.variety, self.rng
        self._mirrored[row] = rng.random() < variety.mirrored
        self._levels[row] = 1 + rng.uniform(-variety.brightness, variety.brightness)
        self._levels[row] *= 1 + rng.uniform(-variety.tint, variety.tint, 3)
        self._rows[row] = round(rng.uniform(-variety.tilt, variety.tilt) * height)
        self._columns[row] = round(rng.uniform(-variety.shift, variety.shift) * width)

    def _vary(self, images: np.ndarray, labels: np.ndarray, row: int) -> None:
        _, height, width, _ = images.shape
        right = int(self._columns[row])
        rows = np.clip(np.arange(height) - self._rows[row], 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        labels += right / width * self.variety.shift_steering
        if self._mirrored[row]:
            columns = columns[::-1]
            labels *= -1
        pixels = images.reshape(len(images), -1, 3).view("V3")[..., 0]  # (T, height · width), three bytes each
        pixels[:] = pixels.take((rows[:, None] * width + columns).ravel(), 1)
        _look_up(images, self._levels[row], images)
        if self.rng.random() < self.variety.shadow:
            top, bottom = self.rng.uniform(0, width, 2)
            dark = (np.arange(width) < np.linspace(top, bottom, height)[:, None]) == (self.rng.random() < 0.5)
            shade = np.empty_like(images)
            _look_up(images, np.full(3, self.rng.uniform(0.45, 0.85)), shade)
            np.copyto(images, shade, where=dark[:, :, None])


def _look_up(images: np.ndarray, gain: np.ndarray, out: np.ndarray) -> None:
    """Each of the three colours of images (T, height, width, 3) times its gain (3,), rounded and clipped."""
    levels = np.clip(np.round(np.arange(256)[:, None] * gain), 0, 255).astype(np.uint8)[None]  # (1, 256, 3)
    cv2.LUT(images.reshape(-1, images.shape[2], 3), levels, out.reshape(-1, images.shape[2], 3))

"""What an environment of the Udacity simulator shows and takes, whoever simulates."""

from __future__ import annotations

import cv2
import numpy as np
from gymnasium import spaces

HEIGHT, WIDTH = 160, 320
"""Of the camera's picture."""
SPEEDS = (-10.0, 40.0)
"""Miles an hour, the least and the most that are shown."""


def observation_space() -> spaces.Dict:
    """`image` (160, 320, 3) uint8 RGB of the camera in the middle, `speed` (1,) mph, `elapsed` (1,) seconds."""
    return spaces.Dict(
        {
            "image": spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8),
            "speed": spaces.Box(*SPEEDS, (1,), np.float32),
            "elapsed": spaces.Box(0.0, np.inf, (1,), np.float32),
        }
    )


def action_space() -> spaces.Box:
    """`[steering, throttle]`, each -1 to 1."""
    return spaces.Box(-1.0, 1.0, (2,), np.float32)


def observe(image: np.ndarray, speed: float, elapsed: float) -> dict[str, np.ndarray]:
    """A member of :func:`observation_space`.

    Args:
        image: (height, width, 3) uint8 RGB; one of another size is resized.
        speed: miles an hour; clipped to :data:`SPEEDS`.
        elapsed: seconds since the observation before.
    """
    if image.shape[:2] != (HEIGHT, WIDTH):
        image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return {
        "image": image,
        "speed": np.clip(np.array([speed], np.float32), *SPEEDS),
        "elapsed": np.array([elapsed], np.float32),
    }

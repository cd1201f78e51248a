"""How far a lap has come: what a critic may know in training, and a driver cannot see."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

PROGRESS_SIZE = 4
MANY = 10
"""Missed tiles that count as one in :func:`lap_progress`."""


def lap_progress(env: gymnasium.Env[Any, Any], time: float) -> np.ndarray:
    """Progress of the lap in `FastCarRacing`.

    A lap ends when no tile is missing, so that one missed tile costs all the frames that are left; which tiles were
    missed can be seen from no picture.

    Args:
        env: the environment, wrapped or not, after a reset.
        time: share of the episode's frames that have gone by.

    Returns:
        (:data:`PROGRESS_SIZE`,) float32: share of the tiles that were visited, ``time``, whether a tile was missed (0
        or 1), and the number of missed tiles in units of :data:`MANY`.
    """
    visited = env.unwrapped.visited  # type: ignore[attr-defined]
    count, total = int(visited.sum()), len(visited)
    # Behind the start line lie the last tiles of the lap, where a car may stray at its beginning.
    reached = np.flatnonzero(visited[: total if 2 * count > total else total * 3 // 4])
    missed = int(reached[-1]) + 1 - len(reached) if len(reached) else 0
    return np.array([count / total, time, missed > 0, missed / MANY], np.float32)

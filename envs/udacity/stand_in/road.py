"""Closed roads: from a seed, or one of the presets that resemble the simulator's tracks in length, width and bends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

SPACING = 0.5
"""Metres between points of a road."""


@dataclass(frozen=True)
class RoadShape:
    """What roads are drawn from."""

    length: float = 900.0
    """Metres of a lap."""
    half_width: float = 3.9
    """Metres from the middle to the yellow line."""
    bends: float = 0.22
    """How far the radius of the loop strays, as a share of it."""
    climb: float = 1.5
    """Metres that the road's height strays."""
    tightest: float = 22.0
    """Metres of the smallest radius of a bend."""


LAKE = RoadShape()
MOUNTAIN = RoadShape(length=1100.0, half_width=3.4, bends=0.34, climb=9.0, tightest=14.0)
PRESETS = {"lake": (LAKE, 5), "mountain": (MOUNTAIN, 8)}


@dataclass(frozen=True, eq=False)
class Road:
    """The middle of a closed road, driven in the order of its points.

    Axes: x east, y north, z up, metres. A heading is an angle from east, anticlockwise.
    """

    points: np.ndarray
    """(N, 3), about :data:`SPACING` apart in plan; the last is followed by the first."""
    half_width: float

    @cached_property
    def heading(self) -> np.ndarray:
        """(N,) direction at each point (radians)."""
        ahead, behind = np.roll(self.points, -1, axis=0), np.roll(self.points, 1, axis=0)
        return np.arctan2(*(ahead - behind)[:, 1::-1].T)

    @cached_property
    def curvature(self) -> np.ndarray:
        """(N,) 1/m, positive where the road turns left."""
        turn = np.diff(self.heading, append=self.heading[:1])
        return (turn + np.pi) % (2 * np.pi) - np.pi

    @cached_property
    def spacing(self) -> float:
        """Metres between two points, on average."""
        steps = np.roll(self.points, -1, axis=0) - self.points
        return float(np.hypot(*steps[:, :2].T).mean())

    @property
    def length(self) -> float:
        """Metres of a lap."""
        return len(self.points) * self.spacing

    @cached_property
    def left(self) -> np.ndarray:
        """(N, 2) unit vectors to the left."""
        return np.stack([-np.sin(self.heading), np.cos(self.heading)], 1)

    def locate(self, x: float, y: float, near: int | None = None) -> tuple[int, float]:
        """The nearest point and how far left of the middle (x, y) lies (m).

        Args:
            x: metres east.
            y: metres north.
            near: a point that was nearest a moment ago; then only 20 m around it are looked at.
        """
        count = len(self.points)
        around = np.arange(count) if near is None else (near + np.arange(-40, 41)) % count
        away = np.array([x, y]) - self.points[around, :2]
        index = int(around[np.argmin((away**2).sum(1))])
        return index, float((np.array([x, y]) - self.points[index, :2]) @ self.left[index])


def make_road(seed: int, shape: RoadShape = LAKE) -> Road:
    """A loop whose radius, and whose height along it, are a few random waves.

    Waves are drawn anew until no bend is tighter than the shape allows.
    """
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    while True:
        waves = [
            rng.normal(0, shape.bends / (wave - 1) ** 0.6) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
            for wave in range(2, 8)
        ]
        radius = 1 + sum(waves)
        if radius.min() < 0.25:
            continue
        plan = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
        around = np.hypot(*(np.roll(plan, -1, axis=0) - plan).T).sum()
        plan *= shape.length / around
        plan = _evenly(plan)
        road = Road(np.column_stack([plan, np.zeros(len(plan))]), shape.half_width)
        if np.abs(road.curvature).max() / road.spacing < 1 / shape.tightest:
            break
    along = np.linspace(0, 2 * np.pi, len(plan), endpoint=False)
    height = sum(
        rng.normal(0, shape.climb / wave) * np.sin(wave * along + rng.uniform(0, 2 * np.pi)) for wave in range(1, 7)
    )
    return Road(np.column_stack([plan, height]), shape.half_width)


@lru_cache(maxsize=4)
def preset(name: str) -> Road:
    """The road of a name of :data:`PRESETS`, or of a seed written as a number.

    Raises:
        ValueError: if it is neither.
    """
    if name in PRESETS:
        shape, seed = PRESETS[name]
        return make_road(seed, shape)
    if not name.isdigit():
        raise ValueError(f"unknown track {name!r}: expected {', '.join(PRESETS)} or a whole number, its seed.")
    return make_road(int(name))


def _evenly(plan: np.ndarray) -> np.ndarray:
    """The closed curve with points :data:`SPACING` apart."""
    closed = np.vstack([plan, plan[:1]])
    along = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    at = np.linspace(0, along[-1], round(along[-1] / SPACING), endpoint=False)
    return np.column_stack([np.interp(at, along, column) for column in closed.T])

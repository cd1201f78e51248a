"""Laps of a driver that remembers its own work: what is skipped of it, and what that does to its actions and its score.

A lap is an episode of one track. Whatever the driver has learned of its own work stays for the next lap; the state of
its drive, and those of the students, begin anew. At each step the driver that skips nothing decides, too, from the same
observation and the same state, and the distance of both actions is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from rich.box import SIMPLE_HEAD
from rich.table import Table

from liquid_control.models.remembering import PartMemory, feeds, remembering
from policies.driver import Driver


@dataclass(frozen=True)
class RememberedLap:
    """What a lap came to. Shares are of the inputs of all feed-forward parts."""

    track: int
    """Seed."""
    remembers: bool
    """Whether the driver remembered; else nothing was skipped, and what follows the score is zero."""
    steps: int
    tiles: float
    """Share of the track's tiles that were visited; elsewhere than in CarRacing 0."""
    score: float
    """The undiscounted return."""
    skipped: float = 0.0
    """Share that was left out."""
    shared: float = 0.0
    """Mean influence: what share of what went on was the students'."""
    hits: float = 0.0
    """Share that was near to an entry of the cube."""
    saved: float = 0.0
    """Operations of all parts that were saved, net of reading and students, as a share; below 0 it cost more."""
    apart: float = 0.0
    """Mean distance, the greatest over the controls, of the actions from those of the driver that skips nothing."""
    farthest: float = 0.0
    """The greatest of these distances."""
    layers: tuple[float, ...] = ()
    """Share that was left out, by part."""

    def __str__(self) -> str:
        told = f"track {self.track}: {self.score:.1f}, {self.tiles:.1%} of the tiles, {self.steps} steps"
        return f"{told}; skipped {self.skipped:.0%}, actions {self.apart:.4f} apart" if self.remembers else told


def drive_lap(
    driver: Driver, parts: Sequence[PartMemory] | None, env: str, track: int, max_steps: int | None = None
) -> RememberedLap:
    """Drives a lap, from an empty state.

    Args:
        driver: of hybrid blocks.
        parts: what is remembered of its feed-forward parts, which goes on; None drives without.
        env: an environment that it knows, by its name.
        track: seed.
        max_steps: where to stop at the latest.
    """
    before = [_counters(part) for part in parts or ()]
    teacher, distances = copy.deepcopy(driver), []
    for part in parts or ():
        part.state = None
    made: gymnasium.Env[Any, Any] = gymnasium.make(env, disable_env_checker=True)
    steps, score, ended = 0, 0.0, False
    try:
        observation, _ = made.reset(seed=track)
        driver.reset()
        teacher.reset()
        while not ended and steps != max_steps:
            if parts is None:
                action = driver.act(observation)
            else:
                held, teacher.state = driver.holds, driver.state
                wanted = teacher.act(observation)
                with remembering(driver, parts):
                    action = driver.act(observation)
                if not held:
                    distances.append(float(np.abs(action - wanted).max()))
            observation, reward, terminated, truncated, _ = made.step(action)
            steps, score, ended = steps + 1, score + float(reward), terminated or truncated
        car: Any = made.unwrapped
        tiles = car.tile_visited_count / len(car.track) if isinstance(car, CarRacing) else 0.0
    finally:
        made.close()
    if parts is None:
        return RememberedLap(track, False, steps, tiles, score)
    more = [
        {name: now - was[name] for name, now in _counters(part).items()}
        for part, was in zip(parts, before, strict=True)
    ]
    full = sum(weight.numel() for feed in feeds(driver) for weight in feed.parameters()) / len(more)
    inputs = sum(part["inputs"] for part in more)
    skipped, shared, hits, spent = (
        sum(part[name] for part in more) / inputs for name in ("skipped", "shared", "hits", "spent")
    )
    apart = float(np.mean(distances)), max(distances)
    layers = tuple(part["skipped"] / part["inputs"] for part in more)
    return RememberedLap(
        track, True, steps, tiles, score, skipped, shared, hits, skipped - spent / full, *apart, layers
    )


def _counters(part: PartMemory) -> dict[str, float]:
    return part.counts() | {"shared": part.shared}


def lap_table(laps: Sequence[RememberedLap]) -> Table:
    """A row a lap: what was left out and what that saved net, and how far apart the actions were, and at most."""
    heads = ("lap", "track", "return", "tiles", "steps", "skipped", "net", "apart", "at most")
    table = Table(*heads, box=SIMPLE_HEAD)
    number = 0
    for lap in laps:
        driven = (str(lap.track), f"{lap.score:.1f}", f"{lap.tiles:.1%}", str(lap.steps))
        if lap.remembers:
            number += 1
            told = (f"{lap.skipped:.0%}", f"{lap.saved:+.0%}", f"{lap.apart:.4f}", f"{lap.farthest:.3f}")
            table.add_row(str(number), *driven, *told)
        else:
            table.add_row("alone", *driven)
    return table

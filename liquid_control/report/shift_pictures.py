"""Pictures of a report: charts as SVG, frames as data, and where cars went."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import cv2
import gymnasium
import numpy as np

from envs.shifts import apply_shifts
from envs.shifts.suites import Cell
from liquid_control.report.shift_results import Key, Row
from policies.attack import SteeringAttack
from policies.driver import Driver

COLOURS = 8
"""Of policies, in the page's style; more policies have dashed lines."""
DASHES = ("", "5 3", "1.5 2.5")
FRAME = 60
"""Steps before an example frame: the camera has come close by then."""


class Chart:
    """Lines over two axes, as SVG."""

    WIDTH, HEIGHT, LEFT, BOTTOM = 220.0, 120.0, 30.0, 16.0

    def __init__(self, across: tuple[float, float], up: tuple[float, float]):
        self.across, self.up = across, up
        self._parts: list[str] = []

    def _places(self, x: Iterable[float], y: Iterable[float]) -> np.ndarray:
        (left, right), (low, high) = self.across, self.up
        points = np.array(list(zip(x, y, strict=True)), np.float64)
        share = (points - (left, low)) / (right - left, high - low)
        wide, tall = self.WIDTH - self.LEFT - 6, self.HEIGHT - self.BOTTOM - 6
        return np.stack([self.LEFT + share[:, 0] * wide, 6 + (1 - share[:, 1]) * tall], 1)

    def line(self, x: Iterable[float], y: Iterable[float], place: int) -> None:
        """A line in the colour of a policy's place."""
        self._parts.append(f'<path class="line" {stroke(place)} d="{svg_path(self._places(x, y))}"/>')

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], place: int) -> None:
        """What lies between two lines."""
        points = self._places([*x, *reversed(x)], [*high, *reversed(low)])
        self._parts.append(f'<path class="band" style="fill:var(--p{place % COLOURS})" d="{svg_path(points)}Z"/>')

    def svg(self, label: str, ticks: Iterable[float] | Mapping[int, str], levels: Iterable[float]) -> str:
        """The chart; ``label`` tells what it shows to those who do not see it, ``ticks`` may have names."""
        marks = []
        for level in levels:
            (x, y), (end, _) = self._places(self.across, (level, level))
            marks.append(f'<path class="axis" d="M{x:.1f} {y:.1f}H{end:.1f}"/>')
            marks.append(f'<text x="{x - 4:.1f}" y="{y + 3:.1f}" text-anchor="end">{level:g}</text>')
        names = ticks if isinstance(ticks, Mapping) else {tick: f"{tick:g}" for tick in ticks}
        for tick, name in names.items():
            ((x, y),) = self._places([tick], [self.up[0]])
            marks.append(f'<text x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle">{escape(name)}</text>')
        box = f'viewBox="0 0 {self.WIDTH:g} {self.HEIGHT:g}"'
        return f'<svg {box} role="img" aria-label="{escape(label)}">{"".join(marks)}{"".join(self._parts)}</svg>'


def stroke(place: int, width: float = 1.8) -> str:
    """Attributes of the line of a policy, by its place among the policies."""
    dashes = DASHES[place // COLOURS % len(DASHES)]
    style = f'style="stroke:var(--p{place % COLOURS});stroke-width:{width:g}"'
    return f'{style} stroke-dasharray="{dashes}"' if dashes else style


def svg_path(points: np.ndarray) -> str:
    """(n, 2) points as the ``d`` of an SVG path."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def png_data(picture: np.ndarray) -> str:
    """(height, width, 3) uint8 RGB as the address of an image that is in the page itself."""
    content = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def example_frames(driver: Driver, env: str, cells: Iterable[Cell], seed: int) -> dict[Cell, np.ndarray]:
    """What is seen after some steps of a drive, one picture a shift: at its middle severity.

    Args:
        driver: who drives.
        env: the environment's id.
        cells: of which the pictures are.
        seed: of the track.
    """
    by_shift: dict[str, list[Cell]] = {}
    for cell in cells:
        by_shift.setdefault(cell.shift, []).append(cell)
    chosen = [each[len(each) // 2] for each in by_shift.values()]
    return {cell: _example_frame(driver, env, cell, seed) for cell in chosen}


def _example_frame(driver: Driver, env: str, cell: Cell, seed: int) -> np.ndarray:
    compiled = driver.compile_step()
    compiled.reset()
    made = apply_shifts(gymnasium.make(env, disable_env_checker=True), cell.text, SteeringAttack(driver, compiled))
    observation, _ = made.reset(seed=seed)
    for _ in range(FRAME):
        observation, _, terminated, truncated, _ = made.step(compiled.act(observation))
        if terminated or truncated:
            break
    made.close()
    return np.asarray(observation["image"] if isinstance(observation, dict) else observation)


def road_of(env: str, seed: int) -> np.ndarray:
    """(n, 2) the middle of CarRacing's road of a seed, in track units."""
    made = gymnasium.make(env, disable_env_checker=True)
    made.reset(seed=seed)
    inside: Any = made.unwrapped
    road = np.array([(x, y) for _, _, x, y in inside.track])
    made.close()
    return road


def ways_of(rows: Mapping[Key, Row], keys: Iterable[Key]) -> dict[tuple[str, Cell], np.ndarray]:
    """The ways that are kept, of the first training of each policy."""
    ways: dict[tuple[str, Cell], np.ndarray] = {}
    for key in keys:
        if rows[key].way:
            ways.setdefault((key.policy, Cell(key.shift, key.severity)), np.array(rows[key].way))
    return ways

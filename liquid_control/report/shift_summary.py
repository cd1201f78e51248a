"""What the episodes of a suite come to: numbers of policies, shifts and severities, with intervals and comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from envs.registration import STAND_IN
from envs.shifts.suites import Cell
from envs.shifts.table import CLEAN
from liquid_control.report.road_evaluation import SPEEDS
from liquid_control.report.shift_results import Key, Row
from liquid_control.report.shift_statistics import (
    BEST_RETURN,
    comparison_p_value,
    corruption_error,
    holm,
    iqm,
    normalized_error,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)

THRESHOLDS = tuple(step / 40 for step in range(40))
"""Scores at which the performance profile is read, as shares of the best."""
HIGH = 0.9
"""One of them: a score that a driver is proud of."""
BEST_AUTONOMY = 100.0
Interval = tuple[float, float]


@dataclass(frozen=True)
class CellScores:
    """What a policy did under a shift at a severity."""

    policy: str
    cell: Cell
    episodes: int
    mean: float
    std: float
    """Standard deviation of the scores themselves."""
    iqm: float
    interval: Interval
    """Of the IQM, 95 %."""
    laps: int
    tiles: float
    off_road: float
    departures: float
    """On roads, a lap."""
    touches: float
    """On roads, a lap."""
    drop: float
    """Mean score without a shift less that under it, on the same tracks by the same trainings."""
    drop_interval: Interval
    """Of the drop, 95 %."""


@dataclass(frozen=True)
class PolicyScores:
    """What a policy did under all shifts together."""

    policy: str
    trainings: tuple[int, ...]
    """Their seeds."""
    clean: float
    """Mean score without a shift."""
    mean: float
    iqm: float
    interval: Interval
    """Of the IQM, 95 %."""
    drop: float
    laps: float
    """Share of the episodes."""
    off_road: float
    departures: float
    """On roads, a lap."""
    mce: float | None
    """Mean corruption error in percent of the baseline's, over the shifts under which it makes some; None without."""
    profile: tuple[float, ...]
    """Share of the scores above each of :data:`THRESHOLDS`."""


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same tracks."""

    one: str
    other: str
    shift: str
    """A shift's name, at all severities together; or empty: all shifts."""
    difference: float
    """Mean score of the one less that of the other."""
    probability: float
    """That the one scores more."""
    p_value: float
    adjusted: float
    """By Holm, among the comparisons beside it; of the primary one it is the p value itself."""


@dataclass(frozen=True)
class Summary:
    """All that a report tells in numbers."""

    env: str
    seeds: tuple[int, ...]
    """Of the tracks."""
    cells: tuple[Cell, ...]
    policies: tuple[PolicyScores, ...]
    scores: Mapping[tuple[str, Cell], CellScores]
    baseline: str
    """Of the corruption error; empty without one."""
    primary: Comparison | None
    others: tuple[Comparison, ...]
    """All other pairs, over all shifts."""
    by_shift: tuple[Comparison, ...]
    """The primary pair, shift by shift."""

    @property
    def roads(self) -> bool:
        """Whether it was driven on the roads of the Udacity stand-in."""
        return self.env == STAND_IN

    @property
    def best(self) -> float:
        """What no score exceeds."""
        return best_score(self.env)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the policies."""
        return tuple(policy.policy for policy in self.policies)

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the shifts, without the clean."""
        return tuple(dict.fromkeys(cell.shift for cell in self.cells if cell.shift != CLEAN))

    def severities(self, shift: str) -> list[int]:
        """At which a shift was driven."""
        return [cell.severity for cell in self.cells if cell.shift == shift]


def best_score(env: str) -> float:
    """What no score exceeds in an environment."""
    return BEST_AUTONOMY if env == STAND_IN else BEST_RETURN


class _Episodes:
    """The episodes of a policy as arrays (S, T, C), cell 0 of which is without a shift."""

    def __init__(
        self,
        policy: str,
        trainings: Sequence[int],
        env: str,
        cells: Sequence[Cell],
        seeds: Sequence[int],
        rows: Mapping[Key, Row],
    ):
        self.policy, self.trainings, self.cells, self.best = policy, tuple(trainings), tuple(cells), best_score(env)
        grid = [
            [[rows[Key(policy, training, env, *cell, seed)] for cell in cells] for seed in seeds]
            for training in trainings
        ]
        self.scores, self.laps, self.tiles, self.off_road, self.steps, self.departures, self.touches = (
            np.array([[[float(getattr(row, name)) for row in track] for track in each] for each in grid])
            for name in ("score", "lap", "tiles", "off_road", "steps", "departures", "touches")
        )

    def under(self, shift: str = "") -> np.ndarray:
        """Scores under a shift at all severities; of none, under all shifts."""
        return self.scores[..., [cell.shift == shift if shift else cell.shift != CLEAN for cell in self.cells]]

    def in_cell(self, index: int) -> CellScores:
        part = self.scores[..., [index]]
        drop = self.scores[..., [0]] - part
        return CellScores(
            policy=self.policy,
            cell=self.cells[index],
            episodes=part.size,
            mean=float(part.mean()),
            std=float(part.std()),
            iqm=iqm(part),
            interval=stratified_interval(part),
            laps=int(self.laps[..., index].sum()),
            tiles=float(self.tiles[..., index].mean()),
            off_road=float(np.average(self.off_road[..., index], weights=self.steps[..., index])),
            departures=float(self.departures[..., index].mean() / len(SPEEDS)),
            touches=float(self.touches[..., index].mean() / len(SPEEDS)),
            drop=float(drop.mean()),
            drop_interval=stratified_interval(drop, _means),
        )

    def errors(self, shift: str) -> np.ndarray:
        """Mean errors, one a severity."""
        return normalized_error(self.under(shift), self.best).mean(axis=(0, 1))

    def together(self, baseline: _Episodes | None, shifts: Sequence[str]) -> PolicyScores:
        shifted = self.under()
        errors = (
            [float(corruption_error(self.errors(shift), baseline.errors(shift))) for shift in shifts]
            if baseline is not None
            else None
        )
        return PolicyScores(
            policy=self.policy,
            trainings=self.trainings,
            clean=float(self.scores[..., 0].mean()),
            mean=float(shifted.mean()),
            iqm=iqm(shifted),
            interval=stratified_interval(shifted),
            drop=float((self.scores[..., [0]] - shifted).mean()),
            laps=float(self.laps[..., 1:].mean()),
            off_road=float(np.average(self.off_road[..., 1:], weights=self.steps[..., 1:])),
            departures=float(self.departures[..., 1:].mean() / len(SPEEDS)),
            mce=None if errors is None or np.isnan(errors).all() else float(np.nanmean(errors)),
            profile=tuple(performance_profile(shifted, self.best * np.array(THRESHOLDS)).tolist()),
        )


def _means(drawn: np.ndarray) -> np.ndarray:
    return np.asarray(drawn.mean(axis=-1))


def summarize_shifts(
    rows: Mapping[Key, Row],
    trainings: Mapping[str, Sequence[int]],
    env: str,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    primary: tuple[str, ...] = (),
    baseline: str = "",
) -> Summary:
    """Computes everything.

    Args:
        rows: the episodes, among them all that are asked for.
        trainings: seeds of the trainings of each policy.
        env: the environment that was driven in.
        cells: the first without a shift, and at least one more.
        seeds: of the tracks.
        primary: the two policies of the comparison that was declared before, or nothing.
        baseline: the policy whose errors are 100 %, or nothing.

    Raises:
        KeyError: if an episode is missing.
    """
    episodes = {name: _Episodes(name, seeds_, env, cells, seeds, rows) for name, seeds_ in trainings.items()}
    shifts = tuple(dict.fromkeys(cell.shift for cell in cells if cell.shift != CLEAN))
    pairs = [pair for pair in itertools.combinations(trainings, 2) if set(pair) != set(primary)]
    compared = [_compare(episodes[one], episodes[other]) for one, other in pairs]
    first, by_shift = None, []
    if primary:
        one, other = (episodes[name] for name in primary)
        first, by_shift = _compare(one, other), [_compare(one, other, shift) for shift in shifts]
    return Summary(
        env=env,
        seeds=tuple(seeds),
        cells=tuple(cells),
        policies=tuple(each.together(episodes.get(baseline), shifts) for each in episodes.values()),
        scores={(each.policy, cell): each.in_cell(i) for each in episodes.values() for i, cell in enumerate(cells)},
        baseline=baseline,
        primary=first,
        others=_adjusted(compared),
        by_shift=_adjusted(by_shift),
    )


def _compare(one: _Episodes, other: _Episodes, shift: str = "") -> Comparison:
    scores = one.under(shift), other.under(shift)
    p_value = comparison_p_value(*scores)
    return Comparison(
        one=one.policy,
        other=other.policy,
        shift=shift,
        difference=float(scores[0].mean() - scores[1].mean()),
        probability=probability_of_improvement(*scores),
        p_value=p_value,
        adjusted=p_value,
    )


def _adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    values = holm([each.p_value for each in comparisons])
    return tuple(
        Comparison(**(vars(each) | {"adjusted": value})) for each, value in zip(comparisons, values, strict=True)
    )

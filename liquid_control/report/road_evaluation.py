"""How well a driver keeps to roads that nothing was learned or chosen on: laps of the stand-in, at two speeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from agents.pool import RolloutPool
from agents.road_rollout import RoadJudgement, autonomy, judge_road
from agents.run_folder import versions
from envs.registration import STAND_IN, TEST_SEEDS
from liquid_control.report.evaluation import Judgement
from liquid_control.support.checkpoint import weights_digest
from policies.driver import Driver

SPEEDS = (15.0, 25.0)
"""Miles an hour."""


@dataclass(frozen=True, kw_only=True)
class RoadEvaluation(Judgement):
    """The laps that a driver was judged by, and what they come to."""

    results = "laps"
    kind = RoadJudgement

    laps: tuple[RoadJudgement, ...]

    def summary(self) -> list[dict[str, Any]]:
        """Of each speed the numbers of the table, by name."""
        return [_summarize([lap for lap in self.laps if lap.speed == speed]) for speed in self.speeds()]

    def speeds(self) -> list[float]:
        """Miles an hour that were asked for, each once."""
        return sorted({lap.speed for lap in self.laps})

    def rows(self) -> list[tuple[str, str]]:
        """The summary in words and rounded numbers, as the table and the card show it."""
        return [
            (
                f"{each['speed']:g} mph, {each['laps']:g} laps",
                f"{each['departures']} departures ({each['departures'] / each['laps']:.2f} a lap), autonomy "
                f"{each['autonomy']:.2f} %; yellow line crossed {each['touches']} times; "
                f"{each['rms']:.2f} m from the middle (root mean square), {each['farthest']:.2f} m at most; "
                f"{each['mean_speed']:.1f} mph driven",
            )
            for each in self.summary()
        ]

    def table(self) -> Table:
        """The summary as a table to print."""
        tracks = {lap.track for lap in self.laps}
        table = Table(title=f"{self.env}, {len(tracks)} roads", caption=f"{self.seconds:.0f} s")
        for column in (
            "mph", "laps", "departures", "a lap", "autonomy", "line crossed", "rms, m", "farthest, m", "mph driven",
        ):  # fmt: skip
            table.add_column(column, justify="right")
        for each in self.summary():
            table.add_row(
                f"{each['speed']:g}",
                f"{each['laps']:g}",
                f"{each['departures']}",
                f"{each['departures'] / each['laps']:.2f}",
                f"{each['autonomy']:.2f} %",
                f"{each['touches']}",
                f"{each['rms']:.2f}",
                f"{each['farthest']:.2f}",
                f"{each['mean_speed']:.1f}",
            )
        return table

    def told(self, result: RoadJudgement) -> dict[str, Any]:
        """All of a lap."""
        return asdict(result)


def _summarize(laps: Sequence[RoadJudgement]) -> dict[str, Any]:
    seconds, count = sum(lap.seconds for lap in laps), len(laps)
    departures = sum(lap.departures for lap in laps)
    return {
        "speed": laps[0].speed,
        "laps": sum(lap.laps for lap in laps),
        "departures": departures,
        "autonomy": autonomy(departures, seconds),
        "touches": sum(lap.touches for lap in laps),
        "rms": (sum(lap.rms**2 for lap in laps) / count) ** 0.5,
        "farthest": max(lap.farthest for lap in laps),
        "mean_speed": sum(lap.mean_speed * lap.seconds for lap in laps) / seconds,
    }


def evaluate_on_roads(
    driver: Driver,
    tracks: Sequence[str],
    workers: int = 2,
    speeds: Sequence[float] = SPEEDS,
    weather: str = "clear",
    laps: float = 1.0,
    done: Callable[[], None] | None = None,
) -> RoadEvaluation:
    """Drives laps on every track at every speed.

    Args:
        driver: of the Udacity simulator.
        tracks: names or seeds of roads; :func:`unseen_tracks` has those that nothing was learned on.
        workers: processes that drive; they change nothing but the time.
        speeds: miles an hour.
        weather: of the stand-in.
        laps: on each track.
        done: called after every drive.
    """
    begin = time.perf_counter()
    with RolloutPool(min(workers, len(tracks) * len(speeds))) as pool:
        drives = [(driver, track, speed, laps, weather) for speed in speeds for track in tracks]
        judged = pool.map(judge_road, drives, done)
    return RoadEvaluation(
        env=STAND_IN,
        driver=driver.describe(),
        weights=weights_digest(driver),
        laps=tuple(judged),
        seconds=time.perf_counter() - begin,
        versions=versions(),
    )


def unseen_tracks(count: int) -> list[str]:
    """Seeds of roads that no training and no validation ever saw."""
    return [str(TEST_SEEDS + index) for index in range(count)]

"""Suites of distribution shifts: which of them are driven together, at which severities, on how many tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from envs.registration import FAST, OFFICIAL, STAND_IN
from envs.shifts.base import CAR_RACING
from envs.shifts.table import CLEAN, SHIFTS, parse_shifts
from liquid_control.support.errors import UserError, nearest


class Cell(NamedTuple):
    """A shift at one severity."""

    shift: str = CLEAN
    """Its name, several joined by ``+``; of parts with a severity of their own, as ``rain:3+delay:2``."""
    severity: int = 0
    """1 to 5, of all parts that have none of their own; 0 where there is none."""

    @property
    def text(self) -> str:
        """As `envs.shifts` reads it; empty for no shift."""
        if self.shift == CLEAN:
            return ""
        return "+".join(part if ":" in part else f"{part}:{self.severity}" for part in self.shift.split("+"))

    def __str__(self) -> str:
        return self.text or CLEAN


@dataclass(frozen=True)
class Suite:
    """Shifts that are driven together."""

    name: str
    env: str
    shifts: tuple[str, ...]
    """Their names; `clean` is driven with every suite."""
    severities: tuple[int, ...]
    episodes: int
    """Tracks of every shift at every severity, unless another number is asked for."""


def _family(*names: str) -> tuple[str, ...]:
    return tuple(name for name, info in SHIFTS.items() if info.family in names and CAR_RACING in info.environments)


PUBLISHED = _family("published")
QUICK = (
    "colour", "bars", "gaussian", "contrast", "rain", "night", "friction", "delay", "jitter", "gauges_dead",
)  # fmt: skip
"""One or two of each family."""
ATTACKS = _family("attack")
"""What depends on who drives: `full` leaves it out."""
ALL = tuple(name for name, info in SHIFTS.items() if CAR_RACING in info.environments and name not in ATTACKS)

SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", FAST, QUICK, (1, 3, 5), 8),
        Suite("published", OFFICIAL, PUBLISHED, (3,), 100),
        Suite("full", FAST, ALL, (1, 2, 3, 4, 5), 20),
    )
}
"""The suites by name."""
ON_ROADS = tuple(name for name, info in SHIFTS.items() if info.family in ("camera", "weather"))
ROAD_SUITES = {
    "quick": Suite("quick", STAND_IN, ("gaussian", "contrast", "rain", "night"), (3,), 2),
    "full": Suite("full", STAND_IN, ON_ROADS, (3,), 10),
}
"""The suites for drivers of the Udacity simulator, on roads of the stand-in."""
COMMAND = "shift"


def find_suite(text: str, roads: bool = False) -> Suite:
    """The suite that ``shift``, ``shift:quick``, ``shift:published`` or ``shift:full`` stands for; the first is quick.

    Args:
        text: its name.
        roads: whether the drivers are the Udacity simulator's.

    Raises:
        UserError: if there is none of that name.
    """
    known = [COMMAND, *(f"{COMMAND}:{name}" for name in SUITES)]
    if text not in known:
        raise UserError(f"unknown suite {text!r}. {nearest(text, known)}")
    name, suites = text.partition(":")[2] or "quick", ROAD_SUITES if roads else SUITES
    if name not in suites:
        raise UserError(f"the suite {text!r} is of CarRacing alone: for roads there are {' and '.join(suites)}.")
    return suites[name]


def choose_cells(suite: Suite, shifts: Sequence[str] = (), severities: Sequence[int] = ()) -> tuple[Cell, ...]:
    """What is driven in a suite, without a shift first.

    Args:
        suite: whose shifts and severities are taken where none are given.
        shifts: names, which are driven at every severity, or texts such as ``rain:3+delay:2``, which have their own.
        severities: 1 to 5.

    Raises:
        UserError: if a shift or a severity is unknown, or there is no shift.
    """
    cells = [Cell()]
    for shift in shifts or suite.shifts:
        if shift == CLEAN:
            continue
        fixed = all(":" in part for part in shift.split("+"))
        cells += [Cell(shift, each) for each in ((0,) if fixed else sorted(severities) or suite.severities)]
    for cell in cells:
        parse_shifts(cell.text)
    if len(cells) == 1:
        raise UserError(f"a suite needs a shift beside {CLEAN}: name one, or evaluate without --suite.")
    return tuple(dict.fromkeys(cells))

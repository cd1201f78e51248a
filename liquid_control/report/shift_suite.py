"""Suites of distribution shifts: which shifts at which severities, who drives them, and the driving itself.

Every policy meets the same tracks, shifts and severities. An episode depends on its policy, its cell and its track
alone: neither on the number of workers nor on what was driven before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gymnasium

from agents.episodes import Conditions, Episode, EpisodePlan
from envs.registration import FAST, OFFICIAL, TEST_SEEDS
from envs.shifts import SHIFTS, apply_shifts, parse_shifts
from liquid_control.report.evaluation import check_environment
from liquid_control.report.shift_results import CLEAN, Cell, Key, Row
from liquid_control.support.checkpoint import load_checkpoint, weights_digest
from liquid_control.support.errors import UserError, nearest
from policies.driver import Driver, load_driver
from policies.precompile import precompile_tick

CAR_RACING = "CarRacing"
ATTACKS = "attack"
"""The family that depends on who drives: `full` leaves it out."""


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
ALL = tuple(name for name, info in SHIFTS.items() if CAR_RACING in info.environments and info.family != ATTACKS)

SUITES = {
    suite.name: suite
    for suite in (
        Suite("quick", FAST, QUICK, (1, 3, 5), 8),
        Suite("published", OFFICIAL, PUBLISHED, (3,), 100),
        Suite("full", FAST, ALL, (1, 2, 3, 4, 5), 20),
    )
}
"""The suites by name."""
COMMAND = "shift"


def find_suite(text: str) -> Suite:
    """The suite that ``shift``, ``shift:quick``, ``shift:published`` or ``shift:full`` stands for; the first is quick.

    Raises:
        UserError: if there is none of that name.
    """
    known = [COMMAND, *(f"{COMMAND}:{name}" for name in SUITES)]
    if text not in known:
        raise UserError(f"unknown suite {text!r}. {nearest(text, known)}")
    return SUITES[text.partition(":")[2] or "quick"]


def choose_cells(suite: Suite, shifts: Sequence[str] = (), severities: Sequence[int] = ()) -> tuple[Cell, ...]:
    """What is driven in a suite, without a shift first.

    Args:
        suite: whose shifts and severities are taken where none are given.
        shifts: names, which are driven at every severity, or texts such as ``rain:3+delay:2``, which have their own.
        severities: 1 to 5.

    Raises:
        UserError: if a shift or a severity is unknown.
    """
    cells = [Cell()]
    for shift in shifts or suite.shifts:
        if shift == CLEAN:
            continue
        fixed = all(":" in part for part in shift.split("+"))
        cells += [Cell(shift, each) for each in ((0,) if fixed else sorted(severities) or suite.severities)]
    for cell in cells:
        parse_shifts(cell.text)
    return tuple(dict.fromkeys(cells))


def left_out(env: str, cells: Iterable[Cell]) -> str:
    """What of all there is was not driven, in a sentence."""
    cells = list(cells)
    driven = {part.partition(":")[0] for cell in cells for part in cell.shift.split("+")}
    severities = [str(each) for each in (1, 2, 3, 4, 5) if not any(f":{each}" in cell.text for cell in cells)]
    missing = [name for name in ALL if name not in driven]
    parts = [
        f"{len(missing)} of {len(ALL)} shifts ({', '.join(missing)})" if missing else "",
        f"severities {', '.join(severities)}" if severities else "",
        "" if env == OFFICIAL else "the official environment",
        "attacks, which depend on who drives",
    ]
    return f"Left out: {'; '.join(part for part in parts if part)}."


@dataclass(frozen=True)
class Entrant:
    """One training of a policy."""

    policy: str
    training: int
    """Its seed."""
    folder: Path
    driver: Driver
    weights: str
    """sha256."""


def enter(paths: Iterable[Path]) -> tuple[Entrant, ...]:
    """Loads checkpoints. Those of one name are trainings of one policy.

    Args:
        paths: folders, or ``NAME=FOLDER``. Without a name a policy is called by its folder; the best and the last
            checkpoint of a run by the run's.

    Raises:
        UserError: if a checkpoint cannot be used, or two have one name and one training seed.
    """
    entrants: dict[tuple[str, int], Entrant] = {}
    for path in paths:
        name, folder = _named(path)
        driver = load_driver(folder)
        training = load_checkpoint(folder)[1].get("record", {}).get("job", {}).get("seed", 0)
        entrant = Entrant(name, int(training), folder, driver, weights_digest(driver))
        twin = entrants.setdefault((name, entrant.training), entrant)
        if twin is not entrant:
            raise UserError(
                f"{twin.folder} and {folder} are both {name!r} with training seed {training}: tell them apart by "
                f"names, for example {name}-a={twin.folder} {name}-b={folder}."
            )
    return tuple(entrants.values())


def _named(path: Path) -> tuple[str, Path]:
    name, equals, folder = str(path).partition("=")
    if equals and name and "/" not in name and not path.exists():
        return name, Path(folder)
    path_name = path.resolve()
    return (path_name.parent.name if path_name.name in ("best", "last") else path_name.name), path


def check_entrants(entrants: Iterable[Entrant], env: str, cells: Iterable[Cell]) -> None:
    """Looks whether everybody can drive everything, before anything is driven.

    Raises:
        UserError: if a driver sees something else than the environment shows, or a shift is not for the environment.
    """
    for entrant in entrants:
        try:
            check_environment(entrant.driver, env)
        except UserError as error:
            raise UserError(f"{entrant.folder}: {error}") from None
    made = gymnasium.make(env, disable_env_checker=True)
    try:
        for cell in cells:
            apply_shifts(made, cell.text)
    finally:
        made.close()


def seeds_of(episodes: int) -> range:
    """Of the tracks: those that neither training nor validation used."""
    return range(TEST_SEEDS, TEST_SEEDS + episodes)


def keys_of(entrants: Sequence[Entrant], env: str, cells: Iterable[Cell], seeds: Iterable[int]) -> list[Key]:
    """All episodes: cell by cell, in each of them policy by policy, track by track."""
    seeds = list(seeds)
    return [
        Key(entrant.policy, entrant.training, env, *cell, seed)
        for cell in cells
        for entrant in entrants
        for seed in seeds
    ]


class Pool(Protocol):
    """Whatever drives episodes side by side."""

    def drive_each(
        self, drives: Iterable[tuple[Driver, EpisodePlan, Conditions]]
    ) -> Iterator[tuple[int, Episode, float]]:
        """See `agents.pool.RolloutPool.drive_each`."""


def drive(
    pool: Pool,
    entrants: Sequence[Entrant],
    keys: Sequence[Key],
    run: int,
    done: Callable[[Row], None],
) -> None:
    """Drives episodes.

    Args:
        pool: what they are driven in.
        entrants: who drives.
        keys: the episodes.
        run: number of the run that this is.
        done: called with each as it ends, in no fixed order.
    """
    by_name = {(entrant.policy, entrant.training): entrant for entrant in entrants}
    driven = {key[:2] for key in keys}
    for name, entrant in by_name.items():
        if name in driven:
            precompile_tick(entrant.driver)  # or each process would, at the same time
    drives = (
        (
            by_name[key.policy, key.training].driver,
            EpisodePlan(key.seed, traced=key.seed == TEST_SEEDS),
            Conditions(env=key.env, shifts=Cell(key.shift, key.severity).text),
        )
        for key in keys
    )
    for index, episode, seconds in pool.drive_each(drives):
        done(_row(keys[index], by_name[keys[index][:2]].weights, run, episode, seconds))


def _row(key: Key, weights: str, run: int, episode: Episode, seconds: float) -> Row:
    return Row(
        run=run,
        weights=weights,
        **key._asdict(),
        score=float(episode.score),
        lap=bool(episode.lap),
        tiles=float(episode.tiles),
        off_road=float(episode.off_road),
        steps=int(episode.steps),
        seconds=round(seconds, 3),
        way=tuple((round(float(x), 1), round(float(y), 1)) for x, y in episode.way),
    )

"""Suites of distribution shifts driven: who drives them, and the driving itself. What they are: `envs.shifts.suites`.

Every policy meets the same tracks, shifts and severities. An episode depends on its policy, its cell and its track
alone: neither on the number of workers nor on what was driven before.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium

from agents.episodes import Conditions, EpisodePlan, drive_episode
from agents.road_rollout import autonomy, judge_road
from envs.registration import OFFICIAL, STAND_IN, TEST_SEEDS
from envs.shifts import apply_shifts
from envs.shifts.suites import ALL, ATTACKS, ON_ROADS, Cell
from liquid_control.nn import PlasticCfC
from liquid_control.report.evaluation import check_environment
from liquid_control.report.judging import scoreboard
from liquid_control.report.road_evaluation import SPEEDS
from liquid_control.report.shift_results import FROZEN, Key, Row
from liquid_control.support.checkpoint import load_checkpoint, weights_digest
from liquid_control.support.errors import UserError
from policies.attack import SteeringAttack
from policies.driver import Driver, load_driver
from policies.precompile import precompile_tick


def on_roads(entrants: Sequence[Entrant]) -> bool:
    """Whether the first of the drivers is the Udacity simulator's; then all have to be."""
    return scoreboard(entrants[0].driver) == STAND_IN


def left_out(env: str, cells: Iterable[Cell]) -> str:
    """What of all there is was not driven, in a sentence."""
    cells = list(cells)
    driven = {part.partition(":")[0] for cell in cells for part in cell.shift.split("+")}
    severities = [str(each) for each in (1, 2, 3, 4, 5) if not any(f":{each}" in cell.text for cell in cells)]
    known = ON_ROADS if env == STAND_IN else ALL
    missing = [name for name in known if name not in driven]
    parts = [
        f"{len(missing)} of {len(known)} shifts ({', '.join(missing)})" if missing else "",
        f"severities {', '.join(severities)}" if severities else "",
        "" if env == OFFICIAL else "shifts of body and time" if env == STAND_IN else "the official environment",
        "" if driven.intersection(ATTACKS) else "attacks, which depend on who drives",
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
    """As :attr:`Row.weights`."""

    @property
    def frozen(self) -> bool:
        """Whether its plastic synapses are held."""
        return self.weights.endswith(FROZEN)

    def describe(self) -> str:
        """See :meth:`policies.driver.Driver.describe`."""
        return self.driver.describe() + ("; its plastic synapses are held" if self.frozen else "")


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
        training = _training_seed(load_checkpoint(folder)[1])
        entrant = Entrant(name, training, folder, driver, weights_digest(driver))
        twin = entrants.setdefault((name, entrant.training), entrant)
        if twin is not entrant:
            apart = shlex.join([f"{name}-a={twin.folder}", f"{name}-b={folder}"])
            raise UserError(
                f"{twin.folder} and {folder} are both {name!r} with training seed {training}: tell them apart by "
                f"names, for example {apart}"
            )
    return tuple(entrants.values())


def freeze_plasticity(entrants: Iterable[Entrant], names: Collection[str]) -> tuple[Entrant, ...]:
    """The entrants, some of them with plastic synapses that stay as they are at the start of an episode.

    Args:
        entrants: who takes part.
        names: policies whose synapses are held; the others adapt.

    Raises:
        UserError: if a core among them has no plastic synapses.
    """
    return tuple(_frozen(entrant) if entrant.policy in names else entrant for entrant in entrants)


def _frozen(entrant: Entrant) -> Entrant:
    core = entrant.driver.core
    if not isinstance(core, PlasticCfC):
        raise UserError(
            f"{entrant.policy!r} has a core of {entrant.driver.config.policy}, which has no plastic synapses to freeze."
        )
    core.freeze("trace")
    return replace(entrant, weights=entrant.weights + FROZEN)


def _training_seed(config: Mapping[str, Any]) -> int:
    """What a checkpoint says of it; 0 where it says nothing, or nonsense."""
    told: Any = config
    for name in ("record", "job", "seed"):
        told = told.get(name) if isinstance(told, Mapping) else None
    return told if isinstance(told, int) and told >= 0 else 0


def _named(path: Path) -> tuple[str, Path]:
    name, equals, folder = str(path).partition("=")
    if equals and name and "/" not in name and not path.exists():
        return name, Path(folder)
    path_name = path.resolve()
    return (path_name.parent.name if path_name.name in ("best", "last") else path_name.name), path


def check_entrants(entrants: Sequence[Entrant], env: str, cells: Iterable[Cell]) -> None:
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
            apply_shifts(made, cell.text, SteeringAttack(entrants[0].driver))
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
    """Whatever calls functions side by side."""

    def map_as_completed(
        self, function: Callable[..., Any], shares: Iterable[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """See `agents.pool.RolloutPool.map_as_completed`."""


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
    chosen = (by_name[key.policy, key.training] for key in keys)
    shares = ((each.driver, each.weights, key, run) for each, key in zip(chosen, keys, strict=True))
    for _, row in pool.map_as_completed(drive_row, shares):
        done(row)


def drive_row(driver: Driver, weights: str, key: Key, run: int) -> Row:
    """Drives one episode, in this process; on the roads of the stand-in, a lap at each of its speeds.

    Args:
        driver: who drives.
        weights: its sha256.
        key: the episode.
        run: number of the run.
    """
    begin, shifts = time.perf_counter(), Cell(key.shift, key.severity).text
    told = _drive_roads(driver, key.seed, shifts) if key.env == STAND_IN else _drive_episode(driver, key, shifts)
    seconds = round(time.perf_counter() - begin, 3)
    return Row(run=run, weights=weights, **key._asdict(), **told, seconds=seconds)


def _drive_episode(driver: Driver, key: Key, shifts: str) -> dict[str, Any]:
    plan = EpisodePlan(key.seed, traced=key.seed == TEST_SEEDS)
    episode = drive_episode(driver, plan, Conditions(env=key.env, shifts=shifts))
    return {
        "score": float(episode.score),
        "lap": bool(episode.lap),
        "tiles": float(episode.tiles),
        "off_road": float(episode.off_road),
        "steps": int(episode.steps),
        "way": tuple((round(float(x), 1), round(float(y), 1)) for x, y in episode.way),
    }


def _drive_roads(driver: Driver, seed: int, shifts: str) -> dict[str, Any]:
    laps = [judge_road(driver, str(seed), speed, 1.0, shifts=shifts) for speed in SPEEDS]
    departures, seconds = sum(lap.departures for lap in laps), sum(lap.seconds for lap in laps)
    return {
        "score": autonomy(departures, seconds),
        "lap": departures == 0,
        "tiles": 0.0,
        "off_road": 0.0,
        "steps": round(seconds),
        "departures": departures,
        "touches": sum(int(lap.touches) for lap in laps),
    }

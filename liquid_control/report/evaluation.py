"""What a driver scores where it counts: the official environment, on seeds that no training and no validation saw.

Every episode is driven on its own (a batch of one), so the result depends on neither the number of workers nor their
timing.
"""

from __future__ import annotations

import importlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, get_type_hints

import gymnasium
from gymnasium.spaces import Box, Discrete
from rich.table import Table

from agents.episodes import Conditions, Episode, EpisodePlan
from agents.pool import RolloutPool
from agents.run_folder import versions
from envs.registration import FAST, OFFICIAL
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.schema import shortened, validated
from liquid_control.support.statistics import summarize
from policies.driver import Driver

EVALUATION_NAME = "evaluation.json"
HEAD: dict[str, Any] = {"env": str, "driver": str, "weights": str, "seconds": float, "versions": dict[str, str]}
"""What a file says beside the summary and the results."""


@dataclass(frozen=True, kw_only=True)
class Judgement(ABC):
    """What a driver did where it was judged, as a table and as a file."""

    results: ClassVar[str]
    """The field that holds what was driven, a tuple of :attr:`kind`."""
    kind: ClassVar[type]

    env: str
    """The environment that was driven in."""
    driver: str
    """One line that says what drove: neurons and parameter counts."""
    weights: str
    """sha256 of the weights that drove; the same as in the checkpoint's config.json."""
    seconds: float
    """Wall-clock time that the driving took."""
    versions: dict[str, str]
    """Of the packages that the numbers depend on."""

    @abstractmethod
    def summary(self) -> Any:
        """The table's numbers by name, as JSON values."""

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """The summary in words and rounded numbers, as a card shows it."""

    @abstractmethod
    def table(self) -> Table:
        """The summary as a table to print."""

    @abstractmethod
    def told(self, result: Any) -> dict[str, Any]:
        """What a file says of one of the results: arguments of :attr:`kind`."""

    def to_json(self) -> str:
        """The text of an evaluation file, which :meth:`from_json` reads."""
        content = {name: getattr(self, name) for name in ("env", "driver", "weights")}
        content |= {"summary": self.summary(), "seconds": round(self.seconds, 1), "versions": self.versions}
        content[self.results] = [self.told(result) for result in getattr(self, self.results)]
        return json.dumps(content, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what :meth:`to_json` wrote.

        Raises:
            UserError: if the text is no evaluation of this kind.
        """
        try:
            content = json.loads(text)
            fields: dict[str, Any] = {name: validated(kind, content[name], name) for name, kind in HEAD.items()}
            fields[cls.results] = tuple(cls.kind(**_checked(cls.kind, row)) for row in content[cls.results])
            judgement = cls(**fields)
            judgement.summary()
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise UserError(f"this is no evaluation of this release: {shortened(repr(error))}.") from None
        return judgement


def _checked(kind: type, row: Any) -> dict[str, Any]:
    """A result of a file as arguments of its kind, whose numbers are finite, and none below zero but a score."""
    hints = get_type_hints(kind)
    told = {name: validated(hints[name], value, name) for name, value in row.items()}
    for name, value in told.items():
        if isinstance(value, int | float) and not (math.isfinite(value) and (value >= 0 or name == "score")):
            raise ValueError(f"{name} is {value}")
    return told


@dataclass(frozen=True, kw_only=True)
class Evaluation(Judgement):
    """The episodes that a driver was judged by, and what they come to."""

    results = "episodes"
    kind = Episode

    episodes: tuple[Episode, ...]

    def summary(self) -> dict[str, Any]:
        """The table's numbers by name; shares are 0 to 1, scores undiscounted returns."""
        steps = sum(episode.steps for episode in self.episodes)
        return asdict(summarize([episode.score for episode in self.episodes])) | {
            "episodes": len(self.episodes),
            "laps": sum(episode.lap for episode in self.episodes),
            "tiles": sum(episode.tiles for episode in self.episodes) / len(self.episodes),
            "off_road": sum(episode.off_road * episode.steps for episode in self.episodes) / steps,
            "steps": steps / len(self.episodes),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The summary in words and rounded numbers, as the table and the card show it."""
        numbers = self.summary()
        low, high = numbers["iqm_interval"]
        rows = [
            ("score, mean ± std", f"{numbers['mean']:.1f} ± {numbers['std']:.1f}"),
            ("median", f"{numbers['median']:.1f}"),
            ("minimum", f"{numbers['minimum']:.1f}"),
            ("IQM, 95 % interval", f"{numbers['iqm']:.1f} ({low:.1f} to {high:.1f})"),
            ("completed laps", f"{numbers['laps']}/{numbers['episodes']}"),
            ("share of tiles", f"{numbers['tiles']:.2%}"),
            ("time off the road", f"{numbers['off_road']:.2%}"),
            ("steps an episode", f"{numbers['steps']:.0f}"),
        ]
        return rows if self.env in (OFFICIAL, FAST) else [*rows[:4], rows[-1]]

    def table(self) -> Table:
        """The summary as a table to print."""
        seeds = [episode.seed for episode in self.episodes]
        caption = f"seeds {min(seeds)} to {max(seeds)}, {self.seconds:.0f} s"
        title = f"{self.env}, {len(seeds)} episode{'s' if len(seeds) > 1 else ''}"
        table = Table(title=title, caption=caption, show_header=False)
        for name, value in self.rows():
            table.add_row(name, value)
        return table

    def told(self, result: Episode) -> dict[str, Any]:
        """An episode without what was seen in it."""
        return {name: getattr(result, name) for name in ("seed", "score", "steps", "lap", "tiles", "off_road")}


def evaluate(
    driver: Driver,
    seeds: Sequence[int],
    workers: int = 2,
    env: str = OFFICIAL,
    done: Callable[[Episode], None] | None = None,
) -> Evaluation:
    """Judges a driver: one episode a seed, each driven on its own.

    Args:
        driver: what drives.
        seeds: of the tracks, for example ``range(TEST_SEEDS, TEST_SEEDS + 100)``.
        workers: processes that share the episodes; they do not change the result.
        env: the environment's id.
        done: called in this process with each episode as it ends, in no fixed order.

    Raises:
        UserError: if the environment is unknown or shows the driver something else than it was trained for, if there
            are no seeds or no workers, or if a worker dies.
    """
    if not seeds:
        raise UserError("an evaluation needs at least one episode.")
    check_environment(driver, env)
    start = time.perf_counter()
    with RolloutPool(min(workers, len(seeds))) as pool:
        plans, conditions = [EpisodePlan(int(seed)) for seed in seeds], Conditions(env=env)
        episodes = pool.drive(driver, plans, conditions, done)
    return Evaluation(
        env=env,
        driver=driver.describe(),
        weights=weights_digest(driver),
        episodes=tuple(episodes),
        seconds=time.perf_counter() - start,
        versions=versions(),
    )


def check_environment(driver: Driver, env: str) -> None:
    """Makes an environment to see whether a driver can drive there.

    Raises:
        UserError: if the environment is unknown, or shows or takes something else than the driver was trained for.
    """
    module, _, name = env.rpartition(":")
    try:
        if module:  # it registers the environment, as in envs:liquid_control/FastCarRacing-v3
            importlib.import_module(module)
        gymnasium.spec(name)
        made = gymnasium.make(env, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        hint = nearest(env, {OFFICIAL, FAST, driver.config.env})
        raise UserError(f"the environment {env!r} cannot be made ({' '.join(str(error).split())}): {hint}") from None
    seen, controlled = made.observation_space, made.action_space
    made.close()
    expected, count = driver.view.observation_shape, len(driver.view.controls) + (driver.cruise is not None)
    if driver.view.choices:
        gives, fits = f"chooses among {count} actions", isinstance(controlled, Discrete) and controlled.n == count
    else:
        gives, fits = f"gives {count} continuous controls", isinstance(controlled, Box) and controlled.shape == (count,)
    if not driver.view.shown_by(seen) or not fits:
        choices = f"{driver.config.env} or {FAST}" if driver.config.env == OFFICIAL else driver.config.env
        raise UserError(
            f"this driver sees observations of shape {expected} and {gives}; {env!r} has {seen} and "
            f"{controlled} actions. Choose {choices}."
        )

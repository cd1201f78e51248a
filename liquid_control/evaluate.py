"""``python -m liquid_control.evaluate CHECKPOINT``: what a driver scores where it counts.

The official environment, on test seeds that no training and no validation ever saw. Every episode is driven on its own
(a batch of one), so the result depends on neither the number of workers nor their timing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import tyro
from gymnasium.spaces import Box, Discrete
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agents.rollout import FAST, OFFICIAL, TEST_SEEDS, Drive, Episode, Plan, RolloutPool
from agents.run_folder import versions
from agents.workers import processor_count
from liquid_control.checkpoint import pack_weights, write_atomically
from liquid_control.command import parse, run
from liquid_control.errors import UserError, nearest
from liquid_control.output import check_writable
from liquid_control.ranges import Count
from liquid_control.road_evaluation import SPEEDS, STAND_IN, RoadEvaluation, evaluate_on_roads, unseen_tracks
from liquid_control.statistics import summarize
from policies.driver import Driver, load_driver
from policies.view import UDACITY

PROGRAM = "python -m liquid_control.evaluate"
EVALUATION_NAME = "evaluation.json"
EPISODES, ROADS = 100, 10
"""As many as usual."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores a checkpoint in the official environment, on seeds that neither training nor validation used.

    Prints a table and writes it, with every episode, as JSON. Options can be put in a YAML file: --config FILE.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    episodes: Count | None = None
    """Number of episodes, by default 100; episode i has the test seed 2000000 + i. For a driver of the Udacity
    simulator: number of roads, by default 10, each driven at 15 and at 25 miles an hour."""
    workers: Count | None = None
    """Processes that drive, by default one per processor. The scores do not depend on it."""
    env: str = ""
    """The environment, by default the driver's own, and the stand-in for a driver of the Udacity simulator.
    liquid_control/FastCarRacing-v3 is faster than CarRacing-v3 and gives about the same scores.
    liquid_control/Udacity-v0 is the simulator itself, which must be running."""
    output: Path | None = None
    """The JSON file to write, by default evaluation.json in the checkpoint's folder."""


@dataclass(frozen=True)
class Evaluation:
    """The episodes that a driver was judged by, and what they come to."""

    env: str
    """The environment they were driven in."""
    driver: str
    """One line that says what drove: neurons and parameter counts."""
    weights: str
    """sha256 of the weights that drove; the same as in the checkpoint's config.json."""
    episodes: tuple[Episode, ...]
    seconds: float
    """Wall-clock time that the driving took."""
    versions: dict[str, str]
    """Of the packages that the scores depend on."""

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

    def to_json(self) -> str:
        """The text of an evaluation file, which :meth:`from_json` reads."""
        names = ("seed", "score", "steps", "lap", "tiles", "off_road")
        return json.dumps(
            {
                "env": self.env,
                "driver": self.driver,
                "weights": self.weights,
                "summary": self.summary(),
                "seconds": round(self.seconds, 1),
                "versions": self.versions,
                "episodes": [{name: getattr(episode, name) for name in names} for episode in self.episodes],
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Reads what :meth:`to_json` wrote.

        Raises:
            UserError: if the text is not an evaluation.
        """
        try:
            content = json.loads(text)
            episodes = tuple(Episode(**row) for row in content["episodes"])
            fields = {name: content[name] for name in ("env", "driver", "weights", "seconds", "versions")}
            evaluation = cls(episodes=episodes, **fields)
            evaluation.summary()
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise UserError(f"this is no evaluation of this release: {error!r}.") from None
        return evaluation


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
    _check_environment(driver, env)
    start = time.perf_counter()
    with RolloutPool(min(workers, len(seeds))) as pool:
        plans, drive = [Plan(int(seed)) for seed in seeds], Drive(env=env)
        episodes = pool.drive(driver, plans, drive, done)
    return Evaluation(
        env=env,
        driver=driver.describe(),
        weights=weights_digest(driver),
        episodes=tuple(episodes),
        seconds=time.perf_counter() - start,
        versions=versions(),
    )


def weights_digest(driver: Driver) -> str:
    """The sha256 that the driver's weights have in a checkpoint."""
    return pack_weights(driver.state_dict())[1]


def _check_environment(driver: Driver, env: str) -> None:
    try:
        gymnasium.spec(env)
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


def _default_output(checkpoint: Path, env: str, driver: Driver) -> Path:
    # A score from elsewhere never takes the place of the official one.
    own = STAND_IN if driver.cruise is not None else driver.config.env
    name = EVALUATION_NAME if env == own else f"evaluation-{env.rpartition('/')[2]}.json"
    return checkpoint / name


def main(arguments: Sequence[str]) -> None:
    """Evaluates as the arguments say; see ``--help``."""
    config = parse(EvaluateConfig, arguments, PROGRAM)
    driver = load_driver(config.checkpoint)
    roads = driver.cruise is not None and config.env in ("", STAND_IN)
    env = config.env or (STAND_IN if roads else driver.config.env)
    output = config.output or _default_output(config.checkpoint, env, driver)
    check_writable(output, ".json")
    console = Console()
    console.print(driver.describe(), highlight=False)
    evaluation = _on_roads(config, driver, console) if roads else _in_episodes(config, driver, env, console)
    console.print(evaluation.table())
    write_atomically(output, evaluation.to_json() + "\n")
    console.print(f"written: {output}", highlight=False)


def _in_episodes(config: EvaluateConfig, driver: Driver, env: str, console: Console) -> Evaluation:
    count = config.episodes or EPISODES
    columns = (BarColumn(), TextColumn("episode {task.completed}/{task.total}  mean {task.fields[mean]:.1f}"))
    scores: list[float] = []
    with Progress(*columns, *_times(), console=console, transient=True) as bar:
        task = bar.add_task("driving", total=count, mean=float("nan"))

        def show(episode: Episode) -> None:
            scores.append(episode.score)
            bar.update(task, advance=1, mean=sum(scores) / len(scores))

        workers = 1 if env == UDACITY else config.workers or processor_count()  # one simulator, one port
        return evaluate(driver, range(TEST_SEEDS, TEST_SEEDS + count), workers, env, show)


def _on_roads(config: EvaluateConfig, driver: Driver, console: Console) -> RoadEvaluation:
    tracks = unseen_tracks(config.episodes or ROADS)
    columns = (BarColumn(), TextColumn("lap {task.completed}/{task.total}"))
    with Progress(*columns, *_times(), console=console, transient=True) as bar:
        task = bar.add_task("driving", total=len(tracks) * len(SPEEDS))
        return evaluate_on_roads(driver, tracks, config.workers or processor_count(), done=lambda: bar.advance(task))


def _times() -> tuple[ProgressColumn, ...]:
    return TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()


if __name__ == "__main__":
    run(main)

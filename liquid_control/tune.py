"""``python -m liquid_control.tune STUDY --search …``: the options of a PPO training, searched for with Optuna."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Ge, Le

from agents.ppo import PPOConfig
from agents.workers import processor_count
from liquid_control.support.command import differences, parse, run, write_yaml
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.lock import held
from liquid_control.support.ranges import Count, CountOrZero, Processes, Seed, Share
from liquid_control.support.reachable import check_ray
from liquid_control.tuning.local_engine import LocalEngine
from liquid_control.tuning.space import Space, read_space
from liquid_control.tuning.trial import Engine

if TYPE_CHECKING:
    from liquid_control.tuning.ray_engine import RayEngine

PROGRAM = "python -m liquid_control.tune"


@dataclass(frozen=True)
class TuneConfig:
    """Searches for the options of a PPO training with Optuna, which stops trials that fall behind.

    Each trial is a training in a run folder of its own; its score is its best validation. After Ctrl-C or a kill, the
    same command continues. Options can be put in a YAML file: --config FILE.
    """

    study: Annotated[Path, tyro.conf.arg(metavar="STUDY")]
    """The study's folder, new or to be continued. It holds the database, the run folders, report.md and best.yaml."""
    base: Path | None = None
    """A YAML file with the options that are not searched, as train --config reads it; by default PPO's own defaults."""
    search: tuple[str, ...] = ()
    """The options to search: learning_rate=1e-4..1e-3:log, gamma=0.95..0.999, epochs=3..10, policy=cfc,ltc."""
    trials: Count = 40
    """Trials of the whole study. Raise it to continue a study that has ended."""
    seed: Seed = 0
    """Seed of the search. All trials train with the seed of the base."""
    startup: CountOrZero = 5
    """Trials that must finish before any is pruned."""
    warm_up: Share = 0.25
    """Share of the training before which no trial is pruned."""
    engine: Literal["local", "ray"] = "local"
    """Where trials run: on this machine, or on a Ray cluster. All machines of the cluster must see the study's folder
    and have liquid-control installed. Ray also spreads the episodes of validations."""
    ray_address: str | None = None
    """A running Ray cluster, such as auto or ray-head:6379; by default Ray is started on this machine. For a cluster
    with a token, set RAY_AUTH_MODE=token in the environment."""
    parallel: Processes = 0
    """Trials that run side by side; 0 means as many as the processors allow. With 1, the same seed gives the same
    trials again."""
    cpus: Annotated[int, Ge(1), Le(1024)] = 1
    """Processors per trial: processes that run its environments, and threads that train. They do not change its
    result."""


#: What may not change while a study goes on.
KEPT = ("search", "seed", "startup", "warm_up")
OWN_NAME = "study.yaml"


def main(arguments: Sequence[str]) -> None:
    """Searches as the arguments say; see ``--help``."""
    config = parse(TuneConfig, arguments, PROGRAM)
    if config.ray_address is not None and config.engine != "ray":
        raise UserError("--ray-address is for --engine ray.")
    base = _read_base(["--config", str(config.base)] if config.base else [])
    space = read_space(config.search)
    _check(config, base, space)
    console = Console()
    with held(config.study, f"another search runs in {config.study}: wait for it, or choose another folder."):
        _begin(config, base)
        try:
            _search(config, base, space, console)
        except KeyboardInterrupt:
            console.print(f"stopped. Continue: {PROGRAM} {shlex.join(arguments)}")
            raise


def _check(config: TuneConfig, base: PPOConfig, space: Space) -> None:
    """What would fail in every trial is said once, before anything is written.

    Raises:
        UserError: if a package is missing, no cluster answers, the study has lost its database, or nothing that is
            searched can be trained.
    """
    try:
        from liquid_control.tuning.study import check_database, check_space
    except ImportError as error:
        raise UserError(f"the search needs {error.name}: pip install 'liquid-control[tune]'.") from None
    if config.engine == "ray":
        _ray_engine()
        if config.ray_address:
            check_ray(config.ray_address)
    check_database(config.study)
    if not (config.study / OWN_NAME).exists():
        check_space(base, space, config.seed, config.study)


def _search(config: TuneConfig, base: PPOConfig, space: Space, console: Console) -> None:
    from liquid_control.tuning.study import BEST_NAME, REPORT_NAME, Study

    def tell(news: str) -> None:
        console.print(news)

    study = Study(config.study, base, space, config.seed, config.startup, config.warm_up)
    engine = _engine(config)
    try:
        study.run(engine, config.trials, config.cpus, tell)
    finally:
        engine.close()
    best = shlex.quote(str(config.study / BEST_NAME))
    tell(f"report: {config.study / REPORT_NAME}\nthe best: python -m liquid_control.train --config {best}")


def _engine(config: TuneConfig) -> Engine:
    processors = processor_count()
    if config.engine == "local":
        return LocalEngine(config.parallel or max(1, processors // config.cpus), config.cpus)
    return _ray_engine()(config.ray_address, config.parallel, config.cpus, processors)


def _ray_engine() -> type[RayEngine]:
    try:
        from liquid_control.tuning.ray_engine import RayEngine
    except ImportError as error:
        raise UserError(f"--engine ray needs {error.name}: pip install 'liquid-control[ray]'.") from None
    return RayEngine


def _read_base(arguments: list[str]) -> PPOConfig:
    # Where a run lies is each trial's own affair.
    return dataclasses.replace(parse(PPOConfig, arguments, PROGRAM), run=None, resume=None)


def _begin(config: TuneConfig, base: PPOConfig) -> None:
    """Writes what does not change, or checks that it has not.

    Raises:
        UserError: if the study was begun with another search or another base.
    """
    own, its_base = config.study / OWN_NAME, config.study / "base.yaml"
    if not own.exists():
        write_atomically(its_base, write_yaml(base))
        write_atomically(own, write_yaml(config))
        return
    saved = parse(TuneConfig, ["--config", str(own)], PROGRAM)
    saved_base = _read_base(["--config", str(its_base)])
    changed = differences(saved, config, KEPT)
    changed += differences(saved_base, base, whose=" of the base")
    if changed:
        raise UserError(
            f"the study {config.study} was begun with another config: {'; '.join(changed)}. "
            "Give the same, or begin a study in another folder."
        )


if __name__ == "__main__":
    run(main)

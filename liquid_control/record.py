"""``python -m liquid_control.record``: demonstrations on disk, for ``train --demos``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from agents.dagger import record_shard
from agents.demonstrations import read_folder
from agents.episodes import Conditions, EpisodePlan
from agents.minari_export import check_minari, export_minari
from agents.pool import RolloutPool
from agents.workers import processor_count
from envs.registration import FAST, OFFICIAL, TRAINING_SEEDS, VALIDATION_SEEDS
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.lock import held
from liquid_control.support.ranges import Count, Positive, Processes, Seed
from policies.driver import Driver, DriverConfig, load_driver
from policies.eyes import PictureSide

PROGRAM = "python -m liquid_control.record"


@dataclass(frozen=True)
class RecordConfig:
    """Records episodes as lossless compressed shards; every frame carries the expert's action as its label.

    Options can be put in a YAML file: --config FILE.
    """

    folder: Path = Path("demos/CarRacing-v3")
    """Folder for the shards; it must not hold any yet."""
    driver: Path | None = None
    """A checkpoint that drives; by default the expert drives."""
    env: str = "CarRacing-v3"
    """The environment."""
    episodes: Count = 16
    """How many episodes."""
    seed: Seed = 0
    """Seed of the first episode's track; the others follow."""
    disturbed: bool = True
    """Whether bursts of noise push the car off its line, so that recoveries are recorded."""
    playfield: tuple[PictureSide, PictureSide] = (28, 32)
    """(height, width) of the recorded playfield. With --driver, that driver's own size is used."""
    leash: Positive = 20.0
    """An episode ends when the car is this far from the centre line."""
    workers: Processes = 0
    """Processes that drive; 0 means one per processor."""
    minari: str | None = None
    """Also export what was recorded as the Minari dataset of this name, such as carracing/expert-v0."""


def main(arguments: Sequence[str]) -> None:
    """Records as the arguments say; see ``--help``."""
    config = parse(RecordConfig, arguments, PROGRAM)
    driver = (
        load_driver(config.driver) if config.driver else Driver(DriverConfig(config.env, playfield=config.playfield))
    )
    _check_environment(config, driver)
    if TRAINING_SEEDS + config.seed + config.episodes > VALIDATION_SEEDS:
        raise UserError(
            f"--seed {config.seed} with {config.episodes} episodes reaches tracks of validation and tests, which no "
            f"driver learns from: seed and episodes together are at most {VALIDATION_SEEDS - TRAINING_SEEDS:,}."
        )
    if config.minari is not None:
        check_minari(config.minari)
    with held(config.folder, f"another process works in {config.folder}: name another folder, or wait until it ends."):
        if any(config.folder.glob("*.npz")):
            raise UserError(f"{config.folder} holds shards already: name another folder, or delete them first.")
        _record(config, driver)


def _record(config: RecordConfig, driver: Driver) -> None:
    share = 0.0 if config.driver else 1.0
    plans = [EpisodePlan(TRAINING_SEEDS + config.seed + i, share, config.disturbed) for i in range(config.episodes)]
    console, size = Console(), 8
    conditions = Conditions(env=FAST, record=True, leash=config.leash)
    batches = [plans[start : start + size] for start in range(0, len(plans), size)]
    with RolloutPool(config.workers or processor_count()) as pool:
        waves = [batches[start : start + pool.workers] for start in range(0, len(batches), pool.workers)]
        for number, wave in enumerate(track(waves, "recording", console=console)):
            paths = [config.folder / f"shard-{number * pool.workers + i:04d}.npz" for i in range(len(wave))]
            pool.map(record_shard, [(driver, share, conditions, path) for share, path in zip(wave, paths, strict=True)])
    episodes = read_folder(config.folder, config.env, driver.view.image_shape)
    frames, scores = sum(episode.steps for episode in episodes), [episode.score for episode in episodes]
    console.print(
        f"{len(episodes)} episodes, {frames:,} frames, mean score {sum(scores) / len(scores):.1f}: {config.folder}"
    )
    if config.minari is not None:
        export_minari(config.minari, episodes, config.env)
        console.print(f"Minari dataset: {config.minari}")


def _check_environment(config: RecordConfig, driver: Driver) -> None:
    env = driver.config.env
    if env == OFFICIAL:
        return
    if driver.cruise is None:
        instead = f"Choose a driver of {OFFICIAL}."
    elif config.driver is None:
        instead = "The stand-in's expert is recorded by python -m liquid_control.simulator --record FOLDER."
    else:
        instead = f"Its drives are recorded by python drive.py {shlex.quote(str(config.driver))} --record FOLDER."
    raise UserError(f"episodes of {OFFICIAL} are recorded, but this driver drives {env}. {instead}")


if __name__ == "__main__":
    run(main)

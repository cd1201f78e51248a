"""``python -m liquid_control.experiments.shift_study FOLDER``: do cores of liquid neurons hold where others break?

Seven cores, each trained from five seeds, clean and with variety, then all of them under the same shifts on the same
tracks. A core differs from the next in nothing else: the eyes and the gauges are the same, the expert's drives of a
seed are the same, and so are rounds, episodes and gradient steps. Where it was stopped, the same command goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agents.run_folder import RunFolder
from envs.shifts.suites import choose_cells, find_suite
from liquid_control.experiments.study import run_command
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import DivergedError, check_known
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments.shift_study"
POLICIES = ("cfc", "ltc", "lan", "plastic", "lstm", "gru", "mlp")
"""Cores of 2,300 to 2,900 parameters, but the LTC, whose 19 neurons have 1,217; the MLP sees four pictures."""
TRAININGS = {
    "clean": "--variety none --encoding rgb",
    "variety": "--variety mild --encoding norm",
}
"""What is shown in training, by name."""
PRIMARY = ("cfc-variety", "lstm-variety")
"""The comparison that was declared before the first training."""
BASELINE = "lstm-clean"
"""What errors are told relative to."""


@dataclass(frozen=True)
class StudyConfig:
    """Trains every core from every seed, clean and with variety, and drives all of them under all shifts.

    The whole study is some hours of two quiet processors. It may be stopped at any time; the same command goes on.
    """

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the study: runs/shift-study, say. A training is in FOLDER/NAME/SEED, the report in FOLDER/suite."""
    policies: tuple[str, ...] = POLICIES
    """Cores to compare."""
    seeds: Count = 5
    """Trainings of each core, from the seeds 0, 1, …"""
    rounds: Count = 14
    """Of each training."""
    options: Path | None = None
    """A YAML file with more options that every training is to have, for example fewer episodes."""
    suite: str = "shift:full"
    """What the drivers meet; see ``evaluate --suite``."""
    shifts: tuple[str, ...] = ()
    """Of the suite, by default all."""
    episodes: Count = 2
    """Tracks of every shift at every severity. Each of the trainings drives all of them."""


@dataclass(frozen=True)
class Arm:
    """One training of the study."""

    policy: str
    training: str
    seed: int

    @property
    def name(self) -> str:
        """Of the core and how it was trained, the same for all seeds."""
        return f"{self.policy}-{self.training}"

    def run(self, folder: Path) -> Path:
        """Its run folder."""
        return folder / self.name / str(self.seed)


def arms_of(config: StudyConfig) -> Iterator[Arm]:
    """The trainings in their order: a whole seed of all cores before the next, so that a part is a fair study, too."""
    for seed, training, policy in itertools.product(range(config.seeds), TRAININGS, config.policies):
        yield Arm(policy, training, seed)


def training_words(arm: Arm, config: StudyConfig) -> list[str]:
    """What ``liquid_control.train`` is told; a training that was begun goes on as it was begun."""
    path = arm.run(config.folder)
    if (path / "config.yaml").exists():
        return ["--resume", str(path)]
    words = f"--policy {arm.policy} --seed {arm.seed} {TRAININGS[arm.training]} --rounds {config.rounds}"
    words += " --test-episodes 0 --video False --run"
    return [*(["--config", str(config.options)] if config.options else []), *words.split(), str(path)]


def evaluation_words(config: StudyConfig, arms: Sequence[Arm]) -> list[str]:
    """What ``liquid_control.evaluate`` is told, for the trainings that came to their end."""
    drivers = [f"{arm.name}={arm.run(config.folder) / 'best'}" for arm in arms]
    names = {arm.name for arm in arms}
    words = [*drivers, "--suite", config.suite, "--episodes", str(config.episodes)]
    words += ["--output", str(config.folder / "suite")]
    words += ["--shifts", *config.shifts] if config.shifts else []
    words += ["--primary", *PRIMARY] if names.issuperset(PRIMARY) else []
    words += ["--baseline", BASELINE] if BASELINE in names else []
    return words


def main(arguments: Sequence[str]) -> None:
    """Does the study as the arguments say; see ``--help``.

    Raises:
        UserError: if there is no such core, suite or shift, or a training or the evaluation fails.
    """
    config, console = parse(StudyConfig, arguments, PROGRAM), Console()
    check_known("core", config.policies, POLICIES)
    choose_cells(find_suite(config.suite), config.shifts)  # evaluate would say it when all are trained
    arms, trained = list(arms_of(config)), []
    for number, arm in enumerate(arms, 1):
        if not RunFolder(arm.run(config.folder)).last.exists():
            console.print(f"training {number} of {len(arms)}: {arm.name}, seed {arm.seed}")
            try:
                run_command("train", *training_words(arm, config))
            except DivergedError:
                console.print(f"{arm.name}, seed {arm.seed}, has diverged: it is left out.")
                continue
        trained.append(arm)
    run_command("evaluate", *evaluation_words(config, trained))


if __name__ == "__main__":
    run(main)

"""The table of jobs: how something can learn. `train`, its help, `tune` and the cards read it; a new job is one entry.

A driver is judged by what it sees and not by how it learned, so no job says how: `report.evaluation` looks at its view.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.dagger import Dagger, TrainConfig, begin_dagger
from agents.job import JobConfig, RunConfig, Training
from agents.language import LanguageConfig, LanguageTraining, begin_language
from agents.ppo import PPO, PPOConfig, begin_ppo, tell_ppo
from agents.road_dagger import RoadConfig, RoadDagger, begin_roads
from agents.run_folder import RunFolder
from envs.registration import OFFICIAL, UDACITY
from liquid_control.support.command import read_yaml, split_config_files
from liquid_control.support.errors import UserError, nearest


@dataclass(frozen=True)
class Job:
    """One way to learn.

    Callables take the job's own config; the table does not know its type.
    """

    summary: str
    """One line for the help."""
    config: type[RunConfig]
    """Its options."""
    agents: tuple[str, ...]
    """What ``--agent`` may be; the first is the default of its config."""
    begin: Callable[[Any, Path, int], Any]
    """From a config, the run folder's path and the number of processors to the whole config, checked."""
    learn: Callable[..., Training]
    """From a whole config, its run folder and who helps to a run, new or resumed.

    Where a driver learns, a pool of processes that drive helps; else the processes that torchrun starts, which learn
    together (:class:`agents.distributed.Alone`).
    """
    envs: Mapping[str, str] | None = None
    """What ``--env`` may be, and the environment's id; None for any that can be made."""
    label: str = ""
    """What the run folder's name says beside environment and core."""
    tell: Callable[[Mapping[str, Any]], str] = lambda job: ""
    """What a card says of how it learned, from the options in a checkpoint's record."""

    @property
    def drives(self) -> bool:
        """Whether a driver learns, in an environment."""
        return issubclass(self.config, JobConfig)

    def names(self, config: Any) -> list[str]:
        """Of what a run's folder is named: where a driver drives and its core, and the job's label."""
        driven = [config.env.replace("/", "-"), config.policy] if self.drives else []
        return [*driven, *([self.label] if self.label else [])]

    def words(self, agent: str = "", env: str = OFFICIAL) -> list[str]:
        """The words of a command line that choose it, with an agent of its own and an environment's id."""
        chosen = [] if agent in ("", DEFAULT_AGENT) and DEFAULT_AGENT in self.agents else [agent or self.agents[0]]
        if not self.drives:
            return ["--agent", *chosen]
        named = next((name for name, known in (self.envs or {}).items() if known == env), env)
        return [*(word for name in chosen for word in ("--agent", name)), "--env", named]

    def example(self) -> str:
        """Words of a command line that choose it, in the first of its environments."""
        return " ".join(self.words(env=next(iter((self.envs or {OFFICIAL: OFFICIAL}).values()))))


DEFAULT_AGENT = "dagger"

JOBS: dict[str, Job] = {
    "imitation": Job(
        summary="CarRacing-v3, taught by an expert (dagger) or by recorded drives (clone)",
        config=TrainConfig,
        agents=("dagger", "clone"),
        begin=begin_dagger,
        learn=Dagger,
        envs={OFFICIAL: OFFICIAL},
    ),
    "roads": Job(
        summary="the Udacity simulator, taught by an expert on roads of the stand-in or by recorded drives",
        config=RoadConfig,
        agents=("dagger", "clone"),
        begin=begin_roads,
        learn=RoadDagger,
        envs={"udacity": UDACITY, UDACITY: UDACITY},
    ),
    "ppo": Job(
        summary="any environment of vectors, and CarRacing-v3, from reward alone",
        config=PPOConfig,
        agents=("ppo",),
        begin=begin_ppo,
        learn=PPO,
        label="ppo",
        tell=tell_ppo,
    ),
    "language": Job(
        summary="a language model of liquid cells and fast weights, from text; lm train is the same",
        config=LanguageConfig,
        agents=("language",),
        begin=begin_language,
        learn=LanguageTraining,
        label="language",
    ),
}


def find_job(agent: str, env: str) -> Job:
    """The job of an agent in an environment; ``""`` stands for the default.

    Where the agent has no job in this environment it is his first one, which :func:`check_environment` refuses.

    Raises:
        UserError: if no job has such an agent; names the nearest.
    """
    agent, env = agent or DEFAULT_AGENT, env or OFFICIAL
    jobs = [job for job in JOBS.values() if agent in job.agents]
    if not jobs:
        known = [name for job in JOBS.values() for name in job.agents]
        raise UserError(f"unknown agent {agent!r}: {nearest(agent, dict.fromkeys(known))}")
    return next((job for job in jobs if job.envs is None or env in job.envs), jobs[0])


def check_environment(job: Job, env: str) -> str:
    """The id of the environment that a job calls ``env``.

    Raises:
        UserError: if it does not learn in it; names the nearest, and which agent would.
    """
    if job.envs is None:
        names = {name: known for other in JOBS.values() for name, known in (other.envs or {}).items()}
        return names.get(env, env)
    if env not in job.envs:
        known = [name for other in JOBS.values() if other.agents == job.agents for name in other.envs or ()]
        anywhere = [other.agents[0] for other in JOBS.values() if other.drives and other.envs is None]
        hint = f" Without a teacher, --agent {' or '.join(anywhere)} learns any." if anywhere else ""
        raise UserError(f"unknown env {env!r}: {nearest(env, known)}{hint}")
    return job.envs[env]


def choose_job(arguments: Sequence[str]) -> Job:
    """The job that ``--agent`` and ``--env`` name: by hand, in --config files, or in a run to resume.

    Raises:
        UserError: if there is no such job, a file cannot be read, or one chooses another job than those before it.
    """
    words, files = split_config_files(arguments)
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("agent", "env", "resume"):
        parser.add_argument(f"--{name}", nargs="?")
    given, _ = parser.parse_known_args(words)

    def chosen(told: Mapping[str, Any]) -> Job:
        agent, env = (getattr(given, name) or str(told.get(name) or "") for name in ("agent", "env"))
        return find_job(agent, env)

    told: dict[str, Any] = {}
    for path in files:
        named = read_yaml(path)
        both = told | named
        if {"agent", "env"} & told.keys() & named.keys() and chosen(both) is not chosen(told):
            raise UserError(
                f"the config {path} chooses another job than those before it: {chosen(both).example()}, not "
                f"{chosen(told).example()}. Give files of one job."
            )
        told = both
    if given.resume is not None and (saved := RunFolder(Path(given.resume)).config).exists():
        told |= read_yaml(saved)
    return chosen(told)


def help_text() -> str:
    """All jobs, a line each, with the words that choose them."""
    rows = []
    for job in JOBS.values():
        rows.append(f"  {job.example()}: {job.summary}")
    return "\n".join(["Jobs, and the words that choose them (--help beside them shows the options of each):", *rows])

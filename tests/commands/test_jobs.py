"""The table of jobs: help names all of them, and one more entry is one more job, for train and for cards."""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import liquid_control
from agents.dagger import TrainConfig
from agents.episodes import Conditions, EpisodePlan
from agents.job import JobConfig, RunConfig, begin_run
from agents.jobs import JOBS, Job, choose_job, find_job
from agents.ppo import PPOConfig
from agents.road_dagger import RoadConfig
from agents.run_folder import RunProgress, checkpoint_record
from envs.registration import FAST, OFFICIAL, UDACITY, VALIDATION_SEEDS
from liquid_control.report.card import training_command
from liquid_control.support.errors import UserError
from liquid_control.train import main as train
from policies.driver import Driver, DriverConfig


@dataclass(frozen=True)
class SearchConfig(JobConfig):
    """Trains the hands of a driver by random search."""

    agent: Literal["search"] = "search"
    """search: tries offsets of the hands, and keeps what scores."""
    tries: int = 2
    """How many are tried."""


@dataclass
class SearchProgress(RunProgress):
    @property
    def done(self):
        return self.round

    def news(self):
        return self.scores()


class Search:
    unit, summaries = "try", ("a toy of the tests",)

    def __init__(self, config, folder, pool):
        self.config, self.folder, self.pool, self.progress = config, folder, pool, SearchProgress()
        self.driver = Driver(DriverConfig(policy=config.policy)).eval()
        self.total = config.tries

    def train(self, report):
        rng, progress = np.random.default_rng(self.config.seed), self.progress
        for _ in range(self.config.tries):
            tried = copy.deepcopy(self.driver)
            tried.hands.offset.data[1] += float(rng.uniform(0, 0.5))
            (episode,) = self.pool.drive(tried, [EpisodePlan(VALIDATION_SEEDS)], Conditions(env=FAST, leash=10))
            progress.round, progress.score = progress.round + 1, episode.score
            if episode.score > progress.best_score:
                self.driver, progress.best_score = tried, episode.score
            report(progress)
        progress.seconds = 1.0
        for name in ("best", "last"):
            self.driver.save(self.folder.path / name, checkpoint_record(self.config))

    def close(self):
        pass


TOY = Job(
    summary="hands by random search",
    config=SearchConfig,
    agents=("search",),
    begin=begin_run,
    learn=Search,
    envs={OFFICIAL: OFFICIAL},
    label="search",
    tell=lambda job: f"Found in {job['tries']} tries.",
)


def help_of(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        train([*arguments, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [[], ["--env", "udacity"], ["--agent", "ppo"]])
def test_every_help_names_all_jobs_with_a_line_and_the_words_that_choose_them(arguments, capsys):
    text = help_of(arguments, capsys)
    for job in JOBS.values():
        assert job.summary in text
    for words in ("--env CarRacing-v3:", "--env udacity:", "--agent ppo --env CarRacing-v3:"):
        assert words in text
    assert ("--gae-lambda" in text) == ("ppo" in arguments)
    assert ("--side-correction" in text) == ("udacity" in arguments)


def test_a_fourth_job_is_one_entry(monkeypatch, capsys, tmp_path):
    with pytest.raises(UserError, match="unknown agent 'search'"):
        train(["--agent", "search"])
    monkeypatch.setitem(JOBS, "search", TOY)
    text = help_of(["--agent", "search"], capsys)
    assert "--agent search --env CarRacing-v3: hands by random search" in text and "--tries" in text
    monkeypatch.chdir(tmp_path)
    train("--agent search --tries 3 --workers 1 --test-episodes 0".split())
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("CarRacing-v3-cfc-search-")
    output = capsys.readouterr().out
    assert "a toy of the tests" in output and "try 3/3" in output
    assert liquid_control.load_driver(folder / "best").core.neuron_count == 19
    job = checkpoint_record(SearchConfig(tries=3))["job"]
    words = "python -m liquid_control.train --agent search --env CarRacing-v3 --tries 3"
    assert training_command(job) == words
    assert find_job(job["agent"], job["env"]).tell(job) == "Found in 3 tries."


@pytest.mark.parametrize(
    "config", [TrainConfig(), TrainConfig(agent="clone"), RoadConfig(), RoadConfig(agent="clone"), PPOConfig()]
)
def test_the_words_of_a_card_choose_the_job_again(config):
    words = training_command(vars(config)).split()[3:]
    assert choose_job(words).config is type(config)


def test_a_job_is_chosen_by_hand_before_a_file(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("agent: ppo\n")
    assert choose_job(["--config", str(file)]).config is PPOConfig
    assert choose_job(["--config", str(file), "--agent", "dagger"]).config is TrainConfig
    assert choose_job(["--env=udacity"]).config is RoadConfig
    assert choose_job(["--env", UDACITY, "--agent", "clone"]).config is RoadConfig
    with pytest.raises(UserError, match="cannot read the config"):
        choose_job(["--config", str(tmp_path / "nowhere.yaml")])


def test_two_files_are_of_one_job_or_refused(tmp_path):
    texts = {"ppo": "agent: ppo\n", "clone": "agent: clone\n", "roads": "env: udacity\n"}
    texts |= {"race": "env: CarRacing-v3\n", "seed": "seed: 3\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    def chosen(*files, words=()):
        return choose_job([*(f"--config={tmp_path / name}" for name in files), *words]).config

    assert chosen("ppo", "seed") is chosen("seed", "ppo") is PPOConfig
    assert chosen("race", "ppo") is PPOConfig
    with pytest.raises(UserError, match=r"the config .*clone chooses another job .*, not --agent ppo --env"):
        chosen("ppo", "clone")
    with pytest.raises(UserError, match=r"--env CarRacing-v3, not --env udacity\. Give files of one job"):
        chosen("roads", "race")
    assert chosen("ppo", "clone", words=["--agent", "ppo"]) is PPOConfig


def test_jobs_share_their_common_options():
    for job in JOBS.values():
        config = JobConfig if job.drives else RunConfig
        shared = {field.name for field in dataclasses.fields(config)}
        assert issubclass(job.config, config) and issubclass(job.config, JobConfig) == job.drives
        assert job.config().agent in job.agents
        assert shared <= {field.name for field in dataclasses.fields(job.config)}

"""Learning from reward by the command, tiny: trains, resumes, drives, and says clearly what is wrong."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import liquid_control
from agents.dagger import TrainConfig
from agents.jobs import choose_job
from agents.ppo import PPOConfig, describe_driver, describe_vector
from liquid_control.report.card import training_command
from liquid_control.report.evaluation import evaluate
from liquid_control.support.command import parse
from liquid_control.train import PROGRAM
from liquid_control.train import main as train
from policies.driver import Driver, DriverConfig
from tests.commands.conftest import kill

TINY = (
    "--agent ppo --envs 2 --rollout 16 --sequence 8 --batch 16 --epochs 1 --round-updates 2 --validation-episodes 1 "
    "--validate-every 1 --test-episodes 0 --video False --workers 1 --device cpu --patience 4"
).split()


CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "ppo").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configs_in_git_are_of_this_release(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    config = parse(choose_job(["--config", str(path)]).config, ["--config", str(path)], PROGRAM)
    assert isinstance(config, PPOConfig)
    assert describe_driver(config).env == config.env
    assert config.rollout % config.sequence == 0 == (config.envs * config.rollout) % config.batch


@pytest.fixture(scope="module")
def car(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "car"
    train([*TINY, "--steps", "128", "--run", str(folder)])
    return folder


def test_a_run_leaves_a_driver_and_its_curves(car):
    driver = liquid_control.load_driver(car / "best")
    assert driver.core.neuron_count == 19 and driver.config.action_repeat == 4
    curves = EventAccumulator(str(car / "tensorboard"))
    curves.Reload()
    wanted = {
        "rollout/return", "rollout/laps", "train/approx_kl", "train/entropy_loss", "train/explained_variance",
        "time/steps_per_second", "validation/score", "validation/laps",
    }  # fmt: skip
    assert wanted <= set(curves.Tags()["scalars"])
    assert any(tag.startswith("neurons/") for tag in curves.Tags()["histograms"])
    record = json.loads((car / "last" / "config.json").read_text())["record"]
    assert record["decisions"] == 128 and record["frames"] == 512
    assert training_command(record["job"]).startswith("python -m liquid_control.train --agent ppo --env CarRacing-v3")


def test_the_checkpoint_is_evaluated_as_any_other(car):
    driver = liquid_control.load_driver(car / "last")
    (episode,) = evaluate(driver, [2_000_000], workers=1, env="liquid_control/FastCarRacing-v3").episodes
    assert np.isfinite(episode.score) and episode.steps > 0


def test_a_run_that_is_killed_goes_on_to_the_same_weights(car, tmp_path, python):
    folder = tmp_path / "killed"
    words = [python, "-m", "liquid_control.train", *TINY, "--steps", "128", "--run", str(folder)]
    process = subprocess.Popen(words)
    deadline = time.monotonic() + 120
    while not (folder / "state.safetensors").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    kill(process, folder)
    train(["--resume", str(folder)])
    whole, resumed = (load_file(path / "state.safetensors") for path in (car, folder))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert np.array_equal(value, resumed[name]), name


def test_any_vector_environment_is_learned_and_judged_by_its_own_scores(command, tmp_path):
    folder = tmp_path / "pole"
    status, out, err = command(
        train,
        *[
            *TINY, "--env", "CartPole-v1", "--hide-velocities", "--drop-frames", "0.2", "--steps", "64",
            "--test-episodes", "2", "--run", str(folder),
        ],
    )  # fmt: skip
    assert status == 0, err
    assert "CartPole-v1, 2 episodes" in out and "completed laps" not in out
    driver = liquid_control.load_driver(folder / "best")
    assert driver.act(np.zeros(4, np.float32)) in (0, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "CartPol-v1"], "cannot be made"),
        (["--policy", "cfx"], "did you mean 'cfc'"),
        (["--rollout", "20"], "must be a multiple of --sequence"),
        (["--policy-options", "neurons=x"], "takes int"),
        (["--init", "nowhere"], "nowhere"),
        (["--init", "CHOOSES", "--clone-weight", "1"], "--clone-weight is for commands"),
    ],
)
def test_what_is_wrong_is_one_line(command, tmp_path, words, message):
    if "CHOOSES" in words:
        vector, _ = describe_vector("CartPole-v1", False)
        Driver(DriverConfig("CartPole-v1", vector=vector)).save(tmp_path / "chooses")
        words = ["--env", "CartPole-v1", *(str(tmp_path / "chooses") if word == "CHOOSES" else word for word in words)]
    status, _, err = command(train, *TINY, "--steps", "32", "--run", tmp_path / "run", *words)
    assert status == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "run" / "best").exists()


def test_the_agent_settles_which_options_there_are(car, tmp_path):
    (tmp_path / "job.yaml").write_text("agent: ppo\n")
    assert choose_job([]).config is TrainConfig
    assert choose_job(["--agent", "clone"]).config is TrainConfig
    assert choose_job(["--seed", "1", "--agent=ppo"]).config is PPOConfig
    assert choose_job(["--config", str(tmp_path / "job.yaml")]).config is PPOConfig
    assert choose_job(["--resume", str(car)]).config is PPOConfig

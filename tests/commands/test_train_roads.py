"""Training a driver of the Udacity simulator, tiny: on roads, from recordings, resumed, and refused."""

import hashlib
import shutil

import pytest
import yaml

import liquid_control
from envs.udacity.recording import Recorder
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.simulator import record
from liquid_control.card import main as card
from liquid_control.report.road_evaluation import RoadEvaluation
from liquid_control.support.errors import UserError
from liquid_control.train import main as train

TINY = (
    "--env udacity --rounds 2 --expert-episodes 1 --learner-episodes 1 --seconds 3 --steps 2 --batch 4 --time 8 "
    "--validation-episodes 1 --test-episodes 0 --workers 1 --device cpu"
).split()


def digest(checkpoint):
    (path,) = checkpoint.glob("weights-*.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drive") / "lake"
    env = UdacityStandIn()
    env.reset(seed=0, options={"start": 0.0})
    with Recorder(folder) as recorder:
        record(env, recorder, 0.04, RoadExpert(15.0))
    return folder


@pytest.fixture(scope="module")
def on_roads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "roads"
    train([*TINY, "--run", str(folder), "--test-episodes", "1"])
    return folder


def test_a_run_leaves_a_driver_that_was_judged_on_other_roads(on_roads):
    driver = liquid_control.load_driver(on_roads / "best")
    assert driver.config.env == "liquid_control/Udacity-v0"
    assert driver.core.neuron_count == 19
    evaluation = RoadEvaluation.from_json((on_roads / "best" / "evaluation.json").read_text())
    assert {lap.speed for lap in evaluation.laps} == {15.0, 25.0}
    assert yaml.safe_load((on_roads / "config.yaml").read_text())["env"] == "liquid_control/Udacity-v0"


def test_a_card_tells_the_command_and_the_departures(on_roads, command):
    status, _, err = command(card, on_roads / "best")
    assert status == 0, err
    text = (on_roads / "best" / "README.md").read_text()
    assert "python -m liquid_control.train --env udacity" in text
    assert "departures in 1 laps at 15 miles an hour" in text
    assert "drive.py" in text
    assert (on_roads / "best" / "wiring.png").exists()


def test_an_interrupted_run_is_continued_to_the_same_weights(on_roads, tmp_path, monkeypatch):
    folder = tmp_path / "broken"

    def fail(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agents.road_dagger.RoadDagger._judge", fail)
        with pytest.raises(KeyboardInterrupt):
            train([*TINY, "--run", str(folder)])
    train(["--resume", str(folder)])
    assert digest(folder / "last") == digest(on_roads / "last")


def test_recordings_alone_are_learned_and_judged_by_the_rows_held_out(recorded, tmp_path, capsys):
    folder = tmp_path / "cloned"
    train([*TINY, "--agent", "clone", "--data", str(recorded), "--held-out", "0", "--run", str(folder)])
    assert "rows in 1 stretches" in capsys.readouterr().out
    assert (folder / "best" / "config.json").exists()
    assert not (folder / "shards").exists()


def test_a_driver_is_trained_on_from_a_checkpoint(on_roads, recorded, tmp_path):
    folder = tmp_path / "tuned"
    best = str(on_roads / "best")
    options = ["--agent", "clone", "--data", str(recorded), "--init", best, "--learning-rate", "0", "--rounds", "1"]
    train([*TINY, *options, "--run", str(folder)])
    assert digest(folder / "last") == digest(on_roads / "best")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--agent", "clone"], "give their folder with --data"),
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--agent", "ppo"], "supported are vectors, and the picture of CarRacing-v3"),
        (["--init", "checkpoints/CarRacing-v3/cfc"], "drives CarRacing-v3, not liquid_control/Udacity-v0"),
        (["--steps", "0"], "--steps must be at least 1"),
    ],
)
def test_what_cannot_be_is_said(options, why, tmp_path):
    tiny = TINY[:2] if "ppo" in options else TINY
    arguments = [*tiny, "--run", str(tmp_path / "run"), *options]
    with pytest.raises(UserError, match=why):
        train(arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (None, r"1 missing images, such as center\.jpg"),
        (b"\xff\xd8\xff\xd9", r"1 unreadable images .such as center\.jpg"),
    ],
    ids=["missing", "unreadable"],
)
def test_recordings_without_a_picture_that_can_be_read_leave_no_run_behind(picture, why, tmp_path):
    (tmp_path / "driving_log.csv").write_text("center.jpg,,,0,0,0,0\n")
    if picture is not None:
        (tmp_path / "center.jpg").write_bytes(picture)
    with pytest.raises(UserError, match=why):
        train([*TINY, "--data", str(tmp_path), "--run", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("run", [".", "below"])
def test_a_run_inside_what_it_begins_from_is_refused_before_anything_is_written(on_roads, run, tmp_path):
    init = tmp_path / "driver"
    shutil.copytree(on_roads / "best", init)
    before = sorted(init.rglob("*"))
    with pytest.raises(
        UserError, match=r"the run folder .* lies in .*driver, which the run begins from .* another folder\."
    ):
        train([*TINY, "--init", str(init), "--run", str(init / run)])
    assert sorted(init.rglob("*")) == before

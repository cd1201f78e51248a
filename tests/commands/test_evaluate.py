"""``evaluate``: what it scores is what the official environment pays, whoever drives it and however many at once."""

import dataclasses
import json
import signal
import subprocess
import time

import gymnasium
import pytest

from agents.episodes import Episode
from agents.pool import RolloutPool
from envs.registration import FAST, TEST_SEEDS
from liquid_control import load_driver
from liquid_control.evaluate import main
from liquid_control.report.evaluation import Evaluation, evaluate
from liquid_control.support.checkpoint import CONFIG_NAME
from liquid_control.support.errors import UserError
from liquid_control.support.statistics import summarize


def drive_by_hand(driver, seed):
    """The official environment and the driver's public door, nothing else."""
    env = gymnasium.make("CarRacing-v3")
    observation, _ = env.reset(seed=seed)
    driver.reset()
    score, steps, off_road, ended = 0.0, 0, 0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(driver.act(observation))
        score, steps, ended = score + reward, steps + 1, terminated or truncated
        off_road += all(len(wheel.tiles) == 0 for wheel in env.unwrapped.car.wheels)
    tiles = sum(tile.road_visited for tile in env.unwrapped.road) / len(env.unwrapped.road)
    env.close()
    return {
        "seed": seed,
        "score": pytest.approx(score, abs=1e-9),
        "steps": steps,
        "lap": False,
        "tiles": tiles,
        "off_road": pytest.approx(off_road / steps),
    }


def test_the_official_environment_is_scored_and_written_down(checkpoint, command):
    status, output, _ = command(main, checkpoint, "--episodes", "1", "--workers", "1")
    written = json.loads((checkpoint / "evaluation.json").read_text())
    assert status == 0
    assert written["env"] == "CarRacing-v3"
    assert written["weights"] == json.loads((checkpoint / CONFIG_NAME).read_text())["sha256"]
    assert written["versions"]["gymnasium"] == gymnasium.__version__
    assert written["episodes"] == [drive_by_hand(load_driver(checkpoint), TEST_SEEDS)]
    summary = summarize([row["score"] for row in written["episodes"]])
    assert written["summary"]["iqm"] == summary.iqm
    score = f"{summary.mean:.1f} ± {summary.std:.1f}"
    for shown in (score, f"{summary.minimum:.1f}", "0/1", "19 neurons", "CarRacing-v3"):
        assert shown in output


def test_the_result_does_not_depend_on_the_number_of_workers(checkpoint):
    driver, seeds = load_driver(checkpoint), range(TEST_SEEDS, TEST_SEEDS + 3)
    seen = []
    one, two = (evaluate(driver, seeds, workers, FAST, done) for workers, done in ((1, seen.append), (2, None)))
    assert [episode.seed for episode in seen] == list(seeds)
    for alone, together in zip(one.episodes, two.episodes, strict=True):
        assert [getattr(alone, name) for name in ("seed", "score", "steps", "tiles", "off_road")] == [
            getattr(together, name) for name in ("seed", "score", "steps", "tiles", "off_road")
        ]


@pytest.mark.parametrize(("arguments", "workers"), [((), 3), (("--workers", "2"), 2)])
def test_every_processor_drives_unless_another_number_is_asked_for(
    arguments, workers, checkpoint, command, monkeypatch
):
    asked = []

    class Pool(RolloutPool):
        def __init__(self, workers):
            asked.append(workers)
            super().__init__(1)

    monkeypatch.setattr("liquid_control.evaluate.processor_count", lambda: 3)
    monkeypatch.setattr("liquid_control.report.evaluation.RolloutPool", Pool)
    status, _, _ = command(main, checkpoint, "--episodes", "3", "--env", FAST, *arguments)
    assert (status, asked) == (0, [workers])


@pytest.mark.parametrize("env", [FAST, f"envs:{FAST}"])
def test_a_score_from_another_environment_does_not_take_the_place_of_the_official_one(env, checkpoint, command):
    (checkpoint / "evaluation.json").write_text("official")
    status, _, _ = command(main, checkpoint, "--episodes", "1", "--workers", "1", "--env", env)
    assert status == 0
    assert (checkpoint / "evaluation.json").read_text() == "official"
    assert json.loads((checkpoint / "evaluation-FastCarRacing-v3.json").read_text())["env"] == env


def evaluation_of(*episodes):
    about = {"env": "CarRacing-v3", "driver": "a driver", "weights": "0" * 64}
    return Evaluation(**about, episodes=episodes, seconds=1.0, versions={"torch": "2"})


def test_the_summary_counts_laps_and_weighs_the_time_off_the_road_by_steps():
    summary = evaluation_of(
        Episode(seed=1, score=900.0, steps=900, lap=True, tiles=1.0, off_road=0.0),
        Episode(seed=2, score=100.0, steps=100, lap=False, tiles=0.5, off_road=0.5),
    ).summary()
    assert (summary["laps"], summary["episodes"], summary["tiles"], summary["steps"]) == (1, 2, 0.75, 500)
    assert summary["off_road"] == pytest.approx(0.05)


def test_an_evaluation_survives_its_file():
    evaluation = evaluation_of(Episode(seed=1, score=900.5, steps=900, lap=True, tiles=1.0, off_road=0.01))
    again = Evaluation.from_json(evaluation.to_json())
    assert again.summary() == evaluation.summary()
    assert dataclasses.replace(again, episodes=()) == dataclasses.replace(evaluation, episodes=())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"episodes": [], "env": "x"}', '{"episodes": [{"seed": 1}]}'])
def test_a_file_that_is_no_evaluation_is_refused(text):
    with pytest.raises(UserError, match="no evaluation"):
        Evaluation.from_json(text)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("versions",), None),
        (("seconds",), "soon"),
        (("env",), {}),
        (("episodes", 0, "score"), "much"),
        (("episodes", 0, "score"), 10**400),
        (("episodes", 0, "score"), float("inf")),
        (("episodes", 0, "tiles"), float("nan")),
        (("episodes", 0, "steps"), -5),
        (("episodes", 0, "seed"), "first"),
        (("episodes", 0, "lap"), 7),
        (("episodes", 0), 3),
        (("episodes",), []),
    ],
)
def test_a_file_with_something_else_in_a_place_is_refused(place, value):
    content = json.loads(evaluation_of(Episode(1, 900.5, 900, True, 1.0, 0.01)).to_json())
    inside = content
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    with pytest.raises(UserError):
        Evaluation.from_json(json.dumps(content))


def test_a_file_that_is_nested_too_deep_is_refused():
    with pytest.raises(UserError, match="no evaluation"):
        Evaluation.from_json("[" * 100_000)


def test_a_broken_checkpoint_is_one_line_and_status_2(broken_checkpoint, command):
    checkpoint, message = broken_checkpoint
    status, _, errors = command(main, checkpoint)
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "CarRacing-v4"], "did you mean 'CarRacing-v3'?"),
        (["--env", "liquid_control/FastCarRacing"], "did you mean 'liquid_control/FastCarRacing-v3'?"),
        (["--env", "nowhere:CarRacing-v3"], "cannot be made (No module named 'nowhere')"),
        (["--env", "CartPole-v1"], "this driver sees observations of shape (96, 96, 3)"),
        (["--episodes", "0"], "--episodes must be at least 1, not 0"),
        (["--workers", "0"], "--workers must be at least 1 and at most 1024, not 0"),
        (["--output", "/dev/null/evaluation.json"], "cannot write /dev/null/evaluation.json"),
        (["--output", "scores.csv"], "should be a .json file"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_driven(
    arguments, message, checkpoint, command, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (checkpoint / "evaluation.json").write_text("earlier")
    status, _, errors = command(main, checkpoint, *arguments)
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors
    assert (checkpoint / "evaluation.json").read_text() == "earlier"


def test_an_unknown_option_is_explained_with_the_nearest_one(checkpoint, command):
    status, output, errors = command(main, checkpoint, "--episode", "3")
    assert status == 2
    assert "--episodes" in output + errors


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_who_stops_it_sees_no_traceback_and_keeps_the_earlier_scores(checkpoint, number, status, python):
    (checkpoint / "evaluation.json").write_text("earlier")
    process = subprocess.Popen(
        [python, "-m", "liquid_control.evaluate", str(checkpoint), "--episodes", "500", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "19 neurons" in process.stdout.readline()
    time.sleep(1.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "stopped.\n")
    assert (checkpoint / "evaluation.json").read_text() == "earlier"

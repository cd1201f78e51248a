"""The checkpoints in git are what their cards say: they load, they were the ones evaluated, and they drive."""

import json
from pathlib import Path

import pytest
import yaml

from agents.episodes import Conditions, EpisodePlan, drive_episode
from agents.road_rollout import judge_road
from envs.registration import VALIDATION_SEEDS
from liquid_control.report.card import write_card
from liquid_control.report.evaluation import Evaluation
from liquid_control.report.road_evaluation import RoadEvaluation
from policies.driver import load_driver

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SHIPPED = sorted(path.parent for path in (CHECKPOINTS / "CarRacing-v3").glob("*/config.json"))
ON_ROADS = sorted(path.parent for path in (CHECKPOINTS / "Udacity").glob("*/config.json"))


def test_the_liquid_drivers_are_shipped():
    assert {"cfc", "ltc", "cfc-ppo"} <= {folder.name for folder in SHIPPED}
    assert {"cfc", "lan"} <= {folder.name for folder in ON_ROADS}


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_score_is_of_these_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    evaluation = Evaluation.from_json((folder / "evaluation.json").read_text())
    assert evaluation.weights == config["sha256"]
    assert evaluation.env == "CarRacing-v3"
    assert len(evaluation.episodes) == 100
    assert f"{evaluation.summary()['mean']:.1f}" in (folder / "README.md").read_text()
    assert (
        json.loads(evaluation.to_json())["summary"] == json.loads((folder / "evaluation.json").read_text())["summary"]
    )


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_it_drives(folder):
    driver = load_driver(folder)
    assert driver.parameter_counts()["total"] <= (50_000 if folder.name == "hybrid" else 20_000)
    job = json.loads((folder / "config.json").read_text())["record"]["job"]
    taught = job["agent"] != "ppo" or job["init"]
    episodes = [drive_episode(driver, EpisodePlan(VALIDATION_SEEDS + 500 + index), Conditions()) for index in range(3)]
    if taught:
        assert all(episode.lap for episode in episodes)
        assert min(episode.score for episode in episodes) > 900
    else:  # from reward alone: it misses a tile now and then
        assert min(episode.tiles for episode in episodes) >= 0.9
        assert min(episode.score for episode in episodes) > 800


@pytest.mark.parametrize("folder", ON_ROADS, ids=lambda folder: folder.name)
def test_the_laps_are_of_these_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    evaluation = RoadEvaluation.from_json((folder / "evaluation.json").read_text())
    assert evaluation.weights == config["sha256"]
    assert {lap.speed for lap in evaluation.laps} == {15.0, 25.0}
    slow, _ = evaluation.summary()
    assert (slow["laps"], slow["departures"]) == (10, 0)
    assert "0 departures in 10 laps at 15 miles an hour" in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", ON_ROADS, ids=lambda folder: folder.name)
def test_it_keeps_to_a_road_in_any_weather(folder):
    driver = load_driver(folder)
    assert driver.core.neuron_count == 19
    assert driver.parameter_counts()["total"] <= 20_000
    for track, weather in ((2_000_500, "clear"), (2_000_501, "fog")):
        judged = judge_road(driver, str(track), 15.0, laps=0.25, weather=weather)
        assert judged.departures == 0
        assert judged.farthest < 3.9


def test_the_config_of_shipped_drivers_is_that_of_those_which_it_names():
    path = Path(__file__).parent.parent / "configs/car_racing_shipped.yaml"
    first, config = path.read_text().partition("\n")[0], yaml.safe_load(path.read_text())
    before = {"variety": "none", "encoding": "rgb"}  # there was nothing else when older drivers were trained
    jobs = {
        folder.name: before | json.loads((folder / "config.json").read_text())["record"]["job"] for folder in SHIPPED
    }
    made_so = {name for name, job in jobs.items() if all(job.get(option) == config[option] for option in config)}
    assert made_so == {name for name in jobs if name in first.split()}


@pytest.mark.parametrize("folder", [*SHIPPED, *ON_ROADS], ids=lambda folder: f"{folder.parent.name} {folder.name}")
def test_the_card_is_what_the_checkpoint_says(folder, monkeypatch):
    folder = folder.relative_to(CHECKPOINTS.parent)
    kind, written = Evaluation if folder.parent.name == "CarRacing-v3" else RoadEvaluation, {}
    monkeypatch.chdir(CHECKPOINTS.parent)
    monkeypatch.setattr("liquid_control.report.card.write_atomically", written.__setitem__)
    write_card(folder, load_driver(folder), kind.from_json((folder / "evaluation.json").read_text()))
    assert written == {folder / "README.md": (folder / "README.md").read_text()}

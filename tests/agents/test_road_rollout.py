"""Drives on the stand-in's roads, how they are scored, and laps that judge."""

import numpy as np
import pytest
import torch

from agents.demonstrations import read_shard
from agents.pool import RolloutPool
from agents.road_rollout import RoadJudgement, RoadPlan, drive_road, judge_road, record_road
from envs.registration import UDACITY
from liquid_control.report.road_evaluation import RoadEvaluation, evaluate_on_roads, unseen_tracks
from policies.compiled import CompiledDriver
from policies.driver import Driver, DriverConfig


def steering_driver(steering=0.0):
    torch.manual_seed(0)
    driver = Driver(DriverConfig(env=UDACITY)).eval()
    with torch.no_grad():
        driver.hands.gain.zero_()
        driver.hands.offset.fill_(steering)
    return driver


SHORT = RoadPlan(track=150, seconds=6.0, record=True)


def test_the_expert_keeps_to_the_middle_and_is_scored_near_a_hundred():
    episode = drive_road(steering_driver(), RoadPlan(track=150, seconds=12.0, expert_share=1.0, record=True))
    assert episode.lap
    assert not episode.terminated
    assert episode.score > 85
    assert 0.9 < episode.tiles <= 1
    assert episode.off_road == 0
    np.testing.assert_array_equal(episode.actions, episode.labels)


def test_the_way_of_who_drives_past_the_end_is_all_of_it():
    episode = drive_road(steering_driver(), RoadPlan(track=152, seconds=40.0, speed=8.0, expert_share=1.0))
    assert episode.tiles == 1.0


def test_who_turns_away_leaves_the_road_and_is_scored_by_the_way_he_came():
    episode = drive_road(steering_driver(0.5), RoadPlan(track=150, seconds=60.0))
    assert episode.terminated
    assert not episode.lap
    assert 0 < episode.tiles < 0.2
    assert episode.score < 20
    assert episode.off_road > 0


def test_the_label_is_the_expert_s_and_the_action_the_driver_s():
    episode = drive_road(steering_driver(0.1), SHORT)
    assert episode.images.shape[1:] == (25, 97, 3)
    assert episode.gauges.shape == (episode.steps, 0)
    np.testing.assert_allclose(episode.actions, 0.1, atol=1e-6)
    assert episode.labels[-1] < episode.labels[0] < 0.1  # the farther to the right, the more to the left


def test_times_are_uneven_and_in_the_driver_s_steps():
    elapsed = drive_road(steering_driver(), SHORT).elapsed
    assert elapsed[0] == 1.0
    assert set(np.round(elapsed[1:] / 15 / 0.02).astype(int)) == {3, 4, 5, 6}


def test_a_push_moves_the_wheel_but_not_the_label():
    plan = RoadPlan(track=151, seconds=25.0, expert_share=1.0, disturbed=True, record=True)
    episode = drive_road(steering_driver(), plan)
    pushed = np.abs(episode.actions - episode.labels)[:, 0] > 0.1
    assert 0.02 < pushed.mean() < 0.4
    assert episode.lap


def test_the_same_plan_is_the_same_drive_and_a_shard_keeps_it(tmp_path):
    driver = steering_driver(0.05)
    first = drive_road(driver, SHORT)
    record_road(driver, SHORT, tmp_path / "drive.npz")
    (again,) = read_shard(tmp_path / "drive.npz", UDACITY, (25, 97, 3))
    for name in ("images", "labels", "actions", "elapsed"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    assert again.score == first.score


# Laps that judge


def test_who_leaves_the_road_is_put_back_and_counted():
    judged = judge_road(steering_driver(0.3), "150", 15.0, laps=0.1)
    assert judged.departures >= 2
    assert judged.touches == judged.departures
    assert judged.autonomy < 90
    assert judged.farthest > 5.5


def test_autonomy_takes_a_departure_as_six_seconds():
    judged = RoadJudgement("150", 15.0, "clear", 1.0, seconds=600.0, departures=2)
    assert judged.autonomy == pytest.approx(98.0)


def test_an_evaluation_is_the_same_with_one_process_or_two_and_survives_its_file():
    driver, tracks = steering_driver(0.2), unseen_tracks(2)
    one, two = (evaluate_on_roads(driver, tracks, workers, speeds=(10.0,), laps=0.03) for workers in (1, 2))
    assert one.laps == two.laps
    again = RoadEvaluation.from_json(one.to_json())
    assert again == one.__class__(**{**one.__dict__, "seconds": round(one.seconds, 1)})
    (numbers,) = one.summary()
    assert numbers["departures"] == sum(lap.departures for lap in one.laps)
    assert one.rows()[0][0] == "10 mph, 0.06 laps"


def test_results_come_in_the_order_of_what_was_asked():
    with RolloutPool(1) as pool:
        count = []
        assert pool.map(divmod, [(7, 2), (9, 4)], lambda: count.append(1)) == [(3, 1), (2, 1)]
    assert len(count) == 2


def test_a_judged_driver_sees_the_road_under_shifts(monkeypatch):
    seen = []
    act = CompiledDriver.act

    def look(self, observation, elapsed=None):
        seen.append(float(observation["image"].mean()))
        return act(self, observation, elapsed)

    monkeypatch.setattr(CompiledDriver, "act", look)
    clean, dark = (judge_road(steering_driver(0.0), "150", 15.0, laps=0.01, shifts=shifts) for shifts in ("", "dark:5"))
    middle = len(seen) // 2
    assert clean == dark  # who looks at nothing drives the same
    assert sum(seen[middle:]) < 0.3 * sum(seen[:middle])

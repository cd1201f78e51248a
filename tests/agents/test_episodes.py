"""Episodes are the environment's own, whoever drives them, wherever and with however many others beside."""

import os
import signal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.box2d.car_racing import CarRacing

from agents.augmentation import HELD_OUT
from agents.episodes import Conditions, Episode, EpisodePlan, drive_episode
from agents.pool import RolloutPool
from envs.car_racing.expert import Expert
from envs.registration import FAST, OFFICIAL
from liquid_control.support.errors import UserError
from policies.compiled import CompiledDriver
from policies.driver import Driver, DriverConfig


@pytest.fixture(scope="module")
def driver():
    torch.manual_seed(0)
    return Driver(DriverConfig()).eval()


def test_a_varied_episode_shows_other_pictures_and_keeps_those_that_were(driver):
    conditions = Conditions(record=True, leash=3, variety=HELD_OUT)
    plain = drive_episode(driver, EpisodePlan(3), conditions)
    varied, again = (drive_episode(driver, EpisodePlan(3, varied=True), conditions) for _ in range(2))
    np.testing.assert_array_equal(varied.images[0], plain.images[0])
    assert (varied.actions[0] != plain.actions[0]).any(), "the driver saw the same picture"
    np.testing.assert_array_equal(varied.actions, again.actions)
    judged = drive_episode(driver, EpisodePlan(3, varied=True), Conditions(leash=3, variety=HELD_OUT))
    assert same(judged, varied)


@pytest.fixture(scope="module")
def reckless():
    """Full throttle and a little to the right: off the road in the first turn."""
    driver = Driver(DriverConfig()).eval()
    torch.nn.init.zeros_(driver.hands.gain)
    driver.hands.offset.data = torch.tensor([0.02, 1.0, 0.0])
    return driver


def same(one: Episode, other: Episode) -> bool:
    return (one.seed, one.score, one.steps, one.lap, one.tiles) == (
        other.seed, other.score, other.steps, other.lap, other.tiles,
    )  # fmt: skip


def test_the_expert_completes_its_lap_and_labels_what_it_did(driver):
    episode = drive_episode(driver, EpisodePlan(3, expert_share=1.0), Conditions(record=True, leash=20))
    assert episode.lap
    assert episode.terminated
    assert episode.tiles == 1.0
    assert episode.score > 880
    assert episode.score == pytest.approx(episode.rewards.sum(), abs=1e-2)
    np.testing.assert_array_equal(episode.actions, episode.labels)
    assert episode.images.shape == (episode.steps, 28, 32, 3)
    assert episode.gauges[100:, 0].mean() > 0.5  # speed, in units of 50


def test_a_drive_is_the_environments_own_episode(driver):
    driver.hands.offset.data = torch.tensor([0.0, 0.5, 0.0])
    episode = drive_episode(driver, EpisodePlan(11), Conditions(leash=20.0))
    env, expert, score, steps = gymnasium.make(FAST, disable_env_checker=True), Expert(), 0.0, 0
    observation, _ = env.reset(seed=11)
    expert.reset(env)
    compiled = driver.compile_step()
    while True:
        observation, reward, terminated, truncated, _ = env.step(compiled.act(observation))
        score, steps = score + float(reward), steps + 1
        if terminated or truncated or expert.off_road_distance(env) > 20:
            break
    assert (episode.steps, episode.score) == (steps, score)


def test_what_nobody_looks_at_is_not_drawn_and_changes_nothing(monkeypatch):
    torch.manual_seed(1)
    driver = Driver(DriverConfig(action_repeat=4)).eval()
    driver.hands.offset.data = torch.tensor([0.0, 0.5, 0.0])
    env, expert, compiled = gymnasium.make(OFFICIAL, disable_env_checker=True), Expert(), driver.compile_step()
    observation, _ = env.reset(seed=11)
    expert.reset(env)
    score, actions, strayed = 0.0, [], False
    while not strayed:
        actions.append(compiled.act(observation).copy())
        observation, reward, *_ = env.step(actions[-1])
        score += float(reward)
        strayed = expert.off_road_distance(env) > 5
    drawn = []
    render = CarRacing._render
    monkeypatch.setattr(CarRacing, "_render", lambda env, mode: drawn.append(mode) or render(env, mode))
    episode = drive_episode(driver, EpisodePlan(11), Conditions(env=OFFICIAL, leash=5.0))
    assert (episode.score, episode.steps) == (score, len(actions))
    assert episode.steps // 4 <= len(drawn) <= episode.steps // 4 + 3
    assert len({tuple(action) for action in actions}) > 5


def test_disturbed_actions_differ_from_the_labels_in_bursts(driver):
    episode = drive_episode(driver, EpisodePlan(3, expert_share=1.0, disturbed=True), Conditions(record=True, leash=20))
    disturbed = (episode.actions != episode.labels).any(1).mean()
    assert 0.05 < disturbed < 0.5


def test_the_leash_ends_an_episode(reckless):
    tight = drive_episode(reckless, EpisodePlan(11), Conditions(leash=8.0))
    long = drive_episode(reckless, EpisodePlan(11), Conditions(leash=30.0))
    assert not tight.terminated
    assert tight.steps < long.steps < 1000
    assert tight.off_road < long.off_road


def test_the_result_does_not_depend_on_workers(reckless):
    plans = [EpisodePlan(seed, expert_share=0.3) for seed in (1, 2, 3)]
    conditions = Conditions(leash=12)
    here = [drive_episode(reckless, plan, conditions) for plan in plans]
    assert len({episode.score for episode in here}) == 3
    with RolloutPool(2) as pool:
        done = []
        assert all(map(same, here, pool.drive(reckless, plans, conditions, done.append)))
        assert sorted(episode.seed for episode in done) == [1, 2, 3]


def test_a_process_that_dies_is_named(driver):
    with RolloutPool(1) as pool, pytest.raises(UserError, match="a rollout process died"):
        pool.map(os.kill, [(pool.map(os.getpid, [()])[0], signal.SIGKILL)])


def test_no_workers_is_refused():
    with pytest.raises(UserError, match="at least 1, not 0"):
        RolloutPool(0)


@pytest.mark.parametrize(("drop_frames", "jitter"), [(0.5, 0), (0.0, 2)])
def test_a_recording_with_uneven_time_tells_the_time_of_every_image(drop_frames, jitter, driver):
    conditions = Conditions(record=True, leash=20, drop_frames=drop_frames, jitter=jitter)
    episode = drive_episode(driver, EpisodePlan(3, expert_share=1.0), conditions)
    assert len(episode.elapsed) == episode.steps == len(episode.images) > 20
    assert episode.elapsed.dtype == np.float32 and len(set(episode.elapsed.tolist())) > 1


def test_a_recording_with_even_time_has_no_times(driver):
    episode = drive_episode(driver, EpisodePlan(3, expert_share=1.0), Conditions(record=True, leash=3))
    assert episode.elapsed.size == 0


def test_a_shift_changes_what_is_seen_and_neither_the_track_nor_the_next_drive_without(reckless):
    plan, clean = EpisodePlan(5, traced=True), Conditions()
    before = drive_episode(reckless, plan, clean)
    shifted = drive_episode(reckless, plan, Conditions(shifts="gaussian:5"))  # who does not look drives the same
    assert same(before, shifted)
    np.testing.assert_array_equal(before.way, shifted.way)
    seen = [drive_episode(reckless, plan, Conditions(record=True, shifts=text)).images for text in ("", "dark:3")]
    assert seen[1].mean() < 0.8 * seen[0].mean()
    assert same(before, drive_episode(reckless, plan, clean))


def test_the_driver_is_told_how_much_time_has_passed(driver, monkeypatch):
    told = []
    act = CompiledDriver.act

    def listen(self, observation, elapsed=None):
        told.append(elapsed)
        return act(self, observation, elapsed)

    monkeypatch.setattr(CompiledDriver, "act", listen)
    for shifts, expected in (
        ("", {None}),
        ("rain:1", {None}),
        ("jitter:1", {1.0, 2.0}),
        ("jitter_untold:1", {None}),
    ):
        told.clear()
        drive_episode(driver, EpisodePlan(6), Conditions(shifts=shifts))
        assert set(told) == expected, shifts


def test_where_the_car_was_is_kept_where_it_is_asked_for(reckless):
    assert drive_episode(reckless, EpisodePlan(5), Conditions()).way.shape == (0, 2)
    episode = drive_episode(reckless, EpisodePlan(5, traced=True), Conditions())
    assert episode.way.shape == (episode.steps // 10, 2)
    env = gymnasium.make(FAST, disable_env_checker=True)
    env.reset(seed=5)
    assert np.hypot(*(episode.way[0] - env.unwrapped.car.hull.position)) < 10


def test_many_drivers_share_processes_and_none_of_their_episodes_depends_on_it(driver, reckless):
    drives = [
        (each, EpisodePlan(seed), Conditions(shifts=shifts, leash=5.0))
        for shifts in ("", "friction:3", "colour:5")
        for each in (driver, reckless)
        for seed in (5, 6)
    ]
    alone = [drive_episode(*drive) for drive in drives]
    with RolloutPool(2) as pool:
        shared = dict(pool.map_as_completed(drive_episode, iter(drives)))
    assert sorted(shared) == list(range(len(drives)))
    assert all(same(alone[index], episode) for index, episode in shared.items())

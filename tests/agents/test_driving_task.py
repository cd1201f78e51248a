import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from agents.driving_task import DrivingTask, TaskConfig
from policies.driver import DriverConfig

CAR = DriverConfig(pedals=True, action_repeat=4)


def test_giving_up_ends_the_episode_and_costs_the_frames_that_are_left():
    task = DrivingTask(TaskConfig(CAR, patience=5))
    task.reset(seed=0)
    rewards = [task.step(np.array([0, -1], np.float32)) for _ in range(8)][:8]
    ended = [step[2] for step in rewards]
    # The first step pays for the tiles at the start; five without a reward follow.
    assert ended.index(True) == 5
    assert rewards[5][1] == pytest.approx(-0.4 - 0.1 * (1000 - 24))


def test_patience_of_zero_never_gives_up():
    task = DrivingTask(TaskConfig(CAR))
    task.reset(seed=0)
    assert not any(task.step(np.array([0, -1], np.float32))[2] for _ in range(40))


def test_for_a_critic_that_sees_the_clock_the_end_of_the_race_is_the_end():
    ends = {}
    for privileged in (False, True):
        task = DrivingTask(TaskConfig(replace(CAR, action_repeat=50), privileged=privileged))
        task.reset(seed=0)
        *_, (seen, _, *ends[privileged], _) = (task.step(np.array([0, -1], np.float32)) for _ in range(20))
        assert task.observation_space.contains(seen)
    assert ends == {False: [False, True], True: [True, True]}
    assert seen["privileged"][1] == 1


def test_episodes_are_settled_by_the_seed_and_stay_below_the_validation_seeds(monkeypatch):
    task, seeds = DrivingTask(TaskConfig(CAR)), []
    inner = task.env.reset
    monkeypatch.setattr(task.env, "reset", lambda **kwargs: seeds.append(kwargs["seed"]) or inner(**kwargs))
    for seed in (1, None, None, 1, None):
        task.reset(seed=seed)
    assert seeds[:2] == seeds[3:] and len(set(seeds)) == 3
    assert all(0 <= seed < 1_000_000 for seed in seeds)


def test_the_score_never_passes():
    task = DrivingTask(TaskConfig(CAR))
    seen, _ = task.reset(seed=0)
    assert seen["image"].shape == (28 * 32 * 3,) and seen["gauges"].shape == (7,)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda task: pickle.loads(pickle.dumps(task))], ids=["copy", "pickle"])
def test_a_copy_of_a_task_drives_like_the_original(way):
    task = DrivingTask(TaskConfig(CAR, privileged=True, drop_frames=0.4, jitter=1))
    task.reset(seed=1)
    task.step(task.action_space.low)
    twin = way(task)
    start, beside = task.reset(seed=2)[0], twin.reset(seed=2)[0]
    for _ in range(4):
        np.testing.assert_equal(beside, start)
        start, reward, *_ = task.step(task.action_space.high)
        beside, other, *_ = twin.step(task.action_space.high)
        assert reward == other


def test_hidden_velocities_and_elapsed_time_are_part_of_what_is_seen():
    driver = DriverConfig(env="CartPole-v1", vector={"size": 4, "observed": (0, 2), "choices": 2})
    task = DrivingTask(TaskConfig(driver, drop_frames=0.5))
    seen, _ = task.reset(seed=0)
    assert seen["gauges"].shape == (2,) and seen["elapsed"] == 1
    assert task.observation_space.contains(seen)


def test_a_critic_may_see_the_velocities_that_the_driver_does_not():
    driver = DriverConfig(env="Pendulum-v1", vector={"size": 3, "observed": (0, 1), "low": [-2], "high": [2]})
    task = DrivingTask(TaskConfig(driver, privileged=True))
    seen, _ = task.reset(seed=0)
    assert task.observation_space.contains(seen)
    whole = task.unwrapped._get_obs()
    np.testing.assert_allclose(seen["privileged"], whole / [1, 1, 8], rtol=1e-6)
    np.testing.assert_allclose(seen["gauges"], whole[:2], rtol=1e-6)


def test_an_action_lasts_several_steps_and_their_rewards_are_summed():
    driver = DriverConfig(env="CartPole-v1", vector={"size": 4, "choices": 2}, action_repeat=4)
    task = DrivingTask(TaskConfig(driver))
    single = DrivingTask(TaskConfig(replace(driver, action_repeat=1)))
    seen, alone = task.reset(seed=0)[0], single.reset(seed=0)[0]
    np.testing.assert_array_equal(seen["gauges"], alone["gauges"])
    total, terminated = 0.0, False
    while not terminated:
        seen, reward, terminated, _, _ = task.step(1)
        steps = [single.step(1) for _ in range(int(reward))]
        np.testing.assert_array_equal(seen["gauges"], steps[-1][0]["gauges"])
        assert reward == 4 or terminated
        total += reward
    assert steps[-1][2], "the episode ended within the last action"
    assert total % 4, "which was not held to its end"

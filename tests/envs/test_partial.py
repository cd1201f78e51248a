import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.partial import VELOCITIES, HideVelocities, IrregularTime, positions


@pytest.mark.parametrize("name", sorted(VELOCITIES))
def test_what_is_hidden_changes_when_the_same_place_is_passed_at_another_speed(name):
    env = HideVelocities(gymnasium.make(name))
    observation, _ = env.reset(seed=0)
    full = gymnasium.make(name)
    whole, _ = full.reset(seed=0)
    assert len(observation) == len(whole) - len(VELOCITIES[name])
    np.testing.assert_array_equal(observation, np.delete(whole, VELOCITIES[name]))
    assert env.observation_space.contains(observation)


def test_an_unknown_environment_is_refused():
    with pytest.raises(ValueError, match="only in a vector"):
        HideVelocities(gymnasium.make("FrozenLake-v1"))
    with pytest.raises(ValueError, match="known only for"):
        positions("Ant-v5", 27)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_irregular_time_keeps_gymnasiums_contract():
    check_env(IrregularTime(gymnasium.make("MountainCarContinuous-v0").unwrapped, 0.3, 2), skip_render_check=True)


def test_elapsed_counts_every_step_and_rewards_are_their_sum():
    env, plain = IrregularTime(gymnasium.make("Pendulum-v1"), drop=0.4, jitter=1), gymnasium.make("Pendulum-v1")
    env.reset(seed=3)
    plain.reset(seed=3)
    action, steps = np.array([0.5], np.float32), []
    for _ in range(200):
        seen, reward, _, truncated, _ = env.step(action)
        steps.append(int(seen["elapsed"][0]))
        expected = 0.0
        for _ in range(steps[-1]):
            observation, part, *_ = plain.step(action)
            expected += float(part)
        assert reward == pytest.approx(expected)
        np.testing.assert_array_equal(seen["obs"], observation)
        if truncated:
            break
    assert sum(steps) == 200, "the episode is as long as ever"
    assert len(set(steps)) > 2


def test_nothing_lost_and_never_late_is_the_environment_itself():
    env = IrregularTime(gymnasium.make("CartPole-v1"))
    assert env.reset(seed=0)[0]["elapsed"] == 1
    assert all(env.step(0)[0]["elapsed"] == 1 for _ in range(5))


def test_an_observation_is_lost_as_often_as_was_asked():
    env = IrregularTime(gymnasium.make("Pendulum-v1", max_episode_steps=20_000), drop=0.25)
    env.reset(seed=0)
    gaps = np.array([env.step(np.zeros(1, np.float32))[0]["elapsed"][0] for _ in range(4000)])
    assert gaps.mean() == pytest.approx(1 / (1 - 0.25), abs=0.03)


@pytest.mark.parametrize("options", [{"drop": 1.0}, {"drop": -0.1}, {"jitter": -1}])
def test_a_gap_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        IrregularTime(gymnasium.make("CartPole-v1"), **options)

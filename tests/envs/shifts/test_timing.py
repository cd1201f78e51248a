"""How long between two observations, who is told, and what the car does meanwhile."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from envs.registration import STAND_IN
from envs.shifts import apply_shifts
from envs.shifts.timing import Delay, Dropped, Jitter, RateFast, RateSlow
from tests.envs.shifts.conftest import actions, car_state, make

TOLD = ["dropped", "jitter", "rate_slow"]
GAS = np.array([0.1, 0.5, 0.0], np.float32)


def elapsed_of(text, steps=40, seed=3):
    env = make(text)
    _, info = env.reset(seed=seed)
    return [info.get("elapsed"), *(env.step(GAS)[4].get("elapsed") for _ in range(steps))], env


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_the_time_that_is_told_is_what_passed_and_rewards_are_summed(name, severity):
    told, env = elapsed_of(f"{name}:{severity}", steps=10)
    assert told[0] == 1.0
    assert round(env.unwrapped.t * 50) == 1 + sum(told[1:])
    plain, env = make(), make(f"{name}:{severity}")
    plain.reset(seed=3)
    env.reset(seed=3)
    for _ in range(5):
        _, reward, *_, info = env.step(GAS)
        assert reward == pytest.approx(sum(plain.step(GAS)[1] for _ in range(int(info["elapsed"]))))
    assert car_state(env) == car_state(plain)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gaps_are_drawn_as_stated(severity):
    jitter, _ = elapsed_of(f"jitter:{severity}", steps=60)
    assert set(jitter[1:]) <= set(range(1, Jitter.levels[severity - 1] + 1))
    assert max(jitter) == Jitter.levels[severity - 1]
    slow, _ = elapsed_of(f"rate_slow:{severity}", steps=10)
    assert set(slow[1:]) == {RateSlow.levels[severity - 1]}


def test_observations_are_lost_as_often_as_stated():
    for severity, lost in enumerate(Dropped.levels, 1):
        shift = Dropped(make(), severity)
        shift.rng = np.random.default_rng(0)
        gaps = np.array([shift._gap() for _ in range(4000)])
        assert 1 - 1 / gaps.mean() == pytest.approx(lost, abs=0.03)
        assert gaps.max() <= 11


def test_withheld_jitter_is_jitter_without_a_word():
    told, _ = elapsed_of("jitter_untold:3")
    assert set(told) == {None}
    gaps = make("jitter_untold:3")
    gaps.reset(seed=3)
    gaps.step(GAS)
    for _ in range(20):
        gaps.step(GAS)
    assert gaps.unwrapped.t * 50 > 1 + 21 * 1.5


def test_frequent_decisions_leave_the_physics_as_it_is():
    for severity, parts in enumerate(RateFast.levels, 1):
        plain, env = make(), make(f"rate_fast:{severity}")
        shown, seen = env.reset(seed=4)[0], plain.reset(seed=4)[0]
        for action in actions(4):
            total = 0.0
            for part in range(parts):
                assert (shown == seen).all()
                asked = action if part == parts - 1 else np.zeros(3, np.float32)
                shown, reward, *_, info = env.step(asked)
                assert info["elapsed"] == pytest.approx(1 / parts)
                total += reward
            seen, reward, *_ = plain.step(action)
            assert total == reward
        assert car_state(env) == car_state(plain)


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_actions_arrive_late(severity):
    steps = Delay.levels[severity - 1]
    plain, env = make(), make(f"delay:{severity}")
    plain.reset(seed=4)
    env.reset(seed=4)
    for action in actions(12):
        env.step(action)
    for action in [np.zeros(3, np.float32)] * steps + actions(12 - steps):
        plain.step(action)
    assert car_state(env) == car_state(plain)


def test_an_action_that_is_changed_afterwards_arrives_as_it_was():
    plain, env = make("delay:2"), make("delay:2")
    plain.reset(seed=4)
    env.reset(seed=4)
    action = np.zeros(3, np.float32)
    for step in range(6):
        action[:] = 0.1 * step
        env.step(action)
        plain.step(action.copy())
    assert car_state(env) == car_state(plain)


def test_a_frozen_camera_shows_its_last_picture_and_gauges_go_on():
    env, plain = make("frozen:5"), make()
    shown, _ = env.reset(seed=9)
    plain.reset(seed=9)
    frozen = longest = 0
    for action in actions(150):
        last = shown
        shown, seen = env.step(action)[0], plain.step(action)[0]
        assert (shown[84:] == seen[84:]).all()
        if (shown[:84] != seen[:84]).any():
            assert (shown[:84] == last[:84]).all()
            frozen += 1
        else:
            frozen = 0
        longest = max(longest, frozen)
    assert longest == 25


def test_an_episode_that_ends_in_a_gap_ends_there():
    env = make("rate_slow:5")
    env.reset(seed=1)
    ended = steps = 0
    while not ended:
        *_, terminated, truncated, info = env.step(np.zeros(3, np.float32))
        ended = terminated or truncated
        steps += int(info["elapsed"])
    assert truncated
    assert steps == 1000


def test_the_time_of_the_stand_in_is_in_seconds_and_summed():
    told, withheld = (apply_shifts(gymnasium.make(STAND_IN), text) for text in ("rate_slow:2", "jitter_untold:5"))
    told.reset(seed=1)
    observation, *_, info = told.step(np.zeros(2, np.float32))
    assert info["elapsed"] == 3.0
    assert observation["elapsed"][0] == pytest.approx(0.24)
    withheld.reset(seed=1)
    for _ in range(5):
        observation, *_, info = withheld.step(np.zeros(2, np.float32))
        assert observation["elapsed"][0] == pytest.approx(0.08)
        assert "elapsed" not in info
    fast = apply_shifts(gymnasium.make(STAND_IN), "rate_fast:1")
    fast.reset(seed=1)
    assert [fast.step(np.zeros(2, np.float32))[0]["elapsed"][0] for _ in range(2)] == pytest.approx([0.0, 0.04])


def test_gaps_within_gaps_add_up():
    env = make("rate_slow:1+rate_slow:2")
    env.reset(seed=1)
    assert env.step(GAS)[4]["elapsed"] == 6.0

import numpy as np
import pytest

from policies.driver import Driver, DriverConfig
from policies.repeat import ActionRepeat


def decisions(steps, elapsed):
    """The observations that were decided on, with the times that were told, and the actions of all."""
    told = []

    def decide(observation, time):
        told.append((observation, time))
        return np.array([observation])

    repeat = ActionRepeat(steps)
    actions = [int(repeat(decide, index, time)[0]) for index, time in enumerate(elapsed)]
    return told, actions


def test_an_action_lasts_so_many_observations():
    told, actions = decisions(3, [1.0] * 8)
    assert actions == [0, 0, 0, 3, 3, 3, 6, 6]
    assert told == [(0, 1.0), (3, 1.0), (6, 1.0)]


def test_the_time_told_is_what_has_passed_since_the_decision_before():
    told, _ = decisions(2, [1.0, 2.0, 4.0, 1.0, 1.0])
    assert told == [(0, 1.0), (2, 3.0), (4, 1.0)]


def test_a_reset_decides_at_once():
    repeat = ActionRepeat(4)
    assert repeat(lambda o, _: np.array([o]), 1, 1.0)[0] == 1
    repeat.reset()
    assert repeat(lambda o, _: np.array([o]), 2, 1.0)[0] == 2


def test_less_than_one_step_is_refused():
    with pytest.raises(ValueError, match="at least 1 step"):
        ActionRepeat(0)


def test_a_driver_looks_at_every_so_many_observations_only():
    driver = Driver(DriverConfig(action_repeat=3))
    frames = np.random.default_rng(0).integers(0, 255, (6, 96, 96, 3), np.uint8)
    compiled = driver.compile_step()
    for acting in (driver, compiled):
        acting.reset()
        actions = np.array([acting.act(frame) for frame in frames])
        assert (actions[:3] == actions[0]).all() and (actions[3:] == actions[3]).all()
        assert (actions[0] != actions[3]).any()

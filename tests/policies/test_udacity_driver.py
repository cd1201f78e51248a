"""A driver of the Udacity simulator: what it sees, when it decides, and the pedal that keeps its speed."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from envs.registration import UDACITY
from envs.udacity.stand_in.environment import UdacityStandIn
from liquid_control.support.errors import UserError
from policies.cruise import Cruise
from policies.driver import Driver, DriverConfig, load_driver
from policies.repeat import ActionHold
from policies.view import UdacityView


def seen(picture=None, speed=10.0, elapsed=0.08):
    picture = np.zeros((160, 320, 3), np.uint8) if picture is None else picture
    return {"image": picture, "speed": np.array([speed], np.float32), "elapsed": np.array([elapsed], np.float32)}


@pytest.fixture
def driver():
    torch.manual_seed(0)
    return Driver(DriverConfig(env=UDACITY)).eval()


def test_it_has_nineteen_neurons_of_which_one_steers(driver):
    assert (driver.core.neuron_count, driver.hands.motors, driver.inputs) == (19, 1, 32)
    types = driver.core.config["units"]["types"]
    assert [types.count(kind) for kind in ("inter", "command", "motor")] == [12, 6, 1]
    assert driver.config.playfield == (25, 97)


def test_the_view_is_the_land_between_sky_and_bonnet_in_the_camera_s_colours():
    picture = np.zeros((160, 320, 3), np.uint8)
    picture[:60], picture[136:] = (0, 0, 255), (0, 255, 0)  # sky and bonnet
    picture[60:136, :160], picture[60:136, 160:] = (200, 10, 20), (30, 40, 220)
    image, gauges = UdacityView()(seen(picture))
    assert image.shape == (25, 97, 3)
    assert gauges.shape == (0,)
    assert (image[:, :48] == (200, 10, 20)).all()
    assert (image[:, 49:] == (30, 40, 220)).all()


@pytest.mark.parametrize("picture", [np.zeros((80, 320, 3), np.uint8), np.zeros((160, 320, 3), np.float32)])
def test_another_picture_is_refused(driver, picture):
    with pytest.raises(ValueError, match=r"is uint8 \(160, 320, 3\), not"):
        driver.act(seen(picture))


def test_time_is_told_in_steps_of_a_fifteenth_of_a_second_and_a_pause_is_a_second_at_most():
    view = UdacityView()
    assert view.elapsed(seen(elapsed=0.1)) == pytest.approx(1.5)
    assert view.elapsed(seen(elapsed=0.0)) == 1.0  # nothing was before
    assert view.elapsed(seen(elapsed=60.0)) == pytest.approx(15)


def test_the_environments_of_the_simulator_show_what_it_looks_at():
    view = UdacityView()
    assert view.shown_by(UdacityStandIn().observation_space)
    assert not view.shown_by(spaces.Box(0, 255, (160, 320, 3), np.uint8))


def test_the_compiled_driver_drives_alike(driver):
    env, compiled = UdacityStandIn(interval=(1, 5)), driver.compile_step()
    observation, _ = env.reset(seed=3)
    driver.reset()
    for _ in range(40):
        action = driver.act(observation)
        np.testing.assert_allclose(compiled.act(observation), action, atol=1e-5)
        observation, *_ = env.step(action)
    assert np.ptp(compiled.state) > 0.1


def test_a_saved_driver_is_the_same_and_keeps_its_speed(driver, tmp_path):
    fast = Driver(DriverConfig(env=UDACITY, speed=25.0)).eval()
    fast.save(tmp_path / "driver")
    loaded = load_driver(tmp_path / "driver")
    assert loaded.cruise.speed == 25
    picture = np.random.default_rng(0).integers(0, 256, (160, 320, 3), np.uint8)
    np.testing.assert_array_equal(loaded.act(seen(picture)), fast.act(seen(picture)))


def test_pedals_of_another_car_are_refused():
    with pytest.raises(UserError, match="has steer"):
        Driver(DriverConfig(env=UDACITY, pedals=True))


# When it decides


def test_an_action_lasts_until_its_time_is_over_however_often_it_is_asked():
    told = []

    def decide(observation, elapsed):
        told.append((observation, elapsed))
        return np.array([observation])

    hold = ActionHold(0.75)
    actions = [int(hold(decide, index, 0.25)[0]) for index in range(8)]
    assert actions == [0, 0, 0, 3, 3, 3, 6, 6]
    assert told == [(0, 0.25), (3, 0.75), (6, 0.75)]
    hold.reset()
    assert int(hold(decide, 99, 0.25)[0]) == 99


def test_a_picture_that_comes_twice_is_looked_at_once(driver):
    compiled = driver.compile_step()
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (160, 320, 3), np.uint8) for _ in range(2))
    steering = compiled.act(seen(first))[0]
    state = compiled.state.copy()
    assert compiled.act(seen(second, elapsed=0.001))[0] == steering
    np.testing.assert_array_equal(compiled.state, state)
    assert compiled.act(seen(second, elapsed=0.07))[0] != steering


# The pedal


def test_it_gives_gas_when_slow_and_brakes_when_fast():
    cruise = Cruise(15.0)
    assert cruise(np.zeros(1), seen(speed=0.0))[1] == 1
    cruise.reset()
    assert cruise(np.zeros(1), seen(speed=25.0))[1] == -1


def test_in_a_bend_it_keeps_what_is_comfortable():
    cruise = Cruise(25.0, comfort=4.0)
    cruise(np.array([0.0]), seen())
    assert cruise.controller.target == 25
    cruise(np.array([-0.5]), seen())
    radius = 2.6 / np.tan(np.radians(12.5))
    assert cruise.controller.target * 0.44704 == pytest.approx(np.sqrt(4.0 * radius))


def test_a_speed_is_kept_on_the_road():
    env, cruise = UdacityStandIn(), Cruise(20.0, comfort=np.inf)
    observation, _ = env.reset(seed=0, options={"start": 0.0})
    speeds = []
    for _ in range(120):
        steering = np.clip([env.cross_track * 0.1 + env.heading_error], -1, 1)
        observation, *_ = env.step(cruise(steering, observation))
        speeds.append(float(observation["speed"][0]))
    assert np.mean(speeds[-30:]) == pytest.approx(20, abs=0.5)

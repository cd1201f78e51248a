import math

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing

from envs.car_racing.fast import FastCarRacing
from envs.car_racing.observation import (
    GAUGES,
    GAUGES_HIGH,
    GAUGES_LOW,
    PLAYFIELD_ROWS,
    DriverView,
    blank_score,
    playfield,
    read_gauges,
)

# Half of what one canvas pixel stands for, and what the rounding of the observation's pixels adds.
TOLERANCE = np.array([1.4, 2.8, 2.8, 2.8, 2.8, 0.003, 0.03])


def true_gauges(env):
    car = env.car
    return np.array(
        [
            math.hypot(*car.hull.linearVelocity),
            *(wheel.omega for wheel in car.wheels),
            car.wheels[0].joint.angle,
            car.hull.angularVelocity,
        ]
    )


def random_drive(env, seed, steps, hold=20):
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    action = np.zeros(3, np.float32)
    for step in range(steps):
        if step % hold == 0:
            action = rng.uniform([-1, 0, 0], [1, 1, 0.4]).astype(np.float32)
        yield env.step(action)[0]


@pytest.mark.parametrize(("environment", "steps"), [(CarRacing, 150), (FastCarRacing, 800)])
@pytest.mark.parametrize("randomize", [False, True])
def test_gauges_read_the_car_within_the_width_of_a_canvas_pixel(environment, steps, randomize):
    env = environment(domain_randomize=randomize)
    for frame in random_drive(env, seed=3, steps=steps):
        gauges = read_gauges(frame)
        assert (abs(gauges - true_gauges(env)) <= TOLERANCE).all()
        assert (gauges >= GAUGES_LOW).all() and (gauges <= GAUGES_HIGH).all()


@pytest.mark.parametrize("name", ["speed", "abs_rear_right", "gyro"])
def test_a_gauge_follows_its_quantity_and_leaves_the_others_alone(name):
    """Set by hand to values that driving seldom reaches, as both environments draw them."""
    index = GAUGES.index(name)
    values = {"speed": (0, 7, 55, 99), "abs_rear_right": (-90, -40, 30, 280), "gyro": (-6, -1, 2, 9)}
    for environment in (CarRacing, FastCarRacing):
        env = environment()
        env.reset(seed=0)
        for value in values[name]:
            if name == "speed":
                env.car.hull.linearVelocity = (0.6 * value, 0.8 * value)
            elif name == "abs_rear_right":
                env.car.wheels[3].omega = float(value)
            elif name == "gyro":
                env.car.hull.angularVelocity = float(value)
            frame = env._render("state_pixels") if environment is CarRacing else env._observation()
            gauges = read_gauges(frame)
            assert abs(gauges[index] - value) <= TOLERANCE[index]
            assert (abs(gauges - true_gauges(env)) <= TOLERANCE).all()


def test_the_score_never_reaches_the_driver():
    env = CarRacing()
    view = DriverView(env)
    for frame in random_drive(env, seed=1, steps=30):
        scribbled = frame.copy()
        scribbled[PLAYFIELD_ROWS:, :12] = np.random.default_rng(0).integers(0, 256, (12, 12, 3))
        seen, seen_scribbled = view.observation(frame), view.observation(scribbled)
        np.testing.assert_array_equal(seen["playfield"], seen_scribbled["playfield"])
        np.testing.assert_array_equal(seen["gauges"], seen_scribbled["gauges"])


def test_blank_score_makes_the_official_gauges_the_fast_ones():
    frames = [blank_score(env.reset(seed=2)[0]) for env in (CarRacing(), FastCarRacing())]
    difference = np.abs(frames[0].astype(int) - frames[1])[PLAYFIELD_ROWS:]
    assert difference.mean() <= 0.05
    assert difference[:, :12].max() == 0


def test_blank_score_leaves_the_frame_and_everything_else_alone():
    frame = np.full((96, 96, 3), 9, np.uint8)
    blanked = blank_score(frame)
    assert (frame == 9).all()
    assert (blanked == 9).sum() == frame.size - 12 * 12 * 3


def test_playfield_averages_the_rows_above_the_gauges():
    frame = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    np.testing.assert_array_equal(playfield(frame, (84, 96)), frame[:84])
    blocks = frame[:84].reshape(42, 2, 48, 2, 3).mean((1, 3))
    np.testing.assert_allclose(playfield(frame), blocks, atol=0.5)
    expected = cv2.resize(frame[:84], (32, 28), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(playfield(frame, (28, 32)), expected)


@pytest.mark.parametrize("size", [(0, 48), (42, 97), (85, 96)])
def test_a_playfield_size_out_of_range_is_refused(size):
    with pytest.raises(ValueError, match="height must be 1 to 84 and width 1 to 96"):
        playfield(np.zeros((96, 96, 3), np.uint8), size)


@pytest.mark.parametrize("function", [playfield, read_gauges, blank_score])
@pytest.mark.parametrize("frame", [np.zeros((84, 96, 3), np.uint8), np.zeros((96, 96, 3), np.float32)])
def test_a_frame_of_another_shape_or_type_is_refused(function, frame):
    with pytest.raises(ValueError, match=r"must be uint8 of shape \(96, 96, 3\)"):
        function(frame)


@pytest.mark.parametrize("name", ["CarRacing-v3", "envs:liquid_control/FastCarRacing-v3"])
def test_driver_view_observations_lie_in_its_space(name):
    env = DriverView(gymnasium.make(name), size=(21, 24))
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    observation, *_ = env.step(np.array([0.5, 1.0, 0.0], np.float32))
    assert env.observation_space.contains(observation)
    assert observation["playfield"].shape == (21, 24, 3)


def test_driver_view_refuses_an_environment_without_frames():
    with pytest.raises(ValueError, match=r"must show frames of \(96, 96, 3\)"):
        DriverView(gymnasium.make("CartPole-v1"))

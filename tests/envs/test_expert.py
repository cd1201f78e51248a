"""The privileged driver: what it scores, what it may depend on, and how it comes back from where a learner strays."""

import math

import gymnasium as gym
import numpy as np
import pytest

from envs.car_racing.expert import Expert, racing_line
from envs.car_racing.fast import FastCarRacing

SEEDS = range(3_300_000, 3_300_020)


@pytest.fixture
def env():
    racing = FastCarRacing(observe=False)
    yield racing
    racing.close()


def drive(env, expert, steps=1000):
    """Drive on from the present state; the return, and whether every tile was visited."""
    total = 0.0
    for _ in range(steps):
        _, reward, terminated, _, _ = env.step(expert.act(env))
        total += reward
        if terminated:
            break
    return total, env.tile_visited_count == len(env.track)


def move(env, left=0.0, turn=0.0):
    """Move the whole car sideways and turn it about its origin."""
    hull = env.car.hull
    origin, angle = np.array(hull.position), hull.angle
    target = origin - left * np.array([math.cos(angle), math.sin(angle)])
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    for body in [hull, *env.car.wheels]:
        body.transform = (target + rotation @ (np.array(body.position) - origin)).tolist(), body.angle + turn


def test_it_completes_laps_at_the_promised_score(env):
    expert = Expert()
    scores = []
    for seed in SEEDS:
        env.reset(seed=seed)
        expert.reset(env)
        score, complete = drive(env, expert)
        assert complete, f"seed {seed}"
        scores.append(score)
    assert min(scores) >= 905
    assert np.mean(scores) >= 932


def test_it_drives_the_official_environment_to_the_same_result(env):
    official = gym.make("CarRacing-v3")
    for racing in (official, env):
        racing.reset(seed=7)
    experts = Expert(), Expert()
    experts[0].reset(official)
    experts[1].reset(env)
    for _ in range(120):
        actions = experts[0].act(official), experts[1].act(env)
        assert np.array_equal(*actions)
        assert official.step(actions[0])[1] == env.step(actions[1])[1]
    official.close()


def test_the_action_depends_on_the_present_state_alone(env):
    env.reset(seed=1)
    steady, late = Expert(), Expert()
    steady.reset(env)
    late.reset(env)
    rng = np.random.default_rng(0)
    for step in range(300):
        label = steady.act(env)
        assert np.array_equal(label, steady.act(env))
        if step % 100 == 99:  # `late` has been asked about almost none of the states before.
            assert np.array_equal(label, late.act(env))
        env.step((label + rng.normal(0, [0.1, 0.2, 0.1])).clip([-1, 0, 0], 1).astype(np.float32))


def test_asking_for_labels_leaves_the_environment_alone(env):
    action = np.array([0.1, 0.3, 0.0], np.float32)
    ends = []
    for ask in (False, True):
        env.reset(seed=2)
        expert = Expert()
        expert.reset(env)
        for _ in range(100):
            if ask:
                expert.act(env)
                expert.off_road_distance(env)
            env.step(action)
        ends.append((*env.car.hull.position, env.car.hull.angle, *(wheel.omega for wheel in env.car.wheels)))
    assert ends[0] == ends[1]


def test_actions_keep_their_ranges_in_states_that_random_driving_reaches(env):
    expert = Expert()
    rng = np.random.default_rng(3)
    for seed in range(4):
        env.reset(seed=seed)
        expert.reset(env)
        for step in range(200):
            if step % 25 == 0:
                action = rng.uniform([-1, 0, 0], [1, 1, 0.3]).astype(np.float32)
            env.step(action)
            label = expert.act(env)
            assert label.dtype == np.float32
            assert label.shape == (3,)
            assert abs(label[0]) <= np.float32(0.4)
            assert 0 <= label[1] <= 1
            assert 0 <= label[2] < 0.9
            assert label[1] == 0 or label[2] == 0


@pytest.mark.parametrize(
    ("left", "turn"), [(8, 0), (-8, 0), (15, 0), (-15, 0), (0, 1.5), (0, -1.5), (0, math.pi), (12, 2.5)]
)
def test_a_displaced_car_is_back_on_the_road_and_finds_its_way(env, left, turn):
    expert = Expert()
    env.reset(seed=4)
    expert.reset(env)
    drive(env, expert, steps=150)
    visited = env.tile_visited_count
    move(env, left, turn)
    drive(env, expert, steps=200)
    assert expert.off_road_distance(env) < 6.67
    assert env.tile_visited_count > visited + 15


def test_a_spun_car_is_brought_back(env):
    expert = Expert()
    env.reset(seed=5)
    expert.reset(env)
    drive(env, expert, steps=100)
    for _ in range(20):
        env.step(np.array([1.0, 1.0, 0.0], np.float32))
    drive(env, expert, steps=200)
    assert expert.off_road_distance(env) < 6.67


def test_a_car_far_off_returns_to_where_it_left_not_to_a_nearer_piece_of_the_lap(env):
    expert = Expert()
    env.reset(seed=6)
    expert.reset(env)
    centre = np.array(env.track)[:, 2:4]
    apart = np.hypot(*(centre[:, None] - centre[None]).transpose(2, 0, 1))
    index = np.arange(len(centre))
    lap = (index[None] - index[:, None]) % len(centre)
    apart[(lap < 30) | (lap > len(centre) - 40)] = np.inf
    here, there = np.unravel_index(apart.argmin(), apart.shape)
    assert apart[here, there] < 44
    # Three fifths of the way across: the other piece is nearer.
    x, y = 0.4 * centre[here] + 0.6 * centre[there]
    place = expert._at(expert._project(float(x), float(y), int(here) + 1))[:2]
    assert np.hypot(*(centre[here] - place)) < np.hypot(*(centre[there] - place))


def test_off_road_distance_is_the_distance_from_the_centre_line(env):
    expert = Expert()
    env.reset(seed=8)
    expert.reset(env)
    assert expert.off_road_distance(env) < 0.1
    move(env, left=15)
    assert expert.off_road_distance(env) == pytest.approx(15, abs=1)


def test_a_smaller_speed_scale_is_slower(env):
    finished = []
    for scale in (1.0, 0.85):
        expert = Expert(speed_scale=scale)
        env.reset(seed=9)
        expert.reset(env)
        score, complete = drive(env, expert)
        assert complete
        finished.append(score)
    assert finished[1] < finished[0]


def test_planned_speeds_keep_the_friction_circle():
    expert = Expert()
    curvature = np.zeros(400)
    curvature[200:220] = 0.08
    speed = expert._speed_profile(curvature, 1.0)
    lateral = speed**2 * curvature
    assert (lateral <= expert.lateral_grip * (1 + 1e-9)).all()
    braking = np.maximum(-np.diff(speed**2) / 2, 0)
    assert ((braking / expert.braking_grip) ** 2 + (lateral[1:] / expert.lateral_grip) ** 2 <= 1 + 1e-9).all()


def test_turns_beyond_the_horizon_do_not_change_the_speed():
    expert = Expert(horizon=20.0)
    curvature = np.zeros(400)
    curvature[200:220] = 0.08
    speed = expert._speed_profile(curvature, 1.0)
    assert speed[179] == expert.top_speed
    assert speed[185] < expert.top_speed


def test_the_racing_line_keeps_its_bounds_and_turns_less_than_the_centre_line(env):
    env.reset(seed=10)
    track = np.array(env.track)
    centre, left = track[:, 2:4], -np.stack([np.cos(track[:, 1]), np.sin(track[:, 1])], axis=1)

    def bends(line):
        return np.hypot(*(line[:-2] - 2 * line[1:-1] + line[2:]).T)

    line = racing_line(centre, left, 5.0)
    assert np.abs(((line - centre) * left).sum(axis=1)).max() <= 5 + 1e-9
    assert (bends(line) ** 2).sum() < 0.7 * (bends(centre) ** 2).sum()
    widened = racing_line(centre, left, 5.0, turn_curvature=0.03, turn_exponent=2.0)
    assert (bends(widened) ** 6).sum() < (bends(line) ** 6).sum()


@pytest.mark.parametrize("constants", [{"lookahead": math.nan}, {"lateral_grip": -1.0}, {"top_speed": math.inf}])
def test_a_constant_that_makes_no_sense_is_named(constants):
    with pytest.raises(ValueError, match=next(iter(constants))):
        Expert(**constants)


def test_acting_without_a_plan_says_what_to_call():
    with pytest.raises(RuntimeError, match=r"env\.reset"):
        Expert().act(FastCarRacing(observe=False))
    with pytest.raises(RuntimeError, match=r"env\.reset"):
        Expert().reset(FastCarRacing(observe=False))

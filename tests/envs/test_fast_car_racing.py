import copy
import pickle
import subprocess
import sys
import tracemalloc

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.car_racing.canvas import PLAYFIELD_ROWS
from envs.car_racing.fast import FastCarRacing

STILL = np.zeros(3, np.float32)


class BlindCarRacing(CarRacing):
    """The official physics without the drawing, which takes 99 % of the time."""

    def _render(self, mode):
        return None


def car_state(env):
    state = [env.reward, env.tile_visited_count, env.new_lap, env.t, env.car.fuel_spent]
    for body in (env.car.hull, *env.car.wheels):
        state += [*body.position, body.angle, *body.linearVelocity, body.angularVelocity]
    for wheel in env.car.wheels:
        state += [wheel.omega, wheel.phase, wheel.gas, wheel.brake, wheel.steer, wheel.joint.angle]
        state += sorted(tile.idx for tile in wheel.tiles)
    state += [tuple(particle.poly) for particle in env.car.particles]
    return state


def drive(env, actions):
    """The outcome of every step: reward, ending, info and state of the car."""
    outcomes = []
    for action in actions:
        _, *outcome = env.step(action)
        outcomes.append((outcome, car_state(env)))
        if outcome[1]:
            break
    return outcomes


# What a driver does for a while: the action and for how many frames. Beyond the action space too, as a network may.
actions = st.tuples(st.floats(-1.5, 1.5, width=32), st.floats(-0.5, 1.5, width=32), st.floats(-0.5, 1.0, width=32))
manoeuvres = st.lists(st.tuples(actions, st.integers(1, 60)), min_size=1, max_size=12)


def frames(manoeuvre):
    return [np.array(action, np.float32) for action, duration in manoeuvre for _ in range(duration)]


@pytest.fixture(scope="module")
def blind_pairs():
    return [
        (BlindCarRacing(domain_randomize=randomize), FastCarRacing(domain_randomize=randomize, observe=False))
        for randomize in (False, True)
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31 - 1), manoeuvre=manoeuvres, randomize=st.booleans())
def test_physics_rewards_and_endings_are_bit_identical(blind_pairs, seed, manoeuvre, randomize):
    official, fast = blind_pairs[randomize]
    official.reset(seed=seed)
    fast.reset(seed=seed)
    assert fast.track == official.track
    assert car_state(fast) == car_state(official)
    assert drive(fast, frames(manoeuvre)) == drive(official, frames(manoeuvre))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), commands=st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_discrete_actions_are_bit_identical(seed, commands):
    official, fast = BlindCarRacing(continuous=False), FastCarRacing(continuous=False, observe=False)
    official.reset(seed=seed)
    fast.reset(seed=seed)
    held = np.repeat(commands, 10)
    assert drive(fast, held) == drive(official, held)


def test_drawing_changes_nothing_in_the_physics():
    """The first second's zoom included: the episode begins with it."""
    drawn, blind = FastCarRacing(), FastCarRacing(observe=False)
    drawn.reset(seed=5)
    blind.reset(seed=5)
    held = frames([((0.1, 1.0, 0.0), 80), ((-0.8, 0.2, 0.3), 40)])
    assert drive(drawn, held) == drive(blind, held)


def test_leaving_the_playfield_costs_a_hundred_as_in_the_official():
    outcomes = []
    for env in (BlindCarRacing(), FastCarRacing(observe=False)):
        env.reset(seed=3)
        env.car.hull.position = (400.0, 0.0)
        outcomes.append(env.step(STILL)[1:])
    assert outcomes[1] == outcomes[0] == (-100, True, False, {"lap_finished": False})


def test_episodes_after_the_first_repeat_a_fresh_environment():
    used, fresh = FastCarRacing(), FastCarRacing()
    held = frames([((0.2, 0.8, 0.0), 90)])
    used.reset(seed=1)
    drive(used, held)
    first, _ = used.reset(seed=2)
    expected, _ = fresh.reset(seed=2)
    np.testing.assert_array_equal(first, expected)
    for action in held:
        np.testing.assert_array_equal(used.step(action)[0], fresh.step(action)[0])


@pytest.mark.parametrize("randomize", [False, True])
def test_pixels_are_the_official_ones_within_the_stated_bars(randomize):
    official, fast = CarRacing(domain_randomize=randomize), FastCarRacing(domain_randomize=randomize)
    held = frames([((0.05, 1.0, 0.0), 60), ((-0.3, 0.3, 0.0), 30), ((0.8, 0.6, 0.0), 40), ((0.0, 0.0, 0.7), 30)])
    official_frame, _ = official.reset(seed=11)
    fast_frame, _ = fast.reset(seed=11)
    pairs = [(official_frame, fast_frame)]
    pairs += [(official.step(action)[0], fast.step(action)[0]) for action in held]
    difference = np.abs(np.array([a for a, _ in pairs], np.int16) - np.array([b for _, b in pairs], np.int16))
    playfield = difference[:, :PLAYFIELD_ROWS].mean((1, 2, 3))
    assert playfield[50:].mean() <= 0.25
    assert playfield[:50].mean() <= 0.45
    assert playfield.max() <= 1.5
    assert difference[:, PLAYFIELD_ROWS:, 12:].mean() <= 0.05


@pytest.mark.parametrize("environment", [CarRacing, FastCarRacing])
def test_touched_tiles_are_shown_in_the_plain_road_colour(environment):
    env = environment()
    env.reset(seed=0)
    for action in frames([((0.0, 0.3, 0.0), 100)]):
        frame, *_ = env.step(action)
    beside_the_car = frame[72:76, 41:44]
    ahead = frame[30:60, 47:49]
    assert (beside_the_car == 100).all()
    assert ahead.max() > 100


@pytest.mark.parametrize("render_mode", ["rgb_array", "state_pixels"])
def test_rendering_is_the_official_one(render_mode):
    images = []
    for env in (CarRacing(render_mode=render_mode), FastCarRacing(render_mode=render_mode)):
        env.reset(seed=8)
        drive(env, frames([((0.3, 1.0, 0.0), 70), ((1.0, 1.0, 0.0), 30)]))
        images.append(env.render())
    np.testing.assert_array_equal(images[1], images[0])


def test_action_repeat_sums_rewards_and_returns_the_last_frame():
    single, repeated = FastCarRacing(), FastCarRacing(action_repeat=4)
    single.reset(seed=6)
    repeated.reset(seed=6)
    for action in frames([((0.1, 0.9, 0.0), 15)]):
        steps = [single.step(action) for _ in range(4)]
        frame, reward, *_ = repeated.step(action)
        assert reward == sum(step[1] for step in steps)
        np.testing.assert_array_equal(frame, steps[-1][0])
        assert car_state(repeated) == car_state(single)


def test_action_repeat_stops_where_the_episode_ends():
    env = FastCarRacing(action_repeat=50, observe=False)
    env.reset(seed=6)
    env.car.hull.position = (400.0, 0.0)
    time = env.t
    _, reward, terminated, _, _ = env.step(STILL)
    assert (reward, terminated) == (-100, True)
    assert env.t == pytest.approx(time + 1 / 50)


def test_a_repeated_action_is_drawn_once(monkeypatch):
    env = FastCarRacing(action_repeat=8)
    env.reset(seed=0)
    drawn = []
    monkeypatch.setattr("envs.car_racing.fast.draw_car", lambda *_: drawn.append(1))
    env.step(STILL)
    assert len(drawn) == 1


def test_observe_false_returns_one_black_frame():
    env = FastCarRacing(observe=False)
    first, _ = env.reset(seed=0)
    second = env.step(STILL)[0]
    assert first is second and not first.any() and not first.flags.writeable


def test_a_returned_frame_is_never_changed_later():
    env = FastCarRacing()
    frame, _ = env.reset(seed=0)
    before = frame.copy()
    drive(env, frames([((0.5, 1.0, 0.0), 20)]))
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(2, np.float32), r"shape \(2,\).*must have shape \(3,\)"),
        (np.zeros((1, 3), np.float32), r"shape \(1, 3\)"),
        (0.5, r"shape \(\)"),
        (np.array([0.0, np.nan, 0.0], np.float32), "nan.*finite"),
        (np.array([np.inf, 0.0, 0.0], np.float32), "inf.*finite"),
    ],
)
def test_a_bad_action_is_one_clear_error_and_changes_nothing(action, message):
    env = FastCarRacing(observe=False)
    env.reset(seed=0)
    before = car_state(env)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert car_state(env) == before


def test_a_discrete_action_outside_the_space_is_refused():
    env = FastCarRacing(continuous=False, observe=False)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"7.*Discrete\(5\)"):
        env.step(7)


@pytest.mark.parametrize("repeat", [0, -1, 2.0, True])
def test_a_bad_action_repeat_is_refused(repeat):
    with pytest.raises(ValueError, match="action_repeat"):
        FastCarRacing(action_repeat=repeat)


def test_gymnasium_finds_it_with_nothing_imported():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('envs:liquid_control/FastCarRacing-v3', continuous=False, action_repeat=2)\n"
        "print(env.spec.max_episode_steps, env.spec.reward_threshold, env.reset(seed=0)[0].shape)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "1000 900 (96, 96, 3)"


@pytest.mark.filterwarnings("ignore:.*Box observation space.*", "ignore:.*we recommend using a symmetric.*")
def test_gymnasium_accepts_it():
    check_env(gymnasium.make("liquid_control/FastCarRacing-v3").unwrapped, skip_render_check=True)


def test_pickle_keeps_every_argument():
    env = FastCarRacing("rgb_array", False, 0.9, True, False, 3, False)
    twin = pickle.loads(pickle.dumps(env))
    names = ("render_mode", "lap_complete_percent", "domain_randomize", "continuous", "action_repeat", "observe")
    assert [getattr(twin, n) for n in names] == [getattr(env, n) for n in names]
    assert copy.deepcopy(env).action_repeat == 3


def test_an_environment_takes_less_than_40_mb():
    FastCarRacing().reset(seed=0)  # pictures that all environments share
    tracemalloc.start()
    env = FastCarRacing(domain_randomize=True)
    for seed in range(3):
        env.reset(seed=seed)
        drive(env, frames([((0.1, 0.5, 0.0), 60)]))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 40e6


class TestKnownTraps:
    """What the official environment does that one would not expect, where this project depends on it."""

    @pytest.mark.parametrize("environment", [BlindCarRacing, FastCarRacing])
    def test_lap_complete_percent_has_no_effect_because_tile_0_counts_as_visited_at_reset(self, environment):
        env = environment(lap_complete_percent=0.01)
        env.reset(seed=4)
        assert env.road[0].road_visited
        outcomes = drive(env, frames([((0.0, 0.5, 0.0), 100)]))
        assert env.tile_visited_count / len(env.track) > 0.02
        assert not outcomes[-1][0][1]

    @pytest.mark.parametrize("environment", [BlindCarRacing, FastCarRacing])
    def test_domain_randomize_changes_the_track_of_a_seed(self, environment):
        plain, randomized = environment(), environment(domain_randomize=True)
        plain.reset(seed=4)
        randomized.reset(seed=4)
        assert plain.track != randomized.track
        randomized.reset(seed=4, options={"randomize": False})
        assert plain.track == randomized.track

    def test_the_score_is_printed_into_the_official_pixels_and_not_into_the_fast_ones(self):
        for environment, shown in ((CarRacing, True), (FastCarRacing, False)):
            frame, _ = environment().reset(seed=4)
            assert frame[PLAYFIELD_ROWS:, :12].any() == shown

    @pytest.mark.parametrize("environment", [BlindCarRacing, FastCarRacing])
    def test_the_first_step_pays_the_tiles_touched_at_reset(self, environment):
        env = environment()
        env.reset(seed=4)
        touched = env.tile_visited_count
        assert touched == 2
        assert env.step(STILL)[1] == pytest.approx(touched * 1000 / len(env.track) - 0.1)

"""Attacks stay within ε, leave the rest alone, and mislead shipped drivers more than noise of the same size does."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import envs  # noqa: F401
from agents.episodes import Conditions, EpisodePlan, drive_episode
from agents.road_rollout import judge_road
from envs.registration import FAST, OFFICIAL, UDACITY
from envs.shifts import apply_shifts
from envs.shifts.attack import Drift, FastGradientSign, ProjectedGradient
from liquid_control.support.errors import UserError
from policies.attack import SteeringAttack
from policies.driver import Driver, DriverConfig, load_driver

SHIPPED = Path(__file__).parents[2] / "checkpoints" / OFFICIAL
FRAMES = 40


class Still(gymnasium.Env):
    """Shows one observation again and again, a copy each time."""

    action_space = gymnasium.spaces.Box(-1, 1, (3,))
    observation_space = gymnasium.spaces.Box(0, 255, (96, 96, 3), np.uint8)

    def __init__(self, observation):
        self.observation = observation

    def reset(self, *, seed=None, options=None):
        return self.observation.copy(), {}

    def step(self, action):
        return self.observation.copy(), 0.0, False, False, {}


@pytest.fixture(scope="module", params=["cfc", "plastic"])
def drive(request):
    """A shipped driver that has driven some frames, and the observation that it sees next."""
    driver, env = load_driver(SHIPPED / request.param), gymnasium.make(FAST)
    observation, _ = env.reset(seed=4)
    for _ in range(FRAMES):
        observation, *_ = env.step(driver.act(observation))
    return driver, observation


def attacked(kind, severity, driver, observation):
    return kind(Still(observation), severity, SteeringAttack(driver)).reset(seed=0)[0]


@pytest.mark.parametrize("kind", [FastGradientSign, ProjectedGradient])
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_picture_stays_within_epsilon_and_the_gauges_are_left_alone(drive, kind, severity):
    driver, observation = drive
    before, state = observation.copy(), driver.state.clone()
    shown = attacked(kind, severity, driver, observation)
    assert (shown.dtype, shown.shape) == (np.uint8, observation.shape)
    assert np.abs(shown.astype(int) - observation).max() == kind.levels[severity - 1]
    assert (shown[84:] == observation[84:]).all()
    assert (observation == before).all() and (driver.state == state).all()
    assert (attacked(kind, severity, driver, observation) == shown).all()


@pytest.mark.parametrize("severity", [2, 4])
def test_fgsm_steers_further_to_the_wrong_side_than_noise_and_pgd_further_still(drive, severity):
    driver, observation = drive
    attack, rng, epsilon = SteeringAttack(driver), np.random.default_rng(0), FastGradientSign.levels[severity - 1]
    clean = attack(observation)[0]

    def wrong(picture):
        return np.sign(clean) * (clean - attack(picture)[0])

    noisy = []
    for _ in range(10):
        picture = observation.copy()
        picture[:84] = np.clip(picture[:84] + rng.choice((-epsilon, epsilon), (84, 96, 3)), 0, 255)
        noisy.append(abs(wrong(picture)))
    fgsm, pgd = (wrong(attacked(kind, severity, driver, observation)) for kind in (FastGradientSign, ProjectedGradient))
    assert fgsm > 5 * max(noisy)
    assert pgd >= fgsm


def test_a_higher_severity_misleads_more(drive):
    driver, observation = drive
    attack = SteeringAttack(driver)
    clean = attack(observation)[0]
    for kind in (FastGradientSign, ProjectedGradient):
        shifts = [abs(attack(attacked(kind, severity, driver, observation))[0] - clean) for severity in (1, 3, 5)]
        assert shifts[0] < shifts[1] < shifts[2]


@pytest.fixture
def short_drift(monkeypatch):
    monkeypatch.setattr(Drift, "FRAMES", 8)


def test_the_drift_grows_within_epsilon_pushes_to_one_side_and_is_gone(drive, short_drift):
    driver, observation = drive
    attack, pushes = SteeringAttack(driver), []
    clean = attack(observation)[0]
    for severity in (1, 3, 5):
        env = Drift(Still(observation), severity, attack)
        shown = [env.reset(seed=1)[0], *(env.step(None)[0] for _ in range(Drift.FRAMES))]
        sizes = [np.abs(each.astype(int) - observation).max() for each in shown]
        epsilon = Drift.levels[severity - 1]
        assert all(size <= np.rint(epsilon * (frame + 1) / 8) for frame, size in enumerate(sizes[:-1]))
        assert sizes[0] < sizes[4] < sizes[7] == epsilon and sizes[8] == 0
        assert all((each[84:] == observation[84:]).all() for each in shown)
        env.reset(seed=1)
        pushes.append(env._side * (attack(shown[7])[0] - clean))
        other = [env.reset(seed=1)[0], *(env.step(None)[0] for _ in range(Drift.FRAMES))]
        assert all((a == b).all() for a, b in zip(shown, other, strict=True))
    assert 0 < pushes[0] < pushes[1] < pushes[2]


def test_the_side_of_a_drift_is_drawn_for_an_episode(drive):
    driver, observation = drive
    env, sides = Drift(Still(observation), 3, SteeringAttack(driver)), set()
    for seed in range(8):
        env.reset(seed=seed)
        sides.add(env._side)
    assert sides == {-1, 1}


def test_what_is_attacked_is_the_command_that_drives(drive):
    driver, observation = drive
    expected = SteeringAttack(driver)(observation)[0]
    compiled = driver.compile_step()
    compiled.state[:] = driver.state[0]
    assert SteeringAttack(driver, compiled)(observation)[0] == expected
    assert compiled.act(observation)[0] == pytest.approx(np.clip(expected, -1, 1), abs=1e-5)


@pytest.mark.parametrize("config", [DriverConfig(), DriverConfig(playfield=(41, 50)), DriverConfig(env=UDACITY)])
def test_the_gradient_goes_through_the_view_and_no_further(config):
    torch.manual_seed(0)
    driver, rng = Driver(config).eval(), np.random.default_rng(0)
    picture = rng.integers(100, 150, driver.view.observation_shape).astype(np.uint8)
    roads = config.env == UDACITY
    observation = {"image": picture, "speed": np.zeros(1), "elapsed": np.full(1, 0.1)} if roads else picture
    attack = SteeringAttack(driver)
    seen = picture[attack._seen].astype(np.float32)
    shrunk = np.einsum("hr,rcd,wc->hwd", attack._rows, seen, attack._columns)
    assert np.abs(shrunk - driver.view(observation)[0]).max() < 0.51
    reached = (attack(observation)[1] != 0).any((1, 2))
    assert reached[attack._seen].mean() > 0.85  # no convolution sees the last rows, where strides leave a rest
    assert reached.sum() == reached[attack._seen].sum()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "drift"])
def test_an_attack_in_closed_loop_is_settled_by_its_seed_and_keeps_the_track(name):
    driver = load_driver(SHIPPED / "cfc")

    def first_frames():
        compiled = driver.compile_step()
        env = apply_shifts(gymnasium.make(FAST), f"{name}:5", SteeringAttack(driver, compiled))
        observation, _ = env.reset(seed=4)
        seen = [observation]
        for _ in range(6):
            observation, *_ = env.step(compiled.act(observation))
            seen.append(observation)
        return np.stack(seen), env.unwrapped.track

    (seen, track), (again, _) = first_frames(), first_frames()
    assert (seen == again).all()
    env, plain = gymnasium.make(FAST), []
    plain.append(env.reset(seed=4)[0])
    assert env.unwrapped.track == track
    driver.reset()
    plain += [env.step(driver.act(plain[-1]))[0] for _ in range(6)]
    assert (seen != plain).any()


def test_a_driver_is_attacked_where_episodes_are_driven():
    torch.manual_seed(0)
    driver = Driver(DriverConfig()).eval()
    with torch.no_grad():
        driver.hands.offset.copy_(torch.tensor([0.0, 0.7, 0.0]))
    clean, attacked, again = (
        drive_episode(driver, EpisodePlan(5), Conditions(shifts=shifts, record=True, leash=1.0)).actions
        for shifts in ("", "fgsm:5", "fgsm:5")
    )
    assert (attacked[0] != clean[0]).any()
    assert (attacked == again).all()


def test_a_driver_of_the_simulator_is_attacked_on_roads():
    driver = load_driver(SHIPPED.parent / "Udacity" / "cfc")
    clean, attacked = (judge_road(driver, "150", 15.0, laps=0.005, shifts=shifts) for shifts in ("", "fgsm:5"))
    assert attacked.rms != clean.rms


def test_frames_that_the_driver_does_not_look_at_are_left_alone():
    torch.manual_seed(0)
    driver = Driver(DriverConfig(action_repeat=3)).eval()
    picture = np.full((96, 96, 3), 100, np.uint8)
    env, changed = FastGradientSign(Still(picture), 3, SteeringAttack(driver)), []
    shown, _ = env.reset()
    for _ in range(6):
        changed.append((shown != picture).any())
        shown, *_ = env.step(driver.act(shown))
    assert changed == [True, False, False] * 2


def test_without_a_driver_or_pictures_there_is_nothing_to_attack():
    with pytest.raises(UserError, match="the shift 'fgsm' attacks whoever drives"):
        apply_shifts(gymnasium.make(FAST), "fgsm:3")
    vector = DriverConfig(env="Pendulum-v1", vector={"size": 3, "low": [-2.0], "high": [2.0]})
    with pytest.raises(UserError, match="sees none"):
        SteeringAttack(Driver(vector))

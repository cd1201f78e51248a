"""The shipped LTC driver, compiled into its closed form without training, is the same driver."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from agents.episodes import Conditions, EpisodePlan, drive_episode
from envs.registration import FAST, VALIDATION_SEEDS
from liquid_control.nn import LTC, close_form
from policies.driver import Driver, load_driver

CHECKPOINT = Path(__file__).parents[2] / "checkpoints/CarRacing-v3/ltc"
SEED = VALIDATION_SEEDS + 700


@pytest.fixture(scope="module")
def senses():
    """What the core of the LTC driver is given on the first 100 steps of a lap, (1, 100, C)."""
    driver = load_driver(CHECKPOINT)
    env = gymnasium.make(FAST)
    observation, _ = env.reset(seed=SEED)
    views = []
    for _ in range(100):
        views.append(driver.view(observation))
        observation, *_ = env.step(driver.act(observation))
    env.close()
    images, gauges = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
    with torch.no_grad():
        return torch.cat([driver.eyes(images), gauges], -1)[None]


def potentials(core, x):
    """The state after each step, (T, N)."""
    state, states = core.initial_state(1), []
    for step in range(x.shape[1]):
        _, state = core.step(x[:, step], state)
        states.append(state[0])
    return torch.stack(states)


@torch.no_grad()
def test_every_neuron_of_a_trained_driver_is_nearer_to_the_equation_than_the_paper_reports(senses):
    """Mean squared error of each neuron on a lap, against the adaptive solver; Hasani 2022 reports 0.006 for one."""
    core = load_driver(CHECKPOINT).core
    assert isinstance(core, LTC)
    closed, solver = close_form(core), potentials(core, senses)
    core.solver = "adaptive"
    exact = potentials(core, senses)
    error, solver_error = ((found - exact).square().mean(0) for found in (potentials(closed, senses), solver))
    assert error.max() < 0.006 / 20
    assert error.mean() < solver_error.mean()  # six unfolds of the semi-implicit solver


def test_the_compiled_driver_completes_its_lap():
    driver = load_driver(CHECKPOINT)
    compiled = Driver(driver.config, close_form(driver.core)).eval()
    compiled.eyes.load_state_dict(driver.eyes.state_dict())
    compiled.hands.load_state_dict(driver.hands.state_dict())
    episode = drive_episode(compiled, EpisodePlan(SEED), Conditions())
    assert episode.lap and episode.score > 900

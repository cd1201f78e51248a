"""A compiled driver gives the actions of the driver that it was made of."""

import gymnasium
import numpy as np
import pytest
import torch

from policies.driver import Driver, DriverConfig
from policies.registry import CORES


@pytest.fixture(scope="module")
def observations():
    env = gymnasium.make("envs:liquid_control/FastCarRacing-v3", disable_env_checker=True)
    frames = [env.reset(seed=5)[0]]
    while len(frames) < 60:
        frames.append(env.step(np.array([0.1, 0.3, 0.0], np.float32))[0])
    return frames


def driver_of(policy, **config):
    torch.manual_seed(0)
    driver = Driver(DriverConfig(policy=policy, **config)).eval()
    with torch.no_grad():
        for parameter in driver.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return driver


@pytest.mark.parametrize("policy", CORES)
def test_it_drives_as_the_driver_does(policy, observations):
    driver = driver_of(policy)
    compiled = driver.compile_step()
    for index, observation in enumerate(observations):
        elapsed = (1.0, 0.5, 2.0)[index % 3]
        np.testing.assert_allclose(compiled.act(observation, elapsed), driver.act(observation, elapsed), atol=1e-5)
    np.testing.assert_allclose(compiled.state, driver.state[0], atol=1e-5)


@pytest.mark.parametrize(
    "shape", [{"playfield": (42, 48)}, {"channels": (8, 24), "kernels": (5, 3), "features": 20}, {"encoding": "norm"}]
)
def test_eyes_of_every_shape_see_the_same(shape, observations):
    driver = driver_of("cfc", **shape)
    compiled = driver.compile_step()
    image, _ = driver.view(observations[-1])
    expected = driver.eyes(torch.from_numpy(image)[None])[0].detach()
    np.testing.assert_allclose(compiled.see(image), expected, atol=1e-5)


def test_it_does_the_same_without_kernels(observations, monkeypatch):
    driver = driver_of("cfc")
    fast = driver.compile_step()
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    slow = driver.compile_step()
    for observation in observations[:10]:
        np.testing.assert_allclose(fast.act(observation), slow.act(observation), atol=1e-5)


def test_a_reset_begins_the_drive_again(observations):
    compiled = driver_of("cfc").compile_step()
    first = [compiled.act(observation) for observation in observations[:5]]
    compiled.reset()
    again = [compiled.act(observation) for observation in observations[:5]]
    np.testing.assert_array_equal(first, again)


def test_later_changes_of_the_driver_do_not_reach_it(observations):
    driver = driver_of("cfc")
    compiled = driver.compile_step()
    before = compiled.act(observations[0])
    with torch.no_grad():
        for parameter in driver.parameters():
            parameter.zero_()
    compiled.reset()
    np.testing.assert_array_equal(compiled.act(observations[0]), before)


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"uint8 \(96, 96, 3\), not float64 \(3,\)"):
        driver_of("cfc").compile_step().act(np.zeros(3))

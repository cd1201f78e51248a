"""Drivers without eyes: vectors in, controls or choices out."""

import gymnasium
import numpy as np
import pytest
import torch

from liquid_control.report.diagram import draw_wiring
from policies.driver import Driver, DriverConfig, load_driver
from policies.eyes import GaugeScale
from policies.hands import ChoiceHands
from policies.registry import CORES

CHOICES = {"size": 4, "observed": (0, 2), "choices": 2}
CONTROLS = {"size": 3, "low": (-2.0,), "high": (2.0,)}


def build(policy="cfc", vector=CHOICES, **kwargs) -> Driver:
    torch.manual_seed(0)
    driver = Driver(DriverConfig(env="CartPole-v1", policy=policy, vector=vector, **kwargs))
    driver.scale.update(torch.randn(50, len(driver.view.gauges)) * 3 + 1)
    return driver.eval()


@pytest.mark.parametrize("policy", sorted(CORES))
@pytest.mark.parametrize("vector", [CHOICES, CONTROLS], ids=["choices", "controls"])
def test_saved_loaded_and_compiled_it_acts_alike(policy, vector, tmp_path):
    driver = build(policy, vector)
    driver.save(tmp_path / "driver")
    loaded = load_driver(tmp_path / "driver")
    compiled = driver.compile_step()
    for observation in np.random.default_rng(0).normal(size=(10, vector["size"])).astype(np.float32):
        expected = driver.act(observation)
        np.testing.assert_allclose(loaded.act(observation), expected, atol=1e-6)
        np.testing.assert_allclose(compiled.act(observation), expected, atol=1e-5)


def test_its_action_is_one_of_the_environment():
    for name, vector in (("CartPole-v1", CHOICES), ("Pendulum-v1", CONTROLS)):
        env = gymnasium.make(name)
        observation, _ = env.reset(seed=0)
        driver = build(vector=vector)
        for _ in range(5):
            observation, *_ = env.step(driver.act(observation))


def test_motor_neurons_within_their_range_can_all_but_settle_a_choice():
    motor = torch.tensor([1.0, -1.0, -1.0, -1.0])
    assert ChoiceHands(4)(motor).softmax(-1)[0] > 0.99


def test_what_is_not_observed_does_not_matter():
    one, other = build(), build()
    assert one.parameter_counts()["eyes"] == 0
    for observation in np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32):
        hidden = observation.copy()
        hidden[[1, 3]] = 99
        assert one.act(observation) == other.act(hidden)


def test_an_observation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected \(4,\)"):
        build().act(np.zeros(5, np.float32))


def test_the_scale_is_that_of_all_that_was_seen():
    scale, samples = GaugeScale(3), torch.randn(300, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 9.0, -2.0])
    for part in samples.split([10, 90, 200]):
        scale.update(part)
    torch.testing.assert_close(scale.mean, samples.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scale.variance, samples.var(0, unbiased=False), rtol=1e-4, atol=1e-4)
    scaled = scale(samples)
    torch.testing.assert_close(scaled.std(0), torch.ones(3), rtol=0.01, atol=0.01)
    assert scale(torch.tensor([1e9, 0.0, 0.0]))[0] == 10, "what is far off is cut off"


@pytest.mark.parametrize("vector", [CHOICES, CONTROLS], ids=["choices", "controls"])
def test_its_wiring_is_drawn(vector):
    picture = draw_wiring(build(vector=vector), 400, 300)
    assert picture.shape == (300, 400, 3) and picture.std() > 1


def test_the_wiring_of_a_driver_with_one_pedal_is_drawn():
    picture = draw_wiring(Driver(DriverConfig(pedals=True)), 400, 300)
    assert picture.std() > 1

"""A driver acts on raw observations, trains on sequences of the same view, and is the same after save and load."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import liquid_control
from liquid_control.support.checkpoint import load_checkpoint, save_checkpoint
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig
from policies.eyes import ConvEyes
from policies.registry import CORES, build_core, parse_options
from policies.view import CarRacingView, build_view


@pytest.fixture(scope="module")
def observations():
    env = gymnasium.make("CarRacing-v3", disable_env_checker=True)
    frames = [env.reset(seed=5)[0]]
    for _ in range(7):
        frames.append(env.step(np.array([0.1, 0.5, 0.0], np.float32))[0])
    env.close()
    return frames


def driver_of(policy, **options):
    torch.manual_seed(0)
    return Driver(DriverConfig(policy=policy, options=options)).eval()


@pytest.mark.parametrize("policy", CORES)
def test_driving_step_by_step_is_the_sequence_it_is_trained_on(policy, observations):
    driver = driver_of(policy)
    driven = np.stack([driver.act(observation) for observation in observations])
    image, gauges = (np.stack(part) for part in zip(*map(driver.view, observations), strict=True))
    command, _ = driver(torch.from_numpy(image)[None], torch.from_numpy(gauges)[None])
    np.testing.assert_allclose(driven, driver.hands.controls(command)[0].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("policy", CORES)
def test_actions_are_within_the_action_space(policy, observations):
    driver = driver_of(policy)
    torch.nn.init.constant_(driver.hands.gain, 1e4)
    space = gymnasium.make("CarRacing-v3").action_space
    assert all(space.contains(driver.act(observation)) for observation in observations)


@pytest.mark.parametrize("policy", CORES)
def test_a_saved_driver_drives_the_same(policy, observations, tmp_path):
    driver = driver_of(policy)
    driver.save(tmp_path, {"round": 3})
    loaded = liquid_control.load_driver(tmp_path)
    assert loaded.config == driver.config
    for observation in observations:
        np.testing.assert_array_equal(driver.act(observation), loaded.act(observation))
    assert json.loads((tmp_path / "config.json").read_text())["record"] == {"round": 3}


def test_reset_forgets(observations):
    driver = driver_of("cfc")
    first = driver.act(observations[0])
    driver.act(observations[5])
    assert not np.array_equal(driver.act(observations[0]), first)
    driver.reset()
    np.testing.assert_array_equal(driver.act(observations[0]), first)


def test_elapsed_time_reaches_the_core(observations):
    driver = driver_of("cfc")
    driver.act(observations[0])
    state = driver.state.clone()
    one = driver.act(observations[1], elapsed=1.0)
    driver.state = state
    assert not np.array_equal(one, driver.act(observations[1], elapsed=5.0))


def test_the_printed_score_never_reaches_the_driver(observations):
    view = CarRacingView()
    painted = observations[3].copy()
    painted[84:, :12] = 255
    for one, other in zip(view(observations[3]), view(painted), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("policy", ["cfc", "ltc", "leaky", "plastic"])
def test_liquid_drivers_are_nineteen_neurons_and_small(policy):
    driver = driver_of(policy)
    counts = driver.parameter_counts()
    assert driver.core.neuron_count == 19
    assert counts["total"] == counts["eyes"] + counts["core"] + counts["hands"] <= 20_000
    assert "19 neurons" in driver.describe()
    assert f"{counts['total']:,}" in driver.describe()


def test_a_hybrid_is_larger_and_counted_so():
    driver = driver_of("hybrid")
    heads, neurons, feed = 32, 32, 64
    assert driver.core.neuron_count == 2 * (heads + neurons + feed)
    assert driver.parameter_counts()["core"] == sum(each.numel() for each in driver.core.parameters()) <= 50_000
    assert "256 neurons" in driver.describe()
    small = build_core("hybrid", 6, 3, {"units": 16, "blocks": 1, "heads": 2, "core": "scan", "neurons": 9})
    assert small.neuron_count == 16 + 9 + 32
    assert small.compile_step()(np.zeros(6)).shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": "hybrid"}, "no core 'hybrid' inside a block"),
        ({"core": "cfv"}, "did you mean 'cfc'"),
        ({"heads": 3}, "multiple of 2 · heads"),
        ({"neurons": -1}, "neurons must be at least 0"),
        ({"blocks": 0}, "blocks must be 1 to 64"),
        ({"expansion": float("nan")}, "expansion 0 to 64"),
    ],
)
def test_a_hybrid_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        build_core("hybrid", 6, 3, options)


@pytest.mark.parametrize("policy", ["lstm", "gru", "mlp"])
def test_baselines_match_the_parameter_count_of_the_liquid_core(policy):
    liquid, baseline = driver_of("cfc").parameter_counts(), driver_of(policy).parameter_counts()
    assert abs(baseline["core"] / liquid["core"] - 1) < 0.1
    assert baseline["eyes"] == liquid["eyes"]


def test_options_reach_the_core():
    assert driver_of("cfc", mode="pure").core.config != driver_of("cfc").core.config
    assert driver_of("lstm", units=7).core.neuron_count == 7
    assert parse_options("ltc", ["ode_unfolds=4"]) == {"ode_unfolds": 4}


@pytest.mark.parametrize("policy", ["cfc", "ltc", "leaky", "plastic"])
def test_neurons_are_wired_in_layers_or_all_to_all(policy):
    full = build_core(policy, 2, 1, {"wiring": "full"})
    assert (full.neuron_count, full.output_size) == (19, 1)
    assert (full.circuit.sensory_synapse_count, full.circuit.synapse_count) == (2 * 19, 19 * 19)
    assert full.circuit.synapse_count > 4 * build_core(policy, 2, 1, {}).circuit.synapse_count


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_core("cfd", 39, 3, {}), "unknown policy 'cfd': did you mean 'cfc'"),
        (lambda: build_core("cfc", 39, 3, {"mod": "pure"}), "no option 'mod': did you mean 'mode'"),
        (lambda: build_core("cfc", 39, 3, {"mode": "pur"}), "cannot be built with"),
        (lambda: build_core("ltc", 39, 3, {"wiring": "fool"}), "wiring is 'fool', expected 'ncp' or 'full'"),
        (lambda: parse_options("ltc", ["ode_unfolds"]), "written name=value"),
        (lambda: parse_options("ltc", ["ode_unfolds=six"]), "takes int, not 'six'"),
        (lambda: build_view("CarRacing-v2", (42, 48)), "did you mean 'CarRacing-v3'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize(
    "observation", [np.zeros((96, 96), np.uint8), np.zeros((96, 96, 3)), np.zeros((84, 96, 3), np.uint8), None]
)
def test_a_wrong_observation_is_refused(observation):
    with pytest.raises(ValueError, match=r"a CarRacing observation is uint8 \(96, 96, 3\), not"):
        driver_of("cfc").act(observation)


def test_a_language_model_is_refused_and_its_command_named():
    folder = Path(__file__).parents[2] / "checkpoints" / "LanguageModel" / "stories"
    with pytest.raises(
        UserError, match=r"holds a language model, not a driver\..* liquid_control\.lm generate .*stories"
    ):
        liquid_control.load_driver(folder)


def test_the_command_for_a_language_model_can_be_pasted(tmp_path):
    save_checkpoint(tmp_path / "my model", {}, {"kind": "language model", "language_model": {}})
    with pytest.raises(UserError, match=r"liquid_control\.lm generate '.*/my model'"):
        liquid_control.load_driver(tmp_path / "my model")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    save_checkpoint(tmp_path / "a", {}, {"kind": "language model"})
    with pytest.raises(UserError, match="holds a 'language model', not a driver"):
        liquid_control.load_driver(tmp_path / "a")
    save_checkpoint(tmp_path / "c", {}, {})
    with pytest.raises(UserError, match="holds no driver: its config does not say of what kind it is"):
        liquid_control.load_driver(tmp_path / "c")
    driver_of("cfc").save(tmp_path / "b")
    tensors, config = load_checkpoint(tmp_path / "b")
    del tensors["hands.gain"]
    save_checkpoint(tmp_path / "b", tensors, config)
    with pytest.raises(UserError, match="does not describe a driver of this release"):
        liquid_control.load_driver(tmp_path / "b")


def test_pictures_that_are_relative_to_themselves_look_alike_in_any_even_light():
    eyes = ConvEyes((28, 32, 3), encoding="norm")
    picture = torch.randint(40, 160, (1, 28, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = eyes.normalise(picture)
    levels = picture.permute(0, 3, 1, 2).float()
    levels -= levels.mean((2, 3), keepdim=True)
    torch.testing.assert_close(seen, levels * 0.3 / (levels.square().mean().sqrt() + 4))
    for other in (picture // 2 + 60, picture + torch.tensor([0, 50, 90], dtype=torch.uint8)):
        assert (eyes.normalise(other) - seen).abs().max() < 0.12 * seen.abs().max()
    assert eyes.normalise(torch.full_like(picture, 90)).abs().max() == 0

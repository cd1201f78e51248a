"""``export``: the ONNX model is the driver, to 1e-5 over a whole lap, and tells what is needed to drive with it."""

import contextlib
import io
import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch

from envs.registration import FAST, VALIDATION_SEEDS
from liquid_control.export import export_onnx, main
from policies.driver import Driver, DriverConfig, load_driver
from policies.view import build_view

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints/CarRacing-v3"


def session_of(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options)


def metadata_of(session):
    return {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}


class OnnxDriver:
    """Drives with nothing but the model and its metadata, and the view that those name."""

    def __init__(self, session):
        self.session, self.metadata = session, metadata_of(session)
        self.view = build_view(self.metadata["env"], self.metadata["playfield"])
        self.state = np.array([self.metadata["initial_state"]], np.float32)

    def act(self, observation):
        image, gauges = self.view(observation)
        given = {"image": image[None], "gauges": gauges[None], "state": self.state, "elapsed": np.ones(1, np.float32)}
        controls, self.state = self.session.run(None, given)
        return controls[0]


@pytest.fixture(scope="module", params=["cfc", "ltc"])
def written(request, tmp_path_factory):
    """A shipped driver, the model that the command has written of it, and what that printed and complained of."""
    folder, path = CHECKPOINTS / request.param, tmp_path_factory.mktemp("model") / "driver.onnx"
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        main([str(folder), "--output", str(path)])
    return load_driver(folder), session_of(path.read_bytes()), output.getvalue(), errors.getvalue()


@pytest.fixture
def shipped(written):
    """A shipped driver and its exported model."""
    return written[:2]


def test_the_model_drives_a_whole_lap_as_the_driver_would(shipped):
    driver, session = shipped
    driver.reset()
    exported = OnnxDriver(session)
    env = gymnasium.make(FAST)
    observation, _ = env.reset(seed=VALIDATION_SEEDS + 800)
    worst, over = 0.0, False
    while not over:
        action = exported.act(observation)
        difference = [action - driver.act(observation), exported.state - driver.state.numpy()]
        worst = max(worst, *(float(np.abs(part).max()) for part in difference))
        observation, _, terminated, truncated, information = env.step(action)
        over = terminated or truncated
    env.close()
    assert worst <= 1e-5
    assert information["lap_finished"]


@torch.no_grad()
def test_a_batch_and_its_elapsed_times_are_those_of_tick(shipped):
    driver, session = shipped
    torch.manual_seed(0)
    image = torch.randint(0, 256, (5, *driver.view.image_shape), dtype=torch.uint8)
    gauges, state = torch.randn(5, len(driver.view.gauges)), torch.randn(5, driver.core.state_size)
    elapsed = torch.tensor([0.0, 0.1, 1.0, 3.0, 50.0])
    given = {"image": image, "gauges": gauges, "state": state, "elapsed": elapsed}
    controls, after = session.run(None, {name: value.numpy() for name, value in given.items()})
    for found, expected in zip((controls, after), driver.tick(image, gauges, state, elapsed), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(after[0], state[0].numpy())


def test_the_metadata_tell_what_the_driver_sees_and_steers(shipped):
    driver, session = shipped
    found = metadata_of(session)
    assert found["controls"] == ["steer", "gas", "brake"]
    assert found["gauges"] == list(driver.view.gauges)
    assert (found["low"], found["high"]) == ([-1, 0, 0], [1, 1, 1])
    assert found["driver"] == driver.describe()
    config = json.loads((CHECKPOINTS / driver.config.policy / "config.json").read_text())
    assert found["weights"] == config["sha256"]


@pytest.mark.parametrize("policy", ["lan", "hybrid", "plastic", "scan", "lstm"])
@torch.no_grad()
def test_other_cores_carry_their_states_through_the_model(policy):
    torch.manual_seed(0)
    driver = Driver(DriverConfig(policy=policy)).eval()
    session = session_of(export_onnx(driver))
    state = driver.core.initial_state(3)
    carried = state.numpy()
    for elapsed in ([1.0, 1.0, 1.0], [0.0, 0.5, 4.0], [1.0, 0.0, 1.0]):
        image = torch.randint(0, 256, (3, *driver.view.image_shape), dtype=torch.uint8)
        gauges, elapsed = torch.randn(3, len(driver.view.gauges)), torch.tensor(elapsed)
        controls, state = driver.tick(image, gauges, state, elapsed)
        given = {"image": image.numpy(), "gauges": gauges.numpy(), "state": carried, "elapsed": elapsed.numpy()}
        found, carried = session.run(None, given)
        np.testing.assert_allclose(found, controls.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(carried, state.numpy(), rtol=0, atol=1e-5)


def test_the_command_writes_the_model_and_says_its_names(written):
    _, session, output, errors = written
    assert errors == ""
    assert "19 neurons" in output
    assert "image, gauges, state, elapsed → controls, next_state" in output
    assert [item.name for item in session.get_inputs()] == ["image", "gauges", "state", "elapsed"]


def test_a_broken_checkpoint_is_one_line_and_status_2(broken_checkpoint, command, tmp_path):
    checkpoint, message = broken_checkpoint
    status, _, errors = command(main, checkpoint, "--output", tmp_path / "driver.onnx")
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors
    assert not (tmp_path / "driver.onnx").exists()


def test_a_driver_of_another_environment_is_refused_by_its_name(command, tmp_path):
    driver = CHECKPOINTS.parent / "Udacity/cfc"
    status, _, errors = command(main, driver, "--output", tmp_path / "driver.onnx")
    told = "only drivers of CarRacing-v3 can be exported; this one drives liquid_control/Udacity-v0."
    assert (status, errors) == (2, f"error: {told}\n")


def test_without_onnx_it_says_what_to_install(checkpoint, command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, errors = command(main, checkpoint, "--output", tmp_path / "driver.onnx")
    assert status == 2 and "pip install 'liquid-control[onnx]'" in errors


def test_a_name_that_is_no_model_is_refused_before_the_work(checkpoint, command, tmp_path):
    status, _, errors = command(main, checkpoint, "--output", tmp_path / "driver.pt")
    assert status == 2 and "should be a .onnx file" in errors

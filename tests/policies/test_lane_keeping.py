"""The lane-keeping preset has the paper's numbers, and drives on what its frames show."""

import pytest
import torch

from policies.lane_keeping import FRAME, LANE_KEEPING_WIRING, LaneKeepingDriver, LaneKeepingEyes, standardize


@pytest.fixture(scope="module")
def driver():
    torch.manual_seed(0)
    return LaneKeepingDriver()


def test_counts_are_those_of_the_paper(driver):
    """Lechner 2020, Table 2: 19 neurons, 1,065 parameters, a head of 79,420."""
    circuit = driver.core.circuit
    assert [len(circuit.neurons_of_type(kind)) for kind in ("inter", "command", "motor")] == [12, 6, 1]
    assert circuit.sensory == 32
    assert circuit.synapse_count + circuit.sensory_synapse_count == 252
    assert driver.parameter_counts() == {"eyes": 79_420, "core": 1_065, "total": 80_485}


def test_the_circuit_is_that_of_the_authors_seed():
    assert LANE_KEEPING_WIRING.build(32) == LANE_KEEPING_WIRING.build(32)
    circuit = LANE_KEEPING_WIRING.build(32)
    fanout = [sum(source == neuron for source, *_ in circuit.sensory_synapses) for neuron in range(32)]
    assert min(fanout) == 6
    assert sum(destination == 0 for _, destination, _ in circuit.synapses) == 6


@torch.no_grad()
def test_frames_become_one_curvature_each_and_the_state_is_carried(driver):
    frames = torch.randint(0, 256, (2, 4, *FRAME), dtype=torch.uint8)
    y, state = driver(frames)
    assert y.shape == (2, 4, 1) and state.shape == (2, 19)
    first, middle = driver(frames[:, :2])
    second, end = driver(frames[:, 2:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), y)
    torch.testing.assert_close(end, state)


@torch.no_grad()
def test_brightness_and_contrast_do_not_matter(driver):
    frames = torch.rand(2, *FRAME) * 100
    torch.testing.assert_close(driver.eyes(3 * frames + 20), driver.eyes(frames), rtol=1e-3, atol=1e-4)
    assert (standardize(torch.full((1, *FRAME), 255.0)) == 0).all()


@torch.no_grad()
def test_the_eyes_end_in_eight_maps_that_cover_the_frame(driver):
    """A pixel in any corner reaches the features, each map its own four."""
    eyes = LaneKeepingEyes()
    for convolution in eyes.convolutions:
        convolution.weight.fill_(0.01)
    for dense in eyes.maps:
        dense.weight.fill_(1.0)
    grey = torch.full((1, *FRAME), 128.0)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        lit = grey.clone()
        lit[0, row, column] = 255
        assert (eyes(lit) != eyes(grey)).all()
    for dense in eyes.maps[1:]:
        dense.weight.zero_()
    moved = (eyes(lit) != eyes(grey)).flatten()
    assert moved[:4].all() and not moved[4:].any()


@torch.no_grad()
def test_padding_keeps_the_size_that_strides_leave(driver):
    shapes = []
    handles = [
        convolution.register_forward_hook(lambda *hook: shapes.append(tuple(hook[2].shape[1:])))
        for convolution in driver.eyes.convolutions
    ]
    driver.eyes(torch.zeros(1, *FRAME))
    for handle in handles:
        handle.remove()
    assert shapes == [(24, 39, 100), (36, 20, 50), (48, 10, 25), (64, 10, 25), (8, 10, 25)]


def test_every_parameter_of_the_eyes_learns(driver):
    driver(torch.rand(2, 3, *FRAME))[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in driver.eyes.convolutions.parameters())


def test_a_frame_of_another_size_is_refused(driver):
    with pytest.raises(ValueError, match=r"frames have shape \(6, 96, 96, 3\), expected \(N, 78, 200, 3\)"):
        driver(torch.zeros(2, 3, 96, 96, 3))

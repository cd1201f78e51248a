"""Layers of layers; what a stack has in common with every layer is in test_contract.py."""

import json

import pytest
import torch

from liquid_control.nn import GRU, LTC, Bidirectional, CfC, Leaky, Stack, build_layer
from liquid_control.nn.composite import until_next

INPUTS, BATCH, STEPS = 5, 3, 6


def both():
    torch.manual_seed(0)
    return Bidirectional(CfC(INPUTS, 4, backbone_units=6), LTC(INPUTS, 3, ode_unfolds=2)).double()


@pytest.fixture
def given():
    """Inputs, state, elapsed times with a zero, and a mask with holes for :func:`both`."""
    torch.manual_seed(2)
    elapsed = torch.rand(BATCH, STEPS, dtype=torch.float64) * 2
    elapsed[0, 3] = 0
    mask = torch.ones(BATCH, STEPS, dtype=torch.bool)
    mask[0, 0] = mask[1, 3] = mask[1, 5] = mask[2, 4:] = False
    return {
        "x": torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64),
        "state": torch.randn(BATCH, 7, dtype=torch.float64),
        "elapsed": elapsed,
        "mask": mask,
    }


# Both directions


def test_each_direction_is_its_layer_on_the_sequence_as_it_comes_to_it(given):
    layer, x, state = both(), given["x"], given["state"]
    onward, backward = layer.layers
    y, final = layer(x, state, 0.7)
    first, first_state = onward(x, state[:, :4], 0.7)
    second, second_state = backward(x.flip(1), state[:, 4:], 0.7)
    torch.testing.assert_close(y, torch.cat([first, second.flip(1)], -1))
    torch.testing.assert_close(final, torch.cat([first_state, second_state], 1))


def test_against_time_a_step_takes_the_time_until_the_next():
    elapsed = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    torch.testing.assert_close(until_next(elapsed[:, None], None)[:, 0], torch.tensor([0.2, 0.3, 0.4, 0.5, 0.1]))
    mask = torch.tensor([False, True, False, True, True])
    found = until_next(elapsed[:, None], mask[:, None])[mask, 0]
    torch.testing.assert_close(found, torch.tensor([0.4, 0.5, 0.2]))


def test_a_masked_sequence_equals_one_without_its_padded_steps(given):
    layer = both()
    y, final = layer(**given)
    assert torch.equal(y[~given["mask"]], torch.zeros_like(y[~given["mask"]]))
    for row in range(BATCH):
        real = given["mask"][row]
        alone, state = layer(given["x"][row, real][None], given["state"][row][None], given["elapsed"][row, real][None])
        torch.testing.assert_close(alone[0], y[row, real])
        torch.testing.assert_close(state[0], final[row])


def test_what_padding_holds_does_not_matter(given):
    layer = both()
    x, elapsed = given["x"].clone(), given["elapsed"].clone()
    x[~given["mask"]], elapsed[~given["mask"]] = torch.nan, -1
    assert torch.equal(layer(**given | {"x": x, "elapsed": elapsed})[0], layer(**given)[0])


def test_an_output_knows_the_whole_sequence(given):
    layer = both()
    later = given["x"].clone()
    later[:, -1] += 1
    assert (layer(later)[0] - layer(given["x"])[0])[:, 0].abs().max() > 1e-6


def test_a_single_step_has_no_future_and_is_refused(given):
    with pytest.raises(TypeError, match="needs the whole sequence"):
        both().step(given["x"][:, 0])


def test_a_bidirectional_layer_is_rebuilt_from_its_json(given):
    layer = both()
    rebuilt = build_layer(json.loads(json.dumps(layer.config))).double()
    rebuilt.load_state_dict(layer.state_dict())
    assert rebuilt.config == layer.config
    assert torch.equal(rebuilt(**given)[0], layer(**given)[0])


# A stack


def test_a_stack_is_its_layers_one_after_another(given):
    torch.manual_seed(0)
    below, above = Leaky(INPUTS, 4).double(), CfC(4, 3).double()
    stack = Stack([below, above])
    y, state = stack(**given)
    middle, low = below(given["x"], given["state"][:, :4], given["elapsed"], given["mask"])
    expected, high = above(middle, given["state"][:, 4:], given["elapsed"], given["mask"])
    assert torch.equal(y, expected)
    assert {name: part.shape[1] for name, part in stack.unpack(state).items()} == {"0.motor": 4, "1.neurons": 3}
    assert torch.equal(state, torch.cat([low, high], 1))


def test_where_no_time_passes_only_a_layer_that_time_drives_stands_still():
    torch.manual_seed(0)
    stack = Stack([GRU(INPUTS, 4), CfC(4, 3)])
    state = torch.randn(2, 7)
    _, after = stack(torch.randn(2, 3, INPUTS), state, torch.zeros(3))
    assert torch.equal(after[:, 4:], state[:, 4:])
    assert not torch.allclose(after[:, :4], state[:, :4])


def test_stacks_nest_and_know_what_they_hold():
    inner = Stack([GRU(INPUTS, 4), CfC(4, 3)])
    stack = Stack([inner, Bidirectional(Leaky(3, 2), Leaky(3, 2))])
    assert list(stack.unpack(stack.initial_state(1))) == ["0.0.hidden", "0.1.neurons", "1.0.motor", "1.1.motor"]
    assert stack.parameter_count() == sum(layer.parameter_count() for layer in stack.layers)
    assert build_layer(stack.config).config == stack.config


# What is refused


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="layer 0 has 4 outputs, layer 1 takes 5 inputs"):
        Stack([Leaky(INPUTS, 4), Leaky(INPUTS, 4)])
    with pytest.raises(ValueError, match="at least one layer"):
        Stack([])
    with pytest.raises(ValueError, match="the layers take 5 and 4 inputs"):
        Bidirectional(Leaky(5, 2), Leaky(4, 2))

"""ncps 1.0.1 beside these layers: its weights load, and its numbers are ours. Where it is wrong: test_ncps_defects."""

import ncps.torch
import ncps.wirings
import pytest
import torch

from liquid_control.nn import LTC

INPUTS, BATCH, STEPS = 8, 4, 5
WIRINGS = {
    "ncp": lambda: ncps.wirings.NCP(6, 4, 2, 3, 2, 4, 2),
    "auto": lambda: ncps.wirings.AutoNCP(12, 3),
    "random": lambda: ncps.wirings.Random(7, sparsity_level=0.5),
    "fully connected": lambda: ncps.wirings.FullyConnected(6, self_connections=False),
    "units": lambda: 7,
    "many units": lambda: 30,
}
OPTIONS = [
    ("cfc", {"mode": "default"}),
    ("cfc", {"mode": "no_gate"}),
    ("cfc", {"mode": "pure"}),
    ("cfc", {"proj_size": 5}),
    ("ltc", {}),
    ("ltc", {"input_mapping": "linear", "output_mapping": None, "ode_unfolds": 3, "epsilon": 1e-3}),
]


def gradients(layer, y, state, *leaves):
    """Of one loss by ``leaves`` and all trainable parameters, by name."""
    named = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    loss = y.sin().sum() + state.square().sum()
    found = torch.autograd.grad(loss, [*named.values(), *leaves], allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in [*named.values(), *leaves]]
    names = [*named, *(f"leaf {index}" for index in range(len(leaves)))]
    return {name: b if a is None else a for name, a, b in zip(names, found, zeros, strict=True)}


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("per_step", [False, True])
def test_values_and_all_gradients_are_those_of_ncps(pair, inputs, name, options, wiring, per_step):
    theirs, ours = pair(name, options, WIRINGS[wiring]())
    x, state = inputs(ours)
    elapsed = torch.rand(STEPS, dtype=torch.float64) + 0.1 if per_step else None
    expected = theirs(x, state, elapsed if elapsed is None else elapsed.expand(BATCH, -1)[:1])
    found = ours(x, state, elapsed)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    expected_gradients = gradients(theirs, *expected, x, state)
    for key, value in gradients(ours, *found, x, state).items():
        torch.testing.assert_close(value, expected_gradients[key], rtol=1e-10, atol=1e-11, msg=key)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_single_precision_agrees_to_a_millionth(pair, inputs, name, options):
    theirs, ours = pair(name, options, WIRINGS["ncp"](), torch.float32)
    x, state = inputs(ours, torch.float32)
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": activation, "backbone_units": 9, "backbone_layers": layers}
        for activation, layers in [("silu", 1), ("relu", 2), ("tanh", 3), ("gelu", 1), ("lecun_tanh", 0)]
    ],
)
def test_backbones_agree(pair, inputs, options):
    theirs, ours = pair("cfc", options, 6)
    x, state = inputs(ours)
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_explicit_constraints_agree(inputs):
    torch.manual_seed(0)
    theirs = ncps.torch.LTC(INPUTS, WIRINGS["ncp"](), implicit_param_constraints=False).double()
    ours = LTC(INPUTS, WIRINGS["ncp"](), implicit_param_constraints=False).double()
    ours.load_state_dict(theirs.state_dict())
    x, state = inputs(ours)
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    with torch.no_grad():
        for layer in (theirs, ours):
            layer.rnn_cell.w.sub_(0.5)
            layer.rnn_cell.gleak.sub_(0.5)
    theirs.rnn_cell.apply_weight_constraints()
    ours.apply_weight_constraints()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key

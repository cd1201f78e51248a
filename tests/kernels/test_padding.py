"""Padding and steps without time, which the CPU kernels look after themselves."""

import pytest
import torch

from liquid_control.nn import LTC, CfC, Wiring

INPUTS, BATCH, STEPS = 18, 21, 5
NCP = Wiring.ncp(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
LAYERS = {
    "ltc": lambda: LTC(INPUTS, NCP),
    "cfc": lambda: CfC(INPUTS, NCP),
    "cfc projected": lambda: CfC(INPUTS, NCP, 3),
    "cfc pure": lambda: CfC(INPUTS, NCP, mode="pure"),
    "cfc with a backbone": lambda: CfC(INPUTS, 7, backbone_units=9),
}
TIMES = {
    "one": lambda: 1.0,
    "none at all": lambda: 0.0,
    "varying": lambda: 0.1 + torch.rand(BATCH, STEPS, dtype=torch.float64),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]().double()


def given(layer, times):
    """Padding at the ends of rows and within them; zero elapsed times at real steps beside it."""
    torch.manual_seed(1)
    mask = torch.rand(BATCH, STEPS) < 0.7
    mask[3], mask[4] = False, True
    elapsed = TIMES[times]()
    if isinstance(elapsed, torch.Tensor):
        elapsed[torch.rand(BATCH, STEPS) < 0.3] = 0
    x = torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64)
    return {"x": x, "state": torch.randn(BATCH, layer.state_size).double(), "elapsed": elapsed, "mask": mask}


def outcome(layer, arguments):
    """Outputs, final state, and the gradients of all parameters and arguments, of a loss that has none at padding."""
    arguments = {
        name: value.clone().requires_grad_() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }
    leaves = {name: value for name, value in arguments.items() if getattr(value, "requires_grad", False)}
    leaves |= dict(layer.named_parameters())
    y, state = layer(**arguments)
    gradients = torch.autograd.grad(
        y.square().sum() + y.sum() + state.sin().sum(), list(leaves.values()), materialize_grads=True
    )
    return {"y": y.detach(), "final": state.detach()} | dict(zip(leaves, gradients, strict=True))


def spoiled(arguments):
    """The arguments with NaN wherever the mask says that there is nothing."""
    mask, changed = arguments["mask"], dict(arguments)
    for name in ("x", "elapsed"):
        if isinstance(arguments[name], torch.Tensor):
            changed[name] = arguments[name].clone()
            changed[name][~mask] = torch.nan
    return changed


@pytest.mark.parametrize("times", TIMES)
def test_whatever_padding_holds_all_gradients_are_those_of_the_reference_form(reference, layer, times):
    arguments = given(layer, times)
    found, expected = outcome(layer, spoiled(arguments)), reference(outcome, layer, arguments)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_that_come_to_padded_outputs_go_nowhere(layer):
    arguments = given(layer, "varying")
    weights = torch.randn(BATCH, STEPS, layer.output_size, dtype=torch.float64)
    spoilt = weights.masked_fill(~arguments["mask"][..., None], torch.nan)
    y, _ = layer(**arguments)
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    found, expected = (
        torch.autograd.grad(y, parameters, gradient, retain_graph=True) for gradient in (spoilt, weights)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_batch_of_no_rows_has_gradients_of_zero(layer):
    y, state = layer(torch.randn(0, STEPS, INPUTS).double(), elapsed=torch.rand(0, STEPS).double())
    assert y.shape == (0, STEPS, layer.output_size) and state.shape == (0, layer.state_size)
    for gradient in torch.autograd.grad(y.sum() + state.sum(), list(layer.parameters()), materialize_grads=True):
        assert not gradient.any()


def test_a_real_step_without_time_shows_the_state_where_a_padded_one_shows_zero(layer):
    x, state = torch.randn(2, 1, INPUTS).double(), torch.randn(2, layer.state_size).double()
    elapsed, mask = torch.zeros(2, 1).double(), torch.tensor([[True], [False]])
    y, final = layer(x, state, elapsed, mask)
    assert torch.equal(final, state)
    assert torch.equal(y[0], layer(x[:1], state[:1], 0.0)[0][0]) and y[0].abs().min() > 0
    assert torch.equal(y[1], torch.zeros_like(y[1]))

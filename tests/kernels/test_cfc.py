"""The CfC kernels beside the reference form: values, every gradient, states; and what is left to the reference form."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch.func import functional_call

from liquid_control import kernels
from liquid_control.nn import CfC, Wiring, cfc

INPUTS, STEPS = 5, 4
NCP = Wiring.ncp(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
CASES = {
    "ncp": lambda: CfC(INPUTS, NCP),
    "ncp-no_gate": lambda: CfC(INPUTS, NCP, mode="no_gate"),
    "ncp-pure": lambda: CfC(INPUTS, NCP, 3, mode="pure"),
    "ncp-all-masked": lambda: CfC(INPUTS, NCP, 3, ncps_compat=False),
    "dense": lambda: CfC(INPUTS, 7, backbone_layers=0),
    "dense-pure": lambda: CfC(INPUTS, 7, mode="pure", backbone_layers=0),
    "backbone": lambda: CfC(INPUTS, 7, 3, backbone_units=9),
    "backbone-no_gate": lambda: CfC(INPUTS, 7, mode="no_gate", backbone_units=9, activation="silu"),
    "backbone-pure": lambda: CfC(INPUTS, 7, mode="pure", backbone_units=9, activation="gelu"),
    "backbone-relu": lambda: CfC(INPUTS, 7, backbone_units=9, activation="relu"),
    "backbone-tanh": lambda: CfC(INPUTS, 7, backbone_units=9, activation="tanh"),
    "deep": lambda: CfC(INPUTS, 7, backbone_units=9, backbone_layers=3),
    "deep-no_gate": lambda: CfC(INPUTS, 19, 3, mode="no_gate", backbone_units=17, backbone_layers=2, activation="silu"),
    "deep-pure": lambda: CfC(INPUTS, 7, mode="pure", backbone_units=16, backbone_layers=2, activation="gelu"),
    "wide": lambda: CfC(INPUTS, 67, backbone_units=101, backbone_layers=2),
    "dropout": lambda: CfC(INPUTS, 7, backbone_units=9, backbone_dropout=0.4),
    "dropout-deep": lambda: CfC(INPUTS, 7, 3, backbone_units=18, backbone_layers=3, backbone_dropout=0.2),
    "dropout-pure": lambda: CfC(INPUTS, 7, mode="pure", backbone_units=9, backbone_layers=2, backbone_dropout=0.3),
}
TIMES = {
    "one-unit": lambda batch: {},
    "constant": lambda batch: {"elapsed": 0.7},
    "constant-masked": lambda batch: {"elapsed": 1.3, "mask": torch.rand(batch, STEPS) > 0.3},
    "varying": lambda batch: {"elapsed": some_zeros(batch)},
    "varying-masked": lambda batch: {"elapsed": some_zeros(batch), "mask": torch.rand(batch, STEPS) > 0.3},
}


def some_zeros(batch):
    return 2 * torch.rand(batch, STEPS, dtype=torch.float64) * (torch.rand(batch, STEPS) > 0.2)


def build(case, dtype=torch.float64):
    torch.manual_seed(1)
    return CASES[case]().to(dtype)


def given(layer, batch=3, steps=STEPS):
    torch.manual_seed(2)
    dtype = next(layer.parameters()).dtype
    return {
        "x": torch.randn(batch, steps, INPUTS, dtype=dtype),
        "state": torch.randn(batch, layer.state_size, dtype=dtype),
    }


def outcome(layer, arguments):
    """Outputs, final state, and the gradients of all parameters and of all arguments that have one."""
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    parameters = dict(layer.named_parameters())
    torch.manual_seed(5)  # of dropout
    y, state = layer(**arguments | leaves)
    gradients = torch.autograd.grad(y.square().sum() + state.sin().sum(), [*leaves.values(), *parameters.values()])
    return {"y": y, "final": state} | dict(zip([*leaves, *parameters], gradients, strict=True))


def compare(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """A layer that silently took the reference form would equal it."""

    def refuse(self, *arguments):
        assert kernels.kernel_device(arguments[0]) is None, "the reference form runs"
        return integrate(self, *arguments)

    integrate = CfC.integrate
    monkeypatch.setattr(CfC, "integrate", refuse)
    return integrate


# Equal to the reference form


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_the_reference_form(reference, case, times):
    layer = build(case)
    arguments = given(layer) | TIMES[times](3)
    compare(outcome(layer, arguments), reference(outcome, layer, arguments), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ["ncp", "dropout-deep"])
@pytest.mark.parametrize("batch", [1, 16, 37])
@pytest.mark.parametrize("steps", [1, STEPS, 9])
def test_kernels_equal_the_reference_form_for_any_size(reference, case, batch, steps):
    layer = build(case)
    arguments = given(layer, batch, steps)
    compare(outcome(layer, arguments), reference(outcome, layer, arguments), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ["ncp", "ncp-pure", "backbone", "deep-pure", "wide", "dropout-deep"])
def test_single_precision_is_as_close_as_its_rounding(reference, case):
    layer = build(case, torch.float32)
    arguments = given(layer) | {"elapsed": some_zeros(3).float()}
    compare(outcome(layer, arguments), reference(outcome, layer, arguments), rtol=2e-5, atol=2e-5)


def test_weights_have_the_same_gradients_if_inputs_have_none():
    for case in ("ncp", "backbone", "deep", "dense"):
        layer = build(case)
        arguments = given(layer)
        expected = outcome(layer, arguments)
        layer(**arguments)[0].square().sum().backward()
        y, _ = layer(arguments["x"].requires_grad_(), arguments["state"])
        wanted = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
        assert expected["x"].abs().sum() > 0
        for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("case", ["ncp", "dropout-deep"])
def test_outputs_are_the_same_to_the_bit_without_gradients(case):
    layer = build(case)
    arguments = given(layer) | {"elapsed": some_zeros(3)}
    torch.manual_seed(5)
    y, final = layer(**arguments)
    torch.manual_seed(5)
    with torch.no_grad():
        plain, plain_final = layer(**arguments)
    assert torch.equal(y, plain) and torch.equal(final, plain_final)
    assert y.requires_grad and not plain.requires_grad


# Memory, threads and copies


@pytest.mark.parametrize("case", ["ncp", "dropout-deep"])
def test_a_retained_graph_gives_its_gradients_twice(case):
    layer = build(case)
    y, _ = layer(**given(layer))
    first, second = (torch.autograd.grad(y.sum(), list(layer.parameters()), retain_graph=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_layers_in_flight_do_not_disturb_each_other():
    layers = [build("ncp"), build("backbone"), build("ncp")]
    alone = [outcome(layer, given(layer)) for layer in layers]
    passes = [layer(**given(layer)) for layer in layers]
    for layer, (y, state), expected in zip(layers, passes, alone, strict=True):
        gradients = torch.autograd.grad(y.square().sum() + state.sin().sum(), list(layer.parameters()))
        for (name, _), gradient in zip(layer.named_parameters(), gradients, strict=True):
            assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize(
    "make",
    [
        lambda: CfC(INPUTS, Wiring.auto(19, 3)),
        lambda: CfC(INPUTS, 21, backbone_units=33, backbone_layers=2, backbone_dropout=0.2),
    ],
    ids=["wired", "dense"],
)
@pytest.mark.parametrize("batch", [70, 150])
def test_threads_do_not_change_a_bit(threads, make, batch):
    torch.manual_seed(3)
    layer = make()
    arguments = {"x": torch.randn(batch, 64, INPUTS), "elapsed": torch.rand(batch, 64)}
    threads(1)
    alone = outcome(layer, arguments)
    threads(2)
    together = outcome(layer, arguments)
    for name, value in alone.items():
        assert torch.equal(value, together[name]), name


def test_a_copy_made_after_a_pass_has_its_own_weights():
    layer = build("ncp")
    arguments = given(layer)
    before = layer(**arguments)[0]
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert torch.equal(layer(**arguments)[0], before)
    y = functional_call(layer, dict(twin.named_parameters()), (), arguments)[0]
    assert torch.equal(twin(**arguments)[0], y) and not torch.equal(y, before)


def test_a_pruned_weight_is_used_as_pruned(reference):
    layer = build("ncp")
    arguments = given(layer)
    before = layer(**arguments)[0]
    torch.nn.utils.prune.l1_unstructured(layer.cells[0].ff1, "weight", 0.5)
    y = layer(**arguments)[0]
    torch.testing.assert_close(y, reference(layer, *arguments.values())[0], rtol=1e-10, atol=1e-12)
    assert not torch.equal(y, before)


def test_elapsed_times_changed_before_the_backward_pass_are_noticed():
    layer = build("ncp")
    elapsed = torch.ones(3, STEPS, dtype=torch.float64)
    y, _ = layer(**given(layer), elapsed=elapsed)
    elapsed.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_second_derivatives_are_refused_with_the_way_out():
    layer = build("ncp")
    y, _ = layer(**given(layer))
    with pytest.raises(RuntimeError, match="LIQUID_CONTROL_KERNELS=reference"):
        torch.autograd.grad(y.sum(), list(layer.parameters()), create_graph=True)


# What is left to the reference form


@pytest.mark.parametrize(
    ("options", "dtype", "reason"),
    [
        ({}, torch.float16, "float32 or float64, not in torch.float16"),
    ],
)
def test_the_reference_form_says_why_it_runs(monkeypatch, no_fallback, options, dtype, reason):
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(CfC, "integrate", no_fallback)
    layer = CfC(INPUTS, 4, **options).to(dtype)
    with pytest.warns(kernels.ReferenceFormWarning, match=reason):
        layer(torch.randn(2, STEPS, INPUTS, dtype=dtype))


@pytest.mark.parametrize(
    ("what", "options"),
    [("activation 'sine'", {"activation": "sine", "backbone_units": 9}), ("mode 'leap'", {"mode": "leap"})],
    ids=["activation", "mode"],
)
def test_what_the_kernels_do_not_know_is_the_reference_form(monkeypatch, no_fallback, what, options):
    """In whole sequences and in compiled steps; it is never taken for another one."""
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(CfC, "integrate", no_fallback)
    monkeypatch.setitem(cfc.ACTIVATIONS, "sine", torch.sin)
    monkeypatch.setattr(cfc, "MODES", (*cfc.MODES, "leap"))
    torch.manual_seed(1)
    layer = CfC(INPUTS, 4, **options).double()
    x, state = given(layer, 1).values()
    with pytest.warns(kernels.ReferenceFormWarning, match=f"no kernel of the CfC knows the {what}"):
        y, final = layer(x)
    expected = no_fallback(layer, x.transpose(0, 1), torch.zeros_like(state), 1.0, None)
    assert torch.equal(y[0], expected[0][:, 0]) and torch.equal(final, expected[1])
    step = layer.compile_step()
    found = np.stack([step(tick.numpy()) for tick in x[0]])
    np.testing.assert_allclose(found, y[0].detach(), rtol=1e-11, atol=1e-12)


# Dropout


def test_dropout_has_a_new_mask_for_each_step_and_layer_and_keeps_the_mean():
    torch.manual_seed(6)
    layer = CfC(INPUTS, 4, backbone_units=33, backbone_layers=2, backbone_dropout=0.1)
    factors = torch.stack([torch.stack(step) for step in layer._dropout_factors(torch.zeros(50, 20, INPUTS))])
    assert factors.shape == (50, 2, 20, 33)
    dropped = (factors == 0).double()
    assert abs(dropped.mean() - 0.1) < 4 * (0.09 / dropped.numel()) ** 0.5
    torch.testing.assert_close(factors[factors > 0].unique(), torch.tensor([1 / 0.9]), rtol=1e-4, atol=0)
    for one, other in (
        (dropped[1:], dropped[:-1]),
        (dropped[:, 0], dropped[:, 1]),
        (dropped[..., 1:], dropped[..., :-1]),
    ):
        assert abs((one * other).mean() - 0.01) < 4 * (0.01 / one.numel()) ** 0.5


def test_a_rate_near_one_drops_nearly_all_units_and_stays_finite(reference):
    layer = CfC(INPUTS, 4, backbone_units=9, backbone_dropout=0.9999999).double()
    arguments = given(layer)
    compare(outcome(layer, arguments), reference(outcome, layer, arguments), rtol=1e-10, atol=1e-12)


def test_no_unit_is_dropped_in_evaluation():
    torch.manual_seed(1)
    layer = CfC(INPUTS, 4, backbone_dropout=0.1).eval()
    x = torch.randn(2, STEPS, INPUTS)
    assert torch.equal(layer(x)[0], layer(x)[0])


# Single steps


@pytest.mark.parametrize(
    "case", ["ncp", "ncp-no_gate", "ncp-pure", "ncp-all-masked", "dense", "dense-pure", "backbone"]
)
def test_compiled_steps_equal_the_whole_sequence(case):
    layer = build(case)
    x, elapsed = given(layer, 1, 6)["x"], torch.tensor([1.0, 0.3, 0.0, 2.0, 0.0, 0.7], dtype=torch.float64)
    y, final = layer(x, elapsed=elapsed)
    step = layer.compile_step()
    found = np.stack([step(x[0, k].numpy(), elapsed[k].item()) for k in range(6)])
    np.testing.assert_allclose(found, y[0].detach(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(step.state, final[0].detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", [{"backbone_layers": 0}, {"backbone_units": 70}])
def test_compiled_steps_take_layers_wider_than_a_register(options):
    torch.manual_seed(4)
    layer = CfC(INPUTS, 40, 2, **options)
    x = torch.randn(1, 3, INPUTS)
    step = layer.compile_step()
    found = np.stack([step(x[0, k].numpy()) for k in range(3)])
    np.testing.assert_allclose(found, layer(x)[0][0].detach(), rtol=1e-5, atol=1e-6)

"""The LTC kernel: equal to the layer's reference form in outputs, final state and every gradient."""

import copy
import warnings

import pytest
import torch
from torch.func import functional_call

from liquid_control import kernels
from liquid_control.nn import LTC, Wiring
from tests.kernels.conftest import agree, outcome

INPUTS = 18
NCP = Wiring.ncp(6, 4, 3, sensory_fanout=3, inter_fanout=2, recurrent_command_synapses=4, motor_fanin=2)
LAYERS = {
    "sparse": lambda: LTC(INPUTS, NCP, learn_initial_state=True),
    "full": lambda: LTC(INPUTS, 9, input_mapping="linear", output_mapping=None),
    "explicit constraints": lambda: LTC(INPUTS, NCP, implicit_param_constraints=False, output_mapping="linear"),
    "one unfold, no mapping, epsilon": lambda: LTC(INPUTS, NCP, ode_unfolds=1, input_mapping=None, epsilon=1e-3),
}
TIMES = ("one", "a number", "batched", "zeros among them", "mask with holes", "both")
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def build(name="sparse", dtype=torch.float64):
    """A layer whose parameters, the mappings too, are not what they are drawn as."""
    torch.manual_seed(0)
    layer = LAYERS[name]().to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return layer


def given(layer, batch=5, steps=4, times="both", dtype=torch.float64):
    torch.manual_seed(1)
    arguments = {
        "x": torch.randn(batch, steps, INPUTS, dtype=dtype, requires_grad=True),
        "state": torch.randn(batch, layer.state_size, dtype=dtype, requires_grad=True),
    }
    elapsed = 0.1 + torch.rand(batch, steps, dtype=dtype)
    if times in ("zeros among them", "both"):
        elapsed[torch.rand(batch, steps) < 0.2] = 0
    if times == "a number":
        arguments["elapsed"] = 0.3
    elif times not in ("one", "mask with holes"):
        arguments["elapsed"] = elapsed.requires_grad_()
    if times in ("mask with holes", "both"):
        arguments["mask"] = torch.rand(batch, steps) < 0.8
    return arguments


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_option_equals_the_reference_form(reference, name, dtype):
    layer = build(name, dtype)
    arguments = given(layer, dtype=dtype)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("times", TIMES)
def test_every_kind_of_time_equals_the_reference_form(reference, times, dtype):
    layer = build(dtype=dtype)
    arguments = given(layer, times=times, dtype=dtype)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), TOLERANCES[dtype])


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 9), (16, 1), (21, 3), (32, 2), (33, 5)])
def test_every_shape_equals_the_reference_form(reference, batch, steps):
    layer = build()
    arguments = given(layer, batch, steps)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-12)


def test_the_reference_form_is_what_it_is_compared_to(monkeypatch, reference):
    layer, calls = build(), []
    monkeypatch.setattr(layer, "integrate", lambda *arguments: calls.append(0) or LTC.integrate(layer, *arguments))
    outcome(layer, given(layer))
    assert not calls
    reference(outcome, layer, given(layer))
    assert calls


def test_time_first_inputs_and_strided_states_are_read_as_they_are(reference):
    layer = build()
    arguments = given(layer)
    strided = {
        "x": arguments["x"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_(),
        "state": arguments["state"].detach().T.contiguous().T.requires_grad_(),
        "elapsed": arguments["elapsed"].detach().T.contiguous().T.requires_grad_(),
        "mask": arguments["mask"].T.contiguous().T,
    }
    agree(outcome(layer, strided), outcome(layer, arguments), 0)


def test_gradients_that_nobody_wants_are_left_out():
    layer = build()
    arguments = given(layer)
    wanted = outcome(layer, arguments)
    layer.requires_grad_(False)
    layer.rnn_cell.w.requires_grad_()
    plain = {name: value.detach() for name, value in arguments.items()}
    y, state = layer(**plain)
    (y.sin().sum() + state.square().sum()).backward()
    assert torch.equal(layer.rnn_cell.w.grad, wanted["rnn_cell.w"])
    assert all(p.grad is None for name, p in layer.named_parameters() if name != "rnn_cell.w")


def test_without_gradients_the_numbers_are_the_same_to_the_bit():
    layer = build()
    arguments = given(layer)
    y, state = layer(**arguments)
    with torch.no_grad():
        for value, expected in zip(layer(**arguments), (y, state), strict=True):
            assert torch.equal(value, expected) and not value.requires_grad


def test_a_graph_that_is_retained_gives_its_gradients_twice():
    layer = build()
    y, _ = layer(**given(layer))
    first, second = (torch.autograd.grad(y.sum(), layer.rnn_cell.parameters(), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_layers_whose_passes_interleave_do_not_share_memory():
    layers = [build(), build("explicit constraints")]
    arguments = given(layers[0])
    expected = [torch.autograd.grad(layer(**arguments)[0].sum(), layer.rnn_cell.parameters()) for layer in layers]
    outputs = [layer(**arguments)[0].sum() for layer in (*layers, *layers)]
    for order in (2, 0, 3, 1):
        found = torch.autograd.grad(outputs[order], layers[order % 2].rnn_cell.parameters())
        assert all(torch.equal(a, b) for a, b in zip(found, expected[order % 2], strict=True))


def test_a_layer_on_top_of_a_layer_equals_the_reference_form(reference):
    lower, upper = build("full"), LTC(9, NCP).double()

    def stacked():
        y, _ = lower(**given(lower, times="one"))
        y, _ = upper(y)
        return dict(enumerate(torch.autograd.grad(y.sum(), [*lower.parameters(), *upper.parameters()])))

    agree(stacked(), reference(stacked), 1e-12)


def test_weights_of_a_functional_call_and_of_a_copy_are_used():
    layer = build()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    arguments = given(layer)
    y = functional_call(layer, dict(twin.named_parameters()), (), arguments)[0]
    assert torch.equal(y, twin(**arguments)[0])
    assert not torch.equal(y, layer(**arguments)[0])


def test_more_threads_give_the_same_bits(threads):
    layer = LTC(INPUTS, 12)
    x, elapsed = torch.randn(50, 40, INPUTS), 0.1 + torch.rand(50, 40)
    found = []
    for count in (1, 2, 3):
        threads(count)
        layer.zero_grad()
        y, _ = layer(x, elapsed=elapsed)
        y.sin().sum().backward()
        found.append([y, *(parameter.grad for parameter in layer.parameters())])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_what_one_sequence_holds_does_not_reach_another():
    layer = build()
    arguments = given(layer, batch=3, times="batched")
    y, _ = layer(**arguments)
    with torch.no_grad():
        arguments["x"][1] = torch.nan
    broken, _ = layer(**arguments)
    assert broken[1].isnan().all()
    assert torch.equal(broken[[0, 2]], y[[0, 2]])


def test_second_derivatives_are_refused_by_name():
    layer = build()
    y, _ = layer(**given(layer))
    with pytest.raises(RuntimeError, match="LIQUID_CONTROL_KERNELS=reference"):
        torch.autograd.grad(y.sum(), layer.rnn_cell.w, create_graph=True)


def test_an_input_changed_in_place_before_the_backward_pass_is_noticed():
    layer = build()
    arguments = given(layer, times="one") | {"x": torch.randn(5, 4, INPUTS, dtype=torch.float64)}
    y, _ = layer(**arguments)
    arguments["x"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_half_precision_falls_back_with_one_warning(monkeypatch):
    monkeypatch.setattr(kernels, "_said", set())
    layer = build().bfloat16()
    x = torch.randn(2, 3, INPUTS, dtype=torch.bfloat16)
    with pytest.warns(kernels.ReferenceFormWarning, match=r"not in torch.bfloat16"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


def test_without_numba_the_reference_form_runs_with_one_warning(monkeypatch, reference):
    layer = build()
    arguments = given(layer)
    expected = reference(outcome, layer, arguments)
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(kernels, "_installed", lambda package: False)
    with pytest.warns(kernels.ReferenceFormWarning, match="numba is not installed"):
        found = outcome(layer, arguments)
    agree(found, expected, 0)

"""The operator of the liquid scan equals the layer's reference form, and is one operation to torch's tools."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from liquid_control import kernels
from liquid_control.kernels import scan as kernel
from liquid_control.nn import LiquidScan
from liquid_control.nn import scan as layers
from tests.kernels.conftest import agree, outcome

INPUTS = 7
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}
SIZES = {"one": (1, 1, 1), "odd": (3, 7, 5), "whole lanes": (2, 6, 64), "groups": (2, 33, 130), "long": (1, 300, 17)}
TIMES = ("one", "a number", "none at all", "varying", "mask with holes", "both")


def build(units, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = LiquidScan(INPUTS, units, learn_initial_state=True, **options).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def given(layer, batch, steps, times="both", dtype=torch.float64):
    torch.manual_seed(1)
    arguments = {
        "x": torch.randn(batch, steps, INPUTS, dtype=dtype, requires_grad=True),
        "state": torch.randn(batch, layer.state_size, dtype=dtype, requires_grad=True),
    }
    if times in ("varying", "both"):
        elapsed = 0.1 + 3 * torch.rand(batch, steps, dtype=dtype)
        elapsed[torch.rand(batch, steps) < 0.2] = 0
        arguments["elapsed"] = elapsed.requires_grad_()
    elif times != "mask with holes":
        arguments["elapsed"] = {"one": 1.0, "a number": 0.3, "none at all": 0.0}[times]
    if times in ("mask with holes", "both"):
        arguments["mask"] = torch.rand(batch, steps) < 0.7
    return arguments


@pytest.fixture
def called(monkeypatch):
    """Counts calls of the operator."""
    calls = []
    operator = kernel.liquid_scan
    monkeypatch.setattr(kernel, "liquid_scan", lambda *arguments: (calls.append(1), operator(*arguments))[1])
    return calls


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_equals_the_reference_form(reference, size, dtype):
    batch, steps, units = SIZES[size]
    layer = build(units, dtype)
    arguments = given(layer, batch, steps, dtype=dtype)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), TOLERANCES[dtype])


@pytest.mark.parametrize("times", TIMES)
def test_every_kind_of_time_equals_the_reference_form(reference, called, times):
    layer = build(5, output_size=2)
    arguments = given(layer, 3, 7, times)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-10)
    assert called == [1]


@pytest.mark.parametrize("times", TIMES)
def test_the_prefix_scan_that_other_devices_run_equals_the_reference_form(monkeypatch, reference, times):
    layer = build(5, output_size=2)
    arguments = given(layer, 3, 7, times)
    expected = reference(outcome, layer, arguments)
    monkeypatch.setattr(layers, "is_operable", lambda *_: False)
    agree(outcome(layer, arguments), expected, 1e-10)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("time", [1e-8, 1e8, 1e30])
def test_extreme_times_and_paces_are_finite_and_equal(dtype, time):
    torch.manual_seed(0)
    values = (
        50 * torch.randn(2, 9, 40, dtype=dtype),
        torch.randn(2, 20, dtype=dtype),
        torch.full((2, 9), time).to(dtype),
    )
    outcomes = []
    for form in (kernel.liquid_scan, layers.liquid_scan):
        leaves = [value.clone().requires_grad_() for value in values]
        states, final = form(*leaves, 1e-3)
        loss = states.sin().sum() + final.square().sum()
        outcomes.append([states.detach(), final.detach(), *torch.autograd.grad(loss, leaves)])
    for found, expected in zip(*outcomes, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=20 * TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_a_slow_neuron_keeps_the_digits_of_what_a_short_time_adds():
    drive = torch.tensor([[[1.0, 20.0]]])
    moved = kernel.liquid_scan(drive, torch.zeros(1, 1), torch.tensor([[1e-5]]), 0.1)[1]
    assert moved.item() == pytest.approx(np.tanh(1) * -np.expm1(-1e-5 / 20.1), rel=1e-6)


@pytest.mark.parametrize("threads_now", [2, 3])
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(threads, threads_now):
    layer = build(130, torch.float32)
    arguments = given(layer, 4, 500, dtype=torch.float32)
    threads(1)
    alone = outcome(layer, arguments)
    threads(threads_now)
    for name, value in outcome(layer, arguments).items():
        if name in ("outputs", "final state", "state", "elapsed"):  # the others are products of torch's
            assert torch.equal(value, alone[name]), name


def test_inputs_that_lie_elsewhere_in_memory_are_read_where_they_are():
    layer = build(5)
    arguments = given(layer, 3, 7, "one")
    apart = arguments["x"].detach().permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not apart.is_contiguous()
    for one, other in zip(layer(apart), layer(arguments["x"].detach()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_without_numba_the_prefix_scan_runs_with_one_warning(monkeypatch, reference):
    layer = build(5)
    arguments = given(layer, 3, 7)
    expected = reference(outcome, layer, arguments)
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(kernels, "_installed", lambda package: False)
    with pytest.warns(kernels.ReferenceFormWarning, match="numba is not installed"):
        found = outcome(layer, arguments)
    agree(found, expected, 1e-10)


# One operation


def arguments_of_the_operator(requires_grad=True):
    torch.manual_seed(0)
    values = torch.randn(2, 5, 6), torch.randn(2, 3), 0.1 + torch.rand(2, 5)
    return (*(value.double().requires_grad_(requires_grad) for value in values), 0.1)


def test_the_operator_is_registered_as_torch_asks():
    torch.library.opcheck(kernel.liquid_scan, arguments_of_the_operator())
    torch.library.opcheck(kernel.liquid_scan, arguments_of_the_operator(requires_grad=False))


def test_the_gradients_of_the_operator_are_those_of_the_function():
    *tensors, tau_min = arguments_of_the_operator()
    assert torch.autograd.gradcheck(lambda *given: kernel.liquid_scan(*given, tau_min), tensors)


def names(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


OPERATOR = "liquid_control.liquid_scan.default"


def test_a_compiled_layer_keeps_the_operator_without_a_break_in_its_graph():
    layer, graphs = build(5), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    x = torch.randn(3, 7, INPUTS).double()
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for one, other in zip(compiled(x), layer(x), strict=True):
        assert torch.equal(one, other)
    assert [name for name in names(graphs[0]) if name == OPERATOR] == [OPERATOR]


def test_gradients_of_a_compiled_layer_are_those_of_the_layer():
    layer = build(5)
    arguments = given(layer, 3, 7)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    leaves = [*(value for value in arguments.values() if value.requires_grad), *layer.drive.parameters()]
    gradients = []
    for run in (compiled, layer):
        y, state = run(**arguments)
        gradients.append(torch.autograd.grad(y.sin().sum() + state.square().sum(), leaves))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-13)


def test_transforms_within_a_compiled_function_run_in_plain_torch():
    layer = build(5)
    x = torch.randn(3, 4, INPUTS).double()
    torch._dynamo.reset()
    of_each = torch.compile(lambda x: torch.vmap(lambda row: layer(row[None])[0][0])(x), backend="eager")
    torch.testing.assert_close(of_each(x), layer(x)[0], rtol=1e-12, atol=1e-13)


def test_an_exported_layer_keeps_the_operator_and_takes_other_lengths():
    layer = build(5).requires_grad_(False)
    sizes = {0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("time", min=3, max=4096)}
    program = torch.export.export(layer, (torch.randn(3, 7, INPUTS).double(),), dynamic_shapes={"x": sizes})
    assert OPERATOR in names(program)
    x = torch.randn(4, 50, INPUTS).double()
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-12, atol=1e-13)


def test_make_fx_keeps_the_operator_and_its_backward_pass():
    layer = build(5)

    def gradients(x):
        y, state = layer(x)
        return torch.autograd.grad(y.sum() + state.sum(), list(layer.parameters()))

    traced = names(make_fx(gradients)(torch.randn(2, 4, INPUTS).double()))
    assert OPERATOR in traced and "liquid_control.liquid_scan_backward.default" in traced


def test_tensors_without_values_go_through_the_operator(called):
    layer = build(5).requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, state = layer(mode.from_tensor(torch.randn(2, 4, INPUTS).double()))
    assert (y.shape, state.shape) == ((2, 4, 5), (2, 5)) and called


def test_an_onnx_model_has_the_prefix_scan_because_it_runs_where_the_operator_is_not(called, monkeypatch):
    layer = build(5)
    x = torch.randn(2, 4, INPUTS).double()
    expected = layer(x)
    called.clear()
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-13)
    assert not called


def test_a_second_derivative_is_one_error():
    layer = build(5)
    x = torch.randn(2, 4, INPUTS).double().requires_grad_()
    with pytest.raises(RuntimeError, match=r"the liquid scan has no second derivatives.*LIQUID_CONTROL_KERNELS"):
        torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)


def test_a_single_step_needs_no_operator(called):
    layer = build(5)
    layer.step(torch.randn(2, INPUTS).double())
    assert not called

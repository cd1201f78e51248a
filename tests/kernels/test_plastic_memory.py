"""The operators of the plastic memory equal its reference form, and are two operations to torch's tools."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from liquid_control.kernels import heads as of_heads
from liquid_control.kernels import trace as of_trace
from liquid_control.nn import PlasticMemory
from liquid_control.nn.trace import RULES
from tests.kernels.conftest import agree, outcome

INPUTS = 7
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
SIZES = {
    "one": (1, 2, 1, 1, None),
    "odd": (3, 7, 6, 2, 5),
    "whole lanes": (2, 8, 32, 2, 16),
    "stretches": (2, 33, 34, 2, 33),
    "long": (1, 200, 9, 1, 4),
}


def build(units=6, heads=2, key_size=5, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, units, 3, heads=heads, key_size=key_size, learn_initial_state=True, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer.to(dtype)


def given(layer, batch=3, steps=7, times=None):
    torch.manual_seed(1)
    dtype = layer.gain.dtype
    arguments = {
        "x": torch.randn(batch, steps, INPUTS, dtype=dtype, requires_grad=True),
        "state": torch.randn(batch, layer.state_size, dtype=dtype, requires_grad=True),
    }
    if times == "varying":
        arguments["elapsed"] = (0.1 + 3 * torch.rand(batch, steps, dtype=dtype)).requires_grad_()
    elif times is not None:
        arguments["elapsed"] = times
    return arguments


@pytest.fixture
def called(monkeypatch):
    """Counts calls of the two operators."""
    calls = []
    for module, name in ((of_heads, "memory_heads"), (of_trace, "plastic_trace")):
        operator = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *arguments, operator=operator: (calls.append(1), operator(*arguments))[1]
        )
    return calls


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_equals_the_reference_form(reference, size, dtype, rule):
    batch, steps, *shape = SIZES[size]
    layer = build(*shape, dtype, rule=rule)
    arguments = given(layer, batch, steps)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), TOLERANCES[dtype])


@pytest.mark.parametrize("times", [None, 0.3, 0.0, "varying"])
@pytest.mark.parametrize("convolution", [1, 2, 9])
def test_every_kind_of_time_and_convolution_equals_the_reference_form(reference, times, convolution):
    layer = build(convolution=convolution)
    arguments = given(layer, times=times)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-10)


def test_kernels_run_where_gradients_are_wanted_and_nowhere_else(called):
    layer = build()
    x, state = given(layer).values()
    layer(x, state)
    assert called == [1, 1]
    with torch.no_grad():
        layer(x, state)
    layer(x, state, mask=torch.ones(3, 7, dtype=torch.bool).tril(4))
    build(rule="hebb", eligibility=True)(x)
    assert called == [1, 1]


def test_a_frozen_trace_is_read_only(reference):
    layer = build()
    layer.freeze("trace")
    arguments = given(layer)
    agree(outcome(layer, arguments), reference(outcome, layer, arguments), 1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_results_are_the_same_to_the_bit_for_any_number_of_threads(threads, rule):
    layer = build(48, 2, 24, torch.float32, rule=rule)
    arguments, results = given(layer, 5, 130), []
    for count in (1, 3):
        threads(count)
        results.append(outcome(layer, arguments))
    for name, value in results[0].items():
        assert torch.equal(results[1][name], value), name


@pytest.mark.parametrize("rule", RULES)
def test_the_operators_are_registered_as_torch_asks(rule):
    def wanted(*shape):
        return torch.rand(shape, dtype=torch.float64, requires_grad=True)

    torch.library.opcheck(of_heads.memory_heads, (wanted(2, 8, 34), wanted(34, 4), 2, 6, rule == "oja", 1e-6))
    q, k, v = wanted(2, 9, 2, 6), wanted(2, 9, 2, 6), wanted(2, 9, 2, 5)
    trace = q, k, v, wanted(2, 9, 2), wanted(2, 9, 2), wanted(2, 2, 5, 6), rule
    # Not that all outputs are the same under `torch.compile`: what is kept has gaps that hold anything.
    asked = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(of_trace.plastic_trace, trace, test_utils=asked)


def test_tools_of_torch_see_one_operation_each():
    layer = build()
    x, state = given(layer).values()
    names = [str(node.target) for node in make_fx(lambda x: layer(x, state)[0])(x).graph.nodes]
    assert sum("liquid_control.memory_heads" in name for name in names) == 1
    assert sum("liquid_control.plastic_trace" in name for name in names) == 1
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, final = layer(mode.from_tensor(x), mode.from_tensor(state))
    assert (y.shape, final.shape) == ((3, 7, 3), state.shape)


@pytest.mark.parametrize("rule", RULES)
def test_checkpoints_of_activations_give_the_same_gradients(rule):
    layer = build(rule=rule)
    x, state = given(layer).values()
    results = []
    for run in (layer, lambda *of: checkpoint(layer, *of, use_reentrant=False)):
        y, final = run(x, state)
        results.append(torch.autograd.grad(y.sin().sum() + final.square().sum(), [x, state]))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_second_derivatives_are_refused():
    layer = build()
    x, state = given(layer).values()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(layer(x, state)[0].square().sum(), x, create_graph=True)


def test_reading_without_gradients_does_not_wait_for_numba():
    program = (
        "import sys, torch; from liquid_control.nn import PlasticMemory; "
        "torch.no_grad().__enter__(); PlasticMemory(3, 4)(torch.ones(1, 5, 3)); print('numba' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"

"""The Triton LTC against `LTC.integrate`: values, final state and every gradient."""

import warnings

import pytest
import torch

from liquid_control.kernels import ReferenceFormWarning
from liquid_control.nn import LTC, Wiring
from tests.kernels.cuda.conftest import sequence

INPUTS = 5
NCP = Wiring.ncp(5, 3, 2, sensory_fanout=3, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)


def build(units=NCP, **options):
    torch.manual_seed(0)
    return LTC(INPUTS, units, **({"ode_unfolds": 3} | options))


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("elapsed", [0.7, "batched"], ids=["constant", "batched"])
def test_it_agrees_with_the_reference(assert_agrees, elapsed, masked):
    layer = build()
    assert_agrees(layer, LTC.fused_cuda, *sequence(layer, elapsed=elapsed, masked=masked))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (build(), {"steps": 1}),
        (build(), {"batch": 1}),
        (build(), {"steps": 1, "batch": 1, "masked": True, "elapsed": "batched"}),
        (build(ode_unfolds=1), {}),
        (build(units=3), {}),
        (build(units=Wiring.random(40, sparsity=0.9), ode_unfolds=2), {"steps": 2}),
        (build(implicit_param_constraints=False, input_mapping=None, output_mapping="linear"), {}),
    ],
    ids=["one step", "one row", "one of each", "one unfold", "dense", "many neurons", "explicit"],
)
def test_it_agrees_with_the_reference_at_the_edges(assert_agrees, layer, shape):
    assert_agrees(layer, LTC.fused_cuda, *sequence(layer, **shape))


def test_a_circuit_without_recurrent_synapses_agrees_with_the_reference(assert_agrees):
    layer = build(units=Wiring.fully_connected(1, self_connections=False))
    assert_agrees(layer, LTC.fused_cuda, *sequence(layer))


def test_without_gradients_the_values_are_the_same_bits(device):
    layer = build().to(device)
    x, state, elapsed, _ = sequence(layer)
    x, state = x.to(device), state.to(device)
    y, final = layer.fused_cuda(x, state, elapsed, None)
    with torch.no_grad():
        again = layer.fused_cuda(x, state, elapsed, None)
    assert torch.equal(y, again[0]) and torch.equal(final, again[1])


def test_a_graph_may_be_used_twice(device):
    layer = build().to(device)
    x, state, elapsed, _ = sequence(layer)
    y, _ = layer.fused_cuda(x.to(device), state.to(device), elapsed, None)
    twice = [torch.autograd.grad(y.sum(), layer.rnn_cell.w, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (build().double(), "float32, not torch.float64"),
        (build(solver="rk4"), "semi-implicit solver, not 'rk4'"),
        (build(units=Wiring.random(257, sparsity=0.99)), "256 neurons or fewer, not 257"),
    ],
    ids=["float64", "another solver", "too many neurons"],
)
def test_what_no_kernel_covers_is_left_to_the_reference(device, layer, reason):
    x, state, elapsed, _ = sequence(layer, steps=1)
    dtype = next(layer.parameters()).dtype
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ReferenceFormWarning)
        assert layer.to(device).fused_cuda(x.to(device, dtype), state.to(device, dtype), elapsed, None) is None
    assert any(reason in str(warning.message) for warning in said)

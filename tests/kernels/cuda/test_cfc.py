"""The Triton CfC against `CfC.integrate`: values, final state and every gradient."""

import warnings

import pytest
import torch

from liquid_control.kernels import ReferenceFormWarning
from liquid_control.kernels.cuda.activations import ACTIVATIONS
from liquid_control.nn import CfC, Wiring
from liquid_control.nn import cfc as reference
from liquid_control.nn.cfc import MODES
from tests.kernels.cuda.conftest import sequence

INPUTS = 5
NCP = Wiring.ncp(5, 3, 2, sensory_fanout=3, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
WIRED = {"units": NCP}
DENSE = {"units": 6, "backbone_units": 9}


def build(units, **options):
    torch.manual_seed(0)
    return CfC(INPUTS, units, **options)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("elapsed", [0.7, "batched"], ids=["constant", "batched"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [WIRED, DENSE], ids=["wired", "dense"])
def test_it_agrees_with_the_reference(assert_agrees, kind, mode, elapsed, masked):
    layer = build(**kind, mode=mode)
    assert_agrees(layer, CfC.fused_cuda, *sequence(layer, elapsed=elapsed, masked=masked))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_agrees_with_the_reference(assert_agrees, activation):
    layer = build(**DENSE, activation=activation)
    assert_agrees(layer, CfC.fused_cuda, *sequence(layer))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (WIRED, {"steps": 1}),
        (WIRED, {"batch": 1, "elapsed": "batched"}),
        (WIRED, {"batch": 17, "masked": True}),
        (WIRED | {"ncps_compat": False, "proj_size": 4}, {}),
        (DENSE, {"steps": 1, "batch": 1, "masked": True}),
        (DENSE, {"batch": 17}),
        ({"units": 18, "backbone_units": 40}, {"steps": 2, "elapsed": "batched"}),
        ({"units": 7, "backbone_layers": 0}, {}),
    ],
    ids=[
        "one step",
        "one row",
        "two blocks of rows",
        "every head masked",
        "dense: one of each",
        "dense: two blocks of rows",
        "dense: two blocks of units",
        "no backbone",
    ],
)
def test_it_agrees_with_the_reference_at_the_edges(assert_agrees, options, shape):
    layer = build(**options)
    assert_agrees(layer, CfC.fused_cuda, *sequence(layer, **shape))


@pytest.mark.parametrize("kind", [WIRED, DENSE], ids=["wired", "dense"])
def test_without_gradients_the_values_are_the_same_bits(device, kind):
    layer = build(**kind).to(device)
    x, state, elapsed, _ = sequence(layer)
    y, final = layer.fused_cuda(x.to(device), state.to(device), elapsed, None)
    with torch.no_grad():
        again = layer.fused_cuda(x.to(device), state.to(device), elapsed, None)
    assert torch.equal(y, again[0]) and torch.equal(final, again[1])


@pytest.mark.parametrize("kind", [WIRED, DENSE], ids=["wired", "dense"])
def test_a_graph_may_be_used_twice(device, kind):
    layer = build(**kind).to(device)
    x, state, elapsed, _ = sequence(layer)
    y, _ = layer.fused_cuda(x.to(device), state.to(device), elapsed, None)
    weight = layer.cells[0].ff1.weight
    twice = [torch.autograd.grad(y.sum(), weight, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (build(**WIRED).double(), "float32, not torch.float64"),
        (build(**DENSE, backbone_layers=2), "one backbone layer, not 2"),
        (build(**DENSE, backbone_dropout=0.5), "no backbone dropout"),
        (build(units=129), "128 neurons or fewer, not 129"),
    ],
    ids=["float64", "deep backbone", "dropout", "too many neurons"],
)
def test_what_no_kernel_covers_is_left_to_the_reference(device, layer, reason):
    x, state, elapsed, _ = sequence(layer, steps=1)
    dtype = next(layer.parameters()).dtype
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ReferenceFormWarning)
        assert layer.to(device).fused_cuda(x.to(device, dtype), state.to(device, dtype), elapsed, None) is None
    assert any(reason in str(warning.message) for warning in said)


@pytest.mark.parametrize(
    ("what", "options"),
    [("activation 'sine'", {"activation": "sine"}), ("mode 'leap'", {"mode": "leap"})],
    ids=["activation", "mode"],
)
def test_what_the_kernel_does_not_know_is_left_to_the_reference(device, monkeypatch, what, options):
    """It is never taken for another one."""
    monkeypatch.setitem(reference.ACTIVATIONS, "sine", torch.sin)
    monkeypatch.setattr(reference, "MODES", (*MODES, "leap"))
    layer = build(**DENSE, **options).to(device)
    x, state, elapsed, _ = sequence(layer)
    with pytest.warns(ReferenceFormWarning, match=f"no kernel of the CfC knows the {what}"):
        assert layer.fused_cuda(x.to(device), state.to(device), elapsed, None) is None

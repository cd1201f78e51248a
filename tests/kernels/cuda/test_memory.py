"""The LSTM of mixed memory within the Triton kernels against `MixedMemory.integrate`: values, state, every gradient."""

import warnings

import pytest
import torch

from liquid_control.kernels import ReferenceFormWarning
from liquid_control.nn import LTC, CfC, ClosedFormLTC, MixedMemory, Wiring
from liquid_control.nn.cfc import MODES
from tests.kernels.cuda.conftest import sequence

INPUTS = 5
NCP = Wiring.ncp(5, 3, 2, sensory_fanout=3, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
CELLS = {
    **{f"dense cfc, {mode}": (lambda mode=mode: CfC(INPUTS, 6, backbone_units=9, mode=mode)) for mode in MODES},
    "cfc without a backbone": lambda: CfC(INPUTS, 7, backbone_layers=0),
    "wired cfc": lambda: CfC(INPUTS, NCP),
    "wired cfc, projected": lambda: CfC(INPUTS, NCP, mode="pure", ncps_compat=False, proj_size=4),
    "ltc": lambda: LTC(INPUTS, 6, ode_unfolds=2),
    "wired ltc": lambda: LTC(INPUTS, NCP, ode_unfolds=3),
    "ltc of 17": lambda: LTC(INPUTS, 17, ode_unfolds=1),
}


def build(cell):
    torch.manual_seed(0)
    return MixedMemory(CELLS[cell]())


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("elapsed", [0.7, "batched"], ids=["constant", "batched"])
@pytest.mark.parametrize("cell", CELLS)
def test_it_agrees_with_the_reference(assert_agrees, cell, elapsed, masked):
    layer = build(cell)
    assert_agrees(layer, MixedMemory.fused_cuda, *sequence(layer, elapsed=elapsed, masked=masked))


@pytest.mark.parametrize("cell", ["dense cfc, default", "wired cfc", "ltc"])
@pytest.mark.parametrize(
    "shape", [{"steps": 1, "batch": 1, "masked": True}, {"batch": 17}], ids=["one of each", "two blocks of rows"]
)
def test_it_agrees_with_the_reference_at_the_edges(assert_agrees, cell, shape):
    layer = build(cell)
    assert_agrees(layer, MixedMemory.fused_cuda, *sequence(layer, **shape))


@pytest.mark.parametrize("cell", ["dense cfc, default", "wired cfc", "ltc"])
def test_without_gradients_the_values_are_the_same_bits(device, cell):
    layer = build(cell).to(device)
    x, state, elapsed, _ = sequence(layer)
    y, final = layer.fused_cuda(x.to(device), state.to(device), elapsed, None)
    with torch.no_grad():
        again = layer.fused_cuda(x.to(device), state.to(device), elapsed, None)
    assert torch.equal(y, again[0]) and torch.equal(final, again[1])


@pytest.mark.parametrize("of", ["y", "final state"])
def test_a_loss_may_look_at_outputs_or_at_the_final_state_alone(device, of):
    layer = build("dense cfc, default").to(device)
    x, state, elapsed, _ = (part.to(device) if isinstance(part, torch.Tensor) else part for part in sequence(layer))

    def gradient(form):
        outcome = form(x, state, elapsed, None)[of == "final state"]
        return torch.autograd.grad(outcome.sin().sum(), layer.lstm.recurrent_map.weight)[0]

    torch.testing.assert_close(gradient(layer.fused_cuda), gradient(layer.integrate), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (lambda: LTC(INPUTS, 129), "128 neurons or fewer, not 129"),
        (lambda: CfC(INPUTS, 129), "128 neurons or fewer, not 129"),
        (lambda: CfC(INPUTS, 6).double(), "float32, not torch.float64"),
        (lambda: LTC(INPUTS, 6, solver="rk4"), "semi-implicit solver, not 'rk4'"),
        (lambda: ClosedFormLTC(INPUTS, 6), None),
    ],
    ids=["large ltc", "large cfc", "float64", "rk4", "closed form"],
)
def test_what_no_kernel_covers_is_left_to_the_reference(device, cell, reason):
    layer = MixedMemory(cell())
    dtype = next(layer.cell.parameters()).dtype
    layer = layer.to(device, dtype)
    x, state, elapsed, _ = sequence(layer, steps=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ReferenceFormWarning)
        assert layer.fused_cuda(x.to(device, dtype), state.to(device, dtype), elapsed, None) is None
    assert reason is None or any(reason in str(warning.message) for warning in said)


def test_hooks_are_left_to_the_reference(device):
    layer = build("dense cfc, default").to(device)
    layer.lstm.register_forward_hook(lambda *_: None)
    layer.follow_modules()
    x, state, elapsed, _ = sequence(layer)
    with pytest.warns(ReferenceFormWarning, match="hooks"):
        assert layer.fused_cuda(x.to(device), state.to(device), elapsed, None) is None

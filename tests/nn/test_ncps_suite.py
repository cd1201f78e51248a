"""The calls of ncps's own torch tests, on ncps and on its stand-in here: the same shapes, and the same numbers."""

import copy
import sys

import ncps.torch
import ncps.wirings
import pytest
import torch
from torch.func import functional_call

import liquid_control.nn.ncps_api as ours
from liquid_control.nn import Stack

BATCH, STEPS, INPUTS = 5, 3, 8
NCP = ncps.wirings.NCP(10, 10, 8, 6, 6, 4, 6)
SEQUENCES = {
    # name: class, units, options, input shape, output shape, hx shape
    "default": ("CfC", 32, {}, (5, 3, 8), (5, 3, 32), (5, 32)),
    "batch_first": ("CfC", 32, {"batch_first": False}, (5, 3, 8), (5, 3, 32), (3, 32)),
    "proj": ("CfC", 32, {"proj_size": 10}, (5, 3, 8), (5, 3, 10), (5, 32)),
    "unbatched_1": ("CfC", 32, {"batch_first": True}, (3, 8), (3, 32), (32,)),
    "unbatched_2": ("CfC", 32, {"batch_first": False}, (3, 8), (3, 32), (32,)),
    "ltc_1": ("LTC", 32, {"batch_first": True}, (5, 3, 8), (5, 3, 32), (5, 32)),
    "ltc_batch_first": ("LTC", 32, {"batch_first": False}, (5, 3, 8), (5, 3, 32), (3, 32)),
    "ncp_1": ("LTC", NCP, {"batch_first": True}, (5, 3, 8), (5, 3, 8), (5, 28)),
    "ncp_2": ("LTC", NCP, {"batch_first": False}, (5, 3, 8), (5, 3, 8), (3, 28)),
    "auto_ncp_1": ("LTC", ncps.wirings.AutoNCP(16, 4), {}, (5, 3, 8), (5, 3, 4), (5, 16)),
    "ncp_cfc_1": ("CfC", NCP, {"batch_first": True}, (5, 3, 8), (5, 3, 8), (5, 28)),
    "ncp_cfc_2": ("CfC", NCP, {"batch_first": False}, (5, 3, 8), (5, 3, 8), (3, 28)),
    "auto_ncp_cfc_1": ("CfC", ncps.wirings.AutoNCP(28, 10), {}, (5, 3, 8), (5, 3, 10), (5, 28)),
    # Beyond their tests: the options that those leave out.
    "last": ("CfC", 7, {"return_sequences": False}, (5, 3, 8), (5, 7), (5, 7)),
    "last_unbatched": ("LTC", 7, {"return_sequences": False}, (3, 8), (7,), (7,)),
    "mixed": ("CfC", 7, {"mixed_memory": True}, (5, 3, 8), (5, 3, 7), (5, 7)),
    "mixed_ncp": ("LTC", NCP, {"mixed_memory": True, "batch_first": False}, (5, 3, 8), (5, 3, 8), (3, 28)),
    "mixed_unbatched": ("CfC", NCP, {"mixed_memory": True}, (3, 8), (3, 8), (28,)),
}


def made(module, case):
    name, units, options, *_ = SEQUENCES[case]
    torch.manual_seed(0)
    return getattr(module, name)(INPUTS, copy.deepcopy(units), **options)


def shapes(outcome):
    y, hx = outcome
    return [tuple(y.shape), *(tuple(part.shape) for part in (hx if isinstance(hx, tuple) else (hx,)))]


@pytest.mark.parametrize("module", [ncps.torch, ours], ids=["ncps", "ours"])
@pytest.mark.parametrize("case", SEQUENCES)
def test_a_sequence_has_the_shapes_that_ncps_expects(module, case):
    *_, options, given, out, state = SEQUENCES[case]
    found = shapes(made(module, case)(torch.randn(given)))
    assert found == [out, state, state] if options.get("mixed_memory") else [out, state]


@pytest.mark.parametrize("module", [ncps.torch, ours], ids=["ncps", "ours"])
def test_a_cell_has_the_shapes_that_ncps_expects(module):
    wiring = ncps.wirings.FullyConnected(8, 4)
    cell = module.LTCCell(wiring, INPUTS)
    y, hx = cell(torch.randn(3, INPUTS), torch.zeros(3, wiring.units))
    assert y.shape == (3, 4) and hx.shape == (3, 8)


@pytest.mark.parametrize("module", [ncps.torch, ours], ids=["ncps", "ours"])
def test_a_wiring_is_built_by_its_first_layer(module):
    wiring = ncps.wirings.AutoNCP(16, 4)
    module.LTC(INPUTS, wiring)
    assert wiring.synapse_count > 0 and wiring.sensory_synapse_count > 0


@pytest.mark.parametrize("case", SEQUENCES)
def test_weights_of_ncps_load_and_give_its_numbers(case):
    theirs, stand_in = made(ncps.torch, case), made(ours, case)
    stand_in.load_state_dict(theirs.state_dict())
    x = torch.randn(SEQUENCES[case][3])
    times = torch.rand(x.shape[:-1]) + 0.5
    if x.dim() == 3:  # what ncps cannot do: a time for each sequence
        times = times[:1].expand(5, 3) if theirs.batch_first else times[:, :1].expand(5, 3)
    for timespans in (None, times):
        spans = None
        if timespans is not None:
            spans = timespans if x.dim() == 2 else timespans[:1] if theirs.batch_first else timespans[:, :1]
        expected, found = theirs(x, timespans=spans), stand_in(x, timespans=timespans)
        again = stand_in(x, expected[1], timespans), theirs(x, expected[1], spans)
        for a, b in ((found, expected), again):
            flat = [(a[0], b[0]), *(zip(a[1], b[1], strict=True) if isinstance(a[1], tuple) else [(a[1], b[1])])]
            for one, other in flat:
                torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("theirs", "stand_in"),
    [
        (ncps.torch.LTCCell(ncps.wirings.AutoNCP(12, 3), 8), ours.LTCCell(ncps.wirings.AutoNCP(12, 3), 8)),
        (ncps.torch.CfCCell(8, 12), ours.CfCCell(8, 12)),
        (
            ncps.torch.WiredCfCCell(8, ncps.wirings.AutoNCP(12, 3), "pure"),
            ours.WiredCfCCell(8, ncps.wirings.AutoNCP(12, 3), "pure"),
        ),
    ],
    ids=["ltc", "cfc", "wired"],
)
def test_cells_agree(theirs, stand_in):
    stand_in.load_state_dict({f"rnn_cell.{name}": value for name, value in theirs.state_dict().items()})
    torch.manual_seed(0)
    x, hx = torch.randn(4, 8), torch.randn(4, 12)
    for a, b in zip(stand_in(x, hx, 0.7), theirs(x, hx, 0.7), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_the_stand_in_can_take_the_place_of_ncps_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "ncps.torch", ours)
    from ncps.torch import CfC, LTC, CfCCell, LTCCell, WiredCfCCell  # noqa: I001

    assert (CfC, LTC, CfCCell, LTCCell, WiredCfCCell) == (
        ours.CfC,
        ours.LTC,
        ours.CfCCell,
        ours.LTCCell,
        ours.WiredCfCCell,
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"hx is a Tensor, expected a pair \(h, c\)"):
        ours.LTC(8, 4, mixed_memory=True)(torch.zeros(2, 3, 8), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"hx has shape \(4,\), expected \(batch, units\)"):
        ours.CfC(8, 4)(torch.zeros(2, 3, 8), torch.zeros(4))
    with pytest.raises(ValueError, match=r"timespans have shape \(2, 4\), expected \(2, 3\)"):
        ours.CfC(8, 4)(torch.zeros(2, 3, 8), timespans=torch.ones(2, 4))
    with pytest.raises(ValueError, match="the number of inputs is unknown"):
        ours.LTCCell(ncps.wirings.AutoNCP(12, 3))


def test_the_memory_counts_among_the_parameters():
    without, mixed = ours.LTC(8, 4), ours.LTC(8, 4, mixed_memory=True)
    assert mixed.parameter_count() - without.parameter_count() == 4 * 4 * (8 + 4 + 1)


def test_a_copy_of_a_layer_with_memory_is_its_own_and_takes_weights_from_outside():
    torch.manual_seed(0)
    layer = ours.LTC(INPUTS, NCP, mixed_memory=True)
    x = torch.randn(2, 3, INPUTS)
    before = layer(x)[0]
    doubled = {name: 2 * parameter for name, parameter in layer.named_parameters()}
    twin = copy.deepcopy(layer)
    twin.load_state_dict(doubled, strict=False)
    assert torch.equal(layer(x)[0], before)
    expected = twin(x)[0]
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(functional_call(layer, doubled, (x,))[0], expected)


@pytest.mark.parametrize("kind", [ours.CfC, ours.LTC])
def test_a_layer_with_mixed_memory_is_called_as_in_ncps_alone(kind):
    """Without its memory it would say something else, and nobody would know."""
    layer = kind(INPUTS, 5, mixed_memory=True)
    state = layer.initial_state(2)
    for use in (
        lambda: layer.step(torch.zeros(2, INPUTS), state),
        lambda: Stack([layer])(torch.zeros(2, 3, INPUTS)),
        layer.compile_step,
    ):
        with pytest.raises(TypeError, match="with mixed memory is called as in ncps"):
            use()
    assert layer(torch.zeros(2, 3, INPUTS))[0].shape[:2] == (2, 3)


def test_a_sequence_of_no_steps_has_no_last_output():
    with pytest.raises(ValueError, match="has no last output"):
        ours.CfC(INPUTS, 5, return_sequences=False)(torch.zeros(2, 0, INPUTS))

"""Mixed memory beside ncps's, and what its memory does."""

import ncps.torch
import ncps.wirings
import pytest
import torch

from liquid_control.nn import LSTM, LTC, CfC, MixedMemory, PlasticCfC

INPUTS, BATCH, STEPS = 8, 4, 6
THEIRS = {"cfc": ncps.torch.CfC, "ltc": ncps.torch.LTC}
OURS = {"cfc": CfC, "ltc": LTC}
OPTIONS = [
    ("cfc", 7, {}),
    ("cfc", 7, {"mode": "no_gate", "proj_size": 3}),
    ("cfc", ncps.wirings.NCP(6, 4, 2, 3, 2, 4, 2), {}),
    ("ltc", ncps.wirings.NCP(6, 4, 2, 3, 2, 4, 2), {"ode_unfolds": 3}),
]


def pair(name, units, options):
    """The mixed layer of ncps and ours with its weights."""
    torch.manual_seed(0)
    ours = MixedMemory(OURS[name](INPUTS, units, **options)).double()
    theirs = THEIRS[name](INPUTS, units, mixed_memory=True, **options).double()
    weights = theirs.state_dict()
    ours.load_state_dict({key if key.startswith("lstm.") else f"cell.{key}": value for key, value in weights.items()})
    return theirs, ours


@pytest.mark.parametrize(("name", "units", "options"), OPTIONS)
def test_values_and_gradients_are_those_of_ncps(name, units, options):
    theirs, ours = pair(name, units, options)
    x = torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64, requires_grad=True)
    state = torch.randn(BATCH, ours.state_size, dtype=torch.float64, requires_grad=True)
    elapsed = torch.rand(STEPS, dtype=torch.float64) + 0.1

    def outcome(layer, y, final):
        leaves = [x, state, layer.lstm.input_map.weight, layer.lstm.recurrent_map.weight]
        return y, final, *torch.autograd.grad(y.sin().sum() + final.square().sum(), leaves)

    y, final = theirs(x, tuple(state.chunk(2, 1)), elapsed[None])
    expected = outcome(theirs, y, torch.cat(final, 1))
    for a, b in zip(outcome(ours, *ours(x, state, elapsed)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_the_memory_begins_by_remembering():
    layer = MixedMemory(CfC(INPUTS, 5)).double()
    with torch.no_grad():
        for parameter in layer.lstm.parameters():
            parameter.zero_()
    state = torch.cat([torch.zeros(1, 5), torch.ones(1, 5)], 1).double()
    memory = layer.unpack(layer(torch.randn(1, 3, INPUTS).double(), state)[1])["memory"]
    torch.testing.assert_close(memory, torch.full((1, 5), torch.tensor(1.0).sigmoid() ** 3).double(), rtol=1e-6, atol=0)


def test_elapsed_time_does_not_change_what_a_single_step_writes_into_the_memory():
    layer, x = MixedMemory(CfC(INPUTS, 5)), torch.randn(2, INPUTS)
    short, long = (layer.unpack(layer.step(x, elapsed=elapsed)[1]) for elapsed in (0.1, 10.0))
    assert torch.equal(short["memory"], long["memory"])
    assert not torch.allclose(short["neurons"], long["neurons"])


@pytest.mark.parametrize("cell", [lambda: CfC(INPUTS, 5, 3), lambda: LTC(INPUTS, 5)], ids=["cfc", "ltc"])
@pytest.mark.parametrize("form", ["auto", "reference"])
def test_a_step_without_time_gives_the_outputs_of_the_state_as_it_is(monkeypatch, form, cell):
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", form)
    y, _ = MixedMemory(cell())(torch.randn(2, 4, INPUTS), elapsed=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(y[:, 1::2], y[:, ::2])


@pytest.mark.parametrize(
    ("cell", "part"), [(lambda: LSTM(INPUTS, 4), "cell"), (lambda: PlasticCfC(INPUTS, 4), "trace")]
)
def test_a_state_that_is_not_all_neurons_is_refused(cell, part):
    with pytest.raises(ValueError, match=f"holds {part}: mixed memory needs a layer whose state is the activity"):
        MixedMemory(cell())

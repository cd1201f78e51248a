"""Elapsed time as an input of layers that time does not drive."""

import copy

import pytest
import torch

from liquid_control.nn import GRU, LSTM, MLP, Bidirectional, MixedMemory, TimedAttention, WindowAttention

KINDS = {
    "lstm": lambda inputs, **option: LSTM(inputs, 4, **option),
    "gru": lambda inputs, **option: GRU(inputs, 4, 2, **option),
    "mlp": lambda inputs, **option: MLP(inputs, 4, 3, **option),
    "window-attention": lambda inputs, **option: WindowAttention(inputs, 4, window=3, **option),
}


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_layer_with_the_times_beside_the_inputs(name):
    torch.manual_seed(0)
    layer, plain = KINDS[name](3, elapsed_as_input=True), KINDS[name](4)
    plain.load_state_dict(layer.state_dict())
    x, elapsed = torch.randn(2, 5, 3), torch.rand(2, 5)
    for given, times in ((elapsed, elapsed), (0.3, torch.full((2, 5), 0.3)), (None, torch.ones(2, 5))):
        found, expected = layer(x, elapsed=given), plain(torch.cat([x, times[..., None]], 2))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert "elapsed_as_input" not in plain.config


@pytest.mark.parametrize("name", KINDS)
def test_times_have_gradients_and_those_of_padding_none(name):
    torch.manual_seed(0)
    layer = KINDS[name](3, elapsed_as_input=True)
    elapsed, mask = torch.rand(2, 5), torch.arange(5) < torch.tensor([[5], [3]])
    elapsed[1, 3:] = torch.nan
    elapsed.requires_grad_()
    layer(torch.randn(2, 5, 3), elapsed=elapsed, mask=mask)[0].square().sum().backward()
    assert elapsed.grad[mask].abs().sum() > 0 and torch.equal(elapsed.grad[~mask], torch.zeros(2))
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_layers_around_hand_the_times_on():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 5, 3), torch.arange(5) < torch.tensor([[5], [3]])
    for layer in (
        MixedMemory(GRU(3, 4, elapsed_as_input=True)),
        Bidirectional(LSTM(3, 4, elapsed_as_input=True), GRU(3, 2, elapsed_as_input=True)),
    ):
        elapsed = torch.rand(2, 5)
        first = layer(x, elapsed=elapsed, mask=mask)[0]
        assert not torch.equal(first, layer(x, elapsed=2 * elapsed, mask=mask)[0])
        elapsed[1, 3:] = torch.nan
        assert torch.equal(first, layer(x, elapsed=elapsed, mask=mask)[0])


def test_attention_to_moments_reads_a_long_series_at_once_as_in_pieces():
    """Moments are summed in double precision: after 5,000 hours a second still counts."""
    torch.manual_seed(0)
    layer = TimedAttention(3, 8, 3, window=8)
    x, elapsed = torch.randn(1, 6000, 3), 1000 * torch.rand(1, 6000)
    with torch.no_grad():
        whole, state = layer(x, None, elapsed), None
        outputs = []
        for piece, spans in zip(x.split(500, 1), elapsed.split(500, 1), strict=True):
            y, state = layer(piece, state, spans)
            outputs.append(y)
        exact, _ = copy.deepcopy(layer).double()(x.double(), None, elapsed.double())
    assert (whole[0] - exact).abs().max() < 1e-4 and (torch.cat(outputs, 1) - exact).abs().max() < 1e-3


@pytest.mark.parametrize("kind", [WindowAttention, TimedAttention])
@pytest.mark.parametrize("pieces", [[3], [3, 2], [11], [2, 9, 20], [8, 8]])
def test_places_of_a_window_that_nobody_has_filled_are_not_looked_at(kind, pieces, monkeypatch):
    """Values, gradients and state are those of the reference form, which looks at them; the keys are fewer."""
    torch.manual_seed(0)
    layer, looked = kind(3, 8, 3, window=8), []
    attend = layer._attend
    layer._attend = lambda query, seen, moments: looked.append(seen.shape[1]) or attend(query, seen, moments)
    steps = sum(pieces)
    x, elapsed = torch.randn(3, steps, 3, requires_grad=True), torch.rand(3, steps)
    mask = torch.rand(3, steps) < torch.tensor([[1.0], [0.7], [0.2]])
    found, sizes = {}, {}
    for form in ("auto", "reference"):
        monkeypatch.setenv("LIQUID_CONTROL_KERNELS", form)
        looked.clear()
        state, outputs = None, []
        for part, spans, valid in zip(*(each.split(pieces, 1) for each in (x, elapsed, mask)), strict=True):
            y, state = layer(part, state, spans, valid)
            outputs.append(y)
        y = torch.cat(outputs, 1)
        gradients = torch.autograd.grad(y.square().sum() + state.sum(), [x, *layer.parameters()])
        found[form], sizes[form] = [y, state, *gradients], list(looked)
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other)
    assert sizes["auto"][0] == min(pieces[0], 8) and sizes["reference"][0] == 7 + min(pieces[0], 8)

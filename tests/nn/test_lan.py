"""LAN: liquid attention over a sliding window of the last steps. The contract is held by test_contract.py."""

import pytest
import torch
from torch.nn import functional as F

from liquid_control.nn import LAN
from liquid_control.nn.liquid_attention import LiquidAttention
from liquid_control.nn.liquid_logits import LiquidLogits

BATCH, WIDTH, HEADS = 2, 12, 3
DOUBLE = torch.float64


def tokens(count):
    return torch.randn(BATCH, count, WIDTH, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def lan(**options):
    torch.manual_seed(5)
    layer = LAN(WIDTH, WIDTH, heads=HEADS, **options).double()
    with torch.no_grad():
        layer.logits.gain.copy_(3 * torch.randn(HEADS))
    return layer


@pytest.mark.parametrize("gate", ["affine", "mlp", "bilinear"])
@pytest.mark.parametrize("window", [3, 40])
def test_the_layer_is_causal_liquid_attention_over_a_window(gate, window):
    layer = lan(gate=gate, window=window)
    module = LiquidAttention(WIDTH, HEADS, gate=gate, hidden=layer.logits.hidden).double()
    module.logits.load_state_dict(layer.logits.state_dict())
    module.value.load_state_dict({"weight": layer.value.weight, "bias": torch.zeros(WIDTH)})
    module.output.load_state_dict({"weight": layer.attended.weight, "bias": torch.zeros(WIDTH)})
    x, elapsed = tokens(20), 0.1 + torch.rand(BATCH, 20, dtype=DOUBLE)
    step = torch.arange(20)
    recent = (step[:, None] >= step) & (step[:, None] - step < window)
    expected = torch.tanh(module(x, elapsed=elapsed, mask=recent) + layer.present(x))
    close(layer(x, elapsed=elapsed)[0], expected)


def test_what_is_older_than_the_window_is_forgotten():
    layer, x = lan(window=4), tokens(10)
    changed = x.clone()
    changed[:, 5] += 1
    (y, _), (other, _) = layer(x), layer(changed)
    moved = (y != other).any(2).all(0)
    assert moved.tolist() == [False] * 5 + [True] * 4 + [False]


def test_the_state_remembers_the_ages_of_the_last_steps():
    layer = lan(window=4)
    _, state = layer(tokens(2), elapsed=torch.tensor([0.5, 2.0], dtype=DOUBLE))
    close(layer.unpack(state)["ages"], torch.tensor([[0, 2.5, 2.0]] * BATCH, dtype=DOUBLE))
    _, state = layer(tokens(3), state, elapsed=1.0)
    close(layer.unpack(state)["ages"], torch.tensor([[3.0, 2.0, 1.0]] * BATCH, dtype=DOUBLE))


def test_ages_survive_times_that_rounding_swallows():
    layer = lan(window=4).float()
    _, state = layer(tokens(2).float(), elapsed=torch.tensor([1e6, 1e-6]))
    assert (layer.unpack(state)["ages"][:, 1:] > 0).all()


def test_a_driver_core_has_nineteen_neurons():
    layer = LAN(39, 16, 3, heads=2, window=16)
    assert layer.neuron_count == 19
    assert layer(torch.randn(2, 5, 39))[0].shape == (2, 5, 3)


def test_the_layer_learns_to_recall_the_input_that_was_marked():
    torch.manual_seed(6)
    layer = LAN(2, 8, 1, heads=2, window=8)
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    losses = []
    for _ in range(120):
        value, marked = torch.rand(32, 8) - 0.5, torch.randint(8, (32,))
        y, _ = layer(torch.stack([value, F.one_hot(marked, 8).float()], 2))
        loss = (y[:, -1, 0] - value.gather(1, marked[:, None])[:, 0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be at least 2"),
        ({"units": 5}, "units must be at least 1 and a multiple of heads = 2, given 5"),
        ({"output_size": -1}, "output_size must be at least 1"),
    ],
)
def test_a_wrong_option_of_the_layer_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LAN(4, **{"units": 4} | options)


def test_logits_of_a_single_head_take_all_of_the_time():
    assert F.softplus(LiquidLogits(4, 1).time_scale).item() == pytest.approx(1)
    close(F.softplus(LiquidLogits(4, 5).time_scale).double(), 2.0 ** -torch.arange(5.0).double(), 1e-6)

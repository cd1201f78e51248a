"""Baselines in plain PyTorch, each against its formula written out for one sequence."""

import math

import pytest
import torch

from liquid_control.experiments.sequence_baselines import (
    GRUD,
    ODELSTM,
    RNN,
    AttentionNetwork,
    PhasedLSTM,
    TimeEmbedding,
)
from liquid_control.experiments.sequence_cells import CELLS, CellShape, count, outputs, widest

UNITS = 8


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def given(batch=2, steps=5):
    x, elapsed = torch.randn(batch, steps, 3), 0.1 + torch.rand(batch, steps)
    return x, elapsed


def test_rnn_is_its_recurrence():
    x, elapsed = given()
    cell = RNN(3, UNITS)
    w, u, b, c = (cell.network.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = torch.zeros(2, UNITS)
    for step in range(5):
        h = torch.tanh(x[:, step] @ w.T + b + h @ u.T + c)
        torch.testing.assert_close(cell(x, elapsed, None)[:, step], h)


def test_gru_d_decays_between_steps():
    x, elapsed = given()
    cell = GRUD(3, UNITS)
    h = torch.zeros(2, UNITS)
    for step in range(5):
        rate = (elapsed[:, step, None] * cell.decay.weight[:, 0] + cell.decay.bias).clamp(min=0)
        h = torch.exp(-rate) * h
        r_of, z_of, n_of = cell.of_input(x[:, step]).chunk(3, 1)
        u_r, u_z = cell.gates.weight.chunk(2)
        r, z = torch.sigmoid(r_of + h @ u_r.T), torch.sigmoid(z_of + h @ u_z.T)
        h = (1 - z) * h + z * torch.tanh(n_of + (r * h) @ cell.candidate.weight.T)
        torch.testing.assert_close(cell(x, elapsed, None)[:, step], h)


def test_phased_lstm_opens_in_its_rhythm():
    cell = PhasedLSTM(3, 1).eval()
    with torch.no_grad():
        cell.log_period.fill_(math.log(10.0))
        cell.shift.fill_(2.0)
        cell.open.fill_(0.2)
    times = torch.tensor([[2.0, 2.5, 3.0, 3.5, 4.0, 7.0, 12.5, 1.0]])
    expected = [0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.5, 0.0]
    assert cell.openness(times)[0, :, 0].detach().tolist() == pytest.approx(expected, abs=1e-5)
    leak = cell.train().openness(times)[0, :, 0].detach()
    assert leak[5] == pytest.approx(1e-3 * 0.5, rel=1e-4) and leak[1] == pytest.approx(0.5, abs=1e-5)


def test_phased_lstm_is_an_lstm_where_it_is_open_and_stays_where_it_is_closed():
    x, elapsed = given()
    cell = PhasedLSTM(3, UNITS).eval()
    h = c = torch.zeros(2, UNITS)
    for step in range(5):
        k = cell.openness(elapsed.cumsum(1))[:, step]
        i, f, g, o = (cell.of_input(x[:, step]) + cell.of_state(h)).chunk(4, 1)
        proposed = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        shown = torch.sigmoid(o) * torch.tanh(proposed)
        h, c = k * shown + (1 - k) * h, k * proposed + (1 - k) * c
        torch.testing.assert_close(cell(x, elapsed, None)[:, step], h)


def test_ode_lstm_follows_its_flow_for_the_elapsed_time():
    x, elapsed = given()
    cell = ODELSTM(3, UNITS)
    h = c = torch.zeros(2, UNITS)
    for step in range(5):
        i, f, g, o = (cell.of_input(x[:, step]) + cell.of_state(h)).chunk(4, 1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        for _ in range(3):
            h = h + elapsed[:, step, None] / 3 * cell.flow(h)
        torch.testing.assert_close(cell(x, elapsed, None)[:, step], h)


def test_a_time_embedding_has_sines_and_cosines_of_periods_2_to_200():
    embedding = TimeEmbedding(4)
    times = torch.tensor([[0.5, 50.0]])
    expected = [[math.sin(math.pi * t), math.sin(math.pi * t / 100), math.cos(math.pi * t), math.cos(math.pi * t / 100)]
                for t in (0.5, 50.0)]  # fmt: skip
    torch.testing.assert_close(embedding(times)[0], torch.tensor(expected), atol=2e-5, rtol=1e-4)


def attended(network, x, elapsed):
    """What a network's attention gives at each step, and the tokens that it saw."""
    seen = []
    network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.feed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(x, elapsed, None)
    normed, after = seen
    kernel = network.of_steps.weight.unflatten(1, (3, 5))  # what looks back over five steps is a convolution
    steps = torch.conv1d(torch.nn.functional.pad(x.transpose(1, 2), (4, 0)), kernel, network.of_steps.bias)
    tokens = torch.nn.functional.silu(steps.transpose(1, 2)) + network.embedding(elapsed.cumsum(1))
    return normed, after - tokens


def test_dot_attention_is_softmax_of_scaled_products():
    x, elapsed = given(1)
    network = AttentionNetwork(3, UNITS, "dot")
    seen, found = attended(network, x, elapsed)
    q, k, v = (part(seen)[0].unflatten(1, (4, 2)) for part in (network.query, network.key, network.value))
    for step in range(5):
        scores = torch.einsum("hd,thd->ht", q[step], k[: step + 1]) / 2**0.5
        expected = network.output(torch.einsum("ht,thd->hd", scores.softmax(1), v[: step + 1]).flatten())
        torch.testing.assert_close(found[0, step], expected, atol=1e-5, rtol=1e-4)


def test_the_uniform_control_averages_what_was_seen():
    x, elapsed = given(1)
    network = AttentionNetwork(3, UNITS, "uniform")
    seen, found = attended(network, x, elapsed)
    values = network.attention.value(seen)[0]
    for step in range(5):
        expected = network.attention.output(values[: step + 1].mean(0))
        torch.testing.assert_close(found[0, step], expected, atol=1e-5, rtol=1e-4)


def test_the_fixed_control_weights_by_time_alone():
    x, elapsed = given(1)
    network = AttentionNetwork(3, UNITS, "fixed")
    attention = network.attention
    with torch.no_grad():
        for parameter in attention.logits.parameters():
            parameter.normal_()
    seen, found = attended(network, x, elapsed)
    ends = elapsed.cumsum(1)
    nothing = torch.zeros_like(seen)
    horizon = (ends[:, :, None] - (ends - elapsed)[:, None]).clamp(min=0)
    logits = attention.logits.gain[:, None, None] * attention.pair_logits(nothing, horizon=horizon)
    weights = logits.masked_fill(~torch.ones(5, 5).tril().bool(), -math.inf).softmax(-1)
    assert not torch.allclose(weights[0, 0, 4], torch.full((5,), 0.2), atol=1e-3)
    values = attention.value(seen).unflatten(2, (4, 2)).transpose(1, 2)
    expected = attention.output((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["exact", "euler", "steady", "fixed", "uniform", "dot"])
def test_the_last_output_alone_is_that_of_all_steps_and_knows_no_padding(kind):
    x, elapsed = given(3, 9)
    mask = torch.arange(9) < torch.tensor([9, 4, 2])[:, None]
    network = AttentionNetwork(3, UNITS, kind)
    last = network(x, elapsed, mask, last=True)
    for row, length in enumerate((9, 4, 2)):
        whole = network(x[row : row + 1, :length], elapsed[row : row + 1, :length], None)
        torch.testing.assert_close(last[row], whole[0, -1], atol=1e-5, rtol=1e-4)
    padded = torch.where(mask[..., None], x, 1e3)
    torch.testing.assert_close(network(padded, elapsed, mask, last=True), last)


@pytest.mark.parametrize("cell", CELLS)
def test_no_cell_looks_ahead_or_at_padding(cell):
    kind = CELLS[cell]
    network = kind.build(CellShape(inputs=3, units=8, steps=6))
    x, elapsed = given(2, 6)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    with torch.no_grad():
        y = outputs(network, x, elapsed, None, False)
        other = x.clone()
        other[:, 4:] = 9.0
        torch.testing.assert_close(outputs(network, other, elapsed, None, False)[:, :4], y[:, :4], atol=1e-5, rtol=1e-4)
        last = outputs(network, other, elapsed, mask, True)
        torch.testing.assert_close(last[1], y[1, 3], atol=1e-5, rtol=1e-4)


def test_the_widest_network_is_the_largest_that_fits():
    def network(units):
        return torch.nn.Linear(3, units)  # 4 parameters a unit

    assert widest(network, 100) == 25 and widest(network, 99) == 24
    assert widest(network, 99, multiple=4) == 24 and widest(network, 95, multiple=4) == 20
    assert widest(network, 1, multiple=4) == 4  # never none
    assert count(network(5)) == 20

"""The plastic trace as mathematics: its chunked form, linear attention, and what a memory of it can hold."""

import pytest
import torch
from torch.nn import functional as F

from liquid_control.nn.trace import RULES, chunkwise_trace, plastic_trace

BATCH, HEADS, WIDTH, VALUES = 2, 3, 6, 5


def problem(steps, decay=None, seed=0, width=WIDTH, rule="hebb"):
    """Random q, normalised k, v, decay and rate in float64, with gradients, and a trace to begin with.

    For the oja rule, which longer values would make explode, v is normalised too.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(BATCH, steps, HEADS, *shape, generator=draw, dtype=torch.float64)

    kept = torch.sigmoid(normal() + 2) if decay is None else torch.full_like(normal(), decay)
    leaves = [normal(width), F.normalize(normal(width), dim=-1), normal(VALUES), kept, torch.sigmoid(normal())]
    state = torch.randn(BATCH, HEADS, VALUES, width, generator=draw, dtype=torch.float64)
    if rule == "oja":
        leaves[2] = F.normalize(leaves[2], dim=-1)
    return [leaf.requires_grad_() for leaf in (*leaves, state)]


def outcome(form, given, **options):
    """Outputs, final state and the gradients of everything given."""
    y, state = form(*given, **options)
    gradients = torch.autograd.grad(y.square().sum() + state.sin().sum(), given)
    return [y, state, *gradients]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 63, 64, 65, 150])
def test_chunks_give_what_steps_give_with_every_gradient(rule, steps):
    given = problem(steps, rule=rule)
    for found, expected in zip(
        outcome(chunkwise_trace, given, rule=rule), outcome(plastic_trace, given, rule=rule), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decay", [1.0, 0.999999, 0.01])
def test_chunks_stand_slow_and_fast_decay(rule, decay):
    given = problem(130, decay, rule=rule)
    found, expected = (outcome(form, given, rule=rule) for form in (chunkwise_trace, plastic_trace))
    for one, other in zip(found, expected, strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("decay", [1e-30, 0.0])
def test_chunks_stand_a_trace_that_is_wiped_at_every_step(decay):
    given = problem(130, decay)
    found, expected = (outcome(form, given, rule="delta") for form in (chunkwise_trace, plastic_trace))
    for one, other in zip(found[:5], expected[:5], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert all(value.isfinite().all() for value in found)


@pytest.mark.parametrize("rule", RULES)
def test_single_precision_chunks_stay_close_over_many_steps(rule):
    *given, state = (tensor.detach().float() for tensor in problem(500, rule=rule))
    found, expected = (form(*given, state, rule)[0] for form in (chunkwise_trace, plastic_trace))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("form", [plastic_trace, chunkwise_trace])
def test_two_halves_with_the_trace_carried_equal_the_whole(form):
    *given, state = problem(50)
    y, final = form(*given, state, "delta")
    first, middle = form(*(tensor[:, :23] for tensor in given), state, "delta")
    second, end = form(*(tensor[:, 23:] for tensor in given), middle, "delta")
    torch.testing.assert_close(torch.cat([first, second], 1), y)
    torch.testing.assert_close(end, final)


def test_half_precision_values_are_remembered_in_single():
    *given, _ = (tensor.detach().bfloat16() for tensor in problem(20))
    y, state = chunkwise_trace(*given)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact, _ = plastic_trace(*(tensor.float() for tensor in given))
    assert (y.float() - exact).abs().max() < 0.01 * exact.abs().max()


def test_a_step_of_decay_one_and_rate_zero_is_no_step():
    q, k, v, decay, rate, state = (tensor.detach() for tensor in problem(9))
    decay[:, 4:], rate[:, 4:] = 1, 0
    short = plastic_trace(*(tensor[:, :4] for tensor in (q, k, v, decay, rate)), state, "delta")[1]
    assert torch.equal(plastic_trace(q, k, v, decay, rate, state, "delta")[1], short)


@pytest.mark.parametrize("rank", [1, 3])
def test_plastic_synapses_with_a_gain_of_low_rank_are_linear_attention(rank):
    """(α ∘ H) x of an α of rank r is r linear attentions: Σ_s λ^{t-1-s} η_s v_s k_s · (a ∘ x)."""
    torch.manual_seed(0)
    x, k, v, decay, rate, _ = (tensor.detach() for tensor in problem(40))
    u, a = torch.randn(rank, VALUES, dtype=torch.float64), torch.randn(rank, WIDTH, dtype=torch.float64)

    trace, synapses = torch.zeros(BATCH, HEADS, VALUES, WIDTH, dtype=torch.float64), []
    for t in range(40):
        synapses.append(((u.T @ a * trace) @ x[:, t, :, :, None])[..., 0])
        trace = decay[:, t, :, None, None] * trace + rate[:, t, :, None, None] * v[:, t, ..., None] * k[:, t, :, None]

    total = decay.log().cumsum(1)
    power = (total - decay.log())[:, :, None] - total[:, None]  # (B, t, s, H)
    weight = torch.where(torch.ones(40, 40, dtype=torch.bool).tril(-1)[None, :, :, None], power, -torch.inf).exp()
    attention = torch.zeros_like(v)
    for gain, query in zip(u, a, strict=True):
        scores = weight * rate[:, None] * torch.einsum("bthk,bshk->btsh", query * x, k)
        attention = attention + gain * torch.einsum("btsh,bshv->bthv", scores, v)
    assert (torch.stack(synapses, 1) - attention).abs().max() < 1e-13

    kernel = sum(g * chunkwise_trace(query * x, k, v, decay, rate, chunk=16)[0] for g, query in zip(u, a, strict=True))
    assert (kernel - attention).abs().max() < 1e-13


def stored(rule, keys, values):
    """The trace after each value was written under its key: full rate, nothing forgotten."""
    steps = keys.shape[0]
    ones = torch.ones(1, steps, 1, dtype=keys.dtype)
    given = keys[None, :, None], keys[None, :, None], values[None, :, None]
    return plastic_trace(*given, ones, ones, rule=rule)[1][0, 0]


def test_the_delta_rule_overwrites_what_is_stored_under_a_key_and_hebb_adds():
    torch.manual_seed(0)
    key = F.normalize(torch.randn(1, 16, dtype=torch.float64), dim=-1)
    old, new = torch.randn(2, 4, dtype=torch.float64)
    keys, values = key.expand(2, -1), torch.stack([old, new])
    torch.testing.assert_close(stored("delta", keys, values) @ key[0], new)
    torch.testing.assert_close(stored("hebb", keys, values) @ key[0], old + new)


@pytest.mark.parametrize("count", [16, 64])
def test_hebbs_facts_interfere_by_the_number_of_them_over_the_width_of_keys(count):
    """Of N facts under random keys of width d, each is recalled with a noise of √((N - 1) / d) of its own size."""
    torch.manual_seed(0)
    noise = []
    for _ in range(20):
        keys = F.normalize(torch.randn(count, 64, dtype=torch.float64), dim=-1)
        values = torch.randn(count, 16, dtype=torch.float64)
        noise.append(keys @ stored("hebb", keys, values).T - values)
    assert torch.stack(noise).square().mean().sqrt().item() == pytest.approx(((count - 1) / 64) ** 0.5, rel=0.05)


@pytest.mark.parametrize("form", [plastic_trace, chunkwise_trace])
def test_oja_is_delta_with_keys_and_values_exchanged(form):
    q, k, v, decay, rate, state = problem(70, rule="oja")
    transposed = form(q, k, v, decay, rate, state, "oja")[1].mT
    torch.testing.assert_close(transposed, form(torch.zeros_like(v), v, k, decay, rate, state.mT, "delta")[1])


def test_for_a_single_value_oja_is_the_rule_of_a_single_neuron():
    """As `liquid_control.nn.plastic` has it: H ← λ H + η y (k - y λ H)."""
    _, k, v, decay, rate, _ = (tensor.detach() for tensor in problem(30))
    v = torch.tanh(v[..., :1])
    row = torch.zeros(BATCH, HEADS, WIDTH, dtype=torch.float64)
    for y, key, kept, written in zip(
        *(part.unbind(1) for part in (v, k, decay[..., None], rate[..., None])), strict=True
    ):
        row = kept * row + written * y * (key - y * kept * row)
    torch.testing.assert_close(plastic_trace(k, k, v, decay, rate, rule="oja")[1][:, :, 0], row)


def test_what_the_oja_rule_holds_is_bounded_by_what_it_writes():
    torch.manual_seed(0)
    values = F.normalize(torch.randn(3000, 4) + 1, dim=-1)
    keys = F.normalize(torch.randn(3000, 8) + 1, dim=-1)
    assert stored("oja", keys, values).norm(dim=1).max() < 5 < stored("hebb", keys, values).norm()


def test_the_delta_rule_never_grows_under_bounded_values():
    torch.manual_seed(0)
    keys = F.normalize(torch.randn(3000, 8) + 1, dim=-1)  # correlated: Hebb's sum would grow with every write
    values = torch.rand(3000, 4) * 2 - 1
    assert stored("delta", keys, values).norm(dim=1).max() < 20 < stored("hebb", keys, torch.ones(3000, 4)).norm()


def test_recall_fades_as_the_law_of_dense_writes_says():
    """Signal to noise of recall after Δ random writes is λ^Δ √(d (1 - λ²)) for d-wide unit keys."""
    width, decay, steps = 64, 0.95, 400
    torch.manual_seed(0)
    k = F.normalize(torch.randn(4, steps, HEADS, width, dtype=torch.float64), dim=-1)
    v = torch.randn(4, steps, HEADS, 32, dtype=torch.float64)
    ones = torch.ones(4, steps, HEADS, dtype=torch.float64)
    _, trace = plastic_trace(k, k, v, decay * ones, ones)
    for delay in (1, 8, 24):
        recalled = (trace @ k[:, -1 - delay, :, :, None])[..., 0]
        signal = decay**delay * v[:, -1 - delay]
        ratio = signal.square().mean().sqrt() / (recalled - signal).square().mean().sqrt()
        assert ratio.item() == pytest.approx(decay**delay * (width * (1 - decay**2)) ** 0.5, rel=0.15)


def test_what_does_not_fit_is_refused_with_what_was_expected():
    q, k, v, decay, rate, state = problem(4)
    with pytest.raises(ValueError, match="rule is 'anti', expected one of"):
        plastic_trace(q, k, v, decay, rate, rule="anti")
    with pytest.raises(ValueError, match=r"rate has shape \(2, 3, 3\), expected \(2, 4, 3\)"):
        chunkwise_trace(q, k, v, decay, rate[:, :3])
    with pytest.raises(ValueError, match=r"state has shape \(2, 3, 6, 5\), expected \(2, 3, 5, 6\)"):
        plastic_trace(q, k, v, decay, rate, state.mT)
    with pytest.raises(ValueError, match=r"k and v have shapes \(2, 4, 3\)"):
        plastic_trace(q, k[..., 0], v, decay, rate)
    with pytest.raises(ValueError, match="chunk is 0"):
        chunkwise_trace(q, k, v, decay, rate, chunk=0)

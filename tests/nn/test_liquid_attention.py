"""Liquid attention: the solution of its ODE, gates, times, masks, memory."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from liquid_control.nn.liquid_attention import LiquidAttention, SingleKeyWarning
from liquid_control.nn.liquid_logits import MIN_RATE, progress

BATCH, TOKENS, WIDTH, HEADS = 2, 7, 12, 3
GATES = ("affine", "mlp", "bilinear")
DOUBLE = torch.float64


def attention(**options):
    torch.manual_seed(1)
    module = LiquidAttention(WIDTH, HEADS, **options).double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("gain", "initial_logit")):
                parameter.copy_(torch.randn(HEADS, dtype=DOUBLE))
    return module


def tokens(count=TOKENS, seed=2):
    return torch.randn(BATCH, count, WIDTH, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def close(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def gates_of(module, x):
    """Target and rate of all pairs (B, H, T, T)."""
    features = (module.logits.query_features(x), module.logits.key_features(x))
    return module.logits.gates(*(part.permute(0, 2, 3, 1) for part in features))


# The ODE


@pytest.mark.parametrize("gate", GATES)
def test_an_exact_logit_is_the_solution_of_the_ode(gate):
    module, x = attention(gate=gate), tokens()
    target, rate = gates_of(module, x)
    time = torch.tensor(0.8, dtype=DOUBLE, requires_grad=True)
    scale = F.softplus(module.logits.time_scale)[:, None, None]
    logits = module.pair_logits(x, horizon=time.expand(TOKENS, TOKENS))
    # torch gives da/dt summed over pairs, so each pair is asked alone.
    for place in ((0, 0, 0, 0), (1, 1, 2, 5), (0, 2, 6, 1)):
        (slope,) = torch.autograd.grad(logits[place], time, retain_graph=True)
        expected = (-rate * logits + target)[place] * scale[place[1], 0, 0]
        close(slope, expected)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("pseudo_time", ["linear", "log"])
def test_an_exact_logit_goes_from_the_initial_to_the_steady_one(gate, pseudo_time):
    module, x = attention(gate=gate, pseudo_time=pseudo_time), tokens()
    start = torch.randn(BATCH, HEADS, TOKENS, TOKENS, dtype=DOUBLE)
    with torch.no_grad():
        module.logits.time_scale.fill_(3)
    target, rate = gates_of(module, x)
    # With the logarithm the approach is a power of the horizon, not an exponential.
    forever = 1e3 if pseudo_time == "linear" else 1e200
    for end, horizons in ((start, (1, 0.1, 1e-9)), (target / rate, (1, 10, forever))):
        errors = [(module.pair_logits(x, horizon=h, initial_logits=start) - end).abs().max() for h in horizons]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 1e-7
    close(module.pair_logits(x, horizon=0.0, initial_logits=start), start)


@pytest.mark.parametrize("gate", GATES)
def test_the_error_falls_exponentially_with_the_rate(gate):
    module, x = attention(gate=gate), tokens()
    target, rate = gates_of(module, x)
    steady, scale = target / rate, F.softplus(module.logits.time_scale)[:, None, None]
    start = torch.full_like(steady, 1.5)
    error = module.pair_logits(x, horizon=1.7, initial_logits=start) - steady
    close(error, (start - steady) * torch.exp(-rate * 1.7 * scale))


@pytest.mark.parametrize("gate", GATES)
def test_euler_converges_to_the_exact_solution_at_first_order(gate):
    x, counts = tokens(), [8, 16, 32, 64, 128, 256]
    exact = attention(gate=gate).pair_logits(x, horizon=2.0)
    errors = [
        (attention(gate=gate, mode="euler", euler_steps=n).pair_logits(x, horizon=2.0) - exact).abs().mean().item()
        for n in counts
    ]
    slope = np.polyfit(np.log([2.0 / n for n in counts]), np.log(errors), 1)[0]
    assert slope == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("options", [{}, {"mode": "euler"}, {"mode": "euler", "delta_t": 9.0}, {"mode": "steady"}])
def test_logits_stay_between_the_initial_and_the_steady_one(gate, options):
    module = attention(gate=gate, **options)
    x = 5 * tokens()
    target, rate = gates_of(module, x)
    steady = target / rate
    start = torch.randn_like(steady)
    for horizon in (0.1, 1.0, 100.0):
        logits = module.pair_logits(x, horizon=horizon, initial_logits=start)
        slack = 1e-9 * (1 + steady.abs())
        assert (logits >= torch.minimum(start, steady) - slack).all()
        assert (logits <= torch.maximum(start, steady) + slack).all()


@pytest.mark.parametrize("gate", GATES)
def test_an_interval_split_in_two_gives_the_logits_of_the_whole(gate):
    module, x = attention(gate=gate), tokens()
    first = module.pair_logits(x, horizon=0.4)
    second = module.pair_logits(x, horizon=1.1, initial_logits=first)
    close(second, module.pair_logits(x, horizon=1.5))


def test_small_rates_and_times_keep_single_precision():
    rate = torch.tensor([MIN_RATE], requires_grad=True)
    logit = 0.5 / rate * progress(rate, 1e-3, "exact", 0)
    expected = 0.5 / MIN_RATE * -math.expm1(-MIN_RATE * 1e-3)
    assert logit.item() == pytest.approx(expected, rel=1e-6)
    logit.backward()
    assert abs(rate.grad.item()) < 1e-3  # the true one is -2.5e-7


# Gates


def test_affine_gates_rank_keys_alike_for_every_query_and_mlp_gates_do_not():
    rankings = {}
    for gate in ("affine", "mlp"):
        module, x = attention(gate=gate, mode="steady", rate=1.0), tokens(20)
        order = module.pair_logits(x)[0, 0].argsort(-1)
        rankings[gate] = len({tuple(row.tolist()) for row in order})
    assert rankings["affine"] == 1
    assert rankings["mlp"] > 10


# Scaled dot-product attention


@pytest.mark.parametrize("causal", [False, True])
def test_bilinear_steady_attention_at_rate_one_is_scaled_dot_product_attention(causal):
    module, x = attention(gate="bilinear", mode="steady", rate=1.0), tokens()
    with torch.no_grad():
        module.logits.gain.fill_(1)
    q, k = (part.transpose(1, 2) for part in (module.logits.query_features(x), module.logits.key_features(x)))
    v = module.value(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    close(module(x, causal=causal), module.output(attended.transpose(1, 2).flatten(2)))


# Times


def times(seed=4, count=TOKENS):
    return torch.rand(BATCH, count, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)).cumsum(1)


@pytest.mark.parametrize("pseudo_time", ["linear", "log", "sigmoid"])
def test_a_shift_of_all_time_stamps_changes_nothing(pseudo_time):
    module, x, stamps = attention(pseudo_time=pseudo_time), tokens(), times()
    close(module(x, times=stamps + 1000), module(x, times=stamps), 1e-10)
    single = module.float()
    a_million_seconds = single(x.float(), times=stamps + 1e6)  # in single precision a second would be lost
    close(a_million_seconds, single(x.float(), times=stamps), 1e-5)


def test_time_stamps_are_horizons_of_pairs():
    module, x, stamps = attention(), tokens(), times()
    distance = (stamps[:, :, None] - stamps[:, None]).abs()
    close(module(x, times=stamps), module(x, horizon=distance))
    assert not torch.allclose(module(x, times=stamps), module(x, times=2 * stamps))


def test_elapsed_times_let_a_token_see_itself_for_its_own():
    module, x = attention(), tokens()
    elapsed = 0.1 + torch.rand(BATCH, TOKENS, dtype=DOUBLE)
    end = elapsed.cumsum(1)
    found = module.pair_logits(x, elapsed=elapsed)
    close(found, module.pair_logits(x, times=end, key_times=end - elapsed))
    alone = module.pair_logits(x, horizon=elapsed[:, :, None].expand(-1, -1, TOKENS))
    close(found.diagonal(0, 2, 3), alone.diagonal(0, 2, 3))


def test_time_does_not_matter_to_steady_logits_and_to_fixed_euler_steps():
    for options in ({"mode": "steady"}, {"mode": "euler", "delta_t": 0.3}):
        module, x = attention(**options), tokens()
        close(module(x, horizon=0.1), module(x, horizon=9.0))


def test_the_euler_step_does_not_matter_to_exact_logits():
    x = tokens()
    close(attention(delta_t=0.5)(x, horizon=0.7), attention()(x, horizon=0.7))


# Masks


def test_a_query_that_sees_no_key_gives_zeros_and_finite_gradients():
    module, x = attention(), tokens().requires_grad_()
    mask = torch.ones(BATCH, TOKENS, TOKENS, dtype=torch.bool)
    mask[0, 3] = False
    y, weights = module(x, mask=mask, return_attention=True)
    assert (y[0, 3] == 0).all() and (weights[0, :, 3] == 0).all()
    assert (y[0, 2] != 0).all()
    y.square().sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in (x, *module.parameters()))
    assert (module(x, real=torch.tensor([[False] * TOKENS, [True] * TOKENS]))[0] == 0).all()


@pytest.mark.parametrize("gate", GATES)
def test_padding_is_as_if_it_were_not_there(gate):
    module, x, stamps = attention(gate=gate), tokens(), times()
    real = torch.arange(TOKENS) < torch.tensor([[TOKENS], [4]])
    found = module(x, times=stamps, real=real)
    close(found[1:, :4], module(x[1:, :4], times=stamps[1:, :4]))


def test_what_padding_holds_does_not_matter_even_to_gradients():
    module, real = attention(), torch.arange(TOKENS) < torch.tensor([[TOKENS], [4]])
    found = []
    for filling in (0.0, torch.nan):
        module.zero_grad()
        y = module(torch.where(real[..., None], tokens(), filling), real=real)
        y.square().sum().backward()
        found.append([y, *(parameter.grad.clone() for parameter in module.parameters())])
    for expected, given in zip(*found, strict=True):
        assert torch.equal(given, expected)


def test_causal_is_the_triangular_mask():
    module, x = attention(), tokens()
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    close(module(x, causal=True), module(x, mask=mask))
    close(module(x, causal=True), module(x, mask=mask.expand(1, HEADS, -1, -1)))


def test_attention_weights_are_shares_of_what_is_seen():
    module, x = attention(), tokens()
    _, weights = module(x, causal=True, return_attention=True)
    close(weights.sum(-1), torch.ones(BATCH, HEADS, TOKENS, dtype=DOUBLE))
    assert (weights.triu(1) == 0).all()


def test_dropout_acts_while_training_only():
    module, x = attention(dropout=0.5), tokens()
    assert not torch.allclose(module(x), module(x))
    module.eval()
    close(module(x), module(x))


def test_keys_and_values_may_be_other_tokens():
    module, asking, asked = attention(), tokens(3), tokens(5, seed=7)
    y, weights = module(asking, asked, return_attention=True)
    assert weights.shape == (BATCH, HEADS, 3, 5)
    order = torch.randperm(5)
    close(module(asking, asked[:, order]), y)
    assert not torch.allclose(module(asking, asked, tokens(5, seed=8)), y)


# Numbers


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("mode", ["exact", "euler", "steady"])
def test_gradients_are_those_of_the_function(gate, mode):
    module, stamps = attention(gate=gate, mode=mode, chunk=3), times()
    parameters = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def function(x, stamps, *values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, given, (x,), {"times": stamps, "causal": True})

    leaves = (tokens().requires_grad_(), stamps.requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


def test_the_solver_keeps_single_precision_under_autocast():
    module, x = attention(mode="exact").float(), tokens().float()
    seen = []
    module.logits.register_forward_hook(lambda _, given, found: seen.append((given[0].dtype, found.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x, times=times())
    assert seen == [(torch.float32, torch.float32)]
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
    close(y.float(), module(x, times=times()), 0.05)


@pytest.mark.parametrize("gate", GATES)
def test_chunks_change_neither_values_nor_gradients(gate):
    x, real = tokens(), torch.arange(TOKENS) < torch.tensor([[TOKENS], [4]])
    found = []
    for chunk in (TOKENS, 3):
        module = attention(gate=gate, chunk=chunk)
        y = module(x, times=times(), real=real, causal=True)
        y.square().sum().backward()
        found.append([y, *(parameter.grad for parameter in module.parameters())])
    for whole, parts in zip(*found, strict=True):
        close(parts, whole)


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        for part in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(part, torch.Tensor):
                self.numbers = max(self.numbers, part.untyped_storage().nbytes() // part.element_size())
        return found


@pytest.mark.parametrize("gate", GATES)
def test_memory_grows_with_the_length_and_not_with_its_square(gate):
    sizes = []
    for length in (256, 512):
        module, x = attention(gate=gate, chunk=16), torch.randn(1, length, WIDTH, dtype=DOUBLE)
        kept = []
        with (
            LargestTensor() as largest,
            torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t), t)[1], lambda t: t),
        ):
            y = module(x, times=torch.arange(length), causal=True)
            saved = sum({t.data_ptr(): t.untyped_storage().nbytes() for t in kept}.values())
            y.sum().backward()
        sizes.append((largest.numbers, saved))
    for short, long in zip(*sizes, strict=True):
        assert long < 2.2 * short
    assert sizes[1][0] <= 16 * 512 * HEADS * module.logits.hidden


# What is refused, what is said


def test_a_single_key_is_warned_about_once():
    module, x = attention(), tokens(1)
    with pytest.warns(SingleKeyWarning, match="a single key"):
        module(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "linear"}, "gate is 'linear', expected one of"),
        ({"mode": "fast"}, "mode is 'fast', expected one of"),
        ({"pseudo_time": "cubic"}, "pseudo_time is 'cubic'"),
        ({"heads": 5}, "input_size must be a multiple of heads, given 12 and 5"),
        ({"euler_steps": 0}, "euler_steps must be at least 1"),
        ({"delta_t": -0.5}, "delta_t must be a positive number or None, given -0.5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), given 1.0"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LiquidAttention(WIDTH, **{"heads": HEADS} | options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"horizon": -1.0}, "horizon holds -1.0, expected finite times ≥ 0"),
        ({"times": torch.full((TOKENS,), math.nan)}, "times holds nan"),
        ({"times": torch.zeros(3)}, r"times has shape \(3,\), expected \(tokens,\) = \(7,\)"),
        ({"elapsed": torch.full((TOKENS,), -0.1)}, "elapsed holds -0.1"),
        ({"horizon": 1.0, "elapsed": 1.0}, "time is given in two ways"),
        ({"horizon": torch.ones(2, 3)}, r"horizon has shape \(2, 3\)"),
        ({"real": torch.ones(BATCH, 3, dtype=torch.bool)}, r"real has shape \(2, 3\)"),
        ({"mask": torch.ones(3, 3, dtype=torch.bool)}, r"mask has shape \(1, 1, 3, 3\)"),
        ({"key_times": torch.zeros(TOKENS)}, "key_times are given without times"),
        ({"key": torch.zeros(BATCH, 3, WIDTH, dtype=DOUBLE), "causal": True}, "causal needs as many keys as queries"),
        ({"key": torch.zeros(BATCH, 3, WIDTH, dtype=DOUBLE), "elapsed": 1.0}, "elapsed is for self-attention"),
        ({"key": torch.zeros(BATCH, 0, WIDTH, dtype=DOUBLE)}, "there are no keys"),
        ({"key": torch.zeros(BATCH, 3, 4, dtype=DOUBLE)}, r"key has shape \(2, 3, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        attention()(tokens(), **given)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(TypeError, match=r"mask has dtype torch.float64, expected torch.bool"):
        attention()(tokens(), mask=torch.zeros(TOKENS, TOKENS, dtype=DOUBLE))


# Tools


def test_torch_compile_and_export_give_the_same_numbers():
    module, x, given = attention(chunk=4), tokens(), {"times": times(), "causal": True}
    expected = module(x, **given)
    torch._dynamo.reset()
    close(torch.compile(module, backend="aot_eager")(x, **given), expected)
    module.requires_grad_(False)
    close(torch.export.export(module, (x,), given).module()(x, **given), expected)


def test_the_transforms_of_torch_func_work():
    module, x = attention(), tokens().requires_grad_()
    (expected,) = torch.autograd.grad(module(x, causal=True).square().sum(), x)
    close(torch.func.grad(lambda x: module(x, causal=True).square().sum())(x.detach()), expected)

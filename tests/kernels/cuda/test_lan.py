"""The Triton liquid attention against the reference form: attended values and every gradient."""

import dataclasses
import warnings

import pytest
import torch

from liquid_control.kernels import ReferenceFormWarning
from liquid_control.kernels.attention import Pairs
from liquid_control.kernels.cuda import lan
from liquid_control.nn.lan import LAN
from liquid_control.nn.liquid_attention import LiquidAttention
from liquid_control.nn.liquid_logits import GATES, MODES, PSEUDO_TIMES

BATCH, TOKENS, SIZE, HEADS = 2, 5, 6, 2


def build(**options):
    torch.manual_seed(0)
    attention = LiquidAttention(SIZE, HEADS, **({"hidden": 4} | options))
    with torch.no_grad():
        attention.logits.gain.mul_(3)  # so that attention is far from uniform
        for name, parameter in attention.logits.named_parameters():
            if name in ("initial_logit", "pair_bias"):
                parameter.normal_()
    return attention


def pairs_of(queries=TOKENS, keys=TOKENS, causal=False, timed=True, padded=False, horizon=0.7, mask=None):
    torch.manual_seed(1)
    times = [torch.rand(BATCH, tokens).cumsum(1) for tokens in (queries, keys)] if timed else [None, None]
    real = torch.rand(BATCH, keys) < 0.6 if padded else None
    if padded:
        real[0] = False  # no query of the first sequence sees anything
    return Pairs(keys, horizon, *times, real, mask, causal)


def on(device, pairs):
    parts = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(pairs).items()
    }
    return Pairs(**parts)


def outcome(attend, logits, given):
    """Attended values and the gradients of a random weighted sum of them, by name."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in given.items()}
    logits.zero_grad()
    attended = attend(*leaves.values())
    torch.manual_seed(3)
    (attended * torch.randn(attended.shape).to(attended)).sum().backward()
    gradients = {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for name, parameter in logits.named_parameters():
        if parameter.grad is not None:
            gradients[f"gradient of {name}"] = parameter.grad.clone()
    return {"attended": attended.detach()} | gradients


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = (found[name] - value).abs().max().item()
        assert difference < 2e-5 * (1 + value.abs().max().item()), f"{name} differs by {difference:.3g}"


def assert_attends_as_the_reference(attention, pairs, device):
    attention, pairs = attention.to(device), on(device, pairs)
    queries = TOKENS if pairs.query_times is None else pairs.query_times.shape[1]
    torch.manual_seed(2)
    features = attention.logits.features
    given = {
        "u": torch.randn(BATCH, HEADS, features, queries, device=device),
        "w": torch.randn(BATCH, HEADS, features, pairs.keys, device=device),
        "values": torch.randn(BATCH, HEADS, pairs.keys, SIZE // HEADS, device=device),
    }
    if pairs.query_times is not None:
        given |= {"query_times": pairs.query_times, "key_times": pairs.key_times}

    def timed(times):
        return dataclasses.replace(pairs, **dict(zip(("query_times", "key_times"), times, strict=False)))

    found = outcome(
        lambda u, w, v, *times: lan.attend(attention.logits.for_kernels(), u, w, v, timed(times)),
        attention.logits,
        given,
    )
    expected = outcome(
        lambda u, w, v, *times: attention._attend(u, w, v, timed(times), None, False)[0], attention.logits, given
    )
    assert_close(found, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gate", GATES)
def test_it_agrees_with_the_reference(device, gate, mode):
    assert_attends_as_the_reference(build(gate=gate, mode=mode), pairs_of(causal=True), device)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        *(({"pseudo_time": name}, {"causal": True}) for name in PSEUDO_TIMES),
        ({"gate": "affine", "pseudo_time": "sigmoid"}, {}),
        ({"mode": "euler", "euler_steps": 1}, {}),
        ({"mode": "euler", "delta_t": 0.6}, {}),
        ({"rate": 0.8}, {}),
        ({"gate": "bilinear", "rate": 1.0, "mode": "steady"}, {}),
        ({}, {"timed": False}),
        ({}, {"padded": True}),
        ({}, {"padded": True, "causal": True}),
        ({"gate": "affine"}, {"queries": 3, "keys": 7}),
        ({"gate": "bilinear"}, {"queries": 37, "keys": 37, "causal": True}),
        ({"gate": "bilinear"}, {"queries": 35, "keys": 70}),
    ],
    ids=[
        *(f"time {name}" for name in PSEUDO_TIMES),
        "the authors'",
        "one Euler step",
        "fixed Euler step",
        "constant rate",
        "scaled dot product",
        "one horizon",
        "padding",
        "padding and causal",
        "more keys than queries",
        "causal blocks",
        "blocks",
    ],
)
def test_every_option_agrees_with_the_reference(device, options, given):
    assert_attends_as_the_reference(build(**options), pairs_of(**given), device)


@pytest.mark.parametrize("window", [3, 40])
@pytest.mark.parametrize("gate", ["affine", "bilinear"])
def test_a_sliding_window_agrees_with_the_reference(device, gate, window):
    torch.manual_seed(0)
    steps, batch = 45, 1
    layer = LAN(5, 4, heads=HEADS, window=window, gate=gate).to(device)
    features = layer.logits.features
    now = torch.rand(window - 1 + steps, batch).cumsum(0).to(device)
    known = torch.ones(now.shape, dtype=torch.bool, device=device)
    known[: window // 2, 0] = False
    given = {
        "query": torch.randn(steps, batch, HEADS, features, device=device),
        "keys": torch.randn(window - 1 + steps, batch, HEADS * features, device=device),
        "values": torch.randn(window - 1 + steps, batch, 4, device=device),
    }
    given |= {"now": now[window - 1 :], "since": now - 0.1}

    def reference(query, keys, values, now, since):
        layer.logits.query_features = lambda x: query
        return layer._attend(query, now, keys, values, since, known)

    found = outcome(
        lambda *leaves: lan.attend_window(layer.logits.for_kernels(), *leaves, known, window), layer.logits, given
    )
    assert_close(found, outcome(reference, layer.logits, given))


def test_a_rate_near_its_minimum_keeps_its_digits(device):
    """There the steady logit is a thousand times the target, and the share that it is multiplied by is small."""
    attention = build(gate="bilinear").to(device)
    pairs = on(device, pairs_of(horizon=1e-3, timed=False))
    features = attention.logits.features
    u, w = (torch.full((BATCH, HEADS, features, TOKENS), size, device=device) for size in (1.0, -8.0))
    u[..., :-1, :], w[..., :-1, :] = torch.randn_like(u[..., :-1, :]), torch.randn_like(w[..., :-1, :])
    values = torch.randn(BATCH, HEADS, TOKENS, 3, device=device)
    expected = attention.double()._attend(u.double(), w.double(), values.double(), pairs, None, False)[0]
    found = lan.attend(attention.float().logits.for_kernels(), u, w, values, pairs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": torch.float64}, "float32, not torch.float64"),
        ({"hidden": 128}, "127 features a head or fewer"),
        ({"mask": torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool)}, "not a mask of pairs"),
        ({"horizon": torch.ones(1, TOKENS, TOKENS)}, "not a horizon of each pair"),
    ],
    ids=["float64", "many features", "mask of pairs", "horizon of pairs"],
)
def test_what_no_kernel_covers_is_left_to_the_reference(device, change, reason):
    change = dict(change)
    dtype = change.pop("dtype", torch.float32)
    attention = build(hidden=change.pop("hidden", 4)).to(device, dtype)
    u = torch.randn(BATCH, HEADS, attention.logits.features, TOKENS, dtype=dtype, device=device)
    values = torch.randn(BATCH, HEADS, TOKENS, SIZE // HEADS, dtype=dtype, device=device)
    logits, pairs = attention.logits.for_kernels(), on(device, pairs_of(timed=False, **change))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ReferenceFormWarning)
        assert lan.attend(logits, u, u, values, pairs) is None
    assert any(reason in str(warning.message) for warning in said)


@pytest.mark.parametrize(
    ("option", "what"), [("gate", "gate"), ("mode", "mode"), ("clock", "pseudo-time")], ids=["gate", "mode", "time"]
)
def test_what_the_kernel_does_not_know_is_left_to_the_reference(device, option, what):
    attention = build().to(device)
    logits = attention.logits.for_kernels()._replace(**{option: "new"})
    u = torch.randn(BATCH, HEADS, logits.features, TOKENS, device=device)
    values = torch.randn(BATCH, HEADS, TOKENS, 3, device=device)
    with pytest.warns(ReferenceFormWarning, match=f"no kernel of liquid attention knows the {what} 'new'"):
        assert lan.attend(logits, u, u, values, on(device, pairs_of(timed=False))) is None


def test_the_least_rate_is_the_layers(device):
    attention = build(gate="affine", mode="steady")
    attention.logits.least_rate = 0.5
    assert_attends_as_the_reference(attention, pairs_of(), device)

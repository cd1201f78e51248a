"""Liquid attention against the authors' equations in NumPy, float64, pair by pair as they write them.

In theirs (Razzaq et al. 2025, Liquid Attention Network) all [query; key] pairs of a head go through two linear layers
for the target φ and two for the rate τ, and through one each for the slope and the shift of the pseudo-time.
"""

import numpy as np
import pytest
import torch

from liquid_control.nn.liquid_attention import LiquidAttention
from liquid_control.nn.liquid_logits import MIN_RATE, progress

BATCH, TOKENS, WIDTH, HEADS = 2, 7, 12, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def random_weights(rng, width, heads, phi_hidden=64, tau_hidden=32):
    """Random weights {name: (matrix, bias)}; a layer computes x @ matrix + bias."""
    pair = 2 * width // heads
    shapes = {"q": (width, width), "k": (width, width), "v": (width, width), "out": (width, width)}
    shapes |= {"phi_1": (pair, phi_hidden), "phi_2": (phi_hidden, 1), "tau_1": (pair, tau_hidden)}
    shapes |= {"tau_2": (tau_hidden, 1), "time_a": (pair, 1), "time_b": (pair, 1)}
    return {
        name: (rng.normal(size=shape) * 1.5 / np.sqrt(shape[0]), rng.normal(size=shape[1]))
        for name, shape in shapes.items()
    }


def dense(x, layer):
    return x @ layer[0] + layer[1]


def logits(x, layers, heads, mode, t=1.0, delta_t=0.5, euler_steps=5, tau_epsilon=1e-6):
    """Tokens x (B, T, C) -> logits (B, H, T, T)."""

    def split(name):
        tokens = dense(x, layers[name])
        return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k = split("q"), split("k")
    shape = (*q.shape[:2], q.shape[2], k.shape[2], q.shape[3])
    pairs = np.concatenate(
        [np.broadcast_to(q[:, :, :, None], shape), np.broadcast_to(k[:, :, None, :], shape)], axis=-1
    )
    phi = sigmoid(dense(dense(pairs, layers["phi_1"]), layers["phi_2"]))[..., 0]
    tau = softplus(dense(dense(pairs, layers["tau_1"]), layers["tau_2"]))[..., 0] + tau_epsilon
    if mode == "steady":
        return phi / tau
    if mode == "exact":
        s = sigmoid(dense(pairs, layers["time_a"]) * t + dense(pairs, layers["time_b"]))[..., 0]
        return phi / tau * (1 - np.exp(-tau * s))
    return euler(phi, tau, delta_t, euler_steps)


def euler(phi, tau, delta_t, steps):
    """Their explicit Euler loop from a = 0, whose step nothing bounds."""
    a = np.zeros_like(phi)
    for _ in range(steps):
        a = a + delta_t * (-tau * a + phi)
    return a


def attention(x, layers, heads, mode, mask=None, **options):
    """Tokens x (B, T, C), mask (B or 1, 1, T, T) True where seen -> outputs (B, T, C)."""
    a = logits(x, layers, heads, mode, **options)
    if mask is not None:
        a = a + (1 - mask) * -1e9
    exponents = np.exp(a - a.max(-1, keepdims=True))
    share = exponents / exponents.sum(-1, keepdims=True)
    v = dense(x, layers["v"])
    v = v.reshape(*v.shape[:2], heads, -1).transpose(0, 2, 1, 3)
    attended = (share @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return dense(attended, layers["out"])


def like_the_authors(layers, mode, **options):
    """Ours with the authors' weights: two linear layers, and what feeds them, are one linear map of a token."""
    module = LiquidAttention(WIDTH, HEADS, gate="affine", mode=mode, pseudo_time="sigmoid", **options).double()
    depth = WIDTH // HEADS
    maps = [
        (layers[f"{name}_1"][0] @ layers[f"{name}_2"][0], layers[f"{name}_1"][1] @ layers[f"{name}_2"][0] + bias)
        for name, bias in (("phi", layers["phi_2"][1]), ("tau", layers["tau_2"][1]))
    ]
    maps += [layers["time_a"], layers["time_b"]]
    weight, bias = np.concatenate([m for m, _ in maps], 1), np.concatenate([b for _, b in maps])
    weight, bias = weight[:, : module.logits.features], bias[: module.logits.features]
    query, key = (
        np.concatenate([layers[name][0][:, h * depth : (h + 1) * depth] @ half for h in range(HEADS)], 1)
        for name, half in (("q", weight[:depth]), ("k", weight[depth:]))
    )
    offsets = [
        layers["q"][1][h * depth : (h + 1) * depth] @ weight[:depth]
        + layers["k"][1][h * depth : (h + 1) * depth] @ weight[depth:]
        + bias
        for h in range(HEADS)
    ]
    state = {
        "logits.query.weight": query.T,
        "logits.query.bias": np.concatenate(offsets),
        "logits.key.weight": key.T,
        "value.weight": layers["v"][0].T,
        "value.bias": layers["v"][1],
        "output.weight": layers["out"][0].T,
        "output.bias": layers["out"][1],
    }
    missing, unexpected = module.load_state_dict(
        {name: torch.from_numpy(value) for name, value in state.items()}, strict=False
    )
    assert not unexpected and set(missing) <= {"logits.gain", "logits.initial_logit"}  # 1 and 0 as built
    return module


@pytest.mark.parametrize(
    ("mode", "options", "theirs"),
    [
        ("exact", {}, {"t": 0.7}),
        ("euler", {"delta_t": 0.05, "euler_steps": 20}, {"delta_t": 0.05, "euler_steps": 20}),
        ("steady", {}, {}),
    ],
)
@pytest.mark.parametrize("masked", ["all seen", "padding", "causal", "full"])
def test_the_affine_gate_gives_the_authors_numbers(mode, options, theirs, masked):
    rng = np.random.default_rng(3)
    layers, x = random_weights(rng, WIDTH, HEADS), rng.normal(size=(BATCH, TOKENS, WIDTH))
    real = np.arange(TOKENS) < np.array([[TOKENS], [4]])
    full = rng.random((BATCH, TOKENS, TOKENS)) < 0.5
    full[:, range(TOKENS), range(TOKENS)] = True
    causal = np.tril(np.ones((1, 1, TOKENS, TOKENS), bool))
    mask = {"all seen": None, "padding": real[:, None, None], "causal": causal, "full": full[:, None]}[masked]
    expected = attention(x, layers, HEADS, mode, mask, tau_epsilon=MIN_RATE, **theirs)

    module = like_the_authors(layers, mode, **options)
    given = {
        "all seen": {},
        "padding": {"real": torch.from_numpy(real)},
        "causal": {"causal": True},
        "full": {"mask": torch.from_numpy(full)},
    }[masked]
    found = module(torch.from_numpy(x), horizon=theirs.get("t"), **given)
    # What a query at padding asks is nobody's matter: ours does not even read it.
    asked = real if masked == "padding" else np.ones_like(real)
    np.testing.assert_allclose(found.detach().numpy()[asked], expected[asked], rtol=1e-10, atol=1e-10)


def test_the_closed_form_of_euler_is_their_loop():
    rng = np.random.default_rng(5)
    phi, tau = rng.random(50), 2 * rng.random(50)
    share = progress(torch.from_numpy(tau), 0.5 * 20, "euler", 20).numpy()
    np.testing.assert_allclose(phi / tau * share, euler(phi, tau, 0.5, 20), rtol=1e-12)


def test_euler_is_stable_where_the_authors_loop_blows_up():
    phi, tau = np.array([0.5, 0.5]), np.array([2.1, 5.0])
    overshoot, unstable = euler(phi, tau, 0.5, 1)[0], euler(phi, tau, 0.5, 20)[1]
    assert overshoot > phi[0] / tau[0] and unstable < -300
    for steps in (1, 2, 20):
        share = progress(torch.from_numpy(tau), 0.5 * steps, "euler", steps)
        assert ((share >= 0) & (share <= 1)).all()

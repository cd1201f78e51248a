"""The attention kernel equals the reference form: every gate, mode and time, masks, odd lengths, extreme numbers."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from liquid_control import kernels
from liquid_control.kernels import attention as attention_kernels
from liquid_control.kernels import lan as kernel
from liquid_control.nn import LAN
from liquid_control.nn.liquid_attention import LiquidAttention

BATCH, QUERIES, KEYS, WIDTH, HEADS = 2, 37, 21, 12, 3
GATES = ("affine", "mlp", "bilinear")
SOLUTIONS = {
    "exact": {},
    "exact, log": {"pseudo_time": "log"},
    "exact, sigmoid": {"pseudo_time": "sigmoid"},
    "exact, constant rate": {"rate": 0.7},
    "euler": {"mode": "euler", "euler_steps": 3},
    "euler, fixed step": {"mode": "euler", "delta_t": 0.4},
    "euler, sigmoid": {"mode": "euler", "pseudo_time": "sigmoid"},
    "steady": {"mode": "steady"},
}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}


def attention(dtype=torch.float64, **options):
    torch.manual_seed(0)
    module = LiquidAttention(WIDTH, HEADS, **options).to(dtype).requires_grad_(False)
    for name, parameter in module.named_parameters():
        if name.endswith(("gain", "initial_logit", "pair_bias")):
            parameter.copy_(torch.randn_like(parameter))
    return module


def tokens(count=KEYS, dtype=torch.float64, seed=1):
    return torch.randn(BATCH, count, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def both(monkeypatch):
    """Calls a module in both forms, and sees that the kernel is one of them."""

    def run(module, *arguments, **options):
        calls = []
        compiled = kernel.weigh
        monkeypatch.setattr(kernel, "weigh", lambda *given: (calls.append(1), compiled(*given)))
        fused = module(*arguments, **options)
        assert calls
        monkeypatch.setattr(kernel, "weigh", compiled)
        monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
        reference = module(*arguments, **options)
        monkeypatch.delenv("LIQUID_CONTROL_KERNELS")
        return fused, reference

    return run


def close(found, expected):
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("solution", SOLUTIONS)
def test_it_gives_what_the_reference_gives(both, gate, solution, dtype):
    module = attention(dtype, gate=gate, **SOLUTIONS[solution])
    close(*both(module, tokens(dtype=dtype), times=torch.rand(BATCH, KEYS, dtype=dtype).cumsum(1), causal=True))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 300])
def test_any_length_is_covered(both, length):
    module, x = attention(), tokens(length)
    module._warned = True
    for options in ({}, {"causal": True}, {"horizon": 0.3}):
        close(*both(module, x, **options))


def test_queries_and_keys_may_differ(both):
    x = tokens(QUERIES, seed=2)
    times, key_times = torch.rand(QUERIES), torch.rand(BATCH, KEYS)
    close(*both(attention(), x, tokens(), tokens(seed=3), times=times, key_times=key_times))
    close(*both(attention(), x, tokens(), horizon=torch.rand(BATCH, QUERIES, KEYS)))


def test_every_mask_is_kept(both):
    module, x = attention(), tokens()
    real = torch.arange(KEYS) < torch.tensor([[KEYS], [4]])
    full = torch.rand(KEYS, KEYS) < 0.4
    full[5] = False
    for mask in (full, full.expand(BATCH, -1, -1), torch.rand(BATCH, HEADS, KEYS, KEYS) < 0.3, full[None, None]):
        close(*both(module, x, mask=mask, real=real))
        close(*both(module, x, mask=mask, causal=True))
    assert (both(module, x, mask=full)[0][:, 5] == 0).all()


@pytest.mark.parametrize("gate", GATES)
def test_large_and_tiny_numbers_stay_finite_and_equal(both, gate):
    for scale in (1e-6, 30.0):
        module, x = attention(torch.float32, gate=gate), scale * tokens(dtype=torch.float32)
        fused, reference = both(module, x, horizon=1e-3)
        assert fused.isfinite().all()
        torch.testing.assert_close(fused, reference, rtol=1e-3, atol=1e-3 * scale)


def test_softplus_has_its_digits_from_tiny_to_large():
    @kernel.njit
    def all_of(x, y):
        for i in range(len(x) // 16):
            kernel.store(y, i, kernel.softplus(kernel.load(x, i)))

    for dtype in (np.float32, np.float64):
        x = np.linspace(-60, 60, 4096).astype(dtype)
        y = np.empty_like(x)
        all_of(x, y)
        np.testing.assert_allclose(y, np.logaddexp(0, x.astype(np.float64)), rtol=32 * np.finfo(dtype).eps)


def test_a_gate_that_the_kernels_do_not_know_is_the_reference_form(monkeypatch):
    """In whole sequences and in compiled steps."""
    module, x = attention(gate="affine"), tokens()
    expected = module(x)
    monkeypatch.setattr(kernels, "_said", set())
    monkeypatch.setattr(attention_kernels, "GATES", {"mlp": 1})
    with pytest.warns(kernels.ReferenceFormWarning, match="no kernel of liquid attention knows the gate 'affine'"):
        close(module(x), expected)
    assert LAN(WIDTH, 6, gate="affine").step_kernel() is None


def test_threads_change_nothing(monkeypatch):
    module, x = attention(torch.float32, gate="mlp"), tokens(200, torch.float32)
    alone = module(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(module(x), alone)


def test_where_gradients_are_wanted_the_reference_form_runs(monkeypatch):
    monkeypatch.setattr(kernel, "weigh", None)
    module, x = attention(), tokens()
    module(x.requires_grad_())
    module.requires_grad_(True)
    module(tokens()).sum().backward()
    assert module.logits.query.weight.grad is not None


def test_autocast_gives_the_reference_values(both):
    module, x = attention(torch.float32), tokens(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        fused, reference = both(module, x)
    assert fused.dtype == reference.dtype == torch.bfloat16
    torch.testing.assert_close(fused, reference, rtol=0.02, atol=0.02)


def test_bilinear_steady_attention_is_scaled_dot_product_attention(both):
    module, x = attention(gate="bilinear", mode="steady", rate=1.0), tokens()
    module.logits.gain.fill_(1)
    q, k = (part.transpose(1, 2) for part in (module.logits.query_features(x), module.logits.key_features(x)))
    v = module.value(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(q, k, v)
    fused, _ = both(module, x)
    close(fused, module.output(attended.transpose(1, 2).flatten(2)))

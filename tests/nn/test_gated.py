"""Gated networks of torch over padded batches, which are one pass over all steps on a CPU."""

import pytest
import torch

from liquid_control.nn import GRU, LSTM, mask_from_lengths

LENGTHS = (7, 4, 0, 1)


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cleared", [False, True])
def test_padding_at_the_end_changes_no_state_and_no_gradient(kind, dtype, cleared, monkeypatch):
    """Also of cells that are zero, and of a sequence without a step, whose state stays to the bit."""
    torch.manual_seed(0)
    layer = kind(3, 5, 2).to(dtype)
    x = 50 * torch.randn(len(LENGTHS), max(LENGTHS), 3, dtype=dtype)
    state = torch.zeros(len(LENGTHS), layer.state_size, dtype=dtype)
    state = state if cleared else torch.randn_like(state)
    found = {}
    for form in ("auto", "reference"):
        monkeypatch.setenv("LIQUID_CONTROL_KERNELS", form)
        layer.zero_grad()
        given = [part.clone().requires_grad_() for part in (x, state)]
        y, final = layer(*given, mask=mask_from_lengths(LENGTHS))
        (y.square().sum() + final.sin().sum()).backward()
        found[form] = [y, final, *(part.grad for part in given), *(part.grad.clone() for part in layer.parameters())]
    for one, other in zip(found["auto"], found["reference"], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 if dtype == torch.float32 else 1e-12, rtol=1e-5)
    assert torch.equal(found["auto"][1][2], state[2]) and not found["auto"][0][2].any()


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_padded_batch_is_one_call_of_torch(kind, monkeypatch):
    name, calls = kind.__name__.lower(), []
    real = getattr(torch, name)
    monkeypatch.setattr(torch, name, lambda *given: calls.append(given) or real(*given))
    kind(3, 5)(torch.randn(4, 7, 3), mask=mask_from_lengths(LENGTHS))
    assert len(calls) == 1

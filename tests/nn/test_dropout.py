"""Dropout by sixteen random bits a number."""

import pytest
import torch

from liquid_control.nn.dropout import dropout


def test_a_share_is_dropped_and_the_rest_makes_up_for_it():
    torch.manual_seed(0)
    x = torch.ones(100, 333, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    dropped = y == 0
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(y[~dropped], torch.full((int((~dropped).sum()),), 1 / 0.7), rtol=1e-4, atol=0)
    assert torch.equal(x.grad, y.detach())
    beside = (dropped[:, 1:] == dropped[:, :-1]).float().mean().item()
    assert beside == pytest.approx(0.3**2 + 0.7**2, abs=0.01)  # numbers of one draw do not know of each other


def test_no_rate_is_no_dropout():
    x = torch.randn(3, 5)
    assert dropout(x, 0.0) is x

"""The Triton scan against `liquid_scan`, step by step: values, final state and every gradient."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from liquid_control.kernels.cuda import scan
from liquid_control.nn.scan import LiquidScan, liquid_scan

NAMES = ("y", "final state", "gradient of drive", "gradient of state", "gradient of elapsed")


def sequence(batch=2, steps=37, units=5, times="varied"):
    """Drive, state and elapsed times."""
    torch.manual_seed(0)
    drive, state = 2 * torch.randn(batch, steps, 2 * units), torch.randn(batch, units)
    elapsed = {
        "varied": torch.rand(batch, steps) * torch.tensor([0.01, 1.0, 5.0])[torch.arange(steps) % 3],
        "one": torch.ones(batch, steps),
        "none at some": (torch.arange(steps) % 4 > 0) * torch.rand(batch, steps),
        "long": torch.full((batch, steps), 1e4),
    }[times]
    return drive, state, elapsed


def outcome(form, given, device, tau_min):
    """States, final state and gradients of a random weighted sum of them."""
    leaves = [part.detach().clone().to(device).requires_grad_() for part in given]
    y, final = form(*leaves, tau_min)
    torch.manual_seed(1)
    ((y * torch.randn(y.shape).to(y)).sum() + (final * torch.randn(final.shape).to(y)).sum()).backward()
    return [y.detach(), final.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"steps": 1},
        {"steps": 64},
        {"steps": 65, "units": 40, "batch": 1},
        {"times": "one"},
        {"times": "none at some"},
        {"times": "long"},
    ],
    ids=[
        "odd length",
        "one step",
        "whole chunks",
        "two blocks of neurons",
        "even time",
        "standing still",
        "long times",
    ],
)
def test_it_agrees_with_the_scan_step_by_step(device, shape):
    found, expected = (outcome(form, sequence(**shape), device, 0.1) for form in (scan.liquid_scan, liquid_scan))
    expected[4][(sequence(**shape)[2] == 0).to(device)] = 0  # where no time passes, the kernel gives time no gradient
    for name, value, right in zip(NAMES, found, expected, strict=True):
        difference = (value - right).abs().max().item()
        assert difference < 2e-5 * (1 + right.abs().max().item()), f"{name} differs by {difference:.3g}"


def test_small_shares_keep_their_digits(device):
    drive, state, elapsed = sequence(steps=8)
    given = drive.to(device), state.to(device), (1e-6 * elapsed).to(device)
    moved = (scan.liquid_scan(*given, 0.1)[0] - given[1][:, None]).double()
    exact = liquid_scan(*(part.double() for part in given), 0.1)[0] - given[1].double()[:, None]
    assert (moved - exact).abs().max() < 2e-7  # of states near 1, whose last digit is 1e-7


def test_a_layer_goes_on_where_it_stopped(device):
    torch.manual_seed(0)
    layer, x = LiquidScan(4, 6).to(device), torch.randn(2, 50, 4, device=device)
    drive, elapsed, state = layer.drive(x), x.new_ones(2, 50), x.new_zeros(2, 6)
    whole, _ = scan.liquid_scan(drive, state, elapsed, 0.1)
    first, between = scan.liquid_scan(drive[:, :21], state, elapsed[:, :21], 0.1)
    second, _ = scan.liquid_scan(drive[:, 21:], between, elapsed[:, 21:], 0.1)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-6)


ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")


def test_the_operator_is_registered_as_torch_asks(device):
    given = [part.to(device).requires_grad_() for part in sequence(steps=5)]
    torch.library.opcheck(scan.liquid_scan, (*given, 0.1), test_utils=ASKED)


def test_make_fx_keeps_the_operator_and_its_backward_pass(device):
    given = [part.to(device).requires_grad_() for part in sequence(steps=5)]

    def gradients(*given):
        y, final = scan.liquid_scan(*given, 0.1)
        return y, final, *torch.autograd.grad(y.sin().sum() + final.sum(), given)

    graph = make_fx(gradients)(*given)
    names = {str(node.target) for node in graph.graph.nodes}
    assert {"liquid_control.liquid_scan_cuda.default", "liquid_control.liquid_scan_cuda_backward.default"} <= names
    for one, other in zip(graph(*given), gradients(*given), strict=True):
        assert torch.equal(one, other)

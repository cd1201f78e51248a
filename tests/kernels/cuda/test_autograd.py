"""The Triton kernels within torch's autograd: what is kept, and what is refused."""

import pytest
import torch

from liquid_control.kernels import is_recorded
from liquid_control.kernels.attention import Pairs
from liquid_control.kernels.cuda import lan, trace
from liquid_control.nn import LTC, CfC
from liquid_control.nn.liquid_attention import LiquidAttention


def attend(x):
    logits = LiquidAttention(4, 2, hidden=3).to(x.device).logits.for_kernels()
    features = x.new_ones(1, 2, logits.features, 3)
    return lan.attend(
        logits, features, features, x[None].expand(1, 2, 3, 4), Pairs(3, 1.0, None, None, None, None, True)
    )


def integrate(layer, x):
    return layer.to(x.device).fused_cuda(x[:, None], x.new_zeros(1, layer.state_size), 1.0, None)[0]


KERNELS = {
    "the LTC": lambda x: integrate(LTC(4, 3, ode_unfolds=1), x),
    "the CfC": lambda x: integrate(CfC(4, 3, backbone_layers=0), x),
    "the CfC ": lambda x: integrate(CfC(4, 3, backbone_units=5), x),
    "the trace": lambda x: trace.plastic_trace(*(x[None, :, None],) * 3, *(x[None, :, :1].sigmoid(),) * 2, chunk=16)[0],
    "liquid attention": attend,
}


@pytest.mark.parametrize("name", KERNELS)
def test_second_derivatives_are_refused_with_a_way_out(device, name):
    x = torch.randn(3, 4, device=device, requires_grad=True)
    y = KERNELS[name](x)
    with pytest.raises(
        RuntimeError, match=f"{name.strip()} has no second derivatives.*LIQUID_CONTROL_KERNELS=reference"
    ):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("wanted", [True, False], ids=["learning", "frozen"])
def test_a_call_is_recorded_where_a_gradient_may_be_wanted(wanted):
    given = torch.zeros(1, requires_grad=wanted)
    assert is_recorded(given, None) is wanted
    with torch.no_grad():
        assert not is_recorded(given, None)

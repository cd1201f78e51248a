"""On a GPU the public door of each layer leads to its kernel, and to the numbers of the reference form."""

import pytest
import torch

from liquid_control.kernels.cuda import cfc, lan, ltc, scan, trace
from liquid_control.nn import LAN, LTC, CfC, LiquidScan, MixedMemory, Wiring
from liquid_control.nn.liquid_attention import LiquidAttention
from liquid_control.nn.trace import chunkwise_trace

pytestmark = pytest.mark.cuda

NCP = Wiring.auto(19, 3)
DOORS = {
    "ltc": (lambda: LTC(8, NCP), ltc, "integrate"),
    "cfc": (lambda: CfC(8, NCP), cfc, "integrate"),
    "dense cfc": (lambda: CfC(8, 20), cfc, "integrate"),
    "mixed memory of an ltc": (lambda: MixedMemory(LTC(8, NCP)), ltc, "integrate"),
    "mixed memory of a cfc": (lambda: MixedMemory(CfC(8, 20)), cfc, "integrate"),
    "lan": (lambda: LAN(8, 16, 3), lan, "attend_window"),
    "scan": (lambda: LiquidScan(8, 20), scan, "liquid_scan"),
    "liquid attention": (lambda: LiquidAttention(8, 2), lan, "attend"),
    "trace": (
        lambda: lambda x: chunkwise_trace(*(x[:, :, None],) * 3, *(x.sigmoid()[..., :1],) * 2),
        trace,
        "plastic_trace",
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_the_door_leads_to_the_kernel(door, monkeypatch):
    build, module, name = DOORS[door]
    torch.manual_seed(0)
    layer = build()
    layer = layer.cuda() if isinstance(layer, torch.nn.Module) else layer
    x = torch.randn(3, 40, 8, device="cuda")
    kernel, calls = getattr(module, name), []
    monkeypatch.setattr(module, name, lambda *given: calls.append(name) or kernel(*given))
    found = layer(x)
    assert calls == [name]
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-5)
    assert calls == [name]

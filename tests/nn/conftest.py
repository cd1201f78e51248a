"""Layers of ncps 1.0.1 beside ours with the same weights."""

import copy

import ncps.torch
import pytest
import torch

from liquid_control.nn import LTC, CfC

INPUTS, BATCH, STEPS = 8, 4, 5
THEIRS = {"cfc": ncps.torch.CfC, "ltc": ncps.torch.LTC}
OURS = {"cfc": CfC, "ltc": LTC}


@pytest.fixture(scope="session")
def pair():
    """Makes the layer of ncps, "cfc" or "ltc" on 8 inputs, and ours with its weights."""

    def make(name, options, wiring, dtype=torch.float64):
        torch.manual_seed(0)
        theirs = THEIRS[name](INPUTS, copy.deepcopy(wiring), **options).to(dtype)
        ours = OURS[name](INPUTS, wiring, **options).to(dtype)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        return theirs, ours

    return make


@pytest.fixture(scope="session")
def inputs():
    """Makes inputs (4, 5, 8) and a state for a layer."""

    def make(layer, dtype=torch.float64):
        torch.manual_seed(1)
        x = torch.randn(BATCH, STEPS, INPUTS, dtype=dtype, requires_grad=True)
        return x, torch.randn(BATCH, layer.state_size, dtype=dtype, requires_grad=True)

    return make

"""Liquid layers in PyTorch. One file a family; every layer keeps the contract of `liquid_control.nn.layer`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from liquid_control.nn.cfc import CfC
from liquid_control.nn.closed_form import ClosedFormLTC, close_form
from liquid_control.nn.composite import Bidirectional, Stack
from liquid_control.nn.frame_stack import MLP
from liquid_control.nn.gated import GRU, LSTM
from liquid_control.nn.hybrid import HybridMixer, ResidualBlock, ResidualStack
from liquid_control.nn.lan import LAN
from liquid_control.nn.layer import LiquidLayer
from liquid_control.nn.leaky import Leaky
from liquid_control.nn.liquid_attention import LiquidAttention
from liquid_control.nn.ltc import LTC
from liquid_control.nn.mixed_memory import MixedMemory
from liquid_control.nn.padding import last_valid, mask_from_lengths
from liquid_control.nn.plastic import PlasticCfC
from liquid_control.nn.plastic_memory import PlasticMemory
from liquid_control.nn.scan import LiquidScan
from liquid_control.nn.window_attention import TimedAttention, WindowAttention
from liquid_control.nn.wiring import Circuit, Wiring
from liquid_control.support.errors import nearest

__all__ = [
    "GRU",
    "LAN",
    "LAYERS",
    "LSTM",
    "LTC",
    "MLP",
    "Bidirectional",
    "CfC",
    "Circuit",
    "ClosedFormLTC",
    "HybridMixer",
    "Leaky",
    "LiquidAttention",
    "LiquidLayer",
    "LiquidScan",
    "MixedMemory",
    "PlasticCfC",
    "PlasticMemory",
    "ResidualBlock",
    "ResidualStack",
    "Stack",
    "TimedAttention",
    "WindowAttention",
    "Wiring",
    "build_layer",
    "close_form",
    "last_valid",
    "mask_from_lengths",
]

#: Every layer by the name that its config bears.
LAYERS: dict[str, type[LiquidLayer]] = {
    layer.name: layer
    for layer in (
        CfC,
        LTC,
        ClosedFormLTC,
        LAN,
        Leaky,
        LiquidScan,
        PlasticCfC,
        PlasticMemory,
        MixedMemory,
        Stack,
        Bidirectional,
        LSTM,
        GRU,
        MLP,
        WindowAttention,
        TimedAttention,
        HybridMixer,
        ResidualBlock,
        ResidualStack,
    )
}


def build_layer(config: Mapping[str, Any]) -> LiquidLayer:
    """Builds the layer whose ``config`` property gave these JSON values, with fresh weights.

    >>> layer = CfC(8, Wiring.auto(units=19, outputs=3))
    >>> build_layer(layer.config).circuit == layer.circuit
    True

    Raises:
        ValueError: if the layer or one of its arguments is unknown (the nearest is named), or missing.
    """
    arguments = dict(config)
    name = arguments.pop("layer", None)
    if name not in LAYERS:
        raise ValueError(f"unknown layer {name!r}: {nearest(str(name), LAYERS)}")
    known = inspect.signature(LAYERS[name]).parameters
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"layer {name!r} has no argument {argument!r}: {nearest(argument, known)}")
    for argument, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and argument not in arguments:
            raise ValueError(f"the config of layer {name!r} lacks {argument!r}.")
    return LAYERS[name](**{argument: _built(value) for argument, value in arguments.items()})


def _built(value: Any) -> Any:
    """What a JSON value of a config stands for: a layer, layers, a circuit, or itself."""
    if isinstance(value, Mapping):
        return build_layer(value) if "layer" in value else Circuit.from_json(value)
    if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        return [_built(entry) for entry in value]
    return value

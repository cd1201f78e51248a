"""The cells and baselines that sequence tasks compare: a table, an entry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from liquid_control.models.hybrid import TransformerLNN
from liquid_control.nn import (
    GRU,
    LAN,
    LSTM,
    LTC,
    MLP,
    CfC,
    Leaky,
    LiquidLayer,
    LiquidScan,
    MixedMemory,
    PlasticCfC,
    PlasticMemory,
)

Build = Callable[[int, int, int], nn.Module]
"""From numbers of inputs, units and steps of the longest sequence to a network that :func:`outputs` can run."""


@dataclass(frozen=True)
class SequenceCell:
    """A cell or baseline."""

    build: Build
    title: str
    """As tables have it."""
    timed: bool = True
    """Whether elapsed times reach it other than as an input."""
    multiple: int = 1
    """What its number of units is a multiple of."""


def outputs(cell: nn.Module, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
    """The outputs of a cell.

    Args:
        cell: a layer, or a transformer with a liquid core.
        x: (B, T, C).
        elapsed: (B, T).
        mask: (B, T) or None.

    Returns:
        (B, T, O).
    """
    if isinstance(cell, TransformerLNN):
        y: Tensor = cell(x, elapsed.double().cumsum(1), mask)
        return y
    y, _ = cell(x, elapsed=elapsed, mask=mask)
    return y


def _plain(layer: Callable[..., LiquidLayer], **options: object) -> Build:
    return lambda inputs, units, steps: layer(inputs, units, **options)


def _cfc(inputs: int, units: int, mode: str = "default") -> CfC:
    return CfC(inputs, units, mode=mode, backbone_units=2 * units)


def _lan(mode: str) -> Build:
    return lambda inputs, units, steps: LAN(inputs, units, heads=4, window=max(steps, 2), mode=mode)


CELLS: dict[str, SequenceCell] = {
    "ltc": SequenceCell(_plain(LTC), "LTC"),
    "cfc": SequenceCell(lambda inputs, units, steps: _cfc(inputs, units), "CfC"),
    "cfc_pure": SequenceCell(lambda inputs, units, steps: _cfc(inputs, units, "pure"), "CfC, pure (Cf-S)"),
    "cfc_no_gate": SequenceCell(lambda inputs, units, steps: _cfc(inputs, units, "no_gate"), "CfC, no gate"),
    "mixed_cfc": SequenceCell(lambda inputs, units, steps: MixedMemory(_cfc(inputs, units)), "CfC, mixed memory"),
    "mixed_ltc": SequenceCell(lambda inputs, units, steps: MixedMemory(LTC(inputs, units)), "LTC, mixed memory"),
    "lan": SequenceCell(_lan("exact"), "LAN, exact", multiple=4),
    "lan_euler": SequenceCell(_lan("euler"), "LAN, Euler", multiple=4),
    "lan_steady": SequenceCell(_lan("steady"), "LAN, steady", multiple=4),
    "leaky": SequenceCell(_plain(Leaky), "Leaky"),
    "plastic_cfc": SequenceCell(_plain(PlasticCfC), "Plastic CfC"),
    "scan": SequenceCell(_plain(LiquidScan), "Liquid scan"),
    "plastic_memory": SequenceCell(_plain(PlasticMemory, heads=2), "Plastic memory", multiple=2),
    "transformer_lnn": SequenceCell(
        lambda inputs, units, steps: TransformerLNN(
            inputs, units, dropout=0.0, output_size=units, window=max(steps, 2), expansion=2.0
        ),
        "Transformer with a CfC",
        multiple=8,
    ),
    "lstm": SequenceCell(_plain(LSTM), "LSTM", timed=False),
    "gru": SequenceCell(_plain(GRU), "GRU", timed=False),
    "mlp": SequenceCell(_plain(MLP, frames=1), "MLP, no memory", timed=False),
}
"""Every cell and baseline by its name on the command line."""


def count(network: nn.Module) -> int:
    """Number of parameters in use."""
    if isinstance(network, LiquidLayer | TransformerLNN):
        return network.parameter_count()
    own = sum(parameter.numel() for parameter in network.parameters(recurse=False))
    return own + sum(count(child) for child in network.children())


def widest(build: Callable[[int], nn.Module], parameters: int, multiple: int = 1) -> int:
    """The largest number of units with which a network has at most so many parameters; at least ``multiple``.

    Args:
        build: the network of a number of units.
        parameters: that it may have.
        multiple: what the number of units is a multiple of.
    """

    def fits(steps: int) -> bool:
        with torch.device("meta"):
            return count(build(steps * multiple)) <= parameters

    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * multiple

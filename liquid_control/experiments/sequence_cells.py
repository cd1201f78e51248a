"""The cells and baselines that sequence tasks compare: a table, an entry each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from liquid_control.experiments.sequence_baselines import GRUD, ODELSTM, RNN, AttentionNetwork, PhasedLSTM
from liquid_control.models.hybrid import TransformerLNN
from liquid_control.nn import (
    GRU,
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
    ResidualBlock,
    Stack,
    last_valid,
)

UNFOLDS = 2
"""Solver steps of the LTC for each step of a sequence, where ncps takes 6: a pass takes a third of the time."""


@dataclass(frozen=True)
class CellShape:
    """What a cell is built from."""

    inputs: int
    """Values of a step."""
    units: int
    """Neurons, as wide as it is."""
    steps: int
    """Of the longest sequence."""
    activation: str = "lecun_tanh"
    """Of the backbone of a CfC."""


Build = Callable[[CellShape], nn.Module]
"""From a shape to a network that :func:`outputs` can run."""


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
    share: float = 1.0
    """Of the parameters that a task allows: less of cells that take much longer for each of them."""


def outputs(cell: nn.Module, x: Tensor, elapsed: Tensor, mask: Tensor | None, last: bool) -> Tensor:
    """The outputs of a cell.

    Args:
        cell: a layer, a transformer with a liquid core, or a baseline.
        x: (B, T, C).
        elapsed: (B, T).
        mask: (B, T) or None.
        last: whether those of the last real step are wanted.

    Returns:
        (B, T, O), or (B, O) of the last real step.
    """
    if isinstance(cell, AttentionNetwork):
        y: Tensor = cell(x, elapsed, mask, last)
        return y
    if isinstance(cell, TransformerLNN):
        y = cell(x, elapsed.double().cumsum(1), mask)
    elif isinstance(cell, LiquidLayer):
        y, _ = cell(x, elapsed=elapsed, mask=mask)
    else:
        y = cell(x, elapsed, mask)
    return last_valid(y, mask) if last else y


def _plain(cell: Callable[..., nn.Module], **options: object) -> Build:
    return lambda shape: cell(shape.inputs, shape.units, **options)


def _cfc(mode: str) -> Build:
    def build(shape: CellShape) -> CfC:
        backbone = 2 * shape.units
        return CfC(shape.inputs, shape.units, mode=mode, activation=shape.activation, backbone_units=backbone)

    return build


def _mixed(build: Build) -> Build:
    return lambda shape: MixedMemory(cast(LiquidLayer, build(shape)))


def _deep(kind: Callable[..., LiquidLayer], **options: object) -> Build:
    """A layer and two blocks of it: what has no synapses among its neurons needs depth."""

    def build(shape: CellShape) -> Stack:
        units = shape.units
        first = kind(shape.inputs, units, output_size=units, **options)
        return Stack([first, *(ResidualBlock(kind(units, units, **options), expansion=2.0) for _ in range(2))])

    return build


def _memoryless(shape: CellShape) -> Stack:
    return Stack([MLP(shape.inputs, shape.units, frames=1), MLP(shape.units, shape.units, frames=1)])


def _transformer(shape: CellShape) -> TransformerLNN:
    units, window = shape.units, max(shape.steps, 2)
    core = CfC(units, units, activation=shape.activation, backbone_units=units)
    return TransformerLNN(shape.inputs, units, dropout=0.0, output_size=units, core=core, window=window, expansion=2.0)


CELLS: dict[str, SequenceCell] = {
    "ltc": SequenceCell(_plain(LTC, ode_unfolds=UNFOLDS), "LTC", share=0.25),
    "cfc": SequenceCell(_cfc("default"), "CfC"),
    "cfc_pure": SequenceCell(_cfc("pure"), "CfC, pure (Cf-S)"),
    "cfc_no_gate": SequenceCell(_cfc("no_gate"), "CfC, no gate"),
    "mixed_cfc": SequenceCell(_mixed(_cfc("default")), "CfC, mixed memory"),
    "mixed_ltc": SequenceCell(_mixed(_plain(LTC, ode_unfolds=UNFOLDS)), "LTC, mixed memory", share=0.25),
    "lan": SequenceCell(_plain(AttentionNetwork, kind="exact"), "LAN, exact", multiple=4),
    "lan_euler": SequenceCell(_plain(AttentionNetwork, kind="euler"), "LAN, Euler", multiple=4),
    "lan_steady": SequenceCell(_plain(AttentionNetwork, kind="steady"), "LAN, steady", multiple=4),
    "leaky": SequenceCell(_plain(Leaky), "Leaky"),
    "plastic_cfc": SequenceCell(_plain(PlasticCfC), "Plastic CfC", share=0.1),
    "scan": SequenceCell(_deep(LiquidScan), "Liquid scan, 3 layers"),
    "plastic_memory": SequenceCell(_deep(PlasticMemory), "Plastic memory, 3 layers", multiple=2),
    "transformer_lnn": SequenceCell(_transformer, "Transformer with a CfC", multiple=8),
    "lstm": SequenceCell(_plain(LSTM), "LSTM", timed=False),
    "gru": SequenceCell(_plain(GRU), "GRU", timed=False),
    "rnn": SequenceCell(_plain(RNN), "RNN", timed=False),
    "gru_d": SequenceCell(_plain(GRUD), "GRU-D"),
    "phased_lstm": SequenceCell(_plain(PhasedLSTM), "Phased LSTM"),
    "ode_lstm": SequenceCell(_plain(ODELSTM), "ODE-LSTM"),
    "attention": SequenceCell(_plain(AttentionNetwork, kind="dot"), "Attention, time embedding", multiple=4),
    "lan_uniform": SequenceCell(_plain(AttentionNetwork, kind="uniform"), "LAN's control: uniform", multiple=4),
    "lan_fixed": SequenceCell(_plain(AttentionNetwork, kind="fixed"), "LAN's control: fixed gates", multiple=4),
    "mlp": SequenceCell(_memoryless, "MLP, no memory", timed=False),
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

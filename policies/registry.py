"""The cores of drivers, and the memories of critics: one table, :data:`CORES`. Cores and the options of their own:

- ``cfc``: closed-form continuous-time neurons (Hasani 2022); ``mode`` default, no_gate or pure
- ``ltc``: liquid time-constant neurons (Hasani 2021), semi-implicit solver of ``ode_unfolds`` steps
- ``leaky``: leaky neurons of adaptive time constants, exponential solver of ``ode_unfolds`` steps
- ``plastic``: CfC neurons whose synapses are plastic (Miconi 2018); ``rule`` hebb, oja or delta
- ``scan``: ``neurons`` leaky neurons of adaptive time constants that do not see each other, and a linear readout
- ``lan``: liquid attention (Razzaq 2025), ``units`` neurons that attend to the last ``window`` steps, and motor
  neurons; ``heads``, ``gate``, ``mode``, ``hidden`` and ``pseudo_time`` as `liquid_control.nn.LAN` has them
- ``hybrid``: a transformer of ``blocks`` hybrid blocks, ``units`` wide: attention of ``heads`` heads to the last
  ``window`` steps, ``neurons`` fully connected neurons of the kind ``core`` behind it, and a feed-forward part of
  ``expansion`` times the width
- ``lstm``, ``gru``: gated recurrent networks of ``units``, and a linear readout
- ``mlp``: a feed-forward net of ``units`` over the last ``frames`` inputs, memory without recurrence

The first four are wired: by ``wiring=ncp``, a neural circuit policy, or ``wiring=full``, see :func:`build_wiring`. All
take ``neurons``. The last three are baselines: their width is chosen so that their parameter count comes closest to
that of the CfC core with the same inputs, so a table compares memories, not sizes; ``units=N`` overrides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from liquid_control.nn import (
    GRU,
    LAN,
    LSTM,
    LTC,
    MLP,
    CfC,
    HybridMixer,
    Leaky,
    LiquidLayer,
    LiquidScan,
    PlasticCfC,
    ResidualBlock,
    ResidualStack,
    Wiring,
)
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.schema import check_sizes

NEURONS = 19
"""Of a liquid driver, unless it is asked for others: inter, command and motor neurons, the motor ones drive the
controls. A hybrid is larger."""


def ncp_wiring(motor: int, seed: int, neurons: int = NEURONS) -> Wiring:
    """A neural circuit policy (Lechner 2020) of density one half; 12 of 19 neurons are inter neurons.

    Raises:
        ValueError: if no command neuron is left between the inter and the motor neurons.
    """
    inter = round(neurons * 12 / NEURONS)
    command = neurons - inter - motor
    if command < 1:
        raise ValueError(f"{neurons} neurons are too few for {motor} motor neurons: {inter} are inter neurons.")
    return Wiring.ncp(
        inter_neurons=inter,
        command_neurons=command,
        motor_neurons=motor,
        sensory_fanout=-(-inter // 2),
        inter_fanout=-(-command // 2),
        recurrent_command_synapses=command,
        motor_fanin=-(-command // 2),
        seed=seed,
    )


def build_wiring(motor: int, wiring: str, seed: int, neurons: int) -> Wiring:
    """A wiring by its name: ``ncp``, see :func:`ncp_wiring`, or ``full``, all inputs and neurons to all neurons.

    Raises:
        ValueError: if there is no such wiring, or not enough neurons.
    """
    if wiring == "ncp":
        return ncp_wiring(motor, seed, neurons)
    if wiring == "full":
        return Wiring.fully_connected(neurons, motor, seed)
    raise ValueError(f"wiring is {wiring!r}, expected 'ncp' or 'full'.")


@dataclass(frozen=True)
class Core:
    """A kind of core."""

    layer: Callable[..., LiquidLayer]
    """(inputs, motor, and each of the options by its name) → the core of a driver."""
    options: Mapping[str, Any]
    """The options with their defaults; an option has the type of its default."""
    memory: Callable[[int, int], LiquidLayer]
    """(inputs, units) → so many neurons of this kind, fully connected and all of them outputs: a critic's memory."""

    def build(self, inputs: int, motor: int, options: Mapping[str, Any] | None = None) -> LiquidLayer:
        """The core with options that are not the defaults."""
        return self.layer(inputs, motor, **{**self.options, **(options or {})})


def _wired(
    layer: Callable[..., LiquidLayer], memory: Callable[[int, int], LiquidLayer] | None = None, **own: Any
) -> Core:
    """Neurons on a wiring, with options of their ``own`` and those of :func:`build_wiring`."""

    def build(inputs: int, motor: int, wiring: str, wiring_seed: int, neurons: int, **options: Any) -> LiquidLayer:
        return layer(inputs, build_wiring(motor, wiring, wiring_seed, neurons), **options)

    return Core(build, own | {"wiring": "ncp", "wiring_seed": 22222, "neurons": NEURONS}, memory or layer)


def _baseline(layer: Callable[..., LiquidLayer], **own: Any) -> Core:
    """A layer of ``units``, or ``neurons`` (0: as many as match the CfC core), and a linear readout."""

    def build(inputs: int, motor: int, units: int, neurons: int, **options: Any) -> LiquidLayer:
        if units < 0 or neurons < 0:
            raise ValueError(f"units and neurons must be at least 0, given {units} and {neurons}.")
        units = units or neurons or _matching(layer, inputs, motor, **options)
        return layer(inputs, units, output_size=motor, **options)

    return Core(build, {"units": 0, "neurons": 0} | own, layer)


def _matching(layer: Callable[..., LiquidLayer], inputs: int, motor: int, **options: Any) -> int:
    """The width whose parameter count comes closest to the CfC core's."""
    target = CORES["cfc"].build(inputs, motor).parameter_count()
    sizes = {units: layer(inputs, units, output_size=motor, **options).parameter_count() for units in range(4, 65)}
    return min(sizes, key=lambda units: abs(sizes[units] - target))


def _attention(inputs: int, motor: int, units: int, heads: int, neurons: int, **options: Any) -> LiquidLayer:
    """With 16 units and three controls there are 19 neurons, as in the wired cores.

    ``neurons`` (0: as ``units`` says) sets the units to what that leaves, a multiple of the heads.
    """
    if neurons:
        units = (neurons - motor) // heads * heads
    return LAN(inputs, units, motor, heads=heads, **options)


def _hybrid(
    inputs: int,
    motor: int,
    units: int,
    blocks: int,
    heads: int,
    window: int,
    core: str,
    neurons: int,
    expansion: float,
) -> LiquidLayer:
    """Blocks of attention and of ``neurons`` (0: as many as ``units``) of the kind ``core``, and a linear readout."""
    if core not in CORES or core == "hybrid":
        inside = [name for name in CORES if name != "hybrid"]
        raise ValueError(f"no core {core!r} inside a block: {nearest(core, inside)}")
    if neurons < 0:
        raise ValueError(f"neurons must be at least 0, given {neurons}.")
    if not (1 <= blocks <= 64 and 0 <= expansion <= 64):
        raise ValueError(f"blocks must be 1 to 64 and expansion 0 to 64, given {blocks} and {expansion}.")

    def block() -> LiquidLayer:
        mixer = HybridMixer(units, CORES[core].memory(units, neurons or units), heads=heads, window=window)
        return ResidualBlock(mixer, expansion=expansion)

    return ResidualStack(inputs, [block() for _ in range(blocks)], motor)


def _hybrid_memory(inputs: int, units: int) -> LiquidLayer:
    """As wide as the least multiple of eight, which four heads need, that has as many units."""
    return _hybrid(inputs, units, **(HYBRID | {"units": -(-units // 8) * 8}))


def _scan(inputs: int, motor: int, neurons: int) -> LiquidLayer:
    return LiquidScan(inputs, neurons, motor)


ATTENTION = {
    "units": 16,
    "heads": 2,
    "window": 16,
    "gate": "mlp",
    "mode": "exact",
    "hidden": 8,
    "pseudo_time": "linear",
    "neurons": 0,
}

HYBRID: dict[str, Any] = {
    "units": 32,
    "blocks": 2,
    "heads": 4,
    "window": 16,
    "core": "cfc",
    "neurons": 0,
    "expansion": 2.0,
}

CORES: dict[str, Core] = {
    "cfc": _wired(CfC, lambda inputs, units: CfC(inputs, units, backbone_layers=0, backbone_units=0), mode="default"),
    "ltc": _wired(LTC, ode_unfolds=6),
    "lan": Core(_attention, ATTENTION, lambda inputs, units: LAN(inputs, units + units % 2)),
    "hybrid": Core(_hybrid, HYBRID, _hybrid_memory),
    "leaky": _wired(Leaky, ode_unfolds=3),
    "plastic": _wired(PlasticCfC, rule="hebb"),
    "scan": Core(_scan, {"neurons": NEURONS}, LiquidScan),
    "lstm": _baseline(LSTM),
    "gru": _baseline(GRU),
    "mlp": _baseline(MLP, frames=4),
}


def build_memory(policy: str, inputs: int, units: int) -> LiquidLayer:
    """``units`` fully connected neurons of the kind of the core ``policy``, all of them outputs: a critic's memory.

    Raises:
        UserError: if the policy is unknown; names the nearest.
    """
    return _core(policy).memory(inputs, units)


def _core(policy: str) -> Core:
    if policy not in CORES:
        raise UserError(f"unknown policy {policy!r}: {nearest(policy, CORES)}")
    return CORES[policy]


def build_core(policy: str, inputs: int, motor: int, options: Mapping[str, Any]) -> LiquidLayer:
    """Builds the core ``policy`` for that many inputs and motor neurons.

    Raises:
        UserError: if the policy or one of its options is unknown; names the nearest. If an option cannot be, or is
            more than a checkpoint may ask for.
    """
    core = _core(policy)
    for option in options:
        if option not in core.options:
            raise UserError(f"policy {policy!r} has no option {option!r}: {nearest(option, core.options)}")
    check_sizes(dict(options), f"policy {policy!r}")
    try:
        return core.build(inputs, motor, options)
    except ValueError as error:
        raise UserError(f"policy {policy!r} cannot be built with {dict(options)}: {error}") from None


def parse_options(policy: str, words: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` words as a policy's options, each in the type of its default."""
    options: dict[str, Any] = {}
    known = CORES[policy].options if policy in CORES else {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"a policy option is written name=value, not {word!r}.")
        kind = type(known[name]) if name in known else str
        try:
            options[name] = kind(value)
        except ValueError:
            raise UserError(f"option {name!r} of policy {policy!r} takes {kind.__name__}, not {value!r}.") from None
    return options

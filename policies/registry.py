"""The cores of drivers: ``cfc``, ``ltc``, ``lan``, ``leaky``, ``plastic``; baselines ``lstm``, ``gru``, ``mlp``.

Neurons that are wired take ``wiring=ncp``, a neural circuit policy, or ``wiring=full``, see :func:`build_wiring`.

A baseline's width is chosen so that its parameter count comes closest to that of the CfC core with the same inputs,
so a table compares memories, not sizes; ``units=N`` overrides it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liquid_control.nn import GRU, LAN, LSTM, LTC, MLP, CfC, Leaky, LiquidLayer, PlasticCfC, Wiring
from liquid_control.support.errors import UserError, nearest

NEURONS = 19
"""Of every liquid driver here: inter, command and motor neurons, the motor ones drive the controls."""


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


def cfc(
    inputs: int,
    motor: int,
    mode: str = "default",
    wiring: str = "ncp",
    wiring_seed: int = 22222,
    neurons: int = NEURONS,
) -> LiquidLayer:
    """Closed-form continuous-time neurons (Hasani 2022) on a ``wiring``; ``mode`` default, no_gate or pure."""
    return CfC(inputs, build_wiring(motor, wiring, wiring_seed, neurons), mode=mode)


def ltc(
    inputs: int,
    motor: int,
    ode_unfolds: int = 6,
    wiring: str = "ncp",
    wiring_seed: int = 22222,
    neurons: int = NEURONS,
) -> LiquidLayer:
    """Liquid time-constant neurons (Hasani 2021) on a ``wiring``, semi-implicit solver of ``ode_unfolds`` steps."""
    return LTC(inputs, build_wiring(motor, wiring, wiring_seed, neurons), ode_unfolds=ode_unfolds)


def leaky(
    inputs: int,
    motor: int,
    ode_unfolds: int = 3,
    wiring: str = "ncp",
    wiring_seed: int = 22222,
    neurons: int = NEURONS,
) -> LiquidLayer:
    """Leaky neurons of adaptive time constants on a ``wiring``, exponential solver of ``ode_unfolds`` steps."""
    return Leaky(inputs, build_wiring(motor, wiring, wiring_seed, neurons), ode_unfolds=ode_unfolds)


def plastic(
    inputs: int,
    motor: int,
    rule: str = "hebb",
    wiring: str = "ncp",
    wiring_seed: int = 22222,
    neurons: int = NEURONS,
) -> LiquidLayer:
    """CfC neurons whose synapses are plastic (Miconi 2018), on a ``wiring``; ``rule`` hebb, oja or delta."""
    return PlasticCfC(inputs, build_wiring(motor, wiring, wiring_seed, neurons), rule=rule)


def lan(
    inputs: int,
    motor: int,
    units: int = 16,
    heads: int = 2,
    window: int = 16,
    gate: str = "mlp",
    mode: str = "exact",
    hidden: int = 8,
    pseudo_time: str = "linear",
    neurons: int = 0,
) -> LiquidLayer:
    """Liquid attention (Razzaq 2025): ``units`` neurons that attend to the last ``window`` steps, and motor neurons.

    With the default 16 units and three controls there are 19 neurons, as in the wired cores; ``neurons`` (0: as
    ``units`` says) sets the units to what that leaves, a multiple of the heads.
    """
    if neurons:
        units = (neurons - motor) // heads * heads
    return LAN(
        inputs,
        units,
        motor,
        heads=heads,
        window=window,
        gate=gate,
        mode=mode,
        hidden=hidden,
        pseudo_time=pseudo_time,
    )


def lstm(inputs: int, motor: int, units: int = 0, neurons: int = 0) -> LiquidLayer:
    """A long short-term memory of ``units``, or ``neurons`` (0: match the CfC core), and a linear readout."""
    return LSTM(inputs, units or neurons or _matching(LSTM, inputs, motor), output_size=motor)


def gru(inputs: int, motor: int, units: int = 0, neurons: int = 0) -> LiquidLayer:
    """A gated recurrent unit of ``units``, or ``neurons`` (0: match the CfC core), and a linear readout."""
    return GRU(inputs, units or neurons or _matching(GRU, inputs, motor), output_size=motor)


def mlp(inputs: int, motor: int, units: int = 0, frames: int = 4, neurons: int = 0) -> LiquidLayer:
    """A feed-forward net of one hidden layer over the last ``frames`` inputs: memory without recurrence."""
    return MLP(
        inputs, units or neurons or _matching(MLP, inputs, motor, frames=frames), frames=frames, output_size=motor
    )


def _matching(layer: Callable[..., LiquidLayer], inputs: int, motor: int, **options: int) -> int:
    """The width whose parameter count comes closest to the CfC core's."""
    target = cfc(inputs, motor).parameter_count()
    sizes = {units: layer(inputs, units, output_size=motor, **options).parameter_count() for units in range(4, 65)}
    return min(sizes, key=lambda units: abs(sizes[units] - target))


CORES: dict[str, Callable[..., LiquidLayer]] = {
    "cfc": cfc,
    "ltc": ltc,
    "lan": lan,
    "leaky": leaky,
    "plastic": plastic,
    "lstm": lstm,
    "gru": gru,
    "mlp": mlp,
}


def build_memory(policy: str, inputs: int, units: int) -> LiquidLayer:
    """``units`` fully connected neurons of the kind of the core ``policy``, all of them outputs: a critic's memory."""
    layers: dict[str, Callable[[], LiquidLayer]] = {
        "cfc": lambda: CfC(inputs, units, backbone_layers=0, backbone_units=0),
        "ltc": lambda: LTC(inputs, units),
        "lan": lambda: LAN(inputs, units + units % 2),
        "leaky": lambda: Leaky(inputs, units),
        "plastic": lambda: PlasticCfC(inputs, units),
        "lstm": lambda: LSTM(inputs, units),
        "gru": lambda: GRU(inputs, units),
        "mlp": lambda: MLP(inputs, units),
    }
    if policy not in layers:
        raise UserError(f"unknown policy {policy!r}: {nearest(policy, layers)}")
    return layers[policy]()


def build_core(policy: str, inputs: int, motor: int, options: Mapping[str, Any]) -> LiquidLayer:
    """Builds the core ``policy`` for that many inputs and motor neurons.

    Raises:
        UserError: if the policy or one of its options is unknown; names the nearest.
    """
    if policy not in CORES:
        raise UserError(f"unknown policy {policy!r}: {nearest(policy, CORES)}")
    known = list(inspect.signature(CORES[policy]).parameters)[2:]
    for option in options:
        if option not in known:
            raise UserError(f"policy {policy!r} has no option {option!r}: {nearest(option, known)}")
    try:
        return CORES[policy](inputs, motor, **options)
    except ValueError as error:
        raise UserError(f"policy {policy!r} cannot be built with {dict(options)}: {error}") from None


def parse_options(policy: str, words: Sequence[str]) -> dict[str, Any]:
    """Reads ``name=value`` words as a policy's options, each in the type of its default."""
    options: dict[str, Any] = {}
    parameters = inspect.signature(CORES[policy]).parameters if policy in CORES else {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"a policy option is written name=value, not {word!r}.")
        kind = type(parameters[name].default) if name in parameters else str
        try:
            options[name] = kind(value)
        except ValueError:
            raise UserError(f"option {name!r} of policy {policy!r} takes {kind.__name__}, not {value!r}.") from None
    return options

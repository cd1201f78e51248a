"""The cores of drivers: ``cfc``, ``ltc``, ``lan``, ``leaky``, ``plastic``; baselines ``lstm``, ``gru``, ``mlp``.

A baseline's width is chosen so that its parameter count comes closest to that of the CfC core with the same inputs,
so a table compares memories, not sizes; ``units=N`` overrides it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liquid_control.errors import UserError, nearest
from liquid_control.nn import GRU, LAN, LSTM, LTC, MLP, CfC, Leaky, LiquidLayer, PlasticCfC, Wiring

#: The wiring of every liquid driver here: 19 neurons, the motor ones drive the controls.
INTER, COMMAND = 12, 4


def ncp_wiring(motor: int, seed: int) -> Wiring:
    """The neural circuit policy of 12 inter, 4 command and ``motor`` motor neurons (Lechner 2020, density one half)."""
    return Wiring.ncp(
        inter_neurons=INTER,
        command_neurons=COMMAND,
        motor_neurons=motor,
        sensory_fanout=INTER // 2,
        inter_fanout=COMMAND // 2,
        recurrent_command_synapses=COMMAND,
        motor_fanin=COMMAND // 2,
        seed=seed,
    )


def cfc(inputs: int, motor: int, mode: str = "default", wiring_seed: int = 22222) -> LiquidLayer:
    """Closed-form continuous-time neurons (Hasani 2022) on the NCP wiring; ``mode`` default, no_gate or pure."""
    return CfC(inputs, ncp_wiring(motor, wiring_seed), mode=mode)


def ltc(inputs: int, motor: int, ode_unfolds: int = 6, wiring_seed: int = 22222) -> LiquidLayer:
    """Liquid time-constant neurons (Hasani 2021) on the NCP wiring, semi-implicit solver of ``ode_unfolds`` steps."""
    return LTC(inputs, ncp_wiring(motor, wiring_seed), ode_unfolds=ode_unfolds)


def leaky(inputs: int, motor: int, ode_unfolds: int = 3, wiring_seed: int = 22222) -> LiquidLayer:
    """Leaky neurons of adaptive time constants on the NCP wiring, exponential solver of ``ode_unfolds`` steps."""
    return Leaky(inputs, ncp_wiring(motor, wiring_seed), ode_unfolds=ode_unfolds)


def plastic(inputs: int, motor: int, rule: str = "hebb", wiring_seed: int = 22222) -> LiquidLayer:
    """CfC neurons on the NCP wiring whose synapses are plastic (Miconi 2018); ``rule`` hebb, oja or delta."""
    return PlasticCfC(inputs, ncp_wiring(motor, wiring_seed), rule=rule)


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
) -> LiquidLayer:
    """Liquid attention (Razzaq 2025): ``units`` neurons that attend to the last ``window`` steps, and motor neurons.

    With the default 16 units and three controls there are 19 neurons, as in the wired cores.
    """
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


def lstm(inputs: int, motor: int, units: int = 0) -> LiquidLayer:
    """A long short-term memory of ``units`` (0: match the CfC core) and a linear readout."""
    return LSTM(inputs, units or _matching(LSTM, inputs, motor), output_size=motor)


def gru(inputs: int, motor: int, units: int = 0) -> LiquidLayer:
    """A gated recurrent unit of ``units`` (0: match the CfC core) and a linear readout."""
    return GRU(inputs, units or _matching(GRU, inputs, motor), output_size=motor)


def mlp(inputs: int, motor: int, units: int = 0, frames: int = 4) -> LiquidLayer:
    """A feed-forward net of one hidden layer over the last ``frames`` inputs: memory without recurrence."""
    return MLP(inputs, units or _matching(MLP, inputs, motor, frames=frames), frames=frames, output_size=motor)


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

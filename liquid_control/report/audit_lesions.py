"""What happens to a driver that loses one synapse: over a lap that was driven before, and when it drives itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from liquid_control.kernels.step import CompiledStep, compile_step
from liquid_control.nn import LSTM, LTC, MLP, CfC, Leaky, LiquidLayer, LiquidScan, PlasticCfC
from liquid_control.nn.gated import GatedLayer
from liquid_control.report.audit_lap import AuditedLap, score_lap
from policies.driver import Driver

Place = tuple[str, tuple[Any, ...]]
"""The name of a tensor of a core, and an index into it."""


@dataclass(frozen=True)
class Connection:
    """A synapse, and what has to be zero for it to be gone."""

    source: int
    """A neuron by its place in the state, or input c as -1 - c."""
    target: int
    places: tuple[Place, ...]
    held: tuple[int, ...] = ()
    """Entries of the state, a plastic synapse's trace."""


@dataclass(frozen=True)
class Lesion:
    """What a synapse was worth."""

    source: str
    target: str
    steering: float
    """Root mean square of the change in steering over the recorded lap, of -1 to 1."""
    lost: float | None = None
    """Score lost where the driver drives without it, on average over the tracks; None where that was not tried."""


def connections(core: LiquidLayer) -> list[Connection]:
    """The synapses of a core, each of them once; none of a core that is not looked into.

    Of wired cores those of the wiring; of a CfC in ncps's form also those that it has within a group, which are dense.
    Where several heads or gates of a neuron see the same source, all of them lose it. Of gated and feed-forward
    networks those from inputs and units to units; of a liquid scan, which has no others, those from inputs.
    """
    if isinstance(core, PlasticCfC):
        traces = [core.parts[name] for name in ("trace", "eligibility") if name in core.parts]
        of_pair = {pair: tuple(part[index] for part in traces) for index, pair in enumerate(core.synapses)}
        return [
            Connection(each.source, each.target, each.places, of_pair.get((each.source, each.target), ()))
            for each in _of_cfc(core.cfc, "cfc.")
        ]
    if isinstance(core, CfC):
        return [] if core.circuit is None else _of_cfc(core, "")
    if isinstance(core, LTC):
        circuit = core.circuit
        return [
            Connection(-1 - source, target, (("rnn_cell.sensory_sparsity_mask", (source, target)),))
            for source, target, _ in circuit.sensory_synapses
        ] + [
            Connection(source, target, (("rnn_cell.sparsity_mask", (source, target)),))
            for source, target, _ in circuit.synapses
        ]
    if isinstance(core, Leaky):
        names = ("weight", "tau_weight") if core.adaptive else ("weight",)
        return [
            Connection(column - core.input_size if column >= core.input_size else -1 - column, row,
                       tuple((name, (row, column)) for name in names))
            for row, column in np.argwhere(core.connected.cpu().numpy()).tolist()
        ]  # fmt: skip
    if isinstance(core, LiquidScan):
        heads = np.arange(2) * core.units  # of the target and of the pace
        return [
            Connection(-1 - place, unit, (("drive.weight", (heads + unit, place)),))
            for unit in range(core.units)
            for place in range(core.input_size)
        ]
    if isinstance(core, GatedLayer):
        gates = np.arange(4 if isinstance(core, LSTM) else 3) * core.units
        return [
            Connection(
                -1 - place if name == "ih" else place, unit, ((f"cell.weight_{name}_l0", (gates + unit, place)),)
            )
            for name, width in (("ih", core.input_size), ("hh", core.units))
            for unit in range(core.units)
            for place in range(width)
        ]
    if isinstance(core, MLP):
        frames = np.arange(core.frames) * core.input_size
        return [
            Connection(-1 - place, unit, (("hidden.weight", (unit, frames + place)),))
            for unit in range(core.units)
            for place in range(core.input_size)
        ]
    return []


def _of_cfc(cfc: CfC, prefix: str) -> list[Connection]:
    found, begin, before = [], 0, 0  # the group's first neuron, and how many sources lie before those of this group
    heads = ("ff1",) if cfc.mode == "pure" else ("ff1", "ff2", "time_a", "time_b")
    for group, mask in enumerate(cfc.masks):
        assert mask is not None
        size, fan_in = mask.shape
        for row, column in np.argwhere(mask).tolist():
            source = before + column - cfc.input_size
            name = f"{prefix}rnn_cell.layer_{group}"
            found.append(
                Connection(
                    source if source >= 0 else -1 - (before + column),
                    begin + row,
                    tuple((f"{name}.{head}.weight", (row, column)) for head in heads),
                )
            )
        begin, before = begin + size, before + fan_in - size
    return found


@contextmanager
def without(core: LiquidLayer, lost: Connection) -> Iterator[None]:
    """Takes a synapse out of a core for a while; :attr:`Connection.held` is left to who steps it."""
    tensors = dict(core.named_parameters()) | dict(core.named_buffers())
    with torch.no_grad():
        kept = [tensors[name][index].clone() for name, index in lost.places]
        try:
            for name, index in lost.places:
                tensors[name][index] = 0
            yield
        finally:
            for (name, index), values in zip(lost.places, kept, strict=True):
                tensors[name][index] = values


def replay(core: CompiledStep, inputs: np.ndarray, elapsed: np.ndarray, held: Sequence[int] = ()) -> np.ndarray:
    """What a core puts out (T, O) where it is given (T, C) inputs and (T,) times that were recorded, from its reset on.

    Args:
        core: is reset first.
        inputs: of the recorded lap.
        elapsed: of the recorded lap.
        held: entries of the state that are held at zero.
    """
    core.reset()
    entries, outputs = list(held), []
    for x, time in zip(inputs, elapsed.tolist(), strict=True):
        outputs.append(core(x, time))
        if entries:
            core.state[entries] = 0
    return np.stack(outputs)


def steering_changes(driver: Driver, lap: AuditedLap, cuts: Iterable[Connection]) -> Iterator[float]:
    """Root mean square of the change in steering over a recorded lap, for each synapse on its own."""
    core, grip = copy.deepcopy(driver.core).requires_grad_(False), driver.hands.grip()

    def steer(held: Sequence[int]) -> np.ndarray:
        core.follow_modules()
        # Not the layer's own method, which copies the layer first: that would take most of the time.
        outputs = replay(compile_step(core), lap.inputs, lap.elapsed, held)
        return np.array([grip(motor)[0] for motor in outputs])

    intact = steer(())
    for each in cuts:
        with without(core, each):
            change = steer(each.held) - intact
        yield float(np.sqrt(np.mean(np.square(change, dtype=np.float64))))


def names_of(driver: Driver) -> Callable[[int], str]:
    """How a neuron by its place in the state, or input c as -1 - c, is called."""
    core = driver.core
    features = driver.eyes.features if driver.eyes else 0
    inputs = [f"feature {index}" for index in range(features)] + [name.replace("_", " ") for name in driver.view.gauges]
    if isinstance(core, MLP):
        neurons = {index: f"hidden {index}" for index in range(core.units)}
    else:
        neurons = {place: f"{name} {index}" for name, part in core.parts.items() for index, place in enumerate(part)}
    return lambda place: inputs[-1 - place] if place < 0 else neurons[place]


def lesion(
    driver: Driver,
    lap: AuditedLap,
    costliest: int,
    seeds: Sequence[int],
    frames: int,
    tell: Callable[[float], None] = lambda share: None,
) -> list[Lesion]:
    """Cuts every synapse on its own, open loop, and lets the driver drive without the costliest, closed loop.

    Args:
        driver: whose synapses.
        lap: that it has driven.
        costliest: how many are cut in closed loop.
        seeds: of the tracks that it then drives, with the synapse and without it.
        frames: environment steps of these laps at most.
        tell: is told the share of the work that is done.

    Returns:
        All of them, costliest first.
    """
    found, name = connections(driver.core), names_of(driver)
    changes = []
    for change in steering_changes(driver, lap, found):
        changes.append(change)
        tell(0.5 * len(changes) / len(found))
    order = np.argsort(changes, kind="stable")[::-1].tolist()
    tried = order[:costliest] if found else []
    lost = {}
    if tried:
        intact = [lap.score if seed == lap.seed else score_lap(driver, seed, frames) for seed in seeds]
        hurt = copy.deepcopy(driver)
        for place in tried:
            with without(hurt.core, found[place]):
                scores = [score_lap(hurt, seed, frames, found[place].held) for seed in seeds]
            lost[place] = float(np.mean(np.subtract(intact, scores)))
            tell(0.5 + 0.5 * len(lost) / len(tried))
    return [
        Lesion(name(found[place].source), name(found[place].target), changes[place], lost.get(place)) for place in order
    ]

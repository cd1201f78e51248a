"""Which neuron talks to which: the sparse circuits of neural circuit policies (Lechner et al. 2020).

A :class:`Wiring` is a recipe, usable for any number of layers and inputs; a :class:`Circuit` is what it gives for a
certain number of inputs: neurons and signed synapses, immutable and written to JSON as they are. The recipes are those
of `ncps.wirings`, whose objects every layer takes too; they are copied first, because their ``build`` adds synapses
each time it is called.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ncps.wirings
import numpy as np
from torch import Tensor, nn

Synapse = tuple[int, int, int]
"""Source, destination and polarity (+1 excitatory, -1 inhibitory)."""

NEURON_TYPES = ("motor", "command", "inter")


@dataclass(frozen=True)
class Circuit:
    """Neurons and synapses, all of them known.

    Neurons are numbered as in ncps, motor neurons first; for an NCP then command and inter neurons.
    """

    sensory: int
    """Number of sensory neurons: the inputs."""
    types: tuple[str, ...]
    """For each neuron: motor, command or inter."""
    layers: tuple[tuple[int, ...], ...]
    """The neurons of each layer, from the inputs on; one layer unless the wiring is an NCP."""
    sensory_synapses: tuple[Synapse, ...]
    """From sensory neurons to neurons."""
    synapses: tuple[Synapse, ...]
    """From neurons to neurons."""

    def __post_init__(self) -> None:
        if not self.types or set(self.types) - set(NEURON_TYPES):
            raise ValueError(f"a circuit needs neurons of the types {NEURON_TYPES}, given {self.types}.")
        if any(kind == "motor" for kind in self.types[self.outputs :]):
            raise ValueError("motor neurons must come first in a circuit.")
        if sorted(neuron for layer in self.layers for neuron in layer) != list(range(self.units)):
            raise ValueError(f"the layers of a circuit must hold each of its {self.units} neurons once: {self.layers}.")
        for name, synapses, sources in (
            ("sensory synapse", self.sensory_synapses, self.sensory),
            ("synapse", self.synapses, self.units),
        ):
            for source, destination, polarity in synapses:
                if not (0 <= source < sources and 0 <= destination < self.units and polarity in (-1, 1)):
                    raise ValueError(
                        f"{name} {source} → {destination} of polarity {polarity}: expected a source below {sources}, "
                        f"a destination below {self.units} and polarity -1 or 1."
                    )

    @property
    def units(self) -> int:
        """Number of neurons, sensory ones not counted."""
        return len(self.types)

    @property
    def outputs(self) -> int:
        """Number of motor neurons."""
        return self.types.count("motor")

    @property
    def synapse_count(self) -> int:
        """Number of synapses between neurons."""
        return len(self.synapses)

    @property
    def sensory_synapse_count(self) -> int:
        """Number of synapses from sensory neurons."""
        return len(self.sensory_synapses)

    @cached_property
    def adjacency(self) -> np.ndarray:
        """(units, units) int: polarity of the synapse [source, destination], 0 where there is none."""
        return _matrix(self.synapses, self.units, self.units)

    @cached_property
    def sensory_adjacency(self) -> np.ndarray:
        """(sensory, units) int: polarity of the synapse [source, destination], 0 where there is none."""
        return _matrix(self.sensory_synapses, self.sensory, self.units)

    def type_of(self, neuron: int) -> str:
        """The type of a neuron: motor, command or inter."""
        return self.types[neuron]

    def neurons_of_type(self, kind: str) -> tuple[int, ...]:
        """The neurons of a type, ascending."""
        return tuple(neuron for neuron, own in enumerate(self.types) if own == kind)

    def places(self, order: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Where the neurons of each type stand if neurons lie in an ``order``; None: in that of their numbers."""
        order = range(self.units) if order is None else order
        kinds = dict.fromkeys(self.types[neuron] for neuron in order)
        return {kind: [order.index(neuron) for neuron in self.neurons_of_type(kind)] for kind in kinds}

    def to_json(self) -> dict[str, Any]:
        """The circuit as JSON values; :meth:`from_json` gives it back exactly."""
        return {
            "sensory": self.sensory,
            "types": list(self.types),
            "layers": [list(layer) for layer in self.layers],
            "sensory_synapses": [list(synapse) for synapse in self.sensory_synapses],
            "synapses": [list(synapse) for synapse in self.synapses],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Circuit:
        """The circuit that :meth:`to_json` wrote.

        Raises:
            ValueError: if a field is missing or unknown, or the synapses don't fit the neurons.
        """
        expected = {"sensory", "types", "layers", "sensory_synapses", "synapses"}
        if set(values) != expected:
            raise ValueError(f"a circuit has the fields {sorted(expected)}, given {sorted(values)}.")
        return cls(
            sensory=int(values["sensory"]),
            types=tuple(values["types"]),
            layers=tuple(tuple(layer) for layer in values["layers"]),
            sensory_synapses=tuple(tuple(synapse) for synapse in values["sensory_synapses"]),
            synapses=tuple(tuple(synapse) for synapse in values["synapses"]),
        )

    @classmethod
    def from_ncps(cls, wiring: ncps.wirings.Wiring, sensory: int) -> Circuit:
        """The circuit of an ncps wiring with ``sensory`` inputs; the wiring stays as it is, built or not.

        Raises:
            ValueError: if the wiring was built for another number of inputs.
        """
        wiring = copy.deepcopy(wiring)
        if not wiring.is_built():
            wiring.build(sensory)
        if wiring.input_dim != sensory:
            raise ValueError(f"the wiring was built for {wiring.input_dim} inputs, the layer has {sensory}.")
        if wiring.output_dim is None:
            wiring.set_output_dim(wiring.units)
        return cls(
            sensory=sensory,
            types=tuple(wiring.get_type_of_neuron(neuron) for neuron in range(wiring.units)),
            layers=tuple(tuple(wiring.get_neurons_of_layer(layer)) for layer in range(wiring.num_layers)),
            sensory_synapses=synapses_of(wiring.sensory_adjacency_matrix),
            synapses=synapses_of(wiring.adjacency_matrix),
        )


@dataclass(frozen=True)
class Wiring:
    """A recipe for circuits: draws the synapses once the number of inputs is known, the same ones every time.

    >>> wiring = Wiring.ncp(12, 4, 3, sensory_fanout=6, inter_fanout=2, recurrent_command_synapses=4, motor_fanin=2)
    >>> circuit = wiring.build(32)
    >>> circuit.units, circuit.type_of(0), circuit.synapse_count, circuit.sensory_synapse_count
    (19, 'motor', 34, 192)
    """

    kind: str
    """Name of the class in `ncps.wirings`."""
    arguments: tuple[tuple[str, Any], ...]
    """Its arguments by name."""

    @classmethod
    def ncp(
        cls,
        inter_neurons: int,
        command_neurons: int,
        motor_neurons: int,
        sensory_fanout: int,
        inter_fanout: int,
        recurrent_command_synapses: int,
        motor_fanin: int,
        seed: int = 22222,
    ) -> Wiring:
        """A neural circuit policy: sensory → inter → command ↺ → motor (Lechner 2020, Algorithms 2–6).

        Args:
            inter_neurons: number of inter neurons.
            command_neurons: number of command neurons.
            motor_neurons: number of motor neurons, the outputs.
            sensory_fanout: synapses from each sensory neuron to inter neurons.
            inter_fanout: synapses from each inter neuron to command neurons.
            recurrent_command_synapses: synapses among command neurons, drawn with repeats.
            motor_fanin: synapses to each motor neuron from command neurons.
            seed: of the random draw.
        """
        arguments = {
            "inter_neurons": inter_neurons,
            "command_neurons": command_neurons,
            "motor_neurons": motor_neurons,
            "sensory_fanout": sensory_fanout,
            "inter_fanout": inter_fanout,
            "recurrent_command_synapses": recurrent_command_synapses,
            "motor_fanin": motor_fanin,
            "seed": seed,
        }
        return cls._recipe("NCP", arguments)

    @classmethod
    def auto(cls, units: int, outputs: int, sparsity: float = 0.5, seed: int = 22222) -> Wiring:
        """An NCP of ``units`` neurons, ``outputs`` of them motor, two of five others command; sparsity in [0.1, 1]."""
        if not 0.1 <= sparsity <= 1.0:  # the message of ncps names another range
            raise ValueError(f"sparsity must be in [0.1, 1.0], given {sparsity}.")
        return cls._recipe(
            "AutoNCP", {"units": units, "output_size": outputs, "sparsity_level": sparsity, "seed": seed}
        )

    @classmethod
    def fully_connected(
        cls, units: int, outputs: int | None = None, seed: int = 1111, self_connections: bool = True
    ) -> Wiring:
        """Every neuron to every neuron, two of three synapses excitatory; the first ``outputs`` (None: all) motor."""
        arguments = {
            "units": units,
            "output_dim": outputs,
            "erev_init_seed": seed,
            "self_connections": self_connections,
        }
        return cls._recipe("FullyConnected", arguments)

    @classmethod
    def random(cls, units: int, outputs: int | None = None, sparsity: float = 0.0, seed: int = 1111) -> Wiring:
        """Synapses at random, a share ``sparsity`` in [0, 1) of them left out; the first ``outputs`` neurons motor."""
        arguments = {"units": units, "output_dim": outputs, "sparsity_level": sparsity, "random_seed": seed}
        return cls._recipe("Random", arguments)

    @classmethod
    def _recipe(cls, kind: str, arguments: dict[str, Any]) -> Wiring:
        getattr(ncps.wirings, kind)(**arguments)  # its own checks raise here, not first in a layer
        return cls(kind, tuple(arguments.items()))

    def build(self, sensory: int) -> Circuit:
        """The circuit with ``sensory`` inputs."""
        return Circuit.from_ncps(getattr(ncps.wirings, self.kind)(**dict(self.arguments)), sensory)


def build_circuit(units: int | Wiring | Circuit | ncps.wirings.Wiring, sensory: int) -> Circuit:
    """The circuit of anything that says how neurons are wired, for ``sensory`` inputs; a number is fully connected.

    Raises:
        TypeError: if ``units`` is none of those.
        ValueError: if it is a circuit with another number of inputs, or a number below 1.
    """
    if isinstance(units, int):
        if units < 1:
            raise ValueError(f"a layer needs at least one neuron, given {units}.")
        return Wiring.fully_connected(units).build(sensory)
    if isinstance(units, Wiring):
        return units.build(sensory)
    if isinstance(units, ncps.wirings.Wiring):
        return Circuit.from_ncps(units, sensory)
    if not isinstance(units, Circuit):
        raise TypeError(f"units must be a number of neurons, a Wiring, a Circuit or an ncps wiring, given {units!r}.")
    if units.sensory != sensory:
        raise ValueError(f"the circuit has {units.sensory} sensory neurons, the layer {sensory} inputs.")
    return units


def reject_other_masks(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    prefix: str,
    local_metadata: object,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Pre-hook of ``load_state_dict``: weights of another wiring may fit in shape, not in meaning, and are refused."""
    for name, buffer in module.named_buffers(recurse=False):
        given = state_dict.get(prefix + name)
        if given is None or given.shape != buffer.shape or buffer.is_meta:
            continue
        different = int((given.to(buffer) != buffer).sum())
        if different:
            error_msgs.append(
                f"{prefix}{name} differs in {different} synapses from this layer's wiring: the weights belong to "
                "another wiring (another seed, or an ncps wiring object that was built twice)."
            )


def _matrix(synapses: tuple[Synapse, ...], sources: int, destinations: int) -> np.ndarray:
    matrix = np.zeros((sources, destinations), dtype=np.int64)
    for source, destination, polarity in synapses:
        matrix[source, destination] = polarity
    matrix.setflags(write=False)
    return matrix


def synapses_of(matrix: np.ndarray) -> tuple[Synapse, ...]:
    """The entries of a [source, destination] matrix of polarities that are not zero."""
    return tuple(
        (int(source), int(destination), int(matrix[source, destination])) for source, destination in np.argwhere(matrix)
    )

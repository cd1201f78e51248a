import json

import ncps.wirings
import numpy as np
import pytest

from liquid_control.nn import CfC, Circuit, Wiring

RECIPES = {
    "ncp": (
        Wiring.ncp(12, 4, 3, sensory_fanout=6, inter_fanout=2, recurrent_command_synapses=4, motor_fanin=2, seed=5),
        lambda: ncps.wirings.NCP(12, 4, 3, 6, 2, 4, 2, seed=5),
    ),
    "auto": (Wiring.auto(19, 3, sparsity=0.4, seed=6), lambda: ncps.wirings.AutoNCP(19, 3, 0.4, seed=6)),
    "fully connected": (
        Wiring.fully_connected(6, 2, seed=7, self_connections=False),
        lambda: ncps.wirings.FullyConnected(6, 2, 7, False),
    ),
    "random": (Wiring.random(6, 2, sparsity=0.5, seed=8), lambda: ncps.wirings.Random(6, 2, 0.5, 8)),
}


@pytest.fixture(params=RECIPES)
def recipe(request):
    return RECIPES[request.param]


def test_a_recipe_draws_the_synapses_of_ncps(recipe):
    wiring, theirs = recipe
    theirs = theirs()
    theirs.build(10)
    circuit = wiring.build(10)
    assert np.array_equal(circuit.adjacency, theirs.adjacency_matrix)
    assert np.array_equal(circuit.sensory_adjacency, theirs.sensory_adjacency_matrix)
    assert circuit.synapse_count == theirs.synapse_count
    assert circuit.sensory_synapse_count == theirs.sensory_synapse_count
    assert [circuit.type_of(i) for i in range(circuit.units)] == [
        theirs.get_type_of_neuron(i) for i in range(circuit.units)
    ]
    assert [list(layer) for layer in circuit.layers] == [
        theirs.get_neurons_of_layer(i) for i in range(theirs.num_layers)
    ]


def test_a_recipe_gives_the_same_circuit_every_time(recipe):
    wiring, _ = recipe
    assert wiring.build(10) == wiring.build(10)
    assert wiring.build(10) != wiring.build(11)


def test_a_circuit_survives_json(recipe):
    circuit = recipe[0].build(10)
    assert Circuit.from_json(json.loads(json.dumps(circuit.to_json()))) == circuit


def test_an_ncps_wiring_stays_as_it_is_built_or_not(recipe):
    theirs = recipe[1]()
    expected = Circuit.from_ncps(theirs, 10)
    assert not theirs.is_built()
    theirs.build(10)
    before = theirs.adjacency_matrix.copy(), theirs.sensory_adjacency_matrix.copy()
    assert Circuit.from_ncps(theirs, 10) == expected
    assert np.array_equal(theirs.adjacency_matrix, before[0])
    assert np.array_equal(theirs.sensory_adjacency_matrix, before[1])


def test_an_ncp_flows_from_sensory_to_motor_neurons():
    circuit = RECIPES["ncp"][0].build(32)
    follows = {("inter", "command"), ("command", "command"), ("command", "motor")}
    assert {
        (circuit.type_of(source), circuit.type_of(destination)) for source, destination, _ in circuit.synapses
    } == follows
    assert {circuit.type_of(destination) for _, destination, _ in circuit.sensory_synapses} == {"inter"}
    assert circuit.neurons_of_type("motor") == (0, 1, 2)
    assert circuit.outputs == 3


def test_a_circuit_cannot_be_changed():
    circuit = RECIPES["auto"][0].build(4)
    with pytest.raises(ValueError, match="read-only"):
        circuit.adjacency[0, 0] = 1
    with pytest.raises(AttributeError):
        circuit.sensory = 5


def test_a_recipe_that_cannot_be_drawn_is_refused_at_once():
    with pytest.raises(ValueError, match="Motor fanin parameter is 9"):
        Wiring.ncp(6, 4, 2, 3, 2, 4, motor_fanin=9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"synapses": [[0, 19, 1]]}, "synapse 0 → 19 of polarity 1: expected a source below 19"),
        ({"sensory_synapses": [[0, 1, 2]]}, "of polarity 2: .* polarity -1 or 1"),
        ({"types": ["inter", *["motor"] * 18]}, "motor neurons must come first"),
        ({"types": ["muscle"] * 19}, "a circuit needs neurons of the types"),
        ({"layers": [[0, 1]]}, "must hold each of its 19 neurons once"),
    ],
)
def test_a_damaged_circuit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Circuit.from_json(Wiring.auto(19, 3).build(4).to_json() | change)


def test_a_circuit_of_other_inputs_is_refused():
    with pytest.raises(ValueError, match="the circuit has 4 sensory neurons, the layer 5 inputs"):
        CfC(5, Wiring.auto(19, 3).build(4))
    built = ncps.wirings.AutoNCP(19, 3)
    built.build(4)
    with pytest.raises(ValueError, match="the wiring was built for 4 inputs, the layer has 5"):
        CfC(5, built)
    with pytest.raises(TypeError, match="units must be a number of neurons, a Wiring, a Circuit or an ncps wiring"):
        CfC(5, "ncp")


def test_a_wired_cfc_refuses_options_of_the_backbone():
    with pytest.raises(ValueError, match="no backbone, so backbone_layers, activation cannot be set"):
        CfC(5, Wiring.auto(19, 3), backbone_layers=2, activation="relu")

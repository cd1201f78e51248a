"""What ncps 1.0.1 gets wrong: each defect shown on its layers, and that ours do not have it."""

import json

import ncps.torch
import ncps.wirings
import pytest
import torch
from torch.func import functional_call

import liquid_control.nn.ncps_api as stand_in
from liquid_control.nn import LTC, CfC, Circuit, Wiring, build_layer

INPUTS, BATCH, STEPS = 8, 4, 5
THEIRS = {"cfc": ncps.torch.CfC, "ltc": ncps.torch.LTC}
OURS = {"cfc": CfC, "ltc": LTC}


def ncp():
    return ncps.wirings.NCP(6, 4, 2, 3, 2, 4, 2)


# Time and state


@pytest.mark.parametrize("name", OURS)
def test_elapsed_times_of_a_batch_are_each_sequences_own(pair, name):
    """ncps raises; with as many sequences as neurons it mixes the two up without a word."""
    theirs, ours = pair(name, {}, 5)
    x = torch.randn(3, STEPS, INPUTS, dtype=torch.float64)
    elapsed = torch.rand(3, STEPS, dtype=torch.float64) + 0.1
    with pytest.raises(RuntimeError):
        theirs(x, timespans=elapsed)

    def one_by_one(x, elapsed):
        return torch.cat([theirs(row[None], timespans=times[None])[0] for row, times in zip(x, elapsed, strict=True)])

    torch.testing.assert_close(ours(x, elapsed=elapsed)[0], one_by_one(x, elapsed), rtol=0, atol=1e-12)

    x = torch.randn(5, STEPS, INPUTS, dtype=torch.float64)
    elapsed = torch.rand(5, STEPS, dtype=torch.float64) + 0.1
    expected = one_by_one(x, elapsed)
    assert (theirs(x, timespans=elapsed)[0] - expected).abs().max() > 1e-3
    torch.testing.assert_close(ours(x, elapsed=elapsed)[0], expected, rtol=0, atol=1e-12)


def test_without_elapsed_time_the_state_stays(pair, inputs):
    """ncps divides by it in an LTC; its CfC jumps although no time has passed."""
    for name in OURS:
        theirs, ours = pair(name, {}, ncp())
        x, state = inputs(ours)
        never = torch.zeros(1, STEPS, dtype=torch.float64)
        _, jumped = theirs(x, state, never)
        assert not jumped.isfinite().all() if name == "ltc" else not torch.allclose(jumped, state, atol=0.01)
        assert torch.equal(ours(x, state, never[0])[1], state)


@pytest.mark.parametrize("name", OURS)
def test_a_negative_elapsed_time_is_refused(pair, inputs, name):
    """ncps computes with it."""
    theirs, ours = pair(name, {}, ncp())
    x, _ = inputs(ours)
    assert theirs(x, timespans=torch.full((1, STEPS), -1.0, dtype=torch.float64))[0].isfinite().all()
    with pytest.raises(ValueError, match=r"elapsed is -1\.0 at batch row 0, step 0, expected a finite time"):
        ours(x, elapsed=torch.full((STEPS,), -1.0))


@pytest.mark.parametrize("name", OURS)
def test_an_empty_sequence_changes_nothing(pair, inputs, name):
    """ncps raises."""
    theirs, ours = pair(name, {}, ncp())
    x, state = inputs(ours)
    with pytest.raises(RuntimeError, match="non-empty"):
        theirs(x[:, :0], state)
    y, after = ours(x[:, :0], state)
    assert y.shape == (BATCH, 0, 2) and torch.equal(after, state)


def test_a_state_of_another_batch_is_refused(pair, inputs):
    """ncps's LTC spreads a state of one sequence over all of them."""
    theirs, ours = pair("ltc", {}, ncp())
    x, state = inputs(ours)
    assert theirs(x, state[:1])[1].shape == state.shape
    with pytest.raises(ValueError, match=r"state has shape \(1, 12\), expected \(batch, state_size\) = \(4, 12\)"):
        ours(x, state[:1])


# Wirings


@pytest.mark.parametrize("name", OURS)
def test_one_wiring_serves_several_layers(name):
    """ncps adds synapses to the wiring with every layer, or refuses the second if its inputs differ."""
    wiring = ncps.wirings.AutoNCP(12, 3)
    first, second, other = (OURS[name](size, wiring) for size in (INPUTS, INPUTS, INPUTS + 1))
    assert not wiring.is_built() and wiring.synapse_count == 0
    assert first.circuit == second.circuit
    assert other.circuit.sensory == INPUTS + 1

    THEIRS[name](INPUTS, wiring)
    count = int(wiring.synapse_count)
    assert first.circuit.synapse_count == count
    THEIRS[name](INPUTS, wiring)
    assert wiring.synapse_count > count
    with pytest.raises(ValueError, match="Conflicting input dimensions"):
        THEIRS[name](INPUTS + 1, wiring)


def test_a_wiring_survives_its_config():
    """ncps's NCP cannot read its own config (its issue 76), and forgets its seed."""
    wiring = ncp()
    wiring.build(INPUTS)
    with pytest.raises(TypeError):
        ncps.wirings.NCP.from_config(wiring.get_config())
    assert wiring.get_config()["seed"] is None
    circuit = Circuit.from_ncps(wiring, INPUTS)
    assert Circuit.from_json(json.loads(json.dumps(circuit.to_json()))) == circuit
    for layer in (LTC(INPUTS, wiring), CfC(INPUTS, wiring)):
        assert build_layer(json.loads(json.dumps(layer.config))).circuit == circuit


def test_the_range_of_a_sparsity_is_told_as_it_is():
    """ncps says 0.0 to 0.9, and refuses what is below 0.1 or above 1.0."""
    with pytest.raises(ValueError, match=r"between 0\.0 and 0\.9"):
        ncps.wirings.AutoNCP(12, 3, sparsity_level=0.05)
    ncps.wirings.AutoNCP(12, 3, sparsity_level=1.0)
    with pytest.raises(ValueError, match=r"sparsity must be in \[0.1, 1.0\], given 0.05"):
        Wiring.auto(12, 3, sparsity=0.05)


def test_inputs_reach_a_neuron_through_its_synapses_only(pair):
    """In ncps every input reaches every inter neuron of a CfC through the heads of its time gate."""
    wiring = ncps.wirings.NCP(6, 4, 2, 3, 2, 1, 2)
    theirs, _ = pair("cfc", {}, wiring)
    exact = CfC(INPUTS, wiring, ncps_compat=False).double()
    circuit = exact.circuit
    inter = circuit.neurons_of_type("inter")
    wired = {(source, inter.index(end)) for source, end, _ in circuit.sensory_synapses}

    def reached(layer):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: layer(x, torch.ones(1, 12, dtype=torch.float64))[1][0, :6],
            torch.ones(1, 1, INPUTS, dtype=torch.float64),
        )
        return {(int(source), int(neuron)) for neuron, source in (jacobian[:, 0, 0] != 0).nonzero()}

    assert reached(theirs) == {(source, neuron) for source in range(INPUTS) for neuron in range(6)} != wired
    assert reached(exact) == wired


@pytest.mark.parametrize("name", OURS)
def test_the_motor_neurons_of_a_state_have_a_name(pair, inputs, name):
    """In ncps they are first in the state of an LTC and last in that of a CfC; here their name finds them in both."""
    theirs, ours = pair(name, {"output_mapping": None} if name == "ltc" else {}, ncp())
    x, _ = inputs(ours)
    y, state = theirs(x)
    place = slice(0, 2) if name == "ltc" else slice(10, 12)
    assert torch.equal(state[:, place], y[:, -1])
    y, state = ours(x)
    assert torch.equal(ours.unpack(state)["motor"], y[:, -1])


# Weights


def test_weights_of_a_wiring_that_grew_are_refused():
    wiring = ncps.wirings.AutoNCP(12, 3)
    ours = LTC(INPUTS, wiring)
    ncps.torch.LTC(INPUTS, wiring)
    grown = ncps.torch.LTC(INPUTS, wiring)
    with pytest.raises(RuntimeError, match="the weights belong to another wiring"):
        ours.load_state_dict(grown.state_dict())
    # The grown wiring itself is taken as it is, and then its weights fit.
    LTC(INPUTS, wiring).load_state_dict(grown.state_dict())


def test_weights_from_functional_call_and_assignment_are_used(pair, inputs):
    """ncps's LTC goes on with its own weights, silently."""
    theirs, ours = pair("ltc", {}, ncp())
    x, _ = inputs(ours)
    doubled = {name: value * 2 for name, value in ours.state_dict().items() if "mask" not in name}
    assert torch.equal(functional_call(theirs, doubled, (x,))[0], theirs(x)[0])
    expected = functional_call(ours, doubled, (x,))[0]
    assert not torch.allclose(expected, ours(x)[0])
    before = theirs(x)[0]
    theirs.load_state_dict(doubled, strict=False, assign=True)
    assert torch.equal(theirs(x)[0], before)
    ours.load_state_dict(doubled, strict=False, assign=True)
    assert torch.equal(ours(x)[0], expected)


@pytest.mark.parametrize("name", OURS)
def test_mixed_memory_works_in_double_precision(name):
    """ncps starts it with a single-precision state and raises."""
    x = torch.randn(2, 3, INPUTS, dtype=torch.float64)
    theirs, ours = (
        {"cfc": module.CfC, "ltc": module.LTC}[name](INPUTS, 6, mixed_memory=True).double()
        for module in (ncps.torch, stand_in)
    )
    with pytest.raises(RuntimeError, match="same dtype"):
        theirs(x)
    assert ours(x)[0].dtype == torch.float64


@pytest.mark.parametrize("name", OURS)
def test_bfloat16_stays_bfloat16(pair, name):
    """In ncps the CfC raises and the LTC returns single precision."""
    theirs, ours = pair(name, {}, ncp(), torch.bfloat16)
    x = torch.randn(2, 3, INPUTS, dtype=torch.bfloat16)
    assert ours(x)[0].dtype == torch.bfloat16
    if name == "cfc":
        with pytest.raises(RuntimeError):
            theirs(x)
    else:
        assert theirs(x)[0].dtype == torch.float32


def test_only_synapses_of_the_wiring_are_counted(pair):
    """ncps counts its masks as parameters, and every synapse that the wiring leaves out."""
    theirs, ours = pair("ltc", {}, ncps.wirings.AutoNCP(19, 4))
    inner, sensory = ours.circuit.synapse_count, ours.circuit.sensory_synapse_count
    assert (theirs.synapse_count, theirs.sensory_synapse_count) == (inner, inner)
    assert (
        inner == (ours.rnn_cell.sparsity_mask != 0).sum() != sensory == (ours.rnn_cell.sensory_sparsity_mask != 0).sum()
    )
    # Four for each synapse, three for each neuron, scale and shift of each input and output.
    assert ours.parameter_count() == 4 * (inner + sensory) + 3 * 19 + 2 * INPUTS + 2 * 4
    everything = sum(parameter.numel() for parameter in theirs.parameters())
    assert everything == 5 * (19 * 19 + INPUTS * 19) + 3 * 19 + 2 * INPUTS + 2 * 4


def test_backbone_dropout_acts_on_a_single_layer(pair, inputs):
    """In ncps it has no effect."""
    torch.manual_seed(0)
    options = {"backbone_units": 32, "backbone_dropout": 0.5}
    theirs, ours = pair("cfc", options, 6)
    x, _ = inputs(ours)
    assert torch.equal(theirs.train()(x)[0], theirs(x)[0])
    assert not torch.equal(ours.train()(x)[0], ours(x)[0])
    torch.testing.assert_close(ours.eval()(x)[0], theirs(x)[0], rtol=0, atol=1e-12)


def test_command_neurons_are_connected_as_the_wiring_says(pair):
    """ncps connects all command neurons with each other whatever the wiring says (its issue 53)."""
    wiring = ncps.wirings.NCP(6, 4, 2, 3, 2, 1, 2)
    theirs, compatible = pair("cfc", {}, wiring)
    exact = CfC(INPUTS, wiring, ncps_compat=False).double()
    circuit = exact.circuit
    command = circuit.neurons_of_type("command")

    def reached(layer, source):
        """The command neurons that the state of command neuron ``source`` reaches within one step."""
        state = torch.zeros(1, 12, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(
            lambda state: layer(torch.zeros(1, 1, INPUTS, dtype=torch.float64), state)[1][0, 6:10], state
        )
        return set((jacobian[:, 0, 6 + source] != 0).nonzero().flatten().tolist())

    for source in range(4):
        assert reached(theirs, source) == reached(compatible, source) == {0, 1, 2, 3}
        wired = {dest for dest in range(4) if circuit.adjacency[command[source], command[dest]]}
        assert reached(exact, source) == wired | {source}
    assert exact.parameter_count() < compatible.parameter_count()


def test_initial_conductances_are_what_ncps_documents():
    """Under ncps's implicit constraints softplus moves them to 0.69-1.31, so that none is ever small."""
    torch.manual_seed(0)
    theirs, ours = ncps.torch.LTC(INPUTS, 19).rnn_cell, LTC(INPUTS, 19).rnn_cell
    softplus = torch.nn.functional.softplus
    assert softplus(theirs.w).min() > 0.69
    for parameter, low, high in ((ours.w, 0.001, 1.0), (ours.cm, 0.4, 0.6), (ours.gleak, 0.001, 1.0)):
        value = softplus(parameter)
        assert low - 1e-6 <= value.min() < low + 0.15 * (high - low)
        assert high - 0.15 * (high - low) < value.max() <= high + 1e-6

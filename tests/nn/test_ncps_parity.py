"""ncps 1.0.1 beside these layers: its weights load, its numbers are ours where it is right, and where it is not."""

import copy

import ncps.torch
import ncps.wirings
import pytest
import torch
from torch.func import functional_call

from liquid_control.nn import LTC, CfC

INPUTS, BATCH, STEPS = 8, 4, 5
THEIRS = {"cfc": ncps.torch.CfC, "ltc": ncps.torch.LTC}
OURS = {"cfc": CfC, "ltc": LTC}
WIRINGS = {
    "ncp": lambda: ncps.wirings.NCP(6, 4, 2, 3, 2, 4, 2),
    "auto": lambda: ncps.wirings.AutoNCP(12, 3),
    "random": lambda: ncps.wirings.Random(7, sparsity_level=0.5),
    "fully connected": lambda: ncps.wirings.FullyConnected(6, self_connections=False),
    "units": lambda: 7,
    "many units": lambda: 30,
}
OPTIONS = [
    ("cfc", {"mode": "default"}),
    ("cfc", {"mode": "no_gate"}),
    ("cfc", {"mode": "pure"}),
    ("cfc", {"proj_size": 5}),
    ("ltc", {}),
    ("ltc", {"input_mapping": "linear", "output_mapping": None, "ode_unfolds": 3, "epsilon": 1e-3}),
]


def pair(name, options, wiring, dtype=torch.float64):
    """The layer of ncps and ours with its weights."""
    torch.manual_seed(0)
    theirs = THEIRS[name](INPUTS, copy.deepcopy(wiring), **options).to(dtype)
    ours = OURS[name](INPUTS, wiring, **options).to(dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def inputs(layer, dtype=torch.float64):
    torch.manual_seed(1)
    x = torch.randn(BATCH, STEPS, INPUTS, dtype=dtype, requires_grad=True)
    return x, torch.randn(BATCH, layer.state_size, dtype=dtype, requires_grad=True)


def gradients(layer, y, state, *leaves):
    """Of one loss by ``leaves`` and all trainable parameters, by name."""
    named = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    loss = y.sin().sum() + state.square().sum()
    found = torch.autograd.grad(loss, [*named.values(), *leaves], allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in [*named.values(), *leaves]]
    names = [*named, *(f"leaf {index}" for index in range(len(leaves)))]
    return {name: b if a is None else a for name, a, b in zip(names, found, zeros, strict=True)}


# Where ncps is right


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("per_step", [False, True])
def test_values_and_all_gradients_are_those_of_ncps(name, options, wiring, per_step):
    theirs, ours = pair(name, options, WIRINGS[wiring]())
    x, state = inputs(ours)
    elapsed = torch.rand(STEPS, dtype=torch.float64) + 0.1 if per_step else None
    expected = theirs(x, state, elapsed if elapsed is None else elapsed.expand(BATCH, -1)[:1])
    found = ours(x, state, elapsed)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    expected_gradients = gradients(theirs, *expected, x, state)
    for key, value in gradients(ours, *found, x, state).items():
        torch.testing.assert_close(value, expected_gradients[key], rtol=1e-10, atol=1e-11, msg=key)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_single_precision_agrees_to_a_millionth(name, options):
    theirs, ours = pair(name, options, WIRINGS["ncp"](), torch.float32)
    x, state = inputs(ours, torch.float32)
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"activation": activation, "backbone_units": 9, "backbone_layers": layers}
        for activation, layers in [("silu", 1), ("relu", 2), ("tanh", 3), ("gelu", 1), ("lecun_tanh", 0)]
    ],
)
def test_backbones_agree(options):
    theirs, ours = pair("cfc", options, 6)
    x, state = inputs(ours)
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_explicit_constraints_agree():
    torch.manual_seed(0)
    theirs = ncps.torch.LTC(INPUTS, WIRINGS["ncp"](), implicit_param_constraints=False).double()
    ours = LTC(INPUTS, WIRINGS["ncp"](), implicit_param_constraints=False).double()
    ours.load_state_dict(theirs.state_dict())
    x, state = inputs(ours)
    for a, b in zip(ours(x, state), theirs(x, state), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    with torch.no_grad():
        for layer in (theirs, ours):
            layer.rnn_cell.w.sub_(0.5)
            layer.rnn_cell.gleak.sub_(0.5)
    theirs.rnn_cell.apply_weight_constraints()
    ours.apply_weight_constraints()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


# Where ncps is wrong


@pytest.mark.parametrize("name", OURS)
def test_elapsed_times_of_a_batch(name):
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


def test_no_elapsed_time():
    """ncps divides by it in an LTC; its CfC jumps although no time has passed."""
    for name in OURS:
        theirs, ours = pair(name, {}, WIRINGS["ncp"]())
        x, state = inputs(ours)
        never = torch.zeros(1, STEPS, dtype=torch.float64)
        _, jumped = theirs(x, state, never)
        assert not jumped.isfinite().all() if name == "ltc" else not torch.allclose(jumped, state, atol=0.01)
        assert torch.equal(ours(x, state, never[0])[1], state)


@pytest.mark.parametrize("name", OURS)
def test_one_wiring_for_several_layers(name):
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


def test_weights_of_a_wiring_that_grew_are_refused():
    wiring = ncps.wirings.AutoNCP(12, 3)
    ours = LTC(INPUTS, wiring)
    ncps.torch.LTC(INPUTS, wiring)
    grown = ncps.torch.LTC(INPUTS, wiring)
    with pytest.raises(RuntimeError, match="the weights belong to another wiring"):
        ours.load_state_dict(grown.state_dict())
    # The grown wiring itself is taken as it is, and then its weights fit.
    LTC(INPUTS, wiring).load_state_dict(grown.state_dict())


def test_weights_from_outside_by_functional_call_and_assignment():
    """ncps's LTC goes on with its own weights, silently."""
    theirs, ours = pair("ltc", {}, WIRINGS["ncp"]())
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
def test_bfloat16(name):
    """In ncps the CfC raises and the LTC returns single precision."""
    theirs, ours = pair(name, {}, WIRINGS["ncp"](), torch.bfloat16)
    x = torch.randn(2, 3, INPUTS, dtype=torch.bfloat16)
    assert ours(x)[0].dtype == torch.bfloat16
    if name == "cfc":
        with pytest.raises(RuntimeError):
            theirs(x)
    else:
        assert theirs(x)[0].dtype == torch.float32


def test_parameter_counts():
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


def test_the_circuit_of_the_lane_keeping_paper_has_its_1065_parameters():
    """12 inter, 6 command, 1 motor neuron, 32 inputs: Lechner 2020, Table 2."""
    wiring = ncps.wirings.NCP(12, 6, 1, 6, 4, 6, 6, seed=20190120)
    layer = LTC(32, wiring, input_mapping=None, output_mapping=None)
    assert layer.neuron_count == 19
    assert layer.circuit.synapse_count + layer.circuit.sensory_synapse_count == 252
    assert layer.parameter_count() == 1065


def test_backbone_dropout_of_one_layer():
    """In ncps it has no effect."""
    torch.manual_seed(0)
    options = {"backbone_units": 32, "backbone_dropout": 0.5}
    theirs, ours = pair("cfc", options, 6)
    x, _ = inputs(ours)
    assert torch.equal(theirs.train()(x)[0], theirs(x)[0])
    assert not torch.equal(ours.train()(x)[0], ours(x)[0])
    torch.testing.assert_close(ours.eval()(x)[0], theirs(x)[0], rtol=0, atol=1e-12)


def test_what_a_wiring_masks():
    """ncps connects all command neurons with each other whatever the wiring says, and leaves the gate's heads dense."""
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

"""Plastic synapses: the equations, what can be done with a trace by name, and what only a trace can do."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from liquid_control.nn import CfC, PlasticCfC, Wiring
from liquid_control.nn.plastic import KEY_FLOOR, RULES

INPUTS = 5
NCP = Wiring.ncp(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
VARIANTS = {
    "hebb": {"modulated": False},
    "hebb-modulated": {},
    "oja": {"rule": "oja"},
    "delta": {"rule": "delta"},
    "delta-inputs": {"rule": "delta", "plastic_inputs": True, "ncps_compat": False},
    "retroactive": {"retroactive": True},
}


def plastic(units=NCP, inputs=INPUTS, seed=0, **options):
    """A layer in float64 whose gains and gates are far from their quiet beginning."""
    torch.manual_seed(seed)
    layer = PlasticCfC(inputs, units, **options).double()
    with torch.no_grad():
        layer.alpha.normal_()
        if layer.modulator is not None:
            layer.modulator.normal_()
    return layer


def sequence(batch=3, steps=12, inputs=INPUTS, seed=1):
    torch.manual_seed(seed)
    return torch.randn(batch, steps, inputs, dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def oracle(layer, x, elapsed):
    """The module's equations for one sequence, neuron by neuron: outputs and traces {(source, neuron): value}."""
    value = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    neurons, inputs = layer.cfc.state_size, layer.input_size
    groups, first = [], 0
    for cell in layer.cfc.cells:
        groups.append(list(range(first, first + cell.hidden_size)))
        first += cell.hidden_size
    state, trace, eligible = np.zeros(neurons), dict.fromkeys(layer.synapses, 0.0), dict.fromkeys(layer.synapses, 0.0)
    longest = layer.longest_half_life
    half_life = longest ** sigmoid(value["half_lives.position"])
    outputs = []
    for step, time in zip(x, elapsed, strict=True):
        for number, (cell, group) in enumerate(zip(layer.cfc.cells, groups, strict=True)):
            before = list(range(-inputs, 0)) if number == 0 else groups[number - 1]
            sources = [-1 - c for c in range(inputs)] if number == 0 else before  # input c is -1 - c
            activity = {-1 - c: step[c] for c in range(inputs)} if number == 0 else {j: state[j] for j in before}
            activity |= {j: state[j] for j in group}
            z = np.array([activity[j] for j in [*sources, *group]])
            new = {}
            for place, i in enumerate(group):
                mask = cell.sparsity_mask[place].numpy()
                dense = np.ones_like(mask) if layer.cfc.ncps_compat else mask
                key = {j: activity[j] for j, own in layer.synapses if own == i}
                length = np.sqrt(KEY_FLOOR + sum(a**2 for a in key.values()))
                key = {j: a / length for j, a in key.items()}
                recalled = sum(trace[j, i] * k for j, k in key.items())
                g, h, a, b = (
                    (head.weight[place].detach().numpy() * seen) @ z + head.bias[place].item()
                    for head, seen in zip(cell.heads(), (mask, mask, dense, dense), strict=True)
                )
                gain = value["alpha"][:, i] * recalled
                gate = sigmoid(a * time + b + gain[2])
                new[i] = y = np.tanh(g + gain[0]) * (1 - gate) + np.tanh(h + gain[1]) * gate

                pace = value["rate"][i]
                if layer.modulator is not None:
                    columns = list(range(inputs)) if number == 0 else [inputs + j for j in before]
                    columns += [inputs + j for j in group]
                    pace = pace + (value["modulator"][i, columns] * mask) @ z
                rate = np.tanh(pace) if layer.retroactive else sigmoid(pace)
                kept = 2 ** (-time / half_life[i])
                for j, k in key.items():
                    old = kept * trace[j, i]
                    if layer.retroactive:
                        fades = 2 ** (-time / longest ** sigmoid(value["eligibility.position"][i]))
                        trace[j, i] = old + rate * eligible[j, i]
                        eligible[j, i] = fades * eligible[j, i] + (1 - fades) * y * k
                    elif layer.rule == "hebb":
                        trace[j, i] = old + rate * y * k
                    elif layer.rule == "oja":
                        trace[j, i] = old + rate * y * (k - y * old)
                    else:
                        trace[j, i] = old + rate * (y - kept * recalled) * k
            for i, y in new.items():
                state[i] = y
        outputs.append(state[groups[-1]])
    parts = {"trace": trace, "eligibility": eligible} if layer.retroactive else {"trace": trace}
    return np.array(outputs), {name: np.array(list(part.values())) for name, part in parts.items()}


# Equations


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_traces_are_those_of_the_equations(variant):
    layer, x = plastic(**VARIANTS[variant]), sequence()
    elapsed = torch.rand(3, 12, dtype=torch.float64) * 2 + 0.1
    y, state = layer(x, elapsed=elapsed)
    for row in range(3):
        outputs, traces = oracle(layer, x[row].numpy(), elapsed[row].numpy())
        np.testing.assert_allclose(y[row].detach(), outputs, atol=1e-13)
        for name, trace in traces.items():
            np.testing.assert_allclose(layer.unpack(state)[name][row].detach(), trace, atol=1e-13)


def test_without_gain_it_is_the_cfc_whose_weights_it_took():
    torch.manual_seed(0)
    static, x = CfC(INPUTS, NCP).double(), sequence()
    layer = plastic()
    layer.cfc.load_state_dict(static.state_dict())
    assert not torch.allclose(layer(x)[0], static(x)[0], atol=1e-3)
    torch.nn.init.zeros_(layer.alpha)
    torch.testing.assert_close(layer(x)[0], static(x)[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_gate_gets_a_gradient_through_time(variant):
    layer = plastic(**VARIANTS[variant])
    y, _ = layer(sequence(steps=8))
    y[:, -1].square().sum().backward()
    learned = {name for name, _ in layer.named_parameters() if not name.startswith("cfc.")}
    assert {"alpha", "rate", "half_lives.position"} <= learned
    for name in learned:
        assert layer.get_parameter(name).grad.abs().max() > 1e-8, name


def test_a_trace_halves_in_its_half_life():
    layer = plastic(modulated=False)
    with torch.no_grad():
        layer.rate.fill_(-100)  # nothing is written
    state = torch.cat([torch.zeros(1, 9), torch.ones(1, layer.state_size - 9)], 1).double()
    half_lives = layer.half_lives()
    for neuron, half_life in enumerate(half_lives.tolist()):
        after = layer.unpack(layer.step(sequence()[:1, 0], state, half_life)[1])["trace"][0]
        own = torch.tensor([destination == neuron for _, destination in layer.synapses])
        torch.testing.assert_close(after[own], torch.full_like(after[own], 0.5))


def test_half_lives_begin_log_spaced_in_every_group_and_are_bounded():
    layer = PlasticCfC(INPUTS, NCP, longest_half_life=1024)
    expected = [4, 16, 64, 256, 4, 32, 256, 4, 256]
    torch.testing.assert_close(layer.half_lives().detach(), torch.tensor(expected).float())
    with torch.no_grad():
        layer.half_lives.position.copy_(torch.linspace(-50, 50, 9))
    assert layer.half_lives().min() >= 1 and layer.half_lives().max() <= 1024


def test_it_begins_as_a_running_mean_of_what_fires_together():
    layer = PlasticCfC(INPUTS, NCP)
    retention = layer.half_lives.retention(1.0)
    torch.testing.assert_close(torch.sigmoid(layer.rate), 1 - retention)


# Traces of sequences


def test_every_sequence_has_its_own_trace():
    layer, x = plastic(), sequence()
    together = layer.unpack(layer(x)[1])["trace"]
    other = x.clone()
    other[1] += 1
    changed = layer.unpack(layer(other)[1])["trace"]
    assert torch.equal(changed[0], together[0]) and torch.equal(changed[2], together[2])
    assert (changed[1] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("variant", VARIANTS)
def test_traces_stay_bounded_over_thousands_of_steps_whatever_is_learned(variant):
    layer = plastic(**VARIANTS[variant]).float()
    with torch.no_grad():
        layer.alpha.mul_(5)
        layer.rate.uniform_(-3, 3)
        bound = 1 / (1 - layer.half_lives.retention(1.0))
    state = layer.initial_state(4)
    constant = torch.randn(4, 1, INPUTS).expand(-1, 250, -1)
    own = torch.tensor([destination for _, destination in layer.synapses])
    with torch.no_grad():
        for _ in range(20):
            _, state = layer(constant, state)
            rows = torch.zeros(4, 9).index_add(1, own, layer.unpack(state)["trace"].square()).sqrt()
            assert torch.all(rows <= bound)


@pytest.mark.parametrize("rule", RULES)
def test_synapses_from_silent_neurons_only_decay_however_much_others_write(rule):
    """A trace that is rescaled as a whole, as under a norm cap, would lose them."""
    layer = plastic(6, inputs=2, rule=rule, modulated=False)
    with torch.no_grad():
        layer.rate.fill_(10)  # η near 1
    neurons = torch.tensor([[1.0, -1.0, 1.0, 0.0, 0.0, 0.0]]).double()
    trace = torch.randn(1, 36).double()
    state = layer.pack({"motor": neurons, "trace": trace})
    after = layer.unpack(layer.step(torch.ones(1, 2).double(), state)[1])
    silent = torch.tensor([source >= 3 for source, _ in layer.synapses])
    own = torch.tensor([destination for _, destination in layer.synapses])
    kept = layer.half_lives.retention(1.0)
    if rule == "oja":  # forgets what the neuron itself, by its activity, replaces
        kept = kept * (1 - torch.sigmoid(layer.rate) * after["motor"][0].square())
    expected = kept[own] * trace[0]
    torch.testing.assert_close(after["trace"][0, silent], expected[silent])
    assert (after["trace"][0, ~silent] - expected[~silent]).abs().max() > 0.1


def settled(rule):
    """What each neuron recalls of a situation that has lasted for long, and what it does in it."""
    layer = plastic(6, inputs=2, rule=rule, modulated=False)
    with torch.no_grad():
        layer.alpha.mul_(0.02)
        layer.half_lives.position.fill_(9)  # hardly forgets
        layer.rate.fill_(-1)
        _, state = layer(torch.ones(1, 1500, 2).double())
    parts = layer.unpack(state)
    post = parts["motor"][0]
    key = post / (KEY_FLOOR + post.square().sum()).sqrt()
    return (parts["trace"].view(6, 6) * key).sum(1), post, key.square().sum()


def test_delta_stores_what_fired_once_where_hebb_adds_it_up():
    recalled, post, _ = settled("delta")
    torch.testing.assert_close(recalled, post, rtol=0.05, atol=0)
    recalled, post, _ = settled("hebb")
    assert torch.all(recalled / post > 100)


def test_oja_settles_where_what_it_forgets_is_what_it_writes():
    """k = y H, so a key recalls ‖k‖² / y."""
    recalled, post, length = settled("oja")
    active = post.abs() > 0.2
    assert active.sum() >= 3
    torch.testing.assert_close(recalled[active], (length / post)[active], rtol=0.1, atol=0)


# Neuromodulation


def gated(**options):
    """A layer whose first input opens the gates of its first neurons, whatever else goes on."""
    layer = plastic(**options)
    with torch.no_grad():
        layer.modulator.zero_()
        layer.modulator[:, 0] = 40
        layer.rate.fill_(0 if layer.retroactive else -20)
    return layer


def test_the_modulator_decides_when_is_written():
    layer, x = gated(), sequence()
    inter = torch.tensor([destination < 4 for _, destination in layer.synapses])
    x[:, :, 0] = 0
    closed = layer.unpack(layer(x)[1])["trace"][:, inter]
    x[:, 7, 0] = 1
    opened = layer.unpack(layer(x)[1])["trace"][:, inter]
    assert closed.abs().max() < 1e-6 < 0.05 < opened.abs().max()


def test_retroactive_modulation_writes_what_happened_before_it():
    layer, x = gated(retroactive=True), sequence(batch=1)
    x[:, :, 0] = 0
    inter = torch.tensor([destination < 4 for _, destination in layer.synapses])
    _, state = layer(x)
    before = layer.unpack(state)
    assert before["trace"][:, inter].abs().max() == 0 < before["eligibility"][:, inter].abs().max()
    reward = torch.zeros(1, INPUTS).double()
    reward[0, 0] = 1
    sensory = torch.from_numpy(layer.circuit.sensory_adjacency[0, list(layer.circuit.layers[0])] != 0)
    told = torch.tensor([destination < 4 and bool(sensory[destination]) for _, destination in layer.synapses])
    after = layer.unpack(layer.step(reward, state)[1])
    torch.testing.assert_close(after["trace"][:, told], before["eligibility"][:, told])


# By name


@pytest.mark.parametrize("variant", ["hebb", "retroactive", "delta-inputs"])
def test_parts_saved_by_name_and_loaded_go_on_to_the_same_numbers(variant, tmp_path):
    layer, x = plastic(**VARIANTS[variant]), sequence()
    _, state = layer(x[:, :6])
    save_file({name: part.detach().contiguous() for name, part in layer.unpack(state).items()}, tmp_path / "state")
    loaded = layer.pack(load_file(tmp_path / "state"))
    assert torch.equal(loaded, state)
    assert torch.equal(layer(x[:, 6:], loaded)[0], layer(x[:, 6:], state)[0])


def test_a_part_is_reset_by_name_and_the_others_stay():
    layer = plastic(retroactive=True)
    _, state = layer(sequence())
    before, after = layer.unpack(state), layer.unpack(layer.reset(state, "trace", "motor"))
    for name, part in after.items():
        assert torch.equal(part, torch.zeros_like(part) if name in ("trace", "motor") else before[name])


def test_a_frozen_trace_is_read_but_neither_written_nor_forgotten():
    layer, x = plastic(), sequence()
    _, state = layer(x[:, :6])
    layer.freeze("trace")
    y, later = layer(x[:, 6:], state)
    assert torch.equal(layer.unpack(later)["trace"], layer.unpack(state)["trace"])
    assert not torch.allclose(y, layer(x[:, 6:], layer.reset(state, "trace"))[0])
    layer.freeze()
    assert not torch.equal(layer.unpack(layer(x[:, 6:], state)[1])["trace"], layer.unpack(state)["trace"])


# What only a trace can do


def associator(neurons, alpha):
    """Neurons that copy their input, without any fixed synapse among them: y = tanh(3 x + α H k)."""
    layer = PlasticCfC(neurons, neurons, modulated=False).double()
    with torch.no_grad():
        (cell,) = layer.cfc.cells
        for head in cell.heads():
            head.weight.zero_()
            head.bias.zero_()
        for head in cell.heads()[:2]:
            head.weight[:, :neurons] = 3 * torch.eye(neurons)
        layer.alpha.copy_(torch.tensor([[alpha], [alpha], [0.0]]).expand(3, neurons))
        layer.rate.fill_(2)
    return layer


@pytest.mark.parametrize(("alpha", "completed"), [(4.0, 1.0), (0.0, 0.0)])
def test_a_pattern_shown_once_is_completed_from_its_half_by_the_trace_alone(alpha, completed):
    """The weights are the same for every pattern, and the neurons' own activity is wiped before recall."""
    torch.manual_seed(0)
    patterns = torch.randn(20, 16).sign().double()
    layer = associator(16, alpha)
    _, state = layer(patterns[:, None].expand(-1, 3, -1))
    state = layer.reset(state, "motor")
    cue = patterns.clone()
    cue[:, 8:] = 0
    y, _ = layer(cue[:, None].expand(-1, 4, -1), state)
    right = (y[:, -1, 8:].sign() == patterns[:, 8:]).double().mean()
    assert right == completed


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "hebbian"}, "rule is 'hebbian', expected one of"),
        ({"retroactive": True, "rule": "delta"}, "retroactive modulation needs rule 'hebb' and modulated=True"),
        ({"retroactive": True, "modulated": False}, "retroactive modulation needs"),
        ({"longest_half_life": 8}, "longest_half_life is 8, expected more than 16"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PlasticCfC(INPUTS, NCP, **options)


def test_a_wrong_part_is_refused_with_the_parts_there_are():
    layer = PlasticCfC(INPUTS, NCP)
    state = layer.initial_state(1)
    with pytest.raises(ValueError, match="no part 'traces', expected one of 'inter', 'command', 'motor', 'trace'"):
        layer.reset(state, "traces")
    with pytest.raises(ValueError, match="no part 'motor', expected one of 'trace'"):
        layer.freeze("motor")
    with pytest.raises(ValueError, match=r"the parts are \{'trace': "):
        layer.pack({"trace": layer.unpack(state)["trace"]})

"""The contract of a liquid layer, held by every layer of the package."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence

from liquid_control.nn import (
    GRU,
    LAN,
    LSTM,
    LTC,
    MLP,
    CfC,
    ClosedFormLTC,
    HybridMixer,
    Leaky,
    LiquidScan,
    MixedMemory,
    PlasticCfC,
    PlasticMemory,
    ResidualBlock,
    ResidualStack,
    Stack,
    TimedAttention,
    WindowAttention,
    Wiring,
    build_layer,
)
from liquid_control.nn.layer import ALIKE

INPUTS, BATCH, STEPS = 5, 3, 6
NCP = Wiring.ncp(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)


def sluggish(layer):
    """An LTC of large capacitances: an explicit solver is stable at few unfolds."""
    with torch.no_grad():
        layer.rnn_cell.cm.add_(10)
    return layer


CASES = {
    "cfc-dense": lambda: CfC(INPUTS, 4, backbone_units=6),
    "cfc-dense-no_gate": lambda: CfC(INPUTS, 4, mode="no_gate", backbone_units=6, backbone_layers=2),
    "cfc-dense-pure": lambda: CfC(INPUTS, 4, mode="pure", backbone_layers=0),
    "cfc-ncp": lambda: CfC(INPUTS, NCP),
    "cfc-ncp-no_gate": lambda: CfC(INPUTS, NCP, 3, mode="no_gate", learn_initial_state=True),
    "cfc-ncp-pure": lambda: CfC(INPUTS, NCP, mode="pure"),
    "cfc-ncp-all-masked": lambda: CfC(INPUTS, NCP, ncps_compat=False),
    "ltc-full": lambda: LTC(INPUTS, 4, input_mapping="linear", output_mapping=None),
    "ltc-ncp": lambda: LTC(INPUTS, NCP, learn_initial_state=True),
    "ltc-ncp-explicit": lambda: LTC(INPUTS, NCP, ode_unfolds=2, implicit_param_constraints=False),
    "ltc-ncp-euler": lambda: sluggish(LTC(INPUTS, NCP, ode_unfolds=2, solver="explicit")),
    "ltc-ncp-rk4": lambda: sluggish(LTC(INPUTS, NCP, ode_unfolds=1, solver="rk4")),
    "ltc-closed-form-ncp": lambda: ClosedFormLTC(INPUTS, NCP, learn_initial_state=True),
    "ltc-closed-form-full": lambda: ClosedFormLTC(INPUTS, 4, input_mapping=None, implicit_param_constraints=False),
    "leaky-full": lambda: Leaky(INPUTS, 4, integration="explicit", adaptive=False, learn_initial_state=True),
    "leaky-ncp": lambda: Leaky(INPUTS, NCP, ode_unfolds=2),
    "scan": lambda: LiquidScan(INPUTS, 4, learn_initial_state=True),
    "scan-readout": lambda: LiquidScan(INPUTS, 4, output_size=2, tau_min=0.5),
    "plastic-delta": lambda: PlasticCfC(INPUTS, NCP, rule="delta", learn_initial_state=True),
    "plastic-oja-inputs": lambda: PlasticCfC(
        INPUTS, NCP, rule="oja", modulated=False, plastic_inputs=True, ncps_compat=False
    ),
    "plastic-retroactive": lambda: PlasticCfC(INPUTS, NCP, retroactive=True),
    "fast-weights-delta": lambda: PlasticMemory(INPUTS, 4),
    "fast-weights-hebb-readout": lambda: PlasticMemory(INPUTS, 4, 3, key_size=3, rule="hebb", convolution=2),
    "fast-weights-eligibility": lambda: PlasticMemory(INPUTS, 4, rule="hebb", eligibility=True),
    "fast-weights-timed": lambda: PlasticMemory(INPUTS, 4, timed_writing=True),
    "fast-weights-oja-present": lambda: PlasticMemory(
        INPUTS, 4, heads=1, key_size=3, rule="oja", convolution=1, learn_initial_state=True
    ),
    "mixed-memory-cfc": lambda: MixedMemory(CfC(INPUTS, 4, 3, backbone_units=6, learn_initial_state=True)),
    "mixed-memory-ltc": lambda: MixedMemory(LTC(INPUTS, NCP, ode_unfolds=1)),
    "stack": lambda: Stack([Leaky(INPUTS, 4), CfC(4, 3, backbone_units=5, learn_initial_state=True)]),
    "lan-mlp": lambda: LAN(INPUTS, 4, 2, window=3, hidden=3),
    "lan-affine-euler": lambda: LAN(INPUTS, 4, window=4, gate="affine", mode="euler", pseudo_time="sigmoid"),
    "lan-bilinear-log": lambda: LAN(INPUTS, 4, 2, heads=1, window=3, gate="bilinear", pseudo_time="log"),
    "lan-euler-delta_t": lambda: LAN(INPUTS, 4, 2, window=3, mode="euler", euler_steps=3, delta_t=0.2),
    "lan-steady": lambda: LAN(INPUTS, 4, 2, window=3, gate="bilinear", mode="steady"),
    "lstm": lambda: LSTM(INPUTS, 4, learn_initial_state=True),
    "gru": lambda: GRU(INPUTS, 4, output_size=2),
    "mlp": lambda: MLP(INPUTS, 6, frames=3, output_size=2),
    "lstm-elapsed": lambda: LSTM(INPUTS, 4, elapsed_as_input=True),
    "gru-elapsed": lambda: GRU(INPUTS, 4, output_size=2, elapsed_as_input=True, learn_initial_state=True),
    "mlp-elapsed": lambda: MLP(INPUTS, 6, frames=3, output_size=2, elapsed_as_input=True),
    "window-attention-elapsed": lambda: WindowAttention(INPUTS, 4, 3, window=3, elapsed_as_input=True),
    "window-attention": lambda: WindowAttention(INPUTS, 4, 3, window=3),
    "window-attention-one-head": lambda: WindowAttention(INPUTS, 4, heads=1, window=2),
    "timed-attention": lambda: TimedAttention(INPUTS, 4, 3, window=3),
    "hybrid": lambda: HybridMixer(INPUTS, LiquidScan(INPUTS, 3, learn_initial_state=True), units=4, heads=2, window=3),
    "hybrid-untimed": lambda: HybridMixer(INPUTS, GRU(INPUTS, 3), units=4, heads=2, window=3, timed=False),
    "residual-stack": lambda: ResidualStack(
        INPUTS,
        [
            ResidualBlock(HybridMixer(4, LiquidScan(4, 3), heads=1, window=3), expansion=1),
            ResidualBlock(LiquidScan(4, 3), expansion=0),
        ],
        2,
    ),
    "residual": lambda: ResidualBlock(
        HybridMixer(INPUTS, CfC(INPUTS, 4, backbone_units=5), units=4, heads=2, window=3), expansion=1.2
    ),
    "mlp-present": lambda: MLP(INPUTS, 6, frames=1, output_size=2),
}


@pytest.fixture(params=CASES, scope="module")
def layer(request):
    torch.manual_seed(1)
    return CASES[request.param]().double()


@pytest.fixture
def given(layer):
    """Everything a layer can be given: inputs, state, elapsed times with zeros among them, a mask with holes."""
    torch.manual_seed(2)
    elapsed = torch.rand(BATCH, STEPS, dtype=torch.float64) * 2
    elapsed[0, 2] = elapsed[2, 0] = 0
    mask = torch.ones(BATCH, STEPS, dtype=torch.bool)
    mask[0, 0] = mask[1, 3] = False
    mask[1, 5] = mask[2, 4] = mask[2, 5] = False
    return {
        "x": torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64),
        "state": torch.randn(BATCH, layer.state_size, dtype=torch.float64),
        "elapsed": elapsed,
        "mask": mask,
    }


@pytest.fixture
def brief(given):
    """Two of those steps, with holes and zeros among them, for a tool that unrolls a layer: a second a step."""
    return {name: value if name == "state" else value[:, [0, 3]] for name, value in given.items()}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def outcome(layer, **arguments):
    """Outputs, final state and every gradient, as one dictionary."""
    layer.zero_grad(set_to_none=True)
    y, state = layer(**arguments)
    (y.square().sum() + state.sin().sum()).backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    layer.zero_grad(set_to_none=True)
    return {"y": y, "state": state, **gradients}


# Time


def test_two_halves_with_the_state_carried_equal_the_whole(layer, given):
    y, final = layer(**given)
    middle = STEPS // 2
    first, state = layer(
        given["x"][:, :middle], given["state"], given["elapsed"][:, :middle], given["mask"][:, :middle]
    )
    second, state = layer(given["x"][:, middle:], state, given["elapsed"][:, middle:], given["mask"][:, middle:])
    close(torch.cat([first, second], 1), y)
    close(state, final)


def test_single_steps_equal_the_whole(layer, given):
    y, final = layer(given["x"], given["state"], given["elapsed"])
    state = given["state"]
    for step in range(STEPS):
        tick, state = layer.step(given["x"][:, step], state, given["elapsed"][:, step])
        close(tick, y[:, step])
    close(state, final)


def test_later_inputs_do_not_change_earlier_outputs(layer, given):
    y, _ = layer(**given)
    later = given["x"].clone()
    later[:, 3:] += 1
    changed, _ = layer(**given | {"x": later})
    assert torch.equal(changed[:, :3], y[:, :3])
    assert not torch.equal(changed[:, 3:], y[:, 3:])


def test_a_row_does_not_depend_on_the_others(layer, given):
    y, final = layer(**given)
    for row in range(BATCH):
        alone, state = layer(**{name: value[row : row + 1] for name, value in given.items()})
        close(alone, y[row : row + 1])
        close(state, final[row : row + 1])


def test_an_empty_sequence_leaves_the_state(layer, given):
    y, state = layer(given["x"][:, :0], given["state"], mask=given["mask"][:, :0])
    assert y.shape == (BATCH, 0, layer.output_size)
    assert torch.equal(state, given["state"])


# Masks


def test_a_masked_sequence_equals_one_without_its_padded_steps(layer, given):
    y, final = layer(**given)
    assert torch.equal(y[~given["mask"]], torch.zeros_like(y[~given["mask"]]))
    for row in range(BATCH):
        real = given["mask"][row]
        alone, state = layer(given["x"][row, real][None], given["state"][row][None], given["elapsed"][row, real][None])
        close(alone[0], y[row, real])
        close(state[0], final[row])


def test_padding_at_the_end_equals_shorter_sequences(layer, given):
    lengths = torch.tensor([STEPS, 0, 2])
    mask = torch.arange(STEPS) < lengths[:, None]
    y, final = layer(given["x"], given["state"], mask=mask)
    assert torch.equal(final[1], given["state"][1])
    for row, length in enumerate(lengths):
        alone, state = layer(given["x"][row : row + 1, :length], given["state"][row : row + 1])
        close(alone[0], y[row, :length])
        close(state[0], final[row])


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("held", [torch.nan, 1e30])
def test_what_padding_holds_does_not_matter_even_to_gradients(layer, given, held, at_the_end):
    if at_the_end:
        given["mask"] = torch.arange(STEPS) < torch.tensor([[STEPS], [0], [2]])
    expected = outcome(layer, **given)
    x, elapsed = given["x"].clone(), given["elapsed"].clone()
    x[~given["mask"]] = held
    elapsed[~given["mask"]] = -1
    for name, value in outcome(layer, **given | {"x": x, "elapsed": elapsed}).items():
        assert torch.equal(value, expected[name]), name


# Elapsed times


def test_elapsed_times_of_every_form_mean_the_same(layer, given):
    x, state = given["x"], given["state"]
    per_step = torch.full((STEPS,), 0.7, dtype=torch.float64)
    expected, final = layer(x, state, 0.7)
    for elapsed in (per_step[0], per_step, per_step.expand(BATCH, -1)):
        y, end = layer(x, state, elapsed)
        close(y, expected)
        close(end, final)
    close(layer(x, state)[0], layer(x, state, 1)[0])
    close(layer.step(x[:, 0], state, 0.7)[0], layer.step(x[:, 0], state, per_step[:BATCH])[0])


def test_many_times_that_are_alike_are_as_one_number(layer):
    x = torch.randn(ALIKE // STEPS + 1, STEPS, layer.input_size, dtype=torch.float64)
    times = torch.full(x.shape[:2], 0.7, dtype=torch.float64)
    y, state = layer(x, elapsed=0.7)
    for found, expected in zip(layer(x, elapsed=times), (y, state), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(layer(x, elapsed=times.requires_grad_()), (y, state), strict=True):
        close(found, expected)  # each has a gradient of its own


@pytest.mark.parametrize("elapsed", [0, 0.0, torch.tensor(0.0), torch.zeros(STEPS)])
def test_no_time_leaves_a_state_that_time_drives(layer, given, elapsed):
    found = outcome(layer, x=given["x"], state=given["state"], elapsed=elapsed)
    assert all(value.isfinite().all() for value in found.values())
    if layer.state_size:
        assert torch.equal(found["state"], given["state"]) == layer.time_driven


def test_more_time_changes_only_what_time_drives_or_what_sees_it(layer, given):
    short, long = (layer(given["x"], given["state"], elapsed)[0] for elapsed in (0.5, 2.0))
    assert torch.equal(short, long) != (layer.time_driven or getattr(layer, "elapsed_as_input", False))


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
def test_an_impossible_elapsed_time_is_refused_by_its_place(layer, given, wrong):
    x = given["x"]
    elapsed = torch.ones(BATCH, STEPS)
    elapsed[1, 4] = wrong
    with pytest.raises(ValueError, match="at batch row 1, step 4, expected a finite time"):
        layer(x, elapsed=elapsed)
    with pytest.raises(ValueError, match="expected a finite time"):
        layer(x, elapsed=wrong)
    with pytest.raises(ValueError, match="at batch row 1, step 0, expected a finite time"):
        layer.step(x[:, 0], elapsed=elapsed[:, 4])


# Numbers


def test_gradients_are_those_of_the_function(layer, given):
    names, parameters = zip(*layer.named_parameters(), strict=True)
    leaves = [given["x"], given["state"], given["elapsed"] + 0.1, *parameters]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]

    def function(x, state, elapsed, *values):
        arguments = (x[:, :4], state, elapsed[:, :4], given["mask"][:, :4])
        return functional_call(layer, dict(zip(names, values, strict=True)), arguments)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_half(layer, given, dtype):
    half = copy.deepcopy(layer).to(dtype)
    arguments = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
    for found in outcome(half, **arguments).values():
        assert found.dtype == dtype and found.isfinite().all()


def test_autocast_keeps_the_state_in_the_parameters_precision(layer, given):
    single = copy.deepcopy(layer).float()
    x = given["x"].to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = single(x)
    expected, final = single(x.float())
    assert torch.equal(y, expected) and torch.equal(state, final)


def test_the_same_seed_gives_the_same_numbers_to_the_bit(layer, given):
    found = [outcome(layer, **given) for _ in range(2)]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
    config, weights = layer.config, []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(torch.cat([weight.flatten() for weight in build_layer(config).parameters()]))
    assert torch.equal(*weights)


def test_the_initial_state_is_what_none_stands_for(layer, given):
    start = layer.initial_state(BATCH)
    assert start.shape == (BATCH, layer.state_size)
    close(layer(given["x"])[0], layer(given["x"], start)[0])


def test_a_learned_initial_state_learns():
    layer = LTC(INPUTS, NCP, learn_initial_state=True)
    layer(torch.randn(BATCH, STEPS, INPUTS))[0].sum().backward()
    assert layer.learned_initial_state.grad.abs().sum() > 0
    assert LTC(INPUTS, NCP).learned_initial_state is None


def test_the_parameter_count_is_the_number_of_parameters_that_matter(layer):
    torch.manual_seed(4)
    double = torch.float64
    found = outcome(layer, x=torch.randn(8, 8, INPUTS, dtype=double), elapsed=0.3 + torch.rand(8, 8, dtype=double))
    used = sum(int((found[name] != 0).sum()) for name, _ in layer.named_parameters())
    assert used == layer.parameter_count()


def test_the_parts_hold_the_whole_state(layer, given):
    parts = layer.unpack(given["state"])
    whole = torch.cat([part.flatten(1) for part in parts.values()], 1)
    assert torch.equal(whole.sort(1).values, given["state"].sort(1).values)


# Tools


def test_a_deep_copy_is_equal_and_independent(layer, given):
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(**given)[0], layer(**given)[0])
    before = layer(**given)[0]
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(layer(**given)[0], before)
    assert not torch.equal(twin(**given)[0], before)


@pytest.mark.parametrize("assign", [False, True])
def test_config_and_state_dict_rebuild_the_layer(layer, given, assign):
    rebuilt = build_layer(json.loads(json.dumps(layer.config))).double()
    assert rebuilt.config == layer.config
    rebuilt.load_state_dict(layer.state_dict(), assign=assign)
    assert torch.equal(rebuilt(**given)[0], layer(**given)[0])


def test_functional_call_uses_the_weights_that_it_is_given(layer, given):
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    y, _ = functional_call(layer, dict(other.named_parameters()), (), given)
    assert torch.equal(y, other(**given)[0])
    assert not torch.equal(y, layer(**given)[0])


# What torch.compile makes of every layer is in test_torch_tools.py, with its gradients.
def test_torch_export_gives_the_same_numbers(layer, brief):
    layer.requires_grad_(False)
    program = torch.export.export(layer, (), brief)
    layer.requires_grad_(True)
    y, state = program.module()(**brief)
    expected, final = layer(**brief)
    close(y, expected)
    close(state, final)


# What is refused


def test_a_wrong_shape_is_refused_with_what_was_expected(layer, given):
    x, state = given["x"], given["state"]
    with pytest.raises(ValueError, match=r"x has shape \(3, 5\), expected \(batch, time, 5\)"):
        layer(x[:, 0])
    with pytest.raises(ValueError, match=r"x has shape \(3, 6, 4\), expected \(batch, time, 5\)"):
        layer(x[..., :4])
    with pytest.raises(ValueError, match=r"x has shape \(3, 6, 5\), expected \(batch, 5\)"):
        layer.step(x)
    with pytest.raises(ValueError, match=rf"state has shape \(2, {layer.state_size}\), expected \(batch, state_size\)"):
        layer(x, state[:2])
    with pytest.raises(ValueError, match=r"elapsed has shape \(3,\), expected a number, \(time,\) = \(6,\) or \(batch"):
        layer(x, elapsed=torch.ones(3))
    with pytest.raises(ValueError, match=r"elapsed has shape \(2,\), expected a number or \(batch,\) = \(3,\)"):
        layer.step(x[:, 0], elapsed=torch.ones(2))
    with pytest.raises(ValueError, match=r"mask has shape \(6, 3\), expected \(batch, time\) = \(3, 6\)"):
        layer(x, mask=torch.ones(6, 3, dtype=torch.bool))


def test_a_wrong_dtype_is_refused(layer, given):
    with pytest.raises(TypeError, match=r"mask has dtype torch.float32, expected torch.bool"):
        layer(given["x"], mask=torch.ones(BATCH, STEPS))
    with pytest.raises(TypeError, match=r"x is torch.float32, the state torch.float64"):
        layer(given["x"].float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "cfx"}, "unknown layer 'cfx': did you mean 'cfc'"),
        ({"mod": "pure"}, "no argument 'mod': did you mean 'mode'"),
        ({"mode": "fast"}, "mode is 'fast', expected one of"),
        ({"units": {"sensory": 5}}, "a circuit has the fields"),
        ({"units": 0}, "must be at least 1"),
    ],
)
def test_a_wrong_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_layer(CfC(INPUTS, 4).config | change)


@pytest.mark.parametrize(
    "build",
    [
        *(lambda n=n: CfC(INPUTS, 4, backbone_units=n) for n in (0, -1)),
        lambda: CfC(INPUTS, 4, backbone_layers=-1),
        *(lambda p=p: CfC(INPUTS, 4, backbone_dropout=p) for p in (-1, 1, float("nan"))),
        *(
            lambda e=e, kind=kind: kind(INPUTS, 4, epsilon=e)
            for e in (-1, float("nan"))
            for kind in (LTC, ClosedFormLTC)
        ),
        lambda: Leaky(INPUTS, 4, tau_min=float("inf")),
        *(
            lambda n=n, kind=kind: kind(INPUTS, n, output_size=2)
            for n in (0, -1)
            for kind in (MLP, GRU, LSTM, LiquidScan)
        ),
        lambda: LiquidScan(INPUTS, 4, tau_min=0.0),
        lambda: LiquidScan(INPUTS, 4, longest_tau=0.1),
        *(lambda n=n: PlasticMemory(INPUTS, n) for n in (0, -1, 3)),
        *(lambda o=o: PlasticMemory(INPUTS, 4, **{o: 0}) for o in ("heads", "key_size", "convolution")),
        lambda: PlasticMemory(INPUTS, 4, shortest_half_life=0.0),
        lambda: PlasticMemory(INPUTS, 4, longest_half_life=2.0),
        lambda: LAN(INPUTS, 4, heads=0),
        lambda: LAN(INPUTS, 4, window=1),
    ],
)
def test_a_number_that_no_layer_can_have_is_refused_by_its_name(build):
    with pytest.raises(ValueError, match=r"must be (at least|positive|in|a number).*given"):
        build()


def test_a_config_that_lacks_its_size_is_refused():
    with pytest.raises(ValueError, match="lacks 'units'"):
        build_layer({"layer": "ltc", "input_size": 3})


@pytest.mark.parametrize("form", ["auto", "reference"])
def test_an_empty_batch_gives_empty_outputs(layer, form, monkeypatch):
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", form)
    y, state = layer.float()(torch.zeros(0, STEPS, INPUTS))
    assert (y.shape, state.shape) == ((0, STEPS, layer.output_size), (0, layer.state_size))


@pytest.mark.parametrize("form", ["auto", "reference"])
def test_under_autocast_features_may_be_of_half_precision_and_times_and_states_are_not(layer, form, monkeypatch):
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", form)
    torch.manual_seed(0)
    layer = layer.float()
    x = torch.randn(BATCH, STEPS, INPUTS).bfloat16()
    state = (0.1 * torch.randn(BATCH, layer.state_size)).bfloat16()
    elapsed = torch.rand(BATCH, STEPS) * 3
    elapsed[1, 2] = 70_000.0
    with torch.autocast("cpu", torch.bfloat16):
        given = layer(x, state, elapsed)
    expected = layer(x.float(), state.float(), elapsed)
    for one, other in zip(given, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (pack_padded_sequence(torch.randn(2, 3, INPUTS), [3, 2], batch_first=True), None, "pad it .* and give mask="),
        (np.zeros((2, 3, INPUTS), np.float32), None, "x is a ndarray, expected one tensor"),
        (torch.zeros(2, 3, INPUTS), (torch.zeros(2, 4), torch.zeros(2, 4)), "state is a tuple, expected one tensor"),
    ],
    ids=["packed", "array", "tuple"],
)
def test_what_is_no_tensor_is_one_error(layer, x, state, message):
    with pytest.raises((ValueError, TypeError), match=message):
        layer(x, state)

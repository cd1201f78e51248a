"""The hybrid transformer: however a series is cut it answers the same, and it is elapsed time that counts."""

import json

import numpy as np
import pytest
import torch

from liquid_control.models.hybrid import CORES, HybridState, TransformerLNN
from liquid_control.nn import (
    GRU,
    Bidirectional,
    CfC,
    HybridMixer,
    Leaky,
    LiquidScan,
    MixedMemory,
    ResidualBlock,
    Stack,
    Wiring,
    build_layer,
)

INPUTS, HIDDEN, OUTPUTS, BATCH, TIME = 3, 8, 2, 3, 11
SMALL = {"output_size": OUTPUTS, "window": 5, "core": "scan", "layers": 2}
NCP = Wiring.auto(units=7, outputs=2)
KINDS = {
    "scan": {},
    "cfc": {"core": CfC(HIDDEN, NCP), "layers": 1},
    "no core": {"core": None},
    "no feed-forward": {"expansion": 0.0},
}


def network(**options):
    torch.manual_seed(1)
    return TransformerLNN(INPUTS, HIDDEN, 2, 0.1, **SMALL | options).double().eval()


@pytest.fixture(params=KINDS)
def model(request):
    return network(**KINDS[request.param])


@pytest.fixture
def series():
    """Inputs, times with gaps of all sizes, and a mask with holes at the beginning, within and at the end."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, TIME, INPUTS, generator=generator, dtype=torch.float64)
    times = torch.rand(BATCH, TIME, generator=generator, dtype=torch.float64).cumsum(1) * 3
    mask = torch.ones(BATCH, TIME, dtype=torch.bool)
    mask[0, :2] = mask[1, 4] = mask[1, 9:] = False
    return x, times, mask


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def same(state, other):
    close(state.layers, other.layers)
    assert torch.equal(state.time, other.time)


# Streaming


@pytest.mark.parametrize("cuts", [[4, 7], [1] * TIME, [TIME - 1, 1]])
def test_in_pieces_it_answers_as_at_once(model, series, cuts):
    y, final = model.read(*series)
    state, answers = None, []
    for piece in zip(*(part.split(cuts, 1) for part in series), strict=True):
        answer, state = model.read(*piece, state)
        answers.append(answer)
    close(torch.cat(answers, 1), y)
    same(state, final)
    close(model(*series), y)


def test_step_by_step_it_answers_as_at_once(model, series):
    x, times, _ = series
    y, final = model.read(x, times)
    state = model.initial_state(BATCH)
    for place in range(TIME):
        answer, state = model.step(x[:, place], times[:, place], state)
        close(answer, y[:, place])
    same(state, final)


def test_steps_without_times_are_one_apart(model, series):
    x, _, mask = series
    y = model(x)
    close(model(x, torch.arange(TIME)), y)
    close(model(x, torch.arange(TIME)[None].expand(BATCH, -1) + 100), y)
    state = None
    for place in range(TIME):
        answer, state = model.step(x[:, place], None, state)
        close(answer, y[:, place])
    for row, real in enumerate(mask):  # padding is no step
        close(model(x, None, mask)[row, real], model(x[row : row + 1, real])[0])


def test_its_state_has_one_size_and_sees_the_window(model):
    def state(length):
        return model.read(torch.zeros(1, length, INPUTS, dtype=torch.float64))[1]

    assert {state(length).bytes_per_sequence for length in (1, 5, 60)} == {state(0).bytes_per_sequence}
    assert state(3).rows(slice(0, 1)).detach().layers.shape == (1, model.blocks.state_size)


def test_attention_reaches_no_further_than_its_window():
    model, x = network(core=None, layers=1), torch.randn(1, TIME, INPUTS, dtype=torch.float64)
    other = x.clone()
    other[:, 3] += 1
    changed = (model(x) != model(other)).any(2)[0]
    assert changed.tolist() == [3 <= place < 3 + 5 for place in range(TIME)]


def test_a_state_of_one_row_goes_on_as_that_row(model, series):
    x, times, _ = series
    _, state = model.read(x, times)
    y, _ = model.read(x, times + 100, state=state)
    alone, _ = model.read(x[1:2], times[1:2] + 100, state=state.rows(slice(1, 2)))
    close(alone[0], y[1])


# What may matter, and what may not


def test_no_step_sees_a_later_one(model, series):
    x, times, mask = series
    y = model(x, times, mask)
    later, moved = x.clone(), times.clone()
    later[:, 6:] += 1
    moved[:, 6:] += 0.5
    changed = model(later, moved, mask)
    assert torch.equal(changed[:, :6], y[:, :6])
    assert (changed[:, 6] != y[:, 6]).any(1).all()


def test_a_network_that_may_look_ahead_does_and_has_no_state(series):
    x, times, mask = series
    model = network(causal=False)
    later = x.clone()
    later[:, 6:] += 1
    assert (model(later, times)[:, 2] != model(x, times)[:, 2]).any(1).all()
    for row, real in enumerate(mask):
        close(model(x, times, mask)[row, real], model(x[row : row + 1, real], times[row, real])[0])
    for call in (lambda: model.read(x), lambda: model.step(x[:, 0]), lambda: model.initial_state(2)):
        with pytest.raises(TypeError, match="looks ahead has no state to go on from"):
            call()


def test_padding_changes_nothing_and_its_output_is_zero(model, series):
    x, times, mask = series
    y, final = model.read(*series)
    assert not y[~mask].any()
    for row, real in enumerate(mask):
        alone, state = model.read(x[row : row + 1, real], times[row : row + 1, real])
        close(y[row, real], alone[0])
        same(final.rows(slice(row, row + 1)), state)


def test_what_padding_holds_does_not_matter_even_to_gradients(model, series):
    x, times, mask = series

    def learned(x, times):
        model.zero_grad()
        model(x, times, mask).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    spoiled, odd = x.clone(), times.clone()
    spoiled[~mask], odd[~mask] = torch.nan, torch.nan
    for given in ((spoiled, odd), (spoiled, torch.where(mask, times, -1e9))):
        for one, other in zip(learned(*given), learned(x, times), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("shift", [-7.0, 1e9])
def test_what_time_it_is_does_not_matter(model, series, shift):
    x, times, mask = series
    torch.testing.assert_close(model(x, times + shift, mask), model(x, times, mask), rtol=1e-5, atol=1e-6)


def test_how_much_time_passes_matters(model, series):
    x, times, _ = series
    assert (model(x, 2 * times)[:, 1:] != model(x, times)[:, 1:]).any(2).all()


def test_the_unit_of_time_is_a_unit(series):
    x, times, mask = series
    close(network(time_unit=60.0)(x, 60 * times, mask), network()(x, times, mask))


def test_a_clock_that_began_long_ago_loses_nothing(series):
    x, times, _ = series
    model, x = network().float(), x.float()
    days = (times / 3).round(decimals=3) + 2**30
    assert torch.equal(model(x, days), model(x, days - 2**30))


def test_steps_at_the_same_moment_are_answered_and_not_remembered(series):
    x, _, _ = series
    model = network()
    y, state = model.read(x[:, :3], torch.tensor([0.0, 1.0, 1.0]))
    _, earlier = model.read(x[:, :2], torch.tensor([0.0, 1.0]))
    assert y.isfinite().all() and (y[:, 2] != y[:, 1]).any()
    same(state, earlier)


def test_time_first_is_the_same_turned(series):
    x, times, mask = series
    model, turned = network(), network(batch_first=False)
    y, final = model.read(x, times, mask)
    other, state = turned.read(x.transpose(0, 1), times.T, mask.T)
    assert torch.equal(other.transpose(0, 1), y)
    same(state, final)
    close(turned(x.transpose(0, 1), times[0])[:, 1], model(x, times[0])[1])
    first, state = turned.step(x[:, 0], times[:, 0])
    close(first, model(x, times)[:, 0])


def test_one_answer_is_that_of_the_last_real_step(series):
    x, times, mask = series
    mask[2] = False
    y, model = network()(x, times, mask), network(answer="last")
    close(model(x, times, mask), torch.stack([y[0, -1], y[1, 8], torch.zeros(OUTPUTS, dtype=torch.float64)]))
    close(model(x, times), network()(x, times)[:, -1])
    close(model.step(x[:, 0])[0], network()(x)[:, 0])
    assert model(x[:, :0]).shape == (BATCH, OUTPUTS)


# Cores


def cores():
    yield from ((name, name) for name in CORES)
    yield "wired", CfC(HIDDEN, NCP)
    yield "stack", Stack([Leaky(HIDDEN, 4), CfC(4, 3, backbone_units=5, learn_initial_state=True)])
    yield "mixed_memory", MixedMemory(CfC(HIDDEN, 4, backbone_units=5))
    yield "residual", ResidualBlock(GRU(HIDDEN, HIDDEN))


CASES = dict(cores())


@pytest.mark.parametrize("core", CASES)
def test_any_layer_is_a_core(core, series):
    x, times, _ = series
    model = network(core=CASES[core], layers=1).train()
    y, final = model.eval().read(x, times)
    first, state = model.read(x[:, :5], times[:, :5])
    second, state = model.read(x[:, 5:], times[:, 5:], state=state)
    close(torch.cat([first, second], 1), y)
    close(state.layers, final.layers)
    assert model.blocks.layers[0].mixer.core.name in (core, "cfc")
    y.square().sum().backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


def test_every_layer_by_itself_is_a_core_by_name():
    assert {"cfc", "ltc", "ltc_closed_form", "lan", "leaky", "scan", "plastic", "plastic_memory", "lstm"} <= {*CORES}
    assert "bidirectional" not in CORES and "stack" not in CORES


def test_a_layer_that_is_given_is_the_first_core_and_others_are_like_it():
    core = CfC(HIDDEN, NCP)
    model = TransformerLNN(INPUTS, HIDDEN, 2, core=core, layers=2)
    first, second = (block.mixer.core for block in model.blocks.layers)
    assert first is core and second.config == core.config
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_dropout_acts_in_training_alone(series):
    x, times, _ = series
    model = network()
    assert torch.equal(model(x, times), model(x, times))
    model.train()
    assert not torch.equal(model(x, times), model(x, times))


# Torch's tools


@pytest.mark.parametrize("core", ["scan", "cfc", None])
def test_it_compiles_whole(core, series):
    torch._dynamo.reset()
    model = network(core=core, layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(*series), model(*series))


def test_weights_go_through_a_state_dict_and_layers_through_json(model, series):
    other = network(core=model.blocks.layers[0].mixer.core if hasattr(model.blocks.layers[0].mixer, "core") else None)
    built = build_layer(json.loads(json.dumps(model.blocks.config))).double().eval()
    other.blocks = built
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*series), model(*series))


# The prototype


def written_out(weights, x, times, mask, heads):
    """The prototype in loops: nothing but NumPy's exp and tanh and sums of products."""

    def linear(name, values):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return np.array([sum(w * v for w, v in zip(row, values, strict=True)) for row in weight]) + bias

    def sigmoid(values):
        return 1 / (1 + np.exp(-values))

    def layer_norm(name, values):
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        return (values - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    answers = np.zeros((*x.shape[:2], len(weights["output_proj.bias"])))
    for row, sequence in enumerate(x):
        h = [linear("input_proj", values) for values in sequence]
        size = len(h[0])
        inside = [weights["attention.in_proj_weight"] @ each + weights["attention.in_proj_bias"] for each in h]
        wide = size // heads
        attended = []
        for step in range(len(h)):
            heard = np.zeros(size)
            for head in range(heads):
                part = slice(head * wide, (head + 1) * wide)
                query = inside[step][:size][part]
                scores = []
                for other in range(len(h)):
                    key = inside[other][size : 2 * size][part]
                    blocked = mask is not None and mask[step, other]
                    scores.append(-np.inf if blocked else sum(query * key) / np.sqrt(wide))
                shares = np.exp(np.array(scores) - max(scores))
                shares /= sum(shares)
                for other, share in enumerate(shares):
                    heard[part] += share * inside[other][2 * size :][part]
            attended.append(linear("attention.out_proj", heard))
        a = [layer_norm("norm1", one + other) for one, other in zip(h, attended, strict=True)]
        state = np.zeros(size)
        for step, given in enumerate(a):
            features = linear("ltc.backbone.2", np.tanh(linear("ltc.backbone.0", np.concatenate([given, state]))))
            gate = sigmoid(-sigmoid(linear("ltc.time_net", features)) * times[row, step])
            state = gate * linear("ltc.state_net_g", features) + (1 - gate) * linear("ltc.state_net_h", features)
            answers[row, step] = linear("output_proj", layer_norm("norm2", state + given))
    return answers


@pytest.fixture
def prototype():
    torch.manual_seed(3)
    return TransformerLNN(INPUTS, HIDDEN, 2, output_size=OUTPUTS, equations="prototype").double().eval()


@pytest.mark.parametrize("masked", [False, True])
def test_the_prototype_is_what_it_was(prototype, series, masked):
    x, times, _ = series
    mask = torch.ones(TIME, TIME, dtype=torch.bool).triu(1) if masked else None
    weights = {name: value.numpy() for name, value in prototype.state_dict().items()}
    loops = written_out(weights, x.numpy(), times.numpy(), None if mask is None else mask.numpy(), 2)
    close(prototype(x, times, mask), torch.from_numpy(loops))
    numbered = np.broadcast_to(np.arange(TIME), (BATCH, TIME))
    loops = written_out(weights, x.numpy(), numbered, None if mask is None else mask.numpy(), 2)
    close(prototype(x, None, mask), torch.from_numpy(loops))


def test_the_faults_of_the_prototype_are_there_and_mended(prototype, series):
    x, times, _ = series
    later = x.clone()
    later[:, -1] += 1
    assert (prototype(later, times)[:, 0] != prototype(x, times)[:, 0]).any()
    assert not torch.allclose(prototype(x, times + 5), prototype(x, times), rtol=1e-2)
    late = prototype(x, times + 1000)
    assert torch.allclose(late, prototype(x, times + 2000))  # its gate is shut: time no longer matters
    mended = network()
    assert torch.allclose(mended(x, times + 1000), mended(x, times), atol=1e-6)


def test_weights_of_the_prototype_load_without_what_it_never_used(prototype):
    weights = {name: 2 * value for name, value in prototype.state_dict().items()}
    unused = {"ltc.tau": torch.ones(HIDDEN), "ltc.A": torch.randn(HIDDEN)}
    prototype.load_state_dict(weights | unused)
    assert all(torch.equal(value, weights[name]) for name, value in prototype.state_dict().items())


def test_all_parameters_of_the_prototype_learn(prototype, series):
    x, times, _ = series
    prototype(x, times).square().sum().backward()
    # A key that is moved for all steps alike moves no share of attention: softmax sees differences alone.
    assert [name for name, value in prototype.named_parameters() if not value.grad.any()] == []


# What is refused


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda times: times.flip(1), r"times go backwards: batch row 0, step 1 is at .*, the one before at .*Sort"),
        (lambda times: times.index_fill(1, torch.tensor([4]), torch.nan), "batch row 0, step 4 is nan, expected a fin"),
        (lambda times: times.index_fill(1, torch.tensor([10]), torch.inf), "step 10 is inf, expected a finite one"),
        (lambda times: times[:, :-1], r"times have shape \(3, 10\), expected \(11,\) or \(3, 11\)"),
        (lambda times: times[..., None], r"times have shape \(3, 11, 1\)"),
    ],
)
def test_impossible_times_are_one_error(series, spoil, message):
    x, times, _ = series
    for model in (network(), TransformerLNN(INPUTS, HIDDEN, 2, equations="prototype").double()):
        with pytest.raises(ValueError, match=message):
            model(x, spoil(times))


def test_times_before_those_that_were_read_are_one_error(series):
    x, times, _ = series
    model = network()
    _, state = model.read(x, times)
    with pytest.raises(ValueError, match="times go backwards: batch row 0, step 0"):
        model.read(x, times, state=state)
    with pytest.raises(ValueError, match=r"times go backwards: batch row 0, step 0 is at 0\.0"):
        model.step(x[:, 0], 0.0, state)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(BATCH, TIME), TypeError, "dtype torch.float32, expected a tensor of torch.bool, True where"),
        (np.ones((BATCH, TIME), bool), TypeError, "is of ndarray, expected a tensor of torch.bool"),
        (torch.ones(TIME, TIME, dtype=torch.bool), ValueError, r"shape \(11, 11\), expected one entry a step, \(3, 11"),
        (torch.ones(TIME, dtype=torch.bool), ValueError, r"mask has shape \(11,\)"),
    ],
)
def test_a_mask_of_another_shape_or_kind_is_one_error(series, mask, error, message):
    with pytest.raises(error, match=message):
        network()(series[0], series[1], mask)


def test_other_shapes_are_one_error(series):
    x, times, mask = series
    model = network()
    with pytest.raises(ValueError, match=r"x has shape \(3, 11\), expected \(batch, time, 3\)"):
        model(x[..., 0])
    with pytest.raises(ValueError, match=r"expected \(time, batch, 3\)"):
        network(batch_first=False)(x[..., :2])
    with pytest.raises(ValueError, match=r"x has shape \(3, 11, 3\), expected \(batch, 3\)"):
        model.step(x)
    with pytest.raises(ValueError, match=r"time has shape \(2,\), expected a number or \(batch,\) = \(3,\)"):
        model.step(x[:, 0], torch.zeros(2))
    with pytest.raises(ValueError, match="the state is of 2 sequences, the inputs are of 3"):
        model.read(x, times, mask, model.initial_state(2))
    with pytest.raises(ValueError, match="state has shape"):
        model.read(x, state=HybridState(torch.zeros(BATCH, 2), model.initial_state(BATCH).time))
    with pytest.raises(TypeError, match=r"times are torch.bool, expected real numbers"):
        model(x, mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": "cfx"}, "no core 'cfx': did you mean 'cfc'"),
        ({"core": "stack"}, "no core 'stack': give the layer itself"),
        ({"core": CfC(HIDDEN + 1, 4)}, "the core takes 9 inputs, expected 8"),
        ({"core": Bidirectional(GRU(HIDDEN, 4), GRU(HIDDEN, 4))}, "the core looks ahead"),
        ({"core": HybridMixer(HIDDEN, LiquidScan(HIDDEN, 4), heads=2)}, "the core is a hybrid itself"),
        ({"layers": 0}, "layers must be at least 1, given 0"),
        ({"window": 1}, "window must be at least 2"),
        ({"expansion": -1.0}, "expansion must be at least 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"time_unit": 0.0}, "time_unit must be positive"),
        ({"answer": "first"}, "answer is 'first', expected one of"),
        ({"equations": "liquid"}, "equations is 'liquid', expected one of"),
        ({"equations": "prototype", "window": 5}, "the equations of the prototype have no window"),
        ({"num_heads": 3}, "units must be a multiple of 2"),
    ],
)
def test_numbers_that_do_not_go_together_are_one_error(options, message):
    with pytest.raises(ValueError, match=message):
        TransformerLNN(**{"input_size": INPUTS, "hidden_size": HIDDEN, "num_heads": 2} | options)


def test_the_prototype_refuses_other_masks_and_has_no_state(prototype, series):
    x, _, mask = series
    with pytest.raises(ValueError, match=r"expected \(time, time\) = \(11, 11\): the prototype's mask"):
        prototype(x, None, mask)
    with pytest.raises(TypeError, match=r"mask has dtype torch.int64"):
        prototype(x, None, torch.ones(TIME, TIME, dtype=torch.int64))
    with pytest.raises(TypeError, match="looks ahead has no state"):
        prototype.read(x)

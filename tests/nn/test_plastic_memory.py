"""Heads of fast weights: what they recall and overwrite, how they forget, and their forms beside the token loop."""

import math

import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from liquid_control.nn import PlasticMemory
from liquid_control.nn.trace import RULES

DOUBLE = torch.float64
INPUTS, BATCH = 5, 3
SIZE = 8


def outcome(layer, arguments):
    """Outputs, the final state, and the gradients of inputs, state, elapsed times and parameters."""
    leaves = [arguments[name].clone().requires_grad_() for name in ("x", "state", "elapsed")]
    y, final = layer(*leaves, arguments["mask"])
    gradients = torch.autograd.grad(y.square().sum() + final.sin().sum(), [*leaves, *layer.parameters()])
    return [y.detach(), final.detach(), *gradients]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 2, 63, 65, 131])
@pytest.mark.parametrize("masked", [False, True])
def test_chunks_and_a_single_step_give_what_the_token_loop_gives_with_every_gradient(rule, steps, masked, monkeypatch):
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 6, 3, key_size=4, rule=rule).to(DOUBLE)
    elapsed = 3 * torch.rand(BATCH, steps, dtype=DOUBLE)
    mask = torch.rand(BATCH, steps) < 0.8
    given = {
        "x": torch.randn(BATCH, steps, INPUTS, dtype=DOUBLE),
        "state": torch.randn(BATCH, layer.state_size, dtype=DOUBLE),
        "elapsed": elapsed.where(torch.rand(BATCH, steps) < 0.9, 0) if masked else elapsed,
        "mask": mask if masked else None,
    }
    found = outcome(layer, given)
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    for one, other in zip(found, outcome(layer, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [2, 63, 65, 131])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_eligible_is_the_same_in_chunks_with_every_gradient(steps, masked, monkeypatch):
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 6, 3, key_size=4, rule="hebb", eligibility=True).to(DOUBLE)
    elapsed = 3 * torch.rand(BATCH, steps, dtype=DOUBLE)
    given = {
        "x": torch.randn(BATCH, steps, INPUTS, dtype=DOUBLE),
        "state": torch.randn(BATCH, layer.state_size, dtype=DOUBLE),
        "elapsed": elapsed.where(torch.rand(BATCH, steps) < 0.9, 0) if masked else elapsed,
        "mask": torch.rand(BATCH, steps) < 0.8 if masked else None,
    }
    found = outcome(layer, given)
    monkeypatch.setenv("LIQUID_CONTROL_KERNELS", "reference")
    for one, other in zip(found, outcome(layer, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_signal_writes_what_was_said_before_it_and_a_negative_one_takes_it_back():
    """λ = 1, μ = 1/2, η the last input: what was said two steps before the signal is written with a quarter."""
    layer, values = scribe("hebb", eligibility=True), some(3)
    said = facts([0, 1, 2], values, write=0.0)
    signal = facts([5], torch.zeros(1, 4, dtype=DOUBLE), write=1.0)
    _, before = layer(said)
    assert not layer.unpack(before)["trace"].any()
    _, after = layer(signal, before)
    for key, share in ((0, 1 / 8), (1, 1 / 4), (2, 1 / 2), (5, 0)):
        torch.testing.assert_close(recalled(layer, after, key), share * values[key % 3], rtol=1e-9, atol=1e-6)
    _, taken = layer(torch.cat([said, -signal], 1))
    torch.testing.assert_close(recalled(layer, taken, 2), -values[2] / 2, rtol=1e-9, atol=1e-6)
    layer.freeze("eligibility")
    torch.testing.assert_close(
        layer.unpack(layer(said, after)[1])["eligibility"], layer.unpack(after)["eligibility"], rtol=0, atol=0
    )


def test_numbers_stay_finite_where_nothing_or_everything_is_eligible():
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8, rule="hebb", eligibility=True)
    for bias, elapsed in ((-1e4, 1.0), (1e4, 1e30), (0.0, 1e-30)):
        with torch.no_grad():
            layer.modulator.bias.fill_(bias)
        given = {
            "x": 10 * torch.randn(2, 70, INPUTS),
            "state": torch.randn(2, layer.state_size),
            "elapsed": torch.full((2, 70), elapsed),
            "mask": None,
        }
        assert all(value.isfinite().all() for value in outcome(layer, given))


# What it recalls: inputs [key | value | write?], of which the projections take their part as it is


def test_an_eligibility_is_of_the_hebbian_rule():
    with pytest.raises(ValueError, match="an eligibility needs the rule 'hebb', given 'delta'"):
        PlasticMemory(INPUTS, 4, rule="delta", eligibility=True)
    with pytest.raises(ValueError, match="signed η: timed_writing must be False"):
        PlasticMemory(INPUTS, 4, rule="hebb", eligibility=True, timed_writing=True)


def scribe(rule, values=4, eligibility=False, timed_writing=False):
    """A memory whose keys, queries and values are inputs, and that writes where the last input says so, forgetting not.

    Inputs are large, so that they pass SiLU, and the floor of a unit length, unchanged.
    """
    options = {"heads": 1, "key_size": SIZE, "rule": rule, "convolution": 1, "eligibility": eligibility}
    options["timed_writing"] = timed_writing
    layer = PlasticMemory(SIZE + values + 1, values, **options).to(DOUBLE)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        keys = torch.eye(SIZE, SIZE + values + 1)
        layer.project.weight.copy_(torch.cat([keys, keys, torch.eye(SIZE + values + 1)[SIZE:-1]]))
        layer.taps.fill_(1)
        layer.gain.fill_(1)
        layer.gate.bias.fill_(100)  # SiLU(100) = 100
        biases = [-1e3, 0.0, 0.0] if eligibility else [-1e3, -1e3]  # f = 0, η = 0, and μ = 1/2
        layer.modulator.bias.copy_(torch.tensor(biases))
        layer.modulator.weight[1, -1] = 2e3
    return layer


def facts(keys, values, write=1.0):
    """(1, T, C) inputs that write values (T, V) under the keys (T,) of a basis."""
    address = 1e6 * F.one_hot(torch.tensor(keys), SIZE).to(DOUBLE)
    return torch.cat([address, values, torch.full((len(keys), 1), write, dtype=DOUBLE)], 1)[None]


def recalled(layer, state, key):
    return layer.unpack(state)["trace"][0, 0, :, key]


def some(count):
    torch.manual_seed(0)
    return 100 + torch.rand(count, 4, dtype=DOUBLE)


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_what_is_written_under_orthonormal_keys_is_recalled(rule):
    layer, values = scribe(rule), some(SIZE)
    _, state = layer(facts(list(range(SIZE)), values))
    for key in range(SIZE):
        torch.testing.assert_close(recalled(layer, state, key), values[key], rtol=1e-12, atol=0)
        # What is put out is the direction of it, through the open gate; asking in no time changes nothing.
        heard, after = layer.step(facts([key], values[:1])[0], state, 0.0)
        torch.testing.assert_close(heard[0], 100 * values[key] / values[key].square().mean().sqrt(), rtol=1e-8, atol=0)
        assert torch.equal(after, state)


def test_the_delta_rule_overwrites_and_hebb_adds():
    values = some(3)
    for rule, expected in (("delta", values[2]), ("hebb", values[0] + values[2])):
        layer = scribe(rule)
        _, state = layer(facts([1, 4, 1], values))
        torch.testing.assert_close(recalled(layer, state, 1), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(recalled(layer, state, 4), values[1], rtol=1e-12, atol=0)


def test_what_the_modulator_lets_pass_is_not_written():
    layer, values = scribe("delta"), some(4)
    _, taught = layer(facts([0, 1], values[:2]))
    _, after = layer(facts([0, 1], values[2:], write=0.0), taught)
    assert torch.equal(after, taught)


def test_oja_replaces_what_led_to_a_value():
    """Under the oja rule a value of unit length is one that H, read backwards, leads to the last key of."""
    layer = scribe("oja", values=2)
    value = torch.tensor([[100.0, 0.0]], dtype=DOUBLE).expand(2, -1)
    _, state = layer(facts([3, 5], value))
    backwards = layer.unpack(state)["trace"][0, 0, 0]
    torch.testing.assert_close(backwards, F.one_hot(torch.tensor(5), SIZE).to(DOUBLE), rtol=0, atol=1e-9)


# How it forgets, and what it keeps


def test_half_lives_begin_log_spaced_and_are_what_a_trace_fades_with():
    layer = PlasticMemory(3, 8, heads=4, rule="hebb", shortest_half_life=2.0, longest_half_life=1024.0).to(DOUBLE)
    nothing = torch.zeros(1, 3, dtype=DOUBLE)
    half_lives = layer.half_lives(nothing)[0]
    expected = torch.tensor([1024.0, 128.0, 16.0, 2.0], dtype=DOUBLE)
    torch.testing.assert_close(half_lives, expected, rtol=1e-4, atol=0)
    state = torch.zeros(1, layer.state_size, dtype=DOUBLE)
    trace = layer.unpack(state)["trace"]
    trace[:] = 1
    after = layer.unpack(layer.step(nothing, state, 3.0)[1])["trace"][0, :, 0, 0]
    torch.testing.assert_close(after, 2 ** (-3 / half_lives))


def test_one_head_begins_with_the_longest_half_life():
    layer = PlasticMemory(3, 4, heads=1)
    assert layer.half_lives(torch.zeros(3)).item() == pytest.approx(4096, rel=1e-3)


def test_time_multiplies_forgetting_and_not_writing():
    """A fact written after a long time is written whole; what stood there before is gone by the power of that time."""
    layer, values = scribe("hebb"), some(2)
    with torch.no_grad():
        layer.modulator.bias[0] = 0  # λ = 1/2
    _, state = layer(facts([2, 2], values), elapsed=torch.tensor([1.0, 5.0], dtype=DOUBLE))
    torch.testing.assert_close(recalled(layer, state, 2), values[0] / 2**5 + values[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_timed_writing_is_that_of_as_many_steps_of_one(rule):
    """Under the delta rule exactly so; a Hebbian write stays below one, and begins like its time."""
    layer, values = scribe(rule, timed_writing=True), some(2)
    with torch.no_grad():
        layer.modulator.bias[1] = math.log(1 / 7)  # η = 1/8
        layer.modulator.weight[1] = 0
    first = facts([2], values[:1])
    _, once = layer(first, elapsed=3.0)
    _, thrice = layer(first.expand(-1, 3, -1))
    share = 1 - (7 / 8) ** 3
    torch.testing.assert_close(recalled(layer, once, 2), share * values[0], rtol=1e-12, atol=0)
    if rule == "delta":
        torch.testing.assert_close(recalled(layer, thrice, 2), share * values[0], rtol=1e-12, atol=0)
    untimed = scribe(rule)
    untimed.load_state_dict(layer.state_dict())
    both = facts([2, 2], values)
    torch.testing.assert_close(layer(both)[1], untimed(both)[1], rtol=1e-12, atol=0)  # each step takes one
    torch.testing.assert_close(layer.writing(first), untimed.writing(first), rtol=1e-12, atol=0)
    torch.testing.assert_close(untimed(first, elapsed=3.0)[1], untimed(first)[1])


def test_a_question_in_no_time_is_answered_and_leaves_no_mark():
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8).to(DOUBLE)
    x, question = torch.randn(2, 9, INPUTS, dtype=DOUBLE), torch.randn(2, 1, INPUTS, dtype=DOUBLE)
    elapsed = torch.ones(2, 10, dtype=DOUBLE)
    elapsed[:, 4] = 0
    y, state = layer(torch.cat([x[:, :4], question, x[:, 4:]], 1), elapsed=elapsed)
    without, final = layer(x)
    torch.testing.assert_close(torch.cat([y[:, :4], y[:, 5:]], 1), without)
    torch.testing.assert_close(state, final)
    answer = layer(torch.cat([x[:, :4], question], 1))[0][:, 4]
    torch.testing.assert_close(
        y[:, 4], answer
    )  # a trace is read before it is written: the answer of a step is the same


def test_the_convolution_sees_so_many_steps_and_no_more():
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8, convolution=3).to(DOUBLE)
    layer.freeze("trace")  # so that only queries tell of earlier steps
    state, x = torch.randn(1, layer.state_size, dtype=DOUBLE), torch.randn(1, 6, INPUTS, dtype=DOUBLE)
    last, seen = layer(x, state)[0][:, 5], []
    for step in range(6):
        changed = x.clone()
        changed[:, step] += 1
        seen.append(not torch.equal(layer(changed, state)[0][:, 5], last))
    assert seen == [False, False, False, True, True, True]


def test_the_size_of_the_state_is_that_of_the_traces_and_the_tail():
    layer = PlasticMemory(INPUTS, 12, heads=3, key_size=7)
    sizes = {layer(torch.zeros(1, steps, INPUTS))[1].shape for steps in (1, 10, 300)}
    assert sizes == {(1, 3 * 4 * 7 + 3 * 3 * (7 + 7 + 4))}
    parts = layer.unpack(torch.zeros(2, layer.state_size))
    assert (parts["trace"].shape, parts["tail"].shape) == ((2, 3, 4, 7), (2, 3, 54))


def test_a_frozen_trace_is_read_and_stays():
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8)
    x, state = torch.randn(2, 9, INPUTS), torch.randn(2, layer.state_size)
    living, after = layer(x, state)
    layer.freeze("trace")
    frozen, held = layer(x, state)
    assert torch.equal(layer.unpack(held)["trace"], layer.unpack(state)["trace"])
    assert torch.equal(layer.unpack(held)["tail"], layer.unpack(after)["tail"])
    assert torch.equal(frozen[:, 0], living[:, 0]) and not torch.allclose(frozen, living)
    layer.freeze()
    assert torch.equal(layer(x, state)[1], after)
    with pytest.raises(ValueError, match="the state has no part 'tail', expected one of 'trace'"):
        layer.freeze("tail")


# Numbers


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("bias", "elapsed"), [(-1e4, 1.0), (-30.0, 1e-8), (30.0, 1e8), (1e4, 1e30), (0.0, 1e-30)])
def test_values_and_gradients_are_finite_for_any_forgetting_and_time(rule, dtype, bias, elapsed):
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8, rule=rule).to(dtype)
    with torch.no_grad():
        layer.modulator.bias[:2] = bias
    given = {
        "x": 10 * torch.randn(2, 70, INPUTS, dtype=dtype),
        "state": torch.randn(2, layer.state_size, dtype=dtype),
        "elapsed": torch.full((2, 70), elapsed, dtype=dtype),
        "mask": None,
    }
    assert all(value.isfinite().all() for value in outcome(layer, given))


@pytest.mark.parametrize("rule", ["oja", "delta"])
def test_a_trace_stays_bounded_when_one_thing_is_said_again_and_again(rule):
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 16, rule=rule)
    with torch.no_grad():
        layer.modulator.bias[2:] = 10
        x = torch.randn(2, 1, INPUTS).expand(-1, 3000, -1)
        said = [layer.unpack(layer(x[:, :steps])[1])["trace"].norm() for steps in (30, 3000)]
    assert said[1] <= said[0] * 1.01


def test_nothing_at_all_reads_as_nothing_with_gradients_that_are_bounded():
    layer = PlasticMemory(INPUTS, 8)
    x = torch.zeros(1, 5, INPUTS, requires_grad=True)
    y, _ = layer(x)
    assert torch.equal(y, torch.zeros_like(y))
    layer(x + 1e-20 * torch.randn_like(x))[0].sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() < 1e3


def test_in_half_precision_a_sequence_is_remembered_in_single():
    """In bfloat16 a decay of 0.9998 is 1, and what is written late would be lost beside what is there."""
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8, rule="hebb")
    half = PlasticMemory(INPUTS, 8, rule="hebb").bfloat16()
    half.load_state_dict(layer.state_dict())
    layer.load_state_dict(half.state_dict())
    x = torch.randn(2, 600, INPUTS).bfloat16()
    found, expected = half(x)[1].float(), layer(x.float())[1]
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_torch_compile_keeps_the_whole_sequence_in_one_graph():
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = PlasticMemory(INPUTS, 8, 3)
    x, elapsed, mask = torch.randn(2, 70, INPUTS), 2 * torch.rand(2, 70), torch.rand(2, 70) < 0.8
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(x, None, elapsed, mask), layer(x, None, elapsed, mask), strict=True):
        torch.testing.assert_close(found, expected)


def test_gradients_reach_what_decides_about_forgetting_and_writing():
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8, 2)
    layer(torch.randn(2, 20, INPUTS))[0].square().sum().backward()
    for name in ("modulator.weight", "modulator.bias", "taps", "gain"):
        assert (layer.get_parameter(name).grad != 0).all(), name


@pytest.mark.parametrize("wrong", [{"rule": "anti"}, {"longest_half_life": math.inf}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected one of|must be positive and finite"):
        PlasticMemory(INPUTS, 8, **wrong)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_step_is_an_onnx_model():
    """ONNX can solve no triangular system; a step has none."""
    torch.manual_seed(0)
    layer = PlasticMemory(INPUTS, 8, 3).requires_grad_(False)
    given = torch.randn(2, INPUTS), torch.randn(2, layer.state_size), torch.rand(2)

    class Step(torch.nn.Module):
        def forward(self, x, state, elapsed):
            return layer.step(x, state, elapsed)

    program = torch.onnx.export(Step(), given, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [of.name for of in session.get_inputs()]
    found = session.run(None, dict(zip(names, (part.numpy() for part in given), strict=True)))
    for one, other in zip(found, layer.step(*given), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-5, atol=1e-5)

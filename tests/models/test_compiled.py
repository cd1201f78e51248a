"""A language model that speaks without torch says what it says with it."""

from itertools import islice

import numpy as np
import pytest
import torch

from liquid_control.models.compiled import CompiledLanguageModel, PlainReader, can_be_compiled, read_on
from liquid_control.models.generation import Generation, distribution, sample
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig, ReadingState

VOCABULARY = 50


def small(dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"width": 16, "blocks": 2, "pattern": ("memory",), "vocabulary": VOCABULARY} | options
    model = LanguageModel(LanguageModelConfig(**options)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def read(model, count=9):
    tokens = torch.randint(VOCABULARY, (1, count), generator=torch.Generator().manual_seed(1))
    return model.read(tokens)[1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("options", [{}, {"rule": "oja"}, {"rule": "hebb", "convolution": 1, "heads": 4}])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_compiled_model_reads_as_the_model_does(dtype, tolerance, options, frozen):
    model = small(dtype, **options)
    state = read(model).freeze(frozen)
    fast, plain = read_on(model, state), PlainReader(model, state)
    assert isinstance(fast, CompiledLanguageModel)
    for token in (3, 0, 3, VOCABULARY - 1, 7):
        torch.testing.assert_close(fast.step(token), plain.step(token), rtol=0, atol=tolerance)
    assert fast.state.frozen == frozen
    for name, layer in plain.state.layers.items():
        torch.testing.assert_close(fast.state.layers[name], layer, rtol=0, atol=tolerance)
    if frozen:
        assert all(torch.equal(trace, fast.state.synapses()[part]) for part, trace in state.synapses().items())


@pytest.mark.parametrize("pattern", [("memory",), ("scan",)])
def test_a_model_of_many_blocks_goes_on_from_a_file_as_from_the_state(tmp_path, pattern):
    """A file has states by the names of their layers, blocks.10 before blocks.2."""
    model = small(width=4, blocks=12, pattern=pattern)
    state = read(model)
    state.save(tmp_path / "state.safetensors", model)
    loaded = ReadingState.load(tmp_path / "state.safetensors", model)
    assert list(loaded.layers) == list(state.layers)
    mixed = ReadingState(dict(sorted(state.layers.items())), state.parts, state.frozen)
    wanted = PlainReader(model, state).step(3)
    for given in (state, loaded, mixed):
        reader = read_on(model, given)
        torch.testing.assert_close(reader.step(3), wanted, rtol=0, atol=1e-10)
        for name, layer in reader.state.layers.items():
            torch.testing.assert_close(layer, model.step(torch.tensor([3]), state)[1].layers[name])


def test_what_it_reads_leaves_the_state_that_it_was_given():
    model = small()
    state = read(model)
    before = {name: layer.clone() for name, layer in state.layers.items()}
    reader = read_on(model, state)
    reader.step(1)
    after = reader.state
    reader.step(2)
    assert all(torch.equal(state.layers[name], layer) for name, layer in before.items())
    assert not any(torch.equal(after.layers[name], reader.state.layers[name]) for name in before)


@pytest.mark.parametrize("pattern", [("scan",), ("memory", "attention"), ("deep",)])
def test_other_mixers_are_read_by_the_model_itself(pattern):
    model = small(pattern=pattern)
    assert not can_be_compiled(model)
    state = read(model)
    expected, after = model.step(torch.tensor([5]), state)
    reader = read_on(model, state)
    assert torch.equal(reader.step(5), expected[0])
    assert all(torch.equal(reader.state.layers[name], layer) for name, layer in after.layers.items())


def test_a_generation_says_what_the_model_would_say():
    model = small()
    state = read(model)
    logits = model(torch.tensor([[4]]), state).logits[0, 0]
    spoken = Generation(model, logits, state, temperature=0.9, top_p=0.8, seed=3)
    rng, expected = torch.Generator().manual_seed(3), []
    for _ in range(30):
        expected.append(sample(logits, 0.9, 0.8, rng))
        following, state = model.step(torch.tensor(expected[-1:]), state)
        logits = following[0]
    assert list(islice(spoken, 30)) == expected
    for name, layer in state.layers.items():
        np.testing.assert_allclose(spoken.state.layers[name], layer, rtol=0, atol=1e-10)


def test_next_to_no_temperature_is_none():
    logits, rng = torch.tensor([1.0, 3.0, 2.0]), torch.Generator()
    assert all(sample(logits, temperature, 0.9, rng) == 1 for temperature in (0, 1e-45, 1e-40, 1e-30, 1e-3))


@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-40, 1e-46, 1e-300])
def test_a_temperature_beyond_float32_is_none(temperature):
    logits, rng = torch.tensor([1.0, 3.0, 2.0]), torch.Generator()
    assert sample(logits, temperature, 0.9, rng) == 1
    assert distribution(logits, temperature, 0.9).tolist() == [0, 1, 0]


@pytest.mark.parametrize("top_p", [1e-30, 1e-46, 1e-320])
def test_the_likeliest_is_drawn_whatever_share_is_asked_for(top_p):
    logits, rng = torch.tensor([1.0, 3.0, 2.0]), torch.Generator()
    assert sample(logits, 0.8, top_p, rng) == 1
    assert distribution(logits, 0.8, top_p).tolist() == [0, 1, 0]


def test_wrong_arguments_are_refused():
    model = small()
    with pytest.raises(ValueError, match="is of 2 texts, expected one"):
        CompiledLanguageModel(model, model.initial_state(2))
    with pytest.raises(ValueError, match=f"token {VOCABULARY} is unknown"):
        read_on(model, model.initial_state(1)).step(VOCABULARY)

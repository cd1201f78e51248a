"""The language model: however a text is cut it reads the same, nothing looks ahead, and what it learned can be kept."""

import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from liquid_control.models.language_model import (
    LanguageModel,
    LanguageModelConfig,
    OriginCell,
    ReadingState,
    load_language_model,
)
from liquid_control.support.errors import UserError

VOCABULARY, BATCH, TIME = 11, 3, 14
SMALL = LanguageModelConfig(vocabulary=VOCABULARY, width=8, blocks=2, window=5, liquid_steps=3)
MODELS = {
    **{rule: dataclasses.replace(SMALL, rule=rule) for rule in ("hebb", "oja", "delta")},
    "all mixers": dataclasses.replace(SMALL, blocks=5, pattern=("scan", "memory", "attention", "deep", "lstm")),
    "hybrid": dataclasses.replace(SMALL, pattern=("hybrid",), core="memory"),
    "hybrids of a scan": dataclasses.replace(SMALL, pattern=("hybrid", "hybrid", "attention"), blocks=3),
    "origin": dataclasses.replace(SMALL, variant="origin", blocks=4),
    "origin without plasticity": dataclasses.replace(SMALL, variant="origin", plastic=False),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(1)
    model = LanguageModel(MODELS[request.param]).double()
    with torch.no_grad():
        model.embedding.weight.mul_(4)  # tokens that matter from the start
    return model


@pytest.fixture
def tokens():
    return torch.randint(VOCABULARY, (BATCH, TIME), generator=torch.Generator().manual_seed(2))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_in_pieces_it_reads_as_at_once(model, tokens):
    whole = model(tokens)
    for cuts in ([5, 9], [1] * TIME, [TIME - 1, 1]):
        state, logits = None, []
        for piece in tokens.split(cuts, 1):
            reading = model(piece, state)
            logits.append(reading.logits)
            state = reading.state
        close(torch.cat(logits, 1), whole.logits)
        close(dict(state.layers), dict(whole.state.layers))


def test_step_by_step_it_reads_as_at_once(model, tokens):
    state = model.initial_state(BATCH)
    for place, token in enumerate(tokens.unbind(1)):
        logits, state = model.step(token, state)
        close(logits, model(tokens).logits[:, place])


def test_in_stretches_it_reads_as_at_once(model, tokens):
    logits, state = model.read(tokens, stretch=4)
    whole = model(tokens)
    close(logits, whole.logits[:, -1])
    close(dict(state.layers), dict(whole.state.layers))


def test_no_token_sees_a_later_one(model, tokens):
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 1) % VOCABULARY
    one, another = model(tokens).logits, model(other).logits
    close(one[:, :7], another[:, :7])
    assert (one[:, 7] != another[:, 7]).any()


def test_no_text_sees_another(model, tokens):
    other = tokens.clone()
    other[1:] = (other[1:] + 1) % VOCABULARY
    one, another = model(tokens), model(other)
    close(one.logits[0], another.logits[0])
    assert (one.logits[1] != another.logits[1]).any()
    close(one.state.rows([0]).layers, another.state.rows([0]).layers)


def test_padding_changes_nothing(model, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 9:], mask[1, :4] = False, False
    reading = model(tokens, mask=mask)
    for row, real in enumerate(mask):
        alone = model(tokens[row : row + 1, real])
        close(reading.logits[row : row + 1, real], alone.logits)
        close(reading.state.rows([row]).layers, alone.state.layers)


def test_all_parameters_learn_from_a_text(model, tokens):
    reading = model(tokens)
    loss = F.cross_entropy(reading.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    if reading.ponder is not None:
        loss = loss + 0.01 * reading.ponder.mean()
    loss.backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert idle == []


def test_a_saved_model_reads_the_same(model, tokens, tmp_path):
    model = model.float()
    model.save(tmp_path / "model", {"tokenizer": {"name": "bytes"}})
    loaded, told = load_language_model(tmp_path / "model")
    assert told == {"tokenizer": {"name": "bytes"}}
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_the_head_is_the_embedding_and_the_count_counts_it_once():
    model = LanguageModel(SMALL)
    assert model.parameter_count() == len(torch.cat([value.flatten() for value in model.state_dict().values()]))
    assert f"{model.parameter_count():,} parameters, of which the embedding 88" in model.describe()


# The state


@pytest.fixture
def reader():
    torch.manual_seed(3)
    return LanguageModel(dataclasses.replace(SMALL, pattern=("memory", "scan"), longest_half_life=1e6)).eval()


def test_a_state_is_saved_and_goes_on_in_another_process_as_if_nothing_had_been(reader, tokens, tmp_path):
    state = reader(tokens).state
    state.save(tmp_path / "memory.safetensors", reader)
    loaded = ReadingState.load(tmp_path / "memory.safetensors", reader)
    assert loaded.layers.keys() == state.layers.keys()
    assert torch.equal(reader(tokens, loaded).logits, reader(tokens, state).logits)


def test_its_size_does_not_grow_with_what_was_read(reader):
    sizes = {reader(torch.zeros(1, length, dtype=torch.int64)).state.bytes_per_text for length in (1, 10, 300)}
    assert sizes == {reader.initial_state(1).bytes_per_text}


def test_synapses_and_all_the_rest_are_reset_apart(reader, tokens):
    state, fresh = reader(tokens).state, reader.initial_state(BATCH)
    both, only = state.reset(), state.reset(traces=False)
    assert all(torch.equal(both.layers[name], fresh.layers[name]) for name in fresh.layers)
    kept, left = state.synapses(), only.synapses()
    assert list(kept) == ["blocks.0.trace"] and torch.equal(kept["blocks.0.trace"], left["blocks.0.trace"])
    assert not only.layers["blocks.1"].any() and not only.layers["blocks.0"][:, -1].any()
    forgotten = state.reset(rest=False)
    assert not forgotten.synapses()["blocks.0.trace"].any() and torch.equal(
        forgotten.layers["blocks.1"], state.layers["blocks.1"]
    )


def test_it_takes_the_synapses_of_another(reader, tokens):
    one, other = reader(tokens).state, reader(tokens.flip(1)).state
    mixed = one.with_traces_of(other)
    assert torch.equal(mixed.synapses()["blocks.0.trace"], other.synapses()["blocks.0.trace"])
    assert torch.equal(mixed.layers["blocks.1"], one.layers["blocks.1"])


def test_frozen_synapses_are_read_and_not_written(reader, tokens):
    taught = reader(tokens).state
    after = reader(tokens, taught.freeze()).state
    assert after.frozen
    assert torch.equal(after.synapses()["blocks.0.trace"], taught.synapses()["blocks.0.trace"])
    assert not torch.equal(after.layers["blocks.1"], taught.layers["blocks.1"])
    living = reader(tokens, after.freeze(False)).state
    assert not torch.equal(living.synapses()["blocks.0.trace"], taught.synapses()["blocks.0.trace"])
    with pytest.raises(ValueError, match="token 11 is unknown"):
        reader(torch.tensor([[11]]), taught.freeze())
    assert not torch.equal(reader(tokens).state.synapses()["blocks.0.trace"], torch.zeros(BATCH, 1))


def test_rows_that_are_not_kept_begin_again(reader, tokens):
    state = reader(tokens).state.keep(torch.tensor([True, False, True]))
    assert all(not layer[1].any() and layer[0].any() for layer in state.layers.values())


def test_a_state_of_another_model_is_refused(reader, tokens, tmp_path):
    path = tmp_path / "memory.safetensors"
    reader(tokens).state.save(path, reader)
    other = LanguageModel(reader.config)
    with pytest.raises(UserError, match="is no state of this model"):
        ReadingState.load(path, other)


def test_a_state_whose_layers_are_of_different_texts_is_refused(reader, tokens, tmp_path):
    state = reader(tokens[:1]).state
    name, *others = state.layers
    assert others
    odd = dataclasses.replace(state, layers={**state.layers, name: state.layers[name].repeat(2, 1)})
    odd.save(tmp_path / "memory.safetensors", reader)
    with pytest.raises(UserError, match="is no state of this model"):
        ReadingState.load(tmp_path / "memory.safetensors", reader)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "is damaged"),
        (lambda path: path.write_bytes(b"a" * 100), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"), "its sha256 differs"),
        (lambda path: path.unlink(), "cannot read the state"),
    ],
)
def test_a_damaged_state_is_one_error(reader, tokens, tmp_path, spoil, said):
    path = tmp_path / "memory.safetensors"
    reader(tokens).state.save(path, reader)
    spoil(path)
    with pytest.raises(UserError, match=said):
        ReadingState.load(path, reader)


def test_synapses_of_a_hybrid_are_those_of_its_core(tokens):
    torch.manual_seed(3)
    reader = LanguageModel(dataclasses.replace(SMALL, pattern=("hybrid",), core="memory")).eval()
    state = reader(tokens).state
    assert list(state.synapses()) == ["blocks.0.trace", "blocks.1.trace"]
    alone = state.reset(traces=False)
    kept = {name: trace.clone() for name, trace in state.synapses().items()}
    assert all(torch.equal(trace, kept[name]) and trace.any() for name, trace in alone.synapses().items())
    seen = reader.blocks[0].mixer.attention.state_size
    assert state.layers["blocks.0"][:, :seen].any() and not alone.layers["blocks.0"][:, :seen].any()
    held = reader(tokens, state.freeze()).state
    assert all(torch.equal(trace, kept[name]) for name, trace in held.synapses().items())


# Deep mixers


def test_a_token_that_halts_at_once_takes_one_step_and_one_that_never_does_takes_all(tokens):
    model = LanguageModel(dataclasses.replace(SMALL, pattern=("deep",), blocks=1))
    for bias, wanted in ((20.0, 1.0), (-20.0, 3.0)):
        with torch.no_grad():
            model.blocks[0].mixer.halt.bias.fill_(bias)
        reading = model(tokens)
        assert (reading.steps == wanted).all() and not reading.steps.requires_grad
        # What is left of the last step costs, too: all of it either way.
        torch.testing.assert_close(reading.ponder, torch.full((BATCH, TIME), wanted + 1.0))
        mask = torch.arange(TIME) < torch.tensor([[TIME]] * (BATCH - 1) + [[2]])
        padded = model(tokens, mask=mask)
        assert torch.equal(padded.steps, torch.where(mask, wanted, 0)) and not padded.ponder[~mask].any()


def test_steps_of_all_deep_mixers_are_added(tokens):
    model = LanguageModel(dataclasses.replace(SMALL, pattern=("deep", "memory"), blocks=3))
    with torch.no_grad():
        for block, bias in ((0, 20.0), (2, -20.0)):
            model.blocks[block].mixer.halt.bias.fill_(bias)
    reading = model(tokens)
    assert (reading.steps == 1 + 3).all() and LanguageModel(SMALL)(tokens).steps is None
    torch.testing.assert_close(reading.ponder, reading.steps + 2)


def test_weights_of_its_steps_add_up_to_one(tokens):
    model = LanguageModel(dataclasses.replace(SMALL, pattern=("deep",), blocks=1))
    mixer = model.blocks[0].mixer
    with torch.no_grad():  # every step makes the same, so the mean of them is that
        mixer.again.weight.zero_()
    x = torch.randn(BATCH, TIME, SMALL.width)
    mixed, _, _ = mixer(x, mixer.initial_state(BATCH), None, None)
    made, _ = mixer.scan(x)
    torch.testing.assert_close(mixed, made)


@pytest.mark.parametrize(("bias", "calls"), [(20.0, 1), (1.0, 2), (-20.0, 3)])
def test_a_step_that_no_token_needs_is_left_out_and_nothing_else_changes(tokens, monkeypatch, bias, calls):
    model = LanguageModel(dataclasses.replace(SMALL, pattern=("deep",), blocks=1))
    mixer = model.blocks[0].mixer
    with torch.no_grad():
        mixer.halt.bias.fill_(bias)
        mixer.halt.weight.div_(10)
    before = model(tokens).state
    ran = []
    mixer.scan.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        model(tokens, before)
    assert len(ran) == calls

    def made():
        model.zero_grad()
        reading = model(tokens, before.detach())
        (reading.logits.square().mean() + reading.ponder.mean()).backward()
        return reading, [parameter.grad for parameter in model.parameters()]

    (short, gradients), all_steps = made(), mixer.steps
    monkeypatch.setattr("liquid_control.models.language_model.is_traced", lambda: True)
    ran.clear()
    whole, wanted = made()
    assert len(ran) == all_steps
    assert torch.equal(short.logits, whole.logits) and torch.equal(short.ponder, whole.ponder)
    assert all(torch.equal(short.state.layers[name], layer) for name, layer in whole.state.layers.items())
    assert all(mine is not None for mine in gradients)
    torch.testing.assert_close(gradients, wanted, rtol=1e-6, atol=1e-9)


# The origin, and what is mended


@pytest.mark.parametrize("mends", [(), *itertools.combinations(("sequences", "gradients", "order", "bound"), 3)])
def test_each_mend_mends_one_defect(mends):
    torch.manual_seed(5)
    cell = OriginCell(6, plastic=True, mends=mends)
    x = torch.randn(2, 9, 6)
    y, state = cell(x)
    y.sum().backward()
    assert (cell.rates.grad is not None and bool(cell.rates.grad.any())) == ("gradients" in mends)

    _, other = cell(torch.cat([x[:1], torch.randn(1, 9, 6)]))
    assert torch.equal(state[0], other[0]) == ("sequences" in mends)

    trace = cell.unpack(state)["trace_recurrent"].unflatten(1, (6, 6))
    symmetric = torch.allclose(trace, trace.mT, atol=1e-6)  # written with one vector as pre and post
    assert symmetric == ("order" not in mends)

    with torch.no_grad():
        cell.rates.fill_(100.0)
    sizes = torch.linalg.matrix_norm(cell.unpack(cell(x)[1])["trace_input"].unflatten(1, (6, 6)))
    cap = 0.3 * torch.linalg.matrix_norm(cell.inputs.weight)
    assert bool((sizes <= cap * 1.001).all()) == ("bound" not in mends)


def test_its_plasticity_off_is_a_cell_without_traces():
    cell = OriginCell(4, plastic=False)
    assert cell.state_size == 4 and not any("trace" in part for part in cell.parts)


def test_the_solvers_of_its_cell_converge_to_each_other():
    torch.manual_seed(6)
    cell = OriginCell(4, steps=1, plastic=False).double()
    x = torch.randn(2, 1, 4, dtype=torch.float64)
    exact = None
    errors = []
    for steps in (1024, 16, 32, 64):
        cell.steps = steps
        y, _ = cell(x)
        if exact is None:
            exact = y
        else:
            errors.append((y - exact).abs().max().item())
    orders = [first / second for first, second in itertools.pairwise(errors)]
    assert orders == pytest.approx([4, 4], rel=0.15)  # midpoint: of second order


# What is refused


def test_unknown_tokens_are_named():
    model = LanguageModel(SMALL)
    for wrong in (11, -1):
        with pytest.raises(ValueError, match=f"token {wrong} is unknown: the vocabulary has 11"):
            model(torch.tensor([[0, wrong]]))
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(batch, time\)"):
        model(torch.tensor([0, 1]))


def test_numbers_that_do_not_go_together_are_one_error():
    with pytest.raises(UserError, match="no such language model: units must be at least 1 and a multiple of heads = 3"):
        LanguageModel(dataclasses.replace(SMALL, heads=3))


def test_a_checkpoint_that_does_not_fit_its_config_is_refused_before_it_is_built(tmp_path):
    model = LanguageModel(SMALL)
    model.save(tmp_path, {})
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"vocabulary": 11', '"vocabulary": 1000000'))
    with pytest.raises(UserError, match="do not fit its config, first embedding"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"width": 8', '"width": 10000000'))
    with pytest.raises(UserError, match="is wrong at width"):
        load_language_model(tmp_path)

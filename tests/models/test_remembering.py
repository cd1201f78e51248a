"""Remembered work: nothing changes without influence, the familiar is left out, and what has changed is noticed."""

import pytest
import torch

from liquid_control.models.cubes import CubeConfig, Cubes
from liquid_control.models.influence import InfluenceConfig
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.remembering import memories, remembering
from liquid_control.support.checkpoint import weights_digest

WIDTH, VOCABULARY = 16, 11
RULES = InfluenceConfig(rise=0.1, low=0.1, high=0.3, memory=8, wrong=0.3, risk=0.2, audited=0.3)


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = LanguageModelConfig(vocabulary=VOCABULARY, width=WIDTH, blocks=2, pattern=("attention",), window=8)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(4)
    return model


@pytest.fixture
def parts(model):
    return memories(model, Cubes(CubeConfig(width=WIDTH, layers=2, blocks=4, key_size=12)), 8, RULES)


@pytest.fixture
def tokens():
    return torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(2))


def read(model, parts, tokens, times):
    with remembering(model, parts), torch.no_grad():
        for _ in range(times):
            for part in parts:
                part.state = None
            logits = model(tokens).logits
    return logits


def test_without_influence_it_says_the_same_to_the_bit_while_it_learns(model, parts, tokens):
    with torch.no_grad():  # with gradients it runs in another form, whose last digits are others
        plain = model(tokens).logits
    digest, feeds = weights_digest(model), [block.feed for block in model.blocks]
    before = parts[0].distillation.student.readout.weight.clone()
    for part in parts:
        part.influence.config = InfluenceConfig(low=0.0, high=0.0)
    with remembering(model, parts), torch.no_grad():
        for _ in range(3):
            assert torch.equal(model(tokens).logits, plain)
        assert weights_digest(model) == digest
    with torch.no_grad():
        assert [block.feed for block in model.blocks] == feeds and torch.equal(model(tokens).logits, plain)
    assert all(len(part.cube) and not part.skipped and part.inputs == 3 * 80 for part in parts)
    assert not torch.equal(parts[0].distillation.student.readout.weight, before)


def test_on_a_familiar_text_influence_rises_and_parts_are_left_out(model, parts, tokens):
    plain = model(tokens).logits
    logits = read(model, parts, tokens, 40)
    assert parts[0].history[0] < 0.5 and all(part.influence.cap == 1 for part in parts)
    assert all(part.skipped > 0.2 * part.inputs for part in parts)
    for part in parts:
        assert part.shares[0] == 0 and part.shares[-1] > 0.9 and part.skipped < part.shared < part.inputs
        assert part.shared == pytest.approx(80 * sum(part.shares))
    agreed = (logits.argmax(-1) == plain.argmax(-1)).float().mean().item()
    assert agreed > 0.8


def test_skipped_parts_do_not_run_and_what_that_saves_is_counted(model, parts, tokens):
    read(model, parts, tokens, 40)
    part, feed, ran = parts[0], model.blocks[0].feed, []
    skipped, inputs, spent = part.skipped, part.inputs, part.spent
    hook = feed.expand.register_forward_hook(lambda _, given, __: ran.append(given[0].numel() // WIDTH))
    read(model, parts, tokens, 1)
    hook.remove()
    assert sum(ran) == (part.inputs - inputs) - (part.skipped - skipped) < 80
    weights = sum(weight.numel() for weight in feed.parameters())
    assert part.saved(feed) == part.skipped * weights - part.spent and part.spent > spent


def test_influence_falls_when_the_part_has_become_another_and_recovers(model, parts, tokens):
    read(model, parts, tokens, 40)
    with torch.no_grad():
        for block in model.blocks:
            block.feed.contract.weight.mul_(-1)
    begun = len(parts[0].history)
    read(model, parts, tokens, 60)
    for part in parts:
        history = part.history[begun:]
        lowest = history.index(min(history))
        assert history[lowest] < 0.3 and max(history[lowest:]) > 0.9


def test_what_does_not_learn_stays(model, parts, tokens):
    read(model, parts, tokens, 10)
    for part in parts:
        part.learns = False
    entries, cap = len(parts[0].cube), parts[0].influence.cap
    weight = parts[0].distillation.student.readout.weight.clone()
    read(model, parts, tokens.flip(1), 2)
    assert (len(parts[0].cube), parts[0].influence.cap) == (entries, cap)
    assert torch.equal(parts[0].distillation.student.readout.weight, weight)


def test_other_cubes_are_one_error(model, parts):
    with pytest.raises(ValueError, match="cubes of 1 layers of width 16 do not fit a model of 2 blocks of width 16"):
        memories(model, Cubes(CubeConfig(width=WIDTH, layers=1, blocks=2, key_size=8)), 4)
    with pytest.raises(ValueError, match="1 memories for 2 feed-forward parts"), remembering(model, parts[:1]):
        pass


def test_padding_is_refused_and_nothing_is_nothing(model, parts, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    with remembering(model, parts), torch.no_grad():
        assert model(tokens[:0]).logits.shape == (0, 40, VOCABULARY)
        model(tokens, mask=mask)
        counted = [part.inputs for part in parts]
        mask[0, -1] = False
        with pytest.raises(ValueError, match="reads no padding"):
            model(tokens, mask=mask)
    assert [part.inputs for part in parts] == counted == [tokens.numel()] * 2


def test_double_precision_is_refused(model, parts):
    with pytest.raises(ValueError, match=r"remembers in torch\.float32, and this one has torch\.float64"):
        read(model.double(), parts, torch.zeros(1, 2, dtype=torch.int64), 1)

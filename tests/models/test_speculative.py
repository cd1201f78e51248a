"""Lossless drafts: the same text where the likeliest is said, the same distribution where tokens are drawn."""

from itertools import islice, product

import pytest
import torch

from liquid_control.models.cubes import CubeConfig, Cubes
from liquid_control.models.generation import Generation, distribution
from liquid_control.models.influence import InfluenceConfig
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.remembering import memories, remembering
from liquid_control.models.speculative import DraftCounts, speculate
from liquid_control.support.checkpoint import weights_digest

RULES = InfluenceConfig(rise=0.1, low=0.3, high=0.6, memory=8, wrong=0.5, risk=0.3, audited=0.3)


def make(vocabulary, pattern, passes, steps=60):
    """A model that has learned a text by heart, and a memory of its work on another."""
    torch.manual_seed(1)
    shape = {"width": 16, "blocks": len(pattern), "pattern": pattern, "window": 8, "core": "scan"}
    model = LanguageModel(LanguageModelConfig(vocabulary=vocabulary, **shape))
    tokens, other = torch.randint(vocabulary, (2, 1, 64), generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    text = tokens.repeat(1, 2)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(text[:, :-1]).logits[0], text[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts = memories(model.eval(), Cubes(CubeConfig(width=16, layers=len(pattern), blocks=4, key_size=12)), 8, RULES)
    with remembering(model, parts), torch.no_grad():
        for _ in range(passes):
            model(other)
    for part in parts:
        part.state = None
    return model, parts, tokens


@pytest.mark.parametrize("draft", ["sure", "always"])
@pytest.mark.parametrize("pattern", [("attention", "attention"), ("hybrid", "scan")], ids=["attention", "liquid"])
def test_the_likeliest_text_is_the_same_over_hundreds_of_tokens(draft, pattern):
    model, parts, tokens = make(11, pattern, 10)
    logits, state = model.read(tokens)
    counts, digest = DraftCounts(), weights_digest(model)
    plain = list(islice(Generation(model, logits[0], state, 0), 200))
    feeds = [block.feed for block in model.blocks]
    told = list(islice(speculate(model, parts, logits[0], state, 0, ahead=4, draft=draft, counts=counts), 200))
    assert told == plain and len(set(plain)) > 5
    assert 0 < counts.accepted < counts.drafted == 4 * counts.rounds and counts.rounds < 200
    assert counts.parts >= counts.guessed > 0 and (draft == "sure" or counts.guessed == counts.parts)
    assert [block.feed for block in model.blocks] == feeds and weights_digest(model) == digest


def test_a_draft_of_what_runs_in_full_is_always_accepted():
    model, parts, tokens = make(11, ("attention",), 0)  # nothing is known, so no student is sure
    logits, state = model.read(tokens)
    counts = DraftCounts()
    list(islice(speculate(model, parts, logits[0], state, 1.0, 1.0, draft="sure", counts=counts), 60))
    assert counts.acceptance > 0.99 and not counts.guessed


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.5, 0.8)])
def test_drawn_tokens_are_distributed_as_those_of_the_model_alone(temperature, top_p):
    """Chi-square of all triples of tokens, two of which were drafted, with products of exact probabilities."""
    model, parts, tokens = make(4, ("attention",), 3, steps=10)
    with torch.no_grad():
        for part in parts:  # who guesses well would hide how refusals are made good
            part.distillation.student.readout.weight.normal_(generator=torch.Generator().manual_seed(0))
    logits, state = model.read(tokens)
    counts, number = DraftCounts(), 400
    found = dict.fromkeys(product(range(4), repeat=3), 0)
    for seed in range(number):
        spoken = speculate(model, parts, logits[0], state, temperature, top_p, seed, ahead=2, counts=counts)
        found[tuple(islice(spoken, 3))] += 1
    chi, freedom = 0.0, -1
    for triple, seen in found.items():
        likely = float(distribution(logits[0], temperature, top_p)[triple[0]])
        with torch.no_grad():
            following = model(torch.tensor([triple]), state).logits[0]
        for place, token in enumerate(triple[1:]):
            likely *= float(distribution(following[place], temperature, top_p)[token])
        if likely == 0:
            assert not seen
        elif number * likely > 2:
            chi, freedom = chi + (seen - number * likely) ** 2 / (number * likely), freedom + 1
    assert freedom >= 8 and 0.1 < counts.acceptance < 0.95
    critical = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3  # Wilson and Hilferty: 0.1 %
    assert chi < critical


def test_a_distribution_is_what_is_drawn_from():
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0])
    torch.testing.assert_close(distribution(logits, 1.0, 1.0), logits.double().softmax(0), atol=1e-6, rtol=1e-5)
    assert distribution(logits, 0, 0.5).tolist() == [0, 1, 0, 0]
    cut = distribution(logits, 1.0, 0.7)
    assert cut[[0, 3]].tolist() == [0, 0] and float(cut.sum()) == pytest.approx(1) and cut[1] > cut[2] > 0


def test_as_many_memories_as_parts():
    model, parts, tokens = make(11, ("attention", "attention"), 0)
    logits, state = model.read(tokens)
    with pytest.raises(ValueError, match="1 memories for 2 feed-forward parts"):
        list(islice(speculate(model, parts[:1], logits[0], state), 5))

"""Scores of answers of several tokens, and what is counted of them."""

import itertools

import numpy as np
import pytest
import torch

from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.plasticity import (
    heads_while_reading,
    margins,
    right_choices,
    score_answers,
    stretch_of,
)


@pytest.mark.parametrize("length", [1, 3])
def test_scores_are_the_likelihoods_of_whole_answers(length):
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocabulary=11, width=8, blocks=2)).eval()
    rng = np.random.default_rng(1)
    _, state = model.read(torch.from_numpy(rng.integers(11, size=(2, 9))))
    asked = [[[3, 1], [4, 1, 5, 9]], [[2, 6, 5], [3]]]  # of different lengths, so that some are padded
    values = rng.integers(11, size=(2, 4, length))
    scores = score_answers(model, state, asked, values)
    for text, question in itertools.product(range(2), range(2)):
        words = torch.tensor([[*asked[text][question], *value] for value in values[text]])
        with torch.no_grad():
            likely = model(words, state.rows([text] * 4)).logits.log_softmax(-1)
        wanted = likely[:, -1 - length : -1].gather(2, words[:, -length:, None]).sum((1, 2)).numpy()
        found = scores[text, question]
        np.testing.assert_allclose(found - found[0], wanted - wanted[0], atol=2e-6)


def test_a_choice_is_right_where_its_own_value_is_likeliest():
    scores = np.array([[[3.0, 1.0], [2.0, 0.0]], [[0.0, 0.5], [0.0, 2.0]]])
    assert right_choices(scores).tolist() == [0.5, 0.5]
    np.testing.assert_allclose(margins(scores), [(2.0 - 2.0) / 2, (-0.5 + 2.0) / 2])


def test_a_stretch_goes_around_the_end():
    text, rng = np.arange(5), np.random.default_rng(0)
    stretches = [stretch_of(text, 7, rng) for _ in range(20)]
    assert all((np.diff(stretch) % 5 == 1).all() and len(stretch) == 7 for stretch in stretches)
    assert len({stretch[0] for stretch in stretches}) > 2


def test_heads_are_told_by_what_they_forget_and_write_on_average():
    torch.manual_seed(0)
    shape = LanguageModelConfig(vocabulary=11, width=8, blocks=2, pattern=("scan", "memory"), heads=2)
    model = LanguageModel(shape).eval()
    layer, tokens = model.blocks[1].mixer, torch.randint(11, (3, 50))
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(tokens)
        hook.remove()
        forgotten = np.log(2) / layer.half_lives(seen[0]).numpy()
        written = 1 / (1 + (-layer.modulator(seen[0])[..., 2:]).exp().numpy())
    heads = heads_while_reading(model, tokens, stretch=16)
    assert [(head.block, head.head) for head in heads] == [(1, 0), (1, 1)]
    np.testing.assert_allclose([head.half_life for head in heads], np.log(2) / forgotten.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose([head.writing for head in heads], written.mean((0, 1)), rtol=1e-5)
    assert not layer._forward_pre_hooks
    assert heads_while_reading(LanguageModel(LanguageModelConfig(width=8, pattern=("scan",))), tokens) == []

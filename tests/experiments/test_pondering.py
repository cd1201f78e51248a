"""Liquid steps held against losses: counted token by token, correlated as elsewhere, and told."""

import dataclasses

import numpy as np
import pytest
import torch

from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.experiments.pondering import Pondered, by_loss, hasty, interval, main, ponder, spearman
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.support.errors import UserError

TEXT = "hard words follow easy ones, and easy ones hard. " * 8


@pytest.fixture
def model():
    """One whose deep mixers need two or three steps, as the token is."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("characters", [TEXT])
    shape = LanguageModelConfig(vocabulary=tokenizer.size, width=8, blocks=3, pattern=("deep", "memory"))
    model = LanguageModel(shape).eval()
    with torch.no_grad():
        model.blocks[0].mixer.halt.weight.mul_(20)
    return model, tokenizer


def test_steps_are_those_that_a_model_takes_token_by_token(model):
    model, tokenizer = model
    tokens = tokenizer.encode(TEXT)
    pondered = ponder(model, [tokens, tokens[:10]], stretch=50)
    assert len(pondered.steps) == len(tokens) - 1 + 9
    with torch.no_grad():
        reading = model(torch.from_numpy(tokens)[None, :-1])
    assert np.ptp(pondered.steps) > 0
    left = reading.ponder[0].numpy() - pondered.steps[: len(tokens) - 1]  # of two deep mixers
    assert (left >= 0.02 - 1e-5).all() and (left <= 2 + 1e-5).all()
    wanted = torch.nn.functional.cross_entropy(reading.logits[0], torch.from_numpy(tokens[1:]), reduction="none")
    np.testing.assert_allclose(pondered.losses[: len(tokens) - 1], wanted, atol=1e-4)
    np.testing.assert_array_equal(pondered.steps[-9:], pondered.steps[:9])  # each document from an empty state


def test_the_correlation_shares_the_ranks_of_equal_values():
    steps, losses = np.array([1, 2, 2, 3, 1, 3, 2, 1]), np.array([0.1, 0.5, 0.3, 0.9, 0.2, 0.4, 0.8, 0.7])
    assert spearman(steps, losses) == pytest.approx(0.5291502622129182)  # scipy.stats.spearmanr, SciPy 1.17
    assert spearman(losses, losses**3) == pytest.approx(1)
    assert np.isnan(spearman(np.ones(5), losses[:5]))


def test_the_interval_holds_what_is_there_and_is_wider_where_tokens_are_alike():
    rng = np.random.default_rng(0)
    hard = rng.random(4000)
    alone = Pondered(hard + rng.random(4000), hard)
    alike = Pondered(*(np.repeat(of[:40], 100) for of in alone))
    low, high = interval(*alone, 100, 200, 0)
    assert low < spearman(*alone) < high and high - low < 0.1
    again = interval(*alike, 100, 200, 0)
    assert again[1] - again[0] > 3 * (high - low)


def test_fifths_are_in_the_order_of_their_loss():
    losses = np.random.default_rng(0).permutation(100) / 100
    fifths = by_loss(Pondered(1 + losses, losses), losses - 2)
    assert [most for most, *_ in fifths] == pytest.approx([0.19, 0.39, 0.59, 0.79, 0.99])
    assert [steps - mean for _, mean, steps, _ in fifths] == pytest.approx([1] * 5)
    assert [mean - saved for _, mean, _, saved in fifths] == pytest.approx([2] * 5)


def test_who_is_hasty_reads_as_one_liquid_step_does(model):
    model, tokenizer = model
    tokens, quick = tokenizer.encode(TEXT), hasty(model)
    assert (ponder(quick, [tokens]).steps == 2).all() and np.ptp(ponder(model, [tokens]).steps) > 0  # of two mixers
    shape = dataclasses.replace(model.config, liquid_steps=1)
    one = LanguageModel(shape).eval()
    one.load_state_dict(model.state_dict())
    np.testing.assert_allclose(ponder(quick, [tokens]).losses, ponder(one, [tokens]).losses, atol=1e-5)


def test_a_checkpoint_is_told_about(model, tmp_path, capsys):
    model, tokenizer = model
    model.save(tmp_path / "model", {"tokenizer": tokenizer.config()})
    (tmp_path / "text.txt").write_text(TEXT)
    words = [str(tmp_path / "model"), "--text", str(tmp_path / "text.txt"), "--draws", "20", "--stretch", "32"]
    main([*words, "--tokens", "200"])
    output = capsys.readouterr().out
    assert "200 tokens" in output and "| 5 | " in output
    assert "Spearman's correlation of steps and loss" in output and "steps and what they save" in output

    (tmp_path / "text.txt").write_text("hard")
    with pytest.raises(UserError, match="fewer than 5 tokens"):
        main(words)
    plain = LanguageModel(LanguageModelConfig(vocabulary=tokenizer.size, width=8, blocks=1))
    plain.save(tmp_path / "model", {"tokenizer": tokenizer.config()})
    (tmp_path / "text.txt").write_text(TEXT)
    with pytest.raises(UserError, match="no deep mixers"):
        main(words)


def test_steps_that_are_all_the_same_are_said_to_be(model, tmp_path, capsys):
    model, tokenizer = model
    with torch.no_grad():
        for block in (0, 2):
            model.blocks[block].mixer.halt.weight.zero_()
            model.blocks[block].mixer.halt.bias.fill_(20)
    model.save(tmp_path / "model", {"tokenizer": tokenizer.config()})
    (tmp_path / "text.txt").write_text(TEXT)
    main([str(tmp_path / "model"), "--text", str(tmp_path / "text.txt")])
    assert "every token took 2 liquid steps" in capsys.readouterr().out

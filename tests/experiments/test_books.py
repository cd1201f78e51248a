"""The study of unseen books: what each arm keeps, and a study that goes on."""

import json
import sys

import numpy as np
import pytest
import torch

from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.experiments import books
from liquid_control.experiments.books import ARMS, losses, main, read_books
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.support.errors import UserError

WORDS = "the quick brown fox jumps over the lazy dog and runs into a dark deep wood. "


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = LanguageModel(LanguageModelConfig(width=16, blocks=2))
    with torch.no_grad():
        made.embedding.weight.normal_()
    return made.eval()


def test_stretches_are_those_of_the_whole_text_read_at_once(model, monkeypatch):
    monkeypatch.setattr(books, "STRETCH", 8)
    tokens = torch.arange(25) % 7
    told, _ = losses(model, tokens, model.initial_state(1), forgets=False)
    logits = model(tokens[None, :-1]).logits[0]
    whole = torch.nn.functional.cross_entropy(logits, tokens[1:], reduction="none").view(3, 8).mean(1)
    np.testing.assert_allclose(told, whole.detach(), rtol=1e-5)
    alone, _ = losses(model, tokens, model.initial_state(1), forgets=True)
    assert alone[0] == pytest.approx(told[0]) and abs(alone[1] - told[1]) > 1e-4


def test_arms_differ_in_the_memory_alone(model, monkeypatch):
    monkeypatch.setattr(books, "STRETCH", 16)
    tokenizer = make_tokenizer("bytes", [])
    texts = [WORDS * 3, WORDS[::-1] * 3]
    first, second = read_books(model, tokenizer, texts, 2**40)
    assert set(first) == set(second) == set(ARMS)
    assert len({len(told) for told in first.values()}) == 1 and len({tuple(told) for told in first.values()}) == len(
        ARMS
    )
    same = read_books(model, tokenizer, [texts[0], texts[0]], 2**40)[0]
    assert same["the other book's synapses"] == same["carried"]  # of the same text they are its own


def test_the_study_goes_on_and_refuses_what_is_not_there(tmp_path, capsys, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    (tmp_path / "novels").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "novels" / f"{name}.txt").write_text(f"{name} says: {WORDS}" * 120)
    words = [str(tmp_path / "study"), str(tmp_path / "novels"), "--unseen", "b", "c", "--tokenizer", "bytes"]
    words += "--seeds 1 --half 1100 --steps 2 --width 8".split()
    main(words)
    lines = (tmp_path / "study/results.jsonl").read_text().splitlines()
    assert len(lines) == 2 and set(json.loads(lines[1])["losses"]) == {"b", "c"}
    assert not (tmp_path / "study/novels/b.txt").exists()
    assert "## b: 2 stretches, 1 trainings" in capsys.readouterr().out
    with pytest.raises(UserError, match="no novel 'd'"):
        main([*words[:3], "d", "c"])


@pytest.mark.parametrize(
    ("book", "message"),
    [("b says: " + WORDS, "has 84 characters: give a book of 8,192 or more"), (f"Bé {WORDS}" * 120, "has 'Bé', which")],
)
def test_a_book_that_cannot_be_measured_is_told_before_a_training(book, message, tmp_path):
    (tmp_path / "novels").mkdir()
    for name in ("a", "c"):
        (tmp_path / "novels" / f"{name}.txt").write_text(WORDS * 120)
    (tmp_path / "novels/b.txt").write_text(book)
    words = [str(tmp_path / "study"), str(tmp_path / "novels"), "--unseen", "b", "c", "--tokenizer", "characters"]
    with pytest.raises(UserError, match=message):
        main(words)
    assert not (tmp_path / "study").exists()


def test_the_first_half_ends_where_the_second_begins(model, monkeypatch):
    """What stands directly before the second half is what is read last."""
    monkeypatch.setattr(books, "STRETCH", 16)
    read = []
    monkeypatch.setattr(
        books, "losses", lambda model, tokens, *rest: read.append(tokens) or losses(model, tokens, *rest)
    )
    text = WORDS * 3
    tokens = make_tokenizer("bytes", []).encode(text)
    middle = len(tokens) // 2
    read_books(model, make_tokenizer("bytes", []), [text, text], 40)
    assert read[0].tolist() == tokens[middle - 32 : middle + 1].tolist()

"""Associative recall: what is asked, what is right, and a study that goes on where it was stopped."""

import json

import numpy as np
import pytest
import torch

from liquid_control.experiments import recall
from liquid_control.experiments.recall import ARMS, TESTS, VOCABULARY, main, recalled, sequences
from liquid_control.models.language_model import Reading
from liquid_control.support.errors import UserError

HALF = VOCABULARY // 2


@pytest.mark.parametrize("forgetting", [False, True])
def test_each_key_is_asked_once_and_the_last_value_counts(forgetting):
    rng = np.random.default_rng(1)
    tokens, answers = sequences(50, 64, 8, forgetting, rng)
    begin = 24 if forgetting else 16
    for row, wanted in zip(tokens.tolist(), answers.tolist(), strict=True):
        taught = dict(zip(row[0:begin:2], row[1:begin:2], strict=True))
        asked = [place for place, answer in enumerate(wanted) if answer >= 0]
        assert sorted(row[place] for place in asked) == sorted(taught) and len(taught) == 8
        assert all(taught[row[place]] == wanted[place] for place in asked)
        assert all(key < HALF <= value for key, value in taught.items()) and min(asked) >= begin
        assert sum(row.count(key) for key in taught) == begin // 2 + 8  # nowhere else
    if forgetting:
        first = [row[1:16:2] for row in tokens.tolist()]
        overwritten = [
            sum(a not in row for a in answer if a >= 0) for row, answer in zip(first, answers.tolist(), strict=True)
        ]
        assert np.mean(overwritten) == pytest.approx(4, abs=0.3)


def test_every_test_fits_its_length_and_what_does_not_is_said():
    for task, tests in TESTS.items():
        for length, pairs in tests:
            tokens, answers = sequences(2, length, pairs, task == "forgetting", np.random.default_rng(0))
            assert tokens.shape == (2, length) and int((answers >= 0).sum()) == 2 * pairs
    with pytest.raises(ValueError, match="16 pairs and their questions do not fit in 63 tokens"):
        sequences(1, 63, 16, False, np.random.default_rng(0))


class Oracle(torch.nn.Module):
    """Says what the key of a question was paired with in the first 24 tokens, last; or first, if it is ``blind``."""

    def __init__(self, blind=False):
        super().__init__()
        self.blind = blind

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, VOCABULARY)
        for row, text in enumerate(tokens.tolist()):
            taught = {}
            for key, value in zip(text[:24:2], text[1:24:2], strict=True):
                if not (self.blind and key in taught):
                    taught[key] = value
            for place, key in enumerate(text):
                logits[row, place, taught.get(key, 0)] = 1
        return Reading(logits, None, None, None)


def test_who_remembers_scores_one_and_who_does_not_overwrite_scores_half():
    tokens, answers = sequences(100, 64, 8, True, np.random.default_rng(2))
    assert recalled(Oracle(), tokens, answers) == 1
    assert recalled(Oracle(blind=True), tokens, answers) == pytest.approx(0.5, abs=0.05)


TINY = "--steps 3 --batch 4 --width 8 --tested 8 --seeds 2 --tasks recall".split()


def test_a_study_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    words = [str(tmp_path), *TINY, "--arms", *ARMS]
    main(words)
    report, results = (tmp_path / "report.md").read_text(), (tmp_path / "results.jsonl").read_text()
    for arm in ARMS:
        assert f"| {arm} |" in report
    rows = [json.loads(line) for line in results.splitlines()[1:]]
    assert len(rows) == len(ARMS) * 4  # three rates of seed 0, and the best one of seed 1

    (tmp_path / "results.jsonl").write_text("".join(line + "\n" for line in results.splitlines()[:-2]))
    measured = []
    honest = recall.measure
    monkeypatch.setattr(recall, "measure", lambda *of: measured.append(of) or honest(*of))
    main(words)
    assert len(measured) == 2
    again = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()[1:]]
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]


def test_what_makes_no_sense_is_one_error(tmp_path):
    with pytest.raises(UserError, match=r"no arm 'hepp'.*'hebb'"):
        main([str(tmp_path), "--arms", "hepp"])
    main([str(tmp_path), *TINY, "--arms", "none"])
    with pytest.raises(UserError, match="holds results of other options"):
        main([str(tmp_path), *TINY, "--arms", "none", "--width", "16"])
    (tmp_path / "results.jsonl").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        main([str(tmp_path), *TINY, "--arms", "none"])

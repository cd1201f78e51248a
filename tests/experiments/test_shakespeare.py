"""The study of characters: arms of one size, the learning rate of each, and going on where it was stopped."""

import json
import sys

import pytest

from liquid_control.experiments import shakespeare
from liquid_control.experiments.shakespeare import ARMS, RATES, main, shape_of
from liquid_control.experiments.study import parameters_of
from liquid_control.support.errors import UserError


def test_all_arms_have_the_parameters_of_the_first():
    counts = {arm: parameters_of(shape_of(arm, 128)) for arm in ARMS}
    first = counts["delta"]
    assert first == 805_776  # as configs/lm/toy.yaml says
    assert all(abs(count - first) < 0.005 * first for count in counts.values()), counts


def test_the_best_rate_of_seed_0_is_that_of_all_seeds_and_nothing_is_trained_twice(tmp_path, monkeypatch, capsys):
    losses = dict(zip(RATES, (1.8, 1.6, 1.7, 1.9), strict=True))
    trained = []

    def measure(arm, rate, seed, config):
        trained.append((arm, rate, seed))
        loss = losses[rate] + 0.01 * seed
        row = {"arm": arm, "rate": rate, "seed": seed, "parameters": 7, "seconds": 60.0}
        return row | {"validation_loss": loss, "bits_per_byte": loss, "gradient_steps": 3}

    monkeypatch.setattr(shakespeare, "measure", measure)
    (tmp_path / "text.txt").write_text("a text")
    words = [str(tmp_path), str(tmp_path / "text.txt"), "--arms", "delta", "--seeds", "3"]
    main(words)
    assert trained == [("delta", rate, 0) for rate in RATES] + [("delta", RATES[1], seed) for seed in (1, 2)]
    assert "| delta | 1.610 | 1.600, 1.610, 1.620 | 1.610 | 0.001 | 7 | 1.0 |" in capsys.readouterr().out
    main(words)
    assert len(trained) == len(RATES) + 2
    with pytest.raises(UserError, match=r"no arm 'deltas'.*'delta'"):
        main([*words[:3], "deltas"])


def test_a_training_is_the_commands_and_goes_on(tmp_path, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 80)
    words = [str(tmp_path / "study"), str(tmp_path / "text.txt"), "--arms", "lstm"]
    words += ["--seeds", "1", "--steps", "2", "--width", "8"]
    main(words)
    rows = [json.loads(line) for line in (tmp_path / "study/results.jsonl").read_text().splitlines()[1:]]
    assert [row["rate"] for row in rows] == list(RATES) and all(row["gradient_steps"] == 2 for row in rows)
    assert (tmp_path / "study" / "lstm-0.001-0" / "last" / "config.json").exists()

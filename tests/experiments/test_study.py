"""What studies share."""

import sys

import numpy as np
import pytest

from liquid_control.experiments.study import Results, hierarchical_interval, identity_of, run_command, with_best_rate
from liquid_control.support.errors import UserError


def test_a_row_is_measured_once(tmp_path):
    measured = []

    def measure():
        measured.append(1)
        return {"arm": "a", "seed": 0, "loss": 1.5}

    names = ("arm", "seed")
    for _ in range(2):
        assert Results(tmp_path, {"steps": 2}, names).have(measure, arm="a", seed=0)["loss"] == 1.5
    assert len(measured) == 1
    with pytest.raises(UserError, match="results of other options"):
        Results(tmp_path, {"steps": 3}, names)
    with pytest.raises(UserError, match="is damaged"):
        Results(tmp_path, {"steps": 2}, ("arm", "rate"))


def test_a_study_that_was_stopped_before_its_first_row_is_one_of_its_options(tmp_path):
    Results(tmp_path, {"steps": 2}, ())
    with pytest.raises(UserError, match="results of other options"):
        Results(tmp_path, {"steps": 3}, ())
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/text.txt").write_text(f"{number}")
    one, other = (identity_of(tmp_path / f"{number}/text.txt") for number in (1, 2))
    assert one.startswith("text.txt ") and one != other


def test_the_rate_that_is_best_for_seed_0_is_that_of_all_seeds():
    losses = {0.1: 1.8, 0.2: 1.6, 0.3: 1.7}
    losses |= {0.4: float("nan"), 0.05: float("nan")}
    rows = with_best_rate(lambda rate, seed: {"rate": rate, "loss": losses[rate] + seed}, tuple(losses), 3, "loss")
    assert [(row["rate"], row["loss"]) for row in rows] == [(0.2, 1.6), (0.2, 2.6), (0.2, 3.6)]


def test_an_interval_is_that_of_normal_means_and_wider_where_trainings_differ():
    rng = np.random.default_rng(1)
    same = [rng.normal(size=400) for _ in range(3)]
    low, high = hierarchical_interval(same)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(1200), rel=0.4)
    apart = hierarchical_interval([values + shift for values, shift in zip(same, (-1, 0, 1), strict=True)])
    assert apart[1] - apart[0] > 5 * (high - low)


def test_a_command_that_fails_ends_the_study(capfd, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(UserError, match="lm ended with exit status 2"):
        run_command("lm", "tarin")
    assert "train" in capfd.readouterr().err

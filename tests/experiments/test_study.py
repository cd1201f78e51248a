"""What studies share."""

import sys

import numpy as np
import pytest

from liquid_control.experiments import study
from liquid_control.experiments.study import (
    Results,
    identity_of,
    interval,
    run_command,
    train_language_model,
    with_best_rate,
)
from liquid_control.support.errors import DivergedError, UserError


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


def test_an_interval_of_trainings_alone_is_that_of_student():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert interval([1.0, 1.0]) == (1.0, 1.0)
    assert np.isnan(interval([1.0])).all()


@pytest.mark.parametrize(("shared", "own", "alike", "block"), [(0, 1, 1, 1), (1, 1, 1, 1), (1, 0.3, 10, 10)])
def test_an_interval_holds_the_mean_as_often_as_it_says(shared, own, alike, block):
    """Of trainings that differ by 0.1, on things that are hard for all, some that follow one another alike."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        hard = shared * np.repeat(rng.normal(size=200 // alike), alike)
        measured = 0.1 * rng.normal(size=(3, 1)) + hard + own * rng.normal(size=(3, 200))
        low, high = interval(measured, block)
        held += low <= 0 <= high
    assert 0.93 <= held / 400 <= 0.995


def test_a_command_that_fails_ends_the_study(capfd, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(UserError, match="lm ended with exit status 2"):
        run_command("lm", "tarin")
    assert "train" in capfd.readouterr().err


def test_a_training_that_diverges_is_a_row_and_no_end_of_the_study(tmp_path, monkeypatch, python):
    """By the command itself: a rate at which weights soon are infinite."""
    monkeypatch.setattr(sys, "executable", python)
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 80)
    words = f"--text {tmp_path / 'text.txt'} --steps 20 --warm-up 0 --width 8 --blocks 1 --learning-rate 1e6".split()
    assert not train_language_model(tmp_path / "run", words)
    with pytest.raises(DivergedError, match="what lm learned"):
        study.run_command("lm", "train", "--resume", str(tmp_path / "run"))

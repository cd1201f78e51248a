"""What rows come to, worked out by hand on a grid of two policies, two trainings, two tracks and three cells."""

from __future__ import annotations

import itertools

import pytest

from envs.registration import FAST
from envs.shifts.suites import Cell
from liquid_control.report.shift_results import Row
from liquid_control.report.shift_summary import THRESHOLDS, summarize_shifts

CELLS = (Cell(), Cell("rain", 1), Cell("rain", 5))
TRAININGS = {"cfc": (0, 7), "mlp": (0,)}
SCORES = {"cfc": {"clean": 900, 1: 800, 5: 600}, "mlp": {"clean": 950, 1: 900, 5: -50}}


def row(policy, training, cell, seed):
    score = SCORES[policy][cell.severity or "clean"] + 10 * (seed - 100) + training
    return Row(
        run=0, policy=policy, training=training, weights="", env=FAST, shift=cell.shift, severity=cell.severity,
        seed=seed, score=score, lap=score > 700, tiles=0.5, off_road=0.0 if seed == 100 else 0.4,
        steps=100 if seed == 100 else 300, seconds=1.0,
    )  # fmt: skip


@pytest.fixture
def summary():
    rows = [
        row(policy, training, cell, seed)
        for policy, trainings in TRAININGS.items()
        for training, cell, seed in itertools.product(trainings, CELLS, (100, 101))
    ]
    return summarize_shifts(
        {each.key: each for each in rows}, TRAININGS, FAST, CELLS, (100, 101), ("cfc", "mlp"), "mlp"
    )


def test_a_cell_has_its_episodes_of_all_trainings(summary):
    scores = summary.scores["cfc", Cell("rain", 5)]
    assert (scores.episodes, scores.laps, scores.tiles) == (4, 0, 0.5)
    assert scores.mean == scores.iqm == pytest.approx(608.5)  # 600, 610, 607 and 617
    assert scores.off_road == pytest.approx(0.3)  # by steps
    assert scores.drop == pytest.approx(300) and scores.drop_interval == pytest.approx((300, 300))  # paired: no spread
    assert scores.interval[0] < 608.5 < scores.interval[1]


def test_policies_are_told_of_under_all_shifts_together(summary):
    cfc, mlp = summary.policies
    assert (cfc.trainings, cfc.clean, cfc.mean) == ((0, 7), pytest.approx(908.5), pytest.approx(708.5))
    assert (cfc.drop, cfc.laps, mlp.laps) == (pytest.approx(200), 0.5, 0.5)
    # Errors: of cfc 1 - 0.8085 and 1 - 0.6085; of mlp 1 - 0.905 and 1, as scores below 0 count as 0.
    assert cfc.mce == pytest.approx(100 * (0.1915 + 0.3915) / (0.095 + 1))
    assert mlp.mce == pytest.approx(100)
    assert cfc.profile[THRESHOLDS.index(0.7)] == 0.5 and cfc.profile[0] == 1.0 and mlp.profile[0] == 0.5


def test_the_primary_comparison_stands_apart_and_the_rest_is_adjusted(summary):
    primary = summary.primary
    assert (primary.one, primary.other, primary.shift) == ("cfc", "mlp", "")
    assert primary.difference == pytest.approx(708.5 - 430)
    assert primary.probability == pytest.approx(0.5)  # never in light rain, always in heavy rain
    assert primary.p_value == primary.adjusted == pytest.approx(1 / 3)  # one of three trainings is the mlp's
    assert [each.shift for each in summary.by_shift] == ["rain"]
    assert summary.others == ()
    assert summary.shifts == ("rain",) and summary.severities("rain") == [1, 5]


def test_a_missing_episode_is_no_number():
    with pytest.raises(KeyError):
        summarize_shifts({}, TRAININGS, FAST, CELLS, (100,))

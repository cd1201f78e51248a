"""The statistics under shift against rliable's own numbers, slow formulas written down anew, and theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from liquid_control.report.shift_statistics import (
    comparison_p_value,
    corruption_error,
    holm,
    iqm,
    mean,
    normalized_error,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)


def scores(seed, trainings, tracks=6, cells=3):
    return np.round(np.random.default_rng(seed).normal(800, 150, (trainings, tracks, cells)), 1)


@pytest.fixture
def policies():
    one, other = scores(1, 4), scores(2, 3)
    other[:, 0, 0] = one[0, 0, 0]  # ties
    return one, other


def test_aggregates_are_those_of_rliable(policies):
    # rliable 1.2.0 (rliable.metrics and rliable.library) on these arrays as runs x tasks, (4, 18) and (3, 18).
    one, other = policies
    assert iqm(one) == pytest.approx(797.1388888888889, abs=1e-6)
    assert iqm(other) == pytest.approx(819.3535714285714, abs=1e-6)
    assert mean(one) == pytest.approx(790.765277777778, abs=1e-6)
    assert probability_of_improvement(one, other) == pytest.approx(0.46990740740740744, abs=1e-6)
    profile = [0.9861111111111112, 0.7777777777777778, 0.5277777777777778, 0.2916666666666667, 0.027777777777777776]
    assert performance_profile(one, [500, 700, 800, 850, 1000]) == pytest.approx(profile, abs=1e-6)


def test_an_interval_over_one_task_is_that_of_rliable():
    # rliable 1.2.0, library.get_interval_estimates with 50,000 resamples of 12 runs of one task; both are drawn.
    runs = np.round(np.random.default_rng(3).normal(800, 150, (12, 1)), 1)
    interval = stratified_interval(runs[:, None], resamples=50_000)
    assert interval == pytest.approx((656.2325, 888.05125), abs=4)  # half a percent


def test_the_interval_is_that_of_every_resample_written_out(policies):
    one, _ = policies
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(4, size=(300, 4)), rng.integers(6, size=(300, 6))
    values = []
    for trainings, tracks in zip(rows, columns, strict=True):
        drawn = sorted(one[s, t, c] for s in trainings for t in tracks for c in range(3))
        middle = drawn[18:54]
        values.append(sum(middle) / len(middle))
    expected = np.percentile(values, [2.5, 97.5])
    assert stratified_interval(one, resamples=300) == pytest.approx(expected, abs=1e-6)


def test_the_interval_of_many_scores_does_not_depend_on_how_many_are_drawn_at_once(policies, monkeypatch):
    one, _ = policies
    whole = stratified_interval(one, resamples=100)
    monkeypatch.setattr("liquid_control.report.shift_statistics._CHUNK", 200)
    assert stratified_interval(one, resamples=100) == whole


def test_a_training_that_fails_widens_the_interval_more_than_its_tracks_tell():
    rng = np.random.default_rng(4)
    alike = 900 + rng.normal(0, 5, (3, 10, 4))
    apart = alike.copy()
    apart[1] -= 300
    low, high = stratified_interval(apart, lambda rows: rows.mean(axis=-1))
    assert high - low > 150 > 10 > np.diff(stratified_interval(alike))[0]


def test_probability_of_improvement_compares_pair_by_pair(policies):
    one, other = policies
    wins = [
        1.0 if x > y else 0.5 if x == y else 0.0
        for t, c in itertools.product(range(6), range(3))
        for x in one[:, t, c]
        for y in other[:, t, c]
    ]
    assert probability_of_improvement(one, other) == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert probability_of_improvement(other, one) == pytest.approx(1 - sum(wins) / len(wins), abs=1e-12)
    assert probability_of_improvement(one, one[:1]) + probability_of_improvement(one[:1], one) == pytest.approx(1)


def test_the_mean_corruption_error_of_the_baseline_is_100_percent():
    errors = np.array([[0.1, 0.2, 0.6], [0.05, 0.1, 0.15]])
    assert corruption_error(errors, errors) == pytest.approx([100, 100])
    # Twice the errors at one severity of the first shift: (0.1 + 0.2 + 1.2) / 0.9.
    worse = errors * [[1, 1, 2], [1, 1, 1]]
    assert corruption_error(worse, errors) == pytest.approx([150 / 0.9, 100])
    assert np.isnan(corruption_error([[0.0], [0.1]], [[0.0], [0.0]])).all()  # nothing is a share of no error


def test_the_normalized_error_counts_what_was_not_driven():
    assert normalized_error([1000, 935, 0, -120]) == pytest.approx([0, 0.065, 1, 1])


def test_sign_flips_are_those_of_every_track():
    one, other = scores(5, 1, 8), scores(6, 1, 8)
    differences = (one - other).mean(axis=(0, 2))
    seen = abs(differences.sum())
    larger = [abs(np.dot(signs, differences)) >= seen - 1e-9 for signs in itertools.product((1, -1), repeat=8)]
    assert comparison_p_value(one, other) == pytest.approx(sum(larger) / 256, abs=1e-12)


def test_trainings_are_exchanged_where_there_are_several():
    one, other = scores(7, 3) + 400, scores(8, 3)
    assert comparison_p_value(one, other) == pytest.approx(2 / 20)  # the two most extreme of 6 over 3
    assert comparison_p_value(one[:2], other) == pytest.approx(1 / 10)


def test_the_p_value_of_nothing_is_uniform():
    rng = np.random.default_rng(9)
    values = [comparison_p_value(*rng.normal(900, 30, (2, 1, 20, 2))) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.10
    assert comparison_p_value(np.ones((1, 30, 1)), np.ones((1, 30, 1))) == 1


def test_a_clear_difference_has_the_smallest_p_value_that_the_tracks_allow():
    one = scores(10, 1, 10)
    assert comparison_p_value(one + 50, one) == pytest.approx(2 / 1024)
    many = scores(10, 1, 100)
    assert comparison_p_value(many + 50, many) < 0.001


def test_holm_is_the_published_rule():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("shape", [(3,), (0, 2, 2), (1, 0, 2)])
def test_what_is_no_array_of_scores_is_refused(shape):
    with pytest.raises(ValueError, match="trainings, tracks, cells"):
        stratified_interval(np.zeros(shape))


def test_other_tracks_are_not_compared(policies):
    one, other = policies
    with pytest.raises(ValueError, match="the same tracks"):
        comparison_p_value(one, other[:, :5])

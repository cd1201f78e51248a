"""The statistics against numbers worked out by hand, by SciPy's definition and by theory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from liquid_control.support.statistics import bootstrap_interval, interquartile_mean, summarize


def test_moments_and_order_statistics_of_a_small_set():
    summary = summarize([2, 4, 4, 4, 5, 5, 7, 9])
    assert (summary.mean, summary.std, summary.median, summary.minimum) == (5, 2, 4.5, 2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], 7.0),
        ([1, 2, 6], 3.0),  # three values: nothing is cut
        ([0, 1, 2, 100], 1.5),
        ([100, 2, 1, 0], 1.5),
        ([0, 1, 2, 3, 100], 2.0),
        ([2, 4, 4, 4, 5, 5, 7, 9], 4.5),
        # scipy.stats.trim_mean(numpy.arange(10) ** 2, 0.25), SciPy 1.16
        (np.arange(10) ** 2, 139 / 6),
    ],
)
def test_interquartile_mean_cuts_a_quarter_rounded_down_at_each_end(values, expected):
    assert interquartile_mean(values) == pytest.approx(expected, abs=1e-12)


def test_interquartile_mean_works_along_the_last_axis():
    rows = np.array([[0, 1, 2, 100], [4, 3, 2, 1]])
    np.testing.assert_allclose(interquartile_mean(rows), [1.5, 2.5])


def test_interquartile_mean_ignores_one_disaster_in_a_hundred():
    scores = np.full(100, 920.0)
    scores[17] = 200
    assert interquartile_mean(scores) == 920


def test_bootstrap_interval_of_the_mean_is_the_normal_one_for_many_values():
    values = np.random.default_rng(3).normal(900, 20, 2_000)
    low, high = bootstrap_interval(values, statistic=lambda rows: rows.mean(axis=-1))
    half_width = 1.959964 * values.std() / np.sqrt(values.size)
    assert low == pytest.approx(values.mean() - half_width, abs=0.05)
    assert high == pytest.approx(values.mean() + half_width, abs=0.05)


def test_bootstrap_interval_of_two_values_is_exact():
    # Resampling {0, 1} twice gives the mean 0 or 1 a quarter of the time each: both lie within the central 95 %.
    assert bootstrap_interval([0, 1]) == (0, 1)


def test_bootstrap_interval_holds_the_true_iqm_as_often_as_it_says():
    rng = np.random.default_rng(5)
    intervals = [bootstrap_interval(rng.normal(0, 1, 50), resamples=500) for _ in range(400)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98


def test_bootstrap_interval_is_the_same_every_time_and_ignores_the_global_generator():
    values = [905.2, 921.0, 913.3, 890.1, 930.8]
    first = bootstrap_interval(values)
    np.random.seed(1)  # noqa: NPY002
    assert bootstrap_interval(values) == first


def test_bootstrap_interval_agrees_with_every_resample_counted():
    values = [0.0, 1.0, 5.0, 20.0]
    every = np.sort([interquartile_mean(rows) for rows in itertools.product(values, repeat=4)])
    # With 4^4 equally likely resamples the interval ends where 2.5 % of them lie outside.
    assert bootstrap_interval(values) == (every[round(0.025 * 256)], every[round(0.975 * 256) - 1])


def test_golden_summary():
    summary = summarize([905.2, 921.0, 913.3, 890.1, 930.8, 899.9, 917.5, 200.0])
    assert summary.mean == pytest.approx(822.225)
    assert summary.iqm == pytest.approx((905.2 + 913.3 + 917.5 + 899.9) / 4)
    assert summary.iqm_interval == pytest.approx((724.925, 920.65))


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")]])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(ValueError, match=r"at least one score|finite"):
        summarize(scores)

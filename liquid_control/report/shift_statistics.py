"""Statistics of scores under distribution shift: over trainings, tracks and cells (one shift at one severity each).

Every policy drives the same tracks in every cell, so scores are an array (S, T, C): S trainings of the policy that
differ by their seed, T tracks, C cells. Aggregates are those of Agarwal et al. 2021 ("Deep Reinforcement Learning at
the Edge of the Statistical Precipice"): a run there is a training here, a task there is a track in a cell.

The bootstrap is stratified by cells: no cell is ever drawn twice or left out. Trainings and tracks are drawn with
replacement, and what is drawn is the same in every cell, as the same trainings met the same tracks in all of them
(Owen 2007, "The pigeonhole bootstrap"). With one training the interval speaks of this training, over tracks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from liquid_control.support.statistics import interquartile_mean

RESAMPLES = 2000
_CHUNK = 2_000_000  # numbers that are drawn at once
_EXACT = 5000  # as many permutations are counted, more are drawn

BEST_RETURN = 1000.0
"""What the tiles of a CarRacing lap pay together; each step costs 0.1, so no return reaches it."""


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean of all scores (S, T, C) together, as rliable's ``aggregate_iqm``."""
    return float(interquartile_mean(np.asarray(scores, np.float64).ravel()))


def mean(scores: ArrayLike) -> float:
    """Mean of all scores together."""
    return float(np.mean(np.asarray(scores, np.float64)))


def stratified_interval(
    scores: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic by the stratified bootstrap over trainings and tracks.

    Args:
        scores: (S, T, C).
        statistic: maps (resamples, S · T · C) to (resamples,).
        confidence: share of the resampled statistics within the interval.
        resamples: how many times trainings and tracks are drawn.
        seed: of the generator that draws; the same seed gives the same interval.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: if there are no scores, or one is not finite.
    """
    scores = _checked(scores)
    values = np.concatenate([statistic(drawn) for drawn in _resampled(scores, resamples, seed)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(scores: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Parts of the resamples, each (some, S · T · C)."""
    rng = np.random.default_rng(seed)
    trainings, tracks, _ = scores.shape
    chosen = rng.integers(trainings, size=(resamples, trainings)), rng.integers(tracks, size=(resamples, tracks))
    step = max(1, _CHUNK // scores.size)
    for begin in range(0, resamples, step):
        rows, columns = (indices[begin : begin + step] for indices in chosen)
        yield scores[rows[:, :, None], columns[:, None, :]].reshape(len(rows), -1)


def probability_of_improvement(one: ArrayLike, other: ArrayLike) -> float:
    """How probable it is that a training of one policy scores more than one of another, on a track in a cell.

    P(X > Y) = mean over tasks of 1/(N K) ΣΣ [1 if x > y, ½ if x = y, else 0] (Agarwal et al. 2021, section 4.3). Only
    scores on the same track in the same cell are compared.

    Args:
        one: (S, T, C).
        other: (K, T, C), its trainings any number.

    Returns:
        0 to 1; ½ if neither is better.
    """
    one, other = _paired(one, other)
    higher = [(row > other).mean() + 0.5 * (row == other).mean() for row in one]
    return float(np.mean(higher))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Share of the scores above each threshold (the score distribution of Agarwal et al. 2021, section 4.2).

    Args:
        scores: (S, T, C).
        thresholds: (n,).

    Returns:
        (n,), 0 to 1.
    """
    ordered = np.sort(_checked(scores).ravel())
    thresholds = np.asarray(thresholds, np.float64)
    return np.asarray(1 - np.searchsorted(ordered, thresholds, side="right") / ordered.size)


def normalized_error(scores: ArrayLike, best: float = BEST_RETURN) -> np.ndarray:
    """1 - normalised score: 1 where nothing was driven, 0 at the bound that no lap reaches.

    The normalised score is the score over ``best``, cut at 0: to leave CarRacing's field costs 100 and is no worse here
    than to stand still.

    Args:
        scores: any shape.
        best: what no score exceeds; of CarRacing's returns :data:`BEST_RETURN`.

    Returns:
        0 to 1, the same shape.
    """
    return np.asarray(1 - np.clip(np.asarray(scores, np.float64) / best, 0, 1))


def corruption_error(errors: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """Corruption error of a policy, in percent of the baseline's, for each shift.

    CE_c = 100 · Σ_s E_{s,c} / Σ_s E^baseline_{s,c}, the sums over severities s of one shift c (Hendrycks and
    Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", section 3). Their
    mean over shifts is the mCE. E there is a rate of wrong classes; here it is :func:`normalized_error`.

    Args:
        errors: (shifts, severities) mean errors of the policy.
        baseline: (shifts, severities) those of the baseline.

    Returns:
        (shifts,); NaN where the baseline makes no error: nothing is a share of that.
    """
    own, other = (np.asarray(each, np.float64).sum(axis=-1) for each in (errors, baseline))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(100 * np.where(other == 0, np.nan, own / other))


def comparison_p_value(one: ArrayLike, other: ArrayLike, seed: int = 0) -> float:
    """Two-sided p value of the difference of two policies' means, by permutation.

    With one training of each, tracks are the unit: under the null hypothesis the two scores of a track may be
    exchanged, so signs of its difference are flipped. It then tells of these two trainings, on other tracks. With more,
    trainings are the unit, and which policy a training belongs to is permuted: it tells of training anew, and two
    times three trainings cannot give less than 0.1.

    Args:
        one: (S, T, C).
        other: (K, T, C).
        seed: of the permutations, where there are too many to count them all.

    Returns:
        Share of permutations that differ at least as much as what was seen, itself among them.
    """
    one, other = _paired(one, other)
    if len(one) == len(other) == 1:
        return _sign_flips((one - other).mean(axis=(0, 2)), seed)
    return _exchanges(np.concatenate([one, other]).mean(axis=(1, 2)), len(one), seed)


def _sign_flips(differences: np.ndarray, seed: int) -> float:
    count = len(differences)
    if 2**count <= _EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=count)))
    else:
        drawn = np.random.default_rng(seed).integers(2, size=(_EXACT, count))
        signs = np.concatenate([np.ones((1, count)), 1.0 - 2.0 * drawn])
    return _share_as_large(signs @ differences)


def _exchanges(means: np.ndarray, first: int, seed: int) -> float:
    count, total = len(means), means.sum()
    if math.comb(count, first) <= _EXACT:
        chosen = [list(each) for each in itertools.combinations(range(count), first)]
    else:
        rng = np.random.default_rng(seed)
        chosen = [list(range(first)), *(list(rng.permutation(count)[:first]) for _ in range(_EXACT))]
    sums = means[np.array(chosen)].sum(axis=1)
    return _share_as_large(sums / first - (total - sums) / (count - first))


def _share_as_large(statistics: np.ndarray) -> float:
    """Of the permutations, the first of which is what was seen."""
    seen = abs(statistics[0])
    return float(np.mean(np.abs(statistics) >= seen - 1e-9 * max(1.0, seen)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of several tests (Holm 1979): the chance that any of them is a false alarm stays below each.

    p̃_(i) = max_{j ≤ i} min(1, (m - j + 1) p_(j)), the p values in ascending order.

    Args:
        p_values: of the m tests, in any order.

    Returns:
        The adjusted ones in the same order.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _paired(one: ArrayLike, other: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = _checked(one), _checked(other)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"policies are compared on the same tracks and cells, not {first.shape} and {second.shape}.")
    return first, second


def _checked(scores: ArrayLike) -> np.ndarray:
    array = np.asarray(scores, np.float64)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"scores must be (trainings, tracks, cells), none of them empty, not {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite.")
    return array

"""The numbers that a table of scores gives: moments, order statistics, and the interquartile mean with its interval.

The interquartile mean (IQM) is the mean of the middle half: as robust to a lost lap as the median, but it uses half of
the episodes instead of one or two (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", section 4.3). Its interval is the percentile bootstrap of the same paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Statistic = Callable[[np.ndarray], np.ndarray]


def interquartile_mean(values: ArrayLike) -> np.ndarray:
    """Mean of what is left when the lowest and the highest quarter are cut off, along the last axis.

    ``⌊n/4⌋`` values are cut at each end, as ``scipy.stats.trim_mean(values, 0.25)`` and rliable do it.

    Args:
        values: (..., n), n at least 1.

    Returns:
        The means, shape (...).
    """
    values = np.sort(_checked(values), axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic (Efron 1979): how far another draw of episodes could move it.

    Args:
        values: (n,) scores, one an episode.
        statistic: maps (resamples, n) to (resamples,).
        confidence: share of the resampled statistics that lie within the interval, 0 to 1.
        resamples: how many times n scores are drawn with replacement.
        seed: of the generator that draws them; the same seed gives the same interval.

    Returns:
        The lower and the upper end.
    """
    values = _checked(values)
    chosen = np.random.default_rng(seed).integers(values.size, size=(resamples, values.size))
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(values[chosen]), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Summary:
    """What a set of scores comes to."""

    mean: float
    std: float
    """Standard deviation of the scores themselves (divisor n), as published CarRacing tables give it."""
    median: float
    minimum: float
    iqm: float
    """Interquartile mean."""
    iqm_interval: tuple[float, float]
    """Its percentile bootstrap interval, 95 %."""


def summarize(scores: ArrayLike) -> Summary:
    """All of :class:`Summary` for (n,) scores.

    Raises:
        ValueError: if there are no scores or one of them is not finite.
    """
    scores = _checked(scores)
    return Summary(
        mean=float(scores.mean()),
        std=float(scores.std()),
        median=float(np.median(scores)),
        minimum=float(scores.min()),
        iqm=float(interquartile_mean(scores)),
        iqm_interval=bootstrap_interval(scores),
    )


def _checked(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError("statistics need at least one score.")
    if not np.isfinite(array).all():
        raise ValueError(f"scores must be finite; number {int(np.argmin(np.isfinite(array).ravel()))} is not.")
    return array

"""Lines of bits as events: the steps at which something happens, and how long that was after the one before."""

from __future__ import annotations

import numpy as np


def pack_events(
    bits: np.ndarray, happens: np.ndarray, unit: float, steps: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The marked steps of each line, moved together and padded.

    Args:
        bits: (N, P) of lines.
        happens: (N, P) bool, which of them are events; the first step of each line has to be one.
        unit: steps that are one unit of elapsed time.
        steps: T, what to pad to; by default the most events of a line.

    Returns:
        The bits of the events (N, T) float32, the time since the event before (N, T) float32, the mask (N, T), and the
        places of the events in their lines (N, T) int64, 0 at padding. The first event has one step of time.
    """
    counts = happens.sum(1)
    mask = np.arange(counts.max(initial=0) if steps is None else steps) < counts[:, None]
    line, place = np.nonzero(happens)
    since = np.diff(place, prepend=-1)
    since[np.cumsum(counts) - counts] = 1
    x, elapsed, places = np.zeros(mask.shape, np.float32), np.ones(mask.shape, np.float32), np.zeros(mask.shape, int)
    x[mask], elapsed[mask], places[mask] = bits[line, place], since / unit, place
    return x, elapsed, mask, places


def changes(bits: np.ndarray) -> np.ndarray:
    """Where runs of equal bits begin, (N, P) bool."""
    return np.concatenate([np.ones((len(bits), 1), bool), bits[:, 1:] != bits[:, :-1]], 1)

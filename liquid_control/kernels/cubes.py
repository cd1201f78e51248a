"""Reading a cube on the CPU: keys, summaries, entries and what they recall in one call, of float32 inputs.

The equations are in `liquid_control.models.cubes`, whose torch form is the reference. At batch 1 its twenty small
operations cost more than a feed-forward part of a small model does; the arithmetic is a tenth of a million
multiplications. Inputs are looked up one after another, so what is recalled of one does not depend on the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels.dense import apply_rows, dot
from liquid_control.kernels.fast_math import OPTIONS, kernel_part

TINY = np.float32(np.finfo(np.float32).tiny)
SHORTEST = np.float32(1e-12)
"""Of a vector that is made one of length one, as in `torch.nn.functional.normalize`."""

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]
"""Residual (N, d), similarity (N,), dispersion (N,), places (N, k) and weights (N, k) of N inputs, and the number of
blocks that have entries."""


class Arrays(NamedTuple):
    """The memory of a cube that a kernel reads, and of which it writes the last three."""

    projection: np.ndarray
    centre: np.ndarray
    whiten: np.ndarray
    summaries: np.ndarray
    filled: np.ndarray
    keys: np.ndarray
    residuals: np.ndarray
    use: np.ndarray
    touched: np.ndarray
    clock: np.ndarray


class How(NamedTuple):
    """How a cube is read."""

    probed: int
    """Blocks whose entries are looked at."""
    neighbours: int
    """Entries that are recalled together, k."""
    sharpness: np.float32
    """How much more a nearer entry counts."""


def read(x: Tensor, of: Arrays, how: How) -> Found:
    """What a cube holds of inputs (N, d), float32 on the CPU; its clock, and the use of what was recalled, go on."""
    found = _room(len(x), of, how)
    blocks = _read(x.detach().contiguous().numpy(), *of, how.probed, how.sharpness, *found)
    return *map(torch.from_numpy, found), blocks


def look_up(keys: Tensor, of: Arrays, how: How) -> Found:
    """The same of keys (N, K), and nothing of the cube changes."""
    found = _room(len(keys), of, how)
    given = keys.detach().contiguous().numpy()
    blocks = _look_up(given, of.summaries, of.filled, of.keys, of.residuals, how.probed, how.sharpness, *found)
    return *map(torch.from_numpy, found), blocks


def _room(number: int, of: Arrays, how: How) -> tuple[np.ndarray, ...]:
    """For what is found of so many inputs."""
    k = how.neighbours
    return (
        np.zeros((number, of.residuals.shape[2]), np.float32),
        np.zeros(number, np.float32),
        np.zeros(number, np.float32),
        np.zeros((number, k), np.int64),
        np.zeros((number, k), np.float32),
    )


@njit(cache=True, nogil=True, **OPTIONS)
def _look_up(
    keys, summaries, filled, entries, residuals, probed, sharpness,
    mean, similarity, dispersion, places, weights,
):  # fmt: skip
    there = np.flatnonzero(filled)
    if len(there) == 0:
        return 0
    near, best, apart = np.empty(len(there), keys.dtype), np.empty(weights.shape[1], keys.dtype), np.empty_like(mean[0])
    for n in range(len(keys)):
        key, place = keys[n], places[n]
        left, bound = len(there), near.dtype.type(-np.inf)
        if left > probed:
            for i in range(len(there)):
                near[i] = dot(summaries[there[i]], key)
            bound, left = np.partition(near, len(there) - probed)[len(there) - probed], probed
        best[:] = -np.inf
        for i in range(len(there)):
            if left == 0 or (len(there) > probed and not near[i] >= bound):
                continue
            left -= 1
            _nearest_of_block(key, entries[there[i]], filled[there[i]], there[i], best, place)
        _recall(best, place, residuals, sharpness, mean[n], weights[n])
        similarity[n] = best[0]
        spread = near.dtype.type(0)
        for i in range(len(best)):
            if weights[n, i] > 0:
                apart[:] = residuals[place[i] // entries.shape[1], place[i] % entries.shape[1]] - mean[n]
                spread += weights[n, i] * dot(apart, apart)
        dispersion[n] = spread / max(dot(mean[n], mean[n]), TINY)
    return len(there)


@kernel_part
def _nearest_of_block(key, entries, filled, block, best, places):
    """Puts entries of a block among the best so far, in descending order."""
    last = len(best) - 1
    for slot in range(filled):
        score = dot(entries[slot], key)
        if score > best[last]:
            at = last
            while at > 0 and score > best[at - 1]:
                best[at], places[at] = best[at - 1], places[at - 1]
                at -= 1
            best[at], places[at] = score, block * len(entries) + slot


@kernel_part
def _recall(best, places, residuals, sharpness, mean, weights):
    """The shares of the best, and the mean of their residuals by those."""
    whole = weights.dtype.type(0)
    for i in range(len(best)):
        weights[i] = np.exp(sharpness * (best[i] - best[0]))
        whole += weights[i]
    weights /= whole
    for i in range(len(best)):
        if weights[i] != 0:  # where there are fewer entries; NaN goes on
            mean += weights[i] * residuals[places[i] // residuals.shape[1], places[i] % residuals.shape[1]]


@njit(cache=True, nogil=True, **OPTIONS)
def _read(
    x, projection, centre, whiten, summaries, filled, entries, residuals, use, touched, clock,
    probed, sharpness, mean, similarity, dispersion, places, weights,
):  # fmt: skip
    keys, projected = np.empty((len(x), len(centre)), x.dtype), np.empty_like(centre)
    for n in range(len(x)):
        key = keys[n]
        apply_rows(projection, x[n], projected)
        projected -= centre
        apply_rows(whiten, projected, key)
        key /= max(np.sqrt(dot(key, key)), SHORTEST)
    blocks = _look_up(
        keys, summaries, filled, entries, residuals, probed, sharpness, mean, similarity, dispersion, places, weights
    )
    clock[0] += len(x)
    for n in range(len(x)):
        for i in range(places.shape[1]):
            if weights[n, i] > 0:
                block, slot = places[n, i] // use.shape[1], places[n, i] % use.shape[1]
                use[block, slot] += weights[n, i]
                touched[block] = clock[0]
    return blocks

"""A student's guess on the CPU, of a few inputs in float32 and without a graph: one call instead of some thirty.

The equations are in `liquid_control.models.student`, whose torch form is the reference, and learns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from liquid_control.kernels.dense import apply_rows, dot, whole_lanes
from liquid_control.kernels.fast_math import OPTIONS, sigmoid
from liquid_control.kernels.scan import relax
from liquid_control.kernels.simd import LANES, load, store


class Weights(NamedTuple):
    """The parameters of a student, as torch has them."""

    norm: np.ndarray
    """(d,)."""
    drive: np.ndarray
    """(2 U, 2 d + 2)."""
    bias: np.ndarray
    """(2 U,)."""
    readout: np.ndarray
    """(d, U)."""
    expects: np.ndarray
    """(1, U)."""
    expects_bias: np.ndarray
    """(1,)."""
    trust: np.ndarray
    """(3,)."""
    doubt: np.ndarray
    """(2,)."""
    energy: np.ndarray
    """(1,) E, the mean of ‖r‖²."""
    near: float
    """Added to a novelty in its logarithm."""
    alike: float
    """Added to how much residuals differ, in its logarithm."""
    floor: float
    """Added to the mean square of an input."""
    tau_min: float


def guess(
    h: np.ndarray,
    remembered: np.ndarray,
    similarity: np.ndarray,
    dispersion: np.ndarray,
    shares: np.ndarray,
    state: np.ndarray,
    weights: Weights,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a student makes of B sequences of T inputs.

    Args:
        h: (B, T, d) inputs.
        remembered: (B T, d) r̂_mem.
        similarity: (B T,).
        dispersion: (B T,).
        shares: (B T, k) of what was recalled, zeros of an empty cube.
        state: (B, U) before the first.
        weights: of the student.

    Returns:
        r̂ (B, T, d), ℓ (B, T), and the state after the last (B, U).
    """
    residual, log_error, after = np.empty_like(h), np.empty(h.shape[:2], np.float32), state.copy()
    _guess(h, remembered, similarity, dispersion, shares, after, *weights, residual, log_error)
    return residual, log_error, after


@njit(cache=True, nogil=True, **OPTIONS)
def _guess(
    h, remembered, similarity, dispersion, shares, state,
    norm, drive, bias, readout, expects, expects_bias, trust, doubt, energy, near, alike, floor, tau_min,
    residual, log_error,
):  # fmt: skip
    batch, steps, width = h.shape
    units, lanes, single = state.shape[1], whole_lanes(state.shape[1]), h.dtype.type
    seen, driven, z = np.empty(drive.shape[1], h.dtype), np.zeros(2 * lanes, h.dtype), np.zeros(lanes, h.dtype)
    targets, paces = driven[:lanes], driven[lanes:]
    for b in range(batch):
        z[:units] = state[b]
        for t in range(steps):
            x, place = h[b, t], b * steps + t
            scale = single(1) / np.sqrt(dot(x, x) / single(width) + single(floor))
            for i in range(width):
                seen[i] = x[i] * scale * norm[i]
                seen[width + i] = remembered[place, i]
            apart, new = np.log1p(dispersion[place]), single(1) - similarity[place]
            seen[2 * width], seen[2 * width + 1] = apart, new
            for i in range(units):
                targets[i] = dot(drive[i], seen) + bias[i]
                paces[i] = dot(drive[units + i], seen) + bias[units + i]
            for k in range(lanes // LANES):
                store(z, k, relax(load(z, k), load(targets, k), load(paces, k), 1, tau_min))
            share = sigmoid(trust[0] - trust[1] * new - trust[2] * apart)
            apply_rows(readout, z[:units], residual[b, t])
            for i in range(width):
                residual[b, t, i] += share * remembered[place, i]
            spread = dispersion[place] * dot(remembered[place], remembered[place]) / energy[0]
            far = np.log(new + single(near))
            wide = np.log(spread + single(alike)) if shares[place, 0] > 0 else single(0)
            log_error[b, t] = dot(expects[0], z[:units]) + expects_bias[0] + doubt[0] * far + doubt[1] * wide
        state[b] = z[:units]

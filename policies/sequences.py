"""Sequences that run on over the ends of episodes, through a liquid layer in one call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from liquid_control.nn import LiquidLayer


def run_episodes(
    layer: LiquidLayer, x: Tensor, state: Tensor, starts: Tensor, elapsed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs ``layer`` over sequences in which episodes start anywhere; there the state is the layer's initial one again.

    Sequences are cut where an episode starts, and the pieces run side by side, each from its own state: no loop over
    time, whatever the layer.

    Args:
        layer: any layer of `liquid_control.nn`.
        x: (B, T, C).
        state: (B, S) before the first step; of no matter where an episode starts there.
        starts: (B, T) bool, True where a step is the first of an episode.
        elapsed: (B, T), as the layer takes it, or None.

    Returns:
        y (B, T, O) and the state (B, S) after the last step.
    """
    batch, time, _ = x.shape
    initial = layer.initial_state(batch)
    state = torch.where(starts[:, :1], initial, state)
    later = starts[:, 1:].cpu().numpy()
    if not later.any():
        return layer(x, state, elapsed)

    begins = np.concatenate([np.ones((batch, 1), bool), later], 1)
    row, begin = np.nonzero(begins)  # of each piece, row after row
    length = np.diff(np.append(row * time + begin, batch * time))
    ticks = np.arange(length.max())
    mask = ticks < length[:, None]  # (P, longest)
    places = torch.from_numpy(np.where(mask, (row * time + begin)[:, None] + ticks, 0)).to(x.device)
    real, rows = (torch.from_numpy(array).to(x.device) for array in (mask, row))

    pieces = x.flatten(0, 1)[places]  # (P, longest, C)
    first = torch.from_numpy(begin == 0).to(x.device)[:, None]
    piece_state = torch.where(first, state[rows], initial[rows])
    piece_elapsed = None if elapsed is None else elapsed.flatten()[places]
    y, final = layer(pieces, piece_state, piece_elapsed, real)
    # Pieces one after another, padding left out, are the rows one after another.
    y = y.flatten(0, 1)[real.flatten()].unflatten(0, (batch, time))
    last = np.append(np.flatnonzero(np.diff(row)), len(row) - 1)
    return y, final[torch.from_numpy(last).to(x.device)]

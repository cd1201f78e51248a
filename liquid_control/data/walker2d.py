"""Walker2d: what a simulated walker does next, of the ODE-LSTM and CfC papers.

The data are 400 rollouts of MuJoCo's Walker2d-v2 under a trained policy, from Mathias Lechner's page (and in
raminmh/CfC at 59f6e01, MIT licence). The protocol is that of Lechner and Hasani, "Learning Long-Term Dependencies in
Irregularly-Sampled Time Series" (2020), and of Hasani et al., "Closed-form continuous-time neural networks" (2022).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from liquid_control.data.download import DataSource, find_file
from liquid_control.data.sequences import SequenceSet, SequenceSplits, window_starts
from liquid_control.support.errors import UserError

SOURCE = DataSource(
    name="the Walker2d data set",
    folder="walker2d",
    page="https://github.com/raminmh/CfC",
    url="https://people.csail.mit.edu/mlechner/datasets/walker.zip",
)
ROLLOUTS, FEATURES, STEPS = 400, 17, 254_963
WINDOW, STRIDE = 64, 16
KEPT = 0.9


def walker2d() -> SequenceSplits:
    """The published windows: given a state, what is the next one?

    Rollouts in the order of their names are shuffled; the first 15 % are for test, the next 10 % for validation, so no
    rollout is in two sets. Of each, every step is dropped with probability 0.1, and windows of 64 steps begin every 16.

    Returns:
        9,684 windows for training, 1,272 for validation, 1,937 for test. ``x`` (N, 64, 17) and ``target`` (N, 64, 17)
        float32, raw: joint angles in rad, velocities in rad/s and m/s that the simulator clips to ± 10. The target is
        the state one step after, whether that was dropped or not. ``elapsed`` (N, 64) counts steps of the simulator
        since the kept step before, 1 or more.

    Raises:
        UserError: if the rollouts cannot be had, or are not 400 of 17 values with 254,963 states in all. Nobody
            published a checksum of the archive, so these are what is checked.
    """
    path = find_file(SOURCE, "walker.zip", "walker2d_rollouts.npz")
    rollouts = read_rollouts(path)
    if (len(rollouts), sum(map(len, rollouts))) != (ROLLOUTS, STEPS):
        raise UserError(
            f"{path} has {len(rollouts)} rollouts of {sum(map(len, rollouts))} states, expected {ROLLOUTS} of {STEPS} "
            f"in all. Get the file again from {SOURCE.page}."
        )
    return split_rollouts(rollouts)


def read_rollouts(path: Path) -> list[np.ndarray]:
    """The rollouts of an archive of ``rollout_*.npy``, each (T, 17) float32, in the order of their names.

    Raises:
        UserError: if the archive cannot be read, or an array has another shape or is not finite.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = {name.rsplit("/", 1)[-1].removesuffix(".npy"): name for name in archive.files}
            rollouts = {name: archive[names[name]] for name in sorted(names) if name.startswith("rollout_")}
    except (EOFError, OSError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the rollouts {path}: {error}. Get the file again from {SOURCE.page}.") from None
    for name, states in rollouts.items():
        numbers = states.dtype.kind in "fiu" and states.ndim == 2 and states.shape[1] == FEATURES
        if not numbers or not np.isfinite(states).all():
            found = f"{states.dtype} {states.shape}"
            raise UserError(f"{path}: {name} is {found}, expected finite states (steps, {FEATURES}).")
    return [states.astype(np.float32) for states in rollouts.values()]


def split_rollouts(rollouts: list[np.ndarray]) -> SequenceSplits:
    """The published split of rollouts, each (T, 17), into windows; see :func:`walker2d`."""
    rollouts = list(rollouts)
    np.random.RandomState(125487).shuffle(rollouts)  # of a list: an array would be shuffled by rows
    test, validation = int(0.15 * len(rollouts)), int(0.25 * len(rollouts))
    draws = np.random.RandomState(891374)
    train = _windows(rollouts[validation:], draws)  # in this order, for they share the random numbers
    return SequenceSplits(train, _windows(rollouts[test:validation], draws), _windows(rollouts[:test], draws))


def _windows(rollouts: list[np.ndarray], draws: np.random.RandomState) -> SequenceSet:
    x, elapsed, target = [], [], []
    for states in rollouts:
        kept = np.flatnonzero(draws.rand(len(states) - 1) < KEPT)
        since = np.diff(kept, prepend=-1)
        for start in window_starts(len(kept), WINDOW, STRIDE):
            steps = kept[start : start + WINDOW]
            x.append(states[steps])
            target.append(states[steps + 1])
            elapsed.append(since[start : start + WINDOW])
    shape = (len(x), WINDOW)
    return SequenceSet(
        np.array(x, np.float32).reshape(*shape, FEATURES),
        np.array(elapsed, np.float32).reshape(shape),
        np.ones(shape, bool),
        np.array(target, np.float32).reshape(*shape, FEATURES),
    )

"""Bearings by their vibration: how much of its life one has left (PRONOSTIA, XJTU-SY), or what is broken (HUST).

The files are the official ones, which people get by hand, since they are gigabytes. Sequences are snapshots of
vibration, each given as features of :mod:`liquid_control.data.vibration` of both axes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from liquid_control.data.download import INSTALL, DataSource, find_folder
from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.data.table import malformed, read_numbers
from liquid_control.data.vibration import features_of_files, kept, vibration_features
from liquid_control.support.errors import UserError, check_known

PRONOSTIA = DataSource(
    name="PRONOSTIA",
    folder="pronostia",
    page="https://github.com/wkzs111/phm-ieee-2012-data-challenge-dataset",
)
"""FEMTO-ST, IEEE PHM 2012 challenge (Nectoux et al. 2012): 17 bearings, a snapshot of 0.1 s each 10 s."""
XJTU_SY = DataSource(
    name="XJTU-SY",
    folder="xjtu-sy",
    page="https://biaowang.tech/xjtu-sy-bearing-datasets/",
)
"""Wang, Lei, Li and Li, IEEE Transactions on Reliability (2018): 15 bearings, a snapshot of 1.28 s each minute."""
HUST = DataSource(
    name="HUST bearing",
    folder="hust",
    page="https://data.mendeley.com/datasets/cbv7jyx4p9/3",
)
"""Hong and Thuan, BMC Research Notes (2023), CC BY 4.0: 99 recordings of about 10 s of 5 types of bearing, 7 states."""
RATE, HUST_RATE = 25_600, 51_200
"""Samples a second."""
HUST_STATES = ("N", "I", "O", "B", "IB", "IO", "OB")
"""Normal; broken inner race, outer race, ball, and two of these."""


@dataclass(frozen=True)
class Run:
    """One bearing from new to broken, S snapshots."""

    name: str
    features: np.ndarray
    """(S, 14) float64, horizontal and vertical."""
    moments: np.ndarray
    """(S,) float64, time since the first snapshot, in intervals of the data set."""

    @property
    def left(self) -> np.ndarray:
        """(S,) float64, the share of its life that is left: 1 at the first snapshot, 0 at the last."""
        return 1 - self.moments / self.moments[-1]


def pronostia(
    *,
    window: int = 32,
    stride: int = 1,
    time_feature: bool = False,
    train: Sequence[str] = ("1_1", "2_1", "2_2", "3_1", "3_2"),
    validation: Sequence[str] = ("1_2",),
    test: Sequence[str] = ("1_3", "1_4", "1_5", "1_6", "1_7", "2_3", "2_4", "2_5", "2_6", "2_7", "3_3"),
) -> SequenceSplits:
    """Windows of snapshots of PRONOSTIA, and the share of its life that the bearing has left.

    Training and validation are the official six of ``Learning_set``; the test is ``Full_Test_Set``, whole runs. A
    bearing is in one set only. (The LAN papers split windows of the same bearings at random.)

    Args:
        window: snapshots; shorter runs are padded.
        stride: snapshots from one window for training to the next; those for validation and test end at every snapshot
            from the ``window``-th on, too.
        time_feature: adds the time since the first snapshot as an input. The label is a line in it, with a slope that
            differs between bearings, so it gives the label away within a run: with it, nobody knows what the vibration
            was worth. The LAN papers have it.
        train: bearings, as ``1_1`` for ``Bearing1_1``.
        validation: the same.
        test: the same.

    Returns:
        ``x`` (N, window, 14), or 15 with the time, standardised by the bearings for training; ``elapsed`` in units of
        10 s, by the clock in the files; ``target`` (N,) float32, 1 for new to 0 for broken, at the window's last
        snapshot.

    Raises:
        UserError: if folders or files are missing, a row is malformed, or options are impossible.
    """
    return _splits(_read_pronostia, find_folder(PRONOSTIA), (train, validation, test), window, stride, time_feature)


def xjtu_sy(
    *,
    window: int = 32,
    stride: int = 1,
    time_feature: bool = False,
    train: Sequence[str] = ("1_1", "1_2", "1_3", "2_1", "2_2", "2_3", "3_1", "3_2", "3_3"),
    validation: Sequence[str] = ("1_4", "2_4", "3_4"),
    test: Sequence[str] = ("1_5", "2_5", "3_5"),
) -> SequenceSplits:
    """Windows of snapshots of XJTU-SY; as :func:`pronostia`, with ``elapsed`` in minutes, by the numbers of the files.

    There is no official split; the default has bearings of all three operating conditions in each set.
    """
    return _splits(_read_xjtu_sy, find_folder(XJTU_SY), (train, validation, test), window, stride, time_feature)


def hust(
    *,
    snapshot: float = 0.1,
    window: int = 32,
    train: Sequence[str] = ("4", "5", "6"),
    validation: Sequence[str] = ("7",),
    test: Sequence[str] = ("8",),
) -> SequenceSplits:
    """Windows of snapshots of HUST, and what is broken.

    No bearing wears here: each of the 99 recordings is ten seconds of one state. The LAN papers number their snapshots
    and call that degradation. Here the target is the state, and types of bearing are in one set only.

    Args:
        snapshot: length in seconds of the pieces that a recording is cut into.
        window: snapshots, side by side.
        train: types of bearing, 4 to 8 for 6204 to 6208.
        validation: the same.
        test: the same.

    Returns:
        ``x`` (N, window, 7), standardised by the recordings for training; ``elapsed`` one snapshot, always 1;
        ``target`` (N,) the state, the index in :data:`HUST_STATES`.

    Raises:
        UserError: if the folder or recordings are missing, one cannot be read, or options are impossible.
    """
    folder = find_folder(HUST)
    samples = round(snapshot * HUST_RATE)
    if samples < 2 or window < 1:
        raise UserError(
            f"snapshot is {snapshot} s and window {window}, expected two samples and one snapshot at least."
        )
    files = {path: match for path in sorted(folder.rglob("*.mat")) if (match := _HUST_NAME.fullmatch(path.name))}
    kinds = sorted({match["type"] for match in files.values()})
    _check_names("type of bearing", (train, validation, test), kinds, HUST, folder)
    parts = []
    for chosen in (train, validation, test):
        x, target = [], []
        for path, match in files.items():
            if match["type"] in chosen:
                rows = kept([path], samples, partial(_pieces, path, samples))
                windows = [rows[start : start + window] for start in range(0, len(rows) - window + 1, window)]
                x += windows
                target += [HUST_STATES.index(match["state"])] * len(windows)
        if not x:
            raise UserError(
                f"{folder}: no recording of {', '.join(chosen)} is as long as {window} snapshots of {snapshot} s."
            )
        parts.append((np.array(x), np.array(target, np.int64)))
    mean, deviation = _scale(parts[0][0].reshape(-1, parts[0][0].shape[-1]))
    return SequenceSplits(
        *(
            SequenceSet(
                ((x - mean) / deviation).astype(np.float32),
                np.ones(x.shape[:2], np.float32),
                np.ones(x.shape[:2], bool),
                target,
            )
            for x, target in parts
        )
    )


_HUST_NAME = re.compile(r"(?P<state>N|I|O|B|IB|IO|OB)(?P<type>[4-8])0[024]\.mat")
_SNAPSHOT = re.compile(r"(?:acc_)?(\d+)\.csv")


def _splits(
    read: Callable[[Path], Run],
    folder: Path,
    chosen: tuple[Sequence[str], Sequence[str], Sequence[str]],
    window: int,
    stride: int,
    time_feature: bool,
) -> SequenceSplits:
    if window < 1 or stride < 1:
        raise UserError(f"window is {window} and stride {stride}, expected 1 or more.")
    # Test_set of PRONOSTIA has the same runs as Full_Test_Set, cut off.
    there = {
        path.name.removeprefix("Bearing"): path
        for path in sorted(folder.rglob("Bearing*_*"))
        if path.is_dir() and path.parent.name != "Test_set"
    }
    source = PRONOSTIA if read is _read_pronostia else XJTU_SY
    _check_names("bearing", chosen, sorted(there), source, folder)
    runs = [[read(there[name]) for name in names] for names in chosen]
    mean, deviation = _scale(np.concatenate([_inputs(run, time_feature) for run in runs[0]]))
    strides = stride, 1, 1
    return SequenceSplits(
        *(_windows(part, mean, deviation, window, each, time_feature) for part, each in zip(runs, strides, strict=True))
    )


def _check_names(
    what: str, chosen: Sequence[Sequence[str]], known: list[str], source: DataSource, folder: Path
) -> None:
    if not known:
        raise UserError(f"{folder} holds nothing of {source.name}: get it from {source.page} and unpack it there.")
    names = [name for names in chosen for name in names]
    check_known(f"{what} in {folder}", names, known)
    if len(set(names)) != len(names) or not all(chosen):
        raise UserError(f"expected each {what} in one set, and one at least in each: {', '.join(map(str, chosen))}.")


def _read_pronostia(folder: Path) -> Run:
    files = _snapshots(folder, "acc_*.csv")
    clock = [_clock(path) for path in files]
    passed = np.diff(clock, prepend=clock[0])
    passed[passed < 0] += 24 * 3600  # midnight
    return Run(folder.name, features_of_files(files, _vibration, RATE), np.cumsum(passed) / 10)


def _read_xjtu_sy(folder: Path) -> Run:
    files = _snapshots(folder, "*.csv")
    numbers = np.array([_number(path) for path in files], np.float64)
    return Run(
        folder.name, features_of_files(files, lambda path: read_numbers(path, 2, ",", 1), RATE), numbers - numbers[0]
    )


def _number(path: Path) -> int:
    match = _SNAPSHOT.fullmatch(path.name)
    return int(match[1]) if match else -1


def _snapshots(folder: Path, pattern: str) -> list[Path]:
    files = sorted((path for path in folder.glob(pattern) if _number(path) >= 0), key=_number)
    if len(files) < 2:
        raise UserError(
            f"{folder} has {len(files)} files {pattern} with numbers, expected a run of many. Unpack it again."
        )
    return files


def _first_line(path: Path) -> tuple[str, str]:
    """The first line of a file, and what parts its fields: in some files of PRONOSTIA, semicolons."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    return line, ";" if ";" in line else ","


def _clock(path: Path) -> float:
    """The time of day at the first sample, in seconds."""
    line, separator = _first_line(path)
    try:
        hour, minute, second, microsecond = map(float, line.split(separator)[:4])
    except ValueError:
        raise malformed(
            path, 1, repr(line.strip()), "hour, minute, second, microsecond and two accelerations"
        ) from None
    return hour * 3600 + minute * 60 + second + microsecond / 1e6


def _vibration(path: Path) -> np.ndarray:
    return read_numbers(path, 6, _first_line(path)[1])[:, 4:]


def _inputs(run: Run, time_feature: bool) -> np.ndarray:
    return np.column_stack([run.features, run.moments]) if time_feature else run.features


def _scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    deviation = rows.std(0)
    return rows.mean(0), np.where(deviation > 1e-12, deviation, 1)


def _windows(
    runs: list[Run], mean: np.ndarray, deviation: np.ndarray, window: int, stride: int, time_feature: bool
) -> SequenceSet:
    ends = [(run, end) for run in runs for end in range(min(window, len(run.left)), len(run.left) + 1, stride)]
    x = np.zeros((len(ends), window, len(mean)), np.float32)
    elapsed, mask = np.ones(x.shape[:2], np.float32), np.zeros(x.shape[:2], bool)
    target = np.zeros(len(ends), np.float32)
    scaled = {run.name: ((_inputs(run, time_feature) - mean) / deviation).astype(np.float32) for run in runs}
    for index, (run, end) in enumerate(ends):
        rows = np.arange(max(end - window, 0), end)
        steps = slice(0, len(rows))
        x[index, steps], mask[index, steps] = scaled[run.name][rows], True
        elapsed[index, steps] = np.diff(run.moments, prepend=run.moments[0] - 1)[rows]
        target[index] = run.left[end - 1]
    return SequenceSet(x, elapsed, mask, target)


def _pieces(path: Path, samples: int) -> np.ndarray:
    """The features of pieces of a recording side by side, (pieces, 7)."""
    signal = _read_mat(path)
    starts = range(0, len(signal) - samples + 1, samples)
    return np.array([vibration_features(signal[start : start + samples, None], HUST_RATE) for start in starts])


def _read_mat(path: Path) -> np.ndarray:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(f"recordings of HUST need the package scipy. {INSTALL}.") from None
    try:
        signal = np.asarray(loadmat(path)["data"], np.float64).ravel()
    except Exception as error:  # of many kinds, by what is wrong with the file
        raise UserError(f"cannot read the recording {path}: {error}. Get it again from {HUST.page}.") from None
    if not np.isfinite(signal).all():
        raise UserError(f"{path} has samples that are not finite. Get it again from {HUST.page}.")
    return signal

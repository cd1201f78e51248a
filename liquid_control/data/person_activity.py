"""Person activity: what a person does, by four tags on ankles, chest and belt that are located at irregular moments.

"Localization Data for Person Activity" (Kaluža et al. 2010, UCI Machine Learning Repository, CC BY 4.0): 25 recordings
A01 to E05 of five persons, 164,860 rows. The task is that of Lechner and Hasani, "Learning Long-Term Dependencies in
Irregularly-Sampled Time Series" (2020): the activity at each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from liquid_control.data.download import DataSource, find_file
from liquid_control.data.sequences import SequenceSet, SequenceSplits, window_starts
from liquid_control.data.table import Row, malformed, number, read_rows
from liquid_control.support.errors import UserError, nearest

SOURCE = DataSource(
    name="the person activity data set",
    folder="par",
    page="https://archive.ics.uci.edu/dataset/196",
    url="https://archive.ics.uci.edu/ml/machine-learning-databases/00196/ConfLongDemo_JSI.txt",
)
FULL, PART = "ConfLongDemo_JSI.txt", "ConfLongDemo_JSI_A01-A03.csv"
ROWS = 164_860
TAGS = ("010-000-024-033", "010-000-030-096", "020-000-033-111", "020-000-032-221")
"""Left ankle, right ankle, chest, belt."""
CLASSES = {
    "lying down": 0,
    "lying": 0,
    "sitting down": 1,
    "sitting": 1,
    "standing up from lying": 2,
    "standing up from sitting": 2,
    "standing up from sitting on the ground": 2,
    "walking": 3,
    "falling": 4,
    "on all fours": 5,
    "sitting on the ground": 6,
}
"""The eleven activities, in the order of their own numbers, and which of seven classes each belongs to."""
ACTIVITIES = tuple(CLASSES)
WINDOW, STRIDE = 32, 16
FIRST_ELAPSED = 5.0
"""Of the first row of a recording, as published."""
BLOCKS, VALIDATION_EVERY = 25, 5
"""Into how many blocks of time `strict` cuts a recording, and how many of them come to one for validation."""
FOLDS = 5
SECONDS_A_ROW = 0.211
Protocol: TypeAlias = Literal["strict", "paper", "row"]


@dataclass(frozen=True)
class Recordings:
    """R rows of some recordings, one after the other."""

    x: np.ndarray
    """(R, 7) float32: which of the four tags, one-hot, and where it is, x, y, z in metres."""
    moments: np.ndarray
    """(R,) int64 in units of 100 ns."""
    activity: np.ndarray
    """(R,) int64, the number of the activity among :data:`ACTIVITIES`."""
    names: tuple[str, ...]
    """Of the recordings, in order."""
    starts: np.ndarray
    """(recordings + 1,) int64, the first row of each, and R."""

    @property
    def target(self) -> np.ndarray:
        """(R,) int64, the class of each row, 0 to 6."""
        return np.array(list(CLASSES.values()))[self.activity]

    @property
    def backwards(self) -> np.ndarray:
        """(K,) int64, the rows, from 0, whose moment is earlier than that of the row before in the same recording."""
        return np.flatnonzero(self._passed() < 0)

    @property
    def elapsed(self) -> np.ndarray:
        """(R,) float64, time since the row before in units of 100 ms; 5 for the first row of a recording, as published.

        Where the time goes back, its amount counts. In A01 to A03 this is so at row 1602 of A01 and at row 3584 of A03
        (from 0), by 5 ms each: two tags were written in the wrong order. Rows keep their order, so that windows are the
        published ones.
        """
        elapsed = np.abs(self._passed()) / 1e6
        elapsed[self.starts[:-1]] = FIRST_ELAPSED
        return elapsed

    def _passed(self) -> np.ndarray:
        passed = np.diff(self.moments, prepend=self.moments[:1])
        passed[self.starts[:-1]] = 0
        return passed


def person_activity(
    protocol: Protocol = "strict",
    *,
    held_out: str = "A03",
    drop_last_recording: bool = True,
    person: str = "B",
    fold: int = 0,
) -> SequenceSplits:
    """Windows of rows, or single rows, and the activity at each.

    ``strict``: the recordings ``held_out`` are for test, in windows of 32 rows side by side. Each other recording is
    cut into 25 blocks of time; every fifth is for validation, side by side, too. As all recordings follow one script,
    it is another fifth in each. Windows for training begin every 16 rows and stay inside what lies between. No row is
    in two sets, and no recording in training and test.

    ``paper``: that of ODE-LSTM. Windows of 32 rows of all recordings begin every 16 rows, and a random 20 % of them are
    for test. Half of each test window's rows, or all of them, are in windows for training: what is measured is close to
    recall of what was seen (:func:`row_index_accuracy`). The published run chooses nothing, so it has no validation;
    here a tenth of the windows for training is taken off for it.

    ``row``: that of the LAN and NAC papers. There is no sequence in it: T is 1. One person's rows, from each of the
    eleven activities the first so many as the rarest one has, are shuffled into five folds. Inputs are x, y, z and the
    row's index times 0.211 s, standardised over all rows, test rows included. The index alone gives the label away. The
    published runs choose the best epoch on the fold that they report; here a tenth of the other rows is for validation.
    Folds are drawn by NumPy, so they are not those of scikit-learn.

    Args:
        protocol: see above.
        held_out: of ``strict``, recordings or persons with commas between: ``A03``, ``A01,B02``, or ``E`` for all of
            E's.
        drop_last_recording: of ``paper``, whether the last recording is left out. The published code forgets it,
            because it keeps a recording when the next one begins. False mends that.
        person: of ``row``, the letter.
        fold: of ``row``, which is for test, 0 to 4.

    Returns:
        ``x`` (N, 32, 7), tag one-hot and x, y, z in metres, or (N, 1, 4); ``elapsed`` in units of 100 ms, see
        :attr:`Recordings.elapsed`, 1 for ``row``; ``target`` (N, 32) of 7 classes, or (N, 1) of 11 activities.

    Raises:
        UserError: if the file cannot be had, a row is malformed, the full file has not its 164,860 rows (nobody
            publishes a checksum, so this is what is checked), or an option does not fit the recordings.
    """
    data = _recordings()
    rows = _rows(data, protocol, held_out, drop_last_recording, person, fold)
    if protocol == "row":
        x, elapsed, target = _single(data, rows), np.ones(len(data.x)), data.activity
    else:
        x, elapsed, target = data.x, data.elapsed, data.target
    return SequenceSplits(
        *(
            SequenceSet(
                x[part].astype(np.float32), elapsed[part].astype(np.float32), np.ones(part.shape, bool), target[part]
            )
            for part in rows
        )
    )


def row_index_accuracy(
    protocol: Protocol = "strict",
    *,
    held_out: str = "A03",
    drop_last_recording: bool = True,
    person: str = "B",
    fold: int = 0,
) -> float:
    """How often a test row has the label of the training row whose index in the file is nearest.

    This classifier sees no measurement. What it gets right is what a split gives away. Arguments and errors are those
    of :func:`person_activity`.

    Returns:
        A share, 0 to 1.
    """
    data = _recordings()
    train, _, test = _rows(data, protocol, held_out, drop_last_recording, person, fold)
    return nearest_row_accuracy(train, test, data.activity if protocol == "row" else data.target)


def nearest_row_accuracy(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows ``test`` that have the label of the nearest row of ``train``.

    Args:
        train: indices of rows, of any shape, repeated or not.
        test: the same.
        labels: (R,) of all rows.
    """
    known, asked = np.unique(train), test.ravel()
    after = np.searchsorted(known, asked).clip(1, max(len(known) - 1, 1))
    before, after = known[after - 1], known[after.clip(max=len(known) - 1)]
    guess = np.where(asked - before <= after - asked, before, after)
    return float((labels[guess] == labels[asked]).mean())


def read_recordings(path: Path) -> Recordings:
    """All rows of UCI's file, or of a ``.csv`` with a header and a number before each row.

    Raises:
        UserError: if a row has not eight fields, an unknown tag or activity, or what should be a number is none; names
            file, line and what was expected.
    """
    table = path.suffix == ".csv"
    rows = read_rows(path, 8, ",", header=1 if table else 0)
    first, place = (1, 4) if table else (0, 4)  # UCI's has a date in the place of the number, behind the moment
    names = np.array([row.fields[first] for row in rows])
    tags = np.array([_known(path, row, first + 1, TAGS) for row in rows])
    moments = np.array([_moment(path, row, first + 2) for row in rows], np.int64)
    places = np.array([[number(path, row, place + axis) for axis in range(3)] for row in rows], np.float32)
    activity = np.array([_known(path, row, 7, ACTIVITIES) for row in rows])
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1], [True]]))
    x = np.concatenate([np.eye(len(TAGS), dtype=np.float32)[tags], places], 1)
    return Recordings(x, moments, activity, tuple(map(str, names[starts[:-1]])), starts)


def _known(path: Path, row: Row, column: int, words: tuple[str, ...]) -> int:
    if (word := row.fields[column]) not in words:
        raise malformed(path, row.line, f"{word!r} as field {column + 1}", f"one of {', '.join(words)}")
    return words.index(word)


def _moment(path: Path, row: Row, column: int) -> int:
    # Not by way of a float: a moment has 18 digits.
    if not (word := row.fields[column]).isdecimal() or len(word) > 18:
        raise malformed(path, row.line, f"{word!r} as field {column + 1}", "a moment in units of 100 ns")
    return int(word)


def _recordings() -> Recordings:
    path = find_file(SOURCE, FULL, PART)
    data = read_recordings(path)
    if path.name == FULL and len(data.x) != ROWS:
        raise UserError(
            f"{path} has {len(data.x)} rows, expected {ROWS}: get it again from {SOURCE.page}. A part of it is read "
            f"from {PART}, with a header and a number before each row in the place of the date."
        )
    return data


def _rows(
    data: Recordings, protocol: str, held_out: str, drop_last_recording: bool, person: str, fold: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows are for training, validation and test, (N, T) each."""
    if protocol == "strict":
        return _strict(data, held_out)
    if protocol == "paper":
        return _paper(data, drop_last_recording)
    if protocol == "row":
        return _single_rows(data, person, fold)
    raise UserError(f"no protocol {protocol!r}: {nearest(protocol, ('strict', 'paper', 'row'))}")


def _windows(start: int, end: int, stride: int) -> np.ndarray:
    """Windows of the rows from ``start`` to ``end``, (N, 32)."""
    return (start + window_starts(end - start, WINDOW, stride))[:, None] + np.arange(WINDOW)


def _strict(data: Recordings, held_out: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words = tuple(word.strip() for word in held_out.split(","))
    held = [name.startswith(words) for name in data.names]
    if "" in words or not any(held) or all(held):
        raise UserError(
            f"held_out is {held_out!r}, expected some of the recordings and not all: {', '.join(data.names)}, or the "
            "letters of persons, with commas between."
        )
    train, validation, test = [], [], []
    for index, (start, end) in enumerate(zip(data.starts[:-1], data.starts[1:], strict=True)):
        if held[index]:
            test.append(_windows(start, end, WINDOW))
            continue
        edges = np.linspace(start, end, BLOCKS + 1).astype(int)
        before = start
        for block in range((1 + index) % VALIDATION_EVERY, BLOCKS, VALIDATION_EVERY):
            train.append(_windows(before, edges[block], STRIDE))
            validation.append(_windows(edges[block], edges[block + 1], WINDOW))
            before = edges[block + 1]
        train.append(_windows(before, end, STRIDE))
    return np.concatenate(train), np.concatenate(validation), np.concatenate(test)


def _paper(data: Recordings, drop_last_recording: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bounds = list(zip(data.starts[:-1], data.starts[1:], strict=True))
    if drop_last_recording:
        bounds.pop()
    if not bounds:
        raise UserError(
            "there is one recording, and the published code leaves out the last: drop_last_recording=False."
        )
    windows = np.concatenate([_windows(start, end, STRIDE) for start, end in bounds])
    order = np.random.RandomState(98841).permutation(len(windows))
    test = int(0.2 * len(windows))
    validation = test + (len(windows) - test) // 10
    return windows[order[validation:]], windows[order[test:validation]], windows[order[:test]]


def _single_rows(data: Recordings, person: str, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if fold not in range(FOLDS):
        raise UserError(f"fold is {fold}, expected 0 to {FOLDS - 1}.")
    own = np.concatenate(
        [
            np.arange(start, end)
            for name, start, end in zip(data.names, data.starts[:-1], data.starts[1:], strict=True)
            if person and name.startswith(person)
        ]
        or [np.empty(0, int)]
    )
    rarest = np.bincount(data.activity[own], minlength=len(ACTIVITIES)).min()
    if rarest < 2 * FOLDS:
        raise UserError(
            f"person {person!r} has {len(own)} rows and {rarest} of the rarest activity, expected {2 * FOLDS} at "
            f"least. There are the recordings {', '.join(data.names)}; the others are in {FULL} from {SOURCE.page}."
        )
    draws = np.random.RandomState(42)
    parts: list[list[np.ndarray]] = [[], [], []]
    for activity in range(len(ACTIVITIES)):
        rows = draws.permutation(own[data.activity[own] == activity][:rarest])
        edges = np.linspace(0, rarest, FOLDS + 1).astype(int)
        test = rows[edges[fold] : edges[fold + 1]]
        rest = np.concatenate([rows[: edges[fold]], rows[edges[fold + 1] :]])
        validation = max(len(rest) // 10, 1)
        for part, chosen in zip(parts, (rest[validation:], rest[:validation], test), strict=True):
            part.append(chosen)
    train, validation_rows, test_rows = (np.concatenate(part)[:, None] for part in parts)
    return train, validation_rows, test_rows


def _single(data: Recordings, rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """The inputs of the LAN papers for all rows, (R, 4)."""
    used = np.concatenate(rows).ravel()
    x = np.column_stack([data.x[:, 4:], np.arange(len(data.x)) * SECONDS_A_ROW])
    spread = x[used].std(0)
    return (x - x[used].mean(0)) / np.where(spread > 0, spread, 1)

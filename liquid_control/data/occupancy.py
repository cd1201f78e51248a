"""Room occupancy: whether somebody is in an office, by five sensors once a minute, of the LTC paper.

"Occupancy Detection" (Candanedo and Feldheim 2016, UCI Machine Learning Repository, CC BY 4.0): 20,560 rows in three
files, each of days of its own. The task is that of Hasani et al., "Liquid Time-constant Networks" (AAAI 2021).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from liquid_control.data.download import DataSource, find_file
from liquid_control.data.sequences import SequenceSet, SequenceSplits, window_starts
from liquid_control.data.table import malformed, number, read_rows
from liquid_control.support.errors import UserError, nearest

SOURCE = DataSource(
    name="the occupancy data set",
    folder="occupancy",
    page="https://archive.ics.uci.edu/dataset/357",
    url="https://archive.ics.uci.edu/static/public/357/occupancy+detection.zip",
)
FILES = {"datatraining.txt": 8_143, "datatest.txt": 2_665, "datatest2.txt": 9_752}
"""The files and their rows; the first is for training and validation."""
SENSORS = ("temperature", "humidity", "light", "CO2", "humidity ratio")
WINDOW, STRIDE, TEST_STRIDE = 16, 1, 8
BLOCKS, VALIDATION_BLOCKS = 30, (4, 14, 24)
"""Into how many blocks of time `strict` cuts the training file, and which of them are for validation."""
Protocol: TypeAlias = Literal["strict", "paper"]


def occupancy(protocol: Protocol = "strict") -> SequenceSplits:
    """Windows of 16 minutes, and whether the room is occupied at each.

    Windows for training begin every minute, those for test every 8 minutes. The test is both test files, which are of
    other days. Validation is a tenth of the training file: in ``strict`` three blocks of four and a half hours, which
    share no row with the windows for training; in ``paper`` random windows, which do.

    Args:
        protocol: see above. ``paper`` standardises by the whole training file, ``strict`` by its rows for training.

    Returns:
        ``x`` (N, 16, 5), temperature, humidity, light, CO2 and humidity ratio, each with mean 0 and deviation 1 in
        training; ``elapsed`` (N, 16) in minutes, by the dates; ``target`` (N, 16) 0 or 1.

    Raises:
        UserError: if a file cannot be had, a row is malformed, or a file has another number of rows than its home says
            (nobody publishes a checksum of the archive, so this is what is checked).
    """
    if protocol not in ("strict", "paper"):
        raise UserError(f"no protocol {protocol!r}: {nearest(protocol, ('strict', 'paper'))}")
    (path, *tests) = (find_file(SOURCE, name) for name in FILES)
    learned, *asked = (_whole(path) for path in (path, *tests))
    train, validation = _strict(len(learned[0])) if protocol == "strict" else _paper(len(learned[0]))
    known = learned[0] if protocol == "paper" else learned[0][np.unique(train)]
    mean, deviation = known.mean(0), known.std(0)
    if not deviation.all():
        raise UserError(f"{path}: {SENSORS[int(np.argmin(deviation))]} never changes. Get the file again.")

    def cut(rows: np.ndarray, x: np.ndarray, elapsed: np.ndarray, target: np.ndarray) -> SequenceSet:
        scaled = ((x - mean) / deviation).astype(np.float32)
        return SequenceSet(scaled[rows], elapsed[rows], np.ones(rows.shape, bool), target[rows])

    parts = [cut(_windows(0, len(given[0]), TEST_STRIDE), *given) for given in asked]
    test = SequenceSet(*map(np.concatenate, zip(*parts, strict=True)))
    return SequenceSplits(cut(train, *learned), cut(validation, *learned), test)


def read_occupancy(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of a file: sensors (R, 5) float64, elapsed (R,) float32 in minutes, 1 for the first, and target (R,).

    Raises:
        UserError: if a row has not eight fields, a date that goes on, five numbers and 0 or 1; names file and line.
    """
    rows = read_rows(path, 8, ",", header=1)
    x = np.array([[number(path, row, 2 + sensor) for sensor in range(len(SENSORS))] for row in rows])
    elapsed, target, last = [], [], None
    for row in rows:
        try:
            date = datetime.fromisoformat(row.fields[1])
        except ValueError:
            raise malformed(path, row.line, f"{row.fields[1]!r}", "a date such as 2015-02-04 17:51:00") from None
        if last and date < last:
            raise malformed(path, row.line, f"the date {date}", f"none before that of the row above, {last}")
        if row.fields[7] not in ("0", "1"):
            raise malformed(path, row.line, f"{row.fields[7]!r} as field 8", "0 or 1")
        elapsed.append((date - last).total_seconds() / 60 if last else 1.0)
        target.append(int(row.fields[7]))
        last = date
    return x, np.array(elapsed, np.float32), np.array(target, np.int64)


def _whole(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data = read_occupancy(path)
    if len(data[0]) != FILES[path.name]:
        raise UserError(
            f"{path} has {len(data[0])} rows, expected {FILES[path.name]}. Get it again from {SOURCE.page}."
        )
    return data


def _windows(start: int, end: int, stride: int) -> np.ndarray:
    """Windows of the rows from ``start`` to ``end``, (N, 16)."""
    return (start + window_starts(end - start, WINDOW, stride))[:, None] + np.arange(WINDOW)


def _strict(rows: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.linspace(0, rows, BLOCKS + 1).astype(int)
    train, validation, before = [], [], 0
    for block in VALIDATION_BLOCKS:
        train.append(_windows(before, edges[block], STRIDE))
        validation.append(_windows(edges[block], edges[block + 1], TEST_STRIDE))
        before = edges[block + 1]
    train.append(_windows(before, rows, STRIDE))
    return np.concatenate(train), np.concatenate(validation)


def _paper(rows: int) -> tuple[np.ndarray, np.ndarray]:
    windows = _windows(0, rows, STRIDE)
    order = np.random.RandomState(893429).permutation(len(windows))
    validation = int(0.1 * len(windows))
    return windows[order[validation:]], windows[order[:validation]]

"""C-MAPSS: how many flights a turbofan engine has left, by its sensors at each flight.

Saxena, Goebel, Simon and Eklund, "Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation" (PHM
2008), NASA's Prognostics Center of Excellence, public domain. Four sets: FD001 and FD003 under one operating condition,
FD002 and FD004 under six.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from liquid_control.data.download import DataSource, find_file
from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.data.table import malformed, read_numbers
from liquid_control.support.errors import UserError, check_known

SOURCE = DataSource(
    name="C-MAPSS",
    folder="cmapss",
    page="https://www.nasa.gov/intelligent-systems-division/discovery-and-systems-health/pcoe/pcoe-data-set-repository/",
    url="https://phm-datasets.s3.amazonaws.com/NASA/6.+Turbofan+Engine+Degradation+Simulation+Data+Set.zip",
    sha256="c9c5dec12a945a82e8bb4446589d7fb3cc057b5e5d81fa1a12e25ee9912ad3b2",
)
SUBSETS = ("FD001", "FD002", "FD003", "FD004")
Subset: TypeAlias = Literal["FD001", "FD002", "FD003", "FD004"]
COLUMNS, SENSORS = 26, 21
"""Engine, cycle, three settings, 21 sensors."""
FEWEST_VALUES = 3
"""A sensor that takes fewer values under every operating condition says nothing, and is left out."""


def turbofan(
    subset: Subset = "FD001",
    *,
    window: int = 50,
    max_life: float | None = 125,
    cap_test: bool = False,
    every_flight: bool = False,
    validation_share: float = 0.2,
    seed: int = 0,
) -> SequenceSplits:
    """Windows of flights, and how many the engine has left after them.

    Engines of the training file run to failure. Some whole engines are held out for validation. Windows of the others,
    and of those, end at every flight from the ``window``-th on. The test is the last window of each engine of the test
    file, which stops before failure; where an engine has fewer flights, the window is padded.

    Sensors are standardised by the engines for training, for each operating condition by itself (the altitude in
    thousands of feet tells which). Those that hardly change are left out, also by these engines: 14 remain in FD001.

    Args:
        subset: which of the four sets.
        window: flights.
        max_life: the piecewise target: an engine with more flights left counts as having so many, for nothing shows yet
            (Heimes 2008). None for the plain number.
        cap_test: whether ``max_life`` is also that of the test. Many papers do so, which makes errors smaller; by
            default the test asks for NASA's own numbers.
        every_flight: whether targets tell the flights left after each flight of a window, not after its last alone.
        validation_share: share of the engines of the training file.
        seed: which engines these are.

    Returns:
        ``x`` (N, window, sensors); ``elapsed`` one flight, always 1; ``target`` (N,) float32 in flights, or
        (N, window) for ``every_flight``.

    Raises:
        UserError: if a file cannot be had, the download has another checksum, a row is malformed, the files do not fit
            each other, or an option is impossible.
    """
    check_known("set of C-MAPSS", [subset], SUBSETS)
    if window < 1:
        raise UserError(f"the window is {window}, expected 1 flight or more.")
    train, test, lives = (find_file(SOURCE, f"{kind}_{subset}.txt") for kind in ("train", "test", "RUL"))
    learned, asked = read_engines(train), read_engines(test)
    left = read_numbers(lives, 1)[:, 0]
    if len(left) != len(asked):
        raise UserError(
            f"{lives} has {len(left)} numbers, expected one for each of the {len(asked)} engines of {test}."
        )
    held = round(validation_share * len(learned))
    if not 0 < held < len(learned):
        raise UserError(
            f"validation_share is {validation_share}: of {len(learned)} engines it holds {held} out, expected at least "
            "one for validation and one for training."
        )
    order = np.random.RandomState(seed).permutation(len(learned))
    known = [learned[engine] for engine in order[held:]]
    scale = _Scale(np.concatenate(known), train)
    cap = np.inf if max_life is None else max_life
    parts = (
        _every_window(known, scale, train, window, cap),
        _every_window([learned[engine] for engine in order[:held]], scale, train, window, cap),
        _pack([scale(engine, test)[-window:] for engine in asked], window, left, cap if cap_test else np.inf),
    )
    return SequenceSplits(*parts if every_flight else map(_last_flight, parts))


def nasa_score(predicted: ArrayLike, true: ArrayLike) -> float:
    """The score of the PHM 2008 challenge, a sum over engines; less is better.

    With d = predicted - true, an engine adds exp(-d / 13) - 1 where d < 0, else exp(d / 10) - 1: to expect too much is
    worse than too little (Saxena et al. 2008).
    """
    difference = np.subtract(predicted, true, dtype=np.float64)
    return float(np.expm1(np.where(difference < 0, -difference / 13, difference / 10)).sum())


def read_engines(path: Path) -> list[np.ndarray]:
    """The flights of each engine, (flights, 26) float64, with the columns of the file.

    Raises:
        UserError: if a row has not 26 finite numbers, or engines and cycles do not count up from 1; names the line.
    """
    rows = read_numbers(path, COLUMNS)
    engine, cycle = rows[:, 0], rows[:, 1]
    begins = np.concatenate([[True], engine[1:] != engine[:-1]])
    starts = np.flatnonzero(begins)
    expected_engine = np.cumsum(begins)
    expected_cycle = np.arange(len(rows)) - starts[expected_engine - 1] + 1
    wrong = np.flatnonzero((engine != expected_engine) | (cycle != expected_cycle))
    if len(wrong):
        row = wrong[0]
        raise malformed(
            path,
            row + 1,
            f"engine {engine[row]:g} at cycle {cycle[row]:g}",
            f"engine {expected_engine[row]} at cycle {expected_cycle[row]}",
        )
    return np.split(rows, starts[1:])


class _Scale:
    """Sensors standardised for each operating condition, by rows of the engines for training."""

    def __init__(self, rows: np.ndarray, path: Path):
        self.conditions, condition = np.unique(_condition(rows), return_inverse=True)
        groups = [rows[condition == index, -SENSORS:] for index in range(len(self.conditions))]
        values = [[len(np.unique(column)) for column in group.T] for group in groups]
        self.sensors = np.flatnonzero(np.max(values, axis=0) >= FEWEST_VALUES)
        if not len(self.sensors):
            raise UserError(f"{path}: no sensor changes. Get the file again from {SOURCE.page}.")
        self.mean = np.array([group[:, self.sensors].mean(0) for group in groups])
        deviation = np.array([group[:, self.sensors].std(0) for group in groups])
        self.deviation = np.where(deviation > 1e-9, deviation, 1)  # a constant has a rounding error

    def __call__(self, rows: np.ndarray, path: Path) -> np.ndarray:
        """The sensors that say something, (flights, sensors) float32."""
        condition = _condition(rows)
        if len(strange := np.setdiff1d(condition, self.conditions)):
            raise UserError(
                f"{path}: engine {rows[0, 0]:g} flies under setting {strange[0]:g}, which no engine for training does: "
                f"these have {', '.join(f'{known:g}' for known in self.conditions)}. Take another seed or a smaller "
                "validation_share."
            )
        index = np.searchsorted(self.conditions, condition)
        return ((rows[:, -SENSORS:][:, self.sensors] - self.mean[index]) / self.deviation[index]).astype(np.float32)


def _condition(rows: np.ndarray) -> np.ndarray:
    """The altitude in thousands of feet; it is 0, 10, 20, 25, 35 or 42, give or take 0.01."""
    return np.rint(rows[:, 2])


def _every_window(engines: list[np.ndarray], scale: _Scale, path: Path, window: int, cap: float) -> SequenceSet:
    windows, left = [], []
    for engine in engines:
        x = scale(engine, path)
        for end in range(min(window, len(x)), len(x) + 1):
            windows.append(x[max(end - window, 0) : end])
            left.append(len(x) - end)
    return _pack(windows, window, np.array(left), cap)


def _pack(windows: list[np.ndarray], window: int, left: np.ndarray, cap: float) -> SequenceSet:
    """Sets windows side by side; the targets (N, window) are of each flight, ``left`` (N,) of the last."""
    x = np.zeros((len(windows), window, windows[0].shape[1]), np.float32)
    mask = np.zeros(x.shape[:2], bool)
    for index, given in enumerate(windows):
        x[index, : len(given)], mask[index, : len(given)] = given, True
    ahead = mask.sum(1, keepdims=True) - np.arange(1, window + 1)
    target = np.where(mask, np.minimum(left[:, None] + ahead, cap), 0).astype(np.float32)
    return SequenceSet(x, np.ones(mask.shape, np.float32), mask, target)


def _last_flight(data: SequenceSet) -> SequenceSet:
    """The same with targets of the last flight alone."""
    return data._replace(target=data.target[np.arange(len(data.target)), data.mask.sum(1) - 1])

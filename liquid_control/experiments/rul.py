"""rul: how many flights a turbofan engine has left, of NASA's C-MAPSS.

Whole engines are held out for validation, and the test is NASA's own, one window an engine. The target is piecewise: an
engine with more than 125 flights left counts as having 125. ``rmse`` and ``score`` are of the plain numbers of the
test; many papers cap these as well, which is ``rmse_capped``, one to two flights less, and ``score_capped``.

A window teaches the flights left after each of its last twenty flights, and is asked for the last: from a few noisy
flights nobody can tell, and engines of FD001's test have 31 or more. Eighty engines are few, and windows of one
overlap: a network that writes its whole state anew at each step, as a CfC does, learns by heart what tells them apart
unless inputs are noisy, while one of slow neurons averages the noise of the sensors.
"""

import numpy as np

from liquid_control.data.sequences import SequenceSplits
from liquid_control.data.turbofan import SUBSETS, nasa_score, turbofan
from liquid_control.experiments.sequence_task import Range, Recipe, SequenceTask, root_mean_squared_error

MOST = 125.0
BEFORE = 30
"""Flights of a window that teach nothing."""


def load(protocol: str, fold: int) -> SequenceSplits:
    """The data of a set, where nothing is taught after the first flights of a whole window."""
    data = turbofan(protocol, max_life=MOST, every_flight=True)  # type: ignore[arg-type]
    whole = data.train.mask.all(1)
    data.train.target[whole, :BEFORE] = np.nan
    return data


def rmse_capped(answers: np.ndarray, right: np.ndarray) -> float:
    """Root mean squared error where no engine has more than 125 flights left."""
    return root_mean_squared_error(answers.clip(max=MOST), right.clip(max=MOST))


def score(answers: np.ndarray, right: np.ndarray) -> float:
    """NASA's, a sum over engines."""
    return nasa_score(answers.reshape(-1), right.reshape(-1))


def score_capped(answers: np.ndarray, right: np.ndarray) -> float:
    """NASA's score where no engine has more than 125 flights left."""
    return score(answers.clip(max=MOST), right.clip(max=MOST))


TASK = SequenceTask(
    name="rul",
    summary="flights that a turbofan engine has left, root mean squared error and NASA's score",
    protocols={subset: f"C-MAPSS {subset}, windows of 50" for subset in SUBSETS},
    load=load,
    answer="last",
    every_step=True,
    classes=False,
    metrics={
        "rmse": root_mean_squared_error,
        "rmse_capped": rmse_capped,
        "score": score,
        "score_capped": score_capped,
    },
    higher=False,
    epochs=8,
    parameters=20_000,
    recipe=Recipe(rate=1e-2, batch=64, dropout=0.3, noise=0.3, elapsed_input=False, time_scale=0.1),
    space={
        "rate": Range(2e-3, 3e-2),
        "size": (0.5, 1.0),
        "batch": (64,),
        "dropout": (0.1, 0.3),
        "noise": (0.0, 0.3, 1.0),
        "elapsed_input": (False,),
        "time_scale": (0.1, 0.3, 1.0),
    },
)

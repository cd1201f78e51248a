"""bearings: what is left of the life of a bearing, by its vibration. Whole bearings are held out.

The label is a line in the time since a run began. So the time is an input in the protocols that end with ``_time``
alone, which show what it gives away. HUST has recordings of one state each, in which nothing wears: there the state is
asked for.
"""

from collections.abc import Callable
from functools import partial

from liquid_control.data.bearings import hust, pronostia, xjtu_sy
from liquid_control.data.sequences import SequenceSplits
from liquid_control.experiments.sequence_task import Recipe, SequenceTask, accuracy, root_mean_squared_error

_LOADERS: dict[str, Callable[[], SequenceSplits]] = {
    "pronostia": partial(pronostia, stride=4),
    "pronostia_time": partial(pronostia, stride=4, time_feature=True),
    "xjtu_sy": xjtu_sy,
    "xjtu_sy_time": partial(xjtu_sy, time_feature=True),
}
_RECIPE = Recipe(rate=3e-3, batch=64, dropout=0.1, noise=0.1)

TASK = SequenceTask(
    name="bearings",
    summary="the share of its life that a bearing has left, by its vibration",
    protocols={
        "pronostia": "the official runs for training and test",
        "pronostia_time": "the same with the time since the run began as an input",
        "xjtu_sy": "three conditions in each set",
        "xjtu_sy_time": "the same with the time",
    },
    load=lambda protocol, fold: _LOADERS[protocol](),
    answer="last",
    classes=False,
    metrics={"rmse": root_mean_squared_error},
    higher=False,
    epochs=15,
    trial_epochs=6,
    parameters=20_000,
    recipe=_RECIPE,
    space={"noise": (0.0, 0.1, 0.3)},
)
STATES = SequenceTask(
    name="bearing_states",
    summary="what is broken in a bearing, by its vibration (HUST)",
    protocols={"strict": "types of bearing held out"},
    load=lambda protocol, fold: hust(),
    answer="last",
    classes=True,
    metrics={"accuracy": accuracy},
    higher=True,
    epochs=15,
    trial_epochs=6,
    parameters=20_000,
    recipe=_RECIPE,
    space={"noise": (0.0, 0.1, 0.3)},
)

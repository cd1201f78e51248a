"""person_activity: what a person does, from the tags at chest, belt and ankles.

``strict`` holds whole recordings out, one after the other, and scores are means over these folds. ``paper`` draws
windows that overlap at random, so half of a test window or all of it was seen in training. ``row`` is that of the LAN
papers: one row at a time, so there is no sequence in it, and attention is constant.
"""

from typing import Any

from liquid_control.data.person_activity import person_activity, row_index_accuracy
from liquid_control.experiments.sequence_task import Recipe, SequenceTask, accuracy, balanced_accuracy

RECORDINGS = ("A01", "A02", "A03")
"""That are held out, one a fold."""


def _options(protocol: str, fold: int) -> dict[str, Any]:
    if protocol == "strict":
        return {"held_out": RECORDINGS[fold]}
    return {"person": "A", "fold": fold} if protocol == "row" else {}


def _leak(protocol: str) -> float:
    """Accuracy of the label of the training row whose index is nearest, per cent, mean over folds."""
    folds = range(TASK.folds.get(protocol, 1))
    found = [row_index_accuracy(protocol, **_options(protocol, fold)) for fold in folds]  # type: ignore[arg-type]
    return 100 * sum(found) / len(found)


TASK = SequenceTask(
    name="person_activity",
    summary="one of seven activities at each step, from tags of a person",
    protocols={
        "strict": "whole recordings held out",
        "paper": "a random fifth of overlapping windows",
        "row": "single rows of eleven activities of person A, no sequence",
    },
    load=lambda protocol, fold: person_activity(protocol, **_options(protocol, fold)),  # type: ignore[arg-type]
    answer="steps",
    classes=True,
    metrics={"accuracy": accuracy, "balanced_accuracy": balanced_accuracy},
    higher=True,
    epochs=30,
    trial_epochs=10,
    parameters=25_000,
    recipe=Recipe(rate=5e-3, batch=32, dropout=0.25, noise=0.1),
    space={"noise": (0.0, 0.1, 0.3), "dropout": (0.0, 0.25, 0.5)},
    folds={"strict": len(RECORDINGS), "row": 5},
    leak=_leak,
    published={
        "paper": {"ltc": 88.2},
        "row": {"lstm": 88.36, "gru": 88.68, "phased_lstm": 88.93, "ode_lstm": 88.48, "ltc": 88.12, "cfc": 88.60}
        | {"attention": 88.29, "lan": 89.15, "lan_euler": 88.52, "lan_steady": 88.36},
    },
    source="paper: Hasani et al. 2021 (AAAI), another preprocessing; row: Razzaq et al., arXiv 2512.10282, person B, "
    "and beside LAN its successor NAC, over all pairs",
)

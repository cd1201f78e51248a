"""occupancy: whether somebody is in an office, minute by minute, of the LTC paper. Most of it is read off the light."""

from liquid_control.data.occupancy import occupancy
from liquid_control.experiments.sequence_task import Recipe, SequenceTask, accuracy, balanced_accuracy

TASK = SequenceTask(
    name="occupancy",
    summary="whether a room is occupied at each of 16 minutes, from five sensors",
    protocols={"strict": "validation by blocks of time", "paper": "validation by random windows that overlap"},
    load=lambda protocol, fold: occupancy(protocol),  # type: ignore[arg-type]
    answer="steps",
    classes=True,
    metrics={"accuracy": accuracy, "balanced_accuracy": balanced_accuracy},
    higher=True,
    epochs=10,
    trial_epochs=5,
    parameters=10_000,
    recipe=Recipe(rate=3e-3, batch=64, dropout=0.1, noise=0.1),
    space={"noise": (0.0, 0.1, 0.3)},
    published={"paper": {"ltc": 94.6, "lstm": 93.2}},
    source="Hasani et al. 2021 (AAAI), table 3",
)

"""event_mnist: digits told as the moments at which their line of pixels changes.

The published inputs are the bit and the time since the event before. Where the event is in the line follows from the
times, but to add them up is a task of its own; with the position given it is another, easier one.
"""

from liquid_control.data.event_mnist import event_mnist
from liquid_control.experiments.sequence_task import Range, Recipe, SequenceTask, accuracy

TASK = SequenceTask(
    name="event_mnist",
    summary="digits as at most 105 events of (bit, time since the last)",
    protocols={"published": "bit and elapsed time", "position": "with the position in the line"},
    load=lambda protocol, fold: event_mnist(position=protocol == "position"),
    answer="last",
    classes=True,
    metrics={"accuracy": accuracy},
    higher=True,
    epochs=20,
    trial_epochs=4,
    parameters=60_000,
    recipe=Recipe(rate=2e-3, batch=64, time_scale=2.0, head="mlp", dropout=0.25, weight_decay=0.01),
    # A trial is too short to see that a network learns the training data by heart: what prevents it is kept in range.
    space={
        "rate": Range(5e-4, 1e-2),
        "size": (0.5, 1.0),
        "dropout": (0.1, 0.25),
        "weight_decay": Range(1e-3, 1e-1),
        "activation": ("lecun_tanh", "silu", "relu"),
    },
    time_unit=16.0,
    published={"published": {"mixed_cfc": 98.09, "cfc_no_gate": 96.99, "ode_lstm": 95.73}},
    source="Hasani et al. 2022, Nature Machine Intelligence",
)

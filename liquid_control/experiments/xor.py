"""xor: the parity of a stream of bits, told bit by bit or by the moments at which the bit changes."""

from liquid_control.data.bit_stream import bit_stream
from liquid_control.experiments.sequence_task import Range, Recipe, SequenceTask, accuracy

TASK = SequenceTask(
    name="xor",
    summary="parity of up to 31 bits, told as events of (bit, time since the last) or bit by bit",
    protocols={"event": "an event where the bit changes", "dense": "a step for each bit"},
    load=lambda protocol, fold: bit_stream(event_based=protocol == "event"),
    answer="last",
    classes=True,
    metrics={"accuracy": accuracy},
    higher=True,
    epochs=40,
    trial_epochs=8,
    parameters=20_000,
    recipe=Recipe(rate=1e-3, batch=128, time_scale=8.0, activation="silu"),
    space={
        "rate": Range(5e-4, 2e-2),
        "size": (1.0,),
        "batch": (128,),
        "dropout": (0.0,),  # nothing is noisy here: what is left out is missed
        "elapsed_input": (True,),
        "time_scale": (2.0, 8.0, 16.0),  # was a stretch of ones even? Times a 32nd apart are told apart
        "activation": ("lecun_tanh", "silu", "relu"),
    },
    curriculum=0.5,
    time_unit=16.0,
    published={
        "event": {"lstm": 89.71, "gru_d": 97.90, "ode_lstm": 98.89, "ltc": 49.11, "cfc_pure": 85.42}
        | {"cfc_no_gate": 96.29, "cfc": 99.42, "mixed_cfc": 99.72},
        "dense": {"lstm": 100, "gru_d": 100, "ode_lstm": 100, "ltc": 100, "cfc_pure": 100}
        | {"cfc_no_gate": 100, "cfc": 100, "mixed_cfc": 100},
    },
    source="Hasani et al. 2021, arXiv 2106.13898, table 4",
)

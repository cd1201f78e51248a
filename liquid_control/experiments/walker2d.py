"""walker2d: the next state of a simulated walker, of which every tenth step is missing.

The original rollouts and split. The mean squared error is over all 17 dimensions, as published; the simulator clips
velocities to ± 10, so ``mse_clamped`` has answers clipped there, too. It hardly tests memory, which the memoryless MLP
shows.
"""

import numpy as np

from liquid_control.data.walker2d import walker2d
from liquid_control.experiments.sequence_task import Recipe, SequenceTask, mean_squared_error

VELOCITIES, LIMIT = slice(8, 17), 10.0


def clamped(answers: np.ndarray, right: np.ndarray) -> float:
    """The mean squared error of answers whose velocities lie within what the simulator puts out."""
    answers = answers.copy()
    answers[:, VELOCITIES] = answers[:, VELOCITIES].clip(-LIMIT, LIMIT)
    return mean_squared_error(answers, right)


TASK = SequenceTask(
    name="walker2d",
    summary="the next state of a simulated walker, mean squared error",
    protocols={"paper": "windows of 64, whole rollouts held out"},
    load=lambda protocol, fold: walker2d(),
    answer="steps",
    classes=False,
    metrics={"mse": mean_squared_error, "mse_clamped": clamped},
    higher=False,
    epochs=20,
    trial_epochs=5,
    parameters=120_000,
    recipe=Recipe(rate=1e-2, batch=16, head="deep", dropout=0.1, residual=True, noise=0.02, activation="silu"),
    space={
        "residual": (True, False),
        "noise": (0.0, 0.01, 0.02, 0.05),
        "batch": (16, 32),
        "head": ("mlp", "deep"),
        "activation": ("lecun_tanh", "silu", "relu"),
    },
    published={
        "paper": {"mixed_cfc": 0.617, "cfc": 0.643, "cfc_no_gate": 0.650, "ltc": 0.662, "ode_lstm": 0.883}
        | {"cfc_pure": 0.948, "phased_lstm": 1.063, "lstm": 1.065, "gru_d": 1.090},
    },
    source="Hasani et al. 2021, arXiv 2106.13898, table 7",
)

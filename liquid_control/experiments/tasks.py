"""The table of the sequence tasks, and the other studies of this folder by name."""

from __future__ import annotations

from liquid_control.experiments import (
    bearings,
    event_mnist,
    imputation,
    lane_keeping,
    occupancy,
    person_activity,
    rul,
    walker2d,
    xor,
)
from liquid_control.experiments.sequence_task import SequenceTask
from liquid_control.support.errors import check_known

TASKS: dict[str, SequenceTask] = {
    task.name: task
    for task in (
        xor.TASK,
        person_activity.TASK,
        walker2d.TASK,
        rul.TASK,
        bearings.TASK,
        bearings.STATES,
        event_mnist.TASK,
        occupancy.TASK,
        imputation.TASK,
        lane_keeping.TASK,
    )
}
"""Every sequence task by its name on the command line."""

STUDIES: dict[str, str] = {
    "approximation": "what liquid attention approximates, and what it cannot with one key, as a GIF",
    "hidden_velocities": "control without velocities, learned from reward by PPO",
    "irregular": "what a liquid core adds to a transformer on curves that are seen at irregular moments",
    "recall": "what a language model of fast weights can look up again",
    "zephyr": "what synapses alone remember of facts that were told",
    "shakespeare": "what a small model of characters learns in minutes, by every mixer",
    "books": "whether having read a book helps to read on",
    "origin": "what each mend of the original language model is worth",
    "pondering": "whether hard tokens take more steps",
    "second_pass": "what remembered work saves when a book is read again",
    "shift_study": "drivers of seven cores under distribution shift",
}
"""Studies with options of their own: ``python -m liquid_control.experiments NAME --help``."""


def find_task(name: str) -> SequenceTask:
    """A task by its name.

    Raises:
        UserError: if there is none; the nearest is named.
    """
    check_known("task", [name], TASKS)
    return TASKS[name]

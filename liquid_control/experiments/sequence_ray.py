"""Trainings of sequence tasks as tasks of Ray, which places them wherever a processor is free."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.exceptions import RayError

from liquid_control.experiments.sequence_cells import CELLS, SequenceCell
from liquid_control.experiments.sequence_study import Job, Number, run_job
from liquid_control.experiments.sequence_task import SequenceTask
from liquid_control.experiments.tasks import TASKS
from liquid_control.support.errors import UserError


class RayEngine:
    """Runs trainings on a Ray cluster; see `liquid_control.experiments.sequence_study.Engine`.

    Args:
        address: of a running cluster, or None: then a Ray of this machine's own is begun, and ended by :meth:`close`.

    Raises:
        UserError: if there is no cluster at that address.
    """

    def __init__(self, address: str | None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers unless told not to
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RayError, ValueError, RuntimeError) as error:
            raise UserError(f"no Ray at {address or 'this machine'}: {' '.join(str(error).split())}") from None
        self._running: dict[Any, tuple[Number, Job]] = {}

    def start(self, number: Number, job: Job) -> None:
        """Begins a training when a processor is free."""
        self._running[_run.remote(job, TASKS[job.task], CELLS[job.cell])] = number, job

    def wait(self) -> tuple[Number, dict[str, Any]]:
        """The next training that has come to its end.

        Raises:
            UserError: if it failed, or its process was lost.
        """
        (done,), _ = ray.wait(list(self._running))
        number, job = self._running.pop(done)
        try:
            return number, ray.get(done)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{job.title} failed: {reason}. When that is cured, the same command goes on.") from None

    def close(self) -> None:
        """Leaves the cluster, which ends whatever runs."""
        ray.shutdown()


@ray.remote(num_cpus=1)
def _run(job: Job, task: SequenceTask, cell: SequenceCell) -> dict[str, Any]:
    return run_given(job, task, cell)


def run_given(job: Job, task: SequenceTask, cell: SequenceCell) -> dict[str, Any]:
    """:func:`run_job` of a task and a cell that only the program knows which began the study."""
    TASKS[job.task], CELLS[job.cell] = task, cell  # of this module, while Ray sends a copy of what `_run` sees
    return run_job(job)

"""``python -m liquid_control.train --env CarRacing-v3``: from nothing to a driver, by one command."""

from __future__ import annotations

from collections.abc import Sequence

from agents.jobs import choose_job, help_text
from liquid_control.report.training import run_job
from liquid_control.support.command import run

PROGRAM = "python -m liquid_control.train"


def main(arguments: Sequence[str]) -> None:
    """Trains as the arguments say; see ``--help``, which names all jobs."""
    run_job(choose_job(arguments), arguments, PROGRAM, help_text())


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.audit CHECKPOINT``: a page that looks into a driver; see `report.audit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from envs.registration import TEST_SEEDS
from liquid_control.report.audit import build_audit
from liquid_control.report.audit_lap import check_auditable
from liquid_control.report.audit_page import write_page
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.files import check_writable, write_atomically
from liquid_control.support.ranges import Count, CountOrZero, Seed
from policies.driver import load_driver

PROGRAM = "python -m liquid_control.audit"


@dataclass(frozen=True)
class AuditConfig:
    """Looks into a driver over one lap, and writes a page, audit.html, with all numbers in audit.json.

    Saliency as a film, and how much noise changes it; what each neuron goes with; time constants; principal components;
    how steep the map of the state is; the wiring at work; what each synapse is worth. Drivers of CarRacing-v3 drive in
    FastCarRacing, those of the Udacity simulator on the stand-in.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    output: Path | None = None
    """The folder to write into, by default runs/audit-NAME with the name of the checkpoint's folder."""
    seed: Seed = TEST_SEEDS
    """Seed of the track, by default the first test seed."""
    frames: Count = 1000
    """Environment steps of a lap at most."""
    lesions: CountOrZero = 5
    """How many of the synapses that cost most are cut once more, and the driver drives without them."""


def main(arguments: Sequence[str]) -> None:
    """Audits as the arguments say; see ``--help``."""
    config = parse(AuditConfig, arguments, PROGRAM)
    driver, console = load_driver(config.checkpoint), Console()
    check_auditable(driver)
    torch.set_num_threads(1)  # one picture at a time is so little that threads would only wait for each other
    folder = config.output or Path("runs") / f"audit-{config.checkpoint.resolve().name}"
    page, numbers = folder / "audit.html", folder / "audit.json"
    check_writable(page, ".html")
    check_writable(numbers, ".json")
    console.print(driver.describe())
    columns = (TextColumn("{task.description:9}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("driving", total=1.0)
        audit = build_audit(
            driver,
            config.checkpoint.as_posix(),
            config.seed,
            config.frames,
            config.lesions,
            lambda stage, share: bar.update(task, description=stage, completed=share),
        )
    write_atomically(numbers, audit.to_json())
    write_atomically(page, write_page(audit))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in audit.facts():
        table.add_row(name, value)
    console.print(table)
    console.print(f"written: {page}, {numbers}")


if __name__ == "__main__":
    run(main)

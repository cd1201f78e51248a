"""``python -m liquid_control.diagram CHECKPOINT``: draws the wiring of a trained driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le

from liquid_control.report.diagram import save_wiring
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.files import check_writable
from policies.driver import load_driver

PROGRAM = "python -m liquid_control.diagram"


@dataclass(frozen=True)
class DiagramConfig:
    """Draws the wiring of a trained driver: its neurons in layers, and its synapses by sign and weight."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    output: Path = Path("wiring.png")
    """The picture to write."""
    width: Annotated[int, Ge(300), Le(10_000)] = 900
    """Width of the picture, in pixels."""
    height: Annotated[int, Ge(200), Le(10_000)] = 720
    """Height of the picture, in pixels."""


def main(arguments: Sequence[str]) -> None:
    """Draws as the arguments say; see ``--help``."""
    config = parse(DiagramConfig, arguments, PROGRAM)
    driver = load_driver(config.checkpoint)
    check_writable(config.output, ".png")
    save_wiring(config.output, driver, config.width, config.height)
    console = Console()
    console.print(driver.describe())
    console.print(f"written: {config.output}")


if __name__ == "__main__":
    run(main)

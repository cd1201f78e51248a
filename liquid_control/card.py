"""``python -m liquid_control.card CHECKPOINT``: a checkpoint's card, with its scores, its training and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from envs.registration import OFFICIAL, TEST_SEEDS, UDACITY
from liquid_control.report.card import LAP_NAME, WIRING_NAME, make_card
from liquid_control.report.diagram import save_wiring
from liquid_control.report.film import record_lap
from liquid_control.report.judging import read_evaluation
from liquid_control.support.checkpoint import CARD_NAME
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Seed
from policies.driver import load_driver

PROGRAM = "python -m liquid_control.card"


@dataclass(frozen=True)
class CardConfig:
    """Writes a checkpoint's card (README.md) with a picture of the wiring and a lap as a GIF.

    Evaluate the checkpoint first: the card shows the scores of its evaluation.json.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    seed: Seed = TEST_SEEDS
    """Seed of the track in the GIF, by default the first test seed."""


def main(arguments: Sequence[str]) -> None:
    """Writes a card as the arguments say; see ``--help``."""
    config = parse(CardConfig, arguments, PROGRAM)
    folder, console = config.checkpoint, Console()
    driver = load_driver(folder)
    if driver.config.env not in (OFFICIAL, UDACITY):
        raise UserError(f"cards are for drivers of {OFFICIAL} and {UDACITY}; this one drives {driver.config.env}.")
    evaluation = read_evaluation(folder, driver)
    pictures = [WIRING_NAME] + ([LAP_NAME] if driver.config.env == OFFICIAL else [])
    card = make_card(folder, driver, evaluation, pictures)  # first: what it refuses leaves the pictures as they are
    with console.status("driving and drawing"):
        save_wiring(folder / WIRING_NAME, driver)
        if LAP_NAME in pictures:
            record_lap(driver, gif=folder / LAP_NAME, seed=config.seed)
        write_atomically(folder / CARD_NAME, card)
    for name in (CARD_NAME, *pictures):
        console.print(f"written: {folder / name}")


if __name__ == "__main__":
    run(main)

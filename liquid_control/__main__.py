"""``liquid-control COMMAND`` or ``python -m liquid_control COMMAND``: runs a command; without one, lists them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from rich.table import Table

from liquid_control import __version__
from liquid_control.support import starting
from liquid_control.support.command import run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, nearest

COMMANDS = {
    "train": "train a driver from random weights; without arguments, 19 liquid neurons learn CarRacing-v3",
    "tune": "search for the options of a PPO training; resumable, with pruning, on this machine or a Ray cluster",
    "evaluate": "score a checkpoint on the official environment, on seeds that nothing was trained on",
    "watch": "watch a checkpoint drive, with its neurons beside the road, in a window or as a video",
    "record": "record demonstrations of the expert or of a checkpoint",
    "drive": "drive the Udacity simulator with a checkpoint; python drive.py CHECKPOINT is the same",
    "simulator": "stand in for the Udacity simulator: connect to a bridge, or record an expert's drive",
    "audit": "write a page that looks into a checkpoint: saliency, neurons, time constants, lesions of synapses",
    "export": "write a checkpoint as an ONNX model whose state is an input and an output",
    "diagram": "draw a checkpoint's wiring: neurons, and synapses by sign and weight",
    "lm": "train a language model of liquid cells and fast weights on text, and have it continue some",
    "hybrid": "have a transformer remember its own work, skip what it is sure of, and draw what that saves",
    "compile": "compile the kernels of all drivers now, instead of during the first run",
    "card": "write a checkpoint's card: scores, picture of the wiring, a lap as a GIF",
}


def main(*words: str) -> None:
    """The command ``liquid-control``: runs the command that the first word names; without one, lists them.

    Args:
        words: of the command line, put in front of those that were given.
    """
    run(lambda arguments: _choose([*words, *arguments]))


def _choose(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        _list()
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: {nearest(name, COMMANDS)}")
    starting.hold_collector()
    command = importlib.import_module(f"liquid_control.{name}")
    starting.release_collector()
    command.main(rest)


def _list() -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, summary in COMMANDS.items():
        table.add_row(f"python -m liquid_control.{name}", summary)
    console = Console()
    console.print(f"liquid-control {__version__}: tiny liquid networks that drive. Each command has --help.")
    console.print("liquid-control COMMAND is the same as python -m liquid_control.COMMAND.\n")
    console.print(table)


if __name__ == "__main__":
    main()

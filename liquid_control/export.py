"""``python -m liquid_control.export CHECKPOINT``: a driver as an ONNX model, for machines without torch.

One control tick; the state goes in and comes out, so whoever runs the model carries it::

    image (B, height, width, 3) uint8 ┐
    gauges (B, G) float32             ├→  controls (B, controls) float32, next_state (B, S) float32
    state (B, S) float32              │
    elapsed (B,) float32              ┘

Image and gauges are what the driver's view makes of an observation (`policies/view.py`); a drive begins with the
initial state of the metadata; elapsed is the time since the tick before in environment steps, usually 1, and must be
finite and ≥ 0, which a graph cannot check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from envs.registration import OFFICIAL
from liquid_control.report.onnx_model import onnx_model
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.files import check_writable, write_atomically
from policies.driver import Driver, load_driver
from policies.view import CarRacingView

PROGRAM = "python -m liquid_control.export"
INPUTS = ("image", "gauges", "state", "elapsed")
OUTPUTS = ("controls", "next_state")


@dataclass(frozen=True)
class ExportConfig:
    """Writes a trained driver as an ONNX model of one control tick. Its state is an input and an output."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    output: Path = Path("driver.onnx")
    """The model to write."""


class _Tick(nn.Module):
    def __init__(self, driver: Driver):
        super().__init__()
        self.driver = driver

    def forward(self, image: Tensor, gauges: Tensor, state: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        return self.driver.tick(image, gauges, state, elapsed)


def export_onnx(driver: Driver) -> bytes:
    """A driver as the bytes of an ONNX model; see the module for its inputs and outputs, the batch B is free.

    The model's metadata tell what is needed to drive with it, each as JSON: ``env``, ``playfield`` (height, width),
    ``gauges`` and ``controls`` by name, ``low`` and ``high`` of the controls, ``action_repeat`` (environment steps
    between two ticks, for which the controls are held), ``initial_state``, ``driver`` (one line in words) and
    ``weights`` (their sha256 in the checkpoint).

    Raises:
        UserError: if onnx or onnxscript is not installed.
    """
    view, batch = driver.view, 2  # any batch above 1 is traced as a free one
    if not isinstance(view, CarRacingView):
        raise UserError(f"only drivers of {OFFICIAL} can be exported; this one drives {driver.config.env}.")
    examples = (
        torch.zeros(batch, *view.image_shape, dtype=torch.uint8),
        torch.zeros(batch, len(view.gauges)),
        driver.core.initial_state(batch).detach().clone(),
        torch.ones(batch),
    )
    training = driver.training
    metadata = {
        "env": driver.config.env,
        "playfield": view.size,
        "gauges": view.gauges,
        "controls": view.controls,
        "low": view.low,
        "high": view.high,
        "action_repeat": driver.config.action_repeat,
        "initial_state": driver.core.initial_state(1)[0].tolist(),
        "driver": driver.describe(),
        "weights": weights_digest(driver),
    }
    model = onnx_model(_Tick(driver).eval(), examples, INPUTS, OUTPUTS, metadata)
    driver.train(training)
    return model


def main(arguments: Sequence[str]) -> None:
    """Exports as the arguments say; see ``--help``."""
    config = parse(ExportConfig, arguments, PROGRAM)
    driver = load_driver(config.checkpoint)
    check_writable(config.output, ".onnx")
    model = export_onnx(driver)
    write_atomically(config.output, model)
    console = Console()
    console.print(driver.describe())
    console.print(f"written: {config.output}, {len(model):,} bytes: {', '.join(INPUTS)} → {', '.join(OUTPUTS)}")


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.compile``: compiles the kernels of all drivers now, rather than in the first run.

Compiled code is cached beside the kernels' source, so this is worth doing once an installation; ``make`` does it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from envs.udacity.stand_in.environment import UdacityStandIn
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from policies.driver import Driver, DriverConfig
from policies.registry import CORES

PROGRAM = "python -m liquid_control.compile"


@dataclass(frozen=True)
class CompileConfig:
    """Compiles the kernels of all drivers and of the Udacity stand-in, so that no later run has to wait for it."""


def main(arguments: Sequence[str]) -> None:
    """Trains, drives and compiles one tick of every kind of driver; see ``--help``."""
    parse(CompileConfig, arguments, PROGRAM)
    begin = time.monotonic()
    for policy in CORES:
        driver = Driver(DriverConfig(policy=policy))
        images, gauges = torch.zeros(1, 2, *driver.view.image_shape, dtype=torch.uint8), torch.zeros(1, 2, 7)
        # With padding or with uneven time, a kernel may be another one.
        for mask, elapsed in itertools.product((None, torch.tensor([[True, False]])), (None, torch.ones(1, 2))):
            command, _ = driver(images, gauges, elapsed=elapsed, mask=mask)
            command.sum().backward()
        driver.compile_step().act(np.zeros(driver.view.observation_shape, np.uint8))
    UdacityStandIn().reset(seed=0)
    Console().print(f"kernels of {', '.join(CORES)}: compiled or found in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    run(main)

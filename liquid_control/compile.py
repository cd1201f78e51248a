"""``python -m liquid_control.compile``: compiles the kernels of all drivers, and of remembered work, now.

Compiled code is cached beside the kernels' source, so this is worth doing once an installation; ``make test`` does it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from agents.pool import RolloutPool
from agents.workers import processor_count
from envs.registration import STAND_IN
from envs.udacity.stand_in.environment import UdacityStandIn
from liquid_control.models.cubes import Cube, CubeConfig
from liquid_control.models.student import LiquidStudent
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from policies.driver import Driver, DriverConfig
from policies.precompile import precompile_tick, precompile_training
from policies.registry import CORES

PROGRAM = "python -m liquid_control.compile"
CUBES = "cubes"


@dataclass(frozen=True)
class CompileConfig:
    """Compiles the kernels of all drivers, of the Udacity stand-in and of cubes: no later run has to wait for it."""


def main(arguments: Sequence[str]) -> None:
    """Trains and drives one tick with every kind of driver, side by side; see ``--help``."""
    parse(CompileConfig, arguments, PROGRAM)
    begin = time.monotonic()
    with RolloutPool(processor_count()) as pool:
        precompile_tick(Driver(DriverConfig()))  # with the kernels of the eyes, which all drivers share
        pool.map(_compile, [(name,) for name in (*CORES, STAND_IN, CUBES)])
    Console().print(f"kernels of {', '.join(CORES)}: compiled or found in {time.monotonic() - begin:.0f} s")


def _compile(name: str) -> None:
    if name == STAND_IN:
        UdacityStandIn().reset(seed=0)
        return
    if name == CUBES:
        precompile_cubes()
        return
    driver = Driver(DriverConfig(policy=name))
    precompile_tick(driver)
    precompile_training(driver)


@torch.no_grad()
def precompile_cubes() -> None:
    """Compiles the reading of a cube and the guess of a student."""
    cube, x = Cube(CubeConfig(width=2, layers=1, blocks=2, key_size=2)), torch.eye(2)
    cube.write(x, x)
    LiquidStudent(2, 1)(x[None], cube.read(x))


if __name__ == "__main__":
    run(main)

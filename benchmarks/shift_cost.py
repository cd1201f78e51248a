"""What each shift costs: median milliseconds a frame at severity 3, on CarRacing's picture and on the Udacity camera's.

python benchmarks/shift_cost.py
python benchmarks/shift_cost.py --frames 1000 --severity 5

One process, one thread, a car that drives. Of a shift that is no function of pictures, it is the time that its wrapper
takes beside the environment's own steps; the push of `wind` is part of the physics and not counted. Attacks are on the
shipped CfC drivers, which do not act here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import gymnasium
import numpy as np
import torch
from annotated_types import Ge, Le

from envs.registration import FAST, STAND_IN
from envs.shifts import SHIFTS
from envs.shifts.base import CAR_RACING, SEVERITIES, UDACITY
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument
from policies.attack import SteeringAttack
from policies.driver import load_driver

ENVIRONMENTS = {CAR_RACING: FAST, UDACITY: STAND_IN}
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
ATTACKED = {CAR_RACING: "CarRacing-v3/cfc", UDACITY: "Udacity/cfc"}
ACTIONS = {CAR_RACING: np.array([0.02, 0.3, 0.0], np.float32), UDACITY: np.array([0.0, 0.3], np.float32)}


class Clock(gymnasium.Wrapper):
    """Adds up the seconds that the environment's own steps take, and counts them."""

    seconds, steps = 0.0, 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See the environment."""
        begin = time.perf_counter()
        result = self.env.step(action)
        self.seconds += time.perf_counter() - begin
        self.steps += 1
        return result


def cost(env: Clock, name: str, severity: int, frames: int, action: np.ndarray, attacker: SteeringAttack) -> float:
    """Median milliseconds of a shift a frame of the environment."""
    shifted = SHIFTS[name].wrap(env, severity, attacker)
    shifted.reset(seed=0)
    costs = []
    for _ in range(frames):
        begin, inside, steps = time.perf_counter(), env.seconds, env.steps
        *_, terminated, truncated, _ = shifted.step(action)
        spent = time.perf_counter() - begin - (env.seconds - inside)
        costs.append(spent / max(env.steps - steps, 1))
        if terminated or truncated:
            shifted.reset()
    return 1e3 * float(np.median(costs))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=argument(Count), default=200, help="frames of each shift")
    parser.add_argument("--severity", type=argument(Annotated[int, Ge(1), Le(SEVERITIES[-1])]), default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    made = {shown: Clock(gymnasium.make(name)) for shown, name in ENVIRONMENTS.items()}
    attackers = {shown: SteeringAttack(load_driver(CHECKPOINTS / folder)) for shown, folder in ATTACKED.items()}
    print("| shift | family | CarRacing, 96 × 96 | Udacity, 160 × 320 |\n|---|---|---|---|")
    for name, info in SHIFTS.items():
        cells = [
            f"{cost(made[shown], name, arguments.severity, arguments.frames, ACTIONS[shown], attackers[shown]):.3f}"
            if shown in info.environments
            else ""
            for shown in made
        ]
        print(f"| {name} | {info.family} | {' | '.join(cells)} |")


if __name__ == "__main__":
    command.run(lambda _: main())

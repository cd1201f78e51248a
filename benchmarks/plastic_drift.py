"""Whether the plastic driver drives on badly after the drift because of what it remembers.

python benchmarks/plastic_drift.py    # four tracks on which it loses the road for good
python benchmarks/plastic_drift.py --tracks 2 7 --severity 5

Each track is driven twice, and alike until the drift ends, at frame 300. Then the traces are kept, or set to zero.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import torch
from annotated_types import Ge, Le

from envs.registration import FAST, TEST_SEEDS
from envs.shifts import apply_shifts
from envs.shifts.attack import Drift
from envs.shifts.base import SEVERITIES
from liquid_control.nn import PlasticCfC
from liquid_control.support import command
from liquid_control.support.ranges import CountOrZero, argument
from policies.attack import SteeringAttack
from policies.driver import Driver, load_driver

CHECKPOINT = Path(__file__).parents[1] / "checkpoints/CarRacing-v3/plastic"


def drive(driver: Driver, seed: int, severity: int, forgets: bool) -> tuple[float, float]:
    """The share of tiles that were visited when the drift ends, and the score."""
    assert isinstance(driver.core, PlasticCfC)
    compiled = driver.compile_step()
    env = apply_shifts(gymnasium.make(FAST), f"{Drift.name}:{severity}", SteeringAttack(driver, compiled))
    inside: Any = env.unwrapped
    observation, _ = env.reset(seed=seed)
    score, frame, tiles, ended = 0.0, 0, 0.0, False
    while not ended:
        if frame == Drift.FRAMES:
            tiles = inside.tile_visited_count / len(inside.track)
            if forgets:
                state = torch.from_numpy(compiled.state.copy())[None]
                compiled.state[:] = driver.core.reset(state, "trace")[0].numpy()
        observation, reward, terminated, truncated, _ = env.step(compiled.act(observation))
        score, frame, ended = score + float(reward), frame + 1, terminated or truncated
    return tiles, score


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=argument(CountOrZero), nargs="+", default=[0, 1, 6, 8], help="test tracks")
    parser.add_argument("--severity", type=argument(Annotated[int, Ge(1), Le(SEVERITIES[-1])]), default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    driver = load_driver(CHECKPOINT)
    print("| track | tiles at frame 300 | score, traces kept | score, traces set to zero |\n|---|---|---|---|")
    for track in arguments.tracks:
        (tiles, kept), (_, zeroed) = (
            drive(driver, TEST_SEEDS + track, arguments.severity, forgets) for forgets in (False, True)
        )
        print(f"| {track} | {tiles:.0%} | {kept:.1f} | {zeroed:.1f} |", flush=True)


if __name__ == "__main__":
    command.run(lambda _: main())

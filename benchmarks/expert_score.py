"""Score of the privileged expert on the physics of CarRacing-v3 over the test seeds, nothing drawn.

python benchmarks/expert_score.py --episodes 100
python benchmarks/expert_score.py --set horizon=20 speed_scale=0.9
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from envs.car_racing.expert import Expert
from envs.car_racing.fast import FastCarRacing
from liquid_control.support import command
from liquid_control.support.ranges import Count, Seed, argument

TEST_SEED = 2_000_000


@dataclass
class Lap:
    """What one episode gave."""

    score: float
    steps: int
    complete: bool
    roughness: float
    """Change of steer, gas and brake from one step to the next, summed, mean over steps."""
    act_seconds: float
    """Mean time that a label took."""


def physics() -> FastCarRacing:
    """The environment without its pictures."""
    return FastCarRacing(observe=False)


def drive(env: FastCarRacing, expert: Expert, seed: int) -> Lap:
    """Drive one episode of at most 1000 steps."""
    env.reset(seed=seed)
    expert.reset(env)
    actions, score, seconds = [], 0.0, 0.0
    for _ in range(1000):
        start = time.perf_counter()
        action = expert.act(env)
        seconds += time.perf_counter() - start
        actions.append(action)
        _, reward, terminated, _, _ = env.step(action)
        score += float(reward)
        if terminated:
            break
    roughness = float(np.abs(np.diff(actions, axis=0)).sum(axis=1).mean())
    complete = env.tile_visited_count == len(env.track)
    return Lap(score, len(actions), complete, roughness, seconds / len(actions))


def main() -> None:
    """Drive, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=argument(Count), default=100, help="number of episodes, one a seed")
    parser.add_argument("--first-seed", type=argument(Seed), default=TEST_SEED, help="seed of the first episode")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="constants of the expert to change")
    arguments = parser.parse_args()
    constants = {name: float(value) for name, _, value in (pair.partition("=") for pair in arguments.set)}
    env, expert = physics(), Expert(**constants)
    laps = [drive(env, expert, arguments.first_seed + i) for i in range(arguments.episodes)]
    scores = np.array([lap.score for lap in laps])
    print("| episodes | mean | std | min | laps | steps | roughness | µs a label |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {len(laps)} | {scores.mean():.1f} | {scores.std():.1f} | {scores.min():.1f} "
        f"| {sum(lap.complete for lap in laps)} | {np.mean([lap.steps for lap in laps]):.0f} "
        f"| {np.mean([lap.roughness for lap in laps]):.3f} | {1e6 * np.mean([lap.act_seconds for lap in laps]):.0f} |"
    )


if __name__ == "__main__":
    command.run(lambda _: main())

"""How close FastCarRacing comes to the official CarRacing-v3: every pixel and every number of the car, frame by frame.

python benchmarks/car_racing_fidelity.py --episodes 20

Both environments get the same seeds and actions. Half of the episodes are driven by the expert, half by random actions,
and in both halves every second episode has `domain_randomize` on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

import numpy as np
from gymnasium.envs.box2d.car_racing import FPS, CarRacing
from rich.console import Console
from rich.progress import track
from rich.table import Table

from envs.car_racing.canvas import PLAYFIELD_ROWS
from envs.car_racing.expert import Expert
from envs.car_racing.fast import FastCarRacing
from envs.car_racing.observation import SCORE_COLUMNS
from liquid_control.support import command
from liquid_control.support.ranges import Count, Seed, argument

STEPS = 1000
HOLD = 8  # frames a random action lasts: long enough for the car to go somewhere


@dataclass
class Differences:
    """What was seen in one group of episodes."""

    playfield: list[float] = field(default_factory=list)
    """Mean absolute difference of a frame's rows 0–83 after the first second (of 255)."""
    zooming: list[float] = field(default_factory=list)
    """The same within the first second."""
    gauges: list[float] = field(default_factory=list)
    """Mean absolute difference of a frame's rows 84–95 beside the score."""
    outcomes: int = 0
    """Steps whose reward, termination or truncation differed."""
    states: int = 0
    """Steps after which the car's state differed in any bit."""

    def compare_frames(self, official: np.ndarray, fast: np.ndarray, first_second: bool) -> None:
        """Add a pair of frames."""
        difference = np.abs(official.astype(np.int16) - fast)
        (self.zooming if first_second else self.playfield).append(float(difference[:PLAYFIELD_ROWS].mean()))
        self.gauges.append(float(difference[PLAYFIELD_ROWS:, SCORE_COLUMNS:].mean()))


def car_state(env: CarRacing) -> list[float]:
    """Everything that decides how the car goes on, and what it has earned."""
    car = env.car
    assert car is not None
    state = [env.reward, env.tile_visited_count, env.t]
    for body in (car.hull, *car.wheels):
        state += [*body.position, body.angle, *body.linearVelocity, body.angularVelocity]
    for wheel in car.wheels:
        state += [wheel.omega, wheel.phase, wheel.gas, wheel.brake, wheel.steer, wheel.joint.angle]
        state += sorted(tile.idx for tile in wheel.tiles)
    return state


def compare_episode(
    official: CarRacing, fast: FastCarRacing, seed: int, expert: Expert | None, seen: Differences
) -> None:
    """Drive both environments through one episode.

    Args:
        official: the official environment.
        fast: the fast one, with the same arguments.
        seed: of the track, and of the random actions.
        expert: the driver; None for random actions.
        seen: where the differences go.
    """
    official_frame, _ = official.reset(seed=seed)
    fast_frame, _ = fast.reset(seed=seed)
    seen.compare_frames(official_frame, fast_frame, first_second=True)
    if expert is not None:
        expert.reset(fast)
    rng = np.random.default_rng(seed)
    action = np.zeros(3, np.float32)
    for step in range(STEPS):
        if expert is not None:
            action = expert.act(fast)
        elif step % HOLD == 0:
            action = rng.uniform([-1, 0, 0], 1).astype(np.float32)
        official_frame, *official_outcome = official.step(action)
        fast_frame, *fast_outcome = fast.step(action)
        seen.compare_frames(official_frame, fast_frame, first_second=official.t < 1 - 0.5 / FPS)
        seen.outcomes += official_outcome != fast_outcome
        seen.states += car_state(official) != car_state(fast)
        if official_outcome[1]:
            break


def main() -> None:
    """Compare and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--episodes", type=argument(Count), default=20, help="episodes of the expert, and as many random ones"
    )
    parser.add_argument("--seed", type=argument(Seed), default=0, help="the first episode's seed; the others follow")
    arguments = parser.parse_args()

    pairs = [(CarRacing(domain_randomize=d), FastCarRacing(domain_randomize=d)) for d in (False, True)]
    groups = {(driver, d): Differences() for driver in ("expert", "random") for d in (0, 1)}
    expert = Expert()
    for i in track(range(2 * arguments.episodes), description="comparing", console=Console(stderr=True)):
        driver, d = ("expert", "random")[i % 2], i // 2 % 2
        seed = arguments.seed + i // 2
        compare_episode(*pairs[d], seed, expert if driver == "expert" else None, groups[driver, d])

    columns = {
        "all": list(groups.values()),
        "expert": [groups["expert", 0], groups["expert", 1]],
        "random": [groups["random", 0], groups["random", 1]],
        "randomized": [groups["expert", 1], groups["random", 1]],
    }
    n = arguments.episodes
    table = Table(title=f"FastCarRacing against CarRacing-v3: {n} expert and {n} random episodes")
    table.add_column("mean difference, of 255", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("bar", justify="right")

    def row(title: str, values: list[str], bar: str) -> None:
        table.add_row(title, *values, bar)

    def joined(group: list[Differences], *names: str) -> np.ndarray:
        return np.array([v for seen in group for name in names for v in getattr(seen, name)])

    groups_of = columns.values()
    row("playfield after 1 s", [f"{joined(g, 'playfield').mean():.3f}" for g in groups_of], "0.25")
    row("playfield in the first second", [f"{joined(g, 'zooming').mean():.3f}" for g in groups_of], "0.45")
    row("playfield, worst frame", [f"{joined(g, 'playfield', 'zooming').max():.3f}" for g in groups_of], "1.5")
    row("gauges without the score", [f"{joined(g, 'gauges').mean():.4f}" for g in groups_of], "0.05")
    table.add_section()
    row("frames compared", [f"{len(joined(g, 'gauges')):,}" for g in groups_of], "")
    row("differing rewards or endings", [str(sum(s.outcomes for s in g)) for g in groups_of], "0")
    row("differing car states", [str(sum(s.states for s in g)) for g in groups_of], "0")
    Console().print(table)


if __name__ == "__main__":
    command.run(lambda _: main())

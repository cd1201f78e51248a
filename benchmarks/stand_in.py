"""How fast the Udacity stand-in is: pictures a second of one camera and of three, and whole environment steps.

python benchmarks/stand_in.py
python benchmarks/stand_in.py --picture stand_in.jpg    # both tracks in every weather instead

One process, one thread; the simulator's own picture is 320 × 160 too and comes at some 10 to 15 a second.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import gymnasium
import numpy as np
from rich.console import Console
from rich.table import Table

import envs  # noqa: F401
from envs.udacity.stand_in.camera import CENTER, WEATHERS
from envs.udacity.stand_in.environment import UdacityStandIn
from liquid_control.support import command

PICTURES = 300


def main() -> None:
    """Prints the table, or writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="an image file to write")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.picture:
        cv2.imwrite(str(arguments.picture), in_every_weather()[..., ::-1])
        return
    table = Table(title=f"a second, the median of five times {PICTURES}")
    for column in ("track", "pictures of one camera", "of three", "environment steps (80 ms each)"):
        table.add_column(column, justify="left" if column == "track" else "right")
    for track in ("lake", "mountain"):
        env = gymnasium.make("liquid_control/UdacityStandIn-v0", track=track)
        env.reset(seed=0)
        inside = env.unwrapped
        assert isinstance(inside, UdacityStandIn)

        places = itertools.cycle(range(0, len(inside.road.points), 7))
        rates = []
        for call in (partial(inside.draw, CENTER), inside.pictures, partial(env.step, np.zeros(2, np.float32))):
            rates.append(rate(call, partial(put, inside, places)))
        table.add_row(track, *(f"{each:.0f}" for each in rates))
    Console().print(table)


def in_every_weather() -> np.ndarray:
    """A row a track, a column a weather, uint8 RGB."""
    rows = []
    for track, start in (("lake", 0.42), ("mountain", 0.3)):
        row = []
        for weather in WEATHERS:
            env = UdacityStandIn(track, weather=weather)
            env.reset(seed=0, options={"start": start})
            row.append(env.draw(CENTER))
        rows.append(np.hstack(row))
    return np.vstack(rows)


def put(env: UdacityStandIn, places: Iterator[int]) -> None:
    """The car stands at the next place of the road."""
    env.nearest = next(places)
    env.car.x, env.car.y, _ = map(float, env.road.points[env.nearest])
    env.car.heading, env.progress = float(env.road.heading[env.nearest]), 0.0


def rate(call: Callable[[], object], prepare: Callable[[], None]) -> float:
    """Calls a second."""
    rates = []
    for _ in range(6):  # the first compiles
        begin = time.perf_counter()
        for _ in range(PICTURES):
            prepare()
            call()
        rates.append(PICTURES / (time.perf_counter() - begin))
    return float(np.median(rates[1:]))


if __name__ == "__main__":
    command.run(lambda _: main())

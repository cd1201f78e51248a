"""Ten minutes over the bridge in each language: no stall, one answer for each telemetry, a new connection halfway.

python benchmarks/bridge_soak.py [CHECKPOINT] [--rate 4]

Three stand-ins, each a process with the simulator's own way to speak, drive at the same time, each on a bridge of its
own. An untrained driver leaves the road, so a car that has left the shoulder is put back in the middle, and that is
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from bridge import SPEED, make_driver

from envs.udacity.server import Drive, UdacityServer
from envs.udacity.simulator_wire import LOCALES
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.scenery import SHOULDER_WIDTH
from envs.udacity.stand_in.simulator import Autonomous
from liquid_control.drive import DriverPilot
from liquid_control.support import command
from liquid_control.support.ranges import Positive, argument


class KeptOnRoad(UdacityStandIn):
    """Puts a car that has left the shoulder back in the middle of the road."""

    put_back = 0

    def advance(self, ticks: int) -> None:
        """See `UdacityStandIn`."""
        super().advance(ticks)
        if abs(self.cross_track) > self.road.half_width + SHOULDER_WIDTH:
            self.car.x, self.car.y = map(float, self.road.points[self.nearest, :2])
            self.car.heading, self.car.speed = float(self.road.heading[self.nearest]), 0.0
            self.put_back += 1
            self._follow()


def simulate(port: int, locale: str, rate: float, seconds: float) -> dict[str, float]:
    """Drives, leaves halfway, comes back and drives on; what it comes to."""
    env = KeptOnRoad()
    env.reset(seed=0, options={"start": 0.0})
    autonomous = Autonomous(env, port=port, locale=locale, rate=rate)
    autonomous.run(seconds / 2)
    autonomous.run(seconds)
    names = ("seconds", "connections", "telemetries", "commands")
    return {name: getattr(autonomous, name) for name in names} | {"put_back": env.put_back, "metres": env.progress}


class Watch:
    """Counts the answers of a bridge, and the seconds between two of one connection."""

    def __init__(self) -> None:
        self.answered, self.longest = 0, 0.0
        self._last: dict[int, float] = {}

    def __call__(self, drive: Drive) -> None:
        """After an answer."""
        now = time.perf_counter()
        self.answered += 1
        self.longest = max(self.longest, now - self._last.get(drive.number, now))
        self._last[drive.number] = now


async def soak(options: argparse.Namespace) -> list[str]:
    """The rows of the table."""
    loop = asyncio.get_running_loop()
    make_pilot = partial(DriverPilot, make_driver(options.checkpoint), SPEED)
    async with AsyncExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(len(LOCALES), spawn))
        watches, drives = {locale: Watch() for locale in LOCALES}, []
        for locale, watch in watches.items():
            server = await stack.enter_async_context(UdacityServer(make_pilot, port=0, watch=watch))
            arguments = (server.port, locale, options.rate, options.minutes * 60)
            drives.append(loop.run_in_executor(pool, simulate, *arguments))
        rows = []
        for (locale, watch), told in zip(watches.items(), await asyncio.gather(*drives), strict=True):
            under_way = 2 * told["connections"]
            # Each command asks for one telemetry, and of the answers only those under way at a parting are not read.
            one_each = told["telemetries"] == told["commands"] + under_way
            one_each &= 0 <= watch.answered - told["commands"] <= under_way
            rows.append(
                f"| {locale} | {told['seconds'] / 60:.1f} | {told['connections']:.0f} | {told['telemetries']:,.0f} | "
                f"{watch.answered:,} | {told['commands']:,.0f} | {'yes' if one_each else 'NO'} | "
                f"{watch.longest * 1000:.0f} | {told['metres']:,.0f} | {told['put_back']:.0f} |"
            )
        return rows


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="of a driver; by default an untrained one")
    parser.add_argument("--minutes", type=argument(Positive), default=10.0, help="of simulated time in each language")
    parser.add_argument("--rate", type=argument(Positive), default=1.0, help="simulated seconds a second")
    options = parser.parse_args()
    if not (options.rate > 0 and math.isfinite(options.minutes)):
        parser.error("--rate must be above 0, and --minutes finite.")
    rows = asyncio.run(soak(options))
    print(
        "| language | minutes | connections | telemetries | answered | commands read | one each | longest pause, ms | "
        "metres | put back |"
    )
    print("|" + "---|" * 10)
    print("\n".join(rows))


if __name__ == "__main__":
    command.run(lambda _: main())

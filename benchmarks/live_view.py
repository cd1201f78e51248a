"""What the live view costs the simulators: round trips on drive.py without it, with it, and with pages that look.

python benchmarks/live_view.py
python benchmarks/live_view.py --screenshot docs/live_view.png --checkpoint checkpoints/Udacity/cfc

The imitation of the simulator keeps two requests under way and sends pictures of the stand-in, 60 frames a second. The
driver is one of 19 neurons; drive.py, simulator and pages are processes of their own. With --screenshot a Chromium
looks at a drive of the stand-in for a while, and its picture is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bridge import Measured, drive, lap
from PIL import Image

from envs.registration import UDACITY
from liquid_control.support import command
from liquid_control.support.ranges import Count, Positive, argument
from policies.driver import Driver, DriverConfig

ROOT = Path(__file__).resolve().parent.parent
LOOK = 14.0
"""Seconds of a drive before the screenshot is taken."""


class DriveCommand:
    """drive.py as a process.

    Args:
        checkpoint: who drives.
        folder: for its log.
        arguments: of the command line.
    """

    def __init__(self, checkpoint: Path, folder: str, *arguments: str):
        log = Path(folder) / f"{len(os.listdir(folder))}.csv"
        command = [sys.executable, ROOT / "drive.py", checkpoint, "--port", "0", "--log", log, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.url, self.port = "", 0
        assert self.process.stdout
        while not self.port:
            line = self.process.stdout.readline() or sys.exit("drive.py has ended")
            if found := re.search(r"view: (http\S+)", line):
                self.url = found[1]
            if found := re.search(r"listening on \S+:(\d+)", line):
                self.port = int(found[1])
        self.log = log.open()
        self.log.readline()

    def report(self) -> tuple[float, list[float]]:
        """Processor seconds since its start, and the latencies since the last call (seconds)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        latencies = [float(line.rpartition(",")[2]) for line in self.log.readlines()]
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), latencies

    def close(self) -> None:
        """Ends it as Ctrl-C would."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=20)
        self.log.close()


PAGES = """
import asyncio, json, sys
from websockets.asyncio.client import connect

async def page():
    async with connect(sys.argv[1]) as socket:
        await socket.send('{"client":null}')
        async for message in socket:
            print(json.loads(message)["kind"], flush=True)
            await socket.send('{"client":null}')

async def pages():
    await asyncio.gather(*(page() for _ in range(int(sys.argv[2]))))

asyncio.run(pages())
"""
"""Pages that ask for moments as fast as they get them, and print what they get."""


@contextlib.contextmanager
def lookers(url: str, pages: int) -> Iterator[list[int]]:
    """Pages in a process of their own; afterwards, how many moments they saw."""
    seen: list[int] = []
    if not pages:
        yield seen
        return
    with tempfile.TemporaryFile("w+") as lines:
        address = url.replace("http", "ws", 1) + "live"
        process = subprocess.Popen([sys.executable, "-c", PAGES, address, str(pages)], stdout=lines)

        def told() -> str:
            return os.pread(lines.fileno(), 10**7, 0).decode()

        try:
            while told().count("clients") < pages:
                time.sleep(0.05)
            yield seen
        finally:
            process.kill()
            process.wait()
        seen.append(told().count("moment"))


def measure(checkpoint: Path, folder: str, rounds: int, seconds: float) -> None:
    """Prints the table as Markdown; latency is from the complete message to the sent reply; milliseconds."""
    frames = lap()
    ways = {"no --view": None, "--view, nobody looks": 0, "one page": 1, "three pages": 3}
    measured = {way: Measured() for way in ways}
    moments = dict.fromkeys(ways, 0)
    bare, viewed = DriveCommand(checkpoint, folder), DriveCommand(checkpoint, folder, "--view", "--view-port", "0")
    try:
        for _ in range(rounds):
            for way, pages in ways.items():
                with lookers(viewed.url, pages or 0) as seen:
                    drive(bare if pages is None else viewed, frames, True, seconds, measured[way])  # type: ignore[arg-type]
                moments[way] += sum(seen)
    finally:
        bare.close()
        viewed.close()
    print("| | replies/s | latency p50 | p95 | p99 | round trip p50 | p95 | p99 | processor | moments/s |")
    print("|" + "---|" * 10)
    for way, each in measured.items():
        times = [*np.percentile(each.latencies, [50, 95, 99]), *np.percentile(each.round_trips, [50, 95, 99])]
        cells = [f"{each.replies / each.seconds:.0f}", *(f"{1000 * seconds:.2f}" for seconds in times)]
        cells += [f"{each.processor / each.seconds:.0%}", f"{moments[way] / (each.seconds + 2 * rounds):.1f}"]
        print(f"| {way} | {' | '.join(cells)} |")


def take_screenshot(checkpoint: Path, folder: str, path: Path) -> None:
    """The page at work, with few enough colours for a repository."""
    from playwright.sync_api import sync_playwright

    bridge = DriveCommand(checkpoint, folder, "--view", "--view-port", "0")
    command = [sys.executable, "-m", "liquid_control.simulator", "--port", str(bridge.port)]
    simulator = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")
            page.goto(bridge.url)
            page.wait_for_selector("#status[data-state=live]", timeout=60_000)
            page.wait_for_timeout(LOOK * 1000)
            page.screenshot(path=path)
            browser.close()
    finally:
        simulator.kill()
        bridge.close()
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Measures, or takes the screenshot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=argument(Positive), default=10.0, help="that each turn is measured")
    parser.add_argument("--rounds", type=argument(Count), default=3, help="turns of each")
    parser.add_argument("--checkpoint", type=Path, help="who drives; by default an untrained driver")
    parser.add_argument("--screenshot", type=Path, metavar="FILE", help="a PNG to write instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint and options.checkpoint.resolve()
        if checkpoint is None:
            checkpoint = Path(folder) / "driver"
            Driver(DriverConfig(env=UDACITY)).eval().save(checkpoint)
        if options.screenshot:
            take_screenshot(checkpoint, folder, options.screenshot)
        else:
            measure(checkpoint, folder, options.rounds, options.seconds)


if __name__ == "__main__":
    command.run(lambda _: main())

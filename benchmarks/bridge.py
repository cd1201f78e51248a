"""The bridge beside the classic stack: steer replies a second, the gaps between them, and how late each is.

python benchmarks/bridge.py

Both serve the byte-level imitation of the simulator, which keeps two requests under way and sends pictures of the
stand-in: once at 60 frames a second, as the simulator, once as fast as it is answered. The same compiled driver of 19
neurons decides in both; server and simulator are processes of their own, and the servers take turns.

The classic stack is the Udacity course's drive.py on python-socketio 4.6.1, python-engineio 3.13.2 and eventlet, but
for the steer at connect, which would keep three requests under way. It gets a virtual environment in --classic, made
once from bridge_classic.txt; everything else, the driver too, it takes from this one, through a .pth file.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from envs.registration import UDACITY
from envs.udacity.packets import Telemetry
from envs.udacity.server import Drive, UdacityServer
from envs.udacity.simulator_wire import SimulatorWire
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.simulator import FRAME, encode
from liquid_control.drive import DriverPilot
from liquid_control.support import command
from liquid_control.support.ranges import Count, Positive, argument
from policies.driver import Driver, DriverConfig, load_driver

HERE = Path(__file__).resolve()
ROOT = HERE.parent.parent
PICTURES = 200
SPEED = 15.0
"""Miles an hour."""
WARM_UP = 2.0
"""Seconds that are not counted."""


def make_driver(checkpoint: Path | None = None) -> Driver:
    """A checkpoint's, or an untrained one of 19 neurons, which costs as much as a trained one."""
    return load_driver(checkpoint) if checkpoint else Driver(DriverConfig(env=UDACITY))


# The servers, each a process: tells its port, and the latencies so far whenever it is sent a line.


def serve_ours() -> None:
    """This project's bridge."""
    latencies: list[float] = []
    driver = make_driver()

    def note(drive: Drive) -> None:
        latencies.append(drive.latencies[-1])

    async def serve() -> None:
        async with UdacityServer(lambda: DriverPilot(driver, SPEED), port=0, watch=note) as server:
            print(json.dumps({"port": server.port}), flush=True)
            await asyncio.to_thread(report, latencies)

    asyncio.run(serve())


def serve_classic() -> None:
    """The course's drive.py."""
    import engineio
    import eventlet
    import eventlet.websocket
    import eventlet.wsgi
    import socketio

    assert all(Path(str(module.__file__)).is_relative_to(sys.prefix) for module in (engineio, eventlet, socketio))
    latencies: list[float] = []
    time_websocket(eventlet.websocket.RFC6455WebSocket, latencies)
    server = socketio.Server()
    pilot, last = DriverPilot(make_driver(), SPEED), [time.monotonic()]

    @server.on("telemetry")
    def telemetry(sid: str, data: dict[str, str]) -> None:
        now = time.monotonic()
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image"]))))
        seen = Telemetry(float(data["steering_angle"]), float(data["throttle"]), float(data["speed"]), image)
        command = pilot.drive(seen, now - last[0])
        last[0] = now
        answer = {"steering_angle": str(command.steering), "throttle": str(command.throttle)}
        server.emit("steer", data=answer, room=sid)

    listener = eventlet.listen(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    threading.Thread(target=lambda: (report(latencies), os._exit(0)), daemon=True).start()
    eventlet.wsgi.server(listener, socketio.Middleware(server), log_output=False)


def time_websocket(websocket: Any, latencies: list[float]) -> None:
    """Notes the seconds from each complete telemetry to its sent steer, as `UdacityServer` does."""
    wait, send, begun = websocket.wait, websocket.send, deque[float]()

    def timed_wait(self: Any) -> Any:
        message = wait(self)
        if message and message.startswith('42["telemetry"'):
            begun.append(time.perf_counter())
        return message

    def timed_send(self: Any, message: Any) -> None:
        send(self, message)
        if message.startswith('42["steer"'):
            latencies.append(time.perf_counter() - begun.popleft())

    websocket.wait, websocket.send = timed_wait, timed_send


def report(latencies: list[float]) -> None:
    """Prints processor seconds and them for each line that comes in, and forgets them; returns after the last line."""
    for _ in sys.stdin:
        print(json.dumps([time.process_time(), latencies]), flush=True)
        latencies.clear()


class Server:
    """A server's process, seen from here."""

    def __init__(self, python: Path, stack: str):
        command = [python, "-W", "ignore", HERE, "--serve", stack]  # eventlet warns that it is deprecated
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.port = int(json.loads(self._line())["port"])

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline() or sys.exit("the server has ended")

    def report(self) -> tuple[float, list[float]]:
        """Processor seconds since its start, and the latencies since the last call (seconds)."""
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        processor, latencies = json.loads(self._line())
        return processor, latencies

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=20)
        self.process.kill()


@dataclass
class Measured:
    """Of one server, in one way to send."""

    seconds: float = 0.0
    processor: float = 0.0
    """Seconds that the server's process has computed."""
    replies: int = 0
    gaps: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    """Complete message to sent reply, in the server."""
    round_trips: list[float] = field(default_factory=list)
    """Last byte written to reply read, in the simulator."""

    def cells(self) -> list[float]:
        """Replies a second; gaps p50, p95; latencies p50, p95, p99; round trips p95; computed a reply; milliseconds."""
        gaps = np.percentile(self.gaps, [50, 95]) * 1000
        latencies = np.percentile(self.latencies, [50, 95, 99]) * 1000
        round_trip, computed = np.percentile(self.round_trips, 95) * 1000, self.processor / self.replies * 1000
        return [self.replies / self.seconds, *gaps, *latencies, round_trip, computed]


def drive(server: Server, frames: list[tuple[bytes, float]], paced: bool, seconds: float, into: Measured) -> None:
    """One connection of a simulator; adds what it measures after :data:`WARM_UP`.

    Args:
        server: what is driven on.
        frames: pictures and speeds (mph) to send, in turn.
        paced: whether a telemetry waits for the next frame, of which there are 60 a second.
        seconds: that are counted.
        into: what is added to.
    """
    sent: deque[float] = deque()
    begin = last = time.perf_counter()
    counts, number, before = False, 0, 0.0
    with SimulatorWire(port=server.port) as wire:
        frame_end = begin
        while (now := time.perf_counter()) < begin + WARM_UP + seconds:
            if not counts and now > begin + WARM_UP:
                before, _ = server.report()
                counts = True
            frame_end = max(frame_end + FRAME, now)
            to_send = 0
            while (left := frame_end - time.perf_counter()) > 0 if paced else not to_send:
                for asked in wire.poll(timeout=left if paced else 1.0):
                    to_send += 1
                    if asked.steering is None:
                        continue
                    here = time.perf_counter()
                    if counts:
                        into.replies += 1
                        into.gaps.append(here - last)
                        into.round_trips.append(here - sent[0])
                    last = here
                    sent.popleft()
            for _ in range(to_send):
                jpeg, speed = frames[number % len(frames)]
                wire.send_telemetry(0.0, 0.3, speed, jpeg)
                sent.append(time.perf_counter())
                number += 1
        assert not wire.stalled
    into.seconds += seconds
    processor, latencies = server.report()
    into.processor += processor - before
    into.latencies += latencies


def lap() -> list[tuple[bytes, float]]:
    """JPEGs of the stand-in, with the speeds (mph), as its expert drives along the lake."""
    env = gymnasium.make("liquid_control/UdacityStandIn-v0", disable_env_checker=True)
    observation, _ = env.reset(seed=0)
    expert, frames = RoadExpert(SPEED), []
    for _ in range(PICTURES):
        frames.append((encode(observation["image"]), float(observation["speed"][0])))
        observation, *_ = env.step(np.array(expert.act(env.unwrapped, 0.08), np.float32))
    return frames


def make_classic(folder: Path) -> Path:
    """The Python of the classic stack's environment, which is made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "project.txt").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        requirements = HERE.with_name("bridge_classic.txt")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        # Behind its own packages, so socketio, engineio and eventlet are its own; the server asserts it.
        paths = f"{sysconfig.get_path('purelib')}\n{ROOT}\n"
        where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
        Path(site, "project.pth").write_text(paths)
        (folder / "project.txt").write_text(paths)
    return python


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classic", type=Path, default=ROOT / "build" / "classic", help="folder of its environment")
    parser.add_argument("--seconds", type=argument(Positive), default=10.0, help="that each turn is measured")
    parser.add_argument("--rounds", type=argument(Count), default=3, help="turns of each server in each way to send")
    parser.add_argument("--serve", choices=["ours", "classic"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve_ours() if options.serve == "ours" else serve_classic()
    frames = lap()
    kilobytes = np.mean([len(jpeg) for jpeg, _ in frames]) / 1000
    servers = {"this bridge": Server(Path(sys.executable), "ours")}
    servers["classic"] = Server(make_classic(options.classic.absolute()), "classic")
    measured = {(paced, name): Measured() for paced in (True, False) for name in servers}
    try:
        for _ in range(options.rounds):
            for (paced, name), into in measured.items():
                drive(servers[name], frames, paced, options.seconds, into)
    finally:
        for server in servers.values():
            server.close()
    print(f"JPEGs of {kilobytes:.1f} kB; milliseconds.\n")
    print("| frames | | replies/s | gap p50 | p95 | latency p50 | p95 | p99 | round trip p95 | computed a reply |")
    print("|" + "---|" * 10)
    for paced, way in ((True, "60 a second"), (False, "unlimited")):
        rows = {name: measured[paced, name].cells() for name in servers}
        for name, (replies, *times) in rows.items():
            print(f"| {way} | {name} | {replies:.0f} | {' | '.join(f'{each:.2f}' for each in times)} |")
        ratios = [classic / ours for ours, classic in zip(*rows.values(), strict=True)]
        print(f"| | classic ÷ this | {' | '.join(f'{each:.2f}' for each in ratios)} |")


if __name__ == "__main__":
    command.run(lambda _: main())

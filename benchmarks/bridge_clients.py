"""Socket.IO clients of every age on the bridge: whether they connect and get one steer for each telemetry.

python benchmarks/bridge_clients.py

socket.io-client for JavaScript is put into build/bridge_clients by npm, once; node must be there. python-socketio is
taken from where `make test` puts it. All connect by websocket.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.udacity.packets import Command, Telemetry
from envs.udacity.server import UdacityServer
from envs.udacity.stand_in.simulator import encode
from liquid_control.support import command

HERE = Path(__file__).resolve().parent
JAVASCRIPT = HERE.parent / "build" / "bridge_clients"
PYTHON = HERE.parent / ".venv" / "clients"
PYTHON_CLIENT = HERE.parent / "tests" / "envs" / "udacity" / "clients" / "steer.py"
VERSIONS = ("2.5.0", "3.1.3", "4.8.4")
COUNT = 200


class Quarter:
    """A pilot that steers a quarter to the left and remembers the speeds that it was told."""

    def __init__(self) -> None:
        self.speeds: list[float] = []

    def drive(self, telemetry: Telemetry, elapsed: float) -> Command:
        """The same command, whatever is seen."""
        self.speeds.append(telemetry.speed)
        return Command(-0.25, 0.5)


def main() -> None:
    """Prints the table as Markdown."""
    install()
    rng = np.random.default_rng(0)
    image = base64.b64encode(encode(rng.integers(0, 255, (160, 320, 3), np.uint8))).decode()
    print("| client | version | steers for telemetries | in order | more than asked for | leaves |")
    print("|---|---|---|---|---|---|")
    for version in VERSIONS:
        command = ["node", str(HERE / "bridge_client.js"), f"socket.io-client-{version}"]
        print(asyncio.run(check("socket.io-client", version, command, image, JAVASCRIPT)), flush=True)
    for folder in sorted(PYTHON.glob("*")):
        command = [sys.executable, str(PYTHON_CLIENT)]
        print(asyncio.run(check("python-socketio", folder.name, command, image, folder)), flush=True)


def install() -> None:
    """Each version of socket.io-client under a name of its own."""
    if not (JAVASCRIPT / "node_modules").is_dir():
        JAVASCRIPT.mkdir(parents=True, exist_ok=True)
        (JAVASCRIPT / "package.json").write_text('{"private": true}\n')
        packages = [f"socket.io-client-{version}@npm:socket.io-client@{version}" for version in VERSIONS]
        subprocess.run(["npm", "install", "--silent", *packages], cwd=JAVASCRIPT, check=True)


async def check(name: str, version: str, command: Sequence[str], image: str, folder: Path) -> str:
    """One row: a client, started in ``folder``, on a bridge of its own."""
    pilots: list[Quarter] = []

    def make_pilot() -> Quarter:
        pilots.append(Quarter())
        return pilots[-1]

    async with UdacityServer(make_pilot, port=0) as server:
        process = await asyncio.create_subprocess_exec(
            *command,
            *(f"http://127.0.0.1:{server.port}", str(COUNT)),
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(image.encode()), 120)
        await asyncio.sleep(0.2)
        left = not server.drives
    if process.returncode:
        return f"| {name} | {version} | failed | | | |"
    told: dict[str, Any] = json.loads(output)
    good = sum(each == {"steering_angle": "-250000E-6", "throttle": "500000E-6"} for each in told["answers"])
    in_order = pilots[0].speeds == list(range(COUNT))
    cells = [f"{good} of {COUNT}", "yes" if in_order else "no", str(told["left_over"]), "yes" if left else "no"]
    return f"| {name} | {told.get('version', version)} | {' | '.join(cells)} |"


if __name__ == "__main__":
    command.run(lambda _: main())

"""A bridge in a thread of its own, and images to send it."""

import asyncio
import io
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from PIL import Image

from envs.udacity.packets import Command
from envs.udacity.server import UdacityServer
from envs.udacity.simulator_wire import SimulatorWire


class Straight:
    """A pilot that remembers what it saw and always gives the same command."""

    def __init__(self):
        self.command, self.seen, self.elapsed = Command(-0.25, 0.5), [], []

    def drive(self, telemetry, elapsed):
        self.seen.append(telemetry)
        self.elapsed.append(elapsed)
        return self.command


@contextmanager
def run_bridge(make_pilot, port=0, **options):
    """A bridge that listens, and that is closed afterwards."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=10)

    server = UdacityServer(make_pilot, port=port, **options)
    try:
        wait(server.__aenter__())
        yield server
    finally:
        wait(server.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


@pytest.fixture(autouse=True)
def long_reading(monkeypatch):
    """Where the machine pauses, a picture still counts as read in time."""
    monkeypatch.setattr("envs.udacity.server.READING", 20.0)


@pytest.fixture
def pilots():
    """The pilots that were made, in order."""
    return []


@pytest.fixture
def bridge(pilots):
    """A bridge whose pilots go straight on."""

    def make():
        pilots.append(Straight())
        return pilots[-1]

    with run_bridge(make) as server:
        yield server


@pytest.fixture(scope="session")
def jpeg():
    """A frame as the simulator sends it: 320 × 160, quality 75, some 13 kB."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (50, 100, 3), np.uint8)).resize((320, 160))
    file = io.BytesIO()
    coarse.save(file, "JPEG", quality=75)
    assert 8_000 < len(file.getvalue()) < 25_000
    return file.getvalue()


@pytest.fixture
def simulator(bridge):
    """Begins a simulator's connection to the bridge, or to a port."""
    with ExitStack() as stack:
        yield lambda port=None, **options: stack.enter_context(SimulatorWire(port=port or bridge.port, **options))

"""The stand-in as a program of its own: it drives on a bridge as the simulator does, or records drives for learning."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from envs.disturbance import Disturbance
from envs.udacity.recording import Recorder
from envs.udacity.simulator_wire import SimulatorWire
from envs.udacity.stand_in.camera import CENTER
from envs.udacity.stand_in.car import TICK
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.scenery import SHOULDER_WIDTH
from envs.udacity.vehicle import MAX_STEERING_ANGLE, MPH

FRAME = 1 / 60
"""Seconds between two frames of the program, at most as many telemetries come for each request under way."""
LONGEST_FRAME = 1 / 3
"""Simulated seconds of a frame at most: where the computer pauses for longer, the world does, too. The simulator's own
setting, "Maximum Allowed Timestep" in its ProjectSettings/TimeManager.asset."""
RECONNECT = 0.25
"""Seconds between two tries to find a bridge; the simulator itself tries a thousand times a second."""


def encode(picture: np.ndarray) -> bytes:
    """A JPEG of quality 75, as the simulator's."""
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


class Autonomous:
    """Drives as a bridge says, in real time; the last command holds until the next one.

    Args:
        env: the stand-in, reset.
        host: of the bridge.
        port: of the bridge.
        locale: how the simulator's computer writes numbers, one of `envs.udacity.simulator_wire.LOCALES`.
        rate: simulated seconds a second.
        tell: is given a line whenever the connection begins or ends.
    """

    def __init__(
        self,
        env: UdacityStandIn,
        host: str = "127.0.0.1",
        port: int = 4567,
        locale: str = "en-US",
        rate: float = 1.0,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.env, self.address, self.locale, self.rate, self.tell = env, (host, port), locale, rate, tell
        self.telemetries = 0
        self.commands = 0
        self.connections = 0
        self.seconds = 0.0
        """Simulated so far."""
        self.departures = 0
        """Times that the middle of the car left the shoulder."""
        self._departed = False
        self._wire: SimulatorWire | None = None
        self._told = ""
        self._try_at = 0.0

    def run(self, seconds: float = float("inf")) -> None:
        """Drives for so many simulated seconds, or until it is interrupted."""
        begin = time.monotonic() - self.seconds / self.rate
        try:
            while self.seconds < seconds:
                passed = (time.monotonic() - begin) * self.rate - self.seconds
                if passed > LONGEST_FRAME:
                    begin += (passed - LONGEST_FRAME) / self.rate
                ticks = int(min(passed, LONGEST_FRAME) / TICK)
                self.env.advance(ticks)
                self.seconds += ticks * TICK
                departed = abs(self.env.cross_track) > self.env.road.half_width + SHOULDER_WIDTH
                self.departures += departed and not self._departed
                self._departed = departed
                self._frame()
        finally:
            if self._wire is not None:
                self._wire.close()
                self._wire = None

    def _frame(self) -> None:
        """What is asked for in a frame is sent at its end, all with one picture."""
        until = time.monotonic() + FRAME
        try:
            wire = self._connected()
            asked = wire.poll(timeout=FRAME) if wire else []
            for each in asked:
                if each.steering is not None and each.throttle is not None:
                    self.env.car.command(each.steering, each.throttle)
                    self.commands += 1
            if wire and asked:
                car, jpeg = self.env.car, encode(self.env.draw(CENTER))
                for _ in asked:
                    angle, throttle = car.steering * MAX_STEERING_ANGLE, max(car.throttle, 0.0)
                    wire.send_telemetry(angle, throttle, abs(car.speed) / MPH, jpeg)
                    self.telemetries += 1
        except OSError as error:
            self._wire, self._try_at = None, time.monotonic() + RECONNECT
            self._say(str(error))
        time.sleep(max(0.0, until - time.monotonic()))

    def _connected(self) -> SimulatorWire | None:
        if self._wire is None and time.monotonic() >= self._try_at:
            try:
                self._wire = SimulatorWire(*self.address, locale=self.locale)
            except OSError:
                host, port = self.address
                self._say(f"waiting for a bridge at {host}:{port}")
                self._try_at = time.monotonic() + RECONNECT
            else:
                self.connections += 1
                self._say("connected")
        return self._wire

    def _say(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self.tell(line)


def record(env: UdacityStandIn, recorder: Recorder, laps: float, expert: RoadExpert, seed: int = 0) -> int:
    """Lets the expert drive and writes what three cameras see, every 60 to 100 ms; gives the rows written.

    Now and then it is pushed aside for a moment, and what is recorded is how it comes back, not how it strayed.

    Args:
        env: the stand-in, reset.
        recorder: takes the rows.
        laps: how far.
        expert: drives.
        seed: of intervals and pushes.
    """
    rng = np.random.default_rng(seed)
    disturbance = Disturbance(rng, every=60, size=(0.15, 0.35), steps=(4, 8))
    begin, seconds, rows, elapsed = time.time(), 0.0, 0, 0.0
    while env.progress < laps * env.road.length:
        steering, pedal = expert.act(env, elapsed)
        push = disturbance()
        if push == 0:
            jpegs = [encode(picture) for picture in env.pictures()]
            throttle, brake = max(pedal, 0.0), max(-pedal, 0.0)
            recorder.write(jpegs, steering, throttle, brake, env.car.speed / MPH, begin + seconds)
            rows += 1
        env.car.command(steering + push, pedal)
        ticks = int(rng.integers(3, 6))
        env.advance(ticks)
        elapsed = ticks * TICK
        seconds += elapsed
    return rows

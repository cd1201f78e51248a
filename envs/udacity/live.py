"""``liquid_control/Udacity-v0``: the simulator that connects to the bridge, as a Gymnasium environment.

Telemetry is the observation and its answer is the action of the step that follows. Whoever steps may be slow, for
example while it learns, but an answer is never left out: after :data:`HOLD` seconds it is the brake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Coroutine
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import gymnasium
import numpy as np

from envs.udacity.observation import action_space, observation_space, observe
from envs.udacity.packets import Command, Telemetry
from envs.udacity.server import PORT, BridgeError, Drive, UdacityServer
from envs.udacity.stand_in.road import LAKE
from envs.udacity.stand_in.scenery import SHOULDER_WIDTH
from envs.udacity.vehicle import MPH

LOG = logging.getLogger(__name__)
T = TypeVar("T")

HOLD = 0.25
"""Seconds that a telemetry waits for an action."""
STANDING = 1.0
"""Miles an hour below which a car stands."""
LONGEST_STOP = 10.0
"""Seconds that a car is braked before it is taken as it is."""
STUCK_AFTER, PEDAL = 3.0, 0.3
"""Seconds that a car stands although its pedal is down this far."""
CRASH_LOSS, CRASH_TIME = 8.0, 0.3
"""Miles an hour and seconds: who loses so much so soon without braking has hit something."""
OFF_ROAD = LAKE.half_width + SHOULDER_WIDTH
"""Metres from the middle of the lake's road to the end of its shoulder."""


class Motion:
    """What a car's speeds tell, although they have no sign."""

    def __init__(self) -> None:
        self.metres = 0.0
        """Of progress. A car drives the way that the pedal pointed to when it last stood."""
        self.collided = False
        self._still = 0.0
        self._direction = 1.0
        self._clock = 0.0
        self._speed: float | None = None
        self._speeds: deque[tuple[float, float]] = deque()

    @property
    def stuck(self) -> bool:
        """Whether the car stands although its pedal is down."""
        return self._still >= STUCK_AFTER

    def update(self, speed: float, elapsed: float, throttle: float) -> None:
        """Another telemetry.

        Args:
            speed: miles an hour.
            elapsed: seconds since the last one; 0 where that is not known.
            throttle: the command in between.
        """
        if speed < STANDING and throttle:
            self._direction = math.copysign(1.0, throttle)
        before = speed if self._speed is None else self._speed
        self.metres += self._direction * (before + speed) / 2 * MPH * elapsed
        self._still = self._still + elapsed if speed < STANDING and abs(throttle) >= PEDAL else 0.0
        self._speed, self._clock = speed, self._clock + elapsed
        if throttle < 0 or not elapsed:
            self._speeds.clear()
        self._speeds.append((self._clock, speed))
        while self._clock - self._speeds[0][0] > CRASH_TIME:
            self._speeds.popleft()
        self.collided = self.collided or max(fast for _, fast in self._speeds) - speed > CRASH_LOSS


class Brake:
    """Stops a car; one that it makes faster must be rolling backwards, and gets the other pedal."""

    def __init__(self) -> None:
        self._sign, self._least = -1.0, math.inf

    def pedal(self, speed: float) -> float:
        """The throttle at this speed (miles an hour); below 5 a negative one is the reverse gear, so it is gentle."""
        if speed > self._least + STANDING:
            self._sign, self._least = -self._sign, speed
        self._least = min(self._least, speed)
        return self._sign * min(speed / 5, 1.0) if speed >= STANDING else 0.0


class _Seen(NamedTuple):
    telemetry: Telemetry
    elapsed: float
    """Seconds since the one that was seen before."""
    progress: float
    collision: bool
    stuck: bool


class _Wheel:
    """The pilot of one simulator, which somebody else gives its actions; without any, it brakes.

    All of it runs in the loop of the server.
    """

    def __init__(self, interval: float):
        self.interval = interval
        self.command = Command(0.0, 0.0)
        self.motion = Motion()
        self._brake = Brake()
        self._acted = asyncio.Event()
        self._next: asyncio.Future[_Seen] | None = None
        self._holds_until = 0.0
        self._elapsed = 0.0

    async def drive(self, telemetry: Telemetry, elapsed: float) -> Command:
        """See :class:`envs.udacity.server.Pilot`."""
        self.motion.update(telemetry.speed, elapsed, self.command.throttle)
        self._elapsed += elapsed
        if self._next is not None:
            if time.monotonic() < self._holds_until:
                return self.command
            if not self._next.done():
                motion = self.motion
                seen = _Seen(telemetry, self._elapsed, motion.metres, motion.collided, motion.stuck)
                self._next.set_result(seen)
            self._next, self._elapsed = None, 0.0
        self._acted.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._acted.wait(), HOLD)
        if self._next is None:
            self.command = Command(self.command.steering, self._brake.pedal(telemetry.speed))
        return self.command

    def act(self, command: Command) -> asyncio.Future[_Seen]:
        """Answers the telemetry that waits, or the next; gives the one that comes when that has held its interval."""
        self.command, self._brake = command, Brake()
        self._holds_until = time.monotonic() + self.interval
        self._next = asyncio.get_running_loop().create_future()
        self._acted.set()
        return self._next


class _Bridge:
    """A server in a thread of its own, and the simulator that is driven. Coroutines run in that thread."""

    def __init__(self, port: int, interval: float, patience: float):
        self.patience = patience
        self.drive: Drive | None = None
        self._interval = interval
        self._told = False
        self.server = UdacityServer(self._make_wheel, port=port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="udacity-bridge", daemon=True)
        self._thread.start()
        try:
            self.wait(self.server.__aenter__())
        except BridgeError:
            self._end()
            raise

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it in the server's thread and gives its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():  # a stop that reached the other thread is heard between two waits
                futures.wait([future], timeout=0.5)
            return future.result()
        finally:
            future.cancel()  # where this wait was interrupted

    def close(self) -> None:
        """Stops the car, which would keep its last command, and the server."""
        try:
            self.wait(self._leave())
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _make_wheel(self) -> _Wheel:
        if self.server.drives and not self._told:
            self._told = True
            LOG.warning("a second simulator has connected. Only one is driven, the others stand still. (Told once.)")
        return _Wheel(self._interval)

    @property
    def wheel(self) -> _Wheel:
        """Of the simulator that is driven."""
        assert self.drive is not None
        assert isinstance(self.drive.pilot, _Wheel)
        return self.drive.pilot

    async def begin(self) -> _Seen:
        """What is seen where the car of a simulator has come to a stand.

        Raises:
            BridgeError: if none connects, or none that is connected says anything.
        """
        until = time.monotonic() + self.patience
        while time.monotonic() < until:
            if self._connected():
                if seen := await self._stop(until - time.monotonic()):
                    self.wheel.motion = Motion()
                    return _Seen(seen.telemetry, 0.0, 0.0, False, False)
            else:
                self.drive = next(iter(self.server.drives.values()), None)
                await asyncio.sleep(0 if self.drive else 0.02)
        missing = "the simulator that is connected sent nothing" if self._connected() else "no simulator has connected"
        raise BridgeError(
            f"{missing} for {self.patience:g} s. Start the Udacity simulator on this computer, choose a track and "
            f"Autonomous Mode. This bridge listens on {self.server.host}:{self.server.port}; the simulator connects to "
            "127.0.0.1:4567 only. Without Unity: python -m liquid_control.simulator --port "
            f"{self.server.port}."
        )

    async def step(self, command: Command, patience: float | None = None) -> _Seen | None:
        """What is seen after it; None if the simulator has left, or says nothing."""
        if not self._connected():
            return None
        drive, wheel = self.drive, self.wheel
        assert drive is not None
        future = wheel.act(command)
        begin, answered = time.monotonic(), drive.answered
        while not future.done():
            await asyncio.wait({future}, timeout=0.02)
            if drive.command is None and drive.answered != answered:  # somebody holds a key
                begin, answered = time.monotonic(), drive.answered
            patient = time.monotonic() - begin < (self.patience if patience is None else patience)
            if not future.done() and not (self._connected() and patient):
                future.cancel()
                return None
        return future.result()

    def _connected(self) -> bool:
        return self.drive is not None and self.drive.number in self.server.drives

    async def _stop(self, patience: float) -> _Seen | None:
        """Brakes; what is seen when the car stands."""
        brake, until = Brake(), time.monotonic() + LONGEST_STOP
        command = Command(self.wheel.command.steering, 0.0)
        while (seen := await self.step(command, patience)) is not None:
            if seen.telemetry.speed < STANDING or time.monotonic() > until:
                return seen
            command = Command(command.steering, brake.pedal(seen.telemetry.speed))
        return None

    async def _leave(self) -> None:
        if self._connected() and await self._stop(patience=1.0):
            await self.step(Command(0.0, 0.0), patience=1.0)
        await self.server.close()


class Udacity(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """Drive the car of the Udacity simulator, or of any other that connects to the bridge, in real time.

    ## Observation Space
    A dictionary: `image` (160, 320, 3) uint8 RGB of the camera in the middle, `speed` (1,) miles an hour, `elapsed`
    (1,) seconds since the last observation. The simulator tells no speed backwards: it is never negative.

    ## Action Space
    `[steering, throttle]`, each -1 to 1: steering 1 is 25° to the right, a negative throttle brakes, and drives
    backwards under 5 miles an hour.

    ## Rewards
    Metres of progress, estimated as speed times time; backwards they are negative. -10 for a collision, for being
    stuck, and for leaving the road where that is known.

    ## Starting State
    The simulator cannot be reset over its protocol. `reset` waits for one to connect, brakes to a stop and begins where
    the car is. Put it on the road by hand: while a key is held, `reset` and `step` wait. The seed changes nothing.

    ## Episode End
    Terminated when the car has lost 8 mph within 0.3 s without braking (`info["collision"]`), has stood for 3 s
    although its pedal was down (`info["stuck"]`) or, where the simulator tells how far from the middle of the road the
    car is (`info["cross_track"]`, metres; Udacity's of term 1 does not), is 5.5 m from it (`info["off_road"]`).
    Truncated when the simulator leaves or is silent (`info["disconnected"]`); the next `reset` waits for it.

    ## Arguments
    - `port`: the simulator only knows 4567; 0 picks a free one, which `port` tells after a reset.
    - `interval`: seconds that an action holds at least; what the simulator sends meanwhile gets it again. The next
      observation is the first thereafter. 0 shows every telemetry, of which two come at a time.
    - `patience`: seconds to wait for a simulator, or for a word of one.

    Who takes more than 0.25 s from an observation to its action finds that the car has been braked meanwhile. One
    simulator is driven; others that connect are kept standing. A copy or a pickle has no simulator: it must be reset,
    with a port of its own.

    `info["progress"]` is the metres of this episode. `reset` raises `envs.udacity.server.BridgeError` if the port is
    taken or no simulator connects.

    Example:
        >>> env = gymnasium.make("envs:liquid_control/Udacity-v0", port=0)
        >>> env.action_space.shape
        (2,)
        >>> env.close()
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 13}  # noqa: RUF012

    def __init__(
        self, port: int = PORT, interval: float = 0.06, patience: float = 60.0, render_mode: str | None = None
    ):
        if not 0 <= interval < HOLD:
            raise ValueError(f"interval is {interval}, expected 0 to {HOLD} seconds.")
        if not patience > 0:
            raise ValueError(f"patience is {patience}, expected more than 0 seconds.")
        self.port, self.interval, self.patience, self.render_mode = port, interval, patience, render_mode
        self._given_port = port
        self.observation_space = observation_space()  # type: ignore[assignment]
        self.action_space = action_space()
        self._bridge: _Bridge | None = None
        self._seen: _Seen | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the bridge and its simulator: they stay with the original."""
        return self.__dict__ | {"port": self._given_port, "_bridge": None, "_seen": None}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Waits for a simulator, brakes to a stop and begins there."""
        super().reset(seed=seed)
        if self._bridge is None:
            self._bridge = _Bridge(self.port, self.interval, self.patience)
            self.port = self._bridge.server.port
        self._seen = self._bridge.wait(self._bridge.begin())
        return self._observation(self._seen), self._info(self._seen)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Answers the telemetry that was observed and waits for the next."""
        before = self._seen
        if self._bridge is None or before is None:
            raise gymnasium.error.ResetNeeded("step before reset: call reset, which waits for a simulator.")
        seen = self._bridge.wait(self._bridge.step(Command(float(action[0]), float(action[1]))))
        if seen is None:
            last = before._replace(elapsed=0.0)
            return self._observation(last), 0.0, False, True, self._info(last, disconnected=True)
        self._seen, info = seen, self._info(seen)
        ended = info["collision"] or info["stuck"] or info["off_road"]
        reward = seen.progress - before.progress - 10.0 * ended
        return self._observation(seen), reward, ended, False, info

    def _observation(self, seen: _Seen) -> dict[str, np.ndarray]:
        return observe(seen.telemetry.image.copy(), seen.telemetry.speed, seen.elapsed)

    def _info(self, seen: _Seen, disconnected: bool = False) -> dict[str, Any]:
        away = seen.telemetry.cross_track
        info = {
            "progress": seen.progress,
            "collision": seen.collision,
            "stuck": seen.stuck,
            "off_road": away is not None and abs(away) > OFF_ROAD,
            "disconnected": disconnected,
        }
        return info if away is None else info | {"cross_track": away}

    def render(self) -> np.ndarray | None:
        """The picture of the camera, where `render_mode` is `"rgb_array"`."""
        return self._seen.telemetry.image.copy() if self.render_mode == "rgb_array" and self._seen else None

    def close(self) -> None:
        """Stops the car and the bridge; a later `reset` begins anew."""
        bridge, self._bridge, self._seen = self._bridge, None, None
        if bridge is not None:
            bridge.close()

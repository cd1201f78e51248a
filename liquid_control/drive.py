"""``python drive.py CHECKPOINT``: a driver at the wheel of the Udacity simulator.

It listens, the simulator in its autonomous mode connects, and the car moves. Ctrl-C ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TextIO

import numpy as np
import torch
import tyro
from annotated_types import Gt, Le
from rich.live import Live
from rich.logging import RichHandler

from envs.registration import UDACITY
from envs.udacity.observation import observe
from envs.udacity.packets import Command, Telemetry
from envs.udacity.recording import Recorder, RecordingError
from envs.udacity.server import PORT, BridgeError, Drive, UdacityServer
from envs.udacity.vehicle import MAX_STEERING_ANGLE
from liquid_control.report.live_view import LiveView, Moment
from liquid_control.support.checkpoint import CONFIG_NAME
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Port, Positive
from policies.driver import Driver, load_driver

LOG = logging.getLogger(__name__)
PROGRAM = "python drive.py"
EXAMPLE = "checkpoints/Udacity/cfc"
LINE_EVERY, RELOAD_EVERY = 0.5, 1.0
"""Seconds between two live lines, and between two looks at the checkpoint."""
RECORDED_CLIENTS = 256
"""Clients that are recorded at most, each in a folder of its own."""
LOG_COLUMNS = (
    "time", "client", "speed", "target_speed", "steering_angle", "throttle", "commanded_steering",
    "commanded_throttle", "latency",
)  # fmt: skip


@dataclass(frozen=True)
class DriveConfig:
    """Drives the Udacity simulator. Start this command and the simulator's Autonomous Mode, in any order.

    Without the simulator, python -m liquid_control.simulator stands in for it. Options can be put in a YAML file:
    --config FILE.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of a driver, for example checkpoints/Udacity/cfc."""
    speed: Annotated[float, Gt(0), Le(40)] = 15.0
    """Speed on straight road, in miles an hour."""
    record: Path | None = None
    """A new folder for a recording: driving_log.csv and IMG/, as the simulator writes them."""
    record_limit: Positive = 10.0
    """With --record: gigabytes of pictures after which no more is recorded. The car drives on."""
    log: Path | None = None
    """A new .csv file with every telemetry and its answer."""
    view: bool = False
    """Serve a web page that shows the camera, what the driver looks at, and its neurons."""
    view_port: Port = 4568
    """Port of that page; 0 picks a free one."""
    watch: bool = False
    """Look for a new checkpoint in the folder every second, and change to it without stopping."""
    host: str = "127.0.0.1"
    """Address to listen on. With any but this computer's own, other computers can drive the car."""
    port: Port = PORT
    """Port to listen on; the simulator knows no other than 4567."""


class DriverPilot:
    """A driver at the wheel of one simulator, with a state and a speed controller of its own.

    Args:
        driver: whose weights drive.
        speed: miles an hour to keep.
    """

    def __init__(self, driver: Driver, speed: float):
        self.speed = speed
        self.take_over(driver)

    def take_over(self, driver: Driver) -> None:
        """Another driver takes the wheel; its state is that of a new drive."""
        self.compiled = driver.compile_step()
        assert self.compiled.cruise is not None
        self.compiled.cruise.speed = self.speed

    def drive(self, telemetry: Telemetry, elapsed: float) -> Command:
        """See `envs.udacity.server.Pilot`."""
        steering, throttle = self.compiled.act(observe(telemetry.image, telemetry.speed, elapsed))
        return Command(float(steering), float(throttle))


@dataclass
class Seat:
    """What is kept of one simulator."""

    recorder: Recorder | None = None
    telemetry: Telemetry | None = None
    """The last one that was logged, recorded and shown."""
    answered: int = 0
    """Telemetries until the last live line."""
    rate: float = 0.0
    """Telemetries a second."""
    recorded_at: float = field(default=float("-inf"))


class Cockpit:
    """Everything around the server: recordings, the log, the page, the live line, the change of drivers.

    Args:
        config: what is asked for.
        driver: at the wheel at first.
        console: where lines go.
    """

    RECORD_EVERY = 1 / 16
    """Seconds between rows of a recording at least, as the simulator's own."""

    def __init__(self, config: DriveConfig, driver: Driver, console: Console):
        self.config, self.driver, self.console = config, driver, console
        self.server = UdacityServer(self._make_pilot, config.host, config.port, self._note)
        self.seats: dict[int, Seat] = {}
        self.view: LiveView | None = None
        self.answered = self.recorded = self.logged = 0
        """Telemetries that could be read, bytes of pictures, lines."""
        self._log: TextIO | None = None

    def _make_pilot(self) -> DriverPilot:
        return DriverPilot(self.driver, self.config.speed)

    async def run(self, stop: asyncio.Event, started: Callable[[], None] = lambda: None) -> None:
        """Serves until ``stop`` is set.

        Raises:
            UserError: if something that was asked for cannot be had: a port, a folder, a file.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self.config.view:
                self.view = await stack.enter_async_context(LiveView(self.driver, port=self.config.view_port))
                self.console.print(f"view: {self.view.url}")
            stack.callback(self._close_files)  # when the server has answered for the last time
            try:
                await stack.enter_async_context(self.server)
            except BridgeError as error:
                raise UserError(str(error)) from None
            if self.config.record is not None:
                self._record(self.config.record, 1)
            if self.config.log is not None:
                self._begin_log(self.config.log)
            self.console.print(f"listening on {self.config.host}:{self.server.port} for the simulator; Ctrl-C ends.")
            started()
            async with asyncio.TaskGroup() as tasks:
                others = [tasks.create_task(self._tell())]
                if self.config.watch:
                    others.append(tasks.create_task(self._reload()))
                await stop.wait()
                for other in others:
                    other.cancel()

    # After every answer

    def _note(self, drive: Drive) -> None:
        seat = self.seats.setdefault(drive.number, Seat())
        telemetry, command = drive.telemetry, drive.command
        if command is None:  # somebody drives by hand
            self.answered += 1
            if self.view is not None:
                self.view.wants(drive.number, by_hand=True)
            return
        if telemetry is None or telemetry is seat.telemetry:  # what came could not be read, and was told
            return
        seat.telemetry = telemetry
        self.answered += 1
        now = time.time()
        if self._log is not None:
            self._write_log(self._log, drive, telemetry, command, now)
        if self.config.record is not None and now - seat.recorded_at >= self.RECORD_EVERY:
            self._write_row(seat, drive, telemetry, command, now)
        if self.view is not None and self.view.wants(drive.number):
            self.view.show(self._moment(seat, drive, telemetry, command))

    def _moment(self, seat: Seat, drive: Drive, telemetry: Telemetry, command: Command) -> Moment:
        compiled = drive.pilot.compiled  # type: ignore[attr-defined]
        image, gauges = compiled.view(observe(telemetry.image, telemetry.speed, 0.0))
        return Moment(
            camera=telemetry.image,
            image=image,
            gauges=gauges,
            state=compiled.state.copy(),
            steering=command.steering,
            throttle=command.throttle,
            speed=telemetry.speed,
            latency=_percentiles(drive),
            rate=seat.rate,
            number=drive.number,
            target=compiled.cruise.controller.target,
        )

    def _begin_log(self, path: Path) -> None:
        try:
            self._log = path.open("x", newline="", encoding="utf-8", buffering=1)
            csv.writer(self._log).writerow(LOG_COLUMNS)
        except FileExistsError:
            raise UserError(f"{path} exists already. Choose a new file for the log.") from None
        except OSError as error:
            raise UserError(f"cannot write the log {path}: {error.strerror or error}. Choose another place.") from None

    def _write_log(self, log: TextIO, drive: Drive, telemetry: Telemetry, command: Command, now: float) -> None:
        compiled = drive.pilot.compiled  # type: ignore[attr-defined]
        numbers = (
            telemetry.speed, compiled.cruise.controller.target, telemetry.steering_angle, telemetry.throttle,
            command.steering, command.throttle, drive.latencies[-1],
        )  # fmt: skip
        end = log.tell()
        try:
            csv.writer(log).writerow([f"{now:.3f}", drive.number, *(f"{number:.5g}" for number in numbers)])
            self.logged += 1
        except OSError as error:
            self._close_log()
            with contextlib.suppress(OSError):
                os.truncate(log.name, end)  # half a line
            LOG.warning("the log ends here: %s. The car drives on.", error.strerror or error)

    def _close_log(self) -> None:
        """No more lines. A log without any is removed, so that its file can be named again."""
        log, self._log = self._log, None
        if log is None:
            return
        with contextlib.suppress(OSError):  # it writes again what a full disk did not take
            log.close()
        if not self.logged:
            with contextlib.suppress(OSError):
                Path(log.name).unlink()

    # Recordings

    def _record(self, folder: Path, number: int) -> Recorder:
        try:
            recorder = Recorder(folder)
        except RecordingError as error:
            raise UserError(str(error)) from None
        self.seats.setdefault(number, Seat()).recorder = recorder
        return recorder

    def _write_row(self, seat: Seat, drive: Drive, telemetry: Telemetry, command: Command, now: float) -> None:
        assert self.config.record is not None
        try:
            if self.recorded >= self.config.record_limit * 1e9:
                raise UserError(f"--record-limit {self.config.record_limit:g} GB is reached")
            if seat.recorder is None:  # another simulator, or the same one again
                if drive.number > RECORDED_CLIENTS:
                    raise UserError(f"{RECORDED_CLIENTS} clients have been recorded")
                seat.recorder = self._record(self.config.record / f"client-{drive.number}", drive.number)
            steering = telemetry.steering_angle / MAX_STEERING_ANGLE
            brake = max(-command.throttle, 0.0)
            seat.recorder.write([telemetry.jpeg], steering, telemetry.throttle, brake, telemetry.speed, now)
            seat.recorded_at = now
            self.recorded += len(telemetry.jpeg)
        except (OSError, UserError) as error:
            seat.recorded_at = float("inf")
            LOG.warning("the recording of client %d ends here: %s. The car drives on.", drive.number, error)

    def _forget_who_left(self) -> None:
        """Closes the recordings of simulators that are gone: one that reconnects all day leaves no file open."""
        for number in self.seats.keys() - self.server.drives.keys():
            # The folder that was asked for stands ready for the first client.
            if number == 1 and not self.server.count:
                continue
            _close_recording(self.seats.pop(number))

    def _close_files(self) -> None:
        self._close_log()
        for seat in self.seats.values():
            _close_recording(seat)

    # Beside the driving

    async def _tell(self) -> None:
        """The live line."""
        with Live("waiting for a simulator", console=self.console, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(LINE_EVERY)
                self._forget_who_left()
                for drive in self.server.drives.values():
                    seat = self.seats.setdefault(drive.number, Seat())
                    seat.rate, seat.answered = (drive.answered - seat.answered) / LINE_EVERY, drive.answered
                lines = [describe(drive, self.seats[drive.number].rate) for drive in self.server.drives.values()]
                live.update("\n".join(lines) or "waiting for a simulator", refresh=self.console.is_terminal)

    async def _reload(self) -> None:
        """Changes drivers when the checkpoint has changed. One that is half copied is tried again until it is whole."""
        seen = told = _stamp(self.config.checkpoint)
        while True:
            await asyncio.sleep(RELOAD_EVERY)
            stamp = _stamp(self.config.checkpoint)
            if stamp in (seen, None):
                continue
            try:
                driver = await asyncio.to_thread(_load, self.config.checkpoint)
                pilots = [drive.pilot for drive in self.server.drives.values()]
                for pilot in pilots:
                    pilot.take_over(driver)  # type: ignore[attr-defined]
            except UserError as error:
                if stamp != told:
                    LOG.warning("%s The driver stays as it is until it can be loaded.", error)
                told = stamp
                continue
            seen = stamp
            self.driver = driver
            if self.view is not None:
                self.view.driver = driver
            self.console.print(f"a new driver: {driver.describe()}")


def describe(drive: Drive, rate: float) -> str:
    """One line of what a simulator is doing."""
    if drive.telemetry is None:
        return f"client {drive.number}: connected, no telemetry yet"
    median, high = _percentiles(drive)
    steering = "by hand" if drive.command is None else f"{drive.command.steering * MAX_STEERING_ANGLE:+6.1f}°"
    return (
        f"client {drive.number}: {rate:5.1f} telemetries/s, answered in {median * 1e3:.1f} ms (p95 {high * 1e3:.1f}), "
        f"{drive.telemetry.speed:4.1f} mph, {steering}"
    )


def _close_recording(seat: Seat) -> None:
    """Ends a recording, if there is one; an error in it is told, as the other cars drive on."""
    if seat.recorder is not None:
        try:
            seat.recorder.close()
        except OSError as error:
            LOG.warning("the recording in %s may lack its end: %s.", seat.recorder.folder, error.strerror or error)


def _percentiles(drive: Drive) -> tuple[float, float]:
    """Seconds to an answer, median and 95th percentile of the latest."""
    latest = sorted(list(drive.latencies)[-256:])
    return latest[len(latest) // 2], latest[len(latest) * 95 // 100]


def _stamp(checkpoint: Path) -> int | None:
    """When the checkpoint was written; None while there is none."""
    try:
        return (checkpoint / CONFIG_NAME).stat().st_mtime_ns
    except OSError:
        return None


def _load(checkpoint: Path) -> Driver:
    """A driver of the simulator, ready.

    Raises:
        UserError: if there is none, or it drives something else.
    """
    driver = load_driver(checkpoint)
    if driver.config.env != UDACITY:
        raise UserError(
            f"{checkpoint} drives {driver.config.env}, not the Udacity simulator. A driver of that is {EXAMPLE}."
        )
    compiled = driver.compile_step()
    blank = np.zeros(driver.view.observation_shape, np.uint8)
    compiled.act({"image": blank, "speed": np.zeros(1), "elapsed": np.zeros(1)})  # compiles what is not compiled yet
    return driver


def main(arguments: Sequence[str]) -> None:
    """Drives as the arguments say; see ``--help``."""
    config = parse(DriveConfig, arguments, PROGRAM)
    console = Console()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # what clients do wrong is told by the server
    torch.set_num_threads(1)
    driver = _load(config.checkpoint)
    console.print(driver.describe())
    cockpit = Cockpit(config, driver, console)
    asyncio.run(_until_stopped(cockpit))
    console.print(f"{cockpit.answered} telemetries answered.")


async def _until_stopped(cockpit: Cockpit) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows
            signal.signal(number, functools.partial(_stop_from_handler, loop, stop))
    await cockpit.run(stop)


def _stop_from_handler(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, *_: object) -> None:
    loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    run(main)

"""``python -m liquid_control.simulator``: the stand-in for the Udacity simulator, for who has no Unity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.udacity.recording import Recorder, RecordingError
from envs.udacity.simulator_wire import LOCALES
from envs.udacity.stand_in.camera import WEATHERS
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.simulator import Autonomous, record
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.ranges import Port, Positive, Seed, Speed

PROGRAM = "python -m liquid_control.simulator"


@dataclass
class SimulatorConfig:
    """Stands in for the Udacity simulator: connects to a bridge as it does, or records an expert's drive.

    Without --record it connects to a bridge such as drive.py, waiting until there is one, and drives as that says. It
    opens no window; drive.py --view shows the camera. Options can be put in a YAML file: --config FILE.
    """

    track: str = "lake"
    """lake, mountain, or a whole number: the seed of another road."""
    weather: str = "clear"
    """clear, overcast, fog or dusk."""
    host: str = "127.0.0.1"
    """Address of the bridge."""
    port: Port = 4567
    """Port of the bridge."""
    locale: str = "en-US"
    """How numbers are written on the simulator's computer: en-US, de-DE or fr-FR."""
    rate: Positive = 1.0
    """Simulated seconds per second of real time."""
    seconds: Positive = float("inf")
    """Simulated seconds to drive, by default without end."""
    record: Path | None = None
    """A new folder for the drive of an expert who knows the road: driving_log.csv, and IMG/ of three cameras."""
    laps: Positive = 1.0
    """With --record: number of laps."""
    speed: Speed = 15.0
    """With --record: speed on straight road, in miles an hour."""
    seed: Seed = 0
    """With --record: seed of the moments when the car is pushed aside."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command; see :class:`SimulatorConfig`."""
    config = parse(SimulatorConfig, arguments, PROGRAM)
    _check(config)
    console = Console()
    try:
        env = UdacityStandIn(config.track, weather=config.weather)
    except ValueError as error:
        raise UserError(str(error)) from None
    env.reset(seed=config.seed, options={"start": 0.0})
    if config.record is None:
        autonomous = Autonomous(env, config.host, config.port, config.locale, config.rate, console.print)
        try:
            autonomous.run(config.seconds)
        finally:
            console.print(
                f"{autonomous.telemetries} telemetries in {autonomous.seconds:.0f} s, {env.progress:.0f} m of road; "
                f"the car left the road {autonomous.departures} times.",
            )
        return
    try:
        with Recorder(config.record) as recorder:
            rows = record(env, recorder, config.laps, RoadExpert(config.speed), config.seed)
    except RecordingError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(
            f"cannot record on into {config.record}: {error.strerror or error}. It keeps the {recorder.rows} rows so "
            "far; free some space, and record into another folder."
        ) from None
    console.print(f"{rows} rows of {env.progress:.0f} m of road: {config.record}")


def _check(config: SimulatorConfig) -> None:
    for name, given, known in (("weather", config.weather, WEATHERS), ("locale", config.locale, LOCALES)):
        if given not in known:
            raise UserError(f"unknown {name} {given!r}: {nearest(given, known)}")


if __name__ == "__main__":
    run(main)

"""The stand-in as a program: on a bridge, and recording."""

import threading
import time

import numpy as np
import pytest
from websockets.sync.server import serve

from envs.udacity.packets import Command
from envs.udacity.recording import Recorder, iterate_pairs, read_recording
from envs.udacity.simulator_wire import LOCALES
from envs.udacity.stand_in.car import TICK
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.simulator import LONGEST_FRAME, Autonomous, record
from tests.envs.udacity.conftest import run_bridge


class Oracle:
    """Drives over the bridge, but looks at the road instead of the picture."""

    def __init__(self, env, rate=1.0):
        self.env, self.expert, self.rate, self.speeds = env, RoadExpert(15.0), rate, []

    def drive(self, telemetry, elapsed):
        assert telemetry.image.shape == (160, 320, 3)
        self.speeds.append(telemetry.speed)
        return Command(*self.expert.act(self.env, elapsed * self.rate))


@pytest.fixture
def env():
    env = UdacityStandIn()
    env.reset(seed=0, options={"start": 0.0})
    return env


@pytest.mark.parametrize("locale", LOCALES)
def test_a_car_is_driven_over_the_bridge_in_every_language(env, locale):
    rate = 4.0
    oracle = Oracle(env, rate)
    with run_bridge(lambda: oracle) as server:
        autonomous = Autonomous(env, port=server.port, locale=locale, rate=rate)
        autonomous.run(seconds=25)
    assert autonomous.telemetries >= len(oracle.speeds) > 100
    assert abs(env.cross_track) < 0.5
    assert env.progress > 100
    assert oracle.speeds[-1] == pytest.approx(15, abs=1)


def test_where_the_computer_pauses_the_world_does_too(env, monkeypatch):
    passed, frame = [], Autonomous._frame
    monkeypatch.setattr(env, "advance", lambda ticks: passed.append(ticks * TICK))
    monkeypatch.setattr(Autonomous, "_frame", lambda self: time.sleep(1.0) if len(passed) == 3 else frame(self))
    begin = time.monotonic()
    Autonomous(env, rate=4.0).run(seconds=1.0)
    assert max(passed) <= LONGEST_FRAME < max(passed) + TICK
    assert sum(passed) >= 1.0
    assert time.monotonic() - begin > 1.0 + (1.0 - LONGEST_FRAME) / 4 - 0.2


def test_a_bridge_may_come_late_leave_and_come_again(env):
    lines = []
    with run_bridge(lambda: Oracle(env)) as server:
        port = server.port
    autonomous = Autonomous(env, port=port, rate=5.0, tell=lines.append)
    autonomous.run(seconds=2)
    assert lines == [f"waiting for a bridge at 127.0.0.1:{port}"]
    for _ in range(2):
        with run_bridge(lambda: Oracle(env), port=port):
            autonomous.run(seconds=autonomous.seconds + 5)
    assert lines[1:] == ["connected"]  # told once: each time it ended of itself
    assert autonomous.telemetries > 20


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"\xff\xfe", "text that is not UTF-8"),
        (b"42" + b"[" * 100_000 + b"]" * 100_000, "'42[[["),
    ],
    ids=["text", "JSON"],
)
def test_a_message_that_the_plugin_cannot_read_ends_the_connection_and_it_connects_again(env, message, why):
    def handle(connection):
        connection.send(message, text=True)
        list(connection)

    lines = []
    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            autonomous = Autonomous(env, port=server.socket.getsockname()[1], rate=4.0, tell=lines.append)
            autonomous.run(seconds=3)
        finally:
            server.shutdown()
            thread.join(timeout=10)
    assert lines[0] == lines[2] == "connected"
    assert lines[1].startswith("the plugin cannot read " + why)


def test_each_telemetry_has_one_answer_and_two_are_under_way_after_a_new_connection_too(env):
    answered = []
    with run_bridge(lambda: Oracle(env, 4.0), watch=lambda drive: answered.append(drive.number)) as server:
        autonomous = Autonomous(env, port=server.port, rate=4.0)
        for _ in range(3):
            autonomous.run(seconds=autonomous.seconds + 4)
    assert sorted(set(answered)) == [1, 2, 3]
    assert autonomous.connections == 3
    assert autonomous.commands > 60
    assert autonomous.telemetries == autonomous.commands + 2 * 3
    assert len(answered) - 2 * 3 <= autonomous.commands <= len(answered)
    assert env.progress > 10


def test_a_recording_is_one_that_can_be_learned_from(env, tmp_path):
    with Recorder(tmp_path / "drive") as recorder:
        rows = record(env, recorder, laps=0.15, expert=RoadExpert(15.0))
    recording = read_recording(tmp_path / "drive")
    assert len(recording.rows) == rows > 150
    assert not recording.left_out
    assert all(row.left and row.right for row in recording.rows)
    assert recording.rows[-1].speed == pytest.approx(15, abs=1)
    seconds = np.array([elapsed for stretch in recording.stretches for _, elapsed in iterate_pairs(stretch)][1:])
    assert 0.059 < seconds.min() < 0.07
    assert np.median(seconds) < 0.1 < seconds.max() < 1.0  # pushes are left out
    steering = np.array([row.steering for row in recording.rows])
    assert steering.std() > 0.02
    assert np.abs(steering).max() < 0.8


def test_the_expert_slows_down_for_the_bends_of_the_mountain():
    env = UdacityStandIn("mountain")
    env.reset(seed=0, options={"start": 0.0})
    expert, speeds, away = RoadExpert(30.0, comfort=4.0), [], []
    while env.progress < env.road.length:
        env.car.command(*expert.act(env, 0.08))
        env.advance(4)
        speeds.append(env.car.speed)
        away.append(abs(env.cross_track))
        assert len(speeds) < 4000
    assert max(away) < 1.0
    sharpest = np.abs(env.road.curvature).max() / env.road.spacing
    assert min(speeds[100:]) < 1.1 * np.sqrt(4.0 / sharpest)
    assert max(speeds) > 1.4 * min(speeds[100:])

"""``drive.py`` as a user runs it: a bridge, a driver, a simulator that stands in."""

import asyncio
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from websockets.sync.client import connect

from envs.registration import UDACITY
from envs.udacity.recording import Recorder, read_recording
from envs.udacity.simulator_wire import SimulatorWire
from envs.udacity.stand_in.simulator import encode
from liquid_control.drive import Cockpit, DriveConfig, main
from policies.driver import Driver, DriverConfig

ROOT = Path(__file__).parent.parent.parent


def save_driver(folder, steering=0.1):
    """A driver that always steers alike."""
    torch.manual_seed(0)
    driver = Driver(DriverConfig(env=UDACITY)).eval()
    with torch.no_grad():
        driver.hands.gain.zero_()
        driver.hands.offset.fill_(steering)
    driver.save(folder)
    return driver


@pytest.fixture
def driver(tmp_path):
    return save_driver(tmp_path / "driver")


@contextmanager
def cockpit(driver, tmp_path, **options):
    """A cockpit that serves in a thread."""
    config = DriveConfig(tmp_path / "driver", port=0, view_port=0, **options)
    made = Cockpit(config, driver, Console(file=io.StringIO(), width=200))
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop, made.failure = asyncio.Event(), None

    def serve():
        try:
            loop.run_until_complete(made.run(stop, started.set))
        except BaseException as failure:
            made.failure = failure
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(20)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()


class Simulator(SimulatorWire):
    """Sends a picture for every request of the bridge, and keeps the requests that it has not met yet."""

    def __init__(self, port):
        super().__init__("127.0.0.1", port)
        self.asked, self.rng = [], np.random.default_rng(0)

    def drive(self, count, interval=0.0, speed=10.0):
        """The next so many commands."""
        commands = []
        while len(commands) < count:
            self.asked = self.asked or self.poll(timeout=10)
            assert self.asked, "the bridge did not answer"
            commands += [each for each in self.asked if each.steering is not None]
            time.sleep(interval)
            picture = encode(self.rng.integers(0, 256, (160, 320, 3), np.uint8))
            for _ in self.asked:
                self.send_telemetry(0.5, 0.2, speed, picture)
            self.asked = []
        return commands


def test_every_telemetry_is_answered_by_the_driver_and_its_pedal(driver, tmp_path):
    with cockpit(driver, tmp_path, speed=20.0) as made:
        wire = Simulator(made.server.port)
        answers = wire.drive(20)
        wire.close()
    assert made.answered >= 18  # of the last, the simulator was gone before they were counted
    assert [answer.steering for answer in answers] == pytest.approx([0.1] * len(answers), abs=1e-6)
    assert all(answer.throttle == 1 for answer in answers)  # ten miles an hour too slow


def test_two_simulators_have_a_state_each(driver, tmp_path):
    with cockpit(driver, tmp_path) as made:
        first, second = (Simulator(made.server.port) for _ in range(2))
        first.drive(6, 0.06)
        one, two = (drive.pilot.compiled for drive in made.server.drives.values())
        assert np.ptp(one.state) > 0.01
        assert (two.state == 0).all()
        second.drive(2)
        assert (two.state != one.state).any()
        first.close()
        second.close()


def test_what_is_driven_is_recorded_as_the_simulator_records(driver, tmp_path):
    with cockpit(driver, tmp_path, record=tmp_path / "drive") as made:
        for _ in range(2):  # the simulator goes and comes again
            wire = Simulator(made.server.port)
            wire.drive(10, 0.03)
            wire.close()
            time.sleep(0.2)
    recording = read_recording(tmp_path / "drive")
    assert 3 <= len(recording.rows) <= 10  # sixteen a second at most
    assert recording.rows[0].speed == 10
    assert recording.rows[0].steering == pytest.approx(0.5 / 25)
    assert len(read_recording(tmp_path / "drive" / "client-2").rows) >= 3


def test_the_log_has_a_line_for_every_answer(driver, tmp_path):
    with cockpit(driver, tmp_path, log=tmp_path / "log.csv") as made:
        wire = Simulator(made.server.port)
        wire.drive(8)
        wire.close()
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert len(rows) == made.answered
    assert {row["client"] for row in rows} == {"1"}
    assert float(rows[3]["commanded_steering"]) == pytest.approx(0.1)
    assert float(rows[3]["target_speed"]) == 15
    assert 0 < float(rows[3]["latency"]) < 5


def test_a_full_disk_ends_the_recording_and_not_the_drive(driver, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with cockpit(driver, tmp_path, record=tmp_path / "drive") as made:
        wire = Simulator(made.server.port)
        wire.drive(2)
        monkeypatch.setattr(Recorder, "write", full)
        answers = wire.drive(10, 0.03)
        wire.close()
    assert all(answer.steering == pytest.approx(0.1) for answer in answers)
    assert sum("the recording of client 1 ends here" in record.message for record in caplog.records) == 1


def test_a_message_that_cannot_be_read_is_answered_and_leaves_no_row(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(Cockpit, "RECORD_EVERY", 0.0)
    with cockpit(driver, tmp_path, record=tmp_path / "drive", log=tmp_path / "log.csv", view=True) as made:
        shown = []
        made.view.show, made.view.wants = shown.append, lambda number: True
        with Simulator(made.server.port) as wire:
            wire.poll(timeout=10)  # its connection alone asks for two telemetries
            wire.poll(timeout=10)
            for jpeg in (encode(np.zeros((160, 320, 3), np.uint8)), b"no picture"):
                wire.send_telemetry(0.5, 0.2, 10.0, jpeg)
                (answer,) = wire.poll(timeout=10)
            (drive,), deadline = made.server.drives.values(), time.monotonic() + 10
            while drive.answered < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert (drive.answered, drive.refused, answer.throttle) == (2, 1, 0)  # the car coasts
    assert made.answered == 1
    assert len(read_recording(tmp_path / "drive").rows) == 1
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 1
    assert len(shown) == 1


def test_the_bridge_goes_on_when_a_recording_and_the_log_cannot_be_written(driver, tmp_path, caplog):
    """What the disk did not take is written again when a file is closed."""
    with cockpit(driver, tmp_path, record=tmp_path / "drive", log=tmp_path / "log.csv") as made:
        with open("/dev/full", "w") as full, Simulator(made.server.port) as wire:
            for file in (made._log, made.seats[1].recorder._log):
                os.dup2(full.fileno(), file.fileno())
            wire.drive(4, 0.03)
        deadline = time.monotonic() + 10
        while 1 in made.seats and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 1 not in made.seats
        with Simulator(made.server.port) as wire:
            assert wire.drive(4, 0.03)[-1].steering == pytest.approx(0.1)
    assert "the recording of client 1 ends here" in caplog.text
    assert "the log ends here: No space left on device. The car drives on." in caplog.text
    assert made.failure is None


def test_a_new_checkpoint_takes_the_wheel_without_a_stop(driver, tmp_path):
    with cockpit(driver, tmp_path, watch=True) as made:
        wire = Simulator(made.server.port)
        wire.drive(3)
        (tmp_path / "driver" / "config.json").write_text("{")  # damaged: nothing changes
        time.sleep(1.5)
        assert wire.drive(3)[-1].steering == pytest.approx(0.1)
        save_driver(tmp_path / "driver", -0.4)
        deadline = time.monotonic() + 20
        while wire.drive(1, 0.1)[-1].steering != pytest.approx(-0.4) and time.monotonic() < deadline:
            pass
        assert wire.drive(1)[-1].steering == pytest.approx(-0.4)
        assert len(made.server.drives) == 1
        wire.close()


def test_a_checkpoint_that_is_still_being_copied_takes_the_wheel_when_it_is_whole(
    driver, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("liquid_control.drive.RELOAD_EVERY", 0.05)
    save_driver(tmp_path / "new", -0.4)
    with cockpit(driver, tmp_path, watch=True) as made, Simulator(made.server.port) as wire:
        shutil.copy(tmp_path / "new" / "config.json", tmp_path / "driver")
        deadline = time.monotonic() + 20
        while "stays as it is" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)  # it tries again, and says nothing
        assert wire.drive(1)[-1].steering == pytest.approx(0.1)
        assert caplog.text.count("stays as it is") == 1
        (weights,) = (tmp_path / "new").glob("weights-*")
        shutil.copy(weights, tmp_path / "driver")
        while wire.drive(1, 0.05)[-1].steering != pytest.approx(-0.4) and time.monotonic() < deadline:
            pass
        assert wire.drive(1)[-1].steering == pytest.approx(-0.4)


def test_the_page_shows_what_is_driven(driver, tmp_path):
    with cockpit(driver, tmp_path, view=True) as made:
        wire = Simulator(made.server.port)
        shown = []
        made.view.show, made.view.wants = shown.append, lambda number: True
        wire.drive(6, 0.06, speed=12.5)
        wire.close()
    moment = shown[-1]
    assert (moment.number, moment.speed, moment.target) == (1, 12.5, 15.0)
    assert moment.steering == pytest.approx(0.1)
    assert moment.camera.shape == (160, 320, 3)
    assert moment.image.shape == (25, 97, 3)
    assert moment.state.shape == (driver.core.state_size,)


def test_the_page_is_told_of_a_car_that_is_driven_by_hand(driver, tmp_path):
    with cockpit(driver, tmp_path, view=True) as made, connect(made.view.url.replace("http", "ws", 1) + "live") as page:
        with Simulator(made.server.port) as wire:
            wire.send_manual()
            told = {}
            while not told.get("clients"):
                told = json.loads(page.recv(timeout=10))
        assert (told["clients"], told["by_hand"]) == ([1], [1])


# As a command


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["checkpoints/CarRacing-v3/cfc"], "drives CarRacing-v3, not the Udacity simulator"),
        (["nowhere"], "no checkpoint at nowhere"),
        (["DRIVER", "--speed", "0"], "--speed must be above 0"),
        (["DRIVER", "--port", "70000"], "--port must be at least 0 and at most 65535"),
        (["DRIVER", "--port", "0", "--record", "DRIVER"], "is not empty; name a new folder"),
        (["DRIVER", "--port", "0", "--log", "DRIVER/config.json"], "exists already. Choose a new file"),
        (["DRIVER", "--port", "0", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
    ],
)
def test_wrong_options_are_one_line(driver, tmp_path, options, why, command):
    status, _, err = command(main, *(option.replace("DRIVER", str(tmp_path / "driver")) for option in options))
    assert status == 2
    assert why in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize("wrong", ["port", "view port", "log", "record"])
def test_what_did_not_start_leaves_neither_folder_nor_log(driver, tmp_path, wrong, command):
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = {"--port": "0", "--record": tmp_path / "drive", "--log": tmp_path / "log.csv"} | {
            "port": {"--port": port},
            "view port": {"--view": "True", "--view-port": port},
            "log": {"--log": tmp_path / "nowhere" / "log.csv"},
            "record": {"--record": tmp_path / "file"},
        }[wrong]
        words = [word for option in options.items() for word in option]
        status, _, err = command(main, tmp_path / "driver", *words)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["driver", "file"]


def test_what_no_simulator_came_to_leaves_neither_folder_nor_log(driver, tmp_path):
    for _ in range(2):
        with cockpit(driver, tmp_path, record=tmp_path / "drive", log=tmp_path / "log.csv"):
            assert (tmp_path / "drive").exists() and (tmp_path / "log.csv").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["driver"]


def test_a_port_that_is_taken_is_said(driver, tmp_path, command):
    with cockpit(driver, tmp_path) as made:
        status, _, err = command(main, tmp_path / "driver", "--port", made.server.port)
    assert status == 2
    assert "is taken, probably by another bridge" in err


SHIPPED = sorted((ROOT / "checkpoints" / "Udacity").glob("*/config.json"))


@pytest.mark.skipif(not SHIPPED, reason="no driver of the simulator is shipped")
def test_a_shipped_driver_stays_on_the_road_for_a_minute_and_both_processes_end_cleanly(tmp_path, python):
    bridge = subprocess.Popen(
        [python, "drive.py", str(SHIPPED[0].parent), "--port", "0", "--log", str(tmp_path / "log.csv")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    port = ""
    while not port:
        line = bridge.stdout.readline()
        assert line, "the bridge ended"
        if line.startswith("listening on"):
            port = line.split(":")[1].split()[0]
    simulator = subprocess.run(
        [python, *"-m liquid_control.simulator --track 2000000 --seconds 60 --rate 2 --port".split(), port],
        cwd=ROOT, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    bridge.send_signal(signal.SIGINT)
    out, _ = bridge.communicate(timeout=20)
    assert simulator.returncode == 0, simulator.stderr
    assert bridge.returncode == 0, out
    assert "Traceback" not in out
    told = simulator.stdout.splitlines()[-1]
    assert "left the road 0 times" in told, told
    driven = float(told.split(" m of road")[0].split()[-1])
    assert driven > 60 * 15 * 0.44704 * 0.85
    answered = int(out.splitlines()[-1].split()[0])
    assert answered == (tmp_path / "log.csv").read_text().count("\n") - 1
    assert answered > 60 * 10


def test_a_simulator_that_reconnects_all_day_leaves_no_recording_open(driver, tmp_path):
    folder = tmp_path / "drives"
    with cockpit(driver, tmp_path, record=folder) as made:
        for _ in range(12):
            with Simulator(made.server.port) as simulator:
                simulator.drive(3)
        deadline = time.monotonic() + 20
        while made.seats and time.monotonic() < deadline:
            time.sleep(0.05)
        links = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
        assert not [link for link in links if link.startswith(str(folder))]
    assert len(list(folder.glob("client-*/driving_log.csv"))) == 11 and (folder / "driving_log.csv").exists()


def test_a_recording_ends_at_its_limit_and_the_car_drives_on(driver, tmp_path, caplog):
    with (
        cockpit(driver, tmp_path, record=tmp_path / "drives", record_limit=50e-6) as made,
        Simulator(made.server.port) as simulator,
    ):
        simulator.drive(6, interval=0.07)
        commands = simulator.drive(6, interval=0.07)
    assert len(commands) >= 6
    assert "--record-limit 5e-05 GB is reached. The car drives on." in caplog.text
    kept = sum(path.stat().st_size for path in (tmp_path / "drives" / "IMG").iterdir())
    assert 50_000 <= kept < 120_000

"""The simulator command, as a user runs it."""

import os
import signal
import subprocess
import time

import pytest

from envs.udacity.recording import Recorder, read_recording
from liquid_control.simulator import main

COMMAND = ["-m", "liquid_control.simulator"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--track", "sea"], "unknown track 'sea': expected lake, mountain or a whole number"),
        (["--weather", "fogg"], "did you mean 'fog'?"),
        (["--locale", "xx"], "unknown locale 'xx'"),
        (["--rate", "0"], "rate must be above 0"),
        (["--record", "/proc/none"], "cannot record into /proc/none"),
    ],
)
def test_wrong_options_are_one_line(options, why, python):
    done = subprocess.run([python, *COMMAND, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_drive_is_recorded_and_not_replaced(tmp_path, python):
    folder = tmp_path / "drive"
    arguments = [python, *COMMAND, "--record", str(folder), "--laps", "0.02", "--weather", "dusk"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(read_recording(folder).rows) > 20
    again = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_a_full_disk_ends_a_recording_in_one_line_that_says_what_is_kept(tmp_path, command, monkeypatch):
    write = Recorder.write

    def write_three(recorder, *row):
        if recorder.rows == 3:
            os.dup2(full.fileno(), recorder._log.fileno())
        write(recorder, *row)

    monkeypatch.setattr(Recorder, "write", write_three)
    with open("/dev/full", "w") as full:
        status, _, errors = command(main, "--record", tmp_path / "drive", "--laps", "0.02")
    assert status == 2 and errors.count("\n") == 1
    assert f"cannot record on into {tmp_path / 'drive'}: No space left on device. It keeps the 3 rows so far" in errors
    assert "another folder" in errors
    assert len(read_recording(tmp_path / "drive").rows) == 3


def test_it_waits_for_a_bridge_and_ctrl_c_ends_it(python):
    process = subprocess.Popen(
        [python, *COMMAND, "--port", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "waiting for a bridge at 127.0.0.1:1" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "0 telemetries" in out
    assert err == "stopped.\n"

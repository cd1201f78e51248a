"""Clients of python-socketio, old and of today, on the bridge. They exclude each other: each has its own folder."""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

CLIENTS = Path(__file__).with_name("clients")
INSTALLED = Path(__file__).parents[3] / ".venv" / "clients"
"""Where `make test` installs them."""
COUNT = 20


@pytest.mark.parametrize("version", sorted(each.stem for each in CLIENTS.glob("*.txt")))
def test_a_client_connects_and_gets_one_steer_for_each_telemetry(version, bridge, pilots, jpeg):
    folder = INSTALLED / version
    if not (folder / "socketio").is_dir():
        missing = f"python-socketio {version} is not in {folder}: `make test` installs it"
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)
    done = subprocess.run(
        [sys.executable, CLIENTS / "steer.py", f"http://127.0.0.1:{bridge.port}", str(COUNT)],
        input=base64.b64encode(jpeg).decode(),
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert all(module.startswith(f"{folder}/") for module in told["modules"])
    assert told["answers"] == [{"steering_angle": "-250000E-6", "throttle": "500000E-6"}] * COUNT
    assert told["left_over"] == 0
    (pilot,) = pilots
    assert [seen.speed for seen in pilot.seen] == list(range(COUNT))
    deadline = time.monotonic() + 5
    while bridge.drives and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not bridge.drives  # it has said good-bye

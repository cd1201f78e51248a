"""The first second of a command: quiet when it is stopped, clear when a file of the user hides a package of ours."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from liquid_control.__main__ import COMMANDS
from liquid_control.support import starting
from liquid_control.support.compiled import find_place

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("wait", [0.05, 0.2, 0.5, 1.0, 2.0])
def test_ctrl_c_in_the_first_seconds_is_a_word_and_status_130(wait, tmp_path):
    command = [sys.executable, "-m", "liquid_control.train", "--run", str(tmp_path / "run"), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not _handles_ctrl_c(process.pid):  # before that, it is Python's own start
        time.sleep(0.005)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "stopped.\n")


def _handles_ctrl_c(process):
    """Whether our handler, or Python's after it, is there: Python's own comes before the package is imported."""
    maps = Path(f"/proc/{process}/maps").read_text()
    return "_signal" in maps or "/torch/" in maps or "numpy" in maps or "_ssl" in maps


@pytest.mark.parametrize("name", ["envs.py", "agents/__init__.py", "policies/__init__.py"])
def test_a_file_that_hides_a_package_is_named(name, tmp_path):
    hiding = tmp_path / name
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("")
    ended = subprocess.run(
        [sys.executable, "-m", "liquid_control.evaluate", "nowhere"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and str(hiding) in ended.stderr and ended.stderr.count("\n") == 1
    program = [sys.executable, "-c", "import liquid_control; liquid_control.load_driver('x')"]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert f"ImportError: {hiding} hides a package of liquid-control" in ended.stderr


def test_another_program_keeps_its_own_ctrl_c():
    program = "import signal, liquid_control; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True\n"


@pytest.mark.parametrize(
    ("given", "spins"), [({}, starting.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_of_a_command_soon_sleep_unless_the_user_says_otherwise(given, spins, monkeypatch):
    monkeypatch.setattr(starting, "is_command", lambda: True)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, given.get(name, ""))
        if name not in given:
            monkeypatch.delenv(name)
    starting.begin()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.fixture
def read_only_checkout(tmp_path):
    """Commands of a copy of the project that cannot be written, with a home that cannot be, in a mount namespace."""
    copy = tmp_path / "checkout"
    wanted = ("liquid_control", "envs", "agents", "policies", "checkpoints", "drive.py")
    for name in wanted:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        copy.mkdir(exist_ok=True)
        shutil.copytree(source, copy / name, ignore=ignore) if source.is_dir() else shutil.copy(source, copy / name)
    home = tmp_path / "home"
    home.mkdir()

    def run(command):
        mounts = " && ".join(f"mount --bind {path} {path} && mount -o remount,ro,bind {path}" for path in (copy, home))
        script = f"set -euo pipefail; {mounts}; cd {copy}; export HOME={home} LANG=C; {command}"
        wanted = {name: os.environ[name] for name in ("PATH",)}
        return subprocess.run(
            ["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True, env=wanted, timeout=280
        )

    if run("true").returncode:
        pytest.skip("needs a mount namespace")
    return run


def test_a_read_only_checkout_with_a_read_only_home_evaluates(read_only_checkout, tmp_path):
    output = tmp_path / "scores.json"
    ended = read_only_checkout(
        f"{sys.executable} -m liquid_control.evaluate checkpoints/CarRacing-v3/cfc --episodes 1 --workers 1 "
        f"--env liquid_control/FastCarRacing-v3 --output {output} | head -1"
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("Set NUMBA_CACHE_DIR to one that can.") == 1
    assert '"score": 9' in output.read_text()


def test_garbage_is_looked_for_again_when_a_command_is_loaded():
    frozen = gc.get_freeze_count()
    starting.hold_collector()
    assert not gc.isenabled()
    starting.release_collector()
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()


def test_a_place_for_kernels_is_found_where_the_source_can_be_written():
    find_place(test_a_place_for_kernels_is_found_where_the_source_can_be_written)


def test_kernels_of_older_code_are_forgotten(tmp_path, monkeypatch):
    """A kernel takes a part from a second file: Numba itself looks at its own alone."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    (tmp_path / "kernel.py").write_text(
        "import numba, part\nfrom liquid_control.support.compiled import find_place\n"
        "def begun(x):\n    return x\nfind_place(begun)\n"
        "@numba.njit(cache=True)\ndef kernel(x):\n    return part.twice(x)\n"
        "print(kernel(3), sum(kernel.stats.cache_hits.values()))\n"
    )

    def run(factor):
        (tmp_path / "part.py").write_text(f"import numba\n@numba.njit\ndef twice(x):\n    return {factor} * x\n")
        command = [sys.executable, "-B", "kernel.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()

    assert [run(2), run(2), run(4), run(4)] == [["6", "0"], ["6", "1"], ["12", "0"], ["12", "1"]]


def test_every_command_can_be_imported_by_its_name():
    for name in COMMANDS:
        assert (ROOT / "liquid_control" / f"{name}.py").exists()

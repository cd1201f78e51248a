"""A run folder is one process's at a time."""

import subprocess
import sys

import pytest

from agents.run_folder import RunFolder
from liquid_control.support.errors import UserError
from liquid_control.train import main as train

HOLD = """
import sys, time
from pathlib import Path
from agents.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_another_process_trains_in_is_refused_until_it_ends(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin("agent: ppo\nenv: Pendulum-v1\nworkers: 1\nthreads: 1\n")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=r"another process trains in .*: wait until it ends, or stop it"):
                train(["--resume", str(folder.path)])
        finally:
            other.kill()  # however it ends, the folder is free again
    with folder.held():
        pass

"""``record``: which drivers it records, and what it says to the others."""

import contextlib
from pathlib import Path

import pytest

from liquid_control.record import main
from liquid_control.support.lock import held

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [
        (["--driver", CHECKPOINTS / "Udacity/cfc"], f"python drive.py {CHECKPOINTS / 'Udacity/cfc'} --record FOLDER"),
        (["--env", "liquid_control/Udacity-v0"], "python -m liquid_control.simulator --record FOLDER"),
    ],
    ids=["driver", "env"],
)
def test_the_simulator_is_recorded_by_another_command(arguments, instead, command, tmp_path):
    status, _, errors = command(main, *arguments, "--folder", tmp_path / "demos", "--workers", "1")
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert "episodes of CarRacing-v3 are recorded, but this driver drives liquid_control/Udacity-v0." in errors
    assert instead in errors
    assert not (tmp_path / "demos").exists()


@pytest.mark.parametrize("case", ["busy", "shards", "file"])
def test_a_folder_that_cannot_be_recorded_into_is_one_line(case, command, tmp_path):
    folder, told = tmp_path / "demos", "name another folder"
    with contextlib.ExitStack() as stack:
        if case == "busy":
            stack.enter_context(held(folder, "another test"))
        elif case == "shards":
            folder.mkdir()
            (folder / "shard-0000.npz").touch()
        else:
            folder.touch()
            told = "Choose another folder"
        status, _, errors = command(main, "--folder", folder, "--episodes", "1", "--workers", "1")
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert str(folder) in errors and told in errors

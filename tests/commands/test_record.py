"""``record``: which drivers it records, and what it says to the others."""

from pathlib import Path

import pytest

from liquid_control.record import main

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

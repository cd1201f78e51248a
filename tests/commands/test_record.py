"""``record``: which drivers it records, and what it says to the others."""

import contextlib
import shutil
import sys
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


def test_the_command_for_a_driver_of_the_simulator_can_be_pasted(command, tmp_path):
    folder = tmp_path / "my driver"
    shutil.copytree(CHECKPOINTS / "Udacity/cfc", folder)
    _, _, errors = command(main, "--driver", folder, "--folder", tmp_path / "demos")
    assert f"python drive.py '{folder}' --record FOLDER" in errors


@pytest.mark.parametrize("case", ["no name", "no version", "there", "not installed"])
def test_a_dataset_that_minari_cannot_write_is_said_before_anything_is_driven(case, command, tmp_path, monkeypatch):
    datasets = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets))
    name, told = "carracing/expert-v0", "it is there already"
    if case == "no name":
        name, told = "carracing expert", "Malformed dataset ID"
    elif case == "no version":
        name, told = "carracing/expert", "Its name is NAME-vN or NAMESPACE/NAME-vN, such as laps-v0."
    elif case == "there":
        (datasets / name).mkdir(parents=True)
    else:
        told = "pip install 'liquid-control[minari]'"
        monkeypatch.setitem(sys.modules, "minari.dataset.minari_dataset", None)
    before = sorted(datasets.rglob("*"))
    status, _, errors = command(main, "--folder", tmp_path / "demos", "--episodes", "1", "--minari", name)
    assert status == 2 and told in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert not (tmp_path / "demos").exists() and sorted(datasets.rglob("*")) == before


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

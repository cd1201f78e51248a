"""A run folder is one process's at a time, and what it is resumed from is what was saved."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from agents.run_folder import RunFolder
from liquid_control.support.errors import LostRunError, UserError
from liquid_control.support.lock import held
from liquid_control.support.tensor_file import write_tensors
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


def test_two_trainings_that_begin_at_once_do_not_share_a_folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with held(folder.path, "busy"):  # as the other has it while it begins
        with pytest.raises(UserError, match="another process trains in"):
            folder.begin("agent: ppo\n")
        assert not folder.config.exists()
    folder.begin("agent: ppo\n")
    with pytest.raises(UserError, match="holds a run already"):
        folder.begin("agent: dagger\n")
    assert folder.config.read_text() == "agent: ppo\n"


@pytest.mark.parametrize("part", ["best/config.json", "last/config.json", "init/a", "shards/a", "state.safetensors"])
def test_a_new_run_writes_over_nothing_of_another_that_has_lost_its_config(tmp_path, part):
    folder, kept = RunFolder(tmp_path / "run"), tmp_path / "run" / part
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    with pytest.raises(UserError, match=f"holds {part.split('/')[0]}, which a run would write over"):
        folder.begin("agent: ppo\n")
    assert kept.read_text() == "precious" and not folder.config.exists()


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin("agent: ppo\n")
    return folder


TENSORS = {"weight": torch.arange(60.0).reshape(5, 12), "step": torch.tensor(7)}
PROGRESS = {"round": 3, "score": float("nan"), "best_score": 12.5}


def test_the_state_comes_back_as_it_was(folder):
    assert folder.load_state() is None
    folder.save_state(TENSORS, PROGRESS)
    tensors, progress = folder.load_state()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items()) and set(tensors) == set(TENSORS)
    assert repr(progress) == repr(PROGRESS)


def test_no_flipped_bit_and_no_lost_byte_of_the_state_goes_unnoticed(folder):
    folder.save_state(TENSORS, PROGRESS)
    whole = folder.state.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        folder.state.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            folder.load_state()
    for length in rng.integers(len(whole), size=50):
        folder.state.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            folder.load_state()


def test_a_state_that_cannot_be_read_is_not_called_damaged(folder):
    folder.state.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*state\.safetensors: Is a directory"):
        folder.load_state()


def test_nothing_is_saved_into_a_folder_that_is_gone(folder):
    shutil.rmtree(folder.path)
    with pytest.raises(UserError, match="was deleted or moved during the training"):
        folder.save_state(TENSORS, PROGRESS)
    assert not folder.path.exists()


def test_what_a_killed_process_left_is_mended_at_the_next_start(folder):
    folder.shards.mkdir()
    left = [folder.path / ".state.safetensors.4711.tmp", folder.shards / ".round-000-01.npz.4711.tmp"]
    for path in left:
        path.write_bytes(b"half")
    (folder.path / "versions.json").unlink()
    with folder.held():
        assert not any(path.exists() for path in left)
        assert '"torch"' in (folder.path / "versions.json").read_text()


def test_what_others_left_in_a_run_folder_stays(folder):
    others = [folder.path / ".draft.tmp", folder.path / "other" / ".state.safetensors.4711.tmp"]
    others[1].parent.mkdir()
    for path in others:
        path.write_text("mine")
    (folder.path / ".cache.1.tmp").mkdir()
    with folder.held():
        assert all(path.read_text() == "mine" for path in others) and (folder.path / ".cache.1.tmp").is_dir()


def test_a_state_that_something_else_wrote_is_told(folder):
    write_tensors(folder.state, TENSORS, {"model": "another"})
    with pytest.raises(LostRunError, match="is not the state of a run"):
        folder.load_state()


def test_what_a_run_begins_from_is_kept(tmp_path):
    init = tmp_path / "other"
    init.mkdir()
    (init / "config.json").write_text("one")
    folder = RunFolder(tmp_path / "run")
    folder.begin("agent: ppo")
    assert (folder.keep(init) / "config.json").read_text() == "one"
    shutil.move(tmp_path / "run" / "init", tmp_path / "run" / "init-unfinished")  # as a kill leaves it
    with folder.held():
        assert (folder.keep(init) / "config.json").read_text() == "one"
    (init / "config.json").write_text("another")
    assert (folder.keep(init) / "config.json").read_text() == "one"
    shutil.rmtree(init)
    assert folder.keep(init) == tmp_path / "run" / "init"
    assert RunFolder(tmp_path / "none").keep(init) == init  # which is missed by who reads it

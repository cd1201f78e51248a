"""Several processes learn what one learns: the same losses, whoever goes on from whose state."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import distributed
from liquid_control.models.language_model import load_language_model
from liquid_control.support.errors import UserError
from tests.agents.distributed_runs import HALF, resume, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, python):
    """A folder with the runs of one process and of two, and what the two printed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    run(folder, "one")
    for strategy in ("ddp", "fsdp"):
        shutil.copytree(folder / f"{HALF}one", folder / f"{HALF}one for {strategy}")
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "tests/agents/distributed_runs.py", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def curves(folder):
    told = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: [point.value for point in told.Scalars(name)] for name in ("train/loss", "validation/loss")}


def assert_same(folder, one):
    for name, values in curves(one).items():
        assert len(values) == 4 and curves(folder)[name] == pytest.approx(values, abs=1e-5)
    (mine, told), (his, _) = load_language_model(folder / "last"), load_language_model(one / "last")
    torch.testing.assert_close(mine.state_dict(), his.state_dict(), rtol=1e-3, atol=1e-4)
    assert told["training"]["gradient_steps"] == 20


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(runs, strategy):
    assert_same(runs[0] / strategy, runs[0] / "one")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_go_on_where_one_stopped(runs, strategy):
    assert_same(runs[0] / f"{HALF}one for {strategy}", runs[0] / "one")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(runs, strategy):
    resume(runs[0], HALF + strategy)
    assert_same(runs[0] / f"{HALF}{strategy}", runs[0] / "one")


def test_the_first_alone_speaks_and_writes(runs):
    folder, said = runs
    assert said.count(f"checkpoint: {folder / 'ddp' / 'best'}") == 1 == said.count(f"run folder: {folder / 'ddp'}")
    assert len(list((folder / "ddp" / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(
    ("told", "wanted"),
    [("batch", "2 processes do not divide the batch of 3"), ("agent", "ppo learns in one process")],
)
def test_what_processes_cannot_share_is_one_error_of_the_first(runs, told, wanted):
    folder, said = runs
    assert re.search(f"^{told} 0 UserError .*{wanted}", said, re.MULTILINE) and f"{told} 1 SystemExit 2" in said
    assert not (folder / "odd").exists()


def test_without_torchrun_a_process_is_alone_and_without_lightning_several_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with distributed.processes() as together:
        assert together is distributed.ALONE
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .*distributed"), distributed.processes():
        pass

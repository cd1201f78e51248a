"""Options far beyond what can be end a command in one line, before anything is made of them."""

import contextlib

import numpy as np
import pytest
import torch

from liquid_control.diagram import main as diagram
from liquid_control.record import main as record
from liquid_control.simulator import main as simulator
from liquid_control.support.command import run
from liquid_control.support.errors import UserError
from liquid_control.train import main as train
from liquid_control.tune import main as tune
from policies.registry import CORES, build_core

JOBS = {"dagger": [], "roads": ["--env", "udacity"], "ppo": ["--agent", "ppo"]}
SHARED = [
    "--playfield 1 1",
    "--playfield 16 400",
    "--playfield 12000 12000",
    "--features 100000",
    "--learning-rate 1e38",
    "--learning-rate inf",
    "--batch 1000000000000",
    "--seed 5000000000",
    "--workers 100000",
    "--device meta",
    "--policy lan --policy-options heads=0",
    "--policy-options neurons=1000000000",
    "--policy-options neurons=0",
    "--policy ltc --policy-options ode_unfolds=1000000000",
    "--policy mlp --policy-options frames=1000000",
]
OWN = {
    "dagger": ["--time 1000000000", "--control-weights 1e39 1 1", "--teacher-grip inf", "--teacher-speed-gain 1e39"],
    "roads": ["--time 1000000000", "--speeds 8 inf", "--steering-weight 1e39", "--side-correction inf"],
    "ppo": [
        "--envs 1000000",
        "--sequence 100000",
        "--rollout 1000000000",
        "--action-repeat 5000",
        "--value-weight 1e39",
    ],
}


@pytest.mark.parametrize(
    ("job", "words"), [(job, words) for job in JOBS for words in SHARED + OWN[job]], ids=lambda given: str(given)
)
def test_a_training_is_refused_before_a_folder_is_made(tmp_path, job, words):
    with pytest.raises(UserError) as error:
        train([*JOBS[job], "--run", str(tmp_path / "run"), *words.split()])
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (record, "--playfield 1 1"),
        (record, "--playfield 12000 12000"),
        (record, "--workers 100000"),
        (diagram, "checkpoints/CarRacing-v3/cfc --width 99999999"),
        (diagram, "checkpoints/CarRacing-v3/cfc --height 99999999"),
        (simulator, "--record {0} --speed inf"),
        (tune, "{0} --parallel 1000000"),
        (tune, "{0} --cpus 1000000"),
    ],
)
def test_other_commands_are_refused_as_well(tmp_path, main, words):
    with pytest.raises(UserError, match=r"--\S+ must be"):
        main(words.format(tmp_path / "made").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("policy", CORES)
@pytest.mark.parametrize("given", [0, -1, 10**12, float("nan"), float("inf")])
def test_no_number_breaks_the_building_of_a_core(policy, given):
    """It is built, or refused by an error of ours: an option may be a number where the default is one."""
    for option, default in CORES[policy].options.items():
        if isinstance(default, (int, float)) and isinstance(given, type(default)):
            with contextlib.suppress(UserError):
                build_core(policy, 4, 1, {option: given})


@pytest.mark.parametrize(
    "ask",
    [
        lambda: np.empty(2**60, np.uint8),
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: bytearray(2**62),
    ],
)
def test_what_memory_cannot_hold_is_a_line(capsys, ask):
    with pytest.raises(SystemExit) as end:
        run(lambda arguments: ask())
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: there is not enough memory") and told.count("\n") == 1


def test_another_error_of_torch_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(lambda arguments: torch.ones(2, 3) @ torch.ones(2, 3))

"""Suites driven: who takes part, and what is left out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.registration import FAST, OFFICIAL, UDACITY
from envs.shifts.suites import ALL, SUITES, Cell, choose_cells
from liquid_control.report.shift_results import Results, Row
from liquid_control.report.shift_suite import (
    check_entrants,
    enter,
    freeze_plasticity,
    keys_of,
    left_out,
    seeds_of,
)
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig


def save(folder, seed=0, env=OFFICIAL, training=0):
    torch.manual_seed(seed)
    Driver(DriverConfig(env=env)).eval().save(folder, {"job": {"seed": training}})
    return folder


def test_a_suite_says_what_it_leaves_out():
    told = left_out(FAST, choose_cells(SUITES["quick"]))
    assert f"{len(ALL) - len(SUITES['quick'].shifts)} of {len(ALL)} shifts (colour3, " in told
    assert "severities 2, 4" in told and "the official environment" in told
    assert "attacks" in told and "attacks" not in left_out(FAST, choose_cells(SUITES["quick"], ("fgsm",)))
    everything = left_out(OFFICIAL, choose_cells(SUITES["full"]))
    assert "severities" not in everything and "shifts" not in everything and "official" not in everything


def test_policies_are_called_by_their_folders_and_their_trainings_by_their_seeds(tmp_path):
    paths = [
        save(tmp_path / "cfc"),
        save(tmp_path / "run" / "best", 1, training=4),
        Path(f"mine={save(tmp_path / 'a', 2, training=1)}"),
        Path(f"mine={save(tmp_path / 'b', 3, training=2)}"),
    ]
    entrants = enter(paths)
    assert [(each.policy, each.training) for each in entrants] == [("cfc", 0), ("run", 4), ("mine", 1), ("mine", 2)]
    assert entrants[0].weights == json.loads((tmp_path / "cfc" / "config.json").read_text())["sha256"]
    keys = keys_of(entrants, FAST, (Cell(), Cell("rain", 3)), seeds_of(2))
    assert len(keys) == len(set(keys)) == 16
    assert keys[1] == ("cfc", 0, FAST, "clean", 0, 2_000_001)


@pytest.mark.parametrize("record", [{}, {"job": 3}, {"job": {"seed": "x"}}, {"job": {"seed": -1}}])
def test_a_checkpoint_that_does_not_tell_its_training_seed_has_0(tmp_path, record):
    Driver(DriverConfig()).save(tmp_path / "cfc", record)
    assert enter([tmp_path / "cfc"])[0].training == 0


def test_two_checkpoints_of_one_name_and_one_training_seed_are_told_apart(tmp_path):
    one, other = save(tmp_path / "my a" / "cfc"), save(tmp_path / "b" / "cfc", 1)
    with pytest.raises(UserError, match="are both 'cfc' with training seed 0: tell them apart") as refused:
        enter([one, other])
    assert len(enter(map(Path, shlex.split(str(refused.value))[-2:]))) == 2  # as it advises
    assert len(enter([one, Path(f"other={other}")])) == 2


def test_a_driver_of_another_environment_is_named(tmp_path):
    entrants = enter([save(tmp_path / "cfc"), save(tmp_path / "roads", env=UDACITY)])
    with pytest.raises(UserError, match="roads: this driver sees observations of shape"):
        check_entrants(entrants, FAST, (Cell(),))
    check_entrants(entrants[:1], FAST, (Cell(), Cell("colour", 3)))


def test_frozen_synapses_do_not_move_and_rows_are_those_of_other_weights(tmp_path):
    for name in ("plastic", "frozen"):
        torch.manual_seed(0)
        Driver(DriverConfig(policy="plastic")).eval().save(tmp_path / name)
    free, frozen = freeze_plasticity(enter([tmp_path / "plastic", tmp_path / "frozen"]), ("frozen",))
    assert frozen.weights == f"{free.weights} frozen"
    assert "held" in frozen.describe() and "held" not in free.describe()
    rng, moved = np.random.default_rng(0), []
    for entrant in (free, frozen):
        compiled, unpack = entrant.driver.compile_step(), entrant.driver.core.unpack
        begin = unpack(torch.from_numpy(compiled.state.copy())[None])["trace"]
        for _ in range(20):
            compiled.act(rng.integers(0, 256, (96, 96, 3)).astype(np.uint8))
        moved.append(float((unpack(torch.from_numpy(compiled.state.copy())[None])["trace"] - begin).abs().max()))
    assert moved[0] > 0.01 and moved[1] == 0
    results = Results(rows={row.key: row for row in [Row(
        0, "frozen", 0, free.weights, FAST, "clean", 0, 2_000_000, 1.0, False, 0.0, 0.0, 1, 1.0
    )]})  # fmt: skip
    with pytest.raises(UserError, match=f"{free.weights[:8]}, not {free.weights[:8]} frozen"):
        results.check_weights({("frozen", 0): frozen.weights}, tmp_path)


def test_a_core_without_plastic_synapses_cannot_be_frozen(tmp_path):
    with pytest.raises(UserError, match="'cfc' has a core of cfc, which has no plastic synapses"):
        freeze_plasticity(enter([save(tmp_path / "cfc")]), ("cfc",))

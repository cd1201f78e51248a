"""Laps with a memory: without influence the same lap, with it a part of the work is left out, and all of it is told."""

import pytest
import torch

from envs.registration import FAST
from liquid_control.models.cubes import CubeConfig, Cubes
from liquid_control.models.influence import InfluenceConfig
from liquid_control.models.remembering import memories, remembering
from liquid_control.report.remembered_laps import drive_lap
from policies.driver import Driver, DriverConfig

OPTIONS = {"units": 16, "blocks": 2, "heads": 2, "window": 4, "neurons": 6}
EAGER = InfluenceConfig(rise=0.2, low=0.5, high=1.0, memory=8, wrong=0.5, risk=0.3, audited=0.1)


@pytest.fixture
def driver():
    torch.manual_seed(1)
    driver = Driver(DriverConfig(policy="hybrid", options=OPTIONS))
    with torch.no_grad():
        for block in driver.core.blocks.layers:
            block.feed.contract.weight.mul_(3)
    return driver


def fresh(driver, rules):
    return memories(driver, Cubes(CubeConfig(width=16, layers=2, blocks=8, key_size=16, probed=8)), 4, rules)


def test_without_influence_a_lap_is_that_of_the_driver_alone_while_it_learns(driver):
    parts = fresh(driver, InfluenceConfig(low=0.0, high=0.0))
    alone, lap = drive_lap(driver, None, FAST, 5, 60), drive_lap(driver, parts, FAST, 5, 60)
    assert (lap.score, lap.tiles, lap.steps) == (alone.score, alone.tiles, alone.steps) and alone.steps == 60
    assert lap.apart == lap.farthest == lap.skipped == lap.shared == 0 and lap.saved < 0
    assert all(len(part.cube) and part.inputs == 60 for part in parts)


def test_on_the_second_lap_more_is_left_out_and_both_laps_are_told_apart(driver):
    parts = fresh(driver, EAGER)
    first, second = (drive_lap(driver, parts, FAST, 5, 120) for _ in range(2))
    assert second.skipped > max(0.3, first.skipped) and second.shared >= second.skipped
    assert second.skipped == pytest.approx(sum(second.layers) / 2)
    assert first.skipped * 240 + second.skipped * 240 == pytest.approx(sum(part.skipped for part in parts))
    assert 0 < second.apart <= second.farthest < 2
    assert [part.inputs for part in parts] == [240, 240]


def test_a_driver_that_acts_in_inference_mode_learns_too(driver):
    parts, seen = fresh(driver, EAGER), torch.rand(1, driver.inputs)
    before = parts[0].distillation.student.readout.weight.clone()
    with remembering(driver, parts), torch.inference_mode():
        driver.core.step(seen)
    assert parts[0].inputs == 1 and not torch.equal(parts[0].distillation.student.readout.weight, before)


def test_a_compiled_step_skips_as_the_layer_does(driver):
    parts, seen = fresh(driver, EAGER), torch.rand(1, driver.inputs)
    plain = driver.core.compile_step()(seen[0].numpy())
    for part in parts:
        part.learns, part.influence.cap, part.influence.threshold, part.influence.rate = False, 1.0, torch.inf, 0.0
    with remembering(driver, parts), torch.no_grad():
        compiled, wanted = driver.core.compile_step()(seen[0].numpy()), driver.core.step(seen)[0][0].numpy()
    assert parts[0].skipped == 1
    assert compiled == pytest.approx(wanted, abs=1e-5) and compiled != pytest.approx(plain, abs=1e-3)

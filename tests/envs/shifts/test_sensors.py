"""What is read off a shifted gauge is what it is meant to show."""

from __future__ import annotations

import numpy as np
import pytest

from envs.car_racing.dashboard import draw_values
from envs.car_racing.observation import GAUGES, read_gauges
from envs.shifts.sensors import GaugesDead, GaugesNoisy, GaugesStuck
from tests.envs.shifts.conftest import actions, make

PRECISION = np.array([1.4, 2.8, 2.8, 2.8, 2.8, 0.003, 0.03])


def test_numbers_that_are_drawn_are_read_again():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.uniform([0, 0, 0, 0, 0, -0.45, -8], [180, 300, 300, 300, 300, 0.45, 8])
        frame = np.full((96, 96, 3), 77, np.uint8)
        draw_values(values.tolist(), frame)
        assert (np.abs(read_gauges(frame) - values) <= PRECISION).all()
        assert (frame[:84] == 77).all()
        assert (frame[84:, :12] == 77).all()


def test_what_is_read_and_drawn_again_reads_the_same():
    env = make()
    env.reset(seed=1)
    for action in actions(120):
        seen = env.step(action)[0]
        shown = seen.copy()
        draw_values(read_gauges(seen).tolist(), shown)
        assert (read_gauges(shown) == read_gauges(seen)).all()
        assert np.abs(shown.astype(int) - seen).max() <= 3


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_dead_gauges_read_nothing_and_the_others_what_they_read_before(severity, frames):
    shift = GaugesDead(severity)
    shift.begin(np.random.default_rng(severity), shift.scene)
    picture = frames["above"][0][0]
    before, after = read_gauges(picture), read_gauges(shift(picture))
    assert (np.abs(before) > 0.02).all()
    assert (after == 0).sum() == GaugesDead.levels[severity - 1]
    assert (after[after != 0] == before[after != 0]).all()


def test_stuck_gauges_show_what_they_showed_and_the_others_go_on():
    env, plain = make("gauges_stuck:3"), make()
    env.reset(seed=2)
    plain.reset(seed=2)
    shown, seen = (np.stack([read_gauges(each.step(a)[0]) for a in actions(130)]) for each in (env, plain))
    stuck = np.flatnonzero((shown != seen).any(0))
    assert len(stuck) == GaugesStuck.levels[2]
    first = np.flatnonzero((shown != seen).any(1))[0]
    assert 19 <= first <= 101
    assert (shown[first:, stuck] == shown[first, stuck]).all()


def test_noise_has_the_spread_that_is_stated(frames):
    picture = frames["above"][0][0]
    shift = GaugesNoisy(2)
    shift.begin(np.random.default_rng(0), shift.scene)
    errors = np.stack([read_gauges(shift(picture)) for _ in range(400)]) - read_gauges(picture)
    assert np.abs(errors[:, [0, 5, 6]].std(0) / (0.06 * GaugesNoisy.UNITS[[0, 5, 6]]) - 1).max() < 0.2
    assert len(GAUGES) == len(GaugesNoisy.UNITS)


def test_the_official_score_is_left_alone(frames):
    picture = frames["above"][0][0].copy()
    picture[84:, :12] = 200
    shift = GaugesDead(5)
    shift.begin(np.random.default_rng(0), shift.scene)
    shown = shift(picture)
    assert (shown[84:, :12] == 200).all()
    assert (shown[:84] == picture[:84]).all()

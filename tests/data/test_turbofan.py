"""C-MAPSS: windows of flights, engines held out whole, and the two measures."""

import math
import os

import numpy as np
import pytest

from liquid_control.data import turbofan
from liquid_control.data.download import VARIABLE
from liquid_control.experiments import rul
from liquid_control.support.errors import UserError

DATA = os.environ.get(VARIABLE)
real = pytest.mark.skipif(DATA is None, reason=f"needs {VARIABLE}")
LENGTHS, TEST_LENGTHS, LEFT = (60, 70, 150, 55, 30), (80, 20), (7, 200)


def engines(lengths, conditions, offset):
    """Rows of the official format: sensor 1 is the engine, 2 the cycle, 3 the condition, 4 has two values."""
    draws, lines = np.random.default_rng(offset), []
    for engine, length in enumerate(lengths, 1):
        for cycle in range(1, length + 1):
            altitude = conditions[(engine + cycle) % len(conditions)]
            sensors = np.round(draws.normal(size=21), 4)
            sensors[:4] = offset + engine + 10 * altitude, cycle, altitude * 100, 21.6 + cycle % 2 / 100
            settings = f"{altitude + draws.normal() / 300:.4f} 0.0003 100.0"
            lines.append(f"{engine} {cycle} {settings} {' '.join(map(str, sensors))}  ")
    return lines


@pytest.fixture
def made(tmp_path, monkeypatch):
    folder = tmp_path / "cmapss"
    folder.mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for subset, conditions in (("FD001", (0,)), ("FD002", (0, 10, 20, 25, 35, 42))):
        (folder / f"train_{subset}.txt").write_text("\n".join(engines(LENGTHS, conditions, 0)))
        (folder / f"test_{subset}.txt").write_text("\n".join(engines(TEST_LENGTHS, conditions, 100)))
        (folder / f"RUL_{subset}.txt").write_text("\n".join(map(str, LEFT)))
    return folder


def test_engines_are_held_out_whole(made):
    splits = turbofan.turbofan()
    train, validation = (set(part.x[part.mask][:, 0].round(3)) for part in splits[:2])
    assert len(train) == 4 and len(validation) == 1 and not train & validation


def test_windows_end_at_every_flight_and_know_what_is_left(made):
    splits = turbofan.turbofan(max_life=None, validation_share=0.4, seed=1)
    order = np.random.RandomState(1).permutation(5)
    for part, held in ((splits.train, order[2:]), (splits.validation, order[:2])):
        expected = [left for engine in held for left in range(max(LENGTHS[engine] - 50, 0), -1, -1)]
        assert part.target.tolist() == expected


def test_a_long_life_is_capped(made):
    assert turbofan.turbofan(max_life=20).train.target.max() == 20
    assert turbofan.turbofan(max_life=20).test.target.tolist() == [7, 200]
    assert turbofan.turbofan(max_life=20, cap_test=True).test.target.tolist() == [7, 20]


def test_every_flight_of_a_window_knows_what_is_left_after_it(made):
    last, every = turbofan.turbofan(max_life=20), turbofan.turbofan(max_life=20, every_flight=True)
    for one, each in zip(last, every, strict=True):
        end = each.mask.sum(1) - 1
        assert np.array_equal(each.target[np.arange(len(end)), end], one.target)
        steps = np.diff(each.target, axis=1)[each.mask[:, 1:]]
        assert set(steps.tolist()) <= {-1.0, 0.0} and not each.target[~each.mask].any()
    assert every.train.target.max() == 20 and every.test.target[1, 0] == 219  # the test is not capped


def test_a_whole_window_teaches_after_thirty_flights_and_a_short_one_from_the_first(made):
    taught, asked, _ = rul.TASK.load("FD001", 0)
    assert rul.TASK.by_step and taught.target.shape == taught.mask.shape
    whole = taught.mask.all(1)
    assert 0 < whole.sum() < len(whole)
    assert np.isnan(taught.target[whole, :30]).all() and np.isfinite(taught.target[whole, 30:]).all()
    assert np.isfinite(taught.target[~whole]).all() and np.isfinite(asked.target).all()


def test_the_test_is_the_last_window_and_short_engines_are_padded(made):
    test = turbofan.turbofan(window=50).test
    assert test.mask.sum(1).tolist() == [50, 20]
    assert not test.x[1, 20:].any() and (test.elapsed == 1).all()
    cycle = test.x[0, :, 1]
    np.testing.assert_allclose(np.diff(cycle), cycle[1] - cycle[0], rtol=1e-3)
    assert cycle[-1] > test.x[1, 19, 1]


def test_sensors_that_hardly_change_are_left_out(made):
    assert turbofan.turbofan().train.x.shape[2] == 21 - 2  # the condition and the one with two values


@pytest.mark.parametrize("subset", ["FD001", "FD002"])
def test_every_condition_is_standardised_by_itself(made, subset):
    engines = turbofan.read_engines(made / f"train_{subset}.txt")
    scale = turbofan._Scale(np.concatenate(engines), made)
    x, condition = scale(np.concatenate(engines), made), turbofan._condition(np.concatenate(engines))
    assert len(scale.conditions) == {"FD001": 1, "FD002": 6}[subset]
    for altitude in scale.conditions:
        np.testing.assert_allclose(x[condition == altitude].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(x[condition == altitude].std(0), 1, atol=1e-4)


def test_measures_are_those_of_the_challenge():
    expected = math.exp(13 / 13) - 1 + math.exp(20 / 10) - 1
    assert turbofan.nasa_score([100, 50, 5], [113, 30, 5]) == pytest.approx(expected)


@real
def test_the_real_engines_are_100_with_14_sensors():
    splits = turbofan.turbofan()
    assert splits.train.x.shape[1:] == (50, 14) and len(splits.test.x) == 100
    lengths = [len(engine) for engine in turbofan.read_engines(turbofan.find_file(turbofan.SOURCE, "train_FD001.txt"))]
    assert len(splits.train.x) + len(splits.validation.x) == sum(lengths) - 49 * len(lengths) == 20_631 - 4_900
    assert splits.train.target.max() == 125 and splits.test.target.max() == 145


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train", lambda lines: [lines[0], lines[1][:-9], *lines[2:]], "line 2: found 25 fields .*expected 26"),
        ("train", lambda lines: [lines[0].replace("100.0", "full"), *lines[1:]], "line 1: found 'full' as field 5"),
        (
            "train",
            lambda lines: lines[:3] + lines[4:],
            "line 4: found engine 1 at cycle 5, expected engine 1 at cycle 4",
        ),
        ("test", lambda lines: lines[80:], "line 1: found engine 2 at cycle 1, expected engine 1 at cycle 1"),
        ("RUL", lambda lines: lines[:1], "has 1 numbers, expected one for each of the 2 engines"),
        ("test", lambda lines: ["1 1 7 " + lines[0].split(" ", 3)[3], *lines[1:]], "engine 1 flies under setting 7"),
    ],
)
def test_a_malformed_file_is_told_by_its_line(made, file, change, message):
    path = made / f"{file}_FD001.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(UserError, match=message):
        turbofan.turbofan()


def test_a_missing_set_is_told_with_its_place(made):
    with pytest.raises(UserError, match=rf"train_FD004.txt has to be in {made}"):
        turbofan.turbofan("FD004")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "FD005"}, "no set of C-MAPSS 'FD005'"),
        ({"window": 0}, "the window is 0"),
        ({"validation_share": 0.01}, "holds 0 out"),
        ({"validation_share": 1.0}, "holds 5 out"),
    ],
)
def test_options_that_do_not_fit_are_told(made, options, message):
    with pytest.raises(UserError, match=message):
        turbofan.turbofan(**options)

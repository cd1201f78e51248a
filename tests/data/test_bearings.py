"""Bearings, by files in the official formats: runs to failure, and states."""

import numpy as np
import pytest
from scipy.io import savemat

from liquid_control.data import bearings
from liquid_control.data.download import VARIABLE
from liquid_control.support.errors import UserError

SAMPLES = 256
RUNS = {"1_1": 9, "1_2": 7, "1_3": 8, "2_1": 4}
SPLIT = {"train": ["1_1", "2_1"], "validation": ["1_2"], "test": ["1_3"], "window": 5}


def signal(draws, strength, samples=SAMPLES):
    return draws.normal(size=(samples, 2)).round(4) * strength


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Runs that get louder; each data set in its own format."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def pronostia(home):
    draws = np.random.default_rng(0)
    for name, snapshots in RUNS.items():
        part = "Full_Test_Set" if name == "1_3" else "Learning_set"
        folder = home / "pronostia" / "data" / part / f"Bearing{name}"
        folder.mkdir(parents=True)
        (folder / "temp_00001.csv").write_text("9,10,11,0,70\n")
        for snapshot in range(snapshots):
            # Over midnight, and one snapshot is missing in 1_1.
            second = 86_400 - 35 + 10 * (snapshot + (name == "1_1" and snapshot > 5))
            clock = f"{second // 3600 % 24},{second // 60 % 60},{second % 60},{0:e}"
            lines = [f"{clock},{a},{b}" for a, b in signal(draws, 1 + snapshot)]
            text = "\n".join(lines).replace(",", ";" if name == "1_3" else ",")
            (folder / f"acc_{snapshot + 1:05}.csv").write_text(text)
    cut = home / "pronostia" / "data" / "Test_set" / "Bearing1_3"
    cut.mkdir(parents=True)
    (cut / "acc_00001.csv").write_text("cut off")
    return home / "pronostia" / "data"


@pytest.fixture
def xjtu(home):
    draws = np.random.default_rng(1)
    for name, snapshots in RUNS.items():
        folder = home / "xjtu-sy" / "XJTU-SY_Bearing_Datasets" / "35Hz12kN" / f"Bearing{name}"
        folder.mkdir(parents=True)
        for snapshot in range(1, 2 * snapshots):
            lines = ["Horizontal_vibration_signals,Vertical_vibration_signals"]
            lines += [f"{a},{b}" for a, b in signal(draws, snapshot)]
            (folder / f"{snapshot}.csv").write_text("\n".join(lines))
    return home / "xjtu-sy"


@pytest.fixture
def hust(home):
    draws, folder = np.random.default_rng(2), home / "hust" / "HUST bearing dataset"
    folder.mkdir(parents=True)
    for kind in "45678":
        for index, state in enumerate(bearings.HUST_STATES[:3]):
            savemat(folder / f"{state}{kind}02.mat", {"data": (1 + index) * draws.normal(size=(9 * 512, 1)), "fs": 25})
    return folder


def test_pronostia_is_split_by_bearing_and_life_runs_from_one_to_zero(pronostia):
    splits = bearings.pronostia(**SPLIT)
    assert [len(part.x) for part in splits] == [5 + 1, 3, 4]
    assert splits.validation.target.tolist() == pytest.approx([2 / 6, 1 / 6, 0])
    assert splits.train.x.shape[1:] == (5, 14)
    assert splits.train.mask[-1].tolist() == [True] * 4 + [False]  # 2_1 is shorter than the window
    assert np.unique(splits.test.elapsed).tolist() == [1]
    assert np.unique(splits.train.elapsed[:5]).tolist() == [1, 2]  # one is missing


def test_the_louder_a_bearing_the_more_energy_and_deviation(pronostia):
    splits = bearings.pronostia(**SPLIT)
    for feature in (0, 6, 7, 13):
        assert (np.diff(splits.test.x[0, :, feature]) > 0).all()
    values = np.concatenate([splits.train.x[0], splits.train.x[4, 1:], splits.train.x[5, :4]])
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)


def test_the_time_feature_gives_the_label_away(pronostia):
    test = bearings.pronostia(**SPLIT, time_feature=True).test
    assert test.x.shape[2] == 15
    assert np.corrcoef(test.x[:, -1, 14], test.target)[0, 1] == pytest.approx(-1)


def test_xjtu_sy_is_in_the_order_of_numbers(xjtu):
    splits = bearings.xjtu_sy(**SPLIT)
    assert len(splits.train.x) == (17 - 4) + (7 - 4)  # 10.csv is after 9.csv
    assert np.corrcoef(splits.train.x[:13, -1, 6], np.arange(13))[0, 1] > 0.95
    assert np.unique(splits.test.elapsed).tolist() == [1]
    sparse = bearings.xjtu_sy(**SPLIT, stride=3)
    assert len(sparse.train.x) == 5 + 1
    for name in ("validation", "test"):  # which end at every snapshot
        assert getattr(sparse, name).target.tolist() == getattr(splits, name).target.tolist()


def test_hust_is_states_by_type_of_bearing(hust):
    splits = bearings.hust(snapshot=0.01, window=4)
    assert [part.x.shape for part in splits] == [(3 * 3 * 2, 4, 7), (3 * 2, 4, 7), (3 * 2, 4, 7)]
    assert np.bincount(splits.test.target).tolist() == [2] * 3
    np.testing.assert_allclose(splits.train.x.mean((0, 1)), 0, atol=1e-5)


def test_features_are_computed_once(pronostia, monkeypatch):
    first = bearings.pronostia(**SPLIT)
    monkeypatch.setattr(bearings, "_vibration", None)
    np.testing.assert_array_equal(bearings.pronostia(**SPLIT).test.x, first.test.x)
    (pronostia / "Learning_set" / "Bearing1_1" / "acc_00001.csv").write_text("0,0,0,0,1,2\n" * SAMPLES)
    with pytest.raises(TypeError):
        bearings.pronostia(**SPLIT)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("acc_00002.csv", "1,2,3\n" * SAMPLES, r"acc_00002.csv, line 1: found '1,2,3', expected hour"),
        ("acc_00002.csv", "1,2,3,4,5,6\n" * 3 + "1,2,3,4,5\n", r"acc_00002.csv, line 4: found 5 fields"),
        ("acc_00002.csv", "1,2,3,4,5,loud\n", r"acc_00002.csv, line 1: found 'loud' as field 6"),
        ("acc_00002.csv", "1,2,3,4,5,6\n" * 9, r"acc_00002.csv has 9 samples, expected 256 as in acc_00001.csv"),
    ],
)
def test_a_malformed_snapshot_is_told(pronostia, file, text, message):
    (pronostia / "Learning_set" / "Bearing1_1" / file).write_text(text)
    with pytest.raises(UserError, match=message):
        bearings.pronostia(**SPLIT)


def test_what_is_missing_is_told_with_its_place(home, hust, xjtu):
    with pytest.raises(
        UserError, match=rf"PRONOSTIA is not there: get it from https.* unpack it into {home}/pronostia"
    ):
        bearings.pronostia()
    (home / "pronostia").mkdir()
    with pytest.raises(UserError, match=r"holds nothing of PRONOSTIA: get it from https"):
        bearings.pronostia()
    with pytest.raises(UserError, match=r"no bearing in .* '2_2': did you mean '2_1'"):
        bearings.xjtu_sy()
    for path in (xjtu / "XJTU-SY_Bearing_Datasets" / "35Hz12kN" / "Bearing1_1").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"Bearing1_1 has 0 files .* expected a run"):
        bearings.xjtu_sy(**SPLIT)
    next(hust.glob("N4*")).write_text("cut off")
    with pytest.raises(UserError, match=r"cannot read the recording .*N402.mat.*https"):
        bearings.hust(snapshot=0.01, window=4)


def test_options_that_do_not_fit_are_told(pronostia, hust):
    with pytest.raises(UserError, match="expected each bearing in one set"):
        bearings.pronostia(**{**SPLIT, "validation": ["1_1"]})
    with pytest.raises(UserError, match="window is 0"):
        bearings.pronostia(**{**SPLIT, "window": 0})
    with pytest.raises(UserError, match="snapshot is 0"):
        bearings.hust(snapshot=0)
    with pytest.raises(UserError, match="no recording of 4, 5, 6 is as long as 32 snapshots"):
        bearings.hust(snapshot=0.01)

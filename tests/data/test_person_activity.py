"""Person activity: windows, splits without leaks, and the leak of those that have one."""

import os
from pathlib import Path

import numpy as np
import pytest

from liquid_control.data import person_activity
from liquid_control.data.download import VARIABLE
from liquid_control.data.person_activity import ACTIVITIES, TAGS, nearest_row_accuracy, read_recordings
from liquid_control.support.errors import UserError

DATA = os.environ.get(VARIABLE)
real = pytest.mark.skipif(DATA is None, reason=f"needs {VARIABLE}")
ROWS = Path(__file__).parent / "rows" / "ConfLongDemo_JSI.txt"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Recordings of 1,000 rows of three persons; x is the row's number in the file."""
    folder = tmp_path / "par"
    folder.mkdir()
    lines = ["id, sequence_name, tag_indicator, timestamp, x_coordinate, y_coordinate, z_coordinate, activity"]
    for recording in ("A01", "A02", "B01", "C01"):
        for row in range(1000):
            place, moment = len(lines) - 1, 633790226051280329 + row * 300_000
            lines.append(f"{place},{recording},{TAGS[row % 4]},{moment},{place},0,0,{ACTIVITIES[row // 20 % 11]}")
    (folder / person_activity.PART).write_text("\n".join(lines))
    monkeypatch.setenv(VARIABLE, str(tmp_path))


def rows_of(part):
    return part.x[..., 4].astype(int)


def test_official_rows_are_read():
    data = read_recordings(ROWS)
    assert data.names == ("A01", "A03") and data.starts.tolist() == [0, 80, 160]
    np.testing.assert_allclose(data.x[1], [0, 0, 1, 0, 4.29195356, 1.78114045, 1.3444953])
    assert data.moments[0] == 633790226051280329 and data.target[0] == 3
    np.testing.assert_allclose(data.elapsed[[0, 1, 80]], [5, 0.540584, 5])


def test_times_that_go_back_are_told_and_count_by_their_amount():
    data = read_recordings(ROWS)
    assert data.backwards.tolist() == [120]
    assert data.moments[120] < data.moments[119]
    assert data.elapsed[120] == pytest.approx(0.051388)
    assert (data.elapsed > 0).all()


def test_strict_keeps_rows_and_recordings_apart(made):
    splits = person_activity.person_activity("strict", held_out="B")
    train, validation, test = (set(rows_of(part).ravel()) for part in splits)
    assert not train & validation and not (train | validation) & set(range(2000, 3000))
    assert test <= set(range(2000, 3000)) and len(test) == rows_of(splits.test).size
    assert {row // 1000 for row in train} == {row // 1000 for row in validation} == {0, 1, 3}


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_windows_are_rows_that_follow_each_other(made, protocol):
    for part in person_activity.person_activity(protocol, held_out="A01,C"):
        rows = rows_of(part)
        assert (np.diff(rows) == 1).all() and (rows[:, 0] // 1000 == rows[:, -1] // 1000).all()
        np.testing.assert_allclose(part.elapsed[rows % 1000 > 0], 0.3)
        np.testing.assert_array_equal(
            part.target, np.array(list(person_activity.CLASSES.values()))[rows % 1000 // 20 % 11]
        )


@pytest.mark.parametrize(("drop", "recordings"), [(True, 3), (False, 4)])
def test_the_published_slip_can_be_mended(made, drop, recordings):
    splits = person_activity.person_activity("paper", drop_last_recording=drop)
    assert sum(len(part.x) for part in splits) == recordings * len(range(0, 1000 - 32, 16))
    assert len(splits.test.x) == int(0.2 * recordings * 61)


def test_the_paper_protocol_shares_rows_between_training_and_test(made):
    splits = person_activity.person_activity("paper")
    assert set(rows_of(splits.test).ravel()) & set(rows_of(splits.train).ravel())


def test_single_rows_are_one_persons_and_folds_are_apart(made):
    folds = [person_activity.person_activity("row", person="A", fold=fold) for fold in range(5)]
    assert folds[0].train.x.shape[1:] == (1, 4)
    index = np.concatenate([fold.test.x[:, 0, 3] for fold in folds])
    assert len(np.unique(index)) == len(index) == 11 * 160
    for fold in folds:
        assert not set(fold.test.x[:, 0, 3]) & {*fold.train.x[:, 0, 3], *fold.validation.x[:, 0, 3]}
        assert len(set(np.bincount(fold.test.target[:, 0]))) == 1


def test_the_index_of_a_row_gives_labels_away_where_a_split_leaks(made):
    assert person_activity.row_index_accuracy("paper") > 0.9
    assert person_activity.row_index_accuracy("row", person="A") > 0.9
    assert person_activity.row_index_accuracy("strict", held_out="B") < 0.4


def test_the_nearest_row_is_found():
    labels = np.arange(10)
    assert nearest_row_accuracy(np.array([2, 5]), np.array([0, 2, 3, 5, 9]), labels) == pytest.approx(2 / 5)
    labels[[0, 3, 9]] = 2, 2, 5
    assert nearest_row_accuracy(np.array([[5, 2], [5, 5]]), np.array([0, 2, 3, 5, 9]), labels) == 1
    assert nearest_row_accuracy(np.array([4]), np.array([4, 5]), np.array([0] * 5 + [1])) == 0.5


@real
def test_the_real_recordings_leak_as_told():
    data = person_activity._recordings()
    if data.names == ("A01", "A02", "A03"):
        assert data.backwards.tolist() == [1602, 11521 + 3584]
    assert person_activity.row_index_accuracy("paper") > 0.98
    assert person_activity.row_index_accuracy("strict") < 0.2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("walking", "flying", "line 1: found 'flying' as field 8, expected one of lying down, "),
        (TAGS[0], "tag", "line 1: found 'tag' as field 2, expected one of 010"),
        ("633790226051820913", "1e9", "line 2: found '1e9' as field 3, expected a moment"),
        ("4.2919535636901855", "left", "line 2: found 'left' as field 5, expected a finite number"),
        ("4.2919535636901855,", "", "line 2: found 7 fields .*expected 8"),
    ],
)
def test_a_malformed_row_is_told_by_its_line(tmp_path, old, new, message):
    path = tmp_path / ROWS.name
    path.write_text(ROWS.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_recordings(path)


def test_a_file_that_was_cut_off_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "par").mkdir()
    (tmp_path / "par" / ROWS.name).write_text(ROWS.read_text())
    with pytest.raises(UserError, match="has 160 rows, expected 164860"):
        person_activity.person_activity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "papre"}, "no protocol 'papre': did you mean 'paper'"),
        ({"held_out": "Z"}, "held_out is 'Z', expected some of the recordings and not all: A01, A02, B01, C01"),
        ({"held_out": "A,B,C"}, "held_out is 'A,B,C'"),
        ({"held_out": "A,"}, "held_out is 'A,'"),
        ({"protocol": "row", "person": "D"}, "person 'D' has 0 rows"),
        ({"protocol": "row", "fold": 5}, "fold is 5, expected 0 to 4"),
    ],
)
def test_options_that_do_not_fit_are_told(made, options, message):
    with pytest.raises(UserError, match=message):
        person_activity.person_activity(**options)

"""Logs in every dialect, and what is written."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.udacity.recording import (
    Recorder,
    RecordingError,
    find_recordings,
    iterate_pairs,
    read_numbers,
    read_recording,
    split_in_blocks,
)

DATA = os.environ.get("LIQUID_CONTROL_DATA")


@pytest.fixture
def write(tmp_path, jpeg):
    """A recording of the lines, with images of the stamps."""

    def write(lines, stamps=("2017_02_06_10_11_12_000", "2017_02_06_10_11_12_077"), newline="\n", encoding="utf-8"):
        (tmp_path / "IMG").mkdir(exist_ok=True)
        for stamp in stamps:
            for camera in ("center", "left", "right"):
                (tmp_path / "IMG" / f"{camera}_{stamp}.jpg").write_bytes(jpeg)
        (tmp_path / "driving_log.csv").write_bytes(newline.join([*lines, ""]).encode(encoding))
        return tmp_path

    return write


def names(prefix="", stamp="2017_02_06_10_11_12_000", sign=","):
    return sign.join(f"{prefix}{camera}_{stamp}.jpg" for camera in ("center", "left", "right"))


WINDOWS = "C:\\Users\\Ann Example\\sim data\\IMG\\"


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ([names("/home/ann/data/IMG/") + ",-0.25,0.5,0,7.5E-05"], {}),
        (["center,left,right,steering,throttle,brake,speed", names("IMG/") + ",-0.25,0.5,0,7.5E-05"], {}),
        ([names(WINDOWS, sign=", ") + ", -0.25, 0.5, 0, 7.5E-05"], {"newline": "\r\n"}),
        ([names(" IMG/") + ",-0.25,0.5,0,7.5E-05"], {"encoding": "utf-8-sig"}),
        ([names() + ",-0.25,0.5,0,7.5E-05,"], {}),
        ([names() + ",-0,25,0,5,0,7,5E-05"], {}),
        ([names(WINDOWS, sign=", ") + ", -0,25, 0,5, 0, 7,5E-05"], {}),
    ],
)
def test_a_row_is_read_alike_in_every_dialect(write, lines, options):
    (row,) = read_recording(write(lines, **options)).rows
    assert (row.steering, row.throttle, row.brake, row.speed) == (-0.25, 0.5, 0, 7.5e-05)
    assert [path.name.partition("_")[0] for path in (row.center, row.left, row.right)] == ["center", "left", "right"]
    assert row.center.is_file()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ("0 0 0 24.92988", (0, 0, 0, 24.92988)),
        ("0 0 0 24 92988", (0, 0, 0, 24.92988)),
        ("-0 0858 1 0 30 19", (-0.0858, 1, 0, 30.19)),
        ("-0 0858 0 5 0 25 30 19", (-0.0858, 0.5, 0.25, 30.19)),
        ("0 1 0 30 19", (0, 1, 0, 30.19)),
        ("0 1 0 3 19", (0, 1, 0, 3.19)),
        ("1 1 0 0", (1, 1, 0, 0)),
        ("0 0 0", None),
        ("0 0 0 0 0 0 0 0 0", None),
        ("2 0 0 0", None),
        ("0.5 0 0 nan", None),
        ("a 0 0 1", None),
    ],
)
def test_numbers_are_put_together_from_their_columns(cells, expected):
    assert read_numbers(cells.split()) == expected


@given(
    st.integers(-1000, 1000),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.integers(0, 300000).filter(lambda n: n % 1000),
)
def test_numbers_with_decimal_commas_come_back(steering, throttle, brake, speed):
    numbers = [n / 1000 for n in (steering, throttle, brake, speed)]
    cells = ",".join(f"{n:.7g}".replace(".", ",") for n in numbers).split(",")
    found = read_numbers(cells)
    if len(cells) == 8:
        assert found == tuple(numbers)
    else:
        assert found is not None
        assert (
            found[3] == numbers[3]
        )  # what stands before may be read in two ways: 0,1,0 is 0.1 and 0, or 0 and 1 and 0


def test_what_cannot_be_used_is_counted_and_named(write, jpeg):
    good = "2017_02_06_10_11_12_000"
    broken, gone = "2017_02_06_10_11_12_077", "2017_02_06_10_11_12_150"
    folder = write(
        [
            names(stamp=good) + ",0.1,0,0,10",
            names(stamp=broken) + ",0.2,0,0,10",
            names(stamp=gone) + ",0.3,0,0,10",
            f"center_{good}.jpg,left_{gone}.jpg,,0.4,0,0,10",
            f"center_{good}.jpg,0.5,0,0,10",
            names(stamp=good) + ",fast,0,0,10",
            ",,,0,0,0,10",
            "",
        ],
        stamps=(good, broken),
    )
    (folder / "IMG" / f"center_{broken}.jpg").write_bytes(jpeg[:-100])
    recording = read_recording(folder)
    assert [row.steering for row in recording.rows] == [0.1, 0.4, 0.5]
    assert [(row.left is None, row.right is None) for row in recording.rows] == [
        (False, False),
        (True, True),
        (True, True),
    ]
    assert recording.left_out == {
        "broken images": [f"center_{broken}.jpg"],
        "missing images": [f"center_{gone}.jpg", f"left_{gone}.jpg"],
        "rows whose numbers cannot be read": ["line 6"],
        "rows without an image": ["line 7"],
    }
    assert f"1 broken images (such as center_{broken}.jpg)" in recording.summary()


def test_folders_that_hold_nothing_are_errors_that_say_so(tmp_path, write):
    with pytest.raises(RecordingError, match="is no folder"):
        find_recordings(tmp_path / "none")
    with pytest.raises(RecordingError, match=r"no driving_log\.csv"):
        find_recordings(tmp_path)
    folder = write([names(stamp="2017_02_06_10_11_12_999") + ",0,0,0,10"])
    assert find_recordings(folder) == [folder]
    with pytest.raises(RecordingError, match=r"no row .* can be used: 1 missing images, such as center_2017"):
        read_recording(folder)
    (folder / "driving_log.csv").write_bytes(b"\x00\xff\xfe garbage \x00\n" * 3)
    with pytest.raises(RecordingError, match=r"no row .* can be used|is not a table"):
        read_recording(folder)
    (folder / "driving_log.csv").write_bytes(b"")
    with pytest.raises(RecordingError, match="it is empty"):
        read_recording(folder)


def test_stretches_end_where_time_is_missing_or_goes_back(write):
    stamps = [f"2017_02_06_10_11_{second}" for second in ("12_000", "12_900", "14_000", "14_100", "13_000")]
    recording = read_recording(write([names(stamp=stamp) + ",0,0,0,10" for stamp in stamps], stamps))
    assert [len(stretch) for stretch in recording.stretches] == [2, 2, 1]
    pairs = list(iterate_pairs(recording.stretches[0]))
    assert [seconds for _, seconds in pairs] == pytest.approx([0.9, 0.9])


def test_validation_is_in_blocks_that_share_no_row_with_what_is_learned(write):
    stamps = [f"2017_02_06_10_{11 + n // 600:02d}_{n // 10 % 60:02d}_{n % 10}00" for n in range(1200)]
    stretches = read_recording(
        write([names(stamp=s) + f",0,0,0,{n + 0.5}" for n, s in enumerate(stamps[:250])], stamps[:250])
    ).stretches
    learned, validated = split_in_blocks(stretches, 0.2, block=25)
    rows = [row.speed for part in (learned, validated) for stretch in part for row in stretch]
    assert sorted(rows) == [n + 0.5 for n in range(250)]
    assert sum(map(len, validated)) == 50
    for stretch in [*learned, *validated]:
        speeds = [row.speed for row in stretch]
        assert np.all(np.diff(speeds) == 1)
    assert split_in_blocks(stretches, 0.2, seed=1, block=25)[1] != validated
    assert split_in_blocks(stretches, 0.0)[1] == []
    assert sum(map(len, split_in_blocks(stretches, 0.01, block=25)[1])) == 25


def test_what_is_recorded_is_read_back(tmp_path, jpeg):
    with Recorder(tmp_path / "drive") as recorder:
        recorder.write([jpeg], 0.5, 1.0, 0.0, 12.3456, time=1_700_000_000.123)
        recorder.write([jpeg] * 3, -0.123456, 0.0, 1.0, 7.5e-5, time=1_700_000_000.123)
        assert len(read_recording(tmp_path / "drive").rows) == 2  # before it is closed
    first, second = read_recording(tmp_path / "drive").rows
    assert (first.steering, first.throttle, first.speed, first.left) == (0.5, 1.0, 12.3456, None)
    assert (second.steering, second.brake, second.speed) == (-0.123456, 1.0, 7.5e-5)
    assert second.right.read_bytes() == jpeg
    assert first.time == pytest.approx(1_700_000_000.123, abs=1e-6)
    assert second.time - first.time == pytest.approx(0.001, abs=1e-6)


def test_a_recording_never_replaces_anything(tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(RecordingError, match="not empty"):
        Recorder(tmp_path)
    with pytest.raises(RecordingError, match="not empty"):
        Recorder(tmp_path / "kept")
    with pytest.raises(RecordingError, match="cannot record into"):
        Recorder(tmp_path / "kept" / "below")


@pytest.mark.skipif(DATA is None, reason="needs LIQUID_CONTROL_DATA")
def test_the_recordings_of_the_lake_are_read_whole():
    first, second = (read_recording(Path(DATA) / "udacity" / name) for name in ("lake", "lake_v1"))
    assert (len(first.rows), len(second.rows)) == (624, 160)
    assert not first.left_out
    assert not second.left_out
    for recording in (first, second):
        assert {len(stretch) for stretch in recording.stretches} <= {32, 48, 96}  # as they were cut out of the drives
        assert all(row.left and row.right and row.speed > 1 for row in recording.rows)
    assert find_recordings(Path(DATA) / "udacity") == [first.folder, second.folder]
    seconds = [elapsed for stretch in first.stretches for _, elapsed in iterate_pairs(stretch)]
    assert np.median(seconds) == pytest.approx(0.077, abs=0.01)

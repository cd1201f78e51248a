"""Logs in every dialect, and what is written."""

import contextlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.udacity.driving_log import read_numbers
from envs.udacity.recording import (
    Recorder,
    RecordingError,
    find_recordings,
    iterate_pairs,
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


STAMPS = [f"2017_02_06_10_11_12_{77 * tick:03d}" for tick in range(6)]
DRIVEN = [
    (0, 1, 0, 20),
    (-0.05, 0.5, 0, 20.37),
    (0.0858, 1, 0.25, 7.5e-05),
    (1, -0.3, 0, -1.5),
    (-1, 0, 1, 0),
    (0.5, 0.1, 0, 30),
]
IN_ORDER = ("center", "left", "right", "steering", "throttle", "brake", "speed")
OTHER_ORDER = ("steering", "throttle", "brake", "speed", "right", "center", "left")
HEADERS = {
    "none": (IN_ORDER, None),
    "in order": (IN_ORDER, IN_ORDER),
    "words": (
        IN_ORDER,
        ("Center Image", "Left Image", "Right Image", "Steering Angle", "Throttle", "Break", "Speed"),
    ),
    "index": (("", *IN_ORDER), ("", *IN_ORDER)),
    "index without a name": (("", *IN_ORDER), None),
    "other order": (OTHER_ORDER, OTHER_ORDER),
    "more columns": (
        ("lap", *IN_ORDER, "weather"),
        ("lap", "centre", "left", "right", "steering", "throttle", "reverse", "speed", "weather"),
    ),
}


def saved(header, delimiter=",", decimal=".", folder="IMG/", quoted=False, space=False):
    """The drive of DRIVEN as a table."""
    columns, titles = HEADERS[header]
    quote, sign = '"' if quoted else "", delimiter + (" " if space else "")
    lines = [delimiter.join(titles)] if titles else []
    for tick, (stamp, numbers) in enumerate(zip(STAMPS, DRIVEN, strict=True)):
        cells = {camera: f"{quote}{folder}{camera}_{stamp}.jpg{quote}" for camera in ("center", "left", "right")}
        for name, number in zip(("steering", "throttle", "brake", "speed"), numbers, strict=True):
            cells[name] = f"{quote}{str(number).replace('.', decimal)}{quote}"
        cells |= {"": str(tick), "lap": "1", "weather": "fog"}
        lines.append(sign.join(cells[column] for column in columns))
    return lines


def driven(folder):
    """The rows of a recording as numbers, once images and stretches have been looked at."""
    rows = read_recording(folder).rows
    assert [row.center.name for row in rows] == [f"center_{stamp}.jpg" for stamp in STAMPS]
    assert all((row.left.name[:5], row.right.name[:6]) == ("left_", "right_") for row in rows)
    return [(row.steering, row.throttle, row.brake, row.speed) for row in rows]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    "table",
    [
        {"delimiter": delimiter, "decimal": decimal, "quoted": quoted}
        for delimiter in ",;\t|"
        for decimal in ".,"
        for quoted in (False, True)
        if quoted or decimal != delimiter
    ],
    ids=str,
)
def test_a_table_is_read_alike_however_it_was_saved(write, header, table):
    for index, (encoding, newline) in enumerate(
        [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r"), ("utf-16-le", "\n"), ("utf-16-be", "\r\n")]
    ):
        lines = saved(header, space=index % 2 == 1, **table)
        assert driven(write(lines, STAMPS, newline, encoding)) == DRIVEN


@pytest.mark.parametrize(
    ("folder", "encoding"),
    [
        ("C:\\Users\\Smith, John\\IMG\\", "utf-8"),
        ("C:\\Users\\a,5, b\\IMG\\", "utf-8"),
        ("C:\\Users\\张三\\桌面\\IMG\\", "gbk"),
        ("C:\\Users\\Jörg; privat\\IMG\\", "latin-1"),
    ],
)
@pytest.mark.parametrize("header", ["none", "in order", "index without a name"])
def test_only_the_name_of_a_path_counts(write, folder, encoding, header):
    assert driven(write(saved(header, folder=folder), STAMPS, encoding=encoding)) == DRIVEN


@pytest.mark.parametrize("place", ["img", "IMG/IMG", "IMG", "."])
def test_images_are_found_where_copying_puts_them(write, place):
    folder = write(saved("none"), STAMPS)
    (folder / "IMG").rename(folder / "kept")
    if place == ".":
        for path in (folder / "kept").iterdir():
            path.rename(folder / path.name)
    else:
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / "kept").rename(folder / place)
    assert driven(folder) == DRIVEN


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["center,steering", "center_1.jpg,0.1"], "names no throttle and no brake and no speed"),
        (["nombre_imagen,steering,comando", "center_1.jpg,0.1,0"], "names no center"),
        (["mitte,links,rechts,lenkung,gas,bremse,tempo", "1.jpg,2.jpg,3.jpg,0.1,0,0,9.5"], "names no center"),
        (
            ["center,left,right,steering,angle,throttle,brake,speed", "1.jpg,,,0.1,0.2,0,0,9.5"],
            "1 missing images, such as 1",
        ),
        (["center,left,right,wheel angle,steer,throttle,brake,speed"], "names steering 2 times"),
        ([names() + ",0,1,0,20.5", names() + ",-1.25,1,0,21.5"], r"line 2 of .* steering is -1\.25, .* not in degrees"),
        ([names() + ",20.5,1,0,0.25"], r"line 1 of .* steering is 20\.5, expected -1 to 1"),
        ([names() + ",0.25,20.5,0,0"], r"throttle is 20\.5"),
        ([names() + ",0.25,0,100,20.5"], "brake is 100, expected 0 to 1"),
        ([names(sign=";") + ";-1,25;1;0;21,5"], r"steering is -1\.25"),
        (["steering;throttle;brake;speed;center", "25;1;0;20;IMG/center_1.jpg"], "steering is 25"),
        (["left_1.jpg,center_1.jpg,right_1.jpg,0,0,0,1.5"], r"left_1\.jpg is in the place of center"),
        (["center,left,right,steering,throttle,brake,speed", "a/center_1.jpg,right_1.jpg,,0,0,0,1.5"], "place of left"),
        (["0.1,1,0,20.5," + names()], "1 rows whose numbers cannot be read, such as line 1"),
        ([names() + ",0.1,1,0,20.5,3.5"], "1 rows whose numbers cannot be read"),
        ([names() + ",0,1,0,3,20.5"], "1 rows whose numbers cannot be read"),  # nor 0, 1, 0.3 and 20.5
        ([names() + "," + names() + ",0.1,1,0,20.5"], "1 rows with more than three images"),
        (
            ["speed,brake,throttle,steering,center", "1.5,0,0,0,center_1.jpg,9"],
            "rows with more columns than the header",
        ),
    ],
)
def test_what_may_mean_something_else_is_refused_and_its_cause_named(write, lines, reason):
    with pytest.raises(RecordingError, match=reason) as error:
        read_recording(write(lines))
    assert len(str(error.value).replace(str(error.value).partition("driving_log")[0], "")) < 300


def test_png_images_are_named(write):
    folder = write([line.replace(".jpg", ".png") for line in saved("none")])
    for stamp in STAMPS:
        (folder / "IMG" / f"center_{stamp}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(RecordingError, match="6 PNG images, expected JPEG, such as center_2017"):
        read_recording(folder)


def test_a_row_that_is_there_twice_is_read_once(write):
    recording = read_recording(write(saved("none") * 2, STAMPS))
    assert len(recording.rows) == 6 and len(recording.stretches) == 1
    assert len(recording.left_out["repeated rows"]) == 6


def test_logs_that_were_joined_may_have_a_header_in_the_middle(write):
    assert driven(write([*saved("none")[:3], saved("in order")[0], *saved("none")[3:]], STAMPS)) == DRIVEN
    assert driven(write([*saved("none")[:3], saved("other order")[0], *saved("other order")[4:]], STAMPS)) == DRIVEN


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


@contextlib.contextmanager
def files_of_at_most(size):
    """The system takes no more bytes of a file: a disk that is full in the middle of a line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_rows_before_it_whole_and_closing_is_no_error(tmp_path):
    jpeg = b"\xff\xd8\xff\xd9"
    with Recorder(tmp_path / "drive") as recorder:
        for tick in range(3):
            recorder.write([jpeg], 0.5, 1.0, 0.0, 12.25, time=1000 + tick)
        whole = (tmp_path / "drive" / "driving_log.csv").read_text()
        with files_of_at_most(len(whole) * 4 // 3 - 2), pytest.raises(OSError, match="File too large"):
            recorder.write([jpeg], 0.5, 1.0, 0.0, 12.25, time=1003)
    assert (tmp_path / "drive" / "driving_log.csv").read_text() == whole
    assert len(list((tmp_path / "drive" / "IMG").iterdir())) == recorder.rows == 3


def test_a_recording_without_rows_is_removed_and_what_was_there_stays(tmp_path):
    for folder in (tmp_path / "new", tmp_path):
        Recorder(folder).close()
    assert list(tmp_path.iterdir()) == []
    with Recorder(tmp_path / "drive") as recorder:
        (tmp_path / "drive" / "client-2").mkdir()
    recorder.close()
    assert [path.name for path in (tmp_path / "drive").iterdir()] == ["client-2"]


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

"""Recorded drives in the simulator's own layout: a ``driving_log.csv`` and its images in ``IMG/``; reading, writing.

What the log says is read by `envs.udacity.driving_log`. Of a path only the name of the file counts, as its folders are
often long gone; files that are missing or broken are left out and named.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from envs.udacity.driving_log import CAMERAS, LOG_NAME, Line, RecordingError, UnusableError, file_name, read_log
from envs.udacity.vehicle import LARGEST_GAP, NOMINAL_INTERVAL

IMAGES_NAME = "IMG"

_TIME = re.compile(r"(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d{3})")


class EmptyRecordingError(RecordingError):
    """A recording of no drive: its log says nothing."""


@dataclass(frozen=True)
class Row:
    """One moment of a drive."""

    center: Path
    left: Path | None
    right: Path | None
    steering: float
    """-1 to 1, right positive."""
    throttle: float
    brake: float
    speed: float
    """Miles an hour."""
    time: float | None
    """Seconds, as the image's name has it; from when they count is not said."""


@dataclass
class Recording:
    """A drive: stretches of rows that follow each other, and what was left out."""

    folder: Path
    stretches: list[list[Row]]
    """Between two of them time has passed that was not recorded."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Of each reason the lines or files that it is about."""

    @property
    def rows(self) -> list[Row]:
        """All of them."""
        return list(itertools.chain.from_iterable(self.stretches))

    def summary(self) -> str:
        """One line for people."""
        told = [f"{len(which)} {reason} (such as {which[0]})" for reason, which in self.left_out.items()]
        return "; ".join([f"{self.folder}: {len(self.rows)} rows in {len(self.stretches)} stretches", *told])


def find_recordings(folder: Path) -> list[Path]:
    """The folder itself, where it holds a log, and all folders below it that do.

    Raises:
        RecordingError: if there is none.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder} is no folder; expected one with {LOG_NAME} and {IMAGES_NAME}/ in it.")
    found = sorted(path.parent for path in folder.rglob(LOG_NAME))
    if not found:
        raise RecordingError(f"there is no {LOG_NAME} in {folder} or below; record a drive there, or name another.")
    return found


def read_recording(folder: Path) -> Recording:
    """Reads a drive; images are looked at, not decoded.

    Raises:
        RecordingError: if there is no log, it is none that can be read for certain, or not one row can be used; of its
            kind :class:`EmptyRecordingError`, if there is none.
    """
    path = folder / LOG_NAME
    left_out: dict[str, list[str]] = {}
    lines = read_log(path, left_out)
    try:
        images = _Images(folder)
    except OSError as error:
        raise RecordingError(f"cannot list {error.filename}: {error.strerror or error}.") from None
    rows: dict[Row, None] = {}  # in their order, each once
    for line in lines:
        try:
            row = _read_row(line, images, left_out)
        except UnusableError as error:
            left_out.setdefault(str(error), []).append(error.file)
            continue
        if row in rows:
            left_out.setdefault("repeated rows", []).append(row.center.name)
        rows[row] = None
    if not lines and not left_out:
        raise EmptyRecordingError(f"no row of {path} can be used: it is empty.")
    if not rows:
        reasons = "; ".join(f"{len(which)} {reason}, such as {which[0]}" for reason, which in left_out.items())
        raise RecordingError(f"no row of {path} can be used: {reasons}.")
    return Recording(folder, _stretches(list(rows)), left_out)


class _Images:
    """The files of a recording, by name."""

    def __init__(self, folder: Path):
        places = [*_image_folders(folder), folder]
        self.files = {path.name: path for place in places for path in place.iterdir()}

    def find(self, written: str) -> Path:
        """The file that a log means.

        Raises:
            UnusableError: if it is missing, broken or no JPEG.
        """
        name = file_name(written)
        path = self.files.get(name)
        if path is None:
            raise UnusableError("missing images", name)
        try:
            with path.open("rb") as file:
                begin = file.read(4)
                file.seek(-2, 2)
                whole = (begin[:2], file.read()) == (b"\xff\xd8", b"\xff\xd9")  # the marks around a JPEG
        except OSError:
            begin, whole = b"", False
        if begin == b"\x89PNG":
            raise UnusableError("PNG images, expected JPEG", name)
        if not whole:
            raise UnusableError("broken images", name)
        return path


def _image_folders(folder: Path) -> Iterator[Path]:
    """``IMG`` in a folder, in any case, and what copying sometimes makes: one in another."""
    for place in sorted(folder.iterdir()):
        if place.name.upper() == IMAGES_NAME and place.is_dir():
            yield from _image_folders(place)
            yield place


def _read_row(line: Line, images: _Images, left_out: dict[str, list[str]]) -> Row:
    paths: list[Path | None] = [images.find(line.images[0]), None, None]
    for place, written in enumerate(line.images[1:], 1):
        if written:
            try:
                paths[place] = images.find(written)
            except UnusableError as error:
                left_out.setdefault(str(error), []).append(error.file)
    center, left, right = paths
    assert center is not None
    return Row(center, left, right, *line.numbers, time=_time_of(center.name))


def _time_of(name: str) -> float | None:
    found = _TIME.search(name)
    if found is None:
        return None
    *date, milliseconds = map(int, found.groups())
    try:
        moment = datetime.datetime(*date, milliseconds * 1000, tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        return None
    return moment.timestamp()


def elapsed(before: Row, after: Row) -> float:
    """Seconds between two rows that follow each other; negative where the clock went back."""
    if before.time is None or after.time is None:
        return NOMINAL_INTERVAL
    return after.time - before.time


def _stretches(rows: list[Row]) -> list[list[Row]]:
    stretches = [[rows[0]]]
    for before, after in itertools.pairwise(rows):
        if not 0 < elapsed(before, after) <= LARGEST_GAP:
            stretches.append([])
        stretches[-1].append(after)
    return stretches


def split_in_blocks(
    stretches: Sequence[Sequence[Row]], share: float, seed: int = 0, block: int = 300
) -> tuple[list[list[Row]], list[list[Row]]]:
    """Stretches to learn from and to validate on.

    Rows a moment apart look alike: chosen singly, the ones to validate on would have been learned. So whole blocks of
    up to ``block`` rows are chosen, at least one of them wherever there are two.

    Args:
        stretches: to be shared out.
        share: of the rows, about what goes to validation, 0 to 1.
        seed: picks the blocks.
        block: rows of a block at most; 300 are 20 s.

    Returns:
        (to learn from, to validate on); neighbouring blocks to learn from are one stretch again.
    """
    blocks = [
        (index, stretch[begin : begin + block])
        for index, stretch in enumerate(stretches)
        for begin in range(0, len(stretch), block)
    ]
    wanted = share * sum(len(rows) for _, rows in blocks)
    validates = np.zeros(len(blocks), bool)
    held = 0
    for place in np.random.default_rng(seed).permutation(len(blocks)):
        if validates.sum() >= len(blocks) - 1 or (held > 0 and held >= wanted) or share <= 0:
            break
        validates[place] = True
        held += len(blocks[place][1])
    learned: list[list[Row]] = []
    last = None
    for place, (index, rows) in enumerate(blocks):
        if validates[place]:
            last = None
            continue
        if last == index:
            learned[-1] += rows
        else:
            learned.append(list(rows))
        last = index
    return learned, [list(rows) for place, (_, rows) in enumerate(blocks) if validates[place]]


class Recorder:
    """Writes a drive as the simulator does; as a context manager it closes the log.

    Every row is on its way to the disk before the next, so what was driven until a crash is there.

    Args:
        folder: a new one, or an empty one; nothing that was there is ever deleted.

    Raises:
        RecordingError: if there is something in it, or it cannot be made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = 0
        """Written so far."""
        try:
            self._was_there = folder.exists()
            if self._was_there and (not folder.is_dir() or any(folder.iterdir())):
                raise RecordingError(f"{folder} exists and is not empty; name a new folder to record into.")
            (folder / IMAGES_NAME).mkdir(parents=True)
            self._log = (folder / LOG_NAME).open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise RecordingError(f"cannot record into {folder}: {error.strerror or error}.") from None
        self._last = self._bytes = 0
        self._closed = False

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(
        self,
        jpegs: Sequence[bytes],
        steering: float,
        throttle: float,
        brake: float,
        speed: float,
        time: float,
    ) -> None:
        """A row and its images.

        Args:
            jpegs: of the camera in the middle and, where there are any, the left and the right one.
            steering: -1 to 1.
            throttle: 0 to 1.
            brake: 0 to 1.
            speed: miles an hour.
            time: seconds since 1970. Rows of one millisecond get different ones, as it is their name.

        Raises:
            OSError: if it cannot be written, as on a full disk. The rows before it are kept whole, and none can follow.
        """
        self._last = max(self._last + 1, round(time * 1000))
        moment = datetime.datetime.fromtimestamp(self._last // 1000, datetime.UTC)
        stamp = f"{moment:%Y_%m_%d_%H_%M_%S}_{self._last % 1000:03d}"
        names = [f"{camera}_{stamp}.jpg" for camera, _ in zip(CAMERAS, jpegs, strict=False)]
        cells = [f"{IMAGES_NAME}/{name}" for name in names] + [""] * (len(CAMERAS) - len(names))
        line = ",".join([*cells, *(f"{number:.7g}" for number in (steering, throttle, brake, speed))]) + "\n"
        try:
            for name, jpeg in zip(names, jpegs, strict=True):
                (self.folder / IMAGES_NAME / name).write_bytes(jpeg)
            self._log.write(line)
            self._log.flush()
        except OSError:
            self._take_back(names)
            raise
        self._bytes += len(line.encode())
        self.rows += 1

    def _take_back(self, names: Sequence[str]) -> None:
        """Removes what was written of a row: the number at the end of half a line could be read for another."""
        with contextlib.suppress(OSError):
            self._log.close()  # writes again what the disk did not take
        with contextlib.suppress(OSError):
            os.truncate(self.folder / LOG_NAME, self._bytes)
        for name in names:
            with contextlib.suppress(OSError):
                (self.folder / IMAGES_NAME / name).unlink()

    def close(self) -> None:
        """No more rows. A recording without any is removed, so that its folder can be named again."""
        if self._closed:
            return
        self._closed = True
        self._log.close()
        if not self.rows:
            with contextlib.suppress(OSError):  # what somebody else has put there stays
                (self.folder / LOG_NAME).unlink()
                (self.folder / IMAGES_NAME).rmdir()
                if not self._was_there:
                    self.folder.rmdir()


def iterate_pairs(stretch: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """Rows of a stretch, each with the seconds since the one before; the first with the mean of the others."""
    times = [elapsed(before, after) for before, after in itertools.pairwise(stretch)]
    first = sum(times) / len(times) if times else NOMINAL_INTERVAL
    yield from zip(stretch, [first, *times], strict=True)

"""``driving_log.csv``, the table of a recorded drive, as simulators write it and as people save it again.

A line is ``center,left,right,steering,throttle,brake,speed``: three image files, steering -1 to 1 (right positive,
1 is 25°), throttle and brake 0 to 1, miles an hour. What is known of such files:

- UTF-8, UTF-16, or paths in some old code page; line ends of any system;
- commas, semicolons, tabs or bars between columns, with a space after each or none, cells quoted or not;
- with a header or without; one that names its columns may have them in any order, and others beside them;
- a number of the line in front, commas in paths, side cameras missing;
- where a comma is the decimal sign and separates columns too, numbers fall into two columns, unless they are whole.

What may mean something else, such as steering in degrees, is an error: it is never guessed.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CAMERAS = ("center", "left", "right")
LOG_NAME = "driving_log.csv"

_LIMITS = {"steering": (-1.0, 1.0), "throttle": (-1.0, 1.0), "brake": (0.0, 1.0), "speed": (-100.0, 300.0)}
_COLUMNS = {
    "center": ("center", "centre"),
    "left": ("left",),
    "right": ("right",),
    "steering": ("steer", "angle"),
    "throttle": ("throttle",),
    "brake": ("brake", "break", "reverse"),
    "speed": ("speed", "velocity"),
}
"""The columns in their order; words that a header has in the name of each."""
_EXPECTED = ",".join(_COLUMNS)
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

Numbers = tuple[float, float, float, float]
"""Steering, throttle, brake, speed."""


class RecordingError(ValueError):
    """A folder that no drive can be read from, or written to; the message says why and what to do."""


class UnusableError(Exception):
    """Why a row cannot be used; of which file, if of one."""

    def __init__(self, reason: str, file: str = ""):
        super().__init__(reason)
        self.file = file


@dataclass(frozen=True)
class Line:
    """What one line says."""

    images: tuple[str, str, str]
    """Files of :data:`CAMERAS`, as they are written; empty where there is none."""
    numbers: Numbers


@dataclass(frozen=True)
class _Header:
    """Which column is where."""

    places: dict[str, int]
    count: int


def read_log(path: Path, left_out: dict[str, list[str]]) -> list[Line]:
    """The lines that can be used; adds to the reasons of those that cannot.

    Raises:
        RecordingError: if the file cannot be read or is no table, or its header or its numbers are not those of a log.
    """
    try:
        text = _decoded(path.read_bytes())
        table = list(csv.reader(text.splitlines(), delimiter=_delimiter(text), skipinitialspace=True))
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror or error}.") from None
    except csv.Error as error:
        raise RecordingError(f"{path} is not a table: {error}.") from None
    lines: list[Line] = []
    header, first = None, True
    for number, cells in enumerate(table, 1):
        cells = [cell.strip() for cell in cells]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        try:
            if _is_header(cells, first):
                header = _read_header(cells, path)
            else:
                lines.append(_read_line(cells, header, f"line {number} of {path}"))
        except UnusableError as error:
            left_out.setdefault(str(error), []).append(f"line {number}")
        first = False
    return lines


def _decoded(content: bytes) -> str:
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    if b"\0" in content[:2] and encoding == "utf-8":  # a letter of English and a zero: two bytes without a mark
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    return content.decode(encoding, errors="replace")


def _delimiter(text: str) -> str:
    """What follows the first image; where none is followed by anything, the first sign that separates."""
    found = re.search(r"\.(?:jpe?g|png)\"? *([,;\t|])", text, re.IGNORECASE) or re.search(r"([,;\t|])", text)
    return found[1] if found else ","


def _is_image(cell: str) -> bool:
    return cell.lower().endswith((".jpg", ".jpeg", ".png"))


def _is_header(cells: Sequence[str], first: bool) -> bool:
    """Words alone, in the first line; further down, where logs were joined, they have to name the camera too."""
    words = [cell for cell in cells if cell]
    if len(words) < 2 or any(_is_image(word) or _is_number(_pointed(word)) for word in words):
        return False
    return first or "center" in (word.lower() for word in words)


def _read_header(cells: Sequence[str], path: Path) -> _Header | None:
    """Where the columns are; None if they are in their own order, and a row may lack side cameras or have more cells.

    Raises:
        RecordingError: if a column is missing or there twice.
    """
    places: dict[str, int] = {}
    for name, words in _COLUMNS.items():
        found = [place for place, cell in enumerate(cells) if any(word in cell.lower() for word in words)]
        found = [place for place in found if cells[place].lower() == name] or found
        if len(found) > 1:
            raise RecordingError(f"the header of {path} names {name} {len(found)} times; expected {_EXPECTED}.")
        if found:
            places[name] = found[0]
    missing = [name for name in ("center", *_LIMITS) if name not in places]
    if missing:
        raise RecordingError(f"the header of {path} names no {' and no '.join(missing)}; expected {_EXPECTED}.")
    return None if list(places.values()) == list(range(len(cells))) else _Header(places, len(cells))


def _read_line(cells: list[str], header: _Header | None, where: str) -> Line:
    if header is None:
        images, numbers = _in_order(cells, where)
    else:
        if len(cells) > header.count:
            raise UnusableError("rows with more columns than the header")
        cells = cells + [""] * (header.count - len(cells))
        images = [cells[header.places[camera]] if camera in header.places else "" for camera in CAMERAS]
        numbers = _checked([_pointed(cells[header.places[name]]) for name in _LIMITS], where)
    if not images or not images[0]:
        raise UnusableError("rows without an image")
    for camera, written in zip(CAMERAS, images, strict=False):
        for other in CAMERAS:
            if other != camera and file_name(written).startswith(f"{other}_"):
                raise RecordingError(
                    f"{where}: {file_name(written)} is in the place of {camera}; expected {_EXPECTED}."
                )
    center, left, right = [*images, "", ""][:3]
    return Line((center, left, right), numbers)


def _in_order(cells: list[str], where: str) -> tuple[list[str], Numbers]:
    """Images and numbers of a line whose columns stand in their order."""
    end = max((place for place, cell in enumerate(cells, 1) if _is_image(cell)), default=0)
    # Between images there are pieces of paths with commas in them; before the first a number of the line, too.
    images = [cell for cell in cells[:end] if _is_image(cell) or not cell]
    if not images:
        raise UnusableError("rows without an image")
    if len(images) > len(CAMERAS):
        raise UnusableError("rows with more than three images")
    words = list(itertools.dropwhile(lambda cell: not cell, map(_pointed, cells[end:])))
    if len(words) == len(_LIMITS) and any("." in word for word in words):
        return images, _checked(words, where)
    numbers = read_numbers(words)
    if numbers is None:
        raise UnusableError("rows whose numbers cannot be read")
    return images, numbers


def _checked(words: Sequence[str], where: str) -> Numbers:
    """The numbers of four columns of which it is certain what each is.

    Raises:
        UnusableError: if one is none.
        RecordingError: if one is beyond its limits: smaller ones in other lines would be taken for what they are not.
    """
    if not all(map(_is_number, words)):
        raise UnusableError("rows whose numbers cannot be read")
    for (name, (low, high)), word in zip(_LIMITS.items(), words, strict=True):
        if not low <= float(word) <= high:
            raise RecordingError(
                f"{where}: {name} is {float(word):g}, expected {low:g} to {high:g}. Are the columns {_EXPECTED}, and "
                "steering in parts of 25°, not in degrees?"
            )
    steering, throttle, brake, speed = map(float, words)
    return steering, throttle, brake, speed


def read_numbers(cells: Sequence[str]) -> Numbers | None:
    """Steering, throttle, brake and speed from the last columns of a row; None where they cannot be told.

    With a decimal comma, 0,0858 is two columns and 0 is one, so four to eight columns are four numbers, of which
    often only one choice lies within all limits. A fraction never ends in 0, and among what is left the choice is
    taken in which the speed has one, as it is hardly ever whole.
    """
    cells = list(cells)
    while cells and not cells[-1]:
        cells.pop()
    if any("." in cell for cell in cells):  # where a point is the decimal sign, a comma is none
        return _within_limits(cells) if len(cells) == 4 else None
    if not 4 <= len(cells) <= 8:
        return None
    for split in itertools.product((True, False), repeat=4):  # whether speed, brake, throttle, steering has a fraction
        if sum(split) != len(cells) - 4:
            continue
        columns = iter(cells)
        words = []
        for fractional in reversed(split):
            word = next(columns)
            if fractional:
                fraction = next(columns)
                if not re.fullmatch(r"\d*[1-9](?:[eE][+-]?\d+)?", fraction):
                    break
                word += "." + fraction
            words.append(word)
        else:
            numbers = _within_limits(words)
            if numbers is not None:
                return numbers
    return None


def _within_limits(words: Iterable[str]) -> Numbers | None:
    numbers = []
    for (low, high), word in zip(_LIMITS.values(), words, strict=True):
        if not _is_number(word) or not low <= float(word) <= high:
            return None
        numbers.append(float(word))
    steering, throttle, brake, speed = numbers
    return steering, throttle, brake, speed


def _pointed(cell: str) -> str:
    """A number with a comma in its cell, as other columns are separated otherwise or it is quoted → with a point."""
    return cell.replace(",", ".") if re.fullmatch(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", cell) else cell


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", cell) is not None


def file_name(written: str) -> str:
    """The name of a file in a path of any system."""
    return re.split(r"[\\/]", written)[-1]

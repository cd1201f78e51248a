"""Tables in text files: rows of fields, and errors that name the line."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from liquid_control.support.errors import UserError
from liquid_control.support.files import read_text
from liquid_control.support.schema import shortened


class Row(NamedTuple):
    """A line of a table."""

    line: int
    """Its number in the file, from 1."""
    fields: list[str]
    """Stripped of blanks and quotation marks around them."""


def read_rows(path: Path, columns: int, separator: str | None = None, header: int = 0) -> list[Row]:
    """The rows of a table; empty lines are left out.

    Args:
        path: of a text file in UTF-8.
        columns: how many fields each row has to have.
        separator: what parts fields; blanks by default.
        header: lines at the top that are no rows.

    Raises:
        UserError: if the file cannot be read, has no rows, or a row has another number of fields; names the line.
    """
    rows = []
    for line, text in enumerate(read_text(path).splitlines()[header:], header + 1):
        if not text.strip():
            continue
        fields = [field.strip().strip('"') for field in text.split(separator)]
        if len(fields) != columns:
            raise malformed(path, line, f"{len(fields)} fields ({shortened(text)!r})", f"{columns}")
        rows.append(Row(line, fields))
    if not rows:
        raise UserError(f"{path} has no rows: get the file again.")
    return rows


def number(path: Path, row: Row, column: int) -> float:
    """A field as a finite number.

    Raises:
        UserError: if it is none; names the line.
    """
    try:
        value = float(row.fields[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise malformed(path, row.line, f"{row.fields[column]!r} as field {column + 1}", "a finite number")
    return value


def read_numbers(path: Path, columns: int, separator: str | None = None, header: int = 0) -> np.ndarray:
    """A table of finite numbers, (rows, columns) float64. Arguments and errors are those of :func:`read_rows`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # that there is no row
            table = np.loadtxt(path, delimiter=separator, skiprows=header, ndmin=2)
    except (ValueError, OSError):
        table = np.empty((0, 0))
    if len(table) and table.shape[1] == columns and np.isfinite(table).all():
        return table
    rows = read_rows(path, columns, separator, header)  # again and slowly, for it knows the lines
    return np.array([[number(path, row, column) for column in range(columns)] for row in rows])


def malformed(path: Path, line: int, found: str, expected: str) -> UserError:
    """The error for a line that is not as it should be."""
    return UserError(f"{path}, line {line}: found {found}, expected {expected}. Mend the line, or get the file again.")

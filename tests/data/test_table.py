"""Tables are read, and what is malformed is told by its line."""

import numpy as np
import pytest

from liquid_control.data.table import read_numbers, read_rows
from liquid_control.support.errors import UserError


def written(tmp_path, text):
    path = tmp_path / "table.txt"
    path.write_text(text)
    return path


def test_rows_have_their_line_and_no_quotation_marks(tmp_path):
    path = written(tmp_path, 'a, b\n"1", 2\n\n3 ,"x y"\n')
    assert [(row.line, row.fields) for row in read_rows(path, 2, ",", header=1)] == [(2, ["1", "2"]), (4, ["3", "x y"])]


def test_numbers_are_a_table(tmp_path):
    np.testing.assert_array_equal(read_numbers(written(tmp_path, "1 2.5\n\n-3 4e2\n"), 2), [[1, 2.5], [-3, 400]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3\n", r"table.txt, line 2: found 1 fields \('3'\), expected 2"),
        ("1 2\n\n3 x\n", r"table.txt, line 3: found 'x' as field 2, expected a finite number"),
        ("1 2\nnan 4\n", r"line 2: found 'nan' as field 1, expected a finite number"),
        ("1 2 3\n4 5 6\n", r"line 1: found 3 fields"),
    ],
)
def test_a_malformed_row_is_told_by_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_numbers(written(tmp_path, text), 2)


def test_an_empty_file_and_none_are_told(tmp_path):
    with pytest.raises(UserError, match="has no rows"):
        read_numbers(written(tmp_path, "\n"), 2)
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read_numbers(tmp_path / "none.txt", 2)

"""Room occupancy: windows, and splits without leaks."""

import os
from pathlib import Path

import numpy as np
import pytest

from liquid_control.data import occupancy
from liquid_control.data.download import VARIABLE
from liquid_control.support.errors import UserError

DATA = os.environ.get(VARIABLE)
real = pytest.mark.skipif(DATA is None, reason=f"needs {VARIABLE}")
ROWS = Path(__file__).parent / "rows" / "datatest.txt"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Three files; the temperature is the number of the row, the test files begin with 10,000 and 20,000."""
    (tmp_path / "occupancy").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(occupancy, "FILES", {"datatraining.txt": 900, "datatest.txt": 50, "datatest2.txt": 60})
    for index, (name, rows) in enumerate(occupancy.FILES.items()):
        lines = ['"date","Temperature","Humidity","Light","CO2","HumidityRatio","Occupancy"']
        for row in range(rows):
            date = f"2015-02-04 {row // 60:02}:{row % 60:02}:00"
            lines.append(f'"{row}","{date}",{index * 10_000 + row},{row % 7},{row % 5},{row % 3},{row % 11},{row % 2}')
        (tmp_path / "occupancy" / name).write_text("\n".join(lines))
    return tmp_path / "occupancy"


def test_official_rows_are_read():
    x, elapsed, target = occupancy.read_occupancy(ROWS)
    np.testing.assert_allclose(x[0], [23.7, 26.272, 585.2, 749.2, 0.00476416302416414])
    np.testing.assert_allclose(elapsed[:3], [1, 59 / 60, 61 / 60], rtol=1e-6)
    assert target.tolist() == [1] * 30


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_windows_are_rows_that_follow_each_other(made, protocol):
    splits = occupancy.occupancy(protocol)
    for part in splits:
        rows = part.x[..., 0] - part.x[:, :1, 0]
        np.testing.assert_allclose(rows, np.broadcast_to(np.arange(16) * rows[0, 1], rows.shape), atol=1e-4)
    assert len(splits.test.x) == len(range(0, 50 - 16, 8)) + len(range(0, 60 - 16, 8))


def test_strict_shares_no_row_with_validation(made):
    splits = occupancy.occupancy("strict")
    train, validation = (set(part.x[..., 0].ravel().round(4)) for part in splits[:2])
    assert train and validation and not train & validation
    assert abs(np.unique(splits.train.x[..., 0]).mean()) < 1e-3


def test_paper_is_the_published_split(made):
    splits = occupancy.occupancy("paper")
    assert (len(splits.train.x), len(splits.validation.x)) == (884 - 88, 88)
    assert set(splits.train.x[..., 0].ravel()) & set(splits.validation.x[..., 0].ravel())


@real
def test_the_real_files_give_windows_of_minutes():
    splits = occupancy.occupancy()
    assert len(splits.test.x) == 332 + 1217
    for part in splits:
        assert set(np.unique(part.target)) == {0, 1}
        assert part.elapsed.min() > 0.98 and part.elapsed.max() < 1.02


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("23.718,", "", "line 3: found 7 fields .*expected 8"),
        ("23.718", "warm", "line 3: found 'warm' as field 3, expected a finite number"),
        ("2015-02-02 14:19:59", "yesterday", "line 3: found 'yesterday', expected a date"),
        ("2015-02-02 14:19:59", "2014-02-02 14:19:59", "line 3: found the date 2014-.*expected none before"),
        ("0.00477266099212519,1", "0.00477266099212519,2", "line 3: found '2' as field 8, expected 0 or 1"),
    ],
)
def test_a_malformed_row_is_told_by_its_line(tmp_path, old, new, message):
    path = tmp_path / ROWS.name
    path.write_text(ROWS.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        occupancy.read_occupancy(path)


def test_a_file_that_was_cut_off_and_another_protocol_are_told(made):
    with pytest.raises(UserError, match="no protocol 'exact'"):
        occupancy.occupancy("exact")
    (made / ROWS.name).write_text(ROWS.read_text())
    with pytest.raises(UserError, match="has 30 rows, expected 50"):
        occupancy.occupancy()


def test_a_sensor_that_never_changes_is_told(made):
    path = made / "datatraining.txt"
    lines = path.read_text().splitlines()
    dark = [",".join([*(fields := line.split(","))[:4], "0", *fields[5:]]) for line in lines[1:]]
    path.write_text("\n".join([lines[0], *dark]))
    with pytest.raises(UserError, match="light never changes"):
        occupancy.occupancy()

"""A folder that one process works in is there for as long as something is in it."""

import pytest

from liquid_control.support.errors import UserError
from liquid_control.support.lock import held


def work(folder, name):
    with held(folder, "busy"):
        if name:
            (folder / name).write_text("x")
        raise UserError("no")


def refuse(folder, name=""):
    with pytest.raises(UserError, match="no"):
        work(folder, name)


def test_what_was_made_for_nothing_is_gone_again(tmp_path):
    refuse(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_stays(tmp_path):
    refuse(tmp_path / "a", "rows")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".lock", "rows"]


def test_a_folder_that_was_there_stays(tmp_path):
    refuse(tmp_path)
    assert tmp_path.exists()
    (tmp_path / "a").mkdir()
    refuse(tmp_path / "a")
    assert (tmp_path / "a").exists()


def test_a_folder_of_another_process_is_left_alone(tmp_path):
    with held(tmp_path / "a", "busy"), pytest.raises(UserError, match="busy"), held(tmp_path / "a", "busy"):
        pass
    assert (tmp_path / "a" / ".lock").exists()

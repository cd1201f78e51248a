"""Numbers that benchmarks take have a range, and few steps are enough of them for a table."""

import io
import os
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import cells

SCRIPTS = sorted(Path(cells.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_number_of_a_benchmark_has_its_range(script):
    assert not re.findall(r"type=(?:int|float)\b", script.read_text())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_tells_its_errors_as_a_command_does(script):
    assert script.read_text().endswith('\nif __name__ == "__main__":\n    command.run(lambda _: main())\n')


def test_garbage_in_the_place_of_data_is_a_line(tmp_path, python):
    (tmp_path / "cmapss").mkdir()
    for kind in ("train", "test", "RUL"):
        (tmp_path / "cmapss" / f"{kind}_FD001.txt").write_text("1 2 drei\n")
    script = Path(cells.__file__).with_name("sequence_speed.py")
    environment = os.environ | {"LIQUID_CONTROL_DATA": str(tmp_path), "PYTHONPATH": str(script.parent.parent)}
    command = [python, script, "--task", "rul"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*FD001\.txt.*\n", done.stderr)


@pytest.mark.parametrize("steps", [1, 2, 100, 101])
def test_a_table_of_steps_needs_no_more_than_one(steps):
    told = io.StringIO()
    cells.print_steps(Console(file=told, width=140), [cells.build_cells()[0]], steps)
    assert len(re.findall(r"\d+\.\d\d", told.getvalue())) == 6


@pytest.mark.parametrize("option", ["--steps", "--rounds"])
@pytest.mark.parametrize("given", ["0", "-3", "many", "1e30"])
def test_a_number_outside_its_range_is_a_line(monkeypatch, capsys, option, given):
    monkeypatch.setattr("sys.argv", ["cells.py", option, given])
    with pytest.raises(SystemExit) as end:
        cells.main()
    assert end.value.code == 2
    assert re.search(rf"argument {option}: (must be at least 1|invalid int value)", capsys.readouterr().err)

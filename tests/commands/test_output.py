"""What commands print: neither a reader that leaves nor an encoding ends them, and no text reaches a terminal raw."""

import os
import subprocess
import sys

import pytest

from liquid_control.support.console import Console, plain

COMMANDS = {
    "evaluate": ("--env liquid_control/FastCarRacing-v3 --episodes 1 --workers 1 --output", "scores.json"),
    "diagram": ("--output", "wiring.png"),
    "watch": ("--max-steps 4 --video", "lap.mp4"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("reader", ["that knows only ASCII", "that leaves at once"])
def test_a_command_ends_well_whoever_reads(name, reader, checkpoint, tmp_path, python):
    options, file = COMMANDS[name]
    program = sys.executable if name == "diagram" else python  # the shortest one by the real one, with its own end
    command = [program, "-m", f"liquid_control.{name}", str(checkpoint), *options.split(), str(tmp_path / file)]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    if reader == "that leaves at once":
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        process.wait(120)
    else:
        output, errors = process.communicate(timeout=120)
        assert output
    assert (process.returncode, errors) == (0, b"")
    assert (tmp_path / file).stat().st_size > 100


def test_text_is_neither_markup_nor_terminal_codes(capsys):
    Console().print("[red]runs/[bold]\x1b[31mname\x07\n" + "x" * 300)
    assert capsys.readouterr().out == "[red]runs/[bold]\\x1b[31mname\\x07\n" + "x" * 300 + "\n"
    assert plain("µ ± 1 \x9b \ud800") == "µ ± 1 \\x9b \\ud800"

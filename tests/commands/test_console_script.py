"""``liquid-control COMMAND``: one door to the commands, which behave as their modules do."""

import pkgutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from liquid_control.__main__ import COMMANDS, main
from liquid_control.support.command import Terminated
from liquid_control.support.errors import UserError

ROOT = Path(__file__).parents[2]


def call(monkeypatch, *arguments):
    """The exit status of ``liquid-control`` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["liquid-control", *arguments])
    try:
        main()
    except SystemExit as error:
        return error.code
    return 0


def replace_command(monkeypatch, function):
    monkeypatch.setitem(sys.modules, "liquid_control.train", SimpleNamespace(main=function))


def test_it_is_installed_as_a_script():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert pkgutil.resolve_name(scripts["liquid-control"]) is main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module(name):
    assert find_spec(f"liquid_control.{name}") is not None


def test_a_command_gets_the_arguments_behind_its_name(monkeypatch):
    given = []
    replace_command(monkeypatch, given.append)
    assert call(monkeypatch, "train", "--rounds", "3") == 0
    assert given == [["--rounds", "3"]]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("no such road."), 2, "error: no such road.\n"),
        (KeyboardInterrupt(), 130, "stopped.\n"),
        (Terminated(), 143, "stopped.\n"),
    ],
    ids=["error", "Ctrl-C", "SIGTERM"],
)
def test_a_command_ends_as_its_module_does(monkeypatch, capsys, error, status, message):
    def fail(_):
        raise error

    replace_command(monkeypatch, fail)
    assert call(monkeypatch, "train") == status
    assert capsys.readouterr().err == message


def test_an_unknown_command_is_answered_with_the_nearest(monkeypatch, capsys):
    assert call(monkeypatch, "evalute") == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'evalute': did you mean 'evaluate'?")


@pytest.mark.parametrize("flag", [(), ("--help",)], ids=["nothing", "--help"])
def test_without_a_command_all_are_listed(monkeypatch, capsys, flag):
    assert call(monkeypatch, *flag) == 0
    listing = capsys.readouterr().out
    assert [name for name in COMMANDS if f"liquid_control.{name} " not in listing] == []


def test_only_the_command_that_is_asked_for_is_imported():
    code = (
        "import sys; from liquid_control.__main__ import main\n"
        "try: main()\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    asked = [sys.executable, "-c", code, "diagram", "--help"]
    process = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0
    assert "CHECKPOINT" in process.stdout
    loaded = process.stderr.split()
    assert [name for name in COMMANDS if f"liquid_control.{name}" in loaded] == ["diagram"]

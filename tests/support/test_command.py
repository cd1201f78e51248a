"""The command line and the YAML file are one parser; what is wrong is said in one line."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from liquid_control.support.command import parse, run, write_yaml
from liquid_control.support.errors import UserError


@dataclass(frozen=True)
class Job:
    """A job."""

    rounds: int = 3
    """How many."""
    learning_rate: float = 1e-3
    """How fast."""
    options: tuple[str, ...] = ()
    """Words."""
    video: bool = True
    """Whether to."""
    run: Path | None = None
    """Where."""
    shuffle: bool = False
    """In another order."""


def test_yaml_says_what_the_command_line_says(tmp_path):
    job = Job(7, 0.5, ("mode=pure", "units=3"), False, Path("runs/a"))
    (tmp_path / "job.yaml").write_text(write_yaml(job))
    assert parse(Job, ["--config", str(tmp_path / "job.yaml")], "job") == job
    assert parse(Job, [f"--config={tmp_path / 'job.yaml'}"], "job") == job


def test_defaults_survive_yaml(tmp_path):
    (tmp_path / "job.yaml").write_text(write_yaml(Job()))
    assert parse(Job, ["--config", str(tmp_path / "job.yaml")], "job") == Job()


def test_a_positional_field_can_stand_in_the_file(tmp_path):
    @dataclass
    class Judge:
        """Judges."""

        checkpoint: Path
        """What."""
        episodes: int = 100
        """How long."""

    (tmp_path / "job.yaml").write_text("episodes: 3\ncheckpoint: a/b\n")
    assert parse(Judge, ["--config", str(tmp_path / "job.yaml")], "judge") == Judge(Path("a/b"), 3)


def test_an_argument_wins_over_the_file(tmp_path):
    (tmp_path / "job.yaml").write_text("rounds: 7\nlearning-rate: 0.5\n")
    assert parse(Job, ["--rounds", "9", "--config", str(tmp_path / "job.yaml")], "job") == Job(9, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roundz: 7\n", "unknown key 'roundz': did you mean 'rounds'"),
        ("movable: [seed]\n", "unknown key 'movable'"),
        ("- 1\n", "must be a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        parse(Job, ["--config", str(tmp_path / "job.yaml")], "job")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read the config"):
        parse(Job, ["--config", str(tmp_path / "none.yaml")], "job")
    with pytest.raises(UserError, match="needs a YAML file"):
        parse(Job, ["--config"], "job")


def test_an_unknown_option_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(Job, ["--roundz", "9"], "job")
    assert stop.value.code == 2
    assert "--rounds" in capsys.readouterr().err


def test_a_user_error_is_one_line_and_status_two(capsys):
    def main(_):
        raise UserError("no such road.")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such road.\n"


@pytest.mark.parametrize(
    ("number", "advised"),
    [
        (errno.ENOSPC, "Free some space, then start again."),
        (errno.EACCES, "Look at its permissions, then start again."),
        (errno.EROFS, "Choose a folder on a disk that can be written, then start again."),
        (errno.EEXIST, "Choose another name, for something has this one, then start again."),
        (errno.ENOTDIR, "Choose another folder, for a file is in the way of this one, then start again."),
        (errno.EIO, ""),
    ],
)
def test_what_the_system_refuses_is_one_line_with_what_to_do(number, advised, capsys):
    def main(_):
        raise OSError(number, os.strerror(number), "runs/a")

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {os.strerror(number)}: runs/a. {advised}".rstrip() + "\n"


def test_the_list_of_commands():
    listing = subprocess.run([sys.executable, "-m", "liquid_control"], capture_output=True, text=True, check=True)
    assert all(name in listing.stdout for name in ("train", "evaluate", "watch", "record", "card"))
    wrong = subprocess.run([sys.executable, "-m", "liquid_control", "trian"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "did you mean 'train'" in wrong.stderr


def test_a_bare_flag_is_true():
    assert parse(Job, ["--shuffle"], "job").shuffle is True
    assert parse(Job, ["--shuffle", "False"], "job").shuffle is False
    assert parse(Job, [], "job").shuffle is False


def test_a_bare_flag_may_stand_in_front_of_an_argument_without_a_name(capsys):
    @dataclass
    class Judge:
        """Judges."""

        checkpoint: Path
        """What."""
        all_of_it: bool = False
        """Whether to."""

    for words in (
        ["--all-of-it", "a/b"],
        ["--all_of_it", "a/b"],
        ["a/b", "--all-of-it"],
        ["--all-of-it", "True", "a/b"],
    ):
        assert parse(Judge, words, "judge") == Judge(Path("a/b"), True)
    with pytest.raises(SystemExit):
        parse(Judge, ["a/b", "--all-of-it", "no"], "judge")
    assert "invalid choice 'no'" in capsys.readouterr().err


BILLION = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 12))]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounds: 2026-99-99\n", "is not YAML"),
        ("rounds: 2026-09-09\n", "rounds in the config .* is wrong: .* valid integer"),
        ("rounds: !!int abc\n", "is not YAML"),
        ("rounds: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        ("rounds: " + "[" * 3000 + "]" * 3000 + "\n", "nested too deep"),
        ("rounds: " + "{a: " * 100 + "1" + "}" * 100 + "\n", "rounds in the config .* is wrong"),
        (BILLION, "it has an alias"),
        ("rounds: seven\n", "rounds in the config .* is wrong: .*, not 'seven'"),
        ("rounds: null\n", "rounds in the config .* is wrong"),
        ("rounds: 1.5\n", "rounds in the config .* is wrong"),
        ("video: 17\n", "video in the config .* is wrong"),
        ("options: [[a]]\n", "options in the config .* is wrong at 0"),
        ("run: [a, b]\n", "run in the config .* is wrong"),
        ("[a, b]: 1\n", "is not YAML"),
        ("? {a: b}\n: 1\n", "is not YAML"),
        ("a: 1\n" * 300_000, "more than 1,048,576 bytes"),
        ("rounds: " + "9" * 5000 + "\n", "."),
        ("\x00", "is not YAML"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_no_file_ends_in_anything_but_one_short_error(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        parse(Job, ["--config", str(tmp_path / "job.yaml")], "job")
    assert len(str(refused.value).replace(str(tmp_path), "")) <= 300


def test_a_value_of_a_file_is_never_an_option(tmp_path):
    (tmp_path / "job.yaml").write_text("options: [--help, --rounds, '9']\nlearning_rate: 1e-4\n")
    assert parse(Job, ["--config", str(tmp_path / "job.yaml")], "job") == Job(3, 1e-4, ("--help", "--rounds", "9"))


SWALLOWS = """
import ctypes, os, signal, sys, threading, time
from liquid_control.support.command import run

def main(_):
    @ctypes.CFUNCTYPE(None)
    def called_by_c():
        print("inside", flush=True)
        time.sleep(60)

    called_by_c()
    print("ended nothing", flush=True)
    time.sleep(60)

run(main)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_c_code_swallows_comes_again(number, status):
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "inside\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (status, "ended nothing\n", "stopped.\n")

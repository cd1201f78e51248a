"""The command line and the YAML file are one parser; what is wrong is said in one line."""

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

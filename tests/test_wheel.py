"""The wheel holds the four packages and what they read, nothing else, and works where only it is."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("liquid_control", "envs", "agents", "policies")
DATA = {
    "liquid_control/py.typed",
    "liquid_control/report/audit_page.html",
    "liquid_control/report/live_view.html",
    "liquid_control/report/shift_report.html",
}
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
USE = """
import importlib, pkgutil, sys
from pathlib import Path
unpacked, checkpoints = map(Path, sys.argv[1:])
from liquid_control.__main__ import COMMANDS
modules = [importlib.import_module(name) for name in ("liquid_control", "envs", "agents", "policies")]
modules += [importlib.import_module(f"liquid_control.{name}") for name in COMMANDS]
for module in modules[1:4]:
    found = pkgutil.walk_packages(module.__path__, f"{module.__name__}.")
    modules += [importlib.import_module(each.name) for each in found]
assert all(Path(module.__file__).is_relative_to(unpacked) for module in modules), modules
from liquid_control.models.language_model import load_language_model
from policies.driver import load_driver
for config in checkpoints.glob("*/*/config.json"):
    folder = config.parent
    model = load_language_model(folder)[0] if folder.parent.name == "LanguageModel" else load_driver(folder)
    print(model.describe())
from liquid_control.report.live_view import PAGE
print(PAGE.read_text()[:15])
"""


def left_behind(folder, names):
    """What a checkout does not have but a working tree may."""
    return [name for name in names if name == "__pycache__" or name.endswith(".egg-info")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as setuptools writes beside what it builds; with this environment's setuptools, offline."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel")
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*PACKAGES, "tests", "docs", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=left_behind)
    done = subprocess.run([sys.executable, "-c", BUILD, str(built)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in held if ".dist-info/" in name}
    source = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert held - about == {path.as_posix() for path in source} | DATA
    assert {name.partition("/")[2] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_no_other_data_file_lies_among_the_packages():
    """One that is read at run time has to be named in pyproject.toml, and above."""
    found = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    others = {path.as_posix() for path in found if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert others == DATA


def test_what_is_unpacked_from_the_wheel_works_alone(wheel, tmp_path):
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    environment = os.environ | {"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = run("-c", USE, str(unpacked), str(ROOT / "checkpoints"))
    assert told.count("parameters") >= len(list((ROOT / "checkpoints").glob("*/*/config.json")))
    assert told.rstrip().endswith("<!doctype html>")
    assert "train" in run("-m", "liquid_control", "--help")
    assert "liquid-control = liquid_control.__main__:main" in next(unpacked.glob("*/entry_points.txt")).read_text()

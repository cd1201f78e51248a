"""What is named in pyproject.toml has a lower bound that `.ci/lowest` installs, and constraints.txt keeps to it."""

import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [Requirement(line) for extra in PROJECT["optional-dependencies"].values() for line in extra]
CHOSEN = {
    canonicalize_name(name): version
    for name, _, version in (
        line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
}


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda requirement: requirement.name)
def test_what_is_needed_has_one_lower_bound_and_no_upper(requirement):
    assert [each.operator for each in requirement.specifier] == [">="]


@pytest.mark.parametrize("requirement", NEEDED + EXTRAS, ids=str)
def test_the_versions_known_to_work_together_are_within_the_bounds(requirement):
    version = CHOSEN.get(canonicalize_name(requirement.name))
    assert version is None or requirement.specifier.contains(version)


def test_continuous_integration_drives_with_the_lowest_versions():
    assert "\n.ci/lowest\n" in (ROOT / ".ci/run").read_text()
    assert subprocess.run(["bash", "-n", ROOT / ".ci/lowest"], check=False).returncode == 0
    assert (ROOT / ".ci/lowest").stat().st_mode & 0o111

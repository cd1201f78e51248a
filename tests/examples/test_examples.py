"""Every example runs, and what it prints says what its page claims."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the example of a name from the repository's folder, as a reader does, and gives what it printed."""

    def run(name: str, *words: str) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def number(pattern: str, printed: str) -> float:
    """The number that stands behind the first match of a pattern."""
    match = re.search(rf"{pattern}\s*([-+]?\d+(?:\.\d+)?)", printed)
    assert match, f"{pattern!r} is not in:\n{printed}"
    return float(match[1])


def test_the_policy_learns_an_environment_of_ones_own(run):
    printed = run("own_environment.py")
    means = [float(mean) for mean in re.findall(r"steps:\s+(\d+\.\d)", printed)]
    assert means[-1] > means[0] + 30


def test_the_wired_cfc_foretells_an_irregular_wave(run):
    printed = run("irregular_time_series.py")
    learned, constant = number("CfC, 19 neurons: error", printed), number("a constant, the mean: error", printed)
    assert learned < constant / 4
    assert learned < number("mean one: error", printed)


def test_a_driver_shows_its_nineteen_neurons(run):
    printed = run("inside_a_driver.py")
    assert len(re.findall(r"^  (?:inter|command|motor) +\d+ ", printed, re.MULTILINE)) == 19
    assert "@" in printed.splitlines()[-3] + printed.splitlines()[-2] + printed.splitlines()[-1]


def test_the_closed_form_cleans_the_wave_nearly_as_well(run):
    printed = run("ltc_to_closed_form.py")
    noise = number("the noise itself: error", printed)
    solved, closed = number("solver steps a step: error", printed), number("2 sweeps: error", printed)
    assert solved < noise * 0.7
    assert closed < noise * 0.8


def test_the_plastic_layer_knows_by_its_synapses_alone(run):
    printed = run("plastic_adaptation.py")
    assert number("that it has learned:", printed) > 90
    assert 30 < number("of another sequence:", printed) < 70
    assert 30 < number("with none:", printed) < 70


def test_the_driver_keeps_the_road_over_the_bridge(run):
    printed = run("udacity_over_the_bridge.py")
    assert number("left the road", printed) == 0
    assert number("answers,", printed) > 15


def test_the_transformer_with_a_liquid_core_foretells_curves_and_streams(run, tmp_path):
    printed = run("transformer_lnn_example.py", "--steps", "80", "--pictures", str(tmp_path))
    learned = number("with a liquid core: error", printed)
    assert learned < 0.8 * number("the last point again: error", printed)
    assert learned < number("the mean one: error", printed)
    assert float(re.search(r"differ by at most (\S+)", printed)[1]) < 1e-4
    pictures = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(pictures) == {"learning.png", "foretold.png", "drawn_on.png"}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_the_table_names_every_example():
    table = (EXAMPLES / "README.md").read_text()
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(re.findall(r"^\| \[(\w+\.py)\]", table, re.MULTILINE))

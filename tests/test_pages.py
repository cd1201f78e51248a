"""What pages and messages name is there, and the tables and figures of pages are those of the committed files."""

import re
from pathlib import Path

import pytest

from benchmarks import figures, tables

ROOT = Path(__file__).parent.parent
FOLDERS = ("agents", "benchmarks", "checkpoints", "configs", "docs", "envs", "examples", "liquid_control", "policies")
FILES = [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]
PAGES = sorted(str(path.relative_to(ROOT)) for path in FILES if path.suffix == ".md")
SOURCES = sorted(str(path.relative_to(ROOT)) for path in FILES if path.suffix in (".py", ".yaml"))
NAMED = re.compile(r"\b(?:configs|checkpoints|benchmarks)/[\w./-]*\w")
PLACEHOLDER = re.compile(r"[A-Z]{2,}_")


@pytest.mark.parametrize("name", [*PAGES, *SOURCES])
def test_every_config_checkpoint_and_benchmark_that_is_named_is_there(name):
    named = {path for path in NAMED.findall((ROOT / name).read_text()) if not PLACEHOLDER.search(path)}
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_file_leads_to_it(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_table_is_split_by_a_blank_line(name):
    # A table begins with a header and a line of dashes; a row without them is of the table above.
    rows = re.findall(r"^\|.*\n\n(\|.*)\n(?!\|[ :|-]+\|$)", (ROOT / name).read_text(), re.MULTILINE)
    assert rows == []


@pytest.mark.parametrize("name", [name for name in PAGES if tables.BLOCK.search((ROOT / name).read_text())])
def test_tables_say_what_the_checkpoints_say(name):
    text = (ROOT / name).read_text()
    assert ROOT / name in tables.pages()
    assert tables.rewrite(text) == text, "write them anew: python benchmarks/tables.py --write"


def test_a_table_that_differs_is_seen():
    text = (ROOT / "README.md").read_text()
    changed = tables.BLOCK.sub(lambda block: block[0].replace("932.0", "933.0"), text)
    assert changed != text
    assert tables.rewrite(changed) == text


@pytest.mark.parametrize("name", figures.figures())
def test_figures_show_what_the_files_say(name):
    drawn = figures.figures()[name]
    assert (figures.RESULTS / name).read_text() == drawn, "draw them anew: python benchmarks/figures.py"


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/results/")])
def test_a_page_of_results_has_the_common_skeleton(name):
    headings = re.findall(r"^## (.+)$", (ROOT / name).read_text(), re.MULTILINE)
    assert headings == ["Question", "Command", "Table", "Figure", "What mattered", "What failed"]


def test_the_row_of_the_shipped_driver_among_the_runs_is_its_evaluation():
    (row,) = re.findall(r"^\| .*`cfc-ppo` \|.*$", (ROOT / "docs/results/ppo_car_racing.md").read_text(), re.MULTILINE)
    _, summary = tables.read("CarRacing-v3", "cfc-ppo")
    assert row.endswith(f"| **{tables.score(summary)}** | {summary['minimum']:.1f} | {summary['laps']} |")


def test_the_first_page_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    assert len(tables.front().splitlines()) == 2 + 5


def test_the_program_of_the_first_page_drives_a_lap(monkeypatch):
    monkeypatch.chdir(ROOT)
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(program, names)
    assert names["terminated"]
    assert names["score"] > 900

"""What pages and messages name is there."""

import re
from pathlib import Path

import pytest

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

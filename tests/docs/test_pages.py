"""Every snippet of the pages that teach is run, one page after another from top to bottom, in a folder of its own.

A page's `bash` blocks are commands of a shell in that folder, its `python` blocks share their names. A block that
cannot run here, since it needs a simulator or a cluster, stands behind a comment `<!-- skip: next -->`, and the page
says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "docs/getting_started.md", *(ROOT / "docs").glob("how_to/*.md"), *(ROOT / "docs").glob("concepts/*.md")]
)
LINKED = (
    ".venv", "Makefile", "README.md", "benchmarks", "configs", "constraints.txt", "docs", "drive.py", "examples",
    "pyproject.toml",
)  # fmt: skip


def run_commands(example: Example) -> None:
    """Runs a block of shell commands, with this Python first in the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", example.parsed],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "SDL_VIDEODRIVER": "dummy", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{example.path}, line {example.line}: exit status {done.returncode}\n{done.stdout}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The repository as a reader has it, to write into: checkpoints are copied, the rest is linked."""
    shutil.copytree(ROOT / "checkpoints", tmp_path / "checkpoints", ignore=shutil.ignore_patterns("*.gif", "*.png"))
    for name in LINKED:
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(600)  # a reader has more patience than a test, and this machine may be busy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_the_snippets_of_a_page_run(page, folder):
    sybil = Sybil([PythonCodeBlockParser(), CodeBlockParser("bash", evaluator=run_commands), SkipParser()])
    for example in sybil.parse(page).examples():
        example.evaluate()

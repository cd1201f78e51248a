"""Every snippet of the pages that teach is run, one page after another from top to bottom, in a folder of its own.

A page's `bash` blocks are commands of a shell in that folder, its `python` blocks share their names. A block that
begins with a comment like `# hover.py` is a file that the reader shall write. A block that cannot run here, since it
needs a cluster, stands behind a comment `<!-- skip: next -->`, and the page says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "docs/getting_started.md",
        ROOT / "docs/contributing.md",
        *(ROOT / "docs").glob("how_to/*.md"),
        *(ROOT / "docs").glob("concepts/*.md"),
    ]
)
LINKED = (
    ".venv", "Makefile", "README.md", "benchmarks", "configs", "constraints.txt", "docs", "drive.py", "examples",
    "pyproject.toml",
)  # fmt: skip


FILE = re.compile(r"# (\w+\.(?:py|yaml))\n")


class PythonBlocks(PythonCodeBlockParser):
    """Python to be run, as a program or as interactive examples, or to be written to a file."""

    def __init__(self) -> None:
        super().__init__()
        self.codeblock_parser = CodeBlockParser("python", run_python)


def run_python(example: Example) -> None:
    """Runs a block, unless it is a file."""
    if not write_file(example):
        PythonEvaluator()(example)


def write_file(example: Example) -> bool:
    """Writes a block that names its file, and says whether it did."""
    name = FILE.match(example.parsed)
    if name:
        Path(name[1]).write_text(example.parsed)
    return name is not None


def write_config(example: Example) -> None:
    """A block of YAML is a file."""
    assert write_file(example), f"{example.path}, line {example.line}: the block does not begin with a file's name"


def run_commands(example: Example, python: str) -> None:
    """Runs a block of shell commands; `python` is first in the path, then what is installed beside the real one."""
    path = os.pathsep.join([str(Path(python).parent), str(Path(sys.executable).parent), os.environ["PATH"]])
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
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.timeout(600)  # a reader has more patience than a test, and this machine may be busy
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_the_snippets_of_a_page_run(page, folder, python):
    parsers = [
        PythonBlocks(),
        CodeBlockParser("bash", partial(run_commands, python=python)),
        CodeBlockParser("yaml", write_config),
        SkipParser(),
    ]
    for example in Sybil(parsers).parse(page).examples():
        example.evaluate()

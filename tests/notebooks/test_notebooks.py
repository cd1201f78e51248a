"""Every notebook runs from top to bottom with tiny settings, and is committed without what it printed."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from liquid_control.models.language_model import LanguageModel, LanguageModelConfig

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code_cells(path):
    """The code cells of a notebook, each with its tags."""
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the code cells of a notebook in order, in one namespace, with other parameters; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, **parameters):
        path = next(path for path in NOTEBOOKS if path.stem == name)
        names: dict = {"__name__": "__main__"}
        for source, tags in code_cells(path):
            exec(compile(source, path.name, "exec"), names)
            if "parameters" in tags:
                assert parameters.keys() <= names.keys()
                names |= parameters
        return capsys.readouterr().out

    return run


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(vocabulary=257, width=16, blocks=1))
    model.save(tmp_path / "model", {"tokenizer": {"name": "bytes"}})
    return str(tmp_path / "model")


def test_the_quickstart_speaks_and_keeps_a_state_of_one_size(run, checkpoint):
    printed = run("01_quickstart", CHECKPOINT=checkpoint, TOKENS=8, PROMPT="Once")
    sizes = re.findall(r"([\d,]+) tokens read: ([\d,]+) bytes", printed)
    assert [count for count, _ in sizes] == ["4", "200"] and sizes[0][1] == sizes[1][1]
    assert "Once" in printed and Path("runs/read.safetensors").exists()


def test_the_demo_takes_the_state_apart(run, checkpoint):
    printed = run("02_plasticity", CHECKPOINT=checkpoint, FACTS=2, GAPS=[0, 10], EPISODES=2)
    margins = {
        name.strip(): float(by) for name, by in re.findall(r"^(.+) sleepy is likelier.*by (\S+) nats", printed, re.M)
    }
    assert set(margins) == {"all kept", "synapses alone", "all but synapses", "nothing kept"}
    assert "another's synapses" in printed and "0.50" in printed


def test_the_training_learns_and_speaks(run, tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    options = "--tokenizer bytes --steps 4 --validate-every 2 --batch 2 --time 16 --width 8 --blocks 1 --device cpu"
    printed = run("03_training", TEXT="text.txt", RUN="runs/notebook", OPTIONS=options.split(), TOKENS=5)
    assert re.search(r"^\d steps, .* bits a byte$", printed, re.M) and "A driver" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean_and_ready_for_a_hosted_one(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    (install, _), (_, tags), *_ = code_cells(path)
    assert "pip" in install and tags == ["parameters"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for source, _ in code_cells(path):
        ast.parse(source)  # no magic of a notebook, so that the tests run all of it

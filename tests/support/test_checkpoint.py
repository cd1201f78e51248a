"""A checkpoint is whole at every moment, and a damaged one is refused with one clear sentence."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from liquid_control.support.checkpoint import load_checkpoint, load_module, save_checkpoint
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "driver", TENSORS, {"kind": "driver", "neurons": 19}, card="# A driver\n")
    return tmp_path / "driver"


def weights_of(folder):
    return next(folder.glob("weights-*.safetensors"))


def test_round_trip_keeps_tensors_config_and_card(folder):
    tensors, config = load_checkpoint(folder)
    assert config == {"kind": "driver", "neurons": 19}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert (folder / "README.md").read_text() == "# A driver\n"


def test_a_config_has_a_synapse_a_line_and_comes_back_as_it_was(tmp_path):
    config = {"synapses": [[0, 1, -1], [1, 0, 1]], "taus": [0.5, 1e-05, None], "empty": [], "odd": ["[\n 1,\n 2 ]", 2]}
    save_checkpoint(tmp_path, TENSORS, config)
    assert "    [0, 1, -1],\n    [1, 0, 1]\n" in (tmp_path / "config.json").read_text()
    assert load_checkpoint(tmp_path)[1] == config


def test_saving_again_leaves_one_weights_file_and_the_card(folder):
    save_checkpoint(folder, {"weight": torch.ones(1)}, {"kind": "driver"})
    assert len(list(folder.glob("weights-*"))) == 1
    assert torch.equal(load_checkpoint(folder)[0]["weight"], torch.ones(1))
    assert (folder / "README.md").exists()


def test_a_full_disk_leaves_the_old_checkpoint_whole(folder, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint(folder, {"weight": torch.ones(1)}, {"kind": "driver"})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(folder)[0]["weight"], TENSORS["weight"])
    assert not list(folder.glob(".*tmp"))


def test_a_kill_between_weights_and_config_leaves_the_old_checkpoint_whole(folder, monkeypatch):
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("config.json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, {"weight": torch.ones(1)}, {"kind": "driver"})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(folder)[0]["weight"], TENSORS["weight"])


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        write_atomically(tmp_path / "file" / "config.json", "{}")


def truncate(folder):
    path = weights_of(folder)
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_byte(folder):
    content = bytearray(weights_of(folder).read_bytes())
    content[-1] ^= 1
    weights_of(folder).write_bytes(content)


def garbage_config(folder):
    (folder / "config.json").write_bytes(b"\x00\xff{{{")


def other_version(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format_version": 99}))


def list_config(folder):
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated or changed"),
        (flip_a_byte, "truncated or changed"),
        (lambda folder: weights_of(folder).unlink(), "cannot read the weights"),
        (garbage_config, "config.json is damaged"),
        (other_version, "format version 99; this release reads version 1"),
        (list_config, "format version None"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (
            lambda folder: save_checkpoint(folder, {"weight": torch.tensor([1.0, float("nan")])}, {}),
            "NaN or infinite values in weight",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_checkpoint(folder)


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "nowhere")


def test_weights_cannot_be_named_outside_the_folder(folder, tmp_path):
    (tmp_path / "elsewhere.safetensors").write_bytes(weights_of(folder).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"weights": "../elsewhere.safetensors"}))
    with pytest.raises(UserError, match="cannot read the weights"):
        load_checkpoint(folder)


def test_a_module_gets_its_weights_and_draws_random_numbers_as_ever():
    saved = nn.Linear(3, 2)
    torch.manual_seed(0)
    nn.Linear(3, 2)
    after = torch.rand(1)
    torch.manual_seed(0)
    loaded = load_module(lambda: nn.Linear(3, 2), saved.state_dict())
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(loaded.weight, saved.weight) and not loaded.training


@pytest.mark.parametrize("outputs", [5, 10**10])
def test_weights_that_do_not_fit_are_named_whatever_memory_they_ask_for(outputs):
    with pytest.raises(ValueError, match=rf"weight is \(2, 3\) in the file and \({outputs}, 3\) by its config"):
        load_module(lambda: nn.Linear(3, outputs), nn.Linear(3, 2).state_dict())


def test_a_driver_is_loaded_without_the_compiler_of_torch():
    program = (
        "import sys, liquid_control; liquid_control.load_driver('checkpoints/CarRacing-v3/cfc'); "
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"

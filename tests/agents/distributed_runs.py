"""What two processes do for ``test_distributed``: torchrun starts them once, because a start takes seconds."""

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from torch import distributed

from agents.run_folder import RunFolder
from liquid_control.lm import main as lm
from liquid_control.train import main as train

WORDS = (
    "--steps 20 --batch 4 --time 16 --accumulate 2 --validate-every 5 --warm-up 2 --learning-rate 1e-2 --width 8 "
    "--blocks 2 --pattern memory deep --workers 1 --device cpu"
).split()
HALF = "half of "


@contextmanager
def copied_after_ten_steps():
    """Runs whose names are one word leave a copy of how they are after ten steps."""
    save = RunFolder.save_state

    def save_and_copy(self, tensors, progress):
        save(self, tensors, progress)
        if progress["step"] == 10 and " " not in self.path.name:
            shutil.copytree(self.path, self.path.with_name(HALF + self.path.name))

    with mock.patch.object(RunFolder, "save_state", save_and_copy):
        yield


def run(folder, name, *more):
    with copied_after_ten_steps():
        lm(["train", "--text", str(folder / "text.txt"), "--run", str(folder / name), *WORDS, *more])


def resume(folder, name, *more):
    lm(["train", "--resume", str(folder / name), *more])


def together(folder):
    distributed.init_process_group("gloo")
    for strategy in ("ddp", "fsdp"):
        run(folder, strategy, "--strategy", strategy)
        resume(folder, f"{HALF}one for {strategy}", "--strategy", strategy)
    for told, command in (
        ("batch", lambda: run(folder, "odd", "--batch", "3", "--accumulate", "1")),
        ("agent", lambda: train(["--agent", "ppo"])),
    ):
        try:
            command()
        except (ValueError, SystemExit) as error:
            print(f"{told} {distributed.get_rank()} {type(error).__name__} {error}", flush=True)
        distributed.barrier()


if __name__ == "__main__":
    together(Path(sys.argv[1]))

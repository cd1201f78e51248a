"""How much faster than ncps a training goes on the sequence tasks: the same cell, size, batches and times, in turns.

LIQUID_CONTROL_DATA=... python benchmarks/sequence_speed.py --task xor walker2d --cell ltc cfc mixed_cfc

A batch is a forward and a backward pass and the step of the optimiser, by one thread; seconds are those that the
processor spent. The ncps model gets the same inputs, masks and per-step times. Its releases take no batched times (ncps
issues 81 to 83), so it is called a step at a time, as its layers themselves do inside, with each step's times as a
column. Ratios are medians over turns: of the same batches, which are cut to their longest sequence, and with those of
ncps padded to the task's longest, as published.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from ncps.torch import LTC as NcpsLTC
from ncps.torch import CfC as NcpsCfC
from torch import Tensor, nn

from liquid_control.experiments.sequence_cells import UNFOLDS
from liquid_control.experiments.sequence_study import data_of
from liquid_control.experiments.sequence_training import SequenceModel, Sequences, batches, build
from liquid_control.experiments.tasks import TASKS
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

CELLS: dict[str, Callable[[int, int], nn.Module]] = {
    "ltc": lambda inputs, units: NcpsLTC(inputs, units, ode_unfolds=UNFOLDS),
    "cfc": lambda inputs, units: NcpsCfC(inputs, units, backbone_units=2 * units),
    "cfc_pure": lambda inputs, units: NcpsCfC(inputs, units, mode="pure", backbone_units=2 * units),
    "cfc_no_gate": lambda inputs, units: NcpsCfC(inputs, units, mode="no_gate", backbone_units=2 * units),
    "mixed_cfc": lambda inputs, units: NcpsCfC(inputs, units, mixed_memory=True, backbone_units=2 * units),
    "mixed_ltc": lambda inputs, units: NcpsLTC(inputs, units, mixed_memory=True, ode_unfolds=UNFOLDS),
}


class NcpsCell(nn.Module):
    """The layer of ncps in the place of ours."""

    def __init__(self, layer: nn.Module, units: int):
        super().__init__()
        self.layer, self.output_size = layer, units

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
        """Outputs (B, T, U)."""
        layer = self.layer
        h = x.new_zeros(len(x), self.output_size)
        c = torch.zeros_like(h)
        outputs = []
        for given, span in zip(x.unbind(1), elapsed[..., None].unbind(1), strict=True):
            if layer.use_mixed:
                h, c = layer.lstm(given, (h, c))
            y, h = layer.rnn_cell(given, h, span)
            outputs.append(y)
        return torch.stack(outputs, 1)


def spent(model: SequenceModel, data: Sequences, chosen: list[np.ndarray], padded: bool = False) -> float:
    """Seconds of some batches, cut to their longest sequence or padded to that of the data."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    begin = time.process_time()
    for places in chosen:
        if padded:
            index = torch.from_numpy(places)
            x, elapsed, mask, target = (part[index] for part in (data.x, data.elapsed, data.mask, data.target))
        else:
            x, elapsed, mask, target = data.rows(places, model.task.answer == "steps")
        loss = model.loss(model(x, elapsed, mask), target, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - begin


def measure(task_name: str, cell: str, turns: int, count: int) -> tuple[int, list[float], list[float]]:
    """Units, seconds of an epoch of ours, of ncps and of ncps padded, and both ratios."""
    task = TASKS[task_name]
    data = data_of(task_name, next(iter(task.protocols)), 0, 0)[0]
    recipe = replace(task.recipe, head="linear", noise=0.0)
    ours, units = build(task, recipe, cell, data)
    theirs, _ = build(task, recipe, cell, data)
    inputs = data.x.shape[2] + ours.sees_elapsed
    theirs.cell = NcpsCell(CELLS[cell](inputs, units), units)
    for model in (ours, theirs):
        model.fit_scales(data)
        model.train()
    chosen = list(batches(data, recipe.batch, count * turns, 0.0, np.random.default_rng(0)))
    spent(ours, data, chosen[:2])  # compiles what it needs
    spent(theirs, data, chosen[:1])
    times = []
    for turn in range(turns):
        part = chosen[turn::turns]
        times.append([spent(ours, data, part), spent(theirs, data, part)])
        times[-1].append(times[-1][1] if data.whole else spent(theirs, data, part, padded=True))
    taken = np.array(times)
    epoch = np.median(taken, 0) * len(data) / recipe.batch / count
    return units, epoch.tolist(), np.median(taken[:, 1:] / taken[:, :1], 0).tolist()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=["xor", "walker2d", "event_mnist", "rul"])
    parser.add_argument("--cell", nargs="+", choices=CELLS, default=["ltc", "cfc", "mixed_cfc"])
    parser.add_argument("--batches", type=argument(Count), default=10, help="of a turn")
    parser.add_argument("--turns", type=argument(Count), default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| task | cell | units | ours, s an epoch | ncps | ncps, padded | ratio | padded |\n" + "| --- " * 8 + "|")
    for task in arguments.task:
        for cell in arguments.cell:
            units, epoch, ratios = measure(task, cell, arguments.turns, arguments.batches)
            numbers = [f"{seconds:.1f}" for seconds in epoch] + [f"**{ratio:.1f}**" for ratio in ratios]
            print(f"| {task} | {cell} | {units} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    command.run(lambda _: main())

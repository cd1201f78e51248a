"""The liquid cells beside ncps, nn.LSTM and nn.GRU: time of a pass, time of a step, agreement of numbers.

python benchmarks/cells.py

One thread, float32, batch 32, 64 steps, 32 inputs. All take turns within one process, a short pass ten times a turn, of
which the median counts; ratios are taken within a turn. Medians over the turns are printed. Passes are measured in CPU
time, so that another job on the machine does not count for the one that it interrupts; steps in wall time.

"both" is a forward and a backward pass, with the gradients of all parameters, the input and the initial state. ncps
knows neither masks nor a batch of elapsed times: those rows of ours stand beside its plain pass.

"memory" is an LSTM before the neurons: `MixedMemory`, and ``mixed_memory=True`` in ncps. Its peers have the neurons'
width.

`--large` times dense CfCs of other sizes and batches instead, at elapsed times that differ: among them those of the
published settings for walker2d, in training, with the dropout of their backbones.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ncps.torch
import ncps.wirings
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from liquid_control.nn import LTC, CfC, MixedMemory
from liquid_control.nn.layer import LiquidLayer
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

BATCH, STEPS, INPUTS = 32, 64, 32
FUNCTION_OPERATIONS = 20
"""Floating-point operations of a sigmoid or tanh by 2^x: clip 2, round 3, polynomial 12, scale and add 2, divide 1."""


@dataclass
class Cell:
    """One of ours with its peers of equal width."""

    name: str
    ours: LiquidLayer
    theirs: nn.Module
    width: int
    synapses: int
    """Synapses to work through for a sample and step: openings of an LTC, weights of a CfC and of an LSTM."""
    functions: int
    """Sigmoids and tanhs for a sample and step."""
    lstm: int = 0
    """Weights of an LSTM before it to work through."""
    batch: int = BATCH
    inputs: int = INPUTS

    @property
    def operations(self) -> int:
        """Floating-point operations for a sample and step."""
        # An LTC's synapse shifts and scales the potential and adds to two sums; a CfC's weight multiplies and adds.
        neurons = self.ours.cell if isinstance(self.ours, MixedMemory) else self.ours
        a_synapse = 4 if isinstance(neurons, LTC) else 2
        return a_synapse * (self.synapses - self.lstm) + 2 * self.lstm + FUNCTION_OPERATIONS * self.functions


class FlatMemory(nn.Module):
    """A layer of ncps with mixed memory, its two states side by side as ours has them, and parameters by our names."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.lstm = cell.lstm
        self.cell = cell

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """From x (B, T, C) and [h | c] to the outputs and [h | c]."""
        y, states = self.cell(x, state.chunk(2, 1))
        return y, torch.cat(states, 1)


def build_cells() -> list[Cell]:
    """The cells of the tables, ours with the weights of ncps."""
    ltc, cfc = ncps.wirings.AutoNCP(19, 4), ncps.wirings.AutoNCP(19, 3)
    kinds: list[tuple[str, LTC | CfC, Callable[..., nn.Module], Any]] = [
        ("LTC AutoNCP(19, 4)", LTC(INPUTS, ltc), ncps.torch.LTC, ltc),
        ("CfC AutoNCP(19, 3)", CfC(INPUTS, cfc), ncps.torch.CfC, cfc),
        ("CfC 64, backbone 128", CfC(INPUTS, 64), ncps.torch.CfC, 64),
    ]
    cells = []
    for name, ours, kind, units in kinds:
        theirs = kind(INPUTS, copy.deepcopy(units))  # ncps builds a wiring again that it is given again
        heads = 3  # of a CfC: at a constant elapsed time the gate's two are one
        ours.load_state_dict(theirs.state_dict())
        width = ours.state_size
        if isinstance(ours, LTC):
            synapses = functions = ours.ode_unfolds * ours.circuit.synapse_count + ours.circuit.sensory_synapse_count
        else:
            backbone = ours.backbone_units if ours.backbone_layers else 0
            functions = heads * width + backbone
            merged = sum(cell.time_b.weight.numel() for cell in ours.cells)
            synapses = ours.parameter_count() - 4 * width - backbone - merged
        mixed, flat = with_memory(copy.deepcopy(ours), kind(INPUTS, copy.deepcopy(units), mixed_memory=True))
        lstm = 4 * width * (INPUTS + width)
        cells.append(Cell(name, ours, theirs, width, synapses, functions))
        counts = synapses + lstm, functions + 5 * width, lstm
        cells.append(Cell(f"{name[:3]} {width}, memory", mixed, flat, width, *counts))
    return sorted(cells, key=lambda cell: cell.lstm > 0)


def with_memory(ours: LTC | CfC, theirs: nn.Module) -> tuple[MixedMemory, FlatMemory]:
    """Our layer with an LSTM before it, and a layer of ncps that has one, with the same weights."""
    mixed, flat = MixedMemory(ours), FlatMemory(theirs)
    mixed.load_state_dict({key: value for key, value in flat.state_dict().items() if not key.startswith("cell.lstm.")})
    return mixed, flat


WALKER_INPUTS = 17
LARGE: list[tuple[str, int, int, dict[str, Any], int]] = [
    ("64, backbone 128", INPUTS, 64, {}, 32),
    ("64, backbone 128", INPUTS, 64, {}, 128),
    ("64, backbone 128", INPUTS, 64, {}, 512),
    ("128, no backbone", INPUTS, 128, {"backbone_layers": 0}, 128),
    ("256, backbone 256", INPUTS, 256, {"backbone_units": 256}, 128),
    ("64, backbone 4 x 64", INPUTS, 64, {"backbone_units": 64, "backbone_layers": 4}, 128),
    (
        "walker2d: 64, SiLU 256, dropout",
        WALKER_INPUTS,
        64,
        {"backbone_units": 256, "activation": "silu", "backbone_dropout": 0.1},
        256,
    ),
    (
        "walker2d, mixed: 128, 2 x 128, dropout",
        WALKER_INPUTS,
        128,
        {"backbone_layers": 2, "backbone_dropout": 0.2, "mixed_memory": True},
        128,
    ),
]
"""Names, inputs, neurons, options and batch."""


def build_large(name: str, inputs: int, units: int, options: dict[str, Any], batch: int) -> Cell:
    """A dense CfC of any size, perhaps with mixed memory, with the weights of ncps."""
    theirs = ncps.torch.CfC(inputs, units, **options)
    cell = CfC(inputs, units, **{option: value for option, value in options.items() if option != "mixed_memory"})
    functions = 3 * units + (cell.backbone_units * cell.backbone_layers)
    weights = sum(parameter.numel() for parameter in cell.parameters() if parameter.dim() == 2)
    if options.get("mixed_memory"):
        lstm = 4 * units * (inputs + units)
        counts = weights + lstm, functions + 5 * units, lstm
        return Cell(name, *with_memory(cell, theirs), units, *counts, batch=batch, inputs=inputs)
    cell.load_state_dict(theirs.state_dict())
    return Cell(name, cell, theirs, units, weights, functions, batch=batch, inputs=inputs)


# Passes


def passes(cell: Cell) -> dict[str, Callable[[bool], None]]:
    """What is timed: each takes whether to run the backward pass too."""
    torch.manual_seed(0)
    x = torch.randn(cell.batch, STEPS, cell.inputs)
    elapsed = 0.1 + torch.rand(cell.batch, STEPS)
    # Sequences of 49 to 64 steps.
    mask = torch.arange(STEPS) < torch.randint(49, STEPS + 1, (cell.batch, 1))
    lstm, gru = (kind(cell.inputs, cell.width, batch_first=True) for kind in (nn.LSTM, nn.GRU))
    zeros, initial = torch.zeros(cell.batch, cell.width), torch.zeros(cell.batch, cell.ours.state_size)

    def run(module: nn.Module, states: tuple[Tensor, ...], call: Callable[..., Any]) -> Callable[[bool], None]:
        leaves = [leaf.clone().requires_grad_() for leaf in (x, *states)]

        def one_pass(backward: bool) -> None:
            if not backward:
                with torch.no_grad():
                    call(*leaves)
                return
            y, final = call(*leaves)
            outputs = [y, *(final if isinstance(final, tuple) else (final,))]
            wanted = [*leaves, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
            torch.autograd.grad(outputs, wanted, [torch.ones_like(output) for output in outputs], allow_unused=True)

        return one_pass

    ours, theirs = cell.ours, cell.theirs
    return {
        "ncps": run(theirs, (initial,), theirs),
        f"nn.LSTM({cell.inputs}, {cell.width})": run(lstm, (zeros[None], zeros[None]), lambda x, h, c: lstm(x, (h, c))),
        f"nn.GRU({cell.inputs}, {cell.width})": run(gru, (zeros[None],), gru),
        "ours": run(ours, (initial,), ours),
        "ours, elapsed (B, T)": run(ours, (initial,), lambda x, state: ours(x, state, elapsed)),
        "ours, elapsed (B, T) and mask": run(ours, (initial,), lambda x, state: ours(x, state, elapsed, mask)),
    }


def time_passes(cell: Cell, rounds: int, *names: str) -> dict[tuple[str, bool], list[float]]:
    """Seconds by name (of these, or all) and whether the backward pass is part of it, one number a round."""
    runs = {name: run for name, run in passes(cell).items() if name in names or not names}
    seconds: dict[tuple[str, bool], list[float]] = {(name, backward): [] for name in runs for backward in (False, True)}
    for _ in range(rounds + 1):
        for name, backward in seconds:
            repetitions = 1 if name == "ncps" else 10
            seconds[name, backward].append(statistics.median(timed(runs[name], backward) for _ in range(repetitions)))
    return {key: values[1:] for key, values in seconds.items()}


def timed(run: Callable[[bool], None], backward: bool) -> float:
    """Seconds of CPU time that a call takes."""
    begin = time.thread_time()
    run(backward)
    return time.thread_time() - begin


def print_passes(console: Console, cells: list[Cell], rounds: int) -> None:
    """The table of passes, and that of the arithmetic."""
    table = Table(title=f"A pass, batch {BATCH}, {STEPS} steps: milliseconds, and times as fast; {rounds} rounds")
    arithmetic = Table(title="The arithmetic of a forward pass")
    columns = ("cell", "", "forward", "both", "ncps ÷ it, forward", "both ", "it ÷ LSTM, forward", " both")
    for column in columns:
        table.add_column(column, justify="left" if column in ("cell", "") else "right", no_wrap=True)
    for column in ("cell", "synapses", "functions", "operations", "GFLOP/s", "ns a synapse", "ns a function"):
        arithmetic.add_column(column, justify="left" if column == "cell" else "right", no_wrap=True)
    for cell in cells:
        seconds = time_passes(cell, rounds)
        lstm = f"nn.LSTM({INPUTS}, {cell.width})"
        for name in dict.fromkeys(name for name, _ in seconds):
            row = [cell.name if name == "ncps" else "", name]
            row += [f"{1e3 * statistics.median(seconds[name, backward]):.3f}" for backward in (False, True)]
            row += [f"{ratio(seconds['ncps', backward], seconds[name, backward]):.1f}" for backward in (False, True)]
            row += [f"{ratio(seconds[name, backward], seconds[lstm, backward]):.2f}" for backward in (False, True)]
            table.add_row(*row)
        table.add_section()
        passed = statistics.median(seconds["ours", False]) / (BATCH * STEPS) * 1e9
        arithmetic.add_row(
            cell.name,
            f"{cell.synapses:,}",
            f"{cell.functions:,}",
            f"{cell.operations:,}",
            f"{cell.operations / passed:.1f}",
            f"{passed / cell.synapses:.3f}",
            f"{passed / cell.functions:.2f}",
        )
    console.print(table)
    console.print(arithmetic)
    print("Counts are for one sample and step; times those of the whole pass, torch's overhead included.")


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def print_large(console: Console, cells: list[Cell], rounds: int) -> None:
    """The table of dense layers of other sizes and batches."""
    table = Table(
        title=f"Dense layers, {STEPS} steps, elapsed (B, T): milliseconds, and times as fast; {rounds} rounds"
    )
    for column in (
        "layer",
        "batch",
        "ncps, forward",
        "both",
        "ours, forward",
        "both ",
        "ncps ÷ ours, forward",
        " both",
    ):
        table.add_column(column, justify="left" if column == "CfC" else "right", no_wrap=True)
    names = "ncps", "ours, elapsed (B, T)"
    for cell in cells:
        seconds = time_passes(cell, rounds, *names)
        row = [
            f"{1e3 * statistics.median(seconds[name, backward]):.2f}" for name in names for backward in (False, True)
        ]
        row += [f"{ratio(*(seconds[name, backward] for name in names)):.1f}" for backward in (False, True)]
        table.add_row(cell.name, str(cell.batch), *row)
    console.print(table)


# Steps


def print_steps(console: Console, cells: list[Cell], steps: int) -> None:
    """One step at batch 1: ours from NumPy to NumPy, the peers with tensors, without gradients."""
    table = Table(title=f"A step, batch 1: microseconds, of {steps:,}")
    for column in ("cell", "", "median", "p99", "ncps ÷ it"):
        table.add_column(column, justify="left" if column in ("cell", "") else "right", no_wrap=True)
    for cell in cells:
        compiled = cell.ours.compile_step()
        x = np.random.default_rng(0).normal(size=(steps, INPUTS)).astype(np.float32)
        rows = list(x)
        tensors = [row[None, None] for row in torch.from_numpy(x)]
        lstm = nn.LSTM(INPUTS, cell.width, batch_first=True)
        zeros = torch.zeros(1, cell.width)
        runs: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
            "ncps": (peer_step(cell.theirs, torch.zeros(1, cell.ours.state_size)), tensors),
            "nn.LSTM": (peer_step(lstm, (zeros[None], zeros[None])), tensors),
            "ours, compile_step()": (compiled, rows),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        with torch.no_grad():
            # In turns of a thousand: the first step after a peer's finds its code out of the cache, which must stay
            # rarer than the hundredth that p99 is of.
            for begin in range(0, steps, 1000):
                for name, (run, inputs) in runs.items():
                    for row in inputs[begin : begin + 1000]:
                        clock = time.perf_counter()
                        run(row)
                        seconds[name].append(time.perf_counter() - clock)
        warm_up = min(100, steps // 2)
        medians = {name: statistics.median(values[warm_up:]) for name, values in seconds.items()}
        for name, values in seconds.items():
            table.add_row(
                cell.name if name == "ncps" else "",
                name,
                f"{1e6 * medians[name]:.2f}",
                f"{1e6 * float(np.quantile(values[warm_up:], 0.99)):.2f}",
                f"{medians['ncps'] / medians[name]:.0f}",
            )
        table.add_section()
    console.print(table)


def peer_step(module: nn.Module, state: Any) -> Callable[[Tensor], None]:
    """Steps a torch module through inputs (1, 1, C), its state carried."""

    def step(x: Tensor) -> None:
        nonlocal state
        _, state = module(x, state)

    return step


# Agreement


@contextmanager
def reference_form() -> Iterator[None]:
    """Layers run in their reference form."""
    before = os.environ.get("LIQUID_CONTROL_KERNELS")
    os.environ["LIQUID_CONTROL_KERNELS"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LIQUID_CONTROL_KERNELS"]
        else:
            os.environ["LIQUID_CONTROL_KERNELS"] = before


def outcome(module: nn.Module, width: int, dtype: torch.dtype, *, with_time: bool) -> dict[str, Tensor]:
    """Outputs, final state and all gradients of one loss, by name, of a batch of 21."""
    torch.manual_seed(1)
    module = module.to(dtype)
    batch, steps = 21, 33
    x = torch.randn(batch, steps, INPUTS, dtype=dtype, requires_grad=True)
    state = torch.randn(batch, width, dtype=dtype, requires_grad=True)
    elapsed = (0.1 + torch.rand(batch, steps, dtype=dtype)).requires_grad_()
    mask = torch.rand(batch, steps) > 0.1
    leaves = {"x": x, "initial state": state} | ({"elapsed": elapsed} if with_time else {})
    y, final = module(x, state, elapsed, mask) if with_time else module(x, state)
    leaves |= {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    loss = y.sin().sum() + final.square().sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    found = {"y": y.detach(), "state": final.detach()}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        found[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return found


def print_agreement(console: Console, cells: list[Cell]) -> None:
    """The largest differences: fused from reference with masks and elapsed times, and ours from ncps without."""
    table = Table(title="Agreement: largest differences; of gradients relative to the largest of the same parameter")
    for column in ("cell", "of", "type", "the worst gradient", "outputs", "state", "gradients"):
        numeric = column in ("outputs", "state", "gradients")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for cell in cells:
        for dtype in (torch.float64, torch.float32):
            fused, plain = (
                outcome(cell.ours, cell.ours.state_size, dtype, with_time=with_time) for with_time in (True, False)
            )
            with reference_form():
                reference = outcome(cell.ours, cell.ours.state_size, dtype, with_time=True)
            theirs = outcome(cell.theirs, cell.ours.state_size, dtype, with_time=False)
            for name, found, expected in (("fused, reference", fused, reference), ("ours, ncps", plain, theirs)):
                difference = {key: float((found[key] - expected[key]).abs().max()) for key in expected}
                size = {key: max(float(expected[key].abs().max()), torch.finfo(dtype).tiny) for key in expected}
                relative = {key: difference[key] / size[key] for key in expected if key not in ("y", "state")}
                worst = max(relative, key=relative.__getitem__)
                table.add_row(
                    cell.name,
                    name,
                    str(dtype).removeprefix("torch."),
                    worst.removeprefix("rnn_cell."),
                    f"{difference['y']:.1e}",
                    f"{difference['state']:.1e}",
                    f"{relative[worst]:.1e}",
                )
        cell.ours.float()
        cell.theirs.float()
        table.add_section()
    console.print(table)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=argument(Count), default=40, help="turns of all passes")
    parser.add_argument("--steps", type=argument(Count), default=5000, help="single steps")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--large", action="store_true", help="dense layers of other sizes and batches instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=150)
    if arguments.large:
        large = [build_large(*row) for row in LARGE if arguments.only in row[0]]
        print_large(console, large, arguments.rounds)
        return
    cells = [cell for cell in build_cells() if arguments.only in cell.name]
    print_passes(console, cells, arguments.rounds)
    print_steps(console, cells, arguments.steps)
    print_agreement(console, cells)


if __name__ == "__main__":
    command.run(lambda _: main())

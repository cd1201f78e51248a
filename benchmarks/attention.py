"""Liquid attention at a thousand tokens: time and memory against a direct implementation and against plain attention.

python benchmarks/attention.py

Forward, one sequence of 1024 tokens of width 64, 4 heads, CPU, one thread. `direct_pairs` builds [query; key] for all
pairs and sends them through the authors' linear layers. `F.scaled_dot_product_attention` is given queries, keys and
values that are projected already; all others project, the outputs too. All take turns in one process; ratios are taken
within a turn and their median is printed. Memory is the peak of the resident set while one forward runs, over what it
was before, each in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.nn.liquid_attention import LiquidAttention
from liquid_control.nn.liquid_logits import GATES, MODES
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

PLAIN, DIRECT = "F.scaled_dot_product_attention", "direct_pairs"
EULER_STEPS, DELTA_T = 5, 0.5  # the authors' defaults


class DirectPairs(nn.Module):
    """The authors' equations as they stand: all [query; key] pairs of all heads through linear layers.

    Args:
        width: of the tokens.
        heads: number of heads.
        mode: "exact", "euler" or "steady".
    """

    def __init__(self, width: int, heads: int, mode: str):
        super().__init__()
        pair = 2 * width // heads
        self.heads, self.mode = heads, mode
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.target = nn.Sequential(nn.Linear(pair, 64), nn.Linear(64, 1))
        self.rate = nn.Sequential(nn.Linear(pair, 32), nn.Linear(32, 1))
        self.slope, self.shift = nn.Linear(pair, 1), nn.Linear(pair, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, T, C) -> (B, T, C)."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        shape = (*q.shape[:3], k.shape[2], q.shape[3])
        pairs = torch.cat([q[:, :, :, None].expand(shape), k[:, :, None].expand(shape)], -1)  # (B, H, T, T, 2D)
        target = torch.sigmoid(self.target(pairs))[..., 0]
        rate = F.softplus(self.rate(pairs))[..., 0] + 1e-6
        if self.mode == "exact":
            share = 1 - torch.exp(-rate * torch.sigmoid(self.slope(pairs) + self.shift(pairs))[..., 0])
            logits = target / rate * share
        elif self.mode == "euler":
            logits = torch.zeros_like(target)
            for _ in range(EULER_STEPS):
                logits = logits + DELTA_T * (-rate * logits + target)
        else:
            logits = target / rate
        attended = torch.softmax(logits, -1) @ v
        return self.output(attended.transpose(1, 2).flatten(2))


def contestants(tokens: int, width: int, heads: int) -> dict[str, Callable[[], Tensor]]:
    """Everybody's forward pass on the same tokens, by name."""
    torch.manual_seed(0)
    x = torch.randn(1, tokens, width)
    q, k, v = torch.randn(3, 1, heads, tokens, width // heads)
    modules: dict[str, nn.Module] = {f"{DIRECT}, {mode}": DirectPairs(width, heads, mode) for mode in MODES}
    for gate in GATES:
        for mode in MODES:
            modules[f"{gate}, {mode}"] = LiquidAttention(
                width,
                heads,
                gate=gate,
                mode=mode,
                pseudo_time="sigmoid" if gate == "affine" else "linear",
                euler_steps=EULER_STEPS,
                delta_t=DELTA_T if mode == "euler" else None,
            )
    runs: dict[str, Callable[[], Tensor]] = {PLAIN: lambda: F.scaled_dot_product_attention(q, k, v)}
    for name, module in modules.items():
        runs[name] = lambda module=module: module(x)
    return runs


def seconds(run: Callable[[], Tensor]) -> float:
    """How long one forward takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_bytes(name: str, tokens: int, width: int, heads: int) -> int:
    """By how much a forward raises the peak of this process's resident set."""
    contestants(64, width, heads)[name]()  # what is loaded and compiled once is no part of it
    run = contestants(tokens, width, heads)[name]
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = _status("VmHWM")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=argument(Count), default=1024)
    parser.add_argument("--width", type=argument(Count), default=64)
    parser.add_argument("--heads", type=argument(Count), default=4)
    parser.add_argument(
        "--rounds", type=argument(Count), default=5, help="turns of everybody; the direct ones take seconds each"
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = (arguments.tokens, arguments.width, arguments.heads)
    torch.set_num_threads(1)
    with torch.inference_mode():
        if arguments.peak:
            print(peak_bytes(arguments.peak, *sizes))
            return
        runs = contestants(*sizes)
        for run in runs.values():
            run()
        rounds = [
            # The fast ones are repeated within a turn, and the best counts, as a turn of the slow ones outlasts noise.
            {name: min(seconds(run) for _ in range(1 if DIRECT in name else 5)) for name, run in runs.items()}
            for _ in range(arguments.rounds)
        ]
    command = [
        sys.executable,
        __file__,
        *(f"--{n}={v}" for n, v in zip(("tokens", "width", "heads"), sizes, strict=True)),
    ]
    peaks = {name: int(subprocess.check_output([*command, "--peak", name])) for name in runs}

    def ratio(name: str, other: str) -> float:
        return statistics.median(times[name] / times[other] for times in rounds)

    table = Table(title=f"{sizes[0]} tokens, width {sizes[1]}, {sizes[2]} heads, forward, one thread")
    table.add_column("attention", no_wrap=True)
    for column in ("ms", "ms / plain", "direct / ms", "MB", "direct / MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in runs:
        direct = f"{DIRECT}, {name.rsplit(', ')[-1]}"
        compared = direct in runs and name != direct
        table.add_row(
            name,
            f"{1e3 * statistics.median(times[name] for times in rounds):,.1f}",
            f"{ratio(name, PLAIN):,.1f}",
            f"{ratio(direct, name):,.0f}" if compared else "",
            f"{peaks[name] / 1e6:,.1f}",
            f"{peaks[direct] / max(1, peaks[name]):,.0f}" if compared else "",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    command.run(lambda _: main())

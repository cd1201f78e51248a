"""The language model's speed: training beside the origin's token loop, writing beside a transformer's, memory of both.

python benchmarks/language_model.py                 # both tables
python benchmarks/language_model.py decode --lengths 1024 4096

One thread, float32. In a table all take turns within one process; medians of the turns are printed, in CPU time, and
ratios are taken within a turn. The models have the same width, depth and number of tokens; the transformer is the same
model with attention to all that was read in the place of fast weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from liquid_control.models.compiled import read_on
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.report.language_speed import say, seconds
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

VOCABULARY = 66
SHAPES: dict[str, dict[str, Any]] = {
    "memory": {},
    "memory and scan": {"pattern": ("memory", "scan")},
    "transformer": {"pattern": ("attention",)},
    "origin": {"variant": "origin"},
}


def build(name: str, **more: Any) -> LanguageModel:
    """One of the models."""
    torch.manual_seed(0)
    return LanguageModel(LanguageModelConfig(vocabulary=VOCABULARY, **(SHAPES[name] | more)))


def cpu_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """CPU seconds of a call."""
    return seconds(time.process_time, function, *arguments)


def step(model: LanguageModel, tokens: Tensor) -> None:
    """A gradient step on texts (B, T + 1), without an optimizer."""
    logits = model(tokens[:, :-1]).logits
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    model.zero_grad()


def train(lengths: list[int], turns: int) -> Table:
    """A gradient step on eight texts."""
    names = ["memory", "memory and scan", "transformer", "origin"]
    table = Table(title="a gradient step on 8 texts, ms; ratio: the origin's time over that of memory")
    for head in ("tokens of a text", *names, "ratio"):
        table.add_column(head, justify="right")
    for length in lengths:
        models = {name: build(name, **({"window": length} if name == "transformer" else {})) for name in names}
        tokens = torch.randint(VOCABULARY, (8, length + 1))

        for model in models.values():
            step(model, tokens[:, :9])  # kernels are compiled before
        spent = [[cpu_seconds(step, model, tokens) for model in models.values()] for _ in range(turns)]
        medians = [statistics.median(turn) for turn in zip(*spent, strict=True)]
        ratio = statistics.median(turn[-1] / turn[0] for turn in spent)
        table.add_row(f"{length:,}", *(f"{1000 * median:,.0f}" for median in medians), f"{ratio:.1f}")
    return table


@torch.inference_mode()
def decode(lengths: list[int], turns: int) -> Table:
    """A token more, after so many were read."""
    table = Table(title="one more token after so many, and the state that is carried")
    for head in ("tokens read", "memory, ms", "kB", "transformer, ms", "kB", "ratio of ms"):
        table.add_column(head, justify="right")
    ours = build("memory").eval()
    for length in lengths:
        peer = build("transformer", window=length).eval()
        states = []
        for model in (ours, peer):
            states.append(model.read(torch.randint(VOCABULARY, (1, length)))[1])
        pairs = list(zip((ours, peer), states, strict=True))
        for pair in pairs:
            say(read_on(*pair), 1)
        readers = [[read_on(*pair) for pair in pairs] for _ in range(turns)]
        spent = [[cpu_seconds(say, reader, 10) / 10 for reader in turn] for turn in readers]
        mine, theirs = (statistics.median(turn) for turn in zip(*spent, strict=True))
        ratio = statistics.median(turn[1] / turn[0] for turn in spent)
        sizes = [state.bytes_per_text / 1000 for state in states]
        table.add_row(
            f"{length:,}",
            f"{1000 * mine:.2f}",
            f"{sizes[0]:,.0f}",
            f"{1000 * theirs:.2f}",
            f"{sizes[1]:,.0f}",
            f"{ratio:.2f}",
        )
    return table


TABLES: dict[str, tuple[Callable[[list[int], int], Table], list[int]]] = {
    "train": (train, [64, 512]),
    "decode": (decode, [1024, 4096, 16384]),
}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--lengths", type=argument(Count), nargs="+", help="tokens; by default those of each table")
    parser.add_argument("--turns", type=argument(Count), default=5)
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"unknown table {min(unknown)!r}: choose from {', '.join(TABLES)}")
    torch.set_num_threads(1)
    for name in options.tables or TABLES:
        measure, lengths = TABLES[name]
        Console().print(measure(options.lengths or lengths, options.turns))


if __name__ == "__main__":
    command.run(lambda _: main())

"""From which width remembered work saves time at batch 1: ``python benchmarks/hybrid_seconds.py``.

A transformer of attention and feed-forward parts says token after token, on one thread, alone and with a memory that is
full and learns no more. What is skipped is set, so that a table over widths has the same share of skips in each row:
the threshold of each student is the quantile of what it expects. Its weights are random, for here only time counts.
Reading the cube, its index, the student and audits are part of the time. All is in milliseconds: of a token alone; at
each share of skips what was really skipped, the time of a token, and its ratio to that alone; then of one feed-forward
part, one reading and one guess, and the share of skips from which these two pay.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liquid_control.models.cubes import BLOCK, CubeConfig, Cubes
from liquid_control.models.influence import InfluenceConfig
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.remembering import CLOCKS, PartMemory, memories, remembering
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

VOCABULARY = 256


def build(width: int, blocks: int, entries: int, probed: int, units: int) -> tuple[LanguageModel, list[PartMemory]]:
    """A model, and a full memory of it that learns no more."""
    torch.manual_seed(0)
    config = LanguageModelConfig(
        vocabulary=VOCABULARY, width=width, blocks=blocks, pattern=("attention",), expansion=4.0
    )
    model = LanguageModel(config).eval()
    shape = CubeConfig(
        width=width, layers=blocks, blocks=max(2, entries // BLOCK), key_size=min(64, width), probed=probed
    )
    parts = memories(model, Cubes(shape), units)
    for part in parts:
        of = part.cube.tensors
        of["keys"].copy_(torch.nn.functional.normalize(torch.randn(of["keys"].shape), dim=-1))
        of["residuals"].copy_(0.1 * torch.randn(of["residuals"].shape))
        of["filled"].fill_(BLOCK)
        of["summaries"].copy_(of["keys"].mean(1))
        part.learns = False
    return model, parts


@torch.no_grad()
def say(model: LanguageModel, tokens: int) -> list[float]:
    """Milliseconds of each of so many tokens."""
    state, device, spent = model.initial_state(1), model.embedding.weight.device, []
    for number in range(tokens):
        given = torch.tensor([number * 37 % VOCABULARY], device=device)
        begin = time.perf_counter()
        logits, state = model.step(given, state)
        logits.cpu()  # a GPU is waited for
        spent.append(1000 * (time.perf_counter() - begin))
    return spent


def set_skips(model: LanguageModel, parts: Sequence[PartMemory], skips: float, tokens: int) -> None:
    """Sets the thresholds so that such a share of inputs is skipped, twice: what is skipped changes what comes."""
    audited = InfluenceConfig().audited
    for part in parts:
        part.influence.cap, part.influence.threshold, part.influence.rate = 1.0, -torch.inf, min(1.0, audited / skips)
    for _ in range(2):
        thoughts: list[list[float]] = [[] for _ in parts]
        hooks = [
            part.distillation.student.register_forward_hook(
                lambda _, __, guess, said=said: said.append(float(guess.log_error))
            )
            for part, said in zip(parts, thoughts, strict=True)
        ]
        with remembering(model, parts):
            say(model, tokens)
        for part, said, hook in zip(parts, thoughts, hooks, strict=True):
            part.influence.threshold = float(np.quantile(said, skips))
            hook.remove()


def measure(
    model: LanguageModel, parts: Sequence[PartMemory], tokens: int, rounds: int
) -> tuple[float, float, float, dict[str, float]]:
    """Milliseconds a token alone and with the memory, share of skips, and milliseconds of a part by clock.

    Rounds of both alternate, and medians are taken, so that other programs slow down both alike.
    """
    alone, remembered = [], []
    begun = [(part.inputs, part.skipped, dict(part.seconds)) for part in parts]
    for _ in range(rounds):
        alone += say(model, tokens)
        with remembering(model, parts):
            remembered += say(model, tokens)
    inputs = sum(part.inputs - was[0] for part, was in zip(parts, begun, strict=True))
    skipped = sum(part.skipped - was[1] for part, was in zip(parts, begun, strict=True))
    spent = {
        name: 1000 * sum(part.seconds[name] - was[2][name] for part, was in zip(parts, begun, strict=True))
        for name in CLOCKS
    }
    ran = {"part": inputs - skipped}
    each = {name: spent[name] / max(1, ran.get(name, inputs)) for name in CLOCKS}
    return float(np.median(alone)), float(np.median(remembered)), skipped / inputs, each


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=argument(Count), nargs="+", default=[192, 384, 768, 1024], help="of the model")
    parser.add_argument("--skips", type=argument(Count), nargs="+", default=[40, 80], help="per cent of the inputs")
    parser.add_argument("--blocks", type=argument(Count), default=4, help="of the model")
    parser.add_argument("--entries", type=argument(Count), default=4096, help="of each cube")
    parser.add_argument("--probed", type=argument(Count), default=8, help="blocks of 64 entries that are looked at")
    parser.add_argument("--units", type=argument(Count), default=48, help="liquid neurons of a student")
    parser.add_argument("--tokens", type=argument(Count), default=100, help="of a round")
    parser.add_argument("--rounds", type=argument(Count), default=5, help="alone and with memory, in turn")
    parser.add_argument("--device", default="cpu", help="of the model: cpu or cuda. Cubes are on the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = [f"{skips} %" for skips in arguments.skips]
    table = Table("width", "alone", *heads, "part", "reading", "student", "pays from", box=SIMPLE_HEAD)
    for width in arguments.widths:
        model, parts = build(width, arguments.blocks, arguments.entries, arguments.probed, arguments.units)
        model = model.to(arguments.device)
        for part in parts:
            part.distillation.student.to(arguments.device)
        say(model, arguments.tokens)
        cells = []
        for skips in arguments.skips:
            set_skips(model, parts, min(0.99, skips / 100), arguments.tokens)
            alone, remembered, skipped, each = measure(model, parts, arguments.tokens, arguments.rounds)
            cells.append(f"{skipped:.0%}: {remembered:.2f} ({remembered / alone:.2f})")
        pays = (each["reading"] + each["student"]) / each["part"]
        clocks = (f"{each[name]:.3f}" for name in ("part", "reading", "student"))
        table.add_row(str(width), f"{alone:.2f}", *cells, *clocks, f"{pays:.0%}" if pays < 1 else "never")
    Console().print(table)


if __name__ == "__main__":
    command.run(lambda _: main())

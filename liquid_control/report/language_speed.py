"""How fast a language model reads and speaks, and what it carries along, after texts of several lengths."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from liquid_control.models.compiled import Reader, read_on
from liquid_control.models.language_model import LanguageModel
from liquid_control.support.errors import UserError

TURNS = 5
"""Times that speaking is measured; the median counts."""
SPOKEN = 40
"""Tokens of a turn."""


@dataclass(frozen=True)
class Pace:
    """What was measured after a text."""

    tokens: int
    """Of the text."""
    read_per_second: float
    """Tokens that were read in a second, since the shorter text before."""
    milliseconds: float
    """For a token that is spoken: drawn as the likeliest, and read."""
    state_bytes: int
    """Carried from token to token."""

    @property
    def spoken_per_second(self) -> float:
        """Tokens."""
        return 1000 / self.milliseconds


def say(reader: Reader, count: int) -> None:
    """So many tokens of one text, each the likeliest after the one before; ends when the last is there."""
    token = 0
    for _ in range(count):
        token = int(reader.step(token).argmax())


def seconds(clock: Callable[[], float], function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of a call by a clock."""
    begin = clock()
    function(*arguments)
    return clock() - begin


@torch.no_grad()
def measure_pace(model: LanguageModel, lengths: Sequence[int], turns: int = TURNS) -> Iterator[Pace]:
    """Reads random tokens, and speaks after each of the lengths, which ascend."""
    device = model.embedding.weight.device
    rng = torch.Generator().manual_seed(0)
    state, begin = model.initial_state(1), 0
    for warm in (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)):
        model.read(warm.to(device), state)  # what is compiled or loaded at first is no part of the pace
    for length in lengths:
        text = torch.randint(model.config.vocabulary, (1, length - begin), generator=rng).to(device)
        start = time.perf_counter()
        logits, state = model.read(text, state)
        logits[0, 0].item()
        reading = time.perf_counter() - start
        readers = [read_on(model, state) for _ in range(turns)]
        spent = [seconds(time.perf_counter, say, reader, SPOKEN) / SPOKEN for reader in readers]
        yield Pace(length, (length - begin) / reading, 1000 * statistics.median(spent), state.bytes_per_text)
        begin = length


def seconds_to_the_first_token(checkpoint: Path, device: str, threads: int) -> float:
    """Of a new process that loads the checkpoint, reads a short prompt and says a token; Python and torch included.

    Raises:
        UserError: if it fails.
    """
    words = ["generate", str(checkpoint), "--tokens", "1", "--device", device, "--threads", str(threads)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "liquid_control.lm", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"lm generate ended with exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - start


def pace_table(paces: Sequence[Pace]) -> Table:
    """All of it as a table to print."""
    table = Table(title="after a text of so many tokens")
    for head in ("tokens read", "read, tokens/s", "spoken, ms/token", "tokens/s", "state, bytes"):
        table.add_column(head, justify="right")
    for each in paces:
        table.add_row(
            f"{each.tokens:,}",
            f"{each.read_per_second:,.0f}",
            f"{each.milliseconds:.2f}",
            f"{each.spoken_per_second:,.0f}",
            f"{each.state_bytes:,}",
        )
    return table


def pace_json(paces: Sequence[Pace], told: dict[str, Any]) -> str:
    """The same as JSON, with what else is to be told."""
    rows = [asdict(each) | {"spoken_per_second": each.spoken_per_second} for each in paces]
    return json.dumps(told | {"paces": rows}, indent=1) + "\n"

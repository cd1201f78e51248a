"""Texts that a model reads while it remembers its own work: a row a block of tokens, on disk, so that it can go on.

A folder of such a reading::

    rows.jsonl           first what all rows depend on, then a row a block, see :func:`read_block`
    memory.safetensors   all that is remembered, and the state of reading, some blocks back at most
    lossless.json        how drafts of this memory fared, if they were tried (`hybrid generate`)

A reading that was stopped goes on from the memory. Rows behind it are forgotten, and read anew to the same numbers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from liquid_control.data.tokenizers import Tokenizer
from liquid_control.models.language_model import LanguageModel, ReadingState
from liquid_control.models.memory_file import load_memories, save_memories
from liquid_control.models.remembering import PartMemory, feeds, remembering
from liquid_control.support.command import differences
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.schema import shortened

ROWS, MEMORY, LOSSLESS = "rows.jsonl", "memory.safetensors", "lossless.json"
FEWEST = 2
"""Tokens of what is read."""
DIGESTS = ("weights", "tokens", "memory")
"""What of a head is too long to be told whole."""


@dataclass(frozen=True)
class Stream:
    """Texts one after another, as tokens."""

    tokens: Tensor
    """(N,) int64; behind each text stands the token of its end."""
    bytes: np.ndarray
    """(N,) bytes that each token stands for."""
    names: tuple[str, ...]
    """Of the texts."""
    begins: tuple[int, ...]
    """Places of their first tokens."""

    @classmethod
    def of(cls, texts: Mapping[str, str], tokenizer: Tokenizer) -> Stream:
        """Texts by their names.

        Raises:
            UserError: if they are too short to be read, or a tokenizer does not know a character.
        """
        if not texts:
            raise UserError("there is nothing to read: give texts with --text.")
        parts = [np.append(tokenizer.encode(text), tokenizer.end) for text in texts.values()]
        count = sum(map(len, parts)) - len(parts)
        if count < FEWEST:
            raise UserError(
                f"the text {', '.join(map(repr, texts))} has {count} tokens, too few to be read: give one of "
                f"{FEWEST} or more with --text."
            )
        tokens = np.concatenate(parts)
        sizes = np.array([len(piece) for piece in tokenizer.pieces])
        begins = np.cumsum([0, *(len(part) for part in parts[:-1])])
        return cls(torch.from_numpy(tokens), sizes[tokens], tuple(texts), tuple(begins.tolist()))

    def name_at(self, place: int) -> str:
        """The text that a token is of."""
        return self.names[int(np.searchsorted(self.begins, place, side="right")) - 1]


@dataclass(frozen=True)
class Pace:
    """How a stream is read."""

    block: int
    """Tokens of a row."""
    stretch: int
    """Tokens that are read at once. What is learned of them counts from the next stretch on."""
    seed: int = 0
    """Of the stretch of each block that the whole model reads, too."""


@torch.no_grad()
def read_block(
    model: LanguageModel, parts: Sequence[PartMemory], stream: Stream, begin: int, state: ReadingState, pace: Pace
) -> tuple[dict[str, Any], ReadingState]:
    """Reads one block.

    Args:
        model: in eval mode.
        parts: what is remembered of it.
        stream: of which it reads.
        begin: place of the first token.
        state: before it, of one text.
        pace: how it is read.

    Returns:
        The row, JSON values, and the state after. Of the row:

        - ``tokens``: so many have been read, this block included; ``count``: so many are in it; ``text``: which one
          its first token is of.
        - ``bits_per_byte``: of what came, as it was said with the memory; ``seconds``, learning included.
        - ``sample``: of one stretch, which the whole model reads from the same state, too: ``tokens``, ``equal`` (share
          of tokens where both hold the same to be the likeliest), ``kl`` (KL(whole ‖ remembering), nats a token),
          ``bits_per_byte`` and ``whole_bits_per_byte``, ``seconds`` and ``whole_seconds``.
        - ``layers``: of each ``influence`` (as far as it is earned), ``shared`` (the mean influence on its inputs: what
          share of what went on was the student's), ``error`` (mean relative error of the last audits where the student
          was sure, or null), ``hits``, ``skipped`` and ``audited`` (shares of its inputs: near to an entry, left out,
          run to be audited although sure), ``full``, ``saved`` and ``spent`` (multiplications: of the part if it always
          ran, saved net, and by reading and student), ``learned`` (multiplications by learning), ``seconds_saved``
          (net), ``seconds_learning``.
    """
    end = min(begin + pace.block, len(stream.tokens) - 1)
    starts = range(begin, end, pace.stretch)
    sampled = starts[int(np.random.default_rng([pace.seed, begin]).integers(len(starts)))]
    before, nats, seconds, sample = [_counters(part) for part in parts], 0.0, 0.0, {}
    for first in starts:
        here = slice(first, min(first + pace.stretch, end))
        tokens, wanted = (
            stream.tokens[here.start + ahead : here.stop + ahead].to(model.embedding.weight.device) for ahead in (0, 1)
        )
        clock, entering = time.perf_counter(), state
        with remembering(model, parts):
            reading = model(tokens[None], state)
        state = reading.state
        loss = F.cross_entropy(reading.logits[0], wanted, reduction="sum").item()
        spent = time.perf_counter() - clock
        nats, seconds = nats + loss, seconds + spent
        if first == sampled:
            size = int(stream.bytes[here.start + 1 : here.stop + 1].sum())
            sample = _compare(model, tokens, wanted, entering, reading.logits[0], size)
            sample |= {"bits_per_byte": _bits(loss, size), "seconds": round(spent, 6)}
    layers = [
        _layer(part, was, sum(weight.numel() for weight in feed.parameters()))
        for part, was, feed in zip(parts, before, feeds(model), strict=True)
    ]
    row = {
        **{"tokens": end, "count": end - begin, "text": stream.name_at(begin)},
        **{"bits_per_byte": _bits(nats, int(stream.bytes[begin + 1 : end + 1].sum())), "seconds": round(seconds, 4)},
        **{"sample": sample, "layers": layers},
    }
    return row, state


def _compare(
    model: LanguageModel, tokens: Tensor, wanted: Tensor, state: ReadingState, logits: Tensor, size: int
) -> dict[str, Any]:
    """What the whole model makes of a stretch, beside logits (T, V) with a memory."""
    clock = time.perf_counter()
    whole = model(tokens[None], state).logits[0]
    loss = F.cross_entropy(whole, wanted, reduction="sum").item()
    spent = time.perf_counter() - clock
    divergence = F.kl_div(logits.log_softmax(-1), whole.log_softmax(-1), log_target=True, reduction="batchmean")
    return {
        **{"tokens": len(tokens), "equal": (whole.argmax(-1) == logits.argmax(-1)).double().mean().item()},
        **{"kl": max(0.0, divergence.item()), "whole_bits_per_byte": _bits(loss, size)},
        **{"whole_seconds": round(spent, 6)},
    }


def _bits(nats: float, size: int) -> float:
    """Bits per byte; of no bytes, as at the end of a text, those per token that is none."""
    return nats / math.log(2) / max(1, size)


def _counters(part: PartMemory) -> dict[str, float]:
    return part.counts() | {
        "shared": part.shared,
        "saved_seconds": part.seconds_saved(),
        "learning": part.seconds["learning"],
    }


def _layer(part: PartMemory, was: Mapping[str, float], weights: int) -> dict[str, Any]:
    more = {name: now - was[name] for name, now in _counters(part).items()}
    inputs = more["inputs"]
    error = part.influence.error
    return {
        **{"influence": part.influence.cap, "error": None if math.isnan(error) else error},
        **{name: more[name] / inputs for name in ("shared", "hits", "skipped", "audited")},
        **{"full": inputs * weights, "saved": more["skipped"] * weights - more["spent"]},
        **{"spent": more["spent"], "learned": more["learned"]},
        **{"seconds_saved": round(more["saved_seconds"], 6), "seconds_learning": round(more["learning"], 6)},
    }


class ReadingFolder:
    """The files of a reading.

    Args:
        path: of the folder, which one process works in.
        head: what all rows depend on, JSON values.
        replaced: whether the memory that the reading began with is the file that it writes at its end. Then a reading
            that has ended is recognised by what that memory has seen since.

    Attributes:
        replaced: whether this has happened: the reading has ended, and its memory stands there.

    Raises:
        UserError: if it holds a reading of something else, or what stands there is damaged.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], replaced: bool = False):
        self.path, self.head, self.replaced = path, json.loads(json.dumps(head)), False
        self.rows: list[dict[str, Any]] = []
        if not (path / ROWS).exists():
            return
        there, self.rows = read_rows(path)
        if replaced and there.get("memory") != self.head["memory"] and (path / MEMORY).exists():
            last, seen = self.head["length"] - 1, self.head["begun"]
            ended = bool(self.rows) and self.rows[-1].get("tokens") == last
            self.replaced = ended and there.get("begun") == seen - last
            self.head |= {name: there[name] for name in ("memory", "begun") if self.replaced}
        changed = [name for name in {**there, **self.head} if there.get(name) != self.head.get(name)]
        if changed:
            was, now = [
                SimpleNamespace(**{name: _told(name, told.get(name)) for name in changed})
                for told in (there, self.head)
            ]
            told = "; ".join(differences(was, now, changed))
            raise UserError(
                f"{path} holds a reading with another {', '.join(changed)}: {told}. Give the same, or name another "
                "folder."
            )

    def continued(self, model: LanguageModel) -> tuple[list[PartMemory], ReadingState, int] | None:
        """Memory, state and place of a reading that was stopped; None if there is none.

        Raises:
            UserError: if the memory is none of this model, or is damaged.
        """
        if not self.rows or not (self.path / MEMORY).exists():
            self.rows = []
            return None
        parts, state = load_memories(self.path / MEMORY, model)
        place = parts[0].inputs - self.head["begun"]
        known = [row["tokens"] for row in self.rows]
        if state is None or place not in known:
            raise UserError(f"{self.path / MEMORY} is not the memory of these rows: name another folder.")
        self.rows = self.rows[: known.index(place) + 1]
        return parts, state, place

    def add(self, row: dict[str, Any]) -> None:
        """Writes one more row, all of them whole or not at all."""
        self.rows.append(row)
        write_atomically(self.path / ROWS, "".join(json.dumps(line) + "\n" for line in (self.head, *self.rows)))

    def save(self, model: LanguageModel, parts: Sequence[PartMemory], state: ReadingState) -> None:
        """Writes the memory; from here a reading that is stopped goes on."""
        save_memories(self.path / MEMORY, model, parts, state)


def _told(name: str, value: Any) -> str:
    return f"{value[:12]}…" if name in DIGESTS and value else shortened(value)


def read_rows(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all rows of a folder depend on, and the rows.

    Raises:
        UserError: if there are none, or they are damaged.
    """
    file = path / ROWS
    try:
        head, *rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not isinstance(head, dict) or not all(isinstance(row, dict) and "layers" in row for row in rows):
            raise ValueError
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}. Give the folder of a hybrid run.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{file} is damaged: restore it, or read the texts again into another folder.") from None
    return head, rows


def read_stream(
    model: LanguageModel,
    parts: Sequence[PartMemory],
    stream: Stream,
    state: ReadingState,
    begin: int,
    pace: Pace,
    folder: ReadingFolder,
    save_every: int,
) -> Iterator[dict[str, Any]]:
    """Reads a stream to its end, and keeps rows and memory; yields each row when it is written.

    Args:
        model: in eval mode.
        parts: what is remembered of it.
        stream: of which it reads.
        state: before the first token.
        begin: place of the first token.
        pace: how it is read.
        folder: where rows and memory go.
        save_every: blocks after which the memory is written.
    """
    place, blocks = begin, 0
    while place < len(stream.tokens) - 1:
        row, state = read_block(model, parts, stream, place, state, pace)
        place, blocks = row["tokens"], blocks + 1
        folder.add(row)
        if blocks % save_every == 0 or place == len(stream.tokens) - 1:
            folder.save(model, parts, state)
        yield row

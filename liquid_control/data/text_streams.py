"""How a model reads a prepared text: documents in order with state carried on, windows at random, or all of it once.

All give stretches of T + 1 tokens: the first T are read, the last T are what shall be predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from liquid_control.data.text import TextSplit
from liquid_control.support.errors import UserError
from liquid_control.support.schema import validated


@dataclass(frozen=True)
class _StreamState:
    """Where the rows of streams are."""

    digest: str
    stretches: Annotated[int, Ge(0)]
    positions: list[Annotated[int, Ge(0)]]


class TextStreams:
    """Endless stretches for truncated backpropagation through time with a state that is carried on.

    Each row plays the whole text in order, from a place of its own and around its end; the places are spread evenly,
    all moved by one random number. A row goes on where its last stretch ended: what a stretch predicts last is what the
    next one reads first.

    Args:
        data: the tokens.
        batch: rows, B.
        time: steps of a stretch, T.
        rng: draws the one random number, here and now.

    Yields:
        ``tokens`` (B, T + 1) int64, and ``fresh`` (B, T) bool: True where the token begins a document, and at the very
        first step of each row. There a state from before belongs to another text.

    Raises:
        UserError: if the text has not more than T tokens.
    """

    def __init__(self, data: TextSplit, batch: int, time: int, rng: np.random.Generator):
        _check_length(data, time)
        self._data, self._time = data, time
        offset = int(rng.integers(len(data)))
        self._positions = [(offset + row * len(data) // batch) % len(data) for row in range(batch)]
        self._stretches = 0

    def __iter__(self) -> TextStreams:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        time, whole = self._time, len(self._data)
        tokens = np.empty((len(self._positions), time + 1), np.int64)
        fresh = np.zeros((len(self._positions), time), bool)
        for row, start in enumerate(self._positions):
            here = min(time + 1, whole - start)
            tokens[row, :here] = self._data.read(start, start + here)
            tokens[row, here:] = self._data.read(0, time + 1 - here)
            fresh[row, :here] = _begins(self._data, start, min(start + time, whole))
            fresh[row, here:] = _begins(self._data, 0, max(0, time - here))
        fresh[:, 0] |= self._stretches == 0
        self._positions = [(start + time) % whole for start in self._positions]
        self._stretches += 1
        return tokens, fresh

    def state_dict(self) -> dict[str, Any]:
        """Where the rows are, as JSON: with it, streams over the same text go on as these would."""
        return {"digest": self._data.digest, "stretches": self._stretches, "positions": list(self._positions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken.

        Raises:
            UserError: if the state is of another text or of another number of rows.
        """
        loaded = validated(_StreamState, state, "the state of streams")
        if loaded.digest != self._data.digest or any(start >= len(self._data) for start in loaded.positions):
            raise UserError("the state of streams is of another text: prepare the text as it was, or begin again.")
        if len(loaded.positions) != len(self._positions):
            raise UserError(
                f"the state of streams has {len(loaded.positions)} rows instead of {len(self._positions)}: "
                "use the batch size that the training began with."
            )
        self._positions, self._stretches = loaded.positions, loaded.stretches


def random_windows(data: TextSplit, batch: int, time: int, rng: np.random.Generator) -> np.ndarray:
    """Windows at random places, as in nanoGPT: each of the text is as likely, whatever documents it touches.

    Args:
        data: the tokens.
        batch: windows, B.
        time: steps of a window, T.
        rng: its state alone decides what comes, so saving it is enough to resume.

    Returns:
        Tokens, (B, T + 1) int64.

    Raises:
        UserError: if the text has not more than T tokens.
    """
    _check_length(data, time)
    places = rng.integers(len(data) - time, size=batch).tolist()
    return np.stack([data.read(start, start + time + 1) for start in places])


def whole_text(data: TextSplit, batch: int, time: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All of a text once, for evaluation: each token but the first is predicted exactly once.

    The text is cut into as many equal parts as there are rows, and each row plays its part in order, so a state can be
    carried from one stretch to the next. With one row, nothing is cut.

    Args:
        data: the tokens.
        batch: rows, B.
        time: steps of a stretch, T.

    Yields:
        ``tokens`` (B, T + 1) int64; ``fresh`` (B, T) bool as of :class:`TextStreams`; and ``mask`` (B, T) bool, False
        behind the end of a row's part, where the tokens are those of the end of a document.

    Raises:
        UserError: if the text has fewer than two tokens.
    """
    _check_length(data, 1)
    predictions = len(data) - 1
    length = -(-predictions // batch)
    parts = [(min(row * length, predictions), min((row + 1) * length, predictions)) for row in range(batch)]
    for step in range(0, length, time):
        tokens = np.full((batch, time + 1), data.end, np.int64)
        fresh, mask = np.zeros((2, batch, time), bool)
        for row, (start, stop) in enumerate(parts):
            first, last = min(start + step, stop), min(start + step + time, stop)
            if first < last:
                tokens[row, : last - first + 1] = data.read(first, last + 1)
                fresh[row, : last - first] = _begins(data, first, last)
                mask[row, : last - first] = True
        fresh[:, 0] |= step == 0
        yield tokens, fresh, mask


def _begins(data: TextSplit, start: int, stop: int) -> np.ndarray:
    """Which tokens begin a document, (stop - start,) bool."""
    first, last = np.searchsorted(data.starts, np.array([start, stop], np.uint64))
    begins = np.zeros(stop - start, bool)
    begins[data.starts[first:last].astype(np.int64) - start] = True
    return begins


def _check_length(data: TextSplit, time: int) -> None:
    if len(data) <= time:
        raise UserError(
            f"the text has {len(data)} tokens, and a stretch of {time} steps needs {time + 1}: take shorter ones, or "
            "more text."
        )

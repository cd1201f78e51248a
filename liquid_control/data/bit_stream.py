"""Xor: the parity of a stream of bits, given bit by bit or as events, of the ODE-LSTM and CfC papers.

From Lechner and Hasani, "Learning Long-Term Dependencies in Irregularly-Sampled Time Series" (2020). Nothing is
downloaded: the streams are those that the published seeds draw.
"""

from __future__ import annotations

import numpy as np

from liquid_control.data.events import changes, pack_events
from liquid_control.data.sequences import SequenceSet, SequenceSplits

LONGEST = 31
UNIT = 32
"""Bits that are one unit of elapsed time."""
TRAIN = 100_000, 1234984
"""How many streams, and the seed; the published one, as that of the test."""
TEST = 10_000, 48736
VALIDATION = 10_000, 20260101


def bit_stream(event_based: bool = True) -> SequenceSplits:
    """Streams of 2 to 31 bits, and whether the number of ones is odd.

    Event-based, a bit that differs from the one before is an event, and so is the last bit of the stream: as published.
    Dense, every bit is one.

    The number of events of each stream is ``mask.sum(1)``. A net that begins with few of them and goes on to more
    learns what it does not from all at once; :func:`with_at_most` gives the short ones.

    Args:
        event_based: whether only changes are given.

    Returns:
        100,000 streams for training, 10,000 for validation (with a seed of ours; the published runs choose nothing) and
        10,000 for test. ``x`` (N, T, 1), the bit; T is 31, or the most events of a stream (the published code pads to
        32, which changes nothing). ``elapsed`` counts bits since the event before, divided by 32 as published.
        ``target`` (N,) 0 or 1.
    """
    drawn = [_draw(*given) for given in (TRAIN, VALIDATION, TEST)]
    marks = [_events(*streams, event_based) for streams in drawn]
    steps = max(int(happens.sum(1).max()) for happens in marks)
    parts = []
    for (bits, _), happens in zip(drawn, marks, strict=True):
        x, elapsed, mask, _ = pack_events(bits, happens, UNIT, steps)
        parts.append(SequenceSet(x[..., None], elapsed, mask, bits.sum(1) % 2))
    return SequenceSplits(*parts)


def with_at_most(sequences: SequenceSet, events: int) -> SequenceSet:
    """The sequences that have so many steps or fewer, padded to that."""
    few = sequences.mask.sum(1) <= events
    x, elapsed, mask = (array[few, :events] for array in sequences[:3])
    return SequenceSet(x, elapsed, mask, sequences.target[few])


def _draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The bits (N, 31), zeros after the end, and the lengths (N,), as the published code draws them one by one.

    Its ``randint`` takes a word of the generator for each bit, and for a length as many as it needs for five bits that
    are below 30. NumPy keeps that for ``RandomState``, so the words are drawn at once, which takes a tenth of the time.
    """
    words = np.random.RandomState(seed).randint(0, 2**32, count * (LONGEST + 5) + 100, dtype=np.uint32)
    starts, lengths, place = [], [], 0
    five = (words & 31).tolist()
    for _ in range(count):
        while five[place] > LONGEST - 2:
            place += 1
        starts.append(place + 1)
        lengths.append(five[place] + 2)
        place += 1 + lengths[-1]
    length, steps = np.array(lengths), np.arange(LONGEST)
    bits = (words & 1)[np.array(starts)[:, None] + steps].astype(np.int64)
    return bits * (steps < length[:, None]), length


def _events(bits: np.ndarray, lengths: np.ndarray, event_based: bool) -> np.ndarray:
    places = np.arange(LONGEST)
    real = places < lengths[:, None]
    if not event_based:
        return real
    return (changes(bits) & real) | (places == lengths[:, None] - 1)

"""The words of `liquid_control.experiments.zephyr`: facts, questions and what is read in between; lessons of them.

Word by word: the words of a novel that are frequent, invented names of two syllables, values, and four marks.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from liquid_control.models.plasticity import Episodes, stretch_of
from liquid_control.support.errors import UserError
from liquid_control.support.files import read_text

WORDS, SYLLABLES, VALUES = 800, 60, 100
"""Frequent words of the novel, syllables of names, and what names may mean."""
FACT, ASK, IS, STOP = range(WORDS + SYLLABLES + VALUES, WORDS + SYLLABLES + VALUES + 4)
"""Marks."""
VOCABULARY = STOP + 1
FRAMES = ((), (3,), (5, 7), (11, 2, 13))
"""What stands before the name: no word, or some of the most frequent ones, by their rank."""
LONGEST = 17
"""Tokens of a statement and its question at most, the answer included."""
TOLD = 9
"""Of the statement alone."""
SEGMENT = 128
"""Tokens that are read at once; the window of the transformer that has one."""
FEWEST_SYLLABLES = 8
"""Of the names of an episode for training that are hard to tell apart; more than enough for 24 of them."""
HELD_OUT = 600
"""Names of 3,600 that no training has."""


# What is told and asked


@dataclass(frozen=True)
class Filler:
    """A novel as the places of its frequent words; others are left out."""

    words: tuple[str, ...]
    training: np.ndarray
    tests: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Filler:
        """A novel from a file.

        Raises:
            UserError: if it cannot be read, or has too few different words.
        """
        spoken = _spoken(path)
        frequent = tuple(word for word, _ in collections.Counter(spoken).most_common(WORDS))
        if len(frequent) < WORDS or len(spoken) < 50 * SEGMENT:
            raise UserError(f"{path} has {len(spoken):,} words, {len(frequent)} different ones: give a whole novel.")
        places = _places(spoken, frequent)
        cut = len(places) * 9 // 10
        return cls(frequent, places[:cut], places[cut:])


def _spoken(path: Path) -> list[str]:
    """The words of a text file."""
    return re.findall(r"[a-z]+", read_text(path).lower())


def _places(spoken: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """The ranks of what was spoken (N,); words that are not known are left out."""
    rank = {word: place for place, word in enumerate(words)}
    return np.array([rank[word] for word in spoken if word in rank], np.int64)


@functools.cache
def names_of(tests: bool) -> np.ndarray:
    """The names (N, 2) of training or of tests, as the tokens of their syllables; the same in every process."""
    order = np.random.default_rng(0).permutation(SYLLABLES**2)
    chosen = order[:HELD_OUT] if tests else order[HELD_OUT:]
    return WORDS + np.stack(np.divmod(chosen, SYLLABLES), 1)


def pair_of(rng: np.random.Generator, tests: bool) -> tuple[int, int]:
    """Frames of a statement and of its question: in tests such pairs as no training has."""
    said = int(rng.integers(len(FRAMES)))
    later = 1 if tests else int(rng.choice([0, *range(2, len(FRAMES))]))
    return said, (said + later) % len(FRAMES)


def statement(name: np.ndarray, value: int, frame: int) -> list[int]:
    """The tokens that tell a fact."""
    return [FACT, *FRAMES[frame], *name.tolist(), IS, value, STOP]


def question(name: np.ndarray, frame: int) -> list[int]:
    """The tokens after which the value is to be said."""
    return [ASK, *FRAMES[frame], *name.tolist(), IS]


class Facts(NamedTuple):
    """The facts of an episode."""

    names: np.ndarray
    """(K, 2), all different."""
    values: np.ndarray
    """(K,), all different."""
    frames: list[tuple[int, int]]
    """Of statement and question."""

    @classmethod
    def draw(cls, count: int, tests: bool, rng: np.random.Generator, syllables: int = SYLLABLES) -> Facts:
        """So many at random, whose names have so many different syllables at most."""
        known = names_of(tests)
        if syllables < SYLLABLES:
            chosen = WORDS + rng.choice(SYLLABLES, syllables, replace=False)
            known = known[np.isin(known, chosen).all(1)]
        names = known[rng.choice(len(known), count, replace=False)]
        values = WORDS + SYLLABLES + rng.choice(VALUES, count, replace=False)
        return cls(names, values, [pair_of(rng, tests) for _ in range(count)])


def asked(episodes: Sequence[Facts]) -> list[list[list[int]]]:
    """The questions of each episode."""
    return [
        [question(name, frame) for name, (_, frame) in zip(facts.names, facts.frames, strict=True)]
        for facts in episodes
    ]


def values_of(episodes: Sequence[Facts]) -> np.ndarray:
    """Their answers (N, K, 1), each of one token."""
    return np.stack([facts.values for facts in episodes])[..., None]


def tell(episodes: Sequence[Facts]) -> Tensor:
    """The statements of episodes, one after another (B, T), shorter ones filled up with stops at the front."""
    told = [
        [token for name, value, (frame, _) in zip(*facts, strict=True) for token in statement(name, int(value), frame)]
        for facts in episodes
    ]
    longest = max(map(len, told))
    return torch.tensor([[STOP] * (longest - len(words)) + words for words in told])


@dataclass(frozen=True)
class WordTeacher:
    """Facts that no training has, and words to read after them.

    Args:
        places: the words (N,), each by its rank.
    """

    places: np.ndarray

    @classmethod
    def of(cls, words: Any, text: Path | None) -> WordTeacher:
        """For a model of these words, which are kept in its checkpoint.

        Args:
            words: the frequent ones, by rank, as JSON gives them.
            text: what is read after the facts; None is words at random, the one of rank n with weight 1/n.

        Raises:
            UserError: if the words are not those of a model of zephyr, or the text cannot be read or has none of them.
        """
        if not isinstance(words, list) or len(words) != WORDS or not all(isinstance(word, str) for word in words):
            raise UserError(f"this is no model of zephyr: its checkpoint has to name {WORDS} words.")
        if text is None:
            weights = 1 / np.arange(1, WORDS + 1)
            return cls(np.random.default_rng(0).choice(WORDS, 100 * SEGMENT, p=weights / weights.sum()))
        places = _places(_spoken(text), words)
        if not len(places):
            raise UserError(f"{text} has no word that the model knows.")
        return cls(places)

    def draw(self, episodes: int, facts: int, gap: int, rng: np.random.Generator) -> Episodes:
        """See :class:`~liquid_control.models.plasticity.Teacher`."""
        if facts > VALUES:
            raise UserError(f"there are no {facts} facts to teach at once: a model of zephyr knows {VALUES} values.")
        drawn = [Facts.draw(facts, True, rng) for _ in range(episodes)]
        gaps = torch.from_numpy(np.stack([stretch_of(self.places, gap, rng) for _ in drawn]))
        return Episodes(tell(drawn), gaps, asked(drawn), values_of(drawn))


# What is learned from


class Lesson(NamedTuple):
    """What a stage of the training is made of."""

    facts: tuple[int, int]
    """Fewest and most facts of an episode."""
    segments: tuple[int, int]
    """Fewest and most segments that it spreads over."""
    text: float
    """Weight of the loss of all other words; answers have 3, but in the first stage 1 beside 0."""
    reach: int = SEGMENT
    """Tokens of a segment, which gradients go back through."""
    changed: float = 0.0
    """Share of the facts that are told again with another value, before they are asked."""
    syllables: int = SYLLABLES
    """Fewest syllables that the names of an episode are made of: the fewer, the more names share one."""
    pace: float = 1.0
    """How many times as fast time passes over the novel at most, in half of the episodes."""


def curriculum(done: float) -> Lesson:
    """The lesson at a share of the training: recall alone, then in text, then over segments with the state carried.

    Once there is recall, many names of an episode may share a syllable: else a model may know a name by one of its two.
    Some facts change, and at last segments are four times as long: what the novel writes between fact and question
    spoils the more, the more of it there is, and only where gradients go through it does a model learn to write less
    there, and a fact at once. What it forgets and writes in that distance hardly shows, as readouts are normalised, but
    over thousands of words nothing is left. So time passes faster over the novel in half of the episodes: a word then
    forgets as many would, and writes nearly so.
    """
    if done < 0.25:
        return Lesson((2, 6), (1, 1), 0.0)
    if done < 0.45:
        return Lesson((4, 8), (1, 1), 0.05, syllables=FEWEST_SYLLABLES)
    if done < 0.6:
        return Lesson((4, 12), (1, 3), 0.05, changed=0.25, syllables=FEWEST_SYLLABLES)
    return Lesson((8, 24), (1, 2), 0.05, 4 * SEGMENT, 0.25, FEWEST_SYLLABLES, pace=64.0)


def lessons(batch: int, lesson: Lesson, filler: Filler, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes of a lesson.

    Facts are told and asked at random times, a question after its fact, and the novel is read in between. Half of the
    episodes begin with a fact. Where there is no loss on text, events follow each other closely.

    Args:
        batch: episodes of one segment of 128; of longer ones there are fewer.
        lesson: what they are made of.
        filler: the novel.
        rng: draws.

    Returns:
        Tokens (B, S · reach + 1), which of them, from the second on, are answers (B, S · reach), and how much time
        passes with each but the last (B, S · reach).
    """
    segments = int(rng.integers(lesson.segments[0], lesson.segments[1] + 1))
    length, batch = segments * lesson.reach + 1, max(1, batch * SEGMENT // lesson.reach)
    longest = LONGEST + (TOLD if lesson.changed else 0)
    count = min(int(rng.integers(lesson.facts[0], lesson.facts[1] + 1)), length // longest)
    tokens = np.empty((batch, length), np.int64)
    answers = np.zeros((batch, length), bool)
    elapsed = np.ones((batch, length), np.float32)
    for row in range(batch):
        syllables = int(lesson.syllables * (SYLLABLES / lesson.syllables) ** rng.random())
        facts = Facts.draw(count, False, rng, syllables)
        events: list[tuple[float, list[int], bool]] = []
        for name, value, (said, asked) in zip(facts.names, facts.values.tolist(), facts.frames, strict=True):
            told, later = np.sort(rng.random(2))
            if rng.random() < lesson.changed:
                other = WORDS + SYLLABLES + int(rng.integers(VALUES))
                events.append((told * rng.random(), statement(name, other, said), False))
            events.append((told, statement(name, value, said), False))
            events.append((later, [*question(name, asked), value], True))
        events.sort(key=lambda event: event[0])
        free = length - sum(len(words) for _, words, _ in events)
        gaps = rng.multinomial(free, rng.dirichlet(np.ones(len(events) + 1)))
        if rng.random() < 0.5:
            gaps[-1] += gaps[0]
            gaps[0] = 0
        if lesson.text == 0:
            gaps[:-1] //= 8  # hardly any text between them
        tokens[row] = stretch_of(filler.training, length, rng)
        if rng.random() < 0.5:
            elapsed[row] = lesson.pace ** rng.random()
        place = 0
        for gap, (_, words, is_asked) in zip(gaps, events, strict=False):
            place += int(gap)
            tokens[row, place : place + len(words)] = words
            elapsed[row, place : place + len(words)] = 1
            place += len(words)
            answers[row, place - 1] = is_asked
    return torch.from_numpy(tokens), torch.from_numpy(answers[:, 1:]), torch.from_numpy(elapsed[:, :-1])

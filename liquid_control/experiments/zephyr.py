"""``python -m liquid_control.experiments.zephyr FOLDER NOVEL``: does what was read stay in the synapses?

A model is told facts, "ZEPHYR means sunset", reads on for some thousand words of a novel, and is asked. A right answer
alone proves nothing: the fact may still be in the cells, or any model may prefer the words that it saw. So the state is
taken apart before the question (see :data:`ARMS`), the answer is chosen among the values that were taught in the same
episode, and names and the pairs of statement and question were never seen in training.

Models are word by word: the words of the novel that are frequent, invented names of two syllables, values, and four
marks. What it took to learn this: recall alone first, its loss on answers only; text and gaps come in later
(:func:`curriculum`).
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import tyro
from annotated_types import Ge, Le, MinLen
from torch import Tensor
from torch.nn import functional as F

from liquid_control.experiments.study import Results, identity_of, interval, measuring
from liquid_control.models.language_model import (
    LanguageModel,
    LanguageModelConfig,
    ReadingState,
    load_language_model,
)
from liquid_control.models.plasticity import (
    ARMS,
    Episodes,
    right_choices,
    score_answers,
    stretch_of,
    take_apart,
)
from liquid_control.nn import PlasticMemory
from liquid_control.nn.trace import RULES
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, check_known
from liquid_control.support.files import read_text, write_atomically
from liquid_control.support.ranges import Count, CountOrZero

PROGRAM = "python -m liquid_control.experiments.zephyr"
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


class Kind(NamedTuple):
    """What a model has instead of the defaults."""

    options: dict[str, Any]
    """Of :class:`~liquid_control.models.language_model.LanguageModelConfig`."""
    rate: float = 3e-3
    """Its highest learning rate."""
    arm: str = "all kept"
    """What answers for it where models are compared."""


SYNAPSES = "synapses alone"
MODELS = {
    **{rule: Kind({"rule": rule}, arm=SYNAPSES) for rule in RULES},
    "static": Kind({"pattern": ("scan",)}),
    "transformer": Kind({"pattern": ("attention",), "window": SEGMENT}, 1e-3),
    "full_transformer": Kind({"pattern": ("attention",), "window": 8 * SEGMENT}, 1e-3),
}
"""By name. ``static`` has no synapses that change; ``full_transformer`` sees all of a text that is learned from."""


@dataclass(frozen=True)
class ZephyrConfig:
    """Trains small models to remember facts, takes their states apart, and tells what each part knew."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/zephyr, say. A trained model is a line of results.jsonl, the tables are in report.md."""
    text: Annotated[Path, tyro.conf.arg(metavar="NOVEL")]
    """A novel: what is read between fact and question. Its last tenth is for tests."""
    models: tuple[str, ...] = ("delta", "hebb", "static", "transformer")
    """Which of hebb, oja, delta, static, transformer and full_transformer."""
    seeds: Count = 3
    """Trainings of each."""
    steps: Count = 1600
    """Gradient steps of a training."""
    batch: Count = 32
    """Episodes of a step."""
    width: Count = 128
    """Of the models, which have three blocks of two heads."""
    episodes: Annotated[int, Ge(2), Le(65_536)] = 32
    """Of each test; one of them gets the synapses of another."""
    facts: Annotated[tuple[Annotated[int, Ge(2), Le(VALUES)], ...], MinLen(1)] = (4, 16, 64)
    """Facts of an episode, K."""
    windows: Annotated[tuple[CountOrZero, ...], MinLen(1)] = (0, 2, 16, 64, 128)
    """Words between facts and questions, in segments of 128."""


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


# Training


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
    forgets and writes as many would.
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

    Facts are told and asked at random times, a question after its fact, and the novel is read in between. Where there
    is no loss on text, events follow each other closely.

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
        facts = Facts.draw(count, False, rng, int(rng.integers(lesson.syllables, SYLLABLES + 1)))
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


def train(kind: str, seed: int, config: ZephyrConfig, filler: Filler) -> LanguageModel:
    """A model that has learned to remember facts."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shape = LanguageModelConfig(
        vocabulary=VOCABULARY,
        width=config.width,
        blocks=3,
        expansion=2.0,
        shortest_half_life=16.0,
        longest_half_life=30_000.0,
    )
    options, highest, _ = MODELS[kind]
    model = LanguageModel(LanguageModelConfig(**(asdict(shape) | options)))
    for layer in model.modules():
        if isinstance(layer, PlasticMemory):
            layer.timed_writing = True  # of words that take one it is the same
    optimizer = torch.optim.AdamW(model.parameters(), highest, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step in range(config.steps):
        done = step / config.steps
        rate = highest * min(1.0, (step + 1) / (0.03 * config.steps)) * (0.525 + 0.475 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        lesson = curriculum(done)
        tokens, answers, elapsed = lessons(config.batch, lesson, filler, rng)
        weights = torch.where(answers, 3.0 if lesson.text else 1.0, lesson.text)
        optimizer.zero_grad()
        state = None
        for first in range(0, tokens.shape[1] - 1, lesson.reach):
            part = slice(first, first + lesson.reach)
            reading = model(tokens[:, part], state, elapsed[:, part])
            state = reading.state.detach()
            error = F.cross_entropy(reading.logits.flatten(0, 1), tokens[:, 1:][:, part].flatten(), reduction="none")
            (error @ weights[:, part].flatten() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


# Tests


def choices(model: LanguageModel, state: ReadingState, episodes: Sequence[Facts]) -> np.ndarray:
    """The share of right choices of each episode (N,), each question asked of the state as it is.

    Chosen is the likeliest of the values that were taught in the episode.
    """
    return right_choices(score_answers(model, state, asked(episodes), values_of(episodes)))


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
    """The statements of episodes, one after another (B, T), shorter ones repeated at the front to equal length."""
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


def test(
    model: LanguageModel, count: int, windows: int, config: ZephyrConfig, filler: Filler
) -> dict[str, list[float]]:
    """Right choices of each episode under every arm."""
    rng = np.random.default_rng([count, windows])
    episodes = WordTeacher(filler.tests).draw(config.episodes, count, windows * SEGMENT, rng)
    scores = take_apart(model, episodes, SEGMENT)
    return {name: right_choices(each).round(4).tolist() for name, each in scores.items()}


def overwritten(model: LanguageModel, config: ZephyrConfig, filler: Filler) -> list[float]:
    """Right choices of episodes of eight facts, four of which are told again with another value; the last one counts.

    The other values to choose among are those of all facts, the old ones of the four included.
    """
    rng = np.random.default_rng(7)
    firsts = [Facts.draw(12, True, rng) for _ in range(config.episodes)]
    lasts = [
        Facts(np.concatenate([f.names[:8], f.names[:4]]), f.values, [*f.frames[:8], *f.frames[:4]]) for f in firsts
    ]
    gap = torch.from_numpy(np.stack([stretch_of(filler.tests, 2 * SEGMENT, rng) for _ in firsts]))
    _, state = model.read(torch.cat([tell(lasts), gap], 1), None, SEGMENT)
    again = [questions[8:] for questions in asked(lasts)]
    scores = score_answers(model, state.reset(traces=False), again, values_of(lasts))
    return (scores.argmax(2) == np.arange(8, 12)).mean(1).tolist()


def restarted(model: LanguageModel, config: ZephyrConfig, count: int) -> tuple[float, float]:
    """Right choices here by the synapses alone, and in another process that is given the files of model and state."""
    episodes = [Facts.draw(count, True, np.random.default_rng([count, row])) for row in range(config.episodes)]
    state = model.read(tell(episodes), None, SEGMENT)[1].reset(traces=False)
    here = float(choices(model, state, episodes).mean())
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model", {})
        state.save(Path(folder) / "state.safetensors", model)
        words = [sys.executable, "-m", "liquid_control.experiments.zephyr", "--answer", folder, str(count)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"the other process ended with exit status {done.returncode}: {done.stderr[-300:]}")
        return here, float(done.stdout)


def answer(folder: Path, count: int) -> float:
    """What :func:`restarted` has another process do."""
    model, _ = load_language_model(folder / "model")
    state = ReadingState.load(folder / "state.safetensors", model)
    episodes = [Facts.draw(count, True, np.random.default_rng([count, row])) for row in range(state.batch)]
    return float(choices(model, state, episodes).mean())


# The study


def measure(kind: str, seed: int, config: ZephyrConfig, filler: Filler) -> dict[str, Any]:
    """A training and its tests as a line of the results; the model is kept beside them."""
    begin = time.monotonic()
    model = train(kind, seed, config, filler)
    seconds = time.monotonic() - begin
    model.save(config.folder / "models" / f"{kind}-{seed}", {"words": list(filler.words)})
    tests = {
        f"{count} facts, {windows} windows": test(model, count, windows, config, filler)
        for count in config.facts
        for windows in config.windows
    }
    here, there = restarted(model, config, config.facts[0])
    return {
        **{"model": kind, "seed": seed, "parameters": model.parameter_count(), "seconds": round(seconds, 1)},
        **{"tests": tests, "overwritten": overwritten(model, config, filler)},
        **{"before a restart": here, "after a restart": there},
    }


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there is no such model, the text cannot be read, or the folder holds results of other options.
    """
    if list(arguments[:1]) == ["--answer"]:
        sys.stdout.write(f"{answer(Path(arguments[1]), int(arguments[2]))}\n")
        return
    config, console = parse(ZephyrConfig, arguments, PROGRAM), Console()
    check_known("model", config.models, MODELS)
    filler = Filler.read(config.text)
    with measuring(config.folder):
        kept = {name: getattr(config, name) for name in ("steps", "batch", "width", "episodes", "facts", "windows")}
        results = Results(config.folder, kept | {"text": identity_of(config.text)}, ("model", "seed"))
        for seed, kind in itertools.product(range(config.seeds), config.models):
            row = results.have(functools.partial(measure, kind, seed, config, filler), model=kind, seed=seed)
            console.print(f"{kind}, seed {seed}: {row['seconds']:.0f} s")
    report = _report(results.rows, config)
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _report(rows: list[dict[str, Any]], config: ZephyrConfig) -> str:
    by_model = {kind: [row for row in rows if row["model"] == kind] for kind in config.models}
    text = []
    for kind, own in by_model.items():
        if MODELS[kind].arm == SYNAPSES:
            text += [f"### {kind}, by part of the state", "", *_by_part(own), ""]
    return "\n".join([*text, "### By model", "", *_by_model(by_model), ""])


def _by_part(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of one model: a test a row, an arm a column."""
    lines = [f"| facts | windows | {' | '.join(ARMS)} | chance |", "| --- " * (len(ARMS) + 3) + "|"]
    for name in rows[0]["tests"]:
        facts, _, windows, _ = name.split()
        cells = [_interval([row["tests"][name][arm] for row in rows]) for arm in ARMS]
        lines.append(f"| {facts} | {windows} | {' | '.join(cells)} | {1 / int(facts):.2f} |")
    return lines


def _by_model(by_model: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A model a column: what answers for it, all tests, and what else is known of it."""
    told: dict[str, list[str]] = collections.defaultdict(list)
    for kind, rows in by_model.items():
        arm = MODELS[kind].arm
        told["what answers"].append(arm)
        for name in rows[0]["tests"]:
            told[name].append(_interval([row["tests"][name][arm] for row in rows]))
        told["told twice, the later value"].append(_interval([row["overwritten"] for row in rows]))
        for when in ("before", "after"):
            shares = [row[f"{when} a restart"] for row in rows]
            told[f"synapses alone, {when} a restart"].append(f"{np.mean(shares):.3f}")
        told["parameters"].append(f"{rows[0]['parameters']:,}")
        told["trainings"].append(str(len(rows)))
        told["minutes of one"].append(f"{np.mean([row['seconds'] for row in rows]) / 60:.1f}")
    head = [f"|  | {' | '.join(by_model)} |", "| --- " * (len(by_model) + 1) + "|"]
    return [*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in told.items())]


def _interval(seeds: Sequence[Sequence[float]]) -> str:
    """The mean, and its interval, as shares."""
    low, high = np.clip(interval(seeds), 0, 1)
    return f"{np.mean(seeds):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    run(main)

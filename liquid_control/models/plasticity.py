"""Which part of a model's state knows what it was told.

Facts are told, other text is read, the state is taken apart, and questions are asked.
A right answer alone proves nothing: the fact may still be in the cells, or a model may prefer any word that it saw. So
parts of the state are reset before the question (:data:`ARMS`), and the answer is chosen among the values that were
taught in the same episode. Chance is one over their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from liquid_control.models.language_model import LanguageModel, ReadingState
from liquid_control.nn import PlasticMemory


class Arm(NamedTuple):
    """What of the state is there when the question comes."""

    change: Callable[[ReadingState], ReadingState]
    writes: bool = True
    """Whether synapses are written while the facts are told."""


ARMS: dict[str, Arm] = {
    "all kept": Arm(lambda state: state),
    "synapses alone": Arm(lambda state: state.reset(traces=False)),
    "all but synapses": Arm(lambda state: state.reset(rest=False)),
    "nothing kept": Arm(lambda state: state.reset()),
    "another's synapses": Arm(
        lambda state: state.reset().with_traces_of(state.rows(torch.arange(state.batch).roll(1)))
    ),
    "told while frozen": Arm(lambda state: state, writes=False),
}
"""``synapses alone`` is the claim; ``nothing kept`` is its floor, ``another's synapses`` tells episodes apart."""


class Episodes(NamedTuple):
    """E episodes of K facts each, as tokens."""

    told: Tensor
    """(E, T) the statements, one after another."""
    gap: Tensor
    """(E, G) what is read after them, G ≥ 0."""
    asked: Sequence[Sequence[Sequence[int]]]
    """The K questions of each episode, each up to its answer."""
    values: np.ndarray
    """(E, K, V) the answers in the order of the questions, each of V tokens."""


class Teacher(Protocol):
    """Who thinks of facts."""

    def draw(self, episodes: int, facts: int, gap: int, rng: np.random.Generator) -> Episodes:
        """So many episodes of so many facts, with so many tokens between facts and questions.

        Raises:
            UserError: if there are not so many facts.
        """


def stretch_of(tokens: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """So many tokens in a row from a random place of a text (N,), going around its end."""
    return tokens[(int(rng.integers(len(tokens))) + np.arange(length)) % len(tokens)]


@torch.inference_mode()
def score_answers(
    model: LanguageModel, state: ReadingState, asked: Sequence[Sequence[Sequence[int]]], values: np.ndarray
) -> np.ndarray:
    """How likely each value is as the answer to each question, every question asked of the state as it is.

    Args:
        model: who answers.
        state: of E texts.
        asked: Q questions of each of them, as tokens.
        values: (E, K, V) what may be answered.

    Returns:
        (E, Q, K) log-probabilities in nats, less a number that all answers to a question share.
    """
    device = model.embedding.weight.device
    answers = torch.from_numpy(values).to(device)
    scores = []
    for questions in zip(*asked, strict=True):
        longest = max(map(len, questions))
        tokens = torch.tensor([[0] * (longest - len(words)) + list(words) for words in questions])
        mask = torch.tensor([[False] * (longest - len(words)) + [True] * len(words) for words in questions])
        reading = model(tokens.to(device), state, mask=mask.to(device))
        score = reading.logits[:, -1].gather(1, answers[..., 0])
        if answers.shape[2] > 1:
            score = score + torch.stack(
                [_rest(model, reading.state, row, values) for row, values in enumerate(answers)]
            )
        scores.append(score.cpu().numpy())
    return np.stack(scores, 1)


def _rest(model: LanguageModel, state: ReadingState, row: int, values: Tensor) -> Tensor:
    """The log-probabilities (K,) of all but the first token of values (K, V), after the question of one text."""
    likely = model(values[:, :-1], state.rows([row] * len(values))).logits.log_softmax(-1)
    return likely.gather(2, values[:, 1:, None])[..., 0].sum(1)


def take_apart(model: LanguageModel, episodes: Episodes, stretch: int = 512) -> dict[str, np.ndarray]:
    """The scores (E, K, K) of all values for all questions, as :func:`score_answers` gives them, under each arm.

    Args:
        model: who is taught.
        episodes: what is told, read and asked.
        stretch: tokens that are read at once.
    """
    device, after = model.embedding.weight.device, {}
    for writes in (True, False):
        begin = model.initial_state(len(episodes.told)).freeze(not writes)
        state = model.read(episodes.told.to(device), begin, stretch)[1].freeze(False)
        after[writes] = model.read(episodes.gap.to(device), state, stretch)[1] if episodes.gap.shape[1] else state
    return {
        name: score_answers(model, arm.change(after[arm.writes]), episodes.asked, episodes.values)
        for name, arm in ARMS.items()
    }


class Head(NamedTuple):
    """What a head of fast weights does while other text is read."""

    block: int
    head: int
    half_life: float
    """Tokens that halve what it holds, by what it forgets a token on average. Writes replace more than that."""
    writing: float
    """Mean neuromodulation η of a token."""


@torch.inference_mode()
def heads_while_reading(model: LanguageModel, tokens: Tensor, stretch: int = 512) -> list[Head]:
    """All heads of a model's :class:`~liquid_control.nn.PlasticMemory`, in order; none if it has no such layer.

    Args:
        model: who reads.
        tokens: (B, T) int64, T ≥ 1, read from an empty state.
        stretch: tokens that are read at once.
    """
    layers = {name: part for name, part in model.named_modules() if isinstance(part, PlasticMemory)}
    told: dict[str, list[Tensor]] = {name: [] for name in layers}

    def note(name: str, layer: PlasticMemory, x: Tensor) -> None:
        forgetting = math.log(2) / layer.half_lives(x)
        told[name].append(torch.stack([forgetting, layer.writing(x)]).sum((1, 2)).cpu())

    hooks = [
        layer.register_forward_pre_hook(lambda layer, given, name=name: note(name, layer, given[0]))
        for name, layer in layers.items()
    ]
    try:
        model.read(tokens.to(model.embedding.weight.device), None, stretch)
    finally:
        for hook in hooks:
            hook.remove()
    heads = []
    for name, parts in told.items():
        forgetting, writing = torch.stack(parts).sum(0).double() / tokens.numel()
        block = int(name.split(".")[1])
        for head, values in enumerate(zip((math.log(2) / forgetting).tolist(), writing.tolist(), strict=True)):
            heads.append(Head(block, head, *values))
    return heads


def right_choices(scores: np.ndarray) -> np.ndarray:
    """The share of the questions (E,) whose likeliest value is their own, of scores (E, K, K)."""
    return np.asarray((scores.argmax(2) == np.arange(scores.shape[1])).mean(1))


def margins(scores: np.ndarray) -> np.ndarray:
    """By how many nats right values are likelier than the mean of the others (E,), of scores (E, K, K), K ≥ 2."""
    count = scores.shape[1]
    right = np.trace(scores, axis1=1, axis2=2)
    return np.asarray((right - (scores.sum((1, 2)) - right) / (count - 1)) / count)

"""Facts in plain English for a language model of any tokenizer: "The Zorvex is sleepy.", later "The Zorvex is"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from liquid_control.data.text import HEADER, TextData
from liquid_control.data.tokenizers import Tokenizer
from liquid_control.models.plasticity import Episodes, stretch_of
from liquid_control.support.errors import UserError

STATEMENTS = (
    "The {name} is {value}.",
    "Look, the {name} is {value}.",
    "Everyone says that the {name} is {value}.",
    "One day they found out that the {name} is {value}.",
)
QUESTIONS = (
    "The {name} is",
    "And yes, the {name} is",
    "What is the {name} like? The {name} is",
    "They still know that the {name} is",
)
"""Each is followed by a space and the value."""
ONSETS = "Zor Bli Quo Fen Tra Mub Pel Vash Dro Kib Sni Wex Glu Hob Jin Lur Nep Rud Thi Yag".split()
ENDINGS = "vex mip dor zle gat nub wick fro lim pax bru ton ket sha vil mog dax pim rul zen".split()
VALUES = (
    "red blue green yellow white black brown pink orange purple grey gold silver big small little tall short long wide "
    "thin fat round flat deep high low near far new old young happy sad angry glad proud brave shy kind mean nice good "
    "bad funny silly smart clever wise calm quiet loud noisy fast quick slow strong weak heavy light soft hard warm "
    "cold hot cool wet dry clean dirty dark bright shiny sweet sour salty fresh rich poor full empty open closed "
    "broken free busy lazy sleepy tired hungry thirsty sick well healthy safe lost alone lonely scared afraid curious "
    "careful gentle friendly polite pretty beautiful ugly strange special magic perfect simple easy wild"
).split()
_WHO = "the dog;a cat;the old man;her mother;a bird;the boy;the girl;his friend;the farmer;a rabbit".split(";")
_DID = "went to;looked at;walked around;ran past;slept near;played by;sat beside;came back from".split(";")
_WHERE = "the river;the house;a tree;the garden;the road;a hill;the school;the market;the lake".split(";")
_THEN = "with a ball;in the morning;for an hour;and took a stone;after lunch;and said nothing;in the rain".split(";")


class TextTeacher:
    """Thinks of facts about invented names, which no text has, and puts other text between facts and questions.

    Values are words that the tokenizer writes with equally many tokens, as few as will do, so that none is likelier
    for being short.

    Args:
        tokenizer: of the model.
        filler: tokens (N,) of what is read between.
    """

    def __init__(self, tokenizer: Tokenizer, filler: np.ndarray):
        self.tokenizer, self.filler = tokenizer, filler
        self._values = [tokenizer.encode(f" {value}") for value in VALUES]

    def draw(self, episodes: int, facts: int, gap: int, rng: np.random.Generator) -> Episodes:
        """See :class:`~liquid_control.models.plasticity.Teacher`. All is told after a stretch of the filler."""
        values = self._of_one_length(facts)
        names = [onset + ending for onset in ONSETS for ending in ENDINGS]
        told, asked, answers = [], [], []
        for _ in range(episodes):
            chosen = rng.choice(len(values), facts, replace=False)
            statements, questions = [], []
            for name, value in zip(rng.choice(names, facts, replace=False), values[chosen], strict=True):
                form, later = rng.integers(len(STATEMENTS)), rng.integers(len(QUESTIONS))
                word = self.tokenizer.decode(value).strip()
                statements.append(STATEMENTS[form].format(name=name, value=word))
                questions.append(self.tokenizer.encode(" " + QUESTIONS[later].format(name=name)).tolist())
            told.append(self.tokenizer.encode(" " + " ".join(statements)))
            asked.append(questions)
            answers.append(values[chosen])
        longest = max(map(len, told))
        before = [stretch_of(self.filler, longest - len(tokens), rng) for tokens in told]
        return Episodes(
            torch.from_numpy(np.stack([np.concatenate(each) for each in zip(before, told, strict=True)])),
            torch.from_numpy(np.stack([stretch_of(self.filler, gap, rng) for _ in told])),
            asked,
            np.stack(answers),
        )

    def _of_one_length(self, count: int) -> np.ndarray:
        """The values (N, V), N ≥ count, of the least V that so many have."""
        lengths = sorted({len(value) for value in self._values})
        for length in lengths:
            same = [value for value in self._values if len(value) == length]
            if len(same) >= count:
                return np.stack(same)
        most = max(sum(len(value) == length for value in self._values) for length in lengths)
        raise UserError(
            f"there are no {count} facts to teach at once: {self.tokenizer.name} has {most} values of one length."
        )


def filler_of(tokenizer: Tokenizer, text: str | None, folder: Path) -> tuple[np.ndarray, str]:
    """What is read between facts and questions: tokens (N,), and where they come from.

    Args:
        tokenizer: of the model.
        text: a text; None is what the model was validated on, if its run folder is there, else made-up sentences.
        folder: of the checkpoint; its run has the text in the folder beside it.

    Raises:
        UserError: if the text is empty, or the tokenizer cannot express it.
    """
    if text is not None:
        tokens = tokenizer.encode(text)
        if not len(tokens):
            raise UserError("there is nothing to read between facts and questions: the file of --filler is empty.")
        return tokens, "a text"
    prepared = folder.parent / "text"
    if (prepared / HEADER).exists():
        data = TextData(prepared)
        if data.tokenizer.config() == tokenizer.config() and len(data.validation):
            return data.validation.read(0, min(len(data.validation), 2**20)), "the validation text of its training"
    return tokenizer.encode(made_up_text()), "made-up sentences"


def made_up_text(sentences: int = 3000, seed: int = 0) -> str:
    """Sentences of nothing in particular, which name none of the facts."""
    rng = np.random.default_rng(seed)
    parts = [[str(rng.choice(words)) for words in (_WHO, _DID, _WHERE, _THEN)] for _ in range(sentences)]
    return "".join(f" {' '.join(words).capitalize()}." for words in parts)

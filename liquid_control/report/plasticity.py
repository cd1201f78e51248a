"""What the synapses of a language model remember: the test of `models.plasticity` over facts and gaps, in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from rich.table import Table

from liquid_control.models.language_model import LanguageModel
from liquid_control.models.plasticity import ARMS, Head, Teacher, margins, right_choices, take_apart
from liquid_control.support.statistics import bootstrap_interval

CLAIM = "synapses alone"
STRETCH = 128
"""Tokens that are read at once."""
RESAMPLES = 2000
HEAD_COLUMNS = ("block", "head", "half-life, tokens", "share written")


@dataclass(frozen=True)
class Recall:
    """What was known under one arm, of so many facts, after so many tokens."""

    facts: int
    gap: int
    arm: str
    right: np.ndarray
    """(N,) share of right choices of each episode."""
    margin: np.ndarray
    """(N,) by how many nats right values are likelier than the mean of the others."""

    @property
    def mean(self) -> float:
        """Mean share of right choices."""
        return float(self.right.mean())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Its bootstrap interval over episodes, 95 %."""
        return _interval(self.right)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            **{"facts": self.facts, "gap": self.gap, "arm": self.arm, "chance": 1 / self.facts},
            **{"right": round(self.mean, 4), "interval": [round(end, 4) for end in self.interval]},
            "margin": round(float(self.margin.mean()), 4),
            "margin_interval": [round(end, 4) for end in _interval(self.margin)],
            "episodes": self.right.round(4).tolist(),
        }


def _interval(values: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(values, lambda drawn: drawn.mean(-1), resamples=RESAMPLES)


@dataclass(frozen=True)
class PlasticityReport:
    """What a test found."""

    checkpoint: str
    model: str
    """One line about the model."""
    told: str
    """In which words facts are told, and what is read after them."""
    episodes: int
    """Of each seed."""
    seeds: int
    recalls: Sequence[Recall]
    heads: Sequence[Head] = ()
    """Of the fast weights, while what stands between facts and questions is read."""

    @property
    def facts(self) -> list[int]:
        """Facts of an episode, in ascending order."""
        return sorted({each.facts for each in self.recalls})

    @property
    def gaps(self) -> list[int]:
        """Tokens between facts and questions, in ascending order."""
        return sorted({each.gap for each in self.recalls})

    def find(self, facts: int, gap: int, arm: str) -> Recall:
        """What was known there."""
        return next(each for each in self.recalls if (each.facts, each.gap, each.arm) == (facts, gap, arm))

    def half_life(self, facts: int) -> float | None:
        """Tokens after which the synapses alone are half as far above chance as after the shortest gap.

        Straight lines are drawn between the gaps. None where they are not above chance to begin with, or stay above.
        """
        first = self.find(facts, self.gaps[0], CLAIM)
        chance = 1 / facts
        if first.interval[0] <= chance:
            return None
        above = [(self.find(facts, gap, CLAIM).mean - chance) / (first.mean - chance) for gap in self.gaps]
        for place in range(1, len(above)):
            if above[place] <= 0.5:
                share = (above[place - 1] - 0.5) / (above[place - 1] - above[place])
                return self.gaps[place - 1] + share * (self.gaps[place] - self.gaps[place - 1])
        return None

    def table(self) -> Table:
        """Shares of right choices, with their intervals."""
        table = Table(title="share of right choices and its 95 % interval, after so many tokens")
        table.add_column("facts", justify="right")
        table.add_column("what is kept", no_wrap=True)
        for gap in self.gaps:
            table.add_column(f"{gap:,}", justify="right")
        for facts in self.facts:
            for arm in ARMS:
                table.add_row(f"{facts}", arm, *(told(self.find(facts, gap, arm)) for gap in self.gaps))
            table.add_row(f"{facts}", "chance", *(f"{1 / facts:.2f}" for _ in self.gaps), end_section=True)
        return table

    def heads_table(self) -> Table:
        """How each head forgets and writes."""
        table = Table(title="heads of fast weights, while other text is read")
        for name in HEAD_COLUMNS:
            table.add_column(name, justify="right")
        for head in self.heads:
            table.add_row(f"{head.block}", f"{head.head}", long(head.half_life), f"{head.writing:.4f}")
        return table

    def to_json(self) -> str:
        """All numbers."""
        content = {
            **{"checkpoint": self.checkpoint, "model": self.model, "told": self.told},
            **{"episodes": self.episodes, "seeds": self.seeds},
            "half_life": {str(facts): self.half_life(facts) for facts in self.facts},
            "heads": [head._asdict() for head in self.heads],
            "recalls": [each.to_json() for each in self.recalls],
        }
        return json.dumps(content, indent=1) + "\n"


def long(half_life: float) -> str:
    """So many tokens in words."""
    return f"{half_life:,.0f}" if half_life >= 10 else f"{half_life:.1f}"


def told(recall: Recall) -> str:
    """Mean and interval in words."""
    low, high = recall.interval
    return f"{recall.mean:.2f} ({low:.2f}–{high:.2f})"


def measure_recall(
    model: LanguageModel,
    teacher: Teacher,
    facts: Sequence[int],
    gaps: Sequence[int],
    episodes: int,
    seeds: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Recall]:
    """Tests a model with each number of facts and each gap, under all arms.

    Args:
        model: in eval mode.
        teacher: thinks of the facts.
        facts: of an episode, each ≥ 2.
        gaps: tokens between facts and questions.
        episodes: that are read side by side, ≥ 2: each gets the synapses of another.
        seeds: how many times so many episodes are drawn.
        progress: is told the share that is done.

    Raises:
        UserError: if the teacher knows no so many facts.
    """
    recalls = []
    cells = list(product(facts, gaps))
    for place, (count, gap) in enumerate(cells):
        found: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
        for seed in range(seeds):
            drawn = teacher.draw(episodes, count, gap, np.random.default_rng([seed, count, gap]))
            for arm, scores in take_apart(model, drawn, STRETCH).items():
                found[arm].append(scores)
            progress((place + (seed + 1) / seeds) / len(cells))
        for arm, parts in found.items():
            scores = np.concatenate(parts)
            recalls.append(Recall(count, gap, arm, right_choices(scores), margins(scores)))
    return recalls

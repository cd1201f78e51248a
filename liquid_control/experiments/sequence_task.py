"""What a sequence task is: its data, what is asked, how answers are scored, and how a training of it begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from torch import nn

from liquid_control.data.sequences import SequenceSplits

Metric = Callable[[np.ndarray, np.ndarray], float]
"""From answers, one row an answer, and what was right, to a number. Answers are logits (N, K) for classes, else values
(N, D); padding has been left out."""


@dataclass(frozen=True)
class Recipe:
    """One choice of options for a training, and a point of the search. JSON values only."""

    rate: float = 5e-3
    """Highest learning rate of AdamW."""
    size: float = 1.0
    """Share of the task's parameters that the cell with its head may have."""
    batch: int = 64
    """Sequences of a gradient step."""
    head: str = "linear"
    """What makes answers of the cell's outputs: "linear", "mlp" with one hidden layer as wide as the cell, or "deep"
    with two that are twice as wide and see the inputs, too."""
    dropout: float = 0.0
    """Share of the cell's outputs that is left out in training."""
    weight_decay: float = 1e-5
    """Of AdamW."""
    noise: float = 0.0
    """Standard deviation of the noise on inputs in training, in standard deviations of the inputs."""
    residual: bool = False
    """Whether the answer is added to the present input (tasks that ask for the next one)."""
    elapsed_input: bool = True
    """Whether cells that time drives see the elapsed time as an input as well. Others always do."""
    time_scale: float = 1.0
    """What elapsed times are multiplied by before a cell that time drives gets them, besides the task's own unit."""
    activation: str = "lecun_tanh"
    """Of the backbone of a CfC, one of those that it knows; other cells have none."""


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds whose logarithms are spread evenly."""

    low: float
    high: float


Space = Mapping[str, Range | tuple[Any, ...]]
"""What a search chooses, by the names of :class:`Recipe`: from a range, or one of several values."""

SPACE: Space = {
    "rate": Range(1e-3, 3e-2),
    "size": (0.25, 0.5, 1.0),
    "batch": (32, 64, 128),
    "head": ("linear", "mlp"),
    "dropout": (0.0, 0.1, 0.25),
    "weight_decay": Range(1e-6, 1e-1),
    "elapsed_input": (True, False),
    "time_scale": (0.5, 1.0, 2.0),
}
"""What every search chooses; a task may put ranges of its own in their place, and add to them."""


@dataclass(frozen=True)
class SequenceTask:
    """A task of sequences with elapsed times.

    Attributes:
        name: on the command line.
        summary: a line for the help.
        protocols: how data are split or shown, by name, each with a line that says it; the first is the default.
        load: the data of a protocol and a fold.
        answer: asked once, at the last real step ("last"), or at each step ("steps").
        every_step: whether an answer that is asked for once is taught at each step; targets then have steps.
        classes: whether one of several classes is asked for, else values.
        metrics: how answers are scored, by name; the first decides. A value that is asked for and is NaN is not asked
            for: it enters neither loss nor metric.
        higher: whether more of the first metric is better.
        epochs: passes over the training data of one training.
        trial_epochs: the same of a trial of the search; 0 stands for ``epochs``.
        parameters: of the largest network that a search may choose, its eyes aside.
        recipe: the first trial of every search.
        space: of the search, laid over :data:`SPACE`.
        curriculum: share of a training in which sequences grow from the shortest on as they are learned; 0 is none.
        eyes: makes what turns inputs (B, T, C) into features (B, T, ``features``) in front of every cell; None: cells
            get the inputs.
        standardise: whether inputs are shifted and scaled by the mean and deviation of the training data.
        time_unit: what elapsed times are multiplied by before a cell that time drives gets them.
        folds: how often data are split, by protocol; where none is named, once. A training is then one of each fold,
            and its scores are means over them.
        leak: what a classifier scores that sees nothing but where a test row stands, by protocol; see the task.
        published: numbers of others by protocol and cell, in the unit of the first metric.
        source: of these numbers.
    """

    name: str
    summary: str
    protocols: Mapping[str, str]
    load: Callable[[str, int], SequenceSplits]
    answer: Literal["last", "steps"]
    classes: bool
    metrics: Mapping[str, Metric]
    higher: bool
    epochs: float
    parameters: int
    recipe: Recipe = Recipe()
    space: Space = field(default_factory=dict)
    trial_epochs: float = 0
    every_step: bool = False
    curriculum: float = 0.0
    eyes: Callable[[], nn.Module] | None = None
    standardise: bool = True
    time_unit: float = 1.0
    folds: Mapping[str, int] = field(default_factory=dict)
    leak: Callable[[str], float] | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    source: str = ""

    @property
    def by_step(self) -> bool:
        """Whether targets have steps."""
        return self.every_step or self.answer == "steps"

    @property
    def metric(self) -> str:
        """The name of the first metric."""
        return next(iter(self.metrics))

    @property
    def whole_space(self) -> Space:
        """:data:`SPACE` with what this task has in its place."""
        return {**SPACE, **self.space}

    @property
    def search(self) -> str:
        """What tells this task's search and training from another's: the first 16 digits of a sha256.

        Of the recipe only what is not at its default: an option that came later, and is not used, changes nothing.
        """
        plain, recipe = asdict(Recipe()), asdict(self.recipe)
        own = sorted((name, value) for name, value in recipe.items() if value != plain[name])
        told = [own, sorted(self.whole_space.items()), self.curriculum, self.time_unit, self.every_step]
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def better(self, one: float, other: float) -> bool:
        """Whether one value of the first metric is better than another; NaN is worse than any."""
        if np.isnan(one) or np.isnan(other):
            return bool(np.isnan(other) and not np.isnan(one))
        return one > other if self.higher else one < other


def accuracy(answers: np.ndarray, right: np.ndarray) -> float:
    """Per cent of the answers whose largest logit is that of the right class."""
    return float(100 * (answers.argmax(1) == right).mean())


def balanced_accuracy(answers: np.ndarray, right: np.ndarray) -> float:
    """:func:`accuracy` of each class that occurs, averaged over classes."""
    hit = answers.argmax(1) == right
    return float(100 * np.mean([hit[right == one].mean() for one in np.unique(right)]))


def mean_squared_error(answers: np.ndarray, right: np.ndarray) -> float:
    """Mean over answers and their dimensions."""
    return float(np.square(answers.reshape(right.shape).astype(np.float64) - right).mean())


def root_mean_squared_error(answers: np.ndarray, right: np.ndarray) -> float:
    """Square root of :func:`mean_squared_error`."""
    return float(np.sqrt(mean_squared_error(answers, right)))

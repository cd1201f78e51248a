"""One training of a cell on a sequence task, by one thread.

AdamW, its rate warmed up and then falling along a cosine; clipped gradients; batches of sequences that are about as
long; the weights that were best on validation data.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liquid_control.data.sequences import SequenceSet
from liquid_control.experiments.sequence_cells import CELLS, CellShape, count, outputs, widest
from liquid_control.experiments.sequence_task import Recipe, SequenceTask
from liquid_control.nn import last_valid
from liquid_control.nn.dropout import dropout

WARM_UP = 0.05
"""Share of a training in which the rate rises."""
LAST_RATE = 0.02
"""Of the highest rate, at the end."""
CLIP = 1.0
"""Largest norm of a gradient."""
ALIKE = 16
"""Batches whose sequences are drawn together and then sorted by length."""
LEARNED = 0.1
"""Loss below which a curriculum goes on."""
AT_ONCE = 500
"""Sequences that are scored at once."""


class Sequences:
    """A :class:`SequenceSet` as tensors, with the length of each sequence."""

    def __init__(self, given: SequenceSet):
        self.x, self.elapsed, self.mask, self.target = (torch.from_numpy(np.ascontiguousarray(part)) for part in given)
        steps = torch.arange(1, self.mask.shape[1] + 1)
        self.lengths = torch.where(self.mask, steps, 0).amax(1).numpy()
        self.whole = bool(self.mask.all())

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, places: np.ndarray, by_step: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """x, elapsed, mask and target of some sequences, cut to the longest of them.

        Args:
            places: of the sequences.
            by_step: whether targets have steps.
        """
        index = torch.from_numpy(places)
        if self.whole:
            return self.x[index], self.elapsed[index], None, self.target[index]
        end = max(1, int(self.lengths[places].max()))
        target = self.target[:, :end] if by_step else self.target
        return self.x[index, :end], self.elapsed[index, :end], self.mask[index, :end], target[index]


class SequenceModel(nn.Module):
    """A cell between inputs, which it sees standardised, and a head that answers.

    Args:
        task: what is asked.
        recipe: the options of the network.
        cell: its name in :data:`~liquid_control.experiments.sequence_cells.CELLS`.
        units: of the cell.
        shape: of the data: inputs, steps of the longest sequence, and numbers of an answer.
    """

    input_mean: Tensor
    input_scale: Tensor
    elapsed_mean: Tensor
    elapsed_scale: Tensor
    answer_mean: Tensor
    answer_scale: Tensor

    def __init__(self, task: SequenceTask, recipe: Recipe, cell: str, units: int, shape: tuple[int, int, int]):
        super().__init__()
        inputs, steps, answers = shape
        kind = CELLS[cell]
        self.task, self.recipe = task, recipe
        self.sees_elapsed = recipe.elapsed_input or not kind.timed
        self.eyes = task.eyes() if task.eyes else nn.Identity()
        features: int = getattr(self.eyes, "features", inputs)
        self.cell = kind.build(CellShape(features + self.sees_elapsed, units, steps, recipe.activation))
        width: int = self.cell.output_size  # type: ignore[assignment]
        self.head = _head(recipe.head, width, features + self.sees_elapsed, answers)
        self.register_buffer("input_mean", torch.zeros(inputs))
        self.register_buffer("input_scale", torch.ones(inputs))
        self.register_buffer("elapsed_mean", torch.zeros(()))
        self.register_buffer("elapsed_scale", torch.ones(()))
        self.register_buffer("answer_mean", torch.zeros(answers))
        self.register_buffer("answer_scale", torch.ones(answers))

    def fit_scales(self, data: Sequences) -> None:
        """Takes means and deviations of inputs and values from training data, one number for each dimension."""
        seen = data.x[data.mask]
        if self.task.standardise:
            self.input_mean.copy_(seen.mean(0))
            self.input_scale.copy_(seen.std(0).clamp(min=1e-3))
        passed = data.elapsed[data.mask]
        self.elapsed_mean.copy_(passed.mean())
        self.elapsed_scale.copy_(passed.std().clamp(min=1e-3))
        if not self.task.classes:
            wanted = data.target[data.mask] if self.task.by_step else data.target
            wanted = wanted.reshape(len(wanted), -1)
            if self.recipe.residual:
                wanted = wanted - (seen if self.task.by_step else last_valid(data.x, data.mask))
            wanted = wanted[wanted.isfinite().all(1)]
            self.answer_mean.copy_(wanted.mean(0))
            self.answer_scale.copy_(wanted.std(0).clamp(min=1e-6))

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
        """Answers: (B, K) of the last real step, or (B, T, K) of each; logits for classes, else values.

        A task that is asked once and taught at every step gives those of each step in training.
        """
        seen = (x - self.input_mean) / self.input_scale
        if self.training and self.recipe.noise:
            seen = seen + self.recipe.noise * torch.randn_like(seen)
        seen = self.eyes(seen)
        if self.sees_elapsed:
            seen = torch.cat([seen, ((elapsed - self.elapsed_mean) / self.elapsed_scale)[..., None]], -1)
        last = self.task.answer == "last" and not (self.task.every_step and self.training)
        y = outputs(self.cell, seen, elapsed * (self.recipe.time_scale * self.task.time_unit), mask, last)
        y = dropout(y, self.recipe.dropout) if self.training else y
        if self.recipe.head == "deep":
            y = torch.cat([y, last_valid(seen, mask) if last else seen], -1)
        answers: Tensor = self.head(y)
        if self.task.classes:
            return answers
        answers = self.answer_mean + self.answer_scale * answers
        if self.recipe.residual:
            answers = answers + (last_valid(x, mask) if last else x)
        return answers

    def loss(self, answers: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Cross entropy of classes, else the squared error in units of the targets' variance."""
        if self.task.by_step:
            answers, target = (answers[mask], target[mask]) if mask is not None else (answers, target)
            answers = answers.flatten(0, -2)
        if self.task.classes:
            return F.cross_entropy(answers, target.flatten())
        target = target.reshape(answers.shape)
        asked = target.isfinite()
        error = torch.where(asked, answers - target, 0).square().sum() / asked.sum()
        return error / self.answer_scale.square().mean()


def _head(kind: str, width: int, inputs: int, answers: int) -> nn.Module:
    """What makes answers (…, answers) of a cell's outputs (…, width), behind which the deep one gets the inputs."""
    if kind == "linear":
        return nn.Linear(width, answers)
    sizes = [width, width] if kind == "mlp" else [width + inputs, 2 * width, 2 * width]
    hidden = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], answers))


@dataclass
class Trained:
    """What came of a training."""

    model: SequenceModel
    row: dict[str, Any]
    """parameters, units, seconds an epoch, epochs, and the metrics of the best weights on validation data."""


def build(task: SequenceTask, recipe: Recipe, cell: str, data: Sequences) -> tuple[SequenceModel, int]:
    """The network of a recipe, and its number of units: as many as the recipe's share of parameters allows.

    The eyes of a task are the same for all cells and come on top.
    """
    answers = data.target.shape[-1] if data.target.dim() == (3 if task.by_step else 2) else 1
    if task.classes:
        answers = int(data.target.max()) + 1
    shape = data.x.shape[2], data.x.shape[1], answers

    def network(units: int) -> SequenceModel:
        return SequenceModel(task, recipe, cell, units, shape)

    kind = CELLS[cell]
    eyes = count(task.eyes()) if task.eyes else 0
    units = widest(network, eyes + int(recipe.size * kind.share * task.parameters), kind.multiple)
    return network(units), units


def batches(
    data: Sequences,
    size: int,
    steps: int,
    curriculum: float,
    rng: np.random.Generator,
    learned: Callable[[], bool] = lambda: True,
) -> Iterator[np.ndarray]:
    """Places of the sequences of each gradient step.

    Without a curriculum each pass takes every sequence once, the last few that fill no batch aside. With one, sequences
    of up to so many steps are drawn, the shortest at first; one step more whenever these have been learned, and at
    least as many as if the length grew evenly.

    Args:
        data: that is drawn from.
        size: sequences of a batch.
        steps: how many batches.
        curriculum: share of the steps in which length grows.
        rng: draws.
        learned: whether those of the last :data:`ALIKE` batches have been.
    """
    size = min(size, len(data))
    by_length = np.argsort(data.lengths, kind="stable")
    lengths = data.lengths[by_length]
    longest = lengths[0]
    rest = np.empty(0, np.int64)
    done = 0
    while done < steps:
        if done < curriculum * steps and longest < lengths[-1]:
            due = lengths[0] + (lengths[-1] - lengths[0]) * done / (curriculum * steps)
            longest = max(longest + (done == 0 or learned()), int(due))
            known = max(size, int(np.searchsorted(lengths, longest, side="right")))
            drawn = by_length[rng.integers(known, size=size * ALIKE)]
        else:
            if len(rest) < size:
                rest = rng.permutation(len(data))
            drawn, rest = rest[: size * ALIKE], rest[size * ALIKE :]
            drawn = drawn[: len(drawn) // size * size]
        drawn = drawn[np.argsort(data.lengths[drawn], kind="stable")]
        for batch in rng.permutation(drawn.reshape(-1, size)):
            if done < steps:
                done += 1
                yield batch


@torch.no_grad()
def score(model: SequenceModel, data: Sequences) -> dict[str, float]:
    """Every metric of the task on some data."""
    task = model.task
    model.eval()
    answers, right = [], []
    order = np.argsort(data.lengths, kind="stable")
    for places in np.array_split(order, math.ceil(len(order) / AT_ONCE)):
        x, elapsed, mask, target = data.rows(places, task.by_step)
        given = model(x, elapsed, mask)
        if task.answer == "steps":
            given, target = (part.flatten(0, 1) if mask is None else part[mask] for part in (given, target))
        elif task.every_step:
            target = last_valid(target[..., None], mask)[:, 0]
        answers.append(given.numpy())
        right.append(target.numpy())
    given, wanted = np.concatenate(answers), np.concatenate(right)
    if not task.classes:
        wanted = wanted.reshape(given.shape)
        asked = np.isfinite(wanted).all(1)
        given, wanted = given[asked], wanted[asked]
    if not np.isfinite(given).all():
        return dict.fromkeys(task.metrics, math.nan)
    return {name: metric(given, wanted) for name, metric in task.metrics.items()}


Progress = Callable[[float, dict[str, float]], None]
"""Told now and then: the share that is done, and scalars by name, if there are new ones."""


def train(
    task: SequenceTask,
    train_data: Sequences,
    validation: Sequences,
    cell: str,
    recipe: Recipe,
    seed: int,
    epochs: float,
    progress: Progress = lambda done, scalars: None,
) -> Trained:
    """Trains a cell.

    Args:
        task: what is asked.
        train_data: that gradients come from.
        validation: that the weights are chosen by.
        cell: its name.
        recipe: the options.
        seed: of weights, batches and noise.
        epochs: passes over the training data.
        progress: is told how far it is.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 20])
    model, units = build(task, recipe, cell, train_data)
    model.fit_scales(train_data)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=recipe.weight_decay, fused=True)
    an_epoch = max(1, len(train_data) // recipe.batch)
    steps = max(1, round(epochs * an_epoch))
    best, kept, best_step = dict.fromkeys(task.metrics, math.nan), model.state_dict(), 0
    spent, begin, losses = 0.0, time.perf_counter(), []
    recent = deque[Tensor](maxlen=ALIKE)

    def learned() -> bool:
        return float(torch.stack(list(recent)).mean()) < LEARNED

    for step, places in enumerate(batches(train_data, recipe.batch, steps, task.curriculum, rng, learned)):
        done = step / steps
        rate = recipe.rate * min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
        rate *= LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        x, elapsed, mask, target = train_data.rows(places, task.by_step)
        loss = model.loss(model(x, elapsed, mask), target, mask)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.detach())
        recent.append(losses[-1])
        if (step + 1) % an_epoch == 0 or step + 1 == steps:
            spent += time.perf_counter() - begin
            mean = float(torch.stack(losses).mean())
            losses = []
            found = score(model, validation)
            if task.better(found[task.metric], best[task.metric]):
                best, best_step = found, step + 1
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            progress((step + 1) / steps, {"loss": mean, "rate": rate} | found)
            if not math.isfinite(mean):
                break  # it does not come back from there
            begin = time.perf_counter()
        elif step % 20 == 0:
            progress(step / steps, {})
    model.load_state_dict(kept)
    row = {
        **{"units": units, "parameters": count(model), "epochs": epochs, "best_epoch": round(best_step / an_epoch, 2)},
        **{"seconds_per_epoch": spent * an_epoch / (step + 1), "validation": best},
    }
    return Trained(model, row)

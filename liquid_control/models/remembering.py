"""A language model that remembers the work of its feed-forward parts, and leaves out what it is sure of.

For each part: a cube that holds what it made of inputs before, a student that learns beside it, and the influence that
the student has earned (`liquid_control.models.cubes`, `student`, `influence`). Of the inputs x of a part:

    recall what is near x;  the student guesses r̂ and how wrong that is
    the part runs where the student is not sure enough to skip, and on audits:  r
    what goes on is r̂ where the part was skipped, r mixed with r̂ by influence where it ran
    audits move the influence;  where the part ran, student and cube learn

Without influence r itself goes on, so the model says what it says without all this, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from liquid_control.models.cubes import Cube, Cubes
from liquid_control.models.influence import Influence, InfluenceConfig
from liquid_control.models.language_model import Block, LanguageModel
from liquid_control.models.student import Distillation, LiquidStudent, relative_error
from liquid_control.nn.hybrid import SwiGLU


@dataclass
class PartMemory:
    """What is remembered of one feed-forward part, and what that saved."""

    cube: Cube
    distillation: Distillation
    influence: Influence
    generator: torch.Generator
    """Of audits."""
    learns: bool = True
    """Whether student, cube and influence go on learning."""
    state: Tensor | None = None
    """Of the student; None begins anew. It belongs to the texts that are read side by side."""
    inputs: int = 0
    """Inputs so far."""
    skipped: int = 0
    """Those for which the part did not run."""
    spent: int = 0
    """Multiplications by reading and by the student, of all inputs; learning is not counted."""
    history: list[float] = field(default_factory=list)
    """The influence after each call."""

    def saved(self, feed: SwiGLU) -> int:
        """Multiplications that were saved, net: of the parts that did not run, less what was spent."""
        return self.skipped * sum(weight.numel() for weight in feed.parameters()) - self.spent


def memories(
    model: LanguageModel, cubes: Cubes, units: int, config: InfluenceConfig | None = None, seed: int = 0
) -> list[PartMemory]:
    """Fresh students without influence, beside the cubes of a model's parts.

    Args:
        model: whose parts are to be remembered.
        cubes: with a layer for each block, as wide as the model.
        units: liquid neurons of each student.
        config: the rules of influence.
        seed: of students and audits.

    Raises:
        ValueError: if the cubes do not fit the model.
    """
    blocks, width = len(_blocks(model)), model.config.width
    if (len(cubes.layers), cubes.config.width) != (blocks, width):
        raise ValueError(
            f"cubes of {len(cubes.layers)} layers of width {cubes.config.width} do not fit a model of {blocks} blocks "
            f"of width {width} with feed-forward parts."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        students = [LiquidStudent(width, units).to(model.embedding.weight.device) for _ in cubes.layers]
    return [
        PartMemory(
            cube,
            Distillation(student),
            Influence(config or InfluenceConfig()),
            torch.Generator().manual_seed(seed + layer),
        )
        for layer, (cube, student) in enumerate(zip(cubes.layers, students, strict=True))
    ]


@contextmanager
def remembering(model: LanguageModel, parts: Sequence[PartMemory]) -> Iterator[None]:
    """For its block the model's feed-forward parts remember. It is for reading: no gradient goes through them.

    Weights, their names and their digest stay what they are.

    Raises:
        ValueError: if there are not as many memories as parts.
    """
    blocks = _blocks(model)
    if len(blocks) != len(parts):
        raise ValueError(f"{len(parts)} memories for {len(blocks)} feed-forward parts.")
    before = [block.feed for block in blocks]
    try:
        for block, feed, part in zip(blocks, before, parts, strict=True):
            block.feed = RememberedFeed(feed, part)
        yield
    finally:
        for block, feed in zip(blocks, before, strict=True):
            block.feed = feed


def _blocks(model: LanguageModel) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


class RememberedFeed(SwiGLU):
    """A feed-forward part with a memory, which is no module: the state dict is that of the part.

    Args:
        feed: the part.
        part: what is remembered of it.
    """

    def __init__(self, feed: SwiGLU, part: PartMemory):
        nn.Module.__init__(self)
        self.expand, self.contract = feed.expand, feed.contract
        self.part = part

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """From (B, T, d) to the same."""
        part, flat = self.part, x.flatten(0, 1)
        student, influence = part.distillation.student, part.influence
        if part.state is not None and len(part.state) != len(x):
            part.state = None  # other texts
        recall = part.cube.read(flat)
        guess = student(x, recall, part.state)
        skips = influence.skips(guess.log_error)
        audits = influence.audits(len(flat), part.generator).view(skips.shape).to(x.device)
        runs = ~skips | audits
        if runs.all():
            made = super().forward(x)
        else:
            made = torch.zeros_like(x)
            made[runs] = super().forward(x[runs])
        part.inputs, part.skipped = part.inputs + runs.numel(), part.skipped + int((~runs).sum())
        part.spent += recall.operations + len(flat) * student.operations()
        told = torch.where(runs[..., None], influence.mix(made, guess.residual, guess.log_error), guess.residual)
        told = made if influence.cap == 0 else told
        if part.learns:
            influence.judge(guess.log_error[audits].cpu(), relative_error(guess.residual, made)[audits].cpu())
            part.distillation.learn(x, recall, made, part.state, runs)
            part.cube.write(x[runs], made[runs])
        part.state = guess.state
        part.history.append(influence.cap)
        return told

"""A network that remembers the work of its feed-forward parts, and leaves out what it is sure of.

Any network whose blocks have such a part, :class:`liquid_control.nn.hybrid.SwiGLU`, under the name ``feed``: a language
model, a driver of hybrid blocks, a stack of :class:`liquid_control.nn.ResidualBlock`.

For each part: a cube that holds what it made of inputs before, a student that learns beside it, and the influence that
the student has earned (`liquid_control.models.cubes`, `student`, `influence`). Of the inputs x of a part:

    recall what is near x;  the student guesses r̂ and how wrong that is
    the part runs where the student is not sure enough to skip, and on audits:  r
    what goes on is r̂ where the part was skipped, r mixed with r̂ by influence where it ran
    audits move the influence;  where the part ran, student and cube learn

While nothing is skipped every input is an audit, so influence is earned as fast as a text is read.

Without influence r itself goes on, so the network answers what it answers without all this, to the bit.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from liquid_control.models.cubes import Cube, Cubes
from liquid_control.models.influence import Influence, InfluenceConfig
from liquid_control.models.student import Distillation, LiquidStudent
from liquid_control.nn.hybrid import SwiGLU

CLOCKS = ("part", "reading", "student", "learning")
"""What takes time: the part where it runs, its cube's reading, the student's guess, and all that learns."""
COUNTERS = ("inputs", "hits", "skipped", "audited", "spent", "learned")
"""What :class:`PartMemory` counts."""


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
    """Of the student; None begins anew. It belongs to the texts that are read side by side, or to a drive."""
    inputs: int = 0
    """Inputs so far."""
    hits: int = 0
    """Those that a cube knew: so near to an entry that they are not written for being new."""
    skipped: int = 0
    """Those for which the part did not run."""
    audited: int = 0
    """Those for which it ran although the student was sure enough to skip."""
    spent: int = 0
    """Multiplications by reading and by the student, of all inputs; learning is not counted."""
    learned: int = 0
    """Multiplications by learning: the student's backward pass, and writing, which keeps keys and summaries."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CLOCKS, 0.0))
    """Where time went, see :data:`CLOCKS`."""
    shared: float = 0.0
    """Sum of the influence on all inputs: how much of what went on was the student's."""
    history: list[float] = field(default_factory=list)
    """What influence the student had earned after each call of this process."""
    shares: list[float] = field(default_factory=list)
    """Mean influence on the inputs of each call of this process."""

    def begin(self, batch: int) -> None:
        """Forgets the student's state if it is of other texts: of another number."""
        if self.state is not None and len(self.state) != batch:
            self.state = None

    def counts(self) -> dict[str, int]:
        """Its counters by name, see :data:`COUNTERS`."""
        return {name: getattr(self, name) for name in COUNTERS}

    def saved(self, feed: SwiGLU) -> int:
        """Multiplications that were saved, net: of the parts that did not run, less what was spent.

        Audits are counted, for where a part was audited it was not skipped.
        """
        return self.skipped * sum(weight.numel() for weight in feed.parameters()) - self.spent

    def seconds_saved(self) -> float:
        """The same in seconds: skipped inputs would have taken as long as those for which the part ran."""
        ran = self.inputs - self.skipped
        each = self.seconds["part"] / ran if ran else 0.0
        return self.skipped * each - self.seconds["reading"] - self.seconds["student"]


def memories(
    model: nn.Module, cubes: Cubes, units: int, config: InfluenceConfig | None = None, seed: int = 0
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
    there = feeds(model)
    widths = {feed.width for feed in there}
    if len(cubes.layers) != len(there) or widths != {cubes.config.width}:
        raise ValueError(
            f"cubes of {len(cubes.layers)} layers of width {cubes.config.width} do not fit a model of {len(there)} "
            f"blocks of width {', '.join(map(str, sorted(widths)))} with feed-forward parts."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        students = [LiquidStudent(feed.width, units).to(feed.contract.weight.device) for feed in there]
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
def remembering(model: nn.Module, parts: Sequence[PartMemory]) -> Iterator[None]:
    """For its block the model's feed-forward parts remember. It is for reading: no gradient goes through them.

    Weights, their names and their digest stay what they are. No step may be padding: it would be remembered, too.

    Raises:
        ValueError: if there are not as many memories as parts, or the model's numbers are not of single precision.
    """
    with replacing_feeds(model, parts, RememberedFeed):
        yield


@contextmanager
def replacing_feeds(
    model: nn.Module, parts: Sequence[PartMemory], replace: Callable[[SwiGLU, PartMemory], SwiGLU]
) -> Iterator[None]:
    """For its block something else stands in the place of each feed-forward part, whatever happens there.

    Raises:
        ValueError: if there are not as many memories as parts, or the parts' numbers are not of single precision.
    """
    blocks, before = _blocks(model), feeds(model)
    if len(blocks) != len(parts):
        raise ValueError(f"{len(parts)} memories for {len(blocks)} feed-forward parts.")
    kinds = {weight.dtype for feed in before for weight in feed.parameters()}
    if kinds - {torch.float32}:
        raise ValueError(f"a model remembers in torch.float32, and this one has {', '.join(map(str, kinds))}.")
    try:
        for block, feed, part in zip(blocks, before, parts, strict=True):
            block.feed = replace(feed, part)
        yield
    finally:
        for block, feed in zip(blocks, before, strict=True):
            block.feed = feed


def feeds(model: nn.Module) -> list[SwiGLU]:
    """The feed-forward parts of a network, in their order."""
    return [block.get_submodule("feed") for block in _blocks(model)]  # type: ignore[misc]


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [block for block in model.modules() if isinstance(getattr(block, "feed", None), SwiGLU)]


class StandIn(SwiGLU):
    """What stands in the place of a feed-forward part. Its memory is no module: the state dict is that of the part.

    Args:
        feed: the part.
        part: what is remembered of it.
    """

    def __init__(self, feed: SwiGLU, part: PartMemory):
        nn.Module.__init__(self)
        self.expand, self.contract = feed.expand, feed.contract
        self.part = part

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """From (B, T, d) to the same.

        Raises:
            ValueError: if a step is padding.
        """
        if mask is not None and not mask.all():
            raise ValueError(
                "a model that remembers reads no padding, which it would learn from: give it texts of one length, or "
                "one after another."
            )
        return self.answer(x) if x[..., 0].numel() else x

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor:
        """What goes on, from real inputs (B, T, d) to the same."""

    def run(self, x: Tensor) -> Tensor:
        """What the part itself makes of inputs."""
        return super().forward(x)


class RememberedFeed(StandIn):
    """A feed-forward part that remembers."""

    def answer(self, x: Tensor) -> Tensor:
        """See :class:`StandIn`."""
        with torch.inference_mode(False), torch.no_grad():
            return self._remember(x.clone() if x.is_inference() else x)  # of the former nothing could be learned

    def _remember(self, x: Tensor) -> Tensor:
        part, flat, number, clock = self.part, x.flatten(0, 1), x[..., 0].numel(), _Clock(self.part.seconds, x.device)
        student, influence = part.distillation.student, part.influence
        part.begin(len(x))
        before = part.state
        recall = part.cube.read(flat)
        clock.lap("reading")
        # Its graph is what it learns from below. A single input that may be skipped is seldom learned from.
        if part.learns and not (number == 1 and influence.skipping):
            with torch.enable_grad():
                guessed = student(x.detach(), recall, before)
            guess = guessed.detach()
        else:
            guess = guessed = student(x, recall, before)
        thought = guess.log_error.cpu().numpy().ravel()
        skips, audits = influence.skips(thought), influence.audits(number, part.generator).numpy()
        runs = audits | ~skips
        running, sure = int(runs.sum()), int(skips.sum())
        clock.lap("student")
        if running == number:
            made = self.run(x)
        elif running:
            ran = torch.from_numpy(runs).to(x.device)
            made = guess.residual.flatten(0, 1).clone()
            made[ran] = self.run(flat[ran])
            made = made.view_as(x)
        else:
            made = guess.residual
        clock.lap("part")
        told = influence.mix(made, guess.residual, guess.log_error) if running else made
        share = float(sure if influence.skipping else influence.of(thought).sum())
        part.inputs, part.skipped = part.inputs + number, part.skipped + number - running
        part.audited += running + sure - number
        part.hits += int((1 - recall.similarity.cpu().numpy() < part.cube.config.novel).sum())
        part.spent += recall.operations + number * student.operations()
        part.shared += share
        part.shares.append(share / number)
        part.state = guess.state
        clock.lap("student")
        if part.learns and running:
            if not guessed.residual.requires_grad:
                with torch.enable_grad():
                    guessed = student(x.detach(), recall, before)
            ran = torch.from_numpy(runs).to(x.device)
            errors = part.distillation.correct(guessed, made, ran.view(x.shape[:2]))
            influence.judge(thought[audits], errors.cpu().numpy().ravel()[audits])
            spent = part.cube.operations
            part.cube.write(flat[ran], made.flatten(0, 1)[ran], recall.rows(ran))
            part.learned += part.cube.operations - spent + 2 * number * student.operations()
            clock.lap("learning")
        part.history.append(influence.cap)
        return told


class _Clock:
    """Adds what has passed to one of several clocks; what a GPU was asked for is waited for."""

    def __init__(self, seconds: dict[str, float], device: torch.device):
        self.seconds, self.device = seconds, device
        self.since = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] += now - self.since
        self.since = now

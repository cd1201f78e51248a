"""``python -m liquid_control.experiments.second_pass FOLDER NOVELS``: what memory of a first pass saves in a second.

A transformer learns from all novels of a folder but two. Then it reads the beginning of one that it has never seen, in
windows, and what its feed-forward parts do is learned: by cubes and students, by students without cubes, and by cubes
of a quarter of that size. Then nothing learns any more. The same text is read again, its windows cut elsewhere, so
that nearly every input is another one; then what follows in the book, and a text of another domain. Each time a share
of the work is left out, and each arm has its own way to choose where, and what stands in (:data:`ARMS`). What counts is
the loss that this adds, beside the operations that it saves, net of what choosing and guessing cost. Where it was
stopped, the same command goes on.
"""

from __future__ import annotations

import functools
import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn import functional as F

from liquid_control.data.tokenizers import Tokenizer
from liquid_control.experiments.study import Results, find_novels, identity_of, measuring, train_language_model
from liquid_control.models.cubes import BLOCK, CubeConfig, Cubes
from liquid_control.models.generation import load_with_tokenizer
from liquid_control.models.language_model import LanguageModel
from liquid_control.models.memory_file import load_memories, save_memories
from liquid_control.models.remembering import PartMemory, StandIn, feeds, memories, replacing_feeds
from liquid_control.nn.hybrid import SwiGLU
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.files import read_text, write_atomically
from liquid_control.support.ranges import Count, Size

PROGRAM = "python -m liquid_control.experiments.second_pass"
ROOM = 1.25
"""Entries that a cube for a text has room for, as a multiple of its tokens: blocks of neighbours are not all full."""


@dataclass(frozen=True)
class Arm:
    """How work is chosen that is left out, and what stands in."""

    memory: str
    """Which memory: book, quarter, or student (cubes that stay empty)."""
    chooses: str
    """student: the error that it expects. novelty: of the nearest entry. chance: as many tokens as the first arm."""
    guesses: str
    """student, cube, or mean: the part's mean residual over the first pass."""


ARMS = {
    "cubes and student": Arm("book", "student", "student"),
    "a quarter of the memory": Arm("quarter", "student", "student"),
    "student alone": Arm("student", "student", "student"),
    "memory alone": Arm("book", "novelty", "cube"),
    "memory alone, a quarter": Arm("quarter", "novelty", "cube"),
    "random tokens": Arm("book", "chance", "student"),
    "mean residual": Arm("book", "student", "mean"),
}
"""``cubes and student`` is the claim. ``random tokens`` leaves out as many as that, with its guesses; ``mean residual``
leaves out the same tokens, with none."""


@dataclass(frozen=True)
class SecondPassConfig:
    """Trains a transformer on novels, and tells what a memory of its work saves on a book that it reads again."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: runs/second-pass, say. A measurement is a line of results.jsonl, the table is in report.md."""
    novels: Annotated[Path, tyro.conf.arg(metavar="NOVELS")]
    """A folder of *.txt, at least three."""
    unseen: tuple[str, str] = ("middlemarch", "moby-dick-or-the-whale")
    """Names of two that are not learned from, without .txt: the book, and what is read after it."""
    other: Path | None = None
    """A text of another domain to read after the book; None is the second of the unseen."""
    steps: Count = 3200
    """Gradient steps of the training, each of 16 windows."""
    width: Count = 256
    """Of the model."""
    blocks: Count = 3
    """Of the model; of each the feed-forward part is remembered."""
    expansion: Annotated[float, Gt(0)] = 4.0
    """Width of the feed-forward part, in widths."""
    pattern: tuple[str, ...] = ("hybrid", "attention")
    """Mixers of the blocks, in turn."""
    window: Count = 128
    """Tokens of a window, which attention sees."""
    tokens: Count = 40_960
    """Of the first pass: the beginning of the book."""
    shift: Count = 37
    """Tokens by which the windows of the second pass are cut elsewhere."""
    read: Count = 8192
    """Tokens of each text that arms are measured on, spread over it."""
    calibrated: Count = 2048
    """Tokens of a text, before those, that thresholds are set on."""
    aims: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.2, 0.4, 0.6, 0.8, 0.9)
    """Shares of the work that are to be left out."""
    units: Count = 16
    """Liquid neurons of a student."""
    key_size: Count = 32
    """Numbers of a key."""
    probed: Count = 6
    """Blocks of a cube that are looked at."""
    batch: Size = 16
    """Windows that are read side by side, after the first pass."""


# The first pass


class TaughtFeed(StandIn):
    """A part that runs, and whose memory learns from it.

    Args:
        feed: the part.
        part: its memory.
        writes: whether its cube learns, too.
    """

    def __init__(self, feed: SwiGLU, part: PartMemory, writes: bool):
        super().__init__(feed, part)
        self.writes = writes
        self.total, self.count = torch.zeros(part.cube.config.width, dtype=torch.float64), 0

    @torch.no_grad()
    def answer(self, x: Tensor) -> Tensor:
        """See :class:`~liquid_control.models.remembering.StandIn`."""
        made = self.run(x)
        flat, recall = x.flatten(0, 1), self.part.cube.read(x.flatten(0, 1))
        self.part.distillation.learn(x, recall, made)
        if self.writes:
            self.part.cube.write(flat, made.flatten(0, 1), recall)
        self.total += made.flatten(0, 1).double().sum(0)
        self.count += len(flat)
        return made


def first_pass(
    model: LanguageModel, tokens: Tensor, config: SecondPassConfig, memory: str
) -> tuple[list[PartMemory], list[list[float]]]:
    """Reads the book's beginning window by window; the memory of all parts, and their mean residuals."""
    share = {"book": 1.0, "quarter": 0.25, "student": 0.0}[memory]
    shape = CubeConfig(
        width=model.config.width,
        layers=len(feeds(model)),
        blocks=max(2, math.ceil(share * ROOM * config.tokens / BLOCK)),
        key_size=min(config.key_size, model.config.width),
        probed=config.probed,
    )
    parts, made = memories(model, Cubes(shape), config.units), []

    def taught(feed: SwiGLU, part: PartMemory) -> TaughtFeed:
        made.append(TaughtFeed(feed, part, share > 0))
        return made[-1]

    with replacing_feeds(model, parts, taught), torch.no_grad():
        for window in tokens[: config.tokens].split(config.window):
            model(window[None])
    return parts, [(each.total / each.count).tolist() for each in made]


# Then


class ChosenFeed(StandIn):
    """A part that is left out where an arm chooses.

    Args:
        feed: the part.
        part: its memory, which stays as it is.
        arm: who chooses, and what stands in.
        mean: (d,) residual of the first pass.
        bound: it is left out where the score is not above; NaN collects scores and always runs it.
        share: for ``chance``, of the tokens.
        generator: draws those.
    """

    def __init__(
        self,
        feed: SwiGLU,
        part: PartMemory,
        arm: Arm,
        mean: Tensor,
        bound: float,
        share: float,
        generator: torch.Generator,
    ):
        super().__init__(feed, part)
        self.arm, self.mean, self.bound, self.share = arm, mean, bound, share
        self.generator = generator
        self.scores: list[Tensor] = []
        self.inputs = self.skipped = self.spent = 0

    @torch.no_grad()
    def answer(self, x: Tensor) -> Tensor:
        """See :class:`~liquid_control.models.remembering.StandIn`."""
        arm, student = self.arm, self.part.distillation.student
        recall = self.part.cube.read(x.flatten(0, 1))
        self.spent += recall.operations
        self.inputs += x[..., 0].numel()
        if arm.guesses == "cube":
            residual, score = recall.residual.view_as(x), 1 - recall.similarity.view(x.shape[:2])
        else:
            guess = student(x, recall)
            residual, score = guess.residual, guess.log_error
            self.spent += x[..., 0].numel() * student.operations()
        if arm.guesses == "mean":
            residual = self.mean.to(x).expand_as(x)
        if arm.chooses == "chance":
            score = torch.rand(x.shape[:2], generator=self.generator)
            leaves = score < self.share
        else:
            leaves = score <= self.bound
        self.scores.append(score.flatten())
        self.skipped += int(leaves.sum())
        made = residual.clone()
        made[~leaves] = self.run(x[~leaves])
        return made


@contextmanager
def choosing(
    model: LanguageModel,
    parts: Sequence[PartMemory],
    arm: Arm,
    means: Sequence[Sequence[float]],
    bounds: Sequence[float],
    shares: Sequence[float],
) -> Iterator[list[ChosenFeed]]:
    """For its block an arm chooses in every part."""
    made: list[ChosenFeed] = []

    def chosen(feed: SwiGLU, part: PartMemory) -> ChosenFeed:
        place = len(made)
        generator = torch.Generator().manual_seed(place)
        mean = torch.tensor(means[place])
        made.append(ChosenFeed(feed, part, arm, mean, bounds[place], shares[place], generator))
        return made[-1]

    with replacing_feeds(model, parts, chosen):
        yield made


def windows_of(tokens: Tensor, begin: int, length: int, count: int, window: int) -> Tensor:
    """Windows (N, window + 1) spread evenly over ``length`` tokens from ``begin`` on: of ``count`` tokens together."""
    number = max(1, min(count, length) // window)
    last = min(begin + length, len(tokens)) - window - 1
    places = np.unique(np.linspace(begin, last, number).astype(int) // window * window + begin % window)
    places = places[(places >= begin) & (places <= last)]
    return torch.stack([tokens[place : place + window + 1] for place in places])


@torch.no_grad()
def nats(model: LanguageModel, windows: Tensor, batch: int) -> float:
    """Mean loss of windows, each read from an empty state."""
    total = 0.0
    for part in windows.split(batch):
        logits = model(part[:, :-1]).logits.flatten(0, 1)
        total += F.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum").item()
    return total / windows[:, 1:].numel()


def measure(
    model: LanguageModel,
    windows: Mapping[str, Tensor],
    parts: Sequence[PartMemory],
    arm: Arm,
    means: Sequence[Sequence[float]],
    aim: float,
    shares: Sequence[float],
    config: SecondPassConfig,
) -> dict[str, Any]:
    """An arm on a text: loss, shares of work left out by part, and operations saved, net.

    Args:
        model: in eval mode.
        windows: ``calibrated``, on which bounds are set, and ``read``.
        parts: the arm's memory.
        arm: what is measured.
        means: residuals of the first pass.
        aim: share of the work.
        shares: by part, for an arm that chooses by chance.
        config: of the study.
    """
    full = [sum(weight.numel() for weight in feed.parameters()) for feed in feeds(model)]
    bounds = [math.nan] * len(parts)
    if arm.chooses != "chance":
        with choosing(model, parts, arm, means, bounds, shares) as chosen:
            nats(model, windows["calibrated"], config.batch)
        bounds = [float(torch.cat(each.scores).quantile(aim)) for each in chosen]
    with choosing(model, parts, arm, means, bounds, shares) as chosen:
        loss = nats(model, windows["read"], config.batch)
    skipped = [each.skipped / each.inputs for each in chosen]
    saved = sum(each.skipped * size - each.spent for each, size in zip(chosen, full, strict=True))
    work = sum(each.inputs * size for each, size in zip(chosen, full, strict=True))
    return {"nats": loss, "skipped": skipped, "net": saved / work}


# The study


def _teach(config: SecondPassConfig, novels: Mapping[str, Path]) -> Path:
    """The checkpoint of a training by the command."""
    learned, path = config.folder / "novels", config.folder / "model"
    learned.mkdir(exist_ok=True)
    for name, novel in novels.items():
        if name not in config.unseen:
            shutil.copyfile(novel, learned / novel.name)
    words = f"--width {config.width} --blocks {config.blocks} --expansion {config.expansion} --heads 4".split()
    words += f"--steps {config.steps} --window {config.window} --time {config.window} --batch 16".split()
    words += ["--pattern", *config.pattern, "--reading", "windows", "--tokenizer", "bytes", "--learning-rate", "3e-3"]
    words += f"--validation-share 0.01 --validate-every {max(1, min(500, config.steps // 2))}".split()
    train_language_model(path, [*words, "--text", str(learned), "--data", str(config.folder / "text")])
    return path / "best"


def _texts(config: SecondPassConfig, novels: Mapping[str, Path], tokenizer: Tokenizer) -> dict[str, dict[str, Tensor]]:
    """Windows of each text that is read after the first pass: those that bounds are set on, and those that count."""
    book, second = (torch.tensor(tokenizer.encode(read_text(novels[name]))) for name in config.unseen)
    other = second if config.other is None else torch.tensor(tokenizer.encode(read_text(config.other)))
    places = {
        "second pass": (book, config.shift, config.tokens - config.shift),
        "unread text of the book": (book, config.tokens, config.tokens),
        "another domain": (other, 0, config.tokens),
    }
    texts = {}
    for name, (tokens, begin, length) in places.items():
        length = min(length, len(tokens) - begin)
        told = length * config.calibrated // (config.calibrated + config.read)
        if told <= config.window or length - told <= config.window:
            raise UserError(f"the text of the {name} has {length} tokens, too few for windows of {config.window}.")
        texts[name] = {
            "calibrated": windows_of(tokens, begin, told, config.calibrated, config.window),
            "read": windows_of(tokens, begin + told, length - told, config.read, config.window),
        }
    return texts


def _memory(
    model: LanguageModel, tokens: Tensor, config: SecondPassConfig, memory: str, results: Results
) -> tuple[list[PartMemory], list[list[float]]]:
    """The memory of a first pass, read from its file if it is there."""
    path = config.folder / f"memory-{memory}.safetensors"
    told = results.find(memory=memory)
    if told is not None and path.exists():
        return load_memories(path, model)[0], told["means"]
    parts, means = first_pass(model, tokens, config, memory)
    save_memories(path, model, parts)
    if told is None:
        entries, size = [len(part.cube) for part in parts], parts[0].cube.config.bytes
        results.add({"memory": memory, "entries": entries, "bytes": size, "means": means})
    return parts, means


def main(arguments: Sequence[str]) -> None:
    """Measures what is missing; see ``--help``.

    Raises:
        UserError: if there are too few novels, a training fails, or the folder holds results of other options.
    """
    config, console = parse(SecondPassConfig, arguments, PROGRAM), Console()
    novels = find_novels(config.novels, config.unseen)
    with measuring(config.folder):
        kept = {
            name: value for name, value in vars(config).items() if name not in ("folder", "novels", "aims", "other")
        }
        other = None if config.other is None else config.other.as_posix()
        kept |= {"novels": [identity_of(path) for path in novels.values()], "other": other}
        results = Results(config.folder, kept, ())
        model, tokenizer = load_with_tokenizer(_teach(config, novels))
        model = model.eval()
        texts = _texts(config, novels, tokenizer)
        book = torch.tensor(tokenizer.encode(read_text(novels[config.unseen[0]])))
        for name, windows in texts.items():
            whole = functools.partial(_whole, model, windows["read"], name, config)
            row = results.have(whole, arm="the whole model", text=name)
            console.print(f"{name}: {row['nats'] / math.log(2):.4f} bits per byte by the whole model")
        held_memories: dict[str, tuple[list[PartMemory], list[list[float]]]] = {}
        for name, windows in texts.items():
            for aim in sorted(config.aims):
                first: list[float] = []
                for called, arm in ARMS.items():
                    key: dict[str, Any] = {"arm": called, "text": name, "aim": aim}
                    found = results.find(**key)
                    if found is None:
                        if arm.memory not in held_memories:
                            held_memories[arm.memory] = _memory(model, book, config, arm.memory, results)
                        parts, means = held_memories[arm.memory]
                        shares = first or [0.0] * len(parts)
                        found = key | measure(model, windows, parts, arm, means, aim, shares, config)
                        results.add(found)
                        console.print(f"{name}, aim {aim:.0%}, {called}: {np.mean(found['skipped']):.0%} left out")
                    first = first or found["skipped"]
    report = _report(results.rows, sorted(config.aims))
    write_atomically(config.folder / "report.md", report)
    console.print(report)


def _whole(model: LanguageModel, windows: Tensor, text: str, config: SecondPassConfig) -> dict[str, Any]:
    return {"arm": "the whole model", "text": text, "nats": nats(model, windows, config.batch)}


def net_within(rows: Sequence[Mapping[str, Any]], whole: float, bound: float) -> float:
    """The greatest net share of operations saved at which the loss added is within a bound, in bits.

    Straight lines are drawn between the aims, from nothing left out on.

    Args:
        rows: of an arm on a text, by ascending aim.
        whole: nats of the whole model.
        bound: bits a token.
    """
    points = [(0.0, 0.0), *(((row["nats"] - whole) / math.log(2), row["net"]) for row in rows)]
    best = 0.0
    for (less, here), (more, there) in itertools.pairwise(points):
        if more <= bound:
            best = max(best, there)
        elif less <= bound:
            best = max(best, here + (bound - less) / (more - less) * (there - here))
    return best


def _report(rows: Sequence[Mapping[str, Any]], aims: Sequence[float]) -> str:
    text = []
    sizes = {row["memory"]: row for row in rows if "memory" in row}
    for name, row in sizes.items():
        entries = ", ".join(f"{count:,}" for count in row["entries"])
        text.append(f"- memory {name}: {row['bytes']:,} bytes, entries {entries}")
    for name in dict.fromkeys(row["text"] for row in rows if "text" in row):
        whole = next(row["nats"] for row in rows if row.get("text") == name and row["arm"] == "the whole model")
        text += ["", f"## {name}: {whole / math.log(2):.4f} bits per byte by the whole model", ""]
        heads = [f"aim {aim:.0%}: left out, bits per byte added, operations net" for aim in aims]
        text += [f"| arm | {' | '.join(heads)} | net within 0.01 |", "| --- " * (len(aims) + 2) + "|"]
        for arm in ARMS:
            mine = [row for row in rows if (row.get("text"), row.get("arm")) == (name, arm)]
            found = sorted((row for row in mine if row["aim"] in aims), key=lambda row: row["aim"])
            cells = [
                f"{np.mean(row['skipped']):.0%}, {(row['nats'] - whole) / math.log(2):+.4f}, {row['net']:+.0%}"
                for row in found
            ]
            text.append(f"| {arm} | {' | '.join(cells)} | {net_within(found, whole, 0.01):.0%} |")
    return "\n".join([*text, ""])


if __name__ == "__main__":
    run(main)

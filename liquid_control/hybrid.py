"""``python -m liquid_control.hybrid``: a transformer that remembers its own work, and leaves out what it is sure of.

Its words are in :data:`COMMANDS`. What only one of them needs is imported there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from annotated_types import Ge, Gt, Le, MinLen
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from agents.device import resolve_device
from agents.language import LanguageConfig
from envs.registration import FAST, VALIDATION_SEEDS
from liquid_control.data.tokenizers import StreamDecoder, Tokenizer
from liquid_control.models.cubes import CubeConfig, Cubes
from liquid_control.models.generation import Generation, load_with_tokenizer
from liquid_control.models.influence import Error, InfluenceConfig
from liquid_control.models.language_model import Depth, LanguageModel, Mixer, Width
from liquid_control.models.memory_file import is_kept_memory, load_memories, save_memories
from liquid_control.models.remembering import PartMemory, feeds, memories
from liquid_control.models.speculative import Draft, DraftCounts, speculate
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.files import check_writable, read_text, write_atomically
from liquid_control.support.lock import held
from liquid_control.support.ranges import Count, NotNegative, Processes, Seed, Size
from liquid_control.support.tensor_file import check_keep

if TYPE_CHECKING:
    from liquid_control.report.remembered_reading import Stream

PROGRAM = "python -m liquid_control.hybrid"
BUDGET = 2**26
"""Bytes of all cubes together, unless something else is said."""


def main(arguments: Sequence[str]) -> None:
    """Does what the first word says; without one, lists what there is."""
    if not arguments or arguments[0] in ("-h", "--help"):
        console = Console()
        console.print("A transformer that remembers its own work. Each of these has --help.\n")
        for name, does in COMMANDS.items():
            console.print(f"  {PROGRAM} {name:<9} {does.__doc__}")
        return
    name, *words = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown word {name!r} after hybrid: {nearest(name, COMMANDS)}")
    COMMANDS[name](words)


@dataclass(frozen=True)
class TrainConfig(LanguageConfig):
    """Trains a transformer on text, whose work `hybrid run` then remembers: the job of `lm train` with other defaults.

    Its blocks have attention to a window, and feed-forward parts that are wide, for these are what is remembered.
    Options can be put in a YAML file: --config FILE.
    """

    pattern: Annotated[tuple[Mixer, ...], MinLen(1)] = ("attention",)
    """Mixers of the blocks, in turn: attention or hybrid; memory, scan, deep and lstm are possible, too."""
    tokenizer: str = "bytes"
    """bytes, characters, bpe:4096 or another number, or gpt2."""
    width: Width = 192
    """Numbers that stand for a token inside."""
    heads: Depth = 4
    """Heads of attention, each of width / heads numbers."""
    expansion: Annotated[float, Gt(0), Le(16)] = 4.0
    """Width of the feed-forward part of a block, in widths."""
    batch: Size = 16
    """Texts that are read side by side."""
    time: Size = 128
    """Tokens of a stretch, which gradients go back through."""
    learning_rate: NotNegative = 2e-3
    """Peak learning rate of AdamW. It is warmed up, then falls along a cosine to a tenth."""


def _train(words: Sequence[str]) -> None:
    """Learns from text, as lm train does: --text FILE, a folder of *.txt, or hf:owner/name."""
    from agents.jobs import JOBS
    from liquid_control.report.training import run_job

    run_job(replace(JOBS["language"], config=TrainConfig), words, f"{PROGRAM} train")


@dataclass(frozen=True)
class MemoryConfig:
    """What remembers, and by which rules."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    memory: Path | None = None
    """A memory to begin with, that --keep wrote; it has its own size and rules."""
    keep: Path | None = None
    """Where to write the memory at the end, .safetensors."""
    budget_bytes: Annotated[int, Ge(1), Le(2**40)] = BUDGET
    """Bytes of a new memory's cubes, all layers together. When they are full, what is worth least is given up."""
    key_size: Annotated[int, Ge(1), Le(1024)] = 64
    """Numbers of a key; not more than the model's width."""
    probed: Annotated[int, Ge(1), Le(2**16)] = 8
    """Blocks of 64 entries that are looked at."""
    units: Annotated[int, Ge(1), Le(8192)] = 48
    """Liquid neurons of each student."""
    rise: Annotated[float, Gt(0), Le(1)] = 0.02
    """Influence that an audit earns where the student was sure."""
    low: Error = 0.1
    """Mean relative error where the student was sure, below which influence rises."""
    high: Error = 0.2
    """Mean relative error where the student was sure, above which influence is halved."""
    wrong: Error = 0.1
    """Relative error from which a skip was wrong."""
    risk: Annotated[float, Gt(0), Le(1)] = 0.05
    """Share of inputs that may be skipped wrongly."""
    audited: Annotated[float, Gt(0), Le(1)] = 0.03
    """Share of inputs that may run for nothing but an audit."""
    learn: bool = True
    """Whether cubes, students and influence learn."""
    seed: Seed = 0
    """Of students, audits and samples."""
    threads: Processes = 1
    """Threads; a single text, or a single drive, gains little from more. 0 means one per processor."""


@dataclass(frozen=True)
class RunConfig(MemoryConfig):
    """Reads texts with a trained model, while cubes and students learn what its feed-forward parts do, and skip them.

    Writes a folder: rows.jsonl, a line a block of tokens, and memory.safetensors. Where it was stopped, the same
    command goes on. `hybrid report FOLDER` draws it.
    """

    text: tuple[Path, ...] = ()
    """Text files, read in this order. A file that is named twice is read twice."""
    run: Path | None = None
    """The folder to write into, by default runs/hybrid-NAME with the name of the checkpoint's folder."""
    block: Annotated[int, Ge(1), Le(2**20)] = 1024
    """Tokens of a row."""
    stretch: Annotated[int, Ge(1), Le(4096)] = 64
    """Tokens that are read at once; of one stretch a block the whole model tells what it would have said."""
    save_every: Count = 8
    """Blocks after which the memory is written."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N. Cubes are on the CPU."""


def _run(words: Sequence[str]) -> None:
    """Reads texts, remembers and skips; writes rows and a memory."""
    from liquid_control.report.remembered_reading import MEMORY, ROWS, Pace, ReadingFolder, Stream, read_stream

    config, console = parse(RunConfig, words, f"{PROGRAM} run"), Console()
    path = config.run or Path("runs") / f"hybrid-{config.checkpoint.resolve().name}"
    _check_apart(config, path / MEMORY)
    _set_threads(config)
    model, tokenizer = _load(config.checkpoint, config.device)
    stream = Stream.of(_texts(config.text), tokenizer)
    parts, begun = _begin(config, model)
    _check_keep(config)
    with held(path, f"another process reads in {path}: wait until it ends, or name another folder."):
        folder = ReadingFolder(path, _head(config, model, stream, begun), replaced=_is_replaced(config))
        state, place = model.initial_state(1), 0
        if (stopped := folder.continued(model)) is not None:
            parts, state, place = stopped
        for part in parts:
            part.learns = config.learn
        console.print(model.describe())
        console.print(f"memory: {parts[0].cube.config.bytes:,} bytes of cubes; folder: {path}")
        total = len(stream.tokens) - 1
        with _bar(console) as bar:
            task = bar.add_task("reading", total=total, completed=place, news="")
            rows = read_stream(
                model, parts, stream, state, place, Pace(config.block, config.stretch, config.seed), folder,
                config.save_every,
            )  # fmt: skip
            try:
                for row in rows:
                    news = _news(row)
                    bar.update(task, completed=row["tokens"], news=news)
                    if not console.is_terminal:
                        console.print(f"token {row['tokens']:,}/{total:,}: {news}")
            except KeyboardInterrupt:
                console.print(f"stopped. The same command goes on from {path}.")
                raise
        if config.keep is not None:
            if not folder.replaced:
                save_memories(config.keep, model, parts)
            console.print(f"memory: {config.keep}")
        console.print(f"written: {path / ROWS}\nas a page: {PROGRAM} report {shlex.quote(str(path))}")


@dataclass(frozen=True)
class DriveConfig(MemoryConfig):
    """Drives laps with a trained driver of hybrid blocks, which remembers and skips its own work as `run` does texts.

    Of each lap it says what was skipped, how far actions were from those of the driver that skips nothing, in the same
    state, and what it scored.
    """

    tracks: Annotated[tuple[Seed, ...], MinLen(1)] = (VALIDATION_SEEDS, VALIDATION_SEEDS)
    """Seeds of the tracks, driven in this order. A track that is named twice is driven twice."""
    env: str = FAST
    """The environment."""
    steps: Annotated[int, Ge(1), Le(2**20)] | None = None
    """Where a lap ends at the latest; None is where the environment ends it."""
    json: Path | None = None
    """Where to write what is printed, and more digits."""


def _drive(words: Sequence[str]) -> None:
    """Drives laps, remembers and skips; says what a second lap saves."""
    from liquid_control.report.evaluation import check_environment
    from liquid_control.report.remembered_laps import RememberedLap, drive_lap, lap_table
    from policies.driver import load_driver

    config, console = parse(DriveConfig, words, f"{PROGRAM} drive"), Console()
    _set_threads(config)
    driver = load_driver(config.checkpoint)
    check_environment(driver, config.env)
    parts, _ = _begin(config, driver)
    _check_keep(config)
    if config.json is not None:
        check_writable(config.json, ".json")
    for part in parts:
        part.learns = config.learn
    console.print(driver.describe())
    console.print(f"memory: {parts[0].cube.config.bytes:,} bytes of cubes")
    laps: list[RememberedLap] = []
    for track in config.tracks:
        if all(lap.track != track for lap in laps):
            laps.append(drive_lap(driver, None, config.env, track, config.steps))
        laps.append(drive_lap(driver, parts, config.env, track, config.steps))
        console.print(str(laps[-1]))
    console.print(lap_table(laps))
    if config.keep is not None:
        save_memories(config.keep, driver, parts)
        console.print(f"memory: {config.keep}")
    if config.json is not None:
        write_atomically(config.json, json.dumps([asdict(lap) for lap in laps], indent=1) + "\n")
        console.print(f"written: {config.json}")


def _texts(paths: Sequence[Path]) -> dict[str, str]:
    """Texts by name; one that is read again has a number behind its name."""
    texts: dict[str, str] = {}
    for path in paths:
        names = itertools.chain([path.stem], (f"{path.stem} #{number}" for number in itertools.count(2)))
        text = read_text(path)
        if not text:
            raise UserError(f"there is nothing to read in {path}: it is empty. Write something to it, or leave it out.")
        texts[next(name for name in names if name not in texts)] = text
    return texts


def _set_threads(config: MemoryConfig) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)


def _check_keep(config: MemoryConfig) -> None:
    """To be asked after what reads only: it makes a folder."""
    if config.keep is not None:
        check_keep(config.keep, is_kept_memory, "memory that --keep wrote")


def _check_apart(config: RunConfig, own: Path) -> None:
    """A memory that comes or goes is none that a reading writes as it goes, together with its state."""
    for name in ("memory", "keep"):
        given = getattr(config, name)
        if given is not None and given.resolve() == own.resolve():
            raise UserError(
                f"--{name} {given} is the file in which this reading keeps its own memory: name another file, or read "
                "into another folder with --run."
            )


def _is_replaced(config: RunConfig) -> bool:
    """Whether the memory that a reading begins with is the file that it writes at its end."""
    if config.keep is None or config.memory is None:
        return False
    return config.keep.resolve() == config.memory.resolve()


def _begin(config: MemoryConfig, model: nn.Module) -> tuple[list[PartMemory], int]:
    """A memory, new or given, and how many inputs it has seen."""
    if config.memory is not None:
        parts, _ = load_memories(config.memory, model)
        for part in parts:
            part.state = None
        return parts, parts[0].inputs
    there = feeds(model)
    if not there:
        raise UserError(f"{config.checkpoint} has no feed-forward parts that could be remembered.")
    shape = CubeConfig(
        width=there[0].width,
        layers=len(there),
        key_size=min(config.key_size, there[0].width),
        probed=config.probed,
        seed=config.seed,
    ).within(config.budget_bytes)
    names = ("rise", "low", "high", "wrong", "risk", "audited")
    rules = InfluenceConfig(**{name: getattr(config, name) for name in names})
    return memories(model, Cubes(shape), config.units, rules, config.seed), 0


def _head(config: RunConfig, model: LanguageModel, stream: Stream, begun: int) -> dict[str, Any]:
    """What all rows depend on."""
    names = "budget_bytes key_size probed units rise low high wrong risk audited learn block stretch seed".split()
    memory = None if config.memory is None else hashlib.sha256(config.memory.read_bytes()).hexdigest()
    return {
        **{"checkpoint": config.checkpoint.as_posix(), "model": model.describe(), "weights": weights_digest(model)},
        **{"texts": dict(zip(stream.names, stream.begins, strict=True)), "length": len(stream.tokens)},
        **{"tokens": hashlib.sha256(stream.tokens.numpy().tobytes()).hexdigest(), "memory": memory, "begun": begun},
        **{name: getattr(config, name) for name in names},
    }


def _news(row: dict[str, Any]) -> str:
    layers = row["layers"]
    influence = " ".join(f"{layer['influence']:.2f}" for layer in layers)
    full = sum(layer["full"] for layer in layers)
    saved = sum(layer["saved"] for layer in layers) / full
    skipped = sum(layer["skipped"] for layer in layers) / len(layers)
    return f"{row['bits_per_byte']:.3f} bits/byte, influence {influence}, skipped {skipped:.0%}, saved {saved:+.0%}"


def _bar(console: Console) -> Progress:
    columns = (BarColumn(), TextColumn("token {task.completed:,}/{task.total:,}"), TextColumn("{task.fields[news]}"))
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


@dataclass(frozen=True)
class GenerateConfig:
    """Continues a text: cubes and students draft tokens, the whole model checks them in one pass. Nothing is lost.

    The text is distributed as that of `lm generate`; with --temperature 0 it is the same. Then the whole model says as
    much alone, and both paces are printed. In the folder of a `hybrid run`, its report shows them.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    memory: Annotated[Path, tyro.conf.arg(metavar="MEMORY")]
    """A memory of this model: the folder of a `hybrid run`, or a file that --keep wrote."""
    prompt: str = "\n"
    """What is to be continued."""
    tokens: Count = 200
    """Tokens to say; it ends sooner where a document ends."""
    ahead: Annotated[int, Ge(1), Le(64)] = 4
    """Tokens of a draft."""
    draft: Draft = "always"
    """Where feed-forward parts are guessed in a draft: always, or where the student is sure."""
    temperature: Annotated[float, Ge(0), Le(100)] = 0.8
    """Above 1 bolder, below 1 safer; 0 always says the likeliest."""
    top_p: Annotated[float, Gt(0), Le(1)] = 0.95
    """Share of the probability that is drawn from: the likeliest tokens."""
    seed: Seed = 0
    """Of the draws."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Processes = 1
    """Threads; a single text gains nothing from more. 0 means one per processor."""


def _generate(words: Sequence[str]) -> None:
    """Continues a text losslessly: drafts from memory, checked by the whole model."""
    from liquid_control.report.remembered_reading import LOSSLESS, MEMORY

    config, console = parse(GenerateConfig, words, f"{PROGRAM} generate"), Console()
    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = _load(config.checkpoint, config.device)
    inside = config.memory.is_dir()
    parts, _ = load_memories(config.memory / MEMORY if inside else config.memory, model)
    for part in parts:
        part.state = None
    prompt = torch.from_numpy(tokenizer.encode(config.prompt)).to(model.embedding.weight.device)
    if not len(prompt):
        raise UserError("there is nothing to go on from: --prompt is empty.")
    logits, state = model.read(prompt[None])
    counts = DraftCounts()
    drawn = (config.temperature, config.top_p, config.seed)
    drafts = speculate(model, parts, logits[0], state, *drawn, config.ahead, config.draft, counts)
    # What is loaded or compiled at first is no part of the pace. The second token is the first that is drafted.
    list(islice(drafts, 2))
    list(islice(Generation(model, logits[0], state, *drawn), 2))
    for part in parts:
        part.state = None
    sys.stdout.write(config.prompt)
    decoder, seconds, told = StreamDecoder(tokenizer), [0.0, 0.0], []
    counts = DraftCounts()
    drafts = speculate(model, parts, logits[0], state, *drawn, config.ahead, config.draft, counts)
    clock = time.perf_counter()
    for token in _until_the_end(islice(drafts, config.tokens), tokenizer):
        told.append(token)
        sys.stdout.write(decoder.feed(token))
        sys.stdout.flush()
    seconds[0] = time.perf_counter() - clock
    sys.stdout.write(decoder.finish() + "\n")
    clock = time.perf_counter()
    alone = list(islice(Generation(model, logits[0], state, *drawn), len(told)))
    seconds[1] = time.perf_counter() - clock
    measured = {
        **{"tokens": len(told), "ahead": config.ahead, "draft": config.draft, "temperature": config.temperature},
        **{"acceptance": counts.acceptance, "rounds": counts.rounds, "guessed": counts.guessed / max(1, counts.parts)},
        **{"seconds": seconds[0], "seconds_alone": seconds[1], "speed": seconds[1] / seconds[0]},
        **({"equal": told == alone} if config.temperature == 0 else {}),
    }
    same = "" if config.temperature else f"; the text is {'equal' if told == alone else 'another'}"
    console.print(
        f"accepted {counts.acceptance:.0%} of {counts.drafted:,} drafted tokens in {counts.rounds:,} passes; "
        f"{len(told) / seconds[0]:,.0f} tokens/s, alone {len(told) / seconds[1]:,.0f}: "
        f"{measured['speed']:.2f} times as fast{same}"
    )
    if inside:
        write_atomically(config.memory / LOSSLESS, json.dumps(measured, indent=1) + "\n")
        console.print(f"written: {config.memory / LOSSLESS}")


def _until_the_end(tokens: Iterator[int], tokenizer: Tokenizer) -> Iterator[int]:
    for token in tokens:
        if token == tokenizer.end:
            return
        yield token


@dataclass(frozen=True)
class ReportConfig:
    """Draws what `hybrid run` wrote: report.html, which opens without the internet, and report.md, in its folder."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the reading: runs/hybrid-…"""


def _report(words: Sequence[str]) -> None:
    """Writes a page: influence, hits, errors, skips, operations and seconds saved, agreement."""
    from liquid_control.report.hybrid_page import RememberedReport, write_markdown, write_page

    config, console = parse(ReportConfig, words, f"{PROGRAM} report"), Console()
    report = RememberedReport.of(config.folder)
    page, text = config.folder / "report.html", config.folder / "report.md"
    write_atomically(page, write_page(report))
    write_atomically(text, write_markdown(report))
    console.print(f"written: {page}, {text}")


def _load(folder: Path, device: str) -> tuple[LanguageModel, Tokenizer]:
    model, tokenizer = load_with_tokenizer(folder)
    return model.to(resolve_device(device)), tokenizer


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": _train,
    "run": _run,
    "drive": _drive,
    "generate": _generate,
    "report": _report,
}


if __name__ == "__main__":
    run(main)

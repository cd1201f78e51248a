"""``python -m liquid_control.lm``: language models of liquid cells and fast weights.

Its words are in :data:`COMMANDS`. What only one of them needs is imported there: ``generate`` is not to wait for all
that learns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from annotated_types import Ge, Gt, Le, MinLen
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from agents.device import resolve_device
from liquid_control.data.tokenizers import StreamDecoder, Tokenizer
from liquid_control.models.generation import Generation, load_with_tokenizer, tokenizer_of
from liquid_control.models.language_model import LanguageModel, ReadingState, load_language_model
from liquid_control.models.plasticity import Teacher, heads_while_reading
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError, nearest
from liquid_control.support.files import check_writable, read_text, write_atomically
from liquid_control.support.ranges import Count, CountOrZero, Processes, Seed
from liquid_control.support.signals import heard_afterwards
from liquid_control.support.tensor_file import check_keep

PROGRAM = "python -m liquid_control.lm"
BETWEEN = 2048
"""Tokens of other text over which heads of fast weights are looked at."""


def main(arguments: Sequence[str]) -> None:
    """Does what the first word says; without one, lists what there is."""
    if not arguments or arguments[0] in ("-h", "--help"):
        console = Console()
        console.print("Language models of liquid cells and fast weights. Each of these has --help.\n")
        for name, does in COMMANDS.items():
            console.print(f"  {PROGRAM} {name:<15} {does.__doc__}")
        return
    name, *words = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown word {name!r} after lm: {nearest(name, COMMANDS)}")
    COMMANDS[name](words)


def _train(words: Sequence[str]) -> None:
    """Learns from text: --text FILE, a folder of *.txt, or hf:owner/name."""
    from agents.jobs import JOBS
    from liquid_control.report.training import run_job

    run_job(JOBS["language"], words, f"{PROGRAM} train")


@dataclass(frozen=True)
class GenerateConfig:
    """Continues a text with a trained model, token by token.

    What the model reads and says changes its synapses. --keep writes them to a file, --state goes on from one, in
    another process or on another day. Options can be put in a YAML file: --config FILE.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    prompt: str | None = None
    """What is to be continued; by default the end of a line, or of a document where the tokenizer knows no lines."""
    tokens: Count = 200
    """Tokens to say; it ends sooner where a document ends."""
    temperature: Annotated[float, Ge(0), Le(100)] = 0.8
    """Above 1 bolder, below 1 safer; 0 always says the likeliest."""
    top_p: Annotated[float, Gt(0), Le(1)] = 0.95
    """Share of the probability that is drawn from: the likeliest tokens."""
    seed: Seed = 0
    """Of the draws."""
    teach: Path | None = None
    """A text file that is read first."""
    state: Path | None = None
    """A state to go on from, that --keep wrote."""
    keep: Path | None = None
    """Where to write the state at the end, .safetensors."""
    freeze: bool = False
    """Whether the synapses stay as they are."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Processes = 1
    """Threads; a single text gains nothing from more. 0 means one per processor."""


def _generate(words: Sequence[str]) -> None:
    """Continues a text; --teach FILE reads another first, --keep FILE writes what was learned."""
    config = parse(GenerateConfig, words, f"{PROGRAM} generate")
    if config.threads:
        torch.set_num_threads(config.threads)
    model, tokenizer = load_with_tokenizer(config.checkpoint)
    model = model.to(resolve_device(config.device))
    state = model.initial_state(1) if config.state is None else ReadingState.load(config.state, model)
    if state.batch != 1:
        raise UserError(f"{config.state} is the state of {state.batch} texts: give one of a single text.")
    state = state.freeze(config.freeze).to(model.embedding.weight.device)
    given = {"--prompt": beginning(tokenizer) if config.prompt is None else tokenizer.encode(config.prompt)}
    if config.teach is not None:
        given = {f"--teach {config.teach}": tokenizer.encode(read_text(config.teach))} | given
    for what, tokens in given.items():
        if not len(tokens):
            raise UserError(f"there is nothing to read: {what} is empty. Give some text, or leave it out.")
    if config.keep is not None:
        check_keep(config.keep, ReadingState.is_file, "state of reading")
    for tokens in given.values():
        logits, state = model.read(torch.from_numpy(tokens)[None].to(model.embedding.weight.device), state)
    spoken = Generation(model, logits[0], state, config.temperature, config.top_p, config.seed)
    try:
        _speak(config, tokenizer, spoken)
    finally:  # whoever stops it wants what it has learned by then, too
        if config.keep is not None:
            spoken.state.freeze(False).save(config.keep, model)
            Console().print(f"state: {config.keep}")


def beginning(tokenizer: Tokenizer) -> np.ndarray:
    """The tokens (N,) after which a text may begin: the end of a line, or of a document where there are no lines."""
    try:
        return tokenizer.encode("\n")
    except UserError:
        return np.array([tokenizer.end], np.int64)


def _speak(config: GenerateConfig, tokenizer: Tokenizer, spoken: Iterator[int]) -> None:
    """Writes the prompt and what follows it, as it comes. Where a state is kept, nobody need listen."""
    decoder = StreamDecoder(tokenizer)
    try:
        sys.stdout.write("\n" if config.prompt is None else config.prompt)
        for _ in range(config.tokens):
            with heard_afterwards():  # a token is read by all blocks, or by none
                token = next(spoken)
            if token == tokenizer.end:
                break
            sys.stdout.write(decoder.feed(token))
            sys.stdout.flush()
        sys.stdout.write(decoder.finish() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        if config.keep is None:
            raise
        Console().on_broken_pipe()


@dataclass(frozen=True)
class ExportConfig:
    """Writes one step of a trained model as an ONNX model. Its state is an input and an output.

    Inputs are ``token`` (B,) int64 and ``state`` (B, S) float32, outputs ``logits`` (B, V) and ``next_state`` (B, S). A
    text begins with a state of zeros. The metadata have the tokenizer, as its checkpoint has it.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    output: Path = Path("model.onnx")
    """The model to write."""


class _Step(nn.Module):
    """One token, the states of all layers side by side in one tensor."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model, self.start = model, model.initial_state(1)

    def forward(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        layers = self.start.layers
        parts = state.split([layer.shape[1] for layer in layers.values()], 1)
        given = replace(self.start, layers=dict(zip(layers, parts, strict=True)))
        logits, after = self.model.step(token, given)
        return logits, torch.cat(list(after.layers.values()), 1)


def export_onnx(model: LanguageModel, tokenizer: Tokenizer) -> bytes:
    """One step of a model as the bytes of an ONNX model, see :class:`ExportConfig`; the batch B is free.

    Raises:
        UserError: if onnx or onnxscript is not installed.
    """
    from liquid_control.report.onnx_model import onnx_model

    size = sum(layer.shape[1] for layer in model.initial_state(1).layers.values())
    examples = (torch.zeros(2, dtype=torch.int64), torch.zeros(2, size))
    metadata = {"tokenizer": tokenizer.config(), "model": model.describe(), "weights": weights_digest(model)}
    return onnx_model(_Step(model).eval(), examples, ("token", "state"), ("logits", "next_state"), metadata)


def _export(words: Sequence[str]) -> None:
    """Writes one step of a model as an ONNX model, its state in and out."""
    config = parse(ExportConfig, words, f"{PROGRAM} export")
    model, tokenizer = load_with_tokenizer(config.checkpoint)
    check_writable(config.output, ".onnx")
    content = export_onnx(model, tokenizer)
    write_atomically(config.output, content)
    Console().print(f"written: {config.output}, {len(content):,} bytes")


@dataclass(frozen=True)
class PlasticityTestConfig:
    """Teaches a trained model facts, reads on, takes its state apart, and asks: do the synapses know?

    Writes plasticity.html, with curves over the tokens in between and over the number of facts, and plasticity.json.
    A model of the study `experiments.zephyr` is taught in its own words, any other in plain English.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    output: Path | None = None
    """The folder to write into, by default runs/plasticity-NAME with the name of the checkpoint's folder."""
    facts: Annotated[tuple[Annotated[int, Ge(2), Le(400)], ...], MinLen(1)] = (4, 16)
    """Facts of an episode, K."""
    gaps: Annotated[tuple[CountOrZero, ...], MinLen(1)] = (0, 256, 1024, 4096)
    """Tokens that are read between facts and questions."""
    episodes: Annotated[int, Ge(2), Le(65_536)] = 32
    """Of each test, read side by side."""
    seeds: Count = 3
    """How many times so many episodes are drawn."""
    filler: Path | None = None
    """A text to read in between; by default the validation text of its training, or made-up sentences."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def _plasticity_test(words: Sequence[str]) -> None:
    """Teaches a model facts, takes its state apart, asks, and writes a page with curves."""
    from liquid_control.report.plasticity import PlasticityReport, measure_recall
    from liquid_control.report.plasticity_page import write_page

    config, console = parse(PlasticityTestConfig, words, f"{PROGRAM} plasticity-test"), Console()
    model, teacher, told = _taught(config)
    model = model.to(resolve_device(config.device))
    folder = config.output or Path("runs") / f"plasticity-{config.checkpoint.resolve().name}"
    page, numbers = folder / "plasticity.html", folder / "plasticity.json"
    check_writable(page, ".html")
    check_writable(numbers, ".json")
    console.print(model.describe())
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("teaching and asking", total=1.0)
        recalls = measure_recall(
            model,
            teacher,
            sorted(set(config.facts)),
            sorted(set(config.gaps)),
            config.episodes,
            config.seeds,
            lambda share: bar.update(task, completed=share),
        )
    name = config.checkpoint.as_posix()
    other = teacher.draw(2, min(config.facts), BETWEEN, np.random.default_rng(0)).gap
    heads = heads_while_reading(model, other)
    report = PlasticityReport(name, model.describe(), told, config.episodes, config.seeds, recalls, heads)
    write_atomically(numbers, report.to_json())
    write_atomically(page, write_page(report))
    console.print(report.table())
    if heads:
        console.print(report.heads_table())
    console.print(f"written: {page}, {numbers}")


def _taught(config: PlasticityTestConfig) -> tuple[LanguageModel, Teacher, str]:
    """The model of a test, who teaches it, and in which words."""
    model, told = load_language_model(config.checkpoint)
    if "words" in told and "tokenizer" not in told:
        from liquid_control.experiments.zephyr_words import WordTeacher

        between = "words at random" if config.filler is None else config.filler.name
        return model, WordTeacher.of(told["words"], config.filler), f"in the words of zephyr; between: {between}"
    from liquid_control.report.text_teacher import TextTeacher, filler_of

    tokenizer = tokenizer_of(config.checkpoint, model, told)
    text = None if config.filler is None else read_text(config.filler)
    filler, between = filler_of(tokenizer, text, config.checkpoint)
    between = between if config.filler is None else config.filler.name
    return model, TextTeacher(tokenizer, filler), f"in plain English, tokens of {tokenizer.name}; between: {between}"


@dataclass(frozen=True)
class BenchmarkConfig:
    """Measures how fast a model reads and speaks, and what it carries, after texts of several lengths."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the model: runs/language-…/best, say."""
    output: Path | None = None
    """The file to write, by default runs/benchmark-NAME.json with the name of the checkpoint's folder."""
    tokens: Annotated[tuple[Annotated[int, Ge(1), Le(2**20)], ...], MinLen(1)] = (1024, 4096, 16384)
    """Lengths of the texts."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Processes = 1
    """Threads; a single text gains nothing from more. 0 means one per processor."""


def _benchmark(words: Sequence[str]) -> None:
    """Measures how fast a model reads and speaks, and what it carries along."""
    from agents.run_folder import machine, versions
    from liquid_control.report.language_speed import measure_pace, pace_json, pace_table, seconds_to_the_first_token

    config, console = parse(BenchmarkConfig, words, f"{PROGRAM} benchmark"), Console()
    if config.threads:
        torch.set_num_threads(config.threads)
    model, told = load_language_model(config.checkpoint)
    model = model.to(resolve_device(config.device))
    output = config.output or Path("runs") / f"benchmark-{config.checkpoint.resolve().name}.json"
    check_writable(output, ".json")
    console.print(model.describe())
    first = None
    if "tokenizer" in told:
        first = seconds_to_the_first_token(config.checkpoint, config.device, config.threads)
        console.print(f"first token of a new process: {first:.2f} s")
    else:
        console.print("first token of a new process: not measured, for the checkpoint has no tokenizer")
    paces = list(measure_pace(model, sorted(set(config.tokens))))
    about = {"checkpoint": config.checkpoint.as_posix(), "model": model.describe(), "first_token_seconds": first}
    place = {"device": str(model.embedding.weight.device), "threads": config.threads, "machine": machine()}
    write_atomically(output, pace_json(paces, about | place | {"versions": versions()}))
    console.print(pace_table(paces))
    console.print(f"written: {output}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": _train,
    "generate": _generate,
    "plasticity-test": _plasticity_test,
    "benchmark": _benchmark,
    "export": _export,
}


if __name__ == "__main__":
    run(main)

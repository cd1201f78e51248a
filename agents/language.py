"""Learning a language: a model reads text and is trained to say what comes next.

Two ways to read. ``stream`` plays the documents in order, a stretch of T tokens a step, the model's state carried on
and its gradient cut in between (truncated backpropagation through time). So a model learns to use what it read long
ago. States are reset at random, or it would never learn to begin. ``windows`` takes T tokens from random places, each
from an empty state, as transformers are trained.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from agents.device import resolve_device
from agents.distributed import ALONE, Alone, Strategy, process_count
from agents.divergence import check_finite
from agents.job import RunConfig, begin_run
from agents.run_folder import RunFolder, RunProgress, checkpoint_record
from liquid_control.data.text import TextData, TextSplit, prepare_text
from liquid_control.data.text_sources import text_source
from liquid_control.data.text_streams import TextStreams, random_windows, whole_text
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig, ModelShape, ReadingState
from liquid_control.support.checkpoint import CONFIG_NAME
from liquid_control.support.errors import DivergedError, LostRunError, UserError
from liquid_control.support.optimizer_state import optimizer_tensors, part_of, restore_optimizer, to_save
from liquid_control.support.ranges import Count, CountOrZero, NotNegative, Share, Size


@dataclass(frozen=True)
class LanguageConfig(RunConfig, ModelShape):
    """Trains a language model of liquid cells and fast weights on text, from random weights.

    Options can be put in a YAML file: --config FILE.
    """

    movable: ClassVar[tuple[str, ...]] = (*RunConfig.movable, "data", "text")

    agent: Literal["language"] = "language"
    """language: it reads and says what comes next."""
    text: str = ""
    """What is read: a text file, a folder of *.txt, or a data set of Hugging Face as hf:owner/name."""
    separator: str = ""
    """What parts the documents of a file, for example <|endoftext|>; without it a file is one document."""
    tokenizer: str = "characters"
    """bytes, characters, bpe:4096 or another number, or gpt2."""
    validation_share: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of the text, its end, that is not learned from. The best checkpoint is that of its least loss."""
    data: Path | None = None
    """The folder of the prepared tokens, by default one in the run folder; several runs may share it. Another text that
    was prepared there is replaced."""
    reading: Literal["stream", "windows"] = "stream"
    """stream: documents in order, with the state carried on. windows: from random places, each with an empty state."""
    forget: Share = 0.1
    """Of a stream: share of the states that are reset before a stretch."""
    steps: Count = 2000
    """Gradient steps."""
    batch: Size = 12
    """Texts that are read side by side."""
    time: Size = 64
    """Tokens of a stretch, which gradients go back through."""
    accumulate: Count = 1
    """Parts that a batch is read in, one after another, to save memory; the gradient is the same."""
    learning_rate: NotNegative = 1e-3
    """Peak learning rate of AdamW. It is warmed up, then falls along a cosine to a tenth."""
    warm_up: CountOrZero = 100
    """Steps until the learning rate is at its peak."""
    weight_decay: NotNegative = 0.1
    """Of AdamW, on matrices. Vectors have none, and neither has what says how much is written and kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products. States and weights are in float32 either way."""
    ponder: NotNegative = 0.01
    """Cost of a liquid step, in nats, of models with deep mixers."""
    validate_every: Count = 250
    """Steps between validations, after each of which the run can be continued."""
    strategy: Strategy = "ddp"
    """How processes that torchrun starts share the model: ddp, all of it in each, or fsdp, a part of each weight."""


@dataclass
class LanguageProgress(RunProgress):
    """Where a run is; saved with its state. A score is a loss with its sign turned."""

    step: int = 0
    loss: float = float("nan")
    """Mean loss in nats a token since the last validation."""
    bits_per_byte: float = float("nan")
    """Of the last validation."""
    liquid_steps: float = float("nan")
    """Mean steps that deep mixers took for a token, in the last validation."""
    streams: dict[str, Any] = field(default_factory=dict)
    """Where the streams of text are."""
    text: str = ""
    """The digest of what is learned from, and of how it is made tokens."""

    @property
    def done(self) -> int:
        """Steps so far."""
        return self.step

    def news(self) -> str:
        """See :class:`RunProgress`."""
        spoken = "" if math.isnan(self.loss) else f"loss {self.loss:.3f} "
        if not math.isnan(self.score):
            spoken += f"validation {-self.score:.3f} best {-self.best_score:.3f} "
        return spoken + f"{self.tokens_per_second:,.0f} tokens/s"

    tokens_per_second: float = 0.0
    """Since the last validation, without it."""


def begin_language(config: LanguageConfig, path: Path, processors: int) -> LanguageConfig:
    """See :func:`agents.job.begin_run`; the text is prepared before a run folder is there.

    Raises:
        UserError: if there is no text, or it cannot be read, or the model's numbers do not go together.
    """
    if not config.text and config.data is None:
        raise UserError("no text to learn from: give one with --text, a file, a folder of *.txt or hf:owner/name.")
    _check_batch(config, process_count())
    config = begin_run(config, path, processors)
    with torch.device("meta"):
        LanguageModel(LanguageModelConfig(**_shape(config)))
    data = _prepare(config)
    _check_lengths(config, len(data.training), len(data.validation))
    return config if config.text else _as_prepared(config, data)


def _check_lengths(config: LanguageConfig, training: int, validation: int) -> None:
    for count, what in ((training, "training"), (validation, "validation")):
        if count <= config.time:
            raise UserError(
                f"the text for {what} has {count} tokens, too few for stretches of {config.time}: give a longer "
                "text, a shorter --time, or another --validation-share."
            )


def _as_prepared(config: LanguageConfig, data: TextData) -> LanguageConfig:
    """The config with what a text was prepared with that is not prepared again.

    Raises:
        UserError: if the config asks for something else.
    """
    there: dict[str, Any] = {
        "tokenizer": data.tokenizer.name,
        "validation_share": data.validation_share,
        "separator": data.source.get("separator") or "",
    }
    for name, value in there.items():
        if getattr(config, name) not in (value, getattr(LanguageConfig, name)):
            raise UserError(
                f"{config.data} was prepared with the {name.replace('_', ' ')} {value!r}, not "
                f"{getattr(config, name)!r}: leave --{name.replace('_', '-')} out, or prepare it again with --text."
            )
    return replace(config, **there)


def _check_batch(config: LanguageConfig, processes: int) -> None:
    parts = f"--accumulate {config.accumulate}" if config.accumulate > 1 else ""
    shares = f"{processes} processes" if processes > 1 else ""
    if config.batch % (config.accumulate * processes):
        given = " times ".join(part for part in (parts, shares) if part)
        raise UserError(f"{given} {'does' if given == parts else 'do'} not divide the batch of {config.batch}.")


def _shape(config: LanguageConfig) -> dict[str, Any]:
    return {part.name: getattr(config, part.name) for part in fields(ModelShape)}


def _prepare(config: LanguageConfig) -> TextData:
    folder = config.data or (config.run or Path()) / "text"
    if not config.text:
        return TextData(folder)
    source = text_source(config.text, config.separator or None)
    check = partial(_check_lengths, config)  # before the tokens are kept: what is refused leaves nothing behind
    return prepare_text(source, config.tokenizer, folder, config.validation_share, check)


def _prepare_again(config: LanguageConfig, path: Path) -> None:
    """Prepares the text of a run that goes on, if it was lost or is damaged, from where --text is now."""
    if config.text:
        try:
            TextData(config.data or path / "text").verify()
        except UserError:
            _prepare(replace(config, run=path))


def text_digest(data: TextData) -> str:
    """By which a text that is learned from, and its tokenizer, are recognised."""
    told = json.dumps([data.training.digest, data.tokenizer.config()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


class Reader(nn.Module):
    """A model, and what its reading of tokens costs: the mean of each next token's, and of the liquid steps'."""

    def __init__(self, model: LanguageModel, config: LanguageConfig):
        super().__init__()
        self.model, self.ponder, self.in_half = model, config.ponder, config.precision == "bfloat16"
        self.parts = model.initial_state(1).parts

    def forward(self, tokens: Tensor, layers: dict[str, Tensor] | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """From tokens (B, T + 1) and the states before, by layer, to what is learned from, the loss, and the states."""
        state = None if layers is None else ReadingState(layers, self.parts)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.in_half):
            reading = self.model(tokens[:, :-1], state)
        loss = F.cross_entropy(reading.logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        cost = loss if reading.ponder is None else loss + self.ponder * reading.ponder.mean()
        return cost, loss.detach(), dict(reading.state.detach().layers)


class LanguageTraining:
    """One training run, of one process or of several, each with its rows of every batch.

    Args:
        config: the job.
        folder: its run folder, begun.
        together: the processes. The first alone writes.
    """

    unit = "step"

    def __init__(self, config: LanguageConfig, folder: RunFolder, together: Alone = ALONE):
        self.config, self.folder, self.together = config, folder, together
        self.device = resolve_device(config.device)
        together.on_first(self._check_shares)
        self.rows = together.rows(config.batch)
        together.on_first(lambda: _prepare_again(config, folder.path))
        self.data = TextData(config.data or folder.path / "text")
        torch.manual_seed(config.seed)
        shape = LanguageModelConfig(**_shape(config), vocabulary=self.data.tokenizer.size)
        self.model = LanguageModel(shape).to(self.device)
        text = text_digest(self.data)
        self.streams = TextStreams(self.data.training, config.batch, config.time, np.random.default_rng(config.seed))
        self.state: ReadingState | None = None
        self._parts = self.model.initial_state(1).parts
        self.progress = LanguageProgress()
        saved = folder.load_state()
        if saved is not None:
            tensors, progress = saved
            self.progress = LanguageProgress(**progress)
            if self.progress.text not in ("", text) or len(tensors["model.embedding.weight"]) != shape.vocabulary:
                raise LostRunError(
                    f"the run in {folder.path} began with another text or tokenizer than that in "
                    f"{config.data or folder.path / 'text'}: restore it, or begin a new run."
                )
            self.model.load_state_dict(part_of(tensors, "model."))
            if self.progress.streams:
                self.streams.load_state_dict(self.progress.streams)
                layers = {name: layer[self.rows].to(self.device) for name, layer in part_of(tensors, "state.").items()}
                self.state = ReadingState(layers, self._parts)
        self.progress.text = text
        unused = config.variant == "origin" or config.liquid_steps == 1
        parts = (*self.model.blocks, self.model)
        self.reader = together.share_out(Reader(self.model, config), parts, config.strategy, self.device, unused)
        self.optimizer = _optimizer(self.model, config)
        if saved is not None:
            restore_optimizer(self.model, self.optimizer, tensors, together.placed)

    def _check_shares(self) -> None:
        _check_batch(self.config, self.together.size)
        self.together.check_device(self.device)

    @property
    def total(self) -> int:
        """Steps of the whole job."""
        return self.config.steps

    @property
    def summaries(self) -> list[str]:
        """A line about the text, and one about the model."""
        training, validation = self.data.training, self.data.validation
        return [
            f"text: {training.documents:,} documents, {len(training):,} tokens to learn from and {len(validation):,} "
            f"to validate, {self.data.tokenizer.name} ({self.data.tokenizer.size:,} different ones)",
            self.model.describe(),
        ]

    def close(self) -> None:
        """Nothing runs for it."""

    def train(self, report: Callable[[LanguageProgress], None]) -> None:
        """Takes the steps that are left; ``best`` and ``last`` of the run folder are checkpoints afterwards.

        Args:
            report: called now and then with the progress.

        Raises:
            DivergedError: if a weight is NaN or infinite; the last good checkpoint stays.
        """
        config, progress = self.config, self.progress
        if progress.step == config.steps:
            if not self.together.on_first((self.folder.last / CONFIG_NAME).exists):  # it was killed at its very end
                self._save(self.folder.last)
            return
        first = self.together.rank == 0
        with SummaryWriter(self.folder.tensorboard, purge_step=progress.step + 1) if first else nullcontext() as curves:
            begin = time.monotonic() - progress.seconds
            while progress.step < config.steps:
                self.together.on_first(self.folder.check_there)
                with progress.timed("learning"):
                    self._learn(min(config.validate_every, config.steps - progress.step), report)
                with progress.timed("validation"):
                    self._validate()
                progress.round += 1
                progress.seconds = time.monotonic() - begin
                self._keep_best()
                if curves is not None:
                    self._plot(curves)
                self._save_state()
                report(progress)
        self._save(self.folder.last)

    def _learn(self, steps: int, report: Callable[[LanguageProgress], None]) -> None:
        """So many gradient steps."""
        config, progress, model = self.config, self.progress, self.model.train()
        rng = np.random.default_rng([config.seed, progress.round, 1])
        begin, losses, told = time.monotonic(), [], time.monotonic()
        for tokens, kept in self._stretches(steps, rng):
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate()
            self.optimizer.zero_grad(set_to_none=True)
            parts = torch.arange(len(tokens)).chunk(config.accumulate)
            states, loss = [], 0.0
            for place, part in enumerate(parts, 1):
                state = None if self.state is None else self.state.rows(part.to(self.device)).keep(kept[part])
                with self.together.holding_back(self.reader, place < len(parts)):
                    cost, error, layers = self.reader(tokens[part], None if state is None else dict(state.layers))
                    (cost / config.accumulate).backward()
                states.append(layers)
                loss += error.item() / config.accumulate
            loss = self.together.mean(loss)
            if not math.isfinite(loss):
                raise DivergedError(f"at step {progress.step + 1:,} the loss")
            if config.reading == "stream":
                layers = {name: torch.cat([layers[name] for layers in states]) for name in states[0]}
                self.state = ReadingState(layers, self._parts)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            self.optimizer.step()
            progress.step += 1
            losses.append(loss)
            now = time.monotonic()
            progress.loss = float(np.mean(losses))
            progress.tokens_per_second = len(losses) * config.batch * config.time / (now - begin)
            if now - told > 0.5:
                told = now
                report(progress)
        check_finite(model, f"{progress.step:,} gradient steps")

    def _stretches(self, steps: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (B, T + 1), and whose state is kept (B,), of the rows that this process reads."""
        config = self.config
        for _ in range(steps):
            if config.reading == "windows":
                tokens = random_windows(self.data.training, config.batch, config.time, rng)
            else:
                tokens, _ = next(self.streams)
            kept = torch.from_numpy(rng.random(config.batch) >= config.forget)
            yield torch.from_numpy(tokens[self.rows]).to(self.device), kept[self.rows].to(self.device)

    def _rate(self) -> float:
        config, step = self.config, self.progress.step
        warm = min(1.0, (step + 1) / max(1, config.warm_up))
        left = max(0, step - config.warm_up) / max(1, config.steps - config.warm_up)
        return config.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * left))

    def _validate(self) -> None:
        progress = self.progress
        config, carried = self.config, self.config.reading == "stream"
        loss, steps = evaluate_language(
            self.model, self.data.validation, config.batch, config.time, carried, self.together
        )
        progress.score = -loss
        progress.bits_per_byte = loss * (len(self.data.validation) - 1) / (self.data.validation.bytes * math.log(2))
        progress.liquid_steps = steps

    def _keep_best(self) -> None:
        progress = self.progress
        if progress.score > progress.best_score:
            progress.best_score = progress.score
            self._save(self.folder.best)

    def _plot(self, curves: SummaryWriter) -> None:
        progress = self.progress
        curves.add_scalar("train/loss", progress.loss, progress.step)
        curves.add_scalar("train/learning_rate", self._rate(), progress.step)
        curves.add_scalar("train/tokens_per_second", progress.tokens_per_second, progress.step)
        curves.add_scalar("validation/loss", -progress.score, progress.step)
        curves.add_scalar("validation/bits_per_byte", progress.bits_per_byte, progress.step)
        if not math.isnan(progress.liquid_steps):
            curves.add_scalar("validation/liquid_steps", progress.liquid_steps, progress.step)

    def _save_state(self) -> None:
        """What the run goes on from, put together from all processes."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors = self.together.whole(tensors | optimizer_tensors(self.model, self.optimizer))
        if self.state is not None:
            self.progress.streams = self.streams.state_dict()
            tensors |= {f"state.{name}": value for name, value in self.together.gathered(self.state.layers).items()}
        self.together.on_first(lambda: self.folder.save_state(to_save(tensors), vars(self.progress)))

    def _save(self, folder: Path) -> None:
        progress = self.progress
        record = checkpoint_record(self.config) | {
            "gradient_steps": progress.step,
            "seconds": round(progress.seconds, 1),
            "validation_loss": round(-progress.score, 4),
            "bits_per_byte": round(progress.bits_per_byte, 4),
        }
        told = {"tokenizer": self.data.tokenizer.config(), "training": record}
        weights = self.together.whole(self.model.state_dict())
        self.together.on_first(lambda: self.model.save(folder, told, weights=weights))


def _optimizer(model: LanguageModel, config: LanguageConfig) -> torch.optim.Optimizer:
    """AdamW. Vectors, and what says how much fast weights are written and kept, are not pulled to zero."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() >= 2 and "modulator" not in name else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, config.learning_rate, betas=(0.9, 0.99), fused=True)


@torch.no_grad()
def evaluate_language(
    model: LanguageModel, text: TextSplit, batch: int, time: int, carried: bool, together: Alone = ALONE
) -> tuple[float, float]:
    """The mean loss over all of a text, each token predicted once.

    Args:
        model: what reads.
        text: what it reads.
        batch: parts that it is read in, side by side.
        time: tokens of a stretch.
        carried: whether the state goes on from a stretch to the next, or begins anew.
        together: the processes that read it, each some of its parts.

    Returns:
        Nats a token, and the mean liquid steps a token, NaN of a model that does not count them.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    state, total, steps, count, rows = None, 0.0, 0.0, 0, together.rows(batch)
    for tokens, mask in ((tokens[rows], mask[rows]) for tokens, _, mask in whole_text(text, batch, time)):
        given, real = torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)
        reading = model(given[:, :-1], state, mask=None if mask.all() else real)
        state = reading.state if carried else None
        total += F.cross_entropy(reading.logits[real].float(), given[:, 1:][real], reduction="sum").item()
        steps += math.nan if reading.steps is None else reading.steps[real].sum().item()
        count += int(mask.sum())
    model.train(training)
    total, steps, predicted = together.total([total, steps, count])
    return total / predicted, steps / predicted

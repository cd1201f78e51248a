"""A language model that changes while it reads, and keeps nothing else: liquid cells, and synapses that tokens write.

Two variants. ``parallel`` is the one to use. It reads from top to bottom as a stack of blocks:

    x = embedding of the tokens
    for each block:  x ← x + mixer(norm(x)),  x ← x + SwiGLU(norm(x))
    logits = norm(x) · embeddingᵀ

A mixer is a layer of `liquid_control.nn`: fast weights that are written and forgotten by learned gates
(``memory``, `nn.plastic_memory`), liquid neurons whose pace the input sets (``scan``, `nn.scan`), attention to a window
of the last tokens (``attention``, `nn.window_attention`), or ``deep``, liquid neurons that take as many steps a token
as they need (:class:`DeepLiquid`). ``hybrid`` is attention and one of the others behind it, in one block
(`nn.hybrid`). ``lstm`` is there to compare with. A pattern names them in turn. All but the LSTM read a whole text at
once, and the state has the same size after a million tokens.

``origin`` is the architecture that set out with the claim (`Sariesep/liquid-nn`, MIT), token by token as it was
published, each defect of it mended by a switch (:class:`OriginCell`).

What changes while a model reads is one object, :class:`ReadingState`: cells, synapses and the tails of convolutions.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_traced
from liquid_control.nn import LSTM, HybridMixer, LiquidLayer, LiquidScan, PlasticMemory, WindowAttention
from liquid_control.nn.hybrid import RMSNorm, SwiGLU
from liquid_control.nn.layer import Elapsed, by_step
from liquid_control.nn.parameters import settle
from liquid_control.support.checkpoint import load_checkpoint, load_module, save_checkpoint, weights_digest
from liquid_control.support.errors import UserError
from liquid_control.support.schema import shortened, validated
from liquid_control.support.tensor_file import read_tensors, write_tensors

Width = Annotated[int, Ge(1), Le(8192)]
Depth = Annotated[int, Ge(1), Le(256)]
HalfLife = Annotated[float, Gt(0), Le(1e9)]
Core = Literal["memory", "scan", "lstm"]
Mixer = Literal[Core, "attention", "deep", "hybrid"]
Mend = Literal["sequences", "gradients", "order", "bound"]

TRACE = "trace"
"""What the parts of a state that are synapses begin with."""


@dataclass(frozen=True)
class ModelShape:
    """What a language model is made of, whatever its tokens are."""

    variant: Literal["parallel", "origin"] = "parallel"
    """parallel: blocks that read all tokens of a text at once. origin: the published cell, token by token."""
    width: Width = 128
    """Numbers that stand for a token inside."""
    blocks: Depth = 4
    """Blocks, or cells of the origin: the first half of those fast, the second deep and plastic."""
    pattern: Annotated[tuple[Mixer, ...], MinLen(1)] = ("memory",)
    """Mixers of the blocks, in turn: memory, scan, attention, hybrid, deep or lstm. Say memory memory attention."""
    core: Core = "scan"
    """What a hybrid mixer has behind its attention: memory, scan or lstm."""
    heads: Depth = 2
    """Heads of fast weights or of attention, each of width / heads numbers."""
    rule: Literal["hebb", "oja", "delta"] = "delta"
    """How fast weights are written, see liquid_control.nn.trace."""
    convolution: Annotated[int, Ge(1), Le(64)] = 4
    """Tokens that a key sees, the present one included."""
    shortest_half_life: HalfLife = 4.0
    """Tokens after which the most forgetful head has forgotten half, to begin with."""
    longest_half_life: HalfLife = 2048.0
    """The same of the most faithful head."""
    window: Annotated[int, Ge(2), Le(10_000)] = 128
    """Tokens that attention sees."""
    expansion: Annotated[float, Gt(0), Le(16)] = 7 / 3
    """Width of the feed-forward part of a block, in widths."""
    liquid_steps: Annotated[int, Ge(1), Le(16)] = 4
    """Liquid steps that a deep mixer takes for a token at most."""
    mends: tuple[Mend, ...] = ("sequences", "gradients", "order", "bound")
    """Defects of the origin that are mended: sequences, gradients, order, bound."""
    plastic: bool = True
    """Whether the deep cells of the origin are plastic."""


@dataclass(frozen=True)
class LanguageModelConfig(ModelShape):
    """What a language model is made of, and for how many tokens."""

    vocabulary: Annotated[int, Ge(1), Le(2**20)] = 257
    """Number of tokens. By default those of bytes, with one for the end of a document."""


# What changes while reading


@dataclass(frozen=True)
class ReadingState:
    """All that changes while a model reads, for each of B texts: cells, synapses, tails of convolutions, windows.

    Its size does not depend on how much has been read. It holds no gradient rule of its own: :meth:`detach` cuts the
    past off. A state belongs to the weights that made it.
    """

    layers: Mapping[str, Tensor]
    """The flat state (B, S) of each layer, by the layer's name."""
    parts: Mapping[str, Mapping[str, Sequence[int]]]
    """Places in it of each part of the layer; those whose name begins with :data:`TRACE` are synapses."""
    frozen: bool = False
    """Whether reading leaves the synapses as they are."""

    @property
    def batch(self) -> int:
        """Number of texts, B."""
        return len(next(iter(self.layers.values())))

    @property
    def bytes_per_text(self) -> int:
        """Bytes of the state of one text."""
        return sum(state.shape[1] * state.element_size() for state in self.layers.values())

    def reset(self, traces: bool = True, rest: bool = True) -> ReadingState:
        """As before the first token: the synapses, and all the rest; where False, it stays."""
        return self._combined({name: torch.zeros_like(state) for name, state in self.layers.items()}, traces, rest)

    def with_traces_of(self, other: ReadingState) -> ReadingState:
        """This state with the synapses of another."""
        return self._combined(other.layers, traces=True, rest=False)

    def freeze(self, frozen: bool = True) -> ReadingState:
        """A state whose synapses stay as they are while reading goes on; False lets them live again."""
        return ReadingState(self.layers, self.parts, frozen)

    def detach(self) -> ReadingState:
        """The same numbers, of which no gradient goes further back."""
        return self._map(Tensor.detach)

    def rows(self, places: Tensor | Sequence[int] | slice) -> ReadingState:
        """The states of some of the texts, or of one several times."""
        return self._map(lambda state: state[places])

    def to(self, *where: Any) -> ReadingState:
        """On another device or of another type, as `torch.Tensor.to`."""
        return self._map(lambda state: state.to(*where))

    def keep(self, kept: Tensor) -> ReadingState:
        """Reset where ``kept`` (B,) is False."""
        return self._map(lambda state: torch.where(kept[:, None], state, 0))

    def synapses(self) -> dict[str, Tensor]:
        """The traces (B, ·), by layer and part."""
        return {
            f"{layer}.{part}": state[:, _index(self.parts[layer][part])]
            for layer, state in self.layers.items()
            for part in self.parts[layer]
            if part.startswith(TRACE)
        }

    def save(self, path: str | os.PathLike[str], model: nn.Module) -> None:
        """Writes a file that :meth:`load` reads, whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        layers = {name: state.detach().cpu().contiguous() for name, state in self.layers.items()}
        write_tensors(Path(path), layers, {"model": weights_digest(model), "frozen": str(int(self.frozen))})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: LanguageModel) -> ReadingState:
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: if there is no such file, it is damaged, or it is a state of another model.
        """
        try:
            layers, told = read_tensors(Path(path))
        except FileNotFoundError:
            raise UserError(f"cannot read the state {path}: there is no such file.") from None
        fresh = model.initial_state(1)
        if told.get("model") != weights_digest(model) or not fresh.is_like(layers):
            raise UserError(f"{path} is no state of this model: a state belongs to the weights that made it.")
        if not all(bool(layer.isfinite().all()) for layer in layers.values()):
            raise UserError(f"{path} holds numbers that are not finite: go on from another state.")
        # In the order of the model: a file has them by name, blocks.10 before blocks.2.
        return cls({name: layers[name] for name in fresh.layers}, fresh.parts, told.get("frozen") == "1")

    @staticmethod
    def is_file(path: str | os.PathLike[str]) -> bool:
        """Whether :meth:`save` wrote a file, for whatever model."""
        try:
            _, told = read_tensors(Path(path))
        except (OSError, UserError):
            return False
        return told.keys() == {"model", "frozen"}

    def is_like(self, layers: Mapping[str, Tensor]) -> bool:
        """Whether these are the layers of a state of the same model, of one number of texts."""
        kinds, own = (
            {name: (layer.shape[1:], layer.dtype) for name, layer in of.items()} for of in (layers, self.layers)
        )
        return kinds == own and len({len(layer) for layer in layers.values()}) == 1

    def _map(self, function: Callable[[Tensor], Tensor]) -> ReadingState:
        layers = {name: function(state) for name, state in self.layers.items()}
        return ReadingState(layers, self.parts, self.frozen)

    def _combined(self, others: Mapping[str, Tensor], traces: bool, rest: bool) -> ReadingState:
        """Parts of other layers' states in the place of these: the synapses, and all the rest."""
        layers = {}
        for name, state in self.layers.items():
            state = state.clone()
            for part, places in self.parts[name].items():
                if traces if part.startswith(TRACE) else rest:
                    state[:, _index(places)] = others[name][:, _index(places)]
            layers[name] = state
        return ReadingState(layers, self.parts, self.frozen)


def _index(places: Sequence[int]) -> slice | list[int]:
    return slice(places.start, places.stop, places.step) if isinstance(places, range) else list(places)


class Reading(NamedTuple):
    """What a model makes of tokens."""

    logits: Tensor
    """(B, T, V) of each token, what comes next."""
    state: ReadingState
    """After the last token."""
    steps: Tensor | None
    """(B, T) liquid steps that the deep mixers took together; None if there are none."""
    ponder: Tensor | None
    """(B, T) those, and what was left of the last one of each; None if there are none.

    The ponder cost of Graves 2016, equation 12: its gradient shortens what is left.
    """


# The parallel variant: blocks


class Block(nn.Module):
    """A mixer, which looks at other tokens, and a feed-forward part, which does not; both added to what was there."""

    def __init__(self, mixer: LiquidLayer | DeepLiquid, config: LanguageModelConfig):
        super().__init__()
        width = config.width
        self.before_mixer, self.before_feed = RMSNorm(width), RMSNorm(width)
        self.mixer = mixer
        self.feed = SwiGLU(width, max(1, round(config.expansion * width)))

    def forward(
        self, x: Tensor, state: Tensor, elapsed: Elapsed | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """From x (B, T, width) and the mixer's state to the same, and its ponder cost (B, T) if it has one."""
        mixed, state, *ponder = self.mixer(self.before_mixer(x), state, elapsed, mask)
        x = x + mixed
        return x + self.feed(self.before_feed(x), mask), state, ponder[0] if ponder else None


class DeepLiquid(nn.Module):
    """Liquid neurons that take as many steps a token as they need: easy ones few, hard ones many.

    Adaptive computation time (Graves 2016, §2) around one :class:`~liquid_control.nn.LiquidScan`: step n reads the
    token together with what step n - 1 made of it, and says how likely it is the last, p_n. A token halts as soon as
    the sum of its p reaches 1 - ε, and its output is the mean of its steps' with weights p, what is left over going to
    the last one. Each step has neurons of its own, which only those tokens move that come so far: to the others it is a
    padded step, so all tokens still run at once. A step to which no token comes is left out on the CPU; on a GPU the
    question would wait for all that runs there.

    Args:
        width: of input and output.
        steps: the most.
    """

    EPSILON = 0.01

    def __init__(self, width: int, steps: int):
        super().__init__()
        self.steps = steps
        self.scan = LiquidScan(width, width, output_size=width)
        self.again = nn.Linear(width, width, bias=False)
        self.halt = nn.Linear(width, 1)
        nn.init.constant_(self.halt.bias, 1.0)
        self.state_size = steps * self.scan.state_size
        self.parts = {f"neurons_{step}": self._places(step) for step in range(steps)}

    def _places(self, step: int) -> range:
        return range(step * self.scan.state_size, (step + 1) * self.scan.state_size)

    def initial_state(self, batch: int) -> Tensor:
        """The state (batch, S) before the first token."""
        return self.scan.initial_state(batch).repeat(1, self.steps)

    def forward(
        self, x: Tensor, state: Tensor, elapsed: Elapsed | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From x (B, T, width) to the same, the state after, and the ponder cost (B, T)."""
        runs = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        left = torch.ones_like(x[..., 0])  # 1 - Σ p so far
        seen, mixed, count, states = x, torch.zeros_like(x), torch.zeros_like(left), []
        remainder = torch.zeros_like(left)
        asks = x.device.type == "cpu" and not is_traced()
        earliest = 2 if torch.is_grad_enabled() else 1  # in the second step `again` has its part in the gradient
        for step, before in enumerate(state.chunk(self.steps, 1)):
            if asks and step >= earliest and not runs.any():
                states.append(before)
                continue
            made, after = self.scan(seen, before, elapsed, runs)
            states.append(after)
            likely = torch.sigmoid(self.halt(made)[..., 0])
            last = runs & ((left - likely < self.EPSILON) if step + 1 < self.steps else True)
            weight = torch.where(last, left, likely)
            mixed = mixed + torch.where(runs, weight, 0)[..., None] * made
            count, remainder = count + runs, torch.where(last, left, remainder)
            left = torch.where(runs & ~last, left - likely, left)
            runs = runs & ~last
            seen = x + self.again(made)
        return mixed, torch.cat(states, 1), count + remainder


def build_mixer(kind: Mixer, config: LanguageModelConfig) -> LiquidLayer | DeepLiquid:
    """The mixer that a pattern names."""
    width = config.width
    match kind:
        case "memory":
            return PlasticMemory(
                width,
                width,
                width,
                heads=config.heads,
                rule=config.rule,
                convolution=config.convolution,
                shortest_half_life=config.shortest_half_life,
                longest_half_life=config.longest_half_life,
            )
        case "scan":
            return LiquidScan(width, width, width)
        case "attention":
            return WindowAttention(width, width, heads=config.heads, window=config.window)
        case "hybrid":
            core = cast(LiquidLayer, build_mixer(config.core, config))
            return HybridMixer(width, core, heads=config.heads, window=config.window, timed=False)
        case "deep":
            return DeepLiquid(width, config.liquid_steps)
        case "lstm":
            return LSTM(width, width)


# The origin: a cell


class OriginCell(LiquidLayer):
    """The cell of the origin: liquid neurons whose synapses W + α ∘ H are written by their own activity.

        dh/dt = (-h + tanh(S_in x + S_rec h + b)) / τ(x, h),    τ = 0.2 + softplus(MLP(x, h))
        S = W + α ∘ H,    H ← δ H + η post preᵀ,    state ← LayerNorm(h + x)

    One Euler step a token, or several midpoint steps. As it was published, four things were wrong with its plasticity.
    Each is mended by a switch:

    - ``sequences``: the trace was one for the batch, written with its mean: a text read what others had taught. Now
      each has its own.
    - ``gradients``: writing stood outside of the graph, so η and δ never learned. Now they do.
    - ``order``: recurrent synapses were written with h at the same time before and after them. Now pre is the state
      before the step, post the one after (Miconi et al. 2018, equation 2).
    - ``bound``: a trace of more than 0.3 ‖W‖ was scaled down as a whole, which faded what was old with every write. Now
      pre and post are of unit length, and decay alone bounds it.

    Args:
        input_size: number of inputs, which is also that of its neurons.
        steps: 1 is an Euler step, more are midpoint steps.
        plastic: whether it has traces.
        mends: which of the four.
    """

    name = "origin"
    SHORTEST_TAU, RATE, CAP = 0.2, 0.03, 0.3

    def __init__(self, input_size: int, steps: int = 1, plastic: bool = True, mends: Sequence[str] = ()):
        traces = {f"{TRACE}_input": input_size**2, f"{TRACE}_recurrent": input_size**2} if plastic else {}
        super().__init__(input_size, {"neurons": input_size} | traces, input_size)
        self.steps, self.plastic, self.mends = steps, plastic, tuple(mends)
        self.frozen: frozenset[str] = frozenset()
        self.inputs, self.recurrent = nn.Linear(input_size, input_size), nn.Linear(input_size, input_size, bias=False)
        self.tau = nn.Sequential(nn.Linear(2 * input_size, input_size), nn.Tanh(), nn.Linear(input_size, input_size))
        self.norm = nn.LayerNorm(input_size)
        if plastic:
            self.gains = nn.ParameterList(0.01 * torch.randn(input_size, input_size) for _ in range(2))
            self.rates = nn.Parameter(torch.full((2,), -3.0))  # η = 0.03 softplus
            self.retentions = nn.Parameter(torch.full((2,), 3.0))  # δ = σ

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; all modules are called."""
        settle([self.inputs, self.recurrent, self.tau, self.norm], called=True)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; token by token."""
        width = self.input_size
        neurons, *traces = (
            part if name == "neurons" else part.unflatten(1, (width, width))
            for name, part in self.unpack(state).items()
        )
        outputs = []
        for inputs, (span, advances) in zip(x, by_step(elapsed, advance, len(x)), strict=True):
            after = self._move(inputs, neurons, traces, span)
            settled = self.norm(after + inputs)
            written = traces
            if self.plastic and not self.frozen:
                pre = neurons if "order" in self.mends else after
                written = [self._write(n, traces[n], after, (inputs, pre)[n]) for n in range(2)]
            if advances is not None:
                settled = torch.where(advances, settled, neurons)
                written = [torch.where(advances[..., None], new, old) for new, old in zip(written, traces, strict=True)]
            neurons, traces = settled, written
            outputs.append(settled)
        return torch.stack(outputs), torch.cat([neurons, *(trace.flatten(1) for trace in traces)], 1)

    def _move(self, inputs: Tensor, neurons: Tensor, traces: Sequence[Tensor], span: Elapsed) -> Tensor:
        """The neurons (B, U) after a token that lasts ``span``."""
        plastic = [gain * trace for gain, trace in zip(self.gains, traces, strict=True)] if traces else []

        def through(module: nn.Module, place: int, values: Tensor) -> Tensor:
            fixed: Tensor = module(values)
            return fixed + (plastic[place] @ values[..., None])[..., 0] if plastic else fixed

        def slope(h: Tensor) -> Tensor:
            tau = self.SHORTEST_TAU + F.softplus(self.tau(torch.cat([inputs, h], 1)))
            return (torch.tanh(given + through(self.recurrent, 1, h)) - h) / tau

        given, step = through(self.inputs, 0, inputs), span / self.steps
        for _ in range(self.steps):
            halfway = neurons if self.steps == 1 else neurons + step / 2 * slope(neurons)
            neurons = neurons + step * slope(halfway)
        return neurons

    def _write(self, place: int, trace: Tensor, post: Tensor, pre: Tensor) -> Tensor:
        """A trace (B, U, U) after a token."""
        if "bound" in self.mends:
            post, pre = F.normalize(post, dim=1), F.normalize(pre, dim=1)
        with torch.set_grad_enabled("gradients" in self.mends and torch.is_grad_enabled()):
            rate, retention = self.RATE * F.softplus(self.rates[place]), torch.sigmoid(self.retentions[place])
            if "sequences" in self.mends:
                trace = torch.addcmul(retention * trace, rate * post[:, :, None], pre[:, None, :])
            else:
                trace = retention * trace + rate * (post.mT @ pre) / len(post)
            if "bound" not in self.mends:
                weight = (self.inputs, self.recurrent)[place].weight
                largest = self.CAP * torch.linalg.matrix_norm(weight)
                size = torch.linalg.matrix_norm(trace, keepdim=True)
                trace = trace * (largest / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1)
        return trace

    @property
    def neuron_count(self) -> int:
        """The neurons of the state."""
        return self.input_size


def positions(place: Tensor, width: int) -> Tensor:
    """Sinusoidal positions (…, width) of places (…) in a text (Vaswani et al. 2017, §3.5)."""
    pairs = -(-width // 2)
    angle = place[..., None] * 1e4 ** -(torch.arange(pairs, device=place.device) / pairs)
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :width]


# The model


class LanguageModel(nn.Module):
    """From tokens to what comes next, a whole text at once or token by token.

    Args:
        config: what it is made of.

    Raises:
        UserError: if the config's numbers do not go together.
    """

    def __init__(self, config: LanguageModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        # Rows of length one, as they are the head, too: at a std of 0.02 recall is learned after twice as many steps.
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        self.blocks = nn.ModuleList()
        if not config.pattern:
            raise UserError("no such language model: its pattern names no mixer.")
        try:
            for place in range(config.blocks):
                if config.variant == "origin":
                    deep = place >= config.blocks // 2
                    self.blocks.append(
                        OriginCell(config.width, 3 if deep else 1, deep and config.plastic, config.mends)
                    )
                else:
                    kind = config.pattern[place % len(config.pattern)]
                    self.blocks.append(Block(build_mixer(kind, config), config))
        except ValueError as error:
            raise UserError(f"no such language model: {error}") from None
        self.norm = RMSNorm(config.width) if config.variant == "parallel" else nn.Identity()
        for block in self.blocks:
            if isinstance(block, Block):  # what so many parts add up to begins as large as one (Radford et al. 2019)
                for last in (block.feed.contract.weight, *_readout(block.mixer)):
                    with torch.no_grad():
                        last.div_(math.sqrt(2 * config.blocks))

    def forward(
        self,
        tokens: Tensor,
        state: ReadingState | None = None,
        elapsed: Elapsed | None = None,
        mask: Tensor | None = None,
        last_only: bool = False,
    ) -> Reading:
        """Reads a stretch of each text.

        Args:
            tokens: (B, T) int64.
            state: before the first; None is :meth:`initial_state`.
            elapsed: time since the token before, in tokens: None (1), a number, or (B, T).
            mask: (B, T) bool, True where a token is real. Others change nothing.
            last_only: whether to say what comes after the last token alone: then logits are (B, 1, V). Those of a large
                vocabulary are much of the work.

        Raises:
            ValueError: if a token is unknown or a shape does not fit.
        """
        if tokens.dim() != 2:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}, expected (batch, time).")
        if not torch.compiler.is_compiling():
            self._check(tokens)
        state = self.initial_state(len(tokens)) if state is None else state
        with self.holding(state.frozen):
            return self._read(tokens, state, elapsed, mask, last_only)

    @torch.no_grad()
    def read(
        self, tokens: Tensor, state: ReadingState | None = None, stretch: int = 512
    ) -> tuple[Tensor, ReadingState]:
        """Reads texts of any length, without gradients, a stretch at a time so that memory does not grow.

        Args:
            tokens: (B, T) int64, T ≥ 1.
            state: before the first; None is :meth:`initial_state`.
            stretch: tokens that are read at once.

        Returns:
            Logits (B, V) of what comes next, and the state after the last token.
        """
        for part in tokens.split(stretch, 1):
            reading = self(part, state, last_only=True)
            state = reading.state
        return reading.logits[:, -1], reading.state

    def step(self, token: Tensor, state: ReadingState | None = None) -> tuple[Tensor, ReadingState]:
        """One token (B,) of each text: logits (B, V) of the next, and the state after."""
        reading = self(token[:, None], state)
        return reading.logits[:, 0], reading.state

    def _read(
        self, tokens: Tensor, state: ReadingState, elapsed: Elapsed | None, mask: Tensor | None, last_only: bool
    ) -> Reading:
        layers, costs = dict(state.layers), []
        x = self.embedding(tokens)
        if self.config.variant == "origin":
            place = layers["position"]
            real = torch.ones_like(tokens) if mask is None else mask.long()
            after = place + real.cumsum(1)
            # Rows of length one would drown in sines and cosines (Vaswani et al. 2017, §3.4).
            x = math.sqrt(self.config.width) * x + positions(after - 1, self.config.width).to(x.dtype)
            layers["position"] = after[:, -1:] if tokens.shape[1] else place
        for name, block in self._named_blocks():
            if isinstance(block, OriginCell):
                x, layers[name] = block(x, layers[name], elapsed, mask)
            else:
                x, layers[name], cost = block(x, layers[name], elapsed, mask)
                costs += [] if cost is None else [cost]
        logits = F.linear(self.norm(x[:, -1:] if last_only else x), self.embedding.weight)
        ponder = torch.stack(costs) if costs else None
        return Reading(
            logits,
            ReadingState(layers, state.parts, state.frozen),
            # What is left of a last step is more than 0 and at most 1; padding has neither.
            None if ponder is None else (ponder.detach().ceil() - 1).clamp(min=0).sum(0),
            None if ponder is None else ponder.sum(0),
        )

    def initial_state(self, batch: int) -> ReadingState:
        """The state of ``batch`` texts of which nothing has been read."""
        layers, parts = {}, {}
        for name, block in self._named_blocks():
            mixer = block.mixer if isinstance(block, Block) else block
            layers[name], parts[name] = mixer.initial_state(batch), mixer.parts
        if self.config.variant == "origin":
            layers["position"] = torch.zeros(batch, 1, device=self.embedding.weight.device)
            parts["position"] = {"position": range(1)}
        return ReadingState(layers, parts)

    def parameter_count(self) -> int:
        """Number of parameters; the embedding is also the head, and counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def describe(self) -> str:
        """One line about the model."""
        kinds = "origin" if self.config.variant == "origin" else ", ".join(self.config.pattern)
        table = self.embedding.weight.numel()
        return (
            f"language model: {self.config.blocks} × {self.config.width} ({kinds}), {self.parameter_count():,} "
            f"parameters, of which the embedding {table:,}; state {self.initial_state(1).bytes_per_text:,} bytes a text"
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        told: Mapping[str, Any],
        card: str | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Saves it as a checkpoint.

        Args:
            folder: where.
            told: what the config file says besides: tokenizer, training.
            card: text for people.
            weights: in place of its own, where those are shared out over processes.

        Raises:
            UserError: if it cannot be written.
        """
        weights = self.state_dict() if weights is None else dict(weights)
        save_checkpoint(folder, weights, {"language_model": asdict(self.config)} | dict(told), card)

    def _named_blocks(self) -> Iterator[tuple[str, Block | OriginCell]]:
        return ((f"blocks.{place}", cast(Block | OriginCell, block)) for place, block in enumerate(self.blocks))

    @contextmanager
    def holding(self, frozen: bool) -> Iterator[None]:
        """For the block of a with statement the synapses stay as they are, if ``frozen``."""
        parts = self.modules() if frozen else ()  # a walk over all of them takes time at every token
        memories = [part for part in parts if isinstance(part, PlasticMemory | OriginCell)]
        before = [part.frozen for part in memories]
        try:
            for memory in memories:
                memory.frozen = frozenset([TRACE])
            yield
        finally:
            for memory, was in zip(memories, before, strict=True):
                memory.frozen = was

    def _check(self, tokens: Tensor) -> None:
        if tokens.numel():
            low, high = (int(value) for value in tokens.aminmax())
            if low < 0 or high >= self.config.vocabulary:
                wrong = low if low < 0 else high
                raise ValueError(f"token {wrong} is unknown: the vocabulary has {self.config.vocabulary}, from 0 on.")


def _readout(mixer: nn.Module) -> list[Tensor]:
    """The weights by which a mixer writes to what goes on."""
    if isinstance(mixer, HybridMixer):
        return [*_readout(mixer.attention), mixer.readout.weight]
    readout = getattr(mixer.scan if isinstance(mixer, DeepLiquid) else mixer, "readout", None)
    return [readout.weight] if isinstance(readout, nn.Linear) else []


def load_language_model(folder: str | os.PathLike[str]) -> tuple[LanguageModel, dict[str, Any]]:
    """What :meth:`LanguageModel.save` wrote, on the CPU and in eval mode, and what else the config says.

    Raises:
        UserError: if there is none, or it is damaged, see :func:`liquid_control.support.checkpoint.load_checkpoint`.
    """
    tensors, told = load_checkpoint(folder)
    if "language_model" not in told:
        driver = f"It is a driver: python -m liquid_control.evaluate {shlex.quote(str(folder))}"
        example = "One is, for example, checkpoints/LanguageModel/stories."
        raise UserError(f"{folder} is no language model. {driver if told.get('kind') == 'driver' else example}")
    config = validated(LanguageModelConfig, told.pop("language_model"), f"the config of {folder}")
    try:
        return load_module(lambda: LanguageModel(config), tensors), told
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the weights of {folder} do not fit its config, first {shortened(error)}.") from None

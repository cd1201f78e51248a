"""A language model that speaks, token by token: NumPy in place of torch, whose calls cost more than their arithmetic.

It is the model's own step, :meth:`liquid_control.models.language_model.LanguageModel.step`, of a single text on the
CPU, equal to it but for rounding. The mixers are stepped as in drivers, by ``compile_step()``; nothing is compiled here
that takes time, so the first token does not wait.
"""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.kernels import kernel_device
from liquid_control.kernels.memory_step import array, silu
from liquid_control.models.language_model import Block, LanguageModel, ReadingState
from liquid_control.nn import PlasticMemory
from liquid_control.nn.hybrid import SwiGLU


class Reader(Protocol):
    """A model that carries the state of one text."""

    @property
    def state(self) -> ReadingState:
        """After the last token."""

    def step(self, token: int) -> Tensor:
        """Reads a token: logits (V,) of the next."""


def read_on(model: LanguageModel, state: ReadingState) -> Reader:
    """What reads the text of a state on, compiled if :func:`can_be_compiled`."""
    return CompiledLanguageModel(model, state) if can_be_compiled(model) else PlainReader(model, state)


def can_be_compiled(model: LanguageModel) -> bool:
    """Whether a model is on the CPU in float32 or float64, and its blocks are plain, their mixers plastic memories."""
    weight = model.embedding.weight
    if kernel_device(weight.detach()) != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return False
    return all(
        isinstance(block, Block)
        and isinstance(block.mixer, PlasticMemory)
        and type(block.feed) is SwiGLU  # not one that remembers
        for block in model.blocks
    )


class PlainReader:
    """A :class:`Reader` of any model, by its own step."""

    def __init__(self, model: LanguageModel, state: ReadingState):
        self._model, self.state = model, state

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """See :class:`Reader`."""
        given = torch.tensor([token], device=self._model.embedding.weight.device)
        logits, self.state = self._model.step(given, self.state)
        return logits[0]


class CompiledLanguageModel:
    """A :class:`Reader` with the weights that the model had when this was made.

    Args:
        model: for which :func:`can_be_compiled` holds.
        state: of one text.

    Raises:
        ValueError: if the state is not that of one text.
    """

    def __init__(self, model: LanguageModel, state: ReadingState):
        if state.batch != 1:
            raise ValueError(f"the state is of {state.batch} texts, expected one.")
        self._told = state
        self._embedding = array(model.embedding.weight)
        with model.holding(state.frozen):
            blocks = [_CompiledBlock(block) for block in model.blocks if isinstance(block, Block)]
        self._blocks = dict(zip(model.initial_state(1).layers, blocks, strict=True))
        for name, block in self._blocks.items():
            block.mix.state[:] = state.layers[name][0].numpy()
        self._norm = _CompiledNorm(cast(nn.RMSNorm, model.norm))

    def step(self, token: int) -> Tensor:
        """See :class:`Reader`.

        Raises:
            ValueError: if the token is unknown.
        """
        if not 0 <= token < len(self._embedding):
            raise ValueError(f"token {token} is unknown: the vocabulary has {len(self._embedding)}, from 0 on.")
        x = self._embedding[token]
        for block in self._blocks.values():
            x = block(x)
        return torch.from_numpy(self._embedding @ self._norm(x))

    @property
    def state(self) -> ReadingState:
        """See :class:`Reader`; a copy."""
        layers = {name: torch.from_numpy(block.mix.state.copy())[None] for name, block in self._blocks.items()}
        return ReadingState(layers, self._told.parts, self._told.frozen)


class _CompiledBlock:
    """See :class:`liquid_control.models.language_model.Block`."""

    def __init__(self, block: Block):
        self.before_mixer, self.before_feed = _CompiledNorm(block.before_mixer), _CompiledNorm(block.before_feed)
        self.mix = cast(PlasticMemory, block.mixer).compile_step()
        self.expand, self.contract = (array(part.weight) for part in (block.feed.expand, block.feed.contract))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = x + self.mix(self.before_mixer(x))
        gate, value = (self.expand @ self.before_feed(x)).reshape(2, -1)
        fed: np.ndarray = x + self.contract @ (silu(gate) * value)
        return fed


class _CompiledNorm:
    """x / √(mean of x² + ε), times the gains."""

    def __init__(self, norm: nn.RMSNorm):
        self.gain = array(norm.weight)
        self.floor = np.finfo(self.gain.dtype).eps if norm.eps is None else norm.eps

    def __call__(self, x: np.ndarray) -> np.ndarray:
        normed: np.ndarray = x * (self.gain / np.sqrt(x @ x / len(x) + self.floor))
        return normed

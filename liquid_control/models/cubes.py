"""Cubes: what a sub-block of a transformer computed, remembered by what it was given.

The feed-forward part of a block is a function of one vector, so what it made of an input x, the residual r that it
added, may be looked up instead of computed again when something like x comes back. A :class:`Cube` is the memory of one
such part: entries (key, residual, use, error), in blocks of 64, in a fixed number of bytes, on the CPU.

    p = P x,   key = W (p - μ) / ‖W (p - μ)‖          P fixed; μ and the covariance W⁻¹W⁻ᵀ of all p that came by
    r̂ = Σ w_i r_i,   w = softmax(s · key·key_i)        over the k nearest entries
    dispersion = Σ w_i ‖r_i - r̂‖² / ‖r̂‖²,   novelty = 1 - max_i key·key_i

- **Keys are never stale.** P does not learn. Entries hold p, and whenever the number of inputs so far has doubled, μ, W
  and all keys are computed anew from what came by. That is seldom, so it costs next to nothing.
- **Reading has two levels.** Each block has a summary, the mean of its keys. A query looks at the summaries, then at
  the entries of the ``probed`` nearest blocks. As long as there are no more blocks than that, it looks at all entries,
  and reading is exact. So that a summary says something, an entry goes to the block that is nearest to it.
- **Surprise writes.** An entry is written if its key is novel, or if what was recalled was wrong. One whose key is
  there already is merged with it, by a running mean.
- **Nothing grows.** When all blocks are full, the least worthy one is given up: that which was used least, longest ago,
  and is most like another.

After the specification of the prototype (see :mod:`liquid_control.models.hybrid`), whose keys went through a map that
learned while old keys stayed; the nearest published mechanism is AttMEMO (Feng et al. 2023, arXiv 2301.09262).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from liquid_control.kernels import kernel_device
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.errors import UserError
from liquid_control.support.schema import validated
from liquid_control.support.tensor_file import read_tensors, write_tensors

BLOCK = 64
"""Entries of a block."""
JOINS = 0.5
"""How near an entry must be to the summary of a block to go there while others are empty."""
MERGED = 16
"""An entry is the mean of so many at most; after that, the oldest of them fade."""
AT_ONCE = 256
"""Inputs that are looked up at once."""
FLOOR = 1e-3
"""Of the variance of a direction, in mean variances: below, whitening would amplify noise."""


@dataclass(frozen=True)
class CubeConfig:
    """What the cubes of a model are."""

    width: Annotated[int, Ge(1), Le(8192)]
    """Numbers of an input and of a residual, d."""
    layers: Annotated[int, Ge(1), Le(256)]
    """Sub-blocks that have a cube."""
    blocks: Annotated[int, Ge(2), Le(2**16)] = 64
    """Blocks of a cube, each of 64 entries."""
    key_size: Annotated[int, Ge(1), Le(1024)] = 64
    """Numbers of a key; not more than ``width``."""
    neighbours: Annotated[int, Ge(1), Le(BLOCK)] = 4
    """Entries that are recalled together, k."""
    sharpness: Annotated[float, Gt(0), Le(1000)] = 20.0
    """How much more a nearer entry counts, s."""
    probed: Annotated[int, Ge(1), Le(2**16)] = 16
    """Blocks whose entries are looked at."""
    novel: Annotated[float, Ge(0), Le(2)] = 0.05
    """Novelty from which an entry is written."""
    wrong: Annotated[float, Ge(0), Le(1e6)] = 0.1
    """Relative error of what was recalled, ‖r̂ - r‖² / ‖r‖², from which an entry is written."""
    same: Annotated[float, Gt(0), Le(1)] = 0.99
    """Similarity from which two entries are merged."""
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0
    """Of the fixed map."""

    def within(self, limit: int) -> CubeConfig:
        """The same with as many blocks as fit into so many bytes, all layers together.

        Raises:
            UserError: if two blocks do not fit.
        """
        two, three = (replace(self, blocks=blocks).bytes for blocks in (2, 3))
        blocks = 2 + (limit - two) // (three - two)
        if blocks < 2:
            raise UserError(f"{limit:,} bytes are too few for cubes: two blocks in each layer take {two:,}.")
        return replace(self, blocks=min(blocks, 2**16))

    @property
    def bytes(self) -> int:
        """Bytes of the cubes of all layers, however much they have seen."""
        return self.layers * sum(math.prod(shape) * kind.itemsize for shape, kind in _layout(self).values())


def _layout(config: CubeConfig) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The tensors of a cube: shape and type by name."""
    d, k, b, single = config.width, config.key_size, config.blocks, torch.float32
    entries = (b, BLOCK)
    return {
        "projection": ((k, d), single),
        "count": ((), torch.float64),
        "mean": ((k,), torch.float64),
        "scatter": ((k, k), torch.float64),
        "centre": ((k,), single),
        "whiten": ((k, k), single),
        "projected": ((*entries, k), single),
        "keys": ((*entries, k), single),
        "residuals": ((*entries, d), single),
        "merged": (entries, single),
        "use": (entries, single),
        "error": (entries, single),
        "summaries": ((b, k), single),
        "filled": ((b,), torch.int64),
        "touched": ((b,), torch.int64),
        "clock": ((), torch.int64),
    }


class Recall(NamedTuple):
    """What a cube knows of N inputs."""

    residual: Tensor
    """(N, d) r̂; zeros of an empty cube."""
    similarity: Tensor
    """(N,) of the nearest key, -1 to 1; 0 of an empty cube. Novelty is one minus that."""
    dispersion: Tensor
    """(N,) how much the recalled residuals differ, relative to their mean."""
    places: Tensor
    """(N, k) the entries, numbered through all blocks."""
    weights: Tensor
    """(N, k) their shares, which sum to one; zero where there are fewer entries."""
    operations: int
    """Multiplications that reading took, for all N inputs."""

    def rows(self, chosen: Tensor) -> Recall:
        """Of some of the inputs, (N,) bool; they took no further operations."""
        residual, similarity, dispersion = (value[chosen] for value in self[:3])
        places, weights = (value[chosen.to(value.device)] for value in self[3:5])
        return Recall(residual, similarity, dispersion, places, weights, 0)


class Cube:
    """The memory of one sub-block, in a fixed number of bytes. It has no gradients.

    Args:
        config: of all layers.
        layer: which one; each has a fixed map of its own.
    """

    def __init__(self, config: CubeConfig, layer: int = 0):
        if config.key_size > config.width:
            raise UserError(f"a key of {config.key_size} numbers cannot be of {config.width}: make it smaller.")
        self.config = config
        self.operations = 0
        """Multiplications that writing took so far."""
        self.tensors = {name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in _layout(config).items()}
        generator = torch.Generator().manual_seed(config.seed + layer)
        drawn = torch.randn(config.width, config.key_size, generator=generator, dtype=torch.float64)
        self.tensors["projection"].copy_(torch.linalg.qr(drawn).Q.T)
        self.tensors["whiten"].copy_(torch.eye(config.key_size))

    def __len__(self) -> int:
        """Number of entries."""
        return int(self.tensors["filled"].sum())

    def __getstate__(self) -> dict[str, Any]:
        """A copy has arrays of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_kernel"}

    @cached_property
    def _kernel(self) -> tuple[Any, Any]:
        """What the kernel reads with: the memory of the tensors, and how."""
        from liquid_control.kernels import cubes  # Numba is optional

        config = self.config
        arrays = [self.tensors[name] for name in cubes.Arrays._fields]
        return (
            cubes.Arrays(*(np.atleast_1d(tensor.numpy()) for tensor in arrays)),
            cubes.How(config.probed, config.neighbours, np.float32(config.sharpness)),
        )

    def read(self, x: Tensor) -> Recall:
        """What was computed for inputs like these.

        Args:
            x: (N, d), on any device; what is recalled is on the same.
        """
        of, given = self.tensors, self._given(x)
        if kernel_device(given) == "cpu":
            from liquid_control.kernels import cubes  # Numba is optional

            recall = self._as_recall(cubes.read(given, *self._kernel))
        else:
            recall = self.look_up(self._keys(given @ of["projection"].T))
            of["clock"] += len(x)
            of["use"].view(-1).index_add_(0, recall.places.flatten(), recall.weights.flatten())
            of["touched"][recall.places[recall.weights > 0] // BLOCK] = of["clock"]
        if x.device.type == "cpu":
            return recall
        return recall._replace(
            residual=recall.residual.to(x.device),
            similarity=recall.similarity.to(x.device),
            dispersion=recall.dispersion.to(x.device),
        )

    @torch.no_grad()
    def write(self, x: Tensor, residuals: Tensor, recall: Recall | None = None) -> tuple[Tensor, Tensor]:
        """Learns what was computed, where it is new or was recalled wrongly.

        Args:
            x: (N, d) inputs.
            residuals: (N, d) what the sub-block made of them.
            recall: of these inputs, as :meth:`read` just gave it; None looks it up. If keys change by what comes, it is
                looked up in any case.

        Returns:
            The relative error of what would have been recalled (N,), which is 1 of an empty cube, and which inputs were
            written (N,).

        Raises:
            ValueError: if shapes do not fit, or a number is not finite: that would be remembered.
        """
        if residuals.shape != x.shape:
            raise ValueError(f"residuals have shape {tuple(residuals.shape)}, expected {tuple(x.shape)} as the inputs.")
        projected = self._given(x) @ self.tensors["projection"].T
        residuals = residuals.detach().to("cpu", torch.float32)
        if not (projected.isfinite().all() and residuals.isfinite().all()):
            raise ValueError("inputs or residuals hold NaN or infinity, which a cube must not remember.")
        keys_changed = self._observe(projected)
        if recall is None or keys_changed:
            recall = self.look_up(self._keys(projected))
            self.operations += recall.operations
        remembered, similarity = recall.residual.cpu(), recall.similarity.cpu()
        size = residuals.square().sum(1).clamp(min=torch.finfo(torch.float32).tiny)
        error = (remembered - residuals).square().sum(1) / size
        self._blame(recall, error)
        surprising = (1 - similarity >= self.config.novel) | (error >= self.config.wrong)
        known = recall.weights > 0
        written: list[int] = []
        for row in surprising.nonzero()[:, 0].tolist():
            near = [*recall.places[row][known[row]].tolist(), *written]
            written.append(self._insert(projected[row], residuals[row], near))
        return error.to(x.device), surprising.to(x.device)

    def _given(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[1] != self.config.width:
            raise ValueError(f"inputs have shape {tuple(x.shape)}, expected (number, {self.config.width}).")
        return x.detach().to("cpu", torch.float32)

    def _keys(self, projected: Tensor) -> Tensor:
        white = (projected - self.tensors["centre"]) @ self.tensors["whiten"].T
        return nn.functional.normalize(white, dim=-1)

    def _observe(self, projected: Tensor) -> bool:
        """Running mean and scatter (Chan et al. 1983); at powers of two keys are computed anew, which is said."""
        of, count = self.tensors, float(self.tensors["count"])
        more, batch = len(projected), projected.double()
        of["clock"] += more
        if not more:
            return False
        mean = batch.mean(0)
        apart, after = mean - of["mean"], count + more
        of["scatter"] += (batch - mean).T @ (batch - mean) + torch.outer(apart, apart) * (count * more / after)
        of["mean"] += apart * (more / after)
        of["count"].fill_(after)
        self.operations += more * self.config.key_size * (self.config.width + self.config.key_size)
        changed = math.frexp(after)[1] > math.frexp(count)[1] and after > 1
        if changed:
            self._whiten()
        return changed

    def _whiten(self) -> None:
        of = self.tensors
        values, vectors = torch.linalg.eigh(of["scatter"] / of["count"])
        floor = (FLOOR * values.mean()).clamp(min=torch.finfo(torch.float32).tiny)
        of["whiten"].copy_((vectors / values.clamp(min=floor).sqrt()).T)
        of["centre"].copy_(of["mean"])
        of["keys"].copy_(self._keys(of["projected"]))
        self.operations += of["keys"].numel() * self.config.key_size + 10 * self.config.key_size**3  # eigh is 9 of 10
        for block in of["filled"].nonzero()[:, 0].tolist():
            self._summarise(block)

    def _summarise(self, block: int) -> None:
        filled = int(self.tensors["filled"][block])
        self.tensors["summaries"][block] = self.tensors["keys"][block, :filled].mean(0)

    def look_up(self, keys: Tensor) -> Recall:
        """What entries near keys (N, K) hold, so many keys at a time that memory does not grow with N."""
        if kernel_device(keys) == "cpu":
            from liquid_control.kernels import cubes  # Numba is optional

            return self._as_recall(cubes.look_up(keys, *self._kernel))
        parts = [self._nearest(part) for part in keys.split(AT_ONCE)]
        return Recall(
            torch.cat([part.residual for part in parts]),
            torch.cat([part.similarity for part in parts]),
            torch.cat([part.dispersion for part in parts]),
            torch.cat([part.places for part in parts]),
            torch.cat([part.weights for part in parts]),
            sum(part.operations for part in parts),
        )

    def _nearest(self, keys: Tensor) -> Recall:
        of, config, number = self.tensors, self.config, len(keys)
        there = of["filled"].nonzero()[:, 0]
        k = config.neighbours
        if not len(there) or not number:
            nothing, none = keys.new_zeros(number), torch.zeros(number, k, dtype=torch.int64)
            empty = keys.new_zeros(number, config.width)
            return Recall(empty, nothing, nothing, none, keys.new_zeros(number, k), 0)
        if len(there) <= config.probed:
            probed = there.expand(number, -1)
        else:
            near = keys @ of["summaries"][there].T
            probed = there[near.topk(config.probed, 1).indices]
        slots = torch.arange(BLOCK)
        if len(there) <= config.probed:  # all queries look at the same entries
            scores = (keys @ of["keys"][there].flatten(0, 1).T).view(number, -1, BLOCK)
        else:
            scores = torch.einsum("nk,npek->npe", keys, of["keys"][probed])
        scores = scores.masked_fill(slots >= of["filled"][probed][..., None], -torch.inf).flatten(1)
        best, where = scores.topk(k, 1)
        places = probed.gather(1, where // BLOCK) * BLOCK + where % BLOCK
        weights = (config.sharpness * best).softmax(1)
        found = of["residuals"].flatten(0, 1)[places]  # (N, k, d)
        mean = (weights[..., None] * found).sum(1)
        spread = (weights * (found - mean[:, None]).square().sum(2)).sum(1)
        dispersion = spread / mean.square().sum(1).clamp(min=torch.finfo(torch.float32).tiny)
        return Recall(mean, best[:, 0], dispersion, places, weights, number * self._operations(len(there)))

    def _as_recall(self, found: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]) -> Recall:
        """What a kernel found, with its operations."""
        residual, similarity, dispersion, places, weights, blocks = found
        operations = len(residual) * self._operations(blocks)
        return Recall(residual, similarity, dispersion, places, weights, operations)

    def _operations(self, blocks: int) -> int:
        """Multiplications of a reading of one input, of so many blocks that have entries."""
        config = self.config
        if not blocks:
            return 0
        looked = min(blocks, config.probed) * BLOCK + (blocks if blocks > config.probed else 0)
        return config.key_size * (config.width + config.key_size + looked) + 2 * config.neighbours * config.width

    def _blame(self, recall: Recall, error: Tensor) -> None:
        """Entries bear the error of what was recalled from them, each by its share: a running mean."""
        flat, places = self.tensors["error"].view(-1), recall.places.flatten()
        share = recall.weights.flatten()
        step = share * (error.repeat_interleave(recall.places.shape[1]) - flat[places]) / MERGED
        flat.index_add_(0, places, step)

    def _insert(self, projected: Tensor, residual: Tensor, near: list[int]) -> int:
        """Writes an entry, or merges it with one of those that are near; returns where."""
        of, config, key = self.tensors, self.config, self._keys(projected)
        best, score = 0, -math.inf
        if near:
            places = torch.tensor(near)
            there = places % BLOCK < of["filled"][places // BLOCK]  # its block may have been given up
            scores = (of["keys"].flatten(0, 1)[places] @ key).masked_fill(~there, -torch.inf)
            best = int(scores.argmax())
            best, score = near[best], float(scores[best])
        self.operations += config.key_size * (config.key_size + len(near) + config.blocks)
        if score >= config.same:
            block, slot = divmod(best, BLOCK)
            number = min(float(of["merged"][block, slot]) + 1, MERGED)
            of["merged"][block, slot] = number
            of["projected"][block, slot] += (projected - of["projected"][block, slot]) / number
            of["residuals"][block, slot] += (residual - of["residuals"][block, slot]) / number
        else:
            block = self._block_for(key)
            slot = int(of["filled"][block])
            of["filled"][block] += 1
            of["projected"][block, slot], of["residuals"][block, slot] = projected, residual
            of["merged"][block, slot], of["use"][block, slot], of["error"][block, slot] = 1, 0, 0
        of["keys"][block, slot] = self._keys(of["projected"][block, slot])
        of["touched"][block] = of["clock"]
        self._summarise(block)
        return block * BLOCK + slot

    def _block_for(self, key: Tensor) -> int:
        """The nearest block that has room, an empty one if none is near, or one that is given up."""
        of = self.tensors
        filled = of["filled"]
        near = (of["summaries"] @ key).masked_fill((filled == 0) | (filled == BLOCK), -torch.inf)
        best, empty = int(near.argmax()), (filled == 0).nonzero()[:, 0]
        if near[best] >= JOINS or (not len(empty) and near[best] > -math.inf):
            return best
        return int(empty[0]) if len(empty) else self._give_up()

    def _give_up(self) -> int:
        """Empties the block of least worth, (1 + use) / (1 + age) · (1 - redundancy); the use of others is halved.

        Use is the sum of shares in what was read, age the inputs since the block was read or written, redundancy the
        cosine with the most similar other summary, from 0 to 0.99.
        """
        of = self.tensors
        age = (of["clock"] - of["touched"]).float()
        directions = nn.functional.normalize(of["summaries"], dim=1)
        self.operations += self.config.blocks**2 * self.config.key_size
        alike = (directions @ directions.T).fill_diagonal_(-1)
        worth = (1 + of["use"].sum(1)) / (1 + age) * (1 - alike.amax(1).clamp(0, 0.99))
        block = int(worth.argmin())
        of["use"] /= 2
        of["filled"][block] = 0
        return block


class Cubes:
    """The cubes of all layers of a model: one user's, or shared, as whoever holds them likes.

    Args:
        config: what they are.
    """

    def __init__(self, config: CubeConfig):
        self.config = config
        self.layers = [Cube(config, layer) for layer in range(config.layers)]

    @classmethod
    def of(cls, layers: Sequence[Cube]) -> Cubes:
        """Cubes that are there already, one a layer, of one config."""
        cubes = cls.__new__(cls)
        cubes.config, cubes.layers = layers[0].config, list(layers)
        return cubes

    @property
    def bytes(self) -> int:
        """Bytes of all cubes, full or not."""
        return sum(tensor.nbytes for cube in self.layers for tensor in cube.tensors.values())

    def save(self, path: str | os.PathLike[str], model: nn.Module) -> None:
        """Writes a file that :meth:`load` reads, whole or not at all.

        Raises:
            UserError: if it cannot be written.
        """
        told = {"model": weights_digest(model), "cubes": json.dumps(asdict(self.config))}
        write_tensors(Path(path), self.named_tensors(), told)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module) -> Cubes:
        """Reads what :meth:`save` wrote; the cubes go on as if nothing had been in between.

        Raises:
            UserError: if there is no such file, it is damaged, or it is of another model.
        """
        try:
            tensors, told = read_tensors(Path(path))
        except FileNotFoundError:
            raise UserError(f"cannot read the cubes {path}: there is no such file.") from None
        if told.get("model") != weights_digest(model):
            raise UserError(f"{path} holds no cubes of this model: they belong to the weights that filled them.")
        try:
            config = validated(CubeConfig, json.loads(told.get("cubes", "")), f"what {path} says of its cubes")
        except UserError:
            raise
        except (ValueError, RecursionError):
            raise UserError(f"{path} does not say what its cubes are.") from None
        return cls.restore(config, tensors, path)

    def named_tensors(self) -> dict[str, Tensor]:
        """All that they hold, by layer and name, for :meth:`restore`."""
        return {
            f"{layer}.{name}": tensor.contiguous()
            for layer, cube in enumerate(self.layers)
            for name, tensor in cube.tensors.items()
        }

    @classmethod
    def restore(cls, config: CubeConfig, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> Cubes:
        """The cubes that :meth:`named_tensors` told of.

        Args:
            config: what they are.
            tensors: by layer and name; they are copied.
            path: where they come from, for the error.

        Raises:
            UserError: if there are others, or one holds what no cube can.
        """
        _check(path, config, tensors)
        cubes = cls(config)
        for layer, cube in enumerate(cubes.layers):
            for name, tensor in cube.tensors.items():
                tensor.copy_(tensors[f"{layer}.{name}"])
        return cubes


def _check(path: str | os.PathLike[str], config: CubeConfig, tensors: Mapping[str, Tensor]) -> None:
    """Tensors of a file must be those of its config, before any memory is taken for it.

    Raises:
        UserError: if one is of another shape or type, or holds what no cube can.
    """
    layout = _layout(config)
    wanted = {f"{layer}.{name}": of for layer in range(config.layers) for name, of in layout.items()}
    if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != wanted:
        raise UserError(f"{path} is damaged: its tensors are not those of the cubes that it tells of.")
    for name, tensor in tensors.items():
        whole = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        if name.endswith((".filled", ".count", ".clock", ".touched", ".merged", ".use", ".error")):
            whole = whole and bool((tensor >= 0).all())
        if name.endswith(".filled"):
            whole = whole and bool((tensor <= BLOCK).all())
        if not whole:
            raise UserError(f"{path} is damaged: {name} holds what no cube can.")

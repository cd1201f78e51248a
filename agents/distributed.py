"""Processes that learn together, each from its share of every batch, on one machine or on several.

``torchrun`` starts them, Lightning Fabric shares the model out: ``ddp`` gives every process the whole model, ``fsdp`` a
part of each weight (FSDP2 of torch). Gradients are means over all processes, so that with equal shares they are those
of one process with the whole batch.

:class:`Alone` is one process, which has nothing to share and imports nothing for it; :class:`Several` has the same
methods. What only one may do, such as writing files, :meth:`Alone.on_first` does.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

import torch
from torch import Tensor, distributed, nn

from liquid_control.support.errors import DivergedError, UserError

Strategy = Literal["ddp", "fsdp"]
Value = TypeVar("Value")

PATIENCE = timedelta(days=1)
"""How long the others wait for the first process, which may have a large text to prepare."""


class Alone:
    """One process."""

    rank, size, here = 0, 1, 1
    """Its number among all, how many they are, and how many of them are on this machine."""

    def on_first(self, work: Callable[[], Value]) -> Value:
        """What ``work`` returns, which only the first process calls. If it fails there, all processes end."""
        return work()

    def check_device(self, device: torch.device) -> None:
        """Looks whether each process can have such a device of its own.

        Raises:
            UserError: if it cannot.
        """

    def rows(self, batch: int) -> slice:
        """The rows of a batch, a multiple of the number of processes, that are this process's."""
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def share_out(
        self, learner: nn.Module, parts: Sequence[nn.Module], strategy: Strategy, device: torch.device, unused: bool
    ) -> nn.Module:
        """What is to be called instead of ``learner``, so that gradients are those of the whole batch.

        Args:
            learner: on its device.
            parts: modules of it, inner ones first; fsdp shares out their weights, in place, and gathers those of a part
                when it is called.
            strategy: how.
            device: where the learner is.
            unused: whether it may have weights that a step does not use.
        """
        return learner

    def holding_back(self, learner: nn.Module, held: bool) -> AbstractContextManager[Any]:
        """For its block gradients stay in this process, if ``held``: more of the batch is to come."""
        return nullcontext()

    def mean(self, value: float) -> float:
        """The mean over all processes."""
        return value

    def total(self, values: list[float]) -> list[float]:
        """Sums over all processes."""
        return values

    def gathered(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The rows of all processes in order, (B, ·) from (B / size, ·) each."""
        return dict(rows)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights, or what an optimizer remembers of them, that may be shared out: put together."""
        return dict(tensors)

    def placed(self, value: Tensor, parameter: Tensor) -> Tensor:
        """A copy where a parameter is, and shared out as it is."""
        return value.clone().to(parameter.device)


class Several(Alone):
    """As many processes as torchrun has started, this one among them."""

    def __init__(self) -> None:
        self.rank, self.size, self.here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        self._fabric: Any = None
        self._device = torch.device("cpu")

    def on_first(self, work: Callable[[], Value]) -> Value:
        """See :class:`Alone`."""
        outcome: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.rank == 0:
            try:
                outcome[0] = work()
            except BaseException as error:
                failure = error
                outcome[1] = (error.code or 0) if isinstance(error, SystemExit) else 2
        distributed.broadcast_object_list(outcome)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            _leave(outcome[1])
        value: Value = outcome[0]
        return value

    def check_device(self, device: torch.device) -> None:
        """See :class:`Alone`."""
        if device.type == "cuda" and (device.index is not None or torch.cuda.device_count() < self.here):
            raise UserError(
                f"{self.here} processes on this machine need a GPU each, and it has {torch.cuda.device_count()}: start "
                "no more, and give --device without a number."
            )

    def share_out(
        self, learner: nn.Module, parts: Sequence[nn.Module], strategy: Strategy, device: torch.device, unused: bool
    ) -> nn.Module:
        """See :class:`Alone`."""
        from lightning_fabric import Fabric  # optional, and slow to import
        from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

        def cut(module: nn.Module, mesh: Any) -> nn.Module:
            from torch.distributed.fsdp import fully_shard

            for part in parts:
                fully_shard(part, mesh=mesh["data_parallel"])
            return module

        self._device = device
        self._fabric = Fabric(
            accelerator=device.type,
            devices=self.here,
            num_nodes=self.size // self.here,
            strategy=DDPStrategy(find_unused_parameters=unused)
            if strategy == "ddp"
            else ModelParallelStrategy(cut, data_parallel_size=self.size, tensor_parallel_size=1),
        )
        self._fabric.launch()
        shared: nn.Module = self._fabric.setup_module(learner)
        return shared

    def holding_back(self, learner: nn.Module, held: bool) -> AbstractContextManager[Any]:
        """See :class:`Alone`."""
        block: AbstractContextManager[Any] = self._fabric.no_backward_sync(learner, enabled=held)
        return block

    def mean(self, value: float) -> float:
        """See :class:`Alone`."""
        return self.total([value])[0] / self.size

    def total(self, values: list[float]) -> list[float]:
        """See :class:`Alone`."""
        summed = torch.tensor(values, dtype=torch.float64, device=self._device)
        distributed.all_reduce(summed)
        return summed.tolist()

    def gathered(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Alone`."""
        return {name: self._fabric.all_gather(part).flatten(0, 1) for name, part in rows.items()}

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :class:`Alone`."""
        from torch.distributed.tensor import DTensor

        return {name: part.full_tensor() if isinstance(part, DTensor) else part for name, part in tensors.items()}

    def placed(self, value: Tensor, parameter: Tensor) -> Tensor:
        """See :class:`Alone`."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        value = super().placed(value, parameter)
        if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


ALONE = Alone()


def process_count() -> int:
    """How many processes torchrun has started together; without it, 1."""
    return int(os.environ.get("WORLD_SIZE", 1)) if distributed.is_torchelastic_launched() else 1


@contextmanager
def processes() -> Iterator[Alone]:
    """Those that torchrun has started together, for the block; without torchrun, this one alone.

    Raises:
        UserError: if Lightning Fabric is not installed, or another process has ended.
    """
    if process_count() == 1:
        yield ALONE
        return
    together = Several()
    if importlib.util.find_spec("lightning_fabric") is None:
        if together.rank:
            _leave(2)
        raise UserError("several processes need Lightning Fabric: pip install 'liquid-control[distributed]'.")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    begun = distributed.is_initialized()
    if not begun:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield together
    except DivergedError:  # which all of them meet
        if together.rank:
            _leave(2)
        raise
    except RuntimeError as error:
        if not isinstance(error, distributed.DistBackendError) and " by peer" not in str(error):
            raise
        if together.rank:
            _leave(2)
        raise UserError("another process of this training has ended: what it printed says why.") from None
    if not begun:
        distributed.destroy_process_group()


def _leave(code: int) -> NoReturn:
    """Ends this process without a word, a moment after the first, which says why: torchrun ends all when one ends."""
    time.sleep(1)
    raise SystemExit(code)

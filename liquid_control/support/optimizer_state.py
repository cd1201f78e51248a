"""An optimizer's state as named tensors, for files that hold no pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter of the module, by the parameter's name."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _beside(value: Tensor, parameter: Tensor) -> Tensor:
    return value.clone().to(parameter.device)


def restore_optimizer(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    placed: Callable[[Tensor, Tensor], Tensor] = _beside,
) -> None:
    """Takes back what :func:`optimizer_tensors` gave; other tensors are passed over.

    Args:
        module: whose parameters.
        optimizer: of them.
        tensors: what was saved.
        placed: makes the copy of a tensor that belongs to a parameter.
    """
    for name, parameter in module.named_parameters():
        memory = {key: placed(value, parameter) for key, value in part_of(tensors, f"optimizer.{name}.").items()}
        if memory:
            optimizer.state[parameter] = memory


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def to_save(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of their own on the CPU, as safetensors wants them."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}

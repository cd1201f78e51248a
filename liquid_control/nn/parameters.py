"""Weights and masks of modules that a layer reads instead of calling them: as torch's tools have left them.

A layer computes with the weights of the modules inside it, many of which it never calls. What torch does when a module
is called it therefore does itself, or says that it is not done: pruning and the older weight and spectral norms compute
a weight in a hook before the call. Parametrised weights, and those of the replicas of `torch.nn.DataParallel`, are
attributes and no parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from liquid_control.kernels import is_traced
from liquid_control.kernels.structure import read_mask

REWRITERS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Hooks before a call that do nothing but compute a parameter."""


_ADVICE = (
    "a liquid layer reads the weights of its modules and cannot compute with quantised ones. Leave it out, or change "
    "its weights by torch.nn.utils.parametrize."
)


def find_parameter(module: nn.Module) -> Tensor:
    """Some parameter of a module or its replica: what tells its dtype and device.

    Raises:
        TypeError: if there is none, as in quantised modules.
    """
    parameter = _first_parameter(module)
    if parameter is None:
        raise TypeError(f"{type(module).__name__} has no parameters: {_ADVICE}")
    return parameter


def _first_parameter(module: nn.Module) -> Tensor | None:
    """That of a module or of one inside it: `next(module.parameters())` in a tenth of the time."""
    # A replica of torch.nn.DataParallel keeps its parameters elsewhere; those that are None stay.
    for kept in (module.__dict__.get("_former_parameters", {}), module._parameters):
        for parameter in kept.values():
            if parameter is not None:
                return cast(Tensor, parameter)
    for part in module._modules.values():
        if part is not None and (parameter := _first_parameter(part)) is not None:
            return parameter
    return None


def read(module: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """The tensors of these names, parameters or not.

    Raises:
        TypeError: if one is no tensor, as in quantised modules.
    """
    return read_each([module], names)


def read_each(modules: Iterable[nn.Module], names: Sequence[str]) -> list[Tensor]:
    """:func:`read` of one module after another."""
    modules = list(modules)
    try:  # straight from the dictionary: the way through Module.__getattr__ takes ten times as long
        return [module._parameters[name] for module in modules for name in names]  # type: ignore[misc]
    except KeyError:
        return [_attribute(module, name) for module in modules for name in names]


def _attribute(module: nn.Module, name: str) -> Tensor:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor):
        raise TypeError(f"{type(module).__name__} has no tensor {name!r}: {_ADVICE}")
    return value


def settle(modules: Iterable[nn.Module], called: bool = False) -> bool:
    """Computes what hooks compute before a call, of modules that are about to be read instead of called.

    Args:
        modules: to be read.
        called: whether they are called if they have other hooks. Else these do not run; a warning says so, once for
            each kind of module.

    Returns:
        Whether any has other hooks.
    """
    hooked = False
    for module in modules:
        if module._forward_pre_hooks or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, REWRITERS):
                    hook(module, ())
            if not is_hooked(module):
                continue
            hooked = True
            if not called and type(module) not in _said:
                _said.add(type(module))
                warnings.warn(
                    f"a hook of a {type(module).__name__} will not run: its layer reads its weights and does not call "
                    "it. Hook the layer; to change weights, use torch.nn.utils.parametrize.",
                    stacklevel=2,
                )
    return hooked


_said: set[type[nn.Module]] = set()


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks that only a call of it runs."""
    before = (hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, REWRITERS))
    return bool(module._forward_hooks or module._backward_hooks or module._backward_pre_hooks or any(before))


class MaskWatch:
    """Looks whether the masks of a wiring, which anybody may edit or exchange, hold what a layer knows of them."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, int]] = []

    def __reduce__(self) -> tuple[type[MaskWatch], tuple[()]]:
        """Copied or pickled, it has seen nothing: the copy of a tensor counts its own writes from zero."""
        return MaskWatch, ()

    def edited(
        self, masks: Sequence[Tensor | None], known: Sequence[np.ndarray | None]
    ) -> list[np.ndarray | None] | None:
        """What the masks hold, if that is something else than is known; None too where values cannot be looked at.

        Raises:
            ValueError: if one holds anything but 0 and 1.
        """
        given = [mask for mask in masks if mask is not None]
        if not self._sees_change(given) or is_traced() or any(mask.is_meta for mask in given):
            return None
        self._seen = [(mask, _writes(mask)) for mask in given]
        held = [None if mask is None else read_mask(mask) for mask in masks]
        return None if all(map(_equal, held, known)) else held

    def _sees_change(self, masks: Sequence[Tensor]) -> bool:
        """Whether any is another tensor than when values were looked at last, or was written to in place."""
        if len(masks) != len(self._seen):
            return True
        for mask, (seen, writes) in zip(masks, self._seen, strict=True):  # a loop: any() takes three times as long
            if mask is not seen or writes != _writes(mask):
                return True
        return False


def _writes(mask: Tensor) -> int:
    """How often it was written to in place. Tensors of inference mode do not count that."""
    return 0 if mask.is_inference() else mask._version


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def before_softplus(value: Tensor) -> Tensor:
    """What softplus makes ``value`` > 0 of: log(e^value - 1), written so that no large value overflows."""
    return value + torch.log(-torch.expm1(-value))

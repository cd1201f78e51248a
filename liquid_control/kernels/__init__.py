"""Fast twins of the layers in `liquid_control.nn`: Numba on the CPU, Triton on CUDA.

Tests hold each equal to its layer. A layer asks :func:`kernel_device` whether a kernel may run at all, then its kernel
whether it covers the case; otherwise the layer's reference form runs. ``LIQUID_CONTROL_KERNELS=reference`` forces the
reference form.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Container
from functools import cache

import torch
from torch import Tensor

from liquid_control.support.errors import UserError

CHOICES = ("auto", "reference")
BACKENDS = {"cpu": "numba", "cuda": "triton"}


class ReferenceFormWarning(UserWarning):
    """A layer runs in its slow reference form although kernels are allowed; said once for each reason."""


def kernel_device(x: Tensor) -> str | None:
    """Where a kernel may work on ``x`` and on what shares its device: "cpu", "cuda", or None for the reference form.

    Kernels need plain tensors: under `torch.compile`, `torch.export` and the transforms of `torch.func` the reference
    form is what can be traced.

    Raises:
        UserError: if ``LIQUID_CONTROL_KERNELS`` is set to something unknown.
    """
    choice = os.environ.get("LIQUID_CONTROL_KERNELS", "auto")
    if choice not in CHOICES:
        raise UserError(f"LIQUID_CONTROL_KERNELS is {choice!r}, expected one of {CHOICES}.")
    if (
        choice == "reference"
        or torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return None
    device = x.device.type
    if device not in BACKENDS:
        return None
    if not _installed(BACKENDS[device]):
        use_reference(f"{BACKENDS[device]} is not installed")
        return None
    return device


def use_reference(reason: str) -> None:
    """Warns, once for each reason, that a layer runs in its reference form."""
    if _new(reason):
        warnings.warn(f"slow reference form: {reason}.", ReferenceFormWarning, stacklevel=2)


def is_known(layer: str, what: str, name: str, known: Container[str]) -> bool:
    """Whether a kernel of ``layer`` has an option of that name; warns if not: the reference form is to run.

    Kernels tell options apart by numbers or branches. One that is looked up by its name first is never taken for
    another.
    """
    if name not in known:
        use_reference(f"no kernel of {layer} knows the {what} {name!r}")
    return name in known


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


_said: set[str] = set()


def _new(reason: str) -> bool:
    new = reason not in _said
    _said.add(reason)
    return new

"""Fast twins of the layers in `liquid_control.nn`: Numba on the CPU, Triton on CUDA.

Tests hold each equal to its layer. A layer asks :func:`kernel_device` whether a kernel may run at all, then its kernel
whether it covers the case; otherwise the layer's reference form runs. ``LIQUID_CONTROL_KERNELS=reference`` forces the
reference form.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Container

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from liquid_control.support.errors import UserError

CHOICES = ("auto", "reference")
BACKENDS = {"cpu": "numba", "cuda": "triton"}
PLAIN = (Tensor, nn.Parameter)
"""Types of tensors whose memory holds their values. A subclass may hold them elsewhere, or none at all."""
OPERABLE = (torch.float32, torch.float64, torch.bool)
"""What the operators on the CPU compute with, and masks; those on CUDA take what they are given."""


class ReferenceFormWarning(UserWarning):
    """A layer runs in its slow reference form although kernels are allowed; said once for each reason."""


def kernel_device(x: Tensor, *others: Tensor | float | None) -> str | None:
    """Where a kernel may work on ``x`` and on what shares its device: "cpu", "cuda", or None for the reference form.

    Kernels read and write the memory of plain tensors, behind torch's back: the reference form is what can be traced,
    transformed, and run on tensors of other kinds.

    Raises:
        UserError: if ``LIQUID_CONTROL_KERNELS`` is set to something unknown.
    """
    if reference_is_chosen() or is_traced() or not are_plain(x, *others):
        return None
    device = x.device.type
    if device not in BACKENDS:
        return None
    if not _installed(BACKENDS[device]):
        use_reference(f"{BACKENDS[device]} is not installed")
        return None
    return device


def is_operable(*given: Tensor | float | None, device: str = "cpu") -> bool:
    """Whether an operator of torch that is a kernel for ``device`` may work on these tensors.

    Tracers keep an operator as one operation, and :class:`FakeTensor` knows its shapes. TorchScript and ONNX programs
    run where there is no such operator, and operators have no rules for transforms, for tensors of other kinds and for
    dispatch modes of a user's own, such as those that count floating-point operations.
    """
    tensors = [value for value in given if isinstance(value, Tensor)]
    if any(tensor.device.type != device or (device == "cpu" and tensor.dtype not in OPERABLE) for tensor in tensors):
        return False
    if not all(type(tensor) in (*PLAIN, FakeTensor) for tensor in tensors):
        return False
    # While `torch.compile` traces, this tells whether the function has transforms in it; is_transformed() does not.
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if transformed or torch._C._get_tracing_state() is not None or torch.onnx.is_in_onnx_export():
        return False
    if not torch.compiler.is_compiling() and is_in_torch_dispatch_mode(include_infra_modes=False):
        return False
    if not _installed(BACKENDS[device]):
        use_reference(f"{BACKENDS[device]} is not installed")
        return False
    return True


def is_learning(*given: Tensor | float | None) -> bool:
    """Whether gradients are recorded of some of these, by which operators on the CPU may work.

    Reading without gradients does without them: to load and to compile them takes longer than to read a page.
    """
    return is_recorded(*given) and not reference_is_chosen() and is_operable(*given)


def is_recorded(*given: Tensor | float | None) -> bool:
    """Whether a backward pass may follow a call with these, for which it must keep what the pass needs.

    To be asked before ``apply``: within a function nothing is recorded, and ``needs_input_grad`` does not know of
    `torch.no_grad`.
    """
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in given)


def reference_is_chosen() -> bool:
    """Whether ``LIQUID_CONTROL_KERNELS`` asks for the reference form.

    Raises:
        UserError: if it is set to something unknown.
    """
    choice = os.environ.get("LIQUID_CONTROL_KERNELS", "auto")
    if choice not in CHOICES:
        raise UserError(f"LIQUID_CONTROL_KERNELS is {choice!r}, expected one of {CHOICES}.")
    return choice == "reference"


def is_traced() -> bool:
    """Whether torch does more with operations than run them, so that Python may not ask for the values of a tensor.

    Under `torch.compile` and `torch.export`, `torch.jit.trace`, `make_fx` and other dispatch modes, and where
    :func:`is_transformed`.
    """
    return (
        torch.compiler.is_compiling()
        or is_transformed()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def is_transformed() -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def are_plain(*given: Tensor | float | None) -> bool:
    """Whether those that are tensors are of torch's own types."""
    return all(kind in PLAIN or not issubclass(kind, Tensor) for kind in set(map(type, given)))


def use_reference(reason: str) -> None:
    """Warns, once for each reason, that a layer runs in its reference form; the warning points at the user's line.

    Not while `torch.compile` or `torch.export` traces: a graph has no warnings.
    """
    if not torch.compiler.is_compiling() and _new(reason):
        warnings.warn(f"slow reference form: {reason}.", ReferenceFormWarning, stacklevel=_frames_to_the_user())


def _frames_to_the_user() -> int:
    """As ``stacklevel`` counts them from :func:`use_reference`, up to the first that is neither ours nor torch's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("liquid_control", "torch"):
        level, frame = level + 1, frame.f_back
    return level


def is_known(layer: str, what: str, name: str, known: Container[str]) -> bool:
    """Whether a kernel of ``layer`` has an option of that name; warns if not: the reference form is to run.

    Kernels tell options apart by numbers or branches. One that is looked up by its name first is never taken for
    another.
    """
    if name not in known:
        use_reference(f"no kernel of {layer} knows the {what} {name!r}")
    return name in known


_present = {package: importlib.util.find_spec(package) is not None for package in BACKENDS.values()}


def _installed(package: str) -> bool:
    return _present[package]


_said: set[str] = set()


def _new(reason: str) -> bool:
    new = reason not in _said
    _said.add(reason)
    return new

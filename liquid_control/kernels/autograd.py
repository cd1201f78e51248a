"""What torch's autograd asks of every kernel here."""

from __future__ import annotations

import torch
from torch import Tensor


def is_recorded(*given: Tensor | float | None) -> bool:
    """Whether a backward pass may follow a call with these, for which it must keep what the pass needs.

    To be asked before ``apply``: within a function nothing is recorded, and ``needs_input_grad`` does not know of
    `torch.no_grad`.
    """
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in given)


def refuse_second_derivatives(kernel: str) -> None:
    """To be called first in a backward pass.

    Raises:
        RuntimeError: if its gradients are to be differentiated again.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the kernel of {kernel} has no second derivatives, and create_graph=True asks for them: set the "
            "environment variable LIQUID_CONTROL_KERNELS=reference to run the reference form."
        )

"""What torch's autograd asks of every kernel here, and the way of those that take a whole sequence through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liquid_control.kernels import is_traced


def is_recorded(*given: Tensor | float | None) -> bool:
    """Whether a backward pass may follow a call with these, for which it must keep what the pass needs.

    To be asked before ``apply``: within a function nothing is recorded, and ``needs_input_grad`` does not know of
    `torch.no_grad`.
    """
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in given)


def refuse_more_than_gradients(kernel: str, *gradients: Tensor | None) -> None:
    """To be called first in a backward pass, with the gradients that it is given.

    Raises:
        RuntimeError: if its own are to be differentiated again, or many of them computed at once.
    """
    refuse_derivatives_of_gradients(kernel, *gradients, vectorised=is_traced())


def refuse_derivatives_of_gradients(kernel: str, *gradients: Tensor | None, vectorised: bool) -> None:
    """:func:`refuse_more_than_gradients` for the backward pass of an operator, which may be traced.

    Args:
        kernel: as an error calls it.
        gradients: that the pass is given.
        vectorised: whether many are known to be computed at once.

    Raises:
        RuntimeError: as there.
    """
    batched = (torch._C._functorch.is_legacy_batchedtensor(given) for given in gradients if given is not None)
    if torch.is_grad_enabled():
        lacks = "second derivatives, and create_graph=True asks for them"
    elif vectorised or any(batched):
        lacks = "vectorised derivatives, and jacobian(vectorize=True) or is_grads_batched=True asks for them"
    else:
        return
    raise RuntimeError(
        f"the kernel of {kernel} has no {lacks}: set the environment variable LIQUID_CONTROL_KERNELS=reference to run "
        "the reference form."
    )


@dataclass(frozen=True)
class SequenceKernel:
    """A recurrent layer over whole sequences, forward and backward: compiled code that knows nothing of autograd.

    ``plan`` is what it needs to know of the layer besides its parameters, ``kept`` what its backward pass needs of its
    forward pass; the other arguments are those of a call.
    """

    name: str
    """As an error calls it, "the CfC"."""
    forward: Callable[..., tuple[Tensor, Tensor, Any]]
    """(plan, x, state, elapsed, mask, parameters, keep: bool) → y (B, T, O), final state (B, S), kept."""
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]]
    """(plan, kept, gradients of y and of the final state, whether those of x and of the elapsed times are wanted) →
    gradients of x (B, T, C), the state (B, S), the elapsed times (B, T) and the parameters; of what is not wanted,
    anything."""
    reads_x: bool
    """Whether the backward pass reads the memory of x, which must not have changed then."""

    def __call__(
        self,
        plan: Any,
        x: Tensor,
        state: Tensor,
        elapsed: float | Tensor,
        mask: Tensor | None,
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Runs a sequence, with gradients by x, state, elapsed and parameters where they may be wanted.

        Args:
            plan: of the layer.
            x: (B, T, C), float32 or float64 on the CPU, as are all tensors; anything at padding.
            state: (B, S).
            elapsed: a number ≥ 0, or (B, T), ≥ 0 at real steps.
            mask: (B, T) bool, False at padding; or None.
            parameters: in the order that the plan has them.

        Returns:
            y (B, T, O), zero at padding, and the state (B, S) after the last step.
        """
        if is_recorded(x, state, elapsed, *parameters):
            return _Recorded.apply(self, plan, mask, x, state, elapsed, *parameters)
        with torch.no_grad():
            return self.forward(plan, x, state, elapsed, mask, parameters, keep=False)[:2]


class _Recorded(torch.autograd.Function):
    """A call of a :class:`SequenceKernel`."""

    @staticmethod
    def forward(ctx, kernel, plan, mask, x, state, elapsed, *parameters):
        y, final, ctx.kept = kernel.forward(plan, x, state, elapsed, mask, parameters, keep=True)
        ctx.kernel, ctx.plan = kernel, plan
        # Saved for torch to notice if they are changed in place before the backward pass.
        ctx.save_for_backward(x if kernel.reads_x else None, elapsed if isinstance(elapsed, Tensor) else None)
        return y, final

    @staticmethod
    def backward(ctx, of_y, of_final):
        refuse_more_than_gradients(ctx.kernel.name, of_y, of_final)
        _ = ctx.saved_tensors
        wants_x, wants_elapsed = ctx.needs_input_grad[3], ctx.needs_input_grad[5]
        of_x, of_state, of_elapsed, of_parameters = ctx.kernel.backward(
            ctx.plan, ctx.kept, of_y, of_final, wants_x, wants_elapsed
        )
        return (
            *(None, None, None),
            of_x if wants_x else None,
            of_state,
            of_elapsed if wants_elapsed else None,
            *of_parameters,
        )

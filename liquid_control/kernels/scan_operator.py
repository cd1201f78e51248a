"""What torch asks of the liquid scan's operators, on the CPU and on CUDA: shapes without values, and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from liquid_control.kernels import is_transformed
from liquid_control.kernels.autograd import refuse_derivatives_of_gradients


def register(scan: Any, differentiate: Any) -> None:
    """Registers both operators.

    Args:
        scan: (drive (B, T, 2 U), state (B, U), elapsed (B, T), tau_min) → the states (B, T, U), the last one (B, U).
        differentiate: (these, the states, the gradients of states and of the last one) → those of drive, state and
            elapsed.
    """

    @scan.register_fake
    def _(drive, state, elapsed, tau_min):
        batch, steps, width = drive.shape
        return drive.new_empty(batch, steps, width // 2), torch.empty_like(state, memory_format=torch.contiguous_format)

    @differentiate.register_fake
    def _(drive, state, elapsed, tau_min, states, of_states, of_final):
        return drive.new_empty(drive.shape), state.new_empty(state.shape), elapsed.new_empty(elapsed.shape)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.tau_min = inputs
        ctx.save_for_backward(*tensors, output[0])

    def backward(ctx: Any, of_states: Tensor, of_final: Tensor) -> tuple[Tensor | None, ...]:
        refuse_derivatives_of_gradients("the liquid scan", of_states, of_final, vectorised=is_transformed())
        drive, state, elapsed, states = ctx.saved_tensors
        gradients = differentiate(drive, state, elapsed, ctx.tau_min, states, of_states, of_final)
        return (*gradients, None)

    scan.register_autograd(backward, setup_context=remember)

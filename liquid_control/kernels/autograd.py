"""What torch's autograd asks of every kernel here, and the way of those that take a whole sequence through it.

Such a kernel has two ways into torch. Where torch runs operations one by one, a `torch.autograd.Function` takes tensors
to the kernel at once: what an operator costs would be a tenth of a short sequence. Where torch traces, the kernel is an
operator (`torch.library`), with a form for tensors without values and a registered backward pass, which is an operator,
too. Both run the same code.

What a kernel knows of its layer, its plan, is arrays that no operator takes. The operator takes a text and the masks
of the wiring instead, and makes the plan of them. So a graph can be saved and loaded elsewhere, and a mask that is
edited acts in a graph, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors

from liquid_control.kernels import are_plain, is_operable, is_recorded, is_traced, is_transformed
from liquid_control.kernels.structure import read_mask

if TYPE_CHECKING:
    from liquid_control.kernels.batch import Buffer  # needs Numba, which kernels of CUDA do without


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


def refuse_what_was_not_kept(kernel: str, kept: bool) -> None:
    """To be called in the backward pass of an operator, with whether its forward pass kept what it needs.

    Raises:
        RuntimeError: if not.
    """
    if not kept:
        raise RuntimeError(f"the kernel of {kernel} was traced where no gradients were wanted: trace it again.")


Sizes = Sequence[tuple[int, ...]]
Kept = Sequence["np.ndarray | Buffer"]
"""What a backward pass needs of its forward pass."""


class SequenceKernel:
    """A recurrent layer over whole sequences, forward and backward: compiled code that knows nothing of autograd.

    Args:
        name: as an error calls it, "the CfC".
        operator: the name of the operator, `torch.ops.liquid_control.<operator>`.
        plan_of: (text, masks or None) → plan, what the kernel needs to know of the layer besides its parameters. Its
            ``outputs`` is O. Without masks every synapse is there, which changes no size.
        forward: (plan, x, state, elapsed, mask, parameters, keep: bool) → y (B, T, O), final state (B, S), and what the
            backward pass needs of it, or nothing. One whose layer has dropout takes ``bits``, too.
        backward: (plan, x, time, what is kept as arrays, gradients of y and of the final state, whether those of x and
            of the elapsed times are wanted) → gradients of x (B, T, C), the state (B, S), the elapsed times (B, T), and
            of all parameters end to end; of what is not wanted, nothing.
        sizes_kept: (plan, B, T, time, whether there is a mask) → sizes of what is kept. In both, ``time`` is the
            elapsed time of all steps, or None where it is a tensor.
        reads_x: whether the backward pass reads the memory of x, which must not have changed then; else it gets none.
    """

    def __init__(
        self,
        name: str,
        operator: str,
        plan_of: Callable[[str, Sequence[np.ndarray] | None], Any],
        forward: Callable[..., tuple[Tensor, Tensor, Kept]],
        backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]],
        sizes_kept: Callable[[Any, int, int, float | None, bool], Sizes],
        *,
        reads_x: bool,
    ):
        self.name, self.reads_x = name, reads_x
        self.plan_of = lru_cache(maxsize=256)(lambda text, masks: plan_of(text, _arrays(masks)))
        self.forward, self.backward, self.sizes_kept = forward, backward, sizes_kept
        self.operator = _register(operator, self)

    def __call__(
        self,
        plan: Callable[[], Any],
        description: Callable[[], tuple[str, list[Tensor]]],
        x: Tensor,
        state: Tensor,
        elapsed: float | Tensor,
        mask: Tensor | None,
        parameters: Sequence[Tensor],
        draw: Callable[[], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """Runs a sequence, with gradients by x, state, elapsed and parameters where they may be wanted.

        Args:
            plan: gives that of the layer.
            description: gives of what the plan can be made again: a text, and the masks of the wiring, 1 where there is
                a synapse and 0 elsewhere.
            x: (B, T, C), float32 or float64 on the CPU, as are all tensors; anything at padding.
            state: (B, S).
            elapsed: a number ≥ 0, or (B, T), ≥ 0 at real steps.
            mask: (B, T) bool, False at padding; or None.
            parameters: in the order that the plan has them.
            draw: draws the random bits of dropout, (B, T, ·) int16, if there is any; not called where None is returned.

        Returns:
            y (B, T, O), zero at padding, and the state (B, S) after the last step; None where the reference form must
            run.
        """
        if not is_traced() and are_plain(x, state, elapsed, mask, *parameters):
            noise = {} if draw is None else {"bits": draw()}
            if is_recorded(x, state, elapsed, *parameters):
                return _Recorded.apply(self, plan(), mask, noise, x, state, elapsed, *parameters)
            with torch.no_grad():
                return self.forward(plan(), x, state, elapsed, mask, parameters, keep=False, **noise)[:2]
        text, masks = description()
        if not is_operable(x, state, elapsed, mask, *parameters, *masks):
            return None
        times, time = (elapsed, None) if isinstance(elapsed, Tensor) else (None, elapsed)
        keep = is_recorded(x, state, elapsed, *parameters)
        bits = None if draw is None else draw()
        return self.operator(x, state, times, time, mask, list(parameters), masks, text, keep, bits)[:2]


class _Recorded(torch.autograd.Function):
    """A call of a :class:`SequenceKernel`."""

    @staticmethod
    def forward(ctx, kernel, plan, mask, noise, x, state, elapsed, *parameters):
        y, final, ctx.kept = kernel.forward(plan, x, state, elapsed, mask, parameters, keep=True, **noise)
        ctx.kernel, ctx.plan, ctx.parameters = kernel, plan, parameters
        timed = isinstance(elapsed, Tensor)
        ctx.time = None if timed else elapsed
        # Saved for torch to notice if they are changed in place before the backward pass.
        ctx.save_for_backward(x if kernel.reads_x else None, elapsed if timed else None)
        return y, final

    @staticmethod
    def backward(ctx, of_y, of_final):
        refuse_more_than_gradients(ctx.kernel.name, of_y, of_final)
        x, _ = ctx.saved_tensors
        wants_x, wants_elapsed = ctx.needs_input_grad[4], ctx.needs_input_grad[6]
        of_x, of_state, of_elapsed, of_parameters = ctx.kernel.backward(
            ctx.plan, x, ctx.time, _as_arrays(ctx.kept), of_y, of_final, wants_x, wants_elapsed
        )
        return (
            *(None, None, None, None),
            of_x if wants_x else None,
            of_state,
            of_elapsed if wants_elapsed else None,
            *_unflatten_dense_tensors(of_parameters, ctx.parameters),
        )


def _register(operator: str, kernel: SequenceKernel) -> Callable[..., tuple[Tensor, Tensor, list[Tensor]]]:
    """The operator of a kernel, with its backward pass."""

    @torch.library.custom_op(f"liquid_control::{operator}", mutates_args=(), device_types="cpu")
    def run(
        x: Tensor,
        state: Tensor,
        times: Tensor | None,
        time: float | None,
        mask: Tensor | None,
        parameters: list[Tensor],
        masks: list[Tensor],
        text: str,
        keep: bool,
        bits: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        plan, noise = kernel.plan_of(text, _contents(masks)), {} if bits is None else {"bits": bits}
        elapsed = time if times is None else times
        y, final, kept = kernel.forward(plan, x, state, elapsed, mask, parameters, keep, **noise)
        return y, final, [torch.from_numpy(part) if isinstance(part, np.ndarray) else part.as_tensor() for part in kept]

    @run.register_fake
    def _(x, state, times, time, mask, parameters, masks, text, keep, bits):
        plan, (batch, steps, _) = kernel.plan_of(text, None), x.shape
        kept = kernel.sizes_kept(plan, batch, steps, time, mask is not None) if keep else []
        final = torch.empty_like(state, memory_format=torch.contiguous_format)
        return x.new_empty(batch, steps, plan.outputs), final, [x.new_empty(size) for size in kept]

    @torch.library.custom_op(f"liquid_control::{operator}_backward", mutates_args=(), device_types="cpu")
    def differentiate(
        x: Tensor | None,
        time: float | None,
        kept: list[Tensor],
        of_y: Tensor,
        of_final: Tensor,
        wants_x: bool,
        wants_times: bool,
        inputs: int,
        parameters: int,
        masks: list[Tensor],
        text: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        plan = kernel.plan_of(text, _contents(masks))
        arrays = [part.numpy() for part in kept]
        return kernel.backward(plan, x, time, arrays, of_y, of_final, wants_x, wants_times)

    @differentiate.register_fake
    def _(x, time, kept, of_y, of_final, wants_x, wants_times, inputs, parameters, masks, text):
        batch, steps, _ = of_y.shape
        return (
            of_y.new_empty((batch, steps, inputs) if wants_x else (0, 0, 0)),
            of_final.new_empty(of_final.shape),
            of_y.new_empty((batch, steps) if wants_times else (0, 0)),
            of_y.new_empty(parameters),
        )

    def remember(ctx, inputs, output):
        x, _, _, ctx.time, _, parameters, masks, ctx.text, ctx.keep, _ = inputs
        kept = output[2]
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(x if kernel.reads_x else None, *kept, *masks)
        ctx.counts, ctx.inputs, ctx.shapes = len(kept), x.shape[2], [parameter.shape for parameter in parameters]

    def backward(ctx, of_y, of_final, _):
        refuse_derivatives_of_gradients(kernel.name, of_y, of_final, vectorised=is_transformed())
        refuse_what_was_not_kept(kernel.name, ctx.keep)
        x, *saved = ctx.saved_tensors
        kept, masks = saved[: ctx.counts], saved[ctx.counts :]
        wants_x, wants_times = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        sizes = [shape.numel() for shape in ctx.shapes]
        of_x, of_state, of_times, of_parameters = differentiate(
            x, ctx.time, kept, of_y, of_final, wants_x, wants_times, ctx.inputs, sum(sizes), masks, ctx.text
        )
        parts = zip(of_parameters.split(sizes), ctx.shapes, strict=True)
        return (
            of_x if wants_x else None,
            of_state,
            of_times if wants_times else None,
            *(None, None),
            [part.view(shape) for part, shape in parts],
            [None] * len(masks),
            *(None, None, None),
        )

    run.register_autograd(backward, setup_context=remember)
    return run


def _as_arrays(kept: Kept) -> list[np.ndarray]:
    return [part if isinstance(part, np.ndarray) else part.values for part in kept]


_Contents = tuple[tuple[bytes, torch.dtype, torch.Size], ...]
"""What masks hold, as a key of a dictionary."""


def _contents(masks: Sequence[Tensor]) -> _Contents:
    return tuple((mask.detach().numpy().tobytes(), mask.dtype, mask.shape) for mask in masks)


def _arrays(contents: _Contents | None) -> list[np.ndarray] | None:
    if contents is None:
        return None
    return [read_mask(torch.frombuffer(bytearray(held), dtype=dtype).view(shape)) for held, dtype, shape in contents]

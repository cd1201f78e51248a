"""A liquid student: what it makes of an input, of what memory holds of it, and of what came before.

A teacher's sub-block makes the residual r of an input h. The student guesses it from h, from what a cube recalls
(:class:`liquid_control.models.cubes.Recall`: r̂_mem, dispersion u, novelty ν), and from a liquid state that goes on:

    z = liquid scan of [norm(h), r̂_mem, u, ν]         `liquid_control.nn.LiquidScan`
    r̂ = m r̂_mem + U z,   m = σ(a - b_ν ν - b_u u)      memory counts while it is near and of one voice
    ℓ = w · z + c + d_ν log(ν + 0.01) + d_s log(s + 0.001),   s = u ‖r̂_mem‖² / E

ℓ is the logarithm of the relative error that it expects. An answer that is interpolated is the more wrong, the farther
its neighbours are and the more they differ among themselves, s. Both are powers, so their logarithms count; of an empty
cube s is 1. E is the mean of ‖r‖² over what the teacher made: of two errors the larger one changes more of what the
network says, however large the residual was. It learns while the teacher runs (:class:`Distillation`), from detached
tensors, so the teacher never gets its gradient:

    loss = mean of e + mean of (ℓ - log(e + 0.0001))²,   e = ‖r̂ - r‖² / E
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.kernels import kernel_device
from liquid_control.models.cubes import Recall
from liquid_control.nn import LiquidScan
from liquid_control.nn.hybrid import RMSNorm

FEW = 64
"""Inputs that the kernel guesses; of more, the products of torch are fast enough."""
WHOLE = 64
"""Inputs of a step of learning that counts in full."""
LEAST = 1e-4
"""Added to a relative error in its logarithm: of those far below, one is as good as the other."""
NEAR, ALIKE = 1e-2, 1e-3
"""The same of a novelty, and of how much residuals differ."""
HORIZON = 2**14
"""Residuals over which the mean of their size goes."""


class Guess(NamedTuple):
    """What a student makes of B sequences of T inputs."""

    residual: Tensor
    """(B, T, d) r̂."""
    log_error: Tensor
    """(B, T) ℓ."""
    state: Tensor
    """(B, S) after the last."""

    def detach(self) -> Guess:
        """The same numbers without their graph."""
        return Guess(*(value.detach() for value in self))


class LiquidStudent(nn.Module):
    """The student of one sub-block.

    Args:
        width: numbers of an input and of a residual, d.
        units: liquid neurons.

    Raises:
        ValueError: if a number is below one.
    """

    energy: Tensor
    seen: Tensor

    def __init__(self, width: int, units: int):
        super().__init__()
        self.width = width
        self.norm = RMSNorm(width)
        self.scan = LiquidScan(2 * width + 2, units, longest_tau=16.0)
        self.readout = nn.Linear(units, width, bias=False)
        nn.init.zeros_(self.readout.weight)  # to begin with, what is remembered stands alone
        self.expects = nn.Linear(units, 1)
        self.trust = nn.Parameter(torch.tensor([4.0, 8.0, 2.0]))  # a, b of novelty, b of dispersion
        self.doubt = nn.Parameter(torch.tensor([0.75, 0.75]))  # d of novelty, d of how much residuals differ
        self.register_buffer("energy", torch.tensor(1.0))  # E
        self.register_buffer("seen", torch.tensor(0.0))  # residuals of which it is the mean
        self._weights: tuple[int, Any] | None = None
        """For the kernel: where they lie, and the memory of them."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy has weights of its own."""
        return self.__dict__ | {"_weights": None}

    def initial_state(self, batch: int) -> Tensor:
        """The state (batch, S) before the first input."""
        return self.scan.initial_state(batch)

    def forward(self, h: Tensor, recall: Recall, state: Tensor | None = None) -> Guess:
        """Guesses what the sub-block would make of inputs.

        Args:
            h: (B, T, d).
            recall: of these inputs, B T of them, one sequence after another.
            state: (B, S) before the first; None is :meth:`initial_state`.

        Raises:
            ValueError: if shapes do not fit.
        """
        if h.dim() != 3 or h.shape[2] != self.width:
            raise ValueError(f"inputs have shape {tuple(h.shape)}, expected (batch, time, {self.width}).")
        if recall.residual.shape != (h.shape[0] * h.shape[1], self.width):
            raise ValueError(f"what is recalled is of {len(recall.residual)} inputs, expected {h[..., 0].numel()}.")
        expected = len(h), self.scan.state_size
        if state is not None and state.shape != expected:  # a kernel would read what lies behind it
            raise ValueError(f"state has shape {tuple(state.shape)}, expected (batch, state_size) = {expected}.")
        few = h.shape[0] * h.shape[1] <= FEW and h.dtype == torch.float32
        if few and not torch.is_grad_enabled() and kernel_device(h) == "cpu":
            return self._guess(h, recall, self.initial_state(len(h)) if state is None else state)
        remembered = recall.residual.view_as(h)
        dispersion, novelty = recall.dispersion.view(h.shape[:2]), 1 - recall.similarity.view(h.shape[:2])
        dispersion = torch.log1p(dispersion)  # of what cancels out it is without bound
        told = torch.stack([dispersion, novelty], 2)
        z, state = self.scan(torch.cat([self.norm(h), remembered, told], 2), state)
        often, new, apart = self.trust
        share = torch.sigmoid(often - new * novelty - apart * dispersion)[..., None]
        spread = recall.dispersion.view_as(novelty) * remembered.square().sum(2) / self.energy
        known = (recall.weights[:, 0] > 0).view_as(novelty).to(h.device)
        far, wide = (novelty + NEAR).log(), torch.where(known, spread + ALIKE, 1.0).log()
        log_error = self.expects(z)[..., 0] + self.doubt[0] * far + self.doubt[1] * wide
        return Guess(share * remembered + self.readout(z), log_error, state)

    def _guess(self, h: Tensor, recall: Recall, state: Tensor) -> Guess:
        """The same by the kernel."""
        from liquid_control.kernels import student  # Numba is optional

        place = self.trust.data_ptr()
        if self._weights is None or self._weights[0] != place:  # another device, or a copy
            self._weights = (
                place,
                student.Weights(
                    norm=_array(self.norm.weight),
                    drive=_array(self.scan.drive.weight),
                    bias=_array(self.scan.drive.bias),
                    readout=_array(self.readout.weight),
                    expects=_array(self.expects.weight),
                    expects_bias=_array(self.expects.bias),
                    trust=_array(self.trust),
                    doubt=_array(self.doubt),
                    energy=_array(self.energy.view(1)),
                    near=NEAR,
                    alike=ALIKE,
                    floor=float(torch.finfo(torch.float32).eps),  # of torch.nn.RMSNorm
                    tau_min=self.scan.tau_min,
                ),
            )
        found = student.guess(
            _array(h),
            _array(recall.residual),
            _array(recall.similarity),
            _array(recall.dispersion),
            _array(recall.weights),
            _array(state),
            self._weights[1],
        )
        return Guess(*map(torch.from_numpy, found))

    @torch.no_grad()
    def observe(self, residuals: Tensor) -> None:
        """Takes the size of residuals (N, d) that the teacher made into its mean."""
        number = len(residuals)
        self.seen.add_(number).clamp_(max=HORIZON)
        self.energy.lerp_(residuals.square().sum(1).mean(), min(1.0, number / float(self.seen)))
        self.energy.clamp_(min=torch.finfo(self.energy.dtype).eps)

    def operations(self) -> int:
        """Multiplications of an input."""
        units = self.scan.units
        return 2 * units * (2 * self.width + 2) + units * (self.width + 1) + 3 * self.width


def _array(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor."""
    return np.ascontiguousarray(tensor.detach().numpy())


def relative_error(guessed: Tensor, residual: Tensor, energy: Tensor | float) -> Tensor:
    """‖r̂ - r‖² / E of vectors (…, d)."""
    return (guessed - residual).square().sum(-1) / energy


class Distillation:
    """A student that learns from what its teacher makes, as it comes.

    Args:
        student: who learns.
        learning_rate: of Adam, for steps of :data:`WHOLE` inputs and more. That of a step of fewer is multiplied by the
            root of their share of those: their gradient is noisy, and Adam makes steps of one size of whatever it gets
            (Malladi et al. 2022, arXiv 2205.10287, definition 2.3).
    """

    def __init__(self, student: LiquidStudent, learning_rate: float = 3e-3):
        self.student = student
        self.optimizer = torch.optim.Adam(student.parameters(), learning_rate)

    def learn(
        self,
        h: Tensor,
        recall: Recall,
        residual: Tensor,
        state: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            h: (B, T, d) inputs.
            recall: of them.
            residual: (B, T, d) what the teacher made of them.
            state: (B, S) of the student before the first.
            known: (B, T) bool, where the teacher ran; None is everywhere. Of the rest nothing is learned.

        Returns:
            ℓ and the relative errors, as they were before it learned, both (B, T), and the state after, (B, S).
        """
        with torch.enable_grad():
            guess = self.student(h.detach(), recall, None if state is None else state.detach())
        error = self.correct(guess, residual, known)
        return guess.log_error.detach(), error, guess.state.detach()

    def correct(self, guess: Guess, residual: Tensor, known: Tensor | None = None) -> Tensor:
        """One step from a guess that was made with its graph, so that the student runs once to guess and to learn.

        Args:
            guess: by the student as it is.
            residual: (B, T, d) what the teacher made.
            known: (B, T) bool, where the teacher ran; None is everywhere. Where it did not, ``residual`` is not looked
                at.

        Returns:
            The relative errors (B, T), as they were before it learned; NaN where the teacher did not run.
        """
        known = torch.ones_like(guess.log_error, dtype=torch.bool) if known is None else known
        errors = torch.full_like(guess.log_error, torch.nan, requires_grad=False)
        if not known.any():
            return errors
        made = residual.detach()[known]
        self.student.observe(made)
        with torch.enable_grad():
            error = relative_error(guess.residual[known], made, self.student.energy)
            errors[known] = error.detach()
            surprise = (guess.log_error[known] - (error.detach() + LEAST).log()).square()
            self.optimizer.zero_grad()
            (error + surprise).mean().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        (group,) = self.optimizer.param_groups
        whole = group["lr"]
        group["lr"] = whole * min(1.0, int(known.sum()) / WHOLE) ** 0.5
        self.optimizer.step()
        group["lr"] = whole
        return errors

"""How far a student may stand in for a part of a network: earned slowly by audits, and lost at once.

A student says what a sub-block would have made of an input, r̂, and how wrong it thinks it is: ℓ, the logarithm of its
relative error ‖r̂ - r‖² / ‖r‖². Now and then the sub-block runs all the same, and the student is audited.

    influence   ḡ ← min(1, ḡ + ρ)  while the mean audited error is below ``low``,
                ḡ ← ḡ / 2          while it is above ``high``
    mixing      (1 - g) r + g r̂,  g = ḡ σ(γ (θ - ℓ))
    skipping    the sub-block is left out where ḡ is 1 and ℓ ≤ θ

Influence begins at 0, and there the residual is r itself, to the bit. Rising by steps and falling by halves is the rule
by which TCP finds its share (Chiu & Jain 1989); between the two bounds nothing moves.

θ is set by conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814, equation 4): the greatest for which

    (number of audits with ℓ ≤ θ and error > ``wrong``, + 1) / (number of audits + 1) ≤ ``risk``

If what comes is like what was audited, an input is skipped wrongly with a probability of at most ``risk``. Audits must
therefore be drawn from all inputs alike, whether they would be skipped or not (:meth:`Influence.audits`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from liquid_control.support.errors import UserError
from liquid_control.support.schema import validated

Influenced = Annotated[float, Ge(0), Le(1)]
Error = Annotated[float, Ge(0), Le(1e12)]


@dataclass(frozen=True)
class InfluenceConfig:
    """The rules of influence."""

    rise: Annotated[float, Gt(0), Le(1)] = 0.02
    """What an audit earns, ρ."""
    low: Error = 0.05
    """Mean relative error below which influence rises."""
    high: Error = 0.15
    """Mean relative error above which it is halved."""
    memory: Annotated[float, Ge(1), Le(1e6)] = 32.0
    """Audits over which the mean error goes."""
    wrong: Error = 0.1
    """Relative error from which a skip was wrong."""
    risk: Annotated[float, Gt(0), Le(1)] = 0.05
    """Share of inputs that may be skipped wrongly."""
    calibration: Annotated[int, Ge(1), Le(2**16)] = 512
    """Last audits from which the threshold is set."""
    sharpness: Annotated[float, Gt(0), Le(1000)] = 2.0
    """How fast mixing fades about the threshold, γ."""
    audited: Annotated[float, Gt(0), Le(1)] = 0.03
    """Share of inputs that are audited."""


@dataclass(frozen=True)
class InfluenceRecord:
    """An influence as JSON values."""

    cap: Influenced
    error: Error | None
    audits: tuple[tuple[float, Error], ...]


class Influence:
    """The influence of one layer's student.

    Args:
        config: the rules.

    Raises:
        UserError: if ``low`` is above ``high``.
    """

    def __init__(self, config: InfluenceConfig):
        if config.low > config.high:
            raise UserError(f"low must not be above high, given {config.low} and {config.high}.")
        self.config = config
        self.cap = 0.0
        """ḡ, from 0 to 1."""
        self.error = math.nan
        """Mean relative error of the last audits; NaN before the first."""
        self.threshold = -math.inf
        """θ, in logarithms of relative errors."""
        self._audits: deque[tuple[float, float]] = deque(maxlen=config.calibration)

    def audits(self, number: int, generator: torch.Generator) -> Tensor:
        """Which of so many inputs are audited (N,), drawn from all alike."""
        return torch.rand(number, generator=generator) < self.config.audited

    def judge(self, log_errors: Tensor, errors: Tensor) -> None:
        """Takes audits in, one after another.

        Args:
            log_errors: (N,) what the student thought, ℓ.
            errors: (N,) relative errors, as they were.

        Raises:
            ValueError: if shapes differ, an error is negative, or a number is not finite.
        """
        if log_errors.shape != errors.shape or errors.dim() != 1:
            shapes = f"{tuple(log_errors.shape)} and {tuple(errors.shape)}"
            raise ValueError(f"what was thought and what was so have shapes {shapes}, expected two equal (number,).")
        if not (log_errors.isfinite().all() and errors.isfinite().all() and (errors >= 0).all()):
            raise ValueError("audits hold NaN, infinity or a negative error.")
        config = self.config
        for thought, error in zip(log_errors.tolist(), errors.tolist(), strict=True):
            self._audits.append((thought, error))
            share = 1 / min(len(self._audits), config.memory)
            self.error = error if math.isnan(self.error) else self.error + share * (error - self.error)
            if self.error < config.low:
                self.cap = min(1.0, self.cap + config.rise)
            elif self.error > config.high:
                self.cap /= 2
        if self._audits:
            self._calibrate()

    def _calibrate(self) -> None:
        """θ: the greatest ℓ of an audit up to which there are no more wrong ones than the risk allows."""
        allowed = math.floor(self.config.risk * (len(self._audits) + 1) + 1e-9) - 1
        thought, error = np.array(self._audits, float).T
        values, place = np.unique(thought, return_inverse=True)
        wrong = np.bincount(place, error > self.config.wrong).cumsum()
        fitting = values[wrong <= allowed]
        self.threshold = float(fitting[-1]) if len(fitting) else -math.inf

    def mix(self, residual: Tensor, guessed: Tensor, log_errors: Tensor) -> Tensor:
        """What goes on: (1 - g) r + g r̂ of r, r̂ (…, d) and ℓ (…); without influence r itself, the same tensor."""
        if self.cap == 0 or self.threshold == -math.inf:
            return residual
        share = self.cap * torch.sigmoid(self.config.sharpness * (self.threshold - log_errors))
        return torch.lerp(residual, guessed, share[..., None].to(residual.dtype))

    def skips(self, log_errors: Tensor) -> Tensor:
        """Where the sub-block is left out, of ℓ (…)."""
        return log_errors <= (self.threshold if self.cap == 1 else -math.inf)

    def record(self) -> dict[str, Any]:
        """All of it as JSON values, for :meth:`restore`."""
        return {"cap": self.cap, "error": None if math.isnan(self.error) else self.error, "audits": list(self._audits)}

    @classmethod
    def restore(cls, config: InfluenceConfig, record: Mapping[str, Any]) -> Influence:
        """The influence that a record tells of.

        Raises:
            UserError: if it tells of none.
        """
        told = validated(InfluenceRecord, dict(record), "the record of an influence")
        if any(not math.isfinite(thought) for thought, _ in told.audits):
            raise UserError("the record of an influence is wrong: it holds NaN or infinity.")
        influence = cls(config)
        influence.cap, influence.error = told.cap, math.nan if told.error is None else told.error
        influence._audits.extend(told.audits)
        if told.audits:
            influence._calibrate()
        return influence

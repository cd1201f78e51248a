"""How far a student may stand in for a part of a network: earned slowly by audits, and lost at once.

A student says what a sub-block would have made of an input, r̂, and how wrong it thinks it is: ℓ, the logarithm of its
relative error ‖r̂ - r‖² / E, where E is the mean of ‖r‖². Where the sub-block runs, the student can be audited. It is
sure where ℓ ≤ θ, and stands in there alone:

    earning     ḡ ← min(1, ḡ + ρ)  at an audit where it was sure, while the mean error of those is below ``low``,
                ḡ ← ḡ / 2          at one while that mean is above ``high``
    influence   g = ḡ where ℓ ≤ θ, 0 elsewhere
    mixing      (1 - g) r + g r̂
    skipping    the sub-block is left out where g is 1

So a student is judged by what it stands for: a sub-block with easy and hard inputs gains influence on the easy ones. ḡ
begins at 0, and where g is 0 the residual is r itself, to the bit. Rising by steps and falling by halves is the rule by
which TCP finds its share (Chiu & Jain 1989); between the two bounds nothing moves.

θ is set by conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814, equation 4): the greatest ℓ of the last
audits for which

    (number of audits with ℓ ≤ θ and error > ``wrong``, + 1) / (number of audits + 1) ≤ ``risk``
    (mean error of the audits with ℓ ≤ θ) ≤ ``low``

and none if there is none, as before the first 1 / ``risk`` audits; then the student is never sure. The second condition
is there because a risk is a share of all inputs: where few are easy, most of those up to θ could be wrong by the first
alone, and would earn nothing. An audit is judged by θ as it was before it, and moves it after. If what comes is like
what was audited, an input is skipped wrongly with a probability of at most ``risk``. Audits must therefore be drawn
from all inputs alike, whether they would be skipped or not (:meth:`Influence.audits`). Those that would not be skipped
cost nothing, for the sub-block runs in any case. So the share p of all inputs that is audited is the smaller, the more
are skipped, and what audits cost is bounded:

    p = min(1, ``audited`` / share of the last audits with ℓ ≤ θ),  and 1 while nothing is skipped

So θ is found, and influence earned, within some hundred inputs, and where a student is sure of little, θ follows what
it learns.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from liquid_control.support.errors import UserError
from liquid_control.support.schema import validated

Influenced = Annotated[float, Ge(0), Le(1)]
Error = Annotated[float, Ge(0), Le(1e12)]
Numbers = TypeVar("Numbers", Tensor, np.ndarray)


@dataclass(frozen=True)
class InfluenceConfig:
    """The rules of influence."""

    rise: Annotated[float, Gt(0), Le(1)] = 0.02
    """What an audit of a sure student earns, ρ."""
    low: Error = 0.05
    """Mean relative error where it is sure, at most; while it is below, influence rises."""
    high: Error = 0.15
    """The same, above which it is halved."""
    memory: Annotated[float, Ge(1), Le(1e6)] = 32.0
    """Audits of a sure student over which the mean error goes."""
    wrong: Error = 0.1
    """Relative error from which a skip was wrong."""
    risk: Annotated[float, Gt(0), Le(1)] = 0.05
    """Share of inputs that may be skipped wrongly."""
    calibration: Annotated[int, Ge(1), Le(2**16)] = 512
    """Last audits from which the threshold is set."""
    audited: Annotated[float, Gt(0), Le(1)] = 0.03
    """Share of inputs that may run for nothing but an audit."""


@dataclass(frozen=True)
class InfluenceRecord:
    """An influence as JSON values."""

    cap: Influenced
    error: Error | None
    sure: Annotated[int, Ge(0), Le(2**63)]
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
        """Mean relative error of the last audits where the student was sure; NaN before the first."""
        self.sure = 0
        """Number of such audits."""
        self.threshold = -math.inf
        """θ, in logarithms of relative errors; -∞ where there is none."""
        self.rate = 1.0
        """Share of inputs that are audited, p."""
        self._audits: deque[tuple[float, float]] = deque()
        self._sorted = np.zeros((2, config.calibration))  # the same, ℓ and errors, by ascending ℓ
        self._numbers = np.arange(1, config.calibration + 1)

    @property
    def skipping(self) -> bool:
        """Whether the sub-block is left out for some inputs."""
        return self.cap == 1 and self.threshold > -math.inf

    def audits(self, number: int, generator: torch.Generator) -> Tensor:
        """Which of so many inputs are audited (N,): all while none is skipped, else some, drawn from all alike."""
        if not self.skipping:
            return torch.ones(number, dtype=torch.bool)
        return torch.rand(number, generator=generator) < self.rate

    def judge(self, log_errors: Numbers, errors: Numbers) -> None:
        """Takes audits in, one after another.

        Args:
            log_errors: (N,) what the student thought, ℓ.
            errors: (N,) relative errors, as they were.

        Raises:
            ValueError: if shapes differ, an error is negative, or a number is not finite.
        """
        thoughts, were = np.asarray(log_errors), np.asarray(errors)
        if thoughts.shape != were.shape or were.ndim != 1:
            shapes = f"{thoughts.shape} and {were.shape}"
            raise ValueError(f"what was thought and what was so have shapes {shapes}, expected two equal (number,).")
        if not (np.isfinite(thoughts).all() and np.isfinite(were).all() and (were >= 0).all()):
            raise ValueError("audits hold NaN, infinity or a negative error.")
        for thought, error in zip(thoughts.tolist(), were.tolist(), strict=True):
            if thought <= self.threshold:
                self._earn(error)
            self._keep(thought, error)
            self._calibrate()

    def _earn(self, error: float) -> None:
        """Moves ḡ by the error of an audit where the student was sure."""
        config = self.config
        self.sure += 1
        share = 1 / min(self.sure, config.memory)
        self.error = error if math.isnan(self.error) else self.error + share * (error - self.error)
        if self.error < config.low:
            self.cap = min(1.0, self.cap + config.rise)
        elif self.error > config.high:
            self.cap /= 2

    def _keep(self, thought: float, error: float) -> None:
        """Takes an audit among the last ones, in its place."""
        kept, number = self._sorted, len(self._audits)
        if number == self.config.calibration:
            old, was = self._audits.popleft()
            place = int(np.searchsorted(kept[0], old))
            place += int((kept[1, place:] == was).argmax())  # of several that were thought the same
            kept[:, place:-1] = kept[:, place + 1 :]
            number -= 1
        self._audits.append((thought, error))
        place = int(np.searchsorted(kept[0, :number], thought, side="right"))
        kept[:, place + 1 : number + 1] = kept[:, place:number]
        kept[:, place] = thought, error

    def _calibrate(self) -> None:
        """θ: the greatest ℓ of an audit up to which no more are wrong than the risk allows, and the mean is low."""
        number, config = len(self._audits), self.config
        allowed = math.floor(config.risk * (number + 1) + 1e-9) - 1
        thoughts, errors = self._sorted[:, :number]
        fits = (errors > config.wrong).cumsum() <= allowed
        fits &= errors.cumsum() <= config.low * self._numbers[:number]
        fits[:-1] &= thoughts[1:] > thoughts[:-1]
        fitting = fits.nonzero()[0]
        self.threshold = float(thoughts[fitting[-1]]) if len(fitting) else -math.inf
        self.rate = min(1.0, config.audited * number / (fitting[-1] + 1)) if len(fitting) else 1.0

    def of(self, log_errors: Numbers) -> Numbers:
        """Influence g on inputs, of ℓ (…)."""
        return self.cap * (log_errors <= self.threshold)

    def mix(self, residual: Tensor, guessed: Tensor, log_errors: Tensor) -> Tensor:
        """What goes on: (1 - g) r + g r̂ of r, r̂ (…, d) and ℓ (…); without influence r itself, the same tensor."""
        sure = log_errors <= self.threshold
        if self.cap == 0 or not sure.any():
            return residual
        return torch.where(sure[..., None], torch.lerp(residual, guessed.to(residual.dtype), self.cap), residual)

    def skips(self, log_errors: Numbers) -> Numbers:
        """Where the sub-block is left out, of ℓ (…)."""
        return log_errors <= (self.threshold if self.skipping else -math.inf)

    def record(self) -> dict[str, Any]:
        """All of it as JSON values, for :meth:`restore`."""
        error = None if math.isnan(self.error) else self.error
        return {"cap": self.cap, "error": error, "sure": self.sure, "audits": list(self._audits)}

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
        influence.sure = told.sure
        for audit in told.audits:
            influence._keep(*audit)
        influence._calibrate()
        return influence

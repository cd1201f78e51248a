"""An audit: a driver looked into over one lap, in numbers; `report.audit_page` shows them.

The measures are those that made neural circuit policies known (Lechner et al. 2020): where the eyes look and whether
noise moves that, what each neuron is for, its time constant, how many dimensions the neurons' activity has, how steep
the map of the state is, and what single synapses are worth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.run_folder import versions
from envs.registration import OFFICIAL, UDACITY
from liquid_control.report.audit_lap import AHEAD, WHERE, AuditedLap, drive_lap
from liquid_control.report.audit_lesions import Lesion, connections, lesion
from liquid_control.report.audit_measures import (
    Pace,
    add_noise,
    neuron_activity,
    pearson,
    principal_shares,
    spearman,
    ssim,
    state_norms,
    time_constants,
    why_no_norm,
)
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.statistics import bootstrap_interval
from policies.driver import Driver
from policies.saliency import saliency

VARIANCES = (0.1, 0.2, 0.3)
"""Of the noise, in units of pictures scaled to 0 to 1."""
COMPARED, FILMED, MOMENTS = 200, 120, 100
"""Frames whose saliency is compared, frames of the film, and moments whose Jacobian is taken; fewer on a short lap."""
TRACKS = {OFFICIAL: 3, UDACITY: 1}
"""Tracks that the driver drives without a synapse; a lap of the stand-in takes many times as long."""
QUANTITIES = ("curvature", "speed", "steering")
"""What neurons are compared with."""

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Likeness:
    """How alike saliency is with and without noise."""

    variance: float
    """Of the noise."""
    mean: float
    """Structural similarity over the frames."""
    interval: tuple[float, float]
    """Of the mean, 95 %, by a bootstrap over the frames."""
    frames: int

    def told_interval(self) -> str:
        """The interval in words."""
        return f"{self.interval[0]:.3f} to {self.interval[1]:.3f}"


@dataclass(frozen=True)
class Audit:
    """What was found out."""

    name: str
    """The checkpoint."""
    driver: Driver
    lap: AuditedLap
    filmed: np.ndarray
    """(F,) decisions that the film shows."""
    saliency: np.ndarray
    """(F, h, w) float32, 0 to 1, of these."""
    likeness: Sequence[Likeness]
    neurons: Mapping[str, np.ndarray]
    """(T,) what each put out."""
    correlations: Mapping[str, Mapping[str, tuple[float, float]]]
    """By neuron and quantity Pearson's and Spearman's; NaN where something does not vary."""
    pace: Pace
    shares: np.ndarray
    """(N,) of the variance, by principal components."""
    jacobians_at: np.ndarray
    """(M,) decisions."""
    norms: np.ndarray
    """(M,) spectral norms there; empty of a core without recurrence."""
    lesions: Sequence[Lesion]
    """Costliest first; none of a core that is not looked into."""
    tracks: Sequence[int]
    """Seeds that were driven without a synapse."""

    @property
    def env(self) -> str:
        """Where it drove."""
        return WHERE[self.driver.config.env]

    @property
    def synapse_count(self) -> int:
        """How many synapses were cut."""
        return len(self.lesions)

    def facts(self) -> list[tuple[str, str]]:
        """The summary, names and values."""
        lap, what = self.lap, "score" if self.driver.config.env == OFFICIAL else "metres"
        ending = "completed" if lap.lap else "not completed"
        facts = [
            ("lap", f"{self.env}, seed {lap.seed}: {ending}, {what} {lap.score:.1f}, {lap.steps} steps"),
            *(
                (
                    f"SSIM of saliency under noise, σ² {each.variance:g}",
                    f"{each.mean:.3f} (95 %: {each.told_interval()})",
                )
                for each in self.likeness
            ),
            ("variance in the first principal component", f"{self.shares[0]:.1%}"),
        ]
        if self.pace.neurons:
            tau = np.stack(list(self.pace.neurons.values()))
            facts.append(("median time constant", f"{np.median(tau):.2f} of the core's unit of time"))
        if len(self.norms):
            norms = f"mean {self.norms.mean():.2f}, largest {self.norms.max():.2f}"
            facts.append(("spectral norm of the map of the state", norms))
        if self.lesions:
            first = self.lesions[0]
            facts.append(
                (
                    "costliest synapse",
                    f"{first.source} → {first.target}, which changes steering by {first.steering:.3f}",
                )
            )
        return facts

    def to_json(self) -> str:
        """All numbers, as JSON; null for what does not exist."""
        lap, pace, norms = self.lap, self.pace, self.norms
        numbers: dict[str, Any] = {
            "checkpoint": self.name,
            "driver": self.driver.describe(),
            "weights": weights_digest(self.driver),
            "versions": versions(),
            "lap": {
                "env": self.env,
                "seed": lap.seed,
                "score": lap.score,
                "steps": lap.steps,
                "decisions": len(lap),
                "completed": lap.lap,
            },
            "saliency_under_noise": [
                {"variance": each.variance, "ssim": each.mean, "interval": each.interval, "frames": each.frames}
                for each in self.likeness
            ],
            "correlations": {
                "curvature_ahead": AHEAD,
                "neurons": {
                    neuron: {name: {"pearson": both[0], "spearman": both[1]} for name, both in row.items()}
                    for neuron, row in self.correlations.items()
                },
            },
            "time_constants": {
                "formula": pace.formula,
                "neurons": {
                    name: dict(
                        zip(("least", "median", "greatest"), np.quantile(tau, (0, 0.5, 1)).tolist(), strict=True)
                    )
                    for name, tau in pace.neurons.items()
                },
            },
            "principal_components": self.shares.tolist(),
            "state_map": {
                "moments": len(norms),
                "largest": norms.max() if len(norms) else None,
                "mean": norms.mean() if len(norms) else None,
                "left_out": why_no_norm(self.driver.core),
            },
            "lesions": {
                "tracks": list(self.tracks),
                "synapses": [
                    {"from": each.source, "to": each.target, "steering_rms": each.steering, "score_lost": each.lost}
                    for each in self.lesions
                ],
            },
        }
        return json.dumps(_plain(numbers), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """The same in what JSON has: NaN is null, NumPy's numbers are numbers."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def build_audit(
    driver: Driver, name: str, seed: int, frames: int, costliest: int, tell: Tell = lambda stage, share: None
) -> Audit:
    """Drives a lap and looks into the driver.

    Args:
        driver: who is audited.
        name: of the checkpoint.
        seed: of the track.
        frames: environment steps of a lap at most.
        costliest: synapses without which the driver drives.
        tell: is told what is done, and the share of it that is.

    Raises:
        UserError: if the driver drives in an environment that no audit is for.
    """
    tell("driving", 0)
    lap = drive_lap(driver, seed, frames)
    core, eyes = driver.core, driver.eyes
    assert eyes is not None  # or no lap would have been driven
    filmed = lap.spread(FILMED)
    maps = []
    for place in filmed:
        maps.append(saliency(eyes, lap.images[place]))
        tell("saliency", 0.2 * len(maps) / len(filmed))
    likeness = _likeness(driver, lap, tell)
    tell("neurons", 0)
    neurons = neuron_activity(core, lap.inputs, lap.states)
    quantities = {"curvature": lap.curvature, "speed": lap.speed, "steering": lap.steering}
    moments = lap.spread(MOMENTS)
    norms = np.empty(0)
    if not why_no_norm(core):
        norms = state_norms(core, lap.inputs[moments], lap.states[moments], lap.elapsed[moments])
    tracks = [seed + index for index in range(TRACKS[driver.config.env])] if connections(core) and costliest else []
    tell("lesions", 0)
    return Audit(
        name=name,
        driver=driver,
        lap=lap,
        filmed=filmed,
        saliency=np.stack(maps),
        likeness=likeness,
        neurons=neurons,
        correlations={
            neuron: {name: (pearson(values, other), spearman(values, other)) for name, other in quantities.items()}
            for neuron, values in neurons.items()
        },
        pace=time_constants(core, lap.inputs, lap.states),
        shares=principal_shares(np.stack(list(neurons.values()), 1)),
        jacobians_at=moments,
        norms=norms,
        lesions=lesion(driver, lap, costliest, tracks, frames, lambda share: tell("lesions", share)),
        tracks=tracks,
    )


def _likeness(driver: Driver, lap: AuditedLap, tell: Tell) -> list[Likeness]:
    assert driver.eyes is not None
    compared, rng = lap.spread(COMPARED), np.random.default_rng(lap.seed)
    alike = []
    for place in compared:
        image = lap.images[place]
        clean = saliency(driver.eyes, image)
        alike.append([ssim(clean, saliency(driver.eyes, add_noise(image, variance, rng))) for variance in VARIANCES])
        tell("saliency", 0.2 + 0.8 * len(alike) / len(compared))
    return [
        Likeness(variance, float(np.mean(values)), bootstrap_interval(values, lambda all: all.mean(-1)), len(compared))
        for variance, values in zip(VARIANCES, np.transpose(alike), strict=True)
    ]

"""Search for the expert's constants: CMA-ES (Hansen 2016, arXiv 1604.00772) on physics alone, nothing drawn.

Prints the best constants so far after every generation; a run can be stopped at any time.

    python benchmarks/tune_expert.py --minutes 15
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields

import numpy as np
from expert_score import drive, physics

from envs.car_racing.expert import Expert
from liquid_control.support import command
from liquid_control.support.ranges import Count, NotNegative, Positive, Seed, argument

TUNING_SEED = 3_000_000
"""Tuning seeds start here; the expert is scored on the test seeds from 2,000,000."""

RELATIVE_STEP = {
    "half_width": 0.05,
    "length_weight": 0.5,
    "turn_curvature": 0.2,
    "turn_exponent": 0.2,
    "lateral_grip": 0.05,
    "braking_grip": 0.1,
    "lookahead": 0.15,
    "lookahead_time": 0.15,
    "steer_gain": 0.1,
    "yaw_gain": 0.3,
    "countersteer": 0.3,
    "slip_limit": 0.2,
    "turn_in_speed": 0.05,
    "speed_gain": 0.3,
    "speed_lead": 0.3,
    "traction": 0.1,
    "brake_share": 0.1,
    "brake_floor": 0.3,
    "slip_saturation": 0.1,
}
"""Constants that are searched (in logarithm: all are positive) and their first relative standard deviation."""


def objective(constants: dict[str, float], seeds: range, roughness_weight: float) -> float:
    """Mean return over the seeds, less a price on how much the pedals and the wheel move from step to step."""
    env, expert = physics(), Expert(**constants)
    laps = [drive(env, expert, seed) for seed in seeds]
    return float(np.mean([lap.score - roughness_weight * lap.roughness for lap in laps]))


def main() -> None:
    """Search until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=argument(Positive), default=15.0, help="stop after the generation in which this is over"
    )
    parser.add_argument("--population", type=argument(Count), default=14, help="candidates in a generation")
    parser.add_argument(
        "--episodes", type=argument(Count), default=12, help="episodes a candidate, the same for a generation"
    )
    parser.add_argument(
        "--step", type=argument(Positive), default=1.0, help="first step size, times the built-in deviations"
    )
    parser.add_argument(
        "--roughness-weight", type=argument(NotNegative), default=20.0, help="return a unit of roughness costs"
    )
    parser.add_argument("--random-seed", type=argument(Seed), default=0, help="seed of the search itself")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.random_seed)

    names = list(RELATIVE_STEP)
    start = {field.name: field.default for field in fields(Expert)}
    centre = np.array([start[name] for name in names])
    scale = np.array(list(RELATIVE_STEP.values()))
    size, population = len(names), arguments.population

    # Default strategy parameters, Hansen 2016, table 1.
    parents = population // 2
    weights = np.log((population + 1) / 2) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    effective = 1 / (weights**2).sum()
    step_rate = (effective + 2) / (size + effective + 5)
    step_damping = 1 + step_rate + 2 * max(0.0, np.sqrt((effective - 1) / (size + 1)) - 1)
    path_rate = (4 + effective / size) / (size + 4 + 2 * effective / size)
    rank_one = 2 / ((size + 1.3) ** 2 + effective)
    rank_mu = min(1 - rank_one, 2 * (effective - 2 + 1 / effective) / ((size + 2) ** 2 + effective))
    expected_length = np.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))

    mean, covariance, step = np.zeros(size), np.eye(size), arguments.step
    step_path, path = np.zeros(size), np.zeros(size)
    generation, begin = 0, time.monotonic()
    while time.monotonic() - begin < 60 * arguments.minutes:
        first = TUNING_SEED + generation * arguments.episodes
        seeds = range(first, first + arguments.episodes)
        eigenvalues, basis = np.linalg.eigh(covariance)
        spread = np.sqrt(np.maximum(eigenvalues, 1e-12))
        moves = (rng.standard_normal((population, size)) * spread) @ basis.T  # (population, size)
        candidates = [
            dict(zip(names, (centre * np.exp(scale * (mean + step * move))).tolist(), strict=True)) for move in moves
        ]
        scores = np.array([objective(candidate, seeds, arguments.roughness_weight) for candidate in candidates])
        best = np.argsort(-scores)[:parents]
        shift = weights @ moves[best]
        mean = mean + step * shift
        whitened = basis @ ((basis.T @ shift) / spread)
        step_path = (1 - step_rate) * step_path + np.sqrt(step_rate * (2 - step_rate) * effective) * whitened
        path = (1 - path_rate) * path + np.sqrt(path_rate * (2 - path_rate) * effective) * shift
        covariance = (
            (1 - rank_one - rank_mu) * covariance
            + rank_one * np.outer(path, path)
            + rank_mu * (moves[best].T * weights) @ moves[best]
        )
        step *= np.exp(step_rate / step_damping * (np.linalg.norm(step_path) / expected_length - 1))
        generation += 1
        found = dict(zip(names, (centre * np.exp(scale * mean)).round(5).tolist(), strict=True))
        print(
            f"generation {generation}: candidates {scores.mean():.1f}, best {scores.max():.1f}, step {step:.2f}, "
            f"{(time.monotonic() - begin) / 60:.1f} min\n  {found}",
            flush=True,
        )


if __name__ == "__main__":
    command.run(lambda _: main())

"""imputation: where a wave is at moments at which it was not measured, told from what was measured before.

Waves as in the LAN paper, a sine at irregular moments with noise of 0.05, but of any pace, height and phase, and with
half of the moments missing instead of one in twenty. Each missing step is an answer of its own: a decoder that repeats
one code for all steps, as the authors' does, could only answer the mean.
"""

import numpy as np

from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.experiments.sequence_task import Recipe, SequenceTask, mean_squared_error, root_mean_squared_error

STEPS, NOISE, MISSING = 64, 0.05, 0.5
SIZES = {"train": 8_000, "validation": 1_000, "test": 2_000}


def waves(count: int, seed: int) -> SequenceSet:
    """Waves with gaps.

    Args:
        count: how many, N.
        seed: of what is drawn.

    Returns:
        ``x`` (N, 64, 2), what was measured and 1, or zeros at a missing step; ``elapsed`` (N, 64), 0.5 on average;
        ``target`` (N, 64) the wave without noise at missing steps, NaN at the others.
    """
    rng = np.random.default_rng(seed)
    elapsed = 0.1 + rng.exponential(0.4, (count, STEPS))
    pace, height = rng.uniform(0.5, 2.0, (count, 1)), rng.uniform(0.5, 1.5, (count, 1))
    wave = height * np.sin(pace * elapsed.cumsum(1) + rng.uniform(0, 2 * np.pi, (count, 1)))
    missing = rng.random((count, STEPS)) < MISSING
    measured = np.where(missing, 0, wave + NOISE * rng.standard_normal(wave.shape))
    x = np.stack([measured, ~missing], 2).astype(np.float32)
    target = np.where(missing, wave, np.nan).astype(np.float32)
    return SequenceSet(x, elapsed.astype(np.float32), np.ones(wave.shape, bool), target)


TASK = SequenceTask(
    name="imputation",
    summary="where a wave is at moments at which it was not measured",
    protocols={"causal": "from what was measured before"},
    load=lambda protocol, fold: SequenceSplits(*(waves(count, seed) for seed, count in enumerate(SIZES.values()))),
    answer="steps",
    classes=False,
    metrics={"rmse": root_mean_squared_error, "mse": mean_squared_error},
    higher=False,
    epochs=20,
    trial_epochs=6,
    parameters=20_000,
    recipe=Recipe(rate=8e-3, batch=32),
)

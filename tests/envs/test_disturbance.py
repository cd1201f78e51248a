"""Bursts of steering error: as large, as long and as rare as they are said to be."""

import itertools

import numpy as np

from envs.disturbance import Disturbance


def test_pushes_keep_their_size_their_length_and_their_distance():
    disturbance = Disturbance(np.random.default_rng(0), every=40, size=(0.1, 0.3), steps=(3, 8))
    pushes = [float(disturbance()) for _ in range(200_000)]
    bursts = [(push, len(list(group))) for push, group in itertools.groupby(pushes)]
    sizes = np.array([push for push, _ in bursts if push])
    lengths = np.array([length for push, length in bursts if push])
    assert np.abs(sizes).min() >= 0.1 and np.abs(sizes).max() <= 0.3
    assert set(lengths) == set(range(3, 9))
    assert abs(np.mean(sizes > 0) - 0.5) < 0.03
    between = np.mean([length for push, length in bursts if not push])
    assert abs(between - 40) < 2


def test_the_same_generator_gives_the_same_pushes():
    one, other = (Disturbance(np.random.default_rng(3), 20, (0.1, 0.2), (2, 4)) for _ in range(2))
    assert [one() for _ in range(500)] == [other() for _ in range(500)]

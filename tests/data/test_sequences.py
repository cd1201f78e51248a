"""Irregular sequences as a batch."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from liquid_control.data.sequences import collate_sequences
from liquid_control.nn import CfC, last_valid

SHORT = ([4.0, 7.0], [[4.0, 0.0], [5.0, 1.0]])
LONG = ([0.0, 0.5, 2.0], [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]])


def test_moments_and_values_become_inputs_times_and_a_mask():
    batch = collate_sequences([LONG, SHORT])
    assert batch.x.tolist() == [LONG[1], [*SHORT[1], [0.0, 0.0]]]
    assert batch.elapsed.tolist() == [[1.0, 0.5, 1.5], [1.0, 3.0, 1.0]]
    assert batch.mask.tolist() == [[True] * 3, [True, True, False]]
    assert torch.equal(batch.observed, batch.mask[..., None].expand(2, 3, 2))
    assert batch.x.dtype == batch.elapsed.dtype == torch.float32


def test_a_unit_and_the_time_of_the_first_step_can_be_chosen():
    batch = collate_sequences([LONG], unit=0.5, first_elapsed=0.25)
    assert batch.elapsed.tolist() == [[0.25, 1.0, 3.0]]


def test_what_was_not_measured_is_zero_and_told():
    batch = collate_sequences([([0.0, 1.0], [[1.0, np.nan], [np.inf, 2.0]], [[1, 0], [0, 1]]), SHORT])
    assert batch.x[0].tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert batch.observed.tolist() == [[[True, False], [False, True]], [[True, True], [True, True]]]


def test_arrays_tensors_integers_and_large_moments_are_taken():
    moments = 1.7e9 + np.array([0.0, 0.05, 0.1])
    batch = collate_sequences([(moments, torch.ones(3, 1, dtype=torch.float64)), (torch.arange(2), np.ones((2, 1)))])
    assert batch.x.dtype == torch.float64
    torch.testing.assert_close(batch.elapsed[0, 1:], torch.full((2,), 0.05, dtype=torch.float64), atol=1e-6, rtol=0)
    assert collate_sequences([([0, 1], [[1], [2]])]).x.dtype == torch.float32


def test_a_sequence_may_be_empty():
    batch = collate_sequences([LONG, ([], torch.zeros(0, 2))])
    assert not batch.mask[1].any()
    layer = CfC(2, 3)
    assert torch.equal(layer(batch.x, elapsed=batch.elapsed, mask=batch.mask)[1][1], torch.zeros(3))


def test_a_layer_gives_what_it_gives_for_each_sequence_alone():
    torch.manual_seed(0)
    layer, batch = CfC(2, 3), collate_sequences([LONG, SHORT])
    last = last_valid(layer(batch.x, elapsed=batch.elapsed, mask=batch.mask)[0], batch.mask)
    for row, series in enumerate((LONG, SHORT)):
        alone = collate_sequences([series])
        torch.testing.assert_close(last[row], layer(alone.x, elapsed=alone.elapsed)[0][0, -1])


def test_a_loader_takes_it_as_its_docstring_says():
    def collate(pairs):
        series, targets = zip(*pairs, strict=True)
        return collate_sequences(series), torch.tensor(targets)

    ((batch, targets),) = DataLoader([(LONG, 0), (SHORT, 1)], batch_size=2, collate_fn=collate)
    assert batch.x.shape == (2, 3, 2) and targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ([], "at least one sequence"),
        ([LONG, ([0.0, 2.0, 1.0], torch.zeros(3, 2))], "sequence 1 has an earlier moment than before it at step 2"),
        ([([0.0, np.nan], torch.zeros(2, 2))], "sequence 0 has a moment that is not finite at step 1"),
        ([([0.0, 1.0], [[0.0], [np.nan]])], "sequence 0 has a measured value that is not finite at step 1"),
        (
            [LONG, ([0.0], [[1.0]])],
            r"sequence 1 has moments \(1,\) and values \(1, 1\), expected \(time,\) and \(time, 2",
        ),
        ([([0.0, 1.0], torch.zeros(3, 2))], r"sequence 0 has moments \(2,\) and values \(3, 2\)"),
        ([([0.0], [[1.0]], [1])], r"values \(1, 1\) and tells of \(1,\) whether they were measured"),
    ],
)
def test_what_is_no_irregular_sequence_is_refused_by_its_place(series, message):
    with pytest.raises(ValueError, match=message):
        collate_sequences(series)


@pytest.mark.parametrize("option", [{"unit": 0.0}, {"unit": np.inf}, {"first_elapsed": -1.0}])
def test_impossible_times_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is .*expected a finite time"):
        collate_sequences([LONG], **option)

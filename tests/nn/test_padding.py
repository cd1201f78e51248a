"""Masks from lengths, and the last output that is one."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from liquid_control.nn import GRU, CfC, last_valid, mask_from_lengths


def test_a_mask_says_which_steps_are_real():
    mask = mask_from_lengths(torch.tensor([2, 0, 3]), 4)
    assert mask.tolist() == [[True, True, False, False], [False] * 4, [True, True, True, False]]
    assert torch.equal(mask_from_lengths([2, 0, 3]), mask[:, :3])
    assert mask_from_lengths([]).shape == (0, 0)


@pytest.mark.parametrize(
    ("lengths", "steps", "error", "message"),
    [
        ([1, 5], 4, ValueError, "between 1 and 5, expected them to be at least 0 and at most 4"),
        ([-1, 2], None, ValueError, "between -1 and 2, expected them to be at least 0"),
        (torch.ones(2, 3, dtype=torch.long), None, ValueError, r"shape \(2, 3\), expected \(batch,\)"),
        ([1.0, 2.0], None, TypeError, "expected integers"),
        (torch.tensor([True]), None, TypeError, "expected integers"),
    ],
)
def test_lengths_that_are_none_are_refused(lengths, steps, error, message):
    with pytest.raises(error, match=message):
        mask_from_lengths(lengths, steps)


def test_the_last_valid_output_is_that_of_the_shorter_sequence():
    torch.manual_seed(0)
    layer, x = CfC(3, 5), torch.randn(3, 6, 3)
    mask = mask_from_lengths([6, 2, 4], 6)
    last = last_valid(layer(x, mask=mask)[0], mask)
    for row, length in enumerate((6, 2, 4)):
        torch.testing.assert_close(last[row], layer(x[row : row + 1, :length])[0][0, -1])


def test_masks_with_holes_no_mask_and_sequences_without_a_step():
    y = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert torch.equal(last_valid(y, mask), torch.stack([y[0, 2], y[1, 1]]))
    assert torch.equal(last_valid(y), y[:, -1])
    assert torch.equal(last_valid(y, torch.zeros(2, 3, dtype=torch.bool)), torch.zeros(2, 2))
    assert torch.equal(last_valid(y[:, :0]), torch.zeros(2, 2))


def test_gradients_reach_the_last_step_alone():
    y = torch.randn(2, 4, 3, requires_grad=True)
    last_valid(y, mask_from_lengths([2, 0], 4)).sum().backward()
    assert torch.equal(y.grad.abs().sum(2), torch.tensor([[0.0, 3, 0, 0], [0.0] * 4]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"given outputs \(2, 3, 1\) and a mask \(3, 2\), expected"):
        last_valid(torch.zeros(2, 3, 1), torch.ones(3, 2, dtype=torch.bool))


def test_both_are_one_graph():
    def run(y, lengths):
        return last_valid(y, mask_from_lengths(lengths, 4))

    y, lengths = torch.randn(3, 4, 2), torch.tensor([4, 0, 2])
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, backend="eager", fullgraph=True)(y, lengths), run(y, lengths))


def test_the_way_that_the_error_for_a_packed_sequence_tells_is_right():
    torch.manual_seed(0)
    layer, x = GRU(3, 2), torch.randn(2, 4, 3)
    packed = pack_padded_sequence(x, [4, 2], batch_first=True)
    with pytest.raises(ValueError, match=r"pad_packed_sequence\(x, batch_first=True\).*mask_from_lengths\(lengths\)"):
        layer(packed)
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    y, _ = layer(padded, mask=mask_from_lengths(lengths))
    torch.testing.assert_close(y[1, :2], layer(x[1:, :2])[0][0])

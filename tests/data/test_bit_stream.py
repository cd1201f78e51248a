"""The parity of streams of bits, as published and as events."""

import numpy as np
import pytest

from liquid_control.data import bit_stream
from liquid_control.data.bit_stream import with_at_most


@pytest.fixture(scope="module")
def events():
    return bit_stream.bit_stream()


def test_the_streams_are_the_published_ones(events):
    counts = [part.mask.sum(1) for part in events]
    assert events.train.target.mean() == pytest.approx(0.50054) and events.test.target.mean() == pytest.approx(0.5089)
    assert counts[0].mean() == pytest.approx(9.251, abs=0.0005) and counts[2].mean() == pytest.approx(9.314, abs=0.0005)
    assert (counts[0].max(), counts[2].max()) == (26, 24)
    first = events.train.mask[0]
    assert "".join(map(str, events.train.x[0, first, 0].astype(int))) == "0101010100"
    assert "".join(map(str, (events.train.elapsed[0, first] * 32).astype(int))) == "1213313112"


def test_they_are_what_the_published_loop_draws():
    draws = np.random.RandomState(7)
    bits, lengths = bit_stream._draw(500, 7)
    for row in range(500):
        assert lengths[row] == draws.randint(2, 32)
        expected = [draws.randint(0, 2) for _ in range(lengths[row])]
        assert bits[row].tolist() == expected + [0] * (31 - lengths[row])


def test_dense_streams_are_the_same_bits(monkeypatch, events):
    monkeypatch.setattr(bit_stream, "TRAIN", (300, bit_stream.TRAIN[1]))
    monkeypatch.setattr(bit_stream, "VALIDATION", (3, 0))
    dense = bit_stream.bit_stream(event_based=False)
    np.testing.assert_array_equal(dense.test.target, events.test.target)
    assert (dense.train.elapsed[dense.train.mask] * 32 == 1).all()
    for row in range(300):
        mask, real = events.train.mask[row], dense.train.mask[row]
        bits = dense.train.x[row, real, 0]
        held = (events.train.elapsed[row, mask] * 32).astype(int)
        assert bits.sum() % 2 == events.train.target[row]
        # An event says its bit at the step at which it happens.
        np.testing.assert_array_equal(bits[np.cumsum(held) - 1], events.train.x[row, mask, 0])
        assert held.sum() == real.sum()


def test_validation_is_none_of_the_others(events):
    assert len(events.validation.x) == 10_000
    assert not np.array_equal(events.validation.x[:100], events.test.x[:100])


def test_a_curriculum_takes_streams_of_few_events(events):
    short = with_at_most(events.train, 6)
    assert short.x.shape[1:] == (6, 1) and short.mask.sum(1).max() == 6
    assert len(short.x) == len(short.target) == (events.train.mask.sum(1) <= 6).sum()

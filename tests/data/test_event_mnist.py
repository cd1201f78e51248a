"""Digits as events."""

import os

import numpy as np
import pytest

from liquid_control.data import event_mnist
from liquid_control.data.download import VARIABLE
from liquid_control.support.errors import UserError

DATA = os.environ.get(VARIABLE)
real = pytest.mark.skipif(DATA is None, reason=f"needs {VARIABLE}")


def test_runs_become_events():
    images = np.array([[[0, 0, 200], [200, 129, 128]], [[200] * 3] * 2], np.uint8)
    given = event_mnist.events(images, np.array([7, 1], np.uint8), position=True)
    assert given.x.tolist() == [[[0, 0], [1, np.float32(2 / 6)], [0, np.float32(5 / 6)]], [[1, 0], [0, 0], [0, 0]]]
    assert (given.elapsed * 256).tolist() == [[1, 2, 3], [1, 256, 256]]
    assert given.mask.tolist() == [[True] * 3, [True, False, False]]
    assert given.target.tolist() == [7, 1] and given.target.dtype == np.int64


def test_it_is_what_the_published_loop_gives():
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    given = event_mnist.events(images, np.zeros(20))
    for row, image in enumerate(images):
        expected, last, since = [], None, 0
        for pixel in image.ravel():
            since += 1
            if (bit := int(pixel > 128)) != last:
                expected.append((bit, since / 256))
                since = 0
            last = bit
        mask = given.mask[row]
        np.testing.assert_array_equal(np.column_stack([given.x[row, mask, 0], given.elapsed[row, mask]]), expected)
        assert not given.x[row, ~mask].any()


@real
def test_the_real_digits_have_the_published_events():
    splits = event_mnist.event_mnist()
    counts = np.concatenate([part.mask.sum(1) for part in splits])
    assert [part.x.shape for part in splits] == [(55_000, 105, 1), (5_000, 105, 1), (10_000, 105, 1)]
    assert counts.mean() == pytest.approx(53.0, abs=0.05) and counts.max() == 105
    assert splits.test.target[:5].tolist() == [7, 2, 1, 0, 4]


def test_what_is_not_mnist_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist" / "mnist.npz"
    for garbage in (b"PK\x03\x04 cut off", b""):
        path.write_bytes(garbage)
        with pytest.raises(UserError, match=r"cannot read the digits .*https://"):
            event_mnist.event_mnist()
    np.savez(path, **{name: np.zeros((3, *shape[1:]), np.uint8) for name, shape in event_mnist.SHAPES.items()})
    with pytest.raises(UserError, match=r"x_train is uint8 \(3, 28, 28\), expected uint8 \(60000, 28, 28\)"):
        event_mnist.event_mnist()


def test_arrays_of_the_right_shapes_that_are_no_digits_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(event_mnist, "VALIDATION", 1)
    shapes = {"x_train": (4, 28, 28), "y_train": (4,), "x_test": (2, 28, 28), "y_test": (2,)}
    monkeypatch.setattr(event_mnist, "SHAPES", shapes)
    (tmp_path / "mnist").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    for pictures, digits, said in (
        (noise, 9, r"a picture has \d+ runs of equal pixels, and no digit of MNIST more than 105"),
        (np.zeros_like(noise), 10, "y_train holds 10, expected digits of 0 to 9"),
    ):
        labels = np.full(4, digits, np.uint8)
        arrays = {"x_train": pictures, "y_train": labels, "x_test": pictures[:2], "y_test": labels[:2]}
        np.savez(tmp_path / "mnist" / "mnist.npz", **arrays)
        with pytest.raises(UserError, match=said + ".*again from https://"):
            event_mnist.event_mnist()

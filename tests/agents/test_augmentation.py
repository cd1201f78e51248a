"""Pictures are varied as a road may be, and the steering goes with them."""

import numpy as np
import pytest

from agents.augmentation import RoadAugmentation, Variety

STILL = {"mirrored": 0.0, "brightness": 0.0, "tint": 0.0, "shadow": 0.0, "tilt": 0.0}


def stretch(batch=3, time=4, height=8, width=12):
    rng = np.random.default_rng(0)
    images = rng.integers(20, 120, (batch, time, height, width, 3)).astype(np.uint8)
    return images, rng.uniform(-0.5, 0.5, (batch, time, 1)).astype(np.float32)


def vary(fresh=True, **variety):
    images, labels = stretch()
    before = images.copy(), labels.copy()
    augment = RoadAugmentation(Variety(**(STILL | variety)), np.random.default_rng(1))
    augment(images, labels, np.full(3, fresh))
    return *before, images, labels


def test_without_variety_nothing_changes():
    images, labels, varied, steering = vary()
    np.testing.assert_array_equal(varied, images)
    np.testing.assert_array_equal(steering, labels)


def test_a_mirrored_drive_steers_the_other_way():
    images, labels, varied, steering = vary(mirrored=1.0)
    np.testing.assert_array_equal(varied, images[:, :, :, ::-1])
    np.testing.assert_array_equal(steering, -labels)


def test_brightness_is_one_factor_of_a_drive():
    images, labels, varied, steering = vary(brightness=0.4)
    for row in range(3):
        ratio = varied[row] / images[row]
        assert np.ptp(ratio) < 0.06  # rounding
        assert 0.6 <= ratio.mean() <= 1.4
        assert abs(ratio.mean() - 1) > 0.01
    np.testing.assert_array_equal(steering, labels)


def test_a_shadow_darkens_one_side_of_an_edge():
    images, _, varied, _ = vary(shadow=1.0)
    dark = varied.astype(int) < images
    assert dark.any()
    assert not dark.all()
    assert (dark == dark[:, :1]).all()  # the same place all along
    assert (varied.astype(int)[dark] >= 0.45 * images[dark] - 1).all()


def test_a_shift_to_the_right_asks_for_steering_to_the_right():
    images, labels, varied, steering = vary(shift=0.4, shift_steering=1.2)
    moved = np.round((steering - labels)[:, 0, 0] / 1.2 * 12).astype(int)
    assert np.abs(moved).max() > 0
    for row, right in enumerate(moved):
        columns = np.clip(np.arange(12) - right, 0, 11)
        np.testing.assert_array_equal(varied[row], images[row][:, :, columns])
        np.testing.assert_allclose(steering[row] - labels[row], right / 12 * 1.2, atol=1e-6)


def test_what_is_drawn_for_a_drive_holds_until_the_next_begins():
    augment = RoadAugmentation(Variety(shadow=0.0), np.random.default_rng(2))
    images, labels = stretch()
    first, again, other = images.copy(), images.copy(), images.copy()
    augment(first, labels.copy(), np.ones(3, bool))
    augment(again, labels.copy(), np.zeros(3, bool))
    augment(other, labels.copy(), np.array([False, True, False]))
    np.testing.assert_array_equal(again, first)
    assert (other[1] != first[1]).any()
    np.testing.assert_array_equal(other[[0, 2]], first[[0, 2]])


@pytest.mark.parametrize("batch", [1, 5])
def test_the_same_draws_give_the_same_pictures(batch):
    results = []
    for _ in range(2):
        images, labels = stretch(batch)
        RoadAugmentation(Variety(), np.random.default_rng(3))(images, labels, np.ones(batch, bool))
        results.append((images, labels))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])

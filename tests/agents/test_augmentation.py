"""Pictures are varied as a road may be, and the steering goes with them; gauges die, and clocks go otherwise."""

import dataclasses

import numpy as np
import pytest

from agents.augmentation import (
    CAR,
    HELD_OUT,
    VARIETIES,
    Augmentation,
    Clock,
    RoadAugmentation,
    RoadVariety,
    Variety,
    find_variety,
)
from liquid_control.support.errors import UserError

NO_GAUGES = np.zeros((3, 4, 0), np.float32)
STILL = {"mirrored": 0.0, "brightness": 0.0, "tint": 0.0, "shadow": 0.0, "tilt": 0.0}


def stretch(batch=3, time=4, height=8, width=12):
    rng = np.random.default_rng(0)
    images = rng.integers(20, 120, (batch, time, height, width, 3)).astype(np.uint8)
    return images, rng.uniform(-0.5, 0.5, (batch, time, 1)).astype(np.float32)


def vary(fresh=True, **variety):
    images, labels = stretch()
    before = images.copy(), labels.copy()
    augment = RoadAugmentation(RoadVariety(**(STILL | variety)), np.random.default_rng(1))
    augment(images, NO_GAUGES, labels, np.full(3, fresh))
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
    augment = RoadAugmentation(RoadVariety(shadow=0.0), np.random.default_rng(2))
    images, labels = stretch()
    first, again, other = images.copy(), images.copy(), images.copy()
    augment(first, NO_GAUGES, labels.copy(), np.ones(3, bool))
    augment(again, NO_GAUGES, labels.copy(), np.zeros(3, bool))
    augment(other, NO_GAUGES, labels.copy(), np.array([False, True, False]))
    np.testing.assert_array_equal(again, first)
    assert (other[1] != first[1]).any()
    np.testing.assert_array_equal(other[[0, 2]], first[[0, 2]])


@pytest.mark.parametrize("batch", [1, 5])
def test_the_same_draws_give_the_same_pictures(batch):
    results = []
    for _ in range(2):
        images, labels = stretch(batch)
        RoadAugmentation(RoadVariety(), np.random.default_rng(3))(images, NO_GAUGES, labels, np.ones(batch, bool))
        results.append((images, labels))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


# Playfields of CarRacing

KINDS = ("grass", "colour", "curve", "filter", "posterise", "shade", "shadow", "vignette", "stripes", "noise")


def only(kind):
    """A variety of one kind in every episode."""
    weights = {other: float(other == kind) for other in KINDS}
    return Variety(unchanged=0.0, things=float(kind == "things"), **weights)


def playfields(batch=2, time=5, height=28, width=32):
    """Grass with a road up the middle."""
    images = np.empty((batch, time, height, width, 3), np.uint8)
    images[:] = (102, 204, 102)
    images[:, :, :, 12:20] = 102
    return images


def vary_playfields(variety, seed, images):
    """In place, as at the beginning of episodes without gauges."""
    batch, time = images.shape[:2]
    fresh = np.ones(batch, bool)
    gauges, labels = np.zeros((batch, time, 0)), np.zeros((batch, time, 3))
    Augmentation(variety, np.random.default_rng(seed))(images, gauges, labels, fresh)


@pytest.mark.parametrize("kind", [*KINDS, "things"])
def test_each_kind_of_variety_changes_pictures_and_the_same_draw_the_same_way(kind):
    outcomes = []
    for seed in (3, 3, 4):
        images, labels = playfields(), np.ones((2, 5, 3), np.float32)
        Augmentation(only(kind), np.random.default_rng(seed))(images, np.zeros((2, 5, 0)), labels, np.ones(2, bool))
        assert (labels == 1).all()
        outcomes.append(images)
    assert (outcomes[0] != playfields()).mean() > 0.005
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    assert (outcomes[0] != outcomes[2]).any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("noise", "grass", "stripes", "shadow")])
def test_what_is_drawn_for_an_episode_holds_until_the_next(kind):
    augment = Augmentation(only(kind), np.random.default_rng(1))
    first, again, other = playfields(), playfields(), playfields()
    augment(first, np.zeros((2, 5, 0)), np.zeros((2, 5, 3)), np.ones(2, bool))
    augment(again, np.zeros((2, 5, 0)), np.zeros((2, 5, 3)), np.zeros(2, bool))
    np.testing.assert_array_equal(again, first)
    augment(other, np.zeros((2, 5, 0)), np.zeros((2, 5, 3)), np.array([True, False]))
    assert (other[0] != first[0]).any()
    np.testing.assert_array_equal(other[1], first[1])


def test_a_share_of_the_episodes_stays_as_it_is():
    images = playfields(batch=300, time=1)
    Augmentation(Variety(), np.random.default_rng(1))(
        images, np.zeros((300, 1, 0)), np.zeros((300, 1, 3)), np.ones(300, bool)
    )
    unchanged = (images == playfields(300, 1)).all((1, 2, 3, 4)).mean()
    assert 0.12 < unchanged < 0.3


@pytest.mark.parametrize("seed", range(20))
def test_things_never_lie_on_the_car(seed):
    images = playfields(batch=8)
    Augmentation(only("things"), np.random.default_rng(seed))(
        images, np.zeros((8, 5, 0)), np.zeros((8, 5, 3)), np.ones(8, bool)
    )
    np.testing.assert_array_equal(images[:, :, *CAR], playfields(batch=8)[:, :, *CAR])


@pytest.mark.parametrize("patches", [True, False])
def test_grass_is_patches_of_two_colours_or_a_smooth_texture_of_many(patches):
    variety = dataclasses.replace(only("grass"), patches=float(patches))
    for seed in range(10):
        images = playfields(batch=1)
        Augmentation(variety, np.random.default_rng(seed))(
            images, np.zeros((1, 5, 0)), np.zeros((1, 5, 3)), np.ones(1, bool)
        )
        grass = np.unique(images[:, :, :, :12].reshape(-1, 3), axis=0)
        assert len(grass) <= 2 if patches else len(grass) > 100
        assert (images[:, :, :, 12:20] == 102).all()  # the road stays


def test_colours_keep_road_and_grass_apart():
    for seed in range(50):
        images = playfields(batch=1, time=1)
        Augmentation(only("colour"), np.random.default_rng(seed))(
            images, np.zeros((1, 1, 0)), np.zeros((1, 1, 3)), np.ones(1, bool)
        )
        road, grass = images[0, 0, 0, 15].astype(int), images[0, 0, 0, 2].astype(int)
        assert np.abs(road - grass).max() > 25, seed


def test_robust_validation_sees_no_kind_that_is_trained_on():
    for variety in filter(None, VARIETIES.values()):
        assert not [kind for kind in KINDS if getattr(HELD_OUT, kind) and getattr(variety, kind)]


def test_gauges_die_in_a_share_of_the_episodes_and_stay_dead_until_the_next():
    augment = Augmentation(Variety(unchanged=1.0, things=0.0, gauges=0.5), np.random.default_rng(1))
    first, again = (np.ones((400, 3, 7), np.float32) for _ in range(2))
    for gauges, fresh in ((first, True), (again, False)):
        augment(playfields(400, 3), gauges, np.zeros((400, 3, 3)), np.full(400, fresh))
    np.testing.assert_array_equal(first, again)
    assert (first == first[:, :1]).all()
    dead = 7 - first[:, 0].sum(1)
    assert 0.36 < (dead > 0).mean() < 0.52  # one time in eight, none is drawn
    assert set(dead) == set(range(8))


ELAPSED = np.random.default_rng(0).uniform(0.5, 1.5, 400).astype(np.float32)


@pytest.mark.parametrize("fine", [0.0, 1.0])
def test_another_clock_tells_the_time_that_has_passed(fine):
    seen = [Clock(Variety(clock=1.0, fine=fine), np.random.default_rng(seed))(ELAPSED) for seed in range(20)]
    for frames, elapsed in seen:
        assert frames[0] == 0 and elapsed.dtype == np.float32
        np.testing.assert_array_equal(frames, np.sort(frames))
        # When a frame is seen for the last time, as much time has passed as in the recording.
        last = np.append(frames[1:] != frames[:-1], True)
        np.testing.assert_allclose(np.cumsum(elapsed)[last], np.cumsum(ELAPSED)[frames[last]], rtol=1e-4)
    lengths = np.array([len(frames) / len(ELAPSED) for frames, _ in seen])
    assert set(lengths) == {2, 3, 4} if fine else (lengths > 0.2).all() and (lengths < 1).all()


def test_most_episodes_keep_their_clock():
    clock = Clock(Variety(clock=0.3), np.random.default_rng(0))
    kept = [np.array_equal(clock(ELAPSED)[0], np.arange(400)) for _ in range(300)]
    assert 0.6 < np.mean(kept) < 0.8


def test_a_variety_comes_by_name_or_from_a_file(tmp_path):
    assert find_variety("none") is None
    assert find_variety("mild") == Variety() != find_variety("wide")
    path = tmp_path / "wild.yaml"
    path.write_text("unchanged: 0.1\nblend: [0.5, 1]\n")
    assert find_variety(str(path)) == Variety(unchanged=0.1, blend=(0.5, 1.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("unchanged: 2\n", "wrong at unchanged"),
        ("colours: 1\n", "wrong at colours"),
        ("- 1\n", "must be a mapping"),
    ],
)
def test_a_file_that_is_no_variety_is_one_error(content, message, tmp_path):
    path = tmp_path / "wild.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        find_variety(str(path))


def test_an_unknown_variety_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="no variety 'mid': did you mean 'mild'"):
        find_variety("mid")

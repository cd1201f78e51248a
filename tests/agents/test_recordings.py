"""Recorded drives become episodes: every camera, the time between pictures, and the colours of the wheel."""

import base64
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.recordings import explained_share, read_recordings, steering_error
from envs.registration import UDACITY
from envs.udacity.packets import Telemetry
from envs.udacity.recording import Recorder
from envs.udacity.stand_in.environment import UdacityStandIn
from envs.udacity.stand_in.expert import RoadExpert
from envs.udacity.stand_in.simulator import encode, record
from liquid_control.support.errors import UserError
from policies.driver import Driver, DriverConfig
from policies.view import UdacityView

DATA = os.environ.get("LIQUID_CONTROL_DATA")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A bend of the stand-in, driven by the expert."""
    folder = tmp_path_factory.mktemp("drive") / "recorded"
    env = UdacityStandIn()
    env.reset(seed=0, options={"start": 0.0})
    with Recorder(folder) as recorder:
        record(env, recorder, 0.08, RoadExpert(15.0))
    return folder


def test_three_cameras_are_three_drives_and_the_sides_steer_back(recorded):
    found = read_recordings(recorded, UdacityView(), held_out=0.0, side_correction=0.25)
    center, left, right = found.learned
    assert center.steps == left.steps == right.steps > 50
    assert center.images.shape == (center.steps, 25, 97, 3)
    np.testing.assert_allclose(left.labels, np.clip(center.labels + 0.25, -1, 1), atol=1e-6)
    np.testing.assert_allclose(right.labels, np.clip(center.labels - 0.25, -1, 1), atol=1e-6)
    assert (left.images != center.images).mean() > 0.3
    assert not found.held_out


def test_time_between_pictures_is_that_of_their_names(recorded):
    episode = read_recordings(recorded, UdacityView(), held_out=0.0, side_correction=0.0).learned[0]
    assert ((episode.elapsed >= 0.059 * 15) & (episode.elapsed <= 1.0 * 15)).all()
    assert np.median(episode.elapsed) == pytest.approx(0.08 * 15, abs=0.31)


def test_what_is_held_out_is_not_learned(tmp_path):
    with Recorder(tmp_path / "drive") as recorder:
        for stretch in range(5):
            for tick in range(10):
                jpeg = encode(np.full((160, 320, 3), 4 * (10 * stretch + tick), np.uint8))
                recorder.write([jpeg] * 3, 0.0, 0.5, 0.0, 12.0, 1000 + 5 * stretch + 0.08 * tick)
    split = read_recordings(tmp_path, UdacityView(), held_out=0.3)
    assert [each.steps for each in split.held_out] == [10, 10]
    assert [each.steps for each in split.learned] == [10] * 9
    pictures = {image.tobytes() for each in split.learned for image in each.images}
    assert not any(image.tobytes() in pictures for each in split.held_out for image in each.images)


def test_the_colours_learned_are_those_seen_at_the_wheel(tmp_path):
    picture = np.full((160, 320, 3), (210, 90, 30), np.uint8)  # red, green, blue
    picture[100:] = (40, 60, 200)
    jpeg = encode(picture)
    with Recorder(tmp_path / "drive") as recorder:
        for tick in range(3):
            recorder.write([jpeg], 0.1, 0.5, 0.0, 12.0, 1000 + 0.08 * tick)
    view = UdacityView()
    learned = read_recordings(tmp_path, view, held_out=0.0).learned[0].images[0]
    sent = {
        "steering_angle": "0,0", "throttle": "0,0", "speed": "0,0", "image": base64.b64encode(jpeg).decode(),
    }  # fmt: skip
    driven, _ = view({"image": Telemetry.read(sent).image})
    np.testing.assert_array_equal(learned, driven)
    assert abs(learned[2, 50].astype(int) - (210, 90, 30)).max() < 6
    assert abs(learned[-2, 50].astype(int) - (40, 60, 200)).max() < 6


def test_a_picture_that_cannot_be_read_ends_a_drive_and_is_named(tmp_path):
    good = encode(np.full((160, 320, 3), 90, np.uint8))
    small = encode(np.zeros((20, 20, 3), np.uint8))
    with Recorder(tmp_path / "drive") as recorder:
        for tick, jpeg in enumerate([good, good, small, good, b"\xff\xd8no picture\xff\xd9", good]):
            recorder.write([jpeg], 0.0, 0.5, 0.0, 12.0, 1000 + 0.08 * tick)
    found = read_recordings(tmp_path, UdacityView(), held_out=0.0)
    assert [episode.steps for episode in found.learned] == [2, 1, 1]
    assert "2 unreadable images (such as center_" in found.summaries[0]


def test_an_empty_drive_among_others_is_left_out_and_named(tmp_path):
    jpeg = encode(np.zeros((160, 320, 3), np.uint8))
    with Recorder(tmp_path / "b") as recorder:
        recorder.write([jpeg], 0.0, 0.5, 0.0, 12.0, 1000)
    for name, log in (("a", ""), ("c", "center,left,right,steering,throttle,brake,speed\n")):
        (tmp_path / name / "IMG").mkdir(parents=True)
        (tmp_path / name / "driving_log.csv").write_text(log)
    found = read_recordings(tmp_path, UdacityView(), held_out=0.0)
    assert [episode.steps for episode in found.learned] == [1]
    assert [line.partition(":")[0] for line in found.summaries] == [str(tmp_path / name) for name in "abc"]
    assert found.summaries[0].endswith("left out, its log is empty") and found.summaries[2].endswith("is empty")
    with pytest.raises(UserError, match=r"no row of .*a can be used: .* its log is empty"):
        read_recordings(tmp_path / "a", UdacityView())
    (tmp_path / "c" / "driving_log.csv").write_text("IMG/center_1.jpg,,,12.5,0,0,3\n")  # degrees?
    with pytest.raises(UserError, match="steering is 12"):
        read_recordings(tmp_path, UdacityView(), held_out=0.0)


def test_a_folder_of_which_nothing_can_be_used_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"there is no driving_log\.csv"):
        read_recordings(tmp_path, UdacityView())
    with Recorder(tmp_path / "drive") as recorder:
        recorder.write([encode(np.zeros((20, 20, 3), np.uint8))], 0.0, 0.5, 0.0, 12.0, 1000)
    with pytest.raises(UserError, match=r"no row of .* can be used"):
        read_recordings(tmp_path, UdacityView(), held_out=0.0)


def test_the_error_of_a_driver_that_goes_straight_on_is_the_mean_square(recorded):
    episodes = read_recordings(recorded, UdacityView(), held_out=0.0).learned
    driver = Driver(DriverConfig(env=UDACITY))
    with torch.no_grad():
        driver.hands.gain.zero_()
        driver.hands.offset.zero_()
    labels = np.concatenate([episode.labels for episode in episodes])
    assert steering_error(driver, episodes) == pytest.approx((labels**2).mean(), rel=1e-5)


@pytest.mark.parametrize("steered", [0.0, 0.1, -1.0])
def test_of_a_drive_of_constant_steering_a_smaller_error_is_a_larger_share(tmp_path, steered):
    with Recorder(tmp_path / "drive") as recorder:
        for tick in range(12):
            recorder.write([encode(np.full((160, 320, 3), 90, np.uint8))], steered, 0.5, 0.0, 12.0, 1000 + 0.08 * tick)
    episodes = read_recordings(tmp_path, UdacityView(), held_out=0.0).learned
    shares = [explained_share(error, episodes) for error in (0.0, 0.01, 0.5)]
    assert shares == [1.0, 0.99, 0.5]


def test_the_mean_of_the_steering_explains_none_of_its_variance(recorded):
    episodes = read_recordings(recorded, UdacityView(), held_out=0.0).learned
    labels = np.concatenate([episode.labels for episode in episodes])
    assert explained_share(float(((labels - labels.mean()) ** 2).mean()), episodes) == pytest.approx(0, abs=1e-5)


@pytest.mark.skipif(DATA is None, reason="LIQUID_CONTROL_DATA names no folder of recorded drives")
@pytest.mark.parametrize(("drive", "rows"), [("lake", 624), ("lake_v1", 160)])
def test_people_s_drives_are_read_whole(drive, rows):
    found = read_recordings(Path(DATA) / "udacity" / drive, UdacityView(), held_out=0.2)
    kept = sum(episode.steps for episode in found.held_out)
    assert kept + sum(episode.steps for episode in found.learned) / 3 == rows
    assert 0.15 * rows < kept < 0.35 * rows

"""What lies on the ground is seen where each camera shows that place, and moves as the car drives."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.car_racing.canvas import COLUMN, FULL_ZOOM, ROW
from envs.registration import STAND_IN
from envs.shifts import PictureShifts, Pose, apply_shifts
from envs.shifts.base import AHEAD, FROM_ABOVE, Ground
from envs.udacity.observation import action_space, observation_space, observe
from tests.envs.shifts.conftest import make

ON_THE_GROUND = ["fog", "snow", "low_sun"]


def seen_at(scene, pose, place, side=256, period=128.0):
    """Row and column at which a mark on the ground is seen."""
    texture = np.zeros((side, side), np.float32)
    column, row = np.rint(np.array(place) % period * side / period).astype(int)
    texture[row - 1 : row + 2, column - 1 : column + 2] = 1
    shown = Ground(scene, side, period).sample(texture, pose)
    rows, columns = np.indices(shown.shape)
    return (rows * shown).sum() / shown.sum() + scene.first_ground_row, (columns * shown).sum() / shown.sum()


@pytest.mark.parametrize("heading", [0.0, 0.7, 2.0, -2.5])
def test_a_place_on_the_ground_is_seen_from_above_where_car_racing_shows_it(heading):
    pose, ahead, right = Pose(31.0, -47.0, heading), 20.0, 12.0
    forward, aside = np.array([np.cos(heading), np.sin(heading)]), np.array([np.sin(heading), -np.cos(heading)])
    row, column = seen_at(FROM_ABOVE, pose, np.array(pose[:2]) + ahead * forward + right * aside)
    # The hull's middle is at canvas (500, 600) of 1000 × 800.
    assert row == pytest.approx((600 - ahead * FULL_ZOOM) / ROW - 0.5, abs=0.7)
    assert column == pytest.approx((500 + right * FULL_ZOOM) / COLUMN - 0.5, abs=0.7)


@pytest.mark.parametrize("heading", [0.3, -1.9])
def test_a_place_on_the_road_is_seen_ahead_where_a_pinhole_camera_shows_it(heading):
    pose, depth, right = Pose(400.0, 90.0, heading), 6.0, 1.5
    forward, aside = np.array([np.cos(heading), np.sin(heading)]), np.array([np.sin(heading), -np.cos(heading)])
    place = np.array(pose[:2]) + depth * forward + right * aside
    row, column = seen_at(AHEAD, pose, place, side=1024, period=100.0)
    assert row == pytest.approx(62 + 1.35 * 160 / depth - 0.5, abs=1.5)
    assert column == pytest.approx(160 + 160 * right / depth - 0.5, abs=2)


def test_grass_patterns_move_under_the_car_as_the_grass_does(frames):
    """Where both pictures show field, the pattern of one is that of the other at the same place of the world."""
    (first, pose), (second, later) = frames["above"][0], frames["above"][1]
    shifts = PictureShifts("backgrounds:5")
    before, after = shifts(first, pose), shifts(second, later)
    right, ahead = FROM_ABOVE.places()
    c, s = np.cos(pose.heading), np.sin(pose.heading)
    x, y = pose.x + c * ahead + s * right - later.x, pose.y + s * ahead - c * right - later.y
    c, s = np.cos(later.heading), np.sin(later.heading)
    rows = np.rint((600 - (c * x + s * y) * FULL_ZOOM) / ROW - 0.5).astype(int)
    columns = np.rint((500 + (s * x - c * y) * FULL_ZOOM) / COLUMN - 0.5).astype(int)
    seen = (rows >= 0) & (rows < 84) & (columns >= 0) & (columns < 96)
    assert seen.mean() > 0.2
    moved = after[np.clip(rows, 0, 83), np.clip(columns, 0, 95)]
    same = (np.abs(moved.astype(int) - before[:84]) < 60).all(-1)
    assert same[seen].mean() > 0.8


@pytest.mark.parametrize("name", ON_THE_GROUND)
@pytest.mark.parametrize("kind", ["above", "ahead"])
def test_the_ground_moves_with_the_car_and_stands_in_recordings(name, kind, frames):
    picture = frames[kind][0][0]

    def last_of(poses):
        shifts = PictureShifts(f"{name}:5")
        for pose in poses:
            shown = shifts(picture, pose)
        return shown

    standing, driving = [Pose()] * 3, [Pose(0.0, 3.0 * step) for step in range(3)]
    assert (last_of(standing) != last_of(driving)).any()
    assert (last_of(standing) == last_of([None] * 3)).all()


def test_what_falls_is_faster_under_a_car_that_drives(frames):
    picture = frames["above"][0][0]
    standing, driving = PictureShifts("rain:3"), PictureShifts("rain:3")
    assert (standing(picture, Pose()) == driving(picture, Pose())).all()
    assert (standing(picture, Pose()) != driving(picture, Pose(0.0, 5.0))).any()


def test_snow_on_car_racing_lies_where_the_hull_says_it_does():
    env, plain = make("snow:3"), make()
    env.reset(seed=8)
    plain.reset(seed=8)
    for _ in range(60):
        action = np.array([0.1, 0.8, 0], np.float32)
        shown, seen = env.step(action)[0], plain.step(action)[0]
    hull, snow = plain.unwrapped.car.hull, env.get_wrapper_attr("shift")
    pose = Pose(hull.position.x, hull.position.y, hull.angle + np.pi / 2)
    share = Ground(FROM_ABOVE, 256, 170.0).sample(snow._cover, pose)
    whiter = (shown[:84].astype(int) - seen[:84]).mean(-1)
    assert np.corrcoef(whiter.ravel(), share.ravel())[0, 1] > 0.5


def test_the_stand_in_is_shifted_and_keeps_the_rest():
    env, plain = (gymnasium.make(STAND_IN, start_speed=15.0) for _ in range(2))
    env = apply_shifts(env, "rain:3+low_sun:3")
    shown, seen = env.reset(seed=1)[0], plain.reset(seed=1)[0]
    for _ in range(3):
        action = np.array([0.1, 0.5], np.float32)
        (shown, reward, *_), (seen, same, *_) = env.step(action), plain.step(action)
        assert env.observation_space.contains(shown)
        assert reward == same
        assert (shown["image"] != seen["image"]).any()
        assert shown["speed"] == seen["speed"]


class Telling(gymnasium.Env):
    """Like the live simulator: tells its speed and the time, not where it is."""

    def __init__(self, speed):
        self.speed = speed
        self.observation_space, self.action_space = observation_space(), action_space()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._see(), {}

    def step(self, action):
        return self._see(), 0.0, False, False, {}

    def _see(self):
        return observe(np.full((160, 320, 3), 90, np.uint8), self.speed, 0.1)


def test_where_only_the_speed_is_told_the_world_moves_straight_on():
    def last(speed):
        env = apply_shifts(Telling(speed), "low_sun:5")
        env.reset(seed=0)
        for _ in range(4):
            observation = env.step(env.action_space.sample())[0]
        return observation["image"]

    assert isinstance(Telling(0.0).observation_space, spaces.Dict)
    assert (last(0.0) == last(0.0)).all()
    assert (last(0.0) != last(20.0)).any()

"""The published variants are what their authors stated, at severity 3."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from envs.car_racing.expert import Expert
from envs.shifts import PictureShifts, apply_shifts
from envs.shifts.published import draw_circuit
from tests.envs.shifts.conftest import make

SHRUNK = 2  # what the official shrink takes off an even colour


def test_colours_are_set_exactly_on_the_official_environment_and_squares_stay():
    env = apply_shifts(gymnasium.make("CarRacing-v3"), "colour:3")
    env.reset(seed=3)
    for _ in range(55):
        observation = env.step(np.zeros(3, np.float32))[0]
    inside = env.unwrapped
    field, road = inside.bg_color - [102, 204, 102], inside.road_color - 102
    assert len(set(field)) == len(set(road)) == 1
    assert field[0] != road[0]
    assert abs(field[0]) <= 51
    assert abs(road[0]) <= 51
    colours = {tuple(pixel) for pixel in observation[:84].reshape(-1, 3).tolist()}
    assert tuple(np.maximum(inside.bg_color - SHRUNK, 0)) in colours
    assert (100, 228, 100) in colours


def test_colours_of_three_numbers_differ_by_channel_and_by_episode():
    env = make("colour3:3")
    seen = []
    for seed in (0, 1, 0):
        env.reset(seed=seed)
        assert len(set(env.unwrapped.road_color)) > 1
        seen.append((*env.unwrapped.road_color, *env.unwrapped.bg_color))
    assert seen[0] == seen[2] != seen[1]


def test_bars_are_seven_columns_and_a_fifth(frames):
    picture = frames["above"][0][0]
    shown = PictureShifts("bars:3")(picture)
    assert (shown[:84, :7] == 0).all()
    assert (shown[:84, 89:] == 0).all()
    for column in (7, 88):
        assert np.abs(shown[:84, column] - 0.8 * picture[:84, column]).max() <= 1
    assert (shown[:84, 8:88] == picture[:84, 8:88]).all()


def test_the_blob_covers_its_place_and_nothing_else(frames):
    picture = frames["above"][0][0]
    shown = PictureShifts("blob:3")(picture)
    assert (shown[42:57, 81:93] == [202, 0, 0]).mean() > 0.9
    changed = (shown != picture).any(-1)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max()) == (41, 57)
    assert (columns.min(), columns.max()) == (80, 93)


def test_the_blob_grows_with_the_camera_that_zooms_in():
    env, plain = make("blob:3"), make()
    sizes = []
    shown, seen = env.reset(seed=1)[0], plain.reset(seed=1)[0]
    for _ in range(60):
        sizes.append((shown != seen).any(-1).sum())
        action = np.zeros(3, np.float32)
        shown, seen = env.step(action)[0], plain.step(action)[0]
    assert sizes[5] < sizes[25] < sizes[-1]


def test_noise_replaces_grass_alone_and_is_fresh(frames):
    picture = frames["above"][0][0]
    noise = PictureShifts("noise:3")
    first, second = noise(picture), noise(picture)
    grass = (np.abs(picture[:84, :, :].astype(int) - [100, 202, 100]).max(-1) <= 2) | (
        np.abs(picture[:84].astype(int) - [100, 228, 100]).max(-1) <= 2
    )
    grey = np.ptp(picture[:84].astype(int), axis=-1) <= 2
    assert grass.mean() > 0.3
    values = first[:84][grass]
    assert values.min() == 0
    assert values.max() == 255
    assert abs(values.mean() - 127.5) < 3
    assert (first[:84][grass] != second[:84][grass]).mean() > 0.9
    assert (first[:84][grey] == picture[:84][grey]).all()


def test_noise_knows_the_colours_that_a_shift_before_it_has_set():
    env, plain = make("colour:3+noise:3"), make("colour:3")
    shown, seen = env.reset(seed=5)[0], plain.reset(seed=5)[0]
    for _ in range(55):
        action = np.zeros(3, np.float32)
        shown, seen = env.step(action)[0], plain.step(action)[0]
    field = (np.abs(seen[:84].astype(int) - (plain.unwrapped.bg_color - SHRUNK)).max(-1)) <= 2
    assert field.mean() > 0.3
    assert (shown[:84][field] != seen[:84][field]).any(-1).mean() > 0.9


@pytest.mark.parametrize("severity", [1, 5])
def test_an_expert_drives_a_lap_of_our_own_tracks(severity):
    env = make(f"tracks:{severity}")
    env.reset(seed=0)
    expert, ended = Expert(), False
    expert.reset(env)
    while not ended:
        *_, terminated, truncated, info = env.step(expert.act(env))
        ended = terminated or truncated
    assert info["lap_finished"]


def test_tracks_are_closed_and_no_tighter_than_they_say():
    for seed in range(6):
        track = np.array(draw_circuit(np.random.default_rng(seed), 11, 14.0))
        steps = np.roll(track[:, 2:], -1, 0) - track[:, 2:]
        lengths = np.hypot(*steps.T)
        assert lengths.max() < 3.7
        assert lengths.min() > 3.2
        turns = np.angle(np.exp(1j * np.diff(track[:, 1], append=track[:1, 1])))
        assert np.abs(turns).max() < 3.5 / 14 * 1.05
        # The heading is that of the official tracks: forward is (-sin, cos).
        forward = np.stack([-np.sin(track[:, 1]), np.cos(track[:, 1])], 1)
        assert ((forward * steps).sum(1) / lengths).min() > 0.95


def test_the_environment_makes_its_own_tracks_again_afterwards():
    env, plain = make("tracks:3"), make()
    env.reset(seed=6)
    env.unwrapped.reset(seed=6)
    plain.reset(seed=6)
    assert env.unwrapped.track == plain.unwrapped.track

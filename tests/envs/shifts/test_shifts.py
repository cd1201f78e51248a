"""What every shift keeps, whatever it changes: the table is the list of cases."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from envs.registration import FAST, STAND_IN
from envs.shifts import FAMILIES, SHIFTS, PictureShifts, Shift, apply_shifts, parse_shifts, shift_picture
from envs.shifts.base import AHEAD, FROM_ABOVE, SEVERITIES, UDACITY, PictureShift, own_generator
from liquid_control.support.errors import UserError
from tests.envs.shifts.conftest import actions, car_state, drive, make, under

OF_PICTURES = [name for name, info in SHIFTS.items() if issubclass(info.shift, PictureShift)]
COLOURS = ["colour", "colour3"]
ATTACKS = [name for name, info in SHIFTS.items() if info.family == "attack"]
SCENES = {"above": FROM_ABOVE, "ahead": AHEAD}
SEEN = [(name, "above") for name in OF_PICTURES]
SEEN += [(name, "ahead") for name in OF_PICTURES if UDACITY in SHIFTS[name].environments]
BEFORE_GAUGES_STICK = 101


def begun(name, severity, kind, seed=0):
    shift = SHIFTS[name].shift(severity)
    shift.begin(np.random.default_rng(seed), SCENES[kind])
    return shift


def run(shift, frames):
    return [shift(picture, pose) for picture, pose in frames]


def test_the_table_has_all_families_and_names_once():
    assert list(FAMILIES) == ["published", "camera", "weather", "body", "time", "sensors", "attack"]
    assert len(SHIFTS) == sum(len(shifts) for shifts in FAMILIES.values())
    assert all(len(info.shift.levels) == len(SEVERITIES) for info in SHIFTS.values())


@pytest.mark.parametrize(("name", "kind"), SEEN)
def test_severity_is_monotone_in_the_distance_of_pictures(name, kind, frames):
    distances = []
    for severity in SEVERITIES:
        changes = []
        for seed in range(3):
            shift = begun(name, severity, kind, seed)
            if name == "gauges_stuck":
                run(shift, frames[kind][:1] * BEFORE_GAUGES_STICK)
            shown = run(shift, frames[kind])
            changes += [
                np.abs(after.astype(int) - before).mean()
                for after, (before, _) in zip(shown, frames[kind], strict=True)
            ]
        distances.append(np.mean(changes))
    assert distances[0] > 0
    assert (np.diff(distances) > 0).all(), distances


@pytest.mark.parametrize("name", COLOURS)
def test_severity_is_monotone_in_the_distance_of_colours(name):
    env = make()
    shift = SHIFTS[name].shift
    distances = []
    for severity in SEVERITIES:
        wrapped = shift(env, severity)
        drawn = []
        for seed in range(4):
            wrapped.rng = np.random.default_rng(seed)
            wrapped.reset()
            drawn.append(np.abs(env.unwrapped.bg_color - [102, 204, 102]).mean())
        distances.append(np.mean(drawn))
    assert (np.diff(distances) > 0).all(), distances


@pytest.mark.parametrize(("name", "kind"), SEEN)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pictures_keep_type_and_shape_and_are_not_written_into(name, kind, severity, frames):
    shift = begun(name, severity, kind)
    for picture, pose in frames[kind]:
        before = picture.copy()
        picture.flags.writeable = False
        shown = shift(picture, pose)
        assert shown.dtype == np.uint8
        assert shown.shape == picture.shape
        assert not np.shares_memory(shown, picture)
        assert (picture == before).all()
        if kind == "above" and not SHIFTS[name].touches_gauges:
            assert (shown[84:] == picture[84:]).all()


@pytest.mark.parametrize(("name", "kind"), SEEN)
def test_a_seed_settles_the_pictures_and_another_changes_what_is_random(name, kind, frames):
    many = frames[kind][:1] * BEFORE_GAUGES_STICK + frames[kind] if name == "gauges_stuck" else frames[kind]
    first, again = (run(begun(name, 3, kind), many) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    shift, rng = SHIFTS[name].shift(3), np.random.default_rng(0)
    unused = rng.bit_generator.state
    shift.begin(rng, SCENES[kind])
    run(shift, many)
    draws = rng.bit_generator.state != unused
    others = [run(begun(name, 3, kind, seed), many) for seed in range(1, 5)]
    differ = any((a != b).any() for other in others for a, b in zip(first, other, strict=True))
    assert differ == draws


@pytest.mark.parametrize("name", SHIFTS)
def test_a_seed_settles_an_episode(name):
    env = make(f"{name}:3")
    first, again = (drive(env, steps=12) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.observations, again.observations, strict=True))
    assert first.rewards == again.rewards
    assert first.states == again.states
    assert all(env.observation_space.contains(each) for each in first.observations)


@pytest.fixture(scope="module")
def track_of_eleven():
    """The clean track of seed 11, and where its environment's generator stands then."""
    env = make().unwrapped
    env.reset(seed=11)
    return env.track, env.np_random.bit_generator.state


@pytest.mark.parametrize("name", SHIFTS)
def test_the_track_of_a_seed_stays(name, track_of_eleven):
    env = make(f"{name}:5")
    env.reset(seed=11)
    track, state = track_of_eleven
    if name == "tracks":
        assert env.unwrapped.track != track
    else:
        assert env.unwrapped.track == track
        assert env.unwrapped.np_random.bit_generator.state == state


@pytest.mark.parametrize("name", [*OF_PICTURES, *COLOURS, *ATTACKS, "frozen"])
def test_what_is_seen_changes_neither_rewards_nor_physics_nor_gauges(name, clean_drive):
    shifted = drive(make(f"{name}:5"))
    assert shifted.rewards == clean_drive.rewards
    assert shifted.states == clean_drive.states
    if not SHIFTS[name].touches_gauges:
        pairs = zip(shifted.observations, clean_drive.observations, strict=True)
        assert all((shown[84:] == seen[84:]).all() for shown, seen in pairs)


@pytest.mark.parametrize("name", [name for name, info in SHIFTS.items() if info.family == "body" and name != "ice"])
def test_a_body_changes_the_drive_and_not_the_first_picture(name, clean_drive):
    shifted = drive(make(f"{name}:3"))
    assert (shifted.observations[0] == clean_drive.observations[0]).all()
    assert shifted.states[-1] != clean_drive.states[-1]


@pytest.mark.parametrize("name", [name for name in SHIFTS if name not in OF_PICTURES])
def test_the_official_environment_drives_as_the_fast_one_does(name, monkeypatch):
    official = gymnasium.make("CarRacing-v3")
    monkeypatch.setattr(official.unwrapped, "_render", lambda mode: np.zeros((96, 96, 3), np.uint8), raising=False)
    official, fast = under(official, f"{name}:3"), make(f"{name}:3")
    official.reset(seed=4)
    fast.reset(seed=4)
    assert official.unwrapped.track == fast.unwrapped.track
    for action in actions(25):
        assert official.step(action)[1] == fast.step(action)[1]
    assert car_state(official) == car_state(fast)


def test_shifts_are_composed_in_the_order_written(frames):
    picture = frames["above"][0][0]
    dark, noise = PictureShifts("dark:3"), PictureShifts("gaussian:2")
    assert (shift_picture("dark:3+gaussian:2", picture) == noise(dark(picture))).all()
    assert (shift_picture("gaussian:2+dark:3", picture) != noise(dark(picture))).any()
    env = make("dark:3+gaussian:2")
    plain = make()
    seen, _ = plain.reset(seed=7)
    for shifts in (dark, noise):
        shifts.begin(7)
        seen = shifts(seen)
    assert (env.reset(seed=7)[0] == seen).all()


def test_composed_families_reach_picture_body_and_time():
    plain, env = make("friction:3+rate_slow:1"), make("rain:3+friction:3+rate_slow:1")
    seen, shown = (each.reset(seed=3)[0] for each in (plain, env))
    assert (seen != shown).any()
    for action in actions(5):
        outcome, shifted = plain.step(action), env.step(action)
    assert shifted[1] == outcome[1]
    assert shifted[4]["elapsed"] == 2.0
    assert env.unwrapped.road[0].road_friction == 0.7


@pytest.mark.parametrize("text", ["", "clean", " clean "])
def test_clean_is_no_shift(text, frames):
    env = gymnasium.make(FAST)
    assert apply_shifts(env, text) is env
    assert parse_shifts(text) == ()
    picture = frames["above"][0][0]
    assert (shift_picture(text, picture) == picture).all()


def test_what_is_parsed_is_written_as_it_was():
    text = "rain:3+delay:2"
    assert parse_shifts(text) == (Shift("rain", 3), Shift("delay", 2))
    assert "+".join(map(str, parse_shifts(text))) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rian:3", "unknown shift 'rian'. did you mean 'rain'?"),
        ("rain:3+", "unknown shift ''"),
        ("rain", "write rain:1 to rain:5"),
        ("rain:6", "must be 1, 2, 3, 4 or 5"),
        ("rain:03", "must be 1, 2, 3, 4 or 5"),
        ("rain:", "must be 1, 2, 3, 4 or 5"),
    ],
)
def test_what_is_written_wrong_is_named(text, message):
    with pytest.raises(UserError) as error:
        parse_shifts(text)
    assert message in str(error.value)


def test_a_shift_refuses_what_it_is_not_for(frames):
    for env, text in (
        (gymnasium.make("CartPole-v1"), "rain:3"),
        (gymnasium.make(STAND_IN), "friction:3"),
        (gymnasium.make(FAST, continuous=False), "engine:3"),
    ):
        with pytest.raises(UserError):
            apply_shifts(env, text)
    with pytest.raises(UserError, match="domain_randomize"):
        apply_shifts(gymnasium.make(FAST, domain_randomize=True), "colour:3").reset(seed=0)
    with pytest.raises(UserError, match="acts on an environment"):
        PictureShifts("friction:3")
    with pytest.raises(UserError, match="shape"):
        shift_picture("rain:3", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="uint8"):
        shift_picture("rain:3", frames["above"][0][0].astype(float))
    with pytest.raises(UserError, match="is for CarRacing"):
        shift_picture("gauges_dead:3", frames["ahead"][0][0])


def test_a_frame_of_a_sequence_is_what_the_sequence_comes_to(frames):
    picture = frames["ahead"][0][0]
    shifts = PictureShifts("rain:3")
    shifts.begin(4)
    for _ in range(3):
        last = shifts(picture)
    assert (shift_picture("rain:3", picture, seed=4, frame=2) == last).all()


def test_generators_differ_by_seed_name_and_severity():
    draws = {own_generator(*key).random() for key in [(0, "rain", 3), (1, "rain", 3), (0, "fog", 3), (0, "rain", 4)]}
    assert len(draws) == 4


def test_without_a_seed_episodes_go_on_and_differ():
    env = make("occlusion_near:3")
    env.reset(seed=1)
    places = []
    for _ in range(3):
        env.reset()
        places.append((env.shift._rows, env.shift._columns))
    assert len({str(place) for place in places}) > 1

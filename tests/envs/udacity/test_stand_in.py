"""The stand-in: roads, a car, what its cameras see, and the environment around them."""

import math

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401
from envs.udacity.stand_in.camera import CENTER, LEFT, RIGHT, WEATHERS, Camera, Lens
from envs.udacity.stand_in.car import GRIP, TICK, Car
from envs.udacity.stand_in.environment import UdacityStandIn, world
from envs.udacity.stand_in.road import LAKE, MOUNTAIN, Road, make_road, preset
from envs.udacity.stand_in.scenery import WATER, YELLOW, Scenery
from envs.udacity.vehicle import MAX_ANGLE, MPH, WHEELBASE


@pytest.mark.parametrize("shape", [LAKE, MOUNTAIN])
@pytest.mark.parametrize("seed", range(5))
def test_a_road_is_a_smooth_closed_lap(shape, seed):
    road = make_road(seed, shape)
    steps = np.hypot(*(np.roll(road.points, -1, axis=0) - road.points)[:, :2].T)
    assert np.ptp(steps) < 0.02
    assert road.length == pytest.approx(shape.length, rel=0.01)
    assert road.curvature.sum() == pytest.approx(2 * math.pi)  # once around, anticlockwise
    assert np.abs(road.curvature).max() / road.spacing < 1 / shape.tightest
    assert np.abs(np.diff(road.points[:, 2], append=road.points[0, 2])).max() < 0.3 * road.spacing
    assert np.array_equal(make_road(seed, shape).points, road.points)


def test_places_are_found_on_a_road():
    road = preset("lake")
    for index in (0, 500, len(road.points) - 1):
        x, y = road.points[index, :2] + 2.5 * road.left[index]
        for near in (None, index - 30):
            found, offset = road.locate(x, y, near)
            assert abs((found - index + 5) % len(road.points) - 5) <= 1
            assert offset == pytest.approx(2.5, abs=0.1)
    with pytest.raises(ValueError, match="unknown track 'sea': expected lake, mountain"):
        preset("sea")


def test_a_car_turns_on_the_circle_of_its_wheels():
    car = Car(0.0, 0.0, 0.0, speed=3.0)
    radius = WHEELBASE / math.tan(0.6 * MAX_ANGLE)
    places = []
    for _ in range(round(2 * math.pi * radius / 3.0 / TICK)):
        car.command(0.6, 0.0)
        car.speed = 3.0
        car.tick()
        places.append((car.x, car.y))
    assert np.ptp(places, axis=0) == pytest.approx(2 * radius, rel=0.02)
    assert min(y for _, y in places) == pytest.approx(-2 * radius, rel=0.02)  # to the right
    assert math.hypot(car.x, car.y) < 0.2


def test_tyres_hold_only_so_much():
    car = Car(0.0, 0.0, 0.0, speed=13.0)
    car.command(-1.0, 0.5)
    car.tick()
    assert car.heading / TICK * 13.0 == pytest.approx(GRIP, rel=0.01)


def test_speed_has_the_simulators_limits():
    car = Car(0.0, 0.0, 0.0)
    car.command(0.0, 5.0)
    for _ in range(3000):
        car.tick()
    assert 29 < car.speed / MPH < 30.7
    car.command(0.0, -1.0)
    before = car.speed
    for _ in range(50):
        car.tick()
    assert before - car.speed == pytest.approx(8.25, abs=0.1)
    for _ in range(500):
        car.tick()
    assert -5.01 < car.speed / MPH < -4
    car.command(0.0, 0.0)
    for _ in range(2000):
        car.tick()
    assert car.speed == 0
    car.command(0.0, 0.3)
    for _ in range(500):
        car.tick()
    assert car.speed > 0


def flat_land(paint):
    """Level ground of 400 m a side whose colours are painted by a function of the map at 8 pixels a metre."""
    colours = np.full((3200, 3200, 3), (90, 120, 60), np.uint8)
    paint(colours)
    levels = [colours]
    for _ in range(4):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    nothing = np.zeros((0, 5))
    return Scenery(
        np.zeros(2), np.zeros((400, 400), np.float32), tuple(levels), nothing, np.zeros((6, 2, 2, 4), np.uint8)
    )


@pytest.mark.parametrize("lens", [CENTER, LEFT, RIGHT])
def test_a_mark_on_level_ground_is_seen_where_a_pinhole_puts_it(lens):
    def paint(colours):
        for ahead, left in ((6, 2), (10, -3), (20, 4)):  # metres; farther marks are larger
            x, y, half = (100 + ahead) * 8, (200 + left) * 8, ahead // 2
            colours[y - half : y + half, x - half : x + half] = (255, 0, 0)

    picture = Camera(flat_land(paint), lens).draw(100.0, 200.0, heading=0.0)
    for ahead, left in ((6, 2), (10, -3), (20, 4)):
        row = lens.horizon + lens.up * lens.focal / ahead
        column = 160 - (left - lens.aside) * lens.focal / ahead
        red = np.maximum(picture[..., 0].astype(float) - picture[..., 1], 0)
        places = np.argwhere(red > 0) + 0.5
        places = places[np.hypot(*(places - (row, column)).T) < 12]
        weights = red[tuple(places.astype(int).T)]
        assert weights.sum() > 200
        assert np.average(places, axis=0, weights=weights) == pytest.approx((row, column), abs=1.0)


def test_the_horizon_moves_with_the_pitch_and_everything_turns_with_the_heading():
    land = flat_land(lambda colours: colours[:, 1600:].fill(200))  # east of x = 200
    camera = Camera(land)
    level = camera.draw(195.0, 200.0, 0.0).copy()
    assert np.all(camera.distance[: int(CENTER.horizon)] == np.inf)
    assert np.all(camera.distance[int(CENTER.horizon) + 3 :] < np.inf)
    uphill = camera.draw(195.0, 200.0, 0.0, pitch=0.05).copy()
    assert np.all(uphill[: int(CENTER.horizon) + 7] == camera.sky[: int(CENTER.horizon) + 7])
    assert not np.array_equal(level, uphill)
    backwards = camera.draw(195.0, 200.0, math.pi).copy()
    assert level[100, 160].min() > 190
    assert backwards[100, 160].max() < 130


def test_a_hill_hides_what_is_behind_it():
    land = flat_land(lambda colours: colours[:, 8 * 140 :].fill(250))
    land.heights[:, 130:133] = 12.0
    camera = Camera(land, Lens())
    picture = camera.draw(100.0, 200.0, 0.0)
    column = camera.distance[:, 160]
    top = round(CENTER.horizon - (12 - CENTER.up) * CENTER.focal / 30)
    assert column[top + 3] < 34
    assert column[top - 3] == np.inf
    assert not np.any(picture[: int(CENTER.horizon), 160] == 250)


def test_the_lake_track_looks_like_the_recordings():
    """Of the recorded drive: the mean of the asphalt, (125, 129, 118), its deviation, 24, the sky, what is there."""
    road, scenery = world("lake")
    camera = Camera(scenery)
    pictures = []
    for index in range(0, len(road.points), 60):
        x, y, _ = road.points[index]
        pictures.append(camera.draw(x, y, road.heading[index]).astype(float))
    asphalt = np.stack(pictures)[:, 100:130, 110:210]
    assert asphalt.mean((0, 1, 2)) == pytest.approx((125, 129, 118), abs=8)
    assert asphalt.std((1, 2)).mean() == pytest.approx(24, abs=6)
    sky = np.stack(pictures)[:, :8]
    assert sky.mean((0, 1, 2)) == pytest.approx((105, 130, 163), abs=25)
    assert any(np.any(np.all(np.abs(level - np.array(WATER)) < 25, -1)) for level in scenery.colours[4:])
    yellow = np.stack(pictures)[:, 70:110]
    assert np.mean(np.all(np.abs(yellow - np.array(YELLOW)) < 45, -1)) > 0.005


def pursue(env, observation, speed):
    """A pure pursuit of the middle of the road: it knows the road, so it drives without looking."""
    car, road, inside = env.unwrapped.car, env.unwrapped.road, env.unwrapped
    reach = 4 + 0.4 * max(car.speed, 1)
    x, y, _ = road.points[(inside.nearest + int(reach / road.spacing)) % len(road.points)]
    angle = math.remainder(math.atan2(y - car.y, x - car.x) - car.heading, 2 * math.pi)
    steering = -math.atan(2 * WHEELBASE * math.sin(angle) / reach) / MAX_ANGLE
    return np.clip([steering, 0.3 * (speed - observation["speed"][0])], -1, 1).astype(np.float32)


@pytest.mark.parametrize("track", ["lake", "mountain"])
def test_a_lap_is_driven_and_earns_its_length(track):
    env = gymnasium.make("liquid_control/UdacityStandIn-v0", track=track, interval=(3, 6))
    observation, _ = env.reset(seed=0)
    env.unwrapped.draw = lambda lens: np.zeros((160, 320, 3), np.uint8)  # the road is known: nobody looks
    total, elapsed, ended = 0.0, set(), False
    while not ended:
        observation, reward, terminated, truncated, info = env.step(pursue(env, observation, 20.0))
        total += reward
        elapsed.add(round(float(observation["elapsed"][0]), 2))
        ended = terminated or truncated
        assert abs(info["cross_track"]) < 1.0
    assert info["lap_finished"]
    assert terminated
    assert elapsed == {0.06, 0.08, 0.10, 0.12}
    assert total == pytest.approx(env.unwrapped.road.length, abs=2)


def test_leaving_the_road_ends_the_episode():
    env = gymnasium.make("liquid_control/UdacityStandIn-v0", start_speed=20.0)
    env.reset(seed=0, options={"start": 0.25})
    rewards = []
    while True:
        _, reward, terminated, _, info = env.step(np.array([0.5, 0.5], np.float32))
        rewards.append(reward)
        if terminated:
            break
    assert rewards[-1] < -5
    assert info["cross_track"] < -4
    assert not info["lap_finished"]


def test_the_environment_keeps_gymnasiums_contract_and_its_seeds(recwarn):
    check_env(UdacityStandIn(render_mode="rgb_array"), skip_render_check=True)
    first, second = (gymnasium.make("liquid_control/UdacityStandIn-v0", interval=(2, 7)) for _ in range(2))
    for env in (first, second):
        env.reset(seed=5)
    for _ in range(5):
        action = first.action_space.sample()
        one, other = first.step(action), second.step(action)
        assert np.array_equal(one[0]["image"], other[0]["image"])
        assert one[0]["elapsed"] == other[0]["elapsed"]
        assert one[1] == other[1]


def test_weather_changes_the_picture_and_not_the_drive():
    means = {}
    for weather in WEATHERS:
        env = UdacityStandIn(weather=weather)
        observation, info = env.reset(seed=0)
        means[weather] = observation["image"].astype(float)
        assert info["cross_track"] == 0
    assert means["dusk"].mean() < means["overcast"].mean() < means["clear"].mean()
    far, near = means["fog"][50:60], means["fog"][110:130, 100:220]
    assert far.std() < 0.8 * means["clear"][50:60].std()
    assert near.std() > 0.7 * means["clear"][110:130, 100:220].std()


def test_three_cameras_look_from_three_places():
    env = UdacityStandIn(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    center, left, right = env.pictures()
    assert np.array_equal(center, observation["image"])
    assert np.array_equal(center, env.render())
    hoods = [np.all(picture[150] == (150, 153, 143), -1).nonzero()[0].mean() for picture in (left, center, right)]
    assert hoods[0] > hoods[1] + 50 > hoods[2] + 100  # from the left, the hood lies on the right


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"track": "sea"}, "unknown track"),
        ({"interval": (0, 3)}, "least, most"),
        ({"weather": "hail"}, "expected clear, overcast"),
    ],
)
def test_wrong_options_are_named(options, why):
    with pytest.raises(ValueError, match=why):
        UdacityStandIn(**options)


def test_a_random_track_is_the_seeds():
    env = UdacityStandIn(track="random")
    lengths = []
    for seed in (1, 1, 2):
        env.reset(seed=seed)
        lengths.append(env.road.points[0].tolist())
    assert lengths[0] == lengths[1] != lengths[2]
    assert isinstance(env.road, Road)

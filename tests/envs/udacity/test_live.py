"""The live simulator as an environment: against the simulator's own way to speak, and against the stand-in."""

import base64
import contextlib
import copy
import functools
import itertools
import logging
import pickle
import socket
import subprocess
import threading
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import envs  # noqa: F401
from envs.udacity.live import HOLD, Brake, Motion, Udacity
from envs.udacity.server import BridgeError
from envs.udacity.simulator_wire import SimulatorWire
from envs.udacity.vehicle import MPH


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Car(threading.Thread):
    """A simulator of 100 frames a second: drives on whatever bridge it finds, at the speed that a test sets."""

    def __init__(self, port, jpeg):
        super().__init__(daemon=True)
        self.port, self.jpeg = port, jpeg
        self.speed, self.extra = 0.0, {}
        self.numbered = self.keys_held = self.silent = self.leaves = False
        self.sent = 0
        self.answers = []
        """(time, what was asked), without the two of the connection."""

    def run(self):
        while not self.leaves:
            with contextlib.suppress(OSError), SimulatorWire(port=self.port) as wire:
                self.drive(wire)
            time.sleep(0.02)

    def drive(self, wire):
        asked_for = 0
        while not self.leaves:
            for asked in [] if self.silent else wire.poll(timeout=0.01):
                asked_for += 1
                if asked_for > 2:
                    self.answers.append((time.monotonic(), asked))
                if self.keys_held:
                    wire.send_manual()
                elif self.extra:
                    fields = {"steering_angle": "0", "throttle": "0", "speed": "0", "image": ""} | self.extra
                    wire.send_event("telemetry", fields)
                else:
                    wire.send_telemetry(0.0, 0.0, self.sent % 20 / 100 if self.numbered else self.speed, self.jpeg)
                self.sent += 1
            time.sleep(0.01)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.leaves = True
        self.join(timeout=10)


@pytest.fixture
def make():
    """Environments that are closed afterwards."""
    made = []

    def make(**options):
        options = {"port": free_port(), "patience": 60.0} | options
        made.append(gymnasium.make("liquid_control/Udacity-v0", **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(scope="module")
def stand_in(python):
    """The port on which the stand-in, a process of its own and four times as fast as time, looks for a bridge."""
    port = free_port()
    command = [python, "-m", "liquid_control.simulator", "--port", str(port), "--rate", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def straight(throttle):
    return np.array([0.0, throttle], np.float32)


@pytest.mark.filterwarnings("ignore:.*infinity")
def test_gymnasium_finds_nothing_to_complain_of(stand_in, make):
    check_env(make(port=stand_in).unwrapped, skip_render_check=True)


def test_progress_is_the_road_that_was_driven_and_a_reset_stops_the_car(stand_in, make):
    env = make(port=stand_in, render_mode="rgb_array")
    env.reset(seed=0)
    total = metres = 0.0
    for _ in range(30):
        observation, reward, terminated, truncated, info = env.step(straight(1.0))
        assert not terminated
        assert not truncated
        metres += observation["speed"][0] * MPH * observation["elapsed"][0]
        total += reward
    assert observation["speed"][0] > 5
    assert np.array_equal(env.render(), observation["image"])
    assert total == pytest.approx(info["progress"])
    assert total == pytest.approx(metres, rel=0.15)
    observation, info = env.reset()
    assert observation["speed"][0] < 1
    assert observation["elapsed"][0] == info["progress"] == 0


def test_ppo_learns_on_it(stand_in, make):
    env = make(port=stand_in)
    small = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, n_epochs=1, policy_kwargs=small, seed=0, device="cpu")
    before = model.policy.action_net.weight.detach().clone()
    model.learn(8)
    assert model.num_timesteps == 8
    assert not before.equal(model.policy.action_net.weight)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copy_takes_no_simulator_along_and_finds_its_own(make, jpeg, way):
    env = make(port=0)
    new = way(env)
    port = free_port()
    connected = make(port=port)
    with Car(port, jpeg):
        connected.reset()
        connected.step(straight(0.0))
        twin = way(connected)
        with pytest.raises(gymnasium.error.ResetNeeded):
            twin.unwrapped.step(straight(0.0))
        connected.step(straight(0.0))
        connected.close()
        observation, _ = twin.reset()
        assert twin.observation_space.contains(observation)
        twin.close()
    assert new.unwrapped.port == 0


@pytest.mark.parametrize("vector", ["sync", "async", DummyVecEnv, SubprocVecEnv])
def test_it_drives_in_a_vector(jpeg, vector):
    port = free_port()
    if isinstance(vector, str):
        made = gymnasium.make_vec("liquid_control/Udacity-v0", 1, vector, port=port)
    else:
        made = vector([functools.partial(gymnasium.make, "envs:liquid_control/Udacity-v0", port=port)])
    with Car(port, jpeg), contextlib.closing(made):
        first = made.reset()
        seen = (first if isinstance(first, dict) else first[0])["image"]
        later = made.step(straight(0.5)[None])[0]["image"]
        assert seen.shape == later.shape == (1, 160, 320, 3)
        np.testing.assert_array_equal(seen, later)


def test_the_answer_to_a_telemetry_is_the_action_that_follows_it(make, jpeg):
    env = make(interval=0.0)
    with Car(env.unwrapped.port, jpeg) as car:
        car.numbered = True
        observation, _ = env.reset()
        numbers = []
        for _ in range(60):
            numbers.append(round(observation["speed"][0] * 100))
            observation, *_ = env.step(np.array([numbers[-1] / 20, 0.0], np.float32))
        answers = [round(asked.steering * 20) for _, asked in car.answers]
    following = [after == (before + 1) % 20 for before, after in itertools.pairwise(numbers)]
    assert sum(following) > 50  # but where this test was held up and the car braked
    # The n-th answer is to the n-th telemetry, so there is one for each.
    fits = [answer == number % 20 for number, answer in enumerate(answers)]
    assert max(len(list(run)) for same, run in itertools.groupby(fits) if same) > 30


def test_an_action_holds_its_interval(make, jpeg):
    env = make(interval=0.1)
    with Car(env.unwrapped.port, jpeg) as car:
        env.reset()
        before, begin = car.sent, time.monotonic()
        elapsed = [env.step(straight(0.5))[0]["elapsed"][0] for _ in range(10)]
        assert min(elapsed) >= 0.1
        assert sum(elapsed) == pytest.approx(time.monotonic() - begin, abs=0.9)  # but for a pause of the machine
        assert car.sent - before > 15  # all are answered, one in several is shown


def test_who_is_slow_to_act_finds_the_car_braked(make, jpeg):
    env = make()
    with Car(env.unwrapped.port, jpeg) as car:
        env.reset()
        car.speed = 10.0
        env.step(np.array([0.25, 1.0], np.float32))
        begin, braked = time.monotonic(), []
        while len(braked) < 5 or time.monotonic() < begin + 5 * HOLD:
            assert time.monotonic() < begin + 20
            time.sleep(0.01)
            answers = [(at - begin, asked) for at, asked in car.answers if at > begin]
            braked = [at for at, asked in answers if asked.throttle == -1 and asked.steering == 0.25]
        assert HOLD / 2 < np.median(np.diff([0.0, *braked])) < HOLD + 0.5  # never silence
        assert all(asked.throttle <= 0 for at, asked in answers if at > braked[0])
        answered = len(car.answers)
        observation, *_ = env.step(straight(0.5))
        assert observation["elapsed"][0] > 4 * HOLD
        assert 0.5 in {asked.throttle for _, asked in car.answers[answered:]}


def test_held_keys_are_waited_for(make, jpeg):
    env = make(patience=3.0)
    with Car(env.unwrapped.port, jpeg) as car:
        env.reset()
        car.keys_held = True
        begin = time.monotonic()
        threading.Timer(4.0, setattr, (car, "keys_held", False)).start()
        *_, truncated, _ = env.step(straight(0.5))
        env.step(straight(0.5))
        assert time.monotonic() - begin > 3.5
        assert not truncated


def test_a_simulator_that_leaves_ends_the_episode_and_the_next_begins_with_another(make, jpeg):
    env = make()
    with Car(env.unwrapped.port, jpeg):
        env.reset()
        env.step(straight(0.5))
    observation, reward, terminated, truncated, info = env.step(straight(0.5))
    assert (reward, terminated, truncated, info["disconnected"]) == (0, False, True, True)
    assert env.observation_space.contains(observation)
    with Car(env.unwrapped.port, jpeg):
        _, info = env.reset()
        assert not info["disconnected"]
        *_, truncated, info = env.step(straight(0.5))
        assert not truncated


def test_a_simulator_that_falls_silent_ends_the_episode(make, jpeg):
    env = make(patience=3.0)
    with Car(env.unwrapped.port, jpeg) as car:
        env.reset()
        car.silent = True
        env.step(straight(0.5))
        *_, truncated, info = env.step(straight(0.5))
        assert truncated
        assert info["disconnected"]


def test_a_simulator_that_never_speaks_is_told_apart_from_one_that_never_came(make, jpeg):
    env = make(patience=3.0)
    with Car(env.unwrapped.port, jpeg) as car:
        car.silent = True
        with pytest.raises(BridgeError, match=r"^the simulator that is connected sent nothing for 3 s\. Start the"):
            env.reset()


def test_without_a_simulator_it_is_said_what_to_start(make):
    env = make(patience=0.2)
    with pytest.raises(BridgeError, match=f"Autonomous Mode.*127.0.0.1:{env.unwrapped.port}"):
        env.reset()
    with pytest.raises(BridgeError, match=f"port {env.unwrapped.port} is taken"):
        make(port=env.unwrapped.port).reset()
    env.close()  # a closed one begins anew
    with pytest.raises(BridgeError, match=r"^no simulator has connected for 0\.2 s\. Start the"):
        env.reset()
    with pytest.raises(ValueError, match="interval is"):
        Udacity(interval=0.5)


def test_a_second_simulator_stands_and_is_told_of_once(make, jpeg, caplog):
    env = make()
    with caplog.at_level(logging.WARNING), Car(env.unwrapped.port, jpeg) as first:
        env.reset()
        with Car(env.unwrapped.port, jpeg) as second, Car(env.unwrapped.port, jpeg) as third:
            others = []
            while len(others) < 8:
                env.step(straight(0.5))
                others = [asked for car in (second, third) for _, asked in car.answers]
            assert {(asked.steering, asked.throttle) for asked in others} == {(0.0, 0.0)}
            answered = len(first.answers)
            env.step(straight(0.5))
            assert 0.5 in {asked.throttle for _, asked in first.answers[answered:]}
    assert caplog.text.count("a second simulator") == 1


def test_a_collision_ends_the_episode(make, jpeg):
    env = make()
    with Car(env.unwrapped.port, jpeg) as car:
        env.reset()
        car.speed = 15.0
        _, _, terminated, _, info = env.step(straight(0.5))
        assert not terminated
        for car.speed in (2.0, 15.0, 2.0):  # once more, should a pause have hidden the first
            before = info["progress"]
            _, reward, terminated, _, info = env.step(straight(0.5))
            if terminated:
                break
        assert info["collision"]
        assert reward == pytest.approx(-10 + info["progress"] - before)  # of a way that is longer where it paused


def test_where_the_middle_of_the_road_is_known_leaving_it_ends_the_episode(make, jpeg):
    env = make()
    with Car(env.unwrapped.port, jpeg) as car:
        image = base64.b64encode(jpeg).decode()
        car.extra = {"image": image, "cte": "-1,5"}
        _, info = env.reset()
        assert info["cross_track"] == -1.5
        assert not env.step(straight(0.5))[2]
        car.extra = {"image": image, "cte": "-5.6"}
        *_, info = env.step(straight(0.5))
        _, _, terminated, _, info = env.step(straight(0.5))
        assert terminated
        assert info["off_road"]


def drive(motion, speeds, throttle, elapsed=0.1):
    for speed in speeds:
        motion.update(speed, elapsed, throttle)
    return motion


def test_a_car_drives_backwards_where_its_pedal_says_so():
    motion = drive(Motion(), [0, 5, 10, 10, 10], 0.5)
    assert motion.metres == pytest.approx((2.5 + 7.5 + 10 + 10) * MPH * 0.1)
    forwards = motion.metres
    drive(motion, [5, 0.5], -1.0)
    there = motion.metres
    assert there > forwards
    drive(motion, [3, 5, 5], -1.0)  # in reverse
    assert motion.metres < there
    assert not motion.collided


@pytest.mark.parametrize(
    ("speeds", "throttle", "collided"),
    [
        ([15, 15, 6], 0.5, True),
        ([15, 15, 10, 6], 0.0, True),
        ([15, 15, 8], 0.5, False),
        ([15, 15, 6], -0.5, False),
        ([15, 13, 11, 9, 7, 5], 0.0, False),
    ],
)
def test_a_sudden_loss_of_speed_without_braking_is_a_collision(speeds, throttle, collided):
    assert drive(Motion(), speeds, throttle).collided == collided


def test_who_stands_with_the_pedal_down_is_stuck():
    assert not drive(Motion(), [0.0] * 29, 0.5).stuck
    assert drive(Motion(), [0.0] * 31, 0.5).stuck
    assert drive(Motion(), [0.0] * 31, -0.5).stuck
    assert not drive(Motion(), [0.0] * 31, 0.1).stuck
    assert not drive(drive(Motion(), [0.0] * 31, 0.5), [2.0], 0.5).stuck


@pytest.mark.parametrize("speed", [12.0, -4.0])
def test_the_brake_stops_a_car_that_drives_either_way(speed):
    brake = Brake()
    for _ in range(200):  # 10 s; a pedal of one is 4 m/s²
        speed += 4.0 * brake.pedal(abs(speed)) / MPH * 0.05
    assert abs(speed) < 1

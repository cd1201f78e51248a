"""Frames of both environments and of a drive, made once."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401
from envs.registration import FAST, STAND_IN
from envs.shifts import Pose, apply_shifts


def actions(steps):
    """A slalom that does not leave the road at once."""
    return [np.array([0.25 * np.sin(step / 7), 0.6, 0.0], np.float32) for step in range(steps)]


def car_state(env):
    car = env.unwrapped.car
    bodies = (car.hull, *car.wheels)
    return [(*body.position, body.angle, *body.linearVelocity, body.angularVelocity) for body in bodies]


@dataclass
class Drive:
    observations: list
    rewards: list
    states: list
    infos: list


def drive(env, steps=40, seed=5):
    observation, info = env.reset(seed=seed)
    result = Drive([observation], [], [], [info])
    for action in actions(steps):
        observation, reward, terminated, truncated, info = env.step(action)
        result.observations.append(observation)
        result.rewards.append(reward)
        result.infos.append(info)
        result.states.append(car_state(env))
        assert not (terminated or truncated)
    return result


def brighten(observation, elapsed):
    """An attacker of a driver that steers to the right where the playfield is bright."""
    uphill = np.zeros(observation.shape, np.int16)
    uphill[:84] = 1
    return observation[:84].mean() / 255, uphill


def under(env, text):
    return apply_shifts(env, text, brighten)


def make(text="clean"):
    return under(gymnasium.make(FAST), text)


@pytest.fixture(scope="session")
def clean_drive():
    return drive(make())


@pytest.fixture(scope="session")
def frames():
    """By what they show, ``above`` and ``ahead``: pictures that are some steps apart, and where the car was."""
    env, above = gymnasium.make(FAST), []
    env.reset(seed=2)
    for step, action in enumerate(actions(90)):
        observation = env.step(action)[0]
        if step >= 60 and step % 10 == 0:
            hull = env.unwrapped.car.hull
            above.append((observation, Pose(hull.position.x, hull.position.y, hull.angle + np.pi / 2)))
    env, ahead = gymnasium.make(STAND_IN, start_speed=15.0), []
    env.reset(seed=2)
    for _ in range(3):
        observation = env.step(np.array([0.1, 0.4], np.float32))[0]
        car = env.unwrapped.car
        ahead.append((observation["image"], Pose(car.x, car.y, car.heading)))
    return {"above": above, "ahead": ahead}

"""What every registered environment survives: copies, pickles and the makers of vectors."""

import copy
import functools
import pickle

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from envs.partial import HideVelocities, IrregularTime
from envs.registration import FAST, STAND_IN, UDACITY

OURS = {name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("envs.")}
MAKERS = {
    FAST: functools.partial(gymnasium.make, f"envs:{FAST}"),
    f"{FAST}, discrete": functools.partial(gymnasium.make, f"envs:{FAST}", continuous=False, domain_randomize=True),
    STAND_IN: functools.partial(gymnasium.make, f"envs:{STAND_IN}", interval=(2, 6)),
    "irregular time": lambda: IrregularTime(gymnasium.make(FAST), drop=0.4, jitter=2),
    "hidden velocities": lambda: HideVelocities(gymnasium.make("CartPole-v1")),
}
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}
STEPS = 6


def commands(space, steps=STEPS):
    """Forward, mostly."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        if isinstance(space, gymnasium.spaces.Discrete):
            yield int(rng.integers(space.n))
        else:
            yield np.concatenate([rng.uniform(-0.1, 0.1, 1), [1.0], np.zeros(space.shape[0] - 2)]).astype(np.float32)


def episode(env, seed):
    """What is seen and earned after a reset with this seed."""
    return [env.reset(seed=seed), *(env.step(action) for action in commands(env.action_space))]


@pytest.fixture(scope="module")
def expected():
    """The same of an environment that was never copied, made once."""
    return functools.cache(lambda name, seed: episode(MAKERS[name](), seed))


def assert_same(given, expected):
    if isinstance(expected, dict):
        assert given.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(given[key], value)
    elif isinstance(expected, list | tuple):
        assert len(given) == len(expected)
        for mine, other in zip(given, expected, strict=True):
            assert_same(mine, other)
    else:
        np.testing.assert_array_equal(given, expected)


def test_every_registered_environment_is_tried():
    assert {FAST, STAND_IN, UDACITY} == OURS, "the last one is tried in udacity/test_live.py"


@pytest.mark.parametrize("moment", ["new", "driven"])
@pytest.mark.parametrize("way", sorted(COPIES))
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_copy_drives_like_the_original_and_beside_it(name, way, moment, expected):
    env = MAKERS[name]()
    if moment == "driven":
        episode(env, 8)
    twin = COPIES[way](env)
    assert twin.spec == env.spec
    assert_same(episode(twin, 7), expected(name, 7))
    assert_same(episode(env, 7), expected(name, 7))
    again = COPIES[way](twin)
    assert_same(episode(again, 8), expected(name, 8))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", [FAST, STAND_IN])
def test_gymnasiums_vectors_drive_like_single_environments(name, mode, expected):
    alone = [expected(name, seed) for seed in (7, 8)]
    options = {} if name == FAST else {"interval": (2, 6)}
    vector = gymnasium.make_vec(name, num_envs=2, vectorization_mode=mode, **options)
    try:
        seen, _ = vector.reset(seed=[7, 8])
        for index, action in enumerate([None, *commands(vector.single_action_space)]):
            if action is not None:
                seen, rewards, *_ = vector.step(np.stack([action, action]))
                assert_same(rewards, [rows[index][1] for rows in alone])
            for row in (0, 1):
                mine = {key: part[row] for key, part in seen.items()} if isinstance(seen, dict) else seen[row]
                assert_same(mine, alone[row][index][0])
    finally:
        vector.close()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
@pytest.mark.parametrize("name", [FAST, STAND_IN])
def test_vectors_of_stable_baselines_drive_like_single_environments(name, kind, expected):
    alone = expected(name, 7)
    vector = kind([MAKERS[name]])
    try:
        vector.seed(7)
        seen = vector.reset()
        for index, action in enumerate([None, *commands(vector.action_space)]):
            if action is not None:
                seen, rewards, *_ = vector.step(action[None])
                assert np.float32(rewards[0]) == np.float32(alone[index][1])
            mine = {key: part[0] for key, part in seen.items()} if isinstance(seen, dict) else seen[0]
            assert_same(mine, alone[index][0])
    finally:
        vector.close()

"""Every space is learned in, or refused in one line when the algorithm is made."""

import itertools
from collections import defaultdict

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from agents.liquid_ppo import LiquidPPO
from liquid_control.support.errors import UserError
from policies.sb3 import ALIASES
from policies.sb3_spaces import count_rows

VECTOR, CHOICE = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(3)
PICTURE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
TIME = spaces.Box(0, 10, (1,), np.float32)

ACTIONS = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "box of doubles": spaces.Box(-1, 1, (2,), np.float64),
    "box of two dimensions": spaces.Box(-2, 1, (2, 2), np.float32),
    "box of no dimension": spaces.Box(-1, 1, (), np.float32),
    "one action fixed": spaces.Box(np.array([-1, 2]), np.array([1, 2]), dtype=np.float32),
    "discrete": CHOICE,
    "one choice": spaces.Discrete(1),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(4),
}
NO_ACTIONS = {
    "box of integers": spaces.Box(-3, 3, (2,), np.int32),
    "empty box": spaces.Box(-1, 1, (0,), np.float32),
    "discrete from 5": spaces.Discrete(3, start=5),
    "multi-discrete from 5": spaces.MultiDiscrete([2, 3], start=[5, 0]),
    "multi-discrete of two dimensions": spaces.MultiDiscrete([[2, 3], [2, 2]]),
    "multi-binary of two dimensions": spaces.MultiBinary([2, 2]),
}
"""Refused by the policies; the ones below by SB3, where the algorithm is its own."""
NO_ACTIONS_OF_SB3 = {
    "dictionary": spaces.Dict({"steer": VECTOR}),
    "tuple": spaces.Tuple([VECTOR, CHOICE]),
    "text": spaces.Text(3),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
}

FLAT, DICT, CNN = "LiquidPolicy", "LiquidMultiInputPolicy", "LiquidCnnPolicy"
OBSERVATIONS = {
    "vector": (FLAT, VECTOR),
    "vector of doubles": (FLAT, spaces.Box(-1, 1, (3,), np.float64)),
    "vector of integers": (FLAT, spaces.Box(-3, 3, (3,), np.int64)),
    "matrix": (FLAT, spaces.Box(-1, 1, (2, 3), np.float32)),
    "flat picture": (FLAT, PICTURE),
    "discrete": (FLAT, CHOICE),
    "multi-discrete": (FLAT, spaces.MultiDiscrete([2, 3])),
    "multi-binary": (FLAT, spaces.MultiBinary(4)),
    "multi-binary of two dimensions": (FLAT, spaces.MultiBinary([2, 2])),
    "picture": (CNN, PICTURE),
    "picture, channels first": (CNN, spaces.Box(0, 255, (1, 36, 36), np.uint8)),
    "dictionary": (DICT, spaces.Dict({"speed": VECTOR, "camera": PICTURE, "gear": CHOICE})),
    "dictionary of the others": (DICT, spaces.Dict({"a": spaces.MultiDiscrete([2, 3]), "b": spaces.MultiBinary(2)})),
    "time": (DICT, spaces.Dict({"a": VECTOR, "elapsed": TIME})),
    "time of no dimension": (DICT, spaces.Dict({"a": VECTOR, "elapsed": spaces.Box(0, 10, (), np.float32)})),
    "time in whole steps": (DICT, spaces.Dict({"a": VECTOR, "elapsed": spaces.Box(0, 9, (1,), np.int64)})),
    "privileged": (DICT, spaces.Dict({"a": VECTOR, "privileged": VECTOR, "elapsed": TIME})),
    "privileged number": (DICT, spaces.Dict({"a": VECTOR, "privileged": spaces.Box(0, 1, (), np.float32)})),
    "privileged picture": (DICT, spaces.Dict({"a": VECTOR, "privileged": PICTURE})),
}
NO_OBSERVATIONS = {
    "empty vector": (FLAT, spaces.Box(-1, 1, (0,), np.float32), "not supported"),
    "empty vector in a dictionary": (DICT, spaces.Dict({"a": VECTOR, "b": spaces.Box(0, 1, (0,))}), "tions 'b' of Box"),
    "number": (FLAT, spaces.Box(-1, 1, (), np.float32), "not supported"),
    "discrete from 5": (FLAT, spaces.Discrete(3, start=5), "not supported"),
    "multi-discrete from 5": (FLAT, spaces.MultiDiscrete([2, 3], start=[5, 0]), "not supported"),
    "multi-discrete of two dimensions": (FLAT, spaces.MultiDiscrete([[2, 3], [2, 2]]), "not supported"),
    "dictionary for vectors": (FLAT, spaces.Dict({"a": VECTOR}), "use LiquidMultiInputPolicy"),
    "dictionary for pictures": (CNN, spaces.Dict({"a": PICTURE}), "find no features extractor"),
    "time beside a vector": (FLAT, spaces.Dict({"a": VECTOR, "elapsed": TIME}), "use LiquidMultiInputPolicy"),
    "vector for dictionaries": (DICT, VECTOR, "use LiquidPolicy"),
    "vector for pictures": (CNN, VECTOR, "find no features extractor"),
    "picture too small": (CNN, spaces.Box(0, 255, (12, 12, 3), np.uint8), "find no features extractor"),
    "small picture in a dictionary": (DICT, spaces.Dict({"a": spaces.Box(0, 255, (8, 8, 1), np.uint8)}), "no features"),
    "nothing but time": (DICT, spaces.Dict({"elapsed": TIME}), "sees nothing"),
    "two times": (
        DICT,
        spaces.Dict({"a": VECTOR, "elapsed": spaces.Box(0, 10, (2,), np.float32)}),
        r"has shape \(2,\)",
    ),
    "time as a choice": (DICT, spaces.Dict({"a": VECTOR, "elapsed": CHOICE}), "must be a Box"),
    "a privileged choice": (DICT, spaces.Dict({"a": VECTOR, "privileged": CHOICE}), "must be a Box"),
}
NO_OBSERVATIONS_OF_SB3 = {
    "text": (FLAT, spaces.Text(3)),
    "text in a dictionary": (DICT, spaces.Dict({"a": spaces.Text(3)})),
    "graph": (FLAT, spaces.Graph(VECTOR, None)),
    "sequence": (FLAT, spaces.Sequence(VECTOR)),
    "one of": (FLAT, spaces.OneOf([VECTOR, CHOICE])),
    "tuple": (FLAT, spaces.Tuple([VECTOR, CHOICE])),
    "nested": (DICT, spaces.Dict({"a": spaces.Dict({"b": VECTOR})})),
}


class Any(gymnasium.Env):
    """Shows anything of its observation space, and takes what its action space contains."""

    def __init__(self, observation_space=VECTOR, action_space=CHOICE):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        space = self.action_space
        cast = np.asarray(action, getattr(space, "dtype", None))
        assert space.contains(int(cast) if isinstance(space, spaces.Discrete) else cast)
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}


def build(algorithm, policy, env, **options):
    more = {"sequence_length": 4} if algorithm is LiquidPPO else {}
    return algorithm(policy, env, n_steps=8, batch_size=8, n_epochs=1, device="cpu", seed=0, **more, **options)


def learns(model, env):
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(16)
    assert any((old != new).any() for old, new in zip(before, model.policy.parameters(), strict=True))
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    action, state = model.predict(env.reset(seed=1)[0])
    env.step(model.predict(env.step(action)[0], state)[0])


@pytest.mark.parametrize("algorithm", [RecurrentPPO, LiquidPPO])
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_actions_are_learned(action, algorithm):
    env = Any(action_space=ACTIONS[action])
    learns(build(algorithm, FLAT, env), env)


@pytest.mark.parametrize("distribution", ["squashed", "beta"])
@pytest.mark.parametrize("action", sorted(name for name, space in ACTIONS.items() if isinstance(space, spaces.Box)))
def test_bounded_actions_are_learned_or_refused(action, distribution):
    env = Any(action_space=ACTIONS[action])
    options = {"policy_kwargs": {"distribution": distribution}}
    if action == "one action fixed":
        with pytest.raises(UserError, match="room between the bounds"):
            build(LiquidPPO, FLAT, env, **options)
    else:
        learns(build(LiquidPPO, FLAT, env, **options), env)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, LiquidPPO])
@pytest.mark.parametrize("action", sorted(NO_ACTIONS | NO_ACTIONS_OF_SB3))
def test_other_actions_are_refused_at_once(action, algorithm):
    sb3 = algorithm is RecurrentPPO and action in NO_ACTIONS_OF_SB3
    with pytest.raises(AssertionError if sb3 else UserError):
        build(algorithm, FLAT, Any(action_space=(NO_ACTIONS | NO_ACTIONS_OF_SB3)[action]))


@pytest.mark.parametrize("algorithm", [RecurrentPPO, LiquidPPO])
@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_observations_are_learned_from(name, algorithm):
    policy, space = OBSERVATIONS[name]
    env = Any(space)
    learns(build(algorithm, policy, env), env)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, LiquidPPO])
@pytest.mark.parametrize("name", sorted(NO_OBSERVATIONS))
def test_other_observations_are_refused_at_once(name, algorithm):
    policy, space, message = NO_OBSERVATIONS[name]
    with pytest.raises(UserError, match=message):
        build(algorithm, policy, Any(space))


@pytest.mark.parametrize("name", sorted(NO_OBSERVATIONS_OF_SB3))
def test_observations_that_sb3_refuses_are_refused_first(name):
    policy, space = NO_OBSERVATIONS_OF_SB3[name]
    with pytest.raises(UserError, match="not supported"):
        build(LiquidPPO, policy, Any(space))


class Timed(Any):
    """Three steps pass between two observations."""

    def __init__(self):
        super().__init__(spaces.Dict({"position": VECTOR, "elapsed": TIME}))

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample() | {"elapsed": np.full(1, 3, np.float32)}, {}

    def step(self, action):
        return self.reset()[0], 1.0, False, False, {}


def test_time_that_is_normalized_is_refused_and_what_to_do_is_said():
    with pytest.raises(UserError, match="norm_obs_keys"):
        build(LiquidPPO, DICT, VecFrameStack(VecNormalize(DummyVecEnv([Timed])), 1))
    policy = build(RecurrentPPO, DICT, DummyVecEnv([Timed])).policy
    with pytest.raises(UserError, match=r"'elapsed' is -0\.5 in environment 1 of 2.*norm_obs_keys"):
        policy.predict({"elapsed": np.array([[1], [-0.5]], np.float32), "position": np.zeros((2, 3), np.float32)})
    with pytest.raises(UserError, match="norm_obs_keys"):
        build(RecurrentPPO, DICT, VecNormalize(DummyVecEnv([lambda: Any(Timed().observation_space)]))).learn(64)
    others = VecNormalize(DummyVecEnv([Timed]), norm_obs_keys=["position"])
    assert build(LiquidPPO, DICT, others).learn(8).num_timesteps == 8


@pytest.mark.parametrize("algorithm", [RecurrentPPO, LiquidPPO])
def test_time_that_is_stacked_is_refused_and_what_to_do_is_said(algorithm):
    with pytest.raises(UserError, match=r"has shape \(3,\).*VecFrameStack"):
        build(algorithm, DICT, VecFrameStack(DummyVecEnv([Timed]), 3))


@pytest.mark.parametrize("policy", sorted(ALIASES))
def test_predict_takes_an_observation_in_any_order_of_its_keys_and_in_batches(policy):
    space = {FLAT: VECTOR, CNN: PICTURE}.get(
        policy, spaces.Dict({"z": PICTURE, "a": VECTOR, "elapsed": TIME, "g": CHOICE})
    )
    model = build(RecurrentPPO, policy, Any(space))
    one, *more = (
        {name: space[name].sample() for name in space} if policy == DICT else space.sample() for _ in range(5)
    )
    rows = [one, *more]
    if policy == DICT:
        batch = {key: np.stack([row[key] for row in rows]) for key in one}
        orders = [{key: batch[key] for key in order} for order in itertools.permutations(batch)]
        singles = [{key: one[key] for key in order} for order in itertools.permutations(one)]
    else:
        orders, singles = [np.stack(rows)], [one]
    alone, state = model.predict(one, deterministic=True)
    assert state[0].shape[1] == 1
    for single in singles:
        np.testing.assert_array_equal(model.predict(single, deterministic=True)[0], alone)
    together, states = model.predict(orders[0], deterministic=True)
    assert together.shape[0] == states[0].shape[1] == 5
    for order in orders:
        np.testing.assert_array_equal(model.predict(order, deterministic=True)[0], together)
    later, _ = model.predict(orders[0], states, deterministic=True)
    after, _ = model.predict(one, state, deterministic=True)
    np.testing.assert_array_equal(later[0], after)
    for given, count in ((one, 5), (orders[0], 1)):
        wrong = (states, state)[count == 1]
        with pytest.raises(UserError, match=rf"expected \(1, {6 - count}, \d+\) twice"):
            model.predict(given, wrong)
        with pytest.raises(UserError, match=f"but {count} values of episode_start"):
            model.predict(given, (state, states)[count == 1], np.zeros(count, bool))


def test_what_is_no_observation_of_the_space_is_named():
    space = spaces.Dict({"a": VECTOR, "elapsed": TIME})
    a, elapsed = np.zeros((4, 3)), np.zeros((4, 1))
    assert count_rows({"elapsed": elapsed, "a": a}, space) == 4
    for given, message in (
        ({"a": a}, "has the keys a, expected a, elapsed"),
        ({"a": a, "elapsed": elapsed, "more": a}, "expected a, elapsed"),
        ({"a": a, "elapsed": elapsed[:2]}, "different sizes: a 4, elapsed 2"),
        ({"a": a[None], "elapsed": elapsed}, r"'a' has shape \(1, 4, 3\)"),
        (a, "no dictionary"),
    ):
        with pytest.raises(UserError, match=message):
            count_rows(given, space)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "LiquidPolicey"}, "did you mean 'LiquidPolicy'"),
        ({"policy": RecurrentActorCriticPolicy}, "no liquid policy"),
        ({"use_sde": True}, "no option 'use_sde'"),
    ],
)
def test_a_policy_that_is_not_ours_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        LiquidPPO(**{"policy": FLAT, "env": Any(action_space=ACTIONS["box"])} | options)


def test_the_value_is_clipped_where_that_is_asked_for():
    """A value that has left the range about the old one is held there: the critic has no gradient."""
    for clip, moves in ((None, True), (0.1, False)):
        model = build(LiquidPPO, FLAT, Any(VECTOR, ACTIONS["box"]), clip_range_vf=clip)
        model.learn(8)
        batch = next(model.rollout_buffer.get())
        model.policy.zero_grad()
        model._loss(batch._replace(old_values=batch.old_values + 9), defaultdict(list)).backward()
        assert bool(model.policy.value_net.weight.grad.any()) == moves

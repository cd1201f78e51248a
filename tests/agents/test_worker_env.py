import os
import signal
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.driving_task import TaskConfig
from agents.ppo import make_task
from agents.worker_env import WorkerVecEnv
from liquid_control.support.errors import UserError
from policies.driver import DriverConfig

CARTPOLE = TaskConfig(DriverConfig(env="CartPole-v1", vector={"size": 4, "choices": 2}))
CAR = TaskConfig(DriverConfig(pedals=True, action_repeat=4), patience=6)


class Failing(gymnasium.Env):
    """Gives NaN, or raises, at its third step."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, how):
        self.how, self.steps = how, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps < 3:
            return np.zeros(2, np.float32), 0.0, False, False, {}
        if self.how == "raises":
            raise RuntimeError("the motor is on fire")
        observation = np.array([0, np.nan if self.how == "observation" else 0], np.float32)
        return observation, np.nan if self.how == "reward" else 0.0, False, False, {}


def rollout(env, steps):
    env.seed(5)
    seen = env.reset()
    record = [{name: part.copy() for name, part in seen.items()}]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        if isinstance(env.action_space, spaces.Discrete):
            actions = rng.integers(env.action_space.n, size=env.num_envs)
        else:
            actions = rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)
        seen, rewards, dones, infos = env.step(actions)
        record.append({name: part.copy() for name, part in seen.items()} | {"reward": rewards, "done": dones})
        record[-1] |= {"truncated": np.array([info["TimeLimit.truncated"] for info in infos])}
        for index, info in enumerate(infos):
            if dones[index]:
                record[-1] |= {f"last {index} {name}": part for name, part in info["terminal_observation"].items()}
    env.close()
    return record


@pytest.mark.parametrize(("config", "steps"), [(CARTPOLE, 60), (CAR, 30)], ids=["CartPole", "CarRacing"])
def test_workers_and_sb3s_own_environment_give_equal_rollouts(config, steps):
    makers = [partial(make_task, config)] * 5
    theirs = rollout(DummyVecEnv(makers), steps)
    assert any(step["done"].any() for step in theirs[1:])
    for workers in (1, 2):
        ours = rollout(WorkerVecEnv(makers, workers), steps)
        for found, expected in zip(ours, theirs, strict=True):
            assert found.keys() == expected.keys()
            for name, part in expected.items():
                np.testing.assert_array_equal(found[name], part, err_msg=name)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("reward", "environment 1 failed at its step 3: the reward is nan"),
        ("observation", "environment 1 failed at its step 3: the observation holds NaN or infinity"),
        ("raises", "environment 1 failed at its step 2: RuntimeError: the motor is on fire"),
    ],
)
def test_what_goes_wrong_is_named_with_environment_and_step(how, message):
    env = WorkerVecEnv([partial(Failing, "not at all"), partial(Failing, how)], 2)
    env.reset()
    steps = (env.step(np.zeros(2, int)) for _ in range(4))
    with pytest.raises(UserError, match=message):
        list(steps)
    env.close()


def test_a_worker_that_dies_is_named():
    env = WorkerVecEnv([partial(make_task, CARTPOLE)] * 4, 2)
    env.reset()
    os.kill(env._processes[1].pid, signal.SIGKILL)
    steps = (env.step(np.zeros(4, int)) for _ in range(2))
    with pytest.raises(UserError, match=r"worker 1 of 2, with environments 2 to 3, died \(exit code -9"):
        list(steps)
    env.close()


def test_attributes_and_methods_reach_every_environment():
    env = WorkerVecEnv([partial(make_task, CARTPOLE)] * 3, 2)
    assert env.get_attr("config", [0, 2]) == [CARTPOLE, CARTPOLE]
    env.set_attr("mark", 7, [1])
    assert env.get_attr("mark", [1]) == [7]
    assert [episode == [] for episode in env.env_method("get_episode_rewards")] == [True] * 3
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [True] * 3
    env.close()
    env.close()


def test_an_observation_that_is_no_box_is_refused():
    with pytest.raises(UserError, match="FlattenObservation"):
        WorkerVecEnv([partial(gymnasium.make, "FrozenLake-v1")], 1)

"""A Gymnasium environment of your own, and a liquid policy that learns it.

A drone shall hold its height in gusts of wind. It feels its height and not its speed, so whoever flies it has to
remember.
"""

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from agents.liquid_ppo import LiquidPPO


class Hover(gymnasium.Env):
    """Height between -1 and 1, thrust between -1 and 1; the reward of a step is 1 minus the distance from 0."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Starts somewhere, at some speed."""
        super().reset(seed=seed)
        self.height, self.speed = self.np_random.uniform(-0.5, 0.5, 2)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        """A twentieth of a second under thrust and wind; an episode lasts five seconds, or until the drone is lost."""
        self.speed += 0.05 * (4 * float(action[0]) + self.np_random.normal(0, 1))
        self.height += 0.05 * self.speed
        self.time += 1
        lost = abs(self.height) > 1
        return self.observe(), 1 - abs(self.height), lost, self.time == 100, {}

    def observe(self):
        """The height alone."""
        return np.clip(np.array([self.height], np.float32), -1, 1)


def main() -> None:
    """Learns for some seconds, and prints what an episode brings before and after."""
    env = make_vec_env(Hover, 16, seed=0)
    model = LiquidPPO(
        "LiquidPolicy",
        env,
        n_steps=64,
        batch_size=512,
        n_epochs=8,
        learning_rate=5e-3,
        seed=0,
        device="cpu",
        policy_kwargs={"core": "cfc", "neurons": 19},
    )
    judge = make_vec_env(Hover, 20, seed=1_000_000)
    for steps in (0, 8_000, 8_000):
        if steps:
            model.learn(steps, reset_num_timesteps=False)
        mean, spread = evaluate_policy(model, judge, n_eval_episodes=40)
        print(f"after {model.num_timesteps:6,} steps: {mean:5.1f} ± {spread:.1f} of 100")


if __name__ == "__main__":
    main()

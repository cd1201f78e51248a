"""The whole PPO training loop beside sb3-contrib's: environment frames a second, with the same eyes, batch and epochs.

python benchmarks/ppo_speed.py

All learn CarRacing from 16 environments in as many processes as there are processors (ours) or one an environment
(SB3's own), an action every four frames, rollouts of 128 decisions, batches of 512, six epochs. They take turns, an
update each; the first of each is not counted. Wall time of rollout and learning together; the ratio is taken within a
round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv
from torch import Tensor

from agents.driving_task import TaskConfig
from agents.liquid_ppo import LiquidPPO
from agents.ppo import make_task
from agents.worker_env import WorkerVecEnv
from agents.workers import processor_count
from envs.car_racing.observation import playfield
from envs.registration import FAST, OFFICIAL
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument
from policies.driver import DriverConfig
from policies.eyes import ConvEyes
from policies.hands import PedalHands
from policies.sb3 import DriverPolicy

REPEAT, ENVS, ROLLOUT, BATCH, EPOCHS = 4, 16, 128, 512, 6
DRIVER = DriverConfig(pedals=True, action_repeat=REPEAT)


class StockTask(gymnasium.Wrapper):
    """CarRacing as an SB3 user wraps it: an action for four frames, the playfield small, channels first."""

    def __init__(self, name: str):
        super().__init__(gymnasium.make(name, disable_env_checker=True))
        self.observation_space = spaces.Box(0, 255, (3, *DRIVER.playfield), np.uint8)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _see(self, frame: np.ndarray) -> np.ndarray:
        return playfield(frame, DRIVER.playfield).transpose(2, 0, 1)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """See Gymnasium."""
        frame, info = self.env.reset(**kwargs)
        return self._see(frame), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See Gymnasium."""
        total, controls = 0.0, PedalHands.spread(action)
        for _ in range(REPEAT):
            frame, reward, terminated, truncated, info = self.env.step(controls)
            total += float(reward)
            if terminated or truncated:
                break
        return self._see(frame), total, terminated, truncated, info


class StockEyes(BaseFeaturesExtractor):
    """The driver's eyes as an SB3 features extractor."""

    def __init__(self, space: spaces.Box):
        super().__init__(space, DRIVER.features)
        self.eyes = ConvEyes((*DRIVER.playfield, 3), DRIVER.channels, DRIVER.kernels, DRIVER.features)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, height, width) of 0–255 -> (N, features)."""
        return self.eyes(pixels.permute(0, 2, 3, 1))


def make_stock(name: str) -> gymnasium.Env:
    """Runs in a process of SB3's."""
    cv2.setNumThreads(1)
    return Monitor(StockTask(name))


def build_ours() -> tuple[RecurrentPPO, VecEnv]:
    """This project's loop."""
    env = WorkerVecEnv([partial(make_task, TaskConfig(DRIVER, privileged=True))] * ENVS, processor_count())
    options = {"driver": DRIVER, "distribution": "gaussian"}
    return LiquidPPO(DriverPolicy, env, policy_kwargs=options, **shared()), env


def build_stock(name: str) -> tuple[RecurrentPPO, VecEnv]:
    """sb3-contrib's loop."""
    env = SubprocVecEnv([partial(make_stock, name)] * ENVS, start_method="spawn")
    options = {"features_extractor_class": StockEyes, "normalize_images": False, "lstm_hidden_size": 19}
    return RecurrentPPO("CnnLstmPolicy", env, policy_kwargs=options, **shared()), env


def shared() -> dict[str, Any]:
    """What all have in common."""
    return {"n_steps": ROLLOUT, "batch_size": BATCH, "n_epochs": EPOCHS, "seed": 0, "device": "cpu"}


def time_update(model: RecurrentPPO, env: VecEnv, callback: Any, threads: int) -> tuple[float, float]:
    """Seconds of a rollout and of the learning after it."""
    begin = time.perf_counter()
    torch.set_num_threads(1)
    model.collect_rollouts(env, callback, model.rollout_buffer, ROLLOUT)
    driven = time.perf_counter()
    torch.set_num_threads(threads)
    model.train()
    return driven - begin, time.perf_counter() - driven


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=argument(Count), default=3, help="counted updates of each")
    parser.add_argument("--threads", type=argument(Count), default=processor_count(), help="threads that learn")
    arguments = parser.parse_args()
    builders: dict[str, Callable[[], tuple[RecurrentPPO, VecEnv]]] = {
        "LiquidPPO, CfC of 19 neurons, FastCarRacing": build_ours,
        "RecurrentPPO, CnnLstmPolicy of 19 units, FastCarRacing": partial(build_stock, FAST),
        "RecurrentPPO, CnnLstmPolicy of 19 units, official CarRacing-v3": partial(build_stock, OFFICIAL),
    }
    loops: dict[str, tuple[RecurrentPPO, VecEnv, Any]] = {}
    for name, build in builders.items():
        model, env = build()
        _, callback = model._setup_learn(10**9)
        loops[name] = (model, env, callback)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for _ in range(arguments.updates + 1):
        for name, loop in loops.items():
            seconds[name].append(time_update(*loop, arguments.threads))
    for _, env, _ in loops.values():
        env.close()
    table = Table(title=f"PPO, {arguments.updates} updates of {ENVS} × {ROLLOUT} decisions of {REPEAT} frames")
    for column in ("loop", "driving, s", "learning, s", "frames a second", "ours ÷ it"):
        table.add_column(column, justify="left" if column == "loop" else "right", no_wrap=True)
    ours = [sum(pair) for pair in next(iter(seconds.values()))[1:]]
    for name, pairs in seconds.items():
        totals = [sum(pair) for pair in pairs[1:]]
        driving, learning = (statistics.median(pair[part] for pair in pairs[1:]) for part in (0, 1))
        table.add_row(
            name,
            f"{driving:.2f}",
            f"{learning:.2f}",
            f"{ENVS * ROLLOUT * REPEAT / statistics.median(totals):,.0f}",
            f"{statistics.median(theirs / own for own, theirs in zip(ours, totals, strict=True)):.1f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    command.run(lambda _: main())

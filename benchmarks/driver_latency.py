"""Latency of a whole driver, one raw observation to one action, by its parts, beside the same driver through torch.

One thread, batch 1, NumPy in and out, the shipped drivers on the frames of one lap's beginning; microseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch

from liquid_control.support import command
from policies.compiled import CompiledDriver
from policies.driver import Driver, load_driver

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints" / "CarRacing-v3"
FRAMES, ROUNDS = 100, 20


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="*", default=["cfc", "ltc"], help="names of shipped drivers")
    policies = parser.parse_args().policies
    torch.set_num_threads(1)
    frames = lap_frames()
    print("| driver | part | median µs | p99 µs | share |\n|---|---|---|---|---|")
    for policy in policies:
        driver = load_driver(CHECKPOINTS / policy)
        times = {name: measure(call, frames) for name, call in parts(driver.compile_step(), frames[0]).items()}
        times["through torch"] = measure(through_torch(driver), frames)
        whole = np.median(times["whole"])
        for name, values in times.items():
            median, worst = np.median(values), np.percentile(values, 99)
            print(f"| {policy} | {name} | {median:.1f} | {worst:.1f} | {median / whole:.0%} |")


def lap_frames() -> list[np.ndarray]:
    """The first frames of a lap, with gas now and then."""
    env = gymnasium.make("envs:liquid_control/FastCarRacing-v3", disable_env_checker=True)
    frames = [env.reset(seed=2_000_000)[0]]
    while len(frames) < FRAMES:
        frames.append(env.step(np.array([0.0, 0.3, 0.0], np.float32))[0])
    return frames


def parts(driver: CompiledDriver, frame: np.ndarray) -> dict[str, Callable[[np.ndarray], object]]:
    """The driver and each of its parts as a function of a frame; the parts after the view work on ``frame``'s."""
    image, gauges = driver.view(frame)
    inputs = np.concatenate([driver.see(image), gauges])
    motor = driver.core(inputs)
    return {
        "whole": driver.act,
        "view: playfield and gauges": driver.view,
        "eyes": lambda _: driver.see(image),
        "core": lambda _: driver.core(inputs),
        "hands": lambda _: driver.command(motor),
    }


def through_torch(driver: Driver) -> Callable[[np.ndarray], object]:
    """``Driver.act``, from a fresh state."""
    driver.reset()
    return driver.act


def measure(call: Callable[[np.ndarray], object], frames: list[np.ndarray]) -> np.ndarray:
    """Microseconds of each call, over all frames again and again; the first round, which compiles, is left out."""
    for frame in frames:
        call(frame)
    times = []
    for _ in range(ROUNDS):
        for frame in frames:
            begin = time.perf_counter_ns()
            call(frame)
            times.append((time.perf_counter_ns() - begin) / 1000)
    return np.array(times)


if __name__ == "__main__":
    command.run(lambda _: main())

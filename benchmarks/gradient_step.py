"""Where a gradient step of the main job goes: eyes, core, and the rest; and eyes and core with the kernels turned off.

Batch, steps, encoding and variety are those of the main job; milliseconds, medians of interleaved turns, as many
threads as processors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import torch

from agents.augmentation import Augmentation, find_variety
from agents.cloning import Cloner, Streams
from agents.dagger import TrainConfig
from agents.episodes import Episode
from agents.imitation import describe_learner
from agents.workers import processor_count
from liquid_control.support import command
from liquid_control.support.memory import keep_freed_memory
from policies.driver import Driver

TURNS = 30


def main() -> None:
    """Prints the table as Markdown."""
    torch.set_num_threads(processor_count())
    keep_freed_memory()
    torch.manual_seed(0)
    config = TrainConfig()
    driver = Driver(describe_learner(config))
    cloner = Cloner(driver, config.learning_rate, config.rounds * config.steps, config.control_weights)
    variety = find_variety(config.variety)
    assert variety is not None
    episodes = [noise(driver, 600, seed) for seed in range(8)]
    streams = Streams(episodes, config.batch, config.time, rng(8), augment=[Augmentation(variety, rng(9))])
    frames = config.batch * config.time
    image = torch.randint(0, 256, (frames, *driver.view.image_shape), dtype=torch.uint8)
    inputs = torch.randn(config.batch, config.time, driver.core.input_size)

    def by_reference(see: Callable[[], torch.Tensor]) -> None:
        os.environ["LIQUID_CONTROL_KERNELS"] = "reference"
        differentiate(see())
        del os.environ["LIQUID_CONTROL_KERNELS"]

    parts: dict[str, Callable[[], object]] = {
        "whole step": lambda: cloner.train(streams, 1),
        "eyes, forward and backward": lambda: differentiate(driver.eyes(image)),
        "core, forward and backward": lambda: differentiate(driver.core(inputs)[0]),
        "a batch put together": streams.next,
        "(eyes by torch)": lambda: by_reference(lambda: driver.eyes(image)),
        "(core in its reference form)": lambda: by_reference(lambda: driver.core(inputs)[0]),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(TURNS + 3):
        for name, call in parts.items():
            begin = time.perf_counter()
            call()
            if turn >= 3:
                times[name].append((time.perf_counter() - begin) * 1e3)
    whole = np.median(times["whole step"])
    print("| part | ms | share |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {np.median(values):.1f} | {np.median(values) / whole:.0%} |")


def differentiate(y: torch.Tensor) -> None:
    """Gradients of everything that ``y`` depends on."""
    y.square().sum().backward()


def rng(seed: int) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng(seed)


def noise(driver: Driver, steps: int, seed: int) -> Episode:
    """An episode of random frames: to the clock it is like any other."""
    numbers = rng(seed)
    return Episode(
        seed=seed, score=0.0, steps=steps, lap=True, tiles=1.0, off_road=0.0,
        images=numbers.integers(0, 256, (steps, *driver.view.image_shape), np.uint8),
        gauges=numbers.normal(size=(steps, len(driver.view.gauges))).astype(np.float32),
        labels=numbers.normal(size=(steps, len(driver.view.controls))).astype(np.float32),
    )  # fmt: skip


if __name__ == "__main__":
    command.run(lambda _: main())

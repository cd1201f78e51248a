"""How close drivers of 19 neurons come to what people steered, beside PilotNet; the lake track, two people.

LIQUID_CONTROL_DATA=DIR python benchmarks/udacity_recordings.py

DIR/udacity has the recorded drives `lake` and `lake_v1`. Every network learns from the same blocks of `lake` with the
same varied pictures, PilotNet (Bojarski et al. 2016, 252,219 parameters) picture by picture at its own size, the others
in sequences with the time between pictures. Judged on the blocks of `lake` that are held out, and on all of `lake_v1`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from agents.augmentation import RoadAugmentation, RoadVariety
from agents.cloning import Cloner, Streams
from agents.episodes import Episode
from agents.recordings import read_recordings, steering_error
from envs.registration import UDACITY
from liquid_control.support import command
from liquid_control.support.ranges import Count, Positive, argument
from policies.driver import Driver, DriverConfig, load_driver
from policies.hands import AffineHands
from policies.view import UdacityView

PILOT_NET_SIZE = (66, 200)


class PilotNet(nn.Module):
    """Five convolutions and four dense layers, a picture at a time; called as a driver is."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((3, 24, 5, 2), (24, 36, 5, 2), (36, 48, 5, 2), (48, 64, 3, 1), (64, 64, 3, 1))
        layers = [layer for a, b, kernel, stride in shapes for layer in (nn.Conv2d(a, b, kernel, stride), nn.ELU())]
        widths = (1152, 100, 50, 10)
        dense = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ELU())]
        self.layers = nn.Sequential(*layers, nn.Flatten(), *dense, nn.Linear(10, 1))
        self.view = UdacityView(PILOT_NET_SIZE)
        self.core = _NoState()

    @property
    def hands(self) -> AffineHands:
        """Cuts the steering off at its bounds."""
        return AffineHands((-1.0,), (1.0,))

    def forward(
        self, image: Tensor, gauges: Tensor, state: Tensor | None = None, elapsed: object = None, mask: object = None
    ) -> tuple[Tensor, Tensor]:
        """(B, T, 66, 200, 3) uint8 -> steering (B, T, 1), and a state of nothing."""
        pixels = image.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.layers(pixels).unflatten(0, image.shape[:2]), torch.zeros(len(image), 0)

    def parameter_counts(self) -> dict[str, int]:
        """As a driver's."""
        return {"total": sum(parameter.numel() for parameter in self.parameters())}


class _NoState:
    @staticmethod
    def initial_state(batch: int) -> Tensor:
        return torch.zeros(batch, 0)


@dataclass
class Entry:
    """A row of the table."""

    name: str
    make: Callable[[], nn.Module]
    batch: int = 32
    time: int = 32
    steps: int = 300
    learning_rate: float = 3e-3
    held_out: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    parameters: int = 0


def driver(policy: str, **options: object) -> Callable[[], nn.Module]:
    """Makes a new driver of a core."""
    return lambda: Driver(DriverConfig(env=UDACITY, policy=policy, options=options))


def learn(entry: Entry, episodes: list[Episode], seed: int) -> nn.Module:
    """Trains a network anew; the running mean of its weights."""
    torch.manual_seed(seed)
    net = entry.make()
    cloner = Cloner(net, entry.learning_rate, entry.steps, control_weights=(10.0,))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    augment = [RoadAugmentation(RoadVariety(shift=0.05), rng)]
    cloner.train(Streams(episodes, entry.batch, entry.time, rng, augment=augment), entry.steps)
    return cloner.average


def main() -> None:
    """Trains them all and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=argument(Count), default=3)
    parser.add_argument("--only", nargs="+", help="names of rows, such as CfC-19 PilotNet")
    parser.add_argument("--init", type=Path, help="a driver that is also trained on, as a row of its own")
    parser.add_argument("--quick", type=argument(Positive), default=1.0, help="share of the gradient steps")
    arguments = parser.parse_args()
    if "LIQUID_CONTROL_DATA" not in os.environ:
        parser.error("LIQUID_CONTROL_DATA must name the folder whose udacity/ has the drives lake and lake_v1.")
    data = Path(os.environ["LIQUID_CONTROL_DATA"]) / "udacity"
    torch.set_num_threads(1)
    entries = [
        Entry("CfC-19", driver("cfc")),
        Entry("LTC-19", driver("ltc")),
        Entry("LAN-19", driver("lan", units=18)),
        Entry("LSTM-19", driver("lstm", units=19)),
        Entry("PilotNet", PilotNet, batch=64, time=1, steps=1000, learning_rate=1e-3),
    ]
    if arguments.init:
        entries.append(Entry(f"{arguments.init} and on", lambda: load_driver(arguments.init).train(), steps=150))
    labels: list[np.ndarray] = []
    for entry in entries:
        if arguments.only and entry.name not in arguments.only:
            continue
        entry.steps = max(1, round(entry.steps * arguments.quick))
        view = entry.make().view
        lake = read_recordings(data / "lake", view, held_out=0.2)  # type: ignore[arg-type]
        other = read_recordings(data / "lake_v1", view, held_out=0.0, side_correction=0.0)  # type: ignore[arg-type]
        labels = [np.concatenate([each.labels for each in drives]) for drives in (lake.held_out, other.learned)]
        for seed in range(arguments.seeds):
            begin = time.perf_counter()
            net = learn(entry, lake.learned, seed)
            entry.seconds.append(time.perf_counter() - begin)
            entry.held_out.append(steering_error(net, lake.held_out))  # type: ignore[arg-type]
            entry.other.append(steering_error(net, other.learned))  # type: ignore[arg-type]
            told = f"{entry.held_out[-1]:.4f} held out, {entry.other[-1]:.4f} on lake_v1"
            print(f"{entry.name}, seed {seed}: {told}, {entry.seconds[-1]:.0f} s", flush=True)
            entry.parameters = net.parameter_counts()["total"]  # type: ignore[operator]
    table = Table(caption=f"mean squared error of the steering (1 is 25°), mean ± std of {arguments.seeds} seeds")
    for column in ("network", "parameters", "lake, held out", "lake_v1", "s a training"):
        table.add_column(column, justify="left" if column == "network" else "right")
    still = [f"{(part**2).mean():.4f}" for part in labels]
    table.add_row("straight on", "0", *still, "")
    for entry in entries:
        if entry.seconds:
            errors = [f"{np.mean(each):.4f} ± {np.std(each):.4f}" for each in (entry.held_out, entry.other)]
            table.add_row(entry.name, f"{entry.parameters:,}", *errors, f"{np.mean(entry.seconds):.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    command.run(lambda _: main())

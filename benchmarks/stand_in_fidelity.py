"""How much the stand-in's pictures look like recorded ones: mean colours of the sky, the land, the road and its sides.

LIQUID_CONTROL_DATA=DIR python benchmarks/stand_in_fidelity.py --picture side_by_side.png

DIR/udacity/lake has a recorded drive. The picture has recorded frames on the left, the stand-in's on the right.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from envs.udacity.packets import decode
from envs.udacity.recording import read_recording
from envs.udacity.stand_in.camera import CENTER
from envs.udacity.stand_in.environment import UdacityStandIn
from liquid_control.support import command
from liquid_control.support.ranges import Count, argument

REGIONS = {
    "sky": (slice(0, 40), slice(0, 320)),
    "horizon": (slice(54, 68), slice(0, 320)),
    "land on the left": (slice(70, 84), slice(0, 40)),
    "land on the right": (slice(70, 84), slice(280, 320)),
    "road ahead": (slice(84, 100), slice(130, 190)),
    "road near": (slice(110, 134), slice(90, 230)),
}
"""Rows and columns of a picture."""


def main() -> None:
    """Prints the table, and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=argument(Count), default=100)
    parser.add_argument("--picture", type=Path, help="a .png to write")
    arguments = parser.parse_args()
    if "LIQUID_CONTROL_DATA" not in os.environ:
        parser.error("LIQUID_CONTROL_DATA must name the folder whose udacity/ has the drive lake.")
    rows = read_recording(Path(os.environ["LIQUID_CONTROL_DATA"]) / "udacity" / "lake").rows
    chosen = np.linspace(0, len(rows) - 1, arguments.frames).astype(int)
    recorded = np.stack([decode(rows[index].center.read_bytes()) for index in chosen])
    drawn = np.stack(pictures(arguments.frames))
    table = Table(title=f"mean red, green, blue ± contrast of {arguments.frames} pictures each")
    for column in ("region", "recorded", "stand-in", "difference"):
        table.add_column(column, justify="left" if column == "region" else "right")
    for name, (down, across) in REGIONS.items():
        parts = [each[:, down, across].astype(float) for each in (recorded, drawn)]
        means = [part.mean((0, 1, 2)) for part in parts]
        contrast = [part.std((1, 2)).mean() for part in parts]
        told = [
            " ".join(f"{value:.0f}" for value in mean) + f" ± {spread:.0f}"
            for mean, spread in zip(means, contrast, strict=True)
        ]
        table.add_row(name, *told, f"{np.abs(means[0] - means[1]).mean():.0f}")
    Console(width=120).print(table)
    if arguments.picture:
        shown = np.linspace(0, arguments.frames - 1, 5).astype(int)
        sheet = np.vstack([np.hstack([recorded[index], drawn[index]]) for index in shown])
        cv2.imwrite(str(arguments.picture), sheet[..., ::-1])


def pictures(count: int) -> list[np.ndarray]:
    """Of the lake track, all around the lap, a little aside and askew as a driver is."""
    env, rng = UdacityStandIn("lake"), np.random.default_rng(0)
    found = []
    for share in np.linspace(0, 1, count, endpoint=False):
        env.reset(seed=0, options={"start": float(share)})
        env.car.heading += rng.normal(0, 0.05)
        aside = rng.normal(0, 0.8)
        left = env.road.left[env.nearest]
        env.car.x, env.car.y = env.car.x + aside * left[0], env.car.y + aside * left[1]
        found.append(env.draw(CENTER))
    return found


if __name__ == "__main__":
    command.run(lambda _: main())

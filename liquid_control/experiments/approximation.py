"""``python -m liquid_control.experiments approximation FOLDER``: what liquid attention can approximate.

The LAN papers show universal approximation with sequences of one token. There the softmax over a single key is 1
whatever the logits are: queries, keys, gates, rates and times have no effect and get no gradient, and what learns is
the feed-forward net around. Here a function of a whole history is learned, from 48 steps at irregular moments:

    y = sin(π m),    m the mean of the inputs so far, each weighted by exp(-age / 2)

once by attention to the history in each mode of LAN, and once by the same net with one key, the step itself. The GIF
shows both while they learn.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from torch import Tensor, nn

from liquid_control.experiments.study import Results, measuring
from liquid_control.nn import LiquidAttention
from liquid_control.nn.liquid_attention import SingleKeyWarning
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import check_known
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count

PROGRAM = "python -m liquid_control.experiments approximation"
STEPS, MEMORY, WIDTH = 48, 2.0, 32
ARMS = ("exact", "euler", "steady", "one key")
FRAMES = 40
SIZE, MARGIN = (640, 320), 24


@dataclass(frozen=True)
class ApproximationConfig:
    """Trains liquid attention on a function of a history, by each mode and with one key, and draws it as a GIF."""

    folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Of the results: a line a training in results.jsonl, the table in report.md, and approximation.gif."""
    arms: tuple[str, ...] = ARMS
    """Which of exact, euler, steady and "one key"."""
    steps: Count = 1500
    """Gradient steps of a training."""
    batch: Count = 32
    """Sequences of a step, which are new at every step."""


class Approximator(nn.Module):
    """Tokens of the inputs, liquid attention, and a head: x (B, T) and elapsed (B, T) to (B, T).

    Args:
        arm: a mode, or "one key": each step is a sequence of its own.
    """

    def __init__(self, arm: str):
        super().__init__()
        self.alone = arm == "one key"
        self.embedding = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.attention = LiquidAttention(WIDTH, 4, hidden=4, mode="exact" if self.alone else arm)
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1))

    def forward(self, x: Tensor, elapsed: Tensor) -> Tensor:
        """Answers (B, T)."""
        shape = x.shape
        if self.alone:
            x, elapsed = x.reshape(-1, 1), elapsed.reshape(-1, 1)
        attended: Tensor = self.attention(self.embedding(x[..., None]), elapsed=elapsed, causal=True)
        answers: Tensor = self.head(attended)
        return answers.reshape(shape)


def histories(count: int, seed: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs in [-1, 1] that change now and then, elapsed times, and what is asked for; each (N, 48).

    Args:
        count: N.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    elapsed = 0.1 + rng.exponential(0.3, (count, STEPS))
    ends = elapsed.cumsum(1)
    level = rng.uniform(-1, 1, (count, STEPS))
    since = np.maximum.accumulate(np.where(rng.random((count, STEPS)) < 0.15, np.arange(STEPS), 0), 1)
    x = np.take_along_axis(level, since, 1)
    age = ends[:, :, None] - ends[:, None]
    weights = np.where(age >= 0, np.exp(-age.clip(0) / MEMORY), 0)
    mean = (weights @ x[..., None])[..., 0] / weights.sum(2)
    x_part, elapsed_part, y = (torch.from_numpy(part.astype(np.float32)) for part in (x, elapsed, np.sin(np.pi * mean)))
    return x_part, elapsed_part, y


def measure(arm: str, config: ApproximationConfig) -> dict[str, Any]:
    """A training as a line of the results: its error, what its gates learned, and what it answered on the way."""
    torch.manual_seed(0)
    model = Approximator(arm)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    shown = histories(1, [2**32, 1])
    frames: list[list[float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingleKeyWarning)  # which is what this shows
        for step in range(config.steps):
            # More often at first, when more happens.
            if step >= config.steps * (len(frames) / FRAMES) ** 2:
                with torch.no_grad():
                    frames.append([round(float(value), 3) for value in model(*shown[:2])[0]])
            x, elapsed, y = histories(config.batch, [step])
            loss = (model(x, elapsed) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        learned = [parameter.grad for parameter in model.attention.logits.parameters() if parameter.grad is not None]
        x, elapsed, y = histories(500, [2**32, 2])
        with torch.no_grad():
            error = float((model(x, elapsed) - y).square().mean())
    gradient = max((float(each.abs().max()) for each in learned), default=0.0)
    return {"arm": arm, "mse": error, "variance": float(y.var()), "gate_gradient": gradient, "frames": frames}


def film(rows: Sequence[dict[str, Any]]) -> bytes:
    """The GIF of what trainings answered to one history while they learned."""
    wanted = histories(1, [2**32, 1])[2][0].tolist()
    times = histories(1, [2**32, 1])[1][0].cumsum(0).tolist()
    colours = {"exact": "#d9722b", "euler": "#8250df", "steady": "#1a7f37", "one key": "#4c8fd0"}

    def line(values: Sequence[float]) -> list[tuple[float, float]]:
        across, down = SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN
        places = zip(times, values, strict=True)
        return [(MARGIN + across * time / times[-1], MARGIN + down * (1.3 - value) / 2.6) for time, value in places]

    pictures = []
    for place in range(max(len(row["frames"]) for row in rows)):
        picture = Image.new("RGB", SIZE, "white")
        draw = ImageDraw.Draw(picture)
        draw.line(line(wanted), fill="#c4cad2", width=6)
        draw.text((MARGIN, 6), "wanted", fill="#8b949e")
        for index, row in enumerate(rows):
            draw.line(line(row["frames"][min(place, len(row["frames"]) - 1)]), fill=colours[row["arm"]], width=2)
            draw.text((MARGIN + 70 * (index + 1), 6), row["arm"], fill=colours[row["arm"]])
        pictures.append(picture)
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=120, loop=0)
    return file.getvalue()


def main(arguments: Sequence[str]) -> None:
    """Trains what is missing; see ``--help``.

    Raises:
        UserError: if there is no such arm, or the folder holds results of other options.
    """
    config, console = parse(ApproximationConfig, arguments, PROGRAM), Console()
    check_known("arm", config.arms, ARMS)
    torch.set_num_threads(1)  # tensors as small as these gain nothing from more
    with measuring(config.folder):
        results = Results(config.folder, {"steps": config.steps, "batch": config.batch}, ("arm",))
        rows = []
        for arm in config.arms:
            rows.append(results.have(lambda arm=arm: measure(arm, config), arm=arm))  # type: ignore[misc]
            console.print(f"{arm}: {rows[-1]['mse']:.4f}")
    text = ["| attention | mean squared error | of the variance | largest gradient of a gate |", "| --- " * 4 + "|"]
    for row in rows:
        share = f"{row['mse'] / row['variance']:.1%}"
        text.append(f"| {row['arm']} | {row['mse']:.4f} | {share} | {row['gate_gradient']:.2g} |")
    report = "\n".join(text) + "\n"
    write_atomically(config.folder / "report.md", report)
    write_atomically(config.folder / "approximation.gif", film(rows))
    console.print(report)


if __name__ == "__main__":
    run(main)

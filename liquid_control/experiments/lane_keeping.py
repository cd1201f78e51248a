"""lane_keeping: what a person steered, from frames of the Udacity simulator with their time stamps.

Every cell is behind the same eyes. ``strict`` holds whole stretches of the drives out. ``paper`` is the random split of
the LAN papers: of frames that are a moment apart, one is learned and the other is asked for.
"""

from __future__ import annotations

import functools
import itertools

import cv2
import numpy as np
from torch import Tensor, nn

from envs.udacity.recording import Row, find_recordings, iterate_pairs, read_recording, split_in_blocks
from liquid_control.data.download import DataSource, find_folder
from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.experiments.sequence_task import Recipe, SequenceTask, mean_squared_error
from liquid_control.support.errors import UserError

SOURCE = DataSource(
    name="a folder of recorded drives",
    folder="udacity",
    page="the recorder of the Udacity simulator (driving_log.csv and IMG/)",
)
WINDOW, STRIDE = 16, 4
SECOND = 15.0
"""Units of elapsed time in a second: the simulator's pictures are about one apart."""
ROAD = slice(60, 135)
"""Rows of a picture that show the road."""
HEIGHT, WIDTH, DEPTH = 24, 64, 3
BLOCK = 48
"""Rows that are held out together."""


class Eyes(nn.Module):
    """Three convolutions and a linear map: frames (B, T, 24 · 64 · 3) of -1 to 1 to 32 features (B, T, 32)."""

    features = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(DEPTH, 12, 5, 2, 2), nn.ELU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ELU(), nn.Conv2d(16, 16, 3, 2, 1),
            nn.ELU(), nn.Flatten(), nn.Linear(16 * HEIGHT // 8 * WIDTH // 8, self.features), nn.ELU(),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> Tensor:
        """Features of each frame."""
        pictures = frames.flatten(0, 1).unflatten(1, (HEIGHT, WIDTH, DEPTH)).permute(0, 3, 1, 2)
        features: Tensor = self.layers(pictures).unflatten(0, frames.shape[:2])
        return features


def windows(stretches: list[list[Row]]) -> SequenceSet:
    """Windows of 16 frames, one every 4; shorter stretches are left out.

    Args:
        stretches: rows that follow each other.

    Returns:
        ``x`` (N, 16, 4608), rows 60 to 135 of the picture in YUV, 24 × 64, -1 to 1; ``elapsed`` (N, 16) in units of
        1/15 s, by the names of the pictures; ``target`` (N, 16) what was steered, -1 to 1.
    """
    x, elapsed, target = [], [], []
    for stretch in stretches:
        pairs = list(iterate_pairs(stretch))
        for begin in range(0, len(pairs) - WINDOW + 1, STRIDE):
            rows, times = zip(*pairs[begin : begin + WINDOW], strict=True)
            x.append(np.stack([_frame(row) for row in rows]))
            elapsed.append([SECOND * time for time in times])
            target.append([row.steering for row in rows])
    if not x:
        raise UserError(f"no stretch of the drives has {WINDOW} frames in a row: record longer ones.")
    real = np.ones((len(x), WINDOW), bool)
    return SequenceSet(np.array(x), np.array(elapsed, np.float32), real, np.array(target, np.float32))


@functools.lru_cache(maxsize=20_000)
def _frame(row: Row) -> np.ndarray:
    picture = cv2.imread(str(row.center))
    if picture is None or len(picture) < ROAD.stop:
        found = "no picture" if picture is None else f"a picture of {len(picture)} rows, expected {ROAD.stop} at least"
        raise UserError(f"{row.center} is {found}: record the drive again, or take its row out of the log.")
    small = cv2.resize(cv2.cvtColor(picture[ROAD], cv2.COLOR_BGR2YUV), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return (small.astype(np.float32) / 127.5 - 1).ravel()


def drives(protocol: str) -> SequenceSplits:
    """The windows of all drives, split by blocks of frames ("strict") or at random ("paper").

    Raises:
        UserError: if there are no drives, or one cannot be read.
    """
    try:
        recordings = [read_recording(folder) for folder in find_recordings(find_folder(SOURCE))]
    except ValueError as error:
        raise UserError(str(error)) from None
    stretches = list(itertools.chain.from_iterable(recording.stretches for recording in recordings))
    if protocol == "strict":
        known, tested = split_in_blocks(stretches, 0.2, seed=0, block=BLOCK)
        learned, validated = split_in_blocks(known, 0.15, seed=1, block=BLOCK)
        return SequenceSplits(windows(learned), windows(validated), windows(tested))
    whole = windows(stretches)
    order = np.random.default_rng(0).permutation(len(whole.x))
    parts = np.split(order, [round(0.68 * len(order)), round(0.8 * len(order))])
    return SequenceSplits(*(SequenceSet(*(array[part] for array in whole)) for part in parts))


TASK = SequenceTask(
    name="lane_keeping",
    summary="what a person steered, from frames of the Udacity simulator",
    protocols={"strict": "whole stretches of the drives held out", "paper": "a random split of windows that overlap"},
    load=lambda protocol, fold: drives(protocol),
    answer="steps",
    classes=False,
    metrics={"mse": mean_squared_error},
    higher=False,
    epochs=30,
    trial_epochs=12,
    parameters=20_000,
    recipe=Recipe(rate=2e-3, batch=16, dropout=0.1),
    space={"rate": (5e-4, 1e-3, 2e-3, 4e-3), "batch": (8, 16, 32)},
    standardise=False,
    eyes=Eyes,
    published={
        "paper": {"ltc": 0.0245, "lstm": 0.0181, "gru": 0.0206, "cfc": 0.0198, "lan": 0.0177, "lan_steady": 0.0181}
    },
    source="Razzaq et al., arXiv 2512.10282, table 1: another drive of 15,647 pictures, frame by frame; beside LAN "
    "stands its successor NAC, over all pairs",
)

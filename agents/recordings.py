"""Recorded drives of the Udacity simulator as episodes to learn from, and how close a driver comes to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.episodes import Episode
from envs.udacity.packets import PacketError, decode
from envs.udacity.recording import (
    EmptyRecordingError,
    Recording,
    RecordingError,
    Row,
    find_recordings,
    iterate_pairs,
    read_recording,
    split_in_blocks,
)
from liquid_control.support.errors import UserError
from policies.driver import Driver
from policies.view import UdacityView


@dataclass
class Recordings:
    """Drives to learn from, and others to judge by."""

    learned: list[Episode] = field(default_factory=list)
    """Of all three cameras."""
    held_out: list[Episode] = field(default_factory=list)
    """Of the camera in the middle."""
    summaries: list[str] = field(default_factory=list)
    """A line a folder: rows, and what was left out."""


def read_recordings(
    folder: Path, view: UdacityView, held_out: float = 0.2, side_correction: float = 0.2, seed: int = 0
) -> Recordings:
    """Reads every drive in a folder or below it; one whose log is empty is left out and named.

    Args:
        folder: holds ``driving_log.csv`` files.
        view: of the driver; pictures pass through it as at the wheel.
        held_out: share of the rows, in whole blocks, that is judged by and not learned.
        side_correction: steering to the right that a picture of the left camera asks for beyond what was steered, and
            to the left one of the right camera; 0 leaves the side cameras out.
        seed: picks the blocks.

    Raises:
        UserError: if there is nothing that can be used.
    """
    found = Recordings()
    for recording in _with_rows(folder, found.summaries):
        learned, kept = split_in_blocks(recording.stretches, held_out, seed)
        unreadable: list[str] = []
        for camera, correction in _cameras(side_correction).items():
            found.learned += _episodes(learned, view, camera, correction, unreadable)
        found.held_out += _episodes(kept, view, "center", 0.0, unreadable)
        told = f"; {len(unreadable)} unreadable images (such as {unreadable[0]})" if unreadable else ""
        found.summaries.append(recording.summary() + told)
    if not found.learned:
        raise UserError(f"no row of {folder} can be used: {'; '.join(found.summaries)}.")
    return found


def check_recordings(folder: Path, held_out: float = 0.2, side_correction: float = 0.2, seed: int = 0) -> None:
    """Looks whether :func:`read_recordings` would find something to learn from; one picture that can be read is enough.

    Args:
        folder: as there.
        held_out: as there.
        side_correction: as there.
        seed: as there.

    Raises:
        UserError: if there is nothing that can be used.
    """
    view = UdacityView()  # which pictures can be read does not depend on their size
    every = [split_in_blocks(each.stretches, held_out, seed)[0] for each in _with_rows(folder, [])]
    rows = (row for learned in every for stretch in learned for row in stretch)
    if not any(_episodes([[row]], view, camera, 0.0, []) for row in rows for camera in _cameras(side_correction)):
        read_recordings(folder, view, held_out, side_correction, seed)  # which says why


def _with_rows(folder: Path, summaries: list[str]) -> Iterator[Recording]:
    """Every drive in a folder or below it; adds a line of those that are left out."""
    try:
        for place in find_recordings(folder):
            try:
                recording = read_recording(place)
            except EmptyRecordingError:
                summaries.append(f"{place}: left out, its log is empty")
                continue
            yield recording
    except RecordingError as error:
        raise UserError(str(error)) from None


def _cameras(side_correction: float) -> dict[str, float]:
    """Those that are learned from, and the steering that is added for each."""
    return {"center": 0.0} | ({"left": side_correction, "right": -side_correction} if side_correction else {})


def _episodes(
    stretches: Sequence[Sequence[Row]], view: UdacityView, camera: str, correction: float, unreadable: list[str]
) -> list[Episode]:
    """What a camera saw, in episodes without a hole; adds to the unreadable images."""
    episodes = []
    for stretch in stretches:
        frames: list[tuple[np.ndarray, float, float]] = []
        for row, elapsed in iterate_pairs(stretch):
            path: Path | None = getattr(row, camera)
            try:
                image = view.see(decode(path.read_bytes())) if path else None
            except (PacketError, OSError, ValueError) as error:
                unreadable.append(f"{path.name if path else ''}: {error}")
                image = None
            if image is not None:
                frames.append((image, elapsed / view.interval, np.clip(row.steering + correction, -1, 1)))
            elif frames:
                episodes.append(_episode(frames))
                frames = []
        if frames:
            episodes.append(_episode(frames))
    return episodes


def _episode(frames: list[tuple[np.ndarray, float, float]]) -> Episode:
    images, elapsed, steering = zip(*frames, strict=True)
    count, steered = len(frames), np.array(steering, np.float32)[:, None]
    return Episode(
        seed=0,
        score=0.0,
        steps=count,
        lap=False,
        tiles=0.0,
        off_road=0.0,
        images=np.stack(images),
        gauges=np.empty((count, 0), np.float32),
        labels=steered,
        actions=steered,
        rewards=np.zeros(count, np.float32),
        elapsed=np.array(elapsed, np.float32),
    )


@torch.no_grad()
def steering_error(driver: Driver, episodes: Sequence[Episode]) -> float:
    """Mean squared difference of the driver's steering from what was steered, over all steps; each episode anew."""
    device = next(driver.parameters()).device

    def batch(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)[None].to(device)

    errors = []
    for each in episodes:
        command, _ = driver(batch(each.images), batch(each.gauges), None, batch(each.elapsed))
        errors.append((driver.hands.controls(command) - batch(each.labels)).square().flatten().cpu())
    return float(torch.cat(errors).mean())


def explained_share(error: float, episodes: Sequence[Episode]) -> float:
    """Share of the steering's variance that a driver with this mean squared error explains, 1 - error / variance.

    Where what was steered is one number, it has no variance; 1, the largest variance within -1 to 1, stands for it, so
    that a smaller error still is a higher share.
    """
    labels = np.concatenate([episode.labels for episode in episodes])
    return 1 - error / (float(labels.var()) if np.ptp(labels) > 0 else 1.0)

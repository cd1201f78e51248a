"""A lap as a film: an .mp4 file, and a small GIF of a part of it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from envs.registration import TEST_SEEDS
from liquid_control.report.lap import STEPS_A_SECOND, Lap, LapResult, Screen, SmallScreen
from liquid_control.support.errors import UserError
from liquid_control.support.files import check_writable, write_atomically
from policies.driver import Driver

VIDEO_STEPS, GIF_STEPS = 2, 5
"""Environment steps from one frame to the next: 25 frames a second in a video, 10 in a GIF."""
GIF_BEGIN, GIF_END = 50, 600
"""The steps that a GIF shows: from the end of the opening zoom, eleven seconds."""
GIF_COLORS = 128


class VideoFile:
    """An .mp4 that is written under a temporary name and takes its own when it is whole.

    Args:
        path: of the file.
        size: (width, height) of the frames.
    """

    def __init__(self, path: Path, size: tuple[int, int]):
        check_writable(path, ".mp4")
        self.path, self._frames = path, 0
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        with _quiet_codecs():
            # H.264 plays in browsers too, but the codec is not in every build of OpenCV; MPEG-4 is.
            for codec in ("avc1", "mp4v"):
                self._writer = cv2.VideoWriter(
                    str(self._temporary), cv2.VideoWriter.fourcc(*codec), STEPS_A_SECOND / VIDEO_STEPS, size
                )
                if self._writer.isOpened():
                    return
        raise UserError(f"cannot write {path}: this build of OpenCV has no codec for .mp4 files.")

    def append(self, picture: np.ndarray) -> None:
        """Adds a frame, RGB."""
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def close(self, keep: bool) -> None:
        """Ends the file; without ``keep`` it is thrown away.

        Raises:
            UserError: if not every frame came to the disk.
        """
        self._writer.release()
        try:
            if keep:
                with _quiet_codecs():
                    written = int(cv2.VideoCapture(str(self._temporary)).get(cv2.CAP_PROP_FRAME_COUNT))
                if written != self._frames:
                    raise UserError(f"cannot write {self.path}: {written} of {self._frames} frames. Is the disk full?")
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def write_gif(path: Path, pictures: Sequence[np.ndarray]) -> None:
    """Writes pictures as an endless GIF with one palette for all frames, which keeps it small and free of flicker.

    Raises:
        UserError: if the file cannot be written.
    """
    sample = np.concatenate(pictures[:: max(1, len(pictures) // 12)])
    palette = Image.fromarray(sample).quantize(GIF_COLORS, Image.Quantize.MEDIANCUT)
    first, *rest = (Image.fromarray(p).quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures)
    content = io.BytesIO()
    duration = 1000 * GIF_STEPS // STEPS_A_SECOND
    first.save(content, "GIF", save_all=True, append_images=rest, duration=duration, loop=0)
    write_atomically(path, content.getvalue())


def record_lap(
    driver: Driver,
    video: Path | None = None,
    seed: int = TEST_SEEDS,
    gif: Path | None = None,
    max_steps: int | None = None,
) -> LapResult:
    """Drives one lap of the official environment and records it.

    Args:
        driver: who drives.
        video: the .mp4 file to write, or None.
        seed: of the track.
        gif: the .gif file to write, or None.
        max_steps: where to stop at the latest; None drives the lap to its end.

    Raises:
        UserError: if a file cannot be written; what stood there before is still there.
    """
    lap = Lap(driver, seed, max_steps)
    screen, small = Screen(driver, seed), SmallScreen(driver)
    if gif is not None:
        check_writable(gif, ".gif")
    file = None if video is None else VideoFile(video, (screen.width, screen.height))
    pictures: list[np.ndarray] = []
    whole = False
    try:
        frames = ([VIDEO_STEPS] if file else []) + ([GIF_STEPS] if gif else [])
        for moment in lap.moments(frames):
            if file is not None and moment.step % VIDEO_STEPS == 0:
                file.append(screen.draw(moment))
            if gif is not None and moment.step % GIF_STEPS == 0 and moment.step < GIF_END:
                pictures.append(small.draw(moment))
        whole = True
    finally:
        if file is not None:
            file.close(keep=whole)
    if gif is not None:
        skipped = min(GIF_BEGIN // GIF_STEPS, len(pictures) - 1)
        write_gif(gif, pictures[skipped:])
    return lap.result


@contextmanager
def _quiet_codecs() -> Iterator[None]:
    """OpenCV and FFmpeg print to stderr about each codec that they lack; trying one is no error."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)

"""``python -m liquid_control.watch CHECKPOINT``: a driver's lap, its neurons at work beside the road.

In a window, or as a video (``--video lap.mp4``) and a small GIF (``--gif lap.gif``) without one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import gymnasium
import numpy as np
import pygame
import torch
import tyro
from PIL import Image
from rich.console import Console

from agents.rollout import OFFICIAL, TEST_SEEDS
from liquid_control.checkpoint import write_atomically
from liquid_control.command import parse, run
from liquid_control.diagram import BACKGROUND, FAINT_INK, INK, Diagram, Gain, Line, Traces, activity, write
from liquid_control.errors import UserError
from liquid_control.output import check_writable
from liquid_control.ranges import Count, Seed
from policies.driver import Driver, load_driver

PROGRAM = "python -m liquid_control.watch"
STEPS_A_SECOND = 50
VIDEO_STEPS, GIF_STEPS = 2, 5
"""Environment steps from one frame to the next: 25 frames a second in a video, 10 in a GIF."""
GIF_BEGIN, GIF_END = 50, 600
"""The steps that a GIF shows: from the end of the opening zoom, eleven seconds."""
GIF_COLORS = 128


@dataclass(frozen=True)
class WatchConfig:
    """Shows a driver's lap, with its neurons beside the road, in a window or as a video (--video).

    Escape closes the window. After a lap, the next seed follows. Options can be put in a YAML file: --config FILE.
    """

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The folder of the driver, for example checkpoints/CarRacing-v3/cfc."""
    video: Path | None = None
    """An .mp4 file to record instead of opening a window."""
    gif: Path | None = None
    """A small .gif of part of the lap to record instead of opening a window."""
    seed: Seed = TEST_SEEDS
    """Seed of the track, by default the first test seed."""
    max_steps: Count | None = None
    """Environment steps after which to stop, 50 per second. By default the lap is driven to its end."""


@dataclass(frozen=True)
class Moment:
    """One step of a lap, seen from outside and from inside."""

    road: np.ndarray
    """The official rendering, (400, 600, 3) uint8."""
    sensory: np.ndarray
    """(inputs,) what the core is given: the eyes' features, then the gauges."""
    activity: dict[str, np.ndarray]
    """Of the neurons, by the names of the core's parts."""
    action: np.ndarray
    """(controls,) what the driver does about it."""
    step: int
    score: float
    """Before the action."""
    tiles: float
    """Share of the track's tiles visited so far."""


@dataclass
class Result:
    """How a lap ended."""

    seed: int
    score: float = 0.0
    steps: int = 0
    lap: bool = False
    """Whether every tile was visited."""

    def __str__(self) -> str:
        ending = "lap complete" if self.lap else "lap not completed"
        return f"seed {self.seed}: {ending}, score {self.score:.1f}, {self.steps} steps"


class Lap:
    """One lap of the official environment, as the moments that are asked for.

    Args:
        driver: who drives.
        seed: of the track.
        max_steps: where to stop at the latest.
    """

    def __init__(self, driver: Driver, seed: int, max_steps: int | None = None):
        if driver.config.env != OFFICIAL:
            raise UserError(f"only drivers of {OFFICIAL} can be watched; this one drives {driver.config.env}.")
        self.driver, self.max_steps = driver, max_steps
        self.result = Result(seed)

    def moments(self, every: Sequence[int]) -> Iterator[Moment]:
        """Drives; yields the moments whose step is a multiple of one of ``every``. Afterwards the result is known."""
        driver, result = self.driver, self.result
        env: gymnasium.Env[Any, Any] = gymnasium.make(driver.config.env, render_mode="rgb_array")
        try:
            observation, _ = env.reset(seed=result.seed)
            driver.reset()
            ended = False
            while not ended and result.steps != self.max_steps:
                action = driver.act(observation)
                if any(result.steps % steps == 0 for steps in every):
                    yield self._moment(env, observation, action)
                observation, reward, terminated, truncated, info = env.step(action)
                result.score += float(reward)
                result.steps += 1
                result.lap = bool(info.get("lap_finished", False))
                ended = terminated or truncated
        finally:
            env.close()

    @torch.inference_mode()
    def _moment(self, env: gymnasium.Env[Any, Any], observation: Any, action: np.ndarray) -> Moment:
        image, gauges = self.driver.view(observation)
        seen = self.driver.perceive(torch.from_numpy(image)[None], torch.from_numpy(gauges)[None])
        track: Any = env.unwrapped
        return Moment(
            road=np.asarray(env.render()),
            sensory=seen[0].numpy(),
            activity=activity(self.driver),
            action=action,
            step=self.result.steps,
            score=self.result.score,
            tiles=track.tile_visited_count / len(track.track),
        )


class Screen:
    """The full picture, 1280 × 720: the road, the network, the neurons' recent past, the score.

    Args:
        driver: whose lap it is.
        seed: of the track.
    """

    width, height = 1280, 720
    road, head = (720, 480), 80

    def __init__(self, driver: Driver, seed: int):
        self.title = f"{type(driver.core).__name__}, {driver.core.neuron_count} neurons"
        self.subtitle = f"{driver.parameter_counts()['total']:,} parameters, {driver.config.env}, seed {seed}"
        self.diagram = Diagram(driver, self.width - self.road[0], self.height - self.head)
        self.traces = Traces(self.diagram.columns, self.road[0], self.height - self.road[1])
        self.gain = Gain()

    def draw(self, moment: Moment) -> np.ndarray:
        """The picture (720, 1280, 3) of the next moment; to be called in the order of the lap."""
        width, height = self.road
        scaled = self.gain(moment.activity)
        self.traces.append(scaled)
        picture = np.full((self.height, self.width, 3), BACKGROUND, np.uint8)
        picture[:height, :width] = cv2.resize(moment.road, self.road, interpolation=cv2.INTER_CUBIC)
        picture[height:, :width] = self.traces.draw()
        picture[self.head :, width:] = self.diagram.draw(scaled, moment.sensory, moment.action)
        picture[: self.head, width:] = self._heading(moment)
        return picture

    def _heading(self, moment: Moment) -> np.ndarray:
        width = self.width - self.road[0]
        numbers = (
            ("score", f"{moment.score:.0f}"),
            ("tiles", f"{moment.tiles:.0%}"),
            ("time", f"{moment.step / STEPS_A_SECOND:.1f} s"),
        )
        lines = [Line((20, 28), self.title, 21, INK), Line((20, 54), self.subtitle, 13, FAINT_INK)]
        for index, (name, value) in enumerate(reversed(numbers)):
            right = width - 16 - 74 * index
            lines += [Line((right, 28), value, 21, INK, "rm"), Line((right, 54), name, 13, FAINT_INK, "rm")]
        return write(np.full((self.head, width, 3), BACKGROUND, np.uint8), lines)


class SmallScreen:
    """The picture for a GIF, 640 × 256: the road and the network, without words.

    Args:
        driver: whose lap it is.
    """

    width, height = 640, 256
    road = (384, 256)

    def __init__(self, driver: Driver):
        self.diagram = Diagram(driver, self.width - self.road[0], self.height, labels=False)
        self.gain = Gain()

    def draw(self, moment: Moment) -> np.ndarray:
        """The picture (256, 640, 3) of the next moment; to be called in the order of the lap."""
        road = cv2.resize(moment.road, self.road, interpolation=cv2.INTER_AREA)
        network = self.diagram.draw(self.gain(moment.activity), moment.sensory, moment.action)
        return np.concatenate([road, network], 1)


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
) -> Result:
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


class Window:
    """A window that shows pictures at the speed of the lap; Escape or its close button ends it.

    Args:
        title: of the window.
        size: (width, height) of the pictures.

    Raises:
        UserError: if there is no display to open it on.
    """

    def __init__(self, title: str, size: tuple[int, int]):
        try:
            pygame.display.init()
            self._surface = pygame.display.set_mode(size)
            screen = pygame.display.get_driver()
            reason = f"pygame draws to {screen!r}, which nobody sees" if screen in ("dummy", "offscreen") else ""
        except pygame.error as error:
            reason = str(error)
        if reason:
            raise UserError(f"no window can be opened here ({reason}). Record the lap instead: --video lap.mp4.")
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> bool:
        """Shows the next picture when its time has come; False once the window is to be closed."""
        self._surface.blit(pygame.image.frombuffer(picture.tobytes(), picture.shape[1::-1], "RGB"), (0, 0))
        pygame.display.flip()
        self._clock.tick(STEPS_A_SECOND / VIDEO_STEPS)
        return not any(
            event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE)
            for event in pygame.event.get()
        )

    def close(self) -> None:
        """Closes it."""
        pygame.display.quit()


def show_laps(driver: Driver, seed: int, max_steps: int | None, console: Console) -> None:
    """Drives one lap after the other in a window, from ``seed`` on, until the window is closed."""
    window = Window(f"liquid-control: {driver.config.policy}", (Screen.width, Screen.height))
    try:
        while True:
            lap, screen = Lap(driver, seed, max_steps), Screen(driver, seed)
            for moment in lap.moments([VIDEO_STEPS]):
                if not window.show(screen.draw(moment)):
                    return
            console.print(str(lap.result), highlight=False)
            seed += 1
    finally:
        window.close()


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


def main(arguments: Sequence[str]) -> None:
    """Shows or records a lap as the arguments say; see ``--help``."""
    config = parse(WatchConfig, arguments, PROGRAM)
    driver, console = load_driver(config.checkpoint), Console()
    if config.video is None and config.gif is None:
        show_laps(driver, config.seed, config.max_steps, console)
        return
    with console.status("driving and drawing"):
        result = record_lap(driver, config.video, config.seed, config.gif, config.max_steps)
    console.print(str(result), highlight=False)
    for path in (config.video, config.gif):
        if path is not None:
            console.print(f"written: {path}", highlight=False)


if __name__ == "__main__":
    run(main)

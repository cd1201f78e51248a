"""``python -m liquid_control.watch CHECKPOINT``: a driver's lap, its neurons at work beside the road.

In a window, or as a video (``--video lap.mp4``) and a small GIF (``--gif lap.gif``) without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pygame
import tyro

from envs.registration import TEST_SEEDS
from liquid_control.report.film import VIDEO_STEPS, record_lap
from liquid_control.report.lap import STEPS_A_SECOND, Lap, Screen
from liquid_control.support.command import parse, run
from liquid_control.support.console import Console
from liquid_control.support.errors import UserError
from liquid_control.support.ranges import Count, Seed
from policies.driver import Driver, load_driver

PROGRAM = "python -m liquid_control.watch"


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
            console.print(str(lap.result))
            seed += 1
    finally:
        window.close()


def main(arguments: Sequence[str]) -> None:
    """Shows or records a lap as the arguments say; see ``--help``."""
    config = parse(WatchConfig, arguments, PROGRAM)
    driver, console = load_driver(config.checkpoint), Console()
    if config.video is None and config.gif is None:
        show_laps(driver, config.seed, config.max_steps, console)
        return
    with console.status("driving and drawing"):
        result = record_lap(driver, config.video, config.seed, config.gif, config.max_steps)
    console.print(str(result))
    for path in (config.video, config.gif):
        if path is not None:
            console.print(f"written: {path}")


if __name__ == "__main__":
    run(main)

"""A driver's lap from outside and from inside: its moments, and the pictures that show road and neurons together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium
import numpy as np
import torch

from envs.registration import OFFICIAL
from liquid_control.report.diagram import BACKGROUND, FAINT_INK, INK, Diagram, Gain, Line, Traces, activity, write
from liquid_control.support.errors import UserError
from policies.driver import Driver

STEPS_A_SECOND = 50


@dataclass(frozen=True)
class LapMoment:
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
class LapResult:
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
        self.result = LapResult(seed)

    def moments(self, every: Sequence[int]) -> Iterator[LapMoment]:
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
    def _moment(self, env: gymnasium.Env[Any, Any], observation: Any, action: np.ndarray) -> LapMoment:
        image, gauges = self.driver.view(observation)
        seen = self.driver.perceive(torch.from_numpy(image)[None], torch.from_numpy(gauges)[None])
        track: Any = env.unwrapped
        return LapMoment(
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

    def draw(self, moment: LapMoment) -> np.ndarray:
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

    def _heading(self, moment: LapMoment) -> np.ndarray:
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

    def draw(self, moment: LapMoment) -> np.ndarray:
        """The picture (256, 640, 3) of the next moment; to be called in the order of the lap."""
        road = cv2.resize(moment.road, self.road, interpolation=cv2.INTER_AREA)
        network = self.diagram.draw(self.gain(moment.activity), moment.sensory, moment.action)
        return np.concatenate([road, network], 1)

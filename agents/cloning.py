"""Recurrent behaviour cloning: whole episodes, carried state, truncated backpropagation through time.

Every batch row is a stream: it plays one episode from its start, a stretch of ``time`` steps a batch, with the core's
state carried over and its gradient cut there; when the episode ends the row begins another, from the initial state.
So the driver is trained in the states that it will have at the wheel, not in a fresh state every second.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.divergence import check_finite
from agents.episodes import Episode
from liquid_control.support.optimizer_state import optimizer_tensors, part_of, restore_optimizer, to_save
from policies.driver import Driver


@dataclass
class Stretch:
    """One batch: ``time`` consecutive steps of every stream."""

    images: Tensor  # (B, T, height, width, 3) uint8
    gauges: Tensor  # (B, T, G)
    labels: Tensor  # (B, T, controls)
    mask: Tensor  # (B, T) bool, False after the end of the episode
    weight: Tensor  # (B, T) float32, how much the loss counts
    fresh: Tensor  # (B,) bool, True where the stream begins an episode here
    elapsed: Tensor | None = None  # (B, T) steps since the image before; None where each came one step after the other


class Streams:
    """Deals out episodes to parallel streams.

    Args:
        episodes: the recorded episodes.
        batch: number of streams.
        time: steps a stretch.
        rng: picks episodes and, for the first stretch, positions inside them, so that streams are out of step.
        warm_up: steps that are not graded after a start in the middle of an episode, where the state is unknown.
        augment: one after the other, each changes images (B, T, height, width, 3), gauges (B, T, G) and labels (B, T,
            controls) in place; it is told which streams begin an episode (B,), so that what it does to one lasts as
            long as that.
        weigh: how much each of the labels (B, T, controls) counts, (B, T); all alike without it.
        clock: when an episode's frames are seen: elapsed times (T,) -> the frames that are seen, as indices (S,), and
            the times that have then passed since the one before (S,). Drawn for every start of an episode; without it
            all frames are seen as they were recorded.
        weights: how often each episode is drawn, for each of its steps; all alike without them.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        batch: int,
        time: int,
        rng: np.random.Generator,
        warm_up: int = 8,
        augment: Sequence[Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]] = (),
        weigh: Callable[[np.ndarray], np.ndarray] | None = None,
        clock: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
        weights: Sequence[float] | None = None,
    ):
        self.episodes, self.time, self.rng, self.warm_up = episodes, time, rng, warm_up
        self.augment, self.weigh, self.clock = augment, weigh, clock
        self.tells_time = clock is not None or any(len(episode.elapsed) for episode in episodes)
        # Long episodes hold more to learn than short ones: draw them in proportion.
        steps = np.array([episode.steps for episode in episodes], float)
        steps *= 1.0 if weights is None else np.array(weights)
        self.share = steps / steps.sum()
        self.current = rng.choice(len(episodes), batch, p=self.share)
        self.seen = [self._see(index) for index in self.current]
        self.position = np.array([rng.integers(len(frames)) for frames, _ in self.seen])
        self.fresh = np.ones(batch, bool)
        self.ungraded = np.where(self.position > 0, warm_up, 0)

    def next(self) -> Stretch:
        """The next stretch of every stream."""
        batch, time, first = len(self.current), self.time, self.episodes[0]
        images = np.zeros((batch, time, *first.images.shape[1:]), np.uint8)
        gauges = np.zeros((batch, time, first.gauges.shape[1]), np.float32)
        labels = np.zeros((batch, time, first.labels.shape[1]), np.float32)
        elapsed = np.ones((batch, time), np.float32)
        length = np.zeros(batch, int)
        for row, (index, start, seen) in enumerate(zip(self.current, self.position, self.seen, strict=True)):
            episode = self.episodes[index]
            frames, times = (part[start : start + time] for part in seen)
            length[row] = len(frames)
            images[row, : len(frames)] = episode.images[frames]
            gauges[row, : len(frames)] = episode.gauges[frames]
            labels[row, : len(frames)] = episode.labels[frames]
            elapsed[row, : len(frames)] = times
        for augment in self.augment:
            augment(images, gauges, labels, self.fresh)
        tick = np.arange(time)
        mask = tick < length[:, None]
        weight = (mask & (tick >= self.ungraded[:, None])).astype(np.float32)
        if self.weigh is not None:
            weight *= self.weigh(labels)
        parts = (torch.from_numpy(part) for part in (images, gauges, labels, mask, weight, self.fresh))
        stretch = Stretch(*parts)
        if self.tells_time:
            stretch.elapsed = torch.from_numpy(elapsed)
        self._advance()
        return stretch

    def _advance(self) -> None:
        self.position = self.position + self.time
        self.fresh = np.array([at >= len(frames) for at, (frames, _) in zip(self.position, self.seen, strict=True)])
        self.ungraded = np.zeros_like(self.ungraded)
        for row in np.flatnonzero(self.fresh):
            self.current[row] = self.rng.choice(len(self.episodes), p=self.share)
            self.seen[row], self.position[row] = self._see(self.current[row]), 0

    def _see(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames of an episode in the order in which they are seen, and the time since the one before."""
        episode = self.episodes[index]
        times = episode.elapsed if len(episode.elapsed) else np.ones(episode.steps, np.float32)
        return (np.arange(episode.steps), times) if self.clock is None else self.clock(times)


class Cloner:
    """Trains a driver on stretches: Adam, clipped gradient norm, cosine schedule, and a running mean of the weights.

    The running mean, ``average``, is the driver to drive with: it is steadier than the weights of the last step.

    Args:
        driver: the driver to train, in place.
        learning_rate: peak of the schedule.
        total_steps: gradient steps of the whole job, for the schedule.
        control_weights: weight of each control in the squared error.
        decay: of the running mean of the weights.
    """

    WARM_UP = 30  # gradient steps until the learning rate is at its peak
    FLOOR = 0.02  # share of the peak at the end

    def __init__(
        self,
        driver: Driver,
        learning_rate: float,
        total_steps: int,
        control_weights: Sequence[float],
        decay: float = 0.995,
    ):
        self.driver = driver
        self.average = copy.deepcopy(driver).eval()
        self.learning_rate, self.total_steps, self.decay = learning_rate, total_steps, decay
        self.step = 0
        self.control_weights = torch.tensor(control_weights)
        self.optimizer = torch.optim.Adam(driver.parameters(), learning_rate, fused=True)

    def rate(self) -> float:
        """The learning rate of the present step."""
        warm = min(1.0, (self.step + 1) / self.WARM_UP)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.total_steps)))
        return self.learning_rate * warm * (self.FLOOR + (1 - self.FLOOR) * cosine)

    def train(self, streams: Streams, steps: int) -> float:
        """Takes ``steps`` gradient steps; returns the mean loss.

        Raises:
            DivergedError: if a weight is NaN or infinite afterwards.
        """
        driver, device = self.driver.train(), next(self.driver.parameters()).device
        state, losses = None, []
        for stretch in _ahead(streams, steps):
            begin = driver.core.initial_state(len(stretch.fresh))
            state = begin if state is None else torch.where(stretch.fresh.to(device)[:, None], begin, state.detach())
            elapsed = None if stretch.elapsed is None else stretch.elapsed.to(device)
            command, state = driver(
                stretch.images.to(device), stretch.gauges.to(device), state, elapsed, stretch.mask.to(device)
            )
            weight = stretch.weight.to(device)
            error = ((command - stretch.labels.to(device)) ** 2 * self.control_weights.to(device)).sum(-1)
            loss = (error * weight).sum() / weight.sum().clamp(min=1)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(driver.parameters(), 1.0)
            self.optimizer.step()
            self._average()
            self.step += 1
            losses.append(loss.item())
        check_finite(driver, f"{self.step:,} gradient steps")
        return float(np.mean(losses))

    @torch.no_grad()
    def _average(self) -> None:
        # Short memory at first: the early weights are not worth remembering.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for mean, weight in zip(self.average.parameters(), self.driver.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is needed to go on as if never stopped; see :meth:`restore`."""
        tensors = {f"driver.{name}": value for name, value in self.driver.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        return to_save(tensors | optimizer_tensors(self.driver, self.optimizer))

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Takes back what :meth:`tensors` gave after ``step`` gradient steps."""
        self.driver.load_state_dict(part_of(tensors, "driver."))
        self.average.load_state_dict(part_of(tensors, "average."))
        restore_optimizer(self.driver, self.optimizer, tensors)
        self.step = step


def _ahead(streams: Streams, count: int) -> Iterator[Stretch]:
    """The next stretches, each of them put together while what was done with the one before is still going on."""
    with ThreadPoolExecutor(1) as other:
        coming = other.submit(streams.next)
        for left in reversed(range(count)):
            stretch = coming.result()
            if left:
                coming = other.submit(streams.next)
            yield stretch

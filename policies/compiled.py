"""A driver without torch's overhead: one raw observation in, one action out, NumPy on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from liquid_control.kernels import kernel_device
from liquid_control.nn import LiquidLayer
from policies.cruise import Cruise
from policies.eyes import CONTRAST, LEAST_CONTRAST, ConvEyes, GaugeScale
from policies.hands import Hands
from policies.repeat import build_repeat
from policies.view import View

See = Callable[[np.ndarray], np.ndarray]
"""(height, width, 3) uint8 -> (features,); the array is overwritten by the next call."""


class Driven(Protocol):
    """What is compiled of a `policies.driver.Driver`."""

    view: View
    eyes: ConvEyes | None
    scale: GaugeScale | None
    core: LiquidLayer
    hands: Hands
    cruise: Cruise | None

    @property
    def inputs(self) -> int:
        """Number of inputs of the core."""

    @property
    def action_repeat(self) -> int:
        """Environment steps that an action lasts."""


class CompiledDriver:
    """A driver that carries one drive's state; it gives the actions of :meth:`policies.driver.Driver.act`.

    The weights are those that the driver had when this was made: later changes of the driver don't reach it.

    Args:
        driver: eyes of float32 and any core; a core without a kernel is stepped by torch.
    """

    def __init__(self, driver: Driven):
        self.view = driver.view
        self.see = compile_eyes(driver.eyes) if driver.eyes else None
        self.scale = _compile_scale(driver.scale) if driver.scale else None
        self.core = driver.core.compile_step()
        self.command = driver.hands.grip()
        self.cruise = Cruise(driver.cruise.speed, driver.cruise.comfort) if driver.cruise else None
        self._repeat = build_repeat(driver.action_repeat, self.view)
        features = driver.eyes.features if driver.eyes else 0
        self._inputs = np.empty(driver.inputs, np.float32)
        self._seen, self._gauges = self._inputs[:features], self._inputs[features:]

    @property
    def state(self) -> np.ndarray:
        """The core's state (S,) after the last tick. Writing into it changes the next one."""
        return self.core.state

    def reset(self) -> None:
        """Starts a new drive: back to the core's initial state."""
        self.core.reset()
        self._repeat.reset()
        if self.cruise is not None:
            self.cruise.reset()

    @property
    def holds(self) -> bool:
        """Whether the next observation is not looked at, because the action still lasts."""
        return self._repeat.holds

    def act(self, observation: Any, elapsed: float | None = None) -> np.ndarray:
        """One raw observation of the environment -> one action within the action space; see `Driver.act`.

        Args:
            observation: as the official environment gives it.
            elapsed: time since the previous call in steps; None is what the observation tells, or else one step.

        Raises:
            ValueError: if the observation has another shape or dtype, or elapsed is negative or not finite.
        """
        elapsed = self.view.elapsed(observation) if elapsed is None else elapsed
        action = self._repeat(self._decide, observation, elapsed)
        return action if self.cruise is None else self.cruise(action, observation)

    def act_on(self, seen: tuple[np.ndarray, np.ndarray], elapsed: float = 1.0) -> np.ndarray:
        """:meth:`act` on what the view made of an observation: image (height, width, 3) uint8 and gauges (G,)."""
        return self._repeat(self._decide_on, seen, elapsed)

    def _decide(self, observation: Any, elapsed: float) -> np.ndarray:
        return self.tick(*self.view(observation), elapsed)

    def _decide_on(self, seen: tuple[np.ndarray, np.ndarray], elapsed: float) -> np.ndarray:
        return self.tick(*seen, elapsed)

    def tick(self, image: np.ndarray, gauges: np.ndarray, elapsed: float = 1.0) -> np.ndarray:
        """A new action from what the view made of an observation: image (height, width, 3) uint8 and gauges (G,)."""
        if self.see is not None:
            self._seen[:] = self.see(image)
        self._gauges[:] = gauges if self.scale is None else self.scale(gauges)
        return self.command(self.core(self._inputs, elapsed))


def _compile_scale(scale: GaugeScale) -> See:
    mean = scale.mean.cpu().numpy().copy()
    deviation = np.sqrt(scale.variance.cpu().numpy() + 1e-6)
    return lambda gauges: np.clip((gauges - mean) / deviation, -scale.LIMIT, scale.LIMIT)


def compile_eyes(eyes: ConvEyes) -> See:
    """The eyes as a function of one image, by :mod:`liquid_control.kernels.convolution`, else by torch."""
    if kernel_device(eyes.linear.weight) == "cpu":
        return _kernel_eyes(eyes)

    def see(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return eyes(torch.from_numpy(image)[None])[0].numpy()

    return see


def _kernel_eyes(eyes: ConvEyes) -> See:
    from liquid_control.kernels import convolution as kernel  # without Numba, there is nothing to import

    height, width, channels = eyes.image_shape
    first = image = kernel.room(height, width, channels, np.dtype(np.float32))
    layers = []
    for layer in eyes.convolutions:
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        weight, bias = (parameter.detach().cpu().numpy() for parameter in layer.parameters())
        size, stride, outputs = layer.kernel_size[0], layer.stride[0], layer.out_channels
        height, width = (kernel.image_size(length, size, stride) for length in (height, width))
        out = kernel.room(height, width, outputs, np.dtype(np.float32))
        layers.append((image, channels, *kernel.pack_convolution(weight, bias), stride, out, width, outputs))
        image, channels = out, outputs
    # To the linear layer the whole image is one pixel, whose channels torch counts before rows and columns.
    weight, bias = (parameter.detach().cpu().numpy() for parameter in eyes.linear.parameters())
    by_pixel = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)
    weight, bias = kernel.pack_convolution(by_pixel, bias)
    features = np.empty(bias.size, np.float32)

    def see(pixels: np.ndarray) -> np.ndarray:
        if eyes.encoding == "rgb":
            kernel.normalise(pixels.reshape(len(pixels), -1), first)
        else:
            kernel.standardise(pixels.reshape(len(pixels), -1), CONTRAST, LEAST_CONTRAST, first)
        for layer in layers:
            kernel.convolve(*layer)
        kernel.connect(image, width * channels, weight, bias, features)
        return features[: eyes.features]

    return see

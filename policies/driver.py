"""A driver: observation -> eyes -> liquid core -> hands -> action. Free of any agent's framework.

The same object is cloned, trained, evaluated, watched and run; every agent sees it through an adapter of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.checkpoint import load_checkpoint, save_checkpoint
from liquid_control.errors import UserError
from liquid_control.nn import LiquidLayer, build_layer
from policies.compiled import CompiledDriver
from policies.eyes import ConvEyes
from policies.hands import AffineHands
from policies.registry import build_core
from policies.view import build_view


@dataclass(frozen=True)
class DriverConfig:
    """What a driver is made of."""

    env: str = "CarRacing-v3"
    """The environment whose raw observations the driver sees."""
    policy: str = "cfc"
    """The core, a name of the registry: cfc, ltc, lan, leaky, plastic, lstm, gru or mlp."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that core, such as mode or ode_unfolds."""
    playfield: tuple[int, int] = (28, 32)
    """(height, width) that the playfield is resized to before the eyes see it."""
    channels: tuple[int, ...] = (8, 16, 16)
    """Output channels of the eyes' convolutions."""
    kernels: tuple[int, ...] = (5, 3, 3)
    """Kernel sizes of the eyes' convolutions."""
    features: int = 32
    """Features that the eyes give to the core, beside the gauges."""


class Driver(nn.Module):
    """Eyes, a liquid core and hands, with the state of the drive that is going on.

    Driving: :meth:`reset`, then :meth:`act` on every raw observation. Training: :meth:`forward` on whole sequences of
    what :attr:`view` makes of the observations.

    Args:
        config: what it is made of.
        core: a layer to use instead of building one by ``config.policy``.
    """

    def __init__(self, config: DriverConfig, core: LiquidLayer | None = None):
        super().__init__()
        self.config = config
        self.view = build_view(config.env, config.playfield)
        self.eyes = ConvEyes(self.view.image_shape, config.channels, config.kernels, config.features)
        inputs = config.features + len(self.view.gauges)
        self.core = core or build_core(config.policy, inputs, len(self.view.controls), config.options)
        self.hands = AffineHands(self.view.low, self.view.high)
        self.state: Tensor | None = None

    def forward(
        self,
        image: Tensor,
        gauges: Tensor,
        state: Tensor | None = None,
        elapsed: Tensor | float | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Whole sequences at once.

        Args:
            image: (B, T, height, width, 3) uint8, from :attr:`view`.
            gauges: (B, T, G) from :attr:`view`.
            state: (B, S) of the core, or None for the initial one.
            elapsed: time since the previous step in environment steps, as the layer contract has it.
            mask: (B, T), True where the step is real.

        Returns:
            Unclipped commands (B, T, controls) and the state (B, S) after the last step.
        """
        batch, time = image.shape[:2]
        seen = self.eyes(image.flatten(0, 1)).unflatten(0, (batch, time))
        motor, state = self.core(torch.cat([seen, gauges], -1), state, elapsed, mask)
        return self.hands(motor), state

    def tick(
        self, image: Tensor, gauges: Tensor, state: Tensor, elapsed: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """One control step for a batch: image (B, height, width, 3), gauges (B, G) -> controls (B, 3), state (B, S)."""
        motor, state = self.core.step(torch.cat([self.eyes(image), gauges], -1), state, elapsed)
        return self.hands.clip(self.hands(motor)), state

    def reset(self) -> None:
        """Starts a new drive: forgets the state."""
        self.state = None

    @torch.inference_mode()
    def act(self, observation: np.ndarray, elapsed: float | None = None) -> np.ndarray:
        """One raw observation of the environment -> one action (controls,) float32 within the action space.

        Args:
            observation: as the official environment gives it; for CarRacing-v3 (96, 96, 3) uint8.
            elapsed: time since the previous call in environment steps; None is one step.

        Raises:
            ValueError: if the observation has another shape or dtype.
        """
        image, gauges = self.view(observation)
        if self.state is None:
            self.state = self.core.initial_state(1)
        action, self.state = self.tick(
            torch.from_numpy(image)[None], torch.from_numpy(gauges)[None], self.state, elapsed
        )
        return action[0].numpy()

    def compile_step(self) -> CompiledDriver:
        """This driver for one drive at a time, NumPy in and out, with the weights that it has now."""
        return CompiledDriver(self)

    def neurons(self) -> dict[str, np.ndarray]:
        """The state of the drive that is going on, by the names of the core's parts; before the first step, zeros."""
        state = self.core.initial_state(1) if self.state is None else self.state
        return {name: part[0].detach().numpy() for name, part in self.core.unpack(state).items()}

    def parameter_counts(self) -> dict[str, int]:
        """Parameters in use of eyes, core and hands, and their sum; synapses that the wiring leaves out don't count."""
        counts = {
            "eyes": sum(parameter.numel() for parameter in self.eyes.parameters()),
            "core": self.core.parameter_count(),
            "hands": sum(parameter.numel() for parameter in self.hands.parameters()),
        }
        return counts | {"total": sum(counts.values())}

    def describe(self) -> str:
        """One line: neurons and parameter counts, so that "19 neurons" never hides a large backbone."""
        counts = self.parameter_counts()
        return (
            f"{self.config.policy}: {self.core.neuron_count} neurons; parameters: eyes {counts['eyes']:,}, "
            f"core {counts['core']:,}, hands {counts['hands']:,}, total {counts['total']:,}"
        )

    def save(self, folder: str | os.PathLike[str], record: Mapping[str, Any] | None = None, card: str | None = None):
        """Saves the driver as a checkpoint; ``record`` (JSON) tells how it was trained and what it scored."""
        config = {
            "kind": "driver",
            "driver": asdict(self.config),
            "core": self.core.config,
            "neurons": self.core.neuron_count,
            "parameters": self.parameter_counts(),
            "record": dict(record or {}),
        }
        save_checkpoint(folder, self.state_dict(), config, card)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Driver:
        """Loads a driver from a checkpoint folder, on the CPU, ready to drive.

        Raises:
            UserError: if the checkpoint is missing, damaged, of another version, or not a driver.
        """
        tensors, config = load_checkpoint(folder)
        if config.get("kind") != "driver":
            raise UserError(f"{folder} holds a {config.get('kind')!r}, not a driver.")
        try:
            fields = config["driver"]
            fields |= {name: tuple(fields[name]) for name in ("playfield", "channels", "kernels")}
            driver = cls(DriverConfig(**fields), core=build_layer(config["core"]))
            driver.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder} does not describe a driver of this release: {error}") from None
        return driver.eval()


def load_driver(folder: str | os.PathLike[str]) -> Driver:
    """Loads a trained driver: ``reset()`` it, then ``act(observation)`` on the environment's raw observations.

    Args:
        folder: a checkpoint, for example ``checkpoints/CarRacing-v3/cfc``.

    Raises:
        UserError: if there is no usable checkpoint.
    """
    return Driver.load(folder)

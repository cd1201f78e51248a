"""A driver: observation -> eyes -> liquid core -> hands -> action. Free of any agent's framework.

The same object is cloned, trained, evaluated, watched and run; every agent sees it through an adapter of its own.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from liquid_control.nn import LiquidLayer, build_layer
from liquid_control.support.checkpoint import load_checkpoint, load_module, save_checkpoint
from liquid_control.support.errors import UserError
from liquid_control.support.schema import check_sizes, shortened, validated
from policies.compiled import CompiledDriver
from policies.cruise import Cruise
from policies.eyes import ConvEyes, Encoding, GaugeScale
from policies.hands import AffineHands, Bound, ChoiceHands, Hands, PedalHands
from policies.registry import build_core
from policies.repeat import build_repeat
from policies.view import VIEWS, View, build_view

CAR_CONTROLS = ("steer", "gas", "brake")
Side = Annotated[int, Ge(0), Le(1024)]
Width = Annotated[int, Ge(1), Le(4096)]
"""Bounds of what a checkpoint may ask for: no picture here is larger, and nobody needs more features."""


@dataclass(frozen=True)
class DriverConfig:
    """What a driver is made of."""

    env: str = "CarRacing-v3"
    """The environment whose raw observations the driver sees."""
    policy: str = "cfc"
    """The core, a name of the registry: cfc, ltc, lan, hybrid, leaky, plastic, scan, lstm, gru or mlp."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that core, such as mode or ode_unfolds."""
    playfield: tuple[Side, Side] = (0, 0)
    """(height, width) that the playfield, or the land ahead, is resized to before the eyes see it; (0, 0) stands for
    what suits the environment."""
    channels: tuple[Width, ...] = (8, 16, 16)
    """Output channels of the eyes' convolutions."""
    kernels: tuple[Side, ...] = (5, 3, 3)
    """Kernel sizes of the eyes' convolutions."""
    features: Width = 32
    """Features that the eyes give to the core, beside the gauges."""
    pedals: bool = False
    """Whether gas and brake are one motor neuron's two sides; otherwise each control has its own."""
    encoding: Encoding = "rgb"
    """How the eyes see levels of colour: rgb, as they are, or norm, relative to the picture's own mean and contrast."""
    bound: Bound = "clip"
    """How commands are kept within the controls' range: clip or tanh."""
    action_repeat: Annotated[int, Ge(1), Le(1000)] = 1
    """Environment steps that an action lasts; the driver looks at every so many observations only."""
    vector: Mapping[str, Any] | None = None
    """Where observations are vectors, the arguments of `policies.view.VectorView`; such a driver has no eyes."""
    speed: Annotated[float, Gt(0), Lt(1000)] = 15.0
    """Udacity: miles an hour that the pedal keeps."""

    def __post_init__(self) -> None:
        if self.playfield == (0, 0) and self.env in VIEWS:
            object.__setattr__(self, "playfield", VIEWS[self.env].default_size)


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
        self.view = build_view(config.env, config.playfield, config.vector)
        self.eyes: ConvEyes | None = None
        self.scale: GaugeScale | None = None
        if config.vector is None:
            self.eyes = ConvEyes(
                self.view.image_shape, config.channels, config.kernels, config.features, config.encoding
            )
        else:
            self.scale = GaugeScale(len(self.view.gauges))
        self.hands = _build_hands(config, self.view)
        self.core = core or build_core(config.policy, self.inputs, self.hands.motors, config.options)
        self.state: Tensor | None = None
        self.cruise = Cruise(config.speed) if self.view.cruises else None
        self._repeat = build_repeat(self.action_repeat, self.view)

    @property
    def inputs(self) -> int:
        """Number of inputs of the core: the eyes' features and the gauges."""
        return (self.eyes.features if self.eyes else 0) + len(self.view.gauges)

    @property
    def action_repeat(self) -> int:
        """Environment steps that an action lasts."""
        return self.config.action_repeat

    def perceive(self, image: Tensor, gauges: Tensor) -> Tensor:
        """What the core is driven by: image (N, height, width, 3) and gauges (N, G) -> (N, :attr:`inputs`)."""
        if self.eyes is not None:
            return torch.cat([self.eyes(image), gauges], -1)
        assert self.scale is not None
        return self.scale(gauges)

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
        seen = self.perceive(image.flatten(0, 1), gauges.flatten(0, 1)).unflatten(0, gauges.shape[:2])
        motor, state = self.core(seen, state, elapsed, mask)
        return self.hands(motor), state

    def tick(
        self, image: Tensor, gauges: Tensor, state: Tensor, elapsed: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """One control step for a batch: image (B, height, width, 3), gauges (B, G) -> actions (B, …), state (B, S)."""
        motor, state = self.core.step(self.perceive(image, gauges), state, elapsed)
        return self.hands.controls(self.hands(motor)), state

    @property
    def holds(self) -> bool:
        """Whether the next observation is not looked at, because the action still lasts."""
        return self._repeat.holds

    def reset(self) -> None:
        """Starts a new drive: forgets the state."""
        self.state = None
        self._repeat.reset()
        if self.cruise is not None:
            self.cruise.reset()

    @torch.inference_mode()
    def act(self, observation: Any, elapsed: float | None = None) -> np.ndarray:
        """One raw observation of the environment -> one action within the action space.

        An action lasts ``config.action_repeat`` environment steps: the observations between are not looked at.

        Args:
            observation: as the official environment gives it; for CarRacing-v3 (96, 96, 3) uint8, for the Udacity
                simulator a dictionary of ``image``, ``speed`` and ``elapsed``.
            elapsed: time since the previous call in steps; None is what the observation tells, or else one step.

        Returns:
            (controls,) float32; where actions are chosen, the number of one; for the Udacity simulator steering and
            the pedal that keeps the speed of :attr:`cruise`.

        Raises:
            ValueError: if the observation has another shape or dtype.
        """
        elapsed = self.view.elapsed(observation) if elapsed is None else elapsed
        action = self._repeat(self._decide, observation, elapsed)
        return action if self.cruise is None else self.cruise(action, observation)

    def _decide(self, observation: Any, elapsed: float) -> np.ndarray:
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
            "eyes": sum(parameter.numel() for parameter in self.eyes.parameters()) if self.eyes else 0,
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
            raise UserError(f"{folder} holds {_what_it_is(folder, config)}")
        if not isinstance(config.get("core"), Mapping):
            raise UserError(f"{folder} does not describe a driver of this release: its core is no layer's config.")
        described = validated(DriverConfig, config.get("driver"), f"the driver in {folder}")
        check_sizes(config["core"], f"the core in {folder}")
        check_sizes(described.vector or {}, f"the view in {folder}")
        try:
            return load_module(lambda: cls(described, build_layer(config["core"])), tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError, OverflowError) as error:
            reason = shortened(error)
            raise UserError(f"{folder} does not describe a driver of this release: {reason}") from None


def load_driver(folder: str | os.PathLike[str]) -> Driver:
    """Loads a trained driver: ``reset()`` it, then ``act(observation)`` on the environment's raw observations.

    Args:
        folder: a checkpoint, for example ``checkpoints/CarRacing-v3/cfc``.

    Raises:
        UserError: if there is no usable checkpoint.
    """
    return Driver.load(folder)


def _what_it_is(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> str:
    """Of a checkpoint that is no driver, and which command takes it."""
    if "language_model" in config:
        speaks = f"python -m liquid_control.lm generate {shlex.quote(str(folder))}"
        return f"a language model, not a driver. It speaks with: {speaks}"
    example = "A driver is, for example, checkpoints/CarRacing-v3/cfc."
    if "kind" not in config:
        return f"no driver: its config does not say of what kind it is. {example}"
    return f"a {shortened(repr(config['kind']))}, not a driver. {example}"


def _build_hands(config: DriverConfig, view: View) -> Hands:
    if config.pedals and view.controls != CAR_CONTROLS:
        raise UserError(f"pedals are for {', '.join(CAR_CONTROLS)}; {config.env} has {', '.join(view.controls)}.")
    if view.choices:
        return ChoiceHands(view.choices)
    return PedalHands(config.bound) if config.pedals else AffineHands(view.low, view.high, config.bound)

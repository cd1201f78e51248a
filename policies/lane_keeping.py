"""The lane-keeping network of the neural circuit policies paper (Lechner et al. 2020), to the last parameter.

A camera frame becomes 32 features, 79,420 parameters; 19 liquid neurons with 252 synapses, 1,065 parameters, make the
road's curvature of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.nn import LTC, Wiring

FRAME = (78, 200, 3)
"""(height, width, channels) of a frame: cropped from the camera's picture and resized."""

LANE_KEEPING_WIRING = Wiring.ncp(
    inter_neurons=12,
    command_neurons=6,
    motor_neurons=1,
    sensory_fanout=6,
    inter_fanout=4,
    recurrent_command_synapses=6,
    motor_fanin=6,
    seed=20190120,
)
"""The circuit of the paper's figures, by the authors' seed; on 32 inputs it has 252 synapses."""


class LaneKeepingEyes(nn.Module):
    """The paper's convolutional head: (N, 78, 200, 3) frames -> (N, 32) features, each ≥ 0.

    Five convolutions, ReLU after each. Each of the 8 maps that they end in has a small dense layer of its own that
    makes 4 features of it, so that a feature belongs to a map.
    """

    #: (output channels, kernel size, stride) of each convolution.
    convolution_shapes = ((24, 5, 2), (36, 5, 2), (48, 3, 2), (64, 3, 1), (8, 3, 1))
    features_per_map = 4

    def __init__(self) -> None:
        super().__init__()
        height, width, depth = FRAME
        self.convolutions = nn.ModuleList()
        for out, kernel, stride in self.convolution_shapes:
            self.convolutions.append(nn.Conv2d(depth, out, kernel, stride))
            height, width, depth = -(-height // stride), -(-width // stride), out
        self.maps = nn.ModuleList(nn.Linear(height * width, self.features_per_map) for _ in range(depth))
        self.features = depth * self.features_per_map
        for layer in (*self.convolutions, *self.maps):
            nn.init.constant_(layer.bias, 0.01)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, 78, 200, 3), uint8 or floating point of any scale -> (N, 32).

        Raises:
            ValueError: if the frames have another shape.
        """
        if frames.dim() != 4 or frames.shape[1:] != FRAME:
            raise ValueError(f"frames have shape {tuple(frames.shape)}, expected (N, {', '.join(map(str, FRAME))}).")
        x = standardize(frames.to(next(self.parameters()).dtype)).permute(0, 3, 1, 2)
        for convolution, (_, kernel, stride) in zip(self.convolutions, self.convolution_shapes, strict=True):
            x = F.relu(convolution(_pad_same(x, kernel, stride)))
        maps = x.flatten(2).unbind(1)  # 8 of (N, 250)
        return torch.cat([F.relu(dense(one)) for dense, one in zip(self.maps, maps, strict=True)], -1)


class LaneKeepingDriver(nn.Module):
    """Frames in, road curvature out: :class:`LaneKeepingEyes` and 19 LTC neurons.

    >>> driver = LaneKeepingDriver()
    >>> driver.parameter_counts()
    {'eyes': 79420, 'core': 1065, 'total': 80485}
    """

    def __init__(self) -> None:
        super().__init__()
        self.eyes = LaneKeepingEyes()
        # Without input and output maps: the paper counts four parameters a synapse and three a neuron, and no others.
        self.core = LTC(self.eyes.features, LANE_KEEPING_WIRING, input_mapping=None, output_mapping=None)

    def forward(
        self,
        frames: Tensor,
        state: Tensor | None = None,
        elapsed: float | Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Whole sequences of frames.

        Args:
            frames: (B, T, 78, 200, 3), uint8 or floating point.
            state: (B, 19) of the core; None is zero.
            elapsed: time since the previous frame in frames (1/30 s), as the layer contract has it.
            mask: (B, T), True where the frame is real.

        Returns:
            The curvature (B, T, 1) in the units of the training target (the paper's: 1000/m) and the state (B, 19).
        """
        batch, time = frames.shape[:2]
        seen = self.eyes(frames.flatten(0, 1)).unflatten(0, (batch, time))
        return self.core(seen, state, elapsed, mask)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters in use of eyes and core, and their sum."""
        counts = {
            "eyes": sum(parameter.numel() for parameter in self.eyes.parameters()),
            "core": self.core.parameter_count(),
        }
        return counts | {"total": sum(counts.values())}


def standardize(frames: Tensor) -> Tensor:
    """Each frame (N, height, width, channels) to mean 0 and variance 1; one of a single colour to zero."""
    deviation, mean = torch.std_mean(frames, (1, 2, 3), correction=0, keepdim=True)
    # The floor is the deviation of a uint8 frame with one pixel off by one, as in TensorFlow.
    return (frames - mean) / deviation.clamp(min=frames[0].numel() ** -0.5)


def _pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pads (N, C, height, width) so that a strided convolution gives ceil(size / stride); the odd pixel goes behind."""
    pads: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)

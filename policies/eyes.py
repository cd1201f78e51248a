"""Eyes: a small convolutional head from the playfield to the features that the core's sensory neurons receive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from liquid_control.kernels import kernel_device
from liquid_control.nn.parameters import is_hooked

PictureSide = Annotated[int, Ge(17), Le(1024)]
"""Pixels of a side of the image: of less the convolutions see nothing, more no checkpoint may ask for."""

Encoding = Literal["rgb", "norm"]
"""How pictures become numbers: as they are, or each relative to its own mean and contrast."""
CONTRAST, LEAST_CONTRAST = 0.3, 4.0
"""Of the encoding "norm": the spread of its numbers, and levels that count as no contrast."""


class ConvEyes(nn.Module):
    """Three strided convolutions and one linear layer, ReLU between: (N, height, width, 3) pixels -> (N, features).

    The convolutions are given, of the levels p of a pixel's channel c,

        rgb     p / 255 - 1/2
        norm    0.3 (p - mean_c) / (rms + 4)    mean_c of the channel over the picture, rms of all p - mean_c

    so to a driver that sees "norm" a picture that is darker, of less contrast, or in even fog is the same picture.

    Args:
        image_shape: (height, width, channels) of the uint8 image.
        channels: output channels of the convolutions.
        kernels: their kernel sizes; every stride is 2.
        features: width of the output.
        encoding: "rgb" or "norm".
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (8, 16, 16),
        kernels: Sequence[int] = (5, 3, 3),
        features: int = 32,
        encoding: Encoding = "rgb",
    ):
        super().__init__()
        height, width, depth = image_shape
        layers: list[nn.Module] = []
        for out, kernel in zip(channels, kernels, strict=True):
            layers += [nn.Conv2d(depth, out, kernel, stride=2), nn.ReLU()]
            height, width, depth = (height - kernel) // 2 + 1, (width - kernel) // 2 + 1, out
        if height < 1 or width < 1:
            raise ValueError(f"an image of shape {tuple(image_shape)} is too small for kernels {tuple(kernels)}.")
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(height * width * depth, features)
        self.image_shape, self.features, self.encoding = tuple(image_shape), features, encoding

    def forward(self, image: Tensor) -> Tensor:
        """(N, height, width, 3) uint8 -> (N, features), each feature in [-1, 1]."""
        x = self._convolve(self.normalise(image))  # (N, channels, height', width')
        return torch.tanh(self.linear(x.flatten(1)))

    def _convolve(self, levels: Tensor) -> Tensor:
        layers = cast(list[nn.Conv2d], [layer for layer in self.convolutions if not isinstance(layer, nn.ReLU)])
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        # The kernel gives no gradient of pictures, and knows neither hooks nor what stands in the place of a layer.
        ours = not levels.requires_grad and all(type(layer) is nn.Conv2d for layer in layers)
        ours = ours and {levels.dtype, *(part.dtype for part in parameters)} in ({torch.float32}, {torch.float64})
        if not ours or any(map(is_hooked, self.convolutions)) or kernel_device(levels, *parameters) != "cpu":
            seen: Tensor = self.convolutions(levels)
            return seen
        from liquid_control.kernels import convolution_batch as kernel  # without Numba, there is nothing to import

        shapes = [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in layers]
        plan = kernel.plan_of(self.image_shape, shapes)
        return kernel.see(plan, levels.permute(0, 2, 3, 1).contiguous(), parameters).permute(0, 3, 1, 2)

    def normalise(self, image: Tensor) -> Tensor:
        """(N, height, width, 3) uint8 -> (N, 3, height, width), encoded: what the convolutions are given."""
        weight = self.linear.weight
        common = (image.dtype, weight.dtype) == (torch.uint8, torch.float32)
        if self.encoding == "norm" and common and kernel_device(image, weight) == "cpu":
            return _standardise(image)
        levels = image.permute(0, 3, 1, 2).to(weight.dtype)
        if self.encoding == "rgb":
            return levels.div(255).sub(0.5)
        levels = levels - levels.mean((2, 3), keepdim=True)
        return levels * (CONTRAST / (levels.square().mean((1, 2, 3), keepdim=True).sqrt() + LEAST_CONTRAST))


def _standardise(image: Tensor) -> Tensor:
    """The encoding "norm" of plain pictures on the CPU in two passes over them, where torch takes nine."""
    from liquid_control.kernels import convolution as kernel  # without Numba, there is nothing to import

    count, height, width, depth = image.shape
    pixels, levels = image.contiguous().numpy(), torch.empty(image.shape)
    rows = count, height, width * depth
    kernel.standardise_all(pixels.reshape(rows), CONTRAST, LEAST_CONTRAST, levels.numpy().reshape(rows))
    return levels.permute(0, 3, 1, 2)


class GaugeScale(nn.Module):
    """Brings gauges of unknown units to zero mean and unit variance, by what was seen of them so far.

    Mean and variance are part of the weights: a driver brings them along, and they change only by :meth:`update`.

    Args:
        size: number of gauges.
    """

    LIMIT = 10.0  # standard deviations that are passed on

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, gauges: Tensor) -> Tensor:
        """(..., size) in the environment's units -> (..., size) in standard deviations."""
        return ((gauges - self.mean) / (self.variance + 1e-6).sqrt()).clamp(-self.LIMIT, self.LIMIT)

    @torch.no_grad()
    def update(self, gauges: Tensor) -> None:
        """Takes (N, size) more into account (Chan et al. 1983: means and variances of two samples joined)."""
        number, count = len(gauges), float(self.count)
        share, shift = number / (count + number), gauges.mean(0) - self.mean
        own = gauges.var(0, unbiased=False)
        self.variance += share * (own - self.variance) + share * (1 - share) * shift**2
        self.mean += share * shift
        self.count += number

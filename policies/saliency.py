"""What the eyes look at: VisualBackProp."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from policies.eyes import ConvEyes


@torch.inference_mode()
def saliency(eyes: ConvEyes, image: np.ndarray) -> np.ndarray:
    """Which pixels of an image the eyes' convolutions respond to (VisualBackProp, Bojarski et al. 2016, §3).

    With A_l the mean over its channels of convolution l's output after the ReLU, and L the last one:

        M_L = A_L,    M_l = A_l ⊙ up_{l+1}(M_{l+1}),    mask = up_1(M_1) scaled to [0, 1]

    up_l brings a map from the size of convolution l's output to that of its input: a transposed convolution of the same
    kernel size and stride, all weights one. Where a stride is no divisor of the kernel size, neighbouring
    pixels are reached by different numbers of windows, which would show as a grid: unlike the paper's, ours divides by
    that number, so that a map of one value stays one. Source: arXiv 1611.05418.

    Args:
        eyes: the driver's.
        image: (height, width, 3) uint8, what the driver's view made of an observation.

    Returns:
        (height, width) float32, from 0 for the least to 1 for the most salient pixel; all 0 where no pixel is more
        salient than another.

    Raises:
        ValueError: if the image has another shape or dtype.
    """
    if image.shape != eyes.image_shape or image.dtype != np.uint8:
        raise ValueError(f"the image is {image.dtype} {image.shape}, expected uint8 {eyes.image_shape}.")
    x = eyes.normalise(torch.from_numpy(image)[None])
    passed: list[tuple[nn.Conv2d, Tensor, Tensor]] = []  # convolution, its input, its output after the ReLU
    for layer in eyes.convolutions.children():
        if isinstance(layer, nn.Conv2d):
            seen, convolution = x, layer
            x = layer(x)
        else:
            x = layer(x)
            passed.append((convolution, seen, x))
    mask = torch.ones_like(x[:, :1])
    for convolution, seen, felt in reversed(passed):
        mask = _upscale(mask * felt.mean(1, keepdim=True), convolution, seen)
    low, high = mask.aminmax()
    # What differs by rounding only is the same.
    mask = (mask - low) / (high - low) if high - low > 1e-5 * high else torch.zeros_like(mask)
    return mask[0, 0].float().numpy()


def _upscale(mask: Tensor, convolution: nn.Conv2d, seen: Tensor) -> Tensor:
    """A map (1, 1, height', width') of a convolution's output, in the size of its input ``seen``."""
    rest = [
        (length - size) % step
        for length, size, step in zip(seen.shape[-2:], convolution.kernel_size, convolution.stride, strict=True)
    ]
    ones = torch.ones(1, 1, *convolution.kernel_size, dtype=mask.dtype)
    spread, windows = (
        functional.conv_transpose2d(values, ones, stride=convolution.stride, output_padding=rest)
        for values in (mask, torch.ones_like(mask))
    )
    return spread / windows.clamp(min=1)  # no window reaches the last rows and columns that remain over

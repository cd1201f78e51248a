"""A small convolutional net, one image after the other and without torch, for eyes that see one frame a tick.

Sixteen output channels are one value (:class:`liquid_control.kernels.simd.Lanes`), and four pixels of a row are
computed together, because a multiply-add takes four cycles to finish and one processor can begin one or two in each.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from liquid_control.kernels.fast_math import OPTIONS, tanh
from liquid_control.kernels.simd import LANES, load, store, where_positive


def pack_convolution(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Torch's weight (O, C, K, K) and bias (O,) as :func:`convolve` reads them.

    Returns:
        weight (B, K, K·C·16) and bias (B, 16), O in B blocks of 16 filled up with zeros.
    """
    outputs, _, kernel, _ = weight.shape
    blocks = -(-outputs // LANES)
    wide = np.zeros((blocks * LANES, *weight.shape[1:]), weight.dtype)
    wide[:outputs] = weight
    packed = wide.reshape(blocks, LANES, -1, kernel, kernel).transpose(0, 3, 4, 2, 1)
    wide_bias = np.zeros(blocks * LANES, bias.dtype)
    wide_bias[:outputs] = bias
    return np.ascontiguousarray(packed).reshape(blocks, kernel, -1), wide_bias.reshape(blocks, LANES)


def image_size(size: int, kernel: int, stride: int) -> int:
    """Height or width after an unpadded convolution."""
    return (size - kernel) // stride + 1


def room(height: int, width: int, channels: int, dtype: np.dtype) -> np.ndarray:
    """A buffer (height, width·channels + 16) for an image; the last 16 of a row are room for a whole store."""
    return np.zeros((height, width * channels + LANES), dtype)


@njit(cache=True, **OPTIONS)
def normalise(pixels, image):
    """Pixels (H, W·C) uint8 to ``image``, each from 0..255 to -1/2..1/2."""
    scale, half = image.dtype.type(1 / 255), image.dtype.type(0.5)
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            image[row, column] = pixels[row, column] * scale - half


@njit(cache=True, **OPTIONS)
def standardise(pixels, contrast, least, image):
    """Pixels (H, W·3) uint8 to ``image``: each channel without its mean, all times contrast / (their rms + least)."""
    height, width = pixels.shape
    # Sums of columns, not of channels: neighbours in memory are added side by side.
    sums, squares = np.zeros(width, np.int32), np.int64(0)
    for row in range(height):
        line, of_row = pixels[row], np.int32(0)
        for column in range(width):
            level = np.int32(line[column])
            sums[column] += level
            of_row += level * level
        squares += of_row
    count = height * width // 3
    means, square_of_means = np.empty(width), 0.0
    for channel in range(3):
        mean = sums[channel::3].sum() / count
        means[channel::3] = mean
        square_of_means += mean * mean
    variance = squares / (3 * count) - square_of_means / 3
    scale = contrast / (np.sqrt(max(variance, 0.0)) + least)
    for row in range(height):
        line, out = pixels[row], image[row]
        for column in range(width):
            out[column] = (line[column] - means[column]) * scale


@njit(nogil=True, cache=True, **OPTIONS)
def standardise_all(pixels, contrast, least, images):
    """:func:`standardise` of each picture: pixels (N, H, W·3) uint8 to images (N, H, W·3)."""
    for index in range(len(pixels)):
        standardise(pixels[index], contrast, least, images[index])


@njit(cache=True, **OPTIONS)
def convolve(image, channels, weight, bias, stride, out, out_width, out_channels):
    """relu(weight ∗ image + bias), no padding.

    image: (H, W·channels + 16), a :func:`room`; weight and bias of :func:`pack_convolution`; out: a :func:`room` for
    ``out_width`` times ``out_channels`` numbers a row.
    """
    blocks, kernel, taps = weight.shape[0], weight.shape[1], weight.shape[2] // LANES
    last = out_width - 1
    # A store may be wider than the channels that are left. What it spills lies in the next pixel's first channels, and
    # those are written later: blocks go from the last to the first, pixels from left to right.
    for block in range(blocks - 1, -1, -1):
        start = load(bias[block], 0)
        for row in range(out.shape[0]):
            for column in range(0, out_width, 4):
                # Beyond the right edge the last pixel is computed again.
                ca, cb = column, min(column + 1, last)
                cc, cd = min(column + 2, last), min(column + 3, last)
                a, b, c, d = start, start, start, start
                for y in range(kernel):
                    line, synapses = image[stride * row + y], weight[block, y]
                    line_a, line_b = line[stride * ca * channels :], line[stride * cb * channels :]
                    line_c, line_d = line[stride * cc * channels :], line[stride * cd * channels :]
                    for tap in range(taps):
                        w = load(synapses, tap)
                        a += line_a[tap] * w
                        b += line_b[tap] * w
                        c += line_c[tap] * w
                        d += line_d[tap] * w
                line = out[row, block * LANES :]
                store(line[ca * out_channels :], 0, where_positive(a, a, 0 * a))
                store(line[cb * out_channels :], 0, where_positive(b, b, 0 * b))
                store(line[cc * out_channels :], 0, where_positive(c, c, 0 * c))
                store(line[cd * out_channels :], 0, where_positive(d, d, 0 * d))


@njit(cache=True, **OPTIONS)
def connect(image, length, weight, bias, out):
    """tanh(weight · image + bias).

    image: (H, length + 16), a :func:`room`; weight (B, 1, H·length·16) and bias (B, 16) of :func:`pack_convolution`;
    out: (B·16,).
    """
    for block in range(weight.shape[0]):
        a, synapses = load(bias[block], 0), weight[block, 0]
        for row in range(image.shape[0]):
            line, part = image[row], synapses[row * length * LANES :]
            for tap in range(length):
                a += line[tap] * load(part, tap)
        store(out, block, tanh(a))

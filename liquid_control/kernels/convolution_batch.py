"""The convolutions of eyes over many pictures at once, forward and backward, for training.

Each layer is relu(weight ∗ image + bias) without padding. Sixteen pictures are the lanes of
:class:`liquid_control.kernels.simd.Lanes`, so channels and pixels are numbers to count through, and a row of a patch,
its channels side by side, is one piece of memory. A block of sixteen goes through all layers while it is in a near
cache. Libraries lay few channels out for wide ones: with eight of them they take three times as long.

The backward pass gives gradients of weights and biases, not of the pictures. It sums over pixels in registers, over
blocks in lanes, and over the lanes last. It has as many parts as the batch tells, so sums are the same for any number
of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liquid_control.kernels import is_recorded
from liquid_control.kernels.autograd import refuse_more_than_gradients
from liquid_control.kernels.batch import Buffer, block_count, new_tile, over_blocks, read_step, write_step
from liquid_control.kernels.convolution import image_size
from liquid_control.kernels.fast_math import OPTIONS, kernel_part
from liquid_control.kernels.products import TILE, add_product, into_tiles, row_stride, tiled_size
from liquid_control.kernels.simd import LANES, fill, load, store, total, where_positive

CHANNELS = 4
"""Output channels whose sums are in registers at the same time."""
PARTS = 8
"""Parts of a batch whose gradients are summed apart, at most."""

WIDTH, DEPTH, KERNEL, STRIDE, OUT_HEIGHT, OUT_WIDTH, OUTPUTS, WEIGHT, BIAS, SOURCE, TARGET = range(11)
"""Columns of a plan, a row for each layer: width and channels of its image, kernel and stride, height, width and
channels of what it makes, where its weights and biases begin, and where image and result lie in a block's record."""


@kernel_part
def _see(layer, tiles, bias, record):
    """One layer on the record of a block; its weights (O / 4, K, K·C, 4) are a part of ``tiles``."""
    depth, kernel, stride, outputs = layer[DEPTH], layer[KERNEL], layer[STRIDE], layer[OUTPUTS]
    across, taps = layer[WIDTH] * depth, kernel * depth
    zero = fill(bias.dtype.type(0))
    for row in range(layer[OUT_HEIGHT]):
        for column in range(layer[OUT_WIDTH]):
            corner = layer[SOURCE] + stride * (row * across + column * depth)
            target = layer[TARGET] + (row * layer[OUT_WIDTH] + column) * outputs
            for first in range(0, outputs, CHANNELS):
                a, b, c, d = zero, zero, zero, zero
                tile = tiles[first * kernel * taps : (first + CHANNELS) * kernel * taps]
                for line in range(kernel):
                    begin = line * taps
                    for tap in range(taps):
                        value, at = load(record, corner + line * across + tap), CHANNELS * (begin + tap)
                        a += tile[at] * value
                        b += tile[at + 1] * value
                        c += tile[at + 2] * value
                        d += tile[at + 3] * value
                for index, sum_of_products in enumerate((a, b, c, d)):
                    if first + index < outputs:
                        value = sum_of_products + bias[first + index]
                        store(record, target + first + index, where_positive(value, value, 0 * value))


@njit(nogil=True, cache=True, **OPTIONS)
def _forward(first_block, last_block, images, layers, tiles, bias, y, records):
    """All layers of some blocks.

    Args:
        first_block: see `liquid_control.kernels.batch`, as for the layout of sixteens that flat arrays have here.
        last_block: the same.
        images: (N, 1, H·W·C), pixels with their channels side by side.
        layers: the plan.
        tiles: weights of all layers; see :func:`_see`.
        bias: of all layers.
        y: (N, 1, H'·W'·C') receives what the last layer makes, laid out as the images.
        records: (blocks, size, 16) receives image and results of each layer; or is empty.
    """
    last = layers[-1]
    size = last[TARGET] + y.shape[2]
    kept = records.size > 0
    record = records if kept else new_tile(size, images)
    for block in range(first_block, last_block):
        own = record[block * size * LANES :] if kept else record
        read_step(images, block * LANES, 0, own)
        begin = 0
        for layer in layers:
            _see(layer, tiles[begin:], bias[layer[BIAS] :], own)
            begin += -(-layer[OUTPUTS] // CHANNELS) * CHANNELS * layer[KERNEL] * layer[KERNEL] * layer[DEPTH]
        write_step(own[last[TARGET] * LANES :], y, block * LANES, 0)


@kernel_part
def _add_to_weights(layer, record, planes, sums):
    """Adds the gradients of a layer's weights (O, K, K·C), a sixteen each.

    ``planes`` is what reaches its results, (O, pixels): one after another in the order of use.
    """
    depth, kernel, stride, outputs = layer[DEPTH], layer[KERNEL], layer[STRIDE], layer[OUTPUTS]
    across, taps, height, width = layer[WIDTH] * depth, kernel * depth, layer[OUT_HEIGHT], layer[OUT_WIDTH]
    plane = row_stride(height * width)
    for line in range(kernel):
        for tap in range(0, taps, 2):
            tap_1 = min(tap + 1, taps - 1)
            for output in range(0, outputs, 3):
                # Past the last output or tap the last is computed again, and stored again.
                output_1, output_2 = min(output + 1, outputs - 1), min(output + 2, outputs - 1)
                place_a = layer[WEIGHT] + (output * kernel + line) * taps
                place_b = layer[WEIGHT] + (output_1 * kernel + line) * taps
                place_c = layer[WEIGHT] + (output_2 * kernel + line) * taps
                ax, ay = load(sums, place_a + tap), load(sums, place_a + tap_1)
                bx, by = load(sums, place_b + tap), load(sums, place_b + tap_1)
                cx, cy = load(sums, place_c + tap), load(sums, place_c + tap_1)
                pixel_a, pixel_b, pixel_c = output * plane, output_1 * plane, output_2 * plane
                for row in range(height):
                    at = layer[SOURCE] + (stride * row + line) * across
                    for _ in range(width):
                        x, y = load(record, at + tap), load(record, at + tap_1)
                        a, b, c = load(planes, pixel_a), load(planes, pixel_b), load(planes, pixel_c)
                        ax += a * x
                        ay += a * y
                        bx += b * x
                        by += b * y
                        cx += c * x
                        cy += c * y
                        at += stride * depth
                        pixel_a += 1
                        pixel_b += 1
                        pixel_c += 1
                store(sums, place_a + tap, ax)
                store(sums, place_a + tap_1, ay)
                store(sums, place_b + tap, bx)
                store(sums, place_b + tap_1, by)
                store(sums, place_c + tap, cx)
                store(sums, place_c + tap_1, cy)


@njit(nogil=True, cache=True, **OPTIONS)
def _backward(first_part, last_part, parts, layers, tiles, weights, of_y, records, of_packed):
    """The reverse of :func:`_forward`, ``of_…`` being gradients.

    ``tiles`` are the transposed weights of :func:`_transposed`; ``weights`` tells how many there are.
    ``of_packed`` is (parts, weights and biases): of the blocks of a part.
    """
    size, widest = layers[-1][TARGET] + of_y.shape[2], 0
    for layer in layers:
        widest = max(widest, row_stride(layer[OUT_HEIGHT] * layer[OUT_WIDTH]) * layer[OUTPUTS])
    reached, reaches = new_tile(widest + TILE, records), new_tile(widest + TILE, records)
    planes = new_tile(widest, records)
    sums = new_tile(of_packed.shape[1], records)
    zero = fill(records.dtype.type(0))
    blocks = -(-len(of_y) // LANES)
    for part in range(first_part, last_part):
        sums[:] = 0
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            own = records[block * size * LANES : (block + 1) * size * LANES]
            read_step(of_y, block * LANES, 0, reached)
            end = tiles.size
            for index in range(len(layers) - 1, -1, -1):
                layer = layers[index]
                depth, kernel, outputs = layer[DEPTH], layer[KERNEL], layer[OUTPUTS]
                pixels, taps = layer[OUT_HEIGHT] * layer[OUT_WIDTH], kernel * depth
                for pixel in range(pixels):
                    for output in range(outputs):
                        at, place = pixel * outputs + output, weights + layer[BIAS] + output
                        error = where_positive(load(own, layer[TARGET] + at), load(reached, at), zero)
                        store(reached, at, error)
                        store(planes, output * row_stride(pixels) + pixel, error)
                        store(sums, place, load(sums, place) + error)
                _add_to_weights(layer, own, planes, sums)
                if not index:
                    continue  # nobody asks for the gradients of pictures
                end -= kernel * tiled_size(taps, outputs)
                reaches[: (layer[TARGET] - layer[SOURCE] + TILE) * LANES] = 0
                for row in range(layer[OUT_HEIGHT]):
                    for column in range(layer[OUT_WIDTH]):
                        error, place = (row * layer[OUT_WIDTH] + column) * outputs, end
                        for line in range(kernel):
                            corner = (layer[STRIDE] * row + line) * layer[WIDTH] + layer[STRIDE] * column
                            place = add_product(tiles, place, taps, outputs, reached, error, reaches, corner * depth)
                reached, reaches = reaches, reached
        for place in range(of_packed.shape[1]):
            of_packed[part, place] = total(load(sums, place))


@njit(cache=True, **OPTIONS)
def _transposed(layers, weight):
    """The weights (O, K, K·C) of all layers but the first in tiles of (K·C, O), one after another for each K."""
    size = 0
    for layer in layers[1:]:
        size += layer[KERNEL] * tiled_size(layer[KERNEL] * layer[DEPTH], layer[OUTPUTS])
    tiles = np.empty(size, weight.dtype)
    end = 0
    for layer in layers[1:]:
        taps = layer[KERNEL] * layer[DEPTH]
        for line in range(layer[KERNEL]):
            begin = layer[WEIGHT] + line * taps
            end = into_tiles(weight, begin, 1, layer[KERNEL] * taps, taps, layer[OUTPUTS], tiles, end)
    return tiles


# For torch


def plan_of(image_shape: Sequence[int], shapes: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The plan of layers, (L, 11).

    Args:
        image_shape: height, width and channels of the pictures.
        shapes: output channels, kernel and stride of each layer.
    """
    height, width, depth = image_shape
    rows, weight, bias, source = [], 0, 0, 0
    for outputs, kernel, stride in shapes:
        below, beside = (image_size(length, kernel, stride) for length in (height, width))
        target = source + height * width * depth
        rows.append((width, depth, kernel, stride, below, beside, outputs, weight, bias, source, target))
        weight, bias, source = weight + outputs * kernel * kernel * depth, bias + outputs, target
        height, width, depth = below, beside, outputs
    return np.array(rows)


def see(plan: np.ndarray, images: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """What the last layer makes of pictures, with gradients of the parameters.

    Args:
        plan: of :func:`plan_of`.
        images: (N, H, W, C) on the CPU, contiguous; they get no gradient.
        parameters: weight (O, C, K, K) and bias (O,) of each layer, of the pictures' type.

    Returns:
        (N, H', W', C').
    """
    if is_recorded(*parameters):
        seen: Tensor = _Seen.apply(plan, images, *parameters)
        return seen
    with torch.no_grad():
        return _run(plan, images, parameters, keep=False)[0]


def _run(plan: np.ndarray, images: Tensor, parameters: Sequence[Tensor], keep: bool) -> tuple[Tensor, Buffer | None]:
    count, (below, beside, outputs) = len(images), plan[-1, [OUT_HEIGHT, OUT_WIDTH, OUTPUTS]].tolist()
    y = images.new_empty(count, below, beside, outputs)
    rows = images.detach().numpy().reshape(count, 1, -1)
    blocks, size = block_count(count), int(plan[-1, TARGET]) + below * beside * outputs
    record = Buffer(blocks * size * LANES, rows.dtype) if keep else None
    bias = np.concatenate([parameter.detach().numpy() for parameter in parameters[1::2]])
    tiles = np.concatenate([_tiles(weight) for weight in parameters[::2]])
    over_blocks(
        _forward, blocks, _work(plan, count), rows, plan, tiles, bias, y.numpy().reshape(count, 1, -1),
        np.empty(0, rows.dtype) if record is None else record.values,
    )  # fmt: skip
    return y, record


def _tiles(weight: Tensor) -> np.ndarray:
    """A weight (O, C, K, K) as :func:`_see` reads it."""
    outputs = len(weight)
    by_pixel = weight.detach().permute(2, 3, 1, 0).numpy()
    filled = np.zeros((*by_pixel.shape[:3], -(-outputs // CHANNELS) * CHANNELS), by_pixel.dtype)
    filled[..., :outputs] = by_pixel
    return filled.reshape(-1, filled.shape[-1] // CHANNELS, CHANNELS).transpose(1, 0, 2).ravel()


def _work(plan: np.ndarray, count: int) -> int:
    """As :func:`over_blocks` counts it."""
    per_pixel = plan[:, OUTPUTS] * plan[:, KERNEL] ** 2 * plan[:, DEPTH]
    return count * int((plan[:, OUT_HEIGHT] * plan[:, OUT_WIDTH] * per_pixel).sum()) // 10


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: np.ndarray, images: Tensor, *parameters: Tensor) -> Tensor:
        y, ctx.record = _run(plan, images, parameters, keep=True)
        ctx.plan = plan
        ctx.save_for_backward(*parameters)
        return y

    @staticmethod
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor | None, ...]:
        refuse_more_than_gradients("convolutions", of_y)
        plan, parameters = ctx.plan, ctx.saved_tensors
        count, blocks = len(of_y), block_count(len(of_y))
        weight = np.concatenate([part.detach().permute(0, 2, 3, 1).numpy().ravel() for part in parameters[::2]])
        parts = min(PARTS, blocks)
        of_packed = np.empty((parts, weight.size + sum(part.numel() for part in parameters[1::2])), weight.dtype)
        over_blocks(
            _backward, parts, 2 * _work(plan, count), parts, plan, _transposed(plan, weight), weight.size,
            of_y.contiguous().numpy().reshape(count, 1, -1), ctx.record.values, of_packed,
        )  # fmt: skip
        sums = torch.from_numpy(of_packed.sum(0))
        gradients: list[Tensor] = []
        weights, biases = sums[: weight.size], sums[weight.size :]
        for layer, shape in zip(plan, (part.shape for part in parameters[::2]), strict=True):
            outputs, depth, kernel, _ = shape
            own = weights[layer[WEIGHT] :][: shape.numel()].view(outputs, kernel, kernel, depth)
            gradients += [own.permute(0, 3, 1, 2), biases[layer[BIAS] :][:outputs]]
        return None, None, *gradients

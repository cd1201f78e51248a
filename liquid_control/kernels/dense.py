"""The dense products of a single control step, sums += W · values. Lanes are sums.

Sums come in parts, such as the gates of an LSTM, each filled up with zeros to whole sixteens, so that what follows the
product takes sixteen at once too. All numbers of a layer lie in one flat array in the order in which a tick reads them:
an array more costs a call as much as a quarter of the arithmetic. Each function returns what lies behind what it has
read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from liquid_control.kernels.fast_math import kernel_part
from liquid_control.kernels.simd import LANES, fill, load, store, total


@kernel_part
def whole_lanes(size):
    """The size filled up to whole sixteens."""
    return (size + LANES - 1) // LANES * LANES


def pack(parts: Sequence[Tensor | None], like: Tensor) -> np.ndarray:
    """Weights (R, S) or biases (R,) of the parts of the sums, flat; None is zeros as many as ``like`` has.

    Sixteen sums are a block; in a block lie, source after source, the sixteen weights of that source.
    """
    rows = []
    for part in parts:
        array = (torch.zeros_like(like) if part is None else part).detach().numpy()
        array = array[:, None] if array.ndim == 1 else array
        rows.append(np.pad(array, ((0, -len(array) % LANES), (0, 0))))
    wide = np.concatenate(rows)
    return wide.reshape(len(wide) // LANES, LANES, wide.shape[1]).transpose(0, 2, 1).ravel()


def pack_readout(readout: nn.Module) -> list[np.ndarray]:
    """What :func:`read_out` reads of a linear readout; nothing of an identity."""
    if not isinstance(readout, nn.Linear):
        return []
    return [pack([readout.bias], readout.bias), pack([readout.weight], readout.weight)]


@kernel_part
def start_sums(sums, numbers):
    """Sets the sums to their biases, or to what else they start from."""
    for row in range(sums.size):
        sums[row] = numbers[row]
    return numbers[sums.size :]


@kernel_part
def add_product(sums, values, numbers):
    """Adds to the sums what the values drive them with."""
    fours, place = values.size // 4 * 4, 0
    for block in range(sums.size // LANES):
        # Four sums of sources: the next multiply-add need not wait until the one before it has finished.
        a = load(sums, block)
        b = c = d = fill(sums.dtype.type(0))
        for source in range(0, fours, 4):
            a += values[source] * load(numbers, place)
            b += values[source + 1] * load(numbers, place + 1)
            c += values[source + 2] * load(numbers, place + 2)
            d += values[source + 3] * load(numbers, place + 3)
            place += 4
        for source in range(fours, values.size):
            a += values[source] * load(numbers, place)
            place += 1
        store(sums, block, (a + b) + (c + d))
    return numbers[values.size * sums.size :]


@kernel_part
def read_out(y, hidden, numbers, sums):
    """Y from the hidden values, by the linear readout if there is one."""
    if numbers.size:
        mapped = sums[: whole_lanes(y.size)]
        add_product(mapped, hidden, start_sums(mapped, numbers))
    else:
        mapped = hidden
    for output in range(y.size):
        y[output] = mapped[output]


@kernel_part
def dot(a, b):
    """The product of two contiguous vectors."""
    whole = a.size // LANES
    even = odd = fill(a.dtype.type(0))
    for i in range(0, whole - 1, 2):
        even += load(a, i) * load(b, i)
        odd += load(a, i + 1) * load(b, i + 1)
    if whole % 2:
        even += load(a, whole - 1) * load(b, whole - 1)
    product = total(even + odd)
    for i in range(whole * LANES, a.size):
        product += a[i] * b[i]
    return product


@kernel_part
def apply_rows(matrix, x, y):
    """Writes W · x to y, of weights that lie row by row, as torch has them."""
    for i in range(len(y)):
        y[i] = dot(matrix[i], x)

"""How the CPU kernels share a batch: blocks of sixteen sequences, one a lane; pooled buffers; threads over blocks.

A kernel takes a block of :data:`LANES` batch rows through all steps, then the next block. It keeps what it computes as
flat arrays of sixteens, (…, LANES), so that one load gives a quantity of all sequences of a block. :func:`read_step`
and :func:`write_step` turn a step of the rows into such sixteens and back. The lanes of the last block that have no row
hold zeros.

Blocks know nothing of each other, and what is summed over them is summed in their order. So results are the same to the
bit for any number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from liquid_control.kernels.fast_math import kernel_part
from liquid_control.kernels.simd import LANES, transpose

ALIGNMENT = 64  # bytes: a cache line, and the widest register
KEPT_BYTES = 1 << 28  # what the pool keeps at most
SERIAL_WORK = (
    200_000  # elementary functions (~50 µs) below which handing blocks to another thread costs more than it saves
)


def block_count(batch: int) -> int:
    """Blocks of :data:`LANES` sequences that hold a batch."""
    return -(-batch // LANES)


# Rows and lanes


@kernel_part
def read_step(values, first, step, tile):
    """Step ``step`` of rows ``first`` … of contiguous values (B, T, C) into tile (C · LANES,), channel by channel."""
    batch, steps, channels = values.shape
    rows, done = min(batch - first, LANES), 0
    flat, begin, stride = values.reshape(-1), (first * steps + step) * channels, steps * channels
    if rows == LANES:
        while done + LANES <= channels:
            transpose(flat, begin + done, stride, tile, done * LANES, LANES)
            done += LANES
    else:
        tile[: channels * LANES] = 0
    for row in range(rows):
        for channel in range(done, channels):
            tile[channel * LANES + row] = flat[begin + row * stride + channel]


@kernel_part
def write_step(tile, values, first, step):
    """The reverse of :func:`read_step`: a tile (C · LANES,) into step ``step`` of rows ``first`` … of values."""
    batch, steps, channels = values.shape
    rows, done = min(batch - first, LANES), 0
    flat, begin, stride = values.reshape(-1), (first * steps + step) * channels, steps * channels
    if rows == LANES:
        while done + LANES <= channels:
            transpose(tile, done * LANES, LANES, flat, begin + done, stride)
            done += LANES
    for row in range(rows):
        for channel in range(done, channels):
            flat[begin + row * stride + channel] = tile[channel * LANES + row]


# Time and padding


def step_times(elapsed: float | Tensor, mask: Tensor | None, batch: int, steps: int, dtype: np.dtype) -> np.ndarray:
    """The time of each step (B, T, 1): positive where the state advances, 0 where no time passes, negative at padding.

    Args:
        elapsed: a number ≥ 0, or (B, T), ≥ 0 at real steps.
        mask: (B, T) bool, False at padding; or None.
        batch: B.
        steps: T.
        dtype: of the array.

    Returns:
        The times; empty if one positive number is that of all steps.
    """
    if isinstance(elapsed, Tensor):
        times = elapsed.detach().numpy()
    elif mask is None and elapsed > 0:
        return np.empty((0, 0, 0), dtype)
    else:
        times = np.full((batch, steps), elapsed, dtype)
    if mask is not None:
        times = np.where(mask.numpy(), times, dtype.type(-1))
    return np.ascontiguousarray(times, dtype)[..., None]


@kernel_part
def hide_padding(time, tile, channels):
    """Zeros in the lanes of a tile whose ``time``, a tile of one channel, is that of padding, whatever they hold."""
    for lane in range(LANES):
        if time[lane] < 0:
            for channel in range(channels):
                tile[channel * LANES + lane] = 0


# Buffers


@kernel_part
def new_tile(count, like):
    """Memory for ``count`` · LANES numbers of the type of an array, aligned: a register's load of it is one access."""
    memory = np.empty(count * LANES + ALIGNMENT // like.itemsize, like.dtype)
    begin = (-memory.ctypes.data % ALIGNMENT) // like.itemsize
    return memory[begin : begin + count * LANES]


@kernel_part
def fetch(source, tile, begin):
    """A vector into a tile from ``begin`` on; the lanes behind it stay as they are."""
    for j in range(source.size):
        tile[begin + j] = source[j]


def copied(parameter: Tensor) -> np.ndarray:
    """Not its own memory: what NumPy has seen cannot be shared out over processes any more (FSDP resizes it)."""
    return parameter.detach().clone(memory_format=torch.contiguous_format).numpy()


class Buffer:
    """Memory of the pool. It goes back when the object dies, so a live one is never anybody else's.

    Fresh memory is paid for page by page as it is first touched, which can cost more than a kernel's arithmetic.

    Attributes:
        values: flat array, not initialised, aligned to cache lines.
    """

    _free: ClassVar[dict[int, list[np.ndarray]]] = {}
    _kept: ClassVar[int] = 0

    def __init__(self, size: int, dtype: np.dtype):
        # Powers of two, so that sequences of many lengths share memory; what is not touched costs nothing.
        self._capacity = 1 << (size * dtype.itemsize - 1).bit_length()
        try:
            self._memory = Buffer._free[self._capacity].pop()
            Buffer._kept -= self._capacity
        except (KeyError, IndexError):
            memory = np.empty(self._capacity + ALIGNMENT, np.uint8)
            begin = -memory.ctypes.data % ALIGNMENT
            self._memory = memory[begin : begin + self._capacity]
        self.values = self._memory[: size * dtype.itemsize].view(dtype)

    def as_tensor(self) -> Tensor:
        """The values as a tensor; the memory goes back to the pool when it and all its views have died, too."""
        values = self.values.view(_Owned)
        values.owner = self
        return torch.from_numpy(values)

    def __del__(self) -> None:
        if Buffer._kept + self._capacity <= KEPT_BYTES:
            Buffer._kept += self._capacity
            Buffer._free.setdefault(self._capacity, []).append(self._memory)


class _Owned(np.ndarray):
    """An array that keeps what owns its memory alive."""

    owner: Buffer


# Threads

_executor: ThreadPoolExecutor | None = None


def _forget_executor() -> None:
    """A forked child has the object but not its threads."""
    global _executor
    _executor = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_executor)


def over_blocks(kernel: Callable[..., None], blocks: int, work: int, *arguments: Any) -> None:
    """Calls ``kernel(first, last, *arguments)`` so that each of ``range(blocks)`` is in one range of first to last.

    Args:
        kernel: compiled with ``nogil=True``.
        blocks: number of blocks.
        work: elementary functions (sigmoids, …) to compute in all blocks together, roughly: little work stays in one
            thread.
        arguments: further arguments.
    """
    global _executor
    parts = min(torch.get_num_threads(), blocks) if work > SERIAL_WORK else 1
    if parts == 1:
        kernel(0, blocks, *arguments)
        return
    if _executor is None:
        _executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="liquid-control-kernel")
    ends = [blocks * part // parts for part in range(parts + 1)]
    others = [_executor.submit(kernel, *ends[part : part + 2], *arguments) for part in range(1, parts)]
    kernel(*ends[:2], *arguments)
    for other in others:
        other.result()

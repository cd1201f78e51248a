"""Blocks of lanes, pooled memory and threads."""

import gc
import multiprocessing

import numpy as np
import pytest
from numba import njit

from liquid_control.kernels.batch import ALIGNMENT, SERIAL_WORK, Buffer, block_count, over_blocks, read_step, write_step
from liquid_control.kernels.simd import LANES


@njit(nogil=True)
def mark(first, last, marks):
    for block in range(first, last):
        marks[block] += block + 1


def marks_of(blocks):
    marks = np.zeros(blocks, np.int64)
    over_blocks(mark, blocks, SERIAL_WORK + 1, marks)
    return marks.tolist()


@pytest.mark.parametrize("batch", [1, 16, 21])
@pytest.mark.parametrize("channels", [5, 16, 33])
def test_a_step_of_rows_becomes_lanes_and_rows_again(batch, channels):
    values = np.random.default_rng(0).normal(size=(batch, 3, channels))
    copy = np.zeros_like(values)
    tile = np.full(channels * LANES, np.nan)
    for block in range(block_count(batch)):
        read_step(values, block * LANES, 2, tile)
        rows = values[block * LANES : (block + 1) * LANES, 2]
        assert np.array_equal(tile.reshape(channels, LANES)[:, : len(rows)].T, rows)
        assert not tile.reshape(channels, LANES)[:, len(rows) :].any()
        write_step(tile, copy, block * LANES, 2)
    assert np.array_equal(copy[:, 2], values[:, 2]) and not copy[:, :2].any()


def test_a_live_buffer_is_nobody_elses_and_a_dead_one_is_used_again():
    first = Buffer(1000, np.dtype(np.float32))
    second = Buffer(1000, np.dtype(np.float32))
    assert not np.shares_memory(first.values, second.values)
    place = first.values.ctypes.data
    assert place % ALIGNMENT == 0
    del first
    gc.collect()
    third = Buffer(900, np.dtype(np.float32))
    assert third.values.ctypes.data == place and third.values.shape == (900,)


def test_a_buffer_that_is_a_tensor_lives_as_long_as_a_view_of_it():
    view = Buffer(1000, np.dtype(np.float32)).as_tensor()[3:].detach()
    gc.collect()
    other = Buffer(1000, np.dtype(np.float32))
    assert not np.shares_memory(view.numpy(), other.values)
    place = view.data_ptr() - 3 * view.element_size()
    del view
    gc.collect()
    assert Buffer(1000, np.dtype(np.float32)).values.ctypes.data == place


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_block_is_worked_on_once(threads, count):
    threads(count)
    for blocks in (1, 2, 7):
        assert marks_of(blocks) == list(range(1, blocks + 1))


# Python's own warning about forking a process with threads, which is what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own(threads):
    threads(2)
    assert marks_of(4) == [1, 2, 3, 4]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(marks_of, (4,)).get(timeout=30) == [1, 2, 3, 4]

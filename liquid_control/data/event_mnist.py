"""Event-based MNIST: a digit as the moments at which its pixels, read in one line, change between black and white.

From Lechner and Hasani, "Learning Long-Term Dependencies in Irregularly-Sampled Time Series" (2020), there "event-based
sequential MNIST"; E-MNIST in the CfC and LAN papers. Digits: MNIST (LeCun, Cortes and Burges; CC BY-SA 3.0) as Keras
packs it.
"""

from __future__ import annotations

import zipfile

import numpy as np

from liquid_control.data.download import DataSource, find_file
from liquid_control.data.events import changes, pack_events
from liquid_control.data.sequences import SequenceSet, SequenceSplits
from liquid_control.support.errors import UserError

SOURCE = DataSource(
    name="MNIST",
    folder="mnist",
    page="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    url="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    sha256="731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
AGAIN = f"Get the file again from {SOURCE.page}."
THRESHOLD = 128
UNIT = 256
"""Pixels that are one unit of elapsed time."""
LONGEST = 105
"""Events of a digit, at most."""
VALIDATION = 5_000
SHAPES = {"x_train": (60_000, 28, 28), "y_train": (60_000,), "x_test": (10_000, 28, 28), "y_test": (10_000,)}


def event_mnist(position: bool = False) -> SequenceSplits:
    """The events of all digits, padded to the longest; 53.0 events a digit, at most 105.

    Pixels above 128 are 1. The 784 pixels of a digit are read row by row, and every run of equal ones is an event at
    its first pixel. The published code pads to 256 steps; nothing is longer than 105, so this is the same task.

    Args:
        position: adds where in the line the event is, from 0 to 1. The published inputs are without; what is learned
            with it is another task, and an easier one.

    Returns:
        55,000 digits for training, 5,000 for validation (the last of the training digits, after a fixed permutation)
        and the official 10,000 for test. ``x`` (N, 105, 1), the bit, or (N, 105, 2), bit and position. ``elapsed``
        counts pixels since the event before, divided by 256 as published; the first event has one pixel. ``target``
        (N,) the digit.

    Raises:
        UserError: if the digits cannot be had, the download has another checksum, or arrays have other shapes.
    """
    images, digits, test_images, test_digits = _read()
    learned = events(images, digits, position, LONGEST)
    order = np.random.RandomState(0).permutation(len(images))
    train, validation = (
        SequenceSet(*(array[part] for array in learned)) for part in (order[:-VALIDATION], order[-VALIDATION:])
    )
    return SequenceSplits(train, validation, events(test_images, test_digits, position, LONGEST))


def events(images: np.ndarray, digits: np.ndarray, position: bool = False, steps: int | None = None) -> SequenceSet:
    """Images as events, see :func:`event_mnist`.

    Args:
        images: (N, height, width) uint8.
        digits: (N,).
        position: whether x has a second column.
        steps: to pad to, at least the most events of an image; as many as that by default.

    Raises:
        UserError: if an image has more events.
    """
    bits = images.reshape(len(images), -1) > THRESHOLD
    happens = changes(bits)
    most = int(happens.sum(1).max(initial=0))
    if steps is not None and most > steps:
        raise UserError(f"a picture has {most} runs of equal pixels, and no digit of MNIST more than {steps}. {AGAIN}")
    x, elapsed, mask, places = pack_events(bits, happens, UNIT, steps)
    inputs = [x, (places / bits.shape[1]).astype(np.float32)] if position else [x]
    return SequenceSet(np.stack(inputs, -1), elapsed, mask, digits.astype(np.int64))


def _read() -> list[np.ndarray]:
    path = find_file(SOURCE, "mnist.npz")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in SHAPES}
    except (EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the digits {path}: {error}. {AGAIN}") from None
    for name, shape in SHAPES.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.uint8:
            found = f"{arrays[name].dtype} {arrays[name].shape}"
            raise UserError(f"{path}: {name} is {found}, expected uint8 {shape}. {AGAIN}")
        if len(shape) == 1 and arrays[name].max() > 9:
            raise UserError(f"{path}: {name} holds {arrays[name].max()}, expected digits of 0 to 9. {AGAIN}")
    return [arrays[name] for name in SHAPES]

"""Recorded episodes on disk: one lossless compressed shard a batch of episodes, an ``.npz`` that NumPy reads.

Images are what the driver's eyes get, so a shard names the environment and the size that it was recorded for. Its last
64 bytes, the comment of the archive, are the SHA-256 of all bytes before, so damage is noticed before anything is
unpacked.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agents.episodes import Episode
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.ranges import Count, Finite, Share
from liquid_control.support.schema import shortened, validated
from policies.view import VIEWS

_ARRAYS = ("images", "gauges", "labels", "actions", "rewards")
_TIMES = "elapsed"
"""An array that is only there where time is uneven."""
_CHECKSUM = 64
"""Bytes of a SHA-256 in hexadecimal."""


@dataclass(frozen=True)
class _Driven:
    """What a shard tells of an episode beside its arrays: the other fields of `agents.episodes.Episode`."""

    seed: int
    score: Finite
    steps: Count
    lap: bool
    tiles: Finite
    off_road: Share
    terminated: bool


_SCALARS = tuple(_Driven.__dataclass_fields__)


@dataclass(frozen=True)
class _Header:
    """What a shard tells beside its arrays."""

    env: str
    episodes: list[_Driven]


def write_shard(path: str | os.PathLike[str], env: str, episodes: Sequence[Episode]) -> None:
    """Writes recorded episodes as one shard, atomically.

    Raises:
        UserError: if it cannot be written, for example because the disk is full.
    """
    arrays = {name: np.concatenate([getattr(episode, name) for episode in episodes]) for name in _ARRAYS}
    if any(len(episode.elapsed) for episode in episodes):
        arrays[_TIMES] = np.concatenate([episode.elapsed for episode in episodes])
    header = _Header(env, [_Driven(**{name: getattr(each, name) for name in _SCALARS}) for each in episodes])
    arrays["header"] = np.frombuffer(json.dumps(asdict(header)).encode(), np.uint8)
    buffer = io.BytesIO()
    # numpy.savez_compressed has no level; level 1 is five times faster here and the files are a tenth larger.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.comment = bytes(_CHECKSUM)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    content = buffer.getvalue()[:-_CHECKSUM]
    write_atomically(path, content + _checksum(content))


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def read_shard(path: str | os.PathLike[str], env: str, image_shape: Sequence[int]) -> list[Episode]:
    """Reads the episodes of one shard.

    Raises:
        UserError: if the file is missing or damaged, was written before shards had a checksum, or was recorded for
            another environment or image size.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    try:
        if content[-_CHECKSUM:] != _checksum(content[:-_CHECKSUM]):
            raise ValueError("its sha256 differs, it is damaged or of an earlier version")
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            header = validated(_Header, json.loads(archive["header"].tobytes()), "its header")
            arrays = {name: archive[name] for name in (*_ARRAYS, _TIMES) if name != _TIMES or name in archive}
    except Exception as error:  # who makes a shard by hand can raise a dozen kinds in zipfile, zlib, NumPy and json
        raise _no_shard(path, error) from None
    shape = arrays["images"].shape[1:]
    if header.env != env or shape != tuple(image_shape):
        raise UserError(
            f"{path} was recorded for {shortened(header.env)} with images {shape}; "
            f"the driver needs {env} with {tuple(image_shape)}. Record with the same --env and --playfield."
        )
    ends = [*itertools.accumulate((each.steps for each in header.episodes), initial=0)]
    try:
        _check_arrays(arrays, env, ends[-1])
    except ValueError as error:
        raise _no_shard(path, error) from None
    return [
        Episode(**vars(each), **{name: array[start:end] for name, array in arrays.items()})
        for each, start, end in zip(header.episodes, ends[:-1], ends[1:], strict=True)
    ]


def _no_shard(path: str | os.PathLike[str], error: Exception) -> UserError:
    reason = shortened(error or type(error).__name__).rstrip(".")
    return UserError(f"{path} is no shard of demonstrations: {reason}. Delete it or record again.")


def _check_arrays(arrays: dict[str, np.ndarray], env: str, steps: int) -> None:
    """Compares the arrays with what a driver of the environment learns from.

    Raises:
        ValueError: if there is nothing, or one has another type or shape, or numbers that are not finite.
    """
    if steps == 0:
        raise ValueError("it holds no episode")
    view = VIEWS[env]
    wide = {"images": arrays["images"].shape[1:], "gauges": (len(view.gauges),)}
    wide |= dict.fromkeys(("labels", "actions"), (len(view.controls),))
    for name, array in arrays.items():
        shape, dtype = (steps, *wide.get(name, ())), np.dtype(np.uint8 if name == "images" else np.float32)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"its {name} are {array.dtype} {array.shape}, not {dtype} {shape}")
        if name != "images" and not np.isfinite(array).all():
            raise ValueError(f"its {name} are not all finite")
        if name == _TIMES and (array < 0).any():
            raise ValueError("its elapsed times go below 0")


def read_folder(folder: str | os.PathLike[str], env: str, image_shape: Sequence[int]) -> list[Episode]:
    """Reads the episodes of every shard in ``folder``, in the order of their names.

    Raises:
        UserError: if the folder holds no shard, or one that does not fit.
    """
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        raise UserError(f"no demonstrations in {folder}: python -m liquid_control.record writes them.")
    return [episode for path in paths for episode in read_shard(path, env, image_shape)]

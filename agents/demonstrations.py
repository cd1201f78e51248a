"""Recorded episodes on disk: one lossless compressed shard a batch of episodes, an ``.npz`` that NumPy reads.

Images are what the driver's eyes get, so a shard names the environment and the size that it was recorded for.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.episodes import Episode
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically

_ARRAYS = ("images", "gauges", "labels", "actions", "rewards")
_TIMES = "elapsed"
"""An array that is only there where time is uneven."""
_SCALARS = tuple(field.name for field in dataclasses.fields(Episode) if field.name not in (*_ARRAYS, _TIMES))


def write_shard(path: str | os.PathLike[str], env: str, episodes: Sequence[Episode]) -> None:
    """Writes recorded episodes as one shard, atomically.

    Raises:
        UserError: if it cannot be written, for example because the disk is full.
    """
    arrays = {name: np.concatenate([getattr(episode, name) for episode in episodes]) for name in _ARRAYS}
    if any(len(episode.elapsed) for episode in episodes):
        arrays[_TIMES] = np.concatenate([episode.elapsed for episode in episodes])
    header = {"env": env, "episodes": [{name: getattr(episode, name) for name in _SCALARS} for episode in episodes]}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    # numpy.savez_compressed has no level; level 1 is five times faster here and the files are a tenth larger.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def read_shard(path: str | os.PathLike[str], env: str, image_shape: Sequence[int]) -> list[Episode]:
    """Reads the episodes of one shard.

    Raises:
        UserError: if the file is missing or damaged, or was recorded for another environment or image size.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            arrays = {name: archive[name] for name in (*_ARRAYS, _TIMES) if name != _TIMES or name in archive}
        rows = header["episodes"]
        ends = np.cumsum([row["steps"] for row in rows])
        if any(len(array) != ends[-1] for array in arrays.values()):
            raise ValueError("its arrays differ in length")
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no shard of demonstrations: {error}. Delete it or record again.") from None
    if header["env"] != env or arrays["images"].shape[1:] != tuple(image_shape):
        raise UserError(
            f"{path} was recorded for {header['env']} with images {arrays['images'].shape[1:]}; "
            f"the driver needs {env} with {tuple(image_shape)}. Record with the same --env and --playfield."
        )
    starts = [0, *ends[:-1]]
    return [
        Episode(**row, **{name: array[start:end] for name, array in arrays.items()})
        for row, start, end in zip(rows, starts, ends, strict=True)
    ]


def read_folder(folder: str | os.PathLike[str], env: str, image_shape: Sequence[int]) -> list[Episode]:
    """Reads the episodes of every shard in ``folder``, in the order of their names.

    Raises:
        UserError: if the folder holds no shard, or one that does not fit.
    """
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        raise UserError(f"no demonstrations in {folder}: python -m liquid_control.record writes them.")
    return [episode for path in paths for episode in read_shard(path, env, image_shape)]

"""A place for compiled kernels, also where neither the code nor the home can be written; none of older code there."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from liquid_control.support.errors import UserError


def find_place(kernel: Callable[..., Any]) -> None:
    """Looks, before kernels are defined, whether Numba finds a place to keep those that stand beside ``kernel``.

    It looks in NUMBA_CACHE_DIR, beside the source and in the home. Where none can be written, as in a container of
    which all is read-only, it would refuse to go on; then they are kept in a temporary folder until this run ends.

    Numba compiles a kernel anew when its own file has changed, but not when a file has that it takes parts from. So
    what is kept is forgotten as soon as any file beside ``kernel`` is another one.

    Raises:
        UserError: if no temporary folder can be made either.
    """
    try:
        kept = Path(str(numba.njit(cache=True)(kernel).stats.cache_path))
        _forget_older(kept, Path(kernel.__code__.co_filename).parent)
        return
    except (RuntimeError, OSError):
        pass
    try:
        folder = tempfile.mkdtemp(prefix="liquid-control-kernels-")
    except OSError as error:
        raise UserError(
            f"compiled kernels can be kept nowhere ({error.strerror or error}): set NUMBA_CACHE_DIR to a folder that "
            "can be written."
        ) from None
    print(
        "kernels are compiled in every run, as no folder to keep them in can be written. "
        "Set NUMBA_CACHE_DIR to one that can.",
        file=sys.stderr,
    )
    os.environ["NUMBA_CACHE_DIR"] = folder  # of the processes that this one starts
    numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
    atexit.register(_remove, folder, os.getpid())


def _forget_older(kept: Path, sources: Path) -> None:
    digest = hashlib.sha256()
    for source in sorted(sources.glob("*.py")):
        digest.update(source.read_bytes())
    told = kept / "sources.sha256"
    if told.exists() and told.read_text() == digest.hexdigest():
        return
    for index in kept.glob("*.nbi"):
        index.unlink(missing_ok=True)  # another process may be at it, too
    told.write_text(digest.hexdigest())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)

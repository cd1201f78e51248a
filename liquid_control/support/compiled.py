"""A place for compiled kernels, also where neither the code nor the home can be written."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numba

from liquid_control.support.errors import UserError


def find_place(kernel: Callable[..., Any]) -> None:
    """Looks, before kernels are defined, whether Numba finds a place to keep those that stand beside ``kernel``.

    It looks in NUMBA_CACHE_DIR, beside the source and in the home. Where none can be written, as in a container of
    which all is read-only, it would refuse to go on; then they are kept in a temporary folder until this run ends.

    Raises:
        UserError: if no temporary folder can be made either.
    """
    try:
        numba.njit(cache=True)(kernel)
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


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)

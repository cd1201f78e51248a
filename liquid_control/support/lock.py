"""A folder that one process at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from liquid_control.support.errors import UserError


@contextmanager
def held(folder: Path, busy: str) -> Iterator[None]:
    """Makes a folder; for its block no other process can hold it. However this one ends, it is free again.

    Args:
        folder: where the file ``.lock`` is.
        busy: the error where another process holds it.

    Raises:
        UserError: if another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}. Choose another folder.") from None
    try:
        yield
    finally:
        lock.release()

"""A folder that one process at a time works in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from liquid_control.support.errors import UserError

LOCK = ".lock"


@contextmanager
def held(folder: Path, busy: str) -> Iterator[None]:
    """Makes a folder; for its block no other process can hold it. However this one ends, it is free again.

    If an error of the user ends the block before anything was written, a folder that was made for it is gone again.

    Args:
        folder: where the file ``.lock`` is.
        busy: the error where another process holds it.

    Raises:
        UserError: if another process holds it, or it cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}. Choose another folder.") from None
    try:
        yield
    except UserError:
        _remove_empty(folder, made)
        raise
    finally:
        lock.release()


def _remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """Removes folders that were made, the innermost first, up to one that holds something; the lock is held still."""
    with contextlib.suppress(OSError):
        if made and all(path.name == LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink()
        for each in made:
            each.rmdir()

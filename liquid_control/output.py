"""Output files: whether they can be written is found out before the work, not after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from liquid_control.errors import UserError


def check_writable(path: Path, suffix: str) -> None:
    """Makes the folder of ``path`` and tries to write there; ``path`` itself is left alone.

    Raises:
        UserError: if a file of that name cannot be written, or its name does not end with ``suffix``.
    """
    if path.suffix != suffix:
        raise UserError(f"the output {path} should be a {suffix} file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another place.") from None
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder. Give the name of a file.")

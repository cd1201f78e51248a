"""Files of text, and writing: whole or not at all; whether one can be written is found out before the work."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from liquid_control.support.errors import UserError


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a file under a temporary name, fsyncs it and renames it over ``path``.

    The file's own folder is made if it is missing, those above it are not: of a folder that was deleted while something
    is written to it, nothing comes back.

    Raises:
        UserError: if the folder cannot be written or the disk is full; whatever stood at ``path`` is still there.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Nothing that stood there was changed; "
            "free some space or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_text(path: Path) -> str:
    """A file of text, without a mark of its encoding, and with line feeds alone at the ends of lines.

    Raises:
        UserError: if it cannot be read, is not UTF-8, or holds NUL.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text: it is not UTF-8.") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    if "\0" in text:
        raise UserError(f"{path} is no text: it holds NUL.")
    return text


_LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed :func:`write_atomically` left in a folder, where nobody writes now; none of those below."""
    for path in folder.glob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


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

"""Tensors and a few words about them in one safetensors file, whole or not at all, and never read if a bit is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from liquid_control.support.errors import UserError
from liquid_control.support.files import check_writable, write_atomically
from liquid_control.support.schema import shortened


def write_tensors(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """Writes tensors by name and what is told of them; the file that was there before stays whole if this fails.

    Args:
        path: of the file.
        tensors: contiguous, on the CPU.
        told: words about them, by name.

    Raises:
        UserError: if it cannot be written.
    """
    content = tensors_to_bytes(dict(tensors), {**told, "sha256": _digest(tensors, told)})
    write_atomically(path, content)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`write_tensors` wrote. A flipped bit would go unnoticed in numbers, so it is looked for.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it cannot be read, or is damaged.
    """
    try:
        path.read_bytes()  # safetensors has one error for a file that is not readable and one that is broken
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({shortened(error)}).") from None
    if told.pop("sha256", None) != _digest(tensors, told):
        raise UserError(f"{path} is damaged (its sha256 differs).")
    return tensors, told


def check_keep(path: Path, is_kept: Callable[[Path], bool], what: str) -> None:
    """Looks whether something can be kept in a file: it replaces nothing but its own kind.

    Args:
        path: of the file, .safetensors; its folder is made.
        is_kept: whether a file that is there is one of its kind.
        what: its kind, for the message.

    Raises:
        UserError: if the file cannot be written, or is another.
    """
    check_writable(path, ".safetensors")
    if path.exists() and not is_kept(path):
        raise UserError(f"{path} is there and no {what}: name another file to keep one in.")


def _digest(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    words = json.dumps(told, sort_keys=True)
    return hashlib.sha256(tensors_to_bytes(dict(tensors)) + words.encode()).hexdigest()

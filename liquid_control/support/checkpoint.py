"""Checkpoints on disk: safetensors weights, a JSON config and a card. Never pickle: loading one runs no code.

A checkpoint is a folder::

    config.json                  what the network is; names its weights file and that file's sha256
    weights-<digest>.safetensors the tensors
    README.md                    the card, for people (optional)

``config.json`` is replaced last, by one rename, so at every moment the folder holds one whole checkpoint: the old one
or the new one. A full disk or a kill while saving leaves the old one as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.schema import check_plain, shortened

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"

Module = TypeVar("Module", bound=nn.Module)


def save_checkpoint(
    folder: str | os.PathLike[str], tensors: Mapping[str, Tensor], config: Mapping[str, Any], card: str | None = None
) -> None:
    """Saves tensors and config as one checkpoint, replacing an older one in the same folder.

    Args:
        folder: where; made if it is missing.
        tensors: names and tensors, as ``module.state_dict()`` gives them.
        config: what is needed to build the module again; JSON types only.
        card: the text of the card; None leaves a card that is there alone.

    Raises:
        UserError: if it cannot be written; an older checkpoint in ``folder`` is then still whole.
    """
    folder = Path(folder)
    weights, digest = pack_weights(tensors)
    name = f"weights-{digest[:8]}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}. Choose another folder.") from None
    header = {"format_version": FORMAT_VERSION, "weights": name, "sha256": digest}
    write_atomically(folder / name, weights)
    write_atomically(folder / CONFIG_NAME, _to_json(header | dict(config)))
    for stale in folder.glob("weights-*.safetensors"):
        if stale.name != name:
            stale.unlink(missing_ok=True)
    if card is not None:
        write_atomically(folder / CARD_NAME, card)


_NUMBERS = re.compile(r"\[\n\s*(-?[0-9][^\[\]{}\"]*?)\s*\]")


def _to_json(config: Mapping[str, Any]) -> str:
    """Indented JSON with a list of numbers on one line: a wiring has hundreds of synapses, each a list of three."""
    indented = json.dumps(config, indent=2)
    return _NUMBERS.sub(lambda numbers: "[" + re.sub(r",\s+", ", ", numbers[1]) + "]", indented) + "\n"


def pack_weights(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """The content of a weights file for these tensors, and its sha256."""
    weights = tensors_to_bytes({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
    return weights, hashlib.sha256(weights).hexdigest()


def weights_digest(module: nn.Module) -> str:
    """The sha256 that the module's weights have in a checkpoint."""
    return pack_weights(module.state_dict())[1]


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Loads what :func:`save_checkpoint` wrote, on the CPU. Whatever else stands there is one error, and runs no code.

    Returns:
        The tensors by name, and the config without the header fields: plain JSON, its numbers finite.

    Raises:
        UserError: if the folder is missing, is of another format version, is truncated or changed (sha256), or holds
            weights that are not finite floating-point numbers.
    """
    folder = Path(folder)
    config = _read_config(folder)
    version = config.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} has checkpoint format version {shortened(repr(version))}; this release reads version "
            f"{FORMAT_VERSION}."
        )
    name, digest = config.pop("weights", None), config.pop("sha256", None)
    if not isinstance(name, str) or not isinstance(digest, str):
        raise UserError(f"{folder / CONFIG_NAME} does not name its weights and their sha256.")
    path = folder / Path(name).name
    content = _read(path, LARGEST_WEIGHTS, "the weights")
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(
            f"the weights {path} are truncated or changed ({len(content)} bytes, sha256 differs from {CONFIG_NAME}). "
            "Copy the checkpoint again or train again."
        )
    try:
        tensors = tensors_from_bytes(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"the weights {path} are not a safetensors file: {shortened(error)}.") from None
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in DTYPES]
    if odd:
        given = f"{shortened(odd[0])} is {tensors[odd[0]].dtype}"
        raise UserError(f"the weights {path} hold numbers of a type that no layer has: {given}.")
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        names = shortened(", ".join(broken))
        raise UserError(f"the weights {path} hold NaN or infinite values in {names}: this driver is lost.")
    return tensors, config


def load_module(build: Callable[[], Module], tensors: Mapping[str, Tensor]) -> Module:
    """A module that a config describes, with the weights that :func:`load_checkpoint` gave, in eval mode.

    What a config asks for may take more memory than the computer has, what a file holds does not. So a module that asks
    for much more than the tensors is left half built. It is built without memory, on the meta device, to say what does
    not fit. Only then: the first operation there loads torch's compiler, which takes as long as all of torch.

    Args:
        build: makes the module, its weights at random.
        tensors: its weights by name.

    Raises:
        ValueError: if names or shapes differ; names the first that does.
    """
    try:
        with _Ration(RATION * sum(tensor.numel() for tensor in tensors.values()) + SPARE):
            module = build()
    except (_Exhausted, RuntimeError):  # RuntimeError: there is not so much memory
        with torch.device("meta"):
            _compare(build().state_dict(), tensors)
        module = build()
    _compare(module.state_dict(), tensors)
    module.load_state_dict(tensors)
    return module.eval()


RATION, SPARE = 16, 2**22
"""Numbers that operations may yield while a module is built, views and intermediate ones too: times those of its
weights, and in any case."""


class _Exhausted(Exception):
    """A module asks for more than its ration."""


class _Ration(TorchFunctionMode):
    """Within it, operations of torch may yield so many numbers together."""

    def __init__(self, left: int):
        super().__init__()
        self._left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._left -= result.numel()
            if self._left < 0:  # `torch.empty` has only reserved them so far: memory is taken when they are drawn
                raise _Exhausted
        return result


def _compare(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Names and shapes of weights.

    Raises:
        ValueError: if they differ; names the first that does.
    """
    for name in [*expected, *given]:
        shapes = [tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (expected, given)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} is {shapes[1]} in the file and {shapes[0]} by its config")


LARGEST_HEAD, LARGEST_WEIGHTS = 2**24, 2**32
"""Bytes of a config and of weights at most."""
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.bool,
    torch.uint8,
)
"""Types of numbers in weights files."""


def _read(path: Path, largest: int, what: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > largest:
            raise UserError(f"{what} {shortened(path)} have {size:,} bytes; {largest:,} are the most.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise UserError(f"cannot read {what} {shortened(path)}: {getattr(error, 'strerror', None) or error}.") from None


def _read_config(folder: Path) -> dict[str, Any]:
    """The config's JSON, plain.

    Raises:
        UserError: if there is none.
    """
    path = folder / CONFIG_NAME
    try:
        there, whole = folder.is_dir(), path.exists()
    except (ValueError, OSError):  # a NUL, or a name that is too long
        there = whole = False
    if not there:
        where = shortened(repr(str(folder))) if not str(folder).isprintable() else shortened(folder)
        raise UserError(f"no checkpoint at {where}: give a folder that holds {CONFIG_NAME} and its weights.")
    if not whole:
        best = folder / "best"
        advice = f" Its best one is {best}." if (best / CONFIG_NAME).exists() else ""
        raise UserError(f"{folder} is no checkpoint: it holds no {CONFIG_NAME}.{advice}")
    content = _read(path, LARGEST_HEAD, "the config")
    try:
        config = json.loads(content)
    except RecursionError:
        raise UserError(f"{path} is damaged: it is nested too deep. Restore it or train again.") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {shortened(error)}. Restore it or train again.") from None
    config = config if isinstance(config, dict) else {}
    check_plain(config, str(path))
    return config

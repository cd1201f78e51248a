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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
CARD_NAME = "README.md"


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
    """Loads what :func:`save_checkpoint` wrote, on the CPU.

    Returns:
        The tensors by name, and the config without the header fields.

    Raises:
        UserError: if the folder is missing, is of another format version, is truncated or changed (sha256), or holds
            weights that are not finite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no checkpoint at {folder}: give a folder that holds {CONFIG_NAME} and its weights.")
    try:
        config = json.loads((folder / CONFIG_NAME).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} is no checkpoint: it holds no {CONFIG_NAME}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG_NAME} is damaged: {error}. Restore it or train again.") from None
    version = config.pop("format_version", None) if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} has checkpoint format version {version!r}; this release reads version {FORMAT_VERSION}."
        )
    try:
        path, digest = folder / Path(config.pop("weights")).name, config.pop("sha256")
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG_NAME} does not name its weights and their sha256 ({error}).") from None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror or error}.") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(
            f"the weights {path} are truncated or changed ({len(content)} bytes, sha256 differs from {CONFIG_NAME}). "
            "Copy the checkpoint again or train again."
        )
    try:
        tensors = tensors_from_bytes(content)
    except SafetensorError as error:
        raise UserError(f"the weights {path} are not a safetensors file: {error}.") from None
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(f"the weights {path} are unusable: they hold NaN or infinite values in {', '.join(broken)}.")
    return tensors, config

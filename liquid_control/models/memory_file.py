"""All that is remembered of a model's work in one file: cubes, students and what they learn with, influence, counters.

What is read back goes on as if nothing had been in between, to the bit: so the file also has the moments of the
optimizers, the generators of audits, the liquid states of the students, and on request the state of the model that was
reading. It belongs to the weights that it was made with, and names their digest. Like any state it is safetensors,
whole or not at all, with its checksum, and every shape and range is looked at before something is built. Its size is
known beforehand: when cubes are full they give up what is worth least (:class:`liquid_control.models.cubes.Cube`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from liquid_control.models.cubes import CubeConfig, Cubes
from liquid_control.models.influence import Influence, InfluenceConfig
from liquid_control.models.language_model import LanguageModel, ReadingState
from liquid_control.models.remembering import CLOCKS, COUNTERS, PartMemory, memories
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.errors import UserError
from liquid_control.support.optimizer_state import optimizer_tensors, part_of, restore_optimizer, to_save
from liquid_control.support.schema import validated
from liquid_control.support.tensor_file import read_tensors, write_tensors

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter."""


@dataclass(frozen=True)
class _PartRecord:
    """What the file says of a part beside its tensors."""

    rules: InfluenceConfig
    influence: dict[str, Any]
    learning_rate: Annotated[float, Gt(0), Le(1)]
    counters: dict[str, Annotated[int, Ge(0), Le(2**63)]]
    shared: Annotated[float, Ge(0), Le(2**63)]
    seconds: dict[str, Annotated[float, Ge(0), Le(1e12)]]


@dataclass(frozen=True)
class _Record:
    """What the file says."""

    cubes: CubeConfig
    units: Annotated[int, Ge(1), Le(8192)]
    parts: list[_PartRecord]


def save_memories(
    path: str | os.PathLike[str],
    model: nn.Module,
    parts: Sequence[PartMemory],
    reading: ReadingState | None = None,
) -> None:
    """Writes a file that :func:`load_memories` reads, whole or not at all.

    Args:
        path: of the file.
        model: whose work it is.
        parts: what is remembered of each feed-forward part; :attr:`PartMemory.history` and ``shares`` stay behind.
        reading: of a language model that is in the middle of a text.

    Raises:
        UserError: if it cannot be written.
    """
    cubes = Cubes.of([part.cube for part in parts])
    tensors = {f"cubes.{name}": tensor for name, tensor in cubes.named_tensors().items()}
    for layer, part in enumerate(parts):
        student = part.distillation.student
        kept = {f"student.{name}": value for name, value in student.state_dict().items()}
        kept |= optimizer_tensors(student, part.distillation.optimizer)
        kept["generator"] = part.generator.get_state()
        if part.state is not None:
            kept["state"] = part.state
        tensors |= {f"parts.{layer}.{name}": value for name, value in kept.items()}
    if reading is not None:
        tensors |= {f"reading.{name}": value for name, value in reading.layers.items()}
    record = {
        "cubes": asdict(cubes.config),
        "units": parts[0].distillation.student.scan.units,
        "parts": [
            {
                "rules": asdict(part.influence.config),
                "influence": part.influence.record(),
                "learning_rate": part.distillation.optimizer.param_groups[0]["lr"],
                "counters": part.counts(),
                "shared": part.shared,
                "seconds": part.seconds,
            }
            for part in parts
        ],
    }
    write_tensors(Path(path), to_save(tensors), {"model": weights_digest(model), "memory": json.dumps(record)})


def load_memories(path: str | os.PathLike[str], model: nn.Module) -> tuple[list[PartMemory], ReadingState | None]:
    """What :func:`save_memories` wrote: the memories, and the state of reading if it is there.

    Raises:
        UserError: if there is no such file, it is damaged, it is of another model, or it says what cannot be.
    """
    try:
        tensors, told = read_tensors(Path(path))
    except FileNotFoundError:
        raise UserError(f"cannot read the memory {path}: there is no such file.") from None
    if told.get("model") != weights_digest(model):
        raise UserError(f"{path} holds no memory of this model: it belongs to the weights that it was made with.")
    try:
        record: _Record = validated(_Record, json.loads(told.get("memory", "")), f"what {path} says of its memory")
    except UserError:
        raise
    except (ValueError, RecursionError):
        raise UserError(f"{path} does not say what it remembers.") from None
    cubes = Cubes.restore(record.cubes, part_of(tensors, "cubes."), path)
    readout = tensors.get("parts.0.student.readout.weight")
    if readout is None or tuple(readout.shape) != (record.cubes.width, record.units):
        raise UserError(f"{path} is damaged: its students have not the {record.units} units that it tells of.")
    try:
        parts = memories(model, cubes, record.units)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if len(record.parts) != len(parts):
        raise UserError(f"{path} is damaged: it tells of {len(record.parts)} parts, and has cubes of {len(parts)}.")
    _check_names(path, tensors, parts)
    for layer, (part, said) in enumerate(zip(parts, record.parts, strict=True)):
        _restore(path, part, said, part_of(tensors, f"parts.{layer}."))
    return parts, _reading(path, part_of(tensors, "reading."), model)


def is_kept_memory(path: str | os.PathLike[str]) -> bool:
    """Whether :func:`save_memories` wrote a file, for whatever model, and not in the middle of a text.

    What has a state of reading is what some reading goes on from.
    """
    try:
        tensors, told = read_tensors(Path(path))
    except (OSError, UserError):
        return False
    return told.keys() == {"model", "memory"} and not part_of(tensors, "reading.")


def _check_names(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], parts: Sequence[PartMemory]) -> None:
    """What nobody asks for below is refused."""
    known = ("cubes.", "reading.", *(f"parts.{layer}." for layer in range(len(parts))))
    odd = [name for name in tensors if not name.startswith(known)]
    if odd:
        raise UserError(f"{path} is damaged: it holds {odd[0][:60]!r}, which no memory has.")


def _restore(path: str | os.PathLike[str], part: PartMemory, said: _PartRecord, tensors: Mapping[str, Tensor]) -> None:
    """Fills a fresh memory of a part with what a file holds of it.

    Raises:
        UserError: if that is not what a part has.
    """
    student, optimizer = part.distillation.student, part.distillation.optimizer
    single, shapes = torch.float32, {name: tuple(value.shape) for name, value in student.named_parameters()}
    wanted = {f"student.{name}": (tuple(value.shape), single) for name, value in student.state_dict().items()}
    if any(name.startswith("optimizer.") for name in tensors):
        for name, shape in shapes.items():
            wanted |= {f"optimizer.{name}.{key}": (() if key == "step" else shape, single) for key in MOMENTS}
    wanted["generator"] = (tuple(part.generator.get_state().shape), torch.uint8)
    if "state" in tensors:
        batch = len(tensors["state"]) if tensors["state"].dim() else 0
        wanted["state"] = ((batch, student.scan.state_size), single)
    given = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in [*wanted, *given]:
        if wanted.get(name) != given.get(name):
            raise UserError(
                f"{path} is damaged, or another version wrote it: {name[:60]} of a part is not what its students have."
            )
    for name, tensor in tensors.items():
        least = 0 if name.endswith((".step", ".exp_avg_sq", "student.energy", "student.seen")) else -torch.inf
        if name != "generator" and not (tensor.isfinite().all() and (tensor >= least).all()):
            raise UserError(f"{path} is damaged: {name} of a part holds what no student can.")
    if set(said.counters) != set(COUNTERS) or set(said.seconds) != set(CLOCKS):
        raise UserError(f"{path} is damaged: it does not have the counters of a part.")
    student.load_state_dict(part_of(tensors, "student."))
    restore_optimizer(student, optimizer, tensors)
    optimizer.param_groups[0]["lr"] = said.learning_rate
    try:
        part.generator.set_state(tensors["generator"])
    except RuntimeError:
        raise UserError(f"{path} is damaged: its generator of audits is none.") from None
    part.influence = Influence.restore(said.rules, said.influence)
    if "state" in tensors:
        part.state = tensors["state"].to(student.readout.weight.device)
    for name, count in said.counters.items():
        setattr(part, name, count)
    part.seconds, part.shared = dict(said.seconds), said.shared


def _reading(path: str | os.PathLike[str], layers: Mapping[str, Tensor], model: nn.Module) -> ReadingState | None:
    if not layers:
        return None
    if not isinstance(model, LanguageModel):
        raise UserError(f"{path} is damaged: it holds a state of reading, and its model does not read.")
    fresh = model.initial_state(1)
    if not fresh.is_like(layers) or not all(layer.isfinite().all() for layer in layers.values()):
        raise UserError(f"{path} is damaged: its state of reading is none of this model.")
    return ReadingState(dict(layers), fresh.parts).to(model.embedding.weight.device)

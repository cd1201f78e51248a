"""A module as an ONNX model, for machines without torch."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from liquid_control.support.errors import UserError


def onnx_model(
    module: nn.Module,
    examples: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    metadata: Mapping[str, Any],
) -> bytes:
    """A module as the bytes of an ONNX model; the first dimension of all inputs and outputs is a batch, which is free.

    Args:
        module: in eval mode.
        examples: inputs of a batch of two or more, since one would be traced as fixed.
        inputs: their names.
        outputs: names of what the module returns.
        metadata: JSON values by name, which the model carries.

    Raises:
        UserError: if onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter writes its graphs with it
    except ImportError as error:
        raise UserError(f"the export needs {error.name}: pip install 'liquid-control[onnx]'.") from None
    free = torch.export.Dim("batch")
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(examples),
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: free} for _ in examples),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only where torch writes the file itself
    model = program.model_proto
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(model)
    return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter says of its own insides: deprecations, and operators that nobody asked for."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        exporter.setLevel(level)

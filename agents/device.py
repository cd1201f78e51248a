"""Where a training runs."""

from __future__ import annotations

import torch

from liquid_control.support.errors import UserError


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, the CPU elsewhere.

    Raises:
        UserError: if the device is not known or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("drivers are trained on cpu or cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}. Try --device auto.") from None
    return device

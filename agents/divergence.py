"""Noticing that a training has diverged, before what is of no use any more is saved."""

from __future__ import annotations

import torch
from torch import nn

from liquid_control.support.errors import DivergedError


@torch.no_grad()
def check_finite(learner: nn.Module, when: str) -> None:
    """Looks for a weight that is NaN or infinite; a loss that is, makes weights that are.

    Args:
        learner: whose weights.
        when: after which step, for the message.

    Raises:
        DivergedError: if there is one.
    """
    for name, weight in learner.named_parameters():
        if not weight.isfinite().all():
            raise DivergedError(f"after {when} the weight {name}")

"""The spaces that a liquid policy of Stable-Baselines3 learns in, and the keys of dictionaries that have a meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from liquid_control.support.errors import UserError

ELAPSED = "elapsed"
"""The key of a dictionary observation that is the time since the previous observation, in environment steps."""
PRIVILEGED = "privileged"
"""The key of a dictionary observation that the critic alone sees."""
NOT_NORMALIZED = (
    "Where VecNormalize or another wrapper normalises observations, leave that key out: "
    "VecNormalize(env, norm_obs_keys=[…]) with the other keys."
)


def width(space: gymnasium.Space, key: str) -> int:
    """Numbers under a key of a dictionary space; 0 where there are none."""
    part = space.spaces.get(key) if isinstance(space, spaces.Dict) else None
    return 0 if part is None else int(np.prod(part.shape or ()))


def motors(space: gymnasium.Space) -> int:
    """Motor neurons that an action takes.

    Raises:
        UserError: if nothing can be learned in the space.
    """
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if (count := int(np.prod(space.shape))) > 0:
            return count
    elif isinstance(space, spaces.Discrete) and space.start == 0:
        return int(space.n)
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return int(space.nvec.sum())
    elif isinstance(space, spaces.MultiBinary) and len(space.shape) == 1 and isinstance(space.n, int):
        return space.n
    raise UserError(
        f"actions of {space} are not supported: expected a Box of floats, Discrete or MultiDiscrete from 0 on, or "
        "MultiBinary, the last two in one dimension. Turn it into one of them by a gymnasium.ActionWrapper."
    )


def check_observations(space: gymnasium.Space) -> None:
    """Refuses observations that no policy can be fed with.

    Raises:
        UserError: if a space is of another kind, holds nothing, or does not suit its key.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    for key in parts.keys() & {ELAPSED, PRIVILEGED}:
        _check_special(parts.pop(key), key)
    for key, part in parts.items():
        _check_part(part, f" {key!r}" if key else "")
    if not parts:
        raise UserError(f"the actor sees nothing of {space}: {ELAPSED!r} and {PRIVILEGED!r} are not for it to see.")


def _check_part(space: gymnasium.Space, name: str) -> None:
    """Of what the actor sees."""
    fits = (
        (isinstance(space, spaces.Box) and len(space.shape) > 0 and np.prod(space.shape) > 0)
        or (isinstance(space, spaces.Discrete) and space.start == 0)
        or (isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any())
        or (isinstance(space, spaces.MultiBinary) and np.prod(space.shape) > 0)
    )
    if not fits:
        raise UserError(
            f"observations{name} of {space} are not supported: expected a Box of at least one dimension and number, "
            "Discrete or one-dimensional MultiDiscrete from 0 on, MultiBinary, or one Dict of such. "
            "gymnasium.wrappers.FlattenObservation makes a Box of most."
        )


def _check_special(space: gymnasium.Space, key: str) -> None:
    if not isinstance(space, spaces.Box) or not np.prod(space.shape):
        raise UserError(f"the observation {key!r} is {space}, but must be a Box.")
    if key == ELAPSED and np.prod(space.shape) != 1:
        raise UserError(
            f"the observation {ELAPSED!r} has shape {space.shape}, but is the time since the previous observation: one "
            "number, of shape (1,) or (). If VecFrameStack or another wrapper stacks observations, leave it out: the "
            "core remembers."
        )


def count_rows(observation: np.ndarray | Mapping[str, Any], space: gymnasium.Space) -> int:
    """How many observations of ``space`` a batch holds, whatever the order of its keys; 1 where it is no batch.

    Raises:
        UserError: if keys are missing or unknown, or parts are of other shapes or of different batches.
    """
    if not isinstance(space, spaces.Dict):
        return _rows(observation, space, "the observation")
    if not isinstance(observation, Mapping):
        raise UserError(f"the observation is no dictionary, expected the keys {', '.join(sorted(space.spaces))}.")
    if observation.keys() != space.spaces.keys():
        given, known = (", ".join(sorted(keys)) for keys in (observation, space.spaces))
        raise UserError(f"the observation has the keys {given}, expected {known}.")
    rows = {key: _rows(part, space[key], f"the observation {key!r}") for key, part in observation.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{key} {count}" for key, count in rows.items())
        raise UserError(f"the parts of the observation are batches of different sizes: {counts}.")
    return next(iter(rows.values()))


def _rows(part: Any, space: gymnasium.Space, name: str) -> int:
    given, shape = np.shape(part), space.shape or ()
    if len(given) - len(shape) not in (0, 1):
        raise UserError(f"{name} has shape {given}, expected {shape}, or a batch of such, (N, …).")
    return given[0] if len(given) > len(shape) else 1

"""Rollouts as sequences of one length, each with the state that it began in.

sb3-contrib cuts a rollout wherever an episode starts and pads the pieces. Here all sequences have one length, episodes
may start inside them, and of the states only those at their beginnings are kept. Minibatches are drawn from the
shuffled sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer


class SequenceSamples(NamedTuple):
    """A minibatch: sequences one after another, their steps flat (N = sequences · steps)."""

    observations: Any  # (N, …), or a dictionary of such
    actions: torch.Tensor  # (N, …)
    old_values: torch.Tensor  # (N,)
    old_log_prob: torch.Tensor  # (N,)
    advantages: torch.Tensor  # (N,)
    returns: torch.Tensor  # (N,)
    lstm_states: RNNStates  # (1, sequences, S), before each sequence
    episode_starts: torch.Tensor  # (N,)
    clone_commands: torch.Tensor | None  # (N, motors)


class SequenceRolloutBuffer(RecurrentRolloutBuffer):
    """sb3-contrib's recurrent buffer of array observations, dealt out in whole sequences.

    Args:
        args: those of sb3-contrib's buffer.
        sequence_length: steps of a sequence, a divisor of the rollout's.
        kwargs: those of sb3-contrib's buffer.

    Attributes:
        states: (2, envs, sequences, S) of actor and critic, before each sequence.
        clone_commands: (n_steps, envs, motors) of a driver that is followed, or None.
    """

    def __init__(self, *args: Any, sequence_length: int, **kwargs: Any):
        self.sequence_length = sequence_length
        self.clone_commands: np.ndarray | None = None
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forgets what was added."""
        RolloutBuffer.reset(self)
        self.states = _no_states(self)

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:  # type: ignore[override]
        """Adds a step of every environment, as sb3-contrib's buffer does."""
        _keep_states(self, lstm_states)
        RolloutBuffer.add(self, *args, **kwargs)

    def get(self, batch_size: int | None = None) -> Iterator[SequenceSamples]:  # type: ignore[override]
        """Minibatches of about ``batch_size`` steps, in a new order at every call; None is the whole rollout."""
        return _minibatches(self, batch_size)


class SequenceDictRolloutBuffer(RecurrentDictRolloutBuffer):
    """:class:`SequenceRolloutBuffer` of dictionary observations."""

    def __init__(self, *args: Any, sequence_length: int, **kwargs: Any):
        self.sequence_length = sequence_length
        self.clone_commands: np.ndarray | None = None
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forgets what was added."""
        DictRolloutBuffer.reset(self)
        self.states = _no_states(self)

    def add(self, *args: Any, lstm_states: RNNStates, **kwargs: Any) -> None:  # type: ignore[override]
        """Adds a step of every environment, as sb3-contrib's buffer does."""
        _keep_states(self, lstm_states)
        DictRolloutBuffer.add(self, *args, **kwargs)

    def get(self, batch_size: int | None = None) -> Iterator[SequenceSamples]:  # type: ignore[override]
        """Minibatches of about ``batch_size`` steps, in a new order at every call; None is the whole rollout."""
        return _minibatches(self, batch_size)


SequenceBuffer = SequenceRolloutBuffer | SequenceDictRolloutBuffer


def _no_states(buffer: SequenceBuffer) -> np.ndarray:
    _, _, envs, width = buffer.hidden_state_shape
    return np.zeros((2, envs, buffer.buffer_size // buffer.sequence_length, width), np.float32)


def _keep_states(buffer: SequenceBuffer, states: RNNStates) -> None:
    sequence, step = divmod(buffer.pos, buffer.sequence_length)
    if step == 0:
        for kept, (state, _) in zip(buffer.states, states, strict=True):
            kept[:, sequence] = state[0].cpu().numpy()


def _minibatches(buffer: SequenceBuffer, batch_size: int | None) -> Iterator[SequenceSamples]:
    assert buffer.full, "the rollout must be complete before it is dealt out"
    length, device = buffer.sequence_length, buffer.device

    def sequences(array: np.ndarray) -> np.ndarray:
        """(n_steps, envs, …) -> (envs · sequences, length, …)."""
        steps, envs, *rest = array.shape
        split = array.reshape(steps // length, length, envs, *rest)
        return split.transpose(2, 0, 1, *range(3, split.ndim)).reshape(-1, length, *rest)

    given = buffer.observations
    observations = (
        {name: sequences(part) for name, part in given.items()} if isinstance(given, dict) else sequences(given)
    )
    parts = [
        sequences(part)
        for part in (
            buffer.actions.astype(np.float32, copy=False),  # those of MultiBinary are bytes
            buffer.values,
            buffer.log_probs,
            buffer.advantages,
            buffer.returns,
            buffer.episode_starts,
        )
    ]
    clone = None if buffer.clone_commands is None else sequences(buffer.clone_commands)
    count = len(parts[0])
    states = buffer.states.reshape(2, count, -1)
    order = np.random.permutation(count)  # noqa: NPY002
    each = count if batch_size is None else max(1, batch_size // length)
    for begin in range(0, count, each):
        chosen = order[begin : begin + each]

        def flat(part: np.ndarray, chosen: np.ndarray = chosen) -> torch.Tensor:
            return torch.from_numpy(part[chosen].reshape(-1, *part.shape[2:])).to(device)

        def pair(state: np.ndarray, chosen: np.ndarray = chosen) -> tuple[torch.Tensor, torch.Tensor]:
            first = torch.from_numpy(state[chosen]).to(device)[None]
            return first, first

        actions, values, log_probs, advantages, returns, starts = map(flat, parts)
        seen: Any = (
            {name: flat(part) for name, part in observations.items()}
            if isinstance(observations, dict)
            else flat(observations)
        )
        yield SequenceSamples(
            observations=seen,
            actions=actions,
            old_values=values,
            old_log_prob=log_probs,
            advantages=advantages,
            returns=returns,
            lstm_states=RNNStates(pair(states[0]), pair(states[1])),
            episode_starts=starts,
            clone_commands=None if clone is None else flat(clone),
        )

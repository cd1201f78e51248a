import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from agents.sequence_buffer import SequenceDictRolloutBuffer, SequenceRolloutBuffer

STEPS, ENVS, LENGTH, WIDTH = 12, 3, 4, 5
ACTION = spaces.Box(-1, 1, (2,), np.float32)


@pytest.fixture(params=["array", "dictionary"])
def buffer(request):
    """A full buffer whose every number tells its step and environment: 100 · env + step."""
    place = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    shape = (STEPS, 1, ENVS, WIDTH)
    if request.param == "array":
        buffer = SequenceRolloutBuffer(STEPS, place, ACTION, shape, "cpu", n_envs=ENVS, sequence_length=LENGTH)
    else:
        space = spaces.Dict({"place": place})
        buffer = SequenceDictRolloutBuffer(STEPS, space, ACTION, shape, "cpu", n_envs=ENVS, sequence_length=LENGTH)
    envs = 100.0 * np.arange(ENVS)
    for step in range(STEPS):
        number = (envs + step).astype(np.float32)
        state = torch.from_numpy(number)[None, :, None].expand(1, ENVS, WIDTH)
        observation = number[:, None]
        buffer.add(
            observation if request.param == "array" else {"place": observation},
            np.stack([number, -number], 1),
            number,
            (number % 5 == 0).astype(np.float32),
            torch.from_numpy(number),
            torch.from_numpy(number),
            lstm_states=RNNStates((state, state), (state + 0.5, state)),
        )
    buffer.compute_returns_and_advantage(torch.zeros(ENVS), np.zeros(ENVS))
    return buffer


def places(samples):
    observations = samples.observations
    return (observations["place"] if isinstance(observations, dict) else observations)[:, 0]


def test_every_step_is_dealt_out_once_in_whole_sequences(buffer):
    batches = list(buffer.get(2 * LENGTH))
    assert [len(batch.actions) for batch in batches] == [8, 8, 8, 8, 4]
    seen = torch.cat([places(batch) for batch in batches])
    expected = (100 * torch.arange(ENVS)[:, None] + torch.arange(STEPS)).flatten().float()
    torch.testing.assert_close(seen.sort().values, expected)
    for sequence in seen.unflatten(0, (-1, LENGTH)):
        assert torch.equal(sequence, sequence[0] + torch.arange(LENGTH))
        assert sequence[0] % 100 % LENGTH == 0


def test_all_parts_of_a_minibatch_are_of_the_same_steps(buffer):
    for batch in buffer.get(3 * LENGTH):
        seen = places(batch)
        torch.testing.assert_close(batch.actions, torch.stack([seen, -seen], 1))
        torch.testing.assert_close(batch.old_values, seen)
        torch.testing.assert_close(batch.old_log_prob, seen)
        torch.testing.assert_close(batch.episode_starts, (seen % 5 == 0).float())
        torch.testing.assert_close(batch.lstm_states.pi[0], seen[::LENGTH, None].expand(-1, WIDTH)[None])
        torch.testing.assert_close(batch.lstm_states.vf[0], seen[::LENGTH, None].expand(-1, WIDTH)[None] + 0.5)


def test_the_order_is_new_at_every_pass_and_settled_by_the_seed(buffer):
    def order():
        return [float(each) for each in torch.cat([places(batch) for batch in buffer.get(LENGTH)])]

    np.random.seed(0)  # noqa: NPY002  the generator that SB3 seeds
    first, second = order(), order()
    np.random.seed(0)  # noqa: NPY002
    assert order() == first != second


def test_without_a_batch_size_it_is_the_whole_rollout(buffer):
    (batch,) = buffer.get()
    assert len(batch.returns) == STEPS * ENVS

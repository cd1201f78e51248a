"""Streams deal whole episodes out in order with carried state; the cloner learns, and restores to the same numbers."""

import numpy as np
import pytest
import torch

from agents.cloning import Cloner, Streams
from agents.episodes import Episode
from agents.recordings import Recordings
from agents.road_dagger import RoadConfig, RoadDagger
from liquid_control.support.errors import DivergedError
from policies.driver import Driver, DriverConfig


def episode(seed, steps):
    """Images whose first pixel counts the steps; the label is a function of the gauges, so that it can be learned."""
    rng = np.random.default_rng(seed)
    images = np.zeros((steps, 28, 32, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(steps), seed
    gauges = rng.normal(size=(steps, 7)).astype(np.float32)
    labels = np.clip(gauges[:, :3] * [1, 0.5, 0.5] + [0, 0.5, 0.5], [-1, 0, 0], 1).astype(np.float32)
    return Episode(
        seed=seed, score=0.0, steps=steps, lap=False, tiles=0.0, off_road=0.0,
        images=images, gauges=gauges, labels=labels, actions=labels, rewards=np.zeros(steps, np.float32),
    )  # fmt: skip


EPISODES = [episode(1, 40), episode(2, 70), episode(3, 100)]


def test_every_stream_plays_its_episode_in_order_to_the_end():
    streams = Streams(EPISODES, batch=4, time=16, rng=np.random.default_rng(0))
    expected = {
        row: (EPISODES[e].seed, int(p))
        for row, (e, p) in enumerate(zip(streams.current, streams.position, strict=True))
    }
    for _ in range(12):
        stretch = streams.next()
        for row in range(4):
            seed, position = expected[row]
            if position == -1 or stretch.fresh[row]:
                seed, position = int(stretch.images[row, 0, 0, 0, 1]), int(stretch.images[row, 0, 0, 0, 0])
            real = stretch.mask[row]
            steps = stretch.images[row, :, 0, 0, 0][real].tolist()
            assert steps == list(range(position, position + len(steps)))
            assert (stretch.images[row, :, 0, 0, 1][real] == seed).all()
            total = EPISODES[seed - 1].steps
            ended = position + 16 >= total
            assert len(steps) == min(16, total - position)
            expected[row] = (seed, -1 if ended else position + 16)


def test_the_first_steps_after_a_start_in_the_middle_are_not_graded():
    streams = Streams(EPISODES, batch=8, time=16, rng=np.random.default_rng(1), warm_up=5)
    middle = torch.from_numpy(streams.position > 0)
    first, second = streams.next(), streams.next()
    assert not first.weight[middle, :5].any()
    assert (first.weight[:, 5:] == first.mask[:, 5:]).all()
    assert (second.weight == second.mask).all()


def test_by_another_clock_frames_are_left_out_and_the_time_is_told():
    def every_third(elapsed):
        return np.arange(0, len(elapsed), 3), np.append(1.0, np.full((len(elapsed) - 1) // 3, 3.0))

    streams = Streams(EPISODES, batch=4, time=16, rng=np.random.default_rng(0), clock=every_third)
    begun = np.zeros(4, bool)
    for _ in range(12):
        stretch = streams.next()
        begun |= stretch.fresh.numpy() & (stretch.images[:, 0, 0, 0, 0].numpy() == 0)
        for row in range(4):
            real = stretch.mask[row]
            steps = stretch.images[row, :, 0, 0, 0][real].int()
            assert (steps.diff() == 3).all() and (steps % 3 == 0).all()
            assert (stretch.elapsed[row][real] == torch.where(steps == 0, 1, 3)).all()
            episode = EPISODES[int(stretch.images[row, 0, 0, 0, 1]) - 1]
            np.testing.assert_array_equal(stretch.labels[row][real], episode.labels[steps])
    assert begun.all()


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        *((policy, 40) for policy in ("cfc", "plastic", "scan", "lan", "lstm", "gru", "mlp")),
        *((policy, 160) for policy in ("ltc", "leaky")),  # at such a rate they learn slowly at first
    ],
)
def test_the_loss_falls_and_training_twice_gives_the_same_weights(policy, steps):
    def begin():
        torch.manual_seed(0)
        cloner = Cloner(Driver(DriverConfig(policy=policy)), 1e-2, total_steps=steps, control_weights=(2.0, 1.0, 1.0))
        return cloner, Streams(EPISODES, batch=8, time=16, rng=np.random.default_rng(0))

    cloner, streams = begin()
    losses = [cloner.train(streams, steps // 4)]
    other, same_streams = begin()
    assert other.train(same_streams, steps // 4) == losses[0]
    tensors = cloner.tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in other.tensors().items())
    losses += [cloner.train(streams, steps // 4) for _ in range(3)]
    assert losses[-1] < 0.85 * losses[0]


def test_a_training_that_diverges_says_so():
    cloner = Cloner(Driver(DriverConfig()), 1e30, total_steps=200, control_weights=(2.0, 1.0, 1.0))
    with pytest.raises(DivergedError, match=r"diverged: after 3 gradient steps the weight .* holds NaN or infinity"):
        cloner.train(Streams(EPISODES, batch=4, time=8, rng=np.random.default_rng(0)), 3)


def test_a_restored_cloner_goes_on_to_the_same_weights():
    def cloner():
        torch.manual_seed(0)
        return Cloner(Driver(DriverConfig()), 5e-3, total_steps=8, control_weights=(2.0, 1.0, 1.0))

    def batches(round):
        return Streams(EPISODES, batch=4, time=8, rng=np.random.default_rng(round))

    whole = cloner()
    whole.train(batches(0), 4)
    saved = whole.tensors()
    whole.train(batches(1), 4)

    resumed = cloner()
    torch.nn.init.zeros_(resumed.driver.hands.gain)
    resumed.restore(saved, step=4)
    resumed.train(batches(1), 4)
    one, other = whole.tensors(), resumed.tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_running_mean_follows_the_weights():
    torch.manual_seed(0)
    cloner = Cloner(Driver(DriverConfig()), 5e-3, total_steps=100, control_weights=(1.0, 1.0, 1.0), decay=0.9)
    before = cloner.average.hands.gain.clone()
    cloner.train(Streams(EPISODES, 4, 8, np.random.default_rng(0)), 20)
    now, mean = cloner.driver.hands.gain, cloner.average.hands.gain
    assert not torch.equal(mean, before)
    assert (mean - now).abs().max() < (before - now).abs().max()


def test_a_share_of_recordings_is_what_is_drawn():
    def drive(steps, seed):
        labels = np.zeros((steps, 1), np.float32)
        images = np.zeros((steps, 8, 8, 3), np.uint8)
        return Episode(seed, 0.0, steps, False, 0.0, 0.0, images=images, gauges=labels[:, :0], labels=labels)

    for recorded, driven in ((500, 5000), (20_000, 5000)):
        for share in (0.0, 0.3, 0.99, 1.0):
            run = RoadDagger.__new__(RoadDagger)
            run.config, run.variety = RoadConfig(data_share=share, batch=4), None
            run.recordings = Recordings(learned=[drive(recorded, 0)])
            run.episodes = [*run.recordings.learned, drive(driven, 1), drive(driven, 2)]
            dealt = run._streams(np.random.default_rng(0)).share
            assert dealt[0] == pytest.approx(share) and dealt[1] == dealt[2] == pytest.approx((1 - share) / 2)

"""Streams are the documents one after another, each row from its place; evaluation predicts each token once."""

import itertools
import json

import numpy as np
import pytest

from liquid_control.data.text import prepare_text
from liquid_control.data.text_streams import TextStreams, random_windows, whole_text
from liquid_control.support.errors import UserError


@pytest.fixture
def split(prepared):
    return prepared.training


def streams(split, seed=0, batch=3, time=11):
    return TextStreams(split, batch, time, np.random.default_rng(seed))


def test_each_row_is_the_whole_text_from_its_own_place(split):
    text, time = split.read(0, len(split)), 11
    stretches = -(-len(split) // time)
    batches = [tokens for tokens, _ in itertools.islice(streams(split), stretches)]
    rows = np.concatenate([tokens[:, :-1] for tokens in batches], axis=1)[:, : len(split)]
    places = [int(np.flatnonzero([(np.roll(text, -i) == row).all() for i in range(len(text))])[0]) for row in rows]
    assert len(set(places)) == 3
    gaps = np.diff(sorted([*places, min(places) + len(text)]))
    assert gaps.max() - gaps.min() <= 1


def test_a_stretch_goes_on_where_the_last_one_ended(split):
    reader = streams(split)
    before, _ = next(reader)
    for after, _ in itertools.islice(reader, 100):
        np.testing.assert_array_equal(after[:, 0], before[:, -1])
        before = after


def test_fresh_is_true_where_a_document_begins(split):
    reader = streams(split, batch=1, time=7)
    start, starts = reader.state_dict()["positions"][0], set(split.starts.tolist())
    fresh = np.concatenate([fresh for _, fresh in itertools.islice(reader, len(split))], axis=1)[0]
    assert fresh[0]
    assert all(fresh[i] == ((start + i) % len(split) in starts) for i in range(1, len(fresh)))


def test_a_place_depends_on_the_seed_alone(split):
    np.testing.assert_array_equal(next(streams(split))[0], next(streams(split))[0])
    assert not np.array_equal(next(streams(split))[0], next(streams(split, seed=1))[0])


@pytest.mark.parametrize("done", [0, 1, 40])
def test_streams_go_on_from_a_saved_state(split, done):
    unbroken = streams(split)
    for _ in itertools.islice(unbroken, done):
        pass
    state = json.loads(json.dumps(unbroken.state_dict()))
    resumed = streams(split, seed=5)
    resumed.load_state_dict(state)
    for (tokens, fresh), (tokens_again, fresh_again) in itertools.islice(zip(unbroken, resumed, strict=True), 50):
        np.testing.assert_array_equal(tokens, tokens_again)
        np.testing.assert_array_equal(fresh, fresh_again)


def test_a_state_of_other_streams_is_refused(split, prepared):
    with pytest.raises(UserError, match="of another text"):
        streams(split).load_state_dict(streams(prepared.validation).state_dict())
    with pytest.raises(UserError, match="has 2 rows instead of 3"):
        streams(split).load_state_dict(streams(split, batch=2).state_dict())
    for change in ({"positions": [0, 0, -1]}, {"positions": "abc"}, {"stretches": -1}, {"more": 1}):
        with pytest.raises(UserError, match="the state of streams is wrong"):
            streams(split).load_state_dict(streams(split).state_dict() | change)
    with pytest.raises(UserError, match="of another text"):
        streams(split).load_state_dict(streams(split).state_dict() | {"positions": [0, 0, len(split)]})


def test_a_stretch_as_long_as_the_text_goes_around_its_end(split):
    tokens, _ = next(streams(split, time=len(split) - 1))
    assert all(sorted(row) == sorted(split.read(0, len(split))) for row in tokens)


def test_random_windows_are_everywhere_in_the_text(split):
    text, rng = split.read(0, len(split)), np.random.default_rng(0)
    time = len(split) - 4
    windows = {tuple(row) for _ in range(50) for row in random_windows(split, 2, time, rng)}
    assert windows == {tuple(text[i : i + time + 1]) for i in range(4)}


def test_random_windows_follow_the_generator_alone(split):
    one, two = np.random.default_rng(3), np.random.default_rng(0)
    random_windows(split, 4, 9, one)
    two.bit_generator.state = one.bit_generator.state
    np.testing.assert_array_equal(random_windows(split, 4, 9, one), random_windows(split, 4, 9, two))


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize("time", [1, 13, 10_000])
def test_evaluation_predicts_each_token_but_the_first_once(split, batch, time):
    text = split.read(0, len(split))
    rows = [([], [], []) for _ in range(batch)]
    for tokens, fresh, mask in whole_text(split, batch, time):
        for row in range(batch):
            real = mask[row]
            rows[row][0].extend(tokens[row, :-1][real])
            rows[row][1].extend(tokens[row, 1:][real])
            rows[row][2].extend(fresh[row][real])
    read, predicted, fresh = (np.concatenate([row[i] for row in rows]) for i in range(3))
    np.testing.assert_array_equal(read, text[:-1])
    np.testing.assert_array_equal(predicted, text[1:])
    begins = set(split.starts.tolist()) | {sum(len(row[0]) for row in rows[:i]) for i in range(batch)}
    np.testing.assert_array_equal(np.flatnonzero(fresh), sorted(begins - {len(read)}))


def test_a_text_that_is_too_short_says_so(stories, tmp_path):
    split = prepare_text(stories, "bytes", tmp_path / "out", validation_share=0)
    message = r"has \d+ tokens, and a stretch of 10000 steps needs 10001"
    with pytest.raises(UserError, match=message):
        streams(split.training, time=10_000)
    with pytest.raises(UserError, match=message):
        random_windows(split.training, 1, 10_000, np.random.default_rng(0))
    with pytest.raises(UserError, match="has 0 tokens"):
        next(whole_text(split.validation, 1, 5))

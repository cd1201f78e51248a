"""The published windows of Walker2d."""

import os

import numpy as np
import pytest

from liquid_control.data import walker2d
from liquid_control.data.download import VARIABLE
from liquid_control.support.errors import UserError

DATA = os.environ.get(VARIABLE)
real = pytest.mark.skipif(DATA is None, reason=f"needs {VARIABLE}")


def rollouts(count=20, steps=200):
    """Of each the first value is its number, the second the step."""
    states = np.zeros((count, steps, walker2d.FEATURES), np.float32)
    states[..., 0], states[..., 1] = np.arange(count)[:, None], np.arange(steps)
    return list(states)


def test_no_rollout_is_in_two_sets():
    splits = walker2d.split_rollouts(rollouts())
    numbers = [set(part.x[..., 0].ravel()) for part in splits]
    assert [len(part) for part in numbers] == [15, 2, 3]
    assert set.union(*numbers) == set(range(20))


def test_the_target_is_the_state_one_step_after_and_elapsed_counts_what_was_dropped():
    for part in walker2d.split_rollouts(rollouts()):
        np.testing.assert_array_equal(part.target[..., 1], part.x[..., 1] + 1)
        np.testing.assert_array_equal(part.elapsed[:, 1:], np.diff(part.x[..., 1]))
        assert part.elapsed.max() > 1 and part.mask.all()


def test_a_tenth_of_the_steps_is_dropped():
    splits = walker2d.split_rollouts(rollouts(steps=2000))
    assert 1 / splits.train.elapsed.mean() == pytest.approx(0.9, abs=0.01)


def test_a_short_rollout_gives_no_window():
    splits = walker2d.split_rollouts(rollouts(steps=40))
    assert splits.train.x.shape == splits.train.target.shape == (0, 64, 17)


@real
def test_the_real_rollouts_give_the_published_windows():
    splits = walker2d.walker2d()
    assert [len(part.x) for part in splits] == [9_684, 1_272, 1_937]
    assert np.square(splits.test.target - splits.test.x).mean() == pytest.approx(4.54, abs=0.005)
    assert np.square(splits.test.target).mean() == pytest.approx(9.90, abs=0.005)


def local(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "walker2d").mkdir()
    return tmp_path / "walker2d" / "walker2d_rollouts.npz"


def test_what_is_no_archive_of_rollouts_is_told(tmp_path, monkeypatch):
    path = local(tmp_path, monkeypatch)
    for garbage in ("<html>", ""):
        path.write_text(garbage)
        with pytest.raises(UserError, match=r"cannot read the rollouts .*https://"):
            walker2d.walker2d()
    np.savez(path, rollout_000=np.zeros((5, 17)), rollout_001=np.zeros((5, 16)))
    with pytest.raises(UserError, match=r"rollout_001 is float64 \(5, 16\), expected finite states \(steps, 17\)"):
        walker2d.walker2d()
    np.savez(path, rollout_000=np.full((5, 17), "walked"))
    with pytest.raises(UserError, match=r"rollout_000 is <U6 \(5, 17\), expected finite states"):
        walker2d.walker2d()
    np.savez(path, rollout_000=np.zeros((5, 17)))
    with pytest.raises(UserError, match=r"1 rollouts of 5 states, expected 400 of 254963"):
        walker2d.walker2d()


def test_the_official_archive_is_read_in_the_order_of_names(tmp_path):
    path = tmp_path / "walker.zip"
    with path.open("wb") as file:
        np.savez(file, **{f"walker/rollout_00{i}": np.full((2, 17), i) for i in (1, 0)}, **{"__MACOSX/walker/._x": []})
    assert [states[0, 0] for states in walker2d.read_rollouts(path)] == [0, 1]

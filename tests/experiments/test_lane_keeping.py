"""Lane keeping: windows of frames with their times, and splits that share no frame."""

import cv2
import numpy as np
import pytest
import torch

from liquid_control.data.sequences import SequenceSet
from liquid_control.experiments.lane_keeping import TASK, Eyes, drives, windows
from liquid_control.experiments.sequence_cells import CELLS, count
from liquid_control.experiments.sequence_task import Recipe
from liquid_control.experiments.sequence_training import Sequences, build
from liquid_control.support.errors import UserError


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Ten stretches of 24 frames, each picture as bright as its number, steering a tenth of that."""
    folder = tmp_path / "udacity" / "drive"
    (folder / "IMG").mkdir(parents=True)
    lines = []
    for stretch in range(10):
        for place in range(24):
            name = f"center_2020_01_01_{stretch:02d}_00_{place // 10:02d}_{place % 10 * 100:03d}.jpg"
            brightness = stretch * 24 + place
            cv2.imwrite(str(folder / "IMG" / name), np.full((160, 320, 3), brightness, np.uint8))
            lines.append(f"IMG/{name},,,{brightness / 1000},0.5,0,10")
    (folder / "driving_log.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("LIQUID_CONTROL_DATA", str(tmp_path))


def moments(part):
    """Every window's frames, by what was steered."""
    return {round(float(value), 3) for value in part.target.ravel()}


def test_windows_have_frames_times_and_what_was_steered(recorded):
    splits = drives("strict")
    x, elapsed, mask, target = splits.train
    assert x.shape[1:] == (16, 24 * 64 * 3) and mask.all() and x.dtype == np.float32
    np.testing.assert_allclose(elapsed, 1.5, rtol=1e-4)  # a tenth of a second
    np.testing.assert_allclose(x[..., 0], target * 1000 / 127.5 - 1, atol=0.02)  # brightness is the first channel
    assert len(x) % 3 == 0  # windows begin at 0, 4 and 8 of 24


def test_strict_splits_share_no_frame_and_random_ones_do(recorded):
    strict, paper = drives("strict"), drives("paper")
    parts = [moments(part) for part in strict]
    assert not (parts[0] & parts[2] or parts[0] & parts[1] or parts[1] & parts[2]) and all(parts)
    assert sum(len(part.x) for part in paper) == 30
    assert moments(paper.test) & moments(paper.train)


def test_eyes_look_at_each_frame_by_itself():
    torch.manual_seed(0)
    eyes, frames = Eyes(), torch.randn(2, 3, 24 * 64 * 3)
    features = eyes(frames)
    assert features.shape == (2, 3, Eyes.features)
    torch.testing.assert_close(eyes(frames[1:, 2:]), features[1:, 2:], atol=1e-5, rtol=1e-4)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LIQUID_CONTROL_DATA", str(tmp_path))
    with pytest.raises(UserError, match="udacity"):
        drives("strict")
    (tmp_path / "udacity").mkdir()
    with pytest.raises(UserError, match=r"driving_log\.csv"):
        drives("strict")
    with pytest.raises(UserError, match="16 frames"):
        windows([])


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_may_have_as_much_whatever_the_eyes_have(cell):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 24 * 64 * 3), np.float32)
    data = Sequences(SequenceSet(x, np.ones((2, 16), np.float32), np.ones((2, 16), bool), x[..., 0]))
    eyes, share = count(Eyes()), CELLS[cell].share
    for size in (0.25, 1.0):
        model, units = build(TASK, Recipe(size=size), cell, data)
        limit = size * share * TASK.parameters
        assert 0 < count(model) - eyes <= limit and units > 1

"""Shards are lossless; one that is damaged or does not fit is refused."""

import dataclasses

import numpy as np
import pytest

from agents.demonstrations import read_folder, read_shard, write_shard
from agents.episodes import Episode
from liquid_control.support.errors import UserError

SHAPE = (42, 48, 3)


def episodes():
    rng = np.random.default_rng(0)
    return [
        Episode(
            seed=seed,
            score=900.5 + seed,
            steps=steps,
            lap=True,
            tiles=1.0,
            off_road=0.25,
            terminated=True,
            images=rng.integers(0, 256, (steps, *SHAPE), np.uint8),
            gauges=rng.normal(size=(steps, 7)).astype(np.float32),
            labels=rng.normal(size=(steps, 3)).astype(np.float32),
            actions=rng.normal(size=(steps, 3)).astype(np.float32),
            rewards=rng.normal(size=steps).astype(np.float32),
        )
        for seed, steps in ((3, 5), (4, 9))
    ]


def test_a_shard_is_lossless(tmp_path):
    written = episodes()
    write_shard(tmp_path / "a.npz", "CarRacing-v3", written)
    for one, other in zip(written, read_folder(tmp_path, "CarRacing-v3", SHAPE), strict=True):
        for field in dataclasses.fields(Episode):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), strict=True)


def test_a_shard_for_another_driver_is_refused(tmp_path):
    write_shard(tmp_path / "a.npz", "CarRacing-v3", episodes())
    with pytest.raises(UserError, match="recorded for CarRacing-v3"):
        read_shard(tmp_path / "a.npz", "Udacity", SHAPE)
    with pytest.raises(UserError, match=r"images \(42, 48, 3\); the driver needs CarRacing-v3 with \(84, 96, 3\)"):
        read_shard(tmp_path / "a.npz", "CarRacing-v3", (84, 96, 3))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"garbage", lambda data: b""])
def test_a_damaged_shard_is_refused(tmp_path, damage):
    path = tmp_path / "a.npz"
    write_shard(path, "CarRacing-v3", episodes())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="is no shard of demonstrations"):
        read_folder(tmp_path, "CarRacing-v3", SHAPE)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no demonstrations in"):
        read_folder(tmp_path, "CarRacing-v3", SHAPE)


def test_the_minari_export_is_lossless(tmp_path, monkeypatch):
    import minari

    from agents.minari_export import export_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    written = episodes()
    export_minari("carracing/test-v0", written, "CarRacing-v3")
    dataset = minari.load_dataset("carracing/test-v0")
    for one, other in zip(written, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(one.images, other.observations["image"][:-1])
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.labels, other.infos["expert_action"][:-1])
        assert other.terminations.tolist() == [False] * (one.steps - 1) + [True]
    with pytest.raises(UserError, match="Minari refuses"):
        export_minari("carracing/test-v0", written, "CarRacing-v3")

"""Shards are lossless; one that is damaged or does not fit is refused."""

import dataclasses
import hashlib
import io
import json
import zipfile

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


def sealed(content):
    """The file with the checksum that fits its bytes."""
    return content[:-64] + hashlib.sha256(content[:-64]).hexdigest().encode()


def outcome(path):
    """The episodes of a shard, or the text of the one error that it may end in."""
    try:
        return read_shard(path, "CarRacing-v3", SHAPE)
    except UserError as error:
        return str(error)


def equal(one, other):
    return len(one) == len(other) and all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name))
        for a, b in zip(one, other, strict=True)
        for field in dataclasses.fields(Episode)
    )


@pytest.mark.parametrize("made_to_fit", [False, True], ids=["damaged", "made by hand"])
def test_a_changed_shard_is_the_same_or_one_error(tmp_path, made_to_fit):
    """Bits flipped, stretches overwritten, left out or repeated: by chance, or with a checksum that fits."""
    path, whole = tmp_path / "a.npz", episodes()
    write_shard(path, "CarRacing-v3", whole)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    structure = len(content) - 1500  # the list of the archive's members, where a change does most
    for number in range(120):
        changed = bytearray(content)
        begin = int(rng.integers(structure if number % 2 else 0, len(content)))
        end = begin + int(rng.integers(1, 40))
        match number % 4:
            case 0 | 1:
                changed[begin] ^= 1 << rng.integers(8)
            case 2:
                changed[begin:end] = rng.bytes(end - begin)
            case 3:
                changed[begin:end] = content[begin:end] * int(rng.integers(2) * 2)
        path.write_bytes(sealed(changed) if made_to_fit else changed)
        told = outcome(path)
        if not isinstance(told, str):
            assert made_to_fit and equal(told, whole)
        else:
            assert len(told) < 300 + len(str(path)) and "\n" not in told
            assert made_to_fit or "its sha256 differs" in told


def replaced(**changes):
    return lambda members: members | {name: change(members[name]) for name, change in changes.items()}


def header(**changes):
    def change(array):
        told = json.loads(array.tobytes())
        told["episodes"][0] |= changes
        return np.frombuffer(json.dumps(told).encode(), np.uint8)

    return replaced(header=change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replaced(images=lambda a: a.astype(np.float32)), r"its images are float32 \(14, 42, 48, 3\), not uint8"),
        (replaced(gauges=lambda a: a[:, :3]), r"its gauges are float32 \(14, 3\), not float32 \(14, 7\)"),
        (replaced(labels=lambda a: a.astype(np.float64)), "its labels are float64"),
        (replaced(actions=lambda a: a[:-1]), r"its actions are float32 \(13, 3\)"),
        (replaced(rewards=lambda a: a * np.nan), "its rewards are not all finite"),
        (lambda members: members | {"elapsed": np.full(14, -1, np.float32)}, "its elapsed times go below 0"),
        (lambda members: {name: members[name] for name in members if name != "labels"}, "labels is not a file"),
        (replaced(labels=lambda a: a.astype(object)), "allow_pickle=False"),
        (header(steps=10**30), r"its header is wrong at episodes\.0\.steps: .* less than or equal to 1000000000"),
        (header(steps=10**9), r"not uint8 \(1000000009"),
        (header(steps=-1), r"its header is wrong at episodes\.0\.steps: .* greater than or equal to 1, not -1"),
        (header(lap="perhaps"), r"its header is wrong at episodes\.0\.lap"),
        (header(score=float("nan")), r"its header is wrong at episodes\.0\.score"),
        (header(more=1), r"its header is wrong at episodes\.0\.more"),
        (replaced(header=lambda a: np.frombuffer(b"[" * 100_000, np.uint8)), "is no shard of demonstrations"),
        (replaced(header=lambda a: np.frombuffer(b'{"env": "CarRacing-v3", "episodes": []}', np.uint8)), "no episode"),
    ],
)
def test_a_shard_that_holds_something_else_is_refused(tmp_path, change, reason):
    path = tmp_path / "a.npz"
    write_shard(path, "CarRacing-v3", episodes())
    with np.load(path) as archive:
        members = change(dict(archive))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = bytes(64)
        for name, array in members.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    path.write_bytes(sealed(buffer.getvalue()))
    with pytest.raises(UserError, match=reason):
        read_shard(path, "CarRacing-v3", SHAPE)


def test_a_shard_without_a_checksum_is_refused(tmp_path):
    """As those of earlier versions; NumPy reads them, and those of today."""
    path = tmp_path / "a.npz"
    write_shard(path, "CarRacing-v3", episodes())
    with np.load(path) as archive:
        np.savez_compressed(tmp_path / "b.npz", **archive)
    with pytest.raises(UserError, match=r"b\.npz is no shard .*: its sha256 differs, it is damaged or of an earlier"):
        read_shard(tmp_path / "b.npz", "CarRacing-v3", SHAPE)


def test_a_shard_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*a\.npz: Is a directory"):
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

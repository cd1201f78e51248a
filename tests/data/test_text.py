"""What is prepared is read back as it was, is used again, and is whole or refused."""

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest

from liquid_control.data import text
from liquid_control.data.text import TextData, prepare_text
from liquid_control.data.text_sources import TextSource, text_source
from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.support.errors import UserError
from tests.data.conftest import STORIES

DATA = os.environ.get("LIQUID_CONTROL_DATA")
real = pytest.mark.skipif(DATA is None, reason="needs LIQUID_CONTROL_DATA")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def all_of(split):
    return split.read(0, len(split))


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe:280"])
@pytest.mark.parametrize("shard", [7, 2**25])
def test_documents_come_back_with_their_ends_and_starts(stories, tmp_path, monkeypatch, tokenizer, shard):
    monkeypatch.setattr(text, "SHARD", shard)
    split = prepare_text(stories, tokenizer, tmp_path / "out", validation_share=0).training
    tokenizer = TextData(tmp_path / "out").tokenizer
    expected = [np.append(tokenizer.encode(story), tokenizer.end) for story in STORIES]
    np.testing.assert_array_equal(all_of(split), np.concatenate(expected))
    np.testing.assert_array_equal(split.starts, np.cumsum([0, *map(len, expected)])[:-1])
    assert (split.documents, split.bytes) == (len(STORIES), sum(len(story.encode()) for story in STORIES))
    assert [len(split.read(i, i + 9)) for i in range(len(split) - 9)] == [9] * (len(split) - 9)
    np.testing.assert_array_equal(split.read(5, 16), np.concatenate(expected)[5:16])


def test_validation_is_the_last_share_of_the_characters(prepared):
    training, validation = (
        prepared.tokenizer.decode(all_of(split)) for split in (prepared.training, prepared.validation)
    )
    together = "".join(STORIES)
    assert training == together[: int(len(together) * 0.7)]
    assert validation == together[len(training) :]
    assert prepared.training.documents + prepared.validation.documents == len(STORIES) + 1  # one is cut
    assert (all_of(prepared.training) == prepared.training.end).sum() == prepared.training.documents - 1


def test_no_share_leaves_validation_empty(stories, tmp_path):
    data = prepare_text(stories, "bytes", tmp_path / "out", validation_share=0)
    assert (len(data.validation), data.validation.documents, len(data.validation.starts)) == (0, 0, 0)
    for share in (1, -0.1, float("nan")):
        with pytest.raises(UserError, match="share of validation"):
            prepare_text(stories, "bytes", tmp_path / "out", validation_share=share)


def test_a_bpe_learns_nothing_from_validation(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 50 + "\n" + "xyz" * 50)
    data = prepare_text(text_source(tmp_path), "bpe:258", tmp_path / "out", validation_share=0.6)
    assert data.tokenizer.pieces[256] == b"ab"


def test_characters_are_those_of_validation_too(tmp_path):
    (tmp_path / "a.txt").write_text("aaaaaaaaaz")
    data = prepare_text(text_source(tmp_path), "characters", tmp_path / "out")
    assert data.tokenizer.size == 3


def test_numbers_are_as_wide_as_the_vocabulary_needs(tmp_path):
    (tmp_path / "a.txt").write_text("".join(map(chr, range(0x10000, 0x10000 + 2**16))))
    data = prepare_text(text_source(tmp_path), "characters", tmp_path / "out", validation_share=0)
    assert data.tokenizer.size == 2**16 + 1
    np.testing.assert_array_equal(all_of(data.training), np.arange(2**16 + 1))
    (shard,) = (tmp_path / "out").glob("training-0-*")
    assert shard.stat().st_size == 4 * (2**16 + 1)


def test_what_is_prepared_is_not_read_or_written_again(prepared, stories, tmp_path, monkeypatch):
    before = files(tmp_path / "prepared")
    monkeypatch.setattr(text, "write_atomically", None)
    again = prepare_text(stories, "bytes", tmp_path / "prepared", validation_share=0.3)
    assert again.training.digest == prepared.training.digest
    by_tokenizer = prepare_text(stories, make_tokenizer("bytes"), tmp_path / "prepared", validation_share=0.3)
    assert by_tokenizer.training.digest == prepared.training.digest
    assert files(tmp_path / "prepared") == before


def test_another_text_replaces_what_stands_there_and_nothing_else(prepared, stories, tmp_path):
    (tmp_path / "prepared" / "notes.bin").write_text("mine")
    (tmp_path / "prepared" / f".training-0-{'0' * 16}.bin.77.tmp").write_text("of a process that was killed")
    data = prepare_text(stories, "characters", tmp_path / "prepared", validation_share=0.3)
    named = json.loads((tmp_path / "prepared" / "text.json").read_text())
    shards = [file["name"] for split in ("training", "validation") for file in named[split]["shards"]]
    starts = [named[split]["starts"]["name"] for split in ("training", "validation")]
    assert set(files(tmp_path / "prepared")) == {*shards, *starts, "notes.bin", "text.json"}
    assert data.tokenizer.name == "characters"


@pytest.mark.parametrize("content", ['{"title": "mine"}', "[]", "mine", '{"format_version": 1}'])
def test_a_file_of_somebody_that_is_called_as_the_header_stays(stories, tmp_path, content):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "text.json").write_text(content)
    with pytest.raises(UserError, match=r"mine/text\.json is no text\.json of prepared text.*: choose another folder"):
        prepare_text(stories, "bytes", folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"text.json": content}


def test_a_header_that_is_damaged_or_alone_is_replaced(prepared, stories, tmp_path):
    header = tmp_path / "prepared" / "text.json"
    whole = files(tmp_path / "prepared")
    header.write_bytes(whole["text.json"][:-9])
    prepare_text(stories, "bytes", tmp_path / "prepared", validation_share=0.3)
    assert files(tmp_path / "prepared") == whole
    for name in whole.keys() - {"text.json"}:
        (tmp_path / "prepared" / name).unlink()
    prepare_text(stories, "bytes", tmp_path / "prepared", validation_share=0.3)
    assert files(tmp_path / "prepared") == whole


@pytest.mark.parametrize("written", range(5))
def test_a_full_disk_leaves_the_old_text_whole(prepared, stories, tmp_path, disk_full_after, written):
    before = files(tmp_path / "prepared")
    disk_full_after(written)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_text(stories, "characters", tmp_path / "prepared", validation_share=0.3)
    assert files(tmp_path / "prepared") == before


@pytest.mark.parametrize("written", range(5))
def test_a_full_disk_leaves_nothing_half(stories, tmp_path, disk_full_after, written):
    disk_full_after(written)
    with pytest.raises(UserError, match="No space left on device"):
        prepare_text(stories, "bytes", tmp_path / "new", validation_share=0.3)
    assert not (tmp_path / "new").exists()


def test_text_that_turns_out_binary_leaves_nothing(stories, tmp_path):
    (tmp_path / "stories" / "99.txt").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"99\.txt is no text"):
        prepare_text(stories.__class__((*stories.paths, tmp_path / "stories" / "99.txt")), "bytes", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["training-0", "training-starts", "validation-0", "validation-starts"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damage_is_refused_in_one_sentence_and_mended_by_preparing_again(prepared, stories, tmp_path, name, damage):
    (path,) = (tmp_path / "prepared").glob(f"{name}-*")
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match=r"the prepared text in .*prepared is damaged: .*Prepare it again\.") as error:
        TextData(tmp_path / "prepared").verify()
    assert "\n" not in str(error.value)
    prepare_text(stories, "bytes", tmp_path / "prepared", validation_share=0.3).verify()
    assert path.read_bytes() == content


def test_a_changed_shard_is_noticed_when_it_is_first_read(prepared, tmp_path):
    (path,) = (tmp_path / "prepared").glob("training-0-*")
    data = TextData(tmp_path / "prepared")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"the sha256 of training-0-.* differs"):
        data.training.read(0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2"),
        ({"training": None}, "wrong at training"),
        ({"tokenizer": {"name": "morse"}}, "unknown name 'morse'"),
        ({"extra": 1}, "wrong at extra"),
        ({"validation": {"tokens": 1}}, "validation"),
    ],
)
def test_another_header_is_refused(prepared, tmp_path, change, message):
    path = tmp_path / "prepared" / "text.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        TextData(tmp_path / "prepared")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "text.json"])
def test_a_header_names_no_other_file(prepared, tmp_path, name):
    path = tmp_path / "prepared" / "text.json"
    header = json.loads(path.read_text())
    header["training"]["shards"][0]["name"] = name
    path.write_text(json.dumps(header))
    with pytest.raises(UserError, match="is no file of it"):
        TextData(tmp_path / "prepared")


def test_tokens_that_the_tokenizer_does_not_have_are_refused(prepared, tmp_path):
    path = tmp_path / "prepared" / "text.json"
    header = json.loads(path.read_text()) | {"tokenizer": {"name": "characters", "alphabet": [97]}}
    path.write_text(json.dumps(header))
    with pytest.raises(UserError, match="tokens that its tokenizer does not have"):
        TextData(tmp_path / "prepared").training.read(0, 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"\xff", b"[]", b"null"])
def test_a_header_that_is_none_is_refused(prepared, tmp_path, content):
    (tmp_path / "prepared" / "text.json").write_bytes(content)
    with pytest.raises(UserError, match=r"prepare (it|the text) again|Prepare (it|the text) again"):
        TextData(tmp_path / "prepared")


def test_a_folder_without_prepared_text_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no prepared text: there is no text\.json"):
        TextData(tmp_path)


def test_reading_past_the_end_is_an_error(prepared):
    with pytest.raises(IndexError):
        prepared.training.read(0, len(prepared.training) + 1)


def test_a_folder_that_is_being_prepared_is_left_alone(stories, tmp_path):
    with (
        text.held(tmp_path / "out", "busy"),
        pytest.raises(UserError, match="is being prepared by another process"),
    ):
        prepare_text(stories, "bytes", tmp_path / "out")


@dataclass
class Download(TextSource):
    texts: list
    times: int = 0

    def documents(self):
        self.times += 1
        yield from self.texts

    def identity(self):
        return {"kind": "download"}


def test_a_download_happens_once(tmp_path):
    source = Download(["one €", "two", "thr\0ee"])
    data = prepare_text(source, "bpe:260", tmp_path / "out", validation_share=0)
    assert (source.times, data.training.documents) == (1, 3)
    assert data.tokenizer.decode(all_of(data.training)) == "one €twothr\0ee"
    prepare_text(source, "bpe:260", tmp_path / "out", validation_share=0)
    assert source.times == 1


def test_a_download_without_text_is_an_error(tmp_path):
    with pytest.raises(UserError, match="the text is empty"):
        prepare_text(Download([]), "bytes", tmp_path / "out")


@real
def test_shakespeare_is_cut_where_nanogpt_cuts_it(tmp_path):
    data = prepare_text(text_source(f"{DATA}/text/tinyshakespeare/input.txt"), "characters", tmp_path / "out")
    assert data.tokenizer.size == 65 + 1
    assert data.training.bytes + data.validation.bytes == 1_115_394
    assert (len(data.training), len(data.validation)) == (1_003_854, 111_540 + 1)  # the one is the end


@real
def test_the_tiny_stories_are_counted(tmp_path):
    folder = f"{DATA}/text/tinystories"
    documents = 0
    for name in ("train", "val"):
        source = text_source(f"{folder}/{name}.txt", "<|endoftext|>")
        documents += prepare_text(source, "bytes", tmp_path / name, validation_share=0).training.documents
    assert documents == 6235

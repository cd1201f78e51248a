"""Documents come in order, and what is no text is one error that names its file."""

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liquid_control.data import text_sources
from liquid_control.data.text_sources import text_source
from liquid_control.support.errors import UserError
from liquid_control.support.files import read_text

MARK = "<|endoftext|>"


@pytest.mark.parametrize("block", [1, 2, 3, 2**24])
def test_a_file_is_one_document_and_what_is_learned_is_what_is_read(tmp_path, monkeypatch, block):
    """Without a mark of the encoding, and whatever its lines end with."""
    monkeypatch.setattr(text_sources, "BLOCK", block)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff\r\n one\r\r\n\n €".encode())
    assert [*text_source(path).documents()] == ["\n one\n\n\n €"] == [read_text(path)]


def test_a_folder_has_a_document_a_file_in_the_order_of_names(tmp_path):
    for name in ("b.txt", "c.txt", "a.txt", "d.md"):
        (tmp_path / name).write_text(name)
    assert [*text_source(tmp_path).documents()] == ["a.txt", "b.txt", "c.txt"]


def test_a_separator_parts_files_and_belongs_to_no_document(tmp_path):
    (tmp_path / "a.txt").write_text(f"one\ntwo\n{MARK}\nthree\n{MARK}{MARK}\n \n{MARK}four{MARK}\n")
    (tmp_path / "b.txt").write_text("five\n")
    assert [*text_source(tmp_path, MARK).documents()] == ["one\ntwo", "three", "four", "five"]


@given(st.lists(st.text(st.sampled_from("ab<|€🙂"), min_size=1), min_size=2), st.integers(1, 9))
def test_blocks_of_any_size_give_the_same_documents(tmp_path_factory, documents, block):
    path = tmp_path_factory.getbasetemp() / "blocks.txt"
    path.write_bytes("##".join(documents).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_sources, "BLOCK", block)
        assert [*text_source(path, "##").documents()] == documents


def test_the_same_documents_elsewhere_are_the_same_source(tmp_path):
    for name, text in (("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two")):
        (tmp_path / name).write_text(text)
    a, b, c = (text_source(tmp_path / f"{name}.txt").identity() for name in "abc")
    assert a == b != c
    assert text_source(tmp_path / "a.txt", "n").identity() != a


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: write something to it, or leave it out"),
        (b" \n\t", "is empty"),
        (b"text\0text", "is no text: byte 4 is NUL"),
        ("text".encode("utf-16"), "is no text"),
        (b"caf\xe9 au lait", "is no text in UTF-8: byte 3 .*iconv"),
        (b"cut \xe2\x82", "is no text in UTF-8: byte 4 "),
    ],
)
@pytest.mark.parametrize("block", [3, 2**24])
def test_what_is_no_text_names_its_file(tmp_path, monkeypatch, content, message, block):
    monkeypatch.setattr(text_sources, "BLOCK", block)
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"b\.txt {message}"):
        list(text_source(tmp_path).documents())


def test_a_separator_that_is_nowhere_is_a_mistake(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    with pytest.raises(UserError, match=r"'<\|end\|>' is nowhere in .*a\.txt"):
        list(text_source(tmp_path, "<|end|>").documents())
    with pytest.raises(UserError, match="separator of documents is empty"):
        text_source(tmp_path, "")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no text .*none\.txt"):
        text_source(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"holds no \*\.txt"):
        text_source(tmp_path)
    with pytest.raises(UserError, match="text"):
        text_source("a\0b")


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"cannot read the text .*folder\.txt: Is a directory"):
        list(text_source(tmp_path).documents())


def fake_datasets(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))


def test_a_data_set_is_read_as_a_stream_of_its_texts(monkeypatch):
    def load(name, subset, split, streaming):
        assert (name, subset, split, streaming) == ("owner/name", "raw", "test", True)
        return iter([{"story": "one", "id": 1}, {"story": " ", "id": 2}, {"story": "two", "id": 3}])

    fake_datasets(monkeypatch, load)
    source = text_source("hf:owner/name:raw", column="story", split="test")
    assert [*source.documents()] == ["one", "two"]
    with pytest.raises(UserError, match=r"no texts in the column id\. It has the columns story, id"):
        list(text_source("hf:owner/name:raw", column="id", split="test").documents())


def test_a_data_set_that_cannot_be_reached_is_one_line(monkeypatch):
    def load(*_, **__):
        raise ConnectionError("Couldn't reach 'owner/none'\non the Hub")

    fake_datasets(monkeypatch, load)
    with pytest.raises(UserError, match="cannot read the data set owner/none of Hugging Face: Couldn't") as error:
        list(text_source("hf:owner/none").documents())
    assert "\n" not in str(error.value)


def test_a_data_set_needs_a_package_and_no_separator(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets.*pip install 'liquid-control\[text\]'"):
        list(text_source("hf:owner/name").documents())
    with pytest.raises(UserError, match="a separator parts text files"):
        text_source("hf:owner/name", MARK)

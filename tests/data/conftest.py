"""A small corpus, and a full disk."""

import errno
import os

import pytest

from liquid_control.data.text import prepare_text
from liquid_control.data.text_sources import text_source

STORIES = [f"The {word} said: „{word * 3}“!\nIt's {i}  times.\n\n\tEnd {i}." for i, word in enumerate("abcdefghij", 1)]


@pytest.fixture
def stories(tmp_path):
    """A folder of ten documents."""
    folder = tmp_path / "stories"
    folder.mkdir()
    for i, text in enumerate(STORIES):
        (folder / f"{i:02}.txt").write_bytes(text.encode())
    return text_source(folder)


@pytest.fixture
def prepared(stories, tmp_path):
    """The ten documents as bytes, three tenths of them for validation."""
    return prepare_text(stories, "bytes", tmp_path / "prepared", validation_share=0.3)


@pytest.fixture
def disk_full_after(monkeypatch):
    """A function: after so many more files are written, the disk is full."""

    def after(files):
        fsync, written = os.fsync, []

        def full(descriptor):
            written.append(descriptor)
            if len(written) > files:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)

    return after

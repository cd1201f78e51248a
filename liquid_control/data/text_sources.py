"""Where text comes from: files, folders, and data sets of Hugging Face, as documents in a fixed order."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from liquid_control.data.tokenizers import INSTALL
from liquid_control.support.errors import UserError
from liquid_control.support.schema import shortened

HUGGING_FACE = "hf:"
"""What the name of a data set of Hugging Face begins with."""


class TextSource(ABC):
    """Documents in a fixed order."""

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """The documents, none of them empty.

        Raises:
            UserError: if they cannot be read, or are no text; names the file.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON that is equal for equal documents."""


def text_source(
    name: str | os.PathLike[str], separator: str | None = None, column: str = "text", split: str = "train"
) -> TextSource:
    """A source by its name.

    Args:
        name: a text file, which is one document; a folder, each ``*.txt`` of which is a document, in the order of their
            names; or ``hf:owner/name`` or ``hf:owner/name:subset``, a data set of Hugging Face by the package
            ``datasets``, which is downloaded, for example ``hf:roneneldan/TinyStories`` or
            ``hf:Salesforce/wikitext:wikitext-2-raw-v1``.
        separator: what parts documents inside of a file, for example ``<|endoftext|>``. It belongs to none, nor do the
            ends of lines around it.
        column: of a data set of Hugging Face, where its text is.
        split: of a data set of Hugging Face.

    Raises:
        UserError: if there is no such file or folder, or the folder holds no ``*.txt``.
    """
    if str(name).startswith(HUGGING_FACE):
        if separator is not None:
            raise UserError("a separator parts text files; a data set of Hugging Face has a row for each document.")
        dataset, _, subset = str(name).removeprefix(HUGGING_FACE).partition(":")
        return HuggingFaceText(dataset, subset or None, column, split)
    if separator == "":
        raise UserError("the separator of documents is empty: give the text between them, or none.")
    path = Path(name)
    try:
        paths = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        there = path.exists()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise UserError(f"cannot read the text {shortened(repr(str(path)))}: {error}.") from None
    if not there:
        raise UserError(f"there is no text {shortened(path)}: give a file, a folder of *.txt, or hf:owner/name.")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{shortened(path)} is neither a file nor a folder: a text is read more than once.")
    if not paths:
        raise UserError(f"the folder {path} holds no *.txt: give one that does, or a file.")
    return TextFiles(tuple(paths), separator)


@dataclass(frozen=True)
class TextFiles(TextSource):
    """Files of UTF-8, each a document, or several that a separator parts."""

    paths: tuple[Path, ...]
    separator: str | None = None

    def documents(self) -> Iterator[str]:
        """See :meth:`TextSource.documents`; a file is read in blocks where a separator parts it."""
        parted = self.separator is None
        for path in self.paths:
            parts, empty = 0, True
            for text in self._parts(path):
                parts += 1
                if text and not text.isspace():
                    empty = False
                    yield text
            if empty:
                raise UserError(f"the text {path} is empty: write something to it, or leave it out.")
            parted |= parts > 1
        if not parted:
            raise UserError(
                f"the separator {self.separator!r} is nowhere in {self._named()}: correct it, or give none."
            )

    def _parts(self, path: Path) -> Iterator[str]:
        if self.separator is None:
            yield "".join(_blocks(path))
            return
        rest = ""
        for block in _blocks(path):
            *whole, rest = (rest + block).split(self.separator)
            yield from (text.strip("\n") for text in whole)
        yield rest.strip("\n")

    def _named(self) -> str:
        others = len(self.paths) - 1
        return f"{self.paths[0]}{f' and {others} other files' if others else ''}"

    def identity(self) -> dict[str, Any]:
        """See :meth:`TextSource.identity`: the contents count, not their places."""
        digest = hashlib.sha256()
        for path in self.paths:
            for block in _read_blocks(path):
                digest.update(block)
            digest.update(b"\0")  # no text holds it
        return {"kind": "files", "separator": self.separator, "sha256": digest.hexdigest()}


BLOCK = 2**24
"""Bytes of a file that are read at once."""


def _read_blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise UserError(f"cannot read the text {path}: {error.strerror or error}.") from None


def _blocks(path: Path) -> Iterator[str]:
    """The text of a file as :func:`read_text` has it, a block at a time."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    position = 0
    for block in _read_blocks(path):
        if b"\0" in block:
            place = position + block.index(b"\0")
            raise UserError(f"{path} is no text: byte {place} is NUL. Give a text file in UTF-8.")
        yield _decoded(decoder, block, position, path)
        position += len(block)
    yield _decoded(decoder, b"", position, path)


def _decoded(decoder: io.IncrementalNewlineDecoder, block: bytes, position: int, path: Path) -> str:
    kept = len(decoder.getstate()[0])
    try:
        return decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8: byte {position - kept + error.start} does not belong there. Give a text "
            "file, or convert it, for example: iconv -f latin1 -t utf-8."
        ) from None


@dataclass(frozen=True)
class HuggingFaceText(TextSource):
    """A data set of Hugging Face, a document a row, read as a stream: nothing of it is kept by ``datasets``."""

    name: str
    subset: str | None = None
    column: str = "text"
    split: str = "train"

    def documents(self) -> Iterator[str]:
        """See :meth:`TextSource.documents`."""
        try:
            import datasets
        except ImportError:
            raise UserError(f"{HUGGING_FACE}{self.name} needs the package datasets. {INSTALL}") from None
        try:
            for row in datasets.load_dataset(self.name, self.subset, split=self.split, streaming=True):
                if not isinstance(text := row.get(self.column), str):
                    raise UserError(
                        f"the data set {self.name} has no texts in the column {shortened(self.column)}. It has the "
                        f"columns {shortened(', '.join(map(str, row)))}."
                    )
                if text and not text.isspace():
                    yield text
        except UserError:
            raise
        except Exception as error:  # of three libraries for files and networks, each with kinds of its own
            raise UserError(
                f"cannot read the data set {self.name} of Hugging Face: {shortened(error).rstrip('.')}. Check its name "
                "and the network, or give a text file."
            ) from None

    def identity(self) -> dict[str, Any]:
        """See :meth:`TextSource.identity`: the name, so what is prepared is used again without a network."""
        return {"kind": "hugging face"} | asdict(self)

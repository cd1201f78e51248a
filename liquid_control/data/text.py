"""Text as memory-mapped tokens: prepared once, read without loading it.

A folder of prepared text::

    text.json                      the tokenizer, the source, counts, and the sha256 of every other file
    training-0-<digest>.bin        tokens one after another, little-endian uint16 (uint32 for more than 65,536 tokens)
    training-starts-<digest>.bin   where the documents begin, little-endian uint64
    validation-…                   the same

``text.json`` is written last, so the folder holds one whole text at every moment: the old one or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Lt

from liquid_control.data.text_sources import TextFiles, TextSource
from liquid_control.data.tokenizers import Tokenizer, make_tokenizer, tokenizer_from_config
from liquid_control.support.errors import UserError
from liquid_control.support.files import write_atomically
from liquid_control.support.lock import held
from liquid_control.support.schema import shortened, validated

FORMAT_VERSION = 1
HEADER = "text.json"
SHARD = 2**25
"""Tokens of a shard at most: 64 MiB are in memory when it is written."""
TRAINING, VALIDATION = "training", "validation"
_DIGEST = r"[0-9a-f]{64}"
_Whole = Annotated[int, Ge(0), Lt(2**62)]


@dataclass(frozen=True)
class _File:
    """A file of numbers: how many, and its sha256."""

    name: str
    numbers: _Whole
    sha256: str


@dataclass(frozen=True)
class _SplitHeader:
    tokens: _Whole
    documents: _Whole
    bytes: _Whole
    shards: list[_File]
    starts: _File


@dataclass(frozen=True)
class _Header:
    tokenizer: dict[str, Any]
    source: dict[str, Any]
    validation_share: float
    training: _SplitHeader
    validation: _SplitHeader


def prepare_text(
    source: TextSource,
    tokenizer: Tokenizer | str,
    folder: str | os.PathLike[str],
    validation_share: float = 0.1,
    check: Callable[[int, int], None] = lambda training, validation: None,
) -> TextData:
    """Writes a text as tokens. What stands there from the same source with the same tokenizer is used again.

    The last share of all characters is for validation, as in nanoGPT; a document may be cut there. After each document
    comes the tokenizer's token for its end.

    Args:
        source: of the documents. It is read several times; a data set of Hugging Face is downloaded once, into a
            temporary file beside the tokens.
        tokenizer: or the name of one, which is then made from this source: ``characters`` from all of it, so that
            validation has no unknown ones, ``bpe:N`` from the part for training.
        folder: where; made if it is missing. Another text that was prepared there is replaced.
        validation_share: of the characters, in [0, 1); 0 leaves validation empty.
        check: called with the tokens for training and for validation before they take the place of what stands there;
            what it raises ends the preparing.

    Raises:
        UserError: if the source cannot be read, or the folder not be written, for example because the disk is full, or
            a ``text.json`` that is none of prepared text stands there. The folder is then as it was.
    """
    if not 0 <= validation_share < 1:
        raise UserError(f"the share of validation must be in [0, 1), not {validation_share}.")
    folder, identity = Path(folder), source.identity()
    prepared = _prepared(folder, identity, tokenizer, validation_share)
    if prepared is not None:
        return prepared
    _check_replaceable(folder)
    with held(folder, f"{folder} is being prepared by another process: wait for it, or choose another folder."):
        before = {path.name for path in folder.iterdir()}
        try:
            with _local(source, folder) as local:
                header = _write_splits(local, identity, tokenizer, folder, validation_share)
            check(header.training.tokens, header.validation.tokens)
            text = json.dumps({"format_version": FORMAT_VERSION} | asdict(header)) + "\n"
            write_atomically(folder / HEADER, text)
        except BaseException:
            _remove_shards(folder, keep=before)
            raise
        files = [*header.training.shards, *header.validation.shards, header.training.starts, header.validation.starts]
        _remove_shards(folder, keep={file.name for file in files})
    return TextData(folder)


def _prepared(folder: Path, identity: dict[str, Any], tokenizer: Tokenizer | str, share: float) -> TextData | None:
    """What stands in the folder, if it is this text and whole."""
    try:
        data = TextData(folder)
        wanted = tokenizer if isinstance(tokenizer, str) else tokenizer.config()
        there = data.tokenizer.name if isinstance(tokenizer, str) else data.tokenizer.config()
        if (data.source, there, data.validation_share) != (identity, wanted, share):
            return None
        data.verify()
    except UserError:
        return None
    return data


_OURS = re.compile(rf"({TRAINING}|{VALIDATION})-([0-9]+|starts)-[0-9a-f]{{16}}\.bin")
_LEFTOVER = re.compile(rf"\.({_OURS.pattern}|{HEADER})\.[0-9]+\.tmp")
"""Of a process that was killed while it wrote."""


def _check_replaceable(folder: Path) -> None:
    """Looks whether what stands in the header's place is a header. A damaged one is known by the shards beside it.

    Raises:
        UserError: if it is something else, which somebody may need.
    """
    path = folder / HEADER
    if not path.exists() or any(_OURS.fullmatch(other.name) for other in folder.iterdir()):
        return
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not (isinstance(content, dict) and content.keys() >= {field.name for field in fields(_Header)}):
        raise UserError(f"{path} is no {HEADER} of prepared text, which would take its place: choose another folder.")


def _remove_shards(folder: Path, keep: Iterable[str]) -> None:
    """Removes files of prepared text, and nothing else that stands in the folder."""
    for path in folder.iterdir():
        if (_OURS.fullmatch(path.name) and path.name not in keep) or _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _local(source: TextSource, folder: Path) -> Iterator[TextSource]:
    """The source, or what was downloaded of it to a temporary file: it is read more than once."""
    if isinstance(source, TextFiles):
        yield source
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        lengths = []
        try:
            for text in source.documents():
                lengths.append(file.write(text.encode(errors="replace")))
            file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {folder}: {error.strerror or error}. Free some space or choose another folder."
            ) from error
        yield _Downloaded(file, lengths)


class _Downloaded(TextSource):
    def __init__(self, file: Any, lengths: list[int]):
        self._file, self._lengths = file, lengths

    def documents(self) -> Iterator[str]:
        self._file.seek(0)
        return (self._file.read(length).decode() for length in self._lengths)

    def identity(self) -> dict[str, Any]:
        return {"kind": "temporary"}


def _write_splits(
    source: TextSource, identity: dict[str, Any], tokenizer: Tokenizer | str, folder: Path, share: float
) -> _Header:
    characters = sum(map(len, source.documents()))
    if characters == 0:
        raise UserError("the text is empty: give a source with documents.")
    cut = int(characters * (1 - share))
    if isinstance(tokenizer, str):
        every = tokenizer == "characters"
        tokenizer = make_tokenizer(
            tokenizer, (text for text, _ in _divided(source, characters if every else cut) if text)
        )
    training, validation = (_SplitWriter(folder, name, tokenizer) for name in (TRAINING, VALIDATION))
    for before, after in _divided(source, cut):
        if before:
            training.add(before, ends=not after)
        if after:
            validation.add(after, ends=True)
    return _Header(tokenizer.config(), identity, share, training.finish(), validation.finish())


def _divided(source: TextSource, cut: int) -> Iterator[tuple[str, str]]:
    """Each document in two: what is in front of a character of the whole text, and what follows."""
    for text in source.documents():
        place = max(cut, 0)
        yield text[:place], text[place:]
        cut -= len(text)


class _SplitWriter:
    """Writes documents as shards, each as soon as it is full."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer):
        self._folder, self._name, self._tokenizer = folder, name, tokenizer
        self._waiting: list[np.ndarray] = []
        self._shards: list[_File] = []
        self._starts: list[int] = []
        self._tokens = self._bytes = 0

    def add(self, text: str, ends: bool) -> None:
        tokens = self._tokenizer.encode(text)
        tokens = np.append(tokens, self._tokenizer.end) if ends else tokens
        self._starts.append(self._tokens)
        self._tokens += len(tokens)
        self._bytes += len(text.encode())
        self._waiting.append(tokens.astype(_number_type(self._tokenizer)))
        if self._tokens - len(self._shards) * SHARD >= SHARD:
            joined = np.concatenate(self._waiting)
            while len(joined) >= SHARD:
                self._write_shard(joined[:SHARD])
                joined = joined[SHARD:]
            self._waiting = [joined]

    def _write_shard(self, tokens: np.ndarray) -> None:
        self._shards.append(self._write(str(len(self._shards)), tokens))

    def _write(self, part: str, numbers: np.ndarray) -> _File:
        content = numbers.tobytes()
        digest = hashlib.sha256(content).hexdigest()
        name = f"{self._name}-{part}-{digest[:16]}.bin"
        write_atomically(self._folder / name, content)
        return _File(name, len(numbers), digest)

    def finish(self) -> _SplitHeader:
        rest = np.concatenate(self._waiting) if self._waiting else np.empty(0, _number_type(self._tokenizer))
        if len(rest):
            self._write_shard(rest)
        starts = self._write("starts", np.array(self._starts, "<u8"))
        return _SplitHeader(self._tokens, len(self._starts), self._bytes, self._shards, starts)


def _number_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2" if tokenizer.size <= 2**16 else "<u4")


class TextData:
    """A prepared text, read back: nothing is in memory before it is asked for.

    Args:
        folder: where :func:`prepare_text` wrote it.

    Attributes:
        tokenizer: the one that it was prepared with.
        training: its tokens, (N,), and where its documents begin.
        validation: the same of the part that is not learned from.
        source: what :meth:`TextSource.identity` said.
        validation_share: of the characters.

    Raises:
        UserError: if the folder holds no prepared text, one of another version, or one that is damaged. Here, names and
            sizes are looked at; the checksum of a shard is when it is first read, see :meth:`verify`.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        folder = Path(folder)
        header = _read_header(folder)
        self.tokenizer = tokenizer_from_config(header.tokenizer)
        self.source, self.validation_share = header.source, header.validation_share
        self.training = TextSplit(folder, header.training, self.tokenizer)
        self.validation = TextSplit(folder, header.validation, self.tokenizer)

    def verify(self) -> None:
        """Reads everything and compares it with the checksums.

        Raises:
            UserError: if a file is damaged.
        """
        self.training.verify()
        self.validation.verify()


class TextSplit:
    """The tokens of one part of a text, one document after another, in shards that are mapped when they are needed.

    Attributes:
        documents: how many there are.
        bytes: of UTF-8 that the tokens stand for. Nats of all tokens, divided by ``bytes * log(2)``, are bits per byte.
        end: the token of the end of a document.
        digest: of all tokens, to recognise them by.
    """

    def __init__(self, folder: Path, header: _SplitHeader, tokenizer: Tokenizer):
        self._folder, self._header, self._size = folder, header, tokenizer.size
        self._type = _number_type(tokenizer)
        self.documents, self.bytes, self.end = header.documents, header.bytes, tokenizer.end
        self.digest = hashlib.sha256("".join(shard.sha256 for shard in header.shards).encode()).hexdigest()
        self._ends = np.cumsum([shard.numbers for shard in header.shards], dtype=np.int64)
        self._maps: dict[int, np.ndarray] = {}
        whole = sum(shard.numbers for shard in header.shards) == header.tokens
        if not whole or header.starts.numbers != header.documents:
            raise _damaged(folder, "its counts do not agree")
        for file, kind in [*((shard, self._type) for shard in header.shards), (header.starts, np.dtype("<u8"))]:
            _check_file(folder, file, kind)

    def __len__(self) -> int:
        """How many tokens there are."""
        return self._header.tokens

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens ``start`` to ``stop`` as a copy, (stop - start,) int64.

        Raises:
            IndexError: if there are not so many.
            UserError: if a shard is damaged.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of a text of {len(self)}.")
        result = np.empty(stop - start, np.int64)
        shard = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < len(result):
            tokens = self._shard(shard)
            inside = start + filled - (int(self._ends[shard]) - len(tokens))
            part = tokens[inside : inside + len(result) - filled]
            result[filled : filled + len(part)] = part
            filled += len(part)
            shard += 1
        return result

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the documents begin, (documents,) uint64, ascending from 0."""
        starts = _mapped(self._folder, self._header.starts, np.dtype("<u8"))
        if len(starts) and (starts[0] != 0 or starts[-1] >= len(self) or (starts[1:] <= starts[:-1]).any()):
            raise _damaged(self._folder, "its documents do not begin one after another")
        return starts

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._maps:
            shard = self._header.shards[number]
            tokens = _mapped(self._folder, shard, self._type)
            if tokens.max() >= self._size:
                raise _damaged(self._folder, f"{shard.name} holds tokens that its tokenizer does not have")
            self._maps[number] = tokens
        return self._maps[number]

    def verify(self) -> None:
        """See :meth:`TextData.verify`."""
        for number in range(len(self._header.shards)):
            self._shard(number)
        self.starts  # noqa: B018 - looks at them


def _read_header(folder: Path) -> _Header:
    path = folder / HEADER
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} holds no prepared text: there is no {HEADER} in it.") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise _damaged(folder, f"{HEADER} is no JSON") from None
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder} has format version {shortened(repr(version))[:80]} of prepared text; this release reads version "
            f"{FORMAT_VERSION}. Prepare the text again."
        )
    return validated(_Header, content, f"the header {path}")


def _check_file(folder: Path, file: _File, kind: np.dtype[Any]) -> None:
    """Looks whether a file is there in its full length."""
    if not (_OURS.fullmatch(file.name) and re.fullmatch(_DIGEST, file.sha256) and file.sha256[:16] in file.name):
        raise _damaged(folder, f"{HEADER} names {shortened(repr(file.name))[:80]}, which is no file of it")
    try:
        size = (folder / file.name).stat().st_size
    except OSError as error:
        raise _damaged(folder, f"{file.name}: {error.strerror or error}") from None
    if size != file.numbers * kind.itemsize:
        raise _damaged(folder, f"{file.name} has {size} bytes instead of {file.numbers * kind.itemsize}")


def _mapped(folder: Path, file: _File, kind: np.dtype[Any]) -> np.ndarray:
    """The numbers of a file, mapped, after its checksum was compared."""
    if file.numbers == 0:
        return np.empty(0, kind)
    try:
        numbers = np.memmap(folder / file.name, kind, mode="r")
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"cannot map {file.name}: {shortened(error)}") from None
    if hashlib.sha256(numbers.data).hexdigest() != file.sha256:
        raise _damaged(folder, f"the sha256 of {file.name} differs")
    return numbers


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(f"the prepared text in {folder} is damaged: {why}. Prepare it again.")

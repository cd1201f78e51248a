"""Text as whole numbers and back, by tokenizers with names: ``bytes``, ``characters``, ``bpe:4096``, ``gpt2``.

All share one form. A token stands for some bytes of UTF-8, and the last token stands for the end of a document and for
no text at all. Documents never contain that token: a text ``<|endoftext|>`` inside of one is text.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le, Len

from liquid_control.support.errors import UserError, nearest
from liquid_control.support.schema import shortened, validated

NAMES = ("bytes", "characters", "bpe:4096", "gpt2")
"""What :func:`make_tokenizer` knows; another number may stand behind ``bpe:``."""
INSTALL = "Install it: pip install 'liquid-control[text]'."


class Tokenizer(ABC):
    """What every tokenizer is.

    Attributes:
        name: as :func:`make_tokenizer` takes it.
        pieces: the bytes of UTF-8 that each token stands for; a token of a byte-level tokenizer may be a part of a
            character. Empty for :attr:`end`.
    """

    def __init__(self, name: str, pieces: Iterable[bytes]):
        self.name = name
        self.pieces = (*pieces, b"")

    @property
    def size(self) -> int:
        """How many tokens there are, that of the end of a document included."""
        return len(self.pieces)

    @property
    def end(self) -> int:
        """The token of the end of a document, which is the last one."""
        return self.size - 1

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text, (N,) int64, without one for its end.

        Raises:
            UserError: if the text holds what the tokenizer cannot express.
        """

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens, (N,). Bytes that are not UTF-8 become ``�``, and the end of a document becomes nothing.

        Raises:
            ValueError: if a token is not in [0, size).
        """
        known = self._known(tokens)
        documents = np.split(known, np.flatnonzero(known == self.end))
        return "".join(b"".join(self.pieces[i] for i in each).decode(errors="replace") for each in documents)

    def _known(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        given = np.asarray(tokens)
        if given.size == 0:
            return np.empty(0, np.int64)
        if given.dtype.kind not in "iu" or given.ndim != 1:
            raise ValueError(f"tokens must be whole numbers (N,), not {given.dtype} {given.shape}.")
        unknown = given[(given < 0) | (given >= self.size)]
        if len(unknown):
            raise ValueError(f"token {unknown[0]} is unknown: the tokenizer {self.name} has 0 to {self.size - 1}.")
        return given

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What :func:`tokenizer_from_config` makes the tokenizer of again: a name, and whole numbers in lists."""


class StreamDecoder:
    """Decodes tokens one by one, as they are generated: a character appears when its last byte is there.

    What it returns, joined, is what :meth:`Tokenizer.decode` returns for all tokens.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that is complete with this token; often none.

        Raises:
            ValueError: if the token is not in [0, size).
        """
        (known,) = self._tokenizer._known([token])
        return self._decoder.decode(self._tokenizer.pieces[known], final=bool(known == self._tokenizer.end))

    def finish(self) -> str:
        """What is left when no token follows: ``�`` for a character that is not whole, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


def make_tokenizer(name: str, documents: Iterable[str] = ()) -> Tokenizer:
    """A tokenizer by its name.

    Args:
        name: ``bytes``; ``characters``, those of the documents, sorted; ``bpe:N``, a byte-level BPE of N tokens trained
            on the documents (Sennrich et al. 2016, arXiv 1508.07909; over bytes as in GPT-2), needs the package
            ``tokenizers``; ``gpt2``, GPT-2's own by the package ``tiktoken``, which downloads it once.
        documents: the corpus; only ``characters`` and ``bpe:N`` read it.

    Raises:
        UserError: if there is none of that name, it cannot be had, or the corpus is too small for it.
    """
    kind, colon, number = name.partition(":")
    if kind == "bpe" and colon:
        size = int(number) if re.fullmatch("[1-9][0-9]{0,6}", number) else 0
        if not 258 <= size <= LARGEST:
            raise UserError(
                f"{shortened(name)}: a BPE has 258 to {LARGEST:,} tokens (256 bytes, pairs, the end of a document), "
                "for example bpe:4096."
            )
        return _trained_bpe(size, documents)
    match name:
        case "bytes":
            return ByteTokenizer()
        case "characters":
            alphabet = set[str]().union(*map(set, documents))
            if not alphabet:
                raise UserError("the corpus is empty: there are no characters for a tokenizer.")
            return CharacterTokenizer(sorted(map(ord, alphabet)))
        case "gpt2":
            return GPT2Tokenizer()
    raise UserError(f"there is no tokenizer {shortened(repr(name))}: {nearest(name, NAMES)}")


LARGEST = 2**20
"""Tokens of a BPE at most."""


class ByteTokenizer(Tokenizer):
    """A token a byte: 256, and the end of a document."""

    def __init__(self) -> None:
        super().__init__("bytes", (bytes([i]) for i in range(256)))

    def encode(self, text: str) -> np.ndarray:
        """See :meth:`Tokenizer.encode`."""
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int64)

    def config(self) -> dict[str, Any]:
        """See :meth:`Tokenizer.config`."""
        return {"name": "bytes"}


class CharacterTokenizer(Tokenizer):
    """A token a character of an alphabet, and the end of a document.

    Args:
        alphabet: code points, ascending.
    """

    def __init__(self, alphabet: Sequence[int]):
        super().__init__("characters", (chr(point).encode() for point in alphabet))
        self._alphabet = np.asarray(alphabet, np.uint32)

    def encode(self, text: str) -> np.ndarray:
        """See :meth:`Tokenizer.encode`; an error names the characters that are not in the alphabet."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        tokens = np.searchsorted(self._alphabet, points).clip(max=len(self._alphabet) - 1)
        unknown = points[self._alphabet[tokens] != points]
        if len(unknown):
            names = ", ".join(repr(chr(point)) for point in np.unique(unknown)[:10])
            raise UserError(
                f"the tokenizer does not know the characters {names}: it has the {len(self._alphabet)} of the text "
                "that it was made from. Leave them out, or train with the tokenizer bytes or bpe:N, which know all."
            )
        return tokens.astype(np.int64)

    def config(self) -> dict[str, Any]:
        """See :meth:`Tokenizer.config`."""
        return {"name": "characters", "alphabet": self._alphabet.tolist()}


class BPETokenizer(Tokenizer):
    """A byte-level BPE: tokens are the 256 bytes, then what each merge makes of two of them, then the end.

    Args:
        merges: pairs of tokens in the order in which they are merged. Two merges may make the same bytes, which are one
            token.

    Raises:
        UserError: if the package ``tokenizers`` is not installed, or a merge is of tokens that are not there yet.
    """

    def __init__(self, merges: Sequence[tuple[int, int]]):
        library = _tokenizers_library()
        tokens = {bytes([i]): i for i in range(256)}
        pieces = list(tokens)
        for left, right in merges:
            if not max(left, right) < len(pieces):
                raise UserError(f"the merge {left}, {right} of a BPE is of tokens that come later.")
            piece = pieces[left] + pieces[right]
            if len(piece) > LONGEST_PIECE:
                raise UserError(f"the merge {left}, {right} of a BPE makes a token of more than {LONGEST_PIECE} bytes.")
            if piece not in tokens:
                tokens[piece] = len(pieces)
                pieces.append(piece)
        super().__init__(f"bpe:{len(pieces) + 1}", pieces)
        self._merges = [(left, right) for left, right in merges]
        words = [_letters(piece) for piece in pieces]
        model = library.models.BPE(
            {word: token for token, word in enumerate(words)}, [(words[left], words[right]) for left, right in merges]
        )
        self._bpe = library.Tokenizer(model)
        self._bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)

    def encode(self, text: str) -> np.ndarray:
        """See :meth:`Tokenizer.encode`."""
        _utf8(text)
        return np.concatenate([np.array(self._bpe.encode(part).ids, np.int64) for part in _stretches(text)])

    def config(self) -> dict[str, Any]:
        """See :meth:`Tokenizer.config`."""
        return {"name": self.name, "merges": [list(pair) for pair in self._merges]}


LONGEST_PIECE = 256
"""Bytes of a token at most. Each merge may double them, so a file of forty merges could ask for all memory."""


def _trained_bpe(size: int, documents: Iterable[str]) -> BPETokenizer:
    library = _tokenizers_library()
    alphabet = [_letters(bytes([i])) for i in range(256)]
    bpe = library.Tokenizer(library.models.BPE())
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=alphabet, max_token_length=LONGEST_PIECE, show_progress=False
    )
    bpe.train_from_iterator(itertools.chain.from_iterable(map(_stretches, documents)), trainer)
    tokens = {letters: token for token, letters in enumerate(alphabet)}
    merges = []
    for left, right in json.loads(bpe.to_str())["model"]["merges"]:
        merges.append((tokens[left], tokens[right]))
        tokens.setdefault(left + right, len(tokens))
    if len(tokens) + 1 < size:
        raise UserError(
            f"the corpus is too small for bpe:{size}: it has pairs for {len(tokens) + 1} tokens. "
            "Choose a smaller number."
        )
    return BPETokenizer(merges)


class GPT2Tokenizer(Tokenizer):
    """The byte-level BPE of GPT-2, by the package ``tiktoken``: 50,256 tokens, and the end of a document.

    Raises:
        UserError: if the package is not installed, or its file can be neither found nor downloaded.
    """

    def __init__(self) -> None:
        try:
            import tiktoken
        except ImportError:
            raise UserError(f"the tokenizer gpt2 needs the package tiktoken. {INSTALL}") from None
        try:
            self._bpe = tiktoken.get_encoding("gpt2")
        except Exception as error:  # of requests, of files, of its checksum
            raise UserError(
                f"cannot load the tokenizer gpt2: {shortened(error)[:100].rstrip('.')}. It is downloaded once; without "
                "a network, set TIKTOKEN_CACHE_DIR to a folder where tiktoken has kept it, or use bpe:N."
            ) from None
        super().__init__("gpt2", (self._bpe.decode_single_token_bytes(i) for i in range(self._bpe.eot_token)))

    def encode(self, text: str) -> np.ndarray:
        """See :meth:`Tokenizer.encode`."""
        _utf8(text)
        return np.concatenate([np.array(self._bpe.encode_ordinary(part), np.int64) for part in _stretches(text)])

    def config(self) -> dict[str, Any]:
        """See :meth:`Tokenizer.config`."""
        return {"name": "gpt2"}


@dataclass(frozen=True)
class _NameAlone:
    name: Literal["bytes", "gpt2"]


@dataclass(frozen=True)
class _CharactersConfig:
    name: Literal["characters"]
    alphabet: Annotated[list[Annotated[int, Ge(0), Le(0x10FFFF)]], Len(1, 0x110000)]


@dataclass(frozen=True)
class _BPEConfig:
    name: str
    merges: Annotated[
        list[tuple[Annotated[int, Ge(0), Le(LARGEST)], Annotated[int, Ge(0), Le(LARGEST)]]], Len(1, LARGEST)
    ]


def tokenizer_from_config(config: Any) -> Tokenizer:
    """The tokenizer that :meth:`Tokenizer.config` describes.

    Args:
        config: as JSON gives it, from a file that may be anybody's.

    Raises:
        UserError: if it describes none, or the tokenizer cannot be had, see :func:`make_tokenizer`.
    """
    name = config.get("name") if isinstance(config, Mapping) else None
    what = "the tokenizer's config"
    if not isinstance(name, str):
        raise UserError(f"{what} has no name: {shortened(repr(config))[:80]}.")
    if name.startswith("bpe:"):
        bpe = BPETokenizer(validated(_BPEConfig, dict(config), what).merges)
        if bpe.name != name:
            raise UserError(f"{what} is called {shortened(name)}, but its merges make {bpe.size} tokens.")
        return bpe
    if name == "characters":
        alphabet = validated(_CharactersConfig, dict(config), what).alphabet
        if any(one >= two for one, two in itertools.pairwise(alphabet)):
            raise UserError(f"{what} has an alphabet that is not in ascending order.")
        if any(0xD800 <= point < 0xE000 for point in alphabet):
            raise UserError(f"{what} has halves of surrogate pairs in its alphabet, which are no characters.")
        return CharacterTokenizer(alphabet)
    if name not in NAMES:
        raise UserError(f"{what} has an unknown name {shortened(repr(name))}: {nearest(name, NAMES)}")
    return make_tokenizer(validated(_NameAlone, dict(config), what).name)


def _tokenizers_library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(f"a BPE needs the package tokenizers. {INSTALL}") from None
    return tokenizers


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds {text[error.start]!r} at position {error.start}, which is half of a surrogate pair and no "
            "character. Was it read from a file or a terminal that is not UTF-8?"
        ) from None


def _letters(piece: bytes) -> str:
    """Bytes in the letters by which GPT-2's vocabulary writes them: printable ones of Latin-1 stand for themselves."""
    return "".join(chr(_LETTERS[byte]) for byte in piece)


_PRINTABLE = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
_OTHERS = itertools.count(256)
_LETTERS = [byte if byte in _PRINTABLE else next(_OTHERS) for byte in range(256)]

STRETCH = 2**16
"""Characters after which a BPE may cut a long text, to need little memory."""
_LINE = re.compile(r"(?<=\S\n)(?=\S)")


def _stretches(text: str) -> Iterator[str]:
    """A text in parts that a BPE encodes to the tokens of the whole.

    No token of GPT-2's pattern of words crosses a single end of line between two characters that are no white space.
    """
    start = 0
    while cut := _LINE.search(text, start + STRETCH):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]

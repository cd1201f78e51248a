"""Text comes back from its tokens as it was, token by token too, and what cannot be a token is one clear error."""

import json
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liquid_control.data import tokenizers
from liquid_control.data.tokenizers import StreamDecoder, make_tokenizer, tokenizer_from_config
from liquid_control.support.errors import UserError

DATA = os.environ.get("LIQUID_CONTROL_DATA")
CORPUS = [
    "It's a story. It isn't long, and it isn't short: the end is near.\n",
    "Zwölf Boxkämpfer — 12 € … 🙂🙂\n\n  End",
]
real = pytest.mark.skipif(DATA is None, reason="needs LIQUID_CONTROL_DATA")


@pytest.fixture(scope="module", params=["bytes", "characters", "bpe:300"])
def tokenizer(request):
    return make_tokenizer(request.param, CORPUS)


@pytest.fixture
def gpt2(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", f"{DATA}/text/tiktoken_cache")
    return make_tokenizer("gpt2")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_text_comes_back_as_it_was(tokenizer, data):
    letters = st.sampled_from("".join(CORPUS)) if tokenizer.name == "characters" else st.characters(codec="utf-8")
    text = data.draw(st.text(letters))
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int64
    assert tokenizer.decode(tokens) == text
    assert tokenizer.end not in tokens


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_tokens_that_come_one_by_one_are_the_same_text(tokenizer, data):
    tokens = data.draw(st.lists(st.integers(0, tokenizer.size - 1)))
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.feed, tokens)) + decoder.finish() == tokenizer.decode(tokens)


def test_half_a_character_waits_for_its_other_half():
    decoder = StreamDecoder(make_tokenizer("bytes"))
    assert [decoder.feed(byte) for byte in "a€".encode()] == ["a", "", "", "€"]
    assert decoder.finish() == ""


def test_a_character_that_is_not_whole_is_replaced_where_its_document_ends():
    tokenizer = make_tokenizer("bytes")
    first, second, third = "€".encode()
    assert tokenizer.decode([first, second]) == "�"
    assert tokenizer.decode([first, second, tokenizer.end, third]) == "��"


def test_a_config_is_json_and_makes_the_same_tokenizer(tokenizer):
    again = tokenizer_from_config(json.loads(json.dumps(tokenizer.config())))
    assert (again.name, again.pieces) == (tokenizer.name, tokenizer.pieces)
    for text in CORPUS:
        np.testing.assert_array_equal(again.encode(text), tokenizer.encode(text))


def test_sizes_count_the_end_of_a_document():
    assert make_tokenizer("bytes").size == 257
    assert make_tokenizer("characters", ["abba", "cab"]).size == 4
    assert make_tokenizer("bpe:300", CORPUS).size == 300


def test_characters_are_in_the_order_of_the_alphabet():
    tokenizer = make_tokenizer("characters", ["zebra", "äb\n"])
    assert tokenizer.encode("\nabeä").tolist() == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("unknown", ["x", "\udc80", "🙂"])
def test_an_unknown_character_of_a_prompt_is_named(unknown):
    with pytest.raises(UserError, match=f"does not know the characters {unknown!r}".replace("\\", "\\\\")):
        make_tokenizer("characters", ["abc"]).encode(f"a{unknown}c")


def test_half_a_surrogate_pair_is_no_text():
    for name in ("bytes", "bpe:300"):
        with pytest.raises(UserError, match=r"holds '\\udc80' at position 2"):
            make_tokenizer(name, CORPUS).encode("ab\udc80")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_an_unknown_token_is_named(tokenizer, token):
    with pytest.raises(ValueError, match=f"token {token} is unknown: the tokenizer {tokenizer.name} has 0 to"):
        tokenizer.decode([0, token])
    with pytest.raises(ValueError, match=f"token {token} is unknown"):
        StreamDecoder(tokenizer).feed(token)


def test_tokens_that_are_no_whole_numbers_are_refused(tokenizer):
    with pytest.raises(ValueError, match="must be whole numbers"):
        tokenizer.decode([0.5])


def trained_by_the_library(size):
    import tokenizers as library  # ours has that name here

    bpe = library.Tokenizer(library.models.BPE())
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    trainer = library.trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    bpe.decoder = library.decoders.ByteLevel()
    return bpe


def test_a_bpe_cuts_text_as_the_library_does():
    ours, theirs = make_tokenizer("bpe:300", CORPUS), trained_by_the_library(300)
    for text in [*CORPUS, "isn't story 🙂€ near  \n the"]:
        words = [theirs.decode([token]).encode() for token in theirs.encode(text).ids]
        pieces = [ours.pieces[token] for token in ours.encode(text)]
        assert len(pieces) == len(words)
        assert all(piece == word for piece, word in zip(pieces, words, strict=True) if "�" not in word.decode())


def test_a_bpe_trained_twice_is_the_same():
    assert make_tokenizer("bpe:320", CORPUS).config() == make_tokenizer("bpe:320", CORPUS).config()


@settings(deadline=None, max_examples=100)
@given(st.text(st.sampled_from("ab'st .,7é\n\r\t\x1c\u2028 "), min_size=1, max_size=80))
def test_a_long_text_has_the_tokens_of_its_parts(text):
    tokenizer = make_tokenizer("bpe:300", CORPUS)
    whole = tokenizer.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "STRETCH", 3)
        np.testing.assert_array_equal(tokenizer.encode(text), whole)


def test_a_marker_inside_of_a_text_is_text(tokenizer):
    if tokenizer.name != "characters":
        assert tokenizer.decode(tokenizer.encode("<|endoftext|>")) == "<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byte", "did you mean 'bytes'"),
        ("bpe:", "258 to"),
        ("bpe:257", "258 to"),
        ("bpe:-5", "258 to"),
        ("bpe:0300", "258 to"),
        ("bpe:99999999999", "258 to"),
        ("bpe:9999", r"too small for bpe:9999: it has pairs for \d+ tokens"),
    ],
)
def test_a_wrong_name_is_one_clear_error(name, message):
    with pytest.raises(UserError, match=message):
        make_tokenizer(name, CORPUS)


def test_an_empty_corpus_has_no_characters():
    with pytest.raises(UserError, match="the corpus is empty"):
        make_tokenizer("characters", [])


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"name": 5},
        {"name": "morse"},
        {"name": "bytes", "size": 3},
        {"name": "characters"},
        {"name": "characters", "alphabet": []},
        {"name": "characters", "alphabet": [98, 97]},
        {"name": "characters", "alphabet": [97, 97]},
        {"name": "characters", "alphabet": [0x110000]},
        {"name": "characters", "alphabet": [0xD800]},
        {"name": "characters", "alphabet": "abc"},
        {"name": "bpe:258"},
        {"name": "bpe:258", "merges": [[0, 256]]},
        {"name": "bpe:258", "merges": [[0, -1]]},
        {"name": "bpe:258", "merges": [[0, 1, 2]]},
        {"name": "bpe:259", "merges": [[0, 1]]},
        {"name": "bpe:296", "merges": [[0, 0], *([i, i] for i in range(256, 295))]},
    ],
)
def test_a_config_that_is_none_is_refused(config):
    with pytest.raises(UserError):
        tokenizer_from_config(config)


@pytest.mark.parametrize(("name", "package"), [("bpe:300", "tokenizers"), ("gpt2", "tiktoken")])
def test_a_package_that_is_not_installed_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}.*pip install 'liquid-control\[text\]'"):
        make_tokenizer(name, CORPUS)


def test_without_a_network_gpt2_tells_of_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody listens
    with pytest.raises(UserError, match=r"cannot load the tokenizer gpt2: .*set TIKTOKEN_CACHE_DIR") as error:
        make_tokenizer("gpt2")
    assert "\n" not in str(error.value)


@real
def test_gpt2_gives_the_tokens_of_gpt2(gpt2):
    assert gpt2.size == 50257
    assert gpt2.encode("Hello world, it's 1<|endoftext|>").tolist()[:6] == [15496, 995, 11, 340, 338, 352]
    assert gpt2.decode(gpt2.encode("„Zwölf“ 🙂")) == "„Zwölf“ 🙂"
    assert gpt2.end == 50256
    assert tokenizer_from_config(gpt2.config()).pieces == gpt2.pieces


@real
def test_gpt2_tokens_of_shakespeare_are_as_many_as_nanogpt_prints(gpt2):
    with open(f"{DATA}/text/tinyshakespeare/input.txt", encoding="utf-8") as file:
        text = file.read()
    cut = int(len(text) * 0.9)
    assert (len(gpt2.encode(text[:cut])), len(gpt2.encode(text[cut:]))) == (301966, 36059)

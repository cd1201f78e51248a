"""The language model that is shipped: it knows its stories from nonsense, and speaks from a fresh clone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from liquid_control.data.tokenizers import tokenizer_from_config
from liquid_control.models.language_model import load_language_model

STORIES = Path(__file__).parents[1] / "checkpoints" / "LanguageModel" / "stories"
STORY = (
    "Once upon a time, there was a little girl named Lily. She had a red ball. One day, she went to the park with her "
    "mom. She saw a big dog. The dog wanted to play with the ball. Lily was happy, and they played all day."
)


@pytest.fixture(scope="module")
def stories():
    model, told = load_language_model(STORIES)
    return model, tokenizer_from_config(told["tokenizer"]), told


def bits_per_byte(model, tokenizer, text):
    """Of a text after its first token, without what was read before."""
    tokens = torch.from_numpy(tokenizer.encode(text))[None]
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    nats = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:], reduction="sum").item()
    return nats / np.log(2) / len(text.encode())


def test_it_is_small_enough_to_be_passed_on(stories):
    assert sum(path.stat().st_size for path in STORIES.iterdir()) < 8e6
    assert stories[2]["training"]["job"]["text"] == "train.txt"  # no path of the machine that trained it


def test_it_expects_a_story_more_than_its_words_in_another_order(stories):
    model, tokenizer, _ = stories
    words = STORY.split()
    shuffled = " ".join(words[place] for place in np.random.default_rng(0).permutation(len(words)))
    assert bits_per_byte(model, tokenizer, STORY) < 1.2
    assert bits_per_byte(model, tokenizer, shuffled) > bits_per_byte(model, tokenizer, STORY) + 0.7


def test_who_was_named_is_remembered(stories):
    """A name that was read a while ago is likelier to come again than one that was not."""
    model, tokenizer, _ = stories
    asked = " One day, she said: my name is"
    likely = {}
    for name in ("Lily", "Sue"):
        told = STORY.replace("Lily", name) + asked
        tokens = torch.from_numpy(tokenizer.encode(told))[None]
        logits, _ = model.read(tokens)
        likely[name] = logits[0].log_softmax(-1)
    for name, other in (("Lily", "Sue"), ("Sue", "Lily")):
        first, second = (int(tokenizer.encode(f" {each}")[0]) for each in (name, other))
        difference = likely[name] - likely[other]
        assert difference[first] > difference[second]

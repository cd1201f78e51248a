"""Who answers by its synapses is found out, facts are told in plain English, and numbers come to a page."""

import dataclasses
import json
import re

import numpy as np
import pytest

from liquid_control.data.text import prepare_text
from liquid_control.data.text_sources import text_source
from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.plasticity import ARMS, Head
from liquid_control.report.plasticity import PlasticityReport, Recall, measure_recall
from liquid_control.report.plasticity_page import write_page
from liquid_control.report.text_teacher import (
    ENDINGS,
    ONSETS,
    STATEMENTS,
    VALUES,
    TextTeacher,
    filler_of,
    made_up_text,
)
from liquid_control.support.errors import UserError

NAMES = [onset + ending for onset in ONSETS for ending in ENDINGS]


@pytest.fixture(scope="module")
def tokenizer():
    """A BPE that writes the statements of an episode with few tokens, and some values with one."""
    told = [form.format(name="dog", value=value) for value in VALUES for form in STATEMENTS]
    return make_tokenizer("bpe:500", told)


class Scribe(LanguageModel):
    """A model whose synapses hold the value of every name that it was told, and that looks there when it is asked."""

    def __init__(self, tokenizer):
        super().__init__(LanguageModelConfig(vocabulary=tokenizer.size, width=64, blocks=1))
        self.tokenizer = tokenizer

    def forward(self, tokens, state=None, elapsed=None, mask=None, last_only=False):
        reading = super().forward(tokens, state, elapsed, mask, last_only)
        ((name, layer),) = state.layers.items()
        layer = layer.clone()
        for row, words in enumerate(tokens):
            text = self.tokenizer.decode((words if mask is None else words[mask[row]]).numpy())
            if not state.frozen:
                for who, what in re.findall(r"the (\w+) is (\w+)\.", text, re.IGNORECASE):
                    layer[row, NAMES.index(who)] = int(self.tokenizer.encode(f" {what}")[0])
            if asked := re.search(r"the (\w+) is$", text, re.IGNORECASE):
                reading.logits[row, -1] = 0
                reading.logits[row, -1, int(layer[row, NAMES.index(asked[1])])] = 1
        return reading._replace(state=dataclasses.replace(reading.state, layers={name: layer}))


def test_who_answers_by_its_synapses_is_right_with_them_alone_and_at_chance_without(tokenizer):
    teacher = TextTeacher(tokenizer, tokenizer.encode(made_up_text(50)))
    recalls = measure_recall(Scribe(tokenizer).eval(), teacher, [3], [0, 150], episodes=5, seeds=2)
    for gap in (0, 150):
        right = {each.arm: each.mean for each in recalls if each.gap == gap}
        assert right.pop("all kept") == right.pop("synapses alone") == 1
        assert right.pop("another's synapses") <= 0.4  # names of two episodes may be the same
        assert right == pytest.approx(dict.fromkeys(right, 1 / 3))  # who knows nothing takes the first of three
    assert all(len(each.right) == 10 for each in recalls)


def test_facts_are_told_once_and_asked_without_their_values(tokenizer):
    teacher = TextTeacher(tokenizer, tokenizer.encode(made_up_text(50)))
    drawn = teacher.draw(3, 5, 40, np.random.default_rng(0))
    assert drawn.gap.shape == (3, 40) and drawn.values.shape[:2] == (3, 5)
    for told, asked, values in zip(drawn.told, drawn.asked, drawn.values, strict=True):
        text, words = tokenizer.decode(told.numpy()), [tokenizer.decode(value) for value in values]
        assert len(set(words)) == 5
        for question, word in zip(map(tokenizer.decode, asked), words, strict=True):
            name = re.search(r"[Tt]he (\w+) is$", question)[1]
            assert name in NAMES and word.strip() in VALUES and word not in question
            assert re.findall(rf"the {name} is( \w+)\.", text, re.IGNORECASE) == [word]


def test_more_facts_than_values_of_one_length_are_refused():
    tokenizer = make_tokenizer("bytes")
    teacher = TextTeacher(tokenizer, tokenizer.encode("text"))
    assert teacher.draw(1, 13, 0, np.random.default_rng(0)).values.shape == (1, 13, 4)  # a space and three letters
    assert teacher.draw(1, 14, 0, np.random.default_rng(0)).values.shape == (1, 14, 5)  # so many have four
    with pytest.raises(UserError, match=r"no 300 facts to teach at once: bytes has 44 values"):
        teacher.draw(1, 300, 0, np.random.default_rng(0))


def test_text_in_between_is_given_or_that_of_the_training_or_made_up(tmp_path):
    tokenizer = make_tokenizer("bytes")
    assert filler_of(tokenizer, "given", tmp_path / "best")[0].tobytes() == tokenizer.encode("given").tobytes()
    assert filler_of(tokenizer, None, tmp_path / "best")[1] == "made-up sentences"
    (tmp_path / "text.txt").write_text("learn " * 90 + "validate " * 10)
    prepare_text(text_source(str(tmp_path / "text.txt"), None), "bytes", tmp_path / "text")
    tokens, said = filler_of(tokenizer, None, tmp_path / "best")
    assert said == "the validation text of its training"
    assert set(tokenizer.decode(tokens).split()) <= {"validate", "idate", "alidate", "lidate", "date"}
    with pytest.raises(UserError, match="--filler is empty"):
        filler_of(tokenizer, "", tmp_path / "best")


@pytest.fixture
def report():
    """Of a model whose synapses forget half of what is above chance in 125 tokens."""
    shares = {0: 1.0, 100: 0.8, 200: 0.6}
    recalls = [
        Recall(2, gap, arm, np.full(8, share if arm == "synapses alone" else 0.5), np.full(8, share))
        for gap, share in shares.items()
        for arm in ARMS
    ]
    return PlasticityReport("runs/<best>", "a model", "in plain English", 8, 1, recalls)


def test_a_half_life_is_counted_from_what_is_above_chance(report):
    assert report.half_life(2) == pytest.approx(125)
    flat = [dataclasses.replace(each, right=np.full(8, 0.5)) for each in report.recalls]
    assert dataclasses.replace(report, recalls=flat).half_life(2) is None


def test_numbers_and_page_say_the_same(report):
    content = json.loads(report.to_json())
    assert content["half_life"] == {"2": pytest.approx(125)}
    row = next(row for row in content["recalls"] if row["gap"] == 100 and row["arm"] == "synapses alone")
    assert row["right"] == 0.8 and row["interval"] == [0.8, 0.8] and row["chance"] == 0.5
    page = write_page(report)
    assert "half-life 125 tokens" in page and ">200</text>" in page and "synapses alone: 1.00, 0.80, 0.60" in page
    assert "runs/&lt;best&gt;" in page and "{{" not in page and "://" not in page
    assert page.count('<path class="line"') == 2 * len(ARMS)  # curves and legend; one number of facts has no capacity
    assert content["heads"] == [] and "fast weights forget" not in page
    known = dataclasses.replace(report, heads=[Head(1, 0, 12345.6, 0.25), Head(1, 1, 0.31, 0.5)])
    assert json.loads(known.to_json())["heads"][0] == {"block": 1, "head": 0, "half_life": 12345.6, "writing": 0.25}
    assert "12,346" in write_page(known) and ">0.3<" in write_page(known) and "fast weights forget" in write_page(known)

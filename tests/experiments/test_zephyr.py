"""The suite of taught words: what is told and asked, which part of the state knows, and a study that goes on."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from liquid_control.experiments import zephyr
from liquid_control.experiments.study import parameters_of
from liquid_control.experiments.zephyr import choices, main
from liquid_control.experiments.zephyr_words import (
    ASK,
    FACT,
    FEWEST_SYLLABLES,
    FRAMES,
    IS,
    LONGEST,
    SEGMENT,
    SYLLABLES,
    TOLD,
    VALUES,
    VOCABULARY,
    WORDS,
    Facts,
    Filler,
    Lesson,
    curriculum,
    lessons,
    names_of,
    question,
    statement,
    tell,
)
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.plasticity import ARMS
from liquid_control.support.errors import UserError


@pytest.fixture(scope="module")
def novel(tmp_path_factory):
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, 4)) for _ in range(900)]
    path = tmp_path_factory.mktemp("novel") / "novel.txt"
    path.write_text(" ".join(words[min(int(rng.exponential(200)), 899)].capitalize() + "," for _ in range(20_000)))
    return path


@pytest.fixture(scope="module")
def filler(novel):
    return Filler.read(novel)


def test_names_of_tests_are_in_no_training():
    taught, tested = ({tuple(name) for name in names_of(tests)} for tests in (False, True))
    assert len(taught) == 3000 and len(tested) == 600 and not taught & tested


def test_a_question_of_the_tests_is_put_as_no_training_puts_it():
    rng = np.random.default_rng(1)
    taught, tested = ({pair for _ in range(50) for pair in Facts.draw(4, tests, rng).frames} for tests in (False, True))
    assert len(taught) == 12 and len(tested) == len(FRAMES) and not taught & tested


def test_names_of_few_syllables_are_different_ones_of_the_training():
    taught = {tuple(name) for name in names_of(False)}
    for seed in range(50):
        facts = Facts.draw(24, False, np.random.default_rng(seed), FEWEST_SYLLABLES)
        names = {tuple(name) for name in facts.names}
        assert len(names) == 24 and names <= taught and len(np.unique(facts.names)) <= FEWEST_SYLLABLES


def test_novels_are_parted_and_words_are_by_rank(filler):
    assert len(filler.words) == WORDS
    places = np.concatenate([filler.training, filler.tests])
    counts = np.bincount(places, minlength=WORDS)
    assert (np.diff(counts) <= 0).all() and len(filler.tests) == pytest.approx(len(places) / 10, abs=2)


@pytest.mark.parametrize("done", [0.0, 0.5, 0.9])
def test_in_a_lesson_every_answer_was_told_before(filler, done):
    tokens, answers, _ = lessons(20, curriculum(done), filler, np.random.default_rng(2))
    first_value = WORDS + SYLLABLES
    assert tokens.shape[1] == answers.shape[1] + 1 and answers.any(1).all()
    for words, asked in zip(tokens.tolist(), answers.tolist(), strict=True):
        told = {}
        for place, token in enumerate(words):
            if token == IS and place + 1 < len(words):
                name = tuple(words[place - 2 : place])
                if asked[place]:
                    assert words[place + 1] == told[name] >= first_value
                elif words[place + 1] >= first_value:
                    told[name] = words[place + 1]


def test_the_longest_fact_is_as_long_as_is_said_and_no_more_are_told_than_fit(filler):
    name = names_of(False)[0]
    frame = max(range(len(FRAMES)), key=lambda frame: len(FRAMES[frame]))
    assert len(statement(name, 900, frame)) + len(question(name, frame)) + 1 == LONGEST
    crowded = Lesson((12, 12), (1, 1), 0.05)
    _, answers, _ = lessons(3, crowded, filler, np.random.default_rng(0))
    assert int(answers.sum()) == 3 * ((SEGMENT + 1) // LONGEST)
    assert len(statement(name, 900, frame)) == TOLD
    changing = Lesson((99, 99), (1, 1), 0.05, 4 * SEGMENT, 1.0)
    tokens, answers, _ = lessons(8, changing, filler, np.random.default_rng(0))
    count = (4 * SEGMENT + 1) // (LONGEST + TOLD)
    assert tokens.shape == (2, 4 * SEGMENT + 1) and answers.sum(1).tolist() == [count, count]
    assert (tokens == FACT).sum(1).tolist() == [2 * count, 2 * count]


def test_time_passes_faster_over_the_novel_alone_and_in_half_of_the_episodes(filler):
    lesson = Lesson((8, 8), (1, 1), 0.05, 4 * SEGMENT, pace=64.0)
    tokens, _, elapsed = lessons(400, lesson, filler, np.random.default_rng(0))
    fast = elapsed.max(1).values
    assert 30 <= int((fast > 1).sum()) <= 70 and fast.min() >= 1 and 32 < fast.max() <= 64
    for words, times, most in zip(tokens[:, :-1], elapsed, fast, strict=True):
        assert (times[words >= WORDS] == 1).all() and ((times == 1) | (times == most)).all()
        assert (times == most).float().mean() > 0.5  # the novel is most of it


class Scribe(LanguageModel):
    """A model whose synapses hold every fact that it was told, a name in a place of its own, and that looks there."""

    def __init__(self, stubborn=False):
        super().__init__(LanguageModelConfig(vocabulary=VOCABULARY, width=128, blocks=1))
        self.stubborn = stubborn  # it holds the first value of a name, whatever is told later

    def forward(self, tokens, state=None, elapsed=None, mask=None, last_only=False):
        state = self.initial_state(len(tokens)) if state is None else state
        reading = super().forward(tokens, state, elapsed, mask, last_only)
        layers = {name: layer.clone() for name, layer in reading.state.layers.items()}
        ((name, layer),) = layers.items()
        if not state.frozen:
            layer[:] = state.layers[name]
        for row, words in enumerate(tokens.tolist()):
            for place in (place for place, token in enumerate(words) if token == IS):
                where = (words[place - 2] - WORDS) * SYLLABLES + words[place - 1] - WORDS
                if place + 1 == len(words):
                    reading.logits[row, -1] = 0
                    reading.logits[row, -1, int(layer[row, where])] = 1
                elif not (state.frozen or (self.stubborn and layer[row, where])):
                    layer[row, where] = words[place + 1]
        return reading._replace(state=dataclasses.replace(reading.state, layers=layers))


def test_arms_take_apart_who_knows():
    rng = np.random.default_rng(3)
    episodes = [Facts.draw(4, True, rng) for _ in range(6)]
    model, right = Scribe(), {}
    for name, arm in ARMS.items():
        _, state = model.read(tell(episodes), model.initial_state(6).freeze(not arm.writes))
        right[name] = choices(model, arm.change(state.freeze(False)), episodes).mean()
    assert right.pop("all kept") == right.pop("synapses alone") == 1
    assert right == dict.fromkeys(right, 0.25)  # who knows nothing takes the first of four


def test_what_a_rate_is_chosen_by_has_no_name_of_the_tests(filler, monkeypatch):
    config, drawn = zephyr.ZephyrConfig("folder", "novel", steps=8, batch=4, width=16), []
    monkeypatch.setattr(zephyr, "lessons", lambda *words: drawn.append((words[1], lessons(*words))) or drawn[-1][1])
    found = zephyr.trial("delta", 0.001, config, filler)
    assert found == zephyr.trial("delta", 0.001, config, filler) and found["answer_loss"] > np.log(VALUES)
    assert len(drawn) == 2 * (2 + 8) and {lesson for lesson, _ in drawn} == {curriculum(0.0)}  # a quarter of the steps
    tested, taught = ({tuple(name) for name in names_of(tests)} for tests in (True, False))
    for _, (tokens, _, _) in drawn:
        named = {tuple(row[at - 2 : at]) for row in tokens.tolist() for at in range(2, len(row)) if row[at] == IS}
        assert named & taught and not named & tested


def test_of_a_fact_that_was_told_twice_the_later_value_is_right(filler):
    config = zephyr.ZephyrConfig("folder", "novel", episodes=3)
    assert zephyr.overwritten(Scribe(), config, filler) == [1.0] * 3
    assert zephyr.overwritten(Scribe(stubborn=True), config, filler) == [0.0] * 3


def test_what_was_told_twice_is_answered_by_the_synapses_alone(filler, monkeypatch):
    config, asked = zephyr.ZephyrConfig("folder", "novel", episodes=2), []
    score = zephyr.score_answers
    monkeypatch.setattr(zephyr, "score_answers", lambda *words: asked.append(words[1]) or score(*words))
    zephyr.overwritten(LanguageModel(LanguageModelConfig(vocabulary=VOCABULARY, width=16, blocks=2)), config, filler)
    (state,) = asked
    assert any(layer.any() for layer in state.layers.values())
    only = state.reset(traces=False)
    assert all(torch.equal(layer, only.layers[name]) for name, layer in state.layers.items())


def test_tests_read_the_part_of_the_novel_that_no_training_has(filler):
    apart = dataclasses.replace(filler, training=np.full(5000, 698), tests=np.full(5000, 699))
    config, heard = zephyr.ZephyrConfig("folder", "novel", episodes=2), []

    class Listener(Scribe):
        def forward(self, tokens, *rest, **options):
            heard.append(tokens)
            return super().forward(tokens, *rest, **options)

    for test in (
        lambda model: zephyr.test(model, 4, 2, config, apart),
        lambda model: zephyr.overwritten(model, config, apart),
    ):
        heard.clear()
        test(Listener())
        words = torch.cat([tokens.flatten() for tokens in heard])
        assert (words == 699).sum() >= 2 * 2 * SEGMENT and not (words == 698).any()


def test_a_training_carries_its_state_from_segment_to_segment(filler, monkeypatch):
    given, forward = [], LanguageModel.forward

    def spy(model, tokens, state=None, elapsed=None, mask=None, last_only=False):
        given.append((tokens.shape[1], state is not None))
        return forward(model, tokens, state, elapsed, mask, last_only)

    monkeypatch.setattr(LanguageModel, "forward", spy)
    monkeypatch.setattr(zephyr, "curriculum", lambda done: Lesson((2, 2), (3, 3), 0.05))
    zephyr.train("delta", 0.001, 0, zephyr.ZephyrConfig("folder", "novel", steps=2, batch=2, width=16), filler)
    assert given == [(SEGMENT, False), (SEGMENT, True), (SEGMENT, True)] * 2


TINY = "--steps 4 --batch 2 --width 16 --episodes 2 --seeds 1 --facts 2 --windows 0 1".split()


def test_a_study_goes_on_where_it_was_stopped_and_restarts_answer_the_same(novel, tmp_path, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    words = [str(tmp_path), str(novel), *TINY, "--models", "delta", "transformer"]
    main(words)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()[1:]]
    tried = {row["rate"]: row["answer_loss"] for row in rows if row.get("trial") == "transformer"}
    rows, best = [row for row in rows if "model" in row], min(tried, key=tried.get)
    assert tuple(tried) == zephyr.RATES
    assert [(row["model"], row["rate"]) for row in rows] == [("delta", 0.003), ("transformer", best)]
    assert all(row["before a restart"] == row["after a restart"] for row in rows)
    assert set(rows[0]["tests"]) == {"2 facts, 0 windows", "2 facts, 1 windows"}
    for again in ("measure", "trial"):
        monkeypatch.setattr(zephyr, again, lambda *_: pytest.fail("it was measured again"))
    main(words)
    report = (tmp_path / "report.md").read_text()
    part, models = report.split("### By model")
    assert part.startswith("### delta, by part of the state")
    assert [line.split(" | ")[:2] for line in part.splitlines()[4:6]] == [["| 2", "0"], ["| 2", "1"]]
    assert f"| learning rate | 0.003 | {best:g} |" in models
    assert "|  | delta | transformer |" in models and "| what answers | synapses alone | all kept |" in models
    with pytest.raises(UserError, match="holds results of other options"):
        main([*words, "--steps", "5"])


def test_all_models_have_the_parameters_of_those_with_fast_weights():
    config = zephyr.ZephyrConfig("folder", "novel")
    counts = {kind: parameters_of(zephyr.shape_of(kind, config)) for kind in zephyr.MODELS}
    assert counts["delta"] == 671_884
    assert all(abs(count - counts["delta"]) < 0.005 * counts["delta"] for count in counts.values()), counts


def test_what_makes_no_sense_is_one_error(tmp_path, novel):
    (tmp_path / "short.txt").write_text("a few words")
    (tmp_path / "odd.txt").write_bytes(b"\xff")
    for words, said in (
        ([str(tmp_path / "short.txt")], "give a whole novel"),
        ([str(tmp_path / "odd.txt")], "not UTF-8"),
        ([str(tmp_path / "nowhere.txt")], "cannot read"),
        ([str(novel), "--models", "detla"], r"no model 'detla'.*'delta'"),
        ([str(novel), "--episodes", "1"], "--episodes must be at least 2"),
        ([str(novel), "--facts", "128"], "--facts must be at least 2 and at most 100"),
        ([str(novel), "--facts"], "--facts must be 1 or more values"),
        ([str(novel), "--windows", "-3"], "--windows must be at least 0"),
        ([str(novel), "--heads", "3"], "a multiple of heads = 3"),
    ):
        with pytest.raises(UserError, match=said):
            main([str(tmp_path / "results"), *words])
        assert not (tmp_path / "results").exists()


def test_questions_do_not_begin_with_what_a_fact_begins_with():
    name = names_of(True)[0]
    assert question(name, 1)[0] == ASK and statement(name, 900, 1)[0] == FACT and VALUES == 100

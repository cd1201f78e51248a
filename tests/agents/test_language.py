"""Learning a language: it learns, goes on to the same numbers after a kill, and says what it cannot learn from."""

import dataclasses
import errno
import itertools
import math
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from agents.language import LanguageConfig, LanguageTraining, begin_language, evaluate_language
from agents.run_folder import RunFolder
from liquid_control.data.text import prepare_text
from liquid_control.data.text_sources import text_source
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig, ModelShape, load_language_model
from liquid_control.support.command import parse, write_yaml
from liquid_control.support.errors import DivergedError, LostRunError, UserError

CONFIGS = Path(__file__).parents[2] / "configs/lm"
TEXT = "the quick brown fox jumps over the lazy dog. " * 60
TINY = LanguageConfig(
    steps=9, batch=4, time=16, validate_every=3, width=8, blocks=2, pattern=("memory", "deep"), warm_up=2, device="cpu"
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def begun(config, folder):
    run = RunFolder(folder)
    config = begin_language(config, folder, 1)
    run.begin(write_yaml(config))
    return config, run


def stopped(config, folder):
    """A run whose training was stopped at its first news."""
    config, run = begun(config, folder)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LanguageTraining(config, run).train(stop)
    return config, run


def trained(config, folder):
    config, run = begun(config, folder)
    training = LanguageTraining(config, run)
    training.train(lambda _: None)
    return training


def test_it_learns_what_follows_what(text, tmp_path):
    config = dataclasses.replace(TINY, text=text, steps=150, validate_every=150, width=16, learning_rate=1e-2)
    training = trained(config, tmp_path / "run")
    letters = torch.tensor([TEXT.count(letter) for letter in sorted(set(TEXT))], dtype=torch.float64)
    shares = letters / letters.sum()
    entropy = -(shares * shares.log()).sum().item()  # of letters without a context
    assert -training.progress.score < 0.4 * entropy
    assert training.progress.bits_per_byte == pytest.approx(-training.progress.score / math.log(2), rel=0.01)
    assert 1 <= training.progress.liquid_steps <= 4


def test_liquid_steps_of_a_validation_are_those_that_were_taken(text, tmp_path):
    config, run = begun(dataclasses.replace(TINY, text=text), tmp_path / "run")
    training = LanguageTraining(config, run)
    for bias, steps in ((20.0, 1.0), (-20.0, 4.0)):
        with torch.no_grad():
            training.model.blocks[1].mixer.halt.bias.fill_(bias)
        assert evaluate_language(training.model, training.data.validation, 4, 16, True)[1] == steps


def test_the_learning_rate_is_warmed_up_and_falls_to_a_tenth(text, tmp_path):
    config, run = begun(dataclasses.replace(TINY, text=text, steps=100, warm_up=10), tmp_path / "run")
    training, rates = LanguageTraining(config, run), []
    for step in range(101):
        training.progress.step = step
        rates.append(training._rate() / config.learning_rate)
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(one >= other for one, other in itertools.pairwise(rates[10:]))


def test_matrices_decay_and_vectors_and_what_is_written_and_kept_do_not(text, tmp_path):
    config, run = begun(dataclasses.replace(TINY, text=text, weight_decay=0.3), tmp_path / "run")
    training = LanguageTraining(config, run)
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    decayed, free = ({names[each] for each in group["params"]} for group in training.optimizer.param_groups)
    assert [group["weight_decay"] for group in training.optimizer.param_groups] == [0.3, 0.0]
    assert {"embedding.weight", "blocks.0.mixer.project.weight", "blocks.1.feed.expand.weight"} <= decayed
    assert {"norm.weight", "blocks.1.mixer.halt.bias"} <= free and any("modulator" in name for name in free)
    assert not decayed & free and len(decayed | free) == len(names)


def test_the_best_checkpoint_is_that_of_the_least_validation_loss(text, tmp_path, monkeypatch):
    told = iter([2.0, 1.0, 1.5])
    monkeypatch.setattr("agents.language.evaluate_language", lambda *_: (next(told), math.nan))
    config, run = begun(dataclasses.replace(TINY, text=text), tmp_path / "run")
    LanguageTraining(config, run).train(lambda _: None)
    for folder, steps, loss in ((run.best, 6, 1.0), (run.last, 9, 1.5)):
        record = load_language_model(folder)[1]["training"]
        assert (record["gradient_steps"], record["validation_loss"]) == (steps, loss)


def test_what_is_learned_from_is_the_loss_and_the_cost_of_liquid_steps(text, tmp_path):
    config, run = begun(dataclasses.replace(TINY, text=text, ponder=0.3), tmp_path / "run")
    training, tokens = LanguageTraining(config, run), torch.arange(34).reshape(2, 17) % 20
    cost, loss, _ = training.reader(tokens, None)
    reading = training.model(tokens[:, :-1])
    error = F.cross_entropy(reading.logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, error.detach())
    torch.testing.assert_close(cost, error + 0.3 * reading.ponder.mean())


def test_gradients_are_clipped_to_a_norm_of_one(text, tmp_path, monkeypatch):
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def clipped(parameters, most):
        parameters = list(parameters)
        norm = clip(parameters, most)
        norms.append(float(torch.stack([each.grad.norm() for each in parameters if each.grad is not None]).norm()))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    trained(dataclasses.replace(TINY, text=text), tmp_path / "run")
    assert len(norms) == 9 and max(norms) <= 1 + 1e-5


def test_the_best_checkpoint_tells_the_time_with_its_own_validation(text, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.language.time", SimpleNamespace(monotonic=itertools.count().__next__))
    training = trained(dataclasses.replace(TINY, text=text, validate_every=9), tmp_path / "run")
    best, last = (load_language_model(tmp_path / "run" / name)[1]["training"] for name in ("best", "last"))
    assert best == last
    assert best["seconds"] == training.progress.seconds > 9


@pytest.mark.parametrize("reading", ["stream", "windows"])
def test_a_run_that_is_killed_goes_on_to_the_same_weights(text, tmp_path, reading):
    config = dataclasses.replace(TINY, text=text, reading=reading)
    unbroken = trained(config, tmp_path / "unbroken")

    config, run = begun(config, tmp_path / "killed")

    def kill(progress):
        if progress.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LanguageTraining(config, run).train(kill)
    resumed = LanguageTraining(config, run)
    assert resumed.progress.step == 6
    resumed.train(lambda _: None)
    assert resumed.progress.best_score == unbroken.progress.best_score
    for name in ("best", "last"):
        one, another = (
            load_language_model(folder / name)[0].state_dict() for folder in (run.path, tmp_path / "unbroken")
        )
        assert all(torch.equal(one[key], another[key]) for key in one)
    (run.last / "config.json").unlink()
    LanguageTraining(config, run).train(lambda _: None)
    assert (run.last / "config.json").exists()


def test_a_batch_in_parts_is_the_same_batch(text, tmp_path):
    whole, parts = (
        trained(dataclasses.replace(TINY, text=text, steps=4, accumulate=accumulate), tmp_path / str(accumulate))
        for accumulate in (1, 2)
    )
    assert parts.progress.loss == pytest.approx(whole.progress.loss, rel=1e-5)
    torch.testing.assert_close(dict(whole.state.layers), dict(parts.state.layers), rtol=1e-3, atol=1e-4)


def test_states_are_carried_unless_they_are_forgotten(text, tmp_path):
    config, run = begun(dataclasses.replace(TINY, text=text, forget=1.0, steps=3), tmp_path / "forgets")
    training = LanguageTraining(config, run)
    given = []
    read = training.model.forward
    training.model.forward = lambda tokens, state=None, **more: given.append(state) or read(tokens, state, **more)
    training._learn(2, lambda _: None)
    assert given[0] is None and not any(layer.any() for layer in given[1].layers.values())
    training.config = dataclasses.replace(config, forget=0.0)
    training._learn(1, lambda _: None)
    assert all(layer.any() for layer in given[2].layers.values())


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_last_good_checkpoint(text, tmp_path):
    config, run = begun(dataclasses.replace(TINY, text=text), tmp_path / "run")
    training = LanguageTraining(config, run)

    def spoil(progress):
        if run.best.exists():  # it has been validated, at step 3
            with torch.no_grad():
                training.model.embedding.weight.fill_(math.nan)

    with pytest.raises(DivergedError, match="at step 4 the loss"):
        training.train(spoil)
    model, told = load_language_model(run.best)
    assert told["training"]["gradient_steps"] == 3
    assert all(value.isfinite().all() for value in model.state_dict().values())


def full_disk(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_ends_a_run_in_one_error_and_nothing_is_lost(text, tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, text=text)
    unbroken = trained(config, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match="No space left on device"):
            begin_language(config, tmp_path / "run", 1)
    assert not (tmp_path / "run" / "config.yaml").exists()
    config, run = begun(config, tmp_path / "run")
    with monkeypatch.context() as patch:

        def fill(progress):
            if progress.round == 1:
                patch.setattr(os, "fsync", full_disk)

        with pytest.raises(UserError, match="No space left on device"):
            LanguageTraining(config, run).train(fill)
    assert load_language_model(run.best)[1]["training"]["gradient_steps"] == 3
    resumed = LanguageTraining(config, run)
    resumed.train(lambda _: None)
    assert (resumed.progress.step, resumed.progress.best_score) == (9, unbroken.progress.best_score)


@pytest.mark.parametrize("reading", ["stream", "windows"])
@pytest.mark.parametrize("other", ["tokenizer", "text"])
def test_a_run_does_not_go_on_with_another_text_or_tokenizer(text, tmp_path, reading, other):
    config, run = begun(dataclasses.replace(TINY, text=text, steps=3, reading=reading), tmp_path / "run")
    LanguageTraining(config, run).train(lambda _: None)
    if other == "text":
        Path(text).write_text(TEXT[::-1])  # as many characters, and the same ones
    prepare_text(text_source(text), "bytes" if other == "tokenizer" else "characters", run.path / "text")
    with pytest.raises(LostRunError, match="began with another text or tokenizer"):
        LanguageTraining(config, run)


def test_a_run_that_was_moved_goes_on_and_prepares_a_text_that_was_lost_again(text, tmp_path):
    _, run = stopped(dataclasses.replace(TINY, text=text), tmp_path / "run")
    moved = RunFolder(run.path.rename(tmp_path / "moved"))
    shutil.rmtree(moved.path / "text")
    saved = parse(LanguageConfig, ["--config", str(moved.config)], "test")
    LanguageTraining(dataclasses.replace(saved, run=moved.path), moved).train(lambda _: None)
    assert (moved.last / "config.json").exists()


def test_a_text_that_is_damaged_is_prepared_again_from_where_it_is_now(text, tmp_path):
    config, run = stopped(dataclasses.replace(TINY, text=text), tmp_path / "run")
    (shard,) = (run.path / "text").glob("training-0*.bin")
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    renamed = Path(text).rename(tmp_path / "renamed.txt")
    with pytest.raises(UserError, match=r"text\.txt"):
        LanguageTraining(config, run)
    assert "text" in LanguageConfig.movable
    LanguageTraining(dataclasses.replace(config, text=str(renamed)), run).train(lambda _: None)
    assert (run.last / "config.json").exists()


def test_what_a_text_was_prepared_with_is_what_a_run_says(text, tmp_path):
    prepare_text(text_source(text), "characters", tmp_path / "data", 0.3)
    config, _ = begun(dataclasses.replace(TINY, data=tmp_path / "data"), tmp_path / "run")
    assert config.validation_share == 0.3 and config.tokenizer == "characters"
    for name, value in (("tokenizer", "bytes"), ("validation_share", 0.5), ("separator", "|")):
        with pytest.raises(UserError, match=f"was prepared with the {name.replace('_', ' ')} .* not {value!r}"):
            begun(dataclasses.replace(TINY, data=tmp_path / "data", **{name: value}), tmp_path / "other")


def test_a_validation_predicts_every_token_once_with_and_without_what_was_before(text, tmp_path):
    training = trained(dataclasses.replace(TINY, text=text, steps=3), tmp_path / "run")
    split, model = training.data.validation, training.model.eval()
    tokens = torch.from_numpy(split.read(0, len(split)))[None]
    with torch.no_grad():
        wanted = F.cross_entropy(model(tokens[:, :-1]).logits[0], tokens[0, 1:]).item()
        blind = [
            F.cross_entropy(model(token[:, None]).logits[:, 0], following)
            for token, following in zip(tokens[0, :-1, None], tokens[0, 1:, None], strict=True)
        ]
    assert evaluate_language(model, split, 1, 16, carried=True)[0] == pytest.approx(wanted, rel=1e-5)
    alone, steps = evaluate_language(model, split, 1, 1, carried=False)
    assert alone == pytest.approx(np.mean(blind), rel=1e-5) and alone != pytest.approx(wanted, rel=1e-5)
    assert 1 <= steps <= 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": ""}, "no text to learn from: give one with --text"),
        ({"text": "nowhere.txt"}, "there is no text nowhere.txt"),
        ({"text": "empty.txt"}, "the text empty.txt is empty"),
        ({"text": "binary.txt"}, "binary.txt is no text in UTF-8"),
        ({"text": "nul.txt"}, "nul.txt is no text: byte 3 is NUL"),
        ({"time": 4000}, "tokens, too few for stretches of 4000"),
        ({"heads": 3}, "no such language model"),
        ({"accumulate": 3}, "--accumulate 3 does not divide the batch of 4"),
        ({"tokenizer": "letters"}, "letters"),
        ({"device": "cuda:9"}, "cannot be used"),
    ],
)
def test_what_cannot_be_learned_is_said_before_a_run_begins(text, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    for name, content in (("empty", b""), ("binary", b"\xff\xfe\x80"), ("nul", b"abc\0")):
        Path(f"{name}.txt").write_bytes(content)
    config = dataclasses.replace(TINY, **({"text": text} | options))
    with pytest.raises(UserError, match=said):
        begin_language(config, tmp_path / "run", 1)
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_too_short_takes_no_place_of_another(text, tmp_path):
    begin_language(dataclasses.replace(TINY, text=text, data=tmp_path / "data"), tmp_path / "run", 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    (tmp_path / "short.txt").write_text("too short")
    short = dataclasses.replace(TINY, text=str(tmp_path / "short.txt"), data=tmp_path / "data")
    with pytest.raises(UserError, match="tokens, too few for stretches of"):
        begin_language(short, tmp_path / "run", 1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_half_precision_learns_the_same_within_its_digits(text, tmp_path):
    full, half = (
        trained(dataclasses.replace(TINY, text=text, precision=precision), tmp_path / precision)
        for precision in ("float32", "bfloat16")
    )
    assert half.progress.score == pytest.approx(full.progress.score, abs=0.02)
    assert all(value.dtype == torch.float32 for value in half.model.state_dict().values())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_says_how_large_its_model_is(path):
    config = parse(LanguageConfig, ["--config", str(path)], "train")
    count, vocabulary = re.search(r"# ([\d,]+) parameters with ([\d,]+) tokens\.", path.read_text()).groups()
    with torch.device("meta"):
        shape = {part.name: getattr(config, part.name) for part in dataclasses.fields(ModelShape)}
        model = LanguageModel(LanguageModelConfig(**shape, vocabulary=int(vocabulary.replace(",", ""))))
    assert f"{model.parameter_count():,}" == count

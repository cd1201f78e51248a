"""``lm``: trains on a text, goes on with another, keeps what it learned, and says in a line what makes no sense."""

import json
import os
import signal
import subprocess

import numpy as np
import onnxruntime
import pytest
import torch

from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.experiments.zephyr_words import VOCABULARY
from liquid_control.lm import main as lm
from liquid_control.models.generation import Generation
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig, ReadingState, load_language_model
from liquid_control.report import language_speed
from liquid_control.support.checkpoint import save_checkpoint
from liquid_control.support.errors import UserError

WORDS = "--steps 6 --batch 4 --time 16 --validate-every 3 --width 8 --blocks 2 --workers 1 --device cpu".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    lm(["train", "--text", str(folder / "text.txt"), "--run", str(folder / "run"), *WORDS])
    return folder / "run"


def said(capsys, *words):
    capsys.readouterr()
    lm(["generate", *map(str, words)])
    return capsys.readouterr().out


def test_a_training_tells_what_it_reads_and_how_it_goes(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("abc " * 300)
    lm(["train", "--text", str(tmp_path / "text.txt"), "--run", str(tmp_path / "run"), *WORDS])
    output = capsys.readouterr().out
    for words in (
        "1 documents, 1,080 tokens to learn from",
        "language model: 2 × 8",
        "step 6/6",
        "validation",
        "tokens/s",
    ):
        assert words in output
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "best",
        "last",
        "config.yaml",
        "tensorboard",
        "text",
    }


def test_a_run_goes_on_by_its_folder_and_not_with_another_config(run, capsys):
    lm(["train", "--resume", str(run)])
    assert f"checkpoint: {run / 'best'}" in capsys.readouterr().out
    with pytest.raises(UserError, match="width is 8, not 16"):
        lm(["train", "--resume", str(run), "--width", "16"])


def test_the_same_seed_says_the_same_and_another_something_else(run, capsys):
    words = (run / "best", "--prompt", "the quick", "--tokens", 30)
    first = said(capsys, *words)
    assert first.startswith("the quick") and len(first) == len("the quick") + 30 + 1
    assert said(capsys, *words) == first != said(capsys, *words, "--seed", 1)
    likeliest = said(capsys, *words, "--temperature", 0)
    assert likeliest == said(capsys, *words, "--temperature", 0, "--seed", 1)
    assert said(capsys, *words, "--top-p", 1e-6) == likeliest


def test_what_it_read_is_kept_and_gone_on_with(run, capsys, tmp_path):
    kept, once, lesson = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "lesson.txt"
    lesson.write_text("the lazy fox ")
    output = said(capsys, run / "best", "--teach", lesson, "--prompt", "over", "--tokens", 5, "--keep", kept)
    assert f"state: {kept}" in output
    both = tmp_path / "both.txt"
    both.write_text("the lazy fox " + output.splitlines()[0])
    said(capsys, run / "best", "--teach", both, "--prompt", "dog", "--tokens", 1, "--temperature", 0, "--keep", once)
    again = tmp_path / "c.safetensors"
    said(capsys, run / "best", "--state", kept, "--prompt", "dog", "--tokens", 1, "--temperature", 0, "--keep", again)
    model, _ = load_language_model(run / "best")
    one, other = ReadingState.load(once, model), ReadingState.load(again, model)
    torch.testing.assert_close(dict(one.layers), dict(other.layers))


def test_a_text_begins_with_the_end_of_a_document_where_there_are_no_lines(run, capsys):
    assert said(capsys, run / "best", "--tokens", 5).startswith("\n")


def test_a_state_is_kept_when_nobody_listens_any_more(run, tmp_path, python):
    path = tmp_path / "kept.safetensors"
    words = ["-m", "liquid_control.lm", "generate", run / "best", "--prompt", "the", "--tokens", "3000", "--keep", path]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([python, *words], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert path.exists() and "Traceback" not in done.stderr


def test_a_state_is_kept_in_the_place_of_a_state_and_of_nothing_else(run, tmp_path, capsys):
    kept = tmp_path / "kept.safetensors"
    for _ in range(2):
        said(capsys, run / "best", "--tokens", 1, "--keep", kept)
    (weights,) = (run / "best").glob("weights-*.safetensors")
    for other in (run / "state.safetensors", weights):
        before = other.read_bytes()
        with pytest.raises(UserError, match="is there and no state of reading"):
            said(capsys, run / "best", "--tokens", 1, "--keep", other)
        assert other.read_bytes() == before


def test_a_closed_output_takes_everything(run, tmp_path, python):
    kept = tmp_path / "kept.safetensors"
    command = f"{python} -m liquid_control.lm generate {run / 'best'} --tokens 3 --keep {kept} >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and kept.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_it_keeps_what_was_read_by_then_and_every_token_whole(run, tmp_path, monkeypatch, capsys, number):
    def stop(*_):
        raise KeyboardInterrupt

    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    words = [str(run / "best"), "--prompt", "the", "--tokens"]
    said(capsys, *words, 3, "--keep", whole)
    real, spoken = Generation.__next__, []

    def speak(generation):
        spoken.append(1)
        if len(spoken) == 3:
            signal.raise_signal(number)
        return real(generation)

    monkeypatch.setattr(Generation, "__next__", speak)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            lm(["generate", *words, "99", "--keep", str(stopped)])
    finally:
        signal.signal(number, before)
    assert f"state: {stopped}" in capsys.readouterr().out and len(spoken) == 3
    model, _ = load_language_model(run / "best")
    one, other = (ReadingState.load(path, model) for path in (whole, stopped))
    assert all(torch.equal(layer, other.layers[name]) for name, layer in one.layers.items())


def test_a_new_run_in_the_place_of_another_one_changes_nothing_there(run, tmp_path):
    (tmp_path / "other.txt").write_text("another text, " * 90)
    before = (run / "text" / "text.json").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        lm(["train", "--text", str(tmp_path / "other.txt"), "--run", str(run), *WORDS])
    assert (run / "text" / "text.json").read_bytes() == before


def test_frozen_synapses_stay(run, capsys, tmp_path):
    path = tmp_path / "state.safetensors"
    said(capsys, run / "best", "--prompt", "the dog", "--freeze", "True", "--tokens", 3, "--keep", path)
    state = ReadingState.load(path, load_language_model(run / "best")[0])
    assert not any(trace.any() for trace in state.synapses().values()) and not state.frozen


@pytest.mark.parametrize(
    "shape",
    [
        {"blocks": 4, "pattern": ("memory", "scan", "attention", "deep")},
        {"blocks": 1, "pattern": ("hybrid",)},
        {"blocks": 2, "variant": "origin"},
    ],
)
def test_an_exported_step_says_the_same_over_a_thousand_tokens(shape, tmp_path, capsys):
    torch.manual_seed(0)
    tokenizer = make_tokenizer("characters", ["abcdefgh"])
    model = LanguageModel(LanguageModelConfig(vocabulary=tokenizer.size, width=8, window=5, **shape)).eval()
    model.save(tmp_path / "model", {"tokenizer": tokenizer.config()})
    path = tmp_path / "model.onnx"
    lm(["export", str(tmp_path / "model"), "--output", str(path)])
    assert f"written: {path}, {path.stat().st_size:,} bytes" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["tokenizer"]) == tokenizer.config()
    given = np.zeros((3, sum(layer.shape[1] for layer in model.initial_state(3).layers.values())), np.float32)
    tokens, logits = np.random.default_rng(0).integers(tokenizer.size, size=(3, 1000)), []
    for token in tokens.T:
        said, given = session.run(None, {"token": token, "state": given})
        logits.append(said)
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens)).logits
    np.testing.assert_allclose(np.stack(logits, 1), wanted, atol=2e-5)


def test_a_step_is_written_to_an_onnx_file_alone(run, tmp_path):
    with pytest.raises(UserError, match="onnx"):
        lm(["export", str(run / "best"), "--output", str(tmp_path / "model.txt")])


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "bytes"
    model = LanguageModel(LanguageModelConfig(vocabulary=257, width=8, blocks=1))
    model.save(folder, {"tokenizer": {"name": "bytes"}})
    return folder


QUICK = "--gaps 0 20 --facts 2 3 --episodes 2 --seeds 1".split()


def test_a_plasticity_test_writes_a_page_and_its_numbers(untrained, tmp_path, capsys):
    lm(["plasticity-test", str(untrained), "--output", str(tmp_path / "a"), *QUICK])
    output = capsys.readouterr().out
    assert "another's synapses" in output and f"written: {tmp_path / 'a' / 'plasticity.html'}" in output
    content = json.loads((tmp_path / "a/plasticity.json").read_text())
    assert {(row["facts"], row["gap"]) for row in content["recalls"]} == {(2, 0), (2, 20), (3, 0), (3, 20)}
    assert len(content["recalls"]) == 4 * 6 and "made-up sentences" in content["told"]
    assert len(content["heads"]) > 0 and "half-life, tokens" in output
    page = (tmp_path / "a/plasticity.html").read_text()
    assert page.startswith("<!doctype html>") and "Capacity" in page
    lm(["plasticity-test", str(untrained), "--output", str(tmp_path / "b"), *QUICK])
    assert json.loads((tmp_path / "b/plasticity.json").read_text())["recalls"] == content["recalls"]


def test_a_model_of_zephyr_is_taught_in_its_own_words(tmp_path):
    words, text = [f"word{place}" for place in range(800)], tmp_path / "text.txt"
    words[:3] = ["the", "a", "dog"]
    model = LanguageModel(LanguageModelConfig(vocabulary=VOCABULARY, width=8, blocks=1))
    model.save(tmp_path / "model", {"words": words})
    text.write_text("The dog, a dog. " * 9)
    asked = ["plasticity-test", str(tmp_path / "model"), *QUICK]
    for more, between in (([], "words at random"), (["--filler", str(text)], "text.txt")):
        lm([*asked, "--output", str(tmp_path / "page"), *more])
        content = json.loads((tmp_path / "page/plasticity.json").read_text())
        assert content["told"] == f"in the words of zephyr; between: {between}" and len(content["recalls"]) == 24
    model.save(tmp_path / "few", {"words": words[:10]})
    with pytest.raises(UserError, match="has to name 800 words"):
        lm(["plasticity-test", str(tmp_path / "few"), "--output", str(tmp_path / "page")])


def test_a_benchmark_tells_the_pace_and_a_state_that_does_not_grow(untrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(language_speed, "seconds_to_the_first_token", lambda *_: 0.5)
    path = tmp_path / "pace.json"
    lm(["benchmark", str(untrained), "--tokens", "30", "8", "--output", str(path), "--device", "cpu"])
    output = capsys.readouterr().out
    assert "first token of a new process: 0.50 s" in output and f"written: {path}" in output
    content = json.loads(path.read_text())
    short, long = content["paces"]
    size = load_language_model(untrained)[0].initial_state(1).bytes_per_text
    assert (short["tokens"], long["tokens"]) == (8, 30) and short["state_bytes"] == long["state_bytes"] == size
    assert short["spoken_per_second"] == pytest.approx(1000 / short["milliseconds"]) and content["threads"] == 1


def test_what_makes_no_sense_is_one_line(run, tmp_path):
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "nul.txt").write_bytes(b"the\0fox")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "state.safetensors").write_bytes(b"no state")
    model, told = load_language_model(run / "last")
    with torch.no_grad():
        model.embedding.weight.add_(1)
    model.initial_state(1).save(tmp_path / "other.safetensors", model)
    model.save(tmp_path / "mixed", told | {"tokenizer": make_tokenizer("characters", ["other"]).config()})
    model.save(tmp_path / "mute", {"words": []})
    best, _ = load_language_model(run / "best")
    save_checkpoint(tmp_path / "my driver", {}, {"kind": "driver"})
    best.initial_state(3).save(tmp_path / "three.safetensors", best)
    best.initial_state(1).to(torch.float64).save(tmp_path / "double.safetensors", best)
    nan = best.initial_state(1)
    ReadingState({name: layer / 0 for name, layer in nan.layers.items()}, nan.parts).save(
        tmp_path / "nan.safetensors", best
    )
    for words, wanted in (
        (["generat"], "unknown word 'generat' after lm.*'generate'"),
        (["generate", str(tmp_path)], "is no checkpoint"),
        (
            ["generate", "checkpoints/CarRacing-v3/cfc"],
            "is no language model. It is a driver: .*liquid_control.evaluate",
        ),
        (["generate", str(tmp_path / "my driver")], "It is a driver: .*liquid_control.evaluate '.*/my driver'"),
        (["generate", str(run / "best"), "--prompt", ""], "there is nothing to read: --prompt is empty"),
        (["generate", str(run / "best"), "--prompt", "Ω"], "Ω"),
        (["generate", str(run / "best"), "--teach", str(tmp_path / "odd.txt")], "is not UTF-8"),
        (["generate", str(run / "best"), "--teach", str(tmp_path / "nowhere")], "cannot read"),
        (["generate", str(run / "best"), "--state", str(tmp_path / "state.safetensors")], "is damaged"),
        (["generate", str(run / "best"), "--state", str(tmp_path / "other.safetensors")], "no state of this model"),
        (["generate", str(tmp_path / "mixed")], "its tokenizer has 6 tokens, its model 29"),
        (["generate", str(run / "best"), "--teach", str(tmp_path / "nul.txt")], "no text: it holds NUL"),
        (
            ["generate", str(run / "best"), "--teach", str(tmp_path / "empty.txt")],
            "there is nothing to read: --teach .*empty.txt is empty",
        ),
        (["generate", str(run / "best"), "--top-p", "0"], "--top-p"),
        (["generate", str(run / "best"), "--state", str(tmp_path / "three.safetensors")], "state of 3 texts"),
        (["generate", str(run / "best"), "--state", str(tmp_path / "double.safetensors")], "no state of this model"),
        (["generate", str(run / "best"), "--state", str(tmp_path / "nan.safetensors")], "not finite"),
        (["generate", str(run / "best"), "--keep", str(tmp_path)], "should be a .safetensors file"),
        (["generate", str(tmp_path / "mute")], "a model without a tokenizer"),
        (["train"], "no text to learn from"),
        (["train", "--text", "x", "--pattern"], "--pattern must be 1 or more values"),
        (["plasticity-test", str(run / "best"), "--facts"], "--facts must be 1 or more values"),
        (["plasticity-test", str(run / "best"), "--filler", str(tmp_path / "nowhere")], "cannot read"),
        (["plasticity-test", str(run / "best"), "--output", str(tmp_path)], "does not know the characters"),
        (["plasticity-test", str(run / "best"), "--facts", "1"], "--facts must be at least 2"),
        (["benchmark", str(run / "best"), "--output", str(tmp_path / "pace.txt")], "should be a .json file"),
    ):
        with pytest.raises(UserError, match=wanted):
            lm(words)


def test_without_a_word_it_lists_what_there_is(capsys):
    lm([])
    output = capsys.readouterr().out
    assert all(f"lm {word}" in output for word in ("train", "generate", "plasticity-test", "benchmark", "export"))

"""``lm``: trains on a text, goes on with another, keeps what it learned, and says in a line what makes no sense."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.lm import export_onnx
from liquid_control.lm import main as lm
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig, ReadingState, load_language_model
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


def test_frozen_synapses_stay(run, capsys, tmp_path):
    path = tmp_path / "state.safetensors"
    said(capsys, run / "best", "--prompt", "the dog", "--freeze", "True", "--tokens", 3, "--keep", path)
    state = ReadingState.load(path, load_language_model(run / "best")[0])
    assert not any(trace.any() for trace in state.synapses().values()) and not state.frozen


@pytest.mark.parametrize("shape", [{"pattern": ("memory", "scan", "attention", "deep")}, {"variant": "origin"}])
def test_an_exported_step_says_the_same_over_a_thousand_tokens(shape):
    torch.manual_seed(0)
    tokenizer = make_tokenizer("characters", ["abcdefgh"])
    model = LanguageModel(LanguageModelConfig(vocabulary=tokenizer.size, width=8, blocks=4, window=5, **shape)).eval()
    session = onnxruntime.InferenceSession(export_onnx(model, tokenizer))
    assert json.loads(session.get_modelmeta().custom_metadata_map["tokenizer"]) == tokenizer.config()
    state = model.initial_state(3)
    given = np.zeros((3, sum(layer.shape[1] for layer in state.layers.values())), np.float32)
    rng, logits, wanted = np.random.default_rng(0), [], []
    for _ in range(1000):
        tokens = rng.integers(tokenizer.size, size=3)
        said, given = session.run(None, {"token": tokens, "state": given})
        with torch.no_grad():
            expected, state = model.step(torch.from_numpy(tokens), state)
        logits.append(said)
        wanted.append(expected.numpy())
    np.testing.assert_allclose(logits, wanted, atol=2e-5)


def test_the_command_writes_the_step(run, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    lm(["export", str(run / "best"), "--output", str(path)])
    assert f"written: {path}, {path.stat().st_size:,} bytes" in capsys.readouterr().out
    with pytest.raises(UserError, match="onnx"):
        lm(["export", str(run / "best"), "--output", str(tmp_path / "model.txt")])


def test_what_makes_no_sense_is_one_line(run, tmp_path):
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "state.safetensors").write_bytes(b"no state")
    for words, wanted in (
        (["generat"], "unknown word 'generat' after lm.*'generate'"),
        (["generate", str(tmp_path)], "is no checkpoint"),
        (["generate", "checkpoints/CarRacing-v3/cfc"], "is no language model"),
        (["generate", str(run / "best"), "--prompt", ""], "there is nothing to read"),
        (["generate", str(run / "best"), "--prompt", "Ω"], "Ω"),
        (["generate", str(run / "best"), "--teach", str(tmp_path / "odd.txt")], "is not UTF-8"),
        (["generate", str(run / "best"), "--teach", str(tmp_path / "nowhere")], "cannot read"),
        (["generate", str(run / "best"), "--state", str(tmp_path / "state.safetensors")], "is damaged"),
        (["generate", str(run / "best"), "--top-p", "0"], "--top-p"),
        (["train"], "no text to learn from"),
    ):
        with pytest.raises(UserError, match=wanted):
            lm(words)


def test_without_a_word_it_lists_what_there_is(capsys):
    lm([])
    output = capsys.readouterr().out
    assert "lm train" in output and "lm generate" in output

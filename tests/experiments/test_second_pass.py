"""The study of a second pass: windows are cut elsewhere, arms leave out what they say, costs count, and it goes on."""

import json
import math
import sys

import pytest
import torch

from liquid_control.data.tokenizers import make_tokenizer
from liquid_control.experiments.second_pass import (
    ARMS,
    SecondPassConfig,
    choosing,
    first_pass,
    main,
    measure,
    nats,
    net_within,
    windows_of,
)
from liquid_control.models.language_model import LanguageModel, LanguageModelConfig
from liquid_control.models.remembering import feeds
from liquid_control.support.errors import UserError

WORDS = "the quick brown fox jumps over the lazy dog and runs into a dark deep wood. "


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return SecondPassConfig(
        folder, folder, window=32, tokens=640, shift=7, read=320, calibrated=160, units=4, key_size=8, probed=2, batch=4
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = LanguageModel(LanguageModelConfig(width=16, blocks=2, pattern=("attention",), window=32))
    with torch.no_grad():
        made.embedding.weight.normal_()
    return made.eval()


@pytest.fixture(scope="module")
def tokens():
    return torch.tensor(make_tokenizer("bytes").encode(WORDS * 20))


@pytest.fixture(scope="module")
def passed(model, tokens, config):
    return {memory: first_pass(model, tokens, config, memory) for memory in ("book", "quarter", "student")}


def windows(tokens, config):
    return {
        "calibrated": windows_of(tokens, config.shift, 200, config.calibrated, config.window),
        "read": windows_of(tokens, config.shift + 200, 400, config.read, config.window),
    }


def test_windows_begin_where_the_first_pass_had_none():
    cut = windows_of(torch.arange(1000), 7, 600, 320, 32)
    assert cut.shape == (10, 33) and set((cut[:, 0] % 32).tolist()) == {7}
    assert cut[0, 0] == 7 and 500 < cut[-1, -1] < 607
    assert len(windows_of(torch.arange(1000), 7, 100, 320, 32)) == 3  # of a short text each window once


def test_the_first_pass_fills_cubes_and_leaves_those_of_the_student_empty(passed):
    (book, means), (quarter, _), (student, _) = (passed[name] for name in ("book", "quarter", "student"))
    assert len(book[0].cube) > len(quarter[0].cube) > 0 == len(student[0].cube)
    assert quarter[0].cube.config.blocks == 4 and book[0].cube.config.blocks == 13
    assert len(means) == 2 and len(means[0]) == 16 and any(means[0])
    assert student[0].distillation.student.readout.weight.any()


def test_arms_leave_out_about_their_aim_and_the_better_ones_lose_less(model, tokens, config, passed):
    cut = windows(tokens, config)
    whole = nats(model, cut["read"], 4)
    rows, first = {}, None
    for name, arm in ARMS.items():
        parts, means = passed[arm.memory]
        rows[name] = measure(model, cut, parts, arm, means, 0.5, first or [0.0, 0.0], config)
        first = first or rows[name]["skipped"]
        assert all(0.2 < share < 0.8 for share in rows[name]["skipped"])
    assert rows["random tokens"]["skipped"] == pytest.approx(rows["cubes and student"]["skipped"], abs=0.15)
    more = {name: row["nats"] - whole for name, row in rows.items()}
    off = {name: abs(value) for name, value in more.items()}  # this model has learned nothing, so less loss is no merit
    assert off["cubes and student"] < off["mean residual"] and off["memory alone"] < off["mean residual"]
    weights = sum(weight.numel() for weight in feeds(model)[0].parameters())
    student = passed["student"][0][0].distillation.student.operations()  # its cubes are empty and cost nothing
    alone = rows["student alone"]
    assert alone["net"] == pytest.approx(sum(alone["skipped"]) / 2 - student / weights)
    assert rows["cubes and student"]["net"] < sum(rows["cubes and student"]["skipped"]) / 2 - student / weights


def test_leaving_nothing_out_is_the_whole_model(model, tokens, config, passed):
    cut = windows(tokens, config)["read"]
    parts, means = passed["book"]
    with choosing(model, parts, ARMS["cubes and student"], means, [-math.inf] * 2, [0.0] * 2) as chosen:
        told = nats(model, cut, 4)
    assert not chosen[0].skipped + chosen[1].skipped
    assert told == pytest.approx(nats(model, cut, 4), rel=1e-6)


def test_what_is_saved_within_a_bound_lies_between_the_aims():
    ln2 = math.log(2)
    rows = [{"nats": 1 + 0.005 * ln2, "net": 0.2}, {"nats": 1 + 0.015 * ln2, "net": 0.4}]
    assert net_within(rows, 1.0, 0.01) == pytest.approx(0.3)
    assert net_within(rows, 1.0, 0.1) == 0.4
    assert net_within([{"nats": 1 + 0.02 * ln2, "net": -0.1}], 1.0, 0.01) == 0
    assert net_within([{"nats": 1 + 0.02 * ln2, "net": 0.5}], 1.0, 0.01) == pytest.approx(0.25)


def test_the_study_goes_on_and_refuses_what_is_not_there(tmp_path, capsys, monkeypatch, python):
    monkeypatch.setattr(sys, "executable", python)
    (tmp_path / "novels").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "novels" / f"{name}.txt").write_text(f"{name} says: {WORDS}" * 40)
    words = [str(tmp_path / "study"), str(tmp_path / "novels"), "--unseen", "b", "c", "--steps", "2", "--width", "16"]
    words += "--blocks 2 --pattern attention --window 16 --tokens 320 --shift 5 --read 128 --calibrated 64".split()
    words += "--units 4 --key-size 8 --probed 2 --batch 4".split()
    main([*words, "--aims", "0.5"])
    lines = (tmp_path / "study/results.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 3 + 3 + 3 * len(ARMS)
    main([*words, "--aims", "0.5", "0.3"])
    report = (tmp_path / "study/report.md").read_text()
    assert report in capsys.readouterr().out and "## second pass:" in report and "aim 30%" in report
    again = (tmp_path / "study/results.jsonl").read_text().splitlines()
    assert again[: len(lines)] == lines and len(again) == len(lines) + 3 * len(ARMS)
    assert {json.loads(line)["aim"] for line in again if "aim" in line and "arm" in line} >= {0.5, 0.3}
    with pytest.raises(UserError, match="no novel 'd'"):
        main([*words[:3], "d", "c"])
    with pytest.raises(UserError, match="results of other options"):
        main([*words, "--shift", "6"])

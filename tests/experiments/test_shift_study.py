"""The study of cores under shift, tiny: what is trained, with what, and how it goes on."""

import sys

import pytest

from liquid_control.experiments import shift_study
from liquid_control.experiments.shift_study import StudyConfig, arms_of, evaluation_words, main, training_words
from liquid_control.support.errors import DivergedError, UserError

TINY = """\
expert_episodes: 1
learner_episodes: 1
steps: 2
batch: 4
time: 8
leash: 10.0
validation_episodes: 1
workers: 1
"""


def test_every_core_has_the_same_budget_and_seeds_come_before_cores(tmp_path):
    config = StudyConfig(tmp_path)
    arms = list(arms_of(config))
    assert len(set(arms)) == 7 * 5 * 2
    assert {arm.seed for arm in arms[:14]} == {0}
    budgets = set()
    for arm in arms:
        words = training_words(arm, config)
        given = dict(zip(words[::2], words[1::2], strict=True))
        for name in ("--policy", "--seed", "--variety", "--encoding", "--run"):
            del given[name]
        budgets.add(tuple(given.items()))
    assert len(budgets) == 1
    words = evaluation_words(config, arms)
    assert words[words.index("--primary") + 1 :][:2] == ["cfc-variety", "lstm-variety"]
    assert sum("=" in word for word in words) == 70


def test_a_study_is_done_and_only_what_is_missing_is_done_again(tmp_path, monkeypatch, python, capfd):
    monkeypatch.setattr(sys, "executable", python)
    (tmp_path / "tiny.yaml").write_text(TINY)
    folder = tmp_path / "study"
    arguments = f"{folder} --policies cfc --seeds 1 --rounds 1 --options {tmp_path / 'tiny.yaml'} --suite shift:quick"
    arguments = [*arguments.split(), "--shifts", "dark", "--episodes", "1"]
    main(arguments)
    told = capfd.readouterr().out
    assert "training 2 of 2: cfc-variety, seed 0" in told
    rows = (folder / "suite" / "episodes.jsonl").read_text()
    assert {name for name in ("cfc-clean", "cfc-variety") if f'"{name}"' in rows} == {"cfc-clean", "cfc-variety"}
    assert (folder / "suite" / "report.html").stat().st_size > 10_000
    main(arguments)
    assert "training 2" not in capfd.readouterr().out
    assert (folder / "suite" / "episodes.jsonl").read_text().startswith(rows)


def test_what_is_unknown_and_a_failed_training_are_one_line(tmp_path, monkeypatch, python, capfd):
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(UserError, match="no core 'cfd': did you mean 'cfc'"):
        main([str(tmp_path / "study"), "--policies", "cfd"])
    for words in (["--suite", "nope"], ["--shifts", "fogg"]):
        with pytest.raises(UserError, match=f"unknown {words[0][2:].removesuffix('s')} '{words[1]}'"):
            main([str(tmp_path / "study"), *words])
    assert not (tmp_path / "study").exists()
    options = tmp_path / "wrong.yaml"
    options.write_text("stepz: 3\n")
    with pytest.raises(UserError, match="train ended with exit status 2"):
        main([str(tmp_path / "study"), "--options", str(options)])
    assert "stepz" in capfd.readouterr().err


def test_a_training_that_diverges_is_left_out_and_the_study_goes_on(tmp_path, monkeypatch, capsys):
    given = []

    def run(command, *words):
        given.append((command, *words))
        if command == "train" and "--variety none" in " ".join(words):
            raise DivergedError("what train learned")

    monkeypatch.setattr(shift_study, "run_command", run)
    main([str(tmp_path), "--policies", "cfc", "lstm", "--seeds", "1"])
    assert [command for command, *_ in given] == ["train"] * 4 + ["evaluate"]
    drivers = [word for word in given[-1] if "=" in word]
    assert [driver.split("=")[0] for driver in drivers] == ["cfc-variety", "lstm-variety"]
    assert "cfc-clean, seed 0, has diverged: it is left out." in capsys.readouterr().out

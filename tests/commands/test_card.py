"""``card``: says what the checkpoint's own files say, shows its pictures, and never the scores of other weights."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from agents.dagger import TrainConfig
from agents.episodes import Episode
from envs.registration import TEST_SEEDS, UDACITY
from liquid_control import load_driver
from liquid_control.card import main
from liquid_control.report.card import training_command, write_card
from liquid_control.report.evaluation import Evaluation
from liquid_control.report.judging import read_evaluation
from liquid_control.support.checkpoint import weights_digest
from liquid_control.support.command import parse
from liquid_control.support.errors import UserError

EPISODES = tuple(
    Episode(
        seed=TEST_SEEDS + i, score=score, steps=700 + i, lap=score > 500, tiles=min(1.0, score / 900), off_road=0.01
    )
    for i, score in enumerate([921.5, 450.25, 930.0, 915.0, 918.0, 925.0])
)


def evaluation_of(checkpoint):
    driver = load_driver(checkpoint)
    return Evaluation(
        env="CarRacing-v3",
        driver=driver.describe(),
        weights=weights_digest(driver),
        episodes=EPISODES,
        seconds=60.0,
        versions={"gymnasium": "1.4.0", "torch": "2"},
    )


@pytest.fixture
def evaluated(checkpoint):
    job = dict(vars(TrainConfig(seed=3, rounds=40, policy_options=("mode=default",), workers=2)))
    record = {"job": job, "round": 31, "frames": 123456, "gradient_steps": 3100, "seconds": 321.4}
    record |= {"validation_score": 922.25, "versions": {"python": "3.11.7", "torch": "2"}}
    load_driver(checkpoint).save(checkpoint, record)
    (checkpoint / "evaluation.json").write_text(evaluation_of(checkpoint).to_json())
    return checkpoint


def test_the_command_writes_the_card_and_its_pictures(evaluated, command):
    status, _, _ = command(main, evaluated)
    assert status == 0
    card = (evaluated / "README.md").read_text()
    numbers = evaluation_of(evaluated).summary()
    for shown in (
        f"**{numbers['mean']:.1f} ± {numbers['std']:.1f}** over 6 test episodes, 5 of 6 laps",
        "| minimum | 450.2 |",
        "1 of 6 laps was not completed (seed 2000001)",
        "on the playfield at 28 × 32, 32 features; 7 gauges are read from the pixels | 6,176 |",
        "| core | cfc, 19 neurons | 2,338 |",
        "| frames seen | 123,456 |",
        "| validation score | 922.2 |",
        "python -m liquid_control.train --env CarRacing-v3 --policy-options mode=default --seed 3 --rounds 40\n",
        "![the network](wiring.png)",
    ):
        assert shown in card
    with Image.open(evaluated / "wiring.png") as wiring, Image.open(evaluated / "lap.gif") as lap:
        assert wiring.size == (900, 720)
        assert lap.n_frames > 10
    assert (evaluated / "lap.gif").stat().st_size <= 3_000_000


def test_the_worst_episodes_come_first_in_the_limits(evaluated):
    write_card(evaluated, load_driver(evaluated), evaluation_of(evaluated))
    rows = re.findall(r"^\| (2\d{6}) \| ([\d.]+) \|", (evaluated / "README.md").read_text(), re.MULTILINE)
    assert [int(seed) - TEST_SEEDS for seed, _ in rows] == [1, 3, 4, 0, 5]


def test_the_lines_of_python_in_the_card_drive(evaluated, monkeypatch):
    write_card(evaluated, load_driver(evaluated), evaluation_of(evaluated))
    (lines,) = re.findall(r"```python\n(.*?)```", (evaluated / "README.md").read_text(), re.DOTALL)
    names = {"observation": np.zeros((96, 96, 3), np.uint8)}
    exec(lines, names)
    np.testing.assert_allclose(names["action"], [0, 0.5, 0])


def test_commands_of_a_card_and_of_its_errors_can_be_pasted(evaluated, tmp_path):
    folder = evaluated.rename(tmp_path / "my driver")
    driver, evaluation = load_driver(folder), evaluation_of(folder)
    write_card(folder, driver, evaluation)
    lines, _ = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    with pytest.raises(UserError, match="is of other weights") as other:
        write_card(folder, driver, replace(evaluation, weights="0"))
    (folder / "evaluation.json").unlink()
    with pytest.raises(UserError, match="Evaluate first") as missing:
        read_evaluation(folder, driver)
    advised = [str(error.value).partition(": ")[2] for error in (other, missing)]
    for line in (*lines.splitlines(), *advised):
        assert shlex.split(line)[:4] == ["python", "-m", shlex.split(line)[2], str(folder)]


def test_the_training_command_of_the_card_is_the_job():
    config = TrainConfig(
        policy="ltc", policy_options=("ode_unfolds=4",), learning_rate=1e-3, playfield=(32, 36), seed=9
    )
    words = shlex.split(training_command(json.loads(json.dumps(vars(config)))))
    assert words[:3] == ["python", "-m", "liquid_control.train"]
    assert parse(TrainConfig, words[3:], "train") == config


def test_the_command_of_an_older_record_asks_for_what_was_so_before_there_was_an_option():
    job = {name: value for name, value in vars(TrainConfig()).items() if name not in ("variety", "encoding")}
    config = parse(TrainConfig, shlex.split(training_command(job))[3:], "train")
    assert (config.variety, config.encoding) == ("none", "rgb")


@pytest.mark.parametrize(
    ("variety", "told"), [("none", "with the default colours and friction"), ("mild", "was varied")]
)
def test_the_limits_tell_whether_pictures_were_varied(checkpoint, variety, told):
    load_driver(checkpoint).save(checkpoint, {"job": vars(TrainConfig(variety=variety))})
    write_card(checkpoint, load_driver(checkpoint), evaluation_of(checkpoint))
    assert told in (checkpoint / "README.md").read_text()


def test_the_scores_of_other_weights_are_refused_and_the_earlier_card_stays(evaluated, command):
    (evaluated / "README.md").write_text("earlier")
    driver = load_driver(evaluated)
    with torch.no_grad():
        driver.hands.offset.add_(0.1)
    driver.save(evaluated)
    status, _, errors = command(main, evaluated)
    assert status == 2
    assert "is of other weights" in errors and errors.count("\n") == 1
    assert (evaluated / "README.md").read_text() == "earlier"
    assert not (evaluated / "wiring.png").exists()


@pytest.mark.parametrize("content", [None, "", '{"episodes": 3}', "\0\xff"])
def test_a_missing_or_damaged_evaluation_is_one_line_and_status_2(content, evaluated, command):
    path = evaluated / "evaluation.json"
    path.unlink() if content is None else path.write_text(content)
    status, _, errors = command(main, evaluated)
    assert status == 2
    assert errors.startswith("error: ") and str(path) in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (None, "the record of the training in"),
        ([1], "the record of the training in"),
        ({"job": [1]}, "job of the record"),
        ({"job": {"agent": "nobody"}}, "unknown agent 'nobody'"),
        ({"job": {"agent": "clone", "env": UDACITY, "data": 7}}, "job.data of the record"),
        ({"job": {"policy_options": 3}}, "job.policy_options of the record"),
        ({"versions": [1]}, "versions of the record"),
        ({"frames": "many"}, "frames of the record"),
        ({"validation_score": None}, "validation_score of the record"),
    ],
    ids=str,
)
def test_a_damaged_record_is_one_line_and_leaves_the_pictures_as_they_are(damage, named, evaluated, command):
    config = json.loads((evaluated / "config.json").read_text())
    (evaluated / "config.json").write_text(json.dumps(config | {"record": damage}))
    (evaluated / "wiring.png").write_text("earlier")
    status, _, errors = command(main, evaluated)
    assert status == 2
    assert errors.startswith("error: ") and named in errors and errors.count("\n") == 1
    assert str(evaluated / "config.json") in errors
    assert (evaluated / "wiring.png").read_text() == "earlier"


def test_a_broken_checkpoint_is_one_line_and_status_2(broken_checkpoint, command):
    checkpoint, message = broken_checkpoint
    status, _, errors = command(main, checkpoint)
    assert status == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors


def test_a_card_that_cannot_be_written_is_an_error(evaluated):
    (evaluated / "README.md").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*README\.md"):
        write_card(evaluated, load_driver(evaluated), evaluation_of(evaluated))

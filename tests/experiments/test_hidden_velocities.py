"""Hidden velocities: which commands are run, and the table of what they give."""

import json
from pathlib import Path

import pytest

from liquid_control.experiments import hidden_velocities
from liquid_control.experiments.hidden_velocities import main
from liquid_control.support.errors import DivergedError, UserError
from policies.driver import Driver, DriverConfig


@pytest.fixture
def commands(monkeypatch):
    """Stands in for trainings and evaluations, and keeps their words."""
    given = []

    def run(command, *words):
        given.append((command, *words))
        if command == "train":
            path = Path(words[words.index("--run") + 1])
            (path / "last").mkdir(parents=True)
            Driver(DriverConfig(env="CartPole-v1", vector={"size": 4, "choices": 2})).save(path / "best", {})
            (path / "config.yaml").write_text("")
            record = {"record": {"decisions": 1000, "seconds": 120.0}}
            (path / "last" / "config.json").write_text(json.dumps(record))
        else:
            scores = [{"score": 480.0}, {"score": 530.0}]
            (Path(words[0]) / "evaluation.json").write_text(json.dumps({"episodes": scores}))

    monkeypatch.setattr(hidden_velocities, "run_command", run)
    return given


def test_a_task_is_trained_by_the_commands_and_tabled_once(tmp_path, commands):
    words = ["--task", "cartpole", "--cell", "cfc", "mlp", "--seeds", "2", "--folder", str(tmp_path)]
    main(words)
    train = [words for words in commands if words[0] == "train"]
    assert len(train) == 4 and len(commands) == 8
    assert train[2][train[2].index("--policy-options") + 1 :][:2] == ("neurons=19", "frames=1")
    assert "configs/ppo/cartpole_hidden.yaml" in train[0] and "--seed" in train[1]
    report = (tmp_path / "report.md").read_text()
    assert "| cartpole (500) | cfc | 1,146 | 505.0 (505.0 to 505.0) | 505.0 to 505.0 | 2/2 | 1,000 | 2.0 |" in report
    main(words)
    assert len(commands) == 8


def test_a_cell_with_a_config_of_its_own_gets_no_other_options(tmp_path, commands):
    main(["--task", "pendulum", "--cell", "ltc", "--seeds", "1", "--folder", str(tmp_path)])
    assert "configs/ppo/pendulum_hidden_ltc.yaml" in commands[0] and "--policy" not in commands[0]


def test_what_is_not_there_is_named(tmp_path, commands):
    with pytest.raises(UserError, match="did you mean 'cartpole'"):
        main(["--task", "cartpol", "--folder", str(tmp_path)])
    with pytest.raises(UserError, match="--configs"):
        main(["--seeds", "1", "--folder", str(tmp_path), "--configs", str(tmp_path)])


def test_a_training_that_diverges_is_a_row_and_not_the_end(tmp_path, commands, monkeypatch):
    run = hidden_velocities.run_command

    def diverges(command, *words):
        if command == "train" and words[words.index("--seed") + 1] == "1":
            commands.append((command, *words))
            raise DivergedError("what train learned")
        run(command, *words)

    monkeypatch.setattr(hidden_velocities, "run_command", diverges)
    words = ["--task", "cartpole", "--cell", "cfc", "mlp", "--seeds", "2", "--folder", str(tmp_path)]
    for _ in range(2):
        main(words)
        assert [words[0] for words in commands] == ["train", "evaluate", "train"] * 2
    assert "| cartpole (500) | cfc | 1,146 | nan (nan to nan) |" in (tmp_path / "report.md").read_text()

"""The search, tiny: what its words may say, what a study leaves, how it goes on after a kill, and where it runs."""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from agents.ppo import PPOConfig, describe_vector
from liquid_control.support.command import parse, write_yaml
from liquid_control.support.errors import UserError
from liquid_control.tune import main as tune
from liquid_control.tuning.local_engine import LocalEngine
from liquid_control.tuning.ray_engine import RayEngine
from liquid_control.tuning.space import Choices, Range, read_space
from liquid_control.tuning.study import Study, check_space
from liquid_control.tuning.trial import Ended, Failed, Scored
from policies.driver import Driver, DriverConfig
from tests.commands.conftest import kill

BASE = PPOConfig(
    env="Pendulum-v1",  # its scores are real numbers: two trainings that differ at all differ in them
    steps=192,
    envs=2,
    rollout=32,
    sequence=16,
    batch=32,
    epochs=1,
    round_updates=1,
    validation_episodes=1,
    validate_every=1,
    device="cpu",
)
SEARCH = ["learning_rate=1e-3..1e-1:log", "epochs=1..3", "policy=cfc,lstm"]


@pytest.fixture(scope="module", autouse=True)
def warm(python):
    """What trials start, by Ray or not, has loaded torch already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python)
        patch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(python))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.yaml"
    path.write_text(write_yaml(BASE))
    return path


@pytest.fixture(scope="module")
def arguments(base):
    """Of a study of three trials, one at a time."""
    return ["--base", str(base), "--trials", "3", "--parallel", "1", "--search", *SEARCH]


@pytest.fixture(scope="module")
def unbroken(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "unbroken"
    tune([str(folder), *arguments])
    return folder


def trials(folder):
    return optuna.load_study(study_name="study", storage=f"sqlite:///{folder / 'study.db'}").trials


def ended(folder):
    """Options and scores of the trials that came to their end, in the order of their numbers."""
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    return [(trial.params, trial.intermediate_values, trial.value) for trial in complete]


# What is searched


def test_words_become_ranges_and_choices():
    space = read_space(
        [
            "learning-rate=1e-4..1e-3:log",
            "epochs=3..10",
            "log_std=-2..-0.5",
            "target_kl=None,0.02",
            "share_eyes=True,False",
            "policy_options=neurons=13,neurons=19+mode=pure",
        ]
    )
    assert space["learning_rate"] == Range(1e-4, 1e-3, log=True)
    assert space["epochs"] == Range(3, 10, log=False) and isinstance(space["epochs"].low, int)
    assert space["log_std"] == Range(-2.0, -0.5, log=False)
    assert space["target_kl"] == Choices({"None": None, "0.02": 0.02})
    assert space["share_eyes"] == Choices({"True": True, "False": False})
    options = {"neurons=13": ("neurons=13",), "neurons=19+mode=pure": ("neurons=19", "mode=pure")}
    assert space["policy_options"] == Choices(options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to search\\. Example: --search learning_rate"),
        (["learnin_rate=1..2"], "no option 'learnin_rate' to search: did you mean 'learning_rate'"),
        (["gamma"], "takes name=low..high"),
        (["gamma="], "takes name=low..high"),
        (["env=CartPole-v1,Acrobot-v1"], "'env' is the same in all trials"),
        (["gamma=0.9..0.99", "gamma=0.5,0.6"], "'gamma' twice"),
        (["gamma=0.99..0.9"], "low end below a finite high end"),
        (["gamma=0.9..nan"], "low end below a finite high end"),
        (["gamma=low..high"], "of float numbers"),
        (["epochs=1.5..3"], "of int numbers"),
        (["log_std=-1..1:log"], "begins above zero"),
        (["policy=cfc..ltc"], "is no number"),
        (["policy=cfc,lct"], "unknown policy 'lct': did you mean 'ltc'"),
        (["critic=shared,seperate"], "'seperate' is no value of critic .did you mean 'separate'"),
        (["epochs=3,four"], "'four' is no value of epochs"),
        (["share_eyes=yes"], "'yes' is no value of share_eyes .True or False"),
        (["playfield=28,42"], "it cannot be searched"),
        (["gamma=0.9..1.5"], "'gamma=0.9..1.5': --gamma must be at least 0 and at most 1, not 1.5"),
        (["learning_rate=-1..0.1"], "--learning-rate must be at least 0, not -1"),
        (["clip_range=0..1"], "--clip-range must be above 0, not 0"),
        (["epochs=3..100000000000000000000000"], "--epochs must be at least 1 and at most 1000000000, not 1000"),
        (["action_repeat=0..4"], "--action-repeat must be at least 1 and at most 1000, not 0"),
        (["rollout=0,-5"], "'rollout=0,-5': --rollout must be at least 1 .* not 0"),
        (["target_kl=None,-1"], "--target-kl must be above 0, not -1"),
    ],
)
def test_a_word_that_cannot_be_searched_is_said(words, message):
    with pytest.raises(UserError, match=message):
        read_space(words)


# A study


def test_a_study_leaves_a_report_and_the_config_of_the_best(unbroken):
    best = max(trials(unbroken), key=lambda trial: trial.value)
    config = parse(PPOConfig, ["--config", str(unbroken / "best.yaml")], "train")
    assert config == dataclasses.replace(BASE, **best.params)
    report = (unbroken / "report.md").read_text()
    assert "3 complete, 0 pruned, 0 failed." in report
    assert f"python -m liquid_control.train --config {unbroken / 'best.yaml'}" in report
    assert f"| {best.number} | {best.value:.1f} | 192 |" in report
    assert (unbroken / "trials" / "0002" / "best" / "config.json").exists()


def test_a_score_is_the_best_validation(unbroken):
    for _, scores, value in ended(unbroken):
        assert list(scores) == [64, 128, 192]
        assert value == max(scores.values())


def test_a_killed_study_goes_on_to_the_same_trials(unbroken, arguments, tmp_path, python):
    folder = tmp_path / "killed"
    arguments = [*arguments, "--trials", "2"]
    command = [python, "-m", "liquid_control.tune", str(folder), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(folder / "trials" / "0001" / "config.yaml")
    kill(process, folder)
    tune([str(folder), *arguments])
    assert [trial.state.name for trial in trials(folder)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "interrupted and done again: 1" in (folder / "report.md").read_text()
    assert ended(folder) == ended(unbroken)[:2]


def test_ctrl_c_says_how_to_continue(arguments, tmp_path, python):
    folder = tmp_path / "stopped"
    command = [python, "-m", "liquid_control.tune", str(folder), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(folder / "trials")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"python -m liquid_control.tune {folder} --base" in output
    assert errors == "stopped.\n"


def test_a_study_of_another_config_is_refused_and_changes_nothing(unbroken, arguments, base, tmp_path):
    before = (unbroken / "report.md").read_text(), ended(unbroken)
    with pytest.raises(UserError, match="begun with another config: seed is 0, not 5"):
        tune([str(unbroken), *arguments, "--seed", "5"])
    other = tmp_path / "base.yaml"
    other.write_text(write_yaml(dataclasses.replace(BASE, gamma=0.5)))
    with pytest.raises(UserError, match=r"gamma of the base is 0\.998, not 0\.5"):
        tune([str(unbroken), *arguments, "--base", str(other)])
    assert ((unbroken / "report.md").read_text(), ended(unbroken)) == before


def test_two_searches_in_one_folder_are_refused(unbroken, arguments):
    fcntl = pytest.importorskip("fcntl")
    with open(unbroken / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another search runs in"):
            tune([str(unbroken), *arguments])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trials", "0"], "--trials must be at least 1"),
        (["--warm-up", "2"], "--warm-up must be at least 0 and at most 1"),
        (["--ray-address", "auto"], "is for --engine ray"),
        (["--base", "nowhere.yaml"], "cannot read the config nowhere.yaml"),
        (["--search", "gamma=0.9..1.5"], "--gamma must be at least 0 and at most 1, not 1.5"),
        (
            ["--search", "clone_weight=1..2"],
            "none of 20 combinations .* The first of them: --clone-weight .* need --init",
        ),
        (["--search", "policy_options=neuron=9,neuron=19"], "none of 20 combinations .*'neuron'"),
    ],
)
def test_what_is_wrong_is_said(more, message, arguments, tmp_path):
    with pytest.raises(UserError, match=message):
        tune([str(tmp_path / "study"), *arguments, *more])
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("package", "module", "extra", "more"),
    [("optuna", "study", "tune", []), ("ray", "ray_engine", "ray", ["--engine", "ray"])],
)
def test_a_missing_package_is_named_with_its_extra(package, module, extra, more, arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"liquid_control.tuning.{module}", raising=False)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'liquid-control\[{extra}\]'"):
        tune([str(tmp_path / "study"), *arguments, *more])
    assert not (tmp_path / "study").exists()


def test_a_study_inside_the_driver_that_its_trials_begin_from_is_refused(arguments, tmp_path):
    vector, _ = describe_vector("Pendulum-v1", False)
    Driver(DriverConfig("Pendulum-v1", vector=vector, bound="tanh")).save(tmp_path / "driver")
    base = tmp_path / "base.yaml"
    base.write_text(write_yaml(dataclasses.replace(BASE, init=tmp_path / "driver")))
    with pytest.raises(UserError, match=r"the run folder .*study lies in .*driver, which the run begins from"):
        tune([str(tmp_path / "driver" / "study"), *arguments, "--base", str(base), "--search", "epochs=1..3"])
    assert not (tmp_path / "driver" / "study").exists()


def test_a_search_of_which_some_can_be_trained_is_none_that_is_refused():
    check_space(BASE, read_space(["rollout=30,32,40", "clone_weight=0.0,1.0"]), 0, Path("study"))


def test_a_study_that_lost_its_database_says_what_to_do(unbroken, arguments, tmp_path):
    shutil.copytree(unbroken, tmp_path / "lost")
    (tmp_path / "lost" / "study.db").unlink()
    before = sorted(path.name for path in (tmp_path / "lost").iterdir())
    with pytest.raises(UserError, match=r"holds trials, but no study\.db that tells of them: restore it, or begin"):
        tune([str(tmp_path / "lost"), *arguments])
    assert sorted(path.name for path in (tmp_path / "lost").iterdir()) == before


# What the study makes of what trials tell, without any training


class Script:
    """An engine whose trials tell what a list says; it keeps the answers."""

    places = 1

    def __init__(self, lines):
        self.lines, self.answers, self.begun = lines, [], []

    def start(self, trial, config, path):
        self.begun.append(config)

    def wait(self):
        return self.lines.pop(0)

    def answer(self, trial, stop):
        self.answers.append((trial, stop))

    def close(self):
        pass


def run_script(folder, lines, count, startup=1, warm_up=0.0, words=("gamma=0.9..0.99",)):
    script, news = Script(lines), []
    folder.mkdir(exist_ok=True)
    Study(folder, BASE, read_space(words), 0, startup, warm_up).run(script, count, 1, news.append)
    return script, news


def test_a_trial_below_the_median_is_stopped(tmp_path):
    lines = [Scored(0, 64, 10.0), Scored(0, 128, 20.0), Ended(0, 20.0, stopped=False)]
    lines += [Scored(1, 64, 10.0), Scored(1, 128, 15.0), Ended(1, 15.0, stopped=True)]
    script, news = run_script(tmp_path / "study", lines, 2)
    assert script.answers == [(0, False), (0, False), (1, False), (1, True)]
    assert "pruned: 15.0" in news[-1]
    assert "1 complete, 1 pruned" in (tmp_path / "study" / "report.md").read_text()


def test_no_trial_is_stopped_while_it_warms_up(tmp_path):
    lines = [Scored(0, 64, 10.0), Scored(0, 128, 20.0), Ended(0, 20.0, stopped=False)]
    lines += [Scored(1, 64, 5.0), Scored(1, 128, 15.0), Ended(1, 15.0, stopped=True)]
    script, _ = run_script(tmp_path / "study", lines, 2, warm_up=0.5)
    assert script.answers == [(0, False), (0, False), (1, False), (1, True)]


def test_a_failed_trial_is_told_and_the_study_goes_on(tmp_path):
    script, news = run_script(tmp_path / "study", [Failed(0, "it rained."), Ended(1, 7.0, stopped=False)], 2)
    assert "failed: it rained." in news[0]
    assert "- trial 0 failed: it rained." in (tmp_path / "study" / "report.md").read_text()
    assert len(script.begun) == 2


def test_options_that_do_not_go_together_are_a_failed_trial(tmp_path):
    with pytest.raises(UserError, match=r"no trial has finished. Trial 0: --rollout must be a multiple"):
        run_script(tmp_path / "study", [], 2, words=("rollout=30,31",))


@pytest.mark.parametrize("score", [float("nan"), float("-inf")])
def test_a_trial_without_a_score_has_failed(tmp_path, score):
    lines = [Scored(0, 64, float("nan")), Ended(0, score, stopped=False), Ended(1, 7.0, stopped=False)]
    _, news = run_script(tmp_path / "study", lines, 2)
    assert "failed: no validation of it had a score that is a number." in news[0]
    assert "1 complete, 0 pruned, 1 failed" in (tmp_path / "study" / "report.md").read_text()


def test_more_trials_can_be_asked_for(tmp_path):
    run_script(tmp_path / "study", [Ended(0, 7.0, stopped=False)], 1)
    script, _ = run_script(tmp_path / "study", [Ended(1, 9.0, stopped=False)], 2)
    assert len(script.begun) == 1
    assert "The best is trial 1." in (tmp_path / "study" / "report.md").read_text()


def test_importances_are_told_once_there_are_enough_trials(tmp_path):
    lines = [Ended(number, float(number), stopped=False) for number in range(12)]
    run_script(tmp_path / "study", lines, 12, words=("gamma=0.9..0.99", "epochs=1..9"))
    assert "gamma " in (tmp_path / "study" / "report.md").read_text().splitlines()[-1]


class Formula(Script):
    """An engine whose trials score what a formula says; it breaks off at one of them."""

    def __init__(self, breaks_at=None):
        super().__init__([])
        self.breaks_at = breaks_at

    def start(self, trial, config, path):
        super().start(trial, config, path)
        self.running = trial, config

    def wait(self):
        trial, config = self.running
        if trial == self.breaks_at:
            raise KeyboardInterrupt
        return Ended(trial, -config.epochs * (config.gamma - 0.93) ** 2, stopped=False)


def test_a_study_that_is_broken_off_goes_on_to_the_same_choices(tmp_path):
    # The first ten trials are chosen at random, those after them by what the ones before them scored.
    def run(folder, *engines):
        folder.mkdir()
        for engine in engines:
            study = Study(folder, BASE, read_space(["gamma=0.9..0.99", "epochs=1..9"]), 3, 5, 0.0)
            with contextlib.suppress(KeyboardInterrupt):
                study.run(engine, 14, 1, lambda news: None)
        return ended(folder)

    unbroken = run(tmp_path / "unbroken", Formula())
    assert len(unbroken) == 14
    assert run(tmp_path / "broken", Formula(4), Formula(11), Formula()) == unbroken


def test_a_damaged_database_is_said(tmp_path):
    (tmp_path / "study.db").write_text("no database")
    with pytest.raises(UserError, match=r"study\.db cannot be used"):
        run_script(tmp_path, [], 1)


# Where trials run

DYING = """
import os
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Dying(CartPoleEnv):
    def __init__(self):
        os._exit(3)

gymnasium.register("Dying-v0", Dying)
"""


def test_a_ray_of_two_processors_gives_the_same_trials(unbroken, arguments, tmp_path):
    tune([str(tmp_path / "ray"), *arguments, "--engine", "ray", "--parallel", "2", "--trials", "2"])
    assert ended(tmp_path / "ray") == ended(unbroken)[:2]


def test_an_address_that_is_none_is_said(arguments, tmp_path):
    with pytest.raises(UserError, match="no Ray at nonsense"):
        tune([str(tmp_path / "study"), *arguments, "--engine", "ray", "--ray-address", "nonsense"])


def test_a_cluster_that_does_not_answer_is_said_at_once_and_leaves_no_study(arguments, tmp_path):
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"no Ray at 127\.0\.0\.1:1: Connection refused"):
        tune([str(tmp_path / "study"), *arguments, "--engine", "ray", "--ray-address", "127.0.0.1:1"])
    assert time.monotonic() - begin < 30 and not (tmp_path / "study").exists()


@pytest.fixture(scope="module", params=["local", "ray"])
def engine(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "dying.py").write_text(DYING)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        made = LocalEngine(1, 1) if request.param == "local" else RayEngine(None, 2, 1, 2)
        yield made
        made.close()


def test_a_trial_whose_process_dies_has_failed_and_the_next_one_stops_when_told_to(engine, tmp_path):
    config = dataclasses.replace(BASE, workers=1, threads=1)
    engine.start(0, dataclasses.replace(config, env="dying:Dying-v0"), tmp_path / "0")
    failed = engine.wait()
    assert isinstance(failed, Failed) and failed.trial == 0
    assert "died" in failed.reason
    engine.start(1, config, tmp_path / "1")
    scored = engine.wait()
    assert (scored.trial, scored.decisions) == (1, 64)
    engine.answer(1, True)
    assert engine.wait() == Ended(1, scored.score, stopped=True)


def test_a_bug_in_a_trial_is_told_and_its_traceback_kept(engine, tmp_path):
    config = dataclasses.replace(BASE, workers=1, threads=1, learning_rate=float("nan"))
    engine.start(0, config, tmp_path / "run")
    message = engine.wait()
    while isinstance(message, Scored):
        engine.answer(0, False)
        message = engine.wait()
    assert isinstance(message, Failed)
    assert "Traceback" in (tmp_path / "run" / "error.txt").read_text()


def wait_for(path):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)

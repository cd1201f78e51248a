"""The main job, tiny: trains, resumes to the same weights after a kill, and says clearly what is wrong."""

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import time

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import liquid_control
from liquid_control.record import main as record
from liquid_control.support.errors import LostRunError, UserError
from liquid_control.train import main as train
from tests.commands.conftest import kill

TINY = (
    "--rounds 3 --expert-episodes 1 --learner-episodes 1 --steps 3 --batch 4 --time 8 --leash 10 "
    "--validation-episodes 1 --validate-every 1 --test-episodes 0 --video False --workers 1 --device cpu"
).split()


def digest(checkpoint):
    (path,) = checkpoint.glob("weights-*.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train([*TINY, "--run", str(folder)])
    return folder


def test_a_run_leaves_checkpoints_curves_and_its_config(unbroken):
    driver = liquid_control.load_driver(unbroken / "best")
    assert driver.core.neuron_count == 19
    assert yaml.safe_load((unbroken / "config.yaml").read_text())["rounds"] == 3
    curves = EventAccumulator(str(unbroken / "tensorboard"))
    curves.Reload()
    tags = curves.Tags()
    wanted = {"train/loss", "validation/score", "validation/laps", "drive/score", "drive/tiles"}
    assert wanted <= set(tags["scalars"])
    assert {"actions/steer", "actions/gas", "actions/brake"} <= set(tags["histograms"])
    assert any(tag.startswith("neurons/") for tag in tags["histograms"])
    assert len(curves.Scalars("train/loss")) == 3
    best, last = (json.loads((unbroken / name / "config.json").read_text())["record"] for name in ("best", "last"))
    assert best["seconds_by_part"]["validation"] > 0, "its own validation was before it"
    assert best["round"] < 3 or best == last


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(unbroken, tmp_path):
    train([*TINY, "--run", str(tmp_path / "again")])
    assert digest(tmp_path / "again" / "last") == digest(unbroken / "last")
    train([*TINY, "--run", str(tmp_path / "other"), "--seed", "1"])
    assert digest(tmp_path / "other" / "last") != digest(unbroken / "last")


def test_a_killed_and_resumed_run_ends_with_the_same_weights(unbroken, tmp_path, python):
    folder = tmp_path / "killed"
    command = [python, "-m", "liquid_control.train", *TINY, "--run", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    kill(process, folder)
    assert not (folder / "last").exists(), "the run was over before it was killed"
    train(["--resume", str(folder)])
    assert digest(folder / "last") == digest(unbroken / "last")
    assert digest(folder / "best") == digest(unbroken / "best")


def test_ctrl_c_says_how_to_continue(tmp_path, python):
    folder = tmp_path / "stopped"
    command = [python, "-m", "liquid_control.train", *TINY, "--run", str(folder), "--rounds", "500"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {folder}" in output
    assert "Traceback" not in output + errors


def test_a_disk_that_is_full_is_said_and_the_run_can_go_on(unbroken, tmp_path, python):
    folder = tmp_path / "full"
    command = [python, "-m", "liquid_control.train", *TINY, "--run", str(folder)]

    def no_file_above_100_kilobytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=no_file_above_100_kilobytes)
    assert full.returncode == 2
    assert full.stderr.startswith("error: cannot write ")
    assert f"--resume {folder}" in full.stderr
    assert "Traceback" not in full.stderr
    train(["--resume", str(folder)])
    assert digest(folder / "last") == digest(unbroken / "last")


def test_a_finished_run_that_lost_its_last_checkpoint_gets_it_back(unbroken, tmp_path):
    folder = tmp_path / "finished"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "last")
    train(["--resume", str(folder)])
    assert digest(folder / "last") == digest(unbroken / "last")
    assert (folder / "last" / "config.json").read_bytes() == (unbroken / "last" / "config.json").read_bytes()


def test_another_machine_may_continue_with_other_workers_and_another_device(unbroken, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(unbroken, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("device: cpu", "device: cuda:99"))
    with pytest.raises(UserError, match="device 'cuda:99' cannot be used"):
        train(["--resume", str(folder)])
    train(["--resume", str(folder), "--device", "cpu", "--workers", "2"])


def test_a_device_that_is_not_there_is_said_before_a_folder_is_made(tmp_path):
    for device in ("cuda:99", "meta", "nonsense"):
        with pytest.raises(UserError, match=f"device '{device}' cannot be used"):
            train([*TINY, "--device", device, "--run", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_deleted_ends_the_run_in_one_line_and_stays_deleted(tmp_path, python):
    folder = tmp_path / "deleted"
    command = [python, "-m", "liquid_control.train", *TINY, "--run", str(folder), "--rounds", "500"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    folder.rename(tmp_path / "elsewhere")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("error: ") and "Traceback" not in errors
    assert not (folder / "state.safetensors").exists() and not (folder / "last").exists()


def test_a_finished_run_can_be_resumed_for_its_closing(unbroken):
    before = digest(unbroken / "last")
    train(["--resume", str(unbroken)])
    assert digest(unbroken / "last") == before


def test_a_resume_with_another_config_is_refused_and_changes_nothing(unbroken):
    before = digest(unbroken / "last")
    with pytest.raises(UserError, match="begun with another config: seed is 0, not 5"):
        train(["--resume", str(unbroken), "--seed", "5"])
    assert digest(unbroken / "last") == before


def test_a_damaged_state_is_refused(unbroken, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.yaml").write_text((unbroken / "config.yaml").read_text())
    (folder / "state.safetensors").write_bytes((unbroken / "state.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        train(["--resume", str(folder)])


def test_cloning_recorded_demonstrations(tmp_path):
    arguments = ["--episodes", "2", "--workers", "1", "--folder", str(tmp_path / "demos")]
    record(arguments)
    with pytest.raises(UserError, match="holds shards already"):
        record(arguments)
    train([*TINY, "--run", str(tmp_path / "run"), "--agent", "clone", "--demos", str(tmp_path / "demos")])
    assert not list((tmp_path / "run" / "shards").glob("round-001-*"))
    liquid_control.load_driver(tmp_path / "run" / "best")
    (tmp_path / "demos" / "shard-0000.npz").unlink()
    record(["--episodes", "2", "--workers", "1", "--seed", "7", "--folder", str(tmp_path / "others")])
    (tmp_path / "others" / "shard-0000.npz").rename(tmp_path / "demos" / "shard-0000.npz")
    with pytest.raises(LostRunError, match="is not what it began with: restore it, or begin a new run"):
        train(["--resume", str(tmp_path / "run")])


def test_tracks_of_validation_and_tests_are_not_recorded(tmp_path):
    for words in (["--seed", "2000000"], ["--seed", "999999", "--episodes", "2"]):
        with pytest.raises(UserError, match="reaches tracks of validation and tests"):
            record([*words, "--workers", "1", "--folder", str(tmp_path / "demos")])


def test_a_run_whose_rounds_are_lost_says_so(unbroken, tmp_path):
    folder = tmp_path / "lost"
    shutil.copytree(unbroken, folder)
    shard = next((folder / "shards").iterdir())
    for spoil in (lambda: shard.write_bytes(shard.read_bytes()[:99]), shard.unlink):
        spoil()
        with pytest.raises(LostRunError, match="The run cannot be resumed; begin a new one") as said:
            train(["--resume", str(folder)])
        assert "Then continue" not in str(said.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "CarRacing-v2"], "unknown env 'CarRacing-v2': did you mean 'CarRacing-v3'"),
        (["--policy", "lst"], "unknown policy 'lst': did you mean 'lstm'"),
        (["--policy-options", "mod=pure"], "no option 'mod': did you mean 'mode'"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate must be at least 0, not nan"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--playfield", "28", "0"], "--playfield must be at least 17 and at most 1024, not 0"),
        (["--device", "gpu7"], "device 'gpu7' cannot be used"),
        (["--demos", "nowhere"], "no demonstrations in nowhere"),
        (["--resume", "nowhere"], "nowhere is no run folder"),
        (["--run", "/dev/null/run"], "cannot write"),
    ],
)
def test_what_is_wrong_is_said(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        train([*TINY, *arguments])
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_is_never_overwritten(unbroken):
    with pytest.raises(UserError, match="holds a run already"):
        train([*TINY, "--run", str(unbroken)])

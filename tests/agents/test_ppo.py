import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents.liquid_ppo import LiquidPPO
from agents.pool import RolloutPool
from agents.ppo import PPO, PPOConfig, begin_ppo, describe_driver
from agents.run_folder import RunFolder
from liquid_control.support.errors import DivergedError, UserError
from policies.driver import Driver, load_driver

TINY = PPOConfig(
    env="CartPole-v1",
    steps=384,
    envs=2,
    rollout=32,
    sequence=8,
    batch=32,
    epochs=2,
    round_updates=2,
    validate_every=1,
    validation_episodes=1,
    learning_rate=3e-3,
    device="cpu",
)


@pytest.fixture(scope="module")
def pool():
    with RolloutPool(1) as pool:
        yield pool


def begun(path: Path) -> RunFolder:
    """A run folder, begun now or before."""
    folder = RunFolder(path)
    if not folder.config.exists():
        folder.begin("agent: ppo\n")
    return folder


def run(pool: RolloutPool, path: Path, stop_after: int | None = None, **options) -> PPO:
    """Trains in a run folder that may hold an earlier part of it; a kill comes after so many updates."""
    config = begin_ppo(dataclasses.replace(TINY, **options), path, processors=1)
    updates = 0

    def report(progress):
        nonlocal updates
        updates += 1
        if updates == stop_after:
            raise KeyboardInterrupt

    ppo = PPO(config, begun(path), pool)
    try:
        ppo.train(report)
    except KeyboardInterrupt:
        assert stop_after is not None
    finally:
        ppo.close()
    return ppo


@pytest.fixture(scope="module")
def whole(pool, tmp_path_factory):
    """A run of :data:`TINY` from its begin to its end."""
    return run(pool, tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("options", [{}, {"drop_frames": 0.3, "hide_velocities": True, "learn_initial_state": True}])
def test_a_killed_and_resumed_run_equals_an_unbroken_one(pool, whole, tmp_path, options):
    unbroken = run(pool, tmp_path / "unbroken", **options) if options else whole
    run(pool, tmp_path / "broken", stop_after=5, **options)
    resumed = run(pool, tmp_path / "broken", **options)
    assert resumed.progress.steps == 384 and resumed.progress.round == 3
    whole, broken = (load_file(each.folder.path / "state.safetensors") for each in (unbroken, resumed))
    assert whole.keys() == broken.keys()
    for name, value in whole.items():
        assert torch.equal(value, broken[name]), name


def test_an_update_moves_every_part_of_the_driver_and_of_the_critic(pool, tmp_path):
    torch.manual_seed(0)
    config = begin_ppo(dataclasses.replace(TINY, steps=64, round_updates=1), tmp_path, processors=1)
    ppo = PPO(config, begun(tmp_path), pool)
    before = {name: value.clone() for name, value in ppo.policy.state_dict().items()}
    ppo.train(lambda _: None)
    ppo.close()
    still = {name for name, value in ppo.policy.state_dict().items() if torch.equal(value, before[name])}
    assert not {name for name in still if "mask" not in name}


def test_what_the_critic_alone_sees_is_brought_to_unit_variance(pool, tmp_path):
    ppo = run(pool, tmp_path, hide_velocities=True)
    seen = ppo.model.rollout_buffer.observations
    scale = ppo.policy.features_extractor.scale
    assert scale.count == ppo.driver.scale.count == 384
    gauges, privileged = (torch.from_numpy(seen[name]).flatten(0, 1) for name in ("gauges", "privileged"))
    features = ppo.policy.extract_features({"gauges": gauges, "privileged": privileged})
    torch.testing.assert_close(features[:, 2:], scale(privileged))
    assert privileged[:, 0].std() < 0.1 and 0.3 < features[:, 2:].std() < 2


def test_the_checkpoint_drives_as_the_policy_does(whole):
    driver, last = copy.deepcopy(whole.driver).eval(), load_driver(whole.folder.last)
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    state, start, compiled = None, np.ones(1, bool), last.compile_step()
    for observation in observations:
        action, state = whole.policy.predict({"gauges": observation}, state, start, deterministic=True)
        start = np.zeros(1, bool)
        assert action == last.act(observation) == compiled.act(observation) == driver.act(observation)
    record = last.parameter_counts()
    assert record["total"] < 1200, "a driver is its actor alone"


def test_a_balancing_pole_is_learned_from_reward(pool, tmp_path):
    options = {"steps": 16_384, "envs": 8, "rollout": 64, "sequence": 16, "batch": 128, "epochs": 6}
    ppo = run(pool, tmp_path, **options, round_updates=8, validate_every=4, learning_rate=5e-3, validation_episodes=3)
    assert ppo.progress.training_score > 60, "falling over takes 22 steps"


def test_stop_at_ends_the_training_and_stays_ended(pool, tmp_path):
    ppo = run(pool, tmp_path, stop_at=1.0)
    assert ppo.progress.stopped and ppo.progress.steps == 128
    assert run(pool, tmp_path, stop_at=1.0).progress.steps == 128
    parts = json.loads((tmp_path / "best/config.json").read_text())["record"]["seconds_by_part"]
    assert parts["validation"] == round(ppo.progress.parts["validation"], 1), "it tells of its own validation"


# Beginning with a clone


@pytest.fixture
def clone(tmp_path) -> Path:
    torch.manual_seed(3)
    driver = Driver(describe_driver(dataclasses.replace(TINY, env="Pendulum-v1", distribution="gaussian")))
    driver.scale.update(torch.randn(100_000, 3))  # it has seen much: what it learns on changes its scale little
    driver.save(tmp_path / "clone")
    return tmp_path / "clone"


def test_while_the_critic_warms_up_the_clone_stays_as_it_was(pool, tmp_path, clone):
    options = {"env": "Pendulum-v1", "init": clone, "distribution": "gaussian", "share_eyes": False}
    ppo = run(pool, tmp_path / "run", **options, value_warm_up=100)
    for name, value in load_driver(clone).named_parameters():
        assert torch.equal(value, dict(ppo.driver.named_parameters())[name]), name


def test_the_divergence_from_a_clone_holds_the_driver_back(pool, tmp_path, clone):
    def distance(weight: float) -> float:
        options = {
            "env": "Pendulum-v1",
            "init": clone,
            "distribution": "gaussian",
            "clone_weight": weight,
            "steps": 1024,
        }
        driver = run(pool, tmp_path / f"run-{weight}", **options, log_std=-1.0).driver
        image = torch.empty(4, 20, *driver.view.image_shape, dtype=torch.uint8)
        gauges = torch.randn(4, 20, 3, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            old, new = (each(image, gauges)[0] for each in (load_driver(clone), driver))
        return (old - new).abs().mean().item()

    assert distance(30.0) < 0.5 * distance(0.0)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "CartPol-v1"}, "cannot be made"),
        ({"env": "FrozenLake-v1"}, "supported are vectors"),
        ({"env": "Pendulum-v1", "policy_options": ("neurons=3",)}, "too few"),
        ({"env": "CarRacing-v3", "hide_velocities": True}, "shows its speed"),
    ],
)
def test_what_cannot_be_driven_is_one_clear_error(options, message):
    config = dataclasses.replace(TINY, **options)
    with pytest.raises(UserError, match=message):
        Driver(describe_driver(config))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollout": 33}, "must be a multiple of --sequence"),
        ({"envs": 0}, "--envs must be at least 1"),
        ({"drop_frames": 1.0}, r"--drop-frames must be at least 0 and below 1, not 1\.0"),
        ({"learning_rate": -1.0}, "--learning-rate must be at least 0"),
        ({"gamma": 1.5}, "--gamma must be at least 0 and at most 1"),
        ({"clone_weight": 1.0}, "--init"),
    ],
)
def test_an_option_out_of_range_is_one_clear_error(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        begin_ppo(dataclasses.replace(TINY, **options), tmp_path, processors=1)


def test_a_checkpoint_of_another_environment_or_core_is_refused(clone):
    config = dataclasses.replace(TINY, init=clone)
    with pytest.raises(UserError, match="drives Pendulum-v1, not CartPole-v1"):
        describe_driver(config)
    with pytest.raises(UserError, match="give --distribution gaussian"):
        describe_driver(dataclasses.replace(config, env="Pendulum-v1"))
    with pytest.raises(UserError, match="has the core cfc, not ltc: give --policy cfc"):
        describe_driver(dataclasses.replace(config, env="Pendulum-v1", policy="ltc"))


# The algorithm by itself


def test_liquid_ppo_has_sb3s_api(tmp_path):
    model = LiquidPPO("LiquidPolicy", "Pendulum-v1", n_steps=64, sequence_length=16, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    model.save(tmp_path / "model")
    loaded = LiquidPPO.load(tmp_path / "model", env=model.get_env(), device="cpu")
    observation = np.array([0.5, 0.5, 1.0], np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    loaded.learn(64)


def test_a_rollout_that_is_no_multiple_of_the_sequences_is_refused():
    with pytest.raises(UserError, match="multiple of sequence_length=32"):
        LiquidPPO("LiquidPolicy", "CartPole-v1", n_steps=48)


def test_a_training_that_diverges_says_so():
    model = LiquidPPO(
        "LiquidPolicy", "CartPole-v1", n_steps=64, batch_size=32, learning_rate=1e30, seed=0, device="cpu"
    )
    with pytest.raises(DivergedError, match="what the actor's neurons command holds NaN or infinity"):
        model.learn(640)

import copy
import inspect

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents.driving_task import DrivingTask, TaskConfig
from agents.liquid_ppo import LiquidPPO
from liquid_control.support.errors import UserError
from policies.driver import DriverConfig
from policies.registry import CORES
from policies.sb3 import SETTLED, DriverPolicy, LiquidActorCriticPolicy, LiquidCnnPolicy, LiquidMultiInputPolicy

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(2),
}


def build(space=VECTOR, action=ACTIONS["box"], kind=LiquidActorCriticPolicy, **kwargs):
    torch.manual_seed(0)
    return kind(space, action, lambda _: 1e-3, **kwargs)


class AsLSTM(nn.Module):
    """A memory as sb3-contrib expects one, (T, B, F) and a pair of states: for its own loop over time."""

    def __init__(self, memory):
        super().__init__()
        self.memory, self.input_size = memory, memory.input_size

    def forward(self, features, states):
        y, after = self.memory.layer(features.transpose(0, 1), states[0][0])
        return y.transpose(0, 1), (after[None], states[1])


@pytest.mark.parametrize("core", sorted(CORES))
def test_a_batch_with_episode_starts_equals_the_loop_of_sb3_contrib(core):
    policy = build(core=core, critic="feedforward")
    rows, time = 6, 11
    observations = torch.rand(rows * time, 4)
    starts = (torch.rand(rows * time) < 0.25).float()
    state = torch.rand(1, rows, policy.actor.hidden_size) * 0.1
    ours, (after, _) = policy._process_sequence(observations, (state, state), starts, policy.actor)
    theirs, (expected, _) = RecurrentActorCriticPolicy._process_sequence(
        observations, (state, state), starts, AsLSTM(policy.actor)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("critic", ["separate", "shared", "feedforward"])
def test_what_was_sampled_has_the_density_that_it_is_given_later(action, critic):
    policy = build(action=ACTIONS[action], critic=critic).eval()
    observations, starts = torch.rand(7, 4), torch.ones(7)
    zeros = torch.zeros(1, 7, policy.actor.hidden_size)
    states = RNNStates((zeros, zeros), (zeros, zeros))
    actions, values, log_prob, _ = policy(observations, states, starts)
    again = actions.flatten() if action == "discrete" else actions
    values_again, log_prob_again, _ = policy.evaluate_actions(observations, again, states, starts)
    torch.testing.assert_close(log_prob, log_prob_again)
    torch.testing.assert_close(values, values_again)
    torch.testing.assert_close(values, policy.predict_values(observations, states.vf, starts))


@pytest.mark.parametrize("distribution", ["gaussian", "squashed", "beta"])
def test_actions_stay_within_their_bounds(distribution):
    policy = build(distribution=distribution, log_std_init=0.5)
    action, _ = policy.predict(np.ones(4, np.float32))
    assert ACTIONS["box"].contains(action)


def test_an_episode_goes_on_from_the_state_that_predict_gave():
    policy = build()
    first, second = np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype(np.float32)
    _, state = policy.predict(first, deterministic=True)
    carried, _ = policy.predict(second, state, np.array([False]), deterministic=True)
    begun, _ = policy.predict(second, state, np.array([True]), deterministic=True)
    fresh, _ = policy.predict(second, deterministic=True)
    np.testing.assert_array_equal(begun, fresh)
    assert np.abs(carried - fresh).max() > 1e-4


def test_elapsed_time_reaches_the_core():
    space = spaces.Dict({"obs": VECTOR, "elapsed": spaces.Box(0, 10, (1,), np.float32)})
    policy = build(space, kind=LiquidMultiInputPolicy)
    observation = {"obs": np.ones(4, np.float32), "elapsed": np.ones(1, np.float32)}
    now, _ = policy.predict(observation, deterministic=True)
    later, _ = policy.predict(observation | {"elapsed": np.full(1, 3.0, np.float32)}, deterministic=True)
    assert policy.actor.layer.input_size == 4, "time is no input, it is the core's time"
    assert np.abs(now - later).max() > 1e-4


@pytest.mark.parametrize("critic", ["separate", "shared", "feedforward"])
def test_what_is_privileged_reaches_the_critic_alone(critic):
    parts = {"obs": VECTOR, "privileged": spaces.Box(0, 1, (2,), np.float32), "elapsed": spaces.Box(0, 9, (1,))}
    policy = build(spaces.Dict(parts), kind=LiquidMultiInputPolicy, critic=critic)
    zeros = torch.zeros(1, 3, policy.actor.hidden_size)
    states = RNNStates((zeros, zeros), (zeros, zeros))
    seen = {"obs": torch.rand(3, 4), "privileged": torch.zeros(3, 2), "elapsed": torch.ones(3, 1)}
    actions, values, *_ = policy(seen, states, torch.ones(3), deterministic=True)
    more = seen | {"privileged": torch.ones(3, 2)}
    same_actions, other_values, *_ = policy(more, states, torch.ones(3), deterministic=True)
    torch.testing.assert_close(same_actions, actions, rtol=0, atol=0)
    assert (other_values - values).abs().min() > 1e-4
    later = policy.predict_values(seen | {"elapsed": torch.full((3, 1), 3.0)}, states.vf, torch.zeros(3))
    now = policy.predict_values(seen, states.vf, torch.zeros(3))
    assert critic == "feedforward" or (later - now).abs().max() > 1e-5


def test_a_shared_critic_does_not_move_the_actor():
    policy = build(critic="shared")
    zeros = torch.zeros(1, 3, policy.actor.hidden_size)
    values = policy.predict_values(torch.rand(3, 4), (zeros, zeros), torch.ones(3))
    gradients = torch.autograd.grad(values.sum(), list(policy.actor.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)


class Broken(gymnasium.ObservationWrapper):
    """Shows NaN from the tenth observation on."""

    seen = 0

    def observation(self, observation):
        self.seen += 1
        return observation if self.seen < 10 else np.full_like(observation, np.nan)


def test_an_environment_that_shows_nan_is_named_to_a_user_of_sb3():
    env = DummyVecEnv([lambda: gymnasium.make("CartPole-v1"), lambda: Broken(gymnasium.make("CartPole-v1"))])
    model = RecurrentPPO(LiquidActorCriticPolicy, env, n_steps=32, device="cpu")
    with pytest.raises(UserError, match=r"^the observation of environment 1 of 2 holds NaN or infinity"):
        model.learn(64)
    with pytest.raises(UserError, match=r"^the observation of environment 0 of 1 holds NaN or infinity"):
        model.predict(np.array([0, 0, np.inf, 0], np.float32))


def test_a_model_trains_saves_and_loads(tmp_path):
    model = RecurrentPPO("LiquidPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.policy.actor.parameters()]
    model.learn(64)
    assert any((old != new).any() for old, new in zip(before, model.policy.actor.parameters(), strict=True))
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", device="cpu")
    observation = np.array([0.1, 0.2, 0.05, -0.1], np.float32)
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    for name, value in model.policy.state_dict().items():
        torch.testing.assert_close(loaded.policy.state_dict()[name], value)


@pytest.mark.cuda
@pytest.mark.parametrize("core", sorted(CORES))
def test_a_gpu_gives_the_densities_values_and_gradients_of_the_processor(core):
    space = spaces.Dict({"obs": VECTOR, "elapsed": spaces.Box(0, 10, (1,), np.float32)})
    policy = build(space, kind=LiquidMultiInputPolicy, core=core)
    rows, time = 6, 11
    observations = {"obs": torch.rand(rows * time, 4), "elapsed": 0.5 + torch.rand(rows * time, 1)}
    actions, starts = torch.rand(rows * time, 2) - 0.5, (torch.rand(rows * time) < 0.25).float()
    state = torch.rand(1, rows, policy.actor.hidden_size) * 0.1

    def outcome(device):
        on = copy.deepcopy(policy).to(device)
        there = state.to(device)
        values, density, _ = on.evaluate_actions(
            {key: value.to(device) for key, value in observations.items()},
            actions.to(device),
            RNNStates((there, there), (there, there)),
            starts.to(device),
        )
        (density.mean() + values.square().mean()).backward()
        gradients = {name: leaf.grad.cpu() for name, leaf in on.named_parameters() if leaf.grad is not None}
        return {"values": values.detach().cpu(), "densities": density.detach().cpu()} | gradients

    with torch.backends.cudnn.flags(allow_tf32=False):
        torch.testing.assert_close(outcome("cuda"), outcome("cpu"), rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("core", sorted(CORES))
def test_what_a_gpu_learned_acts_the_same_on_the_processor(core, tmp_path):
    sizes = {"n_steps": 64, "batch_size": 64, "policy_kwargs": {"core": core}}
    model = RecurrentPPO("LiquidPolicy", "Pendulum-v1", device="cuda", **sizes)
    model.learn(128)
    model.save(tmp_path / "model")
    here, state, other = RecurrentPPO.load(tmp_path / "model", device="cpu"), None, None
    for angle in np.linspace(0, 3, 8):
        observation = np.array([np.cos(angle), np.sin(angle), 0.2], np.float32)
        action, state = model.predict(observation, state, deterministic=True)
        same, other = here.predict(observation, other, deterministic=True)
        np.testing.assert_allclose(same, action, atol=1e-4)


def test_images_and_dictionaries_have_their_policies():
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    assert build(image, kind=LiquidCnnPolicy).predict(image.sample())[0].shape == (2,)
    both = spaces.Dict({"camera": image, "speed": VECTOR})
    assert build(both, kind=LiquidMultiInputPolicy).predict(both.sample())[0].shape == (2,)


def test_options_of_the_core_reach_it():
    assert build(core="cfc", core_options={"mode": "pure"}).actor.layer.mode == "pure"
    assert build(core="ltc", neurons=24).actor.layer.neuron_count == 24
    assert len(build(net_arch={}).mlp_extractor.critic) == 0 < len(build().mlp_extractor.critic)
    dense = build(motor_actions=False, net_arch={"pi": [8], "vf": [8]})
    assert dense.actor.layer.output_size == 19


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": "cfv"}, "did you mean 'cfc'"),
        ({"critic": "seperate"}, "did you mean 'separate'"),
        ({"distribution": "normal"}, "Known: beta, gaussian, squashed"),
        ({"neurons": 4}, "too few for 2 motor neurons"),
        ({"use_sde": True}, "use_sde"),
        ({"core": "lan", "learn_initial_state": True}, "'lan' cannot be learned"),
        ({"net_arch": {"pi": [8]}}, "motor_actions=False"),
        ({"action": ACTIONS["discrete"], "distribution": "beta"}, "box actions"),
        ({"action": ACTIONS["unbounded"], "distribution": "beta"}, "finite action bounds"),
        ({"neuron": 30}, "did you mean 'neurons'"),
        ({"neurons": 0}, "neurons is 0"),
        ({"neurons": 9.5}, "neurons is 9.5"),
        ({"net_arch": [64, 64]}, r'such as \{"vf": \[64, 64\]\}. The size of the memories is the option neurons'),
        ({"net_arch": [64, 64], "motor_actions": False}, r'such as \{"pi": \[64, 64\], "vf"'),
        ({"net_arch": {"vf": 64}}, "net_arch is {'vf': 64}"),
        ({"net_arch": {"vf": [0]}}, r"net_arch is {'vf': \[0\]}"),
        ({"net_arch": {"value": [64]}}, r"net_arch is {'value': \[64\]}"),
        ({"core_options": {"mode": "pure"}, "motor_actions": False}, "core_options has no effect"),
        ({"core_options": {"mod": "pure"}}, "did you mean 'mode'"),
        ({"critic": "shared", "share_features_extractor": False}, "share_features_extractor=True"),
        ({"optimizer_kwargs": {"lr": 1e-3}}, "learning_rate"),
        ({"optimizer_kwargs": {"epsilon": 1e-3}}, "did you mean 'eps'"),
        ({"features_extractor_kwargs": {"features": 8}}, "FlattenExtractor has no argument 'features'"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


OPTIONS_OF_SB3 = inspect.signature(RecurrentActorCriticPolicy).parameters.keys()
GIVEN_BY_SB3 = {"observation_space", "action_space", "lr_schedule"}
TAKEN = inspect.signature(LiquidActorCriticPolicy).parameters.keys() & OPTIONS_OF_SB3 - GIVEN_BY_SB3


@pytest.mark.parametrize("option", sorted(OPTIONS_OF_SB3 - GIVEN_BY_SB3 - TAKEN))
def test_an_option_of_sb3_that_is_not_taken_is_refused_with_what_takes_its_place(option):
    own = inspect.signature(LiquidActorCriticPolicy).parameters.keys()
    for value in (True, 2, {"dropout": 0.5}):
        with pytest.raises(UserError, match=f"no option '{option}': .*({'|'.join(own - GIVEN_BY_SB3)})"):
            build(**{option: value})
    with pytest.raises(UserError, match=f"no option '{option}'"):
        LiquidPPO("LiquidPolicy", "CartPole-v1", policy_kwargs={option: True})


@pytest.mark.parametrize("option", sorted(TAKEN))
def test_an_option_of_sb3_that_is_taken_has_its_effect(option):
    image = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    vector, picture = torch.rand(2, 4) + 0.5, torch.from_numpy(np.stack([image.sample()] * 2))
    given = {
        "net_arch": ({"vf": [8]}, lambda policy: policy.mlp_extractor.latent_dim_vf, VECTOR),
        "activation_fn": (nn.ReLU, lambda policy: str(policy.mlp_extractor), VECTOR),
        "ortho_init": (False, lambda policy: policy.value_net.weight.tolist(), VECTOR),
        "log_std_init": (-1.0, lambda policy: policy.log_std.tolist(), VECTOR),
        "features_extractor_class": (Halved, lambda policy: policy.extract_features(vector).tolist(), VECTOR),
        "features_extractor_kwargs": ({"features_dim": 8}, lambda policy: policy.actor.layer.input_size, image),
        "share_features_extractor": (False, lambda policy: policy.share_features_extractor, image),
        "normalize_images": (False, lambda policy: policy.extract_features(picture).tolist(), image),
        "optimizer_class": (torch.optim.SGD, lambda policy: type(policy.optimizer), VECTOR),
        "optimizer_kwargs": ({"eps": 1e-3}, lambda policy: policy.optimizer.defaults["eps"], VECTOR),
    }
    value, effect, space = given[option]
    kind = LiquidCnnPolicy if space is image else LiquidActorCriticPolicy
    assert effect(build(space, kind=kind, **{option: value})) != effect(build(space, kind=kind))


class Halved(BaseFeaturesExtractor):
    """Half of every number."""

    def __init__(self, space):
        super().__init__(space, 4)

    def forward(self, observations):
        return observations / 2


def test_what_a_driver_settles_is_not_said_again():
    config = DriverConfig(env="CartPole-v1", vector={"size": 4, "choices": 2})
    space = DrivingTask(TaskConfig(config)).observation_space
    for option in sorted(SETTLED):
        with pytest.raises(UserError, match=f"the driver settles '{option}'"):
            build(space, ACTIONS["discrete"], DriverPolicy, driver=config, **{option: None})


@pytest.mark.parametrize(
    "options", [{}, {"share_features_extractor": False, "net_arch": {"vf": [8, 8]}, "critic": "feedforward"}]
)
def test_a_policy_is_saved_and_loaded_without_its_algorithm(options, tmp_path):
    policy = build(distribution="beta", **options)
    policy.save(tmp_path / "policy")
    loaded = LiquidActorCriticPolicy.load(tmp_path / "policy", device="cpu")
    observation = np.ones(4, np.float32)
    np.testing.assert_array_equal(*(which.predict(observation, deterministic=True)[0] for which in (policy, loaded)))


def test_a_shipped_driver_and_its_policy_act_alike():
    config = DriverConfig(pedals=True, action_repeat=3, bound="tanh")
    task = DrivingTask(TaskConfig(config))
    policy = DriverPolicy(task.observation_space, task.action_space, lambda _: 1e-3, driver=config, distribution="beta")
    driver = policy.driver
    assert {id(parameter) for parameter in driver.parameters()} <= {id(parameter) for parameter in policy.parameters()}
    with torch.no_grad():
        driver.hands.offset.copy_(torch.tensor([0.05, 0.4]))
    seen, _ = task.reset(seed=3)
    env = gymnasium.make("liquid_control/FastCarRacing-v3")
    observation, _ = env.reset(seed=int(np.random.default_rng(3).integers(1_000_000)))
    compiled, state, start = driver.compile_step(), None, np.ones(1, bool)
    for _ in range(20):
        command, state = policy.predict(seen, state, start, deterministic=True)
        start = np.zeros(1, bool)
        for _ in range(3):
            action = compiled.act(observation)
            np.testing.assert_allclose(driver.act(observation), action, atol=1e-5)
            observation, *_ = env.step(action)
        np.testing.assert_allclose(action, [command[0], max(command[1], 0), max(-command[1], 0)], atol=1e-5)
        seen, *_ = task.step(command)

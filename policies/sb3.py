"""Liquid policies for Stable-Baselines3: ``RecurrentPPO("LiquidPolicy", env, policy_kwargs=dict(core="cfc"))``.

Importing this module gives sb3-contrib's ``RecurrentPPO`` three more policy names: ``LiquidPolicy`` for vectors,
``LiquidCnnPolicy`` for images and ``LiquidMultiInputPolicy`` for dictionaries.

>>> import policies.sb3
>>> from sb3_contrib import RecurrentPPO
>>> model = RecurrentPPO("LiquidPolicy", "CartPole-v1", n_steps=32, policy_kwargs=dict(core="cfc", neurons=19))
>>> model.policy.actor.layer.neuron_count
19

sb3-contrib steps a recurrent policy through time in a Python loop wherever a batch holds the start of an episode. Here
a sequence is one call of the layer, episode starts or not (`policies.sequences`), with the same result.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from torch import Tensor, nn

from liquid_control.nn import LiquidLayer
from liquid_control.support.errors import DivergedError, UserError, nearest
from policies.distributions import DISTRIBUTIONS, BoundedDistribution
from policies.driver import Driver, DriverConfig
from policies.eyes import ConvEyes, GaugeScale
from policies.hands import AffineHands, ChoiceHands, Hands
from policies.registry import NEURONS, build_core, build_memory
from policies.sb3_spaces import (
    ELAPSED,
    NOT_NORMALIZED,
    PRIVILEGED,
    check_observations,
    count_rows,
    motors,
    width,
)
from policies.sequences import run_episodes

CRITICS = ("separate", "shared", "feedforward")
INSTEAD = {
    "lstm_hidden_size": "the memory has as many neurons as the option neurons says.",
    "n_lstm_layers": "the memory is one layer; the option neurons makes it larger.",
    "lstm_kwargs": "options of the core are given as core_options.",
    "enable_critic_lstm": "the option critic is 'separate' for a memory of the critic's own, 'feedforward' for none.",
    "shared_lstm": "the option critic is 'shared' for a critic that uses the actor's memory.",
    "squash_output": "the option distribution is 'squashed' for actions bounded by tanh.",
    "use_sde": "exploration is settled by the options distribution and log_std_init.",
    "full_std": "exploration is settled by the options distribution and log_std_init.",
    "use_expln": "exploration is settled by the options distribution and log_std_init.",
}
"""What says in a liquid policy what these options of sb3-contrib's policies say there."""


class Memory(nn.Module):
    """A liquid layer in the place of sb3-contrib's LSTM.

    Its state is the first of sb3-contrib's pair of states; the second is handed through.

    Args:
        layer: any layer.
        timed: whether the last feature is the time since the previous step.
        hidden_size: width of the states, at least that of the layer's.
    """

    num_layers = 1

    def __init__(self, layer: LiquidLayer, timed: bool, hidden_size: int):
        super().__init__()
        self.layer, self.timed, self.hidden_size = layer, timed, hidden_size
        self.input_size = layer.input_size + timed

    def forward(self, features: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, :attr:`input_size`), state (B, hidden_size), starts (B, T) bool -> y (B, T, O), state."""
        elapsed = features[..., -1] if self.timed else None
        size = self.layer.state_size
        y, after = run_episodes(
            self.layer, features[..., : self.layer.input_size], state[:, :size].to(features), starts, elapsed
        )
        return y, torch.cat([after, state[:, size:]], -1)


class ExtrasLast(BaseFeaturesExtractor):
    """A features extractor of dictionaries with the keys :data:`PRIVILEGED` and :data:`ELAPSED`, which it puts last.

    Args:
        space: the observation space, with one of those keys or both.
        inner: what extracts the features from the other keys.
        inner_kwargs: its further arguments.
        scale: what brings the privileged vector to unit variance; by default it is in units that suit.
    """

    def __init__(
        self,
        space: spaces.Dict,
        inner: type[BaseFeaturesExtractor],
        inner_kwargs: Mapping[str, Any],
        scale: GaugeScale | None = None,
    ):
        others = spaces.Dict({name: part for name, part in space.items() if name not in (PRIVILEGED, ELAPSED)})
        extractor = inner(others, **inner_kwargs)
        super().__init__(space, int(extractor.features_dim) + sum(width(space, key) for key in (PRIVILEGED, ELAPSED)))
        self.inner, self.scale = extractor, scale
        self.last = [key for key in (PRIVILEGED, ELAPSED) if key in space.spaces]

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, features): those of the other keys, what is privileged, the elapsed time."""
        others = {name: part for name, part in observations.items() if name not in self.last}
        last = {key: observations[key].reshape(len(observations[key]), -1) for key in self.last}
        if self.scale is not None:
            last[PRIVILEGED] = self.scale(last[PRIVILEGED])
        return torch.cat([self.inner(others), *last.values()], -1)


class Readouts(nn.Module):
    """What stands between memories and action and value: none, or hidden layers; SB3 knows it as ``mlp_extractor``."""

    def __init__(
        self, actor: int, critic: int, net_arch: Mapping[str, list[int]], activation_fn: type[nn.Module]
    ) -> None:
        super().__init__()
        self.latent_dim_pi = ([actor, *net_arch.get("pi", [])])[-1]
        self.latent_dim_vf = ([critic, *net_arch.get("vf", [])])[-1]
        self.actor = nn.Sequential(*create_mlp(actor, -1, list(net_arch.get("pi", [])), activation_fn))
        self.critic = nn.Sequential(*create_mlp(critic, -1, list(net_arch.get("vf", [])), activation_fn))

    def forward_actor(self, latent: Tensor) -> Tensor:
        """(B, actor) -> (B, :attr:`latent_dim_pi`)."""
        return self.actor(latent)

    def forward_critic(self, latent: Tensor) -> Tensor:
        """(B, critic) -> (B, :attr:`latent_dim_vf`)."""
        return self.critic(latent)


class LiquidActorCriticPolicy(RecurrentActorCriticPolicy):
    """A liquid core as the memory of sb3-contrib's ``RecurrentPPO``.

    Features extractor → core → motor neurons → action. With ``motor_actions`` (the default) each motor neuron is one
    action's mean, or one choice's logit, up to a gain and an offset, as in a `policies.driver.Driver`.

    Args:
        observation_space: as SB3 gives it. Of a dictionary, the key ``elapsed`` is the time since the previous
            observation, which the core evolves by; the key ``privileged`` is a vector that the critic alone sees, which
            a simulator knows and the actor will not have (the asymmetric actor-critic of Pinto et al., 2017).
        action_space: as SB3 gives it.
        lr_schedule: as SB3 gives it.
        core: a name of `policies.registry.CORES`: cfc, ltc, lan, hybrid, plastic, leaky, scan, lstm, gru or mlp.
        neurons: of the actor's core.
        core_options: further options of the core, such as ``{"mode": "no_gate"}``.
        motor_actions: False reads the action linearly from ``neurons`` fully connected neurons, as sb3-contrib does.
        critic: ``separate``: a memory of its own, of ``neurons`` fully connected neurons; ``shared``: the actor's motor
            neurons, without a gradient, beside the features; ``feedforward``: the features alone.
        distribution: of box actions: ``gaussian``, cut off at the bounds; ``squashed`` by tanh; or ``beta``.
        learn_initial_state: whether the states before the first step are learned.
        net_arch: hidden layers after the memories, ``{"pi": [...], "vf": [...]}``; by default 64 units of the critic.
        log_std_init: logarithm of the first spread of box actions.
        features_extractor_class: as in SB3.
        features_extractor_kwargs: as in SB3.
        activation_fn: as in SB3, of the hidden layers after the memories.
        ortho_init: as in SB3.
        share_features_extractor: as in SB3.
        normalize_images: as in SB3.
        optimizer_class: as in SB3.
        optimizer_kwargs: as in SB3.
        others: no further option is taken; those of sb3-contrib's policies are told what takes their place.

    Raises:
        UserError: if a name is unknown, an option does not fit the spaces, or nothing can be learned in these.
    """

    actor: Memory

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Callable[[float], float],
        core: str = "cfc",
        neurons: int = NEURONS,
        core_options: Mapping[str, Any] | None = None,
        motor_actions: bool = True,
        critic: Literal["separate", "shared", "feedforward"] = "separate",
        distribution: Literal["gaussian", "squashed", "beta"] = "gaussian",
        learn_initial_state: bool = False,
        net_arch: Mapping[str, list[int]] | None = None,
        log_std_init: float = -0.5,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: Mapping[str, Any] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ):
        _refuse_others(others)
        if critic not in CRITICS:
            raise UserError(f"unknown critic {critic!r}: {nearest(critic, CRITICS)}")
        if distribution not in ("gaussian", *DISTRIBUTIONS):
            raise UserError(
                f"unknown distribution {distribution!r}: {nearest(distribution, ['gaussian', *DISTRIBUTIONS])}"
            )
        if isinstance(neurons, bool) or not isinstance(neurons, int | np.integer) or neurons < 1:
            raise UserError(f"neurons is {neurons!r}, but must be a whole number of at least 1.")
        if net_arch is not None:
            _check_net_arch(net_arch, motor_actions)
        if core_options and not motor_actions:
            raise UserError("with motor_actions=False the core is fully connected neurons; core_options has no effect.")
        if critic == "shared" and not share_features_extractor:
            raise UserError("critic='shared' needs share_features_extractor=True: the actor's memory sees one of them.")
        if optimizer_kwargs is not None and "lr" in optimizer_kwargs:
            raise UserError("optimizer_kwargs has 'lr': give it to the algorithm, as learning_rate.")
        _check_arguments("optimizer_kwargs", optimizer_class, optimizer_kwargs or {})
        _check_arguments("features_extractor_kwargs", features_extractor_class, features_extractor_kwargs or {})
        check_observations(observation_space)
        motors(action_space)  # says what is wrong with it
        if isinstance(observation_space, spaces.Dict) and features_extractor_class is FlattenExtractor:
            raise UserError("the observations are a dictionary: use LiquidMultiInputPolicy.")
        if not isinstance(observation_space, spaces.Dict) and features_extractor_class is CombinedExtractor:
            raise UserError(
                f"the observations are no dictionary, but {observation_space}: use LiquidPolicy, or LiquidCnnPolicy "
                "for images."
            )
        self.core_name, self.neurons, self.core_options = core, int(neurons), dict(core_options or {})
        self.motor_actions, self.critic_kind, self.distribution = motor_actions, critic, distribution
        self.learn_initial_state = learn_initial_state
        self.timed, self.privileged = width(observation_space, ELAPSED) > 0, width(observation_space, PRIVILEGED)
        extractor_kwargs = dict(features_extractor_kwargs or {})
        if self.timed or self.privileged:
            extractor_kwargs = {"inner": features_extractor_class, "inner_kwargs": extractor_kwargs}
            features_extractor_class = ExtrasLast
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch={"pi": [], "vf": [64]} if net_arch is None else dict(net_arch),
            activation_fn=activation_fn,
            ortho_init=ortho_init,
            log_std_init=log_std_init,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=extractor_kwargs,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=None if optimizer_kwargs is None else dict(optimizer_kwargs),
            lstm_hidden_size=1,  # sb3-contrib's LSTMs are built, and then replaced
            enable_critic_lstm=critic == "separate",
            shared_lstm=critic == "shared",
        )
        # By sb3-contrib's names for them; what it calls critic is left to the readouts.
        self.lstm_actor, self.lstm_critic, self.critic = self.actor, self.critic_memory, None  # type: ignore[assignment]
        self.lstm_hidden_state_shape = (1, 1, self.actor.hidden_size)
        if distribution != "gaussian":
            if not isinstance(action_space, spaces.Box):
                raise UserError(f"the distribution {distribution!r} is for box actions, not for {action_space}.")
            self.action_dist: Distribution = DISTRIBUTIONS[distribution](action_space)
        if motor_actions:
            self.action_net: nn.Module = self._build_hands()
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    # Building

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """As SB3 has it.

        Raises:
            UserError: if the class of extractors cannot be built for these observations, or with these arguments.
        """
        try:
            extractor = super().make_features_extractor()
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"the observations {self.observation_space} find no features extractor: {error}") from error
        # SB3 counts the choices of a MultiDiscrete with NumPy, and torch takes no size of that type.
        extractor._features_dim = int(extractor.features_dim)
        return extractor

    def _build_mlp_extractor(self) -> None:
        """Called by SB3 when the features are known: builds the memories, and what stands behind them."""
        features = self.features_dim - self.timed - self.privileged
        actor = self._build_actor(features)
        critic = None
        if self.critic_kind == "separate":
            critic = self._with_initial_state(build_memory(self.core_name, features, self.neurons))
        hidden = max(actor.state_size, critic.state_size if critic is not None else 0)
        self.actor = Memory(actor, self.timed, hidden)
        self.critic_memory = None if critic is None else Memory(critic, self.timed, hidden)
        widths = {
            "separate": 0 if critic is None else critic.output_size + self.privileged,
            "shared": self.features_dim + actor.output_size,
            "feedforward": self.features_dim,
        }
        assert isinstance(self.net_arch, dict)
        self.mlp_extractor = Readouts(  # type: ignore[assignment]
            actor.output_size, widths[self.critic_kind], self.net_arch, self.activation_fn
        )

    def _build_actor(self, features: int) -> LiquidLayer:
        if not self.motor_actions:
            return self._with_initial_state(build_memory(self.core_name, features, self.neurons))
        options = {"neurons": self.neurons} | self.core_options
        return self._with_initial_state(build_core(self.core_name, features, motors(self.action_space), options))

    def _with_initial_state(self, layer: LiquidLayer) -> LiquidLayer:
        if self.learn_initial_state:
            if "learn_initial_state" not in layer.config:
                raise UserError(f"the initial state of {layer.name!r} cannot be learned.")
            layer.learned_initial_state = nn.Parameter(torch.zeros(layer.state_size))
        return layer

    def _build_hands(self) -> Hands:
        space = self.action_space
        if not isinstance(space, spaces.Box):
            return ChoiceHands(motors(space))
        # Without bounds there is nothing to scale to: motor neurons of a CfC live in (-1, 1), and so do the commands.
        low, high = (bound.flatten().tolist() if space.is_bounded() else None for bound in (space.low, space.high))
        bound: Literal["clip", "tanh"] = "clip" if self.distribution == "gaussian" else "tanh"
        return AffineHands(low or [-1.0] * motors(space), high or [1.0] * motors(space), bound)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data = {name: value for name, value in data.items() if name not in INSTEAD}
        if self.timed or self.privileged:
            data["features_extractor_class"] = self.features_extractor_kwargs["inner"]
            data["features_extractor_kwargs"] = self.features_extractor_kwargs["inner_kwargs"]
        return data | {
            "core": self.core_name,
            "neurons": self.neurons,
            "core_options": self.core_options,
            "motor_actions": self.motor_actions,
            "critic": self.critic_kind,
            "distribution": self.distribution,
            "learn_initial_state": self.learn_initial_state,
            "share_features_extractor": self.share_features_extractor,
        }

    # Running. Observations, states and episode starts are sb3-contrib's: sequences lie flat, one after another.

    def _process_sequence(  # type: ignore[override]
        self, features: Tensor, lstm_states: tuple[Tensor, ...], episode_starts: Tensor, lstm: Memory
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features (B · T, F) through a memory in one call: y (B · T, O) and the states after the last step."""
        state, second = lstm_states
        rows = state.shape[1]
        y, after = lstm(features.unflatten(0, (rows, -1)), state[0], episode_starts.reshape(rows, -1) > 0.5)
        return y.flatten(0, 1), (after[None], second)

    def _critic_latent(
        self, features: Tensor, motor: Tensor | None, states: tuple[Tensor, ...], episode_starts: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the value is read from; ``motor`` are the actor's outputs where it is needed."""
        if self.critic_memory is not None:
            latent, states = self._process_sequence(features, states, episode_starts, self.critic_memory)
            seen = self.critic_memory.layer.input_size
            latent = torch.cat([latent, features[:, seen : seen + self.privileged]], -1)
        elif self.critic_kind == "shared":
            if motor is None:
                motor, states = self._process_sequence(features, states, episode_starts, self.actor)
            latent = torch.cat([features, motor.detach()], -1)
        else:
            latent = features
        return self.mlp_extractor.forward_critic(latent), states

    def run(self, obs: Any, lstm_states: RNNStates, episode_starts: Tensor) -> tuple[Distribution, Tensor, RNNStates]:
        """The distribution of actions, the values (N, 1) and the states after observations."""
        features = self.extract_features(obs)
        pi_features, vf_features = features if isinstance(features, tuple) else (features, features)
        motor, pi_states = self._process_sequence(pi_features, lstm_states.pi, episode_starts, self.actor)
        latent, vf_states = self._critic_latent(vf_features, motor, lstm_states.vf, episode_starts)
        if self.critic_kind == "shared":
            vf_states = pi_states  # the critic's value of a last step is worked out from the actor's state
        distribution = self._get_action_dist_from_latent(self.mlp_extractor.forward_actor(motor))
        return distribution, self.value_net(latent), RNNStates(pi_states, vf_states)

    def forward(  # type: ignore[override]
        self, obs: Any, lstm_states: RNNStates, episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Actions (N, …), values (N, 1), log-densities (N,) and the states after, as sb3-contrib has it.

        Raises:
            UserError: if an observation holds NaN, infinity or a negative elapsed time.
            DivergedError: if the observations do not, and what the actor commands does.
        """
        self._check_observation(obs)
        distribution, values, states = self.run(obs, lstm_states, episode_starts)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        return actions.reshape(-1, *(self.action_space.shape or ())), values, log_prob, states

    def evaluate_actions(  # type: ignore[override]
        self, obs: Any, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (N, 1), log-densities (N,) and entropies (N,) of actions, as sb3-contrib has it."""
        distribution, values, _ = self.run(obs, lstm_states, episode_starts)
        # A buffer keeps the actions of MultiBinary as bytes, which have no density.
        return values, distribution.log_prob(actions.float()), distribution.entropy()

    def predict_values(  # type: ignore[override]
        self, obs: Any, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor
    ) -> Tensor:
        """Values (N, 1) of observations."""
        features = super(RecurrentActorCriticPolicy, self).extract_features(obs)
        if isinstance(features, tuple):
            features = features[1]
        return self.value_net(self._critic_latent(features, None, lstm_states, episode_starts)[0])

    def _check_observation(self, observation: Tensor | Mapping[str, Tensor]) -> None:
        """Names the first observation of a batch (N, …) that holds NaN, infinity or a negative time."""
        _refuse_nan(observation)
        if self.timed:
            assert isinstance(observation, Mapping)
            elapsed = observation[ELAPSED].flatten()
            if elapsed.min() < 0:
                raise UserError(
                    f"the observation {ELAPSED!r} is {elapsed.min().item():.4g} in environment {int(elapsed.argmin())} "
                    f"of {len(elapsed)}, but is the time since the previous observation, at least 0. {NOT_NORMALIZED}"
                )

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Distribution:
        if not latent_pi.isfinite().all():
            raise DivergedError("what the actor's neurons command")
        if isinstance(self.action_dist, BoundedDistribution):
            return self.action_dist.proba_distribution(self.action_net(latent_pi), self.log_std)
        return super()._get_action_dist_from_latent(latent_pi)

    def _predict(  # type: ignore[override]
        self, observation: Any, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, deterministic: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._check_observation(observation)
        return super()._predict(observation, lstm_states, episode_starts, deterministic)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As sb3-contrib has it; without a state, an episode starts.

        Raises:
            UserError: if the observation does not fit its space, or state or ``episode_start`` are of another batch.
        """
        rows = count_rows(observation, self.observation_space)
        if state is None and episode_start is None:
            episode_start = np.ones(rows, bool)
        if episode_start is not None and np.size(episode_start) != rows:
            raise UserError(f"there are {rows} observations, but {np.size(episode_start)} values of episode_start.")
        expected = (1, rows, self.actor.hidden_size)
        if state is not None and [tuple(np.shape(part)) for part in state] != [expected] * 2:
            given = " and ".join(str(tuple(np.shape(part))) for part in state)
            raise UserError(
                f"the state has the shapes {given}, expected {expected} twice for {rows} observations: what predict "
                "gave for as many."
            )
        return super().predict(observation, state, episode_start, deterministic)


class LiquidCnnPolicy(LiquidActorCriticPolicy):
    """:class:`LiquidActorCriticPolicy` with SB3's ``NatureCNN`` before the core, for images."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN} | kwargs)


class LiquidMultiInputPolicy(LiquidActorCriticPolicy):
    """:class:`LiquidActorCriticPolicy` for dictionaries of images and vectors; ``elapsed`` is the core's time."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor} | kwargs)


# A driver as a policy


class Perception(BaseFeaturesExtractor):
    """What a driver perceives: flat images under ``image``, where there are any, and ``gauges``."""

    def __init__(self, space: spaces.Dict, eyes: ConvEyes | None, scale: GaugeScale | None):
        gauges = space["gauges"].shape
        assert gauges is not None
        super().__init__(space, (eyes.features if eyes else 0) + gauges[0])
        self.eyes, self.scale = eyes, scale

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, features)."""
        gauges = observations["gauges"]
        if self.eyes is None:
            assert self.scale is not None
            return self.scale(gauges)
        image = observations["image"].unflatten(1, self.eyes.image_shape)
        return torch.cat([self.eyes(image), gauges], -1)


SETTLED = {
    "core",
    "core_options",
    "motor_actions",
    "features_extractor_class",
    "features_extractor_kwargs",
    "share_features_extractor",
    "normalize_images",
}
"""Arguments that a driver settles for its policy."""


class DriverPolicy(LiquidActorCriticPolicy):
    """A `policies.driver.Driver` learns: its eyes, core and hands are the actor, and a critic stands beside them.

    :attr:`driver` is the driver itself, of the very same parameters: what is trained here drives there.

    Args:
        observation_space: of `agents.driving_task`: what the driver's view makes of the observations.
        action_space: the driver's commands.
        lr_schedule: as SB3 gives it.
        driver: what the driver is made of.
        share_eyes: whether the critic sees through the actor's eyes; otherwise through a copy of them.
        kwargs: further arguments of :class:`LiquidActorCriticPolicy`, but those that the driver settles.

    Raises:
        UserError: as :class:`LiquidActorCriticPolicy`, and for what the driver settles.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space,
        lr_schedule: Callable[[float], float],
        driver: DriverConfig,
        share_eyes: bool = True,
        **kwargs: Any,
    ):
        for name in kwargs.keys() & SETTLED:
            raise UserError(f"the driver settles {name!r}: say it there, in its DriverConfig.")
        self._own = [Driver(driver)]  # in a list, lest its parts are registered twice
        self._privileged_scale: list[GaugeScale] = []
        self._eyes_given = False
        kwargs.setdefault("ortho_init", False)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            core=driver.policy,
            features_extractor_class=Perception,
            features_extractor_kwargs={"eyes": None, "scale": None},
            share_features_extractor=share_eyes,
            normalize_images=False,
            **kwargs,
        )

    @property
    def driver(self) -> Driver:
        """The actor."""
        return self._own[0]

    @torch.no_grad()
    def update_scales(self, observations: Mapping[str, np.ndarray]) -> None:
        """Takes observations (T, envs, …) into account, where vectors are brought to unit variance."""
        for name, scale in (("gauges", self.driver.scale), *((PRIVILEGED, scale) for scale in self._privileged_scale)):
            if scale is not None:
                scale.update(torch.from_numpy(observations[name]).flatten(0, 1).to(self.device))

    def take_over(self, driver: Driver) -> None:
        """Copies the weights of a driver that is made of the same."""
        self.driver.load_state_dict(driver.state_dict())
        if not self.share_features_extractor:
            self.vf_features_extractor.load_state_dict(self.pi_features_extractor.state_dict())

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """The driver's own eyes the first time, for the actor; then copies of them."""
        eyes, scale = self.driver.eyes, self.driver.scale
        if self._eyes_given:
            eyes = copy.deepcopy(eyes)
        self._eyes_given = True
        space = self.observation_space
        assert isinstance(space, spaces.Dict)
        if not (self.timed or self.privileged):
            return Perception(space, eyes, scale)
        if scale is not None and self.privileged and not self._privileged_scale:
            self._privileged_scale = [GaugeScale(self.privileged)]
        return ExtrasLast(space, Perception, {"eyes": eyes, "scale": scale}, *self._privileged_scale)

    def _build_actor(self, features: int) -> LiquidLayer:
        return self._with_initial_state(self.driver.core)

    def _build_hands(self) -> Hands:
        return self.driver.hands


def _refuse_nan(observation: Tensor | Mapping[str, Tensor]) -> None:
    """Names the first observation of a batch (N, …) that is NaN or infinite somewhere."""
    for name, part in observation.items() if isinstance(observation, Mapping) else [("", observation)]:
        if part.is_floating_point() and not part.isfinite().all():
            finite = part.isfinite().reshape(len(part), -1).all(1)
            raise UserError(
                f"the observation {name} of environment {int(finite.int().argmin())} of {len(part)} holds NaN or "
                "infinity. Repair the environment.".replace("  ", " ")
            )


def _refuse_others(options: Mapping[str, Any]) -> None:
    """What :class:`LiquidActorCriticPolicy` does not take. SB3 itself passes ``use_sde=False``, and None for others."""
    for name, value in options.items():
        if name in INSTEAD:
            if value is not None and not (name == "use_sde" and value is False):
                raise UserError(f"liquid policies have no option {name!r}: {INSTEAD[name]}")
        else:
            known = inspect.signature(LiquidActorCriticPolicy).parameters.keys()
            given_by_sb3 = {"observation_space", "action_space", "lr_schedule", "others"}
            raise UserError(f"liquid policies have no option {name!r}: {nearest(name, known - given_by_sb3)}")


def _check_net_arch(net_arch: Any, motor_actions: bool) -> None:
    wanted = '{"vf": [64, 64]}' if motor_actions else '{"pi": [64, 64], "vf": [64, 64]}'
    sizes = list(net_arch.values()) if isinstance(net_arch, Mapping) else [None]
    whole = all(
        isinstance(layers, list | tuple) and all(isinstance(units, int) and units > 0 for units in layers)
        for layers in sizes
    )
    if not whole or not net_arch.keys() <= {"pi", "vf"}:
        raise UserError(
            f"net_arch is {net_arch!r}, but must be a dictionary of the layers after the memories of actor and critic, "
            f"such as {wanted}. The size of the memories is the option neurons."
        )
    if motor_actions and net_arch.get("pi"):
        raise UserError("motor neurons are the actions: remove net_arch's pi layers, or set motor_actions=False.")


def _check_arguments(option: str, made: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Compares arguments by name with what they are passed to, whose first argument is not among them."""
    _, *parameters = inspect.signature(made).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known, called = [parameter.name for parameter in parameters], getattr(made, "__name__", made)
    for name in given:
        if name not in known:
            raise UserError(f"{option}: {called} has no argument {name!r}: {nearest(name, known)}")


ALIASES: dict[str, type[LiquidActorCriticPolicy]] = {
    "LiquidPolicy": LiquidActorCriticPolicy,
    "LiquidCnnPolicy": LiquidCnnPolicy,
    "LiquidMultiInputPolicy": LiquidMultiInputPolicy,
}
RecurrentPPO.policy_aliases.update(ALIASES)

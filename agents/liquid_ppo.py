"""Proximal policy optimisation (Schulman 2017) of recurrent policies, a rollout's sequences in one call each."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from torch import Tensor

from agents.divergence import check_finite
from agents.sequence_buffer import SequenceBuffer, SequenceDictRolloutBuffer, SequenceRolloutBuffer, SequenceSamples
from liquid_control.support.errors import UserError, nearest
from policies.driver import Driver
from policies.sb3 import ALIASES, INSTEAD, LiquidActorCriticPolicy
from policies.sb3_spaces import ELAPSED, NOT_NORMALIZED, check_observations, motors
from policies.sequences import run_episodes


class LiquidPPO(RecurrentPPO):
    """sb3-contrib's ``RecurrentPPO`` for liquid policies, with the same API and no loop over time.

    Rollouts are cut into sequences of one length (`agents.sequence_buffer`), each one call of the layer, forward and
    backward.

    Args:
        policy: ``LiquidPolicy``, ``LiquidCnnPolicy``, ``LiquidMultiInputPolicy``, or a class.
        env: as in SB3.
        sequence_length: steps through which gradients go back in time, a divisor of ``n_steps``.
        value_warm_up: updates of the critic alone before the policy is touched; for a policy that is no beginner.
        clone_weight: weight of the divergence from :attr:`clone` in the loss.
        kwargs: the other arguments of ``RecurrentPPO``.

    Raises:
        UserError: if ``n_steps`` is not a multiple of ``sequence_length``, the policy is no liquid one, or nothing can
            be learned in the spaces of the environment.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict(ALIASES)
    policy: LiquidActorCriticPolicy
    rollout_buffer: SequenceBuffer
    clip_range: Any  # SB3 makes a schedule of what was given
    clip_range_vf: Any

    def __init__(
        self,
        policy: str | type[LiquidActorCriticPolicy],
        env: Any,
        *,
        sequence_length: int = 32,
        value_warm_up: int = 0,
        clone_weight: float = 0.0,
        **kwargs: Any,
    ):
        self.sequence_length, self.value_warm_up, self.clone_weight = sequence_length, value_warm_up, clone_weight
        self.clone: Driver | None = None
        """The driver that the policy is held close to, of the same views and hands; its state runs beside."""
        self._clone_state: Tensor | None = None
        if isinstance(policy, str) and policy not in self.policy_aliases:
            raise UserError(f"unknown policy {policy!r}: {nearest(policy, self.policy_aliases)}")
        if isinstance(policy, type) and not issubclass(policy, LiquidActorCriticPolicy):
            raise UserError(f"{policy.__name__} is no liquid policy: derive it from LiquidActorCriticPolicy.")
        if kwargs.get("use_sde") or "use_sde" in (kwargs.get("policy_kwargs") or {}):
            raise UserError(f"liquid policies have no option 'use_sde': {INSTEAD['use_sde']}")
        super().__init__(policy, env, **kwargs)

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Called by SB3 with the environment: says what is wrong with its spaces before SB3 stumbles over them."""
        check_observations(env.observation_space)
        motors(env.action_space)
        if isinstance(env.action_space, spaces.Box) and not env.action_space.is_bounded():
            raise UserError(f"the actions of {env.action_space} have no bounds: give the space a finite low and high.")
        wrapper = env
        while isinstance(wrapper, VecEnvWrapper):
            if isinstance(wrapper, VecNormalize) and wrapper.norm_obs and ELAPSED in (wrapper.norm_obs_keys or ()):
                raise UserError(f"VecNormalize normalises the observation {ELAPSED!r}, which is time. {NOT_NORMALIZED}")
            wrapper = wrapper.venv
        return RecurrentPPO._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        super()._setup_model()
        length = self.sequence_length
        if self.n_steps % length:
            raise UserError(f"n_steps is {self.n_steps}, but must be a multiple of sequence_length={length}.")
        kind = SequenceDictRolloutBuffer if isinstance(self.observation_space, spaces.Dict) else SequenceRolloutBuffer
        self.rollout_buffer = kind(
            self.n_steps,
            self.observation_space,
            self.action_space,
            (self.n_steps, 1, self.n_envs, self.policy.actor.hidden_size),
            self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=self.n_envs,
            sequence_length=length,
        )

    @property
    def updates(self) -> int:
        """Passes over rollouts so far, as SB3 counts them."""
        return self._n_updates

    @property
    def progress_remaining(self) -> float:
        """Share of the training that is left, as schedules are given it."""
        return self._current_progress_remaining

    def begin(self, total: int, callback: BaseCallback) -> None:
        """Begins to learn by :meth:`begin_episodes`, :meth:`collect` and :meth:`train`, each when the caller wants it.

        Args:
            total: steps of the whole training.
            callback: is told of every step.
        """
        self._setup_learn(total, callback, reset_num_timesteps=False)

    def resume(self, steps: int, updates: int, total: int) -> None:
        """Goes on where a training of ``total`` steps was, after so many steps and updates."""
        self.num_timesteps, self._n_updates = steps, updates
        self._update_current_progress_remaining(steps, total)

    def begin_episodes(self) -> None:
        """Resets every environment; the policy and the clone begin from their initial states."""
        assert self.env is not None, "there are environments to learn in"
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.n_envs, bool)
        zeros = torch.zeros(1, self.n_envs, self.policy.actor.hidden_size, device=self.device)
        self._last_lstm_states = RNNStates((zeros, zeros), (zeros, zeros))  # type: ignore[assignment]
        self._clone_state = None

    def collect(self, total: int, callback: BaseCallback) -> None:
        """Drives one rollout; schedules then stand where a training of ``total`` steps has come to."""
        assert self.env is not None, "there are environments to learn in"
        self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps)
        self._update_current_progress_remaining(self.num_timesteps, total)

    def train(self) -> None:
        """One update: ``n_epochs`` passes over the rollout.

        Raises:
            DivergedError: if an action or, afterwards, a weight is NaN or infinite.
        """
        policy, optimizer, buffer = self.policy, self.policy.optimizer, self.rollout_buffer
        policy.set_training_mode(True)
        self._update_learning_rate(optimizer)
        self._run_clone()
        logs: dict[str, list[float]] = defaultdict(list)
        for _ in range(self.n_epochs):
            for batch in buffer.get(self.batch_size):
                loss = self._loss(batch, logs)
                if self.target_kl is not None and logs["approx_kl"][-1] > 1.5 * self.target_kl:
                    break
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), self.max_grad_norm)
                optimizer.step()
            else:
                self._n_updates += 1
                continue
            break
        check_finite(policy, f"{self.num_timesteps:,} steps")
        for name, values in logs.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        if hasattr(policy, "log_std"):
            self.logger.record("train/std", policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _loss(self, batch: SequenceSamples, logs: dict[str, list[float]]) -> Tensor:
        """PPO's loss of a minibatch; writes its parts to the logs."""
        policy, clip_range = self.policy, self.clip_range(self._current_progress_remaining)
        actions = batch.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        distribution, values, _ = policy.run(batch.observations, batch.lstm_states, batch.episode_starts)
        log_prob = distribution.log_prob(actions)
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        value = values.flatten()
        if self.clip_range_vf is not None:
            clip = self.clip_range_vf(self._current_progress_remaining)
            value = batch.old_values + (value - batch.old_values).clamp(-clip, clip)
        value_loss = torch.nn.functional.mse_loss(value, batch.returns)
        entropy = distribution.entropy()
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = self.vf_coef * value_loss
        if self._n_updates >= self.value_warm_up * self.n_epochs:
            loss = loss + policy_loss + self.ent_coef * entropy_loss
            if batch.clone_commands is not None:
                # Of two Gaussians of one spread: the squared distance of their means in deviations, halved.
                distance = (distribution.mode() - batch.clone_commands) / policy.log_std.exp()
                clone_loss = 0.5 * distance.square().sum(-1).mean()
                loss = loss + self.clone_weight * clone_loss
                logs["clone_divergence"].append(clone_loss.item())
        with torch.no_grad():
            # Schulman's estimate of the divergence from the policy that acted.
            logs["approx_kl"].append((ratio - 1 - log_ratio).mean().item())
            logs["clip_fraction"].append(((ratio - 1).abs() > clip_range).float().mean().item())
        logs["policy_gradient_loss"].append(policy_loss.item())
        logs["value_loss"].append(value_loss.item())
        logs["entropy_loss"].append(entropy_loss.item())
        return loss

    @torch.no_grad()
    def _run_clone(self) -> None:
        """What the clone would have commanded at every step of the rollout, its state carried from the one before."""
        driver, device, buffer = self.clone, self.device, self.rollout_buffer
        if driver is None:
            return
        observations = buffer.observations
        assert isinstance(observations, dict), "a clone drives what a driver's task shows"
        parts = {name: torch.from_numpy(part.swapaxes(0, 1)).to(device) for name, part in observations.items()}
        gauges = parts["gauges"].flatten(0, 1)
        image = parts["image"].flatten(0, 1).unflatten(1, driver.view.image_shape) if driver.eyes else gauges
        seen = driver.perceive(image, gauges).unflatten(0, (self.n_envs, self.n_steps))
        starts = torch.from_numpy(buffer.episode_starts.T > 0.5).to(device)
        if self._clone_state is None:
            self._clone_state = driver.core.initial_state(self.n_envs)
        elapsed = parts["elapsed"][..., 0] if "elapsed" in parts else None
        motor, self._clone_state = run_episodes(driver.core, seen, self._clone_state, starts, elapsed)
        buffer.clone_commands = driver.hands(motor).transpose(0, 1).cpu().numpy()

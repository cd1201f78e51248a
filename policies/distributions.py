"""Distributions of bounded actions for Stable-Baselines3: a Gaussian squashed by tanh, and a Beta.

Both take the mean command of the hands and one spread an action, as SB3's Gaussian does, and both have their mode where
`AffineHands(bound="tanh")` puts the control: what drives after training is what was most likely in it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, sum_independent_dims
from torch import Tensor, nn
from torch.distributions import Beta, Normal

from liquid_control.support.errors import UserError


class BoundedDistribution(Distribution):
    """Base: actions between ``low`` and ``high`` of a finite box, from u in (-1, 1).

    Args:
        space: the action space.

    Raises:
        UserError: if a bound is infinite, or an action has no room between its bounds.
    """

    EDGE = 1e-6  # how close u comes to ±1, where densities are infinite or zero

    def __init__(self, space: spaces.Box):
        super().__init__()
        if not space.is_bounded():
            raise UserError(f"a bounded distribution needs finite action bounds, but the action space is {space}.")
        low, high = torch.from_numpy(space.low).float().flatten(), torch.from_numpy(space.high).float().flatten()
        if not (low < high).all():
            raise UserError(f"a bounded distribution needs room between the bounds of every action, unlike {space}.")
        self.middle, self.half = (high + low) / 2, (high - low) / 2

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> tuple[nn.Module, nn.Parameter]:
        """A linear layer to the mean commands, and the logarithms of the spreads."""
        actions = len(self.middle)
        return nn.Linear(latent_dim, actions), nn.Parameter(torch.full((actions,), log_std_init))

    def proba_distribution(self, command: Tensor, log_std: Tensor) -> Self:
        """Sets the distribution: mean commands (B, A) in units of the action, spreads (A,) of u."""
        self.middle, self.half = self.middle.to(command.device), self.half.to(command.device)
        self._set((command - self.middle) / self.half, log_std)
        return self

    @abstractmethod
    def _set(self, z: Tensor, log_std: Tensor) -> None:
        """The distribution of u about tanh z."""

    def _unit(self, actions: Tensor) -> Tensor:
        return ((actions - self.middle) / self.half).clamp(-1 + self.EDGE, 1 - self.EDGE)

    def _action(self, unit: Tensor) -> Tensor:
        return self.middle + self.half * unit.clamp(-1 + self.EDGE, 1 - self.EDGE)

    def actions_from_params(self, command: Tensor, log_std: Tensor, deterministic: bool = False) -> Tensor:
        """Actions (B, A) of that distribution."""
        return self.proba_distribution(command, log_std).get_actions(deterministic)

    def log_prob_from_params(self, command: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled actions (B, A) and the logarithm of their density (B,)."""
        actions = self.actions_from_params(command, log_std)
        return actions, self.log_prob(actions)


class SquashedGaussian(BoundedDistribution):
    """tanh of a Gaussian, scaled to the bounds (Haarnoja 2018, appendix C). Its entropy has no closed form."""

    def _set(self, z: Tensor, log_std: Tensor) -> None:
        self.normal = Normal(z, log_std.exp().expand_as(z))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Of actions (B, A): (B,)."""
        unit = self._unit(actions)
        density = self.normal.log_prob(torch.atanh(unit)) - torch.log1p(-unit.square()) - self.half.log()
        return sum_independent_dims(density)

    def entropy(self) -> None:
        """None: there is no closed form."""
        return None

    def sample(self) -> Tensor:
        """Actions (B, A)."""
        return self._action(torch.tanh(self.normal.rsample()))

    def mode(self) -> Tensor:
        """The action (B, A) of the mean command."""
        return self._action(torch.tanh(self.normal.mean))


class ScaledBeta(BoundedDistribution):
    """A Beta distribution over the box (Chou et al. 2017): Beta(1 + κm, 1 + κ(1 - m)) of mode m and concentration κ.

    m is the sigmoid of twice the scaled command, κ = 1 / spread². All samples lie within the bounds: none is cut off.
    """

    def _set(self, z: Tensor, log_std: Tensor) -> None:
        self.m = torch.sigmoid(2 * z)  # = (1 + tanh z) / 2
        concentration = torch.exp(-2 * log_std)
        self.beta = Beta(1 + concentration * self.m, 1 + concentration * (1 - self.m), validate_args=False)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Of actions (B, A): (B,)."""
        share = (self._unit(actions) + 1) / 2
        return sum_independent_dims(self.beta.log_prob(share) - (2 * self.half).log())

    def entropy(self) -> Tensor:
        """(B,)."""
        return sum_independent_dims(self.beta.entropy() + (2 * self.half).log())

    def sample(self) -> Tensor:
        """Actions (B, A)."""
        return self._action(2 * self.beta.rsample() - 1)

    def mode(self) -> Tensor:
        """The most likely action (B, A)."""
        return self._action(2 * self.m - 1)


DISTRIBUTIONS: dict[str, type[BoundedDistribution]] = {"squashed": SquashedGaussian, "beta": ScaledBeta}

import numpy as np
import pytest
import torch
from gymnasium import spaces

from policies.distributions import DISTRIBUTIONS
from policies.hands import AffineHands

SPACE = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


@pytest.fixture(params=sorted(DISTRIBUTIONS))
def distribution(request):
    return DISTRIBUTIONS[request.param](SPACE)


def test_the_density_integrates_to_one(distribution):
    grid = [torch.linspace(float(low), float(high), 801) for low, high in zip(SPACE.low, SPACE.high, strict=True)]
    points = torch.cartesian_prod(*grid)
    command = torch.tensor([[0.7, 0.3]])
    density = distribution.proba_distribution(command.expand(len(points), -1), torch.tensor([-0.9, -0.7])).log_prob(
        points
    )
    assert float(density.exp().mean()) * 4.0 * 1.0 == pytest.approx(1.0, abs=0.01)


def test_samples_follow_the_density(distribution):
    torch.manual_seed(0)
    command = torch.tensor([[0.5, 0.6]]).expand(200_000, -1)
    samples = distribution.actions_from_params(command, torch.tensor([-0.8, -0.8]))
    assert (samples >= torch.from_numpy(SPACE.low)).all() and (samples <= torch.from_numpy(SPACE.high)).all()
    # Of any density p and its own samples, the mean of ∂ log p is zero.
    command = command.clone().requires_grad_()
    score = torch.autograd.grad(
        distribution.proba_distribution(command, torch.tensor([-0.8, -0.8])).log_prob(samples).sum(), command
    )[0]
    assert score.mean(0).abs().max() < 0.02


def test_the_mode_is_where_the_hands_put_the_control(distribution):
    hands = AffineHands(SPACE.low.tolist(), SPACE.high.tolist(), bound="tanh")
    motor = torch.randn(64, 2)
    mode = distribution.proba_distribution(hands(motor), torch.tensor([-1.0, -1.0])).mode()
    torch.testing.assert_close(mode, hands.controls(hands(motor)), rtol=1e-5, atol=1e-5)


def test_entropy_is_that_of_the_samples():
    beta = DISTRIBUTIONS["beta"](SPACE)
    torch.manual_seed(0)
    command, log_std = torch.tensor([[0.2, 0.6]]).expand(100_000, -1), torch.tensor([-1.0, -0.7])
    samples = beta.actions_from_params(command, log_std)
    assert float(beta.entropy()[0]) == pytest.approx(float(-beta.log_prob(samples).mean()), abs=0.01)


def test_an_action_at_the_bound_has_a_finite_density(distribution):
    edges = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    density = distribution.proba_distribution(torch.zeros(2, 2), torch.tensor([-0.5, -0.5])).log_prob(edges)
    assert torch.isfinite(density).all()


def test_an_unbounded_space_is_refused():
    with pytest.raises(ValueError, match="finite action bounds"):
        DISTRIBUTIONS["beta"](spaces.Box(-np.inf, np.inf, (2,)))

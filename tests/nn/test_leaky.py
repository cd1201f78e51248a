"""Leaky neurons as mathematics: exactness, order, bounds."""

import numpy as np
import pytest
import torch

from liquid_control.nn import Leaky, Wiring


def frozen(integration, unfolds=1, tau_min=0.1):
    """Neurons without synapses among them, at constant pace: nothing but the input drives them."""
    torch.manual_seed(0)
    layer = Leaky(3, 4, integration=integration, adaptive=False, ode_unfolds=unfolds, tau_min=tau_min).double()
    with torch.no_grad():
        layer.weight[:, 3:] = 0
        layer.tau_bias.copy_(torch.linspace(-3, 2, 4))
    return layer


def exact(layer, x, state, time):
    """The solution of τ dh/dt = -h + tanh(W x + b) in NumPy."""
    weight, bias, pace = (p.detach().numpy() for p in (layer.weight, layer.bias, layer.tau_bias))
    target = np.tanh(x.numpy() @ weight[:, :3].T + bias)
    tau = layer.tau_min + np.log1p(np.exp(pace))
    return torch.from_numpy(target + (state.numpy() - target) * np.exp(-time / tau))


X, STATE = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64), torch.tensor([[-0.8, 0.1, 0.9, 0.4]]).double()


@pytest.mark.parametrize("time", [1e-6, 0.3, 5.0, 1e6])
def test_the_exponential_step_is_exact_for_frozen_input(time):
    layer = frozen("exponential")
    torch.testing.assert_close(layer.step(X, STATE, time)[1], exact(layer, X, STATE, time), rtol=1e-13, atol=1e-16)


def test_a_time_split_in_two_gives_the_same_exponential_state():
    layer = frozen("exponential")
    whole = layer.step(X, STATE, 0.9)[1]
    torch.testing.assert_close(layer.step(X, layer.step(X, STATE, 0.2)[1], 0.7)[1], whole, rtol=1e-13, atol=0)


def slope(error, unfolds):
    """The order of a method: how fast its error falls with the step."""
    return -np.polyfit(np.log(unfolds), np.log(error), 1)[0]


def test_the_explicit_step_converges_to_the_exact_one_at_first_order():
    unfolds = [64, 128, 256, 512]
    errors = []
    for count in unfolds:
        layer = frozen("explicit", count)
        errors.append((layer.step(X, STATE, 2.0)[1] - exact(layer, X, STATE, 2.0)).abs().max().item())
    assert slope(errors, unfolds) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("integration", ["exponential", "explicit"])
def test_recurrent_neurons_of_adaptive_pace_converge_at_first_order(integration):
    def final(unfolds):
        torch.manual_seed(0)
        layer = Leaky(3, 4, integration=integration, ode_unfolds=unfolds).double()
        with torch.no_grad():
            layer.tau_weight.normal_()
            return layer.step(X, STATE, 2.0)[1]

    unfolds, limit = [64, 128, 256, 512], final(16384)
    errors = [(final(count) - limit).abs().max().item() for count in unfolds]
    assert slope(errors, unfolds) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("integration", ["exponential", "explicit"])
@pytest.mark.parametrize("elapsed", [0.01, 1.0, 1e4])
def test_the_state_stays_between_minus_one_and_one_for_any_elapsed_time(integration, elapsed):
    torch.manual_seed(0)
    layer = Leaky(5, 8, integration=integration, tau_min=0.01)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=5)
        state = torch.rand(16, 8) * 2 - 1
        for _ in range(50):
            _, state = layer(10 * torch.randn(16, 4, 5), state, elapsed)
            assert state.abs().max() <= 1


def test_the_explicit_step_never_overshoots_its_target():
    layer = frozen("explicit", tau_min=1e-3)
    target = torch.tanh(X @ layer.weight[:, :3].T + layer.bias)
    for elapsed in (0.01, 0.1, 1.0, 100.0):
        moved = layer.step(X, STATE, elapsed)[1]
        assert torch.all((moved - STATE) * (target - moved) >= -1e-15)


def test_time_constants_stay_above_their_bound_whatever_is_learned():
    layer = Leaky(3, 4, tau_min=0.5)
    with torch.no_grad():
        layer.tau_bias.fill_(-200)
        layer.tau_weight.normal_(std=100)
    tau = layer.time_constants(torch.randn(64, 3), torch.rand(64, 4))
    assert tau.min() == 0.5 and tau.max() > 10


def test_time_constants_begin_log_spaced_and_at_rest():
    layer = Leaky(3, 5)
    tau = layer.time_constants(torch.randn(1, 3), torch.randn(1, 5))
    torch.testing.assert_close(tau, 0.1 + torch.tensor([[0.25, 0.5, 1.0, 2.0, 4.0]]))


def test_an_input_reaches_the_motor_neurons_of_an_ncp_within_three_unfolds():
    wiring = Wiring.ncp(12, 4, 3, sensory_fanout=6, inter_fanout=2, recurrent_command_synapses=4, motor_fanin=2)
    for unfolds, reached in ((2, False), (3, True)):
        layer = Leaky(8, wiring, ode_unfolds=unfolds)
        quiet, loud = (layer.step(x)[0] for x in (torch.zeros(1, 8), torch.ones(1, 8)))
        assert torch.equal(quiet, loud) != reached


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integration": "euler"}, "integration is 'euler', expected one of"),
        ({"tau_min": 0}, "tau_min must be positive and finite, given 0"),
        ({"ode_unfolds": 0}, "ode_unfolds must be at least 1, given 0"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Leaky(3, 4, **options)

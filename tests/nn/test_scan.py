"""The liquid scan as mathematics: the solution of its equation, bounds, and what is equal to what."""

import math

import numpy as np
import pytest
import torch

from liquid_control.nn import Leaky, LiquidScan
from liquid_control.nn.scan import liquid_scan, parallel_scan

UNITS, BATCH = 5, 3
FORMS = {"steps": liquid_scan, "parallel": parallel_scan}


def given(steps, spread=1.0):
    torch.manual_seed(0)
    drive = spread * torch.randn(BATCH, steps, 2 * UNITS, dtype=torch.float64)
    return drive, torch.rand(BATCH, UNITS, dtype=torch.float64) * 2 - 1, torch.rand(BATCH, steps).double() * 3


def outcome(form, arguments, tau_min=0.1):
    """States, the last one, and the gradients of all arguments."""
    leaves = [argument.clone().requires_grad_() for argument in arguments]
    states, final = form(*leaves, tau_min)
    gradients = torch.autograd.grad(states.sin().sum() + final.square().sum(), leaves)
    return [states.detach(), final.detach(), *gradients]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("time", [1e-8, 0.3, 5.0, 1e8])
def test_under_constant_inputs_it_is_the_solution_of_the_equation(form, time):
    (drive, state, _), steps = given(1), 7
    states, final = form(drive.expand(-1, steps, -1), state, torch.full((BATCH, steps), time, dtype=torch.float64), 0.1)
    target, pace = np.split(drive.numpy()[:, 0], 2, -1)
    target, tau = np.tanh(target), 0.1 + np.log1p(np.exp(pace))
    for step in range(steps):
        expected = target + (state.numpy() - target) * np.exp(-(step + 1) * time / tau)
        np.testing.assert_allclose(states[:, step], expected, rtol=1e-10, atol=1e-15)
    assert torch.equal(states[:, -1], final)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_time_split_in_two_gives_the_same_state(form):
    drive, state, _ = given(1)
    whole = form(drive, state, torch.full((BATCH, 1), 0.9, dtype=torch.float64), 0.1)[1]
    parts = torch.tensor([[0.2, 0.7]], dtype=torch.float64).expand(BATCH, -1)
    torch.testing.assert_close(form(drive.expand(-1, 2, -1), state, parts, 0.1)[1], whole, rtol=1e-13, atol=0)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slow_neuron_keeps_the_digits_of_what_a_short_time_adds(form, dtype):
    """1 - a is a difference of nearly equal numbers if it is computed as one."""
    drive = torch.tensor([[[1.0, 20.0]]], dtype=dtype)
    moved = form(drive, torch.zeros(1, 1, dtype=dtype), torch.tensor([[1e-5]], dtype=dtype), 0.1)[1]
    assert moved.item() == pytest.approx(math.tanh(1) * -math.expm1(-1e-5 / 20.1), rel=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 16, 33, 100])
def test_all_steps_at_once_are_step_after_step(steps):
    arguments = given(steps)
    for found, expected in zip(outcome(parallel_scan, arguments), outcome(liquid_scan, arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time", [1e-8, 1e8, 1e30])
def test_values_and_gradients_are_finite_for_any_time_and_pace(form, dtype, time):
    drive, state, elapsed = (argument.to(dtype) for argument in given(9, spread=50))
    for value in outcome(form, (drive, state, torch.full_like(elapsed, time)), tau_min=1e-3):
        assert value.isfinite().all()


def test_it_is_the_leaky_layer_without_synapses_among_neurons():
    torch.manual_seed(0)
    scan, leaky = LiquidScan(4, UNITS).double(), Leaky(4, UNITS).double()
    with torch.no_grad():
        weight, pace = scan.drive.weight.split(UNITS)
        leaky.weight.copy_(torch.cat([weight, torch.zeros(UNITS, UNITS)], 1))
        leaky.tau_weight.copy_(torch.cat([pace, torch.zeros(UNITS, UNITS)], 1))
        leaky.bias.copy_(scan.drive.bias[:UNITS])
        leaky.tau_bias.copy_(scan.drive.bias[UNITS:])
    x, elapsed = torch.randn(2, 9, 4).double(), torch.rand(2, 9).double()
    for one, other in zip(scan(x, elapsed=elapsed), leaky(x, elapsed=elapsed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_time_constants_begin_log_spaced_and_are_what_a_state_fades_with():
    layer = LiquidScan(3, 4, longest_tau=2000.0).double()
    nothing = torch.zeros(1, 3).double()
    tau = layer.time_constants(nothing)[0]
    torch.testing.assert_close(tau, 0.1 + torch.tensor([0.25, 5.0, 100.0, 2000.0]).double(), rtol=1e-6, atol=0)
    faded = layer.step(nothing, torch.ones(1, 4).double(), 3.0)[1][0]
    torch.testing.assert_close(faded, torch.exp(-3.0 / tau))


@pytest.mark.parametrize("elapsed", [0.01, 1.0, 1e4])
def test_the_state_stays_between_minus_one_and_one(elapsed):
    torch.manual_seed(0)
    layer = LiquidScan(5, 8, tau_min=0.01)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=5)
        _, state = layer(10 * torch.randn(16, 200, 5), torch.rand(16, 8) * 2 - 1, elapsed)
    assert state.abs().max() <= 1


def test_in_half_precision_the_state_is_computed_in_single():
    """In bfloat16 a decay of 0.999 is 1, and a memory of 1000 steps would never fade."""
    layer = LiquidScan(3, 4, longest_tau=1000.0).bfloat16()
    _, state = layer(torch.zeros(1, 500, 3).bfloat16(), torch.ones(1, 4).bfloat16())
    assert state[0, -1].item() == pytest.approx(math.exp(-500 / 1000), rel=0.02)

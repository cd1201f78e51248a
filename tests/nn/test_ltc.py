"""An LTC is a differential equation: its bounds, its time constants, its fixed point, and its solvers' orders."""

import math
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from liquid_control.nn import LTC, Wiring
from liquid_control.nn.ltc import INITIAL_RANGES
from liquid_control.nn.synapses import DenseSynapses, SparseSynapses

NCP = Wiring.auto(9, 2)
DOUBLE = torch.float64


def bounds(layer, state):
    """Theorem 2 of Hasani 2021 in the neuron form: a state stays between itself, v_leak and the reversal potentials."""
    cell, circuit = layer.rnn_cell, layer.circuit
    low, high = [], []
    for neuron in range(circuit.units):
        targets = [cell.vleak[neuron]]
        targets += [cell.erev[source, end] for source, end, _ in circuit.synapses if end == neuron]
        targets += [cell.sensory_erev[source, end] for source, end, _ in circuit.sensory_synapses if end == neuron]
        low.append(min([*targets, state[:, neuron].min()]))
        high.append(max([*targets, state[:, neuron].max()]))
    return torch.stack(low), torch.stack(high)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    elapsed=st.floats(1e-6, 1e6),
    unfolds=st.integers(1, 12),
)
def test_the_state_stays_within_the_bounds_of_the_paper(seed, scale, elapsed, unfolds):
    torch.manual_seed(seed)
    layer = LTC(4, NCP, ode_unfolds=unfolds).double()
    with torch.no_grad():
        for name in ("erev", "sensory_erev", "vleak"):
            getattr(layer.rnn_cell, name).mul_(scale)
    state = torch.randn(2, 9, dtype=DOUBLE) * scale
    low, high = bounds(layer, state)
    x = torch.randn(2, 8, 4, dtype=DOUBLE) * scale
    for step in range(8):
        _, state = layer.step(x[:, step], state, elapsed)
        # ε in the denominator shrinks a state towards zero by at most ε over the conductances.
        slack = 1e-5 * (1 + high.abs() + low.abs())
        assert (state >= low - slack).all() and (state <= high + slack).all()


def derivative(layer, x, v):
    """dv/dt of the module's equation, written out with one loop per synapse."""
    cell, circuit = layer.rnn_cell, layer.circuit
    positive = torch.nn.functional.softplus
    x = x * cell.input_w + cell.input_b
    change = positive(cell.gleak) * (cell.vleak - v)
    for presynaptic, synapses, prefix in (
        (x, circuit.sensory_synapses, "sensory_"),
        (v, circuit.synapses, ""),
    ):
        sigma, mu, w, erev = (getattr(cell, prefix + name) for name in ("sigma", "mu", "w", "erev"))
        for source, end, _ in synapses:
            opening = torch.sigmoid(sigma[source, end] * (presynaptic[source] - mu[source, end]))
            current = positive(w[source, end]) * opening * (erev[source, end] - v[end])
            change = change + current * torch.nn.functional.one_hot(torch.tensor(end), circuit.units)
    return change / positive(cell.cm)


@torch.no_grad()
def test_the_derivative_is_the_equation():
    torch.manual_seed(0)
    layer = LTC(4, NCP).double()
    x, v = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 9, dtype=DOUBLE)
    expected = torch.stack([derivative(layer, *row) for row in zip(x, v, strict=True)])
    torch.testing.assert_close(layer.derivative(x, v), expected, rtol=1e-12, atol=1e-12)


# Time constants


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    implicit=st.booleans(),
)
@torch.no_grad()
def test_time_constants_stay_within_the_bounds_of_the_paper(seed, scale, implicit):
    """Theorem 1 of Hasani 2021: τ/(1 + τW) ≤ τ_sys ≤ τ with τ = cm/g and W = Σ w/cm."""
    torch.manual_seed(seed)
    layer = LTC(4, NCP, implicit_param_constraints=implicit).double()
    positive = torch.nn.functional.softplus if implicit else torch.Tensor.clone
    cell, circuit = layer.rnn_cell, layer.circuit
    weight = (positive(cell.w) * torch.from_numpy(abs(circuit.adjacency))).sum(0)
    weight += (positive(cell.sensory_w) * torch.from_numpy(abs(circuit.sensory_adjacency))).sum(0)
    tau, weight = positive(cell.cm) / positive(cell.gleak), weight / positive(cell.cm)

    found = layer.time_constants(torch.randn(16, 4, dtype=DOUBLE) * scale, torch.randn(16, 9, dtype=DOUBLE) * scale)
    assert (found >= tau / (1 + tau * weight) * (1 - 1e-9)).all() and (found <= tau * (1 + 1e-9)).all()
    shortest, longest = layer.time_constant_bounds()
    torch.testing.assert_close(shortest, tau / (1 + tau * weight))
    torch.testing.assert_close(longest, tau)


@torch.no_grad()
def test_a_time_constant_is_how_fast_a_neuron_forgets():
    """d(dv_i/dt)/dv_i = -1/τ_sys,i, for a neuron without a synapse to itself."""
    torch.manual_seed(0)
    layer = LTC(4, NCP).double()
    x, v = torch.randn(1, 4, dtype=DOUBLE), torch.randn(1, 9, dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer.derivative(x, v), v)[0, :, 0]
    alone = [i for i in range(9) if not layer.circuit.adjacency[i, i]]
    torch.testing.assert_close(jacobian.diagonal()[alone], -1 / layer.time_constants(x, v)[0, alone])


# Solvers


@torch.no_grad()
@pytest.mark.parametrize(("solver", "order"), [("semi_implicit", 1), ("explicit", 1), ("rk4", 4)])
def test_the_error_of_a_solver_falls_with_its_order(solver, order):
    """The slope of log error against log step, by least squares, against the adaptive solver."""
    torch.manual_seed(0)
    layer = LTC(4, NCP, epsilon=0.0, solver="adaptive").double()
    x, start = torch.randn(3, 5, 4, dtype=DOUBLE), torch.randn(3, 9, dtype=DOUBLE)
    elapsed = torch.rand(3, 5, dtype=DOUBLE) + 0.5
    _, exact = layer(x, start, elapsed)
    layer.solver = solver
    unfolds = torch.tensor([16, 32, 64, 128], dtype=DOUBLE)
    errors = []
    for count in unfolds:
        layer.ode_unfolds = int(count)
        errors.append((layer(x, start, elapsed)[1] - exact).abs().max())
    log_step, log_error = -unfolds.log(), torch.stack(errors).log()
    log_step, log_error = log_step - log_step.mean(), log_error - log_error.mean()
    slope = (log_step * log_error).sum() / log_step.square().sum()
    assert slope == pytest.approx(order, abs=0.1)


@torch.no_grad()
def test_the_adaptive_solver_needs_no_unfolds():
    torch.manual_seed(0)
    layer = LTC(4, NCP, solver="adaptive").double()
    x = torch.randn(2, 3, 4, dtype=DOUBLE)
    few, _ = layer(x)
    layer.ode_unfolds = 50
    torch.testing.assert_close(layer(x)[0], few, rtol=0, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.1, 1.0, 100.0]))
@torch.no_grad()
def test_euler_stays_within_the_bounds_up_to_the_shortest_time_constant(seed, scale):
    torch.manual_seed(seed)
    layer = LTC(4, NCP, ode_unfolds=3, solver="explicit").double()
    elapsed = 3 * layer.time_constant_bounds()[0].min().item()
    state, x = torch.randn(2, 9, dtype=DOUBLE) * scale, torch.randn(2, 8, 4, dtype=DOUBLE) * scale
    low, high = bounds(layer, state)
    _, state = layer(x, state, elapsed)
    slack = 1e-9 * (1 + high.abs() + low.abs())
    assert (state >= low - slack).all() and (state <= high + slack).all()


@pytest.mark.parametrize("solver", ["explicit", "rk4"])
def test_an_explicit_solver_that_diverged_says_so_instead_of_nan(solver):
    torch.manual_seed(0)
    layer = LTC(4, NCP, ode_unfolds=1, solver=solver)
    shortest = layer.time_constant_bounds()[0].min().item()
    x = torch.randn(2, 300, 4)
    with pytest.raises(FloatingPointError, match=rf"the shortest time constant of this layer is {shortest:.3g}"):
        layer(x, elapsed=100.0)
    layer.solver = "semi_implicit"
    assert layer(x, elapsed=100.0)[0].isfinite().all()


def test_a_nan_among_the_inputs_is_not_called_divergence():
    layer = LTC(4, NCP, solver="rk4")
    assert layer(torch.full((1, 2, 4), math.nan))[0].isnan().any()


def test_without_torchdiffeq_the_adaptive_solver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match="needs torchdiffeq: pip install"):
        LTC(4, NCP, solver="adaptive")(torch.zeros(1, 1, 4))


@torch.no_grad()
def test_a_long_time_reaches_an_equilibrium_of_the_equation():
    torch.manual_seed(0)
    layer = LTC(4, NCP, ode_unfolds=50).double()
    x = torch.randn(4, dtype=DOUBLE)
    state = torch.zeros(1, 9, dtype=DOUBLE)
    for _ in range(20):
        _, state = layer.step(x[None], state, 100.0)
    assert derivative(layer, x, state[0]).abs().max() < 1e-6


def test_few_and_many_synapses_have_the_same_currents():
    """The two forms of the synapses, on the same circuit."""
    torch.manual_seed(0)
    adjacency = NCP.build(4).adjacency
    parameters = [torch.rand(9, 9, dtype=DOUBLE, requires_grad=True) for _ in range(4)]
    potential = torch.randn(5, 9, dtype=DOUBLE, requires_grad=True)
    constant = torch.randn(5, 18, dtype=DOUBLE, requires_grad=True)
    found = []
    for form in (SparseSynapses, DenseSynapses):
        currents = form(adjacency).double()(*parameters)(potential, constant)
        gradients = torch.autograd.grad(currents.sin().sum(), [*parameters, potential, constant])
        found.append([currents, *gradients])
    for sparse, dense in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("implicit", [True, False])
def test_initial_values_fill_the_documented_ranges(implicit):
    torch.manual_seed(0)
    layer = LTC(20, 60, implicit_param_constraints=implicit)
    positive = torch.nn.functional.softplus if implicit else torch.Tensor.clone
    for name, (low, high) in INITIAL_RANGES.items():
        prefixes = ("", "sensory_") if name in ("sigma", "mu", "w") else ("",)
        for prefix in prefixes:
            value = getattr(layer.rnn_cell, prefix + name)
            if name in ("gleak", "cm", "w"):
                value = positive(value)
            margin = 0.15 * (high - low)
            assert low - 1e-6 <= value.min() <= low + margin, prefix + name
            assert high - margin <= value.max() <= high + 1e-6, prefix + name


def test_explicit_constraints_are_clipped_on_request_only():
    layer = LTC(4, NCP, implicit_param_constraints=False)
    with torch.no_grad():
        layer.rnn_cell.w.fill_(-1)
    layer.apply_weight_constraints()
    assert (layer.rnn_cell.w == 0).all()
    implicit = LTC(4, NCP)
    before = implicit.rnn_cell.w.clone()
    implicit.apply_weight_constraints()
    assert torch.equal(implicit.rnn_cell.w, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_mapping": "cubic"}, "input_mapping is 'cubic', expected one of"),
        ({"ode_unfolds": 0}, "ode_unfolds must be at least 1, given 0"),
        ({"solver": "rk5"}, "solver is 'rk5', expected one of"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LTC(4, NCP, **options)

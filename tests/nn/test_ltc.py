"""An LTC is a differential equation: its bounds, its fixed point, and its convergence."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from liquid_control.nn import LTC, Wiring
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
def test_the_solver_converges_to_the_equation_at_first_order():
    torch.manual_seed(0)
    layer = LTC(4, NCP, epsilon=0.0).double()
    x, start = torch.randn(4, dtype=DOUBLE), torch.randn(9, dtype=DOUBLE)
    exact, step = start, 1e-3
    for _ in range(1000):  # RK4 to a time of 1
        k1 = derivative(layer, x, exact)
        k2 = derivative(layer, x, exact + step / 2 * k1)
        k3 = derivative(layer, x, exact + step / 2 * k2)
        k4 = derivative(layer, x, exact + step * k3)
        exact = exact + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    errors = []
    for unfolds in (32, 64, 128):
        layer.ode_unfolds = unfolds
        errors.append((layer.step(x[None], start[None])[1][0] - exact).abs().max().item())
    orders = torch.tensor(errors[:-1]).log2() - torch.tensor(errors[1:]).log2()
    assert ((orders > 0.9) & (orders < 1.1)).all(), orders


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
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LTC(4, NCP, **options)

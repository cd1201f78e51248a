"""A compiled LTC is its equation's solution where that is known, and near it under the paper's bound elsewhere."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from liquid_control.nn import LTC, Circuit, ClosedFormLTC, Wiring, close_form
from liquid_control.nn.closed_form import theorem_1, theorem_1_bound

DOUBLE = torch.float64
NCP = Wiring.ncp(5, 3, 2, sensory_fanout=3, inter_fanout=2, recurrent_command_synapses=4, motor_fanin=2)


def compiled(seed, wiring=NCP, **options):
    """An LTC with the adaptive solver and its closed form."""
    torch.manual_seed(seed)
    ltc = LTC(4, wiring, solver="adaptive", epsilon=0.0).double()
    return ltc, close_form(ltc, **options)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), elapsed=st.floats(0.0, 5.0), leak_rate=st.floats(0.0, 3.0))
def test_the_papers_form_keeps_its_bound_whatever_the_input_was(seed, elapsed, leak_rate):
    """|x - x̃| ≤ |x₀ - A| e^{-w_τ t} against A + (x₀ - A) e^{-w_τ t - ∫f}, for an input that changes 20 times."""
    torch.manual_seed(seed)
    initial, reversal = torch.randn(2, 50, dtype=DOUBLE)
    opening = torch.sigmoid(4 * torch.randn(20, 50, dtype=DOUBLE))
    t, rate = torch.tensor(elapsed, dtype=DOUBLE), torch.tensor(leak_rate, dtype=DOUBLE)
    exact = reversal + (initial - reversal) * torch.exp(-rate * t - opening.mean(0) * t)
    error = (theorem_1(initial, reversal, rate, opening[-1], t) - exact).abs()
    assert (error <= theorem_1_bound(initial, reversal, rate, t) + 1e-12).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), elapsed=st.floats(0.05, 2.0), sweeps=st.integers(1, 4))
@torch.no_grad()
def test_a_circuit_keeps_the_bound_where_each_neuron_has_one_target(seed, elapsed, sweeps):
    """The same bound for neurons on any wiring, all synapses and the leak of each with one reversal potential A."""
    ltc, closed = compiled(seed, sweeps=sweeps)
    target = torch.randn(10, dtype=DOUBLE)
    for layer in (ltc, closed):
        for name in ("erev", "sensory_erev", "vleak"):
            getattr(layer.rnn_cell, name).copy_(target)
    x, start = torch.randn(4, 4, dtype=DOUBLE), torch.randn(4, 10, dtype=DOUBLE)
    error = (closed.step(x, start, elapsed)[1] - ltc.step(x, start, elapsed)[1]).abs()
    leak_rate = 1 / ltc.time_constant_bounds()[1]
    bound = theorem_1_bound(start, target, leak_rate, torch.tensor(elapsed, dtype=DOUBLE))
    assert (error <= bound + 1e-8).all()
    assert error.max() > 0


@torch.no_grad()
def test_it_is_the_papers_form_without_the_jump_where_both_apply():
    """One neuron, one sensory synapse, one reversal potential: e^{-[w_τ + f] t} with f = w s/cm, times 1 or f(-I)."""
    torch.manual_seed(0)
    circuit = Circuit(1, ("motor",), ((0,),), ((0, 0, 1),), ())
    closed = ClosedFormLTC(1, circuit, input_mapping=None, output_mapping=None).double()
    cell = closed.rnn_cell
    cell.vleak.copy_(cell.sensory_erev[0])
    x, start, elapsed = (
        torch.randn(1, 1, dtype=DOUBLE),
        torch.randn(1, 1, dtype=DOUBLE),
        torch.tensor(0.7, dtype=DOUBLE),
    )
    leak_rate = 1 / closed.time_constant_bounds()[1]
    rate = 1 / closed.time_constants(x, start) - leak_rate  # f
    paper = theorem_1(start, cell.vleak, leak_rate, rate, elapsed)
    transient = (closed.step(x, start, elapsed.item())[1] - cell.vleak) * (1 - rate)
    torch.testing.assert_close(paper - cell.vleak, transient, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_neurons_with_only_sensory_synapses_are_exact_in_one_sweep():
    ltc, closed = compiled(0, sweeps=1)
    x, start = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 10, dtype=DOUBLE)
    for elapsed in (0.1, 1.0, 10.0):
        exact, found = (layer.unpack(layer.step(x, start, elapsed)[1]) for layer in (ltc, closed))
        torch.testing.assert_close(found["inter"], exact["inter"], rtol=0, atol=1e-7)
        assert (found["motor"] - exact["motor"]).abs().max() > 1e-4


@torch.no_grad()
def test_the_error_of_a_short_step_falls_with_its_square():
    """Local order 2, so order 1 over a fixed time: openings are frozen within a step."""
    ltc, closed = compiled(0)
    x, start = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 10, dtype=DOUBLE)
    errors = [
        (closed.step(x, start, elapsed)[1] - ltc.step(x, start, elapsed)[1]).abs().max().item()
        for elapsed in (0.01, 0.005)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@torch.no_grad()
def test_a_long_time_ends_in_an_equilibrium_of_the_equation():
    _, closed = compiled(0, sweeps=50)
    x = torch.randn(3, 4, dtype=DOUBLE)
    _, state = closed.step(x, elapsed=1e3)
    assert closed.derivative(x, state).abs().max() < 1e-6


@torch.no_grad()
def test_a_sweep_for_each_layer_of_neurons_carries_the_input_to_the_motor_neurons():
    for sweeps, moved in ((1, False), (2, False), (3, True)):
        _, closed = compiled(0, sweeps=sweeps)
        x = torch.randn(2, 1, 4, dtype=DOUBLE)
        assert bool((closed(x)[0] != closed(x + 1)[0]).any()) == moved
    assert compiled(0)[1].sweeps == 4


def test_the_ltc_stays_as_it_is_and_shares_nothing():
    ltc, _ = compiled(0)
    closed = close_form(ltc.eval())
    assert not closed.training and ltc.solver == "adaptive"
    for (name, theirs), (_, own) in zip(ltc.state_dict().items(), closed.state_dict().items(), strict=True):
        assert torch.equal(theirs, own), name
        assert theirs.data_ptr() != own.data_ptr(), name


def test_no_sweep_is_refused():
    with pytest.raises(ValueError, match="sweeps must be at least 1, given 0"):
        ClosedFormLTC(4, NCP, sweeps=0)

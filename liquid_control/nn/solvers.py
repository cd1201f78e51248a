"""Solvers of the membrane equation of liquid time-constant neurons over one step of a sequence.

The equation, with a neuron's drive d = g v_leak + Σ w s E and its damping γ = g + Σ w s, both functions of v:

    cm dv/dt = d(v) - γ(v) v

An elapsed time is cut into ``unfolds`` equal steps Δ, and c = cm/Δ is what a solver is given:

=================  ==================================================  =====  ========================================
solver             one step                                            order  stays finite
=================  ==================================================  =====  ========================================
``semi_implicit``  v⁺ = (d + c v) / (γ + c)                            1      for every Δ
``explicit``       Euler: v⁺ = v + (d - γ v) / c                       1      for Δ ≤ 2 τ_min; up to τ_min no overshoot
``rk4``            classical Runge-Kutta of the same right-hand side   4      for Δ ≤ 2.78 τ_min
``adaptive``       Dormand-Prince 5(4) of `torchdiffeq`                5      for every elapsed time
=================  ==================================================  =====  ========================================

τ_min is the shortest time constant that any neuron can have, min_i cm_i / (g_i + Σ_j w_ji): the lower bound of
Theorem 1 in Hasani et al. 2021. The limits are those of frozen openings; beyond them an explicit solver can multiply
every error by more than one a step.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, addcmul

from liquid_control.nn.synapses import Currents

Solver = Callable[[Currents, Tensor, Tensor, Tensor, int], Tensor]
"""(currents, constant (B, 2 N), c = cm/Δ (N,) or (B, N), v (B, N), unfolds) → v (B, N) after ``unfolds`` steps Δ.

``currents(v, constant)`` gives [d | γ] (B, 2 N); for ``semi_implicit`` the constant holds c and ε in its γ already.
"""


def semi_implicit(currents: Currents, constant: Tensor, c: Tensor, v: Tensor, unfolds: int) -> Tensor:
    """The fused solver of Hasani et al. 2021, Algorithm 1: v after the step on the right, openings from before it."""
    for _ in range(unfolds):
        drive, damping = currents(v, constant).chunk(2, -1)
        v = addcmul(drive, c, v) / damping
    return v


def explicit(currents: Currents, constant: Tensor, c: Tensor, v: Tensor, unfolds: int) -> Tensor:
    """Euler's method."""
    for _ in range(unfolds):
        v = v + _change(currents, constant, v) / c
    return v


def rk4(currents: Currents, constant: Tensor, c: Tensor, v: Tensor, unfolds: int) -> Tensor:
    """The classical Runge-Kutta method: four evaluations a step."""
    for _ in range(unfolds):
        k1 = _change(currents, constant, v) / c
        k2 = _change(currents, constant, v + k1 / 2) / c
        k3 = _change(currents, constant, v + k2 / 2) / c
        k4 = _change(currents, constant, v + k3) / c
        v = v + (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return v


def adaptive(currents: Currents, constant: Tensor, c: Tensor, v: Tensor, unfolds: int) -> Tensor:
    """Dormand-Prince with step size control, the reference that the others are checked against.

    The batch shares its steps, so rows depend on each other within the tolerance: 1e-10 in double precision, 1e-6
    otherwise.
    """
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ImportError(
            "solver='adaptive' needs torchdiffeq: pip install 'liquid-control[solvers]', or choose another solver."
        ) from None
    tolerance = 1e-10 if v.dtype.itemsize == 8 else 1e-6
    per_unit = c / unfolds  # cm over the elapsed time: time runs from 0 to 1 in every row

    def derivative(_: Tensor, potential: Tensor) -> Tensor:
        return _change(currents, constant, potential) / per_unit

    return odeint(derivative, v, v.new_tensor([0.0, 1.0]), rtol=tolerance, atol=tolerance)[-1]


def _change(currents: Currents, constant: Tensor, v: Tensor) -> Tensor:
    """The right-hand side, cm dv/dt = d - γ v."""
    drive, damping = currents(v, constant).chunk(2, -1)
    return drive - damping * v


SOLVERS: dict[str, Solver] = {
    "semi_implicit": semi_implicit,
    "explicit": explicit,
    "rk4": rk4,
    "adaptive": adaptive,
}

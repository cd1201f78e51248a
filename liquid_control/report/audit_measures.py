"""What an audit measures of a driver that has driven: of its saliency, its neurons, and the map of its state."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from liquid_control.nn import LAN, LTC, MLP, CfC, Leaky, LiquidLayer, LiquidScan, PlasticCfC, ResidualStack

WINDOW, WINDOW_SIGMA = 11, 1.5
"""Side and standard deviation of the window of the structural similarity, in pixels."""
NO_NEURONS = ("cell", "trace", "eligibility", "keys", "values", "ages", "frames", "attention")
"""Parts of a state that remember something else than what neurons put out."""


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity of two pictures of the range 0 to 1 (Wang et al. 2004, eq. 13).

        SSIM = (2 μ_x μ_y + C1) (2 σ_xy + C2) / ((μ_x² + μ_y² + C1) (σ_x² + σ_y² + C2)),    C1 = 0.01², C2 = 0.03²

    with means, variances and covariance under an 11 × 11 Gaussian window of σ = 1.5, wherever it lies within the
    picture.

    Args:
        one: (height, width) float, at least 11 × 11.
        other: the same.

    Returns:
        -1 to 1; 1 of a picture and itself.

    Raises:
        ValueError: if the shapes differ, or the window does not fit.
    """
    if one.shape != other.shape or min(one.shape) < WINDOW:
        raise ValueError(f"pictures of {one.shape} and {other.shape}, expected one shape of at least {WINDOW} a side.")
    x, y = one.astype(np.float64), other.astype(np.float64)
    edge = WINDOW // 2

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (WINDOW, WINDOW), WINDOW_SIGMA)[edge:-edge, edge:-edge]

    mean_x, mean_y, c1, c2 = mean(x), mean(y), 0.01**2, 0.03**2
    variance_x, variance_y, covariance = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((alike / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def add_noise(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """A picture (…) uint8 with Gaussian noise of a variance in units of the picture scaled to 0 to 1, cut off there."""
    noisy = image / 255 + rng.normal(0, np.sqrt(variance), image.shape)
    return np.round(255 * noisy.clip(0, 1)).astype(np.uint8)


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two series (T,); NaN where one of them does not vary."""
    x, y = (values - values.mean() for values in (one.astype(np.float64), other.astype(np.float64)))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 1e-12 * len(x) else float("nan")


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: the correlation of ranks, of which equal values share the mean."""
    return pearson(_ranks(one), _ranks(other))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def principal_shares(activity: np.ndarray) -> np.ndarray:
    """Shares of the variance of (T, N) activity that its principal components have, largest first; (N,) of sum 1.

    Components are those of the covariance: neurons are not scaled to one variance. All 0 where nothing varies.
    """
    centred = activity.astype(np.float64) - activity.mean(0, dtype=np.float64)
    variances = np.linalg.eigvalsh(centred.T @ centred)[::-1].clip(min=0)
    return variances / variances.sum() if variances.sum() > 0 else variances


@torch.no_grad()
def neuron_activity(core: LiquidLayer, inputs: np.ndarray, states: np.ndarray) -> dict[str, np.ndarray]:
    """What each neuron of a core put out after each of T steps.

    Args:
        core: of the driver.
        inputs: (T, C).
        states: (T + 1, S), before each step and after the last.

    Returns:
        (T,) by the name of the neuron, such as ``command 2``. Of an LSTM the hidden units count, of an MLP those of its
        hidden layer, which is no part of its state.
    """
    if isinstance(core, MLP):
        earlier = core.unpack(torch.from_numpy(states[:-1]))["frames"]
        window = torch.cat([earlier, torch.from_numpy(inputs)[:, None]], 1)
        parts = {"hidden": torch.tanh(core.hidden(window.flatten(1)))}
    else:
        parts = core.unpack(torch.from_numpy(states[1:]))
    return _by_neuron({name: part for name, part in parts.items() if name.rpartition(".")[2] not in NO_NEURONS})


def _by_neuron(parts: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {f"{name} {index}": part[:, index].numpy() for name, part in parts.items() for index in range(part.shape[1])}


@dataclass(frozen=True)
class Pace:
    """The time constants of a core."""

    formula: str
    """Where they come from; of a core without any, why it has none."""
    neurons: dict[str, np.ndarray]
    """(T,) in units of elapsed time, by the name of the neuron; empty of a core without any."""


@torch.no_grad()
def time_constants(core: LiquidLayer, inputs: np.ndarray, states: np.ndarray) -> Pace:
    """How slow each neuron was in each of T steps, under the input and the state that the step began with.

    Args:
        core: of the driver.
        inputs: (T, C).
        states: (T + 1, S).
    """
    x, before, after = (torch.from_numpy(values) for values in (inputs, states[:-1], states[1:]))
    if isinstance(core, LTC):
        formula = "τ_sys = cm / (g + Σ w s), over the synapses of a neuron (Hasani et al. 2021, Theorem 1)"
        tau = core.time_constants(x, before)
    elif isinstance(core, Leaky):
        formula, tau = "τ = τ_min + softplus(W_τ x + U_τ h + b_τ)", core.time_constants(x, before)
    elif isinstance(core, LiquidScan):
        formula, tau = "τ = τ_min + softplus(W_τ x + b_τ)", core.time_constants(x)
    elif isinstance(core, CfC | PlasticCfC):
        cfc = core.cfc if isinstance(core, PlasticCfC) else core
        if cfc.circuit is None:
            return Pace("A CfC behind a backbone is not looked into here.", {})
        neurons = cfc.state_size  # of a plastic core the first of its state
        tau = _closed_form_pace(cfc, x, before[:, :neurons], after[:, :neurons])
        formula = (
            "τ = 1 / (|w_τ| + |g(z)|), the rate of the exponential (Hasani et al. 2022)"
            if cfc.mode == "pure"
            else "τ = 1 / |a(z)|: the elapsed time in which the argument of the gate σ(t a(z) + b(z)) changes by one. "
            "A CfC solves no equation, so it has no τ_sys; this is what sets its pace"
        )
        return Pace(formula, _by_neuron(cfc.unpack(tau)))
    elif isinstance(core, LAN):
        return Pace("In liquid attention each pair of a query and a key has a rate, not each neuron.", {})
    elif isinstance(core, ResidualStack):
        return Pace("The neurons inside the blocks of a hybrid are not looked into here.", {})
    else:
        return Pace(f"{type(core).__name__} has none: a step is a step, however much time has passed.", {})
    return Pace(formula, _by_neuron(core.unpack(tau)))


def _closed_form_pace(cfc: CfC, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """(T, N) of wired neurons. Within a step a group is driven by what the group before it has just become."""
    weight, bias = cfc.all_heads()  # (heads, N, C + N), (heads, N)
    taus: list[Tensor] = []
    begin = 0
    for size in cfc.group_sizes:
        rows = slice(begin, begin + size)
        seen = torch.cat([x, after[:, :begin], before[:, begin:]], 1)
        if cfc.mode == "pure":
            drive = seen @ weight[0, rows].T + bias[0, rows]
            cell = cfc.cells[len(taus)]
            taus.append(1 / (cell.w_tau.abs() + drive.abs()))
        else:
            taus.append(1 / (seen @ weight[2, rows].T + bias[2, rows]).abs())
        begin += size
    return torch.cat(taus, 1)


def state_norms(core: LiquidLayer, inputs: np.ndarray, states: np.ndarray, elapsed: np.ndarray) -> np.ndarray:
    """Spectral norms of the Jacobian ∂h_{t+1}/∂h_t of the map from a state to the next, the input held.

    The largest is an estimate of the map's Lipschitz constant from below: elsewhere it may be steeper.

    Args:
        core: of the driver.
        inputs: (N, C), of N moments.
        states: (N, S) before their steps.
        elapsed: (N,).

    Returns:
        (N,).
    """
    dtype = core.initial_state(1).dtype

    def step(state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        return core.step(x[None], state[None], time[None])[1][0]

    given = (torch.from_numpy(values).to(dtype) for values in (states, inputs, elapsed))
    jacobians = torch.func.vmap(torch.func.jacrev(step), chunk_size=16)(*given)
    return torch.linalg.matrix_norm(jacobians.detach(), 2).numpy()


def why_no_norm(core: LiquidLayer) -> str:
    """Why a core's state map is not looked at; empty if it is."""
    if isinstance(core, MLP | LAN):
        return (
            f"{type(core).__name__} has no recurrence: its state is what it saw in the last steps, moved on by one. "
            "The norm of that is no property of what was learned, so it is left out."
        )
    if isinstance(core, ResidualStack):
        return (
            "Most of a hybrid's state is the window of its attention: what it saw in the last steps, moved on by one. "
            "The norm of that is no property of what was learned, so it is left out."
        )
    return ""

"""Liquid attention on the CPU, forward: chunks of queries, sixteen keys at a time, for `liquid_control.nn`.

For a head of a sequence the kernel takes query after query. What belongs to a pair is a :class:`Lanes`, one key a lane,
so gates and the solution of the ODE read as in `liquid_control.nn.liquid_logits`. No array is larger than the queries
of a chunk times the keys. Weights times values is torch's matrix product.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor
from torch.nn import functional as F

from liquid_control.kernels.batch import over_blocks
from liquid_control.kernels.fast_math import DOUBLE_LOG2_E, OPTIONS, SINGLE_LOG2_E, exp2, sigmoid, tanh
from liquid_control.kernels.simd import LANES, load, store, total, where_positive

if TYPE_CHECKING:  # nn is the room above: it calls in here
    from liquid_control.nn.liquid_attention import Pairs
    from liquid_control.nn.liquid_logits import LiquidLogits

GATES = {"affine": 0, "mlp": 1, "bilinear": 2}
MODES = {"exact": 0, "euler": 1, "steady": 2}
AFFINE, MLP, BILINEAR = GATES.values()
EXACT, EULER, STEADY = MODES.values()
TARGET, RATE, SLOPE, SHIFT = range(4)
ABSENT = -1  # in the place of a feature that the gate or the time does not have
CACHED_PAIRS = 1 << 15  # pairs of a chunk, whose weights should stay in a core's own cache
LOWEST = -1e30  # a logit that no key has
SMALL = 0.01
MIN_RATE = 1e-3


class Head(NamedTuple):
    """The numbers of one head."""

    pair_weight: np.ndarray
    """(2·hidden,) of the mlp gate: of the target, then of the rate."""
    pair_bias: np.ndarray
    """(2,)."""
    gain: float
    initial_logit: float
    time_scale: float
    """The ODE's time by horizon; 1 where times are given as such."""


class Solver(NamedTuple):
    """What all heads share: which gate, which solution, and where the features of a token lie."""

    gate: int
    mode: int
    vector: int
    """Length of the features that go through the mlp or the dot product."""
    places: tuple[int, int, int, int]
    """Of the scalar features target, rate, slope and shift, or ABSENT."""
    steps: int
    rate: float
    """A constant rate, or 0 where tokens set it."""
    least_rate: float


def attend(logits: LiquidLogits, u: Tensor, w: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    """The attended values (B, H, Q, D).

    Args:
        logits: gates and solution.
        u: (B, H, F, Q) features of the queries, float32 or float64.
        w: (B, H, F, K) features of the keys.
        values: (B, H, K, D).
        pairs: which query sees which key, and for how long.
    """
    batch, count, _, queries = u.shape
    keys = w.shape[3]
    solver, heads = _solver(logits), _heads(logits)
    work = 4 + (solver.vector if solver.gate == MLP else 0)  # elementary functions a pair
    padding = -keys % LANES
    u, w, values = u.mT.contiguous(), F.pad(w, (0, padding)), F.pad(values, (0, 0, 0, padding))
    out = torch.empty(batch, count, queries, values.shape[3], dtype=u.dtype)
    chunk = max(8, CACHED_PAIRS // (keys + padding))
    buffer = torch.empty(min(chunk, queries) * (keys + padding), dtype=u.dtype)
    inverse_sums = torch.empty(chunk, dtype=u.dtype)
    for start in range(0, queries, chunk):
        rows = slice(start, min(start + chunk, queries))
        # Later keys are seen by no query of the chunk.
        end = min(keys, rows.stop) if pairs.causal else keys
        width = end + -end % LANES
        weights = buffer[: (rows.stop - start) * width].view(-1, width)
        time = _of_pairs(logits.counted(pairs.horizons(rows)), end, u)
        seen = pairs.seen(rows, u)
        sight = _of_pairs(1.0 if seen is None else seen, end, u)
        for row in range(batch):
            for index, head in enumerate(heads):
                over_blocks(
                    weigh,
                    len(weights),
                    weights.numel() * work,
                    u[row, index, rows].numpy(),
                    w[row, index, :, :width].flatten().numpy(),
                    time[min(row, len(time) - 1), 0].numpy(),
                    sight[min(row, len(sight) - 1), min(index, sight.shape[1] - 1)].numpy(),
                    head,
                    solver,
                    weights.numpy(),
                    inverse_sums.numpy(),
                )
                attended = out[row, index, rows]
                torch.mm(weights, values[row, index, :width], out=attended)
                attended *= inverse_sums[: len(weights), None]
    return out


def _solver(logits: LiquidLogits) -> Solver:
    places = [
        logits.vector + logits.scalars.index(name) if name in logits.scalars else ABSENT
        for name in ("target", "rate", "slope", "shift")
    ]
    return Solver(
        GATES[logits.gate],
        MODES[logits.mode],
        logits.vector,
        (places[0], places[1], places[2], places[3]),
        logits.euler_steps,
        logits.rate or 0.0,
        MIN_RATE,
    )


def _heads(logits: LiquidLogits) -> list[Head]:
    """The numbers of each head; what a gate or a mode does not have is zeros, or a scale of one."""
    weights, biases = logits.gain.new_zeros(logits.heads, 2, 1), logits.gain.new_zeros(logits.heads, 2)
    initial, scales = torch.zeros(logits.heads), torch.ones(logits.heads)
    if logits.gate == "mlp":
        # At a constant rate there is one row.
        weights, biases = logits.pair_weight, F.pad(logits.pair_bias, (0, 2 - logits.pair_bias.shape[1]))
    if logits.mode != "steady":
        initial = logits.initial_logit
    if logits.timed and logits.pseudo_time != "sigmoid":
        scales = F.softplus(logits.time_scale)
    return [
        Head(
            weights[h].flatten().numpy(),
            biases[h].numpy(),
            *(float(part[h]) for part in (logits.gain, initial, scales)),
        )
        for h in range(logits.heads)
    ]


def _of_pairs(given: Tensor | float, keys: int, like: Tensor) -> Tensor:
    """Numbers of pairs (B or 1, H or 1, rows or 1, width), zero at the keys that fill up sixteen."""
    if not isinstance(given, Tensor):
        given = torch.full((1, 1, 1, keys), given)
    return F.pad(given[..., :keys].to(like.dtype), (0, -keys % LANES))


@njit(nogil=True, **OPTIONS)
def weigh(first, last, u, w, horizon, seen, head, solver, weights, inverse_sums):
    """The softmax weights of queries ``first`` to ``last - 1``, not yet divided by their sums.

    Args:
        first: of the queries to be done.
        last: the query after them.
        u: (Q, F) features of the queries.
        w: (F·K,) features of the keys; K is a multiple of LANES.
        horizon: (Q or 1, K) time of the pairs.
        seen: (Q or 1, K) 1 where the query sees the key, else 0.
        head: numbers of the head.
        solver: what gates and solution are.
        weights: (Q, K), to be written.
        inverse_sums: (Q,), to be written: zero where no key is seen.
    """
    blocks = weights.shape[1] // LANES
    lanes = np.empty(LANES, weights.dtype)
    for i in range(first, last):
        query, row, times, sight = u[i], weights[i], horizon[i % len(horizon)], seen[i % len(seen)]
        zero = load(sight, 0) * 0.0
        peak = zero + LOWEST
        for j in range(blocks):
            target, rate = gates(query, w, j, blocks, head, solver)
            share = progress(rate, pair_time(query, w, load(times, j), j, blocks, head, solver), solver)
            logit = head.gain * (head.initial_logit + share * (target / rate - head.initial_logit))
            logit = where_positive(load(sight, j), logit, zero + LOWEST)
            store(row, j, logit)
            peak = where_positive(logit - peak, logit, peak)
        store(lanes, 0, peak)
        highest = lanes.max()
        added = zero
        for j in range(blocks):
            weight = exp(load(row, j) - highest) * load(sight, j)
            store(row, j, weight)
            added = added + weight
        everything = total(added)
        inverse_sums[i] = 1 / everything if everything > 0 else 0


@njit(**OPTIONS)
def gates(query, w, j, blocks, head, solver):
    """Target φ and rate ω of a query and the j-th sixteen keys."""
    zero = load(w, j) * 0.0
    target, rate = zero + head.pair_bias[0], zero + head.pair_bias[1]
    if solver.gate == MLP:
        for f in range(solver.vector):
            hidden = tanh(query[f] + load(w, f * blocks + j))
            target = target + head.pair_weight[f] * hidden
            if solver.rate == 0:
                rate = rate + head.pair_weight[solver.vector + f] * hidden
    elif solver.gate == BILINEAR:
        for f in range(solver.vector):
            target = target + query[f] * load(w, f * blocks + j)
        target = target / math.sqrt(solver.vector)
    else:
        target = sigmoid(feature_sum(TARGET, query, w, j, blocks, solver))
    if solver.rate > 0:
        return target, zero + solver.rate
    if solver.gate != MLP:
        rate = feature_sum(RATE, query, w, j, blocks, solver)
    return target, softplus(rate) + solver.least_rate


@njit(**OPTIONS)
def pair_time(query, w, horizon, j, blocks, head, solver):
    """The time of the ODE."""
    if solver.places[SLOPE] == ABSENT:
        return head.time_scale * horizon
    slope, shift = (
        feature_sum(SLOPE, query, w, j, blocks, solver),
        feature_sum(SHIFT, query, w, j, blocks, solver),
    )
    return sigmoid(slope * horizon + shift)


@njit(**OPTIONS)
def feature_sum(scalar, query, w, j, blocks, solver):
    """A scalar feature of the query plus that of the keys."""
    place = solver.places[scalar]
    return query[place] + load(w, place * blocks + j)


@njit(**OPTIONS)
def progress(rate, time, solver):
    """The share of the way to the steady logit."""
    one = rate * 0.0 + 1.0
    if solver.mode == EXACT:
        x = rate * time
        # The difference 1 - e^-x loses digits where x is small; there its series is as good.
        series = x * (one - x / 2 * (one - x / 3 * (one - x / 4 * (one - x / 5))))
        return where_positive(x - SMALL, one - exp(-x), series)
    if solver.mode == EULER:
        step = rate * time / solver.steps
        step = where_positive(step - 1.0, one, step)
        left = one
        for _ in range(solver.steps):
            left = left * (one - step)
        return one - left
    return one


def exp(x):
    """e^x of Lanes."""
    return np.exp(x)


@overload(exp, jit_options=OPTIONS)
def _exp(x):
    log2_e = SINGLE_LOG2_E if x.dtype == types.float32 else DOUBLE_LOG2_E
    return lambda x: exp2(log2_e * x)


def softplus(x):
    """log(1 + e^x) of Lanes.

    It is max(x, 0) + log(1 + y) with y = e^-|x| at most 1, and log(1 + y) = 2 artanh(z) with z = y / (2 + y) at most
    1/3, whose series z + z³/3 + z⁵/5 + … has its digits after seven terms in single precision, sixteen in double.
    """
    return np.logaddexp(0, x)


@overload(softplus, jit_options=OPTIONS)
def _softplus(x):
    terms = 7 if x.dtype == types.float32 else 16

    def implementation(x):
        positive = where_positive(x, x, x * 0.0)
        y = exp(x - 2.0 * positive)
        z = y / (y + 2.0)
        square = z * z
        series = z * 0.0
        for k in range(terms):
            series = series * square + 1.0 / (2 * (terms - k) - 1)
        return positive + 2.0 * z * series

    return implementation

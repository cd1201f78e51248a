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
ABSENT = -1  # in the place of a feature that the gate or the time does not have
CACHED_PAIRS = 1 << 15  # pairs of a chunk, whose weights should stay in a core's own cache
LOWEST = -1e30  # a logit that no key has
SMALL = 0.01  # of ω t


class Head(NamedTuple):
    """The numbers of one head."""

    gain: float
    initial_logit: float
    time_scale: float
    """The ODE's time by horizon; 1 where no scale is learned."""


class Solver(NamedTuple):
    """What all heads share: which gate, which solution, and where the features of a token lie."""

    gate: int
    mode: int
    steps: int
    constant_rate: float
    """0 where tokens set the rate."""
    least_rate: float
    features: int
    vector: int
    """How many features, the first ones, go through the mlp or the dot product."""
    target: int
    """The places of scalar features, or ABSENT."""
    rate: int
    slope: int
    shift: int


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
    solver, heads, (pair_weight, pair_bias) = _solver(logits), _heads(logits), _pair_parameters(logits)
    work = 4 + (solver.vector if solver.gate == MLP else 0)  # elementary functions a pair
    padding = -keys % LANES
    w = F.pad(w, (0, padding))
    vectors = w[:, :, : solver.vector] / math.sqrt(max(1, solver.vector))
    w = w.unflatten(3, (-1, LANES)).transpose(2, 3)  # (B, H, K/16, F, 16)
    u, values = u.mT.contiguous(), F.pad(values, (0, 0, 0, padding))
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
                if solver.gate == BILINEAR:
                    torch.mm(u[row, index, rows, : solver.vector], vectors[row, index, :, :width], out=weights)
                over_blocks(
                    weigh,
                    len(weights),
                    weights.numel() * work,
                    u[row, index, rows].flatten().numpy(),
                    w[row, index, : width // LANES].flatten().numpy(),
                    pair_weight[index].numpy(),
                    pair_bias[index].numpy(),
                    time[min(row, len(time) - 1), 0].flatten().numpy(),
                    sight[min(row, len(sight) - 1), min(index, sight.shape[1] - 1)].flatten().numpy(),
                    head,
                    solver,
                    weights.flatten().numpy(),
                    inverse_sums.numpy(),
                )
                attended = out[row, index, rows]
                torch.mm(weights, values[row, index, :width], out=attended)
                attended *= inverse_sums[: len(weights), None]
    return out


def _solver(logits: LiquidLogits) -> Solver:
    scalars = ("target", "rate", "slope", "shift")
    places = {
        name: logits.vector + logits.scalars.index(name) if name in logits.scalars else ABSENT for name in scalars
    }
    return Solver(
        gate=GATES[logits.gate],
        mode=MODES[logits.mode],
        steps=logits.euler_steps,
        constant_rate=logits.rate or 0.0,
        least_rate=logits.least_rate,
        features=logits.features,
        vector=logits.vector,
        **places,
    )


def _heads(logits: LiquidLogits) -> list[Head]:
    """The numbers of each head; a logit that starts nowhere starts at zero, a time without scale has a scale of one."""
    count = logits.heads
    starts, scaled = logits.mode != "steady", logits.timed and logits.pseudo_time != "sigmoid"
    initial = logits.initial_logit.tolist() if starts else [0.0] * count
    scales = F.softplus(logits.time_scale).tolist() if scaled else [1.0] * count
    return [Head(*numbers) for numbers in zip(logits.gain.tolist(), initial, scales, strict=True)]


def _pair_parameters(logits: LiquidLogits) -> tuple[Tensor, Tensor]:
    """Weights (H, 2·hidden) and biases (H, 2) of the mlp gate, for target and rate; zeros for what there is not."""
    count, like = logits.heads, logits.gain
    if logits.gate != "mlp":
        return like.new_zeros(count, 2), like.new_zeros(count, 2)
    missing = 2 - logits.pair_bias.shape[1]  # the row of the rate, where it is a constant
    return F.pad(logits.pair_weight, (0, 0, 0, missing)).flatten(1), F.pad(logits.pair_bias, (0, missing))


def _of_pairs(given: Tensor | float, keys: int, like: Tensor) -> Tensor:
    """Numbers of pairs (B or 1, H or 1, rows or 1, width), zero at the keys that fill up sixteen."""
    if not isinstance(given, Tensor):
        given = torch.full((1, 1, 1, keys), given, dtype=like.dtype)
    return F.pad(given[..., :keys].to(like.dtype), (0, -keys % LANES))


@njit(nogil=True, cache=True, **OPTIONS)
def weigh(first, last, u, w, pair_weight, pair_bias, horizon, seen, head, solver, weights, inverse_sums):
    """The softmax weights of queries ``first`` to ``last - 1``, not yet divided by their sums.

    Arrays are flat, so that compiled functions share them without counting references; K is a multiple of LANES.

    Args:
        first: of the queries to be done.
        last: the query after them.
        u: (Q·F) features of the queries.
        w: (K/16 · F · 16) features of the keys, by sixteens: what a pair needs lies together.
        pair_weight: (2·hidden) of the mlp gate: of the target, then of the rate.
        pair_bias: (2).
        horizon: (Q·K), or (K) for all queries: time of the pairs.
        seen: (Q·K), or (K) for all queries: 1 where the query sees the key, else 0.
        head: numbers of the head.
        solver: what gates and solution are.
        weights: (Q·K), to be written; the products of the bilinear gate stand there.
        inverse_sums: (Q), to be written: zero where no key is seen.
    """
    blocks = len(w) // solver.features // LANES
    horizon_rows, seen_rows = len(horizon) // (blocks * LANES), len(seen) // (blocks * LANES)
    lanes = np.empty(LANES, weights.dtype)
    zero = load(seen, 0) * 0.0
    for i in range(first, last):
        query, row = i * solver.features, i * blocks
        times, sight = i % horizon_rows * blocks, i % seen_rows * blocks
        peak = zero + LOWEST
        for j in range(blocks):
            keys = j * solver.features
            target, rate = gates(u, query, w, keys, load(weights, row + j), pair_weight, pair_bias, solver)
            time = head.time_scale * load(horizon, times + j)
            if solver.slope != ABSENT:
                time = sigmoid(
                    (u[query + solver.slope] + load(w, keys + solver.slope)) * time
                    + (u[query + solver.shift] + load(w, keys + solver.shift))
                )
            share = progress(rate, time, solver)
            logit = head.gain * (head.initial_logit + share * (target / rate - head.initial_logit))
            logit = where_positive(load(seen, sight + j), logit, zero + LOWEST)
            store(weights, row + j, logit)
            peak = where_positive(logit - peak, logit, peak)
        store(lanes, 0, peak)
        highest = lanes[0]
        for lane in range(1, LANES):
            highest = max(highest, lanes[lane])
        added = zero
        for j in range(blocks):
            weight = exp(load(weights, row + j) - highest) * load(seen, sight + j)
            store(weights, row + j, weight)
            added = added + weight
        everything = total(added)
        inverse_sums[i] = 1 / everything if everything > 0 else 0


@njit(inline="always", **OPTIONS)
def gates(u, query, w, keys, products, pair_weight, pair_bias, solver):
    """Target φ and rate ω of a query and sixteen keys.

    The features of the query begin at u[query], those of the keys at w[16·keys]; ``products`` are the targets of the
    bilinear gate.
    """
    zero = load(w, keys) * 0.0
    target, rate = products, zero + pair_bias[1]
    if solver.gate == MLP:
        target = zero + pair_bias[0]
        for f in range(solver.vector):
            hidden = tanh(u[query + f] + load(w, keys + f))
            target = target + pair_weight[f] * hidden
            rate = rate + pair_weight[solver.vector + f] * hidden
    elif solver.gate == AFFINE:
        target = sigmoid(u[query + solver.target] + load(w, keys + solver.target))
    if solver.constant_rate > 0:
        rate = zero + solver.constant_rate
    else:
        if solver.gate != MLP:
            rate = u[query + solver.rate] + load(w, keys + solver.rate)
        rate = softplus(rate) + solver.least_rate
    return target, rate


@njit(inline="always", **OPTIONS)
def progress(rate, time, solver):
    """The share of the way to the steady logit."""
    one = rate * 0.0 + 1.0
    share = one
    if solver.mode == EXACT:
        x = rate * time
        # The difference 1 - e^-x loses digits where x is small; there its series is as good.
        series = x * (one - x / 2 * (one - x / 3 * (one - x / 4 * (one - x / 5))))
        share = where_positive(x - SMALL, one - exp(-x), series)
    elif solver.mode == EULER:
        step = rate * time / solver.steps
        step = where_positive(step - 1.0, one, step)
        left = one
        for _ in range(solver.steps):
            left = left * (one - step)
        share = one - left
    return share


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

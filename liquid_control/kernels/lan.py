"""Liquid attention on the CPU, forward: chunks of queries, sixteen keys at a time, for `liquid_control.nn`.

For a head of a sequence the kernel takes query after query. What belongs to a pair is a :class:`Lanes`, one key a lane,
so gates and the solution of the ODE read as in `liquid_control.nn.liquid_logits`. No array is larger than the queries
of a chunk times the keys. Weights times values is torch's matrix product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor
from torch.nn import functional as F

from liquid_control.kernels import are_plain, is_traced
from liquid_control.kernels.attention import GATES, MODES, Logits, Pairs
from liquid_control.kernels.batch import over_blocks
from liquid_control.kernels.fast_math import (
    DOUBLE_LOG2_E,
    OPTIONS,
    SINGLE_LOG2_E,
    exp2,
    kernel_part,
    sigmoid,
    softplus,
    tanh,
)
from liquid_control.kernels.simd import LANES, load, store, total, where_positive

AFFINE, MLP, BILINEAR = GATES.values()
EXACT, EULER, STEADY = MODES.values()
ABSENT = -1  # in the place of a feature that the gate or the time does not have
CACHED_PAIRS = 1 << 17  # pairs of a chunk, whose weights should stay in a core's own cache
LOWEST = -1e30  # a logit that no key has
SMALL = 0.01  # of ω t


class Heads(NamedTuple):
    """The numbers of H heads; a logit that starts nowhere starts at zero, a time without a scale has a scale of one."""

    gain: np.ndarray
    initial_logit: np.ndarray
    time_scale: np.ndarray
    pair_weight: np.ndarray
    """(H·2·hidden) of the mlp gate: of the target, then of the rate."""
    pair_bias: np.ndarray
    """(H·2)."""


class Spread(NamedTuple):
    """Numbers of pairs, and how many sixteens of keys lie from one sequence, head or query to the next."""

    numbers: np.ndarray
    by_sequence: int
    by_head: int
    by_query: int
    """Each 0 where all share the same."""


class Extent(NamedTuple):
    """What a call of the kernel spans."""

    queries: int
    """Of each head of each sequence."""
    heads: int
    sixteens: int
    """Of keys there are, for each head of each sequence."""
    looked_at: int
    """Sixteens of keys, the first ones."""


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


def attend(logits: Logits, u: Tensor, w: Tensor, values: Tensor, pairs: Pairs) -> Tensor | None:
    """The attended values (B, H, Q, D), without gradients; None where the reference form must run.

    Where torch traces, this is the operator `torch.ops.liquid_control.liquid_attention`.

    Args:
        logits: gates and solution.
        u: (B, H, F, Q) features of the queries, float32 or float64.
        w: (B, H, F, K) features of the keys.
        values: (B, H, K, D).
        pairs: which query sees which key, and for how long.
    """
    if not logits.are_known():
        return None
    if not is_traced() and are_plain(u, w, values):
        return _attend(logits, u, w, values, pairs)
    horizon, time = (pairs.horizon, 0.0) if isinstance(pairs.horizon, Tensor) else (None, pairs.horizon)
    return _operator(
        u,
        w,
        values,
        time,
        horizon,
        pairs.query_times,
        pairs.key_times,
        pairs.real,
        pairs.mask,
        pairs.causal,
        logits.gate,
        logits.mode,
        logits.clock,
        logits.fixed_time,
        logits.euler_steps,
        logits.rate,
        logits.least_rate,
        logits.vector,
        " ".join(logits.scalars),
        logits.gain,
        logits.initial_logit,
        logits.time_scale,
        logits.pair_weight,
        logits.pair_bias,
    )


@torch.library.custom_op("liquid_control::liquid_attention", mutates_args=(), device_types="cpu")
def _operator(
    u: Tensor,
    w: Tensor,
    values: Tensor,
    time: float,
    horizon: Tensor | None,
    query_times: Tensor | None,
    key_times: Tensor | None,
    real: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    gate: str,
    mode: str,
    clock: str,
    fixed_time: float,
    euler_steps: int,
    rate: float,
    least_rate: float,
    vector: int,
    scalars: str,
    gain: Tensor,
    initial_logit: Tensor | None,
    time_scale: Tensor | None,
    pair_weight: Tensor | None,
    pair_bias: Tensor | None,
) -> Tensor:
    logits = Logits(
        gate, mode, clock, fixed_time, euler_steps, rate, least_rate, vector, tuple(scalars.split()), gain,
        initial_logit, time_scale, pair_weight, pair_bias,
    )  # fmt: skip
    pairs = Pairs(w.shape[3], time if horizon is None else horizon, query_times, key_times, real, mask, causal)
    return _attend(logits, u, w, values, pairs)


@_operator.register_fake
def _(u, w, values, *_):
    return u.new_empty(u.shape[0], u.shape[1], u.shape[3], values.shape[3])


def _attend(logits: Logits, u: Tensor, w: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    batch, heads, _, queries = u.shape
    keys, padding = w.shape[3], -w.shape[3] % LANES
    solver, numbers = _solver(logits), _numbers_of_heads(logits)
    work = 4 + (solver.vector if solver.gate == MLP else 0)  # elementary functions a pair
    # From here on the sequences of a batch and their heads are one dimension, N.
    u = u.mT.flatten(0, 1).contiguous()  # (N, Q, F)
    w, values = F.pad(w, (0, padding)).flatten(0, 1), F.pad(values, (0, 0, 0, padding)).flatten(0, 1).contiguous()
    vectors = w[:, : solver.vector].contiguous() / math.sqrt(max(1, solver.vector))
    sixteens = w.unflatten(2, (-1, LANES)).transpose(1, 2).flatten().numpy()  # (N, K/16, F, 16)
    attended = torch.empty(len(u), queries, values.shape[2], dtype=u.dtype)
    chunk = min(queries, max(8, CACHED_PAIRS // (len(u) * (keys + padding))))
    buffer = torch.empty(len(u) * chunk * (keys + padding), dtype=u.dtype)
    inverse_sums = torch.empty(len(u) * chunk, dtype=u.dtype)
    for start in range(0, queries, chunk):
        rows = slice(start, min(start + chunk, queries))
        count = rows.stop - start
        # Later keys are seen by no query of the chunk.
        end = min(keys, rows.stop) if pairs.causal else keys
        width = end + -end % LANES
        weights = buffer[: len(u) * count * width].view(-1, count, width)
        if solver.gate == BILINEAR:
            torch.bmm(u[:, rows, : solver.vector], vectors[:, :, :width], out=weights)
        seen = pairs.seen(rows, u)
        over_blocks(
            weigh,
            len(u) * count,
            weights.numel() * work,
            u[:, rows].flatten().numpy(),
            sixteens,
            numbers,
            _of_pairs(_clock(logits, pairs.horizons(rows)), end, u),
            _of_pairs(1.0 if seen is None else seen, end, u),
            Extent(count, heads, (keys + padding) // LANES, width // LANES),
            solver,
            weights.flatten().numpy(),
            inverse_sums.numpy(),
        )
        sums = inverse_sums[: len(u) * count].view(-1, count, 1)
        attended[:, rows] = (weights @ values[:, :width]).mul_(sums)
    return attended.unflatten(0, (batch, heads))


def _clock(logits: Logits, horizon: Tensor | float) -> Tensor | float:
    """What a horizon is to :func:`weigh`, before scales and gates."""
    if logits.clock == "fixed":
        return logits.fixed_time
    if logits.clock == "log":
        return torch.log1p(horizon) if isinstance(horizon, Tensor) else math.log1p(horizon)
    return horizon


def _solver(logits: Logits) -> Solver:
    return Solver(
        gate=GATES[logits.gate],
        mode=MODES[logits.mode],
        steps=logits.euler_steps,
        constant_rate=logits.rate,
        least_rate=logits.least_rate,
        features=logits.features,
        vector=logits.vector,
        **{scalar: logits.place(scalar, ABSENT) for scalar in ("target", "rate", "slope", "shift")},
    )


def _numbers_of_heads(logits: Logits) -> Heads:
    count, vector, like = logits.heads, logits.vector, logits.gain
    pair_weight, pair_bias = like.new_zeros(count, 2, vector), like.new_zeros(count, 2)
    if logits.pair_weight is not None and logits.pair_bias is not None:
        given = logits.pair_bias.shape[1]  # one row where the rate is a constant
        pair_weight[:, :given], pair_bias[:, :given] = logits.pair_weight, logits.pair_bias
    initial = like.new_zeros(count) if logits.initial_logit is None else logits.initial_logit
    scales = like.new_ones(count) if logits.time_scale is None else logits.time_scale
    return Heads(*(part.detach().flatten().numpy() for part in (like, initial, scales, pair_weight, pair_bias)))


def _of_pairs(given: Tensor | float, keys: int, like: Tensor) -> Spread:
    """Numbers of pairs, a number for all or (B or 1, H or 1, rows or 1, keys), zero at keys that fill up sixteen."""
    if not isinstance(given, Tensor):
        given = torch.full((1, 1, 1, keys), given, dtype=like.dtype)
    given = F.pad(given[..., :keys].to(like.dtype), (0, -keys % LANES)).contiguous()
    strides = [
        stride // LANES if size > 1 else 0 for size, stride in zip(given.shape[:3], given.stride()[:3], strict=True)
    ]
    return Spread(given.flatten().numpy(), *strides)


@njit(nogil=True, cache=True, **OPTIONS)
def weigh(first, last, u, w, heads, horizons, sights, extent, solver, weights, inverse_sums):
    """The softmax weights of queries ``first`` to ``last - 1``, not yet divided by their sums.

    Arrays are flat. There are N heads of sequences, Q queries each, and K keys, filled up to a multiple of sixteen.

    Args:
        first: of the N·Q queries that are to be done.
        last: the query after them.
        u: (N·Q·F) features of the queries.
        w: (N·K/16·F·16) features of the keys, by sixteens: what a pair needs lies together.
        heads: the numbers of each head.
        horizons: the time of each pair.
        sights: for each pair 1 where the query sees the key, else 0.
        extent: Q, and how many keys there are and how many are looked at.
        solver: what gates and solution are.
        weights: (N·Q·K), to be written; of the bilinear gate the products stand there.
        inverse_sums: (N·Q), to be written: zero where no key is seen.
    """
    horizon, seen, pair_weight, pair_bias = horizons.numbers, sights.numbers, heads.pair_weight, heads.pair_bias
    lanes = np.empty(LANES, weights.dtype)
    zero = load(seen, 0) * 0.0
    for i in range(first, last):
        n, row = i // extent.queries, i % extent.queries
        sequence, head = n // extent.heads, n % extent.heads
        times = sequence * horizons.by_sequence + head * horizons.by_head + row * horizons.by_query
        sight = sequence * sights.by_sequence + head * sights.by_head + row * sights.by_query
        gain, initial, scale = heads.gain[head], heads.initial_logit[head], heads.time_scale[head]
        query, own = i * solver.features, i * extent.looked_at
        peak = zero + LOWEST
        for j in range(extent.looked_at):
            keys = (n * extent.sixteens + j) * solver.features
            products = load(weights, own + j)
            target, rate = gates(u, query, w, keys, products, pair_weight, pair_bias, head, solver)
            time = scale * load(horizon, times + j)
            if solver.slope != ABSENT:
                slope = u[query + solver.slope] + load(w, keys + solver.slope)
                shift = u[query + solver.shift] + load(w, keys + solver.shift)
                time = sigmoid(slope * time + shift)
            logit = gain * (initial + progress(rate, time, solver) * (target / rate - initial))
            logit = where_positive(load(seen, sight + j), logit, zero + LOWEST)
            store(weights, own + j, logit)
            peak = where_positive(logit - peak, logit, peak)
        store(lanes, 0, peak)
        highest = lanes[0]
        for lane in range(1, LANES):
            highest = max(highest, lanes[lane])
        added = zero
        for j in range(extent.looked_at):
            weight = exp(load(weights, own + j) - highest) * load(seen, sight + j)
            store(weights, own + j, weight)
            added = added + weight
        everything = total(added)
        inverse_sums[i] = 1 / everything if everything > 0 else 0


@njit(inline="always", **OPTIONS)
def gates(u, query, w, keys, products, pair_weight, pair_bias, head, solver):
    """Target φ and rate ω of a query and sixteen keys.

    The features of the query begin at u[query], those of the keys at w[16·keys]; ``products`` are the targets of the
    bilinear gate.
    """
    zero = load(w, keys) * 0.0
    target, rate = products, zero + pair_bias[2 * head + 1]
    if solver.gate == MLP:
        target = zero + pair_bias[2 * head]
        of_target = 2 * head * solver.vector
        of_rate = of_target + solver.vector
        for f in range(solver.vector):
            hidden = tanh(u[query + f] + load(w, keys + f))
            target = target + pair_weight[of_target + f] * hidden
            rate = rate + pair_weight[of_rate + f] * hidden
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


# One tick of the layer


class Cell(NamedTuple):
    """A :class:`liquid_control.nn.LAN` for :func:`tick`: its weights, and scratch."""

    input_map: np.ndarray
    """(C·P): inputs to features of the query, features of the key, values, and currents of the neurons."""
    input_bias: np.ndarray
    """(P)."""
    attended_map: np.ndarray
    """(units·units): what is attended to, to currents."""
    motor_map: np.ndarray
    """(units·motor)."""
    motor_bias: np.ndarray
    """(motor)."""
    time_driven: bool
    fixed_time: float
    """The time of every pair, or 0 where it is the age of the key."""
    logarithmic: bool
    """Whether it is log(1 + age)."""
    projected: np.ndarray
    """Scratch (P)."""
    window: np.ndarray
    """Scratch (W·slot): features of the key, value and age of each step of the window, oldest first."""
    tile: np.ndarray
    """Scratch (H·K/16·F·16): features of the keys as :func:`weigh` wants them, K the window filled up to sixteens."""
    times: np.ndarray
    """Scratch (K)."""
    seen: np.ndarray
    """Scratch (K)."""
    weights: np.ndarray
    """Scratch (H·K)."""
    inverse_sums: np.ndarray
    """Scratch (H)."""
    attended: np.ndarray
    """Scratch (units)."""


@njit(cache=True, **OPTIONS)
def tick(x, elapsed, state, y, cell, heads, solver):
    """A :data:`liquid_control.kernels.step.Tick`; the rest are those of :func:`step_arrays`."""
    units, motor = cell.attended.size, cell.motor_bias.size
    if elapsed > 0 or not cell.time_driven:
        _remember(x, elapsed if cell.time_driven else 1.0, state[units + motor :], cell, heads, solver)
        _attend_to_window(cell, heads, solver)
        for i in range(units):
            state[i] = cell.projected[cell.projected.size - units + i]
        _add_product(cell.attended, cell.attended_map, state[:units])
        for i in range(units):
            state[i] = tanh(state[i])
        for o in range(motor):
            state[units + o] = cell.motor_bias[o]
        _add_product(state[:units], cell.motor_map, state[units : units + motor])
        for o in range(motor):
            state[units + o] = tanh(state[units + o])
    for o in range(y.size):
        y[o] = state[units + motor - y.size + o]


@kernel_part
def _add_product(x, matrix, y):
    """Adds to y (O) the product of x (I) and a flat matrix (I·O)."""
    for i in range(x.size):
        for o in range(y.size):
            y[o] += x[i] * matrix[i * y.size + o]


@kernel_part
def _remember(x, elapsed, remembered, cell, heads, solver):
    """Puts the input at the end of the window, lets time pass, and writes all but the oldest step into the state."""
    features = heads.gain.size * solver.features
    cell.projected[:] = cell.input_bias
    _add_product(x, cell.input_map, cell.projected)
    slot = features + cell.attended.size + 1
    window, past = cell.window, remembered.size
    window[:past] = remembered
    window[past : past + slot - 1] = cell.projected[features : features + slot - 1]
    for s in range(window.size // slot):
        end = (s + 1) * slot - 1  # the place of the age
        if s * slot == past:
            window[end] = elapsed
        elif window[end] > 0:
            window[end] += elapsed
        age = window[end]
        cell.seen[s] = age > 0
        cell.times[s] = cell.fixed_time if cell.fixed_time > 0 else math.log1p(age) if cell.logarithmic else age
    remembered[:] = window[slot:]


@kernel_part
def _attend_to_window(cell, heads, solver):
    """What each head is given by the window, by the kernel of a chunk of one query."""
    count, features, units = heads.gain.size, solver.features, cell.attended.size
    sixteens, slot = cell.times.size // LANES, count * features + units + 1
    steps = cell.window.size // slot
    for s in range(steps):
        for head in range(count):
            place = (head * sixteens + s // LANES) * features * LANES + s % LANES
            product = cell.window[0] * 0
            for f in range(features):
                key = cell.window[s * slot + head * features + f]
                cell.tile[place + f * LANES] = key
                if f < solver.vector:
                    product += cell.projected[head * features + f] * key
            if solver.gate == BILINEAR:
                cell.weights[head * cell.times.size + s] = product / math.sqrt(solver.vector)
    weigh(
        0,
        count,
        cell.projected,
        cell.tile,
        heads,
        Spread(cell.times, 0, 0, 0),
        Spread(cell.seen, 0, 0, 0),
        Extent(1, count, sixteens, sixteens),
        solver,
        cell.weights,
        cell.inverse_sums,
    )
    width = units // count
    cell.attended[:] = 0
    for s in range(steps):
        for i in range(units):
            share = cell.weights[i // width * cell.times.size + s] * cell.inverse_sums[i // width]
            cell.attended[i] += share * cell.window[s * slot + count * features + i]


def step_arrays(
    logits: Logits,
    query: tuple[Tensor, Tensor],
    key: Tensor,
    value: Tensor,
    present: tuple[Tensor, Tensor],
    attended: Tensor,
    motor: tuple[Tensor, Tensor] | None,
    window: int,
    time_driven: bool,
) -> tuple[Cell, Heads, Solver]:
    """What :func:`tick` takes beside input, time, state and output: copies of the weights.

    Args:
        logits: gates and solution.
        query: weight (H·F, C) and bias (H·F,) of the features of a query.
        key: weight (H·F, C) of those of a key.
        value: weight (units, C).
        present: weight (units, C) and bias (units,) of the present input.
        attended: weight (units, units) of what is attended to.
        motor: weight (motor, units) and bias (motor,) of the motor neurons, if there are any.
        window: steps attended to, W.
        time_driven: whether a step of no time is none.
    """
    units, gain = len(attended), logits.gain
    features = logits.heads * logits.features
    slots = window + -window % LANES
    input_bias = torch.cat([query[1], gain.new_zeros(features + units), present[1]])
    motor_map, motor_bias = (gain[:0], gain[:0]) if motor is None else (motor[0].T, motor[1])

    def flat(weight: Tensor) -> np.ndarray:
        return weight.detach().flatten().clone().numpy()

    def scratch(*shape: int) -> np.ndarray:
        return gain.new_zeros(shape).flatten().numpy()

    cell = Cell(
        input_map=flat(torch.cat([query[0], key, value, present[0]]).T),
        input_bias=flat(input_bias),
        attended_map=flat(attended.T),
        motor_map=flat(motor_map),
        motor_bias=flat(motor_bias),
        time_driven=time_driven,
        fixed_time=logits.fixed_time,
        logarithmic=logits.clock == "log",
        projected=scratch(2 * features + 2 * units),
        window=scratch(window, features + units + 1),
        tile=scratch(features, slots),
        times=scratch(slots),
        seen=scratch(slots),
        weights=scratch(logits.heads, slots),
        inverse_sums=scratch(logits.heads),
        attended=scratch(units),
    )
    heads = Heads(*(part.copy() for part in _numbers_of_heads(logits)))
    return cell, heads, _solver(logits)

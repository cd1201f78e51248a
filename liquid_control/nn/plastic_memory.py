"""Heads of fast weights: a memory that a network writes while it reads, all steps of a sequence at once.

Each head has a plastic trace H (`liquid_control.nn.trace`), which is state: every sequence has its own. From the inputs
x_t of a step come a query, a key and a value, each seen through a short causal convolution c of the last steps:

    q_t, k_t = unit(SiLU(c ∗ W_q x)_t), unit(SiLU(c ∗ W_k x)_t)        v_t = SiLU(c ∗ W_v x)_t
    λ_t = e^{-f_t Δ_t},  f_t = softplus(w_λ · x_t + b_λ)               forgetting, of each head
    η_t = σ(w_η · x_t + b_η)                                          neuromodulation: what is worth writing
    r_t = H_{t-1} q_t,  H_t = the rule of (H_{t-1}, k_t, v_t, λ_t, η_t)
    y_t = W_o (gain ∘ RMS-norm(r_t) ∘ SiLU(W_g x_t))

- Without the convolution a key is the present input only, and a Hebbian memory cannot bind two inputs that follow one
  another (Arora et al. 2023, "Zoology", §4).
- Unit keys and η ≤ 1 let the delta rule never overshoot. Under the oja rule values are of unit length too, because it
  forgets along them.
- Dense writes drown each other: of a write Δ steps ago, signal to noise is λ^Δ √(d (1 - λ²)) for keys of d numbers. So
  half-lives ln 2 / f begin log-spaced, and η decides what is written at all.
- With an eligibility, η is signed, tanh(w_η · x_t + b_η), and writes what was said in the last steps instead of what
  is said now (`liquid_control.nn.eligibility`): worth is often known afterwards. What is eligible fades by a learned
  e^{-Δ softplus(w_μ · x_t + b_μ)}, of each head.
- A norm of what is read, a head at a time, stands in for a bound of the trace. Nothing ever rescales a whole trace,
  which would fade old memories with every write.

Forgetting takes time, writing takes a step: each step writes once, whatever the time Δ since the one before. With timed
writing it writes the more, η_t = 1 - (1 - σ(w_η · x_t + b_η))^Δ: under the delta rule and Oja's, and where nothing is
forgotten meanwhile, as Δ equal steps of one would. A Hebbian write, which adds, stays below one.

Where no time passes the state stays as it is, so nothing is forgotten, written or moved through the convolution: such a
step is a question, and its output is what the memory as it is answers to these inputs. The convolution counts steps,
not time.

Such heads are those of Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence length",
and of Yang, Kautz & Hatamizadeh 2025, "Gated delta networks". Here a trace is read before it is written, and time sets
how it decays. Neuromodulation is that of Miconi et al. 2019, "Backpropamine".

Two forms, equal in value: the reference form, a loop over steps, and chunks of steps (`chunkwise_trace`), which on CUDA
are a Triton kernel for the rules hebb and delta. Training on the CPU is three operators of `liquid_control.kernels`: of
queries, keys and values, of the trace, and of the norm. A single step, which has no system to solve, is written out:
what is spoken token by token is as slow as its operations are many.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_learning, memory_step, reference_is_chosen
from liquid_control.kernels.step import Tick
from liquid_control.nn.eligibility import chunkwise_retroactive_trace, retroactive_trace
from liquid_control.nn.layer import Elapsed, LiquidLayer, in_front
from liquid_control.nn.parameters import before_softplus, read, settle
from liquid_control.nn.plastic import refuse_unknown
from liquid_control.nn.trace import RULES, chunkwise_trace, plastic_trace

UNIT_FLOOR = 1e-6
"""Added to the squared length of queries and keys: one of nearly nothing fades, instead of a gradient without bound."""
READ_FLOOR = 1e-5
"""Added to the mean square of what a head reads: an empty memory reads as nothing."""
WIPED = -60.0
"""log λ of a step that leaves nothing, 1e-26: less would only cost digits of gradients, which go through log λ."""
FIRST_WRITE = -1.0
"""b_η to begin with: a write of a quarter."""
ELIGIBLE = (16.0, 2.0)
"""Half-lives of what is eligible to begin with, of the first head and of the last, in units of elapsed time."""


class PlasticMemory(LiquidLayer):
    """Heads of fast weights, written by a Hebbian, Oja's or the delta rule, with learned forgetting and writing.

    The state is the trace of each head and the tail of the convolution; its size has nothing to do with the length of a
    sequence. The trace is computed in single precision at least. A state has the dtype of the parameters, though: to
    compute in half precision, leave them in float32 and use autocast.

    Args:
        input_size: number of inputs.
        units: number of values of all heads together, a multiple of ``heads``.
        output_size: if given, outputs go through a linear readout of this size; else they are what the heads read,
            normalised and gated.
        heads: number of heads.
        key_size: width of the keys of a head; None is that of its values, ``units / heads``.
        rule: "hebb" adds to what a key holds, "delta" replaces it, "oja" replaces what led to a value.
        convolution: how many steps the convolution sees, the present one included; 1 is none.
        shortest_half_life: of a trace without inputs, in units of elapsed time.
        longest_half_life: heads begin log-spaced from this, the first, down to the shortest.
        eligibility: whether a step writes what was said in the steps before it, by a signed η; for the rule "hebb".
        timed_writing: whether a step writes the more, the more time it takes; not with an eligibility.
        learn_initial_state: whether the initial state, traces included, is a parameter.

    Raises:
        ValueError: if a number is out of range or the rule is unknown.
    """

    name = "plastic_memory"
    kept_as: ClassVar = {"output_size": "readout_size"}

    def __init__(
        self,
        input_size: int,
        units: int,
        output_size: int | None = None,
        *,
        heads: int = 2,
        key_size: int | None = None,
        rule: str = "delta",
        convolution: int = 4,
        shortest_half_life: float = 4.0,
        longest_half_life: float = 4096.0,
        eligibility: bool = False,
        timed_writing: bool = False,
        learn_initial_state: bool = False,
    ):
        if heads < 1:
            raise ValueError(f"heads must be at least 1, given {heads}.")
        if units < 1 or units % heads:
            raise ValueError(f"units must be at least 1 and a multiple of heads = {heads}, given {units}.")
        width, values = units // heads if key_size is None else key_size, units // heads
        for what, size in (("key_size", width), ("convolution", convolution)):
            if size < 1:
                raise ValueError(f"{what} must be at least 1, given {size}.")
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}, expected one of {RULES}.")
        if not 0 < shortest_half_life <= longest_half_life < math.inf:
            raise ValueError(
                "half-lives must be positive and finite, the shortest first, "
                f"given {shortest_half_life} and {longest_half_life}."
            )
        if eligibility and rule != "hebb":
            raise ValueError(f"an eligibility needs the rule 'hebb', given {rule!r}.")
        if eligibility and timed_writing:
            raise ValueError("what is eligible is written by a signed η: timed_writing must be False, given True.")
        features = heads * (2 * width + values)
        self._traces = ["trace", "eligibility"] if eligibility else ["trace"]
        parts = dict.fromkeys(self._traces, heads * values * width) | {"tail": (convolution - 1) * features}
        super().__init__(input_size, parts, output_size or units, learn_initial_state)
        self.units, self.readout_size, self.heads, self.key_size = units, output_size, heads, key_size
        self.rule, self.convolution = rule, convolution
        self.shortest_half_life, self.longest_half_life = shortest_half_life, longest_half_life
        self.eligibility, self.timed_writing = eligibility, timed_writing
        self.frozen: frozenset[str] = frozenset()
        self._features = [heads * width, heads * width, units]

        self.project = nn.Linear(input_size, features, bias=False)  # queries, keys, values of all heads
        self.taps = nn.Parameter(torch.empty(features, convolution).uniform_(-1, 1) / math.sqrt(convolution))
        self.modulator = nn.Linear(input_size, (3 if eligibility else 2) * heads)  # forgetting, writing, fading
        self.gate = nn.Linear(input_size, units)
        self.gain = nn.Parameter(torch.ones(units))
        self.readout: nn.Module = nn.Identity() if output_size is None else nn.Linear(units, output_size, bias=False)
        with torch.no_grad():
            self.modulator.bias[:heads] = self._paces(longest_half_life, shortest_half_life)
            self.modulator.bias[heads : 2 * heads] = FIRST_WRITE
            if eligibility:
                self.modulator.bias[heads : 2 * heads] = math.atanh(1 / (1 + math.exp(-FIRST_WRITE)))
                self.modulator.bias[2 * heads :] = self._paces(*ELIGIBLE)

    def _paces(self, first: float, last: float) -> Tensor:
        """The biases (H,) of half-lives that are log-spaced from the first head's to the last's."""
        spaced = torch.linspace(-math.log(first), -math.log(last), self.heads, device=self.gain.device).exp()
        return before_softplus(math.log(2) * spaced)

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; all modules are called."""
        settle([self.project, self.modulator, self.gate, self.readout], called=True)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """Traces and the tail of the convolution.

        ``trace`` (B, H, V, K), of H heads with keys of K and values of V numbers, and ``tail``
        (B, convolution - 1, H (2 K + V)): what became queries, keys and values in the last steps, oldest first. An
        ``eligibility`` has the shape of the trace.
        """
        parts = super().unpack(state)
        traces = {name: parts[name].unflatten(1, (self.heads, self.units // self.heads, -1)) for name in self._traces}
        return traces | {"tail": parts["tail"].unflatten(1, (self.convolution - 1, sum(self._features)))}

    def freeze(self, *names: str) -> None:
        """Holds the ``trace`` as it is, read but neither written nor forgotten; without a name, it lives again.

        An ``eligibility`` is held apart.

        Raises:
            ValueError: if a name is unknown.
        """
        refuse_unknown(names, self._traces)
        self.frozen = frozenset(names)

    def half_lives(self, x: Tensor) -> Tensor:
        """The half-lives (…, H) of the traces under inputs (…, C), in units of elapsed time."""
        return math.log(2) / F.softplus(self.modulator(x)[..., : self.heads])

    def writing(self, x: Tensor) -> Tensor:
        """Neuromodulation η (…, H) under inputs (…, C): the share of a write, in (0, 1), or (-1, 1) if eligible.

        With timed writing it is that of a step of one.
        """
        return self._worth(self.modulator(x)[..., self.heads : 2 * self.heads], 1.0)

    def _worth(self, writing: Tensor, span: Tensor | float) -> Tensor:
        if self.eligibility:
            return torch.tanh(writing)
        if self.timed_writing:
            return -torch.expm1(-span * F.softplus(writing))  # log(1 - σ(w)) = -softplus(w)
        return torch.sigmoid(writing)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`: in chunks of steps, a single step, or in the reference form step by step."""
        if len(x) == 1 and advance is None and not (self.eligibility or reference_is_chosen()):
            return self._integrate_one(x, state, elapsed)
        if self._has_kernels(x, state, elapsed, advance):
            return self._integrate_by_kernels(x, state, elapsed)
        before = self.unpack(state)
        features, tail = self._convolve(self.project(x), before["tail"].transpose(0, 1), advance)
        # A trace accumulates rounding errors.
        dtype = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (
            part.transpose(0, 1).unflatten(2, (self.heads, -1))
            for part in F.silu(features.to(dtype)).split(self._features, 2)
        )
        if self.rule == "oja":
            v = _unit(v)
        modulation = [part.transpose(0, 1) for part in self._modulate(x, elapsed, advance, dtype)]
        traces = [before[name].to(dtype) for name in self._traces]
        stepwise = reference_is_chosen() or len(x) == 1
        if self.eligibility:
            afterwards = retroactive_trace if stepwise else chunkwise_retroactive_trace
            read, *traces = afterwards(_unit(q), _unit(k), v, *modulation, *traces)
        else:
            at_once = plastic_trace if stepwise else chunkwise_trace
            (decay, rate), (trace,) = modulation, traces
            read, *traces = at_once(_unit(q), _unit(k), v, decay, rate, trace, self.rule)

        heard = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + READ_FLOOR)
        heard = heard.flatten(2).transpose(0, 1).to(x.dtype)
        y = self.readout(self.gain * heard * F.silu(self.gate(x)))
        parts = [trace.flatten(1).to(x.dtype) for trace in traces]
        return y, torch.cat([*parts, tail.transpose(0, 1).flatten(1)], 1)

    def _integrate_one(self, x: Tensor, state: Tensor, elapsed: Elapsed) -> tuple[Tensor, Tensor]:
        """:meth:`integrate` for a single step, in few operations: at such sizes each costs more than its arithmetic."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        before = self.unpack(state)
        seen = torch.cat([before["tail"], self.project(x[0])[:, None]], 1)  # (B, convolution, F)
        features = F.silu((seen * self.taps.T).sum(1).to(dtype))
        asked, value = features.split([2 * self._features[0], self.units], 1)
        asked = _unit(asked.unflatten(1, (2, self.heads, -1)))  # (B, 2, H, K), query and key
        value = value.unflatten(1, (self.heads, -1))
        decay, rate = (part[0, ..., None] for part in self._modulate(x, elapsed, None, dtype))  # (B, H, 1)

        trace, key = before["trace"].to(dtype), asked[:, 1]
        read, held = (trace @ asked.permute(0, 2, 3, 1)).unbind(-1)  # (B, H, V)
        if self.rule == "delta":
            value = torch.addcmul(value, decay, held, value=-1)
        elif self.rule == "oja":
            value = _unit(value)
            key = torch.addcmul(key, decay, (value[..., None, :] @ trace)[..., 0, :], value=-1)
        trace = torch.addcmul(decay[..., None] * trace, (rate * value)[..., None], key[..., None, :])

        heard = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + READ_FLOOR)
        y = self.readout(self.gain * heard.flatten(1).to(x.dtype) * F.silu(self.gate(x[0])))
        return y[None], torch.cat([trace.flatten(1).to(x.dtype), seen[:, 1:].flatten(1)], 1)

    def _has_kernels(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> bool:
        """Whether this is a training step on the CPU without padding."""
        if advance is not None or self.eligibility or not len(x):
            return False
        return is_learning(x, state, elapsed, *self.parameters())

    def _integrate_by_kernels(self, x: Tensor, state: Tensor, elapsed: Elapsed) -> tuple[Tensor, Tensor]:
        """:meth:`integrate` of all steps by operators: `kernels.heads`, `kernels.trace`, and the norm."""
        from liquid_control.kernels.heads import memory_heads  # needs Numba
        from liquid_control.kernels.residual_block import rms_norm
        from liquid_control.kernels.trace import plastic_trace as trace_of_heads

        x, before = x.transpose(0, 1), self.unpack(state)
        given = self.project(x)
        inputs = torch.cat([before["tail"], given.to(state.dtype)], 1)
        heads = memory_heads(
            inputs, self.taps, self.heads, self._features[0] // self.heads, self.rule == "oja", UNIT_FLOOR
        )
        span = elapsed.transpose(0, 1) if isinstance(elapsed, Tensor) else elapsed
        decay, rate = (part.contiguous() for part in self._modulate(x, span, None, state.dtype))  # (B, T, H)
        read, trace, *_ = trace_of_heads(*heads, decay, rate, before["trace"], self.rule)
        y = self.readout(rms_norm(read.flatten(2), self.gain, self.gate(x).to(read.dtype), self.heads, READ_FLOOR))
        tail = inputs[:, inputs.shape[1] - self.convolution + 1 :]
        return y.transpose(0, 1), torch.cat([trace.flatten(1), tail.flatten(1)], 1)

    def _convolve(self, given: Tensor, tail: Tensor, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Each feature through its own taps, over the last steps that advanced and the present one.

        Args:
            given: (T, B, F) features.
            tail: (convolution - 1, B, F) those before, oldest first.
            advance: (T, B) or None.

        Returns:
            The convolved features (T, B, F), and the tail after the last step.
        """
        steps, past = len(given), self.convolution - 1
        if advance is None:
            inputs = torch.cat([tail, given])
            earlier = [inputs[first : first + steps] for first in range(past)]
            tail = inputs[steps:]
        else:
            count, place = in_front(advance)
            inputs = torch.cat([tail, torch.empty_like(given).scatter(0, _of_each(place, given), given)])
            oldest = torch.where(advance, count - 1, count)
            earlier = [inputs.gather(0, _of_each(oldest + later, given)) for later in range(past)]
            recent = count[-1] + torch.arange(past, device=given.device)[:, None]
            tail = inputs.gather(0, _of_each(recent, given))
        *taps, present = self.taps.unbind(1)
        convolved = given * present
        for seen, tap in zip(earlier, taps, strict=True):
            convolved = torch.addcmul(convolved, seen, tap)
        return convolved, tail

    def _modulate(self, x: Tensor, elapsed: Elapsed, advance: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
        """λ, η and, of what is eligible, μ (T, B, H) of each step and head; 1, 0 and 1 where they stay."""
        forgetting, writing, *fading = self.modulator(x).to(dtype).split(self.heads, -1)
        span = elapsed[..., None].to(dtype) if isinstance(elapsed, Tensor) else elapsed
        rate = self._worth(writing, span)
        decay, *fades = ((-span * F.softplus(pace)).clamp(min=WIPED).exp() for pace in (forgetting, *fading))
        if "trace" in self.frozen:
            decay, rate = torch.ones_like(decay), torch.zeros_like(rate)
        if "eligibility" in self.frozen:
            fades = [torch.ones_like(decay)]
        if advance is not None:
            moves = advance[..., None]
            decay, rate = torch.where(moves, decay, 1), torch.where(moves, rate, 0)
            fades = [torch.where(moves, kept, 1) for kept in fades]
        return [decay, rate, *fades]

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`; without eligibility, and where all maps are linear ones."""
        maps = [self.project, self.modulator, self.gate]
        readout = self.readout if self.readout_size else None
        if self.eligibility or not all(isinstance(part, nn.Linear) for part in [*maps, readout or self.gate]):
            return None
        sizes = memory_step.Sizes(
            self.heads, self._features[0] // self.heads, self.units // self.heads, self.rule,
            "trace" not in self.frozen, self.timed_writing, UNIT_FLOOR, READ_FLOOR, WIPED,
        )  # fmt: skip
        spoken = None if readout is None else _affine(readout)
        arrays = memory_step.step_arrays([_affine(part) for part in maps], self.taps, self.gain, spoken, sizes)
        return memory_step.tick, arrays

    @property
    def neuron_count(self) -> int:
        """Queries, keys and values, each a SiLU of its own; gates are not counted."""
        return sum(self._features)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (…, N) of length one, those of nearly nothing shorter."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + UNIT_FLOOR)


def _affine(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear map, zeros where it has none."""
    (weight,) = read(module, ("weight",))
    return weight, weight.new_zeros(len(weight)) if module.bias is None else read(module, ("bias",))[0]


def _of_each(place: Tensor, features: Tensor) -> Tensor:
    """Places (T, B) in time, for each of the features (·, B, F)."""
    return place[..., None].expand(-1, -1, features.shape[2])

"""Plastic synapses: weights that a network changes while it runs (Miconi et al. 2018, 2019 "Backpropamine").

A synapse from neuron j to neuron i has a fixed weight W_ij, learned by gradient descent as usual, and beside it a
Hebbian trace H_ij, which activity writes and which is state: every sequence of a batch has its own. A head of neuron i
sees

    W_i · z(t) + α_i H_i(t-1) · k_i(t)

with α_i a learned gain of the neuron and head, and k_i the activity x_j of its presynaptic neurons as a key:

    k_ij = x_j / √(ε + Σ_j x_j²), summed over the synapses of neuron i

Presynaptic at step t is what the heads see: the neuron's own group at t - 1, and the group before it at t. Once the
neurons have moved, the postsynaptic activity y_i, their new state x_i(t), writes:

    hebb    H_i ← λ_i H_i + η_i y_i k_i
    oja     H_i ← λ_i H_i + η_i y_i (k_i - y_i λ_i H_i)
    delta   H_i ← λ_i H_i + η_i (y_i - λ_i H_i · k_i) k_i

So within a group pre is at t - 1 and post at t, as in Miconi's equations 1 and 2, and a trace is read before it is
written. The oja rule forgets in proportion to what it writes (Oja 1982). The delta rule overwrites what is stored under
a key instead of adding to it (Schlag et al. 2021). Miconi's own form, H ← (1 - η) H + η y k, is hebb with λ = 1 - η:
a layer begins there and learns λ and η apart.

- λ_i = 2^(-Δt / half-life), the half-life learned for each neuron. Forgetting takes time, writing takes a step: each
  step writes once, whatever the time since the one before.
- η_i(t) = σ(m_i · z(t) + c_i) in (0, 1): neuromodulation, the network decides when it learns. Unmodulated, σ(c_i).
- Retroactive modulation (Backpropamine, §3.2) has an eligibility trace E between activity and trace, and a signed η:

      H_i ← λ_i H_i + η_i E_i,    E_i ← μ_i E_i + (1 - μ_i) y_i k_i,    η_i(t) = tanh(m_i · z(t) + c_i)

Nothing ever rescales a whole trace, which would fade old memories with every write. It is bounded all the same: with
|y| ≤ 1, ‖k‖ ≤ 1 and λ < 1 no row of H grows longer than 1 / (1 - λ_i).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import ncps.wirings
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_known
from liquid_control.kernels.lockstep import merge_gate
from liquid_control.nn.cfc import CfC
from liquid_control.nn.layer import Elapsed, LiquidLayer, per_tick
from liquid_control.nn.parameters import settle
from liquid_control.nn.wiring import Circuit, Wiring, build_circuit

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick

RULES = ("hebb", "oja", "delta")

KEY_FLOOR = 0.01
"""ε: keys of nearly silent neurons fade instead of being blown up to length one."""


class HalfLives(nn.Module):
    """Learned half-lives, one for each neuron, between one unit of time and ``longest``.

    half-life = longest^σ(p), so that a step of gradient descent changes it by a factor, and never beyond the bounds.

    Args:
        initial: (N,) half-lives to begin with, in units of elapsed time.
        longest: the upper bound.

    Raises:
        ValueError: if an initial half-life is not between one and ``longest``.
    """

    def __init__(self, initial: Tensor, longest: float):
        super().__init__()
        if not initial.is_meta and not ((initial > 1) & (initial < longest)).all():
            raise ValueError(f"half-lives must be between 1 and {longest}, given {initial.tolist()}.")
        self.longest = longest
        self.position = nn.Parameter(torch.logit(initial.log() / math.log(longest)))

    def forward(self) -> Tensor:
        """The half-lives (N,)."""
        return torch.exp2(torch.sigmoid(self.position) * math.log2(self.longest))

    def retention(self, elapsed: Elapsed) -> Tensor:
        """λ = 2^(-elapsed / half-life): (N,), or (…, N) for elapsed times (…, N)."""
        return torch.exp2(-elapsed / self())

    def at_each_tick(self, elapsed: Elapsed, ticks: int) -> list[Tensor]:
        """The retention at each tick: (N,), or (B, N) for elapsed times (ticks, B, N)."""
        retention = self.retention(elapsed)
        return list(retention.unbind(0)) if isinstance(elapsed, Tensor) else [retention] * ticks


class PlasticCfC(LiquidLayer):
    """Closed-form continuous-time neurons (:class:`~liquid_control.nn.CfC`) whose recurrent synapses are plastic.

    ``cfc`` is the network without plasticity, a whole CfC in mode "default": weights of a trained one load into it, and
    at ``alpha`` = 0 the outputs are its own. Traces exist for the synapses that its heads g and h have.

    The state holds the neurons, then the trace of each synapse in the order of :attr:`synapses`, then (retroactive) its
    eligibility. By name: :meth:`unpack`, :meth:`pack`, :meth:`reset`, :meth:`freeze`.

    Args:
        input_size: number of inputs.
        units: a :class:`Wiring`, a :class:`Circuit` or an ncps wiring; a number of neurons is fully connected.
        rule: "hebb", "oja" or "delta".
        modulated: whether the rate of writing depends on inputs and neurons.
        retroactive: whether an eligibility trace stands between activity and trace; needs the hebb rule and modulation.
        plastic_inputs: whether the synapses from the inputs are plastic too.
        longest_half_life: of a trace, in units of elapsed time. Neurons of each group begin log-spaced from 4 to a
            quarter of this.
        ncps_compat: what the wiring masks, as :class:`~liquid_control.nn.CfC` has it.
        learn_initial_state: whether the initial state, traces included, is a parameter.

    Raises:
        ValueError: if an option is unknown, or does not go with another.
    """

    name = "plastic"
    kept_as: ClassVar = {"units": "circuit", "ncps_compat": "cfc.ncps_compat"}

    def __init__(
        self,
        input_size: int,
        units: int | Wiring | Circuit | ncps.wirings.Wiring,
        *,
        rule: str = "hebb",
        modulated: bool = True,
        retroactive: bool = False,
        plastic_inputs: bool = False,
        longest_half_life: float = 1024.0,
        ncps_compat: bool = True,
        learn_initial_state: bool = False,
    ):
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}, expected one of {RULES}.")
        if retroactive and (rule != "hebb" or not modulated):
            raise ValueError(
                f"retroactive modulation needs rule 'hebb' and modulated=True, given {rule!r} and {modulated}."
            )
        if longest_half_life <= 16:
            raise ValueError(f"longest_half_life is {longest_half_life}, expected more than 16.")
        cfc = CfC(input_size, build_circuit(units, input_size), ncps_compat=ncps_compat)
        connected = _connections(cfc)
        traced = connected if plastic_inputs else connected[:, input_size:]
        neurons, synapses = cfc.state_size, int(traced.sum())
        traces = ["trace", "eligibility"] if retroactive else ["trace"]
        parts: dict[str, int | Sequence[int]] = {**cfc.parts, **dict.fromkeys(traces, synapses)}
        super().__init__(input_size, parts, cfc.output_size, learn_initial_state)
        self._traces = traces
        self.cfc, self.rule, self.modulated = cfc, rule, modulated
        self.retroactive, self.plastic_inputs, self.longest_half_life = retroactive, plastic_inputs, longest_half_life
        self.frozen: frozenset[str] = frozenset()
        self.register_constant("connected", connected.to(torch.get_default_dtype()))
        self.register_constant("place", traced.flatten().nonzero()[:, 0])

        # Small, but not zero: at α = 0 nothing that is written would have a gradient.
        self.alpha = nn.Parameter(0.1 * torch.randn(3, neurons))
        half_lives = _log_spaced(cfc.group_sizes, 4, longest_half_life / 4)
        self.half_lives = HalfLives(half_lives, longest_half_life)
        written = 1 - torch.exp2(-1 / half_lives)
        self.rate = nn.Parameter(torch.atanh(written) if retroactive else torch.logit(written))
        self.modulator = nn.Parameter(torch.zeros(neurons, input_size + neurons)) if modulated else None
        self.eligibility = HalfLives(_log_spaced(cfc.group_sizes, 2, 16), longest_half_life) if retroactive else None

    connected: Tensor
    place: Tensor

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`: the synapses of the fixed network, of which none is called."""
        self.cfc.follow_modules()
        settle([self.cfc, *(head for cell in self.cfc.cells for head in cell.heads())])

    @property
    def circuit(self) -> Circuit | None:
        """The wiring."""
        return self.cfc.circuit

    @property
    def synapses(self) -> list[tuple[int, int]]:
        """(source, destination) of each trace; neurons as the state has them, input c as -1 - c."""
        inputs = self.input_size if self.plastic_inputs else 0
        columns = inputs + self.cfc.state_size
        pairs = [divmod(place, columns) for place in self.place.tolist()]
        return [(column - inputs if column >= inputs else -1 - column, row) for row, column in pairs]

    def pack(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The state (B, S) of parts by name: what :meth:`unpack` gave, from a file perhaps.

        Raises:
            ValueError: if a part is missing, unknown, or of another size.
        """
        places = self.unpack(torch.arange(self.state_size)[None])
        given, expected = ({name: part.shape[-1] for name, part in of.items()} for of in (parts, places))
        if given != expected:
            raise ValueError(f"the parts are {given}, expected {expected}.")
        order = torch.cat([places[name][0] for name in parts])
        return torch.cat(list(parts.values()), 1)[:, order.argsort().to(next(iter(parts.values())).device)]

    def reset(self, state: Tensor, *names: str) -> Tensor:
        """The state (B, S) with the named parts as they are initially, such as ``trace``; the others stay.

        Raises:
            ValueError: if a name is unknown.
        """
        parts = self.unpack(state)
        refuse_unknown(names, list(parts))
        initial = self.unpack(self.initial_state(len(state)))
        return self.pack(parts | {name: initial[name].to(state) for name in names})

    def freeze(self, *names: str) -> None:
        """Holds the named of ``trace`` and ``eligibility`` as they are, read but not written; the others live.

        Raises:
            ValueError: if a name is unknown.
        """
        refuse_unknown(names, self._traces)
        self.frozen = frozenset(names)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`. Groups are each one tick behind the group before, see `kernels.lockstep`.

        A neuron has synapses from its own group and the one before only, so its trace runs behind with it.
        """
        cfc, inputs, neurons = self.cfc, self.input_size, self.cfc.state_size
        x, elapsed, advance = cfc.lockstep.align(x, elapsed, advance)
        spans = list(elapsed.unbind(0)) if isinstance(elapsed, Tensor) else [elapsed] * len(x)
        moving = per_tick(advance, len(x))
        weight, bias = self._heads_for(elapsed)
        drive, recurrent = F.linear(x, weight[:, :inputs], bias), weight[:, inputs:].T
        connected = self.connected if self.plastic_inputs else self.connected[:, inputs:]
        floor = connected.new_full((neurons,), KEY_FLOOR)
        rate = torch.sigmoid(self.rate)
        retention = self.half_lives.at_each_tick(elapsed, len(x))
        fading = retention if self.eligibility is None else self.eligibility.at_each_tick(elapsed, len(x))

        potential, *traces = state.split([neurons, *[len(self.place)] * len(self._traces)], 1)
        trace, *eligibility = (self._matrices(part, connected.shape) for part in traces)
        states = []
        ticks = zip(x.unbind(0), drive.unbind(0), spans, moving, retention, fading, strict=True)
        for sensed, driven, span, advances, kept, fades in ticks:
            source = torch.cat([sensed, potential], 1) if self.plastic_inputs else potential
            inverse_length = torch.rsqrt(torch.addmm(floor, source.square(), connected.T))
            recalled = torch.bmm(trace, source[..., None])[..., 0] * inverse_length
            heads = torch.addmm(driven, torch.cat([potential, recalled], 1), recurrent)
            if self.modulator is not None:
                heads, modulation = heads.split([heads.shape[1] - neurons, neurons], 1)
                rate = torch.tanh(modulation) if self.retroactive else torch.sigmoid(modulation)
            g, h, *gates = heads.split(neurons, 1)
            gate = gates[0] if len(gates) == 1 else gates[0] * span + gates[1]
            post = torch.lerp(torch.tanh(g), torch.tanh(h), torch.sigmoid(gate))

            key = source[:, None] * connected
            if self.eligibility is not None:
                written = _updated(trace, kept, rate, eligibility[0])
                eligible = _updated(eligibility[0], fades, (1 - fades) * post * inverse_length, key)
                eligibility = [self._advanced("eligibility", eligible, eligibility[0], advances)]
            else:
                signal = rate * (post - kept * recalled if self.rule == "delta" else post)
                if self.rule == "oja":
                    kept = kept * (1 - signal * post)
                written = _updated(trace, kept, signal * inverse_length, key)
            trace = self._advanced("trace", written, trace, advances)
            potential = post if advances is None else torch.where(advances, post, potential)
            states.append(potential)
        final = [potential, *(part.flatten(1).index_select(1, self.place) for part in (trace, *eligibility))]
        return torch.stack(states[cfc.lockstep.lag :])[..., cfc.motor], torch.cat(final, 1)

    def step_kernel(self) -> tuple[Tick, tuple[np.ndarray, ...]] | None:
        """See :class:`LiquidLayer`."""
        from liquid_control.kernels import plastic  # Numba is optional

        rule = "retroactive" if self.retroactive else self.rule
        if not is_known("the plastic layer", "rule", rule, plastic.RULES):
            return None
        weight, bias = self.cfc.all_heads()
        modulator = torch.zeros_like(weight[0]) if self.modulator is None else self.modulator * self.connected
        fading = self.half_lives if self.eligibility is None else self.eligibility
        return plastic.tick, plastic.step_arrays(
            torch.cat([weight, modulator[None]]),
            torch.cat([bias, self.rate[None]]),
            self.alpha,
            torch.stack([self.half_lives(), fading()]),
            # By name an input c is -1 - c; to the kernel sources lie one after another, [inputs | neurons].
            [(j + self.input_size if j >= 0 else -1 - j, i) for j, i in self.synapses],
            self.cfc.group_sizes,
            self.cfc.motor,
            rule,
            ("trace" in self.frozen, "eligibility" in self.frozen),
            KEY_FLOOR,
        )

    def _heads_for(self, elapsed: Elapsed) -> tuple[Tensor, Tensor]:
        """The heads of the fixed network and the modulator's: weight (heads · N, inputs + N + N), bias (heads · N,).

        They see the inputs, the neurons, and with gain α what each neuron itself recalls.
        """
        weight, bias = merge_gate(*self.cfc.all_heads(), elapsed)
        silent = torch.zeros_like(self.alpha[:1])
        gains: list[Tensor] = [self.alpha]
        if isinstance(elapsed, Tensor):
            gains = [self.alpha[:2], silent, self.alpha[2:]]  # what time multiplies has a head of its own, and no trace
        if self.modulator is not None:
            weight = torch.cat([weight, (self.modulator * self.connected)[None]])
            bias = torch.cat([bias, self.rate[None]])
            gains.append(silent)
        return torch.cat([weight, torch.diag_embed(torch.cat(gains))], 2).flatten(0, 1), bias.flatten()

    def _advanced(self, name: str, new: Tensor, old: Tensor, advances: Tensor | None) -> Tensor:
        """The trace ``name`` (B, N, sources) after a tick: new in the rows that advance, old where it is frozen."""
        if name in self.frozen:
            return old
        return new if advances is None else torch.where(advances[..., None], new, old)

    def _matrices(self, values: Tensor, shape: torch.Size) -> Tensor:
        """From a value for each synapse (B, synapses) to (B, N, sources), zero where there is no synapse."""
        return values.new_zeros(values.shape[0], shape.numel()).index_copy(1, self.place, values).unflatten(1, shape)

    @property
    def neuron_count(self) -> int:
        """The neurons."""
        return self.cfc.neuron_count

    def parameter_count(self) -> int:
        """Parameters in use: weights that the masks take out are not counted."""
        unused = 0 if self.modulator is None else int((self.known_constant("connected") == 0).sum())
        static = sum(parameter.numel() for parameter in self.cfc.parameters()) - self.cfc.parameter_count()
        return sum(parameter.numel() for parameter in self.parameters()) - unused - static


def _connections(cfc: CfC) -> Tensor:
    """(N, inputs + N) bool: which inputs and neurons the heads g and h of each neuron see."""
    # On the CPU even where layers are built without memory: how many synapses there are is a number of their shapes.
    connected = torch.zeros(cfc.state_size, cfc.input_size + cfc.state_size, dtype=torch.bool, device="cpu")
    first, before = 0, 0
    for mask in cfc.masks:
        assert mask is not None
        size, fan_in = mask.shape
        connected[first : first + size, before : before + fan_in] = torch.from_numpy(mask)
        before += fan_in - size
        first += size
    return connected


def _log_spaced(group_sizes: tuple[int, ...], shortest: float, longest: float) -> Tensor:
    """(N,) half-lives: those of each group span the whole range."""
    spans = [torch.logspace(math.log2(shortest), math.log2(longest), size, base=2) for size in group_sizes]
    return torch.cat(spans)


def _updated(trace: Tensor, kept: Tensor, amplitude: Tensor, key: Tensor) -> Tensor:
    """What is ``kept`` (B, N) of each row of a trace (B, N, sources), plus its ``amplitude`` (B, N) times the key."""
    return torch.addcmul(kept[..., None] * trace, amplitude[..., None], key)


def refuse_unknown(names: tuple[str, ...], known: list[str]) -> None:
    """Raises a ValueError for the first name that is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"the state has no part {name!r}, expected one of {', '.join(map(repr, known))}.")

"""A liquid core behind attention, and blocks around it: the parts of a hybrid transformer, each of them a layer.

Attention looks things up among the last steps; a liquid core has a state that goes on evolving while time passes. The
mixer does both, one after the other, and the block around a mixer is that of a transformer with norms in front
(Xiong et al. 2020, "On layer normalization in the transformer architecture", §3.2):

    a = attention(u),  m = a + W core(norm(u + a))                     the hybrid mixer of u
    x ← x + m(norm(x)),  x ← x + SwiGLU(norm(x))                       the block

A block around attention alone is the transformer without its liquid core. A stack of blocks is a layer again, so its
state is one flat tensor: windows of keys and values, and what the cores carry. :class:`ResidualStack` is the whole
network, for inputs and outputs of any number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liquid_control.kernels import is_learning, is_traced
from liquid_control.nn.composite import Bidirectional, Stack, batch_first
from liquid_control.nn.layer import Elapsed, LiquidLayer
from liquid_control.nn.parameters import find_parameter, read, settle
from liquid_control.nn.window_attention import TimedAttention, WindowAttention

if TYPE_CHECKING:
    from liquid_control.kernels.step import Tick


def _runs_in_one_pass(*given: Tensor) -> bool:
    """Whether operators of `kernels.residual_block` may learn from these: a compiler makes one pass by itself."""
    return not is_traced() and is_learning(*given)


class RMSNorm(nn.RMSNorm):
    """Vectors of mean square one, times a gain: that of torch, in fewer passes over memory while it learns."""

    def __init__(self, width: int):
        super().__init__(width)

    def forward(self, x: Tensor) -> Tensor:
        """From (…, width) to the same."""
        gain = self.weight
        if x.shape[-1:] != gain.shape or x.dtype != gain.dtype or not _runs_in_one_pass(x, gain):
            return super().forward(x)
        from liquid_control.kernels.residual_block import rms_norm  # needs Numba

        normed: Tensor = rms_norm(x, gain, None, 1, torch.finfo(x.dtype).eps)
        return normed


class SwiGLU(nn.Module):
    """The feed-forward part of a block: W (SiLU(U x) ∘ V x) (Shazeer 2020, equation 6)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.expand = nn.Linear(width, 2 * inner, bias=False)
        self.contract = nn.Linear(inner, width, bias=False)

    @property
    def width(self) -> int:
        """Numbers of an input and of an output."""
        return self.expand.in_features

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """From (…, width) to the same. Each step is by itself: a mask (…) is for what may stand in this place."""
        halves = self.expand(x)
        if _runs_in_one_pass(halves):
            from liquid_control.kernels.residual_block import swiglu  # needs Numba

            shown = swiglu(halves)
        else:
            gate, value = halves.chunk(2, -1)
            shown = F.silu(gate) * value
        contracted: Tensor = self.contract(shown)
        return contracted


class HybridMixer(LiquidLayer):
    """Attention to a window of the last steps, and a liquid core that reads the input together with what it found.

    The state is the window of the attention, then the state of the core. Each looks after masks and elapsed times
    itself, as in a :class:`liquid_control.nn.Stack`.

    Args:
        input_size: number of inputs and of outputs.
        core: any layer of as many inputs that does not look ahead.
        units: of the attention, a multiple of 2 · ``heads``; None is ``input_size``.
        heads: of the attention.
        window: how many steps it attends to, the present one included.
        timed: whether it knows when these were, as :class:`TimedAttention` does; else it knows their order.

    Raises:
        ValueError: if a number is out of range, or the core does not fit, looks ahead, or is a hybrid.
    """

    name = "hybrid"
    kept_as: ClassVar = {"units": "attention.units", "heads": "attention.heads", "window": "attention.window"}

    def __init__(
        self,
        input_size: int,
        core: LiquidLayer,
        *,
        units: int | None = None,
        heads: int = 4,
        window: int = 128,
        timed: bool = True,
    ):
        if core.input_size != input_size:
            raise ValueError(f"the core takes {core.input_size} inputs, expected {input_size}.")
        if any(isinstance(part, Bidirectional) for part in core.modules()):
            raise ValueError("the core looks ahead (a bidirectional layer is in it), which a hybrid must not.")
        if "attention" in core.parts:
            raise ValueError("the core is a hybrid itself: put one above the other, in a Stack, instead.")
        kind = TimedAttention if timed else WindowAttention
        attention = kind(input_size, units or input_size, input_size, heads=heads, window=window)
        seen = attention.state_size
        parts = {name: _behind(seen, places) for name, places in core.parts.items()}
        super().__init__(input_size, {"attention": seen, **parts}, input_size)
        self.timed, self.time_driven = timed, attention.time_driven or core.time_driven
        self.attention, self.core = attention, core
        self.norm = RMSNorm(input_size)
        self.readout = nn.Linear(core.output_size, input_size, bias=False)

    def initial_state(self, batch: int) -> Tensor:
        """An empty window, and the core's own initial state."""
        return torch.cat([self.attention.initial_state(batch), self.core.initial_state(batch)], 1)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """``attention`` (B, ·), which its own ``unpack`` takes apart, and the parts of the core's state."""
        seen, carried = state.split([self.attention.state_size, self.core.state_size], 1)
        return {"attention": seen, **self.core.unpack(carried)}

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; elapsed times may be zero, and ``advance`` is the mask."""
        x, elapsed, mask = x.transpose(0, 1), batch_first(elapsed), batch_first(advance)
        seen, carried = state.split([self.attention.state_size, self.core.state_size], 1)
        found, seen = self.attention.run_inside(x, seen, elapsed, mask)
        y, carried = self.core.run_inside(self.norm(x + found), carried, elapsed, mask)
        return (found + self.readout(y)).transpose(0, 1), torch.cat([seen, carried], 1)

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`; of a core that has one."""
        attention, core = self.attention.step_kernel_inside(), self.core.step_kernel_inside()
        if settle([self.norm, self.readout], called=True) or attention is None or core is None:
            return None
        from liquid_control.kernels import hybrid  # Numba is optional

        seen, (readout,) = self.attention.state_size, read(self.readout, ("weight",))
        return hybrid.mixer_tick, hybrid.mixer_arrays(
            hybrid.inside(attention, (0, seen), self.input_size, readout),
            hybrid.inside(core, (seen, self.state_size), self.core.output_size, readout),
            self.norm,
            readout,
        )

    def _advance(self, elapsed: Elapsed, mask: Tensor | None, shape: tuple[int, int]) -> tuple[Elapsed, Tensor | None]:
        return elapsed, mask

    @property
    def neuron_count(self) -> int:
        """Those of the attention and of the core."""
        return self.attention.neuron_count + self.core.neuron_count

    def parameter_count(self) -> int:
        """Parameters in use, of attention, core and what joins them."""
        joints = sum(parameter.numel() for part in (self.norm, self.readout) for parameter in part.parameters())
        return self.attention.parameter_count() + self.core.parameter_count() + joints


def _behind(size: int, places: Sequence[int]) -> Sequence[int]:
    """Places in a state that ``size`` others now stand before."""
    if isinstance(places, range):
        return range(size + places.start, size + places.stop, places.step)
    return [size + place for place in places]


class ResidualBlock(LiquidLayer):
    """The block of a transformer around any layer: a mixer, then a feed-forward part, both added to what was there.

    The state is the mixer's.

    Args:
        mixer: what looks at other steps. Outputs of another number than its inputs go through a linear map.
        expansion: width of the feed-forward part, in inputs; 0 leaves it out.
        dropout: share of what is added that is left out in training.

    Raises:
        ValueError: if a number is out of range.
    """

    name = "residual"
    kept_as: ClassVar = {"dropout": "drop.p"}

    def __init__(self, mixer: LiquidLayer, *, expansion: float = 7 / 3, dropout: float = 0.0):
        if not 0 <= expansion < float("inf"):
            raise ValueError(f"expansion must be at least 0 and finite, given {expansion}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), given {dropout}.")
        width = mixer.input_size
        super().__init__(width, mixer.parts, width)
        self.time_driven, self.expansion = mixer.time_driven, expansion
        self.mixer, self.before_mixer = mixer, nn.RMSNorm(width)
        self.join = nn.Identity() if mixer.output_size == width else nn.Linear(mixer.output_size, width, bias=False)
        inner = round(expansion * width)
        self.before_feed = RMSNorm(width) if inner else None
        self.feed = SwiGLU(width, inner) if inner else None
        self.drop = nn.Dropout(dropout)

    def initial_state(self, batch: int) -> Tensor:
        """The mixer's own initial state."""
        return self.mixer.initial_state(batch)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """The parts of the mixer's state."""
        return self.mixer.unpack(state)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; elapsed times may be zero, and ``advance`` is the mask."""
        x, elapsed, mask = x.transpose(0, 1), batch_first(elapsed), batch_first(advance)
        mixed, state = self.mixer.run_inside(self.before_mixer(x), state, elapsed, mask)
        x = x + self.drop(self.join(mixed))
        if self.feed is not None and self.before_feed is not None:
            x = x + self.drop(self.feed(self.before_feed(x), mask))
        return x.transpose(0, 1), state

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`; of a mixer that has one."""
        mixer = self.mixer.step_kernel_inside()
        others = [part for name, part in self.named_modules() if name and not name.startswith("mixer")]
        if mixer is None or settle(others, called=True) or type(self.feed) not in (SwiGLU, type(None)):
            return None  # one that remembers has no kernel
        from liquid_control.kernels import hybrid  # Numba is optional

        join = read(self.join, ("weight",))[0] if isinstance(self.join, nn.Linear) else None
        feed = None
        if self.feed is not None:
            feed = read(self.feed.expand, ("weight",))[0], read(self.feed.contract, ("weight",))[0]
        return hybrid.block_tick, hybrid.block_arrays(
            hybrid.inside(mixer, (0, self.state_size), self.mixer.output_size, find_parameter(self)),
            self.before_mixer,
            join,
            self.before_feed,
            feed,
        )

    def _advance(self, elapsed: Elapsed, mask: Tensor | None, shape: tuple[int, int]) -> tuple[Elapsed, Tensor | None]:
        return elapsed, mask

    @property
    def neuron_count(self) -> int:
        """Those of the mixer and of the feed-forward part."""
        return self.mixer.neuron_count + (0 if self.feed is None else self.feed.contract.in_features)

    def parameter_count(self) -> int:
        """Parameters in use, of the mixer and of the rest."""
        own = sum(parameter.numel() for name, parameter in self.named_parameters() if not name.startswith("mixer."))
        return own + self.mixer.parameter_count()


class ResidualStack(LiquidLayer):
    """Residual blocks between a linear map of the inputs and a linear readout, y = W norm(blocks(V x + b)) + c.

    With hybrid mixers in its blocks it is a whole hybrid transformer. The state is that of the blocks, one after
    another; part ``name`` of block i is ``"i.name"``.

    Args:
        input_size: number of inputs.
        blocks: from the inputs on, each with as many outputs as inputs, the same of all.
        output_size: number of outputs.

    Raises:
        ValueError: if there is no block, two don't fit, or a block looks ahead.
    """

    name = "residual_stack"
    kept_as: ClassVar = {"blocks": "blocks.layers"}

    def __init__(self, input_size: int, blocks: Sequence[LiquidLayer], output_size: int):
        stack = Stack(blocks)
        if any(isinstance(part, Bidirectional) for part in stack.modules()):
            raise ValueError("a block looks ahead (a bidirectional layer is in it), which a residual stack must not.")
        if stack.output_size != stack.input_size:
            raise ValueError(f"the blocks turn {stack.input_size} numbers into {stack.output_size}, expected as many.")
        super().__init__(input_size, stack.parts, output_size)
        self.time_driven = stack.time_driven
        self.encode = nn.Linear(input_size, stack.input_size)
        self.blocks = stack
        self.norm = RMSNorm(stack.input_size)
        self.readout = nn.Linear(stack.input_size, output_size)

    def initial_state(self, batch: int) -> Tensor:
        """The blocks' own initial states."""
        return self.blocks.initial_state(batch)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """The parts of every block's state, by the block's number and the part's name."""
        return self.blocks.unpack(state)

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`; elapsed times may be zero, and ``advance`` is the mask."""
        x, elapsed, mask = x.transpose(0, 1), batch_first(elapsed), batch_first(advance)
        y, state = self.blocks.run_inside(self.encode(x), state, elapsed, mask)
        return self.readout(self.norm(y)).transpose(0, 1), state

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`; of blocks that have one."""
        blocks = self.blocks.step_kernel_inside()
        if settle([self.encode, self.norm, self.readout], called=True) or blocks is None:
            return None
        from liquid_control.kernels import hybrid  # Numba is optional

        encode, readout = (read(module, ("weight", "bias")) for module in (self.encode, self.readout))
        inside = hybrid.inside(blocks, (0, self.state_size), self.blocks.output_size, encode[0])
        return hybrid.network_tick, hybrid.network_arrays(encode, inside, self.norm, readout)

    def _advance(self, elapsed: Elapsed, mask: Tensor | None, shape: tuple[int, int]) -> tuple[Elapsed, Tensor | None]:
        return elapsed, mask

    @property
    def neuron_count(self) -> int:
        """Those of all blocks; both linear maps have none."""
        return self.blocks.neuron_count

    def parameter_count(self) -> int:
        """Parameters in use, of the blocks and of the rest."""
        joints = (self.encode, self.norm, self.readout)
        return self.blocks.parameter_count() + sum(each.numel() for part in joints for each in part.parameters())

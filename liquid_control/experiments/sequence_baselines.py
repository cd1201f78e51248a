"""Baselines of sequence tasks that are no layers of `liquid_control.nn`: plain PyTorch, to be read beside their papers.

Each takes inputs x (B, T, C), elapsed times (B, T), of which the first is the time before the first step, and a mask
(B, T) or None, and puts out (B, T, U). Padding is at the end, and none of them looks ahead, so recurrent ones need no
mask.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liquid_control.nn import LiquidAttention, last_valid


class RNN(nn.Module):
    """h ← tanh(W x + U h + b) (Elman 1990), torch's own. The elapsed time has to be an input.

    Args:
        inputs: C.
        units: U.
    """

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.output_size = units
        self.network = nn.RNN(inputs, units, batch_first=True)

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
        """Outputs (B, T, U)."""
        y: Tensor = self.network(x)[0]
        return y


class GRUD(nn.Module):
    """A GRU whose state decays in between steps (Che et al. 2018, "GRU-D", equations 4 and 7 to 11).

        h ← exp(-max(0, w Δ + b)) h
        r, z = σ(W x + U h),  h̃ = tanh(W x + U (r h)),  h ← (1 - z) h + z h̃

    with the elapsed time Δ. The other half of GRU-D fills in values that nobody measured; here every step has all.

    Args:
        inputs: C.
        units: U.
    """

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.output_size = units
        self.decay = nn.Linear(1, units)
        self.of_input = nn.Linear(inputs, 3 * units)
        self.gates = nn.Linear(units, 2 * units, bias=False)
        self.candidate = nn.Linear(units, units, bias=False)

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
        """Outputs (B, T, U)."""
        decays = torch.exp(-F.relu(self.decay(elapsed[..., None]))).unbind(1)
        h, y = x.new_zeros(len(x), self.output_size), []
        for decay, given in zip(decays, self.of_input(x).unbind(1), strict=True):
            h = decay * h
            of_gates, of_candidate = given.split((2 * self.output_size, self.output_size), 1)
            r, z = torch.sigmoid(of_gates + self.gates(h)).chunk(2, 1)
            h = torch.lerp(h, torch.tanh(of_candidate + self.candidate(r * h)), z)
            y.append(h)
        return torch.stack(y, 1)


class PhasedLSTM(nn.Module):
    """An LSTM whose neurons open in a rhythm of their own (Neil et al. 2016, equations 1 to 10), at times t.

        φ = ((t - s) mod τ) / τ
        k = 2 φ / r  for φ < r / 2,  2 - 2 φ / r  for φ < r,  α φ  else
        c, h ← k (c̃, h̃) + (1 - k) (c, h)     c̃, h̃ those of an LSTM

    with α = 0 when it is not trained. The open share r is 5 % and learned, as period τ and shift s are.

    Args:
        inputs: C.
        units: U.
        longest: logarithm of the longest period at first; they are log-uniform from 1 on.
    """

    LEAK = 1e-3

    def __init__(self, inputs: int, units: int, longest: float = 3.0):
        super().__init__()
        self.output_size = units
        self.of_input = nn.Linear(inputs, 4 * units)
        self.of_state = nn.Linear(units, 4 * units, bias=False)
        self.log_period = nn.Parameter(longest * torch.rand(units))
        self.shift = nn.Parameter(torch.rand(units) * self.log_period.detach().exp())
        self.open = nn.Parameter(torch.full((units,), 0.05))

    def openness(self, times: Tensor) -> Tensor:
        """K (B, T, U) at times (B, T)."""
        period, share = self.log_period.exp(), self.open.clamp(1e-3, 1)
        phase = (times[..., None] - self.shift).remainder(period) / period
        rising, falling = 2 * phase / share, 2 - 2 * phase / share
        closed = (self.LEAK if self.training else 0.0) * phase
        return torch.where(phase < share / 2, rising, torch.where(phase < share, falling, closed))

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
        """Outputs (B, T, U)."""
        opened = self.openness(elapsed.cumsum(1)).unbind(1)
        h = c = x.new_zeros(len(x), self.output_size)
        y = []
        for k, given in zip(opened, self.of_input(x).unbind(1), strict=True):
            write, keep, candidate, show = (given + self.of_state(h)).chunk(4, 1)
            proposed = torch.sigmoid(keep) * c + torch.sigmoid(write) * torch.tanh(candidate)
            h, c = torch.lerp(h, torch.sigmoid(show) * torch.tanh(proposed), k), torch.lerp(c, proposed, k)
            y.append(h)
        return torch.stack(y, 1)


class ODELSTM(nn.Module):
    """An LSTM whose hidden state follows an ODE in between steps (Lechner & Hasani 2020, algorithm 1).

        h, c = LSTM(x, h, c);  h ← the solution of dh/dt = W₂ tanh(W₁ h + b₁) + b₂ after Δ, by 3 Euler steps

    with the forget gate's bias 1 higher.

    Args:
        inputs: C.
        units: U.
    """

    UNFOLDS = 3

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.output_size = units
        self.of_input = nn.Linear(inputs, 4 * units)
        self.of_state = nn.Linear(units, 4 * units, bias=False)
        self.flow = nn.Sequential(nn.Linear(units, units), nn.Tanh(), nn.Linear(units, units))

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None) -> Tensor:
        """Outputs (B, T, U)."""
        h = c = x.new_zeros(len(x), self.output_size)
        y = []
        for span, given in zip((elapsed[..., None] / self.UNFOLDS).unbind(1), self.of_input(x).unbind(1), strict=True):
            write, keep, candidate, show = (given + self.of_state(h)).chunk(4, 1)
            c = torch.sigmoid(keep + 1) * c + torch.sigmoid(write) * torch.tanh(candidate)
            h = torch.sigmoid(show) * torch.tanh(c)
            for _ in range(self.UNFOLDS):
                h = torch.addcmul(h, span, self.flow(h))
            y.append(h)
        return torch.stack(y, 1)


class TimeEmbedding(nn.Module):
    """Sines and cosines of a time, of learned frequencies (Shukla & Marlin 2021, "Multi-time attention", §3.1).

    Args:
        size: of the embedding, even. Periods begin log-spaced from 2 to 200.
    """

    def __init__(self, size: int):
        super().__init__()
        self.frequencies = nn.Parameter(2 * math.pi / torch.logspace(math.log10(2), math.log10(200), size // 2))

    def forward(self, times: Tensor) -> Tensor:
        """(B, T) to (B, T, size)."""
        angle = times[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)


class AttentionNetwork(nn.Module):
    """One block of causal attention over tokens that know their time: LAN, its controls, and scaled dot products.

    A token is made of its step and the four before, so padding at the end is never seen; a :class:`TimeEmbedding` is
    added. What is attended to and the token itself then go through a feed-forward part. All kinds differ in nothing but
    the weights of attention:

    - ``exact``, ``euler``, ``steady``: liquid attention, with the gate "mlp".
    - ``fixed``: liquid attention whose gates are constants of the head, so weights depend on time alone.
    - ``uniform``: liquid attention to which no time is given, so all weights are the same.
    - ``dot``: softmax of q·k / √d.

    Args:
        inputs: C.
        units: U, a multiple of 4.
        kind: see above.
    """

    HEADS, HIDDEN, STEPS = 4, 4, 5

    def __init__(self, inputs: int, units: int, kind: str):
        super().__init__()
        self.output_size, self.kind = units, kind
        self.of_steps = nn.Linear(inputs * self.STEPS, units)
        self.embedding = TimeEmbedding(units)
        self.norm = nn.LayerNorm(units)
        if kind == "dot":
            self.query, self.key, self.value, self.output = (nn.Linear(units, units) for _ in range(4))
        else:
            mode = kind if kind in ("euler", "steady") else "exact"
            self.attention = LiquidAttention(units, self.HEADS, mode=mode, hidden=self.HIDDEN)
        self.feed = nn.Sequential(
            nn.LayerNorm(units), nn.Linear(units, 2 * units), nn.SiLU(), nn.Linear(2 * units, units)
        )

    def forward(self, x: Tensor, elapsed: Tensor, mask: Tensor | None, last: bool = False) -> Tensor:
        """Outputs (B, T, U), or of the last real step alone (B, U), which spares the attention of all others."""
        ends = elapsed.cumsum(1)
        steps = F.pad(x, (0, 0, self.STEPS - 1, 0)).unfold(1, self.STEPS, 1)
        tokens = F.silu(self.of_steps(steps.flatten(2))) + self.embedding(ends)
        seen = self.norm(tokens)
        if last:
            asking, tokens = (last_valid(part, mask)[:, None] for part in (seen, tokens))
            tokens = tokens + self._attend(asking, seen, last_valid(ends[..., None], mask), ends, elapsed, mask)
            tokens = tokens[:, 0]
        else:
            tokens = tokens + self._attend(seen, seen, ends, ends, elapsed, None)
        return tokens + self.feed(tokens)

    def _attend(
        self, asking: Tensor, seen: Tensor, times: Tensor, ends: Tensor, elapsed: Tensor, real: Tensor | None
    ) -> Tensor:
        """What the tokens (B, Q, U) at ``times`` (B, Q) attend to among (B, T, U), of which some are real."""
        causal = asking.shape[1] > 1
        if self.kind == "dot":
            maps = self.query(asking), self.key(seen), self.value(seen)
            q, k, v = (part.unflatten(2, (self.HEADS, -1)).transpose(1, 2) for part in maps)
            hidden = None if real is None else real[:, None, None]
            found = F.scaled_dot_product_attention(q, k, v, hidden, is_causal=causal)
            y: Tensor = self.output(found.transpose(1, 2).flatten(2))
            return y
        given = asking, seen
        if self.kind == "fixed":
            given = torch.zeros_like(asking), torch.zeros_like(seen)
        # A key begins with its step, as elapsed times of a layer have it.
        when = {"horizon": 0.0} if self.kind == "uniform" else {"times": times, "key_times": ends - elapsed}
        found = self.attention(*given, seen, real=real, causal=causal, **when)
        return found

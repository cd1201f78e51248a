"""Liquid attention (LAN) as a recurrent layer: each neuron attends to a sliding window of the last steps.

The logits of :mod:`liquid_control.nn.liquid_logits` make causal attention over the window

    h_i = tanh(W_o Σ_j softmax_j(gain · a_ij) v_j + W_x x_i + b),    i - window < j ≤ i

and motor neurons read m_i = tanh(W_m h_i + b_m). The present input passes undiluted through W_x: of the values
attended to, its own is only one of ``window``.

The input of a step acts during the interval that ends with the step, as in every layer of this package. So the logit
of key j begins at t_{j-1}, and at step i it has had the horizon t_i - t_{j-1}, the elapsed times of steps j to i. The
newest key has had its own elapsed time, and no pair has had none.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from liquid_control.kernels import kernel_device
from liquid_control.kernels.step import Tick
from liquid_control.nn.layer import Elapsed, LiquidLayer
from liquid_control.nn.liquid_logits import LiquidLogits
from liquid_control.nn.parameters import settle


class LAN(LiquidLayer):
    """Liquid-attention neurons over a window of the last steps, and motor neurons behind them.

    The state holds the neurons and, for each of the ``window - 1`` steps before the next, oldest first, the features
    of its key, its value and its age: the time since it began to act, zero where no step has been. A step in which no
    time passes, or a padded one, does not enter the window. In mode "steady" and in mode "euler" with a ``delta_t``
    the layer is not driven by time: a step is a step, even if no time has passed.

    Args:
        input_size: number of inputs.
        units: number of liquid-attention neurons, a multiple of ``heads``.
        output_size: number of motor neurons, which are the outputs; None puts out the liquid-attention neurons.
        heads: number of heads; each attends with logits of its own to ``units / heads`` values a step.
        window: number of steps attended to, the present one included; at least 2.
        gate: "affine", "mlp" or "bilinear", see :class:`LiquidLogits`.
        mode: "exact", "euler" or "steady".
        hidden: width a head of the mlp gate, or size of the vectors of the bilinear one.
        euler_steps: number of steps of Euler.
        delta_t: the Euler step; None spreads the steps over the horizon.
        pseudo_time: "linear", "log" or "sigmoid".
    """

    name = "lan"
    kept_as: ClassVar = {
        "output_size": "readout_size",
        **{name: f"logits.{name}" for name in ("gate", "mode", "hidden", "euler_steps", "delta_t", "pseudo_time")},
    }

    def __init__(
        self,
        input_size: int,
        units: int,
        output_size: int | None = None,
        *,
        heads: int = 2,
        window: int = 16,
        gate: str = "mlp",
        mode: str = "exact",
        hidden: int = 8,
        euler_steps: int = 5,
        delta_t: float | None = None,
        pseudo_time: str = "linear",
    ):
        if window < 2:
            raise ValueError(f"window must be at least 2, the present step and one before it, given {window}.")
        logits = LiquidLogits(
            input_size,
            heads,
            gate,
            mode,
            hidden=hidden,
            euler_steps=euler_steps,
            delta_t=delta_t,
            pseudo_time=pseudo_time,
        )
        if units < 1 or units % heads:
            raise ValueError(f"units must be at least 1 and a multiple of heads = {heads}, given {units}.")
        motor = output_size or 0
        remembered = [heads * logits.features, units, 1]  # of a step: features of the key, value, age
        neurons = {"inter": units, "motor": motor} if motor else {"inter": units}
        super().__init__(input_size, neurons | {"window": (window - 1) * sum(remembered)}, output_size or units)
        self.units, self.heads, self.window, self.motor_count = units, heads, window, motor
        self._remembered = remembered
        self.readout_size = output_size or None
        self.time_driven = logits.timed
        self.logits, self._calls_logits = logits, False
        self.value = nn.Linear(input_size, units, bias=False)
        self.attended = nn.Linear(units, units, bias=False)
        self.present = nn.Linear(input_size, units)
        self.motor = nn.Linear(units, motor) if motor else None

    def step_kernel(self) -> tuple[Tick, tuple[Any, ...]] | None:
        """See :class:`LiquidLayer`."""
        logits, asks = self.logits.for_kernels(), self.logits.query
        if not logits.are_known():
            return None
        from liquid_control.kernels import lan

        return lan.tick, lan.step_arrays(
            logits,
            (asks.weight, asks.bias),
            self.logits.key.weight,
            self.value.weight,
            (self.present.weight, self.present.bias),
            self.attended.weight,
            None if self.motor is None else (self.motor.weight, self.motor.bias),
            self.window,
            self.time_driven,
        )

    def follow_modules(self) -> None:
        """See :class:`LiquidLayer`; the logits are called, and not left to a kernel, if they have hooks."""
        self._calls_logits = settle([self.logits], called=True)

    def unpack(self, state: Tensor) -> dict[str, Tensor]:
        """Neurons and window.

        ``inter`` (B, units), ``motor`` (B, O) if there are any, and of the window, oldest first: ``keys``
        (B, W - 1, H·F), ``values`` (B, W - 1, units) and ``ages`` (B, W - 1), zero where no step has been.
        """
        parts = super().unpack(state)
        window = parts.pop("window").unflatten(1, (self.window - 1, -1))
        keys, values, ages = window.split(self._remembered, 2)
        return parts | {"keys": keys, "values": values, "ages": ages[..., 0]}

    def integrate(self, x: Tensor, state: Tensor, elapsed: Elapsed, advance: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`LiquidLayer`: all windows at once."""
        time, batch, _ = x.shape
        before = self.unpack(state)
        if not self.time_driven:
            elapsed = 1.0  # ages count steps then: any positive age marks a key that is there
        if isinstance(elapsed, float):
            elapsed = x.new_full((time, batch), elapsed)
        if advance is not None:
            # Steps that count move to the front, so that windows don't reach over the others. By scattering, since
            # ONNX has no stable sort.
            count = advance.cumsum(0)
            place = torch.where(advance, count, count[-1] + (~advance).cumsum(0)) - 1
            step = torch.arange(time, device=x.device)[:, None].expand_as(place)
            order = torch.empty_like(place).scatter(0, place, step)
            x = x.gather(0, order[..., None].expand_as(x))
            elapsed = torch.where(advance, elapsed, 0).gather(0, order)

        now = elapsed.cumsum(0)
        since = torch.cat([-before["ages"].T, now - elapsed])  # (W - 1 + T, B): when each began to act
        known = torch.cat([before["ages"].T > 0, torch.ones_like(now, dtype=torch.bool)])
        keys = torch.cat([before["keys"].transpose(0, 1), self.logits.key(x)])
        values = torch.cat([before["values"].transpose(0, 1), self.value(x)])

        attended = self._attend(x, now, keys, values, since, known)
        inter = torch.tanh(self.attended(attended) + self.present(x))
        neurons = inter if self.motor is None else torch.cat([inter, torch.tanh(self.motor(inter))], 2)

        past = self.window - 1
        if advance is None:
            keys, values, since, known = (part[-past:] for part in (keys, values, since, known))
        else:
            # A step that does not count shows the neurons as the last one that did left them.
            neurons = torch.cat([state[None, :, : self.units + self.motor_count], neurons])
            neurons = neurons.gather(0, count[..., None].expand(-1, -1, neurons.shape[2]))
            recent = count[-1] + torch.arange(past, device=x.device)[:, None]
            keys, values = (part.gather(0, recent[..., None].expand(-1, -1, part.shape[2])) for part in (keys, values))
            since, known = since.gather(0, recent), known.gather(0, recent)
        # An age that rounding takes to zero would say that there is no key.
        ages = torch.where(known, (now[-1] - since).clamp(min=torch.finfo(x.dtype).tiny), -since)
        window = torch.cat([keys, values, ages[..., None]], 2).transpose(0, 1)
        return neurons[..., -self.output_size :], torch.cat([neurons[-1], window.flatten(1)], 1)

    def _attend(self, x: Tensor, now: Tensor, keys: Tensor, values: Tensor, since: Tensor, known: Tensor) -> Tensor:
        """What the windows give: x (T, B, C), now (T, B), of W - 1 + T steps the rest -> (T, B, units)."""
        query = self.logits.query_features(x)
        if kernel_device(x, now) == "cuda" and not self._calls_logits:
            from liquid_control.kernels.cuda import lan  # Triton is optional

            attended = lan.attend_window(self.logits.for_kernels(), query, keys, values, now, since, known, self.window)
            if attended is not None:
                return attended
        query = query[..., None]  # (T, B, H, F, 1)
        keys, values, since, known = (part.unfold(0, self.window, 1) for part in (keys, values, since, known))
        keys = keys.unflatten(2, (self.heads, self.logits.features))  # (T, B, H, F, W)
        horizon = torch.where(known, now[..., None] - since, 1)[:, :, None, None]  # (T, B, 1, 1, W)
        logits = self.logits.gain[:, None, None] * self.logits(query, keys, horizon)
        weights = logits.masked_fill(~known[:, :, None, None], -torch.inf).softmax(-1)
        return (weights * values.unflatten(2, (self.heads, -1))).sum(-1).flatten(2)

    @property
    def neuron_count(self) -> int:
        """Liquid-attention and motor neurons; gates, like an LTC's synapses, act on pairs and are not neurons."""
        return self.units + self.motor_count

"""Draws the pictures of the Concepts pages from the layers themselves, and that of the shifts: python docs/pictures.py.

Each is an SVG beside its page, small enough for git, and the same at every run; the shifts are a JPEG of frames.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import cv2
import gymnasium
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MplPath
from torch import Tensor

from envs.car_racing.expert import Expert
from envs.registration import FAST, STAND_IN
from envs.shifts import SHIFTS, apply_shifts
from envs.shifts.base import UDACITY
from liquid_control.nn import LTC, CfC, Circuit, Wiring
from liquid_control.nn.liquid_logits import progress
from liquid_control.nn.trace import chunkwise_trace, plastic_trace

BLUE, ORANGE, GREEN, GREY = "#3a7bd5", "#e07b39", "#3a9d5d", "#8a8a8a"
STYLE: Any = {
    "figure.figsize": (8, 3),
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "liquid-control",
    "svg.fonttype": "none",  # text stays text: small, and sharp at every size
}


def one_neuron() -> LTC:
    """A single LTC neuron with one excitatory synapse from one input, its constants set by hand."""
    circuit = Circuit(sensory=1, types=("motor",), layers=((0,),), sensory_synapses=((0, 0, 1),), synapses=())
    ltc = LTC(1, circuit, implicit_param_constraints=False)
    values = {"gleak": 0.2, "vleak": 0.0, "cm": 0.5, "sensory_w": 1.0, "sensory_sigma": 10.0, "sensory_mu": 0.5}
    with torch.no_grad():
        for name, value in values.items():
            getattr(ltc.rnn_cell, name).fill_(value)
    return ltc.requires_grad_(False)


def ltc() -> Figure:
    """The time constant of a neuron against its input, and what it does to the neuron's answer."""
    neuron = one_neuron()
    figure, (left, right) = plt.subplots(1, 2)
    inputs = torch.linspace(-0.5, 1.5, 200)[:, None]
    left.plot(inputs[:, 0], neuron.time_constants(inputs, torch.zeros(200, 1))[:, 0], color=BLUE)
    shortest, longest = neuron.time_constant_bounds()
    for bound, name, side in ((shortest, "synapse open", "top"), (longest, "synapse closed", "bottom")):
        left.axhline(bound.item(), color=GREY, linestyle="--", linewidth=0.8)
        left.text(1.5, bound.item(), name, color=GREY, ha="right", va=side)
    left.set(xlabel="input", ylabel="time constant", title="The input sets the pace", ylim=(0, 2.8))
    left.set_xticks([-0.5, 0, 0.5, 1, 1.5])
    steps, tick = 80, 0.05
    for value, color in zip((0.8, 0.5, 0.4), (ORANGE, BLUE, GREEN), strict=True):
        signal = torch.zeros(1, steps, 1)
        signal[:, 20:60] = value
        right.plot(
            np.arange(steps) * tick, neuron(signal, elapsed=tick)[0][0, :, 0], color=color, label=f"input {value}"
        )
    right.axvspan(20 * tick, 60 * tick, color=GREY, alpha=0.12, linewidth=0)
    right.set(xlabel="time", ylabel="membrane potential", title="A strong input is followed faster")
    right.legend()
    return figure


def cfc() -> Figure:
    """The states of a CfC against the time that passes, and the same states reached by many small steps."""
    torch.manual_seed(3)
    layer = CfC(2, 5).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.mul_(2)  # a fresh layer hardly moves
    x, state = torch.randn(1, 2), torch.zeros(1, 5)
    times = torch.linspace(0.02, 6, 150)
    figure, (left, right) = plt.subplots(1, 2)
    gate = torch.sigmoid(-1.2 * times + 1.5)
    left.plot(times, gate, color=BLUE, label="1 - σ(t·a + b), weight of g")
    left.plot(times, 1 - gate, color=ORANGE, label="σ(t·a + b), weight of h")
    left.set(xlabel="time since the last input", ylabel="weight", title="Time moves the gate", ylim=(0, 1.25))
    left.legend(loc="upper center", ncols=2, fontsize=7)
    answers = layer.step(x.expand(150, -1), state.expand(150, -1), times)[1]
    right.plot(times, answers)
    right.set(xlabel="time since the last input", ylabel="state", title="Five neurons, one input, no solver")
    return figure


def lan() -> Figure:
    """Logits on their way to the steady value, and the attention that they make of four keys of different ages."""
    times = torch.linspace(0, 6, 200)
    figure, (left, right) = plt.subplots(1, 2)
    for rate, color in zip((2.0, 0.8, 0.3), (ORANGE, BLUE, GREEN), strict=True):
        left.plot(times, progress(torch.tensor(rate), times, "exact", 5), color=color, label=f"ω = {rate}")
    left.axhline(1, color=GREY, linestyle="--", linewidth=0.8)
    left.text(0, 1.01, "steady value", color=GREY, va="bottom")
    left.set(
        xlabel="time that the pair has had", ylabel="share of the way", title="A logit takes its time", ylim=(0, 1.15)
    )
    left.legend(loc="lower right")
    ages = torch.tensor([1.0, 2.0, 3.0, 4.0])
    steady, rates = torch.tensor([3.0, 1.0, 2.0, 2.0]), torch.tensor([0.5, 1.0, 1.0, 1.0])
    names = ("after its own step", "steady")
    for offset, share, name, color in zip(
        (-0.18, 0.18), (progress(rates, ages, "exact", 5), torch.ones(4)), names, (BLUE, ORANGE), strict=True
    ):
        attention = torch.softmax(share * steady, 0)
        right.bar((ages + offset).tolist(), attention.tolist(), 0.34, color=color, label=name)
    right.set(xlabel="age of the key (steps)", ylabel="attention", title="A new key has had little time", xticks=ages)
    right.legend()
    return figure


def plastic() -> Figure:
    """What a trace recalls under one key: written, left to fade, and overwritten, by two rules."""
    steps = 60
    key = torch.zeros(1, steps, 1, 2)
    key[..., 0] = 1
    value, rate = torch.zeros(1, steps, 1, 1), torch.zeros(1, steps, 1)
    for begin, content in ((5, 1.0), (40, -1.0)):
        value[:, begin : begin + 3], rate[:, begin : begin + 3] = content, 0.6
    decay = torch.full((1, steps, 1), 2 ** (-1 / 40))
    figure, axes = plt.subplots(figsize=(8, 2.8))
    for rule, color in (("hebb", BLUE), ("delta", ORANGE)):
        recalled, _ = plastic_trace(key, key, value, decay, rate, rule=rule)
        axes.plot(recalled[0, :, 0, 0], color=color, label=rule)
    axes.axhline(0, color=GREY, linewidth=0.8)
    for begin, text in ((5, "writes +1"), (40, "writes -1")):
        axes.axvspan(begin, begin + 3, color=GREY, alpha=0.25, linewidth=0)
        axes.text(begin + 1.5, 2.0, text, ha="center", color=GREY)
    axes.set(
        xlabel="step",
        ylabel="recalled under the key",
        title="Written in three steps, kept with a half-life of 40 steps",
    )
    axes.set_ylim(-1.2, 2.3)
    axes.legend(loc="lower left")
    return figure


def horizon() -> Figure:
    """How long a write is told from those after it: the law, and traces that were written and read."""
    width, lags = 256, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    rng = torch.Generator().manual_seed(0)

    def unit(count: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(count, width, generator=rng), dim=1)

    def told(half_life: float, share: float) -> list[float]:
        """Signal to noise of a write, so many steps later, if this share of the steps between writes."""
        steps = 2500
        keys, values = unit(steps), unit(steps)
        rate = (torch.rand(steps, generator=rng) < share).float()
        asked = [steps - 1 - lag for lag in lags]
        rate[asked] = 1
        decay = torch.full((1, steps, 1), 2 ** (-1 / half_life))
        _, trace = chunkwise_trace(*(part[None, :, None] for part in (keys, keys, values)), decay, rate[None, :, None])
        read = keys[asked] @ trace[0, 0].T
        signal = (read * values[asked]).sum(1)
        noise = (read - signal[:, None] * values[asked]).norm(dim=1)
        return (signal / noise).tolist()

    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    places = np.arange(len(lags))
    for half_life, color in ((16, ORANGE), (128, BLUE), (1024, GREEN)):
        kept = 2 ** (-1 / half_life)
        law = [kept**lag * np.sqrt(width * (1 - kept**2)) for lag in lags]
        left.plot(places, law, color=color, linewidth=1)
        left.plot(places, told(half_life, 1.0), "o", color=color, markersize=3, label=f"half-life {half_life}")
    for share, color, label in ((1.0, GREEN, "all"), (1 / 8, BLUE, "1 in 8"), (1 / 64, ORANGE, "1 in 64")):
        right.plot(places, told(1024, share), "o-", color=color, markersize=3, linewidth=1, label=label)
    for axes, title in ((left, "Every step writes"), (right, "Some steps write, half-life 1024")):
        axes.axhline(1, color=GREY, linestyle="--", linewidth=0.8)
        axes.set(xlabel="steps since the write", title=title, yscale="log", ylim=(0.05, 60))
        axes.set_xticks(places, [str(lag) for lag in lags], fontsize=7)
        axes.legend(loc="upper right", fontsize=8)
    left.set(ylabel="signal to noise")
    return figure


def wirings() -> Figure:
    """Three circuits of nineteen neurons with eight inputs: neurons in columns, synapses by their sign."""
    recipes = {
        "neural circuit policy": Wiring.auto(units=19, outputs=3),
        "random, 80 % left out": Wiring.random(19, 3, sparsity=0.8),
        "fully connected": Wiring.fully_connected(19, 3),
    }
    figure, panels = plt.subplots(1, 3, figsize=(8, 3.4))
    for axes, (name, recipe) in zip(panels, recipes.items(), strict=True):
        circuit = recipe.build(8)
        draw_circuit(axes, circuit)
        count = circuit.synapse_count + circuit.sensory_synapse_count
        axes.set_title(f"{name}\n{count} synapses", fontsize=9)
    return figure


def draw_circuit(axes: Axes, circuit: Circuit) -> None:
    """Inputs in the first column, then a column for each type of neuron; blue excites, orange inhibits."""
    columns = [[("inputs", index) for index in range(circuit.sensory)]]
    columns += [
        [(kind, neuron) for neuron in circuit.neurons_of_type(kind)]
        for kind in ("inter", "command", "motor")
        if circuit.neurons_of_type(kind)
    ]
    place: dict[tuple[str, int], tuple[float, float]] = {}
    for column, neurons in enumerate(columns):
        for row, (kind, neuron) in enumerate(neurons):
            y = (row + 0.5) / len(neurons)
            place["inputs" if kind == "inputs" else "neurons", neuron] = (column, y)
        axes.text(column, -0.07, neurons[0][0], ha="center", va="top", fontsize=7, color=GREY)
    for polarity, color in ((1, BLUE), (-1, ORANGE)):
        corners: list[tuple[float, float]] = []
        for sources, synapses in (("inputs", circuit.sensory_synapses), ("neurons", circuit.synapses)):
            for source, destination, sign in synapses:
                if sign == polarity:
                    (x, y), (to_x, to_y) = place[sources, source], place["neurons", destination]
                    bend = 0.3 if x == to_x else 0.0  # synapses within a column go around its neurons
                    corners += [(x, y), ((x + to_x) / 2 + bend, (y + to_y) / 2), (to_x, to_y)]
        codes = [MplPath.MOVETO, MplPath.CURVE3, MplPath.CURVE3] * (len(corners) // 3)
        axes.add_patch(PathPatch(MplPath(corners, codes), fill=False, edgecolor=color, alpha=0.4, linewidth=0.6))
    points = np.array(list(place.values()))
    axes.scatter(points[:, 0], points[:, 1], s=24, color="white", edgecolors="#333333", linewidths=0.8, zorder=3)
    axes.set(xlim=(-0.4, len(columns) - 0.6), ylim=(-0.15, 1.02))
    axes.set_axis_off()


def time() -> Figure:
    """The state of a layer at regular and at irregular moments of one signal, with the elapsed times and without."""
    neuron = one_neuron()
    fine = torch.arange(0.05, 12, 0.05)
    few = fine[np.sort(np.random.default_rng(4).choice(len(fine), 40, replace=False))]

    def signal(at: Tensor) -> Tensor:
        return (0.5 + 0.4 * torch.sin(1.5 * at))[None, :, None]

    figure, axes = plt.subplots(figsize=(8, 2.8))
    axes.plot(fine, neuron(signal(fine), elapsed=0.05)[0][0, :, 0], color=GREY, label="looked at every 0.05")
    told = neuron(signal(few), elapsed=torch.diff(few, prepend=torch.zeros(1)))[0][0, :, 0]
    axes.plot(few, told, "o", color=BLUE, markersize=4, label="at 40 moments, the times told")
    untold = neuron(signal(few), elapsed=12 / 40)[0][0, :, 0]
    axes.plot(few, untold, "x", color=ORANGE, markersize=5, label="at 40 moments, 0.3 assumed between them")
    axes.set(
        xlabel="time", ylabel="output", title="One signal, one neuron, the state at different moments", ylim=(0, 1.15)
    )
    axes.legend(fontsize=8, ncols=3, loc="upper center")
    return figure


SHOWN = (
    "clean",
    *(name for name, info in SHIFTS.items() if info.family in ("published", "camera", "weather")),
)
"""What the picture of the shifts has."""
HIGH, COLUMNS = 112, 4
"""Rows of a frame in it, and shifts in a row."""


def shifts() -> np.ndarray:
    """All shifts of pictures at severity 3, (height, width, 3) uint8 RGB: a frame of CarRacing, one of the stand-in."""
    road = gymnasium.make(STAND_IN, start_speed=15.0)
    tiles = [shift_tile(name, road) for name in SHOWN]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[row : row + COLUMNS]) for row in range(0, len(tiles), COLUMNS)])


@cache
def drive(tracks: bool) -> list[np.ndarray]:
    """What the expert does in the first 70 steps, on the official road of a seed or on that of the shift ``tracks``."""
    env, expert = apply_shifts(gymnasium.make(FAST), "tracks:3" if tracks else "clean"), Expert()
    env.reset(seed=5)
    expert.reset(env)
    actions = []
    for _ in range(70):
        actions.append(expert.act(env))
        env.step(actions[-1])
    return actions


def shift_tile(name: str, stand_in: gymnasium.Env) -> np.ndarray:
    """The frames of a shift under its name."""
    text = "clean" if name == "clean" else f"{name}:3"
    env = apply_shifts(gymnasium.make(FAST), text)
    above = env.reset(seed=5)[0]
    for action in drive(name == "tracks"):
        above = env.step(action)[0]
    tile = np.full((HIGH + 18, 3 * HIGH + 8, 3), 255, np.uint8)
    tile[18:, :HIGH] = cv2.resize(above, (HIGH, HIGH), interpolation=cv2.INTER_CUBIC)
    if name == "clean" or UDACITY in SHIFTS[name].environments:
        road = apply_shifts(stand_in, text)
        ahead = road.reset(seed=6, options={"start": 0.42})[0]
        for _ in range(3):
            ahead = road.step(np.zeros(2, np.float32))[0]
        tile[18:, HIGH : 3 * HIGH] = cv2.resize(ahead["image"], (2 * HIGH, HIGH), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, name, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return tile


PICTURES = {picture.__name__: picture for picture in (ltc, cfc, lan, plastic, horizon, wirings, time)}


def draw(folder: Path) -> None:
    """Draws all pictures into the folder."""
    with plt.rc_context(STYLE):
        for name, picture in PICTURES.items():
            figure = picture()
            figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None})
            plt.close(figure)


def draw_shifts(path: Path) -> None:
    """Draws the picture of the shifts into a file."""
    cv2.imwrite(str(path), cv2.cvtColor(shifts(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where they go, beside their pages")
    folder = parser.parse_args().folder
    draw(folder / "concepts")
    draw_shifts(folder / "how_to/shifts.jpg")

"""A network as a picture: neurons in columns, synapses between them, activity as light.

:func:`draw_wiring` draws the wiring of a driver, a layer or a bare circuit; ``python -m liquid_control.diagram`` is the
command.

Warm is positive, cold is negative: a synapse by what it does to the neuron behind it, a neuron by its activity.
Pictures are (height, width, 3) uint8 RGB.
"""

from __future__ import annotations

import io
import itertools
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from liquid_control.nn import LTC, CfC, Circuit, Leaky, LiquidLayer, PlasticCfC
from liquid_control.support.files import write_atomically
from policies.driver import Driver

BACKGROUND = (17, 20, 28)
INK, FAINT_INK = (226, 230, 238), (128, 138, 156)
POSITIVE, NEGATIVE = (255, 159, 67), (84, 169, 255)
RESTING = (44, 50, 64)
RIM = (92, 102, 122)

Point = tuple[float, float]
#: A neuron: the name of its column and its place in it.
Neuron = tuple[str, int]


@dataclass(frozen=True)
class Synapse:
    """A connection with its weight; of a liquid core, one that the wiring has."""

    source: Neuron
    target: Neuron
    weight: float


def synapses(core: LiquidLayer | Circuit) -> list[Synapse]:
    """The synapses of a wired core with signed weights; none for a core without wiring; of a circuit with polarities.

    An LTC synapse weighs conductance times reversal potential: the current into a neuron at zero potential. A CfC
    synapse weighs what it adds to the candidate state with the gate half open: (g + h) / 2, in mode "no_gate"
    g + h / 2, in mode "pure" g. Of a plastic synapse the fixed weight is shown. A leaky neuron's synapse weighs what it
    adds to the neuron's target.
    What a CfC in ncps's form has beyond its wiring (dense gates, and dense recurrence within a group) is left out.
    """
    circuit = core if isinstance(core, Circuit) else getattr(core, "circuit", None)
    if circuit is None:
        return []
    place: dict[int, Neuron] = {}
    for kind in dict.fromkeys(circuit.types):
        place |= {neuron: (kind, index) for index, neuron in enumerate(circuit.neurons_of_type(kind))}
    if isinstance(core, Circuit):
        sensory, inner = circuit.sensory_adjacency, circuit.adjacency
    else:
        sensory, inner = _weights(core)
    return [
        Synapse(("sensory", source), place[target], float(sensory[source, target]))
        for source, target, _ in circuit.sensory_synapses
    ] + [Synapse(place[source], place[target], float(inner[source, target])) for source, target, _ in circuit.synapses]


@torch.no_grad()
def _weights(core: LiquidLayer) -> tuple[np.ndarray, np.ndarray]:
    """[source, target] weights from sensory neurons and from neurons, by the numbers of the circuit."""
    if isinstance(core, LTC):
        own = core.rnn_cell
        conductances = [own.sensory_w, own.w]
        if core.implicit_param_constraints:
            conductances = [torch.nn.functional.softplus(w) for w in conductances]
        return (conductances[0] * own.sensory_erev).cpu().numpy(), (conductances[1] * own.erev).cpu().numpy()
    if isinstance(core, Leaky):
        weight = core.weight.cpu().numpy().T
        return weight[: core.input_size], weight[core.input_size :]
    if isinstance(core, PlasticCfC):
        core = core.cfc
    assert isinstance(core, CfC)
    circuit = core.circuit
    assert circuit is not None
    sensory, inner = np.zeros((circuit.sensory, circuit.units)), np.zeros((circuit.units, circuit.units))
    matrix, before = sensory, tuple(range(circuit.sensory))
    for cell, layer in zip(core.cells, circuit.layers, strict=True):
        g, *rest = (head.weight.cpu().numpy() for head in cell.heads()[:2])
        h = rest[0] if rest else g
        weight = {"default": (g + h) / 2, "no_gate": g + h / 2, "pure": g}[core.mode]
        matrix[np.ix_(before, layer)] = weight[:, : len(before)].T
        inner[np.ix_(layer, layer)] = weight[:, len(before) :].T
        matrix, before = inner, layer
    return sensory, inner


def activity(driver: Driver, state: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What the neurons of a driver are doing, one column of values a part of its core.

    A part that holds several past inputs, a stack of frames, gives a column for each. The window of a hybrid's
    attention, keys and values that it has seen, is no neuron's activity.

    Args:
        driver: whose neurons.
        state: (S,) of its core; None is that of the drive that is going on.
    """
    return _columns(driver.neurons() if state is None else _parts(driver.core, torch.from_numpy(state)[None]))


def _parts(core: LiquidLayer, state: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: part[0].detach().cpu().numpy() for name, part in core.unpack(state).items()}


def _columns(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns = {}
    for name, values in parts.items():
        if name.rpartition(".")[2] == "attention":
            continue
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name} {index - len(values)}": row for index, row in enumerate(values)}
    return columns


@dataclass(frozen=True)
class Network:
    """What there is to draw of a driver, a layer or a circuit."""

    sensory: tuple[tuple[int, str], ...]
    """Groups of sensory neurons from the top: how many, and what is written beside them."""
    sizes: Mapping[str, int]
    """The other columns by name, with their numbers of neurons."""
    synapses: Sequence[Synapse]
    controls: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    """Least and greatest value of each control."""

    @classmethod
    def of(cls, drawn: Driver | LiquidLayer | Circuit) -> Network:
        """The network of any of them; a layer and a circuit have inputs only, and no controls."""
        if isinstance(drawn, Circuit):
            sizes = {kind: len(drawn.neurons_of_type(kind)) for kind in dict.fromkeys(drawn.types)}
            return cls(((drawn.sensory, _inputs(drawn.sensory)),), sizes, synapses(drawn))
        if isinstance(drawn, LiquidLayer):
            columns = _columns(_parts(drawn, drawn.initial_state(1)))
            sizes = {name: len(values) for name, values in columns.items()}
            return cls(((drawn.input_size, _inputs(drawn.input_size)),), sizes, synapses(drawn))
        view = drawn.view
        eyes = [(drawn.eyes.features, f"{drawn.eyes.features} features\nof the eyes")] if drawn.eyes else []
        return cls(
            (*eyes, *((1, name.replace("_", " ")) for name in view.gauges)),
            {name: len(values) for name, values in activity(drawn).items()},
            synapses(drawn.core),
            () if view.choices else tuple(view.controls),
            tuple(zip(view.low, view.high, strict=True)),
        )


def _inputs(count: int) -> str:
    return f"{count} input{'s' if count > 1 else ''}"


class Diagram:
    """Where a network's neurons are drawn, and the drawing of them.

    Columns from left to right: the sensory neurons (of a driver the eyes' features, then the gauges by name), the parts
    of the core as :func:`activity` names them, and beside the motor neurons, or in their place where a core has none,
    the controls.

    Args:
        drawn: a driver, a layer or a circuit.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        labels: whether names are written; leave them out of small pictures.
    """

    def __init__(self, drawn: Driver | LiquidLayer | Circuit, width: int, height: int, labels: bool = True):
        self.width, self.height, self.labels = width, height, labels
        self.unit = height / 640
        network = Network.of(drawn)
        self.controls, self.ranges, self.sensory = network.controls, network.ranges, network.sensory
        sizes = network.sizes
        order = [name for name in ("inter", "command", "motor") if name in sizes]
        self.columns = {name: sizes[name] for name in order or sizes}
        self.synapses = sorted(network.synapses, key=lambda synapse: abs(synapse.weight))
        self.positions = self._place()
        self.radii = self._radii()
        self.paths = [self._path(synapse) for synapse in self.synapses]
        self.strengths = self._relative_strengths()
        self._scene = self._draw_scene(0.16)

    def draw_wiring(self) -> np.ndarray:
        """The network at rest: every synapse by sign and weight."""
        picture = self._draw_scene(1.0)
        for name, points in self.positions.items():
            for point, radius in zip(points, self.radii[name], strict=True):
                _disc(picture, point, radius, RESTING, RIM)
        x, y = self.width - 16 * self.unit, self.height - 20 * self.unit
        legend = [("negative", NEGATIVE), ("positive", POSITIVE), ("synapses, thicker is stronger:", FAINT_INK)]
        size = round(14 * self.unit)
        lines = []
        for text, color in legend if self.synapses else ():
            lines.append(Line((x, y), text, size, color, "rm"))
            x -= _font(size).getlength(text) + 8 * self.unit
        return write(picture, lines)

    def draw(
        self, activity: Mapping[str, np.ndarray], sensory: np.ndarray, controls: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """The network at work.

        Args:
            activity: of the neurons, a column each, -1 to 1.
            sensory: what the core is given, (features + gauges,) for a driver, -1 to 1.
            controls: of the car, in the units of the environment.
        """
        values = {"sensory": sensory, **activity}
        picture = self._scene.copy()
        currents = [
            strength * float(np.clip(values[synapse.source[0]][synapse.source[1]], -1, 1))
            for synapse, strength in zip(self.synapses, self.strengths, strict=True)
        ]
        for index in np.argsort(np.abs(currents)):
            current = currents[index]
            if abs(current) > 0.08:
                color = _mixed(BACKGROUND, POSITIVE if current > 0 else NEGATIVE, min(1.0, 0.1 + abs(current)))
                _curve(picture, self.paths[index], color, max(1, round(2.2 * abs(current) * self.unit)))
        for name, points in self.positions.items():
            for point, radius, value in zip(points, self.radii[name], values[name], strict=True):
                self._neuron(picture, point, radius, float(np.clip(value, -1, 1)))
        self._bars(picture, controls)
        return picture

    def _place(self) -> dict[str, list[Point]]:
        top, bottom = (64 if self.labels else 20) * self.unit, self.height - 24 * self.unit
        left, right = (128 * self.unit, self.width - 140 * self.unit) if self.labels else (16, self.width - 84)
        # Most of the synapses are behind the sensory neurons: they get more room.
        gaps = np.concatenate([[0], np.cumsum([1.25] + [1.0] * (len(self.columns) - 1))])
        across = left + (right - left) * gaps / gaps[-1]
        first, *others = (size for size, _ in self.sensory)
        count, gap = first + sum(others), 1.5
        weights = np.array([1.0] * first + [1.7 if self.labels else 1.0] * sum(others))
        depth = np.cumsum(weights) + np.where(np.arange(count) >= first, gap, 0)
        depth = top + (bottom - top) * (depth - depth[0]) / max(1e-9, depth[-1] - depth[0])
        positions: dict[str, list[Point]] = {"sensory": [(across[0], y) for y in depth]}
        for x, (name, size) in zip(across[1:], self.columns.items(), strict=True):
            stride = min((bottom - top) / max(size, 1), 92 * self.unit)
            middle = (top + bottom) / 2
            positions[name] = [(x, middle + (index - (size - 1) / 2) * stride) for index in range(size)]
        return positions

    def _radii(self) -> dict[str, list[float]]:
        largest = {"sensory": 4.5, "inter": 12.0, "command": 14.0, "motor": 15.0}
        radii = {}
        for name, points in self.positions.items():
            room = points[1][1] - points[0][1] if len(points) > 1 else 100.0
            radii[name] = [max(1.0, min(largest.get(name, 12.0) * self.unit, 0.42 * room))] * len(points)
        return radii

    def _path(self, synapse: Synapse) -> np.ndarray:
        """(points, 2): a curve from one neuron to the other."""
        (source, i), (target, j) = synapse.source, synapse.target
        start, end = np.array(self.positions[source][i]), np.array(self.positions[target][j])
        along = np.linspace(0, 1, 24)[:, None]
        if source == target and i == j:
            radius = 1.1 * self.radii[source][i]
            angle = 2 * np.pi * along
            loop = np.concatenate([1 - np.cos(angle), np.sin(angle)], 1)
            return start + radius * np.array([1.0, 0.9]) * loop
        if source == target:
            bulge = np.array([0.5 * abs(end[1] - start[1]) * np.sign(end[1] - start[1]), 0.0])
            controls = (start + bulge, end + bulge)
        else:
            reach = np.array([0.5 * (end[0] - start[0]), 0.0])
            controls = (start + reach, end - reach)
        first, second = controls
        rest = 1 - along
        return rest**3 * start + 3 * rest**2 * along * first + 3 * rest * along**2 * second + along**3 * end

    def _relative_strengths(self) -> list[float]:
        """Weights relative to the largest of the same pair of columns: eyes and neurons differ in fan-in."""
        largest: dict[tuple[str, str], float] = {}
        for synapse in self.synapses:
            pair = (synapse.source[0], synapse.target[0])
            largest[pair] = max(largest.get(pair, 1e-9), abs(synapse.weight))
        return [s.weight / largest[s.source[0], s.target[0]] for s in self.synapses]

    def _draw_scene(self, light: float) -> np.ndarray:
        """Synapses and labels, without neurons; ``light`` 0 to 1 is how bright the synapses are."""
        picture = np.full((self.height, self.width, 3), BACKGROUND, np.uint8)
        if not self.synapses:
            self._dense_bands(picture)
        for path, strength in zip(self.paths, self.strengths, strict=True):
            color = _mixed(BACKGROUND, POSITIVE if strength > 0 else NEGATIVE, light * (0.12 + 0.88 * abs(strength)))
            thickness = max(1, round(2.6 * abs(strength) * self.unit)) if light > 0.5 else 1
            _curve(picture, path, color, thickness)
        return self._write_labels(picture) if self.labels else picture

    def _dense_bands(self, picture: np.ndarray) -> None:
        """Where everything is connected with everything, one surface says it better than a thousand lines."""
        for left, right in itertools.pairwise(self.positions.values()):
            corners = np.array([left[0], right[0], right[-1], left[-1]])
            cv2.fillPoly(picture, [np.round(corners * 8).astype(np.int32)], (26, 30, 41), cv2.LINE_AA, shift=3)

    def _write_labels(self, picture: np.ndarray) -> np.ndarray:
        small, medium = round(14 * self.unit), round(16 * self.unit)
        lines: list[Line] = []
        sensory = self.positions["sensory"]
        x = sensory[0][0] - 12 * self.unit
        begin = 0
        for count, words in self.sensory:
            middle = (sensory[begin][1] + sensory[begin + count - 1][1]) / 2
            lines.append(Line((x, middle), words, small, FAINT_INK, "rm"))
            begin += count
        for name, size in self.columns.items():
            title = f"{size} {name}" if self.synapses else name
            lines.append(Line((self.positions[name][0][0], 26 * self.unit), title, medium, INK, "mm"))
        lines.append(Line((sensory[0][0], 26 * self.unit), "sensory", medium, INK, "mm"))
        for name, (left, top, _, _) in zip(self.controls, self._bar_boxes(), strict=True):
            lines.append(Line((left, top - 6 * self.unit), name, medium, INK, "ls"))
        return write(picture, lines)

    def _bar_boxes(self) -> list[tuple[float, float, float, float]]:
        """(left, top, right, bottom) of the bar of each control, beside its motor neuron."""
        if not self.controls:
            return []
        last = next(reversed(self.columns))
        motor = [height for _, height in self.positions.get("motor", [])]
        if len(motor) == len(self.controls):
            heights = motor
        elif motor:  # the last of them is a pedal: gas to one side, brake to the other
            *others, pedal = motor
            heights = [*others, pedal - 20 * self.unit, pedal + 20 * self.unit]
        else:
            middle, stride = self.height / 2, 92 * self.unit
            heights = [middle + (index - (len(self.controls) - 1) / 2) * stride for index in range(len(self.controls))]
        left = self.positions[last][0][0] + (28 if motor else 40) * self.unit
        thickness = 6 * self.unit
        return [(left, y - thickness, self.width - 16 * self.unit, y + thickness) for y in heights]

    def _bars(self, picture: np.ndarray, controls: Sequence[float] | np.ndarray) -> None:
        for (left, top, right, bottom), (low, high), value in zip(
            self._bar_boxes(), self.ranges, controls, strict=True
        ):
            _box(picture, left, top, right, bottom, RESTING)
            zero, end = (
                left + (right - left) * (number - low) / (high - low) for number in (0.0, min(max(value, low), high))
            )
            _box(picture, min(zero, end), top, max(zero, end), bottom, POSITIVE if value >= 0 else NEGATIVE)
            if low < 0:
                _box(picture, zero - 1, top - 2, zero + 1, bottom + 2, INK)

    def _neuron(self, picture: np.ndarray, point: Point, radius: float, value: float) -> None:
        light = POSITIVE if value > 0 else NEGATIVE
        strength = abs(value)
        if strength > 0.15 and radius >= 4:
            _disc(picture, point, radius * (1 + 0.35 * strength), _mixed(BACKGROUND, light, 0.35 * strength))
        size = radius * (0.8 + 0.2 * strength)
        _disc(picture, point, size, _mixed(RESTING, light, strength**0.8), _mixed(RIM, light, strength))


def draw_wiring(drawn: Driver | LiquidLayer | Circuit, width: int = 900, height: int = 720) -> np.ndarray:
    """The wiring with signs and weights, (height, width, 3) RGB; see :func:`synapses` for what is drawn."""
    return Diagram(drawn, width, height).draw_wiring()


def save_wiring(
    path: str | os.PathLike[str], drawn: Driver | LiquidLayer | Circuit, width: int = 900, height: int = 720
) -> None:
    """Writes what :func:`draw_wiring` draws as a PNG file.

    Raises:
        UserError: if it cannot be written.
    """
    content = io.BytesIO()
    Image.fromarray(draw_wiring(drawn, width, height)).save(content, "PNG", optimize=True)
    write_atomically(path, content.getvalue())


class Traces:
    """The recent activity of every neuron as scrolling curves, a row each, grouped by column.

    Args:
        columns: names and sizes of the groups.
        width: in pixels.
        height: in pixels.
        steps: how many of the latest steps are in view.
    """

    def __init__(self, columns: Mapping[str, int], width: int, height: int, steps: int = 150):
        self.width, self.height = width, height
        self.columns = dict(columns)
        self._recent: deque[np.ndarray] = deque(maxlen=steps)

    def append(self, activity: Mapping[str, np.ndarray]) -> None:
        """Adds one step: the activity of the neurons, a column each, -1 to 1."""
        self._recent.append(np.concatenate([activity[name] for name in self.columns]))

    def draw(self) -> np.ndarray:
        """The curves (height, width, 3); the present is at the right edge."""
        picture = np.full((self.height, self.width, 3), BACKGROUND, np.uint8)
        left, margin, gap = 84, 8, 8
        recent, span = np.stack(self._recent), self._recent.maxlen or 1
        pitch = (self.height - 2 * margin - gap * (len(self.columns) - 1)) / recent.shape[1]
        x = np.linspace(left, self.width - 8, span)[span - len(recent) :]
        lines, row, y = [], 0, margin + pitch / 2
        for name, size in self.columns.items():
            lines.append(Line((left - 12, y + (size - 1) * pitch / 2), name, 13, FAINT_INK, "rm"))
            for _ in range(size):
                self._curve(picture, x, y, 0.62 * pitch, recent[:, row])
                y, row = y + pitch, row + 1
            y += gap
        return write(picture, lines)

    def _curve(self, picture: np.ndarray, x: np.ndarray, y: float, height: float, values: np.ndarray) -> None:
        curve = np.stack([x, y - height * np.clip(values, -1, 1)], 1)
        for sign, color in ((1, POSITIVE), (-1, NEGATIVE)):
            half = np.where(sign * values > 0, values, 0)
            area = np.stack([x, y - height * np.clip(half, -1, 1)], 1)
            area = np.concatenate([area, [[x[-1], y], [x[0], y]]])
            cv2.fillPoly(picture, [_fixed(area)], _mixed(BACKGROUND, color, 0.45), cv2.LINE_AA, shift=4)
        if height > 3:
            cv2.polylines(picture, [_fixed(curve)], False, _mixed(BACKGROUND, INK, 0.55), 1, cv2.LINE_AA, shift=4)


class Gain:
    """Scales activity to -1 to 1 by the largest value that the neuron has had so far, so that quiet ones are seen too.

    Args:
        floor: a neuron that never passed this is scaled as if it had, so that rounding noise stays dark.
    """

    def __init__(self, floor: float = 0.1):
        self._floor = floor
        self._largest: dict[str, np.ndarray] = {}

    def __call__(self, activity: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Activity by column -> the same, scaled."""
        scaled = {}
        for name, values in activity.items():
            before = self._largest.get(name, np.full(values.shape, self._floor))
            self._largest[name] = np.maximum(before, np.abs(values))
            scaled[name] = values / self._largest[name]
        return scaled


@dataclass(frozen=True)
class Line:
    """Some words in a picture."""

    position: Point
    text: str
    size: int
    color: tuple[int, int, int] = INK
    anchor: str = "lm"
    """Where the position is in the words, as Pillow's text anchors have it."""


def write(picture: np.ndarray, lines: Sequence[Line]) -> np.ndarray:
    """The picture with the words in it; in Pillow's own font, so that it looks the same on every machine."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    for line in lines:
        pen.text(line.position, line.text, line.color, _font(line.size), line.anchor, align="right")
    return np.array(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _mixed(low: Sequence[int], high: Sequence[int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _fixed(points: np.ndarray) -> np.ndarray:
    """Points in the sixteenths of a pixel that OpenCV draws at."""
    return np.round(np.asarray(points) * 16).astype(np.int32)


def _curve(picture: np.ndarray, points: np.ndarray, color: Sequence[int], thickness: int) -> None:
    cv2.polylines(picture, [_fixed(points)], False, color, thickness, cv2.LINE_AA, shift=4)


def _disc(
    picture: np.ndarray, point: Point, radius: float, color: Sequence[int], rim: Sequence[int] | None = None
) -> None:
    center = (round(point[0] * 16), round(point[1] * 16))
    cv2.circle(picture, center, round(radius * 16), color, cv2.FILLED, cv2.LINE_AA, shift=4)
    if rim is not None:
        cv2.circle(picture, center, round(radius * 16), rim, 1, cv2.LINE_AA, shift=4)


def _box(picture: np.ndarray, left: float, top: float, right: float, bottom: float, color: Sequence[int]) -> None:
    cv2.rectangle(picture, (round(left), round(top)), (round(right), round(bottom)), color, cv2.FILLED, cv2.LINE_AA)

"""The page of an audit: one file that opens anywhere, without the internet. Its frame is that of the report of shifts.

What moves on it, film and wiring, is in audit_page.html: the page's script shows the moment that its slider is at.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from agents.run_folder import machine, versions
from envs.registration import OFFICIAL
from liquid_control.nn import LAN, CfC, PlasticCfC
from liquid_control.report.audit import COMPARED, QUANTITIES, Audit
from liquid_control.report.audit_lap import AHEAD
from liquid_control.report.audit_measures import why_no_norm
from liquid_control.report.diagram import Diagram, Gain, activity
from liquid_control.report.shift_pictures import Chart, svg_path
from liquid_control.report.shift_tables import Value, html_table, number, percent

FRAME = Path(__file__).with_name("shift_report.html")
MOVING = Path(__file__).with_suffix(".html")
SHEET_COLUMNS = 8
LARGEST_CAMERA = 192
"""Pixels of the width of a frame of the film."""
SHOWN = 15
"""Lesions in the table; all of them are among the numbers."""

DENSE = " Without a wiring, each column is joined with the next as a whole; a stack of frames shows its past inputs."
PAPER = (
    ("NCP", 19, 253, 1_065, 79_420, 0.92),
    ("CNN", None, None, None, 5_068_900, 0.83),
    ("CT-RNN", 64, 6_112, 6_273, 79_420, 0.60),
    ("LSTM", 64, 24_640, 24_897, 79_420, 0.51),
)
"""Lechner et al. 2020, Table 2 and text: neurons, synapses, parameters of the core and of the convolutions, and the
share of the variance that the first principal component has."""


class WideChart(Chart):
    """A chart of a whole lap."""

    WIDTH, HEIGHT = 560.0, 150.0


def write_page(audit: Audit) -> str:
    """The page as HTML."""
    sections = (
        ("Summary", _facts(audit.facts())),
        ("The lap: what the eyes look at, and the wiring at work", _moving(audit)),
        ("Saliency under noise", _likeness(audit)),
        ("Neurons, the road and the car", _correlations(audit)),
        ("Time constants", _pace(audit)),
        ("Principal components", _components(audit)),
        ("How steep the map of the state is", _norms(audit)),
        ("Lesions", _lesions(audit)),
        ("Beside the NCP paper", _paper(audit)),
        ("How it was measured", _method(audit)),
    )
    content = "\n".join(f'<section class="card"><h2>{escape(title)}</h2>{text}</section>' for title, text in sections)
    page = FRAME.read_text(encoding="utf-8")
    for name, text in (
        ("content", content),
        ("subtitle", escape(audit.driver.describe())),
        ("title", escape(f"Audit of {audit.name}")),  # last: it may look like one of the names
    ):
        page = page.replace("{{" + name + "}}", text)
    return page


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}</dl>"


# ---- film and wiring ----


def _moving(audit: Audit) -> str:
    """Film, slider and wiring, with the data of the moments."""
    driver, lap, filmed = audit.driver, audit.lap, audit.filmed
    diagram = Diagram(driver, 860, 640)
    states, gain = lap.states[filmed + 1], Gain()
    moments = [activity(driver, state) for state in states]
    for moment in moments:  # first the gain learns how large each neuron's activity becomes
        gain(moment)
    scaled = [gain(moment) for moment in moments]
    values = np.stack(
        [
            np.concatenate([np.clip(lap.inputs[place], -1, 1), *(moment[name] for name in diagram.columns)])
            for place, moment in zip(filmed, scaled, strict=True)
        ]
    )
    sheet, size = _sheet(audit)
    unit = "units/s" if driver.config.env == OFFICIAL else "mph"
    data = {
        "size": size,
        "columns": SHEET_COLUMNS,
        "values": np.round(100 * values).astype(int).tolist(),
        "mean": np.round(100 * values.mean(0)).astype(int).tolist(),
        "told": [
            f"decision {place + 1} of {len(lap)}: speed {lap.speed[place]:.0f} {unit}, steering "
            f"{lap.steering[place]:+.2f}, curvature ahead {lap.curvature[place]:+.4f}".replace("-", "−")
            for place in filmed.tolist()
        ],
    }
    wiring, currents = _wiring(diagram)
    text = MOVING.read_text(encoding="utf-8")
    for name, part in (
        ("sheet", sheet),
        ("last", str(len(filmed) - 1)),
        ("first", str(len(filmed) // 3)),
        ("width", str(size[0])),
        ("height", str(size[1])),
        ("places", "Above the camera, below saliency" if _is_wide(audit) else "Left the camera, right saliency"),
        ("wiring", wiring),
        ("dense", "" if diagram.synapses else DENSE),
        # "<" so that no text can end the element that the data are in
        ("data", json.dumps(data | {"currents": currents}).replace("<", "\\u003c")),
    ):
        text = text.replace("{{" + name + "}}", part)
    return text


def _sheet(audit: Audit) -> tuple[str, tuple[int, int]]:
    """All frames of the film in one picture, row by row, as the address of an image; and (width, height) of a frame."""
    frames = []
    for place, salient in zip(audit.filmed, audit.saliency, strict=True):
        camera = audit.lap.cameras[place]
        height, width = camera.shape[:2]
        if width > LARGEST_CAMERA:
            height, width = round(height * LARGEST_CAMERA / width), LARGEST_CAMERA
            camera = cv2.resize(camera, (width, height), interpolation=cv2.INTER_AREA)
        frames.append(np.concatenate([camera, heat(camera, salient)], 0 if _is_wide(audit) else 1))
    height, width = frames[0].shape[:2]
    frames += [np.zeros_like(frames[0])] * (-len(frames) % SHEET_COLUMNS)
    rows = [np.concatenate(frames[first : first + SHEET_COLUMNS], 1) for first in range(0, len(frames), SHEET_COLUMNS)]
    picture = np.concatenate(rows)[..., ::-1]
    content = cv2.imencode(".webp", np.ascontiguousarray(picture), [cv2.IMWRITE_WEBP_QUALITY, 82])[1].tobytes()
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}", (width, height)


def _is_wide(audit: Audit) -> bool:
    """Whether saliency stands below the camera's picture and not beside it."""
    height, width = audit.lap.cameras.shape[1:3]
    return bool(width > 2 * height)


def heat(camera: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """Saliency (h, w), 0 to 1, as colour over the camera's picture (height, width, 3), which is grey and dark."""
    size = camera.shape[1::-1]
    share = cv2.resize(salient, size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
    colour = cv2.applyColorMap(np.round(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = 0.35 * cv2.cvtColor(camera, cv2.COLOR_RGB2GRAY)[..., None]
    return np.round(grey + (255 - grey) * (colour / 255)).astype(np.uint8)


def _wiring(diagram: Diagram) -> tuple[str, list[tuple[int, float]]]:
    """The network as SVG; and of each synapse in it which value drives it, and its relative strength."""
    first: dict[str, int] = {}
    begin = 0
    for name, points in diagram.positions.items():
        first[name], begin = begin, begin + len(points)
    parts, currents = [], []
    for synapse, path, strength in zip(diagram.synapses, diagram.paths, diagram.strengths, strict=True):
        parts.append(f'<path d="{svg_path(path)}"/>')
        currents.append((first[synapse.source[0]] + synapse.source[1], round(strength, 3)))
    if not diagram.synapses:
        for left, right in itertools.pairwise(diagram.positions.values()):
            corners = np.array([left[0], right[0], right[-1], left[-1]])
            parts.append(f'<path class="dense" d="{svg_path(corners)}Z"/>')
    texts = []
    for name, points in diagram.positions.items():
        for index, ((x, y), radius) in enumerate(zip(points, diagram.radii[name], strict=True)):
            title = f"<title>{escape(name)} {index}</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">{title}</circle>')
        texts.append(f'<text x="{points[0][0]:.1f}" y="30" text-anchor="middle">{escape(name)}</text>')
    begin = 0
    for count, words in diagram.sensory:
        x, y = np.mean(diagram.positions["sensory"][begin : begin + count], 0)
        for line, word in enumerate(words.split("\n")):
            texts.append(f'<text x="{x - 12:.1f}" y="{y + 5 + 17 * line:.1f}" text-anchor="end">{escape(word)}</text>')
        begin += count
    box = f'viewBox="0 0 {diagram.width} {diagram.height}"'
    return f'<svg id="wiring" {box} role="img" aria-label="The wiring">{"".join(parts + texts)}</svg>', currents


# ---- tables and charts ----


def _likeness(audit: Audit) -> str:
    rows = [
        [
            Value(f"{each.variance:g}", each.variance),
            number(each.mean, 3),
            Value(each.told_interval(), each.interval[1] - each.interval[0]),
            number(each.frames, 0),
        ]
        for each in audit.likeness
    ]
    height, width = audit.driver.config.playfield
    note = (
        f"Gaussian noise is added to the picture of {height} × {width} pixels that the eyes are given, scaled to 0 to "
        f"1 and cut off there. SSIM (Wang et al. 2004) compares the two maps; 1 is the same map. Frames are up to "
        f"{COMPARED} of this lap; the interval is a bootstrap over them."
    )
    table = html_table(
        "Structural similarity of saliency with and without noise", ["σ²", "SSIM", "95 %", "frames"], rows
    )
    return f'{table}<p class="faint">{escape(note)}</p>'


def _correlations(audit: Audit) -> str:
    head = ["neuron", *(f"{name}, {which}" for name in QUANTITIES for which in ("r", "ρ"))]
    rows = []
    for neuron, row in audit.correlations.items():
        values = [Value(neuron)]
        for name in QUANTITIES:
            values += [_coloured(each) for each in row[name]]
        rows.append(values)
    unit = "track units" if audit.driver.config.env == OFFICIAL else "metres"
    note = (
        f"r is Pearson's, ρ Spearman's correlation over the {len(audit.lap)} decisions of the lap. Curvature is the "
        f"mean over the next {AHEAD:g} {unit} of the road, right positive, as steering is. Moments of a lap are not "
        "independent, so no p values are given."
    )
    table = html_table("What each neuron goes with; orange is positive, blue negative", head, rows, kind="signed")
    return f'{table}<p class="faint">{escape(note)}</p>'


def _coloured(value: float) -> Value:
    if math.isnan(value):
        return Value("–", None, "it does not vary")
    value = round(value, 2) + 0.0  # no negative zero
    return Value(f"{value:.2f}".replace("-", "−"), value, "", round(50 + 50 * value))


def _pace(audit: Audit) -> str:
    pace = audit.pace
    if not pace.neurons:
        return f"<p>{escape(pace.formula)}</p>"
    tau = np.stack(list(pace.neurons.values()), 1)  # (T, N)
    low, middle, high = np.log10(np.quantile(tau, (0.1, 0.5, 0.9), axis=1).clip(1e-6, 1e6))
    floor, ceiling = math.floor(low.min()), max(math.ceil(high.max()), math.floor(low.min()) + 1)
    chart = WideChart((0, max(1, len(tau) - 1)), (floor, ceiling))
    steps = list(range(len(tau)))
    chart.band(steps, low.tolist(), high.tolist(), 0)
    chart.line(steps, middle.tolist(), 0)
    label = f"log10 of the time constants over the lap, median {10 ** np.median(middle):.2f}"
    svg = chart.svg(label, _ticks(len(tau)), range(floor, ceiling + 1))
    rows = [
        [Value(name), *(number(each, 3) for each in np.quantile(values, (0, 0.5, 1)).tolist())]
        for name, values in pace.neurons.items()
    ]
    table = html_table("Time constants in units of elapsed time", ["neuron", "least", "median", "greatest"], rows)
    note = "log₁₀ τ over the decisions of the lap: the median of the neurons, and the band of the middle 80 % of them."
    return (
        f"<p>{escape(pace.formula)}.</p>"
        f'<figure class="chart">{svg}<figcaption>{escape(note)}</figcaption></figure>{table}'
    )


def _ticks(count: int) -> list[int]:
    return [round(share * (count - 1)) for share in (0, 0.25, 0.5, 0.75, 1)] if count > 4 else list(range(count))


def _components(audit: Audit) -> str:
    shares = audit.shares[:6].tolist()
    rows = [
        [Value(f"{place}", place), percent(share), percent(total)]
        for place, (share, total) in enumerate(zip(shares, itertools.accumulate(shares), strict=True), 1)
    ]
    note = (
        f"Of the covariance of {len(audit.neurons)} neurons over the lap. The fewer components are needed, the simpler "
        "the activity."
    )
    table = html_table("Variance of the neurons' activity", ["component", "share", "together"], rows)
    return f'{table}<p class="faint">{escape(note)}</p>'


def _norms(audit: Audit) -> str:
    if not len(audit.norms):
        return f"<p>{escape(why_no_norm(audit.driver.core))}</p>"
    norms = audit.norms
    chart = WideChart((0, max(1, len(audit.lap) - 1)), (0, max(1.0, math.ceil(2 * float(norms.max())) / 2)))
    chart.line(audit.jacobians_at.tolist(), norms.tolist(), 0)
    label = f"Spectral norm over the lap, mean {norms.mean():.2f}, largest {norms.max():.2f}"
    svg = chart.svg(label, _ticks(len(audit.lap)), sorted({0.0, 1.0, chart.up[1]}))
    told = (
        f"The spectral norm of ∂h(t+1)/∂h(t), the input held, at {len(norms)} moments of the lap: mean "
        f"{norms.mean():.3f}, largest {norms.max():.3f}. h is the whole state, {audit.lap.states.shape[1]} numbers. "
        "The largest estimates the Lipschitz constant of the map of the state, locally and from below. It is no bound: "
        "elsewhere the map may be steeper. A norm above 1 does not mean that differences grow over many steps."
    )
    return (
        f"<p>{escape(told)}</p>"
        f'<figure class="chart">{svg}<figcaption>Over the decisions of the lap.</figcaption></figure>'
    )


def _lesions(audit: Audit) -> str:
    if not audit.lesions:
        why = (
            "what liquid attention passes on are keys and values of past steps, not currents between pairs of neurons"
            if isinstance(audit.driver.core, LAN)
            else "its synapses are not known by name"
        )
        return f"<p>No synapse of {escape(type(audit.driver.core).__name__)} is cut, because {why}.</p>"
    what = "score" if audit.driver.config.env == OFFICIAL else "metres"
    rows = [
        [
            Value(f"{each.source} → {each.target}"),
            number(each.steering, 4),
            Value("–") if each.lost is None else number(each.lost),
        ]
        for each in audit.lesions[:SHOWN]
    ]
    costs = [each.steering for each in audit.lesions]
    chart = WideChart((1, max(2, len(costs))), (0, max(costs[0], 1e-6)))
    chart.line(range(1, len(costs) + 1), costs, 0)
    label = f"Change in steering of {len(costs)} lesions, costliest first"
    svg = chart.svg(label, (1, len(costs)), (0, float(f"{chart.up[1]:.2g}")))
    harmless = sum(cost < 1e-3 for cost in costs)
    told = (
        f"Each of {len(costs)} synapses is cut on its own, and the core is given the recorded lap again: the change in "
        f"steering is the root mean square over the lap, of a range from −1 to 1. {harmless} change it by less than "
        "0.001."
    )
    core = audit.driver.core
    if isinstance(core, CfC | PlasticCfC) and (core.cfc if isinstance(core, PlasticCfC) else core).ncps_compat:
        told += (
            " Connections within a group are dense in ncps's form and count as synapses, though pictures of the wiring "
            "leave them out. The gates see even more than the synapses; that is not cut."
        )
    if audit.tracks:
        told += (
            f" The driver then drives without each of the costliest; the {what} lost is the mean over "
            f"{len(audit.tracks)} track{'s' if len(audit.tracks) > 1 else ''}, the same with the synapse and without."
        )
    table = html_table(f"The costliest of {len(costs)}", ["synapse", "change in steering", f"{what} lost"], rows)
    return (
        f"<p>{escape(told)}</p>{table}"
        f'<figure class="chart">{svg}<figcaption>Change in steering by rank.</figcaption></figure>'
    )


def _paper(audit: Audit) -> str:
    counts = audit.driver.parameter_counts()
    ours: Mapping[str, int | None] = {
        "neurons": audit.driver.core.neuron_count,
        "synapses": audit.synapse_count or None,
        "core": counts["core"],
        "eyes": counts["eyes"],
    }
    task = "CarRacing" if audit.driver.config.env == OFFICIAL else "roads of a simulator"
    rows = [[Value("this driver"), Value(task), *map(_count, ours.values()), percent(float(audit.shares[0]))]]
    rows += [
        [Value(f"theirs: {name}"), Value("lane keeping"), *map(_count, numbers), percent(share)]
        for name, *numbers, share in PAPER
    ]
    head = ["network", "task", "neurons", "synapses", "parameters of the core", "of the eyes", "first component"]
    note = (
        "Theirs are the figures of Lechner et al. (2020, “Neural circuit policies enabling auditable autonomy”), of a "
        "real car that keeps its lane. Task, camera, training and lap are others here, so the rows are no comparison "
        "of like with like. Their SSIM of saliency under noise, over 200 frames, is in a figure only, without "
        "numbers in the text: it is not repeated here."
    )
    return f'{html_table("Figures of the paper beside this driver", head, rows)}<p class="faint">{escape(note)}</p>'


def _count(value: int | None) -> Value:
    return Value("–") if value is None else Value(f"{value:,}", value)


def _method(audit: Audit) -> str:
    told = (
        f"One lap of {audit.env}, seed {audit.lap.seed}; what is said of the driver is said of this lap. Saliency is "
        "VisualBackProp (Bojarski et al. 2016) of the eyes' convolutions. All numbers are in audit.json."
    )
    facts = [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("machine", machine()),
    ]
    return f"<p>{escape(told)}</p>{_facts(facts)}"

"""The figures of docs/results/, as SVG, from what is committed: evaluations of checkpoints, and the pages' own tables.

python benchmarks/figures.py            # writes those that have changed

docs/results/ppo_car_racing.png has curves of training runs, which are not committed: benchmarks/ppo_curves.py draws it.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from liquid_control.support import command

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results"
WIDTH, LABELS, NOTES, ROW = 760, 170, 90, 24
"""Widths of the picture, of the names on the left and of the words on the right, and the height of a row: pixels."""
INK, FAINT, DOT, MARK = "#24292f", "#c4cad2", "#4c8fd0", "#d9722b"


@dataclass(frozen=True)
class Row:
    """A line of a panel."""

    name: str
    dots: Sequence[float] = ()
    """Single values; those beyond the axis stand at its end."""
    interval: tuple[float, float, float] | None = None
    """A mark with its interval: low, middle, high."""
    bar: float | None = None
    """The end of a bar that begins at the axis's low end."""
    note: str = ""
    """Words at the right."""


@dataclass(frozen=True)
class Panel:
    """Rows over one axis."""

    title: str
    rows: Sequence[Row]
    ticks: Sequence[float]
    """Ascending; the first and the last are the ends of the axis."""
    logarithmic: bool = False

    def x(self, value: float) -> float:
        """Where a value stands, in pixels from the left of the picture."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - NOTES)

    def draw(self, top: float) -> tuple[list[str], float]:
        """Its elements when it begins ``top`` pixels down, and where it ends."""
        first = top + 30
        bottom = first + ROW * len(self.rows)
        parts = [_text(LABELS, top + 16, self.title, weight="bold")]
        for tick in self.ticks:
            parts.append(_line(self.x(tick), first, self.x(tick), bottom, FAINT))
            parts.append(_text(self.x(tick), bottom + 16, f"{tick:g}", anchor="middle"))
        for index, row in enumerate(self.rows):
            parts += self._row(row, first + ROW * (index + 0.5))
        return parts, bottom + 30

    def _row(self, row: Row, y: float) -> list[str]:
        parts = [_text(LABELS - 12, y + 4, row.name, anchor="end"), _text(WIDTH - NOTES + 14, y + 4, row.note)]
        if row.bar is not None:
            width = self.x(row.bar) - LABELS
            parts.append(f'<rect x="{LABELS}" y="{y - 7:.1f}" width="{width:.1f}" height="14" fill="{DOT}"/>')
        for dot in sorted(row.dots):
            parts.append(f'<circle cx="{self.x(dot):.1f}" cy="{y:.1f}" r="3" fill="{DOT}" fill-opacity="0.35"/>')
        if row.interval is not None:
            low, middle, high = map(self.x, row.interval)
            parts.append(_line(low, y, high, y, MARK, 3))
            parts.append(_line(middle, y - 7, middle, y + 7, MARK, 3))
        return parts


def svg(panels: Sequence[Panel]) -> str:
    """A picture of panels, one below the other."""
    parts, top = [], 4.0
    for panel in panels:
        drawn, top = panel.draw(top)
        parts += drawn
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" width="{WIDTH}" font-size="13" '
    head += 'font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top:.0f}" fill="white"/>', *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>' if words else ""


def _line(x: float, y: float, to_x: float, to_y: float, color: str, width: float = 1) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="{width:g}"/>'


def car_racing(names: Sequence[str], ticks: Sequence[float]) -> str:
    """The hundred scores of shipped drivers, and their interquartile means with the intervals."""
    rows = []
    for name in names:
        evaluation = json.loads((ROOT / f"checkpoints/CarRacing-v3/{name}/evaluation.json").read_text())
        scores, summary = [episode["score"] for episode in evaluation["episodes"]], evaluation["summary"]
        low, high = summary["iqm_interval"]
        below = [score for score in sorted(scores) if score < ticks[0]]
        note = "" if not below else f"{below[0]:.0f}" if len(below) == 1 else f"{len(below)} below"
        rows.append(Row(name, scores, (low, summary["iqm"], high), note=note))
    title = "Score of 100 official episodes each; IQM with its 95 % interval"
    return svg([Panel(title, rows, ticks)])


def udacity() -> str:
    """How far from the middle of each road the shipped drivers of the simulator came."""
    rows = []
    for name in ("cfc", "lan"):
        laps = json.loads((ROOT / f"checkpoints/Udacity/{name}/evaluation.json").read_text())["laps"]
        for speed in (15.0, 25.0):
            farthest = [lap["farthest"] for lap in laps if lap["speed"] == speed]
            rows.append(Row(f"{name}, {speed:g} mph", farthest, note=f"{len(farthest)} roads"))
    title = "Largest distance from the middle on each road, metres (yellow line: 3.9)"
    return svg([Panel(title, rows, (0.0, 0.1, 0.2, 0.3))])


def cells() -> str:
    """How many times as long as ours ncps takes, from the tables of benchmarks/README.md."""
    text = (ROOT / "benchmarks/README.md").read_text()
    passes = re.findall(r"^\| ([^|]+) \| plain \|[^|]+\|[^|]+\| \*\*([\d.]+)\*\* \| \*\*([\d.]+)\*\* \|", text, re.M)
    steps = re.findall(r"^\| ([^|]+) \| [\d.]+ \| [\d.]+ \| \d+ \| (\d+) \|$", text, re.M)
    ticks = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
    panels = [
        Panel(title, [Row(name, bar=float(times), note=f"{times} ×") for name, times in rows], ticks, logarithmic=True)
        for title, rows in (
            ("Forward: time of ncps ÷ ours", [(name, forward) for name, forward, _ in passes]),
            ("Forward and backward: time of ncps ÷ ours", [(name, both) for name, _, both in passes]),
            ("One control step: time of ncps ÷ ours", steps),
        )
    ]
    return svg(panels)


def memory() -> str:
    """The scores of cores on tasks without velocities, from the table of docs/results/ppo_memory.md."""
    lines = table("ppo_memory", "## Table")
    axes = {
        "CartPole-v1": (0.0, 100.0, 200.0, 300.0, 400.0, 500.0),
        "Pendulum-v1": (-1400.0, -1000.0, -600.0, -200.0, 0.0),
        "LunarLander-v3": (-100.0, 0.0, 100.0, 200.0, 300.0),
    }
    panels = []
    for task, ticks in axes.items():
        own = [line for line in lines if line["task"].startswith(f"{task} ")]
        rows = [measured(line["core"].split(",")[0], line["IQM of the seeds, 95 % interval"]) for line in own]
        solved = own[0]["task"].removeprefix(f"{task} (").removesuffix(")").replace("−", "-")
        panels.append(Panel(f"{task}: IQM of five seeds with its 95 % interval; solved at {solved}", rows, ticks))
    return svg(panels)


def drift() -> str:
    """Scores of the plastic driver under the drift, from the table of docs/results/plastic_drift.md."""
    rows = [
        measured(f"{line['shift']}, {line['policy']}", line["IQM, 95 % interval"])
        for line in table("plastic_drift", "## Table")
    ]
    ticks = (0.0, 200.0, 400.0, 600.0, 800.0, 1000.0)
    return svg([Panel("Score on ten tracks; IQM with its 95 % interval", rows, ticks)])


def shift() -> str:
    """Scores under every shift, of the driver that was trained with variety and of one that was not."""
    told = json.loads((RESULTS / "shift/fast.json").read_text())
    scores = {(cell["policy"], cell["shift"]): cell["mean"] for cell in told["cells"]}
    rows = [
        Row(
            name,
            [scores["cfc", name]],
            bar=max(0.0, scores["cfc-robust", name]),
            note=f"{scores['cfc-robust', name]:.0f}",
        )
        for policy, name in scores
        if policy == "cfc-robust"
    ]
    title = "Mean score at severity 3 on six tracks: the bar is cfc-robust, the dot is cfc"
    return svg([Panel(title, rows, (0.0, 200.0, 400.0, 600.0, 800.0, 1000.0))])


def shift_study() -> str:
    """What cores did under all shifts, from the summary of the study."""
    with gzip.open(RESULTS / "shift/study.json.gz", "rt") as file:
        policies = sorted(json.load(file)["policies"], key=lambda policy: -policy["iqm"])
    rows = [
        Row(
            policy["policy"].replace("-", ", "),
            interval=(policy["interval"][0], policy["iqm"], policy["interval"][1]),
            note=f"{policy['iqm']:.0f}",
        )
        for policy in policies
    ]
    title = "Score under 47 shifts at five severities; IQM over five trainings with its 95 % interval"
    return svg([Panel(title, rows, (0.0, 200.0, 400.0, 600.0, 800.0, 1000.0))])


def irregular() -> str:
    """The error of each seed with a liquid core and without, from the table of docs/results/irregular.md."""
    panels = []
    for curves, ticks in (("spiral", (0.18, 0.2, 0.22, 0.24)), ("sine", (0.24, 0.26, 0.28, 0.3, 0.32))):
        rows = [
            Row(line["core"], [float(error) for error in line["each seed"].split(", ")], note=line["error"])
            for line in table("irregular", "## Table")
            if line["curves"] == curves
        ]
        panels.append(Panel(f"{curves.capitalize()}: root mean square error of each of five seeds", rows, ticks))
    return svg(panels)


def second_pass() -> str:
    """What each arm saves net, from the tables of docs/results/second_pass.md."""
    panels = []
    for title in ("The same pages again", "The pages that follow", "Another book"):
        shares = {row["arm"]: row["net within 0.01"] for row in table("second_pass", title)}
        rows = [Row(arm, bar=float(share.removesuffix(" %")), note=share) for arm, share in shares.items()]
        panels.append(Panel(f"{title}: operations saved net at 0.01 bits per byte, %", rows, (0.0, 25.0, 50.0, 75.0)))
    return svg(panels)


def recall() -> str:
    """What share of the answers each arm gives where most is asked of it, from the tables of docs/results/recall.md."""
    panels = []
    for task, test in (("Recall", "(128, 32)"), ("Recall", "(256, 8)"), ("Forgetting", "(128, 16)")):
        lines = table("recall", f"### {task}")
        means = {line["writes by"]: line[test].split()[0] for line in lines}  # the least and the greatest follow
        rows = [Row(name, bar=float(mean), note=mean) for name, mean in means.items()]
        panels.append(Panel(f"{task}, {test}: share of right answers", rows, (0.0, 0.25, 0.5, 0.75, 1.0)))
    return svg(panels)


def zephyr() -> str:
    """What share of the facts a model knows by its synapses alone, from the first table of docs/results/zephyr.md."""
    panels = []
    for facts in ("4", "16", "64"):
        rows = []
        for line in table("zephyr", "### delta, by part of the state"):
            if line["facts"] == facts:
                others = float(line["another's synapses"].split()[0])
                rows.append(replace(measured(f"{line['windows']} windows", line["synapses alone"]), dots=[others]))
        title = f"{facts} facts: answered by the synapses alone; dot: by those of another episode"
        panels.append(Panel(title, rows, (0.0, 0.25, 0.5, 0.75, 1.0)))
    return svg(panels)


def shakespeare() -> str:
    """The loss of each training of small models of characters, from the table of docs/results/shakespeare.md."""
    return losses_of("shakespeare", "model", (1.5, 1.55, 1.6, 1.65, 1.7))


def origin() -> str:
    """The loss of each training with the origin's defects mended in turn, from the table of docs/results/origin.md."""
    return losses_of("origin", "arm", (1.9, 1.95, 2.0, 2.05))


def losses_of(page: str, name: str, ticks: Sequence[float]) -> str:
    """The losses of the seeds in a page's table, a line a value of the column of this name."""
    rows = [
        Row(line[name], [float(loss) for loss in line["each seed"].split(", ")], note=line["validation, nats"])
        for line in table(page, "## Table")
    ]
    return svg([Panel("Validation loss of each of three seeds, nats a character, and the mean", rows, ticks)])


def pondering() -> str:
    """The liquid steps of each fifth of the characters, from the second table of docs/results/pondering.md."""
    lines = table("pondering", "### Steps a character")
    panels = []
    for cost in (name for name in lines[0] if name.startswith("cost")):
        rows = [Row(line["fifth by loss"], bar=float(line[cost]), note=line[cost]) for line in lines]
        panels.append(Panel(f"{cost}: liquid steps a character, by its loss", rows, (2.0, 2.5, 3.0, 3.5, 4.0, 4.5)))
    return svg(panels)


def books() -> str:
    """What is lost with a memory of the first half of two books, from the tables of docs/results/books.md."""
    panels = []
    for book in ("middlemarch", "moby-dick-or-the-whale"):
        lines = table("books", f"### {book}")
        rows = [measured(line["second half"], f"{line['more than carried']} ({line['95 %']})") for line in lines[1:]]
        panels.append(
            Panel(f"{book}: nats a token more than with the memory carried on", rows, (0.0, 0.5, 1.0, 1.5, 2.0))
        )
    return svg(panels)


def measured(name: str, cell: str) -> Row:
    """A row of what a cell such as "**−3.5** (−4 to −3)" tells: a value and its interval."""
    middle, interval = cell.replace("−", "-").replace("*", "").rstrip(")").split(" (")
    low, high = interval.split(" to ")
    return Row(name, interval=(float(low), float(middle), float(high)), note=middle)


def table(page: str, title: str) -> list[dict[str, str]]:
    """The rows of a page's first table after a line that begins with some words: cells by the name of their column."""
    text = (RESULTS / f"{page}.md").read_text()
    head, _, *lines = text[text.index(f"\n{title}") :].split("\n|", 1)[1].split("\n\n")[0].splitlines()
    names, *rows = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in (head, *lines))
    return [dict(zip(names, row, strict=True)) for row in rows]


def figures() -> dict[str, str]:
    """The text of every figure by the name of its file."""
    names = ("cfc", "ltc", "lan", "plastic", "lstm", "gru", "mlp")
    return {
        "dagger.svg": car_racing(names, (880.0, 900.0, 920.0, 940.0, 960.0)),
        "ppo_tuning.svg": car_racing(("cfc", "cfc-tuned"), (910.0, 920.0, 930.0, 940.0, 950.0)),
        "udacity.svg": udacity(),
        "cells.svg": cells(),
        "ppo_memory.svg": memory(),
        "plastic_drift.svg": drift(),
        "shift.svg": shift(),
        "shift_study.svg": shift_study(),
        "irregular.svg": irregular(),
        "second_pass.svg": second_pass(),
        "recall.svg": recall(),
        "zephyr.svg": zephyr(),
        "shakespeare.svg": shakespeare(),
        "books.svg": books(),
        "pondering.svg": pondering(),
        "origin.svg": origin(),
    }


def main() -> None:
    """Writes the figures that have changed."""
    for name, figure in figures().items():
        path = RESULTS / name
        if not path.exists() or path.read_text() != figure:
            path.write_text(figure)
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    command.run(lambda _: main())

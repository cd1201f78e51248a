"""The page of the sequence tasks and its figure, from the rows that there are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from liquid_control.experiments.sequence_cells import CELLS
from liquid_control.experiments.sequence_study import EFFORT, ROW
from liquid_control.experiments.sequence_task import SequenceTask
from liquid_control.experiments.study import interval, read_results
from liquid_control.support.errors import UserError
from liquid_control.support.files import read_text

PEER = "lstm"
"""The cell that differences are from."""
_LIQUID = tuple(list(CELLS)[: list(CELLS).index(PEER)])
_LAN, _CONTROLS = ("lan", "lan_euler", "lan_steady"), ("lan_uniform", "lan_fixed", "attention")
SHOWN = {"seed", "test", "validation", "parameters", "seconds_per_epoch"}
"""What a page shows of each training."""
OWN_WORDS = "<!-- By the numbers alone: written anew with each report, until this line is taken out. -->"
"""Before what nobody has written."""
_LABELS, _WIDTH, _NOTES, _ROW = 190, 760, 80, 20
_INK, _FAINT, _DOT, _MARK = "#24292f", "#c4cad2", "#4c8fd0", "#d9722b"


@dataclass(frozen=True)
class Measured:
    """What was measured of a cell in a protocol of a task."""

    cell: str
    effort: Mapping[str, float]
    """What other cells are compared with it by: trials of the search, and :data:`EFFORT`."""
    rows: Sequence[Mapping[str, Any]]
    """Trainings by their seeds, ascending."""

    def values(self, metric: str, of: str = "test") -> list[float]:
        """The scores of one metric, NaN where it was not measured."""
        return [row[of].get(metric, math.nan) for row in self.rows]

    def rank(self, task: SequenceTask, of: str) -> float:
        """The mean over seeds of the task's first metric, so that more is better; one that diverged is worst."""
        mean = float(np.mean(self.values(task.metric, of)))
        return -math.inf if math.isnan(mean) else mean if task.higher else -mean


def read_measured(folder: Path, task: str, protocol: str) -> list[Measured]:
    """The cells that have been tested at all, in the order of the table.

    Each has the rows of the search that most trainings followed, of the longest one if several have as many.

    Args:
        folder: of the study.
        task: the task's name.
        protocol: of its data.

    Raises:
        UserError: if a file of results is damaged.
    """
    found = []
    for cell in CELLS:
        path = folder / task / protocol / cell / "results.jsonl"
        if not path.exists():
            continue
        head, rows = read_results(path, ROW, EFFORT)
        searches: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            if row["kind"] == "seed":
                searches.setdefault(row["trials"], []).append(row)
        if searches:
            trials = max(searches, key=lambda trials: (len(searches[trials]), trials))
            effort = {"trials": trials} | {name: head[name] for name in EFFORT}
            found.append(Measured(cell, effort, sorted(searches[trials], key=lambda row: row["seed"])))
    return found


def read_kept(path: Path) -> dict[tuple[str, str], list[Measured]]:
    """What a page was made of, as :func:`kept_rows` wrote it: cells by task and protocol.

    Raises:
        UserError: if the file cannot be read or is damaged.
    """
    if not path.exists():
        return {}
    found: dict[tuple[str, str], list[Measured]] = {}
    try:
        for line in read_text(path).splitlines():
            told = json.loads(line)
            measured = Measured(told["cell"], told["effort"], told["rows"])
            whole = measured.effort.keys() >= {"trials", *EFFORT}
            if not whole or not measured.rows or not all(row.keys() >= SHOWN for row in measured.rows):
                raise ValueError
            found.setdefault((told["task"], told["protocol"]), []).append(measured)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged: restore it, or remove it to report on the folder alone.") from None
    return found


def kept_rows(found: Mapping[tuple[str, str], Sequence[Measured]]) -> str:
    """A line a cell of what a page is made of, which :func:`read_kept` reads."""
    lines = []
    for (task, protocol), measured in found.items():
        for cell in measured:
            told = {"task": task, "protocol": protocol, "cell": cell.cell, "effort": cell.effort, "rows": cell.rows}
            lines.append(json.dumps(told) + "\n")
    return "".join(lines)


def _together(measured: Sequence[Measured], kept: Sequence[Measured]) -> list[Measured]:
    """What was measured now, and of other cells, or from more seeds, what was before; in the order of :data:`CELLS`."""
    cells = {cell.cell: cell for cell in kept if cell.cell in CELLS}
    for cell in measured:
        if cell.cell not in cells or len(cell.rows) >= len(cells[cell.cell].rows):
            cells[cell.cell] = cell
    return [cells[name] for name in CELLS if name in cells]


def _told(values: Sequence[float]) -> str:
    """The mean, and its interval if there is more than one value."""
    mean = f"{np.mean(values):.4g}"
    return mean if len(values) < 2 else f"{mean} ({interval(values)[0]:.4g} to {interval(values)[1]:.4g})"


def difference(one: Measured, other: Measured, metric: str) -> tuple[float, float, float] | None:
    """The mean difference of two cells over seeds that both have, and its interval.

    None with fewer than two, where one diverged, and of cells that were not given as much.

    Args:
        one: what is compared.
        other: with what.
        metric: of the test.
    """
    of_other = {row["seed"]: row["test"][metric] for row in other.rows}
    apart = [row["test"][metric] - of_other[row["seed"]] for row in one.rows if row["seed"] in of_other]
    if len(apart) < 2 or not np.isfinite(apart).all() or one.effort != other.effort:
        return None
    return float(np.mean(apart)), *interval(apart)


def report(
    folder: Path,
    tasks: Sequence[SequenceTask],
    figure: str,
    page: str,
    kept: Mapping[tuple[str, str], Sequence[Measured]],
) -> tuple[str, str, str]:
    """The page as Markdown, its figure as SVG, and what both are made of as lines of JSON.

    Args:
        folder: of the study.
        tasks: in the order of the page.
        figure: what the page calls the figure's file.
        page: as it stands, or empty; what someone has written there of what mattered and what failed is kept.
        kept: what the page was made of before, from :func:`read_kept`.

    Raises:
        UserError: if nothing has been measured, or a file of results is damaged.
    """
    tables, panels = [], []
    found: dict[tuple[str, str], tuple[SequenceTask, list[Measured]]] = {}
    for task in tasks:
        sections = []
        for protocol, told in task.protocols.items():
            before = kept.get((task.name, protocol), ())
            measured = _together(read_measured(folder, task.name, protocol), before)
            if measured:
                sections += [f"#### {protocol}: {told}", *_leak(task, protocol), _table(task, protocol, measured)]
                panels.append((f"{task.name}, {protocol}: {task.metric}", task, measured))
                found[task.name, protocol] = task, measured
        if sections:
            arrow = "more is better" if task.higher else "less is better"
            said = f"{task.summary[0].upper()}{task.summary[1:]}; {task.metric}, {arrow}."
            tables += [f"### {task.name}", said, *sections, *([f"Published: {task.source}."] if task.source else [])]
    if not found:
        raise UserError(f"nothing has been measured in {folder}: run a task first, or name its --folder.")
    parts = [
        "# Sequence tasks",
        "## Question",
        "Liquid cells were published for irregular series. How good are they on the papers' own tasks and data, beside "
        "baselines that are tuned as much?",
        "## Command",
        "```bash\npython -m liquid_control.experiments all\npython -m liquid_control.experiments all --report\n```",
        "Each cell and baseline has the same search: as many trials over the same options, scored on validation data "
        "alone. Test data are scored once for each training with the options that were chosen. A search may choose a "
        "network smaller than its task allows; an LTC has at most a quarter of that, and the plastic CfC a tenth, "
        "because they take longer for each parameter. How to run one task, and what each is: [sequence tasks]"
        "(../how_to/sequence_tasks.md).",
        "## Table",
        "Tables have the mean over seeds and its 95 % interval (Student's t). The last column is the paired difference "
        "from the LSTM where it was tuned as much, bold where the interval leaves out zero. Trials are those of the "
        "search, with what else was not as the task has it.",
        *tables,
        *_versus("Liquid cells beside the LSTM", found, _LIQUID, (PEER,)),
        *_versus("LAN's attention beside its controls", found, _LAN, _CONTROLS),
        "## Figure",
        f"![Test scores of every seed and their means]({figure})",
    ]
    _, mark, prose = page.partition("## What mattered\n")
    own = mark + prose.rstrip() if mark and OWN_WORDS not in prose else _prose(found)
    rows = kept_rows({key: measured for key, (_, measured) in found.items()})
    return "\n\n".join([*parts, own]) + "\n", _figure(panels), rows


def _versus(
    title: str,
    found: Mapping[tuple[str, str], tuple[SequenceTask, list[Measured]]],
    ours: Sequence[str],
    others: Sequence[str],
) -> list[str]:
    """The best of ours by validation beside each of some others, in every task that has both."""
    rows = []
    for (name, protocol), (task, measured) in found.items():
        best = _best(task, [cell for cell in measured if cell.cell in ours])
        for other in (cell for cell in measured if cell.cell in others):
            apart = difference(best, other, task.metric) if best else None
            if best and apart:
                words = [f"{name}, {protocol}", CELLS[best.cell].title, CELLS[other.cell].title]
                rows.append([*words, f"{apart[0]:+.3g} ({apart[1]:+.3g} to {apart[2]:+.3g})", _verdict(task, apart)])
    head = ["task", "cell, best on validation", "beside", "difference", "it is"]
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return [f"### {title}", "\n".join(lines)] if rows else []


def _best(task: SequenceTask, cells: Sequence[Measured]) -> Measured | None:
    """The cell that is best on validation data, mean over seeds."""
    return max(cells, key=lambda cell: cell.rank(task, "validation"), default=None)


def _verdict(task: SequenceTask, apart: tuple[float, float, float]) -> str:
    if apart[1] * apart[2] <= 0:
        return "not told apart"
    return "better" if (apart[0] > 0) == task.higher else "worse"


def _prose(found: Mapping[tuple[str, str], tuple[SequenceTask, list[Measured]]]) -> str:
    """What the numbers alone say, for a page that nobody has written on yet."""
    told: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
    for (name, protocol), (task, measured) in found.items():
        peer = next((cell for cell in measured if cell.cell == PEER), None)
        for cell in measured:
            apart = difference(cell, peer, task.metric) if peer and cell is not peer else None
            if apart:
                told[_verdict(task, apart)].append(f"{CELLS[cell.cell].title} ({name}, {protocol})")
    better, worse = ("; ".join(told[verdict]) or "none" for verdict in ("better", "worse"))
    return "\n\n".join(
        [
            *("## What mattered", OWN_WORDS, f"Better than the LSTM: {better}."),
            *("## What failed", f"Worse than the LSTM: {worse}."),
        ]
    )


def _leak(task: SequenceTask, protocol: str) -> list[str]:
    """A sentence on what the split gives away, where the task measures it and its data are there."""
    if task.leak is None:
        return []
    try:
        share = task.leak(protocol)
    except UserError:  # no data here, rows from elsewhere
        return []
    return [f"A classifier that sees only where a test row stands in the recording: {share:.1f}."]


def _table(task: SequenceTask, protocol: str, measured: Sequence[Measured]) -> str:
    others = list(task.metrics)[1:]
    published = task.published.get(protocol, {})
    head = ["cell", task.metric, "each seed", *others, *(["published"] if published else [])]
    head += ["parameters", "s an epoch", "trials", "validation", "from LSTM"]
    rows = [head, ["---"] * len(head)]
    peer = next((cell for cell in measured if cell.cell == PEER), None)
    for cell in sorted(measured, key=lambda cell: cell.rank(task, "test"), reverse=True):
        values, first = cell.values(task.metric), cell.rows[0]
        row = [CELLS[cell.cell].title, _told(values)]
        row.append(", ".join(f"{value:.4g}" for value in values))
        row += [f"{np.mean(cell.values(name)):.4g}" if name in first["test"] else "" for name in others]
        if published:
            row.append(f"{published[cell.cell]:g}" if cell.cell in published else "")
        row += [f"{first['parameters']:,}", f"{np.median([each['seconds_per_epoch'] for each in cell.rows]):.1f}"]
        row += [_effort(task, cell), f"{np.mean(cell.values(task.metric, 'validation')):.4g}"]
        apart = difference(cell, peer, task.metric) if peer and cell is not peer else None
        told = "" if apart is None else f"{apart[0]:+.3g} ({apart[1]:+.3g} to {apart[2]:+.3g})"
        rows.append([*row, f"**{told}**" if apart and apart[1] * apart[2] > 0 else told])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _effort(task: SequenceTask, cell: Measured) -> str:
    """The trials of a search, and how long and on how much it learned where that is not as the task has it."""
    own = {"rows": 0, "trial_epochs": task.trial_epochs or task.epochs, "epochs": task.epochs}
    others = [f"{name.replace('_', ' ')} {cell.effort[name]:g}" for name in own if cell.effort[name] != own[name]]
    return ", ".join([f"{cell.effort['trials']:g}", *others])


def _figure(panels: Sequence[tuple[str, SequenceTask, Sequence[Measured]]]) -> str:
    """For each table a dot a seed, and the mean with its interval."""
    parts: list[str] = []
    top = 4.0
    for title, task, measured in panels:
        finite = [cell.values(task.metric) for cell in measured if np.isfinite(cell.values(task.metric)).all()]
        if not finite:
            continue
        shown = [value for scores in finite for value in (*scores, *(interval(scores) if len(scores) > 1 else ()))]
        low, high = min(shown), max(shown)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - room, high + room

        def x(value: float, low: float = low, high: float = high) -> float:
            return _LABELS + (value - low) / (high - low) * (_WIDTH - _LABELS - _NOTES)

        parts.append(_text(_LABELS, top + 16, title, weight="bold"))
        bottom = top + 28 + _ROW * len(measured)
        for tick in np.linspace(low, high, 4):
            parts.append(_line(x(tick), top + 24, x(tick), bottom, _FAINT))
            parts.append(_text(x(tick), bottom + 14, f"{tick:.3g}", anchor="middle"))
        for place, cell in enumerate(measured):
            y, scores = top + 28 + _ROW * (place + 0.5), cell.values(task.metric)
            parts.append(_text(_LABELS - 10, y + 4, CELLS[cell.cell].title, anchor="end"))
            if not np.isfinite(scores).all():
                continue
            parts.append(_text(_WIDTH - _NOTES + 10, y + 4, f"{np.mean(scores):.4g}"))
            for value in scores:
                parts.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="3" fill="{_DOT}" fill-opacity="0.5"/>')
            if len(scores) > 1:
                begin, end = map(x, interval(scores))
                parts.append(_line(begin, y, end, y, _MARK, 3))
            parts.append(_line(x(float(np.mean(scores))), y - 6, x(float(np.mean(scores))), y + 6, _MARK, 3))
        top = bottom + 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" width="{_WIDTH}" font-size="12" '
    head += 'font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{top:.0f}" fill="white"/>', *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{_INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, width: float = 1) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"/>'

"""The page of a suite of shifts: one file that opens anywhere, without the internet; also as Markdown and curves.

The page's Content-Security-Policy lets it load nothing: pictures are in it as data, charts as SVG.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from envs.shifts import SHIFTS
from envs.shifts.suites import Cell, Suite
from envs.shifts.table import CLEAN
from liquid_control.report.shift_pictures import Chart, example_frames, png_data, road_of, stroke, svg_path, ways_of
from liquid_control.report.shift_results import Key, Results, Run
from liquid_control.report.shift_suite import Entrant, left_out
from liquid_control.report.shift_summary import HIGH, THRESHOLDS, CellScores, Comparison, Summary, summarize_shifts
from liquid_control.report.shift_tables import (
    Value,
    html_table,
    interval_of,
    markdown_lines,
    markdown_table,
    number,
    percent,
)
from liquid_control.support.files import write_atomically

TEMPLATE = Path(__file__).with_suffix(".html")
LAPS = 8
"""Shifts whose laps are drawn at most: those that cost the first policy most."""
MOST_COLUMNS = 6
"""Policies that have a column each in a terminal."""

HOW = (
    "Every policy drives the same tracks under every shift. The score is the undiscounted return. IQM is the mean of "
    "the middle half of the scores; intervals are 95 %, by a bootstrap over trainings and tracks that is stratified by "
    "shift and severity (Agarwal et al. 2021). With one training of a policy they tell of this training on other "
    "tracks, not of training anew. The drop is the score without a shift less that under it, track by track. The "
    "corruption error (Hendrycks and Dietterich 2019) is, for each shift, the sum of 1 - score / 1000 over severities, "
    "in percent of the baseline's; mCE is its mean over shifts, less is better. P values are of permutations: of the "
    "signs of tracks where each policy has one training, else of trainings between policies."
)


ON_ROADS = (
    "On roads, the score is the autonomy in percent: 100 less the share of the time that departures take, each as one "
    "of 6 s (Bojarski et al. 2016). A lap there is one without a departure, at both speeds. "
)


@dataclass(frozen=True)
class Report:
    """What a page is made of."""

    suite: str
    left_out: str
    """What was not driven, in a sentence."""
    summary: Summary
    runs: Sequence[Run]
    drivers: Mapping[str, str]
    """One line a policy: neurons and parameters."""
    frames: Mapping[Cell, np.ndarray]
    """(height, width, 3) uint8 of some cells."""
    road: np.ndarray
    """(n, 2) middle of the road that laps are drawn on, in track units; empty without."""
    ways: Mapping[tuple[str, Cell], np.ndarray]
    """(n, 2) where the car was, by policy and cell, on that road."""

    def write(self, folder: Path) -> list[Path]:
        """Writes ``report.html``, ``report.md``, the numbers as ``summary.json``, and TensorBoard's scalars.

        Returns:
            The three files.

        Raises:
            UserError: if they cannot be written.
        """
        files = {"report.html": self.to_html(), "report.md": self.to_markdown(), "summary.json": self.to_json()}
        for name, content in files.items():
            write_atomically(folder / name, content)
        self.write_curves(folder / "tensorboard")
        return [folder / name for name in files]

    def table(self) -> Table:
        """The summary and the mean scores of shifts as a table to print; of many policies the summary alone."""
        summary, title = self.summary, f"{self.suite}, {self.summary.env.rpartition('/')[2]}"
        if len(summary.names) > MOST_COLUMNS:
            head, rows = self._summary_rows()
            table = Table(*head, title=title, caption="all shifts together; the page has each of them")
            for row in rows:
                table.add_row(*(value.text for value in row))
            return table
        table = Table(title=title, caption="mean scores over the severities of a shift")
        table.add_column("shift")
        for name in summary.names:
            table.add_column(name, justify="right")
        for shift in (CLEAN, *summary.shifts):
            table.add_row(shift, *(self._over_severities(name, shift).text for name in summary.names))
        table.add_section()
        head, rows = self._summary_rows()
        for place, what in enumerate(head[1:], 1):
            table.add_row(what, *(row[place].text for row in rows))
        return table

    def to_html(self) -> str:
        """The page."""
        sections = (
            _section("Summary", self._summary_section()),
            _section("Shifts and policies", self._heat_map()),
            _section("Over severity", self._curves()),
            _section("Performance profiles", self._profiles()),
            _section("What the driver sees", self._frames()),
            _section("Laps side by side", self._laps()),
            _section("Every shift at every severity", self._table_of_cells()),
            _section("Comparisons", self._comparisons()),
            _section("How it was measured", self._method()),
        )
        page = TEMPLATE.read_text(encoding="utf-8")
        for name, text in (
            ("title", escape(self._title())),
            ("subtitle", escape(self._subtitle())),
            ("content", "\n".join(section for section in sections if section)),
        ):
            page = page.replace("{{" + name + "}}", text)
        return page

    def _title(self) -> str:
        return f"Under distribution shift: {', '.join(self.summary.names)}"

    def _subtitle(self) -> str:
        summary = self.summary
        return (
            f"Suite {self.suite}, {summary.env}: {len(summary.shifts)} shifts, {len(summary.cells) - 1} cells of shift "
            f"and severity, {len(summary.seeds)} tracks each (seeds {min(summary.seeds)} to {max(summary.seeds)})."
        )

    # ---- the numbers ----

    def _summary_rows(self) -> tuple[list[str], list[list[Value]]]:
        head = ["policy", "trainings", "clean", "shifted", "IQM", "95 % interval", "drop", "laps"]
        head += ["departures a lap"] if self.summary.roads else ["off road"]
        head += ["mCE"] if self.summary.baseline else []
        rows = []
        for each in self.summary.policies:
            row = [
                Value(each.policy),
                number(len(each.trainings), 0),
                number(each.clean),
                number(each.mean),
                number(each.iqm),
                interval_of(each.interval),
                number(each.drop),
                percent(each.laps),
                number(each.departures, 2) if self.summary.roads else percent(each.off_road),
            ]
            if self.summary.baseline:
                row.append(Value("–", math.inf) if each.mce is None else number(each.mce, 0, " %"))
            rows.append(row)
        return head, rows

    def _cell_rows(self) -> tuple[list[str], list[list[Value]]]:
        head = ["shift", "severity", "policy", "mean", "± std", "IQM", "95 % interval", "drop", "drop, 95 %", "laps"]
        head += ["departures a lap", "line crossed a lap"] if self.summary.roads else ["tiles", "off road"]
        return head, [_cell_row(each, self.summary.roads) for each in self.summary.scores.values()]

    def _summary_section(self) -> str:
        head, rows = self._summary_rows()
        told = [escape(f"{name}: {line}.") for name, line in self.drivers.items()]
        primary = self.summary.primary
        first = escape(_in_words(primary)) if primary else "No comparison was declared before the run."
        note = f"All shifts together; clean is without one. {escape(self.left_out)}"
        return (
            f"<p>{first}</p>{html_table('Policies under all shifts', head, rows)}"
            f'<p class="faint">{note}</p><p class="faint">{"<br>".join(told)}</p>'
        )

    def _heat_map(self) -> str:
        """Mean scores of shifts (rows) and policies (columns), over the severities of a shift."""
        summary = self.summary
        head = ["shift", *summary.names]
        rows = [[Value(shift), *(self._over_severities(name, shift) for name in summary.names)]
                for shift in (CLEAN, *summary.shifts)]  # fmt: skip
        caption = f"Mean score over the severities of a shift; the colour goes from 0 or less to {summary.best:g}"
        return html_table(caption, head, rows, kind="heat")

    def _over_severities(self, name: str, shift: str) -> Value:
        cells = [self.summary.scores[name, cell] for cell in self.summary.cells if cell.shift == shift]
        mean = sum(each.mean for each in cells) / len(cells)
        laps, count = sum(each.laps for each in cells), sum(each.episodes for each in cells)
        title = f"{name}, {shift}: {laps} of {count} laps"
        return Value(f"{mean:.0f}", mean, title, round(100 * min(max(mean / self.summary.best, 0), 1)))

    def _table_of_cells(self) -> str:
        return html_table("Scores, laps and the drop against clean", *self._cell_rows())

    def _comparisons(self) -> str:
        summary = self.summary
        if not (summary.primary or summary.others):
            return ""
        parts = [f"<p>{escape(_in_words(summary.primary))}</p>"] if summary.primary else []
        if summary.by_shift:
            parts.append(
                html_table("The primary pair, shift by shift (Holm among these)", *_compared(summary.by_shift))
            )
        if summary.others:
            parts.append(
                html_table("The other pairs, all shifts together (Holm among these)", *_compared(summary.others))
            )
        return "".join(parts)

    def _method(self) -> str:
        baseline = self.summary.baseline
        facts = [("baseline of the mCE", baseline or "none: it takes two policies")]
        for place, run in enumerate(self.runs, 1):
            facts.append((f"run {place}", ", ".join(f"{name} {_told(value)}" for name, value in run.config.items())))
            facts.append(("versions", ", ".join(f"{name} {value}" for name, value in run.versions.items())))
            facts.append(("machine", run.machine))
        told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        lines = [(shift, _line_of(shift)) for shift in self.summary.shifts]
        shifts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(line)}</dd>" for name, line in lines)
        mixed = len({tuple(sorted(run.versions.items())) for run in self.runs}) > 1
        warning = "<p><strong>The runs had different versions of packages.</strong></p>" if mixed else ""
        return f"<p>{escape(self._how())}</p>{warning}<dl>{told}</dl><h3>Shifts</h3><dl>{shifts}</dl>"

    def _how(self) -> str:
        return ON_ROADS + HOW.replace(" / 1000", " / 100") if self.summary.roads else HOW

    # ---- the pictures ----

    def _curves(self) -> str:
        summary = self.summary
        shown = [shift for shift in summary.shifts if len(summary.severities(shift)) > 1]
        if not shown:
            return ""
        figures = [f"<figure><h3>{escape(shift)}</h3>{self._curve(shift)}</figure>" for shift in shown]
        note = "IQM with its 95 % interval over severity; 0 is without the shift."
        return f'<p class="faint">{note}</p>{self._legend()}<div class="grid">{"".join(figures)}</div>'

    def _curve(self, shift: str) -> str:
        summary = self.summary
        cells = [cell for cell in summary.cells if cell.shift in (CLEAN, shift)]
        least = min(0.0, *(summary.scores[name, cell].interval[0] for name in summary.names for cell in cells))
        best = summary.best
        chart = Chart((0, 5), (math.floor(10 * least / best) * best / 10, best))
        for place, name in enumerate(summary.names):
            scores = [summary.scores[name, cell] for cell in cells]
            x = [cell.severity for cell in cells]
            chart.band(x, [each.interval[0] for each in scores], [each.interval[1] for each in scores], place)
            chart.line(x, [each.iqm for each in scores], place)
        told = "; ".join(
            f"{name}: " + ", ".join(f"{summary.scores[name, cell].iqm:.0f} at {cell.severity}" for cell in cells)
            for name in summary.names
        )
        return chart.svg(f"IQM under {shift} over severity. {told}", range(6), (0, best / 2, best))

    def _profiles(self) -> str:
        best = self.summary.best
        chart = Chart((0, best), (0, 1))
        thresholds = [best * threshold for threshold in THRESHOLDS]
        for place, policy in enumerate(self.summary.policies):
            chart.line(thresholds, policy.profile, place)
        shares = {each.policy: each.profile[THRESHOLDS.index(HIGH)] for each in self.summary.policies}
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        label = f"Share of the episodes above a score. Above {HIGH * best:g}: {told}"
        drawn = chart.svg(label, [best * quarter / 4 for quarter in range(5)], (0, 0.5, 1))
        note = f"Share of the episodes, over all shifts, that score more. Above {HIGH * best:g}: {told}."
        return f'<p class="faint">{escape(note)}</p>{self._legend()}<div class="grid"><figure>{drawn}</figure></div>'

    def _frames(self) -> str:
        if not self.frames:
            return ""
        figures = [
            f'<figure><img src="{png_data(picture)}" width="{picture.shape[1]}" height="{picture.shape[0]}" '
            f'alt="Seen under {escape(str(cell))}"><figcaption>{escape(str(cell))}</figcaption></figure>'
            for cell, picture in self.frames.items()
        ]
        return f'<div class="grid small">{"".join(figures)}</div>'

    def _laps(self) -> str:
        cells = self._drawn_cells()
        if not len(self.road) or not cells:
            return ""
        low, high = self.road.min(0) - 25, self.road.max(0) + 25
        size = high - low
        box = f'viewBox="0 0 {size[0]:.0f} {size[1]:.0f}"'
        parts = [
            f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><symbol id="road" {box}>'
            f'<path class="road" stroke-width="13" d="{svg_path((self.road - low) * (1, -1) + (0, size[1]))}Z"/>'
            "</symbol></svg>",
            f'<p class="faint">Where the car went on the track of seed {min(self.summary.seeds)}, without a shift and '
            "under those that cost the first policy most. A line that ends before the start is a lap that was not "
            f"completed, or a car that left the field.</p>{self._legend()}",
        ]
        laps: dict[str, list[str]] = {}  # by what stands above them
        alone = len(self.summary.names) == 1
        for cell, (place, name) in itertools.product(cells, enumerate(self.summary.names)):
            way = np.clip(self.ways.get((name, cell), np.empty((0, 2))), low, high)
            if not len(way):
                continue
            drawn = svg_path((way - low) * (1, -1) + (0, size[1]))
            label = f"Lap of {name} under {cell}"
            laps.setdefault("" if alone else str(cell), []).append(
                f'<figure><svg {box} role="img" aria-label="{escape(label)}"><use href="#road"/>'
                f'<path class="line" {stroke(place, 7)} d="{drawn}"/></svg>'
                f"<figcaption>{escape(str(cell) if alone else name)}</figcaption></figure>"
            )
        for title, figures in laps.items():
            parts += [f"<h3>{escape(title)}</h3>"] if title else []
            parts.append(f'<div class="grid small">{"".join(figures)}</div>')
        return "".join(parts)

    def _drawn_cells(self) -> list[Cell]:
        first, there = self.summary.names[0], {cell for _, cell in self.ways}
        worst = sorted(
            (cell for cell in self.summary.cells if cell in there and cell.shift != CLEAN),
            key=lambda cell: -self.summary.scores[first, cell].drop,
        )
        by_shift = {cell.shift: cell for cell in reversed(worst)}
        chosen = [cell for cell in worst if by_shift[cell.shift] == cell][:LAPS]
        return [cell for cell in self.summary.cells[:1] if cell in there] + chosen

    def _legend(self) -> str:
        items = [
            f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><path class="line" {stroke(place)} d="M0 4H26"/></svg>'
            f"{escape(name)}</li>"
            for place, name in enumerate(self.summary.names)
        ]
        return f'<ul class="legend">{"".join(items)}</ul>'

    # ---- the other forms ----

    def to_markdown(self) -> str:
        """The tables as Markdown."""
        summary = self.summary
        heat = [["shift", *summary.names]]
        heat += [[shift, *(self._over_severities(name, shift).text for name in summary.names)]
                 for shift in (CLEAN, *summary.shifts)]  # fmt: skip
        parts = [f"# {self._title()}", self._subtitle(), markdown_table(*self._summary_rows())]
        parts += [_in_words(summary.primary)] if summary.primary else []
        parts += ["## Shifts and policies", "Mean score over the severities of a shift.", markdown_lines(heat)]
        parts += ["## Every shift at every severity", markdown_table(*self._cell_rows())]
        for title, compared in (
            ("## The primary pair, shift by shift", summary.by_shift),
            ("## The other pairs", summary.others),
        ):
            parts += [title, markdown_table(*_compared(compared))] if compared else []
        parts += ["## How it was measured", self._how(), self.left_out]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """The numbers: of policies over all shifts, of every policy in every cell, and the comparisons."""
        summary = self.summary
        told = {
            **{"suite": self.suite, "env": summary.env, "tracks": [min(summary.seeds), max(summary.seeds)]},
            **{"drivers": dict(self.drivers), "runs": [asdict(run) for run in self.runs]},
            "policies": [{name: value for name, value in vars(each).items() if name != "profile"}
                         for each in summary.policies],
            "cells": [{"policy": each.policy, **each.cell._asdict(),
                       **{name: value for name, value in vars(each).items() if name not in ("policy", "cell")}}
                      for each in summary.scores.values()],
            "primary": summary.primary and asdict(summary.primary),
            "comparisons": [asdict(each) for each in (*summary.others, *summary.by_shift)],
        }  # fmt: skip
        return json.dumps(told, indent=1, allow_nan=False) + "\n"

    def _more(self, scores: CellScores) -> list[tuple[str, float]]:
        if self.summary.roads:
            return [("departures", scores.departures), ("touches", scores.touches)]
        return [("tiles", scores.tiles), ("off_road", scores.off_road)]

    def write_curves(self, folder: Path) -> None:
        """Scalars for TensorBoard, over severity; those of an earlier report are replaced."""
        from torch.utils.tensorboard import SummaryWriter  # which takes longer to load than a driver

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder)) as curves:
            for (name, cell), scores in self.summary.scores.items():
                for what, value in (
                    ("score", scores.mean),
                    ("iqm", scores.iqm),
                    ("laps", scores.laps / scores.episodes),
                    *self._more(scores),
                    ("drop", scores.drop),
                ):
                    curves.add_scalar(f"{name}/{cell.shift}/{what}", value, cell.severity)


def _cell_row(each: CellScores, roads: bool) -> list[Value]:
    last = (
        [number(each.departures, 2), number(each.touches, 2)]
        if roads
        else [percent(each.tiles), percent(each.off_road)]
    )
    return [
        Value(each.cell.shift),
        Value(str(each.cell.severity) if each.cell.severity else "–", each.cell.severity),
        Value(each.policy),
        number(each.mean),
        number(each.std),
        number(each.iqm),
        interval_of(each.interval),
        number(each.drop),
        interval_of(each.drop_interval),
        Value(f"{each.laps}/{each.episodes}", each.laps / each.episodes),
        *last,
    ]


def _compared(comparisons: Iterable[Comparison]) -> tuple[list[str], list[list[Value]]]:
    head = ["policies", "shift", "difference", "probability of improvement", "p", "p, Holm"]
    return head, [
        [
            Value(f"{each.one} − {each.other}"),
            Value(each.shift or "all"),
            number(each.difference),
            number(each.probability, 2),
            number(each.p_value, 4),
            number(each.adjusted, 4),
        ]
        for each in comparisons
    ]


def _in_words(primary: Comparison) -> str:
    return (
        f"The comparison that was declared before the run: over all shifts, {primary.one} scores "
        f"{abs(primary.difference):.1f} {'more' if primary.difference >= 0 else 'less'} than {primary.other} in the "
        f"mean (p = {primary.p_value:.4f}); it scores more with probability {primary.probability:.2f}."
    )


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _line_of(shift: str) -> str:
    names = [part.partition(":")[0] for part in shift.split("+")]
    return " Then: ".join(f"{SHIFTS[name].line} ({SHIFTS[name].family})" for name in names)


def _section(title: str, content: str) -> str:
    if not content:
        return ""
    return f'<section class="card"><h2>{escape(title)}</h2>{content}</section>'


def build_report(
    suite: Suite,
    entrants: Sequence[Entrant],
    keys: Sequence[Key],
    results: Results,
    primary: tuple[str, ...],
    baseline: str,
) -> Report:
    """Computes what a report tells, and takes its pictures.

    Args:
        suite: what was driven.
        entrants: who drove.
        keys: the episodes, all of which are among the results.
        results: that were driven.
        primary: the two policies of the primary comparison, or nothing.
        baseline: the policy whose corruption error is 100 %, or nothing.
    """
    env, seeds = keys[0].env, list(dict.fromkeys(key.seed for key in keys))
    cells = list(dict.fromkeys(Cell(key.shift, key.severity) for key in keys))
    trainings: dict[str, list[int]] = {}
    for entrant in entrants:
        trainings.setdefault(entrant.policy, []).append(entrant.training)
    ways = ways_of(results.rows, keys)
    return Report(
        suite=suite.name,
        left_out=left_out(env, cells),
        summary=summarize_shifts(results.rows, trainings, env, cells, seeds, primary, baseline),
        runs=tuple(results.runs),
        drivers={entrant.policy: entrant.describe() for entrant in entrants},
        frames=example_frames(entrants[0].driver, env, cells, seeds[0]),
        road=road_of(env, seeds[0]) if ways else np.empty((0, 2)),
        ways=ways,
    )

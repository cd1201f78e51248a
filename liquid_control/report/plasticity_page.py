"""The page of a plasticity test, one file that opens without the internet; its frame is that of the shifts' report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import product
from pathlib import Path

from agents.run_folder import machine, versions
from liquid_control.models.plasticity import ARMS
from liquid_control.report.plasticity import CLAIM, HEAD_COLUMNS, PlasticityReport, Recall, long
from liquid_control.report.shift_pictures import Chart, stroke
from liquid_control.report.shift_tables import Value, html_table, number

FRAME = Path(__file__).with_name("shift_report.html")

HOW = (
    "Facts are told, other text is read, and each fact is asked for. A choice is right if the fact's own value is the "
    "likeliest of those that were taught in the same episode; chance is one over their number. Before the question the "
    "state is taken apart. All kept: nothing is reset. Synapses alone: everything else is. All but synapses: only they "
    "are reset. Nothing kept: all is. Another's synapses: those of another episode, everything else reset. Told while "
    "frozen: nothing is reset, but synapses were not written while facts were told. Names are invented, so no text has "
    "them. Intervals are 95 %, by a bootstrap over episodes; they tell of this model, not of training anew."
)


class _Curve(Chart):
    WIDTH, HEIGHT = 420.0, 190.0


def write_page(report: PlasticityReport) -> str:
    """The page as HTML."""
    sections = (
        ("Summary", _facts(_summary(report))),
        ("Retention: what is known after so much other text", _retention(report)),
        ("Capacity: what is known of so many facts", _capacity(report)),
        ("Heads: how fast weights forget and write", _heads(report)),
        ("All numbers", _table(report)),
        ("How it was measured", f"<p>{escape(HOW)}</p>{_facts(_machine())}"),
    )
    content = "\n".join(
        f'<section class="card"><h2>{escape(title)}</h2>{text}</section>' for title, text in sections if text
    )
    page = FRAME.read_text(encoding="utf-8")
    for name, text in (
        ("content", content),
        ("subtitle", escape(report.model)),
        ("title", escape(f"Plasticity of {report.checkpoint}")),  # last: it may look like one of the names
    ):
        page = page.replace("{{" + name + "}}", text)
    return page


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}</dl>"


def _machine() -> list[tuple[str, str]]:
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("machine", machine()),
    ]


def _summary(report: PlasticityReport) -> list[tuple[str, str]]:
    lines = [("facts", report.told), ("episodes", f"{report.seeds} × {report.episodes} of each test")]
    for facts in report.facts:
        last = report.find(facts, report.gaps[-1], CLAIM)
        half = report.half_life(facts)
        words = f"{last.mean:.0%} right by the synapses alone after {last.gap:,} tokens, chance {1 / facts:.0%}"
        lines.append((f"{facts} facts", words + ("" if half is None else f"; half-life {half:,.0f} tokens")))
    return lines


def _retention(report: PlasticityReport) -> str:
    figures = []
    for facts in report.facts:
        rows = {arm: [report.find(facts, gap, arm) for gap in report.gaps] for arm in ARMS}
        label = f"Share of right choices of {facts} facts over the tokens after"
        drawn = _curves(label, [f"{gap:,}" for gap in report.gaps], rows)
        figures.append(f"<figure><h3>{facts} facts, chance {1 / facts:.2f}</h3>{drawn}</figure>")
    note = "Share of right choices, with its 95 % interval, over the tokens between facts and questions."
    return _side_by_side(note, figures)


def _capacity(report: PlasticityReport) -> str:
    if len(report.facts) == 1:
        return ""
    figures = []
    for gap in report.gaps:
        rows = {arm: [report.find(facts, gap, arm) for facts in report.facts] for arm in ARMS}
        label = f"Share of right choices over the number of facts, after {gap:,} tokens"
        drawn = _curves(label, [f"{facts:,}" for facts in report.facts], rows)
        figures.append(f"<figure><h3>after {gap:,} tokens</h3>{drawn}</figure>")
    note = "Share of right choices, with its 95 % interval, over the facts of an episode."
    return _side_by_side(note, figures)


def _heads(report: PlasticityReport) -> str:
    rows = [
        [number(head.block, 0), number(head.head, 0), Value(long(head.half_life), head.half_life)]
        for head in report.heads
    ]
    for row, head in zip(rows, report.heads, strict=True):
        row.append(number(head.writing, 4))
    note = (
        "While other text is read: tokens that halve what a head holds, by what it forgets a token on average, and the "
        "share of a token that it writes, which replaces more. A fact is kept by a head that does little of both."
    )
    return html_table(note, list(HEAD_COLUMNS), rows) if rows else ""


def _side_by_side(note: str, figures: Sequence[str]) -> str:
    columns = "grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr))"
    return f'<p class="faint">{note}</p>{_legend()}<div class="grid" style="{columns}">{"".join(figures)}</div>'


def _curves(label: str, ticks: Sequence[str], rows: dict[str, list[Recall]]) -> str:
    """A line an arm; the places across are equally far apart, whatever they stand for."""
    chart = _Curve((0, max(1, len(ticks) - 1)), (0, 1))
    places = list(range(len(ticks)))
    for colour, recalls in enumerate(rows.values()):
        low, high = zip(*(each.interval for each in recalls), strict=True)
        chart.band(places, low, high, colour)
        chart.line(places, [each.mean for each in recalls], colour)
    said = "; ".join(f"{arm}: {', '.join(f'{each.mean:.2f}' for each in recalls)}" for arm, recalls in rows.items())
    return chart.svg(f"{label}. {said}", dict(enumerate(ticks)), (0, 0.5, 1))


def _legend() -> str:
    items = [
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><path class="line" {stroke(place)} d="M0 4H26"/></svg>'
        f"{escape(arm)}</li>"
        for place, arm in enumerate(ARMS)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(report: PlasticityReport) -> str:
    rows = []
    for facts, gap, arm in product(report.facts, report.gaps, ARMS):
        each = report.find(facts, gap, arm)
        low, high = each.interval
        rows.append(
            [
                Value(arm),
                Value(f"{facts}", facts),
                Value(f"{gap:,}", gap),
                number(each.mean, 3),
                Value(f"{low:.3f} to {high:.3f}", high - low),
                number(1 / facts, 3),
                number(float(each.margin.mean()), 2),
            ]
        )
    head = ["what is kept", "facts", "tokens after", "right", "95 %", "chance", "margin, nats"]
    return html_table(
        "Right choices, and by how much right values are likelier than the mean of the others", head, rows
    )

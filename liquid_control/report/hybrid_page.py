"""The page of texts that were read with a memory, one file that opens without the internet, and a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from agents.run_folder import machine, versions
from liquid_control.report.remembered_reading import LOSSLESS, read_rows
from liquid_control.report.shift_pictures import Chart, stroke
from liquid_control.report.shift_tables import Value, html_table, markdown_table, number
from liquid_control.support.errors import UserError

FRAME = Path(__file__).with_name("shift_report.html")

HOW = (
    "A feed-forward part of the model is left out where its student is sure enough to guess it: where it expects an "
    "error below a threshold that audits set, and has earned an influence of 1. What it earns rises while the mean "
    "error at audits where it was sure is low, and is halved while that is high. Influence is nothing where it is not "
    "sure; its mean over all inputs is the share of what went on that was the student's. Hits are inputs so near to an "
    "entry of the cube that they are not new. Operations are multiplications. What is saved is net: the parts that did "
    "not run, less reading the cube (its index of summaries included) and the student; a part that ran to be audited "
    "saved nothing. Learning is counted apart: the student's backward pass, and writing, which keeps keys and "
    "summaries. Seconds saved are those that the skipped parts would have taken, less what reading and the student "
    "took. Agreement is measured on one stretch a block, which the whole model reads from the same state, too."
)


@dataclass(frozen=True)
class RememberedReport:
    """What a reading came to."""

    head: dict[str, Any]
    rows: list[dict[str, Any]]
    lossless: dict[str, Any] | None
    """How drafts of its memory fared, if they were tried."""

    @classmethod
    def of(cls, folder: Path) -> RememberedReport:
        """What stands in a folder of `hybrid run`.

        Raises:
            UserError: if nothing does, or it is damaged.
        """
        head, rows = read_rows(folder)
        if not rows:
            raise UserError(f"{folder} has no row yet: read on with the same hybrid run.")
        lossless = folder / LOSSLESS
        try:
            drafts = json.loads(lossless.read_text(encoding="utf-8")) if lossless.exists() else None
            report = cls(head, rows, drafts)
            report.summary()  # all that is asked for is there, and is a number
            report.texts()
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{folder} is damaged: read the texts again into another folder.") from None
        return report

    @property
    def layers(self) -> int:
        """Parts that have a memory."""
        return len(self.rows[0]["layers"])

    def summary(self) -> list[tuple[str, str]]:
        """The reading as a whole, in words."""
        head, rows = self.head, self.rows
        lines = [
            ("model", head["model"]),
            ("texts", ", ".join(head["texts"])),
            ("tokens", f"{rows[-1]['tokens']:,} of {head['length'] - 1:,}"),
            ("influence earned at the end", ", ".join(f"{layer['influence']:.2f}" for layer in rows[-1]["layers"])),
        ]
        lines += [(name, _take(rows, name).text) for name in MEASURES]
        if self.lossless is not None:
            lines.append(("lossless drafts", _drafts(self.lossless)))
        return lines

    def texts(self) -> tuple[list[str], list[list[Value]]]:
        """A table with a row a text."""
        head = ["text", "tokens", *MEASURES]
        table = []
        for name, begin in self.head["texts"].items():
            rows = [row for row in self.rows if row["text"] == name]
            if not rows:
                continue
            tokens = sum(row["count"] for row in rows)
            table.append([Value(name, begin), Value(f"{tokens:,}", tokens), *(_take(rows, each) for each in MEASURES)])
        return head, table


def _weighted(rows: Sequence[dict[str, Any]], key: str, among: str = "full") -> float:
    """A sum over layers and rows by another."""
    layers = [layer for row in rows for layer in row["layers"]]
    return sum(layer[key] for layer in layers) / max(1e-12, sum(layer[among] for layer in layers))


def _share(rows: Sequence[dict[str, Any]], key: str) -> float:
    """The mean over layers and rows of a share of inputs."""
    return float(np.mean([layer[key] for row in rows for layer in row["layers"]]))


def _sampled(rows: Sequence[dict[str, Any]], key: str, other: str = "") -> float:
    """The mean of what was measured on stretches, weighted by their tokens, less another."""
    return float(
        np.average(
            [row["sample"][key] - (row["sample"][other] if other else 0) for row in rows],
            weights=[row["sample"]["tokens"] for row in rows],
        )
    )


MEASURES: dict[str, tuple[Callable[[Sequence[dict[str, Any]]], float], int, str]] = {
    "bits per byte": (lambda rows: float(np.mean([row["bits_per_byte"] for row in rows])), 3, ""),
    "more than the whole model": (lambda rows: _sampled(rows, "bits_per_byte", "whole_bits_per_byte"), 4, ""),
    "from students": (lambda rows: _share(rows, "shared"), 1, "%"),
    "hits": (lambda rows: _share(rows, "hits"), 1, "%"),
    "skipped": (lambda rows: _share(rows, "skipped"), 1, "%"),
    "operations saved, net": (lambda rows: _weighted(rows, "saved"), 1, "%"),
    "spent on learning": (lambda rows: _weighted(rows, "learned"), 1, "%"),
    "same likeliest token": (lambda rows: _sampled(rows, "equal"), 1, "%"),
    "KL, nats a token": (lambda rows: _sampled(rows, "kl"), 4, ""),
    "milliseconds saved a token, net": (lambda rows: _milliseconds(rows, "seconds_saved"), 3, ""),
    "milliseconds of learning a token": (lambda rows: _milliseconds(rows, "seconds_learning"), 3, ""),
    "seconds beside the whole model": (
        lambda rows: _sampled(rows, "seconds") / _sampled(rows, "whole_seconds"),
        2,
        "×",
    ),
}
"""What is told of some rows: how, with so many digits, in which unit. Operations are shares of those of the parts if
they always ran."""


def _milliseconds(rows: Sequence[dict[str, Any]], key: str) -> float:
    """Of all layers, a token."""
    layers = [layer for row in rows for layer in row["layers"]]
    return 1000 * sum(layer[key] for layer in layers) / sum(row["count"] for row in rows)


def _take(rows: Sequence[dict[str, Any]], name: str) -> Value:
    take, digits, unit = MEASURES[name]
    return number(100 * take(rows) if unit == "%" else take(rows), digits, f" {unit}".rstrip())


def _drafts(lossless: dict[str, Any]) -> str:
    equal = {True: "; the text is equal", False: "; the text differs", None: ""}[lossless.get("equal")]
    return (
        f"{lossless['acceptance']:.0%} of the drafted tokens accepted, {lossless['ahead']} ahead, "
        f"{lossless['speed']:.2f} times as fast as the whole model alone over {lossless['tokens']:,} tokens{equal}"
    )


class _Curve(Chart):
    WIDTH, HEIGHT, LEFT = 420.0, 190.0, 40.0

    def mark(self, x: float) -> None:
        """A thin line from bottom to top, where another text begins."""
        (across, low), (_, high) = self._places([x, x], self.up)
        self._parts.insert(0, f'<path class="axis" d="M{across:.1f} {low:.1f}V{high:.1f}"/>')


def write_page(report: RememberedReport) -> str:
    """The page as HTML."""
    by_layer = [f"part {layer + 1}" for layer in range(report.layers)]

    def layers(take: Callable[[dict[str, Any]], float]) -> list[list[float]]:
        return [[take(row["layers"][layer]) for row in report.rows] for layer in range(report.layers)]

    def sampled(*keys: str) -> list[list[float]]:
        return [[row["sample"][key] for row in report.rows] for key in keys]

    def milliseconds(key: str) -> list[list[float]]:
        return [[1000 * row["layers"][at][key] / row["count"] for row in report.rows] for at in range(report.layers)]

    drawn = (
        ("Influence earned", by_layer, layers(lambda of: of["influence"]), (0.0, 1.0)),
        ("Mean influence, share that went on from students", by_layer, layers(lambda of: of["shared"]), (0.0, 1.0)),
        ("Hits, share of inputs", by_layer, layers(lambda of: of["hits"]), (0.0, 1.0)),
        ("Mean relative error of audits where sure", by_layer, layers(lambda of: of["error"] or np.nan), None),
        ("Skipped, share of inputs", by_layer, layers(lambda of: of["skipped"]), (0.0, 1.0)),
        ("Operations saved net, share of the part's", by_layer, layers(lambda of: of["saved"] / of["full"]), None),
        ("Milliseconds saved net, a token", by_layer, milliseconds("seconds_saved"), None),
        ("Milliseconds of learning, a token", by_layer, milliseconds("seconds_learning"), None),
        ("Same likeliest token as the whole model, share", ["sample"], sampled("equal"), (0.0, 1.0)),
        ("KL from the whole model, nats a token", ["sample"], sampled("kl"), None),
        ("Bits per byte of the sample", ["remembering", "whole"], sampled("bits_per_byte", "whole_bits_per_byte"), None,
         ),
    )  # fmt: skip
    columns = "grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr))"
    figures = [_figure(report, *each) for each in drawn]
    note = "Over tokens, a point a block. Thin upright lines: another text begins."
    curves = f'<p class="faint">{note}</p><div class="grid" style="{columns}">{"".join(figures)}</div>'
    head, rows = report.texts()
    sections = (
        ("Summary", _facts(report.summary())),
        ("Over time", curves),
        ("By text", html_table("Each text, as a mean over its blocks", head, rows)),
        ("How it was measured", f"<p>{escape(HOW)}</p>{_facts(_machine())}"),
    )
    content = "\n".join(f'<section class="card"><h2>{title}</h2>{text}</section>' for title, text in sections)
    page = FRAME.read_text(encoding="utf-8")
    for name, text in (
        ("content", content),
        ("subtitle", escape(report.head["model"])),
        ("title", escape(f"Work remembered by {report.head['checkpoint']}")),  # last: it may look like one of the names
    ):
        page = page.replace("{{" + name + "}}", text)
    return page


def _figure(
    report: RememberedReport,
    title: str,
    names: Sequence[str],
    lines: Sequence[Sequence[float]],
    bounds: tuple[float, float] | None,
) -> str:
    """A chart with a line a name, over the tokens that were read."""
    places, values = [row["tokens"] for row in report.rows], np.array(lines, np.float64)
    low, high = bounds or _bounds(values)
    chart = _Curve((0, max(places)), (low, high))
    for begin in list(report.head["texts"].values())[1:]:
        if begin < max(places):
            chart.mark(begin)
    for colour, line in enumerate(values):
        known = np.isfinite(line)
        if known.any():
            chart.line(np.array(places)[known], line[known], colour)
    said = "; ".join(f"{name}: {line[-1]:.3g} at the end" for name, line in zip(names, values, strict=True))
    ticks = {0: "0", max(places): f"{max(places):,}"}
    svg = chart.svg(f"{title}. {said}", ticks, sorted({low, 0.0 if low < 0 < high else (low + high) / 2, high}))
    legend = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><path class="line" {stroke(place)} d="M0 4H26"/></svg>'
        f"{escape(name)}</li>"
        for place, name in enumerate(names)
    )
    return f'<figure><h3>{escape(title)}</h3><ul class="legend">{legend}</ul>{svg}</figure>'


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """Rounded outwards to two digits, and never equal; zero is among them."""
    known = values[np.isfinite(values)]
    low, high = (min(0.0, float(known.min())), max(0.0, float(known.max()))) if known.size else (0.0, 1.0)
    if low == high:
        return 0.0, 1.0
    step = 10.0 ** np.floor(np.log10(high - low) - 1)
    return float(f"{np.floor(low / step) * step:.6g}"), float(f"{np.ceil(high / step) * step:.6g}")


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}</dl>"


def _machine() -> list[tuple[str, str]]:
    return [
        ("versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
        ("machine", machine()),
    ]


def write_markdown(report: RememberedReport) -> str:
    """The numbers in words."""
    summary = "\n".join(f"- {name}: {value}" for name, value in report.summary())
    machine_words = "\n".join(f"- {name}: {value}" for name, value in _machine())
    table = markdown_table(*report.texts())
    title = f"# Work remembered by {report.head['checkpoint']}"
    return f"{title}\n\n{summary}\n\n{table}\n\n{HOW}\n\n{machine_words}\n"

"""Tables of a report: in a page, sortable and coloured, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Value:
    """What stands in a table."""

    text: str
    order: float | None = None
    """What it is sorted by; None is its text."""
    title: str = ""
    share: int | None = None
    """0 to 100, as a colour."""


def number(value: float, digits: int = 1, unit: str = "") -> Value:
    """A number with so many digits behind the point."""
    return Value(f"{value:.{digits}f}{unit}".replace("-", "−"), value)


def percent(share: float) -> Value:
    """A share, 0 to 1."""
    return Value(f"{share:.1%}", share)


def interval_of(interval: tuple[float, float]) -> Value:
    """An interval; tables are sorted by its width."""
    low, high = interval
    return Value(f"{low:.0f} to {high:.0f}".replace("-", "−"), high - low)


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Value]], kind: str = "") -> str:
    """A table that the page's script sorts by any column.

    Args:
        caption: what it shows, as plain text.
        head: names of the columns.
        rows: of as many values each, the first of which names the row.
        kind: a class of the page's style.
    """
    heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in head)
    body = []
    for first, *rest in rows:
        cells = [f'<th scope="row"{_order(first)}>{escape(first.text)}</th>']
        for value in rest:
            style = f' style="--share:{value.share}"' if value.share is not None else ""
            title = f' title="{escape(value.title)}"' if value.title else ""
            cells.append(f"<td{_order(value)}{style}{title}>{escape(value.text)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<p class="faint">{escape(caption)}.</p>'
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table class="sortable {kind}" aria-label="{escape(caption)}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _order(value: Value) -> str:
    return "" if value.order is None else f' data-value="{value.order:.6g}"'


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """The same as Markdown."""
    return markdown_lines([list(head), *([value.text for value in row] for row in rows)])


def markdown_lines(table: Sequence[Sequence[str]]) -> str:
    """Rows of texts as a table of Markdown; the first is its head."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([rows[0], "| " + " | ".join("---" for _ in table[0]) + " |", *rows[1:]])

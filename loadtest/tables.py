"""How figures and tables of them are written in Markdown. Needs nothing that is not in Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def figure(value: float | None) -> str:
    """Three significant digits, thousands grouped: 0.0123, 12.3, 1,234. A dash for None."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]

"""Tables of text, for the terminal and for reports."""

from collections.abc import Sequence
from typing import NamedTuple

from exitscope_probes.untrusted import cleaned


class Table(NamedTuple):
    """title, headings and rows of text; marked: rows that stand out."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[bool] = ()


def columns(table: Table) -> list[str]:
    """Lines of a table in columns; nothing where it has no rows."""
    if not table.rows:
        return []
    cells = [[cleaned(cell) for cell in row] for row in (table.headings, *table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.headings))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]

"""The table of all figures, for a terminal and for the README."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.figure import BenchError, Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
HEADINGS = ("what", "measured", "target", "", "peer, remarks")
_VERDICTS = {True: "ok", False: "missed", None: ""}


def cells(row: Row) -> tuple[str, ...]:
    return (row.what, row.value, row.target, _VERDICTS[row.met], row.remark)


def as_text(rows: Sequence[Row]) -> str:
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n\n".join((table, *notes))


def update(readme: Path, markdown: str) -> None:
    """Replace what stands between BEGIN and END. Raises BenchError if the marks are not there."""
    text = readme.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise BenchError(f"{readme} has no {BEGIN} and {END}")
    readme.write_text(f"{head}{begin}\n{markdown}\n{end}{tail}")

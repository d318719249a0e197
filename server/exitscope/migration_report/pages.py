"""Pages of a migration: filled on demand and ahead of need over time, and which guest memory was asked for."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..migrations.models import MigrationFills
from ..placing import placing_columns
from ..query.ticks import tick_width_ns
from ..recordings import counters as columns
from ..recordings.file import RecordingFile
from .models import ReportFills, ReportMemory, ReportMemslot
from .records import Records

MAX_BINS: Final = 96
"""Rows of the picture of guest memory."""

HOLE_BYTES: Final = 256 << 20
"""A longer stretch that nobody asked for is left out, as what lies between a guest's memory and its firmware."""

_PAGE_BYTES: Final = 4096
_CHUNKS: Final = 1 << 16
_TICKS_PER_COLUMN: Final = 3


def fills(recording: RecordingFile, vm: str, span_ns: tuple[int, int], total: MigrationFills) -> ReportFills | None:
    """Over the intervals of the recording's counters that the migration touches. total: as the kernel counted."""
    log = recording.counters()
    if log is None:
        return None
    intervals = max(len(log.edges) - 1, 1)
    first, last = (min(max((moment_ns - log.started_ns) // log.interval_ns, 0), intervals - 1) for moment_ns in span_ns)
    owners = [number for number, owner in enumerate(log.owners) if owner.vm == vm and owner.vcpu is None]
    entries = log.entries[np.isin(log.entries["owner"], owners)]
    entries = entries[(entries["interval"] >= first) & (entries["interval"] <= last)]
    grown = {}
    for name, part in (("demand", columns.DEMAND), ("background", columns.BACKGROUND)):
        mine = entries[np.isin(entries["column"], placing_columns(part))]
        grown[name] = np.zeros(last - first + 1, np.int64)
        np.add.at(grown[name], mine["interval"].astype(np.int64) - first, mine["delta"])
    return ReportFills(
        from_ns=log.started_ns + first * log.interval_ns,
        tick_ns=log.interval_ns,
        demand=grown["demand"].tolist(),
        background=grown["background"].tolist(),
        demand_total=total.demand,
        background_total=total.background,
    )


def memory(records: Records, span_ns: tuple[int, int]) -> ReportMemory:
    """Faults by guest physical address and time."""
    tick_ns = tick_width_ns((span_ns[1] - span_ns[0]) * _TICKS_PER_COLUMN)
    ticks = -(-(span_ns[1] - span_ns[0]) // tick_ns)
    bin_bytes, bins = _bins(_ranges(records))
    cells = records.rows(
        f"least(greatest(begin_ns - $from_ns, 0) // $tick_ns, {ticks - 1}) AS tick, "
        "(gpa // $bin_bytes)::BIGINT AS bin, count(*) AS n",
        "WHERE gpa IS NOT NULL GROUP BY ALL ORDER BY ALL",
        tick_ns=tick_ns,
        bin_bytes=bin_bytes,
    )
    row_of = {number: row for row, number in enumerate(bins)}
    return ReportMemory(
        bin_bytes=bin_bytes,
        rows=[f"{number * bin_bytes:#x}" for number in bins],
        tick_ns=tick_ns,
        ticks=ticks,
        cells=[(int(cell["tick"]), row_of[cell["bin"]], cell["n"]) for cell in cells if cell["bin"] in row_of],
        memslots=_memslots(records),
        unknown=records.one("count(*) AS n", "gpa IS NULL")["n"],
    )


def _ranges(records: Records) -> list[tuple[int, int]]:
    """Lowest and highest guest physical address of each stretch that was asked for."""
    ends = records.one("min(gpa) AS low, max(gpa) AS high")
    chunk_bytes = 1 << 20
    while ends["low"] is not None and (ends["high"] - ends["low"]) // chunk_bytes > _CHUNKS:
        chunk_bytes *= 2
    chunks = records.rows(
        "gpa // $chunk_bytes AS chunk, min(gpa) AS low, max(gpa) AS high",
        "WHERE gpa IS NOT NULL GROUP BY chunk ORDER BY chunk",
        chunk_bytes=chunk_bytes,
    )
    found: list[tuple[int, int]] = []
    for chunk in chunks:
        if found and chunk["low"] - found[-1][1] <= HOLE_BYTES:
            found[-1] = found[-1][0], chunk["high"]
        else:
            found.append((chunk["low"], chunk["high"]))
    return found


def _bins(ranges: Sequence[tuple[int, int]]) -> tuple[int, list[int]]:
    """Bytes of a row, a power of two, such that about MAX_BINS rows suffice; and the rows' numbers, rising."""
    bin_bytes = _PAGE_BYTES
    while sum(high // bin_bytes - low // bin_bytes + 1 for low, high in ranges) > MAX_BINS + len(ranges):
        bin_bytes *= 2
    return bin_bytes, sorted({n for low, high in ranges for n in range(low // bin_bytes, high // bin_bytes + 1)})


def _memslots(records: Records) -> list[ReportMemslot]:
    rows = records.rows(
        "memslot, min(gpa) AS low, max(gpa) AS high, count(*) AS n",
        "WHERE memslot IS NOT NULL AND gpa IS NOT NULL GROUP BY memslot ORDER BY memslot",
    )
    return [
        ReportMemslot(memslot=row["memslot"], from_gpa=f"{row['low']:#x}", to_gpa=f"{row['high']:#x}", faults=row["n"])
        for row in rows
    ]

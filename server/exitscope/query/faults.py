"""Which faults: filters, and the query that gives them in the order of their begin."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from ..lengths import STAGE_COLUMNS
from ..recordings.columns import FAULTS_SQL, SCHEMA, literal
from ..recordings.file import RecordingFile

LATENCY: Final = " + ".join(STAGE_COLUMNS)
"""SQL of the whole fault's length, ns."""

COLUMNS: Final = (*SCHEMA.names, "latency_ns")
"""What every export has: the recording's columns, and the sum of the five stages."""

_SOURCE: Final = f"(SELECT *, {LATENCY} AS latency_ns FROM ({FAULTS_SQL.replace('$path', '?')}))"


@dataclass(frozen=True)
class Filters:
    """All of them must hold; None or empty: no matter. from_ns <= begin_ns < to_ns; latency bounds are inclusive."""

    vm: str | None = None
    vcpus: tuple[int, ...] = ()
    modes: tuple[str, ...] = ()
    from_ns: int | None = None
    to_ns: int | None = None
    min_latency_ns: int | None = None
    max_latency_ns: int | None = None
    limit: int | None = None
    offset: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self == Filters()


@dataclass
class Query:
    """SQL with the values of its parameters."""

    text: str
    values: list[Any] = field(default_factory=list)


def select(recording: RecordingFile, filters: Filters, columns: Iterable[str] | None = None) -> Query:
    """The recording's faults that pass the filters, in the file's order, which is that of begin_ns.

    columns: SQL expressions over COLUMNS that replace them.
    """
    query = Query(
        f"SELECT {', '.join(columns or COLUMNS)} FROM {_SOURCE}",
        [literal(recording.path)],
    )
    tests = []
    for test, value in (
        ("vm = ?", filters.vm),
        ("begin_ns >= ?", filters.from_ns),
        ("begin_ns < ?", filters.to_ns),
        ("latency_ns >= ?", filters.min_latency_ns),
        ("latency_ns <= ?", filters.max_latency_ns),
    ):
        if value is not None:
            tests.append(test)
            query.values.append(value)
    for name, several in (("vcpu", filters.vcpus), ("mode", filters.modes)):
        if several:
            tests.append(f"{name} IN ({', '.join('?' * len(several))})")
            query.values += several
    if tests:
        query.text += " WHERE " + " AND ".join(tests)
    if filters.limit is not None:
        query.text += " LIMIT ?"
        query.values.append(filters.limit)
    if filters.offset:
        query.text += " OFFSET ?"
        query.values.append(filters.offset)
    return query

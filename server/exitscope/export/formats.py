"""The formats in which faults leave: their media types, and a stream of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ..query.batches import batches
from ..query.engine import Engine
from ..query.faults import COLUMNS, Filters, select
from ..recordings.columns import SCHEMA
from ..recordings.damaged import all_from
from ..recordings.file import RecordingFile
from . import perfetto
from .readable import expression

HEX_COLUMNS: Final = ("hva", "gpa")
"""In JSON as text, "0x…": a number above 2^53 would not survive a reader that knows floating point numbers only."""

FORMULA: Final = r"^[=+\-@\t\r\n]"
_READABLE: Final = tuple(f"{expression(name)} AS {name}" for name in COLUMNS)

_TEXT_ROWS: Final = 16_384
"""Rows of text per chunk, 2 MB as CSV and 6 MB as JSON."""


_Stream = Callable[[Engine, RecordingFile, Filters], Iterator[bytes]]


@dataclass(frozen=True)
class Format:
    """stream: chunks of bytes, with bounded memory whatever the size."""

    media_type: str
    suffix: str
    stream: _Stream


def _json(engine: Engine, recording: RecordingFile, filters: Filters) -> Iterator[bytes]:
    """{"faults": [...], "next_offset": n | null}; with a limit, one row more is asked for, to know what comes next."""
    limit = filters.limit
    wanted = filters if limit is None else replace(filters, limit=limit + 1)
    pairs = (f"{name}: {_hexadecimal(name) if name in HEX_COLUMNS else expression(name)}" for name in COLUMNS)
    query = select(recording, wanted, [f"',' || to_json({{{', '.join(pairs)}}})::VARCHAR AS line"])
    yield b'{"faults":['
    rows, skip, more = 0, 1, False
    for batch in batches(engine, query, _TEXT_ROWS):
        used = batch.num_rows if limit is None else min(batch.num_rows, limit - rows)
        more = more or used < batch.num_rows
        rows += used
        if used:
            yield _text(batch.column(0).slice(0, used))[skip:].to_pybytes()
            skip = 0  # only the first row has no comma before it
    yield b'],"next_offset":%s}' % (str(filters.offset + rows).encode() if more else b"null")


def _hexadecimal(name: str) -> str:
    return f"'0x' || lower(to_hex({name}))"


def _csv(engine: Engine, recording: RecordingFile, filters: Filters) -> Iterator[bytes]:
    """RFC 4180 but for the line ends; unknown values are empty. Lines are made by the query: faster than its COPY."""
    strings = {field.name for field in SCHEMA if pa.types.is_dictionary(field.type)}
    cells = (_quoted(name) if name in strings else f"coalesce(({expression(name)})::VARCHAR, '')" for name in COLUMNS)
    query = select(recording, filters, [f"concat_ws(',', {', '.join(cells)}) || chr(10) AS line"])
    yield (",".join(COLUMNS) + "\n").encode()
    for batch in batches(engine, query, _TEXT_ROWS):
        if batch.num_rows:
            yield _text(batch.column(0)).to_pybytes()


def _quoted(name: str) -> str:
    """A string as a cell. There are few different ones: each is looked at once.

    A name may be a stranger's: one that a spreadsheet would calculate with (=, +, -, @, a tab or a line end first) has
    an apostrophe before it, which shows it as text.
    """
    harmless = f"CASE WHEN regexp_matches({name}, '{FORMULA}') THEN chr(39) || {name} ELSE {name} END"
    quoted = f"""CASE WHEN regexp_matches({name}, '[,"\\r\\n]')
        THEN '"' || replace({harmless}, '"', '""') || '"' ELSE {harmless} END"""
    return f"CASE WHEN regexp_matches({name}, '[,\"\\r\\n]|{FORMULA}') THEN {quoted} ELSE {name} END"


def _text(column: Any) -> Any:
    """All strings of a column, one after the other, as a buffer."""
    _, offsets, data = column.buffers()
    ends = memoryview(offsets).cast("q" if pa.types.is_large_string(column.type) else "i")
    first, last = ends[column.offset], ends[column.offset + len(column)]
    return data.slice(first, last - first)


def _parquet(engine: Engine, recording: RecordingFile, filters: Filters) -> Iterator[bytes]:
    def open_writer(sink: _Sink, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(sink, schema, compression="zstd")

    return _written(engine, recording, filters, open_writer)


def _arrow(engine: Engine, recording: RecordingFile, filters: Filters) -> Iterator[bytes]:
    return _written(engine, recording, filters, pa.ipc.new_stream)


def _written(
    engine: Engine, recording: RecordingFile, filters: Filters, open_writer: Callable[["_Sink", pa.Schema], Any]
) -> Iterator[bytes]:
    """What a writer of Arrow's makes of the batches."""
    sink = _Sink()
    writer = None
    for batch in batches(engine, select(recording, filters, _READABLE)):
        writer = writer or open_writer(sink, batch.schema)
        writer.write_batch(batch)
        if chunk := sink.take():
            yield chunk
    (writer or open_writer(sink, _schema(engine, recording))).close()
    yield sink.take()


def _schema(engine: Engine, recording: RecordingFile) -> Any:
    """The schema of a result without rows."""
    query = select(recording, Filters(limit=0), _READABLE)
    with engine.cursor() as cursor:
        return cursor.sql(query.text, params=query.values).to_arrow_table().schema


class _Sink:
    """A file to write to that is emptied as it fills."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def write(self, data: Any) -> int:
        """Keep a copy."""
        self._parts.append(bytes(data))
        self._written += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    def flush(self) -> None:
        """Nothing to do."""

    def take(self) -> bytes:
        """What was written since."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _perfetto(engine: Engine, recording: RecordingFile, filters: Filters) -> Iterator[bytes]:
    return perfetto.stream(batches(engine, select(recording, filters)), recording.meta)


def _guarded(stream: _Stream) -> _Stream:
    """Raises UserError for what is damaged in the file."""
    return lambda engine, recording, filters: all_from(recording.path, stream(engine, recording, filters))


FORMATS: Final[dict[str, Format]] = {
    "json": Format("application/json", "json", _guarded(_json)),
    "csv": Format("text/csv; charset=utf-8", "csv", _guarded(_csv)),
    "parquet": Format("application/vnd.apache.parquet", "parquet", _guarded(_parquet)),
    "arrow": Format("application/vnd.apache.arrow.stream", "arrows", _guarded(_arrow)),
    "perfetto": Format("application/vnd.perfetto.trace", "perfetto-trace", _guarded(_perfetto)),
}

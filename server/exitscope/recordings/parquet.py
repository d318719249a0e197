"""Opening a recording's Parquet, which anybody may have put into the folder: bounded before it is believed."""

import os
import struct
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from exitscope_probes.untrusted import cleaned

from ..errors import UserError
from .columns import FILE_SCHEMA
from .footer import check
from .plainfile import open_regular

MAX_FOOTER_BYTES: Final = 16 << 20
MAX_ROW_GROUPS: Final = 2048
"""A thousand million records, of at least 6.5 GB."""

MAX_GROUP_ROWS: Final = 1 << 20
_MAX_CHUNK_BYTES: Final = 64 << 20  # of one column of a row group: eight times what MAX_GROUP_ROWS records have
_TAIL: Final = struct.Struct("<I4s")
_MAGIC: Final = b"PAR1"


def opened(path: str | os.PathLike[str], follow: bool = True) -> Any:
    """The pq.ParquetFile of a recording; close it, it keeps its file open whatever is put in its place.

    follow: links, too. Raises OSError, or UserError if its columns or its sizes are not a recording's.
    """
    fd = open_regular(path, follow)
    try:
        _check_footer(fd)
        parquet = _parquet(pa.OSFile(f"/proc/self/fd/{fd}"))
        _check(parquet.metadata, parquet.schema_arrow)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{os.fspath(path)} is not a recording: {first_line(error)}") from None
    except _Unfit as error:
        raise UserError(f"{os.fspath(path)} is not a recording: {error}") from None
    finally:
        os.close(fd)
    return parquet


def table_in(data: bytes) -> Any:
    """The pq.ParquetFile of a small table inside a recording (digest.py). Raises pa.ArrowException."""
    tail = data[-_TAIL.size :]
    footer_bytes = _TAIL.unpack(tail)[0] if len(tail) == _TAIL.size else 0
    begin = len(data) - _TAIL.size - footer_bytes
    try:
        check(data[max(begin, 0) : -_TAIL.size], MAX_ROW_GROUPS, len(FILE_SCHEMA))
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    return _parquet(pa.BufferReader(data))


def first_line(error: BaseException) -> str:
    """Of its message, which may be long and quote what is in the file."""
    return cleaned((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


class _Unfit(Exception):
    """What does not fit."""


def _parquet(source: Any) -> Any:
    return pq.ParquetFile(source, thrift_string_size_limit=MAX_FOOTER_BYTES, thrift_container_size_limit=MAX_ROW_GROUPS)


def _check_footer(fd: int) -> None:
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TAIL.size, max(size - _TAIL.size, 0))
    if len(tail) < _TAIL.size or tail[4:] != _MAGIC:
        raise _Unfit("it does not end as a Parquet file does")
    footer_bytes = _TAIL.unpack(tail)[0]
    if footer_bytes > min(size, MAX_FOOTER_BYTES):
        raise _Unfit(f"a footer of {footer_bytes} bytes, in a file of {size}; at most {MAX_FOOTER_BYTES} are read")
    data = os.pread(fd, footer_bytes, max(size - _TAIL.size - footer_bytes, 0))
    check(data, MAX_ROW_GROUPS, len(FILE_SCHEMA))


def _check(metadata: Any, schema: pa.Schema) -> None:
    if not schema.equals(FILE_SCHEMA, check_metadata=False) or metadata.num_columns != len(FILE_SCHEMA):
        raise _Unfit("a Parquet file, but its columns are not a recording's")
    rows = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_columns != len(FILE_SCHEMA) or not 0 <= group.num_rows <= MAX_GROUP_ROWS:
            raise _Unfit(f"row group {number} has {group.num_columns} columns of {group.num_rows} rows")
        rows += group.num_rows
        for place in range(group.num_columns):
            column = group.column(place)
            sizes = column.total_compressed_size, column.total_uncompressed_size, column.num_values
            if min(sizes) < 0 or max(sizes) > _MAX_CHUNK_BYTES or column.num_values != group.num_rows:
                raise _Unfit(f"column {place} of row group {number} has {sizes[2]} values in {sizes[1]} bytes")
    if rows != metadata.num_rows:
        raise _Unfit(f"{metadata.num_rows} rows, and {rows} in its row groups")

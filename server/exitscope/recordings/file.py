"""The file of a recording: one Parquet file, with what it says about itself in the footer."""

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import SERIES

from ..errors import UserError
from .belief import believed
from .columns import FILE_SCHEMA, HVA_BASE, to_file, to_table
from .counters import Counters
from .digest import DIGEST_KEY, Digest, DigestLog
from .meta import RecordingMeta
from .parquet import opened

META_KEY: Final = b"exitscope"
HISTOGRAMS_KEY: Final = b"exitscope.histograms"
COUNTERS_KEY: Final = b"exitscope.counters"
ROW_GROUP: Final = 1 << 19
"""Records; writing one takes 150 MB."""

_ZSTD_LEVEL: Final = 9

HISTOGRAM_CELL_DTYPE: Final = np.dtype(
    [("vm", "<u2"), ("vcpu", "<i4"), ("series", "u1"), ("bucket", "<u2"), ("count", "<u8")]
)
"""One non-empty bucket of the kernel's histograms over the recording. vm: index in meta.vms; vcpu -1: other threads."""

# Few values: a dictionary. Bytes of a length of time: the high ones are nearly always 0, so each in a row of its own.
_DICTIONARY: Final = [
    "vm", "vcpu", "mode", "waiter", "resolver", "seen", "tid", "handler_tid", "exit_errno", "exit_reason",
    "exit_flags", "exit_size", "access", "presence", "memslot", HVA_BASE,
]  # fmt: skip
_ENCODING: Final = {
    "begin_ns": "DELTA_BINARY_PACKED",
    **dict.fromkeys(("raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns", "hva", "gpa"), "BYTE_STREAM_SPLIT"),
}


@dataclass(frozen=True, slots=True)
class RecordingFile:
    """A finished recording. `path` is what DuckDB, pandas and ClickHouse open."""

    path: str
    meta: RecordingMeta
    size_bytes: int
    _extra: Mapping[bytes, bytes]

    @classmethod
    def open(cls, path: str | os.PathLike[str], follow: bool = True) -> "RecordingFile":
        """Reads the footer only. follow: links, too. Raises UserError if it is no recording, saying why."""
        path = os.fspath(path)
        try:
            size = os.stat(path, follow_symlinks=follow).st_size
            with opened(path, follow) as parquet:
                metadata = parquet.metadata.metadata or {}
        except OSError as error:
            raise UserError(f"cannot read the recording {path}: {error.strerror or error}") from None
        if META_KEY not in metadata:
            raise UserError(f"{path} is not a recording: a Parquet file, but without exitscope's metadata")
        try:
            meta = believed(metadata[META_KEY])
        except ValueError as error:
            raise UserError(f"{path} is not a recording: its metadata do not fit: {error}") from None
        return cls(path, meta, size, metadata)

    def histograms(self) -> dict[tuple[str, int], npt.NDArray[np.int64]]:
        """(id of the VM, vCPU or -1) -> the kernel's exact histograms over the recording, (SERIES, BUCKETS) counts.

        Empty if the recording has none.
        """
        found: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
        cells = unpack(self._extra.get(HISTOGRAMS_KEY, b""), HISTOGRAM_CELL_DTYPE)
        cells = cells[(cells["vm"] < len(self.meta.vms)) & (cells["series"] < SERIES) & (cells["bucket"] < BUCKETS)]
        for cell in cells:
            key = self.meta.vms[int(cell["vm"])].id, int(cell["vcpu"])
            histogram = found.setdefault(key, np.zeros((SERIES, BUCKETS), np.int64))
            histogram[int(cell["series"]), int(cell["bucket"])] += int(cell["count"])
        return found

    def digest(self) -> Digest | None:
        """Sums per slot of time; None if it has none, because it is small or old."""
        return Digest.find(self.path, self._extra.get(DIGEST_KEY, b""))

    def counters(self) -> Counters | None:
        """What the kernel counted second by second, of the VMs that the recording is of; None if it has none.

        Recordings of one VM used to hold all VMs' counters.
        """
        return Counters.unpack(self.extra(COUNTERS_KEY), {vm.id for vm in self.meta.vms})

    def extra(self, key: bytes) -> bytes:
        """Another value of the footer, b"" if it has none."""
        return self._extra.get(key, b"")


class RecordingWriter:
    """Writes a recording's file, mode 0600, in place of what is there; close() makes it whole, with its metadata.

    Records must come sorted by begin_ns. started_ns: when the recording began, if it is known by now. Raises OSError,
    e.g. for a full disk.
    """

    def __init__(self, path: str | os.PathLike[str], started_ns: int | None = None) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        self.records = 0
        self._digest = DigestLog(started_ns)
        try:
            self._writer = pq.ParquetWriter(
                self._file,
                FILE_SCHEMA,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                use_dictionary=_DICTIONARY,
                column_encoding=_ENCODING,
                write_page_index=True,
                sorting_columns=[pq.SortingColumn(FILE_SCHEMA.get_field_index("begin_ns"))],
            )
        except BaseException:
            self._file.close()
            raise

    def write(self, records: npt.NDArray[Any], vm_ids: Mapping[int, str]) -> None:
        """Append a row group: records (n,) FAULT_DTYPE, best ROW_GROUP of them."""
        self.write_table(to_table(records, vm_ids))

    def write_table(self, table: pa.Table) -> None:
        """Append a table of columns.SCHEMA."""
        self._writer.write_table(to_file(table), row_group_size=ROW_GROUP)
        self._digest.add(table)
        self.records += table.num_rows

    def close(
        self,
        meta: RecordingMeta,
        histograms: npt.NDArray[Any] | None = None,
        counters: bytes = b"",
    ) -> None:
        """Write the footer: meta, histograms (n,) HISTOGRAM_CELL_DTYPE and what player.py needs; sets meta.records."""
        meta.records = self.records
        extra = {META_KEY: meta.model_dump_json().encode()}
        if histograms is not None and len(histograms):
            extra[HISTOGRAMS_KEY] = pack(histograms)
        if counters:
            extra[COUNTERS_KEY] = counters
        if digest := self._digest.write(self._file, meta.ended_ns):
            extra[DIGEST_KEY] = digest
        self._writer.add_key_value_metadata(extra)
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.is_open = False  # what is not whole by now stays so
        self._file.close()


MAX_UNPACKED_BYTES: Final = 32 << 20
"""Two million cells."""

_ROWS, _COLUMNS = b":", b"|"  # one row after the other, as it once was; one column after the other: half as long


def pack(array: npt.NDArray[Any]) -> bytes:
    """A structured array as text for the footer: zstd, base64."""
    data = b"".join(np.ascontiguousarray(array[name]).tobytes() for name in array.dtype.names or ())
    return str(len(data)).encode() + _COLUMNS + base64.b64encode(pa.compress(data, "zstd", asbytes=True))


def unpack(text: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The inverse of pack; empty for b""."""
    if not text:
        return np.empty(0, dtype)
    order = _COLUMNS if _COLUMNS in text[:24] else _ROWS
    length, _, data = text.partition(order)
    if not 0 <= int(length) <= MAX_UNPACKED_BYTES:
        raise ValueError(f"{int(length)} bytes to unpack, at most {MAX_UNPACKED_BYTES} are read")
    raw = pa.decompress(base64.b64decode(data), int(length), "zstd", asbytes=True)
    if order == _ROWS:
        return np.frombuffer(raw, dtype)
    array = np.empty(len(raw) // dtype.itemsize, dtype)
    offset = 0
    for name in dtype.names or ():
        array[name] = np.frombuffer(raw, dtype[name], len(array), offset)
        offset += array[name].nbytes
    return array

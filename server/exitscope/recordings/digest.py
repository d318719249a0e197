"""Sums over a large recording's records, per slot of time: its questions are answered from them, not by reading it.

They lie between the last row group and the footer, where readers of Parquet do not look, as small Parquet tables; the
footer says where. As with the counters, there are bounds: when there are too many sums, slots are joined in pairs.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..lengths import STAGE_COLUMNS, counted_stages
from .extremes import Extremes
from .parquet import first_line, table_in
from .people import People, Who
from .plainfile import open_regular
from .slots import Grid
from .standing import Standing

DIGEST_KEY: Final = b"exitscope.digest"
MIN_RECORDS: Final = 2_000_000
"""Fewer are read in half a second; a file of so few has no digest."""

SLOT_NS: Final = 1_000_000_000
MAX_CELLS: Final = 1 << 20
MAX_STAGE_CELLS: Final = 1 << 22
RECORDS_PER_CELL: Final = 16
"""And twice as many for the stages, so that the digest takes about a hundredth of the file."""

TABLES: Final = ("whole", "whole_lengths", "stages", "stages_lengths", "stall", "peaks", "gpa")
"""whole, stages: Grid.cells; …_lengths: Grid.lengths; the others: Standing.tables. By slots of `whole`, but stages."""

MAX_TABLE_BYTES: Final = 128 << 20
MAX_TABLE_ROWS: Final = 1 << 23
_BATCH_ROWS: Final = 1 << 18
_ROWS_AT_ONCE: Final = 1 << 17
_NUMBERS: Final = ("started_ns", "whole_ns", "stages_ns", "gpa_bin_bytes")
SLOWEST: Final = "slowest"
"""Extremes.table, by slots of `whole`."""


class DigestLog:
    """Takes the tables that a recording is written from, in their order. started_ns: where the slots begin."""

    def __init__(self, started_ns: int | None = None) -> None:
        self.records = 0
        self._origin_ns = started_ns
        self._newest_ns = 0
        self._unsorted = False
        self._people = People()
        self._whole = Grid(SLOT_NS, MAX_CELLS)
        self._stages = Grid(SLOT_NS, MAX_STAGE_CELLS)
        self._standing = Standing(SLOT_NS)
        self._extremes = Extremes()

    def add(self, table: pa.Table) -> None:
        """Count a table of columns.SCHEMA, sorted by begin_ns."""
        self.records += table.num_rows
        for first in range(0, table.num_rows, _ROWS_AT_ONCE):
            if not (self._unsorted or self._people.crowded):
                self._add(table.slice(first, _ROWS_AT_ONCE))

    def _add(self, table: pa.Table) -> None:
        begin_ns = table["begin_ns"].to_numpy()
        if self._origin_ns is None:
            self._origin_ns = int(begin_ns[0])
        if begin_ns[0] < self._newest_ns or (np.diff(begin_ns) < 0).any():
            self._unsorted = True
            return
        self._newest_ns = int(begin_ns[-1])
        vm, mode, who = self._people.identify(table)
        if self._people.crowded:
            return
        begin_ns = begin_ns - self._origin_ns
        since_ns, people = np.maximum(begin_ns, 0), len(self._people.who)
        stages = [table[name].to_numpy() for name in STAGE_COLUMNS]
        lengths_ns = np.sum(stages, axis=0)
        self._whole.add(since_ns, who, people, [(0, lengths_ns, None)])
        counted = counted_stages(mode, table["seen"].to_numpy())
        self._stages.add(since_ns, who, people, list(zip(range(1, 6), stages, counted, strict=True)))
        self._standing.coarsen(self._whole.slot_ns)
        self._standing.add(table, begin_ns, lengths_ns, vm, who, people)
        self._extremes.add(table, since_ns, lengths_ns, vm, self._whole.slot_ns)

    def write(self, file: BinaryIO, ended_ns: int) -> bytes:
        """Append the tables to the file; returns what belongs under DIGEST_KEY, b"" if there are none."""
        if self.records < MIN_RECORDS or self._unsorted or self._people.crowded or self._origin_ns is None:
            return b""
        self._whole.finish(min(self.records // RECORDS_PER_CELL, MAX_CELLS))
        self._stages.finish(min(self.records // RECORDS_PER_CELL * 2, MAX_STAGE_CELLS), self._whole.slot_ns)
        self._standing.coarsen(self._whole.slot_ns)
        self._standing.finish(ended_ns - self._origin_ns)
        tables = {
            "whole": _table(self._whole.cells()),
            "whole_lengths": _table(self._whole.lengths()),
            "stages": _table(self._stages.cells()),
            "stages_lengths": _table(self._stages.lengths()),
            **{name: _table(columns) for name, columns in self._standing.tables().items()},
            SLOWEST: self._extremes.table(self._whole.slot_ns),
        }
        places = {}
        for name, table in tables.items():
            packed = _packed(table)
            places[name] = [file.tell(), len(packed)]
            file.write(packed)
        numbers = self._origin_ns, self._whole.slot_ns, self._stages.slot_ns, self._standing.bin_bytes
        said = {
            **dict(zip(_NUMBERS, numbers, strict=True)),
            "vms": self._people.vms,
            "who": [[self._people.vms.index(vm), vcpu, mode] for vm, vcpu, mode in self._people.who],
            "tables": places,
        }
        return json.dumps(said).encode()


@dataclass(frozen=True, slots=True)
class Digest:
    """The inverse of DigestLog.write: where the tables are. Slot i of a grid begins at started_ns + i * its length;

    what began before started_ns is in slot 0.
    """

    path: str
    started_ns: int
    whole_ns: int
    stages_ns: int
    gpa_bin_bytes: int
    vms: list[str]
    who: list[Who]
    _tables: dict[str, tuple[int, int]]

    @classmethod
    def find(cls, path: str, text: bytes) -> "Digest | None":
        """text: the footer's DIGEST_KEY. None if there is none, or what is there does not fit."""
        try:
            said = json.loads(text)
            vms = [str(vm) for vm in said["vms"]]
            who = [(vms[vm], int(vcpu), int(mode)) for vm, vcpu, mode in said["who"]]
            tables = {str(name): (int(first), int(length)) for name, (first, length) in said["tables"].items()}
            started_ns, whole_ns, stages_ns, gpa_bin_bytes = (int(said[name]) for name in _NUMBERS)
            if min(whole_ns, stages_ns, gpa_bin_bytes) < 1:
                return None
            return cls(path, started_ns, whole_ns, stages_ns, gpa_bin_bytes, vms, who, tables)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError):
            return None

    def table(self, name: str) -> pa.Table:
        """Sorted by column `slot`. Raises OSError, or KeyError for what the file does not have."""
        try:
            table: pa.Table = self._parquet(name).read(use_threads=False)
        except pa.ArrowException as error:
            raise OSError(f"the digest of {self.path} is damaged: {first_line(error)}") from None
        return table

    def columns(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The same as arrays, (n,) each."""
        table = self.table(name)
        return {column: table[column].to_numpy() for column in table.column_names}

    def batches(self, name: str, first: int, last: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """The same, some rows at a time; slots first to last - 1."""
        for batch in self._parquet(name).iter_batches(_BATCH_ROWS, use_threads=False):
            low, high = np.searchsorted(batch.column("slot").to_numpy(), (first, last))
            if low < high:
                inside = batch.slice(low, high - low)
                yield {column: inside.column(column).to_numpy() for column in inside.schema.names}

    def _parquet(self, name: str) -> Any:
        first, length = self._tables[name]
        with os.fdopen(open_regular(self.path, follow=True), "rb") as file:
            if first < 0 or not 0 <= length <= min(MAX_TABLE_BYTES, os.fstat(file.fileno()).st_size):
                raise OSError(f"the digest of {self.path} is damaged: {length} bytes of {name}")
            file.seek(first)
            parquet = table_in(file.read(length))
        if parquet.metadata.num_rows > MAX_TABLE_ROWS:
            raise OSError(f"the digest of {self.path} is damaged: {parquet.metadata.num_rows} rows of {name}")
        return parquet

    def people(self) -> People:
        """To identify records by."""
        return People(self.vms, self.who)


def _table(columns: dict[str, npt.NDArray[Any]]) -> pa.Table:
    return pa.table(columns)


def _packed(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    encodings = {
        field.name: "DELTA_BINARY_PACKED" if field.name in ("slot", "key", "begin_ns") else "BYTE_STREAM_SPLIT"
        for field in table.schema
        if pa.types.is_integer(field.type) and field.type.bit_width >= 32
    }
    dictionary = [name for name in table.column_names if name not in encodings]
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=dictionary, column_encoding=encodings)
    return sink.getvalue()

"""The columns of a recording: fault records of the wire (numpy) to Arrow and back, exactly."""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    FAULT_DTYPE,
    MEMSLOT_UNKNOWN,
    MODES,
    PRESENCES,
    RECORD_FAULT,
    RESOLVERS,
    VCPU_OTHER,
    WAITERS,
)

from ..errors import UserError
from ..lengths import STAGE_COLUMNS

OTHER_THREADS: Final = -1
"""Column vcpu of a VM's threads that are not vCPUs."""

_NAMED: Final[dict[str, tuple[str, ...]]] = {
    "mode": MODES,
    "waiter": WAITERS,
    "resolver": RESOLVERS,
    "presence": PRESENCES,
}
_NAME: Final = pa.dictionary(pa.int8(), pa.string())

SCHEMA: Final = pa.schema(
    [
        pa.field("vm", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("vcpu", pa.int32(), nullable=False),
        pa.field("mode", _NAME, nullable=False),
        pa.field("waiter", _NAME, nullable=False),
        pa.field("resolver", _NAME, nullable=False),
        pa.field("seen", pa.uint8(), nullable=False),
        pa.field("tid", pa.int32(), nullable=False),
        pa.field("handler_tid", pa.int32(), nullable=False),
        pa.field("begin_ns", pa.int64(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in STAGE_COLUMNS),
        pa.field("hva", pa.uint64()),
        pa.field("gpa", pa.uint64()),
        pa.field("exit_errno", pa.int16(), nullable=False),
        pa.field("exit_reason", pa.uint16(), nullable=False),
        pa.field("exit_flags", pa.uint64(), nullable=False),
        pa.field("exit_size", pa.uint64(), nullable=False),
        pa.field("access", pa.uint8(), nullable=False),
        pa.field("presence", _NAME, nullable=False),
        pa.field("memslot", pa.int16()),
    ]
)
"""One row per fault. hva, gpa and memslot are null where unknown; handler_tid is 0 where no fill was seen."""

HVA_BASE: Final = "hva_base"
FILE_SCHEMA: Final = SCHEMA.append(pa.field(HVA_BASE, pa.uint64()))
"""As on disk: where gpa is known, hva is null and stands for gpa + hva_base, which is constant within a memory slot.

The two addresses of a fault are one random number, not two: this saves 1 to 2.4 of some 15 bytes per record."""

TABLE_SQL: Final = "read_parquet($path, hive_partitioning = false)"
"""DuckDB's table of a file, with columns of FILE_SCHEMA. $path: literal() of it; folders called vm=3 are no columns."""

FAULTS_SQL: Final = f"SELECT * EXCLUDE ({HVA_BASE}) REPLACE (coalesce(hva, gpa + {HVA_BASE}) AS hva) FROM {TABLE_SQL}"
"""DuckDB's query for the columns of SCHEMA, hva restored."""

_PATTERN: Final = re.compile(r"[*?\[]")
_UNKNOWN: Final = {"hva": ADDRESS_UNKNOWN, "gpa": ADDRESS_UNKNOWN, "memslot": MEMSLOT_UNKNOWN}


def literal(path: str | os.PathLike[str]) -> str:
    """A path as DuckDB takes it for this file alone: absolute, and without patterns.

    Raises UserError where DuckDB has no way to say it: it takes a backslash in a pattern for a slash.
    """
    path = os.path.abspath(path)
    if _PATTERN.search(path) and "\\" in path:
        raise UserError(f"{path}: a path with a backslash and one of * ? [ cannot be read: rename it")
    return _PATTERN.sub(r"[\g<0>]", path)


def to_table(records: npt.NDArray[Any], vm_ids: Mapping[int, str]) -> pa.Table:
    """Records, (n,) FAULT_DTYPE, as a table of SCHEMA. vm_ids: number of the VM -> its id; "vm-N" where it is not."""
    return pa.table([_column(field, records, vm_ids) for field in SCHEMA], schema=SCHEMA)


def to_file(table: pa.Table) -> pa.Table:
    """A table of SCHEMA as one of FILE_SCHEMA."""
    hva, gpa = table.column("hva"), table.column("gpa")
    from_base = pc.fill_null(pc.greater_equal(hva, gpa), False)
    base = pc.if_else(from_base, pc.subtract(hva, gpa), None)
    place = table.schema.get_field_index("hva")
    table = table.set_column(place, SCHEMA.field("hva"), pc.if_else(from_base, None, hva))
    return table.append_column(FILE_SCHEMA.field(HVA_BASE), base)


def from_file(table: pa.Table) -> pa.Table:
    """The inverse of to_file."""
    restored = pc.coalesce(table.column("hva"), pc.add(table.column("gpa"), table.column(HVA_BASE)))
    place = table.schema.get_field_index("hva")
    return table.drop_columns(HVA_BASE).set_column(place, SCHEMA.field("hva"), restored)


def from_table(table: pa.Table, vm_numbers: Mapping[str, int]) -> npt.NDArray[Any]:
    """The inverse of to_table, also for tables of FILE_SCHEMA, (n,) FAULT_DTYPE; KeyError for a VM without a number."""
    if HVA_BASE in table.column_names:
        table = from_file(table)
    records = np.zeros(table.num_rows, FAULT_DTYPE)
    records["type"], records["size"] = RECORD_FAULT, FAULT_DTYPE.itemsize
    for field in SCHEMA:
        column = table.column(field.name).combine_chunks()
        if field.name == "vm":
            column = _encoded(column)
            numbers = np.array([vm_numbers[vm] for vm in column.dictionary.to_pylist()] or [0], "<u4")
            records["vm"] = numbers[_numpy(column.indices)]
        elif field.name in _NAMED:
            column, names = _encoded(column), _NAMED[field.name]
            codes = np.array([names.index(name) for name in column.dictionary.to_pylist()] or [0], "u1")
            records[field.name] = codes[_numpy(column.indices)]
        elif field.name == "vcpu":
            records["vcpu"] = _numpy(column).view("<u4")  # -1 is VCPU_OTHER
        else:
            unknown = _UNKNOWN.get(field.name)
            records[field.name] = _numpy(column if unknown is None else column.fill_null(unknown))
    return records


def codes_of(column: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """A column of names as (n,) indexes in a list of them."""
    encoded = _encoded(column.unify_dictionaries() if isinstance(column, pa.ChunkedArray) else column)
    return _numpy(encoded.indices).astype(np.int64), encoded.dictionary.to_pylist()


def _column(field: pa.Field, records: npt.NDArray[Any], vm_ids: Mapping[int, str]) -> pa.Array:
    name = field.name
    if name == "vm":
        numbers, codes = np.unique(records["vm"], return_inverse=True)
        ids = [vm_ids.get(int(number), f"vm-{number}") for number in numbers]
        unique = list(dict.fromkeys(ids))  # a VM has several numbers when its collector was restarted
        place = np.array([unique.index(one) for one in ids] or [0], np.int16)
        return pa.DictionaryArray.from_arrays(pa.array(place[codes], pa.int16()), pa.array(unique, pa.string()))
    values = np.ascontiguousarray(records[name])
    if name in _NAMED:
        names = _NAMED[name]
        if len(values) and int(values.max()) >= len(names):
            names += tuple(f"code-{code}" for code in range(len(names), int(values.max()) + 1))
        return pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int8)), pa.array(names, pa.string()))
    if name == "vcpu":
        return pa.array(values.view(np.int32))
    mask = values == np.array(_UNKNOWN[name]).astype(values.dtype) if name in _UNKNOWN else None
    return pa.array(values.astype(str(field.type), copy=False), field.type, mask=mask)


def _encoded(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column if pa.types.is_dictionary(column.type) else column.dictionary_encode()


def _numpy(column: Any) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False)
    return array


assert np.uint32(VCPU_OTHER).view(np.int32) == OTHER_THREADS

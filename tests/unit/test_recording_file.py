"""Records in, records out: columns, file, counters."""

import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.errors import UserError
from exitscope.recordings.columns import FAULTS_SQL, SCHEMA, from_file, from_table, literal, to_file, to_table
from exitscope.recordings.counters import CounterLog, Counters, Owner
from exitscope.recordings.file import META_KEY, RecordingFile
from exitscope_probes.records import (
    FAULT_DTYPE,
    MODES,
    PRESENCES,
    RECORD_FAULT,
    RESOLVERS,
    VCPU_OTHER,
    WAITERS,
)

from .frames import T0, S
from .recordings import VM, synthetic_records, write_recording

MS = 1_000_000


def random_records(count: int, seed: int) -> npt.NDArray[Any]:
    """Every field anything that the kernel could say."""
    random = np.random.default_rng(seed)
    records = np.frombuffer(random.bytes(count * FAULT_DTYPE.itemsize), FAULT_DTYPE).copy()
    records["type"], records["size"] = RECORD_FAULT, FAULT_DTYPE.itemsize
    for name, names in (("mode", MODES), ("waiter", WAITERS), ("resolver", RESOLVERS), ("presence", PRESENCES)):
        records[name] %= len(names)
    records["vm"] = records["vm"] % 3 + 1
    for name in ("tid", "handler_tid", "vcpu"):
        records[name] >>= 1
    records["vcpu"][::3] = VCPU_OTHER
    for name in ("begin_ns", "raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns"):
        records[name] >>= np.uint64(4)
    for name in ("hva", "gpa"):
        records[name][random.random(count) < 0.3] = 0xFFFF_FFFF_FFFF_FFFF
    records["memslot"][::4] = -1
    return records


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**32))
def test_records_survive_the_table_and_the_file_schema(count: int, seed: int) -> None:
    records = random_records(count, seed)
    ids = {1: "a", 2: "b", 3: "c"}
    table = to_table(records, ids)
    assert table.schema.equals(SCHEMA)
    table.validate(full=True)
    numbers = {vm: number for number, vm in ids.items()}
    assert (from_table(table, numbers) == records).all()
    assert from_file(to_file(table)).equals(table)


def test_records_survive_the_file(tmp_path: Path) -> None:
    records = random_records(5000, 7)
    records = records[np.argsort(records["begin_ns"])]
    records["vm"] = 1
    file = write_recording(tmp_path / "a.parquet", records, write_meta_of(synthetic_records(10)), row_group=1000)
    assert file.meta.records == 5000
    assert pq.read_metadata(file.path).num_row_groups == 5
    assert (from_table(pq.read_table(file.path), {VM: 1}) == records).all()
    assert os.stat(file.path).st_mode & 0o777 == 0o600
    with duckdb.connect() as database:
        restored = database.sql(FAULTS_SQL, params={"path": literal(file.path)}).to_arrow_table()
    assert restored.column_names == SCHEMA.names
    assert restored["hva"].to_pylist() == to_table(records, {1: VM})["hva"].to_pylist()


def write_meta_of(records: npt.NDArray[Any]) -> Any:
    from .recordings import synthetic_meta

    return synthetic_meta(records)


def test_others_open_the_file_without_us(tmp_path: Path) -> None:
    records = synthetic_records(1000)
    file = write_recording(tmp_path / "a.parquet", records)
    database = duckdb.connect()
    rows = database.execute(f"SELECT mode, count(*), sum(serve_ns) FROM '{file.path}' GROUP BY mode").fetchall()
    assert rows == [("uffd", 1000, int(records["serve_ns"].sum()))]
    query = f"SELECT value FROM parquet_kv_metadata('{file.path}') WHERE key = 'exitscope'"
    kv = database.execute(query).fetchall()
    assert b'"lost_ns":0' in kv[0][0]


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.parquet"
    text.write_text("no")
    other = tmp_path / "other.parquet"
    pq.write_table(to_table(synthetic_records(1), {}), other)
    odd = tmp_path / "odd.parquet"
    pq.write_table(to_table(synthetic_records(1), {}).replace_schema_metadata({META_KEY: b'{"id": 1}'}), odd)
    for path, words in (
        (tmp_path / "absent", "No such file"),
        (text, "not a recording"),
        (other, "a Parquet file, but"),
        (odd, "columns are not a recording"),
    ):
        with pytest.raises(UserError, match=words) as error:
            RecordingFile.open(path)
        assert "\n" not in str(error.value)


def test_counters_come_back_and_get_coarser_when_they_are_many() -> None:
    log = CounterLog(T0, max_entries=100)
    total = np.zeros((3, 5), np.int64)
    random = np.random.default_rng(1)
    for second in range(300):
        for owner in range(3):
            grown = random.integers(0, 3, 5)
            total[owner] += grown
            log.add(T0 + second * S + 1, owner, slice(0, 5), grown)
    counters = Counters.unpack(log.pack([Owner("a", 0), Owner("a", 1), Owner("a", None)]))
    assert counters is not None
    assert counters.interval_ns > S and len(counters.entries) <= 200
    assert counters.owners[2] == Owner("a", None)
    for owner in range(3):
        mine = counters.entries[counters.entries["owner"] == owner]
        assert np.bincount(mine["column"], mine["delta"], 5).tolist() == total[owner].tolist()
    assert (np.diff(counters.entries["interval"].astype(int)) >= 0).all()
    assert counters.edges[-1] == len(counters.entries)
    assert Counters.unpack(b"") is None and Counters.unpack(b"{}\nxx") is None

"""Every format read back equals the records; a Perfetto trace is well-formed and complete."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from exitscope.export.formats import FORMATS
from exitscope.export.protobuf import fixed64, join, message, one, varint
from exitscope.export.readable import seen_names
from exitscope.page import access_names
from exitscope.query.engine import Engine
from exitscope.query.faults import COLUMNS, Filters
from exitscope.recordings.columns import SCHEMA, from_table, to_table
from exitscope.recordings.file import RecordingFile
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    EXIT_NAMES,
    FAULT_DTYPE,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    MODES,
    SEEN_FILL,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_OTHER,
)

from .perfetto_reader import Parsed, Slice, parse
from .recordings import VM, latency_ns, synthetic_meta, synthetic_records, write_recording

STAGES = ("raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns")


def extreme_records(count: int = 4000) -> npt.NDArray[Any]:
    """Every kind of fault, and numbers at the edges of their types."""
    records = synthetic_records(count)
    random = np.random.default_rng(3)
    records["mode"] = random.choice([MODE_UFFD, MODE_EXIT, MODE_MEMORY_FAULT], count)
    # Async faults of one vCPU overlap, and those of other threads are no vCPU's.
    late = random.random(count) < 0.1
    records["mode"][late], records["waiter"][late] = MODE_ASYNC, WAITER_ASYNC
    records["serve_ns"][late] += np.uint64(50_000_000)
    other = random.random(count) < 0.05
    records["waiter"][other], records["vcpu"][other], records["mode"][other] = WAITER_OTHER, VCPU_OTHER, MODE_UFFD
    exits = np.isin(records["mode"], (MODE_EXIT, MODE_MEMORY_FAULT))
    records["notify_ns"][exits] = 0
    records["handler_tid"][exits] = records["tid"][exits]
    records["exit_errno"][exits] = -14
    records["exit_reason"][records["mode"] == MODE_MEMORY_FAULT] = 39
    records["handler_tid"][random.random(count) < 0.1] = 0
    records["hva"][::7] = ADDRESS_UNKNOWN
    records["hva"][3], records["gpa"][3] = 0xFFFF_FFFF_FFFF_F000, 0x000F_FFFF_FFFF_F000
    records["exit_flags"][5], records["exit_size"][5] = 0xFFFF_FFFF_FFFF_FFFE, 0xFFFF_FFFF_FFFF_FFFF
    records["begin_ns"] += np.uint64((1 << 60) - int(records["begin_ns"][0]))
    return records


@pytest.fixture(scope="module")
def records() -> npt.NDArray[Any]:
    return extreme_records()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, records: npt.NDArray[Any]) -> RecordingFile:
    meta = synthetic_meta(synthetic_records(10))
    return write_recording(tmp_path_factory.mktemp("export") / "r.parquet", records, meta, row_group=700)


@pytest.fixture(scope="module")
def engine(recording: RecordingFile) -> Any:
    with Engine(Path(recording.path).parent) as engine:
        yield engine


def exported(engine: Engine, recording: RecordingFile, format: str, **filters: Any) -> bytes:
    return b"".join(FORMATS[format].stream(engine, recording, Filters(**filters)))


def same(table: pa.Table, records: npt.NDArray[Any]) -> bool:
    """The table, its names turned into codes again and cast to the schema of a recording, gives these records."""
    assert table.column_names == list(COLUMNS)
    assert np.array_equal(table.column("latency_ns").to_numpy(), latency_ns(records))
    for name, numbers in CODES.items():
        codes = [numbers.get(text or None) for text in table.column(name).to_pylist()]
        if name == "exit_reason":  # of an exit that was none nothing is said
            codes = [code if errno else int(was) for code, errno, was in zip(
                codes, records["exit_errno"], records["exit_reason"], strict=True)]  # fmt: skip
        table = table.set_column(table.column_names.index(name), name, pa.array(codes, SCHEMA.field(name).type))
    back = from_table(table.select(SCHEMA.names).cast(_plain()), {VM: 1})
    return back.tobytes() == records.tobytes()


CODES: dict[str, dict[str | None, int]] = {
    "seen": {seen_names(bits) or None: bits for bits in range(128)},
    "access": {access_names(bits): bits for bits in range(8)},
    "exit_errno": {None: 0, "EFAULT": -14, "EHWPOISON": -133},
    "exit_reason": {name: number for number, name in enumerate(EXIT_NAMES[:48])},
}


def _plain() -> pa.Schema:
    """Strings are strings, not codes."""
    return pa.schema([
        pa.field(one.name, pa.string() if pa.types.is_dictionary(one.type) else one.type) for one in SCHEMA
    ])  # fmt: skip


def _exported() -> pa.Schema:
    return pa.schema([pa.field(one.name, pa.string()) if one.name in CODES else one for one in _plain()])


def read(format: str, data: bytes) -> pa.Table:
    if format == "parquet":
        return pq.read_table(io.BytesIO(data))
    if format == "arrow":
        return pa.ipc.open_stream(data).read_all()
    if format == "csv":
        types = dict(zip(SCHEMA.names, _exported().types, strict=True)) | {"latency_ns": pa.int64()}
        return pa.csv.read_csv(
            io.BytesIO(data), convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
        )
    rows = json.loads(data)["faults"]
    for row in rows:
        row |= {name: None if row[name] is None else int(row[name], 16) for name in ("hva", "gpa")}
    fields = [*_exported(), pa.field("latency_ns", pa.int64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


@pytest.mark.parametrize("format", ["json", "csv", "parquet", "arrow"])
def test_every_format_read_back_equals_the_records(
    engine: Engine, recording: RecordingFile, records: npt.NDArray[Any], format: str
) -> None:
    assert same(read(format, exported(engine, recording, format)), records)


@pytest.mark.parametrize("format", ["json", "csv", "parquet", "arrow"])
def test_every_format_can_be_filtered_and_be_empty(
    engine: Engine, recording: RecordingFile, records: npt.NDArray[Any], format: str
) -> None:
    mine = records[(records["vcpu"] == 2) & (records["mode"] == MODE_EXIT)][10:30]
    data = exported(engine, recording, format, vcpus=(2,), modes=("exit",), offset=10, limit=20)
    assert same(read(format, data), mine)
    empty = read(format, exported(engine, recording, format, vm="none"))
    assert (empty.num_rows, empty.column_names) == (0, list(COLUMNS))


def test_json_pages_join_up(engine: Engine, recording: RecordingFile, records: npt.NDArray[Any]) -> None:
    offset: int | None = 0
    begins = []
    while offset is not None:
        page = json.loads(exported(engine, recording, "json", limit=1500, offset=offset))
        begins += [fault["begin_ns"] for fault in page["faults"]]
        offset = page["next_offset"]
    assert begins == records["begin_ns"].tolist()


def test_unknown_addresses_are_null(engine: Engine, recording: RecordingFile) -> None:
    first = json.loads(exported(engine, recording, "json", limit=1))["faults"][0]
    assert (first["gpa"], first["hva"], first["memslot"]) == (None, None, None)


def test_a_reader_that_goes_ends_the_query(engine: Engine, recording: RecordingFile) -> None:
    for format in FORMATS:
        stream: Any = FORMATS[format].stream(engine, recording, Filters())
        next(stream)
        stream.close()
    assert not list(engine.scratch.iterdir())


@pytest.fixture(scope="module")
def trace(engine: Engine, recording: RecordingFile) -> Parsed:
    return parse(exported(engine, recording, "perfetto"))


def faults_of(trace: Parsed) -> list[Slice]:
    return [one for one in trace.slices if one.name.endswith(" fault")]


def test_every_fault_has_its_slices_and_its_moments(trace: Parsed, records: npt.NDArray[Any]) -> None:
    expected: Counter[Any] = Counter()
    for record, length in zip(records, latency_ns(records).tolist(), strict=True):
        mode, begin = MODES[record["mode"]], int(record["begin_ns"])
        finish = "reenter" if mode in ("exit", "memory_fault") else "wake"
        stages, at = [], begin
        for name, column in zip(("raise", "notify", "serve", "fill", finish), STAGES, strict=True):
            if record[column]:
                stages.append((name, at, at + int(record[column])))
            at += int(record[column])
        expected[f"{mode} fault", begin, begin + length, tuple(stages)] += 1
    found = Counter(
        (one.name, one.begin_ns, one.end_ns, tuple((part.name, part.begin_ns, part.end_ns) for part in one.children))
        for one in faults_of(trace)
    )
    assert found == expected
    assert {one.depth for one in faults_of(trace)} == {0}  # nothing overlaps on its track


def test_every_fill_by_a_handler_is_its_slice_with_a_flow_from_the_fault(
    trace: Parsed, records: npt.NDArray[Any]
) -> None:
    handled = (records["handler_tid"] != 0) & (records["handler_tid"] != records["tid"])
    handled &= records["seen"] & SEEN_FILL != 0
    begin = sum((records[name] for name in STAGES[:3]), records["begin_ns"])
    expected = Counter(
        zip(begin[handled].tolist(), (begin + records["fill_ns"])[handled].tolist(),
            records["handler_tid"][handled].tolist(), strict=True)
    )  # fmt: skip
    fills = [one for one in trace.slices if one.name.startswith("fill ")]
    found = Counter((one.begin_ns, one.end_ns, int(trace.tracks[one.track][0].split()[-1])) for one in fills)
    assert found == expected
    starts = {flow: one for one in faults_of(trace) for flow in one.flows}
    assert len(starts) == len(fills)
    for fill in fills:
        (flow,) = fill.ended_flows
        fault = starts.pop(flow)
        assert [(part.begin_ns, part.end_ns) for part in fault.children if part.name == "fill"] == [
            (fill.begin_ns, fill.end_ns)
        ]
    assert not starts


def test_tracks_are_one_per_vcpu_and_handler_below_their_vm(trace: Parsed) -> None:
    assert list(trace.processes.values()) == [(4001, "fake")]
    names = {name for name, _ in trace.tracks.values()}
    assert {f"vCPU {i}" for i in range(4)} | {f"vCPU {i} async" for i in range(4)} <= names
    assert {"handler handler 9100", "handler handler 9101"} <= names
    assert {parent for _, parent in trace.tracks.values()} == set(trace.processes)
    assert set(trace.clocks) == {1, 3}


def test_arguments_say_what_is_known(trace: Parsed, records: npt.NDArray[Any]) -> None:
    by_begin = {(one.begin_ns, one.arguments["tid"]): one.arguments for one in faults_of(trace)}
    for record in records[:500]:
        said = by_begin[int(record["begin_ns"]), int(record["tid"])]
        assert said["mode"] == MODES[record["mode"]]
        assert said.get("gpa", ADDRESS_UNKNOWN) == int(record["gpa"])
        assert said.get("hva", ADDRESS_UNKNOWN) == int(record["hva"])
        assert said.get("exit_errno", 0) == int(record["exit_errno"])
        assert said.get("handler_tid", 0) == int(record["handler_tid"])


def test_a_trace_of_nothing_is_a_trace(engine: Engine, recording: RecordingFile) -> None:
    assert parse(exported(engine, recording, "perfetto", vm="none")).slices == []


def test_faults_that_surround_each_other_get_lanes_of_their_own(tmp_path: Path) -> None:
    records = np.zeros(3, FAULT_DTYPE)
    records[:] = synthetic_records(3, vcpus=1)
    records["mode"], records["waiter"] = MODE_ASYNC, WAITER_ASYNC
    records["begin_ns"] = records["begin_ns"][0] + np.array([0, 10, 20], np.uint64)
    with Engine(tmp_path) as engine:
        trace = parse(exported(engine, write_recording(tmp_path / "r.parquet", records), "perfetto"))
    assert len({one.track for one in faults_of(trace)}) == 3
    assert {trace.tracks[one.track][0] for one in faults_of(trace)} == {"vCPU 0 async"}


def test_protobuf_numbers_of_any_length() -> None:
    values = np.array([0, 1, 127, 128, 16383, 16384, 2**32, 2**63, 2**64 - 1], np.uint64)
    rows = join(varint(1, values), fixed64(2, values), message(3, varint(1, values)).where(values > 127))
    expected = b"".join(
        one(1, value) + b"\x11" + value.to_bytes(8, "little") + (one(3, one(1, value)) if value > 127 else b"")
        for value in values.tolist()
    )
    assert rows.tobytes() == expected


def test_columns_agree_with_the_recording(records: npt.NDArray[Any]) -> None:
    assert to_table(records, {1: VM}).column_names == list(COLUMNS[:-1])

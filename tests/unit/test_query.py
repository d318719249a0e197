"""Summaries and filters of recordings against what numpy says of the same records."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.query.batches import batches
from exitscope.query.engine import Engine
from exitscope.query.faults import Filters, select
from exitscope.query.models import RecordingSummary
from exitscope.query.scan import Part, Scan, bucket_sql
from exitscope.query.summary import summary
from exitscope.query.text import terminal
from exitscope.query.ticks import MAX_TICKS, tick_width_ns
from exitscope.recordings.counters import EXITS, HARDWARE_COUNTS, HARDWARE_SUMS_NS, CounterLog, Owner
from exitscope.recordings.file import RecordingFile, RecordingWriter
from exitscope_probes.exit_reasons import ISA_SVM, name_of
from exitscope_probes.histogram import BUCKETS, bucket_of
from exitscope_probes.records import (
    EXIT_NAMES,
    FAULT_DTYPE,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    MODES,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_OTHER,
)

from .recordings import STAGES, START_NS, VM, latency_ns, synthetic_meta, synthetic_records, write_recording

S = 1_000_000_000
HLT = 0x78
HARDWARE = np.array((HARDWARE_COUNTS.start + HLT, HARDWARE_SUMS_NS.start + HLT))
WIDTH = 0.032
"""How far a percentile may be off: half a bucket."""


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with Engine(tmp_path) as engine:
        yield engine


def mixed(count: int = 6000) -> npt.NDArray[Any]:
    """Faults of every mode and waiter, some with stages that were not seen."""
    random = np.random.default_rng(7)
    records = synthetic_records(count, seconds=20)
    records["mode"] = random.choice([MODE_UFFD, MODE_EXIT, MODE_MEMORY_FAULT, MODE_ASYNC], count)
    records["waiter"][records["mode"] == MODE_ASYNC] = WAITER_ASYNC
    other = random.random(count) < 0.05
    records["waiter"][other], records["vcpu"][other], records["mode"][other] = WAITER_OTHER, VCPU_OTHER, MODE_UFFD
    records["seen"] = random.choice([0, SEEN_ACCESS, SEEN_READ, SEEN_ACCESS | SEEN_READ | SEEN_FILL], count)
    records["notify_ns"][np.isin(records["mode"], (MODE_EXIT, MODE_MEMORY_FAULT))] = 0
    return records


def without_totals(path: Path, records: npt.NDArray[Any], **fields: Any) -> RecordingFile:
    """A recording that has nothing but its records."""
    meta = synthetic_meta(records[records["vcpu"] != VCPU_OTHER])
    meta = meta.model_copy(update={"totals": type(meta.totals)()} | fields)
    with RecordingWriter(path) as writer:
        writer.write(records, {1: VM})
        writer.close(meta)
    return RecordingFile.open(path)


def near(measured: int, lengths: npt.NDArray[Any], quantile: float) -> bool:
    exact = float(np.quantile(lengths, quantile, method="inverted_cdf"))
    return abs(measured - exact) <= WIDTH * exact + 2


def test_percentiles_per_vcpu_and_mode_agree_with_exact_ones(tmp_path: Path, engine: Engine) -> None:
    records = mixed()
    found = summary(engine, without_totals(tmp_path / "r.parquet", records))
    RecordingSummary.model_validate(found)
    assert found["source"] == "records"
    vcpus = records[records["vcpu"] != VCPU_OTHER]
    for code, mode in enumerate(MODES):
        lengths = latency_ns(vcpus[vcpus["mode"] == code])
        if len(lengths):
            shown = found["modes"][mode]
            assert (shown["count"], shown["sum"], shown["max"]) == (len(lengths), lengths.sum(), lengths.max())
            assert all(near(shown[name], lengths, q) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)))
    for row in found["vcpus"]:
        mine = records[records["vcpu"] == row["vcpu"]]
        lengths = latency_ns(mine)
        assert row["latency_ns"]["count"] == len(mine)
        assert row["faults"] == {mode: int((mine["mode"] == code).sum()) for code, mode in enumerate(MODES)}
        assert all(near(row["latency_ns"][name], lengths, q) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)))
    assert found["other"]["count"] == int((records["vcpu"] == VCPU_OTHER).sum())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 1 << 50), min_size=1, max_size=60), st.integers(0, 2**32))
def test_percentiles_of_any_lengths_are_within_half_a_bucket(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int
) -> None:
    directory = tmp_path_factory.mktemp("property")
    records = synthetic_records(len(lengths), vcpus=1, seed=seed)
    for name in ("raise_ns", "notify_ns", "fill_ns", "finish_ns"):
        records[name] = 0
    records["serve_ns"] = np.minimum(lengths, (1 << 42) - 1)
    with Engine(directory) as engine:
        found = summary(engine, without_totals(directory / "r.parquet", records))
    shown = found["modes"]["uffd"]
    whole = records["serve_ns"].astype(np.int64)
    assert (shown["count"], shown["sum"], shown["max"]) == (len(lengths), whole.sum(), whole.max())
    assert all(near(shown[name], whole, q) for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)))


def test_buckets_in_sql_are_those_of_the_kernel() -> None:
    edges = [1 << bit for bit in range(63)]
    values = sorted({max(edge + i, 0) for edge in edges for i in (-1, 0, 1)} | set(range(3000)))
    with duckdb.connect() as database:
        query = f"SELECT {bucket_sql('v')} FROM (SELECT unnest(?::BIGINT[]) AS v)"
        found = [row[0] for row in database.execute(query, [values]).fetchall()]
    assert found == bucket_of(np.array(values, np.uint64)).tolist()
    assert max(found) == BUCKETS - 1


def test_stages_count_only_what_was_seen(tmp_path: Path, engine: Engine) -> None:
    records = mixed()
    found = summary(engine, without_totals(tmp_path / "r.parquet", records))
    mine = records[records["vcpu"] != VCPU_OTHER]
    exits = np.isin(mine["mode"], (MODE_EXIT, MODE_MEMORY_FAULT))
    seen = mine["seen"]
    for family, chosen in (("uffd", mine["mode"] == MODE_UFFD), ("exit", exits), ("async", mine["mode"] == MODE_ASYNC)):
        stages = found["stages"][family]
        assert stages["raise"]["count"] == int((chosen & (seen & SEEN_ACCESS != 0)).sum())
        served = chosen if family == "exit" else chosen & (seen & SEEN_READ != 0)
        assert stages["serve"]["count"] == int(served.sum())
        assert stages["serve"]["sum"] == int(mine["serve_ns"][served].sum())
        filled = chosen & (seen & SEEN_FILL != 0)
        last = stages["reenter" if family == "exit" else "wake"]
        assert (last["count"], last["max"]) == (int(filled.sum()), int(mine["finish_ns"][filled].max()))
    assert "notify" not in found["stages"]["exit"]


def test_a_whole_recording_has_the_kernels_totals_and_a_part_the_records(tmp_path: Path, engine: Engine) -> None:
    records = synthetic_records(3000)
    recording = write_recording(tmp_path / "r.parquet", records[::2], synthetic_meta(records))  # half the records lost
    whole = summary(engine, recording)
    assert whole["source"] == "kernel totals"
    assert whole["modes"]["uffd"]["count"] == 3000
    assert whole["modes"]["kernel"]["count"] == 40
    assert whole["modes"]["uffd"]["sum"] == int(latency_ns(records).sum())
    assert whole["fills"] == {"demand": {"COPY": 3000, "WAKE": 9}, "background": {"COPY": 3}, "failed": 0}
    assert whole["exits"] == {"KVM_EXIT_IO": 0 + 1 + 2 + 3}
    part = summary(engine, recording, from_ns=START_NS + 2 * S, to_ns=START_NS + 4 * S)
    begins = records["begin_ns"][::2].astype(np.int64) - START_NS
    assert part["source"] == "records"
    assert part["modes"]["uffd"]["count"] == int(((begins >= 2 * S) & (begins < 4 * S)).sum())
    assert (part["from_ns"], part["to_ns"]) == (START_NS + 2 * S, START_NS + 4 * S)


def test_exits_of_a_part_come_from_the_counters_of_its_seconds(tmp_path: Path, engine: Engine) -> None:
    records = synthetic_records(100)
    log = CounterLog(START_NS)
    for second in range(10):
        grown = np.zeros(EXITS.stop - EXITS.start, np.int64)
        grown[EXIT_NAMES.index("KVM_EXIT_HLT")] = second + 1
        log.add(START_NS + second * S + S // 2, 0, EXITS, grown)
        log.isa = ISA_SVM
        log.add(START_NS + second * S + S // 2, 0, HARDWARE, np.array([1, 1000 * second]))
    with RecordingWriter(tmp_path / "r.parquet") as writer:
        writer.write(records, {1: VM})
        writer.close(synthetic_meta(records), counters=log.pack([Owner(VM, 0, 9000)]))
    recording = RecordingFile.open(tmp_path / "r.parquet")
    found = summary(engine, recording, from_ns=START_NS + 2 * S, to_ns=START_NS + 4 * S)
    assert found["exits"] == {"KVM_EXIT_HLT": 3 + 4}
    assert found["vcpus"][0]["exits"] == {"KVM_EXIT_HLT": 7}
    name = name_of(ISA_SVM, HLT)
    assert found["hardware"] == {name: {"count": 2, "sum_ns": 5000, "max_ns": None}}
    assert found["vcpus"][0]["hardware_exits"] == {name: 2}
    assert name in terminal(found)


def test_what_a_recording_does_not_hold_is_not_known(tmp_path: Path, engine: Engine) -> None:
    records = synthetic_records(100)
    found = summary(engine, without_totals(tmp_path / "r.parquet", records), from_ns=START_NS + S)
    RecordingSummary.model_validate(found)
    assert (found["exits"], found["fills"], found["hardware"]) == (None, None, None)
    assert "not known" in terminal(found)


def test_hardware_exits_of_the_whole_come_from_the_totals(tmp_path: Path, engine: Engine) -> None:
    records = synthetic_records(100)
    meta = synthetic_meta(records)
    for vcpu in meta.totals.stop.vms[VM].vcpus:
        vcpu.hardware = {"HLT": [3, 4000]}
    meta.hooks.append({"hook": "hardware_exits", "status": "attached"})
    found = summary(engine, write_recording(tmp_path / "r.parquet", records, meta))
    RecordingSummary.model_validate(found)
    assert found["hardware"] == {"HLT": {"count": 12, "sum_ns": 16000, "max_ns": None}}
    assert found["hardware_state"] == "counted"


def brute_stall(records: npt.NDArray[Any], part: Part) -> dict[int, npt.NDArray[np.int64]]:
    found = {int(vcpu): np.zeros(part.ticks, np.int64) for vcpu in np.unique(records["vcpu"])}
    for record, length in zip(records, latency_ns(records).tolist(), strict=True):
        begin = int(record["begin_ns"])
        for tick in range(part.ticks):
            low = part.from_ns + tick * part.tick_ns
            high = min(low + part.tick_ns, part.to_ns)
            found[int(record["vcpu"])][tick] += max(min(begin + length, high) - max(begin, low), 0)
    return found


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50 * S), st.integers(0, 12 * S)), min_size=1, max_size=40),
    st.integers(0, 20 * S),
    st.integers(1, 40 * S),
)
def test_stall_over_time_is_clipped_exactly(
    tmp_path_factory: pytest.TempPathFactory, faults: list[tuple[int, int]], first: int, length: int
) -> None:
    directory = tmp_path_factory.mktemp("stall")
    faults.sort()
    records = synthetic_records(len(faults), vcpus=3)
    records["begin_ns"] = [START_NS + begin for begin, _ in faults]
    records["serve_ns"] = [whole for _, whole in faults]
    part = Part(START_NS + first, START_NS + first + length, tick_width_ns(length))
    with Engine(directory) as engine:
        found = Scan(engine, without_totals(directory / "r.parquet", records)).stalls(part)
    for vcpu, expected in brute_stall(records, part).items():
        assert np.array_equal(found.get((VM, vcpu), np.zeros(part.ticks, np.int64)), expected)


def test_columns_of_time_add_up_to_the_whole(tmp_path: Path, engine: Engine) -> None:
    records = mixed()
    found = summary(engine, without_totals(tmp_path / "r.parquet", records))
    ticks, width = found["ticks"], found["tick_ns"]
    assert len(ticks) <= MAX_TICKS
    counted = sum(round(one["modes"]["uffd"]["rate_per_s"] * width / S) for one in ticks[:-1] if "uffd" in one["modes"])
    inside = (records["mode"] == MODE_UFFD) & (records["vcpu"] != VCPU_OTHER)
    inside &= records["begin_ns"] < found["from_ns"] + (len(ticks) - 1) * width
    assert counted == int(inside.sum())
    rows = [row["vcpu"] for row in found["vcpus"]]
    tick = ticks[len(ticks) // 2]
    low = tick["time_ns"] - width // 2
    for vcpu, p99 in zip(rows, tick["heat"], strict=True):
        mine = records[(records["vcpu"] == vcpu) & (records["begin_ns"] >= low) & (records["begin_ns"] < low + width)]
        assert (p99 is None) == (len(mine) == 0)
        assert p99 is None or near(p99, latency_ns(mine), 0.99)


def test_a_fault_that_lasts_colours_all_its_columns(tmp_path: Path, engine: Engine) -> None:
    """A vCPU hangs for 30 s amid short faults: first the fault's length, then its age, then short ones again."""
    lengths = [1_000_000, 30 * S, 1_000_000]
    records = synthetic_records(3, vcpus=1)
    records["begin_ns"] = [START_NS, START_NS + 2 * S, START_NS + 40 * S]
    for name in STAGES:
        records[name] = 0
    records["serve_ns"] = lengths
    found = summary(engine, without_totals(tmp_path / "r.parquet", records))
    width = found["tick_ns"]
    heat = {round((tick["time_ns"] - START_NS - width / 2) / width): tick["heat"][0] for tick in found["ticks"]}
    per_s = S // width
    assert heat[0] == pytest.approx(1_000_000, rel=0.07)
    assert heat[per_s] is None
    assert heat[2 * per_s] == pytest.approx(30 * S, rel=0.07)
    for second in (3, 10, 31):  # it began amid or at the edge of a column
        assert heat[second * per_s] == pytest.approx((second - 2) * S, abs=2 * width)
    assert heat[33 * per_s] is None
    assert heat[40 * per_s] == pytest.approx(1_000_000, rel=0.07)


@pytest.mark.parametrize("length", [1, 10**6, 10 * S, 3600 * S, 86400 * 400 * S])
def test_columns_are_round_and_few(length: int) -> None:
    width = tick_width_ns(length)
    assert -(-length // width) <= MAX_TICKS
    assert width % 10**7 == 0


def test_the_slowest_are_the_slowest(tmp_path: Path, engine: Engine) -> None:
    records = mixed()
    found = summary(engine, without_totals(tmp_path / "r.parquet", records))["slowest"]
    expected = np.sort(latency_ns(records[records["vcpu"] != VCPU_OTHER]))[::-1][: len(found)]
    assert [fault["latency_ns"] for fault in found] == expected.tolist()
    assert all(sum(fault["stages_ns"].values()) == fault["latency_ns"] for fault in found)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*(st.one_of(st.none(), st.integers(0, 12 * S)) for _ in range(2))),
    st.tuples(*(st.one_of(st.none(), st.integers(0, 2_000_000)) for _ in range(2))),
    st.sets(st.integers(-1, 5), max_size=3),
    st.sets(st.sampled_from(MODES[:4]), max_size=3),
    st.one_of(st.none(), st.integers(1, 200)),
    st.integers(0, 300),
)
def test_filters_and_paging_choose_what_numpy_chooses(
    shared: dict[str, Any],
    times: tuple[int | None, int | None],
    lengths: tuple[int | None, int | None],
    vcpus: set[int],
    modes: set[str],
    limit: int | None,
    offset: int,
) -> None:
    engine, recording, records = shared["engine"], shared["recording"], shared["records"]
    from_ns, to_ns = (None if moment is None else START_NS + moment for moment in times)
    filters = Filters(None, tuple(vcpus), tuple(modes), from_ns, to_ns, *lengths, limit, offset)
    found = [row["begin_ns"] for batch in batches(engine, select(recording, filters)) for row in batch.to_pylist()]
    begin, whole = records["begin_ns"].astype(np.int64), latency_ns(records)
    chosen = np.ones(len(records), bool)
    chosen &= begin >= (from_ns or 0)
    chosen &= begin < (to_ns if to_ns is not None else 1 << 62)
    chosen &= (whole >= (lengths[0] or 0)) & (whole <= (lengths[1] if lengths[1] is not None else 1 << 62))
    if vcpus:
        chosen &= np.isin(records["vcpu"].astype(np.uint32).view(np.int32), list(vcpus))
    if modes:
        chosen &= np.isin(np.array(MODES)[records["mode"]], list(modes))
    assert found == begin[chosen][offset:][:limit].tolist()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("shared")
    records = mixed(1500)
    with Engine(directory) as engine:
        found = {"engine": engine, "recording": without_totals(directory / "r.parquet", records), "records": records}
        yield found
        found.clear()  # Hypothesis keeps its arguments to the end, DuckDB complains then


def test_the_engine_reads_nothing_else_and_loads_nothing(tmp_path: Path, engine: Engine) -> None:
    (tmp_path.parent / "secret.csv").write_text("a\n1\n")
    for query in (
        f"SELECT * FROM read_csv('{tmp_path.parent}/secret.csv')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        f"COPY (SELECT 1) TO '{tmp_path.parent}/out.csv'",
    ):
        with pytest.raises(duckdb.Error):
            engine.rows(query, [])


def test_an_empty_recording_has_an_empty_summary(tmp_path: Path, engine: Engine) -> None:
    recording = without_totals(tmp_path / "r.parquet", np.zeros(0, FAULT_DTYPE))
    found = summary(engine, recording)
    RecordingSummary.model_validate(found)
    assert found["modes"] == {}
    assert found["slowest"] == []
    assert "No faults" in terminal(found)


def test_the_terminal_shows_every_vcpu_and_the_slowest(tmp_path: Path, engine: Engine) -> None:
    text = terminal(summary(engine, write_recording(tmp_path / "r.parquet")))
    assert text.count("\nfake") == 4
    assert "slowest" in text
    assert "KVM_EXIT_IO" in text

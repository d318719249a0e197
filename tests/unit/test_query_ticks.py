"""What a summary's columns say besides latencies: vCPUs standing still, pages placed, places in guest memory."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.aggregate import Aggregate
from exitscope.frame import history, select
from exitscope.migrations.models import Phase
from exitscope.query import standing
from exitscope.query.engine import Engine
from exitscope.query.models import RecordingSummary
from exitscope.query.scan import Part
from exitscope.query.standing import most_at_once
from exitscope.query.summary import summary
from exitscope.recordings.counters import BACKGROUND, DEMAND, STALL_NS, CounterLog, Owner
from exitscope.recordings.file import RecordingFile, RecordingWriter
from exitscope.recordings.synthesis import Synthesis
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    MODE_ASYNC,
    RESOLVERS,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_OTHER,
)

from .migration_recordings import source
from .recordings import START_NS, VM, latency_ns, synthetic_meta, synthetic_records, write_recording

S = 1_000_000_000
MS = 1_000_000


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with Engine(tmp_path) as engine:
        yield engine


def brute_force(begins: npt.NDArray[Any], ends: npt.NDArray[Any], from_ns: int, to_ns: int) -> int:
    moments = [from_ns, *(int(begin) for begin in begins if from_ns <= begin < to_ns)]
    return max(int(((begins <= moment) & (moment < ends)).sum()) for moment in moments)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 400)), max_size=60),
    st.integers(0, 500),
    st.integers(1, 500),
    st.sampled_from([7, 100, 1000]),
    st.sampled_from([1, 3, 1 << 17]),
)
def test_the_most_at_once_in_each_column_is_what_brute_force_counts(
    tmp_path_factory: pytest.TempPathFactory,
    spans: list[tuple[int, int]],
    from_ns: int,
    length_ns: int,
    tick_ns: int,
    batch: int,
) -> None:
    """Any part, any columns, faults that began before it and faults of no length; read some at a time."""
    directory = tmp_path_factory.mktemp("property")
    records = synthetic_records(len(spans), vcpus=3)
    for name in ("raise_ns", "notify_ns", "fill_ns", "finish_ns"):
        records[name] = 0
    records["begin_ns"] = START_NS + np.array([begin for begin, _ in sorted(spans)], np.int64)
    records["serve_ns"] = [length for _, length in sorted(spans)]
    recording = write_recording(directory / "r.parquet", records, row_group=7)
    begins = records["begin_ns"].astype(np.int64)
    ends = begins + latency_ns(records)
    part = Part(START_NS + from_ns, START_NS + from_ns + length_ns, tick_ns)
    with pytest.MonkeyPatch.context() as patch, Engine(directory) as engine:
        patch.setattr(standing, "_BATCH", batch)
        found = most_at_once(engine, recording, part, None)
    edges = [part.from_ns + i * tick_ns for i in range(part.ticks)]
    assert found.tolist() == [brute_force(begins, ends, at, min(at + tick_ns, part.to_ns)) for at in edges]


def several(count: int = 3000) -> npt.NDArray[Any]:
    """Faults of two VMs; some async, some of other threads, some without an address."""
    random = np.random.default_rng(3)
    records = synthetic_records(count, vcpus=4, seconds=30, serve_ns=8 * MS)
    records["vm"] = random.choice([1, 2], count)
    far = (records["vm"] == 2) & (records["gpa"] != ADDRESS_UNKNOWN)
    records["gpa"][far] = records["gpa"][far] * np.uint64(64) + np.uint64(1 << 36)
    kind = random.random(count)
    records["mode"][kind < 0.1], records["waiter"][kind < 0.1] = MODE_ASYNC, WAITER_ASYNC
    records["vcpu"][kind > 0.95], records["waiter"][kind > 0.95] = VCPU_OTHER, WAITER_OTHER
    return records


def two_vms(path: Path, records: npt.NDArray[Any]) -> RecordingFile:
    meta = synthetic_meta(records[records["vcpu"] != VCPU_OTHER])
    other = meta.vms[0].model_copy(update={"id": "4002-7", "memory_bytes": 1 << 32, "uuid": "u", "domain": "d"})
    meta = meta.model_copy(update={"vms": [*meta.vms, other], "totals": type(meta.totals)()})
    with RecordingWriter(path) as writer:
        writer.write(records, {1: VM, 2: other.id})
        writer.close(meta)
    return RecordingFile.open(path)


@pytest.mark.parametrize("vm", [None, VM, "4002-7"])
def test_stalled_vcpus_and_places_of_one_vm_or_of_all(tmp_path: Path, engine: Engine, vm: str | None) -> None:
    records = several()
    found = summary(engine, two_vms(tmp_path / "r.parquet", records), vm=vm)
    RecordingSummary.model_validate(found)
    mine = records if vm is None else records[records["vm"] == (1 if vm == VM else 2)]
    waited = mine[mine["waiter"] == 0]
    begins = waited["begin_ns"].astype(np.int64)
    ends = begins + latency_ns(waited)
    placed: dict[int, int] = {}
    for number, tick in enumerate(found["ticks"]):
        from_ns = found["from_ns"] + number * found["tick_ns"]
        to_ns = min(from_ns + found["tick_ns"], found["to_ns"])
        stood_ns = np.maximum(np.minimum(ends, to_ns) - np.maximum(begins, from_ns), 0).sum()
        assert tick["stalled"]["peak"] == brute_force(begins, ends, from_ns, to_ns)
        assert tick["stalled"]["mean"] == pytest.approx(stood_ns / (to_ns - from_ns), abs=1e-3)
        assert tick["stalled"]["peak"] >= tick["stalled"]["mean"] - 1e-3
        assert tick["stalled"]["vcpus"] == (8 if vm is None else 4)
        assert tick["fills"] is None  # this recording has no counters
        if vm is None:
            assert tick["gpa"] is None
            continue
        assert tick["gpa"]["bin_bytes"] == (8 << 20 if vm == "4002-7" else 256 << 10)
        for number_of_bin, faults in tick["gpa"]["cells"]:
            placed[number_of_bin] = placed.get(number_of_bin, 0) + faults
    known = mine[(mine["gpa"] != ADDRESS_UNKNOWN) & (mine["waiter"] != WAITER_OTHER)]
    if vm is not None:
        bins, counts = np.unique(known["gpa"] // found["ticks"][0]["gpa"]["bin_bytes"], return_counts=True)
        assert placed == dict(zip(bins.tolist(), counts.tolist(), strict=True))
        assert found["vms"][0]["uuid"] == (None if vm == VM else "u")


def with_counters(path: Path, records: npt.NDArray[Any], background: int = 0) -> RecordingFile:
    """Counted second by second as the kernel would: a demand fill per record when it ends."""
    meta = synthetic_meta(records)
    log = CounterLog(START_NS)
    ends = records["begin_ns"].astype(np.int64) + latency_ns(records)
    column = RESOLVERS.index("COPY")
    for end_ns in sorted(ends.tolist()):
        log.add(end_ns, 0, np.array([DEMAND.start + column]), np.array([1]))
        log.add(end_ns, 0, np.array([BACKGROUND.start + column]), np.array([background]))
        for kind in (DEMAND, BACKGROUND):  # places no page
            log.add(end_ns, 0, np.array([kind.start + RESOLVERS.index("WAKE")]), np.array([7]))
    for vcpu in range(4):  # the counters go on when the VM's are all told
        log.add(int(ends.max()), 1 + vcpu, np.array([STALL_NS]), np.array([0]))
    owners = [Owner(VM, None), *(Owner(VM, vcpu, 9000 + vcpu) for vcpu in range(4))]
    with RecordingWriter(path) as writer:
        writer.write(records, {1: VM})
        writer.close(meta, counters=log.pack(owners))
    return RecordingFile.open(path)


@pytest.mark.parametrize("seconds", [0.7, 10, 200, 900])
def test_no_page_placed_is_lost_whatever_the_columns(tmp_path: Path, engine: Engine, seconds: float) -> None:
    records = synthetic_records(2000, seconds=seconds)
    found = summary(engine, with_counters(tmp_path / "r.parquet", records, background=3))
    RecordingSummary.model_validate(found)
    fills = [tick["fills"] for tick in found["ticks"]]
    assert sum(one["demand"] for one in fills) == 2000
    assert sum(one["background"] for one in fills) == 6000
    assert min(min(one.values()) for one in fills) >= 0


def test_in_columns_shorter_than_a_second_demand_fills_are_where_the_faults_are(tmp_path: Path, engine: Engine) -> None:
    records = synthetic_records(2000, seconds=0.1)
    records["begin_ns"] += 450 * MS
    last = synthetic_records(1, seconds=0)
    last["begin_ns"] += 2 * S
    recording = with_counters(tmp_path / "r.parquet", np.concatenate((records, last)))
    found = summary(engine, recording)
    assert found["tick_ns"] < S // 10
    for tick in found["ticks"]:
        far = abs(tick["time_ns"] - START_NS - S // 2) > 60 * MS + found["tick_ns"]
        if far and tick["time_ns"] < START_NS + S:
            assert tick["fills"]["demand"] == 0
    part = summary(engine, recording, from_ns=START_NS + 400 * MS, to_ns=START_NS + 600 * MS)
    assert sum(tick["fills"]["demand"] for tick in part["ticks"]) == 2000


def test_a_replay_shows_the_same_columns_as_the_summary(tmp_path: Path, engine: Engine) -> None:
    records = synthetic_records(3000, vcpus=4, seconds=200, serve_ns=20 * MS)
    records["begin_ns"] = np.maximum(records["begin_ns"], START_NS + S)
    # A vCPU stands in one fault at a time.
    for vcpu in range(4):
        mine = np.flatnonzero(records["vcpu"] == vcpu)
        free_ns = np.diff(records["begin_ns"][mine].astype(np.int64), append=1 << 62)
        records["serve_ns"][mine] = np.minimum(records["serve_ns"][mine], np.maximum(free_ns - 60_000, 1))
    records = records[(records["begin_ns"] // 60_000) % 2 == 0]
    recording = with_counters(tmp_path / "r.parquet", records)
    found = summary(engine, recording, from_ns=START_NS, to_ns=START_NS + 150 * S)
    assert found["tick_ns"] in (S // 2, S)
    found = found | {"ticks": summary(engine, recording, from_ns=START_NS, to_ns=START_NS + 300 * S)["ticks"]}
    aggregate, synthesis = Aggregate(), Synthesis(recording, START_NS)
    messages = synthesis.welcome()
    for step in range(1, 150 * 5 + 1):
        messages += synthesis.advance(START_NS + step * S // 5)
    for message in messages:
        aggregate.handle(message)
    ticks = history(aggregate, select(aggregate, VM), 10 * S)["ticks"]
    assert len(ticks) == 150
    whole = {tick["time_ns"] + S // 2: tick for tick in found["ticks"]}
    for tick in ticks:
        same = whole[tick["time_ns"]]
        assert tick["stalled"]["peak"] == same["stalled"]["peak"]
        assert tick["stalled"]["vcpus"] == same["stalled"]["vcpus"] == 4
        assert tick["fills"] == same["fills"]
        assert tick["gpa"]["bin_bytes"] == same["gpa"]["bin_bytes"]
    # Live faults count when they end, in a summary when they began: the same ones over all.
    count: dict[str, dict[int, int]] = {name: {} for name in ("live", "summary")}
    for name, columns in (("live", ticks), ("summary", [whole[tick["time_ns"]] for tick in ticks])):
        for column in columns:
            for at, faults in column["gpa"]["cells"]:
                count[name][at] = count[name].get(at, 0) + faults
    assert sum(count["live"].values()) == pytest.approx(sum(count["summary"].values()), abs=4)


@pytest.mark.parametrize(
    ("changes", "away_ns"),
    [
        ({"phases": [Phase(name="precopy", from_ns=0), Phase(name="postcopy", from_ns=START_NS + S)]}, START_NS + S),
        ({"phases": [], "state": "completed", "to_ns": START_NS + 2 * S}, START_NS + 2 * S),
        ({"phases": [], "state": "failed"}, None),
        ({"phases": [], "role": "destination"}, None),
    ],
)  # fmt: skip
def test_a_source_that_has_switched_over_is_not_counted_among_all(
    tmp_path: Path, engine: Engine, changes: dict[str, Any], away_ns: int | None
) -> None:
    records = several()
    file = two_vms(tmp_path / "r.parquet", records)
    file.meta.migrations = [source(vm="4002-7", **changes)]
    there = [summary(engine, file, vm=vm)["ticks"] for vm in (VM, "4002-7")]
    everything = summary(engine, file)
    for number, tick in enumerate(everything["ticks"]):
        ends_ns = min(everything["from_ns"] + (number + 1) * everything["tick_ns"], everything["to_ns"])
        away = away_ns is not None and away_ns < ends_ns
        assert tick["stalled"]["vcpus"] == (4 if away else 8)
        means = [one[number]["stalled"]["mean"] for one in there]
        assert tick["stalled"]["mean"] == pytest.approx(means[0] if away else sum(means), abs=2e-3)
        assert tick["stalled"]["peak"] <= tick["stalled"]["vcpus"]
    assert there[1][-1]["stalled"]["vcpus"] == 4, "by itself it is shown whole"

"""The report of a migration: every figure against one that is computed another way."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exitscope.errors import UserError
from exitscope.migration_report.models import MigrationReport
from exitscope.migration_report.report import default_number, report
from exitscope.migrations.models import Migration
from exitscope.query.engine import Engine
from exitscope.recordings.file import RecordingFile
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    MODE_EXIT,
    SEEN_HALT,
    SEEN_READ,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_VCPU,
)

from .migration_recordings import MS, S, destination, migrated_records, source, write_migration
from .recordings import START_NS, latency_ns, synthetic_records

Records = npt.NDArray[Any]
Times = npt.NDArray[np.int64]


def of(file: RecordingFile, number: int = 0) -> MigrationReport:
    with Engine(Path(file.path).parent) as engine:
        return report(engine, file, number)


@pytest.fixture(scope="module")
def records() -> Records:
    return migrated_records()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, records: Records) -> MigrationReport:
    return of(write_migration(tmp_path_factory.mktemp("report") / "a.parquet", records))


def stands_still(records: Records) -> npt.NDArray[np.bool_]:
    halted = (records["waiter"] == WAITER_ASYNC) & (records["seen"] & SEEN_HALT != 0)
    return np.asarray((records["vcpu"] != VCPU_OTHER) & ((records["waiter"] == WAITER_VCPU) | halted))


def union(begins: Times, ends: Times) -> list[tuple[int, int]]:
    """Joined intervals, one after another: slow and plain."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(zip(begins.tolist(), ends.tolist(), strict=True)):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        elif end > begin:
            joined.append((begin, end))
    return joined


def each_vcpu(records: Records, begins: Times, ends: Times) -> dict[int, list[tuple[int, int]]]:
    return {
        int(vcpu): union(begins[records["vcpu"] == vcpu], ends[records["vcpu"] == vcpu])
        for vcpu in np.unique(records["vcpu"])
    }


def time_at(unions: dict[int, list[tuple[int, int]]], from_ns: int, to_ns: int) -> list[int]:
    """For how long so many stood still: moment by moment."""
    found = [0] * (len(unions) + 1)
    edges = sorted({from_ns, to_ns, *(edge for several in unions.values() for one in several for edge in one)})
    for begin, end in pairwise(edges):
        level = sum(any(one[0] <= begin and end <= one[1] for one in several) for several in unions.values())
        found[level] += end - begin
    return found


def test_the_brownout_is_what_counting_moment_by_moment_gives(tmp_path: Path) -> None:
    records = migrated_records(400, vcpus=3, seconds=0.4)
    made = of(write_migration(tmp_path / "a.parquet", records)).brownout
    still = records[stands_still(records)]
    begins = still["begin_ns"].astype(np.int64)
    unions = each_vcpu(still, begins, begins + latency_ns(still))
    assert made.time_at_ns == time_at(unions, made.from_ns, made.to_ns)
    assert made.vcpus == 3
    stalled_ns = sum(end - begin for several in unions.values() for begin, end in several)
    assert made.mean == pytest.approx(stalled_ns / (made.to_ns - made.from_ns), abs=1e-6)
    assert made.share == pytest.approx(made.mean / 3, abs=1e-6)
    lengths = np.full(len(made.mean_over_time), made.tick_ns)
    lengths[-1] = made.to_ns - made.from_ns - (len(lengths) - 1) * made.tick_ns
    assert (np.array(made.mean_over_time) * lengths).sum() == pytest.approx(stalled_ns, rel=1e-3)
    assert made.peak == max(made.peak_over_time) == max(k for k, ns in enumerate(made.time_at_ns) if ns)
    assert np.array(made.stall_over_time).sum(axis=0) == pytest.approx(made.mean_over_time, abs=0.002)


def test_each_vcpu_and_what_qemu_counts_the_same_way(made: MigrationReport, records: Records) -> None:
    still = records[stands_still(records)]
    begins = still["begin_ns"].astype(np.int64)
    parts = [still[name].astype(np.int64) for name in ("raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns")]
    read = still["seen"] & SEEN_READ != 0
    full = each_vcpu(still, begins, begins + latency_ns(still))
    event = begins + parts[0] + parts[1]
    same = each_vcpu(still[read], event[read], (event + parts[2] + parts[3])[read])
    for row in made.vcpus:
        mine = still["vcpu"] == row.vcpu
        assert row.stall_ns == sum(end - begin for begin, end in full[row.vcpu])
        assert row.same_ns == sum(end - begin for begin, end in same[row.vcpu])
        assert row.before_ns == int((parts[0] + parts[1])[mine & read].sum())
        assert row.after_ns == int(parts[4][mine & read].sum())
        assert row.unread_ns == int(latency_ns(still)[mine & ~read].sum())
        assert row.same_ns + row.before_ns + row.after_ns + row.unread_ns - row.overlap_ns == row.stall_ns
        assert row.overlap_ns >= 0
        assert row.latency_ns.count == int((records["vcpu"] == row.vcpu).sum())
        assert (row.kernel_stall_ns, row.qemu_ns) == (77 * MS, (100 + 3 * row.vcpu) * MS)
    assert [row.vcpu for row in made.vcpus] == [0, 1, 2, 3]
    account = made.account
    assert account.stall_ns == sum(row.stall_ns for row in made.vcpus)
    assert (account.qemu_ns, account.qemu_all_ns, account.known) == (418 * MS, 12 * MS, True)
    assert account.all_ns == made.brownout.time_at_ns[-1]
    assert account.same_all_ns == time_at(same, made.brownout.from_ns, made.brownout.to_ns)[-1] <= account.all_ns
    assert any("less than ours" in line for line in account.why)


def test_latencies_and_stages(made: MigrationReport, records: Records) -> None:
    own = records[records["vcpu"] != VCPU_OTHER]
    assert set(made.modes) == {"uffd", "async"}
    for name, code in (("uffd", 0), ("async", 3)):
        lengths = latency_ns(own[own["mode"] == code])
        found = made.modes[name]
        assert (found.count, found.sum, found.max) == (len(lengths), lengths.sum(), lengths.max())
        for quantile, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
            assert value == pytest.approx(np.quantile(lengths, quantile), rel=0.04)
        stages = {stage.group: stage for stage in made.stages[name]}
        assert list(stages) == ["kernel", "handler_wait", "serve", "wake"]
        mine = own[own["mode"] == code]
        kernel_ns = int(mine["raise_ns"].sum() + mine["fill_ns"].sum())
        assert stages["kernel"].share == pytest.approx(kernel_ns / lengths.sum(), abs=1e-6)
        assert stages["wake"].latency_ns.sum == int(mine["finish_ns"].sum())
        assert sum(stage.share for stage in stages.values()) == pytest.approx(1, abs=1e-5)
        assert [stage.group for stage in made.stages[name] if stage.inferred] == ["serve"]


def test_worst_moments_slowest_faults_and_who_served_them(made: MigrationReport, records: Records) -> None:
    own = records[records["vcpu"] != VCPU_OTHER]
    lengths = latency_ns(own)
    order = np.argsort(-lengths, kind="stable")
    assert [fault.latency_ns for fault in made.slowest] == lengths[order[:20]].tolist()
    assert [fault.time_ns for fault in made.slowest[:3]] == own["begin_ns"][order[:3]].tolist()
    roles = {9100: "uffd reader", 9101: "page copier"}
    assert all(fault.handler_role == roles[fault.handler_tid] for fault in made.slowest)
    assert sum(handler.faults for handler in made.handlers) == len(records)
    assert [moment.mean for moment in made.worst] == sorted((one.mean for one in made.worst), reverse=True)
    still = records[stands_still(records)]
    begins, ends = still["begin_ns"].astype(np.int64), still["begin_ns"].astype(np.int64) + latency_ns(still)
    for moment in made.worst:
        then = (begins < moment.to_ns) & (ends > moment.from_ns)
        assert moment.faults == then.sum()
        assert moment.longest.latency_ns == (ends - begins)[then].max()
        assert moment.mean <= moment.peak <= 4
    windows = sorted((one.from_ns, one.to_ns) for one in made.worst)
    assert all(one[1] <= other[0] for one, other in pairwise(windows))


def test_requests_pages_and_memory(made: MigrationReport, records: Records) -> None:
    read = records["seen"] & SEEN_READ != 0
    pages = len(np.unique(records["hva"][read]))
    asked = made.requests
    assert (asked.requests, asked.faults, asked.events, asked.pages) == (2800, 3000, int(read.sum()), pages)
    assert 2 <= asked.vcpus_at_one <= 4
    assert any(f"{int(read.sum()) - 2800} events no request was sent" in line for line in asked.why)
    known = records["gpa"] != ADDRESS_UNKNOWN
    assert made.memory.unknown == int((~known).sum())
    assert sum(count for _, _, count in made.memory.cells) == int(known.sum())
    firsts = [int(row, 16) for row in made.memory.rows]
    for tick, row, _ in made.memory.cells:
        assert 0 <= tick < made.memory.ticks and 0 <= row < len(firsts)
    assert firsts == sorted(firsts) and len(firsts) <= 100
    assert all(first % made.memory.bin_bytes == 0 for first in firsts)
    assert [slot.memslot for slot in made.memory.memslots] == [0]
    assert made.fills is not None
    # The recording began 2 s before the first fault, so the migration touches its seconds from the third on.
    assert made.fills.demand == [20, 30, 40, 50, 60, 70, 0][: len(made.fills.demand)]
    assert made.fills.background == [10 * count for count in made.fills.demand]
    assert (made.fills.demand_total, made.fills.background_total) == (3000, 5000)


def test_addresses_far_apart_leave_no_desert(tmp_path: Path) -> None:
    """Firmware below 4 GiB, memory far below it."""
    records = synthetic_records(1000)
    records["gpa"][::2] = 0xFFFC_0000 + records["gpa"][::2] % 65536
    records["hva"] = records["gpa"] + 0x7000_0000_0000
    memory = of(write_migration(tmp_path / "a.parquet", records, destination(records))).memory
    assert len(memory.rows) <= 100
    assert memory.bin_bytes <= 1 << 17
    assert {int(row, 16) >> 31 for row in memory.rows} == {0, 1}


def test_what_it_says(made: MigrationReport) -> None:
    assert made.sentence.startswith("Postcopy of fake took ")
    assert "its 4 vCPUs stood still" in made.sentence and "worst" in made.sentence
    assert [phase.name for phase in made.phases] == ["precopy", "postcopy"]
    assert sum(phase.length_ns for phase in made.phases) == made.length_ns
    assert len(made.samples) == 15 and made.samples[0].remaining_bytes == 20 << 20
    text = " ".join(made.unknown)
    assert "asynchronous" in text and "guest address" in text
    assert "not asked" not in text and "beginning is missing" not in text
    assert (made.started_wall_ms, made.from_ns) == (1_767_225_599_000, START_NS - S)


def test_the_records_know_its_ends_more_exactly(tmp_path: Path) -> None:
    """The kernel's totals come some times a second: what was first seen there had begun before."""
    records = synthetic_records(500, seconds=2)
    late = destination(records, from_ns=START_NS + S // 10, missing_from_ns=START_NS + S // 10, phases=[
        {"name": "postcopy", "from_ns": START_NS + S // 10, "to_ns": START_NS + S}], to_ns=START_NS + S)  # fmt: skip
    made = of(write_migration(tmp_path / "a.parquet", records, late))
    ends = records["begin_ns"].astype(np.int64) + latency_ns(records)
    assert made.from_ns == made.brownout.from_ns == records["begin_ns"][0]
    assert made.to_ns == ends.max()
    assert made.requests.faults == 500
    assert (made.phases[0].from_ns, made.phases[0].to_ns) == (made.from_ns, made.to_ns)
    assert late.wall_ms - made.started_wall_ms == (late.from_ns - made.from_ns) // MS > 0


def test_two_of_one_vm_stay_apart(tmp_path: Path) -> None:
    records = synthetic_records(1000, seconds=2)
    half = START_NS + S
    first = destination(records, id="one", to_ns=half, other=None)
    second = destination(records, id="two", from_ns=half, missing_from_ns=half, to_ns=START_NS + 2 * S, other=None)
    file = write_migration(tmp_path / "a.parquet", records, first, second)
    begins, ends = records["begin_ns"].astype(np.int64), records["begin_ns"].astype(np.int64) + latency_ns(records)
    assert of(file, 0).to_ns == half
    assert of(file, 1).brownout.from_ns == half
    assert of(file, 0).requests.faults == (begins < half).sum()
    assert of(file, 1).requests.faults == (ends > half).sum()


@pytest.mark.parametrize(
    ("changes", "fields", "said"),
    [
        ({"how": "kernel", "qmp": None}, {}, ["inferred from what the kernel shows", "QEMU was not asked"]),
        ({"qmp": {"follow": "busy", "reason": "libvirt holds its monitor"}}, {}, ["libvirt holds its monitor"]),
        ({"qmp": {"follow": "followed"}}, {}, ["no blocktime"]),
        ({"other": None}, {}, ["The source was not seen on this host"]),
        ({"from_ns": START_NS - 3 * S}, {}, ["its beginning is missing"]),
        ({"to_ns": None, "state": "active"}, {}, ["its end is missing"]),
        ({"faults": {"uffd": 9999}}, {"loss": {"ring_full": 12}}, ["ring_full 12", "The kernel counted 9,999 faults"]),
        ({}, {"note": "the collector ended early"}, ["the collector ended early"]),
        ({}, {"hooks": [{"hook": "uffd_wait", "title": "uffd wait", "status": "attached",
                         "attachment": "tracepoint:sched_switch+tracepoint:sched_waking"}]}, ["tracepoints alone"]),
        ({}, {"hooks": [{"hook": "resolve", "title": "resolve", "status": "missing"}]}, ["not let us attach: resolve"]),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said(
    tmp_path: Path, changes: dict[str, Any], fields: dict[str, Any], said: list[str]
) -> None:
    records = migrated_records(300)
    made = of(write_migration(tmp_path / "a.parquet", records, destination(records, **changes), source(), **fields))
    for one in said:
        assert any(one in line for line in made.unknown), made.unknown


def test_a_gap_without_a_collector_is_said(tmp_path: Path) -> None:
    gaps = [{"from_ns": START_NS + S, "to_ns": START_NS + 2 * S}]
    file = write_migration(tmp_path / "a.parquet")
    file.meta.gaps = type(file.meta).model_validate({"id": "x", "gaps": gaps}).gaps
    assert any("No collector ran for 1.00 s" in line for line in of(file).unknown)


def test_nothing_to_wait_for(tmp_path: Path) -> None:
    """Precopy: the VM ran only when its memory was there."""
    none = synthetic_records(0)
    precopy = destination(none, kind="precopy", qmp=None, how="kernel", missing_from_ns=None, stall=[], other=None)
    made = of(write_migration(tmp_path / "a.parquet", none, precopy))
    assert made.sentence == "Precopy of fake took 2.00 s: no vCPU had to wait for a page."
    assert (made.brownout.peak, made.brownout.all_ns, made.brownout.mean) == (0, 0, 0)
    assert (made.worst, made.slowest, made.handlers, made.modes, made.stages) == ([], [], [], {}, {})
    assert (made.account.known, made.memory.rows, made.requests.faults) == (False, [], 0)


def test_pages_that_the_vmm_resolves_itself(tmp_path: Path) -> None:
    """Exit mode, in another VMM than QEMU: there are no events and no handler."""
    records = synthetic_records(500, mode=MODE_EXIT, seconds=2)
    page_in = destination(records, kind="page-in", qmp=None, how="kernel", other=None)
    file = write_migration(tmp_path / "a.parquet", records, page_in)
    file.meta.vms[0].vmm = "Firecracker"
    made = of(file)
    assert made.sentence.startswith("Paging in the memory of fake took ") and "stood still" in made.sentence
    assert [stage.group for stage in made.stages["exit"]] == ["kernel", "serve", "wake"]
    assert sum(stage.share for stage in made.stages["exit"]) == pytest.approx(1, abs=1e-5)
    assert (made.requests.faults, made.requests.events, made.account.known) == (0, 0, False)
    assert sum(row.unread_ns - row.overlap_ns for row in made.vcpus) == made.account.stall_ns
    assert any("this is Firecracker" in line for line in made.unknown)
    assert not any("QEMU was not asked" in line for line in made.unknown)


def test_from_the_source(tmp_path: Path, records: Records) -> None:
    made = of(write_migration(tmp_path / "a.parquet", records), 1)
    assert "seen from its source" in made.sentence
    assert made.requests.requests == 2800 and len(made.samples) == 15


@pytest.mark.parametrize(
    ("state", "words"),
    [("failed", "failed after"), ("active", "was still going on when the recording ended"), ("ended", "took")],
)
def test_how_it_ended(tmp_path: Path, state: str, words: str) -> None:
    records = synthetic_records(100, vcpus=1)
    made = of(write_migration(tmp_path / "a.parquet", records, destination(records, state=state)))
    assert words in made.sentence and "its vCPU stood still" in made.sentence


def test_which_one() -> None:
    def one(**faults: int) -> Migration:
        return source(faults=faults)

    assert default_number([]) == 0
    assert default_number([one(), one(uffd=3, kernel=1), one(kernel=900)]) == 1
    assert default_number([one(), one()]) == 1


def test_there_is_no_such_migration(tmp_path: Path) -> None:
    file = write_migration(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no migration 2 in the recording: it has 2, from 0 on"):
        of(file, 2)

"""Migrations are recognised by what the kernel shows."""

import pytest

from exitscope.migrations.tracker import MAX_KEPT
from exitscope_probes.records import MODE_ASYNC, MODE_EXIT, MODE_KERNEL, MODE_UFFD, RESOLVERS, SEEN_READ

from .frames import T0, S
from .migrating import MS, Host, valid


def test_a_page_in_from_its_first_fault_to_its_last_fill() -> None:
    host = Host()
    vm = host.vm(1, vmm="Firecracker")
    host.totals(2)
    assert host.listed == []
    begun_ns = host.feeder.time_ns - 3 * MS
    host.page(vm, demand=10, latency_ns=3 * MS)
    host.totals()
    active = valid(host.only)
    assert (active.kind, active.role, active.how, active.state) == ("page-in", "destination", "kernel", "active")
    assert (active.from_ns, active.to_ns, active.vm, active.vm_name) == (begun_ns, None, vm.id, "fake")
    assert [phase.name for phase in active.phases] == ["paging"]
    host.totals(2)
    host.page(vm, demand=5, latency_ns=1 * MS)
    last_ns = host.feeder.time_ns
    host.totals(6)
    one = valid(host.only)
    assert (one.state, one.from_ns, one.to_ns) == ("ended", begun_ns, last_ns)
    assert one.faults == {"uffd": 15, "exit": 0, "memory_fault": 0, "async": 0, "kernel": 0}
    assert (one.fills.demand, one.fills.background) == (15, 0)
    assert one.latency_ns.count == 15 and one.latency_ns.sum == 35 * MS
    assert one.stall[0].stall_ns == 35 * MS
    assert one.brownout.mean == pytest.approx(35 * MS / (last_ns - begun_ns), abs=1e-3)
    assert one.brownout.vcpus == 2
    assert "Firecracker" in one.evidence[0] and "10 faults" in one.evidence[1]
    assert "5.00 s after the last fill; 1 userfaultfd" in one.evidence[-1]


def test_faults_before_it_are_not_its_own() -> None:
    host = Host()
    vm = host.vm(1)
    host.feeder.fault(vm, 0, 5_000, 1000, MODE_KERNEL)
    host.feeder.fault(vm, 0, 5_000, 70, MODE_EXIT)
    host.totals(1)
    assert host.listed == []
    host.page(vm, demand=3)
    host.totals(1)
    assert host.only["faults"] == {"uffd": 3, "exit": 0, "memory_fault": 0, "async": 0, "kernel": 0}


@pytest.mark.parametrize("qmp", [False, True])
def test_what_was_counted_before_we_looked_is_said(qmp: bool) -> None:
    early = Host()
    vm = early.vm(1)
    early.page(vm, demand=70)
    early.feeder.totals()
    late = Host.__new__(Host)
    late.__dict__ = early.__dict__ | {"aggregate": type(early.aggregate)(), "messages": []}
    late.send(late.feeder.hello(), late.vms(), late.feeder.totals(0, snapshot=True))
    if qmp:
        late.qmp(vm, "postcopy-active", "destination")
    late.page(vm, demand=3)
    late.totals()
    one = late.only
    assert (one["faults"]["uffd"], one["how"]) == (3, "qmp" if qmp else "kernel")
    assert "70 faults had been counted before" in one["evidence"][-1]


def test_background_fills_alone_are_a_sign() -> None:
    host = Host()
    vm = host.vm(1, vmm="QEMU")
    host.totals(1)
    looked_ns = host.feeder.time_ns
    host.page(vm, background=500)
    host.totals()
    one = valid(host.only)
    assert (one.kind, one.from_ns) == ("postcopy", looked_ns)
    assert (one.fills.demand, one.fills.background, one.latency_ns.count) == (0, 500, 0)
    host.totals(6)
    assert host.only["to_ns"] == looked_ns + S // 5


def test_it_goes_on_while_somebody_waits() -> None:
    host = Host()
    vm = host.vm(1)
    host.page(vm, demand=1)
    host.totals()
    slot = vm.slots[1]
    host.feeder.vcpus[slot]["open_since_ns"] = host.feeder.time_ns
    host.totals(20)
    one = host.only
    assert one["state"] == "active"
    assert one["brownout"]["peak"] == 1
    assert one["stall"][1]["stall_ns"] == 20 * S
    host.feeder.vcpus[slot]["open_since_ns"] = 0
    host.totals(5.4)
    assert host.only["state"] == "ended"


def test_waiting_alone_is_a_sign() -> None:
    """A handler that never answers: nothing is ever filled, and no fault ends."""
    host = Host()
    vm = host.vm(1)
    begun_ns = host.feeder.time_ns + 100 * MS
    host.feeder.vcpus[vm.slots[0]]["open_since_ns"] = begun_ns
    host.totals(1)
    one = host.only
    assert (one["from_ns"], one["state"], one["faults"]["uffd"]) == (begun_ns, "active", 0)
    assert "1 vCPU waiting" in one["evidence"][1]


@pytest.mark.parametrize("uffds", [0, 1])
def test_async_faults_count_where_a_userfaultfd_is(uffds: int) -> None:
    """Without one they are of swapped memory or the like."""
    host = Host()
    vm = host.vm(1, uffds=uffds)
    host.feeder.fault(vm, 0, MS, 20, MODE_ASYNC)
    host.totals(1)
    assert len(host.listed) == uffds


def test_memory_that_is_populated_in_advance_is_no_migration() -> None:
    host = Host()
    vm = host.vm(1, uffds=0)
    host.feeder.fill(vm, "MADV_POPULATE", 1000, demand=False)
    host.feeder.fill(vm, "WAKE", 10)
    host.totals(1)
    assert host.listed == []


def test_exits_with_madvise_are() -> None:
    host = Host()
    vm = host.vm(1, uffds=0)
    host.feeder.fault(vm, 0, MS, 7, MODE_EXIT)
    host.feeder.fill(vm, "MADV_POPULATE", 7)
    host.totals(1)
    one = host.only
    assert (one["kind"], one["faults"]["exit"], one["fills"]["demand"]) == ("page-in", 7, 7)


def test_a_userfaultfd_that_is_closed_ends_it() -> None:
    host = Host()
    vm = host.vm(1, threads=[{"tid": 77, "name": "fault-default", "role": "uffd reader"}])
    host.page(vm, demand=2)
    host.totals()
    host.page(vm, demand=4)
    last_ns = host.feeder.time_ns
    host.totals()
    host.look(uffds=[])
    host.totals(1)
    one = valid(host.only)
    assert (one.kind, one.state, one.to_ns) == ("postcopy", "completed", last_ns)
    assert "fault-default (uffd reader)" in one.evidence[0]
    assert "closed" in one.evidence[-1]
    host.page(vm, demand=1)  # the last one's echo
    host.totals()
    assert len(host.listed) == 1


READER = [{"tid": 77, "name": "fault-default", "role": "uffd reader"}]


@pytest.mark.parametrize("threads", [[], READER], ids=["page-in", "postcopy"])
@pytest.mark.parametrize("mode", [MODE_KERNEL, MODE_UFFD])
def test_a_userfaultfd_that_is_closed_under_a_waiter_is_no_success(mode: int, threads: list[object]) -> None:
    """The handler's process was killed, and with it the only descriptor closed: the guest has read a page of zeros."""
    host = Host()
    vm = host.vm(1, threads=threads)
    host.page(vm, demand=200)
    host.totals()
    waiting = host.feeder.vcpus[vm.slots[0]]
    waiting["open_since_ns"] = host.feeder.time_ns
    host.look(uffds=[{"fd": 7, "pending": 1, "total": 1}])
    host.totals(1, every=0.2)
    assert host.only["state"] == "active"
    waiting["open_since_ns"] = 0
    host.feeder.fault(vm, 0, S, 1, mode)
    host.look(uffds=[])
    host.totals(1)
    one = valid(host.only)
    assert one.state == "failed"
    assert "1 fault was never answered" in one.evidence[-1] and "closed" in one.evidence[-1]


def test_a_short_wait_that_nobody_answered_shows_in_its_record() -> None:
    host = Host()
    vm = host.vm(1, threads=READER)
    host.page(vm, demand=20)
    host.totals()
    host.feeder.fault(vm, 0, 9 * MS, 1, MODE_UFFD)
    host.send(host.feeder.records(vm, [9 * MS], mode=MODE_UFFD, resolver=RESOLVERS.index("other"), seen=SEEN_READ))
    host.look(uffds=[])
    host.totals(1)
    assert host.only["state"] == "failed"


def test_the_last_page_comes_late_and_then_the_userfaultfd_is_closed() -> None:
    """Filled just before one look, seen to run just after it: a record says that it was answered."""
    host = Host()
    vm = host.vm(1, threads=READER)
    host.page(vm, demand=20)
    host.totals()
    waiting = host.feeder.vcpus[vm.slots[0]]
    waiting["open_since_ns"] = host.feeder.time_ns
    host.look(uffds=[{"fd": 7, "pending": 0, "total": 1}])
    host.totals(1, every=0.2)
    host.feeder.fill(vm, "COPY")
    host.totals()
    waiting["open_since_ns"] = 0
    host.feeder.fault(vm, 0, S, 1, MODE_UFFD)
    host.feeder.time_ns += 50 * MS
    host.send(host.feeder.records(vm, [S], mode=MODE_UFFD))
    host.look(uffds=[])
    host.totals(1)
    assert host.only["state"] == "completed"


def test_where_fills_are_not_seen_no_wait_is_called_unanswered() -> None:
    host = Host()
    host.feeder.started_ns += 1
    host.feeder.hooks.append({"hook": "resolve", "status": "missing"})
    host.send(host.feeder.hello())
    vm = host.vm(1, threads=READER)
    host.totals()
    host.feeder.fault(vm, 0, MS, 5, MODE_UFFD)
    host.send(host.feeder.records(vm, [MS] * 5, mode=MODE_UFFD, resolver=RESOLVERS.index("other"), seen=SEEN_READ))
    host.totals()
    host.look(uffds=[])
    host.totals(1)
    assert host.only["state"] == "completed"


def test_another_vmms_userfaultfd_that_is_closed_says_nothing_of_success() -> None:
    """A pager that places all and ends, and one that is killed between two faults, look alike."""
    host = Host()
    vm = host.vm(1, vmm="Firecracker")
    host.page(vm, demand=3)
    host.totals()
    host.look(uffds=[])
    host.totals(1)
    assert host.only["state"] == "ended"


def test_a_vm_that_ends_in_order_after_a_late_page() -> None:
    """At the last look its vCPU had waited for long; then the page came, and the VMM ended."""
    host = Host()
    vm = host.vm(1, vcpus=1, vmm="Firecracker")
    host.page(vm, demand=10)
    host.totals()
    row = host.feeder.vcpus[vm.slots[0]]
    row["open_since_ns"] = host.feeder.time_ns
    host.totals(1.2)
    row["open_since_ns"], row["exited"] = 0, 1
    host.page(vm, demand=1, latency_ns=1300 * MS)
    host.totals()
    vm.state = "gone"
    host.look(uffds=[])
    assert host.only["state"] == "ended"


@pytest.mark.parametrize("features", [["PAGEFAULT_FLAG_WP"], *([None] if "WRITEPROTECT" in RESOLVERS else [])])
def test_faults_of_write_protection_are_no_page_in(features: list[str] | None) -> None:
    """A snapshot of a running VM: its writes wait until the page is saved. Nothing is placed."""
    host = Host()
    vm = host.vm(1, vmm="QEMU", uffd_features=features, command="qemu-system-x86_64 -enable-kvm")
    row = host.feeder.vcpus[vm.slots[0]]
    if features is not None:
        row["open_since_ns"] = host.feeder.time_ns
        host.totals(1)
        assert host.listed == []
    row["open_since_ns"] = 0
    if "WRITEPROTECT" in RESOLVERS:
        host.feeder.fill(vm, "WRITEPROTECT", 40)
    host.feeder.fault(vm, 0, MS, 40, MODE_UFFD)
    host.totals(2)
    assert host.listed == []
    host.page(vm, demand=2)
    host.totals()
    assert [one["kind"] for one in host.listed] == ["page-in"], "pages that are placed are one, all the same"


def test_pages_that_are_written_elsewhere_and_announced_by_wake() -> None:
    """As into a memfd that the guest's memory shares: faults are answered, and no ioctl places a page."""
    host = Host()
    vm = host.vm(1, vmm="Firecracker")
    host.totals(1)
    host.feeder.fault(vm, 0, MS, 500, MODE_UFFD)
    host.feeder.fill(vm, "WAKE", 500)
    host.totals()
    one = valid(host.only)
    assert (one.fills.demand, one.fills.background, one.fills.woken) == (0, 0, 500)
    assert "500 faults answered by WAKE alone" in one.evidence[1]


def test_a_pause_is_not_the_end() -> None:
    host = Host()
    vm = host.vm(1)
    host.page(vm, demand=2)
    host.totals(10)
    assert host.only["state"] == "ended"
    before = host.only
    host.page(vm, demand=3)
    host.totals()
    one = host.only
    assert (one["state"], one["id"], one["faults"]["uffd"]) == ("active", before["id"], 5)
    assert "paused 1 time" in one["evidence"][-1]
    host.totals(100)
    host.page(vm, demand=3)
    host.totals()
    assert [one["faults"]["uffd"] for one in host.listed] == [5, 3]


def test_a_vm_that_ends_with_open_faults_has_failed() -> None:
    host = Host()
    vm = host.vm(1)
    host.page(vm, demand=2)
    host.feeder.vcpus[vm.slots[0]]["open_since_ns"] = host.feeder.time_ns
    host.totals(1)
    host.feeder.vcpus[vm.slots[0]]["open_since_ns"] = 0
    for slot in vm.slots.values():
        host.feeder.vcpus[slot]["exited"] = 1
    host.totals()
    vm.state = "gone"
    host.look(uffds=[])
    one = valid(host.only)
    assert one.state == "failed"
    assert "1 fault never ended" in one.evidence[-1]


def test_unmatched_begins_tell_it_too() -> None:
    """Faults are short: none was open for long when the totals were last read."""
    host = Host()
    vm = host.vm(1)
    host.page(vm, demand=2)
    host.totals(1)
    for slot in vm.slots.values():
        host.feeder.vcpus[slot]["exited"] = 1
    host.feeder.loss["unmatched_begin"] = 2
    host.totals()
    vm.state = "gone"
    host.look(uffds=[])
    assert host.only["state"] == "failed"
    assert "2 faults never ended" in host.only["evidence"][-1]


@pytest.mark.parametrize(("vmm", "state"), [("exitscope guest", "ended"), ("QEMU", "failed")])
def test_a_vm_that_ends_without_open_faults(vmm: str, state: str) -> None:
    """A postcopy's destination with its userfaultfd still open has lost its memory; another may just be done."""
    host = Host()
    vm = host.vm(1, vmm=vmm)
    host.page(vm, demand=2)
    host.totals(1)
    for slot in vm.slots.values():
        host.feeder.vcpus[slot]["exited"] = 1
    host.totals()
    vm.state = "gone"
    host.send(host.vms())
    assert host.only["state"] == state


def test_another_collector() -> None:
    """Counters begin from zero; what was counted stays counted."""
    host = Host()
    vm = host.vm(1)
    host.page(vm, demand=4)
    host.totals(1)
    old = host.feeder
    host.feeder = type(old)(old.time_ns + S)
    again = host.feeder.add_vm(1, 2)
    host.send(host.feeder.hello(), host.vms(), host.feeder.totals(0, snapshot=True))
    host.page(again, demand=6)
    host.totals()
    one = valid(host.only)
    assert (one.faults["uffd"], one.fills.demand, one.latency_ns.count, one.state) == (10, 10, 10, "active")
    assert any("collector" in sentence for sentence in one.evidence)


def test_no_more_than_so_many_are_kept() -> None:
    host = Host()
    vm = host.vm(1)
    for _ in range(MAX_KEPT + 6):
        host.page(vm, demand=1)
        host.totals(70, every=2)
    assert len(host.listed) == MAX_KEPT
    assert host.listed[0]["from_ns"] > T0 + 300 * S
    assert all(one["state"] == "ended" for one in host.listed)


def test_records_may_come_before_the_vm_has_a_name() -> None:
    host = Host()
    vm = host.feeder.add_vm(1, 2)
    begun_ns = host.feeder.time_ns - 7 * MS
    host.page(vm, demand=4, latency_ns=7 * MS)
    host.look()
    host.totals()
    assert (host.only["from_ns"], host.only["faults"]["uffd"]) == (begun_ns, 4)

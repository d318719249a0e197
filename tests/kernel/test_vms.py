"""VMs that fault in other ways than our guest does (vms.c): several in one process, snapshots, others place pages."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exitscope_probes.discovery import Discovery, Rows
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    FAILURES,
    FILLS,
    MODE_EXIT,
    MODE_KERNEL,
    MODE_UFFD,
    PRESENCES,
    RESOLVERS,
    SEEN_FILL,
    SEEN_READ,
    WAITER_VCPU,
)
from tests.kernel.harness import Watch, wait_until
from tests.kernel.operators import Operator, operator

__all__ = ["operator"]

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

PAGE_BYTES = 4096
LARGEST_PID = 1 << 22
Run = Callable[..., AbstractContextManager[tuple[int, dict[str, int]]]]


@pytest.fixture(scope="module")
def run(compiled: Callable[[str], Path]) -> Run:
    """run(way, n, option): a context in which the work is done and the process lives; its pid, and what it counted.

    before: of the command, such as what makes namespaces; the pid is that of what it runs then.
    """
    binary = compiled("vms")

    @contextmanager
    def running(*arguments: object, before: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, int]]]:
        pipe = subprocess.PIPE
        command = [*before, str(binary), *map(str, arguments)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin and process.stdout
            try:
                assert process.stdout.readline() == "READY\n"
                process.stdin.write("go\n")
                process.stdin.flush()
                said = process.stdout.readline()
                assert said.startswith("DONE "), f"{arguments} ended"
                yield innermost(process.pid), json.loads(said[5:])
            finally:
                process.kill()

    return running


def innermost(pid: int) -> int:
    """The process itself, or its child's child and so on."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def rows(watch: Watch, pid: int) -> list[tuple[Any, Any]]:
    """(VM, its vCPUs) of each VM of a process that had any vCPU, oldest first."""
    totals = watch.totals.poll()
    own = totals.vms[totals.vms["tgid"] == pid]
    found = [(vm, totals.vcpus[totals.vcpus["vm"] == vm["vm"]]) for vm in own[np.argsort(own["vm"])]]
    return [(vm, vcpus) for vm, vcpus in found if len(vcpus)]


def ended(watch: Watch, pid: int) -> int:
    """How many VMs of a process are known to have ended."""
    watch.probes.look_for_ended()
    seen = watch.totals.rows()
    return len(seen.ended & set(seen.vms["vm"][seen.vms["tgid"] == pid].tolist()))


def await_ends(operator: Operator, pid: int, count: int) -> None:
    """Until so many VMs of a process are told to be gone, and one runs."""
    states = ["gone"] * count + ["running"]
    operator.watch(lambda: operator.states(pid) == states, f"{count} of its VMs gone, and one running")


def test_vms_one_after_the_other(watch: Watch, run: Run) -> None:
    """The kernel puts each where the last one was: each is one of its own all the same, and its end shows."""
    with watch.losing(), run("churn", 40) as (pid, said):
        assert (said["events"], said["fills"]) == (164, 164)
        seen = rows(watch, pid)
        assert [vcpus["series"]["count"][0, MODE_UFFD] for _, vcpus in seen] == [4] * 41
        assert [int(vm["events_read"]) for vm, _ in seen] == [4] * 41
        assert [int(vm["events_done"]) for vm, _ in seen] == [4] * 41
        assert [int(vm["fills_demand"][FILLS.index("COPY")]) for vm, _ in seen] == [4] * 41
        wait_until(lambda: ended(watch, pid) == 40, "forty of them ended, and one lives")
    watch.retire(pid)


def test_vms_one_after_the_other_are_told_to_be_gone(operator: Operator, run: Run) -> None:
    """Each by an id of its own, though their process lives on and the collector has long given its room to others."""
    with run("churn", 300) as (pid, said):
        assert (said["events"], said["fills"]) == (1204, 1204)
        operator.watch(
            lambda: operator.states(pid) == ["gone"] * 300 + ["running"], "300 of them gone, and one running"
        )
        vms = operator.vms(pid)
        assert [vm.faults(operator.aggregate.rows)["uffd"] for vm in vms] == [4] * 301
        assert not operator.aggregate.ledger["not_counted"] and not operator.aggregate.ledger["server_full"]


def test_vms_of_several_processes_at_once(operator: Operator, run: Run) -> None:
    with ExitStack() as stack:
        pids = [stack.enter_context(run("churn", 20))[0] for _ in range(3)]
        for pid in pids:
            await_ends(operator, pid, 20)
            assert [vm.faults(operator.aggregate.rows)["uffd"] for vm in operator.vms(pid)] == [4] * 21


def test_a_vm_that_is_made_and_never_run(operator: Operator, run: Run) -> None:
    """It is a VM once it has been there for a second: without a vCPU that has run, it has nothing to show."""
    with run("idle") as (pid, _):
        operator.watch(lambda: operator.states(pid) == ["running"] * 2, "both")
        assert sorted(len(vm.vcpus()) for vm in operator.vms(pid)) == [0, 1]


def test_hundreds_of_vms_at_once(operator: Operator, run: Run) -> None:
    """Each with its vCPUs and their faults, in the collector and the server; and when all of them end at once."""

    def counts(*pids: int) -> list[list[int]]:
        rows = operator.aggregate.rows
        vms = (vm for pid in pids for vm in operator.vms(pid))
        return sorted(vm.totals(rows)["series"]["count"][:, MODE_UFFD].tolist() for vm in vms)

    def await_counts(pid: int) -> None:
        operator.watch(lambda: counts(pid) == [[]] + [[2, 2, 2]] * 40, "two faults of each vCPU")

    with ExitStack() as stack:
        pids = []
        for _ in range(4):
            pids.append(stack.enter_context(run("crowd", 40))[0])
            await_counts(pids[-1])
        assert not any(operator.aggregate.ledger.values())
    operator.watch(lambda: all(operator.states(pid) == ["gone"] * 41 for pid in pids), "their end")
    assert counts(*pids) == [[]] * 4 + [[2, 2, 2]] * 160


@pytest.mark.parametrize("option", [[], ["named"]], ids=["unnamed", "thread-id"])
def test_threads_of_one_number_in_two_pid_namespaces(watch: Watch, run: Run, option: list[str]) -> None:
    """Each VM has its own faults, and those in the namespace bear the numbers that their threads have outside."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child")
    with watch.losing(), run("twin", 0, *option) as (outer, one), run("twin", outer, *option, before=unshare) as inside:
        inner, two = inside
        assert one["tid"] == two["tid"] == outer != inner
        for pid in (outer, inner):
            seen = watch.observe(pid)
            assert seen.vcpus["tid"].tolist() == [pid]
            assert (seen.vm["events_read"], seen.vm["events_done"]) == (500, 500)
            assert seen.faults(MODE_UFFD) == [500] == seen.recorded(MODE_UFFD)
            assert (seen.records["seen"] & SEEN_READ).all() and (seen.records["seen"] & SEEN_FILL).all()
            assert {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()} >= set(seen.records["handler_tid"])
            vms = Discovery().describe(Rows.of(watch.totals.poll()), 0)
            (found,) = [vm for vm in vms if vm["pid"] == pid]
            assert (found["name"], [vcpu["name"] for vcpu in found["vcpus"]], len(found["uffds"])) == (
                "vms",
                ["vms"],
                1,
            )
    watch.retire(outer, inner)


@pytest.fixture
def larger_pid_max() -> Iterator[int]:
    """kernel.pid_max is raised meanwhile, if it is not as large as can be; the largest thread number until then."""
    setting = Path("/proc/sys/kernel/pid_max")
    before = int(setting.read_text())
    if before < LARGEST_PID:
        setting.write_text(f"{LARGEST_PID}\n")
    yield min(before, LARGEST_PID - 5000)
    setting.write_text(f"{before}\n")


def test_a_thread_number_beyond_what_pid_max_was_at_the_start(watch: Watch, larger_pid_max: int, run: Run) -> None:
    with watch.losing(), run("twin", larger_pid_max + 1000, "named") as (pid, said):
        assert pid == said["tid"] == larger_pid_max + 1000
        seen = watch.observe(pid)
        assert seen.vcpus["tid"].tolist() == [pid]
        assert seen.faults(MODE_UFFD) == [500] == seen.recorded(MODE_UFFD)
        assert seen.vm["events_read"] == 500
    watch.retire(pid)


def test_two_vms_at_once(watch: Watch, run: Run) -> None:
    """Whose a page is, its memslots say; the end of the newer one takes nothing from the older."""
    with watch.losing(), run("together") as (pid, _):
        (older, its), (newer, _) = rows(watch, pid)
        assert ended(watch, pid) == 1
        assert (older["events_read"], older["events_done"]) == (200, 200)
        assert (newer["events_read"], newer["events_done"]) == (100, 100)
        assert its["series"]["count"][0, MODE_UFFD] == 200
        copies = FILLS.index("COPY")
        assert (older["fills_background"][copies], newer["fills_background"][copies]) == (1, 0)
        watch.drain()
        of = watch.records_of(int(older["vm"]))
        assert (of["seen"] & SEEN_READ).all() and len(of) == 200
    watch.retire(pid)


def test_a_snapshot_by_write_protection(watch: Watch, run: Run) -> None:
    with watch.losing(), run("snapshot") as (pid, said):
        assert (said["events"], said["fills"]) == (300, 300)
        seen = watch.observe(pid)
        assert seen.faults(MODE_UFFD) == [300]
        assert (seen.fills("demand"), seen.fills("background")) == ({"WRITEPROTECT": 300}, {"WRITEPROTECT": 700})
        assert seen.vm["bytes_background"] == 0
        assert {RESOLVERS[code] for code in seen.records["resolver"]} == {"WRITEPROTECT"}
        assert {PRESENCES[code] for code in seen.records["presence"]} == {"write-protected"}
        assert (seen.records["seen"] & SEEN_FILL).all()
    watch.retire(pid)


def test_pages_that_come_write_protected_and_are_written(watch: Watch, run: Run) -> None:
    """UFFDIO_COPY_MODE_WP: each page is missing first, and protected then: two faults, each with its own resolver."""
    with watch.losing(), run("protected") as (pid, said):
        assert (said["events"], said["fills"]) == (200, 200)
        seen = watch.observe(pid)
        assert seen.faults(MODE_UFFD) == [200] == seen.recorded(MODE_UFFD)
        assert (seen.fills("demand"), seen.fills("background")) == ({"COPY": 100, "WRITEPROTECT": 100}, {})
        assert seen.vm["bytes_background"] == 0
        assert (seen.records["seen"] & SEEN_READ).all() and (seen.records["seen"] & SEEN_FILL).all()
        for resolver, presence in (("COPY", "missing"), ("WRITEPROTECT", "write-protected")):
            own = seen.records[seen.records["resolver"] == RESOLVERS.index(resolver)]
            assert {PRESENCES[code] for code in own["presence"]} == {presence}
            assert len(np.unique(own["gpa"])) == len(np.unique(own["hva"])) == 100
    watch.retire(pid)


def test_pages_that_are_written_elsewhere_and_announced(watch: Watch, operator: Operator, run: Run) -> None:
    """No fill places them: the vCPU is woken, and finds its page."""
    with watch.losing(), run("written") as (pid, said):
        assert (said["events"], said["fills"]) == (500, 500)
        seen = watch.observe(pid)
        assert seen.faults(MODE_UFFD) == [500] == seen.recorded(MODE_UFFD)
        assert (seen.fills("demand"), seen.fills("background")) == ({"WAKE": 500}, {})
        assert {RESOLVERS[code] for code in seen.records["resolver"]} == {"WAKE"}
        assert (seen.records["seen"] & SEEN_READ).all() and (seen.records["seen"] & SEEN_FILL).all()
        operator.watch(lambda: [one["fills"]["woken"] for one in operator.migrations(pid)] == [500], "500 of them told")
        (one,) = operator.migrations(pid)
        assert (one["kind"], one["state"], one["fills"]["demand"]) == ("page-in", "active", 0)
    watch.retire(pid)


@contextmanager
def more_hugetlb(kib: int, count: int) -> Iterator[None]:
    """There are so many pages of so many KiB more meanwhile."""
    setting = Path(f"/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages")
    before = int(setting.read_text())
    setting.write_text(f"{before + count}\n")
    try:
        yield
    finally:
        setting.write_text(f"{before}\n")


def assert_large(watch: Watch, pid: int, pages: int) -> None:
    """Each page missed once, read about and filled once, at an address of its own."""
    seen = watch.observe(pid)
    assert seen.faults(MODE_UFFD) == [pages] == seen.recorded(MODE_UFFD)
    assert (seen.vm["events_read"], seen.vm["events_done"]) == (pages, pages)
    assert (seen.fills("demand"), seen.fills("background")) == ({"COPY": pages}, {})
    assert (seen.records["seen"] & SEEN_READ).all() and (seen.records["seen"] & SEEN_FILL).all()
    assert (seen.records["serve_ns"] > 0).all()
    assert len(np.unique(seen.records["gpa"])) == len(np.unique(seen.records["hva"])) == pages
    assert len(np.unique(seen.records["hva"] - seen.records["gpa"])) == 1


@pytest.mark.parametrize(
    ("shift", "pages"),
    [
        pytest.param(21, 16, id="2MiB", marks=pytest.mark.needs("hugetlb_2m")),
        pytest.param(30, 1, id="1GiB", marks=pytest.mark.needs("hugetlb_1g")),
    ],
)
def test_hugetlb_pages(watch: Watch, shift: int, pages: int, run: Run) -> None:
    with more_hugetlb(1 << shift - 10, pages), watch.losing(), run("huge", shift) as (pid, said):
        assert said["events"] == pages
        assert_large(watch, pid, pages)
    watch.retire(pid)


def test_transparent_huge_pages(watch: Watch, run: Run) -> None:
    """Of memory that may have such, userfaultfd fills in small ones."""
    with watch.losing(), run("thp") as (pid, said):
        assert said["events"] == 16
        assert_large(watch, pid, 16)
    watch.retire(pid)


@pytest.mark.parametrize("who", ["thread", "process", pytest.param("ioctl", marks=pytest.mark.needs("pre_fault"))])
def test_pages_that_were_asked_for_ahead(watch: Watch, who: str, run: Run) -> None:
    """300 of them, and not by the guest, which misses a hundred others."""
    with watch.losing(), run(who) as (pid, said):
        assert not said["refused"]
        seen = watch.observe(pid)
        of_vcpu = seen.records[seen.records["waiter"] == WAITER_VCPU]
        in_guest = of_vcpu[of_vcpu["gpa"] != ADDRESS_UNKNOWN]
        assert len(in_guest) == len(np.unique(in_guest["gpa"])) == 100
        if who != "ioctl":  # there the vCPU's thread waits, too, if not in the guest
            assert seen.faults(MODE_UFFD) == [100]
        assert (seen.vm["events_read"], seen.vm["events_done"]) == (400, 400)
        assert seen.fills("demand") == {"COPY": 400} and seen.fills("background") == {}
    watch.retire(pid)


def test_pages_that_another_thread_places_in_exit_mode(watch: Watch, run: Run) -> None:
    with watch.losing(), run("elsewhere") as (pid, said):
        assert said["fills"] == 100
        seen = watch.observe(pid)
        assert (seen.faults(MODE_EXIT), seen.faults(MODE_UFFD)) == ([100], [0])
        assert (seen.fills("demand"), seen.fills("background")) == ({"COPY": 100}, {})
        assert (seen.records["seen"] & SEEN_FILL).all()
        assert set(seen.records["handler_tid"]).isdisjoint(seen.vcpus["tid"])
        assert len(np.unique(seen.records["hva"] - seen.records["gpa"])) == 1
    watch.retire(pid)


def test_a_copy_that_stops_halfway(watch: Watch, run: Run) -> None:
    with watch.losing(), run("halfway") as (pid, _):
        totals = watch.totals.poll()
        (vm,) = totals.vms[totals.vms["tgid"] == pid]
        assert vm["fills_failed"] == vm["failed_by"][FAILURES.index("EAGAIN")] == 100
        assert vm["bytes_background"] == 600 * PAGE_BYTES, "the page itself, and the five before it"
    watch.retire(pid)


def test_closed_before_the_event_is_read(watch: Watch, run: Run) -> None:
    """The vCPU goes on with an empty page: no fault that the kernel solved."""
    with watch.losing(), run("released") as (pid, _):
        seen = watch.observe(pid)
        assert seen.faults(MODE_UFFD) == [1]
        assert [RESOLVERS[code] for code in seen.records["resolver"]] == ["released"]
        assert not seen.records["seen"][0] & (SEEN_READ | SEEN_FILL)
        assert seen.vcpus["series"]["max_ns"][0, MODE_UFFD] > 100_000_000
        assert seen.vcpus["series"]["max_ns"][0, MODE_KERNEL] < seen.vcpus["series"]["max_ns"][0, MODE_UFFD]
    watch.retire(pid)


def test_a_descriptor_that_becomes_a_files(watch: Watch, run: Run) -> None:
    with watch.losing(), run("reused") as (pid, _):
        seen = watch.observe(pid)
        assert (seen.vm["events_read"], seen.vm["events_done"]) == (100, 100)
        assert seen.faults(MODE_UFFD) == [100]
    watch.retire(pid)


@pytest.mark.parametrize("stays", [0, 1])
def test_vcpus_that_are_run_by_one_thread_after_another(watch: Watch, run: Run, stays: int) -> None:
    """Each fault begins on one thread and ends on the next, which has placed its page; the first has ended, or not."""
    with watch.losing(), run("roaming", stays) as (pid, said):
        assert said["fills"] == 80
        for vm, vcpus in rows(watch, pid):
            assert vcpus["series"]["count"][:, MODE_EXIT].tolist() == [40]
            assert not vcpus["open_since_ns"].any()
            assert (vm["fills_demand"][FILLS.index("COPY")], vm["fills_background"].sum()) == (40, 0)
            watch.drain()
            records = watch.records_of(int(vm["vm"]))
            assert len(records) == 40 and (records["seen"] & SEEN_FILL).all()
            assert len(np.unique(records["hva"])) == 40 and not (records["hva"] % PAGE_BYTES).any()
            assert len(set(records["tid"])) == 40, "each is told of the thread that went on"
    watch.retire(pid)

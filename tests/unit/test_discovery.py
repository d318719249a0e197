"""Who the VMs are, on a /proc made of files."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exitscope_probes.discovery import MAX_HANDLERS, MAX_THREADS, Discovery, Rows
from exitscope_probes.memory import MAX_COMMAND, backing, command_line
from exitscope_probes.procfs import Proc
from exitscope_probes.records import CELL_DTYPE, VCPU_DTYPE, VCPU_OTHER, VM_DTYPE
from exitscope_probes.seeding import Seeding
from exitscope_probes.threads import role_of
from exitscope_probes.totals import Totals
from exitscope_probes.vmids import VmIds
from exitscope_probes.vmm import identify, libvirt_domain, uuid_of

SECOND = 1_000_000_000
VM_FDS = {3: "/dev/kvm", 4: "anon_inode:kvm-vm", 5: "anon_inode:kvm-vcpu:0", 6: "anon_inode:kvm-vcpu:1"}


class FakeProc:
    """Writes a /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = Proc(root)

    def process(
        self,
        pid: int,
        start: int = 777,
        state: str = "S",
        exe: str = "/usr/bin/qemu-system-x86_64",
        arguments: Sequence[str] = ("qemu-system-x86_64",),
        fds: dict[int, str] | None = None,
        threads: dict[int, str] | None = None,
    ) -> None:
        home = self.root / str(pid)
        for name in ("fd", "fdinfo", "task"):
            (home / name).mkdir(parents=True, exist_ok=True)
        # A comm may hold spaces and brackets: only the last ) ends it.
        (home / "stat").write_text(f"{pid} (a) b (c)) {state} " + " ".join(["0"] * 18) + f" {start} 0 0\n")
        (home / "comm").write_text("comm\n")
        (home / "status").write_text(f"Name:\tcomm\nTgid:\t{pid}\nPid:\t{pid}\nUid:\t1000\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
        (home / "cmdline").write_bytes(b"\0".join(a.encode() for a in arguments) + b"\0")
        (home / "exe").unlink(missing_ok=True)
        (home / "exe").symlink_to(exe)
        for fd in (home / "fd").iterdir():
            fd.unlink()
        for number, link in (VM_FDS if fds is None else fds).items():
            (home / "fd" / str(number)).symlink_to(link)
        for tid, name in (threads or {}).items():
            (home / "task" / str(tid)).mkdir(exist_ok=True)
            (home / "task" / str(tid) / "comm").write_text(name + "\n")

    def queue(self, pid: int, fd: int, pending: int, total: int) -> None:
        (self.root / str(pid) / "fdinfo" / str(fd)).write_text(
            f"pos:\t0\nflags:\t02\npending:\t{pending}\ntotal:\t{total}\nAPI:\taa:0:1\n"
        )

    def thread_status(self, tid: int, pid: int) -> None:
        (self.root / str(tid)).mkdir(exist_ok=True)
        (self.root / str(tid) / "status").write_text(f"Name:\tx\nTgid:\t{pid}\nPid:\t{tid}\n")

    def cpu(self, tid: int, schedstat: str | None, ticks: tuple[int, int] = (0, 0)) -> None:
        """CPU time of a thread: schedstat's text if the kernel has it, utime and stime."""
        home = self.root / str(tid) / "task" / str(tid)
        home.mkdir(parents=True, exist_ok=True)
        if schedstat is not None:
            (home / "schedstat").write_text(schedstat + "\n")
        (home / "stat").write_text(f"{tid} (a) b) S {' '.join(['0'] * 10)} {ticks[0]} {ticks[1]} 0 0 20 0 1 0 777\n")

    def syscall(self, pid: int, tid: int, text: str) -> None:
        (self.root / str(pid) / "task" / str(tid)).mkdir(exist_ok=True)
        (self.root / str(pid) / "task" / str(tid) / "syscall").write_text(text + "\n")


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def totals(*rows: tuple[int, int, int, int, int], exited: Sequence[int] = ()) -> Rows:
    """Rows of (slot, vm, pid, vcpu, tid)."""
    vcpus = np.zeros(len(rows), VCPU_DTYPE)
    for i, (_, vm, pid, vcpu, tid) in enumerate(rows):
        vcpus["vm"][i], vcpus["tgid"][i], vcpus["vcpu"][i], vcpus["tid"][i] = vm, pid, vcpu, tid
        vcpus["exited"][i] = tid in exited
    pids = {vm: pid for _, vm, pid, _, _ in rows}
    vms = np.zeros(len(pids), VM_DTYPE)
    vms["vm"], vms["tgid"] = list(pids), list(pids.values())
    slots = np.array([row[0] for row in rows], np.uint32)
    return Rows.of(Totals(slots, vcpus, np.arange(len(pids)), vms, np.empty(0, CELL_DTYPE)))


def test_a_vm_with_its_vcpus_threads_and_queues(proc: FakeProc) -> None:
    proc.process(
        100,
        start=4242,
        arguments=("qemu-system-x86_64", "-m", "1G", "-name", "guest=web,debug-threads=on"),
        fds=VM_FDS | {9: "anon_inode:[userfaultfd]"},
        threads={101: "CPU 0/KVM", 102: "CPU 1/KVM"},
    )
    proc.queue(100, 9, 2, 5)
    rows = totals((7, 1, 100, 1, 102), (3, 1, 100, 0, 101), (8, 1, 100, VCPU_OTHER, 0))
    assert Discovery(proc.proc).describe(rows, 0) == [
        {
            "vm": 1,
            "id": "100-4242",
            "pid": 100,
            "user": 1000,
            "name": "web",
            "vmm": "QEMU",
            "state": "running",
            "unreadable": None,
            "vcpus": [
                {"vcpu": 0, "slot": 3, "tid": 101, "name": "CPU 0/KVM"},
                {"vcpu": 1, "slot": 7, "tid": 102, "name": "CPU 1/KVM"},
            ],
            "uffds": [{"fd": 9, "pending": 2, "total": 5}],
            "uuid": None,
            "domain": None,
            "threads": [],
            "command": "qemu-system-x86_64 -m 1G -name guest=web,debug-threads=on",
            "handlers": [],
            "uffd_features": [],
            "backing": None,
            "memory_bytes": None,
        }
    ]


def test_what_guest_memory_is_made_of(proc: FakeProc) -> None:
    memfd = "/memfd:guest (deleted)"
    proc.process(100, fds=VM_FDS | {9: "anon_inode:[userfaultfd]", 10: memfd})
    proc.queue(100, 9, 0, 0)
    (proc.root / "100" / "fdinfo" / "9").write_text("pending:\t0\ntotal:\t0\nAPI:\taa:80000120:1ffff\n")
    (proc.root / "100" / "maps").write_text(
        "00400000-00500000 r-xp 00000000 fe:00 99 /usr/bin/qemu\n"
        "7f0000000000-7f0040000000 rw-p 00000000 00:00 0 \n"
        f"7f0100000000-7f0140000000 rw-s 00000000 00:01 5 {memfd}\n"
        "7f0200000000-7f0200200000 rw-s 00000000 00:0f 7 /anon_hugepage (deleted)\n"
        "7f0300000000-7f0300200000 rw-p 00000000 fe:00 7 /snapshots/mem file\n"
    )
    discovery = Discovery(proc.proc)
    rows = totals((0, 1, 100, 0, 101))
    discovery.describe(rows, 0)
    discovery.note_addresses([(1, 2**64 - 1), (1, 0x7F00_0000_1000)])
    (vm,) = discovery.describe(rows, 3 * SECOND)
    assert (vm["backing"], vm["memory_bytes"]) == ("anonymous", 1 << 30)
    assert vm["uffd_features"] == ["MISSING_SHMEM", "THREAD_ID"]
    discovery.note_addresses([(1, 0x7F01_0000_0000)])
    (vm,) = discovery.describe(rows, 6 * SECOND)
    assert (vm["backing"], vm["memory_bytes"]) == ("anonymous + shmem", 2 << 30)
    assert backing(proc.proc, 100, [0x7F02_0000_0000]) == ("hugetlb", 2 << 20)
    assert backing(proc.proc, 100, [0x7F03_0000_0000]) == ("file (private)", 2 << 20)
    assert backing(proc.proc, 100, [0x1000]) is None
    assert backing(proc.proc, 101, [0x1000]) is None


def test_a_command_line_is_printable_and_short() -> None:
    assert command_line(["qemu", "-name", "a b", "x\ny"]) == "qemu -name 'a b' 'x\ufffdy'"
    assert len(command_line(["x" * 10_000])) == MAX_COMMAND


def test_two_vms_of_one_process_keep_their_ids_over_a_restart_of_the_collector(proc: FakeProc) -> None:
    proc.process(100)
    first = (0, 10, 100, 0, 101)
    second = (1, 11, 100, 0, 102)
    discovery = Discovery(proc.proc)
    ids = {vm["vm"]: vm["id"] for vm in discovery.describe(totals(first, second), 0)}
    assert ids == {10: "100-777", 11: "100-777-2"}
    # Restarted: the numbers are given in another order, the threads are the same.
    renumbered = totals((0, 2, 100, 0, 101), (1, 1, 100, 0, 102))
    ids = {vm["vm"]: vm["id"] for vm in Discovery(proc.proc).describe(renumbered, 0)}
    assert ids == {2: "100-777", 1: "100-777-2"}
    discovery.forget(10)
    ids = {vm["vm"]: vm["id"] for vm in discovery.describe(totals(second, (0, 12, 100, 0, 103)), 0)}
    assert (ids[11], ids[12]) == ("100-777-2", "100-777-3")


def test_no_id_is_given_twice_while_a_process_lives(proc: FakeProc) -> None:
    """VMs one after the other: the server keeps those that have ended, by their ids."""
    proc.process(100)
    given = VmIds()
    discovery = Discovery(proc.proc, given=given)
    ids = []
    for number in range(1, 8):
        ids += [vm["id"] for vm in discovery.describe(totals((0, number, 100, 0, 101)), 0)]
        discovery.forget(number)
        if number == 5:  # the process that discovers has ended; the collector knows what it has been told
            given = VmIds()
            for vm_id in ids:
                given.note(vm_id)
            discovery = Discovery(proc.proc, given=given)
    assert ids == ["100-777", *(f"100-777-{n}" for n in range(2, 8))]
    proc.process(100, start=778)
    assert discovery.describe(totals((0, 8, 100, 0, 101)), 0)[0]["id"] == "100-778"


def test_who_reads_the_events_is_told_as_long_as_it_lives(proc: FakeProc) -> None:
    """Behind it come and go those who answer: more of them than are kept do not push it out."""
    proc.process(100, threads={101: "CPU 0/KVM", 102: "uffd-loop", 103: "uffd-loop"})
    for tid in (102, 103):
        proc.cpu(tid, "7 0 1")
        (proc.root / str(tid) / "status").write_text(f"Name:\tuffd-loop\nTgid:\t100\nPid:\t{tid}\n")
    discovery = Discovery(proc.proc)
    rows = totals((0, 1, 100, 0, 101))

    def readers(now_ns: int) -> list[tuple[int, str | None]]:
        (vm,) = discovery.describe(rows, now_ns)
        return [(one["tid"], one.get("role")) for one in vm["handlers"] if one.get("reads")]

    discovery.meet(rows)
    discovery.note_readers([(1, 102), (1, 103)])
    discovery.note_handlers([(1, 500 + n) for n in range(2 * MAX_HANDLERS)] + [(1, 103)])
    assert readers(0) == [(102, "uffd reader"), (103, None)], "one only reads, the other answers, too"
    (proc.root / "102" / "task" / "102" / "stat").unlink()
    assert readers(3 * SECOND) == [(103, None)]


def state(discovery: Discovery, rows: Rows, now_ns: int) -> Any:
    return discovery.describe(rows, now_ns)[0]["state"]


def test_gone_when_the_process_is_gone_replaced_or_a_zombie(proc: FakeProc) -> None:
    rows = totals((0, 1, 100, 0, 101))
    for change in ("gone", "zombie", "another"):
        proc.process(100, threads={101: "CPU 0/KVM"})
        discovery = Discovery(proc.proc)
        assert state(discovery, rows, 0) == "running"
        if change == "gone":
            (proc.root / "100").rename(proc.root / "moved")
        else:
            proc.process(100, state="Z" if change == "zombie" else "S", start=778 if change == "another" else 777)
        vm = discovery.describe(rows, 1)[0]
        assert vm["state"] == "gone", change
        assert (vm["id"], vm["vmm"], vm["vcpus"][0]["name"]) == ("100-777", "QEMU", "CPU 0/KVM"), "what it was"


def test_gone_when_its_kvm_fds_are_closed(proc: FakeProc) -> None:
    proc.process(100)
    rows = totals((0, 1, 100, 0, 101))
    discovery = Discovery(proc.proc)
    assert state(discovery, rows, 0) == "running"
    proc.process(100, fds={0: "/dev/null"})
    assert state(discovery, rows, 10 * SECOND) == "gone"


def test_gone_when_all_its_threads_have_ended_for_a_second(proc: FakeProc) -> None:
    proc.process(100)
    rows = ((0, 1, 100, 0, 101), (1, 1, 100, 1, 102), (2, 1, 100, VCPU_OTHER, 0))
    discovery = Discovery(proc.proc)
    assert state(discovery, totals(*rows, exited=[101]), 0) == "running"
    assert state(discovery, totals(*rows, exited=[101]), 5 * SECOND) == "running"
    assert state(discovery, totals(*rows, exited=[101, 102]), 6 * SECOND) == "running"
    assert state(discovery, totals(*rows), 7 * SECOND) == "running", "threads were started again"
    assert state(discovery, totals(*rows, exited=[101, 102]), 8 * SECOND) == "running"
    assert state(discovery, totals(*rows, exited=[101, 102]), 9 * SECOND) == "gone"


def test_a_process_that_was_never_seen_alive_is_gone_and_no_error(proc: FakeProc) -> None:
    vm = Discovery(proc.proc).describe(totals((0, 1, 100, 0, 101)), 0)[0]
    assert (vm["state"], vm["id"], vm["vmm"]) == ("gone", "100-0", "unknown")


def test_fds_that_may_not_be_listed_say_nothing(proc: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.process(100)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert state(Discovery(proc.proc), totals((0, 1, 100, 0, 101)), 0) == "running"


def test_the_queue_may_be_in_the_handlers_process(proc: FakeProc) -> None:
    for pid in (100, 150):
        proc.process(pid, exe="/usr/bin/firecracker")
    proc.process(200, exe="/usr/bin/handler", fds={12: "anon_inode:[userfaultfd]"})
    proc.queue(200, 12, 1, 1)
    proc.thread_status(205, 200)
    rows = totals((0, 1, 100, 0, 101), (1, 2, 150, 0, 151))
    discovery = Discovery(proc.proc)
    assert [vm["uffds"] for vm in discovery.describe(rows, 0)] == [[], []]
    discovery.note_handlers([(1, 205)])
    queues = [vm["uffds"] for vm in discovery.describe(rows, 1)]
    assert queues == [[{"fd": 12, "pending": 1, "total": 1}], []]
    # A handler of several VMs: nobody knows whose each uffd is.
    discovery.note_handlers([(2, 205)])
    assert [vm["uffds"] for vm in discovery.describe(rows, 10 * SECOND)] == [[], []]


def test_many_threads_never_hide_those_that_serve_faults(proc: FakeProc) -> None:
    others = {1000 + number: f"vhost-{number}" for number in range(2 * MAX_THREADS)}
    proc.process(700, threads={700: "qemu", **others, 5000: "mig/dst/fault", 5001: "mig/dst/listen"})
    (vm,) = Discovery(proc.proc).describe(totals((0, 1, 700, 0, 701)), 0)
    assert (vm["unreadable"], len(vm["threads"])) == (None, MAX_THREADS)
    roles = {thread["tid"]: thread["role"] for thread in vm["threads"]}
    assert (roles[5000], roles[5001]) == ("uffd reader", "page copier")


def test_handlers_without_end_are_not_kept(proc: FakeProc) -> None:
    proc.process(100)
    discovery = Discovery(proc.proc)
    discovery.describe(totals((0, 1, 100, 0, 101)), 0)
    discovery.note_handlers((1, tid) for tid in range(500))
    assert len(discovery._vms[1].handlers) == MAX_HANDLERS


def test_the_handlers_that_served_last_are_kept(proc: FakeProc) -> None:
    proc.process(100)
    discovery = Discovery(proc.proc)
    discovery.describe(totals((0, 1, 100, 0, 101)), 0)
    for tid in range(1000, 1500):
        discovery.note_handlers([(1, tid), (1, 7)])
    (vm,) = discovery.describe(totals((0, 1, 100, 0, 101)), 1)
    assert {handler["tid"] for handler in vm["handlers"]} == {7, *range(1500 - MAX_HANDLERS + 1, 1500)}


def test_a_handler_of_another_process_is_named_with_it(proc: FakeProc) -> None:
    proc.process(100)
    proc.process(200, exe="/usr/bin/pager", threads={205: "pager-3"})
    (proc.root / "200" / "comm").write_text("pager\n")
    proc.thread_status(205, 200)
    proc.cpu(205, "9 0 0")
    discovery = Discovery(proc.proc)
    rows = totals((0, 1, 100, 0, 101))
    discovery.describe(rows, 0)
    discovery.note_handlers([(1, 205)])
    (vm,) = discovery.describe(rows, 1)
    assert vm["handlers"] == [
        {"tid": 205, "name": "pager-3", "cpu_ns": 9, "pid": 200, "process": "pager", "lives": True}
    ]
    stat = proc.root / "205/task/205/stat"
    stat.write_text(stat.read_text().replace(") S ", ") Z "))
    (vm,) = discovery.describe(rows, 3 * SECOND)
    assert vm["handlers"][0]["cpu_ns"] is None, "a zombie serves nobody"


@pytest.mark.parametrize(
    ("executable", "arguments", "expected"),
    [
        ("qemu-system-x86_64", ["q", "-name", "web"], ("QEMU", "web")),
        ("qemu-kvm", ["q", "-name", "debug-threads=on,guest=db-1"], ("QEMU", "db-1")),
        ("qemu-system-x86_64", ["q", "-name", "web,debug-threads=on"], ("QEMU", "web")),
        ("qemu-system-aarch64", ["q", "-name", "guest=a,,b,process=x"], ("QEMU", "a,b")),
        ("qemu-system-x86_64", ["q", "-name"], ("QEMU", "comm")),
        ("firecracker", ["firecracker", "--api-sock", "/s", "--id", "vm-7"], ("Firecracker", "vm-7")),
        ("firecracker", ["firecracker", "--id=vm-8"], ("Firecracker", "vm-8")),
        ("cloud-hypervisor", ["ch", "--kernel", "x"], ("Cloud Hypervisor", "comm")),
        ("exitscope-guest", ["g", "--vcpus", "4", "--name", "demo"], ("exitscope guest", "demo")),
        ("crosvm", ["crosvm", "run", "--name", "c"], ("crosvm", "c")),
        ("kvmtool", ["lkvm", "-name", "x"], ("kvmtool", "comm")),
        ("", [], ("comm", "comm")),
        ("firecracker", ["f", "--id", "a\x1b[31m\n" + "x" * 500], None),
    ],
)
def test_vmm_and_name(executable: str, arguments: list[str], expected: tuple[str, str] | None) -> None:
    vmm, name = identify(executable, arguments, "comm")
    if expected:
        assert (vmm, name) == expected
    else:
        assert name.isprintable() and len(name) <= 80


UUID = "6f9d3a52-7a0f-4f1c-9d1e-0c8b5a1d2e3f"
MASTER_KEY = (
    '{"qom-type":"secret","id":"k","format":"raw","file":"/var/lib/libvirt/qemu/domain-3-a-name-of-20-charact/k.aes"}'
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["q", "-uuid", UUID], UUID),
        (["q", "--uuid", UUID.upper()], UUID),
        (["ch", "--platform", f"num_pci_segments=1,uuid={UUID}"], UUID),
        (["q", "-uuid", "no uuid"], None),
        (["q", "-uuid"], None),
        (["q"], None),
    ],
)
def test_uuid(arguments: list[str], expected: str | None) -> None:
    assert uuid_of(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["q", "-name", "guest=a-name-of-20-characters,debug-threads=on", "-object", MASTER_KEY],
            "a-name-of-20-characters",
        ),
        (["q", "-object", MASTER_KEY], "a-name-of-20-charact"),
        (["q", "-name", "guest=web"], None),
        ([], None),
    ],
)
def test_libvirt_domain(arguments: list[str], expected: str | None) -> None:
    assert libvirt_domain(arguments) == expected


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("fault-default", "uffd reader"),
        ("postcopy/fault", "uffd reader"),
        ("mig/dst/fault", "uffd reader"),
        ("postcopy/listen", "page copier"),
        ("mig/dst/listen", "page copier"),
        ("fault-fast", "page copier"),
        ("mig/dst/preempt", "page copier"),
        ("live_migration", "migration source"),
        ("mig/src/main", "migration source"),
        ("vhost-1234", "vhost"),
        ("CPU 12/KVM", "vCPU 12"),
        ("fc_vcpu 3", "vCPU 3"),
        ("vcpu0", "vCPU 0"),
        ("crosvm_vcpu1", "vCPU 1"),
        ("uffd-handler-0", "uffd handler"),
        ("vcpu", None),
        ("worker", None),
        ("", None),
    ],
)
def test_roles_of_threads(name: str, role: str | None) -> None:
    assert role_of(name, main=False) == role
    assert role_of(name, main=True) == (role or "main")


def test_a_postcopy_destination_with_its_threads(proc: FakeProc) -> None:
    threads = {100: "qemu-system-x86", 101: "CPU 0/KVM", 102: "qemu-system-x86", 103: "worker"}
    proc.process(100, arguments=("q", "-name", "guest=web", "-uuid", UUID, "-object", MASTER_KEY), threads=threads)
    discovery = Discovery(proc.proc)
    rows = totals((0, 1, 100, 0, 101))
    (vm,) = discovery.describe(rows, 0)
    assert (vm["name"], vm["uuid"], vm["domain"]) == ("web", UUID, "web")
    main = {"tid": 100, "name": "qemu-system-x86", "role": "main", "cpu_ns": None}
    assert vm["threads"] == [main], "vCPUs are listed elsewhere"
    proc.process(100, threads={102: "fault-default", 104: "postcopy/listen"})
    proc.thread_status(102, 100)
    proc.cpu(102, "123456789 50 7")
    proc.cpu(104, "0 0 0", (100, 3))
    discovery.note_handlers([(1, 102), (1, 999)])
    (vm,) = discovery.describe(rows, 3 * SECOND)
    assert vm["threads"] == [
        main,
        {"tid": 102, "name": "fault-default", "role": "uffd reader", "cpu_ns": 123_456_789},
        {
            "tid": 104,
            "name": "postcopy/listen",
            "role": "page copier",
            "cpu_ns": 103 * SECOND // os.sysconf("SC_CLK_TCK"),
        },
    ]
    assert vm["handlers"] == [
        {"tid": 102, "name": "fault-default", "cpu_ns": 123_456_789, "pid": 100, "process": "comm", "lives": True},
        {"tid": 999, "name": "", "cpu_ns": None, "pid": None, "process": None, "lives": None},
    ]
    proc.process(100, threads={tid: f"vhost-{tid}" for tid in range(200, 200 + 2 * MAX_THREADS)})
    (vm,) = discovery.describe(rows, 6 * SECOND)
    assert len(vm["threads"]) == MAX_THREADS


def test_cpu_time_of_a_real_thread_that_works_and_of_one_that_is_gone() -> None:
    tid = threading.get_native_id()
    before, spent = Proc().cpu_ns(tid), time.thread_time_ns()
    while time.thread_time_ns() - spent < 100_000_000:
        pass
    after = Proc().cpu_ns(tid)
    assert before is not None and after is not None
    assert after - before >= 50_000_000, "of this thread, but for the last tick"
    assert Proc().cpu_ns(2**22 + 1) is None


class Seeded:
    def __init__(self) -> None:
        self.threads: list[tuple[int, int]] = []

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        self.threads.append((tid, vcpu_fd))


KVM_RUN = "16 0x{fd:x} 0xae80 0x0 0x0 0x0 0x0 0x7ffc 0x7f00"


@pytest.fixture
def x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.usefixtures("x86")
def test_threads_inside_kvm_run_are_seeded_also_when_they_show_up_late(proc: FakeProc) -> None:
    proc.process(100)
    proc.process(300, fds={5: "/dev/null"})
    proc.syscall(300, 300, KVM_RUN.format(fd=5))  # an ioctl of that number on something else
    proc.syscall(100, 100, "7 0x1 0x2 0x3 0x0 0x0 0x0 0x1 0x2")
    proc.syscall(100, 101, KVM_RUN.format(fd=5))
    proc.syscall(100, 102, "running")
    proc.syscall(100, 103, "16 0x6 0xae01 0x0 0x0 0x0 0x0 0x7ffc 0x7f00")
    proc.syscall(100, 104, "-1 0x7ffc 0x7f00")
    seeded = Seeded()
    seeding = Seeding(seeded, proc.proc)
    assert seeding.search() == 1 and seeded.threads == [(101, 5)]
    assert not seeding.done and seeding.search() == 0
    proc.syscall(100, 102, KVM_RUN.format(fd=6))
    assert seeding.search() == 1 and seeded.threads == [(101, 5), (102, 6)]
    assert seeding.done


@pytest.mark.usefixtures("x86")
def test_seeding_gives_up_on_processes_that_end_or_stay_outside(proc: FakeProc) -> None:
    proc.process(100)
    proc.syscall(100, 101, "running")
    proc.process(200)
    proc.syscall(200, 201, "running")
    seeded = Seeded()
    seeding = Seeding(seeded, proc.proc)
    proc.process(100, start=778)
    proc.syscall(200, 201, "202 0x1 0x2 0x3 0x0 0x0 0x0 0x1 0x2")
    assert seeding.search() == 0
    assert seeding.done and seeded.threads == []


@pytest.mark.usefixtures("x86")
def test_a_thread_of_kvm_itself_is_not_taken_for_the_vcpu_that_started_it(proc: FakeProc) -> None:
    proc.process(100)
    flags = 0x4000  # PF_USER_WORKER
    for tid in (101, 102):
        proc.syscall(100, tid, KVM_RUN.format(fd=5))
    stat = proc.root / "100/task/101/stat"
    stat.write_text(f"101 (kvm-nx-lpage-re) S 1 1 1 0 -1 {flags} 0 0\n")
    seeded = Seeded()
    assert Seeding(seeded, proc.proc).search() == 1
    assert seeded.threads == [(102, 5)]

"""Alarms of real guests and a real migration, through a real collector: what must be told, and what must not."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from exitscope_probes.records import MODE_UFFD
from tests.kernel.harness import finish, guest
from tests.kernel.migration import Migration, Plan
from tests.kernel.operators import Operator, S, operator
from tests.kernel.pager import Pager, daemon, pager, pager_program

__all__ = ["operator", "pager_program"]

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

SYS_TGKILL = 234
PTRACE_ATTACH, PTRACE_DETACH = 16, 17  # include/uapi/linux/ptrace.h
WALL = 0x40000000  # __WALL, include/uapi/linux/wait.h
libc = ctypes.CDLL(None)
STALLS = {"vcpu_stalled", "oldest_fault"}


def test_a_handler_that_never_fills_and_a_vm_that_is_killed_then(operator: Operator) -> None:
    with guest("--mode", "uffd", "--hold-fault", "--vcpus", 4, "--pages", 40) as process:
        operator.watch(lambda: operator.active(process.pid).keys() >= STALLS | {"handler_stuck"}, "three alarms")
        active = operator.active(process.pid)
        assert "no page has been filled for" in active["handler_stuck"].message
        assert active["vcpu_stalled"].message.startswith("4 of 4 vCPUs of ")
        assert operator.waiting(process.pid)
        process.kill()
        process.wait()
        operator.watch(lambda: "vm_died" in operator.active(process.pid), "that it has died")
        assert " with 4 faults unresolved, the oldest for " in operator.active(process.pid)["vm_died"].message
        operator.watch(lambda: not operator.active(process.pid), "the alarms' end")
        kinds = {alarm.kind for alarm in operator.alarms(process.pid)}
        assert kinds == STALLS | {"handler_stuck", "vm_died"}
        assert all(alarm.ended_ns for alarm in operator.alarms(process.pid))
        assert not operator.waiting(process.pid)


def test_a_handler_that_sleeps_over_one_fault_while_others_are_queued(operator: Operator) -> None:
    with guest("--mode", "uffd", "--vcpus", 6, "--pages", 60, "--delay-us", 30_000_000) as process:
        operator.watch(lambda: "handler_stuck" in operator.active(process.pid), "a handler that is stuck")
        message = operator.active(process.pid)["handler_stuck"].message
        assert message.startswith("5 faults of ") and "are queued unread" in message and "6 vCPUs wait" in message


def test_handlers_that_end_too_early(operator: Operator) -> None:
    options = ("--handlers", 2, "--kill-handlers-after", 2000, "--delay-us", 1000)
    with guest("--mode", "uffd", "--vcpus", 4, "--pages", 8000, *options) as process:
        operator.watch(lambda: "handler_gone" in operator.active(process.pid), "handlers gone")
        message = operator.active(process.pid)["handler_gone"].message
        assert "uffd-handler-0 (" in message and "uffd-handler-1 (" in message and "wait for pages" in message


def test_a_sigbus_livelock(operator: Operator) -> None:
    options = ("--async", "--livelock", "--vcpus", 2, "--pages", 40, "--rounds", 0)
    with guest("--mode", "exit", *options) as process:
        operator.watch(lambda: "async_livelock" in operator.active(process.pid), "a livelock")
        alarm = operator.active(process.pid)["async_livelock"]
        assert "and 1 other of" in alarm.message and alarm.vcpu in (0, 1)


@pytest.mark.parametrize(
    "options",
    [
        ["--mode", "uffd", "--delay-us", 300, "--handlers", 2, "--pages", 10_000],
        ["--mode", "uffd", "--async", "--delay-us", 300, "--pages", 4_000],
        ["--mode", "exit", "--delay-us", 300, "--pages", 10_000],
    ],
    ids=["uffd", "async", "exit"],
)
def test_an_ordinary_guest_raises_none(operator: Operator, options: list[object]) -> None:
    with guest(*options, "--vcpus", 4) as process:
        operator.watch(lambda: operator.waiting(process.pid), "a fault")
        operator.watch(lambda: process.poll() is not None, "its end")
        finish(process)
        operator.for_seconds(2)
        assert operator.alarms(process.pid) == []
        assert not operator.lost()


def test_a_guest_that_stands_still_in_many_short_faults(operator: Operator) -> None:
    """Each fault takes a fraction of a second: none of them is long, and hardly anything else happens."""
    with guest("--mode", "uffd", "--vcpus", 2, "--pages", 2000, "--handlers", 1, "--delay-us", 60_000) as process:
        operator.watch(lambda: "vm_stalled" in operator.active(process.pid), "a VM that stands still")
        alarm = operator.active(process.pid)["vm_stalled"]
        assert alarm.limit_ns == 7.5 * S and alarm.value_ns is not None and alarm.value_ns > alarm.limit_ns
        assert alarm.message.startswith("The 2 vCPUs of ")


def test_a_pager_that_is_killed_amid_a_fault_and_its_userfaultfd_with_it(
    operator: Operator, pager_program: Path
) -> None:
    """The guest reads a page of zeros and goes on, as if all were well."""
    with pager(pager_program, "closed") as vm:
        vm.touch(200)
        vm.touched()
        operator.watch(lambda: operator.migrations(vm.pid), "a page-in")
        os.kill(vm.filler, signal.SIGSTOP)
        vm.touch(1)
        operator.watch(lambda: "handler_stuck" in operator.active(vm.pid), "a fault that nobody answers")
        os.kill(vm.filler, signal.SIGKILL)
        operator.watch(lambda: "handler_gone" in operator.active(vm.pid), "an alarm")
        alarm = operator.active(vm.pid)["handler_gone"]
        assert alarm.severity == "critical" and "1 fault that nobody had answered" in alarm.message
        vm.touched()
        operator.watch(lambda: operator.migrations(vm.pid)[0]["state"] != "active", "its end")
        (one,) = operator.migrations(vm.pid)
        assert one["state"] == "failed" and "1 fault was never answered" in one["evidence"][-1]
        assert one["fills"]["demand"] == 200


def test_a_pager_that_is_killed_and_leaves_its_vcpu_waiting(operator: Operator, pager_program: Path) -> None:
    """It is a zombie for as long as the VMM does not ask for its end."""
    with pager(pager_program, "kept") as vm:
        vm.touch(50)
        vm.touched()
        operator.watch(lambda: operator.migrations(vm.pid), "a page-in")
        operator.for_seconds(1.5)
        os.kill(vm.filler, signal.SIGKILL)
        vm.touch(1)
        operator.watch(lambda: "handler_gone" in operator.active(vm.pid), "an alarm")
        assert f"pager ({vm.filler}) vanished" in operator.active(vm.pid)["handler_gone"].message


def test_a_last_page_that_is_late_and_a_vmm_that_ends_then(operator: Operator, pager_program: Path) -> None:
    with pager(pager_program, "thread") as vm:
        vm.touch(10)
        vm.touch(1, late_us=1_300_000)
        operator.watch(lambda: operator.waiting(vm.pid), "a fault")
        vm.end()
        operator.watch(lambda: not operator.active(vm.pid), "its end")
        operator.for_seconds(3)
        assert {alarm.kind for alarm in operator.alarms(vm.pid)} <= {"vcpu_stalled", "handler_stuck"}
        assert [one["state"] for one in operator.migrations(vm.pid)] == ["ended"]


def test_workers_that_end_with_their_faults(operator: Operator, pager_program: Path) -> None:
    """The reader lives, and each fault is answered by a thread of its own."""
    with pager(pager_program, "workers") as vm:
        vm.touch(60, late_us=1000)
        vm.touch(5, late_us=600_000)
        for _ in range(2):
            vm.touched()
            operator.for_seconds(1)
        operator.for_seconds(6)
        assert "handler_gone" not in {alarm.kind for alarm in operator.alarms(vm.pid)}


def test_a_reader_that_is_late_after_its_workers_have_ended(operator: Operator, pager_program: Path) -> None:
    """Nobody has vanished: the thread that reads the events is stopped, as it might be busy."""
    with pager(pager_program, "workers") as vm:
        vm.touch(60, late_us=1000)
        vm.touched()

        def readers() -> list[int]:
            handlers = [one for found in operator.vms(vm.pid) for one in found.peer.handlers]
            return [one.tid for one in handlers if one.reads and one.role == "uffd reader" and one.pid == vm.pid]

        operator.watch(lambda: len(readers()) == 1, "who reads")
        (reader,) = readers()
        operator.for_seconds(1)
        assert libc.ptrace(PTRACE_ATTACH, reader, None, None) == 0
        os.waitpid(reader, WALL)
        vm.touch(1)
        operator.watch(lambda: "handler_stuck" in operator.active(vm.pid), "a fault that nobody reads about")
        assert "is queued unread" in operator.active(vm.pid)["handler_stuck"].message
        operator.for_seconds(2)
        assert libc.ptrace(PTRACE_DETACH, reader, None, None) == 0
        vm.touched()
        operator.watch(lambda: not operator.active(vm.pid), "the alarms' end")
        assert {alarm.kind for alarm in operator.alarms(vm.pid)} <= STALLS | {"handler_stuck"}


def kick(vm: Pager) -> None:
    """Its vCPU, which its first thread runs, out of KVM_RUN."""
    assert libc.syscall(SYS_TGKILL, vm.pid, vm.pid, signal.SIGUSR1) == 0


def stop(vm: Pager) -> None:
    """As a debugger does: its vCPU's thread alone, for two seconds."""
    assert libc.ptrace(PTRACE_ATTACH, vm.pid, None, None) == 0
    os.waitpid(vm.pid, WALL)
    time.sleep(2)
    assert libc.ptrace(PTRACE_DETACH, vm.pid, None, None) == 0


def suspend(vm: Pager) -> None:
    """All of its threads, for two seconds."""
    os.kill(vm.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(vm.pid, signal.SIGCONT)


@pytest.mark.parametrize("disturb", [kick, stop, suspend])
def test_a_page_that_is_eight_seconds_late_for_a_vcpu_that_is_disturbed(
    operator: Operator, pager_program: Path, disturb: Callable[[Pager], None]
) -> None:
    """It is one fault all along, whose age never starts anew, and the alarms stay."""
    with pager(pager_program, "workers") as vm, ThreadPoolExecutor(1) as pool:
        begin_ns = time.monotonic_ns()
        vm.touch(1, late_us=8_000_000)
        operator.watch(lambda: operator.waiting(vm.pid), "a fault")
        ages_ns: dict[str, float] = {}  # of the fault, as each alarm told it last
        once = [] if disturb is kick else [disturb]
        while (age_ns := time.monotonic_ns() - begin_ns) < 7.5 * S:
            if disturb is kick:
                kick(vm)
            elif once and age_ns > 2 * S:
                pool.submit(once.pop(), vm)
            operator.for_seconds(0.5)
            active = operator.active(vm.pid)
            assert ages_ns.keys() <= active.keys(), "an alarm has ended"
            for kind in STALLS & active.keys():
                value_ns = active[kind].value_ns
                assert value_ns and value_ns >= ages_ns.get(kind, 0), "the age of the fault"
                ages_ns[kind] = value_ns
        operator.watch(lambda: operator.active(vm.pid).keys() >= STALLS, "both alarms")
        vm.touched()
        operator.watch(lambda: not operator.active(vm.pid), "the alarms' end")
        (found,) = operator.vms(vm.pid)
        assert found.faults(operator.aggregate.rows)["uffd"] == 1
        assert found.totals(operator.aggregate.rows)["series"]["max_ns"][0, MODE_UFFD] > 7.9 * S


@pytest.mark.parametrize("how", ["given", "lent"])
def test_a_pager_of_several_vms_that_leaves_one_waiting(operator: Operator, pager_program: Path, how: str) -> None:
    """Read and not answered; then not even read, as the pager is stopped. The others' queues are empty."""
    with ExitStack() as stack:
        server = stack.enter_context(daemon(pager_program))
        vms = [stack.enter_context(pager(pager_program, how)) for _ in range(3)]
        for vm in vms:
            server.serve(vm)
            vm.touch(100)
            vm.touched()
        waiting = vms[1]

        def queues() -> list[tuple[int, int]]:
            return [(found.pending, found.total) for vm in vms for found in operator.vms(vm.pid)]

        def stuck() -> bool:
            return "handler_stuck" in operator.active(waiting.pid)

        operator.watch(lambda: all(operator.migrations(vm.pid) for vm in vms), "that they are paged in")
        operator.watch(lambda: queues() == [(0, 0)] * 3, "empty queues")
        server.do("hold 1")
        waiting.touch(1)
        operator.watch(lambda: stuck() and queues() == [(0, 0), (0, 1), (0, 0)], "a fault that is read only")
        assert "has been read, no page has been filled for" in operator.active(waiting.pid)["handler_stuck"].message
        server.do("release 1")
        waiting.touched()
        operator.watch(lambda: not stuck() and queues() == [(0, 0)] * 3, "its end")
        os.kill(server.pid, signal.SIGSTOP)
        waiting.touch(1)
        operator.watch(lambda: stuck() and queues() == [(0, 0), (1, 1), (0, 0)], "a fault that is queued unread")
        assert "is queued unread, nothing has been read or filled for" in (
            operator.active(waiting.pid)["handler_stuck"].message
        )
        for vm in vms:
            handlers = [one for found in operator.vms(vm.pid) for one in found.peer.handlers]
            assert {(one.pid, one.name, one.process) for one in handlers} == {(server.pid, "pager", "pager")}
        os.kill(server.pid, signal.SIGCONT)
        waiting.touched()
        operator.watch(lambda: not stuck() and queues() == [(0, 0)] * 3, "its end")
        for vm in vms:
            assert {alarm.kind for alarm in operator.alarms(vm.pid)} <= (
                STALLS | {"handler_stuck"} if vm is waiting else set()
            )


@pytest.mark.needs("vm")
def test_a_destination_that_is_killed_amid_postcopy(operator: Operator, tmp_path: Path) -> None:
    with Migration(Plan(vcpus=4, bytes_per_s=2 << 20), tmp_path) as migration:
        migration.start()
        pid = migration.destination.pid
        operator.watch(lambda: operator.waiting(pid), "a fault")
        operator.for_seconds(1)
        migration.destination.kill()
        operator.watch(lambda: "vm_died" in operator.active(pid), "that it has died")
        assert "moved ended in the middle of its postcopy migration" in operator.active(pid)["vm_died"].message
        operator.watch(lambda: not operator.active(pid), "the alarms' end")
        assert operator.active(migration.source.pid) == {}


@pytest.mark.needs("vm")
def test_a_migration_that_goes_well_raises_none(operator: Operator, tmp_path: Path) -> None:
    with Migration(Plan(vcpus=2, bytes_per_s=32 << 20), tmp_path) as migration:
        migration.start()
        migration.finish()
        pids = migration.source.pid, migration.destination.pid
        operator.for_seconds(3)
        migration.source.kill()
        operator.for_seconds(2)
        migration.destination.kill()
        operator.for_seconds(2)
        assert [alarm for pid in pids for alarm in operator.alarms(pid) if alarm.kind != "vcpu_stalled"] == []


@pytest.mark.needs("vm")
def test_a_source_that_is_killed_leaves_the_destination_waiting(operator: Operator, tmp_path: Path) -> None:
    with Migration(Plan(vcpus=2, bytes_per_s=2 << 20), tmp_path) as migration:
        migration.start()
        pid = migration.destination.pid
        operator.watch(lambda: operator.waiting(pid), "a fault")
        migration.source.kill()
        operator.watch(lambda: operator.active(pid).keys() >= STALLS | {"handler_stuck"}, "three alarms")
        assert operator.active(pid)["vcpu_stalled"].message.startswith("2 of 2 vCPUs of moved have stood still")
        assert "vm_died" not in operator.active(pid)
        died = {alarm.kind: alarm for alarm in operator.alarms(migration.source.pid)}
        assert "in the middle of its postcopy migration" in died["vm_died"].message

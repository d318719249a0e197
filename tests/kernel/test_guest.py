"""The guest's own counts, on real KVM: every other kernel test takes them for the truth."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from exitscope_probes.guest import build as guest_build

pytestmark = pytest.mark.needs("kvm", "uffd")

TIMEOUT_S = 30
Report = dict[str, Any]


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sources as they are now, not one that was installed earlier."""
    return guest_build.build(tmp_path_factory.mktemp("guest") / "exitscope-guest")


def run(binary: Path, *options: object) -> Report:
    """The report of a guest that must succeed, its pages' content checked by itself."""
    result = call(binary, "--verify", *options)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    report: Report = json.loads(lines[0])
    assert report["state"] == "done"
    chosen = report["conditions"]
    pages = chosen["pages"] + chosen["vmm_touch"] + chosen["vcpu_touch"] * chosen["vcpus"]
    assert report["verify"] == {"pages": pages * report["rounds"], "wrong": 0}
    return report


def call(binary: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [str(binary), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@contextmanager
def started(binary: Path, *options: object) -> Iterator[tuple["subprocess.Popen[str]", Report]]:
    """A guest that has said that it is ready and waits for a line; killed at the end if it still runs."""
    command = [str(binary), "--wait-start", *map(str, options)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> Report:
    """The report of a guest asked to end."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    report: Report = json.loads(output)
    return report


def await_waiters(pid: int, waiters: int, all_read: bool = False) -> None:
    """Until so many faults wait at the process's uffd (fdinfo counts them), all of them read or not."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(fd) == "anon_inode:[userfaultfd]":
                info = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
                if f"total:\t{waiters}\n" in info and (not all_read or "pending:\t0\n" in info):
                    return
        time.sleep(0.01)
    raise AssertionError(f"never {waiters} faults waiting")


def thread_names(pid: int) -> set[str]:
    names = set()
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with suppress(OSError):  # ended meanwhile
            names.add(path.read_text().strip())
    return names


def await_end_of_handlers(pid: int) -> None:
    """Until none of the process's handler threads is left; on a busy machine vCPUs wait long before that."""
    deadline = time.monotonic() + TIMEOUT_S
    while any(name.startswith("uffd-handler") for name in thread_names(pid)):
        assert time.monotonic() < deadline, "a handler thread lives on"
        time.sleep(0.01)


def assert_exact(report: Report, faults_per_vcpu: list[int]) -> None:
    """Each of these faults seen once, resolved once, and every page touched once a round."""
    faults = sum(faults_per_vcpu)
    assert [vcpu["faults"] for vcpu in report["vcpus"]] == faults_per_vcpu
    assert [vcpu["repeats"] for vcpu in report["vcpus"]] == [0] * len(faults_per_vcpu)
    assert [v["touches"] for v in report["vcpus"]] == [v["pages"] * report["rounds"] for v in report["vcpus"]]
    assert report["faults"] == faults
    assert report["fills"]["demand"] == faults
    assert report["fills"]["eexist"] == 0
    fillers = report["handlers"] if report["mode"] == "uffd" else report["vcpus"]
    assert sum(filler["filled"] for filler in fillers) == faults
    assert report["events_read"] == (faults if report["mode"] == "uffd" else 0)
    assert report["events_read"] == sum(handler["events_read"] for handler in report["handlers"])


@pytest.mark.parametrize("vcpus", [1, 2, 8])
@pytest.mark.parametrize("fault", ["missing", "minor"])
@pytest.mark.parametrize(("mode", "handlers"), [("uffd", 1), ("uffd", 3), ("exit", 1)])
def test_every_page_faults_once(binary: Path, vcpus: int, fault: str, mode: str, handlers: int) -> None:
    options = ("--vcpus", vcpus, "--fault", fault, "--mode", mode, "--handlers", handlers)
    report = run(binary, *options, "--pages", 800, "--rounds", 2)
    assert_exact(report, [1600 // vcpus] * vcpus)
    assert report["resolver"] == {"missing": "COPY", "minor": "CONTINUE"}[fault]
    assert len(report["handlers"]) == (handlers if mode == "uffd" else 0)


@pytest.mark.parametrize("vcpus", [1, 2, 8])
@pytest.mark.parametrize("fault", ["missing", "minor"])
def test_async_page_faults_are_as_exact(binary: Path, vcpus: int, fault: str) -> None:
    report = run(binary, "--async", "--vcpus", vcpus, "--fault", fault, "--pages", 800, "--handlers", 2)
    assert report["async"] is True
    assert_exact(report, [800 // vcpus] * vcpus)


@pytest.mark.parametrize("mode", ["uffd", "exit"])
def test_missing_pages_of_shmem(binary: Path, mode: str) -> None:
    report = run(binary, "--mode", mode, "--backing", "shmem", "--pages", 300, "--rounds", 3)
    assert report["resolver"] == "COPY"
    assert_exact(report, [900])


@pytest.mark.parametrize("pages", [7, 8, 9, 1000, 1025])
def test_random_order_touches_each_page_once(binary: Path, pages: int) -> None:
    """The content check counts touches per page; a remainder goes to the first vCPUs."""
    report = run(binary, "--order", "random", "--seed", pages, "--vcpus", 7, "--pages", pages)
    assert_exact(report, [pages // 7 + (vcpu < pages % 7) for vcpu in range(7)])


@pytest.mark.parametrize("mode", ["uffd", "exit"])
@pytest.mark.parametrize("order", ["seq", "random"])
def test_background_fills_are_not_faults(binary: Path, mode: str, order: str) -> None:
    options = ("--mode", mode, "--order", order, "--vcpus", 4, "--prefill-percent", 75)
    report = run(binary, *options, "--pages", 2000, "--rounds", 3)
    assert_exact(report, [125 * 3] * 4)
    assert report["fills"]["background"] == 1500 * 3


def test_all_pages_filled_in_the_background(binary: Path) -> None:
    report = run(binary, "--prefill-percent", 100, "--pages", 100)
    assert_exact(report, [0])
    assert report["fills"]["background"] == 100


def test_the_kernel_resolves_alone(binary: Path) -> None:
    report = run(binary, "--mode", "none", "--vcpus", 2, "--pages", 1000)
    assert (report["faults"], report["fills"]["demand"], report["resolver"]) == (0, 0, None)
    assert [vcpu["touches"] for vcpu in report["vcpus"]] == [500, 500]


def test_256_vcpus(binary: Path) -> None:
    for mode in ("uffd", "exit"):
        assert_exact(run(binary, "--vcpus", 256, "--pages", 256, "--mode", mode), [1] * 256)


def test_batched_reads_and_thread_ids(binary: Path) -> None:
    report = run(binary, "--batch", 16, "--thread-id", "--vcpus", 16, "--pages", 1600)
    assert_exact(report, [100] * 16)


@pytest.mark.parametrize("mode", ["uffd", "exit"])
def test_delay_is_slept_in_every_fault(binary: Path, mode: str) -> None:
    report = run(binary, "--mode", mode, "--pages", 20, "--delay-us", 2000, "--fault-free-pass")
    (vcpu,) = report["vcpus"]
    assert vcpu["run_ns"] >= 20 * 2_000_000
    assert report["fault_free_ns"] == vcpu["fault_free_ns"] < vcpu["run_ns"]
    report = run(binary, "--mode", mode, "--pages", 50, "--delay-us", 1000, "--delay-dist", "exp", "--seed", 3)
    assert report["vcpus"][0]["run_ns"] >= 50 * 1_000_000 / 2  # the same delays for the same seed


def test_pauses_are_not_run_time(binary: Path) -> None:
    report = run(binary, "--think-us", 2000, "--pages", 20)
    assert_exact(report, [20])
    assert report["vcpus"][0]["pause_ns"] >= 19 * 2_000_000


def test_waits_for_the_start(binary: Path) -> None:
    with started(binary, "--vcpus", 3, "--pages", 30, "--handlers", 2) as (process, ready):
        assert (ready["state"], ready["pid"]) == ("ready", process.pid)
        assert thread_names(process.pid) >= {"CPU 0/KVM", "CPU 1/KVM", "CPU 2/KVM", "uffd-handler-0", "uffd-handler-1"}
        output, _ = process.communicate("go\n", timeout=TIMEOUT_S)
    report = json.loads(output)
    assert [vcpu["tid"] for vcpu in report["vcpus"]] == [vcpu["tid"] for vcpu in ready["vcpus"]]
    assert_exact(report, [10] * 3)


def test_start_line_that_never_comes(binary: Path) -> None:
    with started(binary) as (process, _):
        _, errors = process.communicate("", timeout=TIMEOUT_S)
        assert process.returncode == 1
        assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mode", ["uffd", "exit", "none"])
def test_endless_rounds_end_cleanly(binary: Path, mode: str, number: signal.Signals) -> None:
    with started(binary, "--rounds", 0, "--mode", mode, "--vcpus", 4, "--pages", 400) as (process, _):
        go(process)
        time.sleep(0.2)
        report = end(process, number)
    touches = sum(vcpu["touches"] for vcpu in report["vcpus"])
    assert report["rounds"] * 400 <= touches <= (report["rounds"] + 1) * 400
    if mode != "none":  # at most one page per vCPU was filled and not yet touched
        assert touches <= report["fills"]["demand"] <= touches + 4


def test_ends_before_the_start(binary: Path) -> None:
    with started(binary, "--pages", 10) as (process, _):
        report = end(process, signal.SIGTERM)
    assert (report["faults"], report["rounds"]) == (0, 0)


@pytest.mark.parametrize("interrupts", [[], ["--async"]])
def test_faults_held(binary: Path, interrupts: list[str]) -> None:
    """Faults read and never resolved: each vCPU stays in its first one, and still ends when asked to."""
    with started(binary, "--hold-fault", "--vcpus", 4, "--pages", 40, *interrupts) as (process, _):
        go(process)
        await_waiters(process.pid, 4, all_read=True)
        report = end(process, signal.SIGTERM)
    assert [vcpu["faults"] for vcpu in report["vcpus"]] == [1] * 4
    assert (report["events_read"], report["fills"]["demand"], report["rounds"]) == (4, 0, 0)
    assert [vcpu["touches"] for vcpu in report["vcpus"]] == [0] * 4


def test_killed_in_a_fault(binary: Path) -> None:
    with started(binary, "--hold-fault", "--vcpus", 4, "--pages", 40) as (process, _):
        go(process)
        await_waiters(process.pid, 4)
        process.kill()
        assert process.wait(timeout=TIMEOUT_S) == -signal.SIGKILL


def test_handlers_die(binary: Path) -> None:
    options = ("--kill-handlers-after", 55, "--handlers", 3, "--vcpus", 4, "--pages", 400)
    with started(binary, *options) as (process, _):
        go(process)
        await_end_of_handlers(process.pid)
        await_waiters(process.pid, 4)
        report = end(process, signal.SIGTERM)
    assert report["fills"]["demand"] == 55
    assert sum(vcpu["touches"] for vcpu in report["vcpus"]) == 55


@pytest.mark.parametrize("fault", ["missing", "minor"])
def test_uffd_closed_under_waiting_vcpus(binary: Path, fault: str) -> None:
    """The kernel lets the vCPUs go: zero pages for missing ones, the page cache for minor ones."""
    options = ("--hold-fault", "--close-uffd-after-ms", 100, "--vcpus", 4, "--pages", 400, "--fault", fault)
    result = call(binary, *options, "--verify")
    report = json.loads(result.stdout)
    assert [vcpu["touches"] for vcpu in report["vcpus"]] == [100] * 4
    assert [vcpu["faults"] for vcpu in report["vcpus"]] == [1] * 4
    assert report["verify"]["wrong"] == {"missing": 400, "minor": 0}[fault]
    assert result.returncode == (1 if fault == "missing" else 0)


def test_more_memory_than_there_is(binary: Path) -> None:
    """A failure of the host is one line and status 1."""
    command = ["prlimit", "--as=100000000", str(binary), "--pages", "100000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert "--pages" in result.stderr
    assert len(result.stderr.splitlines()) == 1

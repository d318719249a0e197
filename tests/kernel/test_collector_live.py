"""The collector as a process of its own: what it says over the wire, how it starts, and how it ends."""

import ctypes
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from exitscope_probes.records import MODE_ASYNC, MODE_EXIT, MODE_UFFD, WAITER_OTHER
from tests.kernel.client import assert_told, collecting, command, connect
from tests.kernel.harness import TIMEOUT_S, answer, finish, go, guest, run_guest, wait_until

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

Collector = subprocess.Popen[str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collector") / "collector.sock"


@pytest.fixture(scope="module")
def collector(path: Path) -> Iterator[Collector]:
    """One for the tests that do not end it."""
    with collecting(path) as process:
        yield process


def programs_of(pid: int) -> set[int]:
    """Ids of the BPF programs that a process holds or has attached."""
    ids = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        ids |= {int(line.split()[1]) for line in info.read_text().splitlines() if line.startswith("prog_id:")}
    return ids


def loaded_programs() -> set[int]:
    """Ids of all BPF programs in the kernel."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    program = ctypes.c_uint32(0)
    ids = set()
    while libbpf.bpf_prog_get_next_id(program, ctypes.byref(program)) == 0:
        ids.add(program.value)
    return ids


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (MODE_UFFD, ["--mode", "uffd", "--handlers", 2]),
        (MODE_EXIT, ["--mode", "exit"]),
        (MODE_ASYNC, ["--mode", "uffd", "--async"]),
    ],
)
def test_what_goes_over_the_wire_is_what_the_guest_did(
    collector: Collector, path: Path, mode: int, options: list[object]
) -> None:
    client = connect(path, collector)
    report = run_guest(
        *options, "--vcpus", 4, "--pages", 2000, "--name", "over-the-wire", "--pause-ms-before-exit", 500
    )
    client.read_until(lambda: client.is_gone(report["pid"]), "the VM's end")
    assert_told(client, report, mode)
    vm = client.vm_of(report["pid"])
    assert vm is not None
    assert (vm["vmm"], vm["name"]) == ("exitscope guest", "over-the-wire")
    assert not any(client.loss.values()), client.loss
    client.close()


def test_a_client_that_comes_late_is_told_all(collector: Collector, path: Path) -> None:
    with guest("--vcpus", 2, "--pages", 500, "--pause-ms-before-exit", 60_000) as process:
        report = answer(process)
        client = connect(path, collector)
        client.read_until(
            lambda: client.vm_of(process.pid) and sum(client.faults(process.pid, MODE_UFFD)) == 500, "500 faults"
        )
        assert client.faults(process.pid, MODE_UFFD) == [250, 250]
        assert client.vm_row(process.pid)["events_read"] == report["events_read"]
        client.close()


def test_a_second_collector_is_refused(collector: Collector, path: Path) -> None:
    result = subprocess.run(command(path), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert f"another collector is running (pid {collector.pid})" in result.stderr
    connect(path, collector).close()


@pytest.mark.parametrize(("mode", "interrupts"), [(MODE_UFFD, []), (MODE_ASYNC, ["--async"])])
def test_vcpus_that_were_inside_kvm_run_before(tmp_path: Path, mode: int, interrupts: list[str]) -> None:
    """No hook sees them enter, and they stay inside: the collector must look for them."""
    path = tmp_path / "collector.sock"
    options = ["--vcpus", 2, "--handlers", 2, "--pages", 20_000, "--delay-us", 5000, "--wait-start", *interrupts]
    with guest(*options) as process:
        ready = answer(process)
        go(process)
        with collecting(path) as collector:
            client = connect(path, collector)
            client.read_until(
                lambda: client.vm_of(process.pid) and {0, 1} <= set(client.rows(process.pid)["vcpu"]), "both vCPUs"
            )
            client.read_until(lambda: min(client.faults(process.pid, mode)[:2]) >= 50, "50 faults of each")
            rows, records = client.rows(process.pid)[:2], client.records(process.pid)
            records = records[records["waiter"] != WAITER_OTHER]  # what they were taken for before they were found
            assert rows["tid"].tolist() == [vcpu["tid"] for vcpu in ready["vcpus"]]
            assert not rows["exits"].any(), "they have not left KVM_RUN"
            assert (rows["tid"][records["vcpu"]] == records["tid"]).all()
            # A sleep of 5 ms behind each fault: whoever is credited has stood still for so long.
            assert records["serve_ns"][10:].min() >= 5_000_000
            client.close()


def test_killed_and_started_again(tmp_path: Path) -> None:
    """The kernel takes its programs away, the next one takes its socket; asked to end, that one says goodbye."""
    path = tmp_path / "collector.sock"
    with collecting(path) as first:
        client = connect(path, first)
        started_ns = client.hello["started_ns"]
        programs = programs_of(first.pid)
        assert programs and programs <= loaded_programs()
        first.kill()
        first.wait(TIMEOUT_S)
        client.close()
    wait_until(lambda: not programs & loaded_programs(), "no program left")  # the kernel frees them in its own time
    assert path.is_socket(), "nobody was there to remove it"

    with collecting(path) as second:
        client = connect(path, second)
        assert client.hello["started_ns"] > started_ns
        with guest("--vcpus", 2, "--pages", 200) as process:
            report = finish(process)
        client.read_until(lambda: client.is_gone(report["pid"]), "the VM's end")
        assert_told(client, report, MODE_UFFD)
        programs = programs_of(second.pid)
        second.send_signal(signal.SIGTERM)
        client.read_until(lambda: client.bye is not None, "BYE")
        assert client.bye == "SIGTERM"
        client.close()
        _, log = second.communicate(timeout=TIMEOUT_S)
        assert second.returncode == 0
        assert "Traceback" not in log
    wait_until(lambda: not programs & loaded_programs(), "no program left")  # the kernel frees them in its own time
    assert not path.exists()

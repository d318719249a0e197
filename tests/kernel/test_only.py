"""Of a host's VMs only those that were asked for: the others take no room and appear nowhere."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from exitscope_probes.guest.build import binary_path
from exitscope_probes.only import only
from exitscope_probes.procfs import Proc
from exitscope_probes.records import MODE_UFFD
from exitscope_probes.seeding import Seeding
from tests.kernel.client import collecting, command, welcomed
from tests.kernel.harness import Watch, answer, finish, go, guest, of_ours, wait_until

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

PAGES, VCPUS = 400, 2
ENDLESS = ("--mode", "uffd", "--vcpus", 32, "--pages", 512, "--rounds", 0, "--think-us", 200)


@contextmanager
def foreign_guest() -> Iterator[int]:
    """Pid of a guest that descends from no process of ours, and faults for ever."""
    options = " ".join(map(str, ENDLESS))
    script = f"{binary_path()} {options} >/dev/null 2>&1 & echo $!"
    pid = int(subprocess.run(["setsid", "sh", "-c", script], capture_output=True, check=True, timeout=60).stdout)
    try:
        wait_until(lambda: len(Proc().tasks(pid)) > 4, "the foreign guest's vCPUs")
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def faults_of(pid: int) -> int:
    """By its CPU time: whether it goes on at all."""
    return sum(Proc().cpu_ns(tid) or 0 for tid in Proc().tasks(pid))


def test_a_foreign_vm_takes_no_slot_and_is_in_no_total_or_loss() -> None:
    """There is room for our vCPUs and their threads alone, and the other VM has more."""
    with foreign_guest() as foreign, Watch(only=of_ours(), max_vcpus=VCPUS, max_vms=1) as watch:
        with watch.losing():
            before = faults_of(foreign)
            report, seen = watch.run("--mode", "uffd", "--vcpus", VCPUS, "--pages", PAGES)
            wait_until(lambda: faults_of(foreign) > before, "the foreign guest runs all the time")
            assert seen.faults(MODE_UFFD) == seen.recorded(MODE_UFFD) == [PAGES // VCPUS] * VCPUS
            assert report["faults"] == PAGES
        watch.drain()
        assert watch.probes.occupancy() == dict.fromkeys(watch.probes.occupancy(), 0)
        assert not watch.totals.poll().vms["vm"].any()


def test_of_vms_that_ran_before_only_ours_are_looked_for() -> None:
    with foreign_guest(), guest("--pages", 8, "--vcpus", 1, "--pause-ms-before-exit", 60_000) as own:
        wait_until(lambda: len(Proc().tasks(own.pid)) > 1, "our vCPU")
        with Watch(only=of_ours()) as watch:
            seeding = Seeding(watch.probes, only=watch.probes.only)
            assert set(seeding._processes) == {own.pid}


def test_of_children_of_children(tmp_path: Path) -> None:
    """The guest's parent is a shell, that shell's another one."""
    with Watch(only=of_ours()) as watch:
        done = subprocess.run(
            ["sh", "-c", f"sh -c '{binary_path()} --mode uffd --pages 100; true'; true"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert done.stdout
        watch.drain()
        assert sum(watch.totals.poll().vcpus["series"]["count"][:, MODE_UFFD]) == 100


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of ours, two levels down."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    top = next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2") / f"exitscope-test-{os.getpid()}"
    inner = top / "inner"
    inner.mkdir(parents=True)
    yield inner
    for directory in (inner, top):
        deadline = time.monotonic() + 10
        while directory.exists():
            with suppress(OSError):
                directory.rmdir()
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.needs("cgroup2")
def test_of_a_control_group(group: Path) -> None:
    inside = ["sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh"]
    run = [str(binary_path()), "--mode", "uffd", "--pages", "100", "--pause-ms-before-exit", "3000"]
    with Watch(only=only(cgroup=str(group.parent)), max_vms=1) as watch:
        with guest("--mode", "uffd", "--pages", 50) as outside:
            finish(outside)
        assert not watch.numbers(outside.pid)
        with subprocess.Popen([*inside, *run], stdout=subprocess.DEVNULL) as process:
            wait_until(lambda: len(watch.numbers(process.pid)) == 1, "the VM in the group")
            wait_until(lambda: sum(watch.observe(process.pid).faults(MODE_UFFD)) == 100, "its faults")
            chosen = watch.probes.only
            assert chosen.includes(process.pid, Proc()) and not chosen.includes(os.getpid(), Proc())
            process.terminate()


def test_a_collector_says_whose_vms_it_shows(tmp_path: Path) -> None:
    with foreign_guest() as foreign, collecting(tmp_path / "s"):
        client = welcomed(tmp_path / "s")
        assert client.hello["only"] == f"of process {os.getpid()} and its descendants"
        with guest("--mode", "uffd", "--pages", PAGES, "--wait-start") as own:
            answer(own)
            go(own)
            report = finish(own)
        client.read_until(lambda: client.is_gone(report["pid"]), "the end of our VM")
        assert client.faults(report["pid"], MODE_UFFD) == [PAGES]
        assert {vm["pid"] for vm in client.vms.values()} == {own.pid}
        assert client.vm_of(foreign) is None
        assert not any(client.loss.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--only-pid-tree", 4_194_304), "there is no process 4194304"),
        (("--only-cgroup", "no/such"), "no/such is no control group"),
        (("--only-cgroup", "/etc"), "is no control group"),
    ],
)
def test_what_is_not_there_is_no_filter(tmp_path: Path, options: tuple[object, ...], words: str) -> None:
    done = subprocess.run(command(tmp_path / "s", *options), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line or "cgroup2 is not mounted" in line

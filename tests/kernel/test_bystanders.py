"""Other tracers of the host see what they would see without us."""

import subprocess

import pytest

from exitscope_probes.guest.build import binary_path
from tests.kernel.harness import TIMEOUT_S, Watch

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "peers")
EVENTS = ("syscalls:sys_enter_ioctl", "syscalls:sys_exit_ioctl", "syscalls:sys_exit_read")


def test_perf_still_counts_the_tracepoints_that_we_are_attached_to(watch: Watch) -> None:
    """A program that returns 0 at an ordinary tracepoint would keep its events from perf."""
    guest = [str(binary_path()), "--mode", "uffd", "--pages", "64"]
    command = ["perf", "stat", "-x,", "-e", ",".join(EVENTS), *guest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    counts = {event: int(line.split(",")[0]) for line in done.stderr.splitlines() for event in EVENTS if event in line}
    assert counts["syscalls:sys_enter_ioctl"] >= 64, "one UFFDIO_COPY per page"
    assert counts["syscalls:sys_exit_ioctl"] >= 64
    assert counts["syscalls:sys_exit_read"] >= 1

"""Runs of the real guest, which says itself how long it took."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

from exitscope_probes.guest.build import binary_path
from exitscope_probes.procfs import KVM_VM, Proc
from tests.bench.figure import BenchError

_TIMEOUT_S = 120
_TRIES = 3
_QUIET_S = 5.0
_Result = TypeVar("_Result")

disturbances: list[float] = []
"""When a measurement had to be taken although another VM was there."""


def undisturbed(measure: Callable[[], _Result]) -> _Result:
    """Measure while no other VM is there, whose faults would count, too; after some tries, whatever it gives."""
    for _ in range(_TRIES):
        deadline = time.monotonic() + _QUIET_S
        while other_vms() and time.monotonic() < deadline:
            time.sleep(0.2)
        result = measure()
        if not other_vms():
            return result
    disturbances.append(time.monotonic())
    return result


def run_guest(*options: object) -> dict[str, Any]:
    """Run one guest to its end and return its report. Raises BenchError if it fails or hangs."""
    command = [str(binary_path()), *map(str, options)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"the guest did not end within {_TIMEOUT_S} s") from None
    if done.returncode:
        raise BenchError(f"the guest failed: {done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def faults_of(report: dict[str, Any]) -> int:
    """Faults that the guest counted."""
    return sum(vcpu["faults"] for vcpu in report["vcpus"])


def rate_of(report: dict[str, Any]) -> float:
    """Faults per second of the guest's own clock."""
    return faults_of(report) / float(report["wall_ns"]) * 1e9


def other_vms() -> list[int]:
    """Processes that hold a VM open: their faults would be counted and would cost time."""
    proc = Proc()
    return [pid for pid in proc.pids() if KVM_VM in (proc.fd_links(pid) or {}).values()]


def load_average() -> float:
    """Of the last minute."""
    return float((Proc().text("loadavg") or "0").split()[0])


def settle(seconds: float = 0.2) -> None:
    """Let what just started or ended go quiet."""
    time.sleep(seconds)

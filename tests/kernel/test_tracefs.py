"""Where no tracefs is mounted (a fresh machine, a container) the product mounts its own, and traces really."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.kernel.harness import run_guest
from tests.product import products

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

# A mount namespace without tracefs, whatever the machine has mounted; to look at debugfs would mount it again.
_UNMOUNT: Final = """
for place in /sys/kernel/debug /sys/kernel/tracing; do umount -l $place 2>/dev/null; done
test ! -e /sys/kernel/tracing/events && exec "$@"
"""
WITHOUT_TRACEFS: Final = ("unshare", "-m", "sh", "-c", _UNMOUNT, "sh")
PROBES: Final = (sys.executable, "-m", "exitscope_probes")
PAGES: Final = 512


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def doctor(*wrapper: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*wrapper, *PROBES, "doctor", "--json").stdout)
    return found


def test_doctor_says_so_finds_the_same_hooks_and_changes_nothing() -> None:
    mounts = Path("/proc/1/mounts").read_text()
    found = doctor(*WITHOUT_TRACEFS)
    (check,) = [check for check in found["checks"] if check["name"] == "tracepoints"]
    assert found["usable"], found["reason"]
    assert check["state"] == "ok" and "no tracefs is mounted" in check["detail"]
    assert found["hooks"] == doctor()["hooks"]
    assert Path("/proc/1/mounts").read_text() == mounts


def test_every_fault_is_counted() -> None:
    with products() as start:
        product = start("run", wrapper=WITHOUT_TRACEFS, all_vms=True)
        product.until("api/v1/health", lambda answer: answer["source"]["state"] == "connected", "a live source")
        pid = run_guest("--mode", "uffd", "--vcpus", 2, "--pages", PAGES)["pid"]

        def counted(answer: Any) -> list[Any]:
            return [vm for vm in answer["vms"] if vm["pid"] == pid and vm["faults"]["uffd"] == PAGES]

        product.until("api/v1/vms", counted, f"{PAGES} faults of process {pid}")


def test_where_mounting_is_refused_there_is_a_remedy() -> None:
    unable = ("setpriv", "--bounding-set=-sys_admin")
    done = run(*WITHOUT_TRACEFS, *unable, *PROBES, "collect")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "mount -t tracefs tracefs /sys/kernel/tracing" in line

"""Which kernel the VM tests boot, and which of its modules they load in what order; what they make of its words."""

from pathlib import Path

import pytest

from tests.vm.inside import RUNS, script
from tests.vm.kernels import KernelError, cache_directory, image_package, load_order
from tests.vm.machine import trouble_in
from tests.vm.results import objection

DEPENDS = """\
linux-image-6.12-amd64
  Depends: linux-image-6.12.117+deb12-amd64
  Conflicts: linux-image-amd64-signed-template
"""
MODULES_DEP = """\
kernel/arch/x86/kvm/kvm.ko.xz: kernel/virt/lib/irqbypass.ko.xz
kernel/x86/kvm/kvm-amd.ko.xz: kernel/drivers/ccp.ko.xz kernel/arch/x86/kvm/kvm.ko.xz kernel/virt/lib/irqbypass.ko.xz
kernel/virt/lib/irqbypass.ko.xz:
kernel/drivers/ccp.ko.xz:
kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko
kernel/net/9p/9pnet.ko:
"""


def test_image_package() -> None:
    assert image_package(DEPENDS) == "linux-image-6.12.117+deb12-amd64"


@pytest.mark.parametrize("depends", ["", "linux-image-amd64\n", "<linux-image-6.12-amd64>\n  Depends: linux-base\n"])
def test_no_image_package(depends: str) -> None:
    assert image_package(depends) is None


def test_each_module_comes_after_what_it_needs() -> None:
    order = load_order(MODULES_DEP, "kernel/drivers/virtio/virtio_pci.ko\n", ["virtio_pci", "9p", "kvm_amd"])
    names = [Path(path).name.partition(".")[0] for path in order]
    assert names == ["9pnet", "9p", "irqbypass", "kvm", "ccp", "kvm-amd"]


def test_a_missing_module() -> None:
    with pytest.raises(KernelError, match="overlay"):
        load_order(MODULES_DEP, "", ["9p", "overlay"])


def test_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/exitscope/vm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache/exitscope/vm"


def test_every_run_leaves_its_status() -> None:
    runs = [run for runs in RUNS.values() for run in runs]
    assert len({run.name for run in runs}) == len(runs)
    text = script()
    assert all(text.count(f"/out/{run.name}.status") == 1 for run in runs)


@pytest.mark.parametrize(
    "line",
    [
        "[   10.5] Kernel panic - not syncing: Attempted to kill init!",
        "[   10.5] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[   10.5] Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "[   10.5] general protection fault, probably for non-canonical address",
        "[   10.5] BUG: unable to handle page fault for address: ffffffffffffffe8",
    ],
)
def test_trouble_is_seen(line: str) -> None:
    assert trouble_in(f"[    1.0] all is well\n{line}\n") is not None


def test_no_trouble() -> None:
    assert trouble_in("[    0.0] Kernel command line: oops=panic panic=-1\n[    1.0] WARNING: hm\n") is None


SKIP = "SKIPPED [3] tests/conftest.py:30: absent capability: "


@pytest.mark.parametrize(
    "log",
    [
        "...\n3 passed in 1.00s",
        "3 passed, 5 deselected, 1 rerun in 1.00s",
        f"{SKIP}UFFDIO_MOVE (no)\n3 passed, 3 skipped in 61s (0:01:01)",
    ],
)
def test_a_run_that_passed(log: str) -> None:
    assert objection(log) is None


@pytest.mark.parametrize(
    "log",
    [
        "",
        "no tests ran in 0.10s",
        "1 failed, 3 passed in 1.00s",
        "3 passed, 1 error in 1.00s",
        "3 skipped in 0.10s",
        f"{SKIP}KVM (no)\n3 passed, 3 skipped in 1.00s",
        "3 passed in 1.00s\nKilled",
    ],
)
def test_a_run_that_did_not(log: str) -> None:
    assert objection(log) is not None

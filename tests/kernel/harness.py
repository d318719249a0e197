"""Real guests under real probes: what the kernel counted and recorded of one guest, beside the guest's own report."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from exitscope_probes import loader
from exitscope_probes.guest.build import binary_path
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.loader import Probes
from exitscope_probes.maps import TIDS_PER_PAGE
from exitscope_probes.only import Only, only
from exitscope_probes.records import (
    FAULT_DTYPE,
    FILLS,
    LOSSES,
    SERIES,
    VCPU_OTHER,
)
from exitscope_probes.ring import RingReader
from exitscope_probes.totals import TotalsReader

TIMEOUT_S = 60 * int(os.environ.get("EXITSCOPE_TEST_PATIENCE", "1"))  # where the clock runs too fast
DEFAULTS: dict[str, Any] = {}  # settings of every Watch that says nothing else
NO_LOSS = dict.fromkeys(LOSSES, 0)
STAGES = ("raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns")
Report = dict[str, Any]
Guest = subprocess.Popen[str]


def whole_ns(records: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Latency of each fault, the sum of its stages: shape (n,)."""
    whole: npt.NDArray[np.uint64] = sum((records[stage] for stage in STAGES), np.zeros(len(records), np.uint64))
    return whole


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll for something that must come; a busy machine may take its time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def of_ours() -> Only:
    """The VMs of this test session alone: the host may have others, and other sessions run."""
    return only(pid_tree=os.getpid())


@contextmanager
def guest(*options: object) -> Iterator[Guest]:
    """A running guest; killed at the end if it still runs."""
    command = [str(binary_path()), *map(str, options)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def answer(process: Guest) -> Report:
    """The next line that a guest prints: with --wait-start, that it is ready."""
    assert process.stdout is not None
    line: Report = json.loads(process.stdout.readline())
    return line


def go(process: Guest) -> None:
    """Let a guest start that waits for it."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def finish(process: Guest, number: signal.Signals | None = None) -> Report:
    """The guest's last report, after asking it to end if `number` is given; it must succeed."""
    if number is not None:
        process.send_signal(number)
    output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, ""), f"the guest ended with {process.returncode}: {errors}"
    report: Report = json.loads(output.splitlines()[-1])
    return report


def run_guest(*options: object) -> Report:
    """The report of a guest that must succeed, its pages' content checked by itself."""
    with guest("--verify", *options) as process:
        report = finish(process)
    assert report["verify"]["wrong"] == 0
    return report


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of one VM.

    vcpus: (V,) VCPU_DTYPE by vcpu; others: rows of threads that are no vCPUs; vm: one VM_DTYPE; histograms:
    (V, SERIES, BUCKETS) counts; records: (n,) FAULT_DTYPE in the order in which they came.
    """

    vcpus: npt.NDArray[Any]
    others: npt.NDArray[Any]
    vm: Any
    histograms: npt.NDArray[np.uint64]
    records: npt.NDArray[Any]

    def faults(self, mode: int) -> list[int]:
        """Finished faults of each vCPU in a mode, by the in-kernel totals."""
        counts: list[int] = self.vcpus["series"]["count"][:, mode].tolist()
        return counts

    def recorded(self, mode: int) -> list[int]:
        """The same by the records."""
        own = self.records[self.records["mode"] == mode]
        counts: list[int] = np.bincount(own["vcpu"], minlength=len(self.vcpus)).tolist()
        return counts

    def fills(self, which: str) -> dict[str, int]:
        """Fills that are not 0, by resolver; which: `demand` or `background`."""
        counts = self.vm[f"fills_{which}"].tolist()
        return {name: count for name, count in zip(FILLS, counts, strict=True) if count}


class Watch:
    """Loaded probes and their readers, for the VMs of this session alone."""

    def __init__(self, **settings: Any) -> None:
        self._cleanup = ExitStack()
        self.probes = self._cleanup.enter_context(loader.load(**{"only": of_ours()} | DEFAULTS | settings))
        self.totals = TotalsReader(self.probes)
        self.ring = RingReader(self.probes.ring_fd, self.probes.ring_bytes, FAULT_DTYPE)
        self._records: list[npt.NDArray[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def loss(self) -> dict[str, int]:
        """The kernel's loss ledger since the probes came."""
        return self.totals.loss()

    @contextmanager
    def losing(self, **expected: int) -> Iterator[None]:
        """What happens meanwhile must lose exactly this, by default nothing."""
        self.drain()
        before = self.loss()
        yield
        after = self.loss()
        lost = {name: after[name] - before[name] for name in LOSSES}
        assert lost == NO_LOSS | expected, f"lost {lost}, expected only {expected}"

    def drain(self) -> None:
        """Read what is in the ring."""
        while len(batch := self.ring.read(1 << 16)):
            self._records.append(batch)

    def records_of(self, number: int) -> npt.NDArray[Any]:
        """FAULT_DTYPE of a VM, of those that were drained: (n,)."""
        records = np.concatenate([np.empty(0, FAULT_DTYPE), *self._records])
        own: npt.NDArray[Any] = records[records["vm"] == number]
        return own

    def numbers(self, pid: int) -> list[int]:
        """Numbers of the VMs of a process."""
        vms = self.totals.poll().vms
        found: list[int] = vms["vm"][vms["tgid"] == pid].tolist()
        return found

    def observe(self, pid: int) -> Observed:
        """What is known of the only VM of a process, now."""
        self.drain()
        totals = self.totals.poll()
        (vm,) = totals.vms[totals.vms["tgid"] == pid]
        own = totals.vcpus["vm"] == vm["vm"]
        is_vcpu = totals.vcpus["vcpu"] != VCPU_OTHER
        order = np.argsort(totals.vcpus["vcpu"][own & is_vcpu])
        slots = totals.slots[own & is_vcpu][order]
        cells = self.totals.all_cells(slots)
        histograms = np.zeros((self.probes.max_vcpus, SERIES, BUCKETS), np.uint64)
        histograms.reshape(-1)[cells["cell"]] = cells["count"]
        records = np.concatenate([np.empty(0, FAULT_DTYPE), *self._records])
        self._records = [records]
        return Observed(
            totals.vcpus[own & is_vcpu][order],
            totals.vcpus[own & ~is_vcpu],
            vm,
            histograms[slots],
            records[records["vm"] == vm["vm"]],
        )

    def run(self, *options: object) -> tuple[Report, Observed]:
        """A whole guest, nothing of it left afterwards."""
        report = run_guest(*options)
        try:
            return report, self.observe(report["pid"])
        finally:
            self.retire(report["pid"])

    def retire(self, *pids: int) -> None:
        """Give back what VMs of ended processes hold, of these and of any other, and drop all records."""
        totals = self.totals.poll()
        ended = [*pids, *(tgid for tgid in totals.vms["tgid"].tolist() if not Path(f"/proc/{tgid}").exists())]
        numbers = totals.vms["vm"][np.isin(totals.vms["tgid"], ended)]
        for slot in (vcpu_slots := totals.slots[np.isin(totals.vcpus["vm"], numbers)].tolist()):
            self.totals.clear_vcpu(slot)
        self.probes.free_vcpu_slots(vcpu_slots)
        for slot in (vm_slots := totals.vm_slots[np.isin(totals.vms["vm"], numbers)].tolist()):
            self.totals.clear_vm(slot)
        self.probes.free_vm_slots(vm_slots)
        self.drain()
        self._records = []

    def left_of(self, pid: int) -> "Traces":
        """What the maps hold of a process's VM while it is there; `remaining` says what is left afterwards."""
        return Traces(self.probes, [pid])


class Traces:
    """Keys under which the maps know some processes' VMs. To be made while the processes live."""

    def __init__(self, probes: Probes, pids: list[int]) -> None:
        self._maps = probes.maps
        vms = {slot: row for slot, row in self._rows("vm_totals") if row["vm"] and row["tgid"] in pids}
        self.vm_slots = set(vms)
        self.memories = {int(row["mm"]) for row in vms.values()}
        numbers = {int(row["vm"]) for row in vms.values()}
        self.vcpu_slots = {slot for slot, row in self._rows("vcpu_totals") if int(row["vm"]) in numbers}
        self.tids = {int(path.name) for pid in pids for path in Path(f"/proc/{pid}/task").glob("*")}
        assert self.vm_slots and self.vcpu_slots

    def _rows(self, name: str) -> Iterator[tuple[int, Any]]:
        table = self._maps[name]
        return ((slot, table.get(table.index(slot))) for slot in range(table.entries))

    def _values(self, name: str) -> list[int]:
        table = self._maps[name]
        return [int(value) for key in table.walk() if (value := table.get(key)) is not None]

    def remaining(self) -> dict[str, int]:
        """Entries of theirs by map, where there are any. Slots are handed out oldest first: not soon again."""
        left = {
            "vm_slots": sum(slot in self.vm_slots for slot in self._values("vm_slots")),
            "vm_slots_by_mm": sum(int(key) in self.memories for key in self._maps["vm_slots_by_mm"].walk()),
            "vm_totals": sum(row["vm"] != 0 for slot, row in self._rows("vm_totals") if slot in self.vm_slots),
            "vcpu_slots": sum(slot in self.vcpu_slots for slot in self._values("vcpu_slots")),
            "vcpu_totals": sum(row["vm"] != 0 for slot, row in self._rows("vcpu_totals") if slot in self.vcpu_slots),
            "pendings": sum(int(key["mm"]) in self.memories for key in self._maps["pendings"].walk()),
            "async_waits": sum(int(key["slot"]) in self.vcpu_slots for key in self._maps["async_waits"].walk()),
            "threads": sum(self._thread(tid) != 0 for tid in self.tids),
        }
        return {name: count for name, count in left.items() if count}

    def _thread(self, tid: int) -> int:
        tids = self._maps["tids"]
        row = tids.get(tids.index(tid // TIDS_PER_PAGE))
        assert row is not None
        return int(row[tid % TIDS_PER_PAGE])

"""A real postcopy migration: two QEMUs on this host, the guest of toucher.S between them, QEMU's own account of it."""

import re
import subprocess
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from exitscope_probes.procfs import USERFAULTFD, Proc
from tests.kernel.harness import wait_until
from tests.kernel.qmp import Qmp

QEMU: Final = "qemu-system-x86_64"
PAGE_BYTES: Final = 4096
_SOURCE: Final = Path(__file__).parent / "toucher.S"
_FIRST: Final = 2 << 20  # where the pages begin that the guest writes: they go up to the end of its memory
_COUNT, _TOUCHES = 0x6000, 0x6040  # as in toucher.S
# QEMU's trace events (migration/trace-events of 7.2), and what each says of one page
_TRACES: Final = {
    "postcopy_ram_fault_thread_request": re.compile(r"HVA=0x([0-9a-f]+) .*pid=(\d+)"),
    "postcopy_place_page": re.compile(r"host=0x([0-9a-f]+)"),
    "postcopy_place_page_zero": re.compile(r"host=0x([0-9a-f]+)"),
}
_ENDED: Final = ("completed", "failed", "cancelled", "postcopy-paused")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is migrated, and how.

    shared: the memory is a shared memfd, else anonymous. preempt: demanded pages take a channel and a thread of their
    own. bytes_per_s: of the postcopy phase, 0 for no limit; first_bytes_per_s: instead of no limit, until the guest has
    missed pages. blocktime: QEMU keeps its own account of each vCPU. interrupts: the guest takes them, so that KVM may
    make its faults asynchronous.
    """

    vcpus: int = 1
    shared: bool = False
    preempt: bool = False
    bytes_per_s: int = 0
    first_bytes_per_s: int = 8 << 20  # without a limit all pages of a small guest may be there before it runs
    blocktime: bool = True
    interrupts: bool = False
    memory_mib: int = 32


@dataclass(frozen=True, slots=True)
class Account:
    """What QEMU says of a migration that is over.

    status: of the source. events: hvas of the uffd events that the destination has read, with how often; tids: threads
    that these named, likewise (UFFD_FEATURE_THREAD_ID: QEMU always asks for it). copied, zeroed: hvas of the pages that
    the destination placed. requests: pages that the source was asked for. blocktime_ms: per vCPU, empty if not kept.
    """

    status: str
    events: Counter[int]
    tids: Counter[int]
    copied: Counter[int]
    zeroed: Counter[int]
    requests: int
    blocktime_ms: list[int]


class Machine:
    """One QEMU. name: of its VM and of its files in `directory`."""

    def __init__(self, name: str, plan: Plan, directory: Path, *options: str) -> None:
        self.trace = directory / f"{name}.trace"
        self._log = directory / f"{name}.log"
        monitor = directory / f"{name}.qmp"
        memory = "memfd,share=on" if plan.shared else "ram"
        command = [
            *(QEMU, "-name", f"guest={name},debug-threads=on", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-accel", "kvm", "-cpu", "kvm64,-pni", "-smp", str(plan.vcpus), "-m", f"{plan.memory_mib}M"),
            *("-object", f"memory-backend-{memory},id=memory,size={plan.memory_mib}M"),
            *("-machine", "pc,memory-backend=memory", "-bios", str(_build(plan, directory))),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
            *("-qmp", f"unix:{monitor}.free,server=on,wait=off"),  # a monitor serves one client: this is for watchers
            *options,
        ]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.qmp = Qmp(monitor)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    def threads(self) -> dict[int, str]:
        """Names of its threads by thread id."""
        names = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(OSError):
                names[int(task.name)] = (task / "comm").read_text().rstrip("\n")
        return names

    def touches(self, vcpus: int) -> list[int]:
        """Pages that each vCPU has written so far."""
        return self.qmp.words(_TOUCHES, vcpus)[:vcpus]

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")


class Migration:
    """Two QEMUs, the guest running in the first; use as a context manager, nothing is left of it afterwards.

    uuid: of the VM, on both sides.
    """

    def __init__(self, plan: Plan, directory: Path, name: str = "moved") -> None:
        self.plan = plan
        self.uuid = str(uuid.uuid4())
        self._cleanup = ExitStack()
        try:
            self.source = self._machine(f"{name}-source", directory)
            trace = directory / f"{name}.trace"
            traced = [option for event in _TRACES for option in ("-trace", f"enable={event}")]
            self.destination = self._machine(name, directory, "-incoming", "defer", "-D", str(trace), *traced)
            self._prepare(directory / f"{name}.migration")
        except BaseException:
            self._cleanup.close()
            raise
        self._trace = trace

    def _machine(self, name: str, directory: Path, *options: str) -> Machine:
        machine = Machine(name, self.plan, directory, "-uuid", self.uuid, *options)
        self._cleanup.callback(machine.kill)
        self._cleanup.callback(machine.qmp.close)
        return machine

    def _prepare(self, path: Path) -> None:
        source, destination = self.source.qmp, self.destination.qmp
        self._uri = f"unix:{path}"
        source.enable(postcopy_ram=True, postcopy_preempt=self.plan.preempt, events=True)
        destination.enable(
            postcopy_ram=True, postcopy_preempt=self.plan.preempt, postcopy_blocktime=self.plan.blocktime
        )
        # Nearly nothing goes ahead of the postcopy phase.
        at_first = self.plan.bytes_per_s or self.plan.first_bytes_per_s
        limits = {"max-bandwidth": PAGE_BYTES, "max-postcopy-bandwidth": at_first}
        source.command("migrate-set-parameters", **limits)
        destination.command("migrate-incoming", uri=self._uri)
        pages = (self.plan.memory_mib << 20) // PAGE_BYTES
        wait_until(lambda: min(self.source.touches(self.plan.vcpus)) > 4 * pages, "a guest that writes all its pages")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def start(self, precopy_s: float = 0) -> None:
        """Begins the postcopy phase, and waits until the guest runs in the destination and has missed some pages.

        precopy_s: how long to migrate before that.
        """
        self.source.qmp.command("migrate", uri=self._uri)
        wait_until(lambda: self.status() not in ("none", "setup"), "a migration that has begun")
        time.sleep(precopy_s)
        self.source.qmp.command("migrate-start-postcopy")
        wait_until(self._misses, "the postcopy phase, and requests for pages")
        if not self.plan.bytes_per_s:
            self.unthrottle()

    def unthrottle(self) -> None:
        """From now on it goes as fast as it can."""
        self.source.qmp.command("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})

    def _misses(self) -> bool:
        state = self.source.qmp.command("query-migrate")
        return state["status"] in _ENDED or state["ram"]["postcopy-requests"] >= 16 * self.plan.vcpus

    def queues(self) -> tuple[int, int]:
        """(pending, total) waiters of the destination's userfaultfd, (0, 0) if it has none."""
        proc, pid = Proc(), self.destination.pid
        for fd, link in (proc.fd_links(pid) or {}).items():
            if link == USERFAULTFD and (queue := proc.uffd_queue(pid, fd)):
                return queue
        return 0, 0

    def status(self) -> str:
        """Of the source."""
        return str(self.source.qmp.command("query-migrate").get("status", "none"))

    def finish(self) -> Account:
        """Waits for the last page, and for the guest to write some more in its new place; then halts it there."""
        wait_until(lambda: self.status() in _ENDED, "the end of the migration")
        qmp = self.destination.qmp
        wait_until(lambda: qmp.command("query-migrate").get("status") == "completed", "its end in the destination")
        before = self.destination.touches(self.plan.vcpus)
        wait_until(lambda: min(self._written(before)) > 0, "a guest that goes on")
        qmp.command("stop")
        return self.account()

    def _written(self, before: list[int]) -> list[int]:
        now = self.destination.touches(self.plan.vcpus)
        return [touches - old for touches, old in zip(now, before, strict=True)]

    def postcopy_s(self) -> float:
        """How long the postcopy phase of a migration that is over took, by the source's own clock."""
        self.status()  # the event of its end may have come after the answer that said so
        events = [event for event in self.source.qmp.events if event["event"] == "MIGRATION"]
        times = {event["data"]["status"]: event["timestamp"] for event in events}
        at_s = {status: at["seconds"] + at["microseconds"] / 1e6 for status, at in times.items()}
        return float(at_s["completed"] - at_s["postcopy-active"])

    def account(self) -> Account:
        """What both QEMUs say, now."""
        counts: dict[str, Counter[int]] = {event: Counter() for event in _TRACES}
        tids: Counter[int] = Counter()
        for line in self._trace.read_text().splitlines():
            event = line.partition(" ")[0].rpartition(":")[2]
            if event in _TRACES and (found := _TRACES[event].search(line)):
                counts[event][int(found[1], 16) & -PAGE_BYTES] += 1
                if found.re.groups == 2:
                    tids[int(found[2])] += 1
        moved = self.source.qmp.command("query-migrate")
        arrived = self.destination.qmp.command("query-migrate")
        return Account(
            status=moved["status"],
            events=counts["postcopy_ram_fault_thread_request"],
            tids=tids,
            copied=counts["postcopy_place_page"],
            zeroed=counts["postcopy_place_page_zero"],
            requests=moved["ram"]["postcopy-requests"],
            blocktime_ms=arrived.get("postcopy-vcpu-blocktime", []),
        )


def _build(plan: Plan, directory: Path) -> Path:
    """The guest as a firmware image of 64 KiB, made once."""
    image = directory / f"toucher-{plan.vcpus}-{plan.memory_mib}-{plan.interrupts:d}.bin"
    if image.exists():
        return image
    symbols = {"VCPUS": plan.vcpus, "FIRST": _FIRST, "END": plan.memory_mib << 20, "ASYNC": int(plan.interrupts)}
    defines = [option for name, value in symbols.items() for option in ("--defsym", f"{name}={value}")]
    made = image.with_suffix(".o")
    subprocess.run(["as", "--32", *defines, "-o", str(made), str(_SOURCE)], check=True)
    link = ["ld", "-m", "elf_i386", "-Ttext", "0xf0000", "-e", "0", "--oformat", "binary"]
    subprocess.run([*link, "-o", str(image), str(made)], check=True)
    return image

"""Compiles the probes, loads and attaches them: the only file that imports bcc."""

import ctypes
import mmap
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .btf import KernelBtf
from .errors import ProbeError
from .headers import stub_tree
from .plan import Attachment, Candidate, Choice, HookStatus, Strategy, choose, status_of
from .symbols import kernel_symbols
from .tracing import attach_tracepoint

_BPF = Path(__file__).parent / "bpf"
_SOURCES = (
    *("events.h", "kernel.h", "maps.h", "account.h", "identity.h", "fault.h", "resolve.h"),
    *("vcpu_run.bpf.c", "guest_fault.bpf.c", "uffd_wait.bpf.c", "syscalls.bpf.c", "async_fault.bpf.c"),
    "thread_exit.bpf.c",
)
# -D name: where BTF says it is
_OFFSETS = {
    "OFF_TASK_PID": "task_struct.pid",
    "OFF_TASK_MM": "task_struct.mm",
    "OFF_TASK_FILES": "task_struct.files",
    "OFF_FILES_FDT": "files_struct.fdt",
    "OFF_FDT_FD": "fdtable.fd",
    "OFF_FILE_OP": "file.f_op",
    "OFF_FILE_PRIVATE": "file.private_data",
    "OFF_FOPS_IOCTL": "file_operations.unlocked_ioctl",
    "OFF_UFFD_MM": "userfaultfd_ctx.mm",
    "OFF_VCPU_KVM": "kvm_vcpu.kvm",
    "OFF_VCPU_ID": "kvm_vcpu.vcpu_id",
    "OFF_VCPU_RUN": "kvm_vcpu.run",
    "OFF_VCPU_APF_HALTED": "kvm_vcpu.arch.apf.halted",
    "OFF_VCPU_LAST_USED_SLOT": "kvm_vcpu.last_used_slot",
    "OFF_KVM_MM": "kvm.mm",
    "OFF_FAULT_GFN": "kvm_page_fault.gfn",
    "OFF_FAULT_SLOT": "kvm_page_fault.slot",
    "OFF_FAULT_PREFETCH": "kvm_page_fault.prefetch",
    "OFF_SLOT_BASE_GFN": "kvm_memory_slot.base_gfn",
    "OFF_SLOT_NPAGES": "kvm_memory_slot.npages",
    "OFF_SLOT_USERSPACE_ADDR": "kvm_memory_slot.userspace_addr",
}
_TIDS_PER_PAGE = 512
_STALE_NS = 10_000_000_000


class LoadError(ProbeError):
    """The probes cannot be compiled, loaded or attached here."""


@contextmanager
def _captured_stderr() -> Iterator[Any]:
    """bcc's compiler writes to descriptor 2; what it says belongs into our error."""
    with tempfile.TemporaryFile() as capture:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(capture.fileno(), 2)
        try:
            yield capture
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _source_text() -> str:
    return "".join(f'#line 1 "{name}"\n{(_BPF / name).read_text()}' for name in _SOURCES)


def _defines(btf: KernelBtf, ring_bytes: int, max_vcpus: int, max_vms: int) -> list[str]:
    page_fault = btf.raw_arguments("kvm_page_fault") or ()
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    values: dict[str, int] = {macro: btf.offset(path) or 0 for macro, path in _OFFSETS.items()}
    values |= {
        "USERFAULTFD_IOCTL": kernel_symbols(("userfaultfd_ioctl",)).get("userfaultfd_ioctl", 0),
        "PAGE_FAULT_ADDRESS_ARGUMENT": int(page_fault[:1] == ("kvm_vcpu*",)),
        "RING_PAGES": ring_bytes // mmap.PAGESIZE,
        "MAX_VCPUS": max_vcpus,
        "MAX_VMS": max_vms,
        "MAX_THREADS": 8 * max_vcpus,
        "MAX_PENDING": 65536,
        "TID_PAGES": -(-pid_max // _TIDS_PER_PAGE),
    }
    return [f"-D{name}={value:#x}ULL" if value >> 32 else f"-D{name}={value}" for name, value in values.items()]


class Probes:
    """Attached probes and the maps that they fill. close() detaches everything.

    The maps behind vcpus_fd, histograms_fd, vms_fd and loss_fd can be mmapped; events.h gives their entries.
    """

    def __init__(self, bpf: Any, ring_bytes: int, max_vcpus: int, max_vms: int) -> None:
        self._bpf = bpf
        self.hooks: tuple[HookStatus, ...] = ()
        self.descriptors: list[int] = []
        self.ring_bytes, self.max_vcpus, self.max_vms = ring_bytes, max_vcpus, max_vms
        self.ring_fd: int = bpf["records"].map_fd
        self.vcpus_fd: int = bpf["vcpu_totals"].map_fd
        self.histograms_fd: int = bpf["vcpu_histograms"].map_fd
        self.vms_fd: int = bpf["vm_totals"].map_fd
        self.loss_fd: int = bpf["losses"].map_fd
        self._next_vm = 1
        for slot in range(max_vcpus):
            self._give("free_vcpus", slot)
        for slot in range(len(bpf["threads"])):
            self._give("free_threads", slot)
        for slot in range(max_vms):
            self._give_vm(slot)

    def _give(self, queue: str, slot: int, vm: int = 0) -> None:
        table = self._bpf[queue]
        leaf = table.Leaf()
        leaf.slot, leaf.vm = slot, vm
        table.push(leaf)

    def _give_vm(self, slot: int) -> None:
        self._give("free_vms", slot, self._next_vm)
        self._next_vm += 1

    def _forget(self, table_name: str, unwanted: Any) -> list[Any]:
        """Deletes the entries for which unwanted(key, value) holds; returns their keys."""
        table = self._bpf[table_name]
        keys = [key for key, value in table.items() if unwanted(key, value)]
        for key in keys:
            with suppress(KeyError):  # the kernel was quicker
                del table[key]
        return keys

    def free_vcpu_slot(self, slot: int) -> None:
        """Gives a vCPU slot back, after its row and histograms have been zeroed."""
        self._forget("vcpu_slots", lambda _, value: value.value == slot)
        self._forget("async_waits", lambda key, _: key.slot == slot)
        self._give("free_vcpus", slot)

    def free_vm_slot(self, slot: int) -> None:
        """Gives a VM slot back, after its row has been zeroed; forgets what was pending on its memory."""
        self._forget("vm_slots", lambda _, value: value.value == slot)
        memories = {key.value for key in self._forget("vm_slots_by_mm", lambda _, value: value.value == slot)}
        self._forget_pendings(lambda key, _: key.mm in memories)
        self._give_vm(slot)

    def seed_thread(self, tid: int, vcpu_fd: int) -> None:
        """Tells the probes of a thread that was inside KVM_RUN on descriptor vcpu_fd before they came."""
        tids, threads = self._bpf["tids"], self._bpf["threads"]
        page_key = ctypes.c_uint32(tid // _TIDS_PER_PAGE)
        page = tids[page_key]
        if page.thread[tid % _TIDS_PER_PAGE]:
            return
        slot = self._bpf["free_threads"].pop().slot
        thread = threads[ctypes.c_uint32(slot)]
        thread.tid, thread.self, thread.slot, thread.run_fd = tid, slot, 0xFFFFFFFF, vcpu_fd + 1
        threads[ctypes.c_uint32(slot)] = thread
        page.thread[tid % _TIDS_PER_PAGE] = slot + 1
        tids[page_key] = page

    def forget_stale(self, now_ns: int) -> int:
        """Forgets filled events that no waiter has claimed for 10 s (it was killed, or kicked out); their number."""
        return self._forget_pendings(
            lambda _, entry: (
                (entry.fill_end_ns or entry.claims >= entry.reads)
                and now_ns - max(entry.fill_end_ns, entry.read_ns) > _STALE_NS
            )
        )

    def _forget_pendings(self, unwanted: Any) -> int:
        count = len(self._forget("pendings", unwanted))
        if count:
            forgotten = self._bpf["pendings_forgotten"]
            forgotten[ctypes.c_int(0)] = ctypes.c_uint64(forgotten[0].value + count)
        return count

    def occupancy(self) -> dict[str, int]:
        """Entries of each map that grows with VMs and faults, and of the slots that are given out."""
        maps = ("vcpu_slots", "vm_slots", "vm_slots_by_mm", "pendings", "async_waits")
        return {name: len(self._bpf[name]) for name in maps}

    def close(self) -> None:
        """Detaches every program and frees the maps."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []
        self._bpf.cleanup()

    def __enter__(self) -> "Probes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _compile(text: str, cflags: list[str]) -> Any:
    try:
        from bcc import BPF
    except ImportError:
        raise LoadError(
            "bcc is not installed", "apt-get install python3-bpfcc (PyPI's `bcc` is another program)"
        ) from None
    with stub_tree() as tree, _captured_stderr() as said:
        before = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        try:
            return BPF(text=text, cflags=["-w", "-Werror=implicit-function-declaration", *cflags])
        except (Exception, SystemExit):  # bcc raises bare Exception and exits in places
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
            raise LoadError(f"the probes do not compile or load: {first}", "are you root?") from None
        finally:
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before


class _Attacher:
    """Loads programs and attaches candidates; a program that several hooks share is attached once."""

    def __init__(self, bpf: Any, btf: KernelBtf) -> None:
        self._bpf, self._btf = bpf, btf
        self._attached: set[str] = set()
        self.descriptors: list[int] = []

    def _attach_one(self, attachment: Attachment) -> None:
        name = attachment.program.encode()
        if ":" in attachment.target:
            self._bpf.load_func(name, self._bpf.TRACEPOINT)
            self._bpf.attach_tracepoint(tp=attachment.target.encode(), fn_name=name)
        else:
            code = self._bpf.dump_func(name)
            self.descriptors += attach_tracepoint(self._btf, attachment.target, attachment.program, code)

    def attach(self, candidate: Candidate) -> str | None:
        """Attaches all of a candidate; the kernel's reason if it refuses."""
        for attachment in candidate.attachments:
            if attachment.program in self._attached:
                continue
            with _captured_stderr() as said:
                try:
                    self._attach_one(attachment)
                except (Exception, SystemExit) as error:  # bcc raises bare Exception and exits in places
                    said.seek(0)
                    verifier = said.read().decode(errors="replace").strip().splitlines()
                    return f"{attachment.program}: {error} {verifier[-2] if len(verifier) > 1 else ''}".strip()
            self._attached.add(attachment.program)
        return None

    def settle(self, choice: Choice) -> HookStatus:
        """The best candidate that the kernel accepts."""
        refused: list[tuple[str, str]] = []
        for candidate in choice.possible:
            reason = self.attach(candidate)
            if reason is None:
                return status_of(choice, candidate, tuple(refused))
            refused.append((candidate.name, reason))
        return status_of(choice, None, tuple(refused))


def load(
    *,
    strategy: Strategy | None = None,
    ring_bytes: int = 16 << 20,
    max_vcpus: int = 512,
    max_vms: int = 256,
) -> Probes:
    """Compiles and attaches the probes. ring_bytes: a power of two of pages.

    Raises LoadError (compile, verifier, permission) or BtfError; a hook that this kernel does not allow is no
    error, its status says so, unless no vCPU could be recognised at all.
    """
    with suppress(ValueError, OSError):  # kernels before 5.11 charge maps to RLIMIT_MEMLOCK
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    btf = KernelBtf()
    choices = choose(btf, strategy)
    bpf = _compile(_source_text(), _defines(btf, ring_bytes, max_vcpus, max_vms))
    attacher = _Attacher(bpf, btf)
    try:
        # Maps must be ready before the first program runs: slots are given out by Probes.__init__.
        probes = Probes(bpf, ring_bytes, max_vcpus, max_vms)
        probes.hooks = tuple(attacher.settle(choice) for choice in choices)
        probes.descriptors = attacher.descriptors
    except BaseException:
        bpf.cleanup()
        raise
    lost = [status for status in probes.hooks if status.hook == "vcpu_run" and status.status != "attached"]
    if lost:
        probes.close()
        reasons = "; ".join(reason for _, reason in lost[0].passed_over)
        raise LoadError(f"KVM_RUN cannot be traced: {reasons}", "load KVM first (modprobe kvm_intel or kvm_amd)")
    return probes

"""Compiles the probes for this kernel: the only file that imports bcc."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import cache
from .btf import KernelBtf
from .errors import ProbeError
from .headers import stub_tree
from .symbols import kernel_symbols

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


class LoadError(ProbeError):
    """The probes cannot be compiled, loaded or attached here."""


@contextmanager
def _captured_stderr() -> Iterator[Any]:
    """Yields a file with what is written to descriptor 2 meanwhile: bcc says there what belongs into our error."""
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
    """All of bpf/ as one translation unit, which bcc takes as one text."""
    return "".join(f'#line 1 "{name}"\n{(_BPF / name).read_text()}' for name in _SOURCES)


def defines(btf: KernelBtf) -> dict[str, int]:
    """What the sources are told of the running kernel; 0 for what it does not have (and no hook then uses)."""
    page_fault = btf.raw_arguments("kvm_page_fault") or ()
    return {
        **{macro: btf.offset(path) or 0 for macro, path in _OFFSETS.items()},
        "USERFAULTFD_IOCTL": kernel_symbols(("userfaultfd_ioctl",)).get("userfaultfd_ioctl", 0),
        "PAGE_FAULT_ADDRESS_ARGUMENT": int(page_fault[:1] == ("kvm_vcpu*",)),
    }


def compile_probes(numbers: dict[str, int], programs: Iterable[str]) -> dict[str, bytes]:
    """Instructions of each program, from the cache if this source was compiled for this kernel before.

    numbers: what is passed with -D. Raises LoadError with the compiler's first complaint.
    """
    text = _source_text()
    names = sorted(programs)
    key = hashlib.sha256(repr((text, sorted(numbers.items()), names)).encode()).hexdigest()
    cached = cache.read(key)
    if cached is not None and sorted(cached) == names:
        return cached
    compiled = _compile(text, numbers, names)
    cache.write(key, compiled)
    return compiled


def _compile(text: str, numbers: dict[str, int], programs: list[str]) -> dict[str, bytes]:
    try:
        from bcc import BPF
    except ImportError:
        hint = "apt-get install python3-bpfcc (PyPI's `bcc` is another program)"
        raise LoadError("bcc is not installed", hint) from None
    flags = [f"-D{name}={value:#x}ULL" if value >> 32 else f"-D{name}={value}" for name, value in numbers.items()]
    with stub_tree() as tree, _captured_stderr() as said:
        before = os.environ.get("BCC_KERNEL_SOURCE")
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        try:
            bpf = BPF(text=text.encode(), cflags=["-w", "-Werror=implicit-function-declaration", *flags])
            return {name: bytes(bpf.dump_func(name.encode())) for name in programs}
        except (Exception, SystemExit):  # bcc raises bare Exception and exits in places
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            first = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
            raise LoadError(f"the probes do not compile: {first}", "are you root?") from None
        finally:
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before

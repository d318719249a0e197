"""Compiles the probes for this kernel: the only file that imports bcc."""

import hashlib
import os
import platform
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import cache, formats
from .access import page_fault_is_vmx, two_stage_paging
from .bccpackage import remedy
from .btf import KernelBtf
from .errors import ProbeError
from .headers import stub_tree
from .hook_table import functions
from .profiles import recognise
from .symbols import kernel_symbols

_BPF = Path(__file__).parent / "bpf"
_HEADERS = (
    *(
        "events.h",
        "access.h",
        "kernel.h",
        "maps.h",
        "account.h",
        "only.h",
        "shares.h",
        "identity.h",
        "pending.h",
        "fault.h",
        "resolve.h",
        "notify.h",
    ),
    *("roaming.h", "vcpu_run.h", "uffd_wait.h"),
)
# -D name: where BTF says it is
_OFFSETS = {
    "OFF_TASK_PID": "task_struct.pid",
    "OFF_TASK_MM": "task_struct.mm",
    "OFF_TASK_TGID": "task_struct.tgid",
    "OFF_TASK_PARENT": "task_struct.real_parent",
    "OFF_TASK_SIGNAL": "task_struct.signal",
    "OFF_SIGNAL_FLAGS": "signal_struct.flags",
    "OFF_TASK_CRED": "task_struct.cred",
    "OFF_CRED_USER_NS": "cred.user_ns",
    "OFF_USER_NS_LEVEL": "user_namespace.level",
    "OFF_USER_NS_PARENT": "user_namespace.parent",
    "OFF_USER_NS_OWNER": "user_namespace.owner",
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
    "OFF_VCPU_ESR": "kvm_vcpu.arch.fault.esr_el2",  # arm64, as the next three
    "OFF_VCPU_HPFAR": "kvm_vcpu.arch.fault.hpfar_el2",
    "OFF_KVM_MEMSLOTS": "kvm.memslots",
    "OFF_MEMSLOTS_LAST_USED": "kvm_memslots.last_used_slot",
    "OFF_MEMSLOTS_HVA_TREE": "kvm_memslots.hva_tree",
    "OFF_KVM_MM": "kvm.mm",
    "OFF_KVM_USERS_COUNT": "kvm.users_count",
    "OFF_FAULT_GFN": "kvm_page_fault.gfn",
    "OFF_FAULT_SLOT": "kvm_page_fault.slot",
    "OFF_FAULT_PREFETCH": "kvm_page_fault.prefetch",
    "OFF_SLOT_BASE_GFN": "kvm_memory_slot.base_gfn",
    "OFF_SLOT_NPAGES": "kvm_memory_slot.npages",
    "OFF_SLOT_USERSPACE_ADDR": "kvm_memory_slot.userspace_addr",
    "OFF_SLOT_ID": "kvm_memory_slot.id",
    "OFF_FAULT_FLAGS": "vm_fault.flags",
    "OFF_FAULT_ADDRESS": "vm_fault.address",
    "OFF_FAULT_VMA": "vm_fault.vma",
    "OFF_VMA_MM": "vm_area_struct.vm_mm",
    "OFF_VMA_UFFD": "vm_area_struct.vm_userfaultfd_ctx.ctx",
    "OFF_KIOCB_FILE": "kiocb.ki_filp",
    "OFF_UFFD_FEATURES": "userfaultfd_ctx.features",
    "OFF_UFFD_RELEASED": "userfaultfd_ctx.released",
}
# -D name: field of an ordinary tracepoint
_FIELDS = {
    "OFF_EXIT_REASON": "kvm:kvm_exit.exit_reason",
    "OFF_EXIT_ISA": "kvm:kvm_exit.isa",
    "OFF_EXIT_CODE": "kvm:kvm_exit.ret",
    "OFF_EXIT_CLASS": "kvm:kvm_exit.esr_ec",
}
# -D name: byte in struct pt_regs (arch/x86/include/asm/ptrace.h; arch/arm64/include/asm/ptrace.h)
_REGISTERS = {
    "x86_64": {
        "SYSCALL_ARGUMENT_1": 112,
        "ARGUMENT_1": 112,
        "ARGUMENT_2": 104,
        "ARGUMENT_3": 96,
        "RESULT": 80,
        "SYSCALL": 120,
    },
    "aarch64": {
        "SYSCALL_ARGUMENT_1": 272,
        "ARGUMENT_1": 0,
        "ARGUMENT_2": 8,
        "ARGUMENT_3": 16,
        "RESULT": 0,
        "SYSCALL": 280,
    },
}
_NO_EXIT_REASON = 0xFFFFFFFF  # where this kernel has no KVM_EXIT_MEMORY_FAULT
_NR_READ = {"x86_64": 0, "aarch64": 63}


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


def _source_text(programs: Collection[str]) -> str:
    """What of bpf/ the programs need as one translation unit, which bcc takes as one text."""
    text = {path.name: path.read_text() for path in sorted(_BPF.iterdir())}
    sources = [name for name in text if name.endswith(".c") and _defines_one(text[name], programs)]
    return "".join(f'#line 1 "{name}"\n{text[name]}' for name in (*_HEADERS, *sources))


def _defines_one(text: str, programs: Collection[str]) -> bool:
    return any(name in programs for name in re.findall(r"^int (\w+)\(", text, re.MULTILINE))


def defines(btf: KernelBtf) -> dict[str, int]:
    """What the sources are told of the running kernel; 0 for what it does not have (and no hook then uses)."""
    page_fault = btf.raw_arguments("kvm_page_fault") or ()
    return {
        **{macro: btf.offset(path) or 0 for macro, path in _OFFSETS.items()},
        "USERFAULTFD_IOCTL": kernel_symbols(functions()).get("userfaultfd_ioctl", 0),
        "HANDLE_USERFAULT": kernel_symbols(functions()).get("handle_userfault", 0),
        "PAGE_FAULT_ADDRESS_ARGUMENT": int(page_fault[:1] == ("kvm_vcpu*",)),
        "KVM_EXIT_MEMORY_FAULT": recognise(btf).exit_reason or _NO_EXIT_REASON,
        "RUN_MEMORY_FAULT": btf.offset("kvm_run.memory_fault") or 0,
        "IS_VMX": int(page_fault_is_vmx()),
        "TWO_STAGE_PAGING": int(two_stage_paging()),
        **{f"OFF_REGS_{name}": byte for name, byte in _REGISTERS[platform.machine()].items()},
        **{macro: formats.offset_of(path) or 0 for macro, path in _FIELDS.items()},
        "SWITCH_SAYS_STATE": int(len(btf.raw_arguments("sched_switch") or ()) > 3),
        "OFF_TASK_STATE": btf.offset("task_struct.__state") or btf.offset("task_struct.state") or 0,
        "HAS_ANCESTOR_CGROUP": int(btf.function_arguments("bpf_get_current_ancestor_cgroup_id") is not None),
        "NR_READ": _NR_READ[platform.machine()],
    }


def compile_probes(numbers: dict[str, int], programs: Iterable[str]) -> dict[str, bytes]:
    """Instructions of each program, from the cache if this source was compiled for this kernel before.

    numbers: what is passed with -D. Raises LoadError with the compiler's first complaint.
    """
    names = sorted(programs)
    text = _source_text(names)
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
        raise LoadError("this Python has no bcc", remedy()) from None
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

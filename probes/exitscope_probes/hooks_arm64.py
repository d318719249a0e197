"""The hook table of arm64: that of x86 but for how a guest's fault begins and ends. No arm64 machine has run it yet.

tests/unit/test_arm64.py holds it against the BTF of Debian's arm64 kernels.
"""

from dataclasses import replace
from typing import Final

from .hooks import HARDWARE, Attachment, Candidate, Hook
from .hooks import HOOKS as X86_HOOKS

_ABORT: Final = "kvm_handle_guest_abort"  # user_mem_abort, which it calls, is inlined
_BEGINS: Final = (
    "kvm_vcpu.arch.fault.esr_el2",
    "kvm_vcpu.arch.fault.hpfar_el2",
    "kvm_vcpu.kvm",
    "kvm_vcpu.vcpu_id",
    "kvm_vcpu.run",
    "kvm.mm",
    "task_struct.mm",
)
_ENDS: Final = (
    "kvm_vcpu.kvm",
    "kvm.memslots",
    "kvm_memslots.last_used_slot",
    "kvm_memory_slot.base_gfn",
    "kvm_memory_slot.npages",
    "kvm_memory_slot.userspace_addr",
    "kvm_memory_slot.id",
)
_TASK: Final = ("bpf_get_current_task_btf",)
_LONG: Final = "long unsigned int"

_FAULT_BEGINS: Final = (
    Candidate("fentry", (Attachment(_ABORT, "fentry_guest_abort", ("kvm_vcpu*",), "fentry"),), _BEGINS, helpers=_TASK),
    Candidate("kprobe", (Attachment(_ABORT, "kprobe_guest_abort", ("kvm_vcpu*",), "kprobe"),), _BEGINS, helpers=_TASK),
    Candidate(
        "tracepoint",
        (Attachment("kvm_guest_fault", "on_guest_fault", (_LONG, _LONG, _LONG, "long long unsigned int")),),
    ),
)
_FAULT_ENDS: Final = (
    Candidate("fentry", (Attachment(_ABORT, "fexit_guest_abort", ("kvm_vcpu*",), "fexit"),), _ENDS),
    Candidate("tracepoint", (Attachment("kvm_entry", "on_guest_entry", (_LONG,)),), _ENDS),
)
_HARDWARE: Final = (Candidate("tracepoint", HARDWARE, fields=("kvm:kvm_exit.ret", "kvm:kvm_exit.esr_ec")),)
_REPLACED: Final = {"guest_fault": _FAULT_BEGINS, "guest_map": _FAULT_ENDS, "hardware_exits": _HARDWARE}
_NOT_THERE: Final = ("async_fault",)  # arm64's KVM hands no fault to a kworker (no CONFIG_KVM_ASYNC_PF)

HOOKS: Final[tuple[Hook, ...]] = tuple(
    replace(hook, candidates=_REPLACED.get(hook.name, hook.candidates))
    for hook in X86_HOOKS
    if hook.name not in _NOT_THERE
)

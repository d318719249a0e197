"""The hook table: for each logical hook its attachments in order of preference, and what each needs of the kernel.

fentry and kprobe candidates go in front of the tracepoints here; nothing downstream knows which was taken.
"""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["fentry", "kprobe", "tracepoint"]
STRATEGIES: tuple[Strategy, ...] = ("fentry", "kprobe", "tracepoint")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program at one place.

    target: a raw tracepoint, whose leading argument types must be `arguments`, or `syscalls:<name>`, a tracepoint
    of one system call only: raw ones would run at every system call of the host.
    """

    target: str
    program: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a logical hook: all its attachments, or none.

    offsets and symbols are what they read, helpers the BPF helpers that not every kernel has.
    """

    strategy: Strategy
    attachments: tuple[Attachment, ...]
    offsets: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `tracepoint:kvm_userspace_exit+sys_enter`."""
        return f"{self.strategy}:{'+'.join(attachment.target for attachment in self.attachments)}"


@dataclass(frozen=True, slots=True)
class Hook:
    """A logical hook; effect: what cannot be shown without it."""

    name: str
    title: str
    effect: str
    candidates: tuple[Candidate, ...]
    essential: bool = True


_FD_TO_FILE = ("task_struct.files", "files_struct.fdt", "fdtable.fd", "file.private_data")
_VCPU = ("task_struct.mm", "kvm_vcpu.kvm", "kvm_vcpu.vcpu_id", "kvm_vcpu.run", "kvm.mm")
_UFFD = ("file.f_op", "file_operations.unlocked_ioctl", "userfaultfd_ctx.mm")
_SLOT = ("kvm_memory_slot.base_gfn", "kvm_memory_slot.npages", "kvm_memory_slot.userspace_addr")
_TASK = ("bpf_get_current_task_btf",)  # since 5.11
_REGISTERS = (*_TASK, "bpf_task_pt_regs")  # since 5.15

_ENTER_IOCTL = Attachment("syscalls:sys_enter_ioctl", "on_enter_ioctl")
_EXIT_IOCTL = Attachment("syscalls:sys_exit_ioctl", "on_exit_ioctl")

HOOKS: tuple[Hook, ...] = (
    Hook(
        "vcpu_run",
        "vCPU run",
        "no vCPU is recognised and no exit reason counted",
        (
            Candidate(
                "tracepoint",
                (_ENTER_IOCTL, Attachment("kvm_userspace_exit", "on_userspace_exit", ("__u32", "int"))),
                (*_FD_TO_FILE, *_VCPU),
                helpers=_TASK,
            ),
        ),
    ),
    Hook(
        "guest_fault",
        "guest fault (EPT/NPT)",
        "faults on hosts with EPT/NPT begin at the sleep, not at the access: no raise stage",
        (
            Candidate(
                "tracepoint",
                (Attachment("kvm_page_fault", "on_page_fault"),),
                ("kvm_vcpu.vcpu_id",),
            ),
        ),
        essential=False,
    ),
    Hook(
        "guest_walk",
        "guest fault (shadow paging)",
        "faults on hosts with shadow paging begin at the sleep, not at the access: no raise stage",
        (
            Candidate(
                "tracepoint",
                (Attachment("kvm_mmu_pagetable_walk", "on_pagetable_walk", ("u64", "u32")),),
            ),
        ),
        essential=False,
    ),
    Hook(
        "guest_map",
        "guest fault's end",
        "no gpa, no kernel mode; a fault resolved before its vCPU slept cannot be credited to it",
        (
            Candidate(
                "tracepoint",
                (Attachment("kvm_mmu_spte_requested", "on_spte_requested", ("kvm_page_fault*",)),),
                ("kvm_page_fault.gfn", "kvm_page_fault.slot", "kvm_page_fault.prefetch", *_SLOT),
            ),
        ),
    ),
    Hook(
        "uffd_wait",
        "uffd wait",
        "no uffd fault can be timed or credited to its vCPU",
        (
            Candidate(
                "tracepoint",
                (
                    Attachment("sched_switch", "on_sched_switch", ("bool", "task_struct*", "task_struct*")),
                    Attachment("sched_waking", "on_sched_waking", ("task_struct*",)),
                ),
                ("task_struct.pid", "task_struct.mm"),
            ),
        ),
    ),
    Hook(
        "uffd_notify",
        "uffd notify",
        "uffd faults are not counted by their events: no notify and serve stages",
        (
            Candidate(
                "tracepoint",
                (Attachment("syscalls:sys_exit_read", "on_exit_read"),),
                (*_FD_TO_FILE, *_UFFD),
                ("userfaultfd_ioctl",),
                _REGISTERS,
            ),
        ),
    ),
    Hook(
        "resolve",
        "resolve (uffd ioctls)",
        "no fill stage, no resolver, no demand and background fills",
        (
            Candidate(
                "tracepoint",
                (_ENTER_IOCTL, _EXIT_IOCTL),
                (*_FD_TO_FILE, *_UFFD),
                ("userfaultfd_ioctl",),
                _REGISTERS,
            ),
        ),
    ),
    Hook(
        "populate",
        "populate (madvise)",
        "exit-mode faults resolved by MADV_POPULATE show no fill stage",
        (
            Candidate(
                "tracepoint",
                (
                    Attachment("syscalls:sys_enter_madvise", "on_enter_madvise"),
                    Attachment("syscalls:sys_exit_madvise", "on_exit_madvise"),
                ),
                helpers=_TASK,
            ),
        ),
        essential=False,
    ),
    Hook(
        "async_fault",
        "async page fault",
        "async page faults are not seen; vCPUs halted for them look idle",
        (
            Candidate(
                "tracepoint",
                (
                    Attachment("kvm_try_async_get_page", "on_async_try", ("u64", "u64")),
                    Attachment("kvm_async_pf_not_present", "on_async_not_present", ("u64", "u64")),
                    Attachment("kvm_async_pf_repeated_fault", "on_async_repeated", ("u64", "u64")),
                    Attachment("kvm_async_pf_ready", "on_async_ready", ("u64", "u64")),
                ),
                ("kvm_vcpu.last_used_slot", "kvm_vcpu.arch.apf.halted", *_SLOT),
            ),
        ),
        essential=False,
    ),
    Hook(
        "thread_exit",
        "thread end",
        "faults whose vCPU is killed are not counted as lost",
        (
            Candidate(
                "tracepoint",
                (Attachment("sched_process_exit", "on_thread_exit", ("task_struct*",)),),
            ),
        ),
    ),
)

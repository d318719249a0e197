"""The hook table: for each logical hook its attachments in order of preference, and what each needs of the kernel.

Nothing downstream of the loader knows which was taken. kretprobes are avoided: they lose returns when many calls sleep
at the same time (kernel/trace/trace_kprobe.c, maxactive), so where fentry is not to be had the end of a call is seen by
a tracepoint.
"""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["fentry", "kprobe", "tracepoint"]
STRATEGIES: tuple[Strategy, ...] = ("fentry", "kprobe", "tracepoint")

Via = Literal["fentry", "fexit", "kprobe", "kretprobe", "raw_tracepoint", "tracepoint"]
TRACEPOINTS: tuple[Via, ...] = ("raw_tracepoint", "tracepoint")


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program at one place.

    target: a kernel function; a raw tracepoint; or `category:name`, an ordinary tracepoint, such as one of a single
    system call (raw ones would run at every system call of the host). arguments: the leading argument types that BTF
    must show for it; kprobes need no BTF, and are checked all the same where there is some.
    """

    target: str
    program: str
    arguments: tuple[str, ...] = ()
    via: Via = "raw_tracepoint"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a logical hook: all its attachments, or none.

    offsets and symbols are what they read, helpers the BPF helpers that not every kernel has, fields those of ordinary
    tracepoints (`category:name.field`) that tell their layout apart.
    """

    strategy: Strategy
    attachments: tuple[Attachment, ...]
    offsets: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `fentry:userfaultfd_ioctl+fexit:userfaultfd_ioctl`; a raw tracepoint is called a tracepoint."""
        return "+".join(
            f"{'tracepoint' if made.via == 'raw_tracepoint' else made.via}:{made.target}" for made in self.attachments
        )


@dataclass(frozen=True, slots=True)
class Hook:
    """A logical hook; effect: what cannot be shown without it.

    essential: without it something would be counted wrongly, such as one mode's faults as another's, so that nothing
    is traced at all.
    """

    name: str
    title: str
    effect: str
    candidates: tuple[Candidate, ...]
    essential: bool = True


_FD_TO_FILE = ("task_struct.files", "files_struct.fdt", "fdtable.fd", "file.private_data")
_VCPU = ("task_struct.mm", "kvm_vcpu.kvm", "kvm_vcpu.vcpu_id", "kvm_vcpu.run", "kvm.mm")
_UFFD = ("file.f_op", "file_operations.unlocked_ioctl", "userfaultfd_ctx.mm")
_SLOT = ("kvm_memory_slot.base_gfn", "kvm_memory_slot.npages", "kvm_memory_slot.userspace_addr", "kvm_memory_slot.id")
_FAULT = ("vm_fault.flags", "vm_fault.address", "vm_fault.vma", "vm_area_struct.vm_mm")
_WAIT = (*_FAULT, "vm_area_struct.vm_userfaultfd_ctx.ctx", "userfaultfd_ctx.features", "task_struct.pid", *_VCPU)
_TASK = ("bpf_get_current_task_btf",)  # since 5.11
_REGISTERS = (*_TASK, "bpf_task_pt_regs")  # since 5.15

_ENTER_IOCTL = Attachment("syscalls:sys_enter_ioctl", "on_enter_ioctl", via="tracepoint")
_EXIT_IOCTL = Attachment("syscalls:sys_exit_ioctl", "on_exit_ioctl", via="tracepoint")
_USERSPACE_EXIT = Attachment("kvm_userspace_exit", "on_userspace_exit", ("__u32", "int"))
_SCHED_SWITCH = Attachment("sched_switch", "on_sched_switch", ("bool", "task_struct*", "task_struct*"))
_SCHED_WAKING = Attachment("sched_waking", "on_sched_waking", ("task_struct*",))
_ASYNC = (
    Attachment("kvm_try_async_get_page", "on_async_try", ("u64", "u64")),
    Attachment("kvm_async_pf_not_present", "on_async_not_present", ("u64", "u64")),
    Attachment("kvm_async_pf_repeated_fault", "on_async_repeated", ("u64", "u64")),
    Attachment("kvm_async_pf_ready", "on_async_ready", ("u64", "u64")),
)
# The raw arguments of kvm_exit changed at 6.1 and do not carry the reason; the fields of its format file are stable.
HARDWARE = (
    Attachment("kvm:kvm_exit", "on_hardware_exit", via="tracepoint"),
    Attachment("kvm_entry", "on_hardware_entry"),
)


def _entry(via: Via, target: str, name: str, *arguments: str) -> Attachment:
    """A program of fentry.bpf.c or kprobe.bpf.c; both name it after the way and what it serves."""
    return Attachment(target, f"{via}_{name}", arguments, via)


def _run(via: Strategy) -> Candidate:
    way: Via = "fentry" if via == "fentry" else "kprobe"
    return Candidate(
        via,
        (
            _entry(way, "kvm_arch_vcpu_ioctl_run", "vcpu_run", "kvm_vcpu*"),
            _entry(way, "kvm_arch_init_vm", "init_vm", "kvm*"),
            _entry(way, "kvm_arch_vcpu_create", "create_vcpu", "kvm_vcpu*"),
            _USERSPACE_EXIT,
        ),
        _VCPU,
        helpers=_TASK,
    )


def _uffd_read(target: str, name: str, *arguments: str) -> Candidate:
    return Candidate(
        "fentry",
        (_entry("fexit", target, name, *arguments),),
        (*_FD_TO_FILE, *_UFFD, "kiocb.ki_filp"),
        ("userfaultfd_ioctl",),
        _REGISTERS,
    )


_MMU_PAGE_FAULT = ("kvm_mmu_page_fault", "page_fault", "kvm_vcpu*", "gpa_t", "u64")
_HANDLE_USERFAULT = ("handle_userfault", "handle_userfault", "vm_fault*")
_UFFD_IOCTL = ("userfaultfd_ioctl", "uffd_ioctl", "file*", "unsigned int")
_HALT = ("kvm_arch_async_page_not_present", "async_not_present", "kvm_vcpu*")

HOOKS: tuple[Hook, ...] = (
    Hook(
        "vcpu_run",
        "vCPU run",
        "no vCPU is recognised and no exit reason counted",
        (
            _run("fentry"),
            _run("kprobe"),
            Candidate(
                "tracepoint", (_ENTER_IOCTL, _EXIT_IOCTL, _USERSPACE_EXIT), (*_FD_TO_FILE, *_VCPU), helpers=_REGISTERS
            ),
        ),
    ),
    Hook(
        "guest_fault",
        "guest fault",
        "faults begin at the sleep, not at the access: no raise stage, no kernel mode",
        (
            Candidate("fentry", (_entry("fentry", *_MMU_PAGE_FAULT),), _VCPU),
            Candidate("kprobe", (_entry("kprobe", *_MMU_PAGE_FAULT),), _VCPU),
            Candidate(
                "tracepoint",
                (
                    Attachment("kvm_page_fault", "on_page_fault"),
                    Attachment("kvm_mmu_pagetable_walk", "on_pagetable_walk", ("u64", "u32")),
                ),
            ),
        ),
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
            Candidate("fentry", (_entry("fentry", *_HANDLE_USERFAULT), _SCHED_WAKING), _WAIT, helpers=_TASK),
            Candidate("kprobe", (_entry("kprobe", *_HANDLE_USERFAULT), _SCHED_WAKING), _WAIT, helpers=_TASK),
            Candidate("tracepoint", (_SCHED_SWITCH, _SCHED_WAKING), ("task_struct.pid", "task_struct.mm")),
        ),
    ),
    Hook(
        "uffd_notify",
        "uffd notify",
        "uffd faults are not counted by their events: no notify and serve stages",
        (
            _uffd_read("userfaultfd_read_iter", "uffd_read_iter", "kiocb*", "iov_iter*"),  # since 6.10 or so
            _uffd_read("userfaultfd_read", "uffd_read", "file*", "char*", "size_t", "loff_t*"),
            Candidate(
                "tracepoint",
                (Attachment("syscalls:sys_exit_read", "on_exit_read", via="tracepoint"),),
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
                "fentry",
                (_entry("fentry", *_UFFD_IOCTL), _entry("fexit", *_UFFD_IOCTL)),
                (*_UFFD, "file.private_data"),
                ("userfaultfd_ioctl",),
            ),
            Candidate(
                "kprobe",
                (_entry("kprobe", *_UFFD_IOCTL), _EXIT_IOCTL),
                (*_FD_TO_FILE, *_UFFD),
                ("userfaultfd_ioctl",),
                _REGISTERS,
            ),
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
                    Attachment("syscalls:sys_enter_madvise", "on_enter_madvise", via="tracepoint"),
                    Attachment("syscalls:sys_exit_madvise", "on_exit_madvise", via="tracepoint"),
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
            Candidate("fentry", (*_ASYNC, _entry("fexit", *_HALT)), ("kvm_vcpu.last_used_slot", *_SLOT)),
            Candidate("kprobe", (*_ASYNC, _entry("kretprobe", *_HALT)), ("kvm_vcpu.last_used_slot", *_SLOT)),
            Candidate(
                "tracepoint",
                (*_ASYNC, _SCHED_SWITCH),
                ("kvm_vcpu.last_used_slot", "kvm_vcpu.arch.apf.halted", "task_struct.pid", *_SLOT),
            ),
        ),
    ),
    Hook(
        "hardware_exits",
        "hardware exits",
        "hardware exits are not counted: only those that reach userspace are seen",
        (Candidate("tracepoint", HARDWARE, fields=("kvm:kvm_exit.exit_reason", "kvm:kvm_exit.isa")),),
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


def functions(hooks: tuple[Hook, ...] = HOOKS) -> frozenset[str]:
    """Every kernel function that the table names: what kallsyms is asked for, all at once."""
    candidates = [candidate for hook in hooks for candidate in hook.candidates]
    traced = {made.target for one in candidates for made in one.attachments if made.via not in TRACEPOINTS}
    return frozenset(traced.union(*(one.symbols for one in candidates)))

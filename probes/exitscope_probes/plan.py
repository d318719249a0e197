"""The hook plan: for each logical hook, the attachments in order of preference and what each needs.

The planner takes the first candidate whose needs this kernel meets, by what BTF and kallsyms show, never by a
version number, and keeps the reason for each that it passed over. fentry and kprobe candidates go in front of the
tracepoints here; nothing downstream knows which was taken.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from .btf import KernelBtf
from .symbols import kernel_symbols
from .tracing import TRACEFS_EVENTS

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


@dataclass(frozen=True, slots=True)
class HookStatus:
    """What became of a hook. passed_over: (attachment, reason) of each candidate that was not taken."""

    hook: str
    title: str
    status: Literal["attached", "missing", "refused"]
    attachment: str | None
    passed_over: tuple[tuple[str, str], ...]
    effect: str
    essential: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """A hook, the candidates that this kernel allows, best first, and why the others are out."""

    hook: Hook
    possible: tuple[Candidate, ...]
    passed_over: tuple[tuple[str, str], ...] = field(default=())


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


def _tracepoint_reason(btf: KernelBtf, attachment: Attachment) -> str | None:
    category, colon, name = attachment.target.partition(":")
    if colon:
        if (TRACEFS_EVENTS / category / name).exists():
            return None
        return f"this kernel has no tracepoint {attachment.target} (CONFIG_FTRACE_SYSCALLS, tracefs mounted?)"
    arguments = btf.raw_arguments(attachment.target)
    if arguments is None:
        return f"this kernel has no tracepoint {attachment.target}"
    if arguments[: len(attachment.arguments)] != attachment.arguments:
        expected = ", ".join(attachment.arguments)
        return f"tracepoint {attachment.target} has arguments ({', '.join(arguments)}), expected ({expected})"
    return None


def _why_not(btf: KernelBtf, candidate: Candidate) -> str | None:
    """The first reason why this kernel does not allow a candidate, None if it does."""
    for path in candidate.offsets:
        if btf.offset(path) is None:
            return f"BTF has no {path}"
    missing = [name for name in candidate.symbols if name not in kernel_symbols(candidate.symbols)]
    if missing:
        return f"/proc/kallsyms does not show {missing[0]} (inlined, renamed, or kptr_restrict)"
    for name in candidate.helpers:
        if not btf.has_function(name):
            return f"this kernel has no BPF helper {name}"
    for attachment in candidate.attachments:
        if reason := _tracepoint_reason(btf, attachment):
            return reason
    return None


def choose(
    btf: KernelBtf,
    strategy: Strategy | None = None,
    hooks: Iterable[Hook] = HOOKS,
    why_not: Callable[[KernelBtf, Candidate], str | None] = _why_not,
) -> tuple[Choice, ...]:
    """What this kernel allows for each hook; `strategy` leaves only that column of the plan."""
    choices = []
    for hook in hooks:
        possible, passed_over = [], []
        for candidate in hook.candidates:
            if strategy is not None and candidate.strategy != strategy:
                reason: str | None = f"--strategy {strategy} asked for"
            else:
                reason = why_not(btf, candidate)
            if reason is None:
                possible.append(candidate)
            else:
                passed_over.append((candidate.name, reason))
        choices.append(Choice(hook, tuple(possible), tuple(passed_over)))
    return tuple(choices)


def status_of(choice: Choice, taken: Candidate | None, refused: tuple[tuple[str, str], ...] = ()) -> HookStatus:
    """The status of a hook after attaching; refused: candidates that the kernel turned down, with its reason."""
    hook = choice.hook
    return HookStatus(
        hook=hook.name,
        title=hook.title,
        status="attached" if taken else "refused" if refused else "missing",
        attachment=taken.name if taken else None,
        passed_over=choice.passed_over + refused,
        effect=hook.effect,
        essential=hook.essential,
    )


def survey(strategy: Strategy | None = None) -> tuple[HookStatus, ...]:
    """What could be attached here, without attaching anything. Raises BtfError without BTF."""
    return tuple(
        status_of(choice, choice.possible[0] if choice.possible else None) for choice in choose(KernelBtf(), strategy)
    )

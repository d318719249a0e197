"""Kernel profiles: which way of telling userspace about a guest's fault this kernel has, by what its BTF shows.

The series that never went upstream use numbers that collide with each other's and with upstream's: capability 236 is
PRE_FAULT_MEMORY, EXIT_ON_MISSING or USERFAULT, memslot flag 1 << 2 is GUEST_MEMFD or one of three others. What does not
collide are the names of struct members, functions and parameters; each profile lists those that its patches add.
Capabilities and memslot flags are macros, which BTF does not show: they are named here, never looked for.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from .btf import KernelBtf
from .errors import ProbeError


class Types(Protocol):
    """What this needs of btf.KernelBtf."""

    def offset(self, path: str) -> int | None:
        """Byte offset of `struct.member[.member…]`, None if there is none."""

    def function(self, name: str) -> tuple[str, int] | None:
        """Where a function is described, None if there is none of that name."""

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        """Names of a function's parameters, None if there is none of that name."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing in BTF: a struct's member (`struct.member[.member…]`), a function, or `function(parameter)`."""

    kind: Literal["member", "function", "parameter"]
    name: str

    def is_in(self, types: Types) -> bool:
        """Whether this kernel has it."""
        if self.kind == "member":
            return types.offset(self.name) is not None
        if self.kind == "function":
            return types.function(self.name) is not None
        function, _, parameter = self.name.rstrip(")").partition("(")
        return parameter in (types.function_parameters(function) or ())

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Profile:
    """How a kernel tells of a fault that userspace must solve.

    marks: all of them are in its BTF. exit_reason: kvm_run->exit_reason then; None: it sets none. exit_flags: number of
    the bit in memory_fault.flags -> name. capabilities: by their number. memslot_flags: what a VMM sets on a memslot to
    get such exits, by number of the bit. source: where its numbers are from.
    """

    name: str
    title: str
    source: str
    marks: tuple[Mark, ...]
    exit_reason: int | None = None
    exit_flags: tuple[tuple[int, str], ...] = ()
    capabilities: tuple[tuple[int, str], ...] = ()
    memslot_flags: tuple[tuple[int, str], ...] = ()


def _members(*names: str) -> tuple[Mark, ...]:
    return tuple(Mark("member", name) for name in names)


def _functions(*names: str) -> tuple[Mark, ...]:
    return tuple(Mark("function", name) for name in names)


_RUN: Final = Mark("member", "kvm_run.exit_reason")
_FAULT_LEN: Final = _members("kvm_run.memory_fault.len")  # of all series before upstream, which named it size
_FAULT_SIZE: Final = _members("kvm_run.memory_fault.size")
_BITMAP: Final = _members("kvm_memory_slot.userfault_bitmap")
_RWX: Final = ((0, "READ"), (1, "WRITE"), (2, "EXEC"))
_PRIVATE: Final = (3, "PRIVATE")
_USERFAULT: Final = (4, "USERFAULT")
_UPSTREAM_CAPABILITIES: Final = ((232, "MEMORY_FAULT_INFO"),)

PROFILES: Final[tuple[Profile, ...]] = (
    Profile(
        "userfault-hiding",
        "KVM userfault in the secret-hiding branch (direct map removal)",
        "firecracker-microvm/firecracker, resources/hiding_ci/kernels/6.18-amazon-linux",
        (*_BITMAP, *_functions("folio_zap_direct_map")),
        39,
        (_PRIVATE, _USERFAULT),
        (*_UPSTREAM_CAPABILITIES, (245, "USERFAULT")),
        ((3, "USERFAULT"),),
    ),
    Profile(
        "userfault-v3",
        "KVM userfault v3 (June 2025)",
        "lore.kernel.org/kvm/20250618042424.330664-1-jthoughton@google.com",
        (*_BITMAP, *_functions("kvm_do_userfault")),
        39,
        (_PRIVATE, _USERFAULT),
        (*_UPSTREAM_CAPABILITIES, (243, "USERFAULT")),
        ((3, "USERFAULT"),),
    ),
    Profile(
        "userfault-v1-v2",
        "KVM userfault v1 or v2 (December 2024, January 2025)",
        "lore.kernel.org/kvm/20250109204929.1106563-1-jthoughton@google.com",
        (*_BITMAP, *_functions("kvm_gfn_userfault")),
        39,
        (_PRIVATE, _USERFAULT),
        (*_UPSTREAM_CAPABILITIES, (239, "USERFAULT")),
        ((3, "USERFAULT"),),
    ),
    Profile(
        "userfault-rfc",
        "KVM userfault RFC (July 2024), by memory attribute 1 << 4",
        "lore.kernel.org/kvm/20240710234222.2333120-1-jthoughton@google.com",
        _members("kvm.userfault_ctx"),
        39,
        (_PRIVATE, _USERFAULT),
        (*_UPSTREAM_CAPABILITIES, (236, "USERFAULT")),
    ),
    Profile(
        "exit-on-missing",
        "absent-mapping exits v6 or v7 (November 2023, February 2024)",
        "lore.kernel.org/kvm/20240215235405.368539-1-amoorthy@google.com",
        (*_FAULT_SIZE, Mark("parameter", "__gfn_to_pfn_memslot(can_exit_on_missing)")),
        39,
        (*_RWX, _PRIVATE),
        (*_UPSTREAM_CAPABILITIES, (236, "EXIT_ON_MISSING")),
        ((3, "EXIT_ON_MISSING"),),
    ),
    Profile(
        "userfault-on-missing",
        "absent-mapping exits v5 (September 2023), in a second union of kvm_run",
        "lore.kernel.org/kvm/20230908222905.1321305-1-amoorthy@google.com",
        (*_FAULT_LEN, *_members("kvm_vcpu.speculative_exit_canary")),
        None,
        _RWX,
        ((230, "MEMORY_FAULT_INFO"), (231, "USERFAULT_ON_MISSING")),
        ((2, "USERFAULT_ON_MISSING"),),
    ),
    Profile(
        "absent-mapping-v3",
        "absent-mapping exits v3 (April 2023)",
        "lore.kernel.org/kvm/20230412213510.1220557-1-amoorthy@google.com",
        (*_FAULT_LEN, *_members("kvm.fill_efault_info")),
        38,
        (),
        ((227, "MEMORY_FAULT_INFO"), (228, "ABSENT_MAPPING_FAULT")),
        ((2, "ABSENT_MAPPING_FAULT"),),
    ),
    Profile(
        "nowait-on-fault",
        "absent-mapping exits v4 (June 2023)",
        "lore.kernel.org/kvm/20230602161921.208564-1-amoorthy@google.com",
        (*_FAULT_LEN, *_functions("kvm_populate_efault_info")),
        38,
        ((0, "WRITE"), (1, "EXEC")),
        ((228, "MEMORY_FAULT_INFO"), (229, "NOWAIT_ON_FAULT")),
        ((2, "NOWAIT_ON_FAULT"),),
    ),
    Profile(
        "absent-mapping-v2",
        "absent-mapping exits v2 (March 2023)",
        "lore.kernel.org/kvm/20230315021738.1151386-1-amoorthy@google.com",
        (*_FAULT_LEN, *_members("kvm.memfault_exit_reasons")),
        38,
        ((0, "UNKNOWN"), (1, "ABSENT_MAPPING")),
        ((227, "X86_MEMORY_FAULT_EXIT"), (228, "MEMORY_FAULT_NOWAIT")),
        ((2, "ABSENT_MAPPING_FAULT"),),
    ),
    Profile(
        "memory-fault",
        "upstream, with KVM_EXIT_MEMORY_FAULT",
        "include/uapi/linux/kvm.h since Linux 6.8",
        _FAULT_SIZE,
        39,
        (_PRIVATE,),
        _UPSTREAM_CAPABILITIES,
    ),
    Profile(
        "unknown-memory-fault",
        "a KVM_EXIT_MEMORY_FAULT that no profile describes: its flags are shown as numbers",
        "",
        _members("kvm_run.memory_fault"),
    ),
    Profile(
        "bare-efault",
        "upstream, without KVM_EXIT_MEMORY_FAULT: KVM_RUN fails with a bare -EFAULT",
        "include/uapi/linux/kvm.h before Linux 6.8",
        (_RUN,),
    ),
)
"""The most telling first: the first whose marks are all there is this kernel's."""

UNKNOWN: Final = Profile("unknown", "not known: BTF does not describe KVM (is the module kvm loaded?)", "", ())


def recognise(types: Types) -> Profile:
    """The profile of the kernel that these types are of. Raises BtfError when BTF cannot be read."""
    return next((profile for profile in PROFILES if all(mark.is_in(types) for mark in profile.marks)), UNKNOWN)


def described(profile: Profile) -> dict[str, Any]:
    """As plain data: {"name", "title", "evidence": [...], "exit_reason", "exit_flags": {"3": "PRIVATE"}, …}."""
    return {
        "name": profile.name,
        "title": profile.title,
        "source": profile.source,
        "evidence": [str(mark) for mark in profile.marks],
        "exit_reason": profile.exit_reason,
        "exit_flags": {str(bit): name for bit, name in profile.exit_flags},
        "capabilities": {str(number): f"KVM_CAP_{name}" for number, name in profile.capabilities},
        "memslot_flags": {str(bit): f"KVM_MEM_{name}" for bit, name in profile.memslot_flags},
    }


def of_this_kernel(types: Types | None = None) -> dict[str, Any]:
    """The running kernel's profile as plain data; UNKNOWN's where its BTF cannot be read."""
    try:
        return described(recognise(types or KernelBtf()))
    except ProbeError:
        return described(UNKNOWN)

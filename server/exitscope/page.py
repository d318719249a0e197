"""What is known of the page that a fault asked for: said by KVM, or inferred by the probes where KVM says nothing."""

import errno
from collections.abc import Mapping
from typing import Any, Final

from exitscope_probes.records import ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE, PRESENCES

ACCESSES: Final = {ACCESS_READ: "read", ACCESS_WRITE: "write", ACCESS_EXEC: "exec"}
_RWX: Final = {"READ", "WRITE", "EXEC"}
_FLAG_BITS: Final = 64
_ERRORS: Final = {133: "EHWPOISON", **errno.errorcode}  # include/uapi/asm-generic/errno.h; Python lacks it before 3.14


def access_names(bits: int) -> str | None:
    """`write`, `read+write`, …; None if it was not seen."""
    return "+".join(name for bit, name in ACCESSES.items() if bits & bit) or None


def presence_name(code: int) -> str | None:
    """One of records.PRESENCES; None if it is unknown."""
    return PRESENCES[code] if 0 < code < len(PRESENCES) else None


def flag_names(flags: int, profile: Mapping[str, Any]) -> list[str]:
    """Names of the bits set in memory_fault.flags, by the kernel's profile; `1 << N` for one that it does not know.

    profile: what exitscope_probes.profiles.described gave, after a trip through JSON; {} if none was told.
    """
    known = profile.get("exit_flags")
    names = known if isinstance(known, Mapping) else {}
    return [str(names.get(str(bit)) or f"1 << {bit}")[:64] for bit in range(_FLAG_BITS) if flags >> bit & 1]


def error_name(number: int) -> str | None:
    """`EFAULT` for -14; None for 0."""
    return _ERRORS.get(-number, str(number)) if number else None


def inferred(mode: str, known: Mapping[str, Any], flags: list[str]) -> list[str]:
    """Which fields of a fault KVM did not say when it left the fault to userspace: [] unless it did.

    known: gpa, hva, access, memslot and presence, None where unknown. With a bare -EFAULT KVM says nothing; with
    KVM_EXIT_MEMORY_FAULT the gpa, and in some series the access.
    """
    if mode == "memory_fault":
        said = {"gpa", "access"} if _RWX.intersection(flags) else {"gpa"}
    elif mode == "exit":
        said = set()
    else:
        return []
    return [
        name for name in ("gpa", "hva", "access", "memslot", "presence") if known[name] is not None and name not in said
    ]

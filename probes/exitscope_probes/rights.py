"""What the kernel lets this process do, and in which of its namespaces it stands."""

import ctypes
import os
from typing import Final, Literal

from .libc import libc
from .procfs import Proc

Namespace = Literal["user", "pid", "time"]

# Inode numbers of the namespaces that a machine boots with, include/linux/proc_ns.h
_INITIAL: Final[dict[Namespace, int]] = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}

# include/uapi/linux/capability.h
CAPABILITIES: Final = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

_CAPABILITY_VERSION_3: Final = 0x20080522  # likewise: two sets of 32 bits


def held(proc: Proc) -> frozenset[str]:
    """Those of CAPABILITIES that are effective, whatever namespace they count in."""
    for line in (proc.text("self", "status") or "").splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for name, number in CAPABILITIES.items() if mask >> number & 1)
    return frozenset()


def is_initial(kind: Namespace) -> bool:
    """Whether we are in the namespace that the machine booted with; also where this kernel has none of the kind.

    Who is in the first PID namespace sees no other /proc than that one's: in others it has no number of its own.
    """
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino == _INITIAL[kind]
    except FileNotFoundError:
        return True


def give_up(capability: str) -> None:
    """Never have one of CAPABILITIES again, nor let a child have it. Raises OSError if that is refused."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    half, bit = divmod(CAPABILITIES[capability], 32)
    libc("capget", header, sets)
    for which in range(3):
        sets[half * 3 + which] &= ~(1 << bit)
    libc("capset", header, sets)

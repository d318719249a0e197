"""What the kernel lets this process do, and in which of its namespaces it stands."""

import os
from typing import Final, Literal

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

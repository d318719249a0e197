"""What a VMM's thread is for, by its name."""

import re
from typing import Final

# Beginnings of names, as the kernel cuts them to 15 characters -> role.
_ROLES: Final[tuple[tuple[str, str], ...]] = (
    # QEMU's page fault thread: postcopy/fault until 7.0, fault-default until 9.0, mig/dst/fault since
    ("postcopy/fault", "uffd reader"),
    ("fault-default", "uffd reader"),
    ("mig/dst/fault", "uffd reader"),
    # The threads that place pages: postcopy/listen until 9.0; demanded ones with postcopy-preempt
    ("postcopy/listen", "page copier"),
    ("mig/dst/listen", "page copier"),
    ("fault-fast", "page copier"),
    ("mig/dst/preempt", "page copier"),
    # QEMU's side that sends
    ("live_migration", "migration source"),
    ("return path", "migration source"),
    ("mig/src/", "migration source"),
    ("vhost-", "vhost"),
    ("uffd-handler-", "uffd handler"),  # exitscope's own guest: reads and copies
)
# QEMU with debug-threads=on, Firecracker, Cloud Hypervisor, crosvm
_VCPU: Final = re.compile(r"(?:CPU |fc_vcpu |vcpu|crosvm_vcpu)(\d+)(?:/.*)?")

SERVING: Final = frozenset({"uffd reader", "uffd handler", "page copier"})
"""Roles without which nobody resolves a VM's faults: these threads are missed when they are not listed."""


def role_of(name: str, main: bool) -> str | None:
    """What a thread of this name (its comm) is for, None if the name does not say; main: it is the process's first.

    A vCPU's thread is known for one by KVM itself: the name matters only where that has not been seen yet.
    """
    for beginning, role in _ROLES:
        if name.startswith(beginning):
            return role
    if found := _VCPU.fullmatch(name):
        return f"vCPU {found[1]}"
    return "main" if main else None

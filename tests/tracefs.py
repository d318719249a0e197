"""tracefs for the tracers that the tests compare with: perf mounts it for the whole machine, bpftrace gives up."""

import ctypes
import os
from pathlib import Path
from typing import Final

PLACE: Final = Path("/sys/kernel/tracing")
_CLONE_NEWNS, _MS_REC, _MS_SLAVE = 0x20000, 1 << 14, 1 << 19  # include/uapi/linux/sched.h, mount.h


def there() -> bool:
    """Whether it is at its place, for this process and its children."""
    try:
        return (PLACE / "events").is_dir()
    except PermissionError:
        return False


def provide() -> None:
    """Where none is mounted and we are root: mount it at its place, for this process and its children alone.

    The product does not need it: tests/kernel/test_tracefs.py runs it without. Where mounting is refused, the
    capabilities say what is missing.
    """
    if os.geteuid() != 0 or there():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None) == 0:
        libc.mount(b"tracefs", bytes(PLACE), b"tracefs", 0, None)

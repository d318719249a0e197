"""Where the kernel describes its tracepoints: tracefs, which a fresh machine or a container may not have mounted.

Whoever may mount file systems (CAP_SYS_ADMIN) gets one of its own then: mounted nowhere, reached by a descriptor, seen
by no other process and gone with this one. Nothing changes on the host.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from .errors import ProbeError
from .libc import system_call

PLACE: Final = Path("/sys/kernel/tracing")
_OLD_PLACE: Final = Path("/sys/kernel/debug/tracing")

# System calls since Linux 5.2, numbered alike on all architectures (include/uapi/asm-generic/unistd.h).
_NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 430, 431, 432
# include/uapi/linux/mount.h
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1
_MOUNT_ATTR_READ_ONLY_NOTHING_RUNS = 1 | 2 | 4 | 8  # RDONLY, NOSUID, NODEV, NOEXEC

_REMEDY: Final = f"as root of the host: mount -t tracefs tracefs {PLACE}"


class TracefsError(ProbeError):
    """There is no tracefs that this process may read."""


@dataclass(frozen=True, slots=True)
class Tracefs:
    """events: the directory of the tracepoints; own: it is mounted for this process alone."""

    events: Path
    own: bool


@cache
def tracefs() -> Tracefs:
    """The host's, or where none is mounted one of our own. Raises TracefsError with what to do about it."""
    if found := _mounted_at(PLACE):
        return found
    try:
        return Tracefs(Path(f"/proc/self/fd/{_mounted_nowhere()}/events"), own=True)
    except OSError as error:
        refusal = error.strerror
    if found := _mounted_at(_OLD_PLACE):  # asked last: to look there makes the kernel mount it
        return found
    raise TracefsError(f"no tracefs is mounted, and mounting it is refused ({refusal})", _REMEDY)


def _mounted_at(place: Path) -> Tracefs | None:
    try:
        if not (place / "events").is_dir():
            return None
        os.listdir(place / "events")
    except PermissionError:
        if place.is_mount():
            raise TracefsError(f"{place} is not readable", "run as root, or with CAP_DAC_READ_SEARCH") from None
        return None
    return Tracefs(place / "events", own=False)


def events() -> Path:
    """The directory of the tracepoints; where there is none, the place where it would be."""
    try:
        return tracefs().events
    except TracefsError:
        return PLACE / "events"


def _mounted_nowhere() -> int:
    """Descriptor of the root of a tracefs that only this process knows. Raises OSError if the kernel refuses."""
    context = system_call(_NR_FSOPEN, b"tracefs", _FSOPEN_CLOEXEC)
    try:
        system_call(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return system_call(_NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, _MOUNT_ATTR_READ_ONLY_NOTHING_RUNS)
    finally:
        os.close(context)

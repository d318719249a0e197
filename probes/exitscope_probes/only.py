"""Whose VMs are traced: everybody's, or those of one process and its descendants, or of one control group."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import ProbeError
from .procfs import Proc

_MOUNTS: Final = Path("/proc/self/mounts")
_MAX_DEPTH: Final = 64  # ANCESTORS of bpf/only.h


@dataclass(frozen=True, slots=True)
class Only:
    """tgid: the process; cgroup: id of the group, which is the inode of its directory; 0: any.

    Both given means both. Where a process was left by its parent it descends from it no longer.
    """

    tgid: int = 0
    cgroup: int = 0
    told: str | None = None

    def includes(self, pid: int, proc: Proc) -> bool:
        """Whether the VMs of a process are traced: what bpf/only.h says in the kernel."""
        return (not self.tgid or self._descends(pid, proc)) and (not self.cgroup or self._is_within(pid, proc))

    def _descends(self, pid: int, proc: Proc) -> bool:
        for _ in range(_MAX_DEPTH):
            if pid == self.tgid:
                return True
            parent = proc.parent(pid)
            if not parent:
                return False
            pid = parent
        return False

    def _is_within(self, pid: int, proc: Proc) -> bool:
        path = proc.cgroup(pid)
        mount = _cgroup_mount()
        if path is None or mount is None:
            return False
        places = [Path(path), *Path(path).parents]
        return any(_id(mount / str(place).lstrip("/")) == self.cgroup for place in places)


ALL: Final = Only()
"""Everybody's."""


def only(pid_tree: int | None = None, cgroup: str | None = None) -> Only:
    """From the settings. cgroup: its directory, or its name below the mount of cgroup2. Raises ProbeError."""
    told = []
    if pid_tree is not None:
        if Proc().start_ticks(pid_tree) is None:
            raise ProbeError(f"there is no process {pid_tree}", "choose another --only-pid-tree")
        told.append(f"of process {pid_tree} and its descendants")
    number = 0
    if cgroup is not None:
        mount = _cgroup_mount()
        if mount is None:
            raise ProbeError("cgroup2 is not mounted", "leave out --only-cgroup, or mount -t cgroup2 cgroup2 PATH")
        path = Path(cgroup) if Path(cgroup).is_relative_to(mount) else mount / cgroup.lstrip("/")
        number = _id(path)
        if not number or not (path / "cgroup.controllers").exists():
            raise ProbeError(f"{path} is no control group", f"name one below {mount} by --only-cgroup")
        told.append(f"in the control group {path.relative_to(mount)}")
    return Only(pid_tree or 0, number, ", ".join(told) or None)


def _cgroup_mount() -> Path | None:
    """Where cgroup2 is mounted: the only hierarchy, or beside those of version 1."""
    mounts = (line.split() for line in _MOUNTS.read_text().splitlines())
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


def _id(directory: Path) -> int:
    try:
        return os.stat(directory).st_ino
    except OSError:
        return 0

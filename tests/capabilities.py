"""What this machine really allows, found out by trying it, never by asking the code under test."""

import ctypes
import fcntl
import os
import platform
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_KVM_GET_API_VERSION = 0xAE00  # include/uapi/linux/kvm.h
_BPF_MAP_CREATE, _BPF_MAP_TYPE_ARRAY = 0, 2  # include/uapi/linux/bpf.h
_NR_BPF = {"x86_64": 321, "aarch64": 280}
_NR_USERFAULTFD = {"x86_64": 323, "aarch64": 282}


def _open_by_syscall(number: int | None, *arguments: object) -> str | None:
    """None if the system call gave a file descriptor (closed again), else the error's text."""
    if number is None:
        return f"no system call number known for {platform.machine()}"
    fd = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if fd < 0:
        return os.strerror(ctypes.get_errno())
    os.close(fd)
    return None


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


def _kvm() -> str | None:
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    finally:
        os.close(fd)
    return None if version == 12 else f"KVM API version {version}"


def _bpf() -> str | None:
    if find_spec("bcc") is None:
        return "no bcc (Debian: python3-bpfcc)"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "no BTF"
    attributes = (ctypes.c_uint32 * 32)(_BPF_MAP_TYPE_ARRAY, 4, 8, 1)  # key, value bytes, entries
    error = _open_by_syscall(_NR_BPF.get(platform.machine()), _BPF_MAP_CREATE, attributes, ctypes.sizeof(attributes))
    return error and f"bpf(): {error}"


def _uffd() -> str | None:
    error = _open_by_syscall(_NR_USERFAULTFD.get(platform.machine()), os.O_CLOEXEC)
    return error and f"userfaultfd(): {error}"


def _chromium() -> str | None:
    return None if shutil.which("chromium") else "no chromium in PATH"


def _vm() -> str | None:
    return None if shutil.which("qemu-system-x86_64") else "no qemu-system-x86_64 in PATH"


_PROBES: Final[dict[str, tuple[str, Callable[[], str | None]]]] = {
    "root": ("root", _root),
    "kvm": ("KVM", _kvm),
    "bpf": ("BPF", _bpf),
    "uffd": ("userfaultfd", _uffd),
    "chromium": ("Chromium", _chromium),
    "vm": ("VM", _vm),
}
TITLES: Final[dict[str, str]] = {name: title for name, (title, _) in _PROBES.items()}


@cache
def absence(name: str) -> str | None:
    """Why the capability is absent, in a few words; None where it is there. KeyError if there is no such."""
    return _PROBES[name][1]()

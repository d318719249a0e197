"""What this machine really allows, found out by trying it, never by asking the code under test."""

import ctypes
import fcntl
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from exitscope_probes.isolated import python
from tests import tracefs


class Curable(str):
    """An absence that installing or mounting something would end: where CI is root, it is a failure."""

    __slots__ = ()


_KVM_GET_API_VERSION, _KVM_CHECK_EXTENSION = 0xAE00, 0xAE03  # include/uapi/linux/kvm.h
_KVM_CAP_GUEST_MEMFD_FLAGS, _GMEM_MMAP_AND_SHARED = 244, 3  # likewise, since 6.18
_KVM_CAP_PRE_FAULT_MEMORY = 236  # likewise, since 6.11
_UFFDIO_API, _UFFD_API = 0xC018AA3F, 0xAA  # include/uapi/linux/userfaultfd.h
_UFFD_FEATURE_POISON, _UFFD_FEATURE_MOVE = 1 << 14, 1 << 16  # likewise, since 6.6 and 6.8
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


def _kvm_extension(number: int, wanted: int, otherwise: str) -> str | None:
    """None if KVM_CHECK_EXTENSION answers with at least these bits."""
    if absent := _kvm():
        return absent
    fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = fcntl.ioctl(fd, _KVM_CHECK_EXTENSION, number)
    except OSError as error:
        return f"KVM_CHECK_EXTENSION: {error.strerror}"
    finally:
        os.close(fd)
    return None if flags & wanted == wanted else otherwise


def _hugetlb(kib: int, count: int) -> str | None:
    if absent := _root():
        return absent
    setting = Path(f"/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages")
    if not setting.exists():
        return f"a kernel without pages of {kib} KiB"
    before = int(setting.read_text())
    setting.write_text(f"{before + count}\n")
    got = int(setting.read_text())
    setting.write_text(f"{before}\n")
    return None if got >= before + count else f"no memory for {count} more"


def _bpf() -> str | None:
    if find_spec("bcc") is None:
        return Curable("no bcc (Debian: python3-bpfcc)")
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "no BTF"
    attributes = (ctypes.c_uint32 * 32)(_BPF_MAP_TYPE_ARRAY, 4, 8, 1)  # key, value bytes, entries
    error = _open_by_syscall(_NR_BPF.get(platform.machine()), _BPF_MAP_CREATE, attributes, ctypes.sizeof(attributes))
    return error and f"bpf(): {error}"


def _uffd() -> str | None:
    error = _open_by_syscall(_NR_USERFAULTFD.get(platform.machine()), os.O_CLOEXEC)
    return error and f"userfaultfd(): {error}"


def _uffd_feature(feature: int) -> str | None:
    if absent := _uffd():
        return absent
    fd = ctypes.CDLL(None, use_errno=True).syscall(_NR_USERFAULTFD[platform.machine()], os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(fd, _UFFDIO_API, struct.pack("=3Q", _UFFD_API, 0, 0))
    except OSError as error:
        return f"UFFDIO_API: {error.strerror}"
    finally:
        os.close(fd)
    return None if struct.unpack("=3Q", answer)[1] & feature else "not in UFFDIO_API's features"


def _cgroup2() -> str | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    place = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    return None if place and os.access(place, os.W_OK) else "no cgroup2 that may be written to"


def _chromium() -> str | None:
    return None if shutil.which("chromium") else Curable("no chromium in PATH")


def _vm() -> str | None:
    return None if shutil.which("qemu-system-x86_64") else Curable("no qemu-system-x86_64 in PATH")


def _tracefs() -> str | None:
    return None if tracefs.there() else Curable("no tracefs is mounted")


def _bpftrace() -> str | None:
    return _tracefs() if shutil.which("bpftrace") else Curable("no bpftrace in PATH")


def _prometheus() -> str | None:
    """Nothing installs it for the tests: where it is, it is asked."""
    return None if shutil.which("prometheus") else "no prometheus in PATH"


def _peers() -> str | None:
    missing = [name for name in ("perf", "bpftrace", "bpftool") if shutil.which(name) is None]
    return Curable(f"no {missing[0]} in PATH") if missing else _tracefs()


def _hardware_exits() -> str | None:
    if absent := _root() or _kvm() or _peers():
        return absent
    guest = python("exitscope_probes.guest", "--mode", "none", "--pages", "1")
    command = ["perf", "stat", "-x,", "-e", "kvm:kvm_exit", *guest]
    counted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr.partition(",")[0]
    return None if counted.strip().isdecimal() and int(counted) else "kvm:kvm_exit does not fire on this KVM"


def _fentry() -> str | None:
    if absent := _tracefs():
        return absent
    try:
        with Path("/sys/kernel/tracing/available_filter_functions").open() as functions:
            return None if functions.readline() else "no function can be traced"
    except OSError as error:
        return f"function tracing: {error.strerror}"


def _kprobe() -> str | None:
    return None if Path("/sys/bus/event_source/devices/kprobe").exists() else "a kernel without kprobes"


_PROBES: Final[dict[str, tuple[str, Callable[[], str | None]]]] = {
    "root": ("root", _root),
    "kvm": ("KVM", _kvm),
    "bpf": ("BPF", _bpf),
    "uffd": ("userfaultfd", _uffd),
    "uffd_move": ("UFFDIO_MOVE", partial(_uffd_feature, _UFFD_FEATURE_MOVE)),
    "uffd_poison": ("UFFDIO_POISON", partial(_uffd_feature, _UFFD_FEATURE_POISON)),
    "memory_fault": (
        "KVM_EXIT_MEMORY_FAULT",
        partial(_kvm_extension, _KVM_CAP_GUEST_MEMFD_FLAGS, _GMEM_MMAP_AND_SHARED, "KVM has no mappable guest_memfd"),
    ),
    "pre_fault": (
        "KVM_PRE_FAULT_MEMORY",
        partial(_kvm_extension, _KVM_CAP_PRE_FAULT_MEMORY, 1, "KVM has it not, or no two-dimensional paging"),
    ),
    "hugetlb_2m": ("hugetlb pages of 2 MiB", partial(_hugetlb, 2048, 16)),
    "hugetlb_1g": ("hugetlb pages of 1 GiB", partial(_hugetlb, 1 << 20, 1)),
    "peers": ("perf and bpftrace", _peers),
    "bpftrace": ("bpftrace", _bpftrace),
    "prometheus": ("Prometheus", _prometheus),
    "hardware_exits": ("hardware exits", _hardware_exits),
    "fentry": ("fentry", _fentry),
    "kprobe": ("kprobes", _kprobe),
    "cgroup2": ("cgroup2", _cgroup2),
    "chromium": ("Chromium", _chromium),
    "vm": ("VM", _vm),
}
TITLES: Final[dict[str, str]] = {name: title for name, (title, _) in _PROBES.items()}


@cache
def absence(name: str) -> str | None:
    """Why the capability is absent, in a few words; None where it is there. KeyError if there is no such."""
    return _PROBES[name][1]()

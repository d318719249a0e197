"""What live tracing needs of this host and this process, looked at one by one, and the remedy for what is missing."""

import errno
import importlib.util
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final, Literal

from .bccpackage import remedy as bcc_remedy
from .errors import ProbeError
from .monitorcheck import survey as survey_monitors
from .monitorcheck import told
from .procfs import Proc
from .programs import module_btf_fd
from .rights import held, is_initial
from .symbols import hidden
from .tracefs import TracefsError, tracefs

_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_MODULE_BTF: Final = Path("/sys/kernel/btf/kvm")

State = Literal["ok", "missing", "note"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. state "note": worth knowing, costs nothing; needed: no live tracing without it."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    needed: bool = False


def usable() -> str | None:
    """Why live tracing is impossible here, in one sentence that says what to do; None if it is possible."""
    for look in _NEEDED:
        check = look()
        if check.state == "missing":
            return f"{check.detail}: {check.remedy}"
    return None


def checks() -> tuple[Check, ...]:
    """Everything but the hooks, the needed ones first."""
    return tuple(look() for look in (*_NEEDED, *_WORTH_KNOWING))


def _namespaces() -> Check:
    if not is_initial("user"):
        where = "this is a user namespace of its own, in which the kernel loads no probes"
        remedy = "start exitscope outside of it (unshare -U, a rootless container, userns-remap)"
    elif not is_initial("pid"):
        where = "this is a PID namespace of its own, in which processes have other numbers than the kernel gives them"
        remedy = "start exitscope in the host's (docker run --pid=host, hostPID: true, nsenter -t 1 -p)"
    elif not is_initial("time"):
        where = "this is a time namespace of its own, whose clock is not the kernel's"
        remedy = "start exitscope in the host's"
    else:
        return Check("namespaces", "ok", "the host's own", needed=True)
    return Check("namespaces", "missing", where, remedy, needed=True)


def _privileges() -> Check:
    has = held(Proc())
    admin = "CAP_SYS_ADMIN" in has
    if not admin and not {"CAP_BPF", "CAP_PERFMON"} <= has:
        return _forbidden("no right to load BPF programs", "CAP_BPF and CAP_PERFMON")
    if not admin and _module_types_are_hidden():
        return _forbidden("KVM is a module, whose types the kernel shows only to CAP_SYS_ADMIN", "CAP_SYS_ADMIN")
    if not has & {"CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"}:
        return _forbidden("no right to list the files of other users' VMMs", "CAP_DAC_READ_SEARCH")
    if "CAP_SYS_PTRACE" not in has:
        return _forbidden("no right to see what files a VMM has open", "CAP_SYS_PTRACE")
    who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    return Check("privileges", "ok", f"{who}, may load BPF programs and look into processes", needed=True)


def _module_types_are_hidden() -> bool:
    """Whether KVM is a module with BTF of its own, which we may not have."""
    if not _MODULE_BTF.exists():
        return False
    try:
        os.close(module_btf_fd("kvm"))
    except OSError as error:
        return error.errno == errno.EPERM
    except ProbeError:  # no libbpf: for _bcc to say
        return False
    return False


def _forbidden(what: str, capabilities: str) -> Check:
    return Check("privileges", "missing", what, f"run as root ({capabilities})", needed=True)


def _addresses() -> Check:
    if not hidden():
        return Check("kernel addresses", "ok", "shown in /proc/kallsyms", needed=True)
    restricted = _read("/proc/sys/kernel/kptr_restrict").strip() == "2"
    return Check(
        "kernel addresses",
        "missing",
        "hidden in /proc/kallsyms: no userfaultfd would be recognised, its faults would count as the kernel's",
        "sysctl kernel.kptr_restrict=1" if restricted else "run as root (CAP_SYSLOG)",
        needed=True,
    )


def _kvm() -> Check:
    if os.access("/dev/kvm", os.F_OK):
        return Check("KVM", "ok", "/dev/kvm", needed=True)
    return Check("KVM", "missing", "no /dev/kvm", "enable virtualisation and load kvm_intel or kvm_amd", needed=True)


def _btf() -> Check:
    if _BTF.exists():
        return Check("BTF", "ok", str(_BTF), needed=True)
    return Check("BTF", "missing", f"no {_BTF}", "use a kernel built with CONFIG_DEBUG_INFO_BTF=y", needed=True)


def _tracefs() -> Check:
    try:
        found = tracefs()
    except TracefsError as error:
        return Check("tracepoints", "missing", error.message, error.hint, needed=True)
    if not (found.events / "kvm").is_dir():
        return Check("tracepoints", "missing", "no KVM tracepoints in tracefs", "load KVM (modprobe kvm)", needed=True)
    if found.own:
        own = "no tracefs is mounted here: exitscope mounts its own, which no other process sees"
        return Check("tracepoints", "ok", own, needed=True)
    return Check("tracepoints", "ok", f"{found.events}/kvm", needed=True)


def _bcc() -> Check:
    if importlib.util.find_spec("bcc") is None:
        return Check("bcc", "missing", "no bcc for this Python", bcc_remedy(), needed=True)
    try:
        import bcc

        return Check("bcc", "ok", f"version {getattr(bcc, '__version__', 'unknown')}", needed=True)
    except (ImportError, OSError) as error:
        return Check("bcc", "missing", f"bcc cannot be imported ({error})", "reinstall python3-bpfcc", needed=True)


def _headers() -> Check:
    release = platform.release()
    if Path(f"/lib/modules/{release}/build").exists():
        return Check("kernel headers", "ok", f"/lib/modules/{release}/build exists (not needed)")
    if Path("/usr/include/linux/types.h").exists():
        return Check("kernel headers", "ok", "none of this kernel; exitscope brings a small tree of its own")
    return Check(
        "kernel headers",
        "missing",
        "no linux/types.h to compile with",
        "apt-get install linux-libc-dev",
        needed=True,
    )


def _userfaultfd() -> Check:
    allowed = _read("/proc/sys/vm/unprivileged_userfaultfd").strip()
    device = os.path.exists("/dev/userfaultfd")
    if not allowed:
        return Check("userfaultfd", "missing", "this kernel has none", "use one built with CONFIG_USERFAULTFD=y")
    if allowed == "1":
        return Check("userfaultfd", "ok", "for every user")
    return Check(
        "userfaultfd",
        "ok",
        "for root"
        + (", and for those who may open /dev/userfaultfd" if device else "")
        + "; others see user-mode faults only (vm.unprivileged_userfaultfd=0)",
    )


def _lockdown() -> Check:
    text = _read("/sys/kernel/security/lockdown").strip()
    mode = text.partition("[")[2].partition("]")[0] if "[" in text else "none"
    if mode == "confidentiality":
        return Check(
            "lockdown",
            "missing",
            "confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity or none",
            needed=True,
        )
    return Check("lockdown", "ok", mode if text else "not built in")


def _already_running() -> Check:
    """Yama's scope 3 forbids /proc/PID/syscall even to CAP_SYS_PTRACE (security/yama/yama_lsm.c)."""
    if _read("/proc/sys/kernel/yama/ptrace_scope").strip() != "3":
        return Check("running vCPUs", "ok", "those that ran before the collector are found")
    return Check(
        "running vCPUs",
        "missing",
        "kernel.yama.ptrace_scope=3: those that ran before the collector are not seen until they have left KVM_RUN",
        "start the collector before the VMs (this setting can only be lowered by booting anew)",
    )


def _memlock() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY or os.geteuid() == 0:
        return Check("memlock", "ok", "unlimited" if soft == resource.RLIM_INFINITY else "can be raised")
    return Check("memlock", "note", f"limited to {hard >> 10} KiB", "kernels before 5.11 need LimitMEMLOCK=infinity")


def _bpf_stats() -> Check:
    on = _read("/proc/sys/kernel/bpf_stats_enabled").strip() == "1"
    if on:
        return Check(
            "BPF statistics",
            "note",
            "on: every BPF program costs some 20 ns more",
            "sysctl kernel.bpf_stats_enabled=0",
        )
    return Check("BPF statistics", "ok", "off (they cost time; `make bench` turns them on while it runs)")


def _migrations() -> Check:
    found = survey_monitors(Proc())
    remedy = "give QEMU a second monitor, -qmp unix:PATH,server=on,wait=off, that the collector may write to"
    return Check("migrations", "ok" if found and not any(map(itemgetter(1), found)) else "note", told(found), remedy)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


_NEEDED: Final[tuple[Callable[[], Check], ...]] = (
    _namespaces,
    _privileges,
    _kvm,
    _btf,
    _tracefs,
    _addresses,
    _bcc,
    _headers,
    _lockdown,
)
_WORTH_KNOWING: Final[tuple[Callable[[], Check], ...]] = (
    _userfaultfd,
    _already_running,
    _memlock,
    _bpf_stats,
    _migrations,
)

"""What this host can show, and what to do about what it cannot: `exitscope doctor`."""

import importlib.util
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal

from . import profiles
from .bccpackage import remedy as bcc_remedy
from .errors import ProbeError
from .monitorcheck import survey as survey_monitors
from .monitorcheck import told
from .plan import HookStatus, survey
from .procfs import Proc
from .tracefs import TracefsError, tracefs

_CAP_PERFMON, _CAP_BPF, _CAP_SYS_ADMIN = 38, 39, 21  # include/uapi/linux/capability.h
_BTF: Final = Path("/sys/kernel/btf/vmlinux")

State = Literal["ok", "missing", "note"]
_MARKS: Final[dict[str, str]] = {"ok": "✓", "missing": "✗", "note": "·"}


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


def report() -> dict[str, Any]:
    """All of it as plain data: {"usable", "reason", "kernel", "machine", "checks", "hooks", "profile", …}."""
    reason = usable()
    return {
        "usable": reason is None,
        "reason": reason,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "checks": [asdict(check) for check in checks()],
        "hooks": [asdict(hook) for hook in _hooks()[0]],
        "hooks_error": _hooks()[1],
        "profile": profiles.of_this_kernel(),
    }


def main(as_json: bool = False) -> int:
    """Print the report; 0 if live tracing is possible, else 1."""
    found = report()
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        print()
    else:
        print("\n".join(_lines(found)))
    return 0 if found["usable"] else 1


def _lines(found: dict[str, Any]) -> list[str]:
    rows = [(c["state"], c["name"], c["detail"], c["remedy"] if c["state"] != "ok" else "") for c in found["checks"]]
    lines = [f"exitscope on Linux {found['kernel']}, {found['machine']}", "", *_aligned(rows), "", "Hooks"]
    hooks = []
    for hook in found["hooks"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in hook["passed_over"])
        if hook["status"] == "attached":
            hooks.append(("ok", hook["title"], hook["attachment"], _passed_over(hook["passed_over"])))
        else:
            state = "missing" if hook["essential"] else "note"
            hooks.append((state, hook["title"], reasons or hook["status"], f"without it: {hook['effect']}"))
    lines += _aligned(hooks) if hooks else [f"  ✗ {found['hooks_error']}"]
    lines += ["", "How this kernel tells userspace of a guest's fault", *_profile_lines(found["profile"])]
    verdict = "live tracing works here" if found["usable"] else f"no live tracing here: {found['reason']}"
    return [*lines, "", verdict]


def _passed_over(candidates: list[tuple[str, str]]) -> str:
    """Why nothing better was taken: `not by fentry: this kernel …; not by kprobe: …`."""
    reasons = {_way(name): reason for name, reason in candidates}
    return "; ".join(f"not by {way}: {reason}" for way, reason in reasons.items())


def _way(name: str) -> str:
    """Of `tracepoint:a+fexit:b` what makes it special: fexit."""
    ways = [part.partition(":")[0] for part in name.split("+")]
    return next((way for way in ways if way != "tracepoint"), "tracepoint")


def _profile_lines(profile: dict[str, Any]) -> list[str]:
    mark = _MARKS["note" if profile["name"].startswith("unknown") else "ok"]
    lines = [f"  {mark} {profile['name']}: {profile['title']}"]
    if profile["evidence"]:
        lines.append(f"    recognised by {', '.join(profile['evidence'])}")
    named = [f"exit flag 1 << {bit} is {name}" for bit, name in profile["exit_flags"].items()]
    named += [f"memslot flag 1 << {bit} is {name}" for bit, name in profile["memslot_flags"].items()]
    named += [f"capability {number} is {name}" for number, name in profile["capabilities"].items()]
    return [*lines, f"    {', '.join(named)}"] if named else lines


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    width = max(len(name) for _, name, _, _ in rows)
    lines = []
    for state, name, detail, remedy in rows:
        lines.append(f"  {_MARKS[state]} {name:{width}}  {detail}")
        if remedy:
            lines.append(f"    {'':{width}}  → {remedy}")
    return lines


def _hooks() -> tuple[tuple[HookStatus, ...], str]:
    try:
        return survey(), ""
    except ProbeError as error:
        return (), str(error)
    except OSError as error:
        return (), f"cannot be surveyed: {error.strerror}: {error.filename}"


def _privileges() -> Check:
    mask = next(
        (int(line.split()[1], 16) for line in _read("/proc/self/status").splitlines() if line.startswith("CapEff")),
        0,
    )
    held = [bool(mask >> capability & 1) for capability in (_CAP_BPF, _CAP_PERFMON, _CAP_SYS_ADMIN)]
    if held[2] or (held[0] and held[1]):
        who = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
        return Check("privileges", "ok", f"{who}, may load BPF programs", needed=True)
    return Check(
        "privileges",
        "missing",
        "no right to load BPF programs",
        "run as root (CAP_BPF and CAP_PERFMON)",
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
        return Check(
            "bcc",
            "missing",
            "no bcc for this Python",
            bcc_remedy(),
            needed=True,
        )
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
    _privileges,
    _kvm,
    _btf,
    _tracefs,
    _bcc,
    _headers,
    _lockdown,
)
_WORTH_KNOWING: Final[tuple[Callable[[], Check], ...]] = (_userfaultfd, _memlock, _bpf_stats, _migrations)

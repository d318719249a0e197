"""Attaches loaded programs (programs.py): by a link where their arguments are typed, else by a perf event."""

import ctypes
import fcntl
import os
import platform
from functools import cache
from pathlib import Path

from .btf import KernelBtf
from .hooks import Attachment
from .libbpf import checked, libbpf
from .libc import system_call
from .programs import load
from .tracefs import events

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")

# include/uapi/linux/perf_event.h, and the system call tables
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_SET_BPF, _PERF_EVENT_IOC_ENABLE = 0x40042408, 0x2400
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}

_NOTHING = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
_ANY_FUNCTION = "handle_userfault"


class _PerfEventAttributes(ctypes.Structure):
    """struct perf_event_attr up to PERF_ATTR_SIZE_VER1, the fields that we need."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("function", ctypes.c_uint64),  # config1: of a kprobe, the address of its name
        ("function_offset", ctypes.c_uint64),  # config2
    )


def attach(attachment: Attachment, program: int) -> int:
    """Attaches a loaded program where `attachment` says. Raises OSError.

    Returns a descriptor; closing it and the program's detaches.
    """
    target = attachment.target
    match attachment.via:
        case "raw_tracepoint" | "fentry" | "fexit":
            return checked(libbpf().bpf_raw_tracepoint_open(None, program), target)
        case "tracepoint":
            category, _, event = target.partition(":")
            number = int((events() / category / event / "id").read_text())
            return _attach_perf(_perf_attributes(_PERF_TYPE_TRACEPOINT, number), program, target)
        case "kprobe" | "kretprobe":
            function = ctypes.create_string_buffer(target.encode())
            attributes = _perf_attributes(int((_KPROBE_PMU / "type").read_text()), 0)
            attributes.config = attachment.via == "kretprobe"  # bit 0 of config, _KPROBE_PMU/format/retprobe
            attributes.function = ctypes.addressof(function)
            return _attach_perf(attributes, program, target)


def _perf_attributes(kind: int, config: int) -> _PerfEventAttributes:
    size = ctypes.sizeof(_PerfEventAttributes)
    return _PerfEventAttributes(type=kind, size=size, config=config, sample_period=1, wakeup=1)


def _attach_perf(attributes: _PerfEventAttributes, program: int, target: str) -> int:
    # Any one CPU: a BPF program belongs to the tracepoint, not to the CPU of the event that brings it there.
    number = _NR_PERF_EVENT_OPEN[platform.machine()]
    try:
        event = system_call(number, ctypes.byref(attributes), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"{target}: {error.strerror}") from None
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


@cache
def why_no_fentry(btf: KernelBtf) -> str | None:
    """Why no program can be attached to functions here, by trying one that does nothing; None if it can."""
    there = Attachment(_ANY_FUNCTION, "nothing", via="fentry")
    try:
        program = load(btf, there, _NOTHING)
        try:
            os.close(attach(there, program))
        finally:
            os.close(program)
    except OSError as error:
        return f"this kernel refuses fentry: {error.strerror or error}"
    return None


def why_no_kprobe() -> str | None:
    """Why there are no kprobes here; None if there are."""
    return None if _KPROBE_PMU.exists() else "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"

"""Loads and attaches compiled programs, through libbpf, on which bcc itself stands.

Those at raw tracepoints are BPF_PROG_TYPE_TRACING, which bcc 0.26 cannot load: their arguments are typed, so that they
follow kernel pointers with plain loads, at a tenth of the price of bpf_probe_read_kernel.
"""

import ctypes
import fcntl
import os
import platform
import re
from functools import cache
from pathlib import Path

from .btf import KernelBtf
from .hooks import Attachment
from .libbpf import checked, libbpf
from .tracefs import events

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")

_PROG_TYPE_TRACING = 26  # enum bpf_prog_type, include/uapi/linux/bpf.h
_TRACE_RAW_TP, _TRACE_FENTRY, _TRACE_FEXIT = 23, 24, 25  # enum bpf_attach_type, likewise
_PROG_TYPE_KPROBE = 2
_PROG_TYPE_RAW_TRACEPOINT = 17
_PROG_TYPE_TRACEPOINT = 5  # likewise

# include/uapi/linux/perf_event.h, and the system call tables
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_SET_BPF, _PERF_EVENT_IOC_ENABLE = 0x40042408, 0x2400
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}

_LOG_BYTES = 1 << 16
_LOG_STATS = 4  # BPF_LOG_STATS, include/linux/bpf_verifier.h: why it refuses, without every instruction
_INSTRUCTION_BYTES = 8
_SUMMARY = re.compile(r"processed \d+ insns|verification time|stack depth")
_NOTHING = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0; exit
_ANY_FUNCTION = "handle_userfault"


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf 1.x (src/bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_prog_fd", ctypes.c_uint32),
        ("attach_btf_obj_fd", ctypes.c_uint32),
        ("fd_array", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_cnt", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_void_p),
        ("line_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


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


class _BtfInfo(ctypes.Structure):
    """struct bpf_btf_info, include/uapi/linux/bpf.h."""

    _fields_ = (
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    )


def module_btf_fd(module: str) -> int:
    """Descriptor of a module's BTF; 0 stands for vmlinux's. Raises OSError where the kernel refuses it."""
    if module == "vmlinux":
        return 0
    btf_id = ctypes.c_uint32(0)
    while True:
        checked(libbpf().bpf_btf_get_next_id(btf_id, ctypes.byref(btf_id)), f"BTF of module {module}")
        fd = checked(libbpf().bpf_btf_get_fd_by_id(btf_id), f"BTF of module {module}")
        name = ctypes.create_string_buffer(64)
        info = _BtfInfo(name=ctypes.addressof(name), name_len=len(name))
        size = ctypes.c_uint32(ctypes.sizeof(info))
        checked(libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "BTF info")
        if info.kernel_btf and name.value.decode() == module:
            return fd
        os.close(fd)


def _load(kind: int, name: str, code: bytes, options: _LoadOptions) -> int:
    """Descriptor of a loaded program. Raises OSError, with the verifier's last line if it was that which refused."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options.sz = ctypes.sizeof(_LoadOptions)
    options.log_level, options.log_size, options.log_buf = _LOG_STATS, len(log), ctypes.cast(log, ctypes.c_void_p)
    count = len(code) // _INSTRUCTION_BYTES
    program = int(libbpf().bpf_prog_load(kind, name[:15].encode(), b"GPL", code, count, ctypes.byref(options)))
    if program < 0:
        lines = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        verifier = next((line for line in reversed(lines) if not _SUMMARY.match(line)), "")
        raise OSError(-program, f"{os.strerror(-program)} {verifier}".strip())
    return program


def _attach_typed(where: tuple[str, int] | None, kind: int, target: str, name: str, code: bytes) -> tuple[int, int]:
    if where is None:
        raise OSError(f"BTF has no {target}")
    module, type_id = where
    module_fd = module_btf_fd(module)
    options = _LoadOptions(expected_attach_type=kind, attach_btf_id=type_id, attach_btf_obj_fd=module_fd)
    try:
        program = _load(_PROG_TYPE_TRACING, name, code, options)
    finally:
        if module_fd:
            os.close(module_fd)
    link = libbpf().bpf_raw_tracepoint_open(None, program)
    if link < 0:
        os.close(program)
    return program, checked(link, target)


def _attach_perf(attributes: _PerfEventAttributes, program: int, target: str) -> tuple[int, int]:
    # Any one CPU: a BPF program belongs to the tracepoint, not to the CPU of the event that brings it there.
    event = ctypes.CDLL(None, use_errno=True).syscall(
        _NR_PERF_EVENT_OPEN[platform.machine()], ctypes.byref(attributes), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC
    )
    try:
        checked(event if event >= 0 else -ctypes.get_errno(), target)
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(program)
        if event >= 0:
            os.close(event)
        raise
    return program, event


def attach(btf: KernelBtf, attachment: Attachment, code: bytes) -> tuple[int, int]:
    """Loads a program and attaches it where `attachment` says.

    Returns two descriptors; closing both detaches. Raises OSError with the kernel's or the verifier's reason.
    """
    target, name = attachment.target, attachment.program
    match attachment.via:
        case "raw_tracepoint":
            return _attach_typed(btf.tracepoint(target), _TRACE_RAW_TP, target, name, code)
        case "fentry":
            return _attach_typed(btf.function(target), _TRACE_FENTRY, target, name, code)
        case "fexit":
            return _attach_typed(btf.function(target), _TRACE_FEXIT, target, name, code)
        case "tracepoint":
            category, _, event = target.partition(":")
            number = int((events() / category / event / "id").read_text())
            program = _load(_PROG_TYPE_TRACEPOINT, name, code, _LoadOptions())
            return _attach_perf(_perf_attributes(_PERF_TYPE_TRACEPOINT, number), program, target)
        case "kprobe" | "kretprobe":
            program = _load(_PROG_TYPE_KPROBE, name, code, _LoadOptions())
            function = ctypes.create_string_buffer(target.encode())
            attributes = _perf_attributes(int((_KPROBE_PMU / "type").read_text()), 0)
            attributes.config = attachment.via == "kretprobe"  # bit 0 of config, _KPROBE_PMU/format/retprobe
            attributes.function = ctypes.addressof(function)
            return _attach_perf(attributes, program, target)


def _perf_attributes(kind: int, config: int) -> _PerfEventAttributes:
    size = ctypes.sizeof(_PerfEventAttributes)
    return _PerfEventAttributes(type=kind, size=size, config=config, sample_period=1, wakeup=1)


class _RunOptions(ctypes.Structure):
    """struct bpf_test_run_opts of libbpf 1.x (src/bpf.h)."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        *((name, ctypes.c_uint32) for name in ("retval", "repeat", "duration", "flags", "cpu", "batch_size")),
    )


def load_unattached(name: str, code: bytes) -> int:
    """Descriptor of a program that `run_once` runs and nothing else. Raises OSError."""
    return _load(_PROG_TYPE_RAW_TRACEPOINT, name, code, _LoadOptions())


def run_once(program: int, argument: int) -> None:
    """Runs a program of load_unattached, since Linux 5.10. Raises OSError."""
    context = ctypes.c_uint64(argument)
    options = _RunOptions(sz=ctypes.sizeof(_RunOptions), ctx_size_in=ctypes.sizeof(context))
    options.ctx_in = ctypes.addressof(context)
    checked(libbpf().bpf_prog_test_run_opts(program, ctypes.byref(options)), "running a BPF program")


@cache
def why_no_fentry(btf: KernelBtf) -> str | None:
    """Why no program can be attached to functions here, by trying one that does nothing; None if it can."""
    try:
        for descriptor in attach(btf, Attachment(_ANY_FUNCTION, "nothing", via="fentry"), _NOTHING):
            os.close(descriptor)
    except OSError as error:
        return f"this kernel refuses fentry: {error.strerror or error}"
    return None


def why_no_kprobe() -> str | None:
    """Why there are no kprobes here; None if there are."""
    return None if _KPROBE_PMU.exists() else "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)"

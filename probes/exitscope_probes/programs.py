"""Loads compiled programs through libbpf, on which bcc itself stands: the verifier takes them, or says why not.

Those at raw tracepoints are BPF_PROG_TYPE_TRACING, which bcc 0.26 cannot load: their arguments are typed, so that they
follow kernel pointers with plain loads, at a tenth of the price of bpf_probe_read_kernel.
"""

import ctypes
import os
import re
from typing import Final

from .btf import KernelBtf
from .hooks import Attachment
from .libbpf import Options, checked, libbpf

# enum bpf_prog_type and enum bpf_attach_type, include/uapi/linux/bpf.h
KPROBE: Final = 2
TRACEPOINT: Final = 5
RAW_TRACEPOINT: Final = 17
TRACING: Final = 26
TRACE_RAW_TP: Final = 23
TRACE_FENTRY: Final = 24
TRACE_FEXIT: Final = 25

_LOG_BYTES = 1 << 16
_LOG_STATS = 4  # BPF_LOG_STATS, include/linux/bpf_verifier.h: why it refuses, without every instruction
_INSTRUCTION_BYTES = 8
_SUMMARY = re.compile(r"processed \d+ insns|verification time|stack depth")


class _LoadOptions(Options):
    """struct bpf_prog_load_opts."""

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


def checked_load(kind: int, name: str, code: bytes, **options: int) -> int:
    """Descriptor of a program that the verifier has taken. kind: enum bpf_prog_type; options: of _LoadOptions.

    Raises OSError, with the verifier's last line if it was that which refused.
    """
    log = ctypes.create_string_buffer(_LOG_BYTES)
    wanted = _LoadOptions(log_level=_LOG_STATS, log_size=len(log), log_buf=ctypes.addressof(log), **options)
    count = len(code) // _INSTRUCTION_BYTES
    program = int(libbpf().bpf_prog_load(kind, name[:15].encode(), b"GPL", code, count, ctypes.byref(wanted)))
    if program < 0:
        lines = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        verifier = next((line for line in reversed(lines) if not _SUMMARY.match(line)), "")
        raise OSError(-program, f"{os.strerror(-program)} {verifier}".strip())
    return program


def load(btf: KernelBtf, attachment: Attachment, code: bytes) -> int:
    """Descriptor of a program for this place, not attached yet. Raises OSError, as checked_load."""
    target, name = attachment.target, attachment.program
    match attachment.via:
        case "raw_tracepoint":
            return _load_typed(btf.tracepoint(target), TRACE_RAW_TP, target, name, code)
        case "fentry":
            return _load_typed(btf.function(target), TRACE_FENTRY, target, name, code)
        case "fexit":
            return _load_typed(btf.function(target), TRACE_FEXIT, target, name, code)
        case "tracepoint":
            return checked_load(TRACEPOINT, name, code)
        case "kprobe" | "kretprobe":
            return checked_load(KPROBE, name, code)


def _load_typed(where: tuple[str, int] | None, kind: int, target: str, name: str, code: bytes) -> int:
    if where is None:
        raise OSError(f"BTF has no {target}")
    module, type_id = where
    module_fd = module_btf_fd(module)
    try:
        return checked_load(
            TRACING, name, code, expected_attach_type=kind, attach_btf_id=type_id, attach_btf_obj_fd=module_fd
        )
    finally:
        if module_fd:
            os.close(module_fd)


class _RunOptions(Options):
    """struct bpf_test_run_opts."""

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
    return checked_load(RAW_TRACEPOINT, name, code)


def run_once(program: int, argument: int) -> None:
    """Runs a program of load_unattached, since Linux 5.10. Raises OSError."""
    context = ctypes.c_uint64(argument)
    options = _RunOptions(ctx_size_in=ctypes.sizeof(context))
    options.ctx_in = ctypes.addressof(context)
    checked(libbpf().bpf_prog_test_run_opts(program, ctypes.byref(options)), "running a BPF program")

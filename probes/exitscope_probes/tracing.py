"""Loads and attaches programs with typed arguments (BPF_PROG_TYPE_TRACING), which bcc 0.26 cannot.

bcc compiles them; libbpf, which bcc itself stands on, loads them here. Typed arguments let a program follow kernel
pointers with plain loads, at a tenth of the price of bpf_probe_read_kernel.
"""

import ctypes
import os

from .btf import KernelBtf

_PROG_TYPE_TRACING = 26  # enum bpf_prog_type, include/uapi/linux/bpf.h
_TRACE_RAW_TP = 23  # enum bpf_attach_type, likewise
_LOG_BYTES = 1 << 20
_INSTRUCTION_BYTES = 8


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


_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
_lib.bpf_prog_load.argtypes = (
    *(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t),
    ctypes.POINTER(_LoadOptions),
)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def _module_btf_fd(module: str) -> int:
    """Descriptor of a module's BTF; 0 stands for vmlinux's."""
    if module == "vmlinux":
        return 0
    btf_id = ctypes.c_uint32(0)
    while True:
        _checked(_lib.bpf_btf_get_next_id(btf_id, ctypes.byref(btf_id)), f"BTF of module {module}")
        fd = _checked(_lib.bpf_btf_get_fd_by_id(btf_id), f"BTF of module {module}")
        name = ctypes.create_string_buffer(64)
        info = _BtfInfo(name=ctypes.addressof(name), name_len=len(name))
        size = ctypes.c_uint32(ctypes.sizeof(info))
        _checked(_lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)), "BTF info")
        if info.kernel_btf and name.value.decode() == module:
            return fd
        os.close(fd)


def attach_tracepoint(btf: KernelBtf, target: str, name: str, code: bytes) -> tuple[int, int]:
    """Loads a program's instructions and attaches it to the raw tracepoint `target`.

    Returns the descriptors of program and link; closing both detaches. Raises OSError, with the verifier's last
    line if it was the verifier that refused.
    """
    found = btf.tracepoint(target)
    if found is None:
        raise OSError(f"this kernel has no tracepoint {target}")
    module, type_id = found
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options = _LoadOptions(
        sz=ctypes.sizeof(_LoadOptions),
        expected_attach_type=_TRACE_RAW_TP,
        attach_btf_id=type_id,
        attach_btf_obj_fd=_module_btf_fd(module),
        log_size=len(log),
        log_buf=ctypes.cast(log, ctypes.c_void_p),
    )
    count = len(code) // _INSTRUCTION_BYTES
    try:
        program = _lib.bpf_prog_load(_PROG_TYPE_TRACING, name.encode()[:15], b"GPL", code, count, ctypes.byref(options))
    finally:
        if options.attach_btf_obj_fd:
            os.close(options.attach_btf_obj_fd)
    if program < 0:
        lines = [line for line in log.value.decode(errors="replace").splitlines() if line.strip()]
        verifier = lines[-2] if len(lines) > 1 else "".join(lines)
        raise OSError(-program, f"{os.strerror(-program)} {verifier}".strip())
    link = _lib.bpf_raw_tracepoint_open(None, program)
    if link < 0:
        os.close(program)
    return program, _checked(link, f"tracepoint {target}")

"""libbpf, which is there wherever bcc is: BTF, maps and typed programs go through it."""

import ctypes
import os
from functools import lru_cache

from .errors import ProbeError


@lru_cache(maxsize=1)
def libbpf() -> ctypes.CDLL:
    """The library, with the argument types of what we call. Raises ProbeError if it is missing."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise ProbeError("libbpf is not installed", "apt-get install libbpf1") from None
    pointer, u32, text = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p
    for name, result, arguments in (
        ("btf__parse", pointer, (text, pointer)),
        ("btf__parse_split", pointer, (text, pointer)),
        ("btf__type_by_id", pointer, (pointer, u32)),
        ("btf__name_by_offset", text, (pointer, u32)),
        ("btf__find_by_name_kind", ctypes.c_int, (pointer, text, u32)),
        ("bpf_map_create", ctypes.c_int, (ctypes.c_int, text, u32, u32, u32, pointer)),
        ("bpf_map_update_elem", ctypes.c_int, (ctypes.c_int, pointer, pointer, ctypes.c_uint64)),
        ("bpf_map_lookup_elem", ctypes.c_int, (ctypes.c_int, pointer, pointer)),
        ("bpf_map_lookup_and_delete_elem", ctypes.c_int, (ctypes.c_int, pointer, pointer)),
        ("bpf_map_delete_elem", ctypes.c_int, (ctypes.c_int, pointer)),
        ("bpf_map_get_next_key", ctypes.c_int, (ctypes.c_int, pointer, pointer)),
        ("bpf_prog_load", ctypes.c_int, (ctypes.c_int, text, text, text, ctypes.c_size_t, pointer)),
        ("bpf_prog_test_run_opts", ctypes.c_int, (ctypes.c_int, pointer)),
        ("bpf_raw_tracepoint_open", ctypes.c_int, (text, ctypes.c_int)),
        ("bpf_btf_get_next_id", ctypes.c_int, (u32, pointer)),
        ("bpf_btf_get_fd_by_id", ctypes.c_int, (u32,)),
        ("bpf_obj_get_info_by_fd", ctypes.c_int, (ctypes.c_int, pointer, pointer)),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.libbpf_set_print(None)
    lib.libbpf_set_strict_mode(0xFFFFFFFF)  # LIBBPF_STRICT_ALL: NULL and -errno, nothing encoded
    return lib


class Options(ctypes.Structure):
    """One of libbpf 1.x's option structs (src/bpf.h), which begin with their own size."""

    def __init__(self, **fields: int) -> None:
        super().__init__(sz=ctypes.sizeof(self), **fields)


class _CreateOptions(Options):
    """struct bpf_map_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        *((name, ctypes.c_uint32) for name in ("btf_fd", "btf_key", "btf_value", "btf_vmlinux_value")),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


def create_map(
    kind: int, name: str, key_bytes: int, value_bytes: int, entries: int, flags: int = 0, inner: int = 0
) -> int:
    """Descriptor of a new map. kind: enum bpf_map_type; inner: of a map of maps, one like those. Raises OSError."""
    options = _CreateOptions(map_flags=flags, inner_map_fd=inner)
    fd = libbpf().bpf_map_create(kind, name[:15].encode(), key_bytes, value_bytes, entries, ctypes.byref(options))
    return checked(fd, f"map {name}")


def checked(result: int, what: str) -> int:
    """The result of a libbpf call. Raises OSError if it is a negative errno."""
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result

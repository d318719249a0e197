"""Array maps that grow with use: the kernel allocates a plain array at once, and never moves it."""

import ctypes
import mmap
import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .libbpf import checked, create_map, libbpf
from .libc import libc

_ARRAY, _ARRAY_OF_MAPS, _MMAPABLE = 2, 12, 1 << 10  # include/uapi/linux/bpf.h
_MAP_FIXED: Final = 0x10  # include/uapi/asm-generic/mman-common.h
SLOTS_PER_CHUNK: Final = 64
"""So that the chunks of entries of whole cache lines are whole pages."""


class ChunkedArray:
    """An array of mappable arrays of SLOTS_PER_CHUNK entries each. Raises OSError where the kernel refuses it.

    fd: the outer map. view: (entries,) of dtype, shared with the kernel as far as it has grown, zero behind that.
    """

    def __init__(self, name: str, dtype: np.dtype[Any], entries: int) -> None:
        self._name, self._dtype = name, dtype
        self.chunks = -(-entries // SLOTS_PER_CHUNK)
        self._chunk_bytes = dtype.itemsize * SLOTS_PER_CHUNK
        assert self._chunk_bytes % mmap.PAGESIZE == 0
        self.grown = 0
        first = self._chunk()
        try:
            self.fd = create_map(_ARRAY_OF_MAPS, name, 4, 4, self.chunks, inner=first)
        finally:
            os.close(first)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # untouched pages take no memory
        self._region = np.frombuffer(mmap.mmap(-1, self.chunks * self._chunk_bytes, flags=flags), np.uint8)
        self.view: npt.NDArray[Any] = self._region.view(dtype)[:entries]

    def grow(self) -> bool:
        """Add a chunk; False if all are there. Raises OSError when the kernel has no memory for it."""
        if self.grown == self.chunks:
            return False
        chunk = self._chunk()
        try:
            key, value = ctypes.c_uint32(self.grown), ctypes.c_uint32(chunk)
            address = self._region.ctypes.data + self.grown * self._chunk_bytes
            access = mmap.PROT_READ | mmap.PROT_WRITE
            libc(
                "mmap", ctypes.c_void_p(address), ctypes.c_size_t(self._chunk_bytes), access,
                mmap.MAP_SHARED | _MAP_FIXED, chunk, ctypes.c_long(0), result=ctypes.c_void_p,
            )  # fmt: skip
            updated = libbpf().bpf_map_update_elem(self.fd, ctypes.byref(key), ctypes.byref(value), 0)
            checked(updated, f"map {self._name}")
        finally:
            os.close(chunk)  # the outer map and the mapping keep it
        self.grown += 1
        return True

    def _chunk(self) -> int:
        return create_map(_ARRAY, self._name, 4, self._dtype.itemsize, SLOTS_PER_CHUNK, _MMAPABLE)

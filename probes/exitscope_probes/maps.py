"""The BPF maps: made here, handed to the programs by descriptor, read and tidied from here.

Their entries are the structs of bpf/events.h and bpf/maps.h; bpf/maps.h asserts the sizes given here. Making them
ourselves and not through bcc halves the time to compile.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .chunks import SLOTS_PER_CHUNK, ChunkedArray
from .libbpf import checked, create_map, libbpf
from .records import FAULT_DTYPE, HARDWARE_ROW_DTYPE, HISTOGRAM_DTYPE, SERIES, VCPU_DTYPE, VM_DTYPE

# enum bpf_map_type and flags, include/uapi/linux/bpf.h
_HASH, _ARRAY, _PROG_ARRAY, _PERCPU_ARRAY, _LRU_HASH, _QUEUE, _RINGBUF = 1, 2, 3, 6, 9, 22, 27
_MMAPABLE = 1 << 10

_PLACE = 1 << 20  # stands for the first map's descriptor in compiled code

# struct bpf_insn, likewise; BPF_LD | BPF_IMM | BPF_DW with src_reg BPF_PSEUDO_MAP_FD loads a map's address
_INSTRUCTION_DTYPE = np.dtype([("opcode", "u1"), ("registers", "u1"), ("offset", "<i2"), ("immediate", "<i4")])
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1

TIDS_PER_PAGE: Final = 512
MAX_PENDING: Final = 65536
WAITING_ENTRIES: Final = 8192
VMS_PER_MEMORY: Final = 32
NO_SLOT: Final = 0xFFFFFFFF
MAX_THREADS: Final = 0xFFFF - 1  # struct tid_page numbers them from 1
MAX_USERS: Final = 4096
MAX_NOT_COUNTED: Final = 8192
_PID_MAX_LIMIT: Final = 1 << 22  # include/linux/threads.h: kernel.pid_max may be raised to it at any time

THREAD_DTYPE: Final = np.dtype(
    {
        "names": ["tid", "self", "slot", "vcpu_id", "vcpu", "run_fd", "reader_mm"],
        "formats": ["<u4"] * 4 + ["<u8", "<u4", "<u8"],
        "offsets": [0, 4, 8, 16, 176, 184, 472],
        "itemsize": 512,
    }
)
"""struct thread, as far as upkeep.py needs it."""

PENDING_DTYPE: Final = np.dtype(
    [
        *((name, "<u8") for name in ("read_ns", "last_read_ns", "fill_begin_ns", "fill_end_ns")),
        *((name, "<u4") for name in ("reads", "claims", "named", "asyncs", "handler_tid")),
        ("resolver", "<u4"),
        ("presence", "<u2"),
        ("access", "u1"),
        ("shared", "u1"),
        ("range", "<u4"),
    ]
)
"""struct pending."""

MEMORY_VMS_DTYPE: Final = np.dtype([("made", "<u4"), ("slot", "<u4", (VMS_PER_MEMORY,)), ("reserved", "<u4")])
"""struct memory_vms."""

PAGE_KEY_DTYPE: Final = np.dtype([("mm", "<u8"), ("page", "<u8")])
ASYNC_KEY_DTYPE: Final = np.dtype([("slot", "<u4"), ("reserved", "<u4"), ("address", "<u8")])
WAITING_DTYPE: Final = np.dtype([("page", "<u8"), ("tid", "<u4"), ("reserved", "<u4")])
SHARE_DTYPE: Final = np.dtype([("taken", "<u4", (2,)), ("not_counted", "<u4"), ("reserved", "<u4")])
"""struct share; taken: VMs and vCPUs."""
FREE_SLOT_DTYPE: Final = np.dtype([("slot", "<u4"), ("vm", "<u4")])
ONLY_DTYPE: Final = np.dtype([("tgid", "<u8"), ("cgroup", "<u8")])
TID_PAGE_DTYPE: Final = np.dtype(("<u2", (TIDS_PER_PAGE,)))
_U32, _U64 = np.dtype("<u4"), np.dtype("<u8")
_NONE = np.dtype([])


@dataclass(frozen=True, slots=True)
class Map:
    """One map. key and value: dtypes of its entries."""

    name: str
    fd: int
    key: np.dtype[Any]
    value: np.dtype[Any]
    entries: int

    def get(self, key: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
        """The value at a key of shape (), None if there is none."""
        value = np.zeros((), self.value)
        found = libbpf().bpf_map_lookup_elem(self.fd, _address(key), _address(value)) == 0
        return value if found else None

    def put(self, key: npt.NDArray[Any], value: npt.NDArray[Any]) -> None:
        """Sets the value at a key. Raises OSError when the map is full."""
        checked(libbpf().bpf_map_update_elem(self.fd, _address(key), _address(value), 0), f"map {self.name}")

    def delete(self, key: npt.NDArray[Any]) -> bool:
        """Whether there was an entry to delete."""
        return bool(libbpf().bpf_map_delete_elem(self.fd, _address(key)) == 0)

    def push(self, value: npt.NDArray[Any]) -> None:
        """Appends to a queue. Raises OSError when it is full."""
        checked(libbpf().bpf_map_update_elem(self.fd, None, _address(value), 0), f"map {self.name}")

    def pop(self) -> npt.NDArray[Any]:
        """Takes from a queue. Raises OSError when it is empty."""
        value = np.zeros((), self.value)
        checked(libbpf().bpf_map_lookup_and_delete_elem(self.fd, None, _address(value)), f"map {self.name}")
        return value

    def walk(self) -> Iterator[npt.NDArray[Any]]:
        """The keys of a hash, at most as many as fit: one that changes meanwhile can be walked twice."""
        key = None
        for _ in range(self.entries):
            following = np.zeros((), self.key)
            if libbpf().bpf_map_get_next_key(self.fd, None if key is None else _address(key), _address(following)):
                return
            yield following
            key = following

    def index(self, number: int) -> npt.NDArray[Any]:
        """A key of an integer map."""
        return np.array(number, self.key)


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


class Maps:
    """Every map of the probes, by name. Raises OSError where the kernel refuses one."""

    def __init__(self, ring_bytes: int, max_vcpus: int, max_vms: int) -> None:
        pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
        self._by_name: dict[str, Map] = {}
        threads = min(8 * max_vcpus, MAX_THREADS)
        tid_pages = -(-max(pid_max, _PID_MAX_LIMIT) // TIDS_PER_PAGE)
        self._make("records", _RINGBUF, _NONE, _NONE, ring_bytes)
        self._make("vcpu_totals", _ARRAY, _U32, VCPU_DTYPE, max_vcpus, _MMAPABLE)
        self.histograms = self._grows(
            "vcpu_histograms", np.dtype((np.void, SERIES * HISTOGRAM_DTYPE.itemsize)), max_vcpus
        )
        self.hardware = self._grows("hardware_exits", HARDWARE_ROW_DTYPE, max_vcpus)
        self._make("vm_totals", _ARRAY, _U32, VM_DTYPE, max_vms, _MMAPABLE)
        self._make("losses", _ARRAY, _U32, np.dtype(("<u8", (8,))), 1, _MMAPABLE)
        # These can be mapped so that they are aligned to cache lines; threads also for seeding.
        self._make("tids", _ARRAY, _U32, TID_PAGE_DTYPE, tid_pages, _MMAPABLE)
        self._make("threads", _ARRAY, _U32, THREAD_DTYPE, threads, _MMAPABLE)
        self._make("settings", _ARRAY, _U32, np.dtype(("<u8", (10,))), 1)
        self._make("shares", _HASH, _U32, SHARE_DTYPE, MAX_USERS)
        self._make("shares_returned", _HASH, _U32, SHARE_DTYPE, MAX_USERS)
        self._make("vm_users", _ARRAY, _U32, _U32, max_vms)
        self._make("vcpu_users", _ARRAY, _U32, _U32, max_vcpus)
        self._make("not_counted", _LRU_HASH, _U64, _U32, MAX_NOT_COUNTED)
        self._make("only", _ARRAY, _U32, ONLY_DTYPE, 1)
        self._make("pendings_forgotten", _ARRAY, _U32, _U64, 1)
        self._make("scratch", _PERCPU_ARRAY, _U32, FAULT_DTYPE, 1)
        self._make("free_vcpus", _QUEUE, _NONE, FREE_SLOT_DTYPE, max_vcpus)
        self._make("free_vms", _QUEUE, _NONE, FREE_SLOT_DTYPE, max_vms)
        self._make("free_threads", _QUEUE, _NONE, FREE_SLOT_DTYPE, threads)
        self._make("vcpu_slots", _HASH, _U64, _U32, max_vcpus)
        self._make("vm_slots", _HASH, _U64, _U32, max_vms)
        self._make("vm_slots_by_mm", _HASH, _U64, MEMORY_VMS_DTYPE, max_vms)
        self._make("exited", _ARRAY, _U32, np.dtype(("<u4", (32,))), max_vms)
        self._make("no_vms", _ARRAY, _U32, MEMORY_VMS_DTYPE, 1)
        self._make("pendings", _HASH, PAGE_KEY_DTYPE, PENDING_DTYPE, MAX_PENDING)
        self._make("async_waits", _HASH, ASYNC_KEY_DTYPE, np.dtype(("<u8", (5,))), MAX_PENDING)
        self._make("resting", _HASH, _U64, _U32, max_vcpus)
        self._make("further", _PROG_ARRAY, _U32, _U32, 1)
        self._make("further_typed", _PROG_ARRAY, _U32, _U32, 1)
        self._make("waiting", _ARRAY, _U32, WAITING_DTYPE, WAITING_ENTRIES)

    def _make(
        self, name: str, kind: int, key: np.dtype[Any], value: np.dtype[Any], entries: int, flags: int = 0
    ) -> None:
        try:
            fd = create_map(kind, name, key.itemsize, value.itemsize, entries, flags)
        except OSError:
            self.close()
            raise
        self._by_name[name] = Map(name, fd, key, value, entries)

    def _grows(self, name: str, value: np.dtype[Any], entries: int) -> ChunkedArray:
        try:
            array = ChunkedArray(name, value, entries)
        except OSError:
            self.close()
            raise
        self._by_name[name] = Map(name, array.fd, _U32, _U32, array.chunks)
        return array

    def __getitem__(self, name: str) -> Map:
        return self._by_name[name]

    def defines(self) -> dict[str, int]:
        """What bpf/maps.h is told of them."""
        fields = THREAD_DTYPE.fields
        assert fields
        numbers = {f"OFFSET_{name}": int(fields[name][1]) for name in ("run_fd", "reader_mm")}
        numbers["SLOTS_PER_CHUNK"] = SLOTS_PER_CHUNK
        for number, (name, made) in enumerate(self._by_name.items()):
            numbers[f"FD_{name}"] = _PLACE + number
            numbers |= {f"KEY_{name}": made.key.itemsize, f"VALUE_{name}": made.value.itemsize}
            numbers[f"ENTRIES_{name}"] = made.entries
        return numbers

    def relocate(self, code: bytes) -> bytes:
        """A program's instructions with the maps' descriptors in them, which are others at every start."""
        instructions = np.frombuffer(code, _INSTRUCTION_DTYPE).copy()
        loads = (instructions["opcode"] == _LD_IMM64) & (instructions["registers"] >> 4 == _PSEUDO_MAP_FD)
        descriptors = np.array([made.fd for made in self._by_name.values()], np.int32)
        instructions["immediate"][loads] = descriptors[instructions["immediate"][loads] - _PLACE]
        return instructions.tobytes()

    def close(self) -> None:
        """Closes the descriptors; a map lives on as long as a program uses it."""
        for made in self._by_name.values():
            os.close(made.fd)
        self._by_name = {}


def map_array(fd: int, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    """A mappable array map as (length,) of dtype, shared with the kernel: reads and writes go straight to it."""
    size_bytes = -(-length * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    mapped = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    return np.frombuffer(mapped, dtype, length)

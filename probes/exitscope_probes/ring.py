"""Reading a BPF ring buffer in batches through numpy: no Python per record.

The map's fd maps as (kernel/bpf/ringbuf.c, ringbuf_map_mmap_user): one page that holds the consumer position,
ours to write; then one page that holds the producer position and the data twice over, read-only, so that a
batch never wraps. A record is an 8-byte header, whose first u32 is the payload's length with
BPF_RINGBUF_BUSY_BIT and BPF_RINGBUF_DISCARD_BIT on top (include/uapi/linux/bpf.h), and the payload, together
rounded up to 8 bytes.

Ordering: a producer publishes its position after the busy header, and clears BUSY after the payload. We load
in the opposite order (position, headers, payloads) and store our position last. On x86 loads stay in program
order, and so does a store after loads: plain numpy accesses are enough. A weaker machine needs barriers here.
"""

import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .errors import RingError
from .records import RECORD_FAULT

HEADER_BYTES: Final = 8
BUSY_BIT: Final = 1 << 31
DISCARD_BIT: Final = 1 << 30
_LENGTH_MASK: Final = DISCARD_BIT - 1
_PAGE: Final = mmap.PAGESIZE
_RUN_RECORDS: Final = 4096  # a run that stays in the processor's second-level cache between check and copy


class RingReader:
    """The one consumer of a ring whose records all have one dtype.

    fd: a BPF_MAP_TYPE_RINGBUF (or a file laid out like its mapping); size_bytes: its max_entries; dtype: of
    the payload, which begins with u2 fields `type` and `size`; record_type: the only `type` there is.
    """

    def __init__(self, fd: int, size_bytes: int, dtype: np.dtype[Any], record_type: int = RECORD_FAULT) -> None:
        consumer = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        producer = mmap.mmap(fd, _PAGE + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = np.frombuffer(consumer, np.uint64, 1)
        self._producer = np.frombuffer(producer, np.uint64, 1)
        self._data = np.frombuffer(producer, np.uint8, 2 * size_bytes, _PAGE)
        self._position = int(self._consumer[0])
        self._dtype = dtype
        self._stride = HEADER_BYTES + _round_up(dtype.itemsize)
        self._opaque = np.dtype(f"V{dtype.itemsize}")  # numpy copies a struct field by field, seven times slower
        self._slot = np.dtype(
            {
                "names": ["length", "tag", "record"],
                "formats": ["<u4", "<u4", self._opaque],
                "offsets": [0, HEADER_BYTES, HEADER_BYTES],
                "itemsize": self._stride,
            }
        )
        self._tag = record_type | dtype.itemsize << 16  # the fields type and size as one u32
        self._record_type = record_type
        self.size_bytes = size_bytes

    @property
    def fill(self) -> float:
        """Share of the ring that holds records not yet read, 0..1."""
        return self._available() / self.size_bytes

    def read(self, max_records: int) -> npt.NDArray[Any]:
        """The next finished records, at most max_records, as a copy of shape (n,) in the reader's dtype.

        Stops before a record that is still being written; skips discarded ones. Raises RingError at a record
        of another type or size, once the good ones before it have been returned by an earlier call;
        `skip_bad` goes on behind it.
        """
        limit = min(max_records, self.size_bytes // self._stride)
        batch = np.empty(limit, self._opaque)
        count = 0
        while True:
            taken = self._take_run(batch[count : count + _RUN_RECORDS])
            count += taken
            if taken == 0 and not (self._available() and count < limit and self._pass_odd(count > 0)):
                return batch[:count].view(self._dtype)

    def skip_bad(self) -> int:
        """Go on behind the record that raised RingError, behind everything if its length is absurd too.

        Returns how many bytes were given up.
        """
        start = self._position % self.size_bytes
        length = int(self._data[start : start + 4].view("<u4")[0])
        skipped = min(HEADER_BYTES + _round_up(length & _LENGTH_MASK), self._available())
        self._release(skipped)
        return skipped

    def _take_run(self, target: npt.NDArray[Any]) -> int:
        """Copy the whole, equal records at the position, as many as fit and come before anything else."""
        count = min(self._available() // self._stride, len(target))
        start = self._position % self.size_bytes
        slots = self._data[start : start + count * self._stride].view(self._slot)
        slots = _leading(slots, slots["length"] == self._dtype.itemsize)
        slots = _leading(slots, slots["tag"] == self._tag)
        target[: len(slots)] = slots["record"]
        self._release(len(slots) * self._stride)
        return len(slots)

    def _pass_odd(self, stop_at_error: bool) -> bool:
        """Deal with the record at the position, which ended a run; True if reading can go on."""
        start = self._position % self.size_bytes
        length, _, tag = (int(word) for word in self._data[start : start + 12].view("<u4"))
        if length & BUSY_BIT:
            return False
        payload_bytes = length & _LENGTH_MASK
        whole_bytes = HEADER_BYTES + _round_up(payload_bytes)
        if whole_bytes <= self._available():
            if length & DISCARD_BIT:
                self._release(whole_bytes)
                return True
            if payload_bytes == self._dtype.itemsize and tag == self._tag:
                return True  # it was busy when the run was taken, and has been finished since
        if stop_at_error:
            return False
        raise RingError(
            f"ring record of type {tag & 0xFFFF} and {payload_bytes} bytes (by its own field {tag >> 16}), "
            f"expected type {self._record_type} and {self._dtype.itemsize} bytes",
            "install the kernel side and the collector from one release",
        )

    def _available(self) -> int:
        return int(self._producer[0]) - self._position

    def _release(self, count_bytes: int) -> None:
        self._position += count_bytes
        self._consumer[0] = self._position


def _leading(slots: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    return slots if good.all() else slots[: int(np.argmin(good))]


def _round_up(size_bytes: int) -> int:
    return size_bytes + 7 & ~7

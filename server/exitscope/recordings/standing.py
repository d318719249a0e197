"""Per slot of time: how long each vCPU stood still, the most at once, and where in guest memory the faults were."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .columns import OTHER_THREADS, codes_of
from .slots import MAX_SLOTS, Int64s

BINS: Final = 256
_PAGE_BYTES: Final = 4096
_MAX_VMS: Final = 64
_HIGHEST_GPA: Final = 1 << 52
"""No processor has more physical address bits."""
_LONGEST_NS: Final = 1 << 52
_MAX_OPEN: Final = 1 << 16

ALL_VMS: Final = -1


class Standing:
    """Filled like DigestLog, with its slots. stall_ns: (slots, who); peaks: (slots, VMs, the last all); gpa: per VM."""

    def __init__(self, slot_ns: int) -> None:
        self.bin_bytes = _PAGE_BYTES
        self._slot_ns = slot_ns
        self._vms = 0
        self._stall_ns = np.zeros((0, 0), np.int64)
        self._peaks = np.zeros((0, _MAX_VMS + 1), np.int32)
        self._standing = np.zeros(_MAX_VMS + 1, np.int64)  # at the moment that has been reached
        self._reached_ns = 0
        self._gpa: dict[int, npt.NDArray[np.int32]] = {}  # VM -> (slots, BINS)
        # Faults that end later than that: begin, end, who, VM.
        self._open: tuple[Int64s, Int64s, Int64s, Int64s] = (np.empty(0, np.int64),) * 4

    def add(self, table: pa.Table, begin_ns: Int64s, lengths_ns: Int64s, vm: Int64s, who: Int64s, people: int) -> None:
        """n > 0 faults: begin_ns (n,) ascending, since 0; lengths_ns, index of VM and of who below people, (n,)."""
        since_ns = np.maximum(begin_ns, 0)
        self._grow(int(since_ns[-1]) // self._slot_ns + 1, people)
        self._vms = max(self._vms, int(vm.max()) + 1)
        codes, names = codes_of(table["waiter"])
        still = codes == (names.index("vcpu") if "vcpu" in names else -1)
        still &= table["vcpu"].to_numpy() != OTHER_THREADS
        ends_ns = begin_ns + np.minimum(lengths_ns, _LONGEST_NS)
        still &= ends_ns > 0
        self._reach(int(since_ns[-1]), tuple(column[still] for column in (since_ns, ends_ns, who, vm)))
        self._place(table["gpa"], vm, since_ns // self._slot_ns, table["vcpu"].to_numpy() != OTHER_THREADS)

    def finish(self, ended_ns: int) -> None:
        """The recording ends: what is open is open until then."""
        begins, ends, who, vm = self._open
        ended_ns = max(self._reached_ns, min(ended_ns, MAX_SLOTS * self._slot_ns - 1))
        self._grow(ended_ns // self._slot_ns + 1, self._stall_ns.shape[1])
        self._reach(ended_ns, (begins[:0], ends[:0], who[:0], vm[:0]))
        begins, _, who, _ = self._open
        self._stand(begins, np.full(len(begins), ended_ns), who)

    def coarsen(self, slot_ns: int) -> None:
        """Join slots in pairs until they are so long."""
        while self._slot_ns < slot_ns:
            self._slot_ns *= 2
            self._stall_ns = _pairs(self._stall_ns).sum(axis=1)
            self._peaks = _pairs(self._peaks).max(axis=1)
            self._gpa = {vm: _pairs(counts).sum(axis=1, dtype=np.int32) for vm, counts in self._gpa.items()}

    def tables(self) -> dict[str, dict[str, Int64s]]:
        """What is not 0, sorted: stall (slot, key = who, ns), peaks (slot, key = VM or ALL_VMS, most), gpa (slot, key =

        VM * BINS + bin, count).
        """
        slot, key = np.nonzero(self._stall_ns)
        stall = {"slot": slot, "key": key, "ns": self._stall_ns[slot, key]}
        slot, key = np.nonzero(self._peaks)
        vms = np.where(key == _MAX_VMS, ALL_VMS, key)
        peaks = {"slot": slot, "key": vms, "most": self._peaks[slot, key].astype(np.int64)}
        rows = [np.empty((3, 0), np.int64)]
        for vm, counts in sorted(self._gpa.items()):
            slot, key = np.nonzero(counts)
            rows.append(np.stack((slot, vm * BINS + key, counts[slot, key])))
        slot, key, count = np.concatenate(rows, axis=1)
        order = np.argsort(slot, kind="stable")
        return {
            "stall": stall,
            "peaks": peaks,
            "gpa": {"slot": slot[order], "key": key[order], "count": count[order]},
        }

    def _grow(self, slots: int, people: int) -> None:
        more = max(slots - len(self._stall_ns), 0)
        self._stall_ns = np.pad(self._stall_ns, ((0, more), (0, people - self._stall_ns.shape[1])))
        self._peaks = np.pad(self._peaks, ((0, more), (0, 0)))
        self._gpa = {vm: np.pad(counts, ((0, more), (0, 0))) for vm, counts in self._gpa.items()}

    def _reach(self, moment_ns: int, new: tuple[Any, ...]) -> None:
        """Count until this moment, with faults that began by then."""
        columns = [np.concatenate(pair) for pair in zip(self._open, new, strict=True)]
        begins, ends, who, vm = columns
        ended = ends <= moment_ns
        self._stand(begins[ended], ends[ended], who[ended])
        lasted = new[1] > new[0]
        now = ended & (ends > begins)
        self._count_peaks(moment_ns, new[0][lasted], new[3][lasted], ends[now], vm[now])
        self._open = tuple(column[~ended][-_MAX_OPEN:] for column in columns)
        self._reached_ns = moment_ns

    def _stand(self, begins: Int64s, ends: Int64s, who: Int64s) -> None:
        """Add the faults' time to their slots."""
        if not len(begins):
            return
        length, people = self._slot_ns, self._stall_ns.shape[1]
        first, last = begins // length, ends // length
        within = first == last
        low, slots = int(first.min()), int(last.max() - first.min()) + 1
        place = (first[within] - low) * people + who[within]
        # float64 is exact for sums below 2^53 ns (104 days) per slot and vCPU.
        times = np.bincount(place, (ends - begins)[within].astype(np.float64), slots * people)
        self._stall_ns[low : low + slots] += times.astype(np.int64).reshape(slots, people)
        across = ~within
        begins, ends, who, first, last = (column[across] for column in (begins, ends, who, first, last))
        np.add.at(self._stall_ns, (first, who), (first + 1) * length - begins)
        there = ends > last * length
        np.add.at(self._stall_ns, (last[there], who[there]), (ends - last * length)[there])
        for i in np.flatnonzero(last - first > 1):
            self._stall_ns[first[i] + 1 : last[i], who[i]] += length

    def _count_peaks(self, moment_ns: int, begins: Int64s, begun_vm: Int64s, ends: Int64s, ended_vm: Int64s) -> None:
        """The most that stood still at once in each slot until this moment."""
        vms = self._vms
        for column in (*range(min(vms, _MAX_VMS)), _MAX_VMS):
            if column == _MAX_VMS and vms == 1:
                self._peaks[:, _MAX_VMS] = self._peaks[:, 0]
                self._standing[_MAX_VMS] = self._standing[0]
                continue
            mine = (begins, ends) if column == _MAX_VMS else (begins[begun_vm == column], ends[ended_vm == column])
            moments = np.concatenate((mine[0] << 1 | 1, mine[1] << 1))  # an end is before a like begin
            moments.sort(kind="stable")  # two runs, nearly in order: merged, not sorted
            running = int(self._standing[column]) + np.cumsum(((moments & 1) << 1) - 1)
            slot = (moments >> 1) // self._slot_ns
            starts = np.flatnonzero(np.diff(slot, prepend=-1))
            if len(starts):
                most = np.maximum.reduceat(running, starts)
                at = self._peaks[:, column]
                at[slot[starts]] = np.maximum(at[slot[starts]], most)
            # Whoever stood still when a slot began is in it, too.
            edges = np.arange(self._reached_ns // self._slot_ns, moment_ns // self._slot_ns + 1)
            before = np.searchsorted(moments >> 1, edges * self._slot_ns, side="right") - 1
            levels = np.append(running, self._standing[column])[before]
            self._peaks[edges, column] = np.maximum(self._peaks[edges, column], levels)
            if len(running):
                self._standing[column] = running[-1]

    def _place(self, gpa: Any, vm: Int64s, slot: Int64s, vcpus: npt.NDArray[np.bool_]) -> None:
        """Count where the faults were."""
        address = gpa.fill_null(_HIGHEST_GPA).to_numpy()
        known = (address < _HIGHEST_GPA) & vcpus & (vm < _MAX_VMS)
        if not known.any():
            return
        address, vm, slot = address[known].astype(np.int64), vm[known], slot[known]
        while int(address.max()) // self.bin_bytes >= BINS:
            self.bin_bytes *= 2
            for counts in self._gpa.values():
                counts[:, : BINS // 2] = counts[:, 0::2] + counts[:, 1::2]
                counts[:, BINS // 2 :] = 0
        first = int(slot[0])
        for one in np.unique(vm).tolist():
            mine = vm == one
            counts = self._gpa.setdefault(one, np.zeros((len(self._stall_ns), BINS), np.int32))
            place = (slot[mine] - first) * BINS + address[mine] // self.bin_bytes
            slots = int(slot[-1]) - first + 1
            counts[first : first + slots] += np.bincount(place, minlength=slots * BINS).reshape(slots, BINS)


def _pairs(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(n, m) as (n / 2 rounded up, 2, m)."""
    return np.pad(rows, ((0, len(rows) % 2), (0, 0))).reshape((len(rows) + 1) // 2, 2, rows.shape[1])

"""The arrays of every version of the protocol, how much of them is believed, and earlier ones in the newest layout.

Version 1 (release 0.1.0): no hardware exits; a vCPU's totals without prefetch_early, so that series and exits began
8 bytes earlier; records without access, presence and memslot. Versions 2 (0.2.0) and 3 (0.3.0): a VM's totals without
failed_by, as in version 1.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .records import (
    CELL_DTYPE,
    EXIT_CELLS,
    FAULT_DTYPE,
    HARDWARE_DTYPE,
    MEMSLOT_UNKNOWN,
    MODES,
    PRESENCES,
    RESOLVERS,
    SERIES,
    SERIES_DTYPE,
    VCPU_DTYPE,
    VCPU_OTHER,
    VM_DTYPE,
    WAITERS,
)

OLDEST: Final = 1

Schema = dict[str, np.dtype[Any]]
Array = npt.NDArray[Any]


def _without(dtype: np.dtype[Any], gone: tuple[str, ...], *more: tuple[Any, ...]) -> np.dtype[Any]:
    fields = [(name, *_described(dtype[name])) for name in dtype.names or () if name not in gone]
    return np.dtype([*fields, *more])


def _described(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    return (dtype,) if dtype.subdtype is None else dtype.subdtype


_VCPU_1: Final = _without(VCPU_DTYPE, ("prefetch_early", "reserved"), ("reserved", "<u8", (5,)))
_VM_3: Final = _without(VM_DTYPE, ("failed_by",))
_FAULT_1: Final = _without(FAULT_DTYPE, ("access", "presence", "memslot"), ("reserved", "<u4"))

TOTALS: Final[Schema] = {
    "slots": np.dtype("<u4"),
    "vcpus": VCPU_DTYPE,
    "vms": VM_DTYPE,
    "cells": CELL_DTYPE,
    "hardware": HARDWARE_DTYPE,
}
FAULTS: Final[Schema] = {"records": FAULT_DTYPE}
_TOTALS_3: Final[Schema] = TOTALS | {"vms": _VM_3}
_TOTALS_1: Final[Schema] = {"slots": np.dtype("<u4"), "vcpus": _VCPU_1, "vms": _VM_3, "cells": CELL_DTYPE}
_FAULTS_1: Final[Schema] = {"records": _FAULT_1}

assert _VCPU_1.itemsize == VCPU_DTYPE.itemsize and _FAULT_1.itemsize == FAULT_DTYPE.itemsize

MOST: Final = {"slots": 1 << 13, "vcpus": 1 << 13, "vms": 1 << 12, "cells": 1 << 22, "hardware": 1 << 19,
               "records": 1 << 14}  # fmt: skip
"""Items of an array: as many vCPUs and VMs as a collector follows at most (settings.py), 64 reasons of hardware exits
of each vCPU, and as many records as a collector sends at once (collector.py)."""

LONGEST_NS: Final = 1 << 60
"""Of one moment or length, 36 years: five of them do not overflow 64 bits."""

VCPU_NUMBERS: Final = 1 << 16
"""KVM_MAX_VCPU_IDS of Linux 6.12 is 16,384 on x86; that of arm64 is 512."""

_LARGEST_SUM: Final = 1 << 62
_MOST_COUNTED: Final = 1 << 48
"""In all buckets together: a million faults in a second, for nine years."""

_LENGTHS: Final = {
    "records": ("begin_ns", "raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns"),
    "vcpus": ("open_since_ns", "stall_ns"),
}
_COUNTERS: Final = {
    "vcpus": (
        "stall_ns",
        "unread",
        "prefetch",
        "async_tries",
        "async_repeats",
        "named_reads",
        "prefetch_early",
        "exits",
    ),
    "vms": (
        "events_read",
        "events_done",
        "bytes_background",
        "fills_failed",
        "failed_by",
        "fills_demand",
        "fills_background",
    ),
    "cells": ("count",),
    "hardware": ("count", "sum_ns", "max_ns"),
}
_CODES: Final = {"mode": MODES, "waiter": WAITERS, "resolver": RESOLVERS, "presence": PRESENCES}


def of(schema: Schema, version: int) -> Schema:
    """How the arrays of TOTALS or FAULTS lay in that version."""
    if schema is TOTALS:
        return _TOTALS_1 if version == 1 else _TOTALS_3 if version <= 3 else TOTALS
    return _FAULTS_1 if version == 1 else schema


def newest(name: str, array: Array) -> Array:
    """An array of an earlier version in the newest layout: a copy if it had another one."""
    if array.dtype not in (_VCPU_1, _VM_3, _FAULT_1):
        return array
    now = np.zeros(len(array), (TOTALS | FAULTS)[name])
    for field in array.dtype.names or ():
        if field != "reserved":
            now[field] = array[field]
    if name == "records":
        now["memslot"] = MEMSLOT_UNKNOWN
    now.flags.writeable = False
    return now


def wrong(name: str, array: Array) -> str | None:
    """What cannot be believed of an array in the newest layout, None if nothing: lengths, sums, codes."""
    return next(_complaints(name, array), None) if len(array) else None


def _complaints(name: str, array: Array) -> Iterator[str]:
    for field in _LENGTHS.get(name, ()):
        if (longest := int(array[field].max())) >= LONGEST_NS:
            yield f"{field} {longest}: longer than {LONGEST_NS} ns"
    sums = {field: array[field] for field in _COUNTERS.get(name, ())}
    if name == "vcpus":
        sums |= {f"series.{field}": array["series"][field] for field in SERIES_DTYPE.names or ()}
    for field, counts in sums.items():
        if _sum(counts) >= (most := _MOST_COUNTED if name == "cells" else _LARGEST_SUM):
            yield f"{field}: a sum beyond 2^{most.bit_length() - 1}"
    if name in ("vcpus", "records"):
        numbers = array["vcpu"][array["vcpu"] != VCPU_OTHER]
        if (vcpu := int(numbers.max(initial=0))) >= VCPU_NUMBERS:
            yield f"vCPU {vcpu}: KVM numbers fewer"
    for field, names in _CODES.items() if name == "records" else ():
        if (code := int(array[field].max())) >= len(names):
            yield f"{field} {code}: there are {len(names)}"


def _sum(counts: Array) -> float:
    """Of counters, without overflow; twice as fast in double as exact, and exact enough."""
    return float(counts.sum(dtype=np.float64))


assert VCPU_DTYPE["exits"].shape == (EXIT_CELLS,) and VCPU_DTYPE["series"].shape == (SERIES,)

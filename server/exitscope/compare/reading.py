"""From a recording's file to what a comparison keeps of it."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np

from ..lengths import STAGE_COLUMNS
from ..modes import user_faults
from ..placing import pages_placed
from ..recordings.columns import OTHER_THREADS
from ..recordings.damaged import read_from
from ..recordings.file import RecordingFile
from ..recordings.meta import RecordingMeta
from ..recordings.parquet import opened
from .profile import Batch, Profile, profile_of

_COLUMNS: Final = ("vm", "vcpu", "mode", "resolver", "begin_ns", *STAGE_COLUMNS)
_BATCH_ROWS: Final = 1 << 18
_CACHED: Final = 8
_one_at_a_time = threading.Lock()  # a pass over a large file is memory and cores enough


def profile(recording: RecordingFile, vm: str | None = None) -> Profile:
    """Of the vCPUs' faults of one VM, or of all: one pass over the file, kept for the next time.

    Raises UserError if the file is gone or damaged.
    """
    with read_from(recording.path):
        status = os.stat(recording.path)
        with _one_at_a_time:
            return _profile(recording.path, status.st_mtime_ns, status.st_size, vm)


@lru_cache(maxsize=_CACHED)
def _profile(path: str, _changed_ns: int, _bytes: int, vm: str | None) -> Profile:
    with opened(path) as file:
        begin_ns, end_ns = _range(file)
        return profile_of(begin_ns, end_ns, _batches(file, vm))


def _range(file: Any) -> tuple[int, int]:
    """Of begin_ns, from the row groups' statistics, or else from the column."""
    column = file.schema_arrow.get_field_index("begin_ns")
    lows, highs = [], []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max:
            lows.append(int(statistics.min))
            highs.append(int(statistics.max))
        elif file.metadata.row_group(group).num_rows:
            moments = file.read_row_group(group, columns=["begin_ns"]).column(0).to_numpy()
            lows.append(int(moments.min()))
            highs.append(int(moments.max()))
    return (min(lows), max(highs)) if lows else (0, 0)


def _batches(file: Any, vm: str | None) -> Iterator[Batch]:
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(_COLUMNS)):
        vcpu = batch.column("vcpu").to_numpy()
        wanted = vcpu != OTHER_THREADS
        if vm is not None:
            names = batch.column("vm")
            place = names.dictionary.to_pylist()
            wanted &= names.indices.to_numpy() == (place.index(vm) if vm in place else -1)
        everything = bool(wanted.all())
        take: Any = slice(None) if everything else wanted
        yield Batch(
            batch.column("begin_ns").to_numpy()[take],
            np.stack([batch.column(name).to_numpy()[take] for name in STAGE_COLUMNS], axis=1),
            vcpu[take].astype(np.int64),
            _names(batch.column("mode"), take),
            _names(batch.column("resolver"), take),
        )


def _names(column: Any, take: Any) -> Counter[str]:
    counts = np.bincount(column.indices.to_numpy()[take], minlength=len(column.dictionary))
    return Counter(
        {name: int(count) for name, count in zip(column.dictionary.to_pylist(), counts, strict=True) if count}
    )


def faults(meta: RecordingMeta, vm: str | None = None) -> int:
    """Faults of vCPUs over the recording, exact, without those that the kernel solved alone."""
    by_mode = _difference(meta, vm, lambda totals: [one.faults for one in totals.vcpus if one.vcpu != OTHER_THREADS])
    return user_faults(by_mode)


def exits(meta: RecordingMeta, vm: str | None = None) -> dict[str, int]:
    """How KVM_RUN returned over the recording -> count, exact: the kernel's totals at its end less those before."""
    return _difference(meta, vm, lambda totals: [vcpu.exits for vcpu in totals.vcpus if vcpu.vcpu != OTHER_THREADS])


def hardware_exits(meta: RecordingMeta, vm: str | None = None) -> dict[str, int]:
    """Why the CPU left the guest -> count over the recording; empty where the kernel does not say."""
    return _difference(
        meta,
        vm,
        lambda totals: [
            {reason: counts[0] for reason, counts in vcpu.hardware.items() if counts}
            for vcpu in totals.vcpus
            if vcpu.vcpu != OTHER_THREADS
        ],
    )


def fills(meta: RecordingMeta, vm: str | None = None) -> dict[str, int]:
    """`demand`, `background`, `failed` -> fills over the recording, exact."""
    return _difference(
        meta,
        vm,
        lambda totals: [
            {
                "demand": pages_placed(totals.fills_demand),
                "background": pages_placed(totals.fills_background),
                "failed": totals.fills_failed,
            }
        ],
    )


def _difference(meta: RecordingMeta, vm: str | None, parts: Any) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for sign, snapshot in ((1, meta.totals.stop), (-1, meta.totals.start)):
        for name, totals in snapshot.vms.items():
            if vm is None or name == vm:
                for part in parts(totals):
                    for key, count in part.items():
                        counts[key] += sign * count
    return {key: count for key, count in counts.items() if count > 0}

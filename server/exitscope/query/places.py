"""Where in guest memory the faults of a recording are, column by column of time; as gpa.py has it of live ones."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..gpa import BINS, MIN_SHIFT, fitting
from ..recordings.columns import TABLE_SQL, literal
from ..recordings.file import RecordingFile
from .engine import Engine
from .scan import Part

_KNOWN: Final = "gpa IS NOT NULL AND waiter <> 'other'"
_DISTINCT_BITS: Final = 20
"""At most so many bins are told apart at first: 8 MB."""

GpaCells = tuple[npt.NDArray[np.int64], ...]
"""tick, bin and count, (n,) each."""


def only_vm(recording: RecordingFile, vm: str | None) -> str | None:
    """The VM whose addresses are asked for. None of more than one: their addresses are not in one space."""
    vms = [one.id for one in recording.meta.vms if vm in (None, one.id)]
    return vms[0] if len(vms) == 1 else None


def shift_of(engine: Engine, recording: RecordingFile, vm: str) -> int:
    """log2 of the length of a bin, alike in all ticks: all faults of the recording are in at most BINS bins."""
    values: dict[str, Any] = {"path": literal(recording.path), "vm": vm}
    where = f"FROM {TABLE_SQL} WHERE {_KNOWN} AND vm = $vm"
    last = engine.rows(f"SELECT max(gpa) AS gpa {where}", values)[0]["gpa"] or 0
    shift = max(MIN_SHIFT, last.bit_length() - _DISTINCT_BITS)
    with engine.cursor() as cursor:
        bins = cursor.execute(f"SELECT DISTINCT gpa >> {shift} AS bin {where}", values).fetchnumpy()["bin"]
    return fitting(bins.astype(np.int64), shift)[1]


def shift_for(recording: RecordingFile, vm: str, last: int) -> int:
    """The same, where only the highest gpa with a fault is known."""
    found = recording.meta.vm(vm)
    highest = max(last, ((found.memory_bytes if found else None) or 0) - 1)
    return max(MIN_SHIFT, (highest // BINS).bit_length())


def gpa_cells(engine: Engine, recording: RecordingFile, part: Part, vm: str, shift: int) -> GpaCells:
    """Faults of the VM by tick and bin."""
    query = (
        f"SELECT greatest(least((begin_ns - $origin_ns) // $tick_ns, {part.ticks - 1}), 0) AS tick, "
        f"gpa >> {shift} AS bin, count(*) AS faults FROM {TABLE_SQL} "
        f"WHERE {_KNOWN} AND vm = $vm AND begin_ns >= $first_ns AND begin_ns < $last_ns GROUP BY ALL"
    )
    values: dict[str, Any] = {"path": literal(recording.path), "vm": vm}
    values |= {"origin_ns": part.origin_ns, "tick_ns": part.tick_ns}
    values |= {"first_ns": part.bounds_ns[0], "last_ns": part.bounds_ns[1]}
    with engine.cursor() as cursor:
        found = cursor.execute(query, values).fetchnumpy()
    return tuple(found[name].astype(np.int64) for name in ("tick", "bin", "faults"))


def gpa_columns(ticks: int, shift: int, cells: GpaCells) -> list[dict[str, Any]]:
    """Of each tick: {"bin_bytes", "cells": [[bin, faults], …]}; cells of one tick and bin are added."""
    tick, place, count = cells
    names, codes = np.unique(place, return_inverse=True)
    wide = max(len(names), 1)
    faults = np.bincount(tick * wide + codes, count, ticks * wide).astype(np.int64).reshape(ticks, wide)
    found = []
    for row in faults:
        bins = np.flatnonzero(row)
        pairs = zip(names[bins].tolist(), row[bins].tolist(), strict=True)
        found.append({"bin_bytes": 1 << shift, "cells": [list(pair) for pair in pairs]})
    return found

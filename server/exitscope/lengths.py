"""How long recorded faults took, and which of their stages count: the rules of bpf/account.h."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import (
    EXIT_STAGES,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
    UFFD_STAGES,
)

from .modes import EXIT_MODES

STAGE_COLUMNS: Final = ("raise_ns", "notify_ns", "serve_ns", "fill_ns", "finish_ns")
"""The five add up to the whole fault. finish is `wake` (uffd, async) or `reenter` (exit, memory_fault)."""


def stages_of(mode: str) -> list[tuple[str, str]]:
    """(name, column) of each stage that faults of a mode with stages have, in their order."""
    if mode in EXIT_MODES:
        columns = (name for name in STAGE_COLUMNS if name != "notify_ns")
        return list(zip(EXIT_STAGES, columns, strict=True))
    return list(zip(UFFD_STAGES, STAGE_COLUMNS, strict=True))


def latency_ns(records: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Whole length of each record, (n,) ns."""
    whole = records[STAGE_COLUMNS[0]].astype(np.int64)
    for name in STAGE_COLUMNS[1:]:
        whole += records[name].astype(np.int64)
    latency: npt.NDArray[np.int64] = whole
    return latency


def end_ns(records: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """When each fault ended, (n,), CLOCK_MONOTONIC ns."""
    end: npt.NDArray[np.int64] = records["begin_ns"].astype(np.int64) + latency_ns(records)
    return end


def counted_stages(modes: npt.NDArray[Any], seen: npt.NDArray[Any]) -> list[npt.NDArray[np.bool_]]:
    """Of which of the STAGE_COLUMNS both ends were seen, as stages_seen() of bpf/account.h has it: (n,) each.

    modes: (n,) indexes in MODES; seen: (n,).
    """
    exits = (modes == MODE_EXIT) | (modes == MODE_MEMORY_FAULT)
    read, fill = seen & SEEN_READ != 0, seen & SEEN_FILL != 0
    return [seen & SEEN_ACCESS != 0, read & ~exits, read | exits, fill, fill]

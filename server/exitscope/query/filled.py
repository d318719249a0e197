"""Pages made present in each column of time, from what the kernel counted second by second."""

from typing import Final

import numpy as np
import numpy.typing as npt

from ..placing import placing_columns
from ..recordings.counters import BACKGROUND, DEMAND
from ..recordings.file import RecordingFile
from .scan import Part

KINDS: Final = ("demand", "background")
_Int64s = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


def fills(recording: RecordingFile, part: Part, vm: str | None, faults: _Int64s) -> list[dict[str, int] | None]:
    """Of each tick: kind -> count. None if the recording has no such counters.

    Where ticks are shorter than what was counted at once, that is shared out: demand fills as the faults are, (ticks,)
    counts, background fills evenly.
    """
    log = recording.counters()
    if log is None:
        return [None] * part.ticks
    mine = np.array([owner.vcpu is None and vm in (None, owner.vm) for owner in log.owners] or [False])
    entries = log.entries[mine[np.minimum(log.entries["owner"], len(mine) - 1)]]
    counted_ns = log.started_ns + np.arange(len(log.edges)) * log.interval_ns
    counted_ns[-1] = max(min(counted_ns[-1], recording.meta.ended_ns), counted_ns[max(len(counted_ns) - 2, 0)] + 1)
    edges_ns = part.edges_ns
    found = []
    for kind, weights in ((DEMAND, faults), (BACKGROUND, np.zeros_like(faults))):
        grown = entries[np.isin(entries["column"], placing_columns(kind))]
        counts = np.bincount(grown["interval"], grown["delta"], len(counted_ns) - 1).astype(np.float64)
        found.append(_shared_out(counts, counted_ns, edges_ns, weights / np.diff(edges_ns)).tolist())
    return [dict(zip(KINDS, both, strict=True)) for both in zip(*found, strict=True)]


def _shared_out(counts: _Floats, counted_ns: _Int64s, edges_ns: _Int64s, density: _Floats) -> _Int64s:
    """Counts (n,) of the times between counted_ns (n + 1,) by ticks between edges_ns (ticks + 1,), as density (ticks,)
    says; evenly where it is 0 all the time."""
    cuts_ns = np.union1d(counted_ns, edges_ns)
    length_ns = np.diff(cuts_ns).astype(np.float64)
    interval = np.searchsorted(counted_ns, cuts_ns[:-1], side="right") - 1
    tick = np.searchsorted(edges_ns, cuts_ns[:-1], side="right") - 1
    inside = (interval >= 0) & (interval < len(counts))
    dense = np.where((tick >= 0) & (tick < len(density)), density[np.clip(tick, 0, len(density) - 1)], 0) * length_ns
    interval, dense, length_ns = interval[inside], dense[inside], length_ns[inside]
    whole = np.bincount(interval, dense, len(counts))[interval]
    even = length_ns / np.bincount(interval, length_ns, len(counts))[interval]
    grown = np.zeros(len(cuts_ns))
    grown[1:][inside] = counts[interval] * np.where(whole > 0, dense / np.maximum(whole, 1e-300), even)
    # Whole pages, and not one lost: rounded at the edges, not in the ticks.
    so_far = np.rint(np.cumsum(grown)[np.searchsorted(cuts_ns, edges_ns)])
    ticks: _Int64s = np.diff(so_far).astype(np.int64)
    return ticks

"""How many vCPUs stood still at once, at most, in each column of time; exactly, as far as there are records.

One pass over the faults in the order of their begins. A maximum is reached when a fault begins, or where a column
begins: then as many are under way as have begun by then, less those that have ended.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from ..recordings.columns import TABLE_SQL, literal
from ..recordings.file import RecordingFile
from .engine import Engine
from .faults import LATENCY
from .scan import Part

_BATCH: Final = 1 << 17
_Int64s = npt.NDArray[np.int64]


def most_at_once(engine: Engine, recording: RecordingFile, part: Part, vm: str | None, since_ns: int = 0) -> _Int64s:
    """Most vCPUs of one VM, or of all, that stood still in one fault each at a moment of each tick, (ticks,).

    since_ns: none that began earlier lasts into the part. Async faults are not in it, as in Scan.stall.
    """
    edges_ns = part.edges_ns[:-1] - part.origin_ns
    most = np.zeros(part.ticks, np.int64)
    running = np.empty(0, np.int64)  # ends of the faults that were under way at the last begin
    opened = 0  # ticks that have begun
    for begins, own_ends in _spans(engine, recording, part, vm, since_ns):
        last = begins[-1]
        ends = np.concatenate((running, own_ends))
        ended = np.bincount(np.searchsorted(begins, ends, side="left"), minlength=len(begins) + 1)[:-1].cumsum()
        counts = len(running) + 1 + np.arange(len(begins)) - ended
        firsts = np.append(0, np.flatnonzero(np.diff(begins // part.tick_ns)) + 1)
        ticks = begins[firsts] // part.tick_ns
        most[ticks] = np.maximum(most[ticks], np.maximum.reduceat(counts, firsts))
        # What runs on when a tick begins; a fault that begins just then is counted above.
        all_begins = np.concatenate((np.full(len(running), -1), begins))
        while opened < part.ticks and edges_ns[opened] <= last:
            most[opened] = max(most[opened], _under_way(all_begins, ends, int(edges_ns[opened])))
            opened += 1
        running = ends[ends > last]
    for tick in range(opened, part.ticks):
        most[tick] = max(most[tick], int((running > edges_ns[tick]).sum()))
    return most


def _under_way(begins: _Int64s, ends: _Int64s, moment_ns: int) -> int:
    begun = np.searchsorted(begins, moment_ns, side="right")
    return int((ends[:begun] > moment_ns).sum())


def _spans(
    engine: Engine, recording: RecordingFile, part: Part, vm: str | None, since_ns: int
) -> Iterator[tuple[_Int64s, _Int64s]]:
    """Begin and end of each fault in the part, in ns from its first tick's, by begin; some at a time."""
    query = (
        f"SELECT greatest(begin_ns, $from_ns) - $origin_ns AS b, least(begin_ns + {LATENCY}, $to_ns) - $origin_ns AS e "
        f"FROM {TABLE_SQL} WHERE waiter = 'vcpu' AND vcpu >= 0 "
        f"AND begin_ns >= {since_ns} AND begin_ns < $to_ns AND begin_ns + {LATENCY} > greatest($from_ns, begin_ns)"
        + ("" if vm is None else " AND vm = $vm")
    )
    values = {"path": literal(recording.path), "from_ns": part.from_ns, "to_ns": part.to_ns}
    values["origin_ns"] = part.origin_ns
    with engine.cursor() as cursor:
        reader = cursor.sql(query, params=values | ({} if vm is None else {"vm": vm})).to_arrow_reader(_BATCH)
        try:
            for batch in reader:
                if batch.num_rows:
                    yield batch.column(0).to_numpy(), batch.column(1).to_numpy()
        finally:
            reader.close()

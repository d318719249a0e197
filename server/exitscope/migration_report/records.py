"""What the records say of one migration: questions to DuckDB, each answered in bounded memory."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import SEEN_FILL, SEEN_HALT, SEEN_READ

from ..latency import summarize
from ..models import Latency
from ..query.engine import Engine
from ..query.faults import LATENCY
from ..query.scan import bucket_sql
from ..recordings.columns import FAULTS_SQL, literal
from ..recordings.file import RecordingFile
from .brownout import Brownout, Sweep

READ: Final = f"(seen & {SEEN_READ} != 0)"
FILLED: Final = f"(seen & {SEEN_FILL} != 0)"
EXITS: Final = "(mode IN ('exit', 'memory_fault'))"
FAMILY: Final = (
    "CASE WHEN mode IN ('exit', 'memory_fault') THEN 'exit' WHEN mode = 'async' THEN 'async' ELSE 'uffd' END"
)
STANDS_STILL: Final = f"(vcpu >= 0 AND (waiter = 'vcpu' OR waiter = 'async' AND seen & {SEEN_HALT} != 0))"
"""Of an async fault's record it is only known that its vCPU was halted meanwhile, or was not."""

BEGIN: Final = "begin_ns"
END: Final = "begin_ns + latency_ns"
EVENT_READ: Final = "begin_ns + raise_ns + notify_ns"
PLACED: Final = "begin_ns + raise_ns + notify_ns + serve_ns + fill_ns"

_BATCH_ROWS: Final = 65_536


class Records:
    """Faults of one VM that were open at some time in [from_ns, to_ns)."""

    def __init__(self, engine: Engine, recording: RecordingFile, vm: str, from_ns: int, to_ns: int) -> None:
        self._engine = engine
        self._span_ns = from_ns, to_ns
        self._values = {"path": literal(recording.path), "vm": vm, "from_ns": from_ns, "to_ns": to_ns}
        self._source = (
            f"(SELECT *, {LATENCY} AS latency_ns FROM ({FAULTS_SQL}) "
            f"WHERE vm = $vm AND begin_ns < $to_ns AND begin_ns + {LATENCY} > $from_ns)"
        )

    def rows(self, columns: str, rest: str = "", **values: Any) -> list[dict[str, Any]]:
        """SELECT columns FROM these faults; latency_ns is a column, too."""
        return self._engine.rows(f"SELECT {columns} FROM {self._source} {rest}", self._values | values)

    def one(self, columns: str, where: str = "true") -> dict[str, Any]:
        """The only row of an aggregate."""
        (row,) = self.rows(columns, f"WHERE {where}")
        return row

    def distributions(self, keys: str, length: str, where: str = "true") -> dict[Any, Latency]:
        """Value of `keys` (SQL) -> count, sum, p50, p90, p99 and max of `length` (SQL)."""
        found: dict[Any, tuple[npt.NDArray[np.int64], list[int]]] = {}
        query = (
            f"{keys} AS key, {bucket_sql(length)} AS bucket, count(*) AS n, sum({length}) AS total, "
            f"max({length}) AS longest"
        )
        for row in self.rows(query, f"WHERE {where} GROUP BY ALL ORDER BY ALL"):
            histogram, scalars = found.setdefault(row["key"], (np.zeros(BUCKETS, np.int64), [0, 0, 0]))
            histogram[row["bucket"]] += row["n"]
            scalars[0] += int(row["n"])
            scalars[1] += int(row["total"])
            scalars[2] = max(scalars[2], int(row["longest"]))
        if not found:
            return {}
        histograms, scalars_of = zip(*found.values(), strict=True)
        columns = np.array(scalars_of, np.int64).T
        lengths = summarize(np.array(histograms), *columns)
        return {key: Latency(**one) for key, one in zip(found, lengths, strict=True)}

    def sweep(self, vcpus: Sequence[int], tick_ns: int, begin: str, end: str, where: str = "true") -> Brownout:
        """The vCPUs that stood still from `begin` to `end` (SQL), rows in the order of vcpus."""
        swept = Sweep(len(vcpus), *self._span_ns, tick_ns)
        numbers = np.array(sorted(vcpus), np.int64)
        for vcpu, begin_ns, end_ns in self._intervals(begin, end, where):
            row = np.searchsorted(numbers, vcpu)
            swept.add(row, begin_ns, end_ns)
        return swept.close()

    def _intervals(self, begin: str, end: str, where: str) -> Iterator[tuple[npt.NDArray[np.int64], ...]]:
        query = (
            f"SELECT vcpu::BIGINT AS vcpu, {begin} AS b, {end} AS e FROM {self._source} "
            f"WHERE {STANDS_STILL} AND {where} ORDER BY b"
        )
        with self._engine.cursor() as cursor:
            reader = cursor.sql(query, params=self._values).to_arrow_reader(_BATCH_ROWS)
            try:
                for batch in reader:
                    yield tuple(batch.column(name).to_numpy(zero_copy_only=False) for name in ("vcpu", "b", "e"))
            finally:
                reader.close()

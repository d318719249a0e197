"""Rows of a query as Arrow batches, one at a time."""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from .engine import Engine
from .faults import Query

BATCH_ROWS: Final = 65_536
"""Some 10 MB."""


def batches(engine: Engine, query: Query, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Streamed, in the order of the file: only some batches are in memory, whatever the size of the result."""
    with engine.cursor() as cursor:
        reader = cursor.sql(query.text, params=query.values).to_arrow_reader(rows)
        try:
            yield from reader
        finally:
            reader.close()

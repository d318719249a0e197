"""DuckDB, kept in bounds: little memory, some directories, no extensions, no network."""

import os
import weakref
from pathlib import Path
from typing import Any, Final

import duckdb

from ..recordings.columns import literal
from .scratch import Scratch

MEMORY_LIMIT: Final = "160MB"
THREADS: Final = min(4, os.cpu_count() or 1)
STREAM_BUFFER: Final = "16MB"
"""Rows that its threads may be ahead of who reads them."""
MAX_SPILL: Final = "4GB"
"""What a query may put on disk when its memory does not suffice."""

Cursor = duckdb.DuckDBPyConnection


class Engine:
    """One database in memory for the whole process, so that its limits hold for all queries together.

    It reads files below `directories` only. Values reach it as bound parameters, never as text of a query.
    """

    def __init__(self, *directories: Path | str) -> None:
        scratch = Scratch()
        self.scratch = scratch.path
        self._give_back = weakref.finalize(self, scratch.remove)
        self._database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": MEMORY_LIMIT,
                "threads": THREADS,
                "temp_directory": str(self.scratch),
                "max_temp_directory_size": MAX_SPILL,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
            },
        )
        allowed = {str(path) for one in directories for path in (Path(one).absolute(), Path(one).resolve())}
        allowed |= {literal(path) for path in allowed}  # how the files in them are named to DuckDB
        self._database.execute("SET allowed_directories = ?", [[*sorted(allowed), str(self.scratch)]])
        self._database.execute("SET enable_external_access = false")  # for good: it cannot be allowed again

    def cursor(self) -> Cursor:
        """A connection of its own for one query; close it."""
        cursor = self._database.cursor()
        cursor.execute(f"SET streaming_buffer_size = '{STREAM_BUFFER}'")
        return cursor

    def rows(self, query: str, values: list[Any] | dict[str, Any]) -> list[dict[str, Any]]:
        """All rows of a small result, column by name."""
        with self.cursor() as cursor:
            cursor.execute(query, values)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close(self) -> None:
        """End all queries and remove what they left; nothing can be asked any more."""
        self._database.close()
        del self._database  # whoever still holds this object must not hold DuckDB's to the end of the process
        self._give_back()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
